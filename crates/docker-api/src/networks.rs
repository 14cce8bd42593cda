//! Networks, as far as they can be looked at.

use crate::filters::Filters;
use crate::render;
use crate::reply::{Failure, Outcome, ok};
use crate::request::Call;
use crate::serve::Api;
use engine::Record;
use hyper::StatusCode;
use std::sync::Arc;

fn records(api: &Api) -> Vec<Record> {
    api.engine.list_containers().iter().map(|c| c.record()).collect()
}

/// `GET /networks`.
pub(crate) fn list(api: &Arc<Api>, call: &Call) -> Outcome {
    let known = &["id", "name", "driver", "label", "scope", "type", "dangling"];
    let filters = Filters::parse(call.query.text("filters"), known)?;
    let containers = records(api);
    let shown = api.engine.list_networks().into_iter().filter(|n| {
        filters.any("id", |v| n.id.starts_with(v))
            && filters.any("name", |v| n.name.contains(v))
            && filters.any("driver", |v| n.driver == v)
            && filters.any("scope", |v| v == "local")
            && filters.any("type", |v| v == "builtin")
            && filters.get("label").is_empty()
    });
    ok(&shown.map(|n| render::network(&n, &containers)).collect::<Vec<_>>())
}

/// `GET /networks/{name}`.
pub(crate) fn inspect(api: &Arc<Api>, name: &str) -> Outcome {
    ok(&render::network(&api.engine.network(name)?, &records(api)))
}

/// `DELETE /networks/{name}`.
pub(crate) fn remove(api: &Arc<Api>, name: &str) -> Outcome {
    let network = api.engine.network(name)?;
    Err(Failure::new(
        StatusCode::FORBIDDEN,
        format!("{} is a pre-defined network and cannot be removed", network.name),
    ))
}
