//! Images as archives: load, save, import.

use crate::body;
use crate::reply::{Outcome, line, with_body};
use crate::request::Call;
use crate::serve::Api;
use hyper::StatusCode;
use serde_json::json;
use std::sync::Arc;

/// `POST /images/load`.
pub(crate) async fn load(api: &Arc<Api>, call: Call) -> Outcome {
    let loaded = body::read_by(call, |archive| api.engine.load(archive)).await?;
    let mut out = Vec::new();
    for one in loaded {
        if one.references.is_empty() {
            let text = format!("Loaded image ID: {}\n", one.image.id);
            out.extend_from_slice(&line(&json!({ "stream": text })));
        }
        for reference in &one.references {
            let text = format!("Loaded image: {}\n", reference.familiar());
            out.extend_from_slice(&line(&json!({ "stream": text })));
        }
    }
    Ok(with_body(StatusCode::OK, Some("application/json"), out))
}
