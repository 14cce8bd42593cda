//! Failures as gRPC carries them: a code, a text, and the place in the Dockerfile.

use crate::progress::{range, source_info};
use crate::wire::{Any, RpcStatus, SourceInfo};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use errors::{HasKind, Kind};
use prost::Message;
use serde_json::json;
use tonic::{Code, Status};

/// How BuildKit's clients know a place in a source.
const SOURCE: &str = "github.com/moby/buildkit/errdefs.Source+json";

/// The class of a failure.
pub(crate) fn code(kind: Kind) -> Code {
    match kind {
        Kind::NotFound => Code::NotFound,
        Kind::AlreadyExists => Code::AlreadyExists,
        Kind::InvalidArgument | Kind::Hostile => Code::InvalidArgument,
        Kind::WrongState => Code::FailedPrecondition,
        Kind::Denied => Code::PermissionDenied,
        Kind::Unauthenticated => Code::Unauthenticated,
        Kind::Unsupported => Code::Unimplemented,
        Kind::Unavailable => Code::Unavailable,
        Kind::Exhausted => Code::ResourceExhausted,
        Kind::Cancelled => Code::Cancelled,
        Kind::DataLoss => Code::DataLoss,
        Kind::Internal => Code::Internal,
    }
}

/// A failure of what a build is made with.
pub(crate) fn of<E: HasKind + 'static>(error: &E) -> Status {
    Status::new(code(error.kind()), errors::chain(error))
}

/// What a client is told of a failed build in one line.
pub(crate) fn text(error: &build::Error) -> String {
    match error {
        build::Error::Command { command, code } => {
            format!("process {command:?} did not complete successfully: exit code: {code}")
        }
        build::Error::Dockerfile { error, .. } => error.to_string(),
        other => other.text(),
    }
}

/// A failed build; `place` is where it was, if the failure does not say so itself.
pub(crate) fn failed(error: &build::Error, name: &str, source: &str, place: Option<(u32, u32)>) -> Status {
    let code = match error.kind() {
        Kind::Unsupported => Code::Unimplemented,
        Kind::Cancelled => Code::Cancelled,
        // As BuildKit: a failed step is no failure of the service.
        _ => Code::Unknown,
    };
    let place = match error {
        build::Error::Dockerfile { error, .. } => Some(error.lines).filter(|lines| lines.0 > 0),
        _ => place,
    };
    at(code, text(error), name, source, place)
}

/// A failure with a place in the Dockerfile.
pub(crate) fn at(code: Code, message: String, name: &str, source: &str, place: Option<(u32, u32)>) -> Status {
    let Some((first, last)) = place else { return Status::new(code, message) };
    let value = json!({ "info": info_json(&source_info(name, source)), "ranges": [range_json(first, last)] });
    let detail = Any { type_url: SOURCE.into(), value: value.to_string().into_bytes() };
    let whole = RpcStatus { code: code as i32, message: message.clone(), details: vec![detail] };
    Status::with_details(code, message, whole.encode_to_vec().into())
}

/// As Go writes the message in JSON.
pub(crate) fn info_json(info: &SourceInfo) -> serde_json::Value {
    json!({ "filename": info.filename, "data": STANDARD.encode(&info.data), "language": info.language })
}

pub(crate) fn range_json(first: u32, last: u32) -> serde_json::Value {
    let lines = range(first, last);
    let line = |p: Option<crate::wire::Position>| json!({ "line": p.unwrap_or_default().line });
    json!({ "start": line(lines.start), "end": line(lines.end) })
}
