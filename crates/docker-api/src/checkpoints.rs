//! Checkpoints of containers, which Docker calls experimental: a daemon without `--experimental` has none.

use crate::reply::{Failure, Outcome, empty, no_content, ok, to_the_end};
use crate::request::Call;
use crate::serve::Api;
use engine::CheckpointRequest;
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Body {
    #[serde(rename = "CheckpointID")]
    checkpoint_id: String,
    checkpoint_dir: String,
    exit: bool,
}

/// What the endpoints of checkpoints begin with.
fn experimental(api: &Api) -> Result<(), Failure> {
    if api.engine.config().experimental {
        return Ok(());
    }
    Err(Failure::new(
        StatusCode::NOT_IMPLEMENTED,
        "This experimental feature is disabled by default. Start the Docker daemon in experimental mode in order to \
         enable it (brigd --experimental).",
    ))
}

fn directory(text: &str) -> Option<PathBuf> {
    Some(PathBuf::from(text)).filter(|_| !text.is_empty())
}

/// `POST /containers/{id}/checkpoints`.
pub(crate) async fn create(api: &Arc<Api>, id: &str, call: Call) -> Outcome {
    experimental(api)?;
    let body: Body = call.json().await?;
    let request = CheckpointRequest {
        name: body.checkpoint_id,
        directory: directory(&body.checkpoint_dir),
        exit: body.exit,
    };
    let (engine, id) = (api.engine.clone(), id.to_string());
    to_the_end(async move { engine.create_checkpoint(&id, request).await }).await?;
    Ok(empty(StatusCode::CREATED))
}

/// `GET /containers/{id}/checkpoints`.
pub(crate) async fn list(api: &Arc<Api>, id: &str, call: &Call) -> Outcome {
    experimental(api)?;
    let names = api.engine.list_checkpoints(id, directory(call.query.text("dir"))).await?;
    ok(&names.iter().map(|name| json!({ "Name": name })).collect::<Vec<Value>>())
}

/// `DELETE /containers/{id}/checkpoints/{name}`.
pub(crate) async fn remove(api: &Arc<Api>, id: &str, name: &str, call: &Call) -> Outcome {
    experimental(api)?;
    let (engine, id, name) = (api.engine.clone(), id.to_string(), name.to_string());
    let directory = directory(call.query.text("dir"));
    to_the_end(async move { engine.remove_checkpoint(&id, &name, directory).await }).await?;
    no_content()
}

/// `POST /containers/{id}/start` with and without `checkpoint`.
pub(crate) async fn start(api: &Arc<Api>, id: &str, call: Call) -> Outcome {
    let checkpoint = call.query.text("checkpoint").to_string();
    let directory = directory(call.query.text("checkpoint-dir"));
    // Some clients send an empty document. A host config, as the oldest API took it here, would otherwise be ignored.
    let body: Value = call.json().await?;
    if body.as_object().map_or(!body.is_null(), |members| !members.is_empty()) {
        return Err(Failure::bad_request(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24",
        ));
    }
    if checkpoint.is_empty() {
        return crate::containers::start(api, id).await;
    }
    if !api.engine.config().experimental {
        return Err(Failure::bad_request("checkpoint is only supported in experimental mode"));
    }
    let (engine, id) = (api.engine.clone(), id.to_string());
    to_the_end(async move { engine.start_checkpoint(&id, &checkpoint, directory).await }).await?;
    no_content()
}
