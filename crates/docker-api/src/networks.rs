//! Networks.

use crate::filters::Filters;
use crate::render;
use crate::reply::{Failure, Outcome, empty, json as json_reply, no_content, ok, to_the_end};
use crate::request::Call;
use crate::serve::Api;
use crate::units::{parse_time, unix_seconds};
use engine::Record;
use engine::model::EndpointSettings;
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;

fn records(api: &Api) -> Vec<Record> {
    api.engine.list_containers().iter().map(|c| c.record()).collect()
}

const LIST_FILTERS: &[&str] = &["id", "name", "driver", "label", "scope", "type", "dangling"];
const PRUNE_FILTERS: &[&str] = &["label", "label!", "until"];

/// `GET /networks`.
pub(crate) fn list(api: &Arc<Api>, call: &Call) -> Outcome {
    let filters = Filters::parse(call.query.text("filters"), LIST_FILTERS)?;
    filters.check("type", |v| matches!(v.as_str(), "builtin" | "custom"))?;
    let dangling = filters.flag("dangling")?;
    let shown = api.engine.list_networks().into_iter().filter(|n| {
        let kind = if n.is_user_defined() { "custom" } else { "builtin" };
        filters.found("id", &n.id)
            && filters.found("name", &n.name)
            && filters.any("driver", |v| n.driver == v)
            && filters.any("scope", |v| v == n.scope())
            && filters.any("type", |v| v == kind)
            && filters.labels(&n.labels)
            && dangling.is_none_or(|d| d == (n.is_user_defined() && !api.engine.is_network_used(&n.id)))
    });
    ok(&shown.map(|n| render::network(&api.engine, &n, None)).collect::<Vec<_>>())
}

/// `GET /networks/{name}`.
pub(crate) fn inspect(api: &Arc<Api>, name: &str, call: &Call) -> Outcome {
    let network = api.engine.network(name)?;
    match call.query.text("scope") {
        "" => {}
        scope if scope == network.scope() => {}
        other => {
            return Err(Failure::new(
                StatusCode::NOT_FOUND,
                format!("network {name} not found in scope {other}"),
            ));
        }
    }
    ok(&render::network(&api.engine, &network, Some(&records(api))))
}

/// `POST /networks/create`.
pub(crate) async fn create(api: &Arc<Api>, call: Call) -> Outcome {
    let request: engine::NetworkRequest = call.json().await?;
    let engine = api.engine.clone();
    let id = to_the_end(async move { engine.create_network(request).await }).await?;
    Ok(json_reply(StatusCode::CREATED, &json!({ "Id": id, "Warning": "" })))
}

/// `DELETE /networks/{name}`.
pub(crate) async fn remove(api: &Arc<Api>, name: &str) -> Outcome {
    let (engine, name) = (api.engine.clone(), name.to_string());
    to_the_end(async move { engine.remove_network(&name).await }).await?;
    no_content()
}

/// `POST /networks/prune`.
pub(crate) async fn prune(api: &Arc<Api>, call: &Call) -> Outcome {
    let filters = Filters::parse(call.query.text("filters"), PRUNE_FILTERS)?;
    let until = match filters.get("until") {
        [] => None,
        [text] => Some(parse_time(text).ok_or_else(|| {
            Failure::bad_request(format!("failed to parse value as time or duration: {text:?}"))
        })?),
        _ => return Err(Failure::bad_request("more than one until filter specified")),
    };
    let engine = api.engine.clone();
    let wanted = move |n: &engine::Network| {
        let created = i128::from(unix_seconds(&n.created)) * 1_000_000_000;
        let unwanted = filters.get("label!").iter().any(|label| match label.split_once('=') {
            Some((key, value)) => n.labels.get(key).is_some_and(|v| v == value),
            None => n.labels.contains_key(label),
        });
        filters.labels(&n.labels) && !unwanted && until.is_none_or(|u| created < u)
    };
    let removed = to_the_end(async move { engine.prune_networks(wanted).await }).await?;
    ok(
        &json!({ "NetworksDeleted": if removed.is_empty() { serde_json::Value::Null } else { json!(removed) } }),
    )
}

/// The body of connect and disconnect.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Connection {
    container: String,
    endpoint_config: Option<EndpointSettings>,
    force: Option<bool>,
}

/// `POST /networks/{name}/connect`.
pub(crate) async fn connect(api: &Arc<Api>, name: &str, call: Call) -> Outcome {
    let body: Connection = call.json().await?;
    let (engine, name) = (api.engine.clone(), name.to_string());
    let settings = body.endpoint_config.unwrap_or_default();
    to_the_end(async move { engine.connect_network(&name, &body.container, settings).await }).await?;
    Ok(empty(StatusCode::OK))
}

/// `POST /networks/{name}/disconnect`.
pub(crate) async fn disconnect(api: &Arc<Api>, name: &str, call: Call) -> Outcome {
    let body: Connection = call.json().await?;
    let (engine, name) = (api.engine.clone(), name.to_string());
    let force = body.force == Some(true);
    to_the_end(async move { engine.disconnect_network(&name, &body.container, force).await }).await?;
    Ok(empty(StatusCode::OK))
}
