//! Networks and volumes, as far as they can be looked at.

use crate::filters::Filters;
use crate::render;
use crate::reply::{Failure, Outcome, ok};
use crate::request::Call;
use crate::serve::Api;
use engine::Record;
use hyper::StatusCode;
use serde_json::json;
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

/// `GET /volumes`.
pub(crate) async fn list_volumes(api: &Arc<Api>, call: &Call) -> Outcome {
    let filters = Filters::parse(call.query.text("filters"), &["name", "label", "dangling", "driver"])?;
    let dangling = filters.flag("dangling")?;
    let used: std::collections::HashSet<String> =
        records(api).into_iter().flat_map(|r| r.mounts).map(|m| m.name).collect();
    let volumes = api.engine.list_volumes().await?;
    let shown = volumes.into_iter().filter(|v| {
        filters.any("name", |f| v.name.contains(f))
            && filters.any("driver", |f| f == "local")
            && filters.labels(&v.labels)
            && dangling.is_none_or(|d| d != used.contains(&v.name))
    });
    let list: Vec<_> = shown
        .map(|v| {
            json!({
                "Name": v.name,
                "Driver": "local",
                "Mountpoint": api.engine.volume_path(&v.name),
                "CreatedAt": v.created,
                "Labels": v.labels,
                "Scope": "local",
                "Options": null,
            })
        })
        .collect();
    ok(&json!({ "Volumes": list, "Warnings": null }))
}
