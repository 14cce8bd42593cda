//! A container's files: `diff`, `export` and `cp`.

use crate::reply::{Outcome, ok};
use crate::serve::Api;
use engine::ChangeKind;
use serde_json::json;
use std::sync::Arc;

/// `GET /containers/{id}/changes`.
pub(crate) async fn changes(api: &Arc<Api>, id: &str) -> Outcome {
    let changes = api.engine.changes(id).await?;
    let entry = |change: &engine::Change| {
        let kind = match change.kind {
            ChangeKind::Modified => 0,
            ChangeKind::Added => 1,
            ChangeKind::Deleted => 2,
        };
        json!({ "Path": format!("/{}", change.path.display()), "Kind": kind })
    };
    ok(&changes.iter().map(entry).collect::<Vec<_>>())
}
