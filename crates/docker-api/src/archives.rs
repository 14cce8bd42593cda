//! A container's files: `diff`, `export` and `cp`.

use crate::body;
use crate::reply::{Failure, Outcome, empty, ok};
use crate::request::Call;
use crate::serve::Api;
use base64::Engine as _;
use engine::{ChangeKind, Extract, PathStat};
use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};
use serde_json::json;
use std::sync::Arc;

const STAT: HeaderName = HeaderName::from_static("x-docker-container-path-stat");

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

/// `GET /containers/{id}/export`. Our own `latest=SECONDS` tells times after it as it.
pub(crate) async fn export(api: &Arc<Api>, id: &str, call: &Call) -> Outcome {
    let latest_s = call.query.number("latest")?;
    let packing = api.engine.export(id).await?.with_latest(latest_s);
    Ok(body::written("application/octet-stream", move |out| packing.write(out)))
}

/// `HEAD /containers/{id}/archive`.
pub(crate) async fn head(api: &Arc<Api>, id: &str, call: &Call) -> Outcome {
    let stat = api.engine.stat_path(id, path_of(call)?).await?;
    let mut reply = empty(StatusCode::OK);
    reply.headers_mut().insert(STAT, header(&stat));
    Ok(reply)
}

/// `GET /containers/{id}/archive`.
pub(crate) async fn get(api: &Arc<Api>, id: &str, call: &Call) -> Outcome {
    let (stat, packing) = api.engine.archive_path(id, path_of(call)?).await?;
    let mut reply = body::written("application/x-tar", move |out| packing.write(out));
    reply.headers_mut().insert(STAT, header(&stat));
    Ok(reply)
}

/// `PUT /containers/{id}/archive`.
pub(crate) async fn put(api: &Arc<Api>, id: &str, call: Call) -> Outcome {
    let path = path_of(&call)?.to_string();
    let how = Extract {
        to_user: call.query.flag("copyUIDGID"),
        keep_kinds: call.query.flag("noOverwriteDirNonDir"),
    };
    body::read_by(call, |archive| api.engine.extract(id, &path, how, archive)).await?;
    Ok(empty(StatusCode::OK))
}

fn path_of(call: &Call) -> Result<&str, Failure> {
    match call.query.text("path") {
        "" => Err(Failure::bad_request("missing \"path\" query parameter")),
        path => Ok(path),
    }
}

/// Base64 of JSON, with the mode in Go's bits.
fn header(stat: &PathStat) -> HeaderValue {
    let mtime = i32::try_from(stat.mtime.1)
        .ok()
        .and_then(|nanos| jiff::Timestamp::new(stat.mtime.0, nanos).ok())
        .map_or_else(|| engine::NEVER.to_string(), |t| t.to_string());
    let document = json!({
        "name": stat.name,
        "size": stat.size,
        "mode": engine::go_mode(stat.mode),
        "mtime": mtime,
        "linkTarget": stat.link_target.as_ref().map(|t| t.to_string_lossy()).unwrap_or_default(),
    });
    let text = base64::engine::general_purpose::STANDARD.encode(document.to_string());
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""))
}
