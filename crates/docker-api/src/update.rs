//! `POST /containers/{id}/update`.

use crate::reply::{Outcome, ok, to_the_end};
use crate::request::Call;
use crate::serve::Api;
use engine::UpdateRequest;
use engine::model::{HostConfig, RestartPolicy};
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;

/// Resource fields beside the restart policy.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Body {
    #[serde(flatten)]
    resources: HostConfig,
}

/// `POST /containers/{id}/update`.
pub(crate) async fn update(api: &Arc<Api>, id: &str, call: Call) -> Outcome {
    let Body { mut resources } = call.json().await?;
    let restart_policy: RestartPolicy = std::mem::take(&mut resources.restart_policy);
    let (engine, id) = (api.engine.clone(), id.to_string());
    let request = UpdateRequest { resources, restart_policy };
    let warnings = to_the_end(async move { engine.update(&id, request).await }).await?;
    ok(&json!({ "Warnings": if warnings.is_empty() { serde_json::Value::Null } else { json!(warnings) } }))
}
