//! Answers: JSON, empty, streams, and errors with Docker's status codes.

use bytes::Bytes;
use engine::Error;
use errors::{HasKind, Kind};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::{Body, Frame};
use hyper::{Response, StatusCode, header};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// Any body that is sent.
pub(crate) type Reply = Response<BoxBody<Bytes, std::io::Error>>;

/// What a handler ends with.
pub(crate) type Outcome = Result<Reply, Failure>;

/// A status and the text that Docker's clients show after `Error response from daemon:`.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Failure {
        Failure { status, message: message.into() }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::BAD_REQUEST, message)
    }

    pub(crate) fn not_here(what: &str) -> Failure {
        Failure::new(StatusCode::NOT_IMPLEMENTED, format!("{what} is not supported by this version of brig"))
    }

    pub(crate) fn reply(self) -> Reply {
        if self.status == StatusCode::NOT_MODIFIED {
            return empty(self.status);
        }
        json(self.status, &serde_json::json!({ "message": self.message }))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let status = match &error {
            Error::NotModified { .. } => StatusCode::NOT_MODIFIED,
            // 401 is for the daemon's own doors: docker's command line would ask for a user then, as Docker never does.
            Error::Failed { doing, kind: Kind::Unauthenticated, .. } if doing.starts_with("pull ") => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            other => status(other.kind()),
        };
        // A command that cannot be started is the request's mistake, as Docker answers it.
        let message = text(&error);
        let status = if blames_the_request(&error, &message) { StatusCode::BAD_REQUEST } else { status };
        Failure { status, message }
    }
}

/// Does `work` on a task of its own: a client that goes away must not leave it half done.
pub(crate) async fn to_the_end<T, F>(work: F) -> Result<T, Failure>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Error>> + Send + 'static,
{
    match tokio::spawn(work).await {
        Ok(result) => Ok(result?),
        Err(e) => Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string())),
    }
}

/// Whether what failed below says that the request was wrong: the words of runtimes and kernel about a command, a
/// directory or a limit that a client chose. Docker answers 400 then, and never 404, which is for the container.
fn blames_the_request(error: &Error, message: &str) -> bool {
    const WORDS: &[&str] = &[
        "executable file not found",
        "no such file or directory",
        "permission denied",
        "not a directory",
        "is a directory",
        "exec format error",
        "argument list too long",
        "file name too long",
        "invalid argument",
        "numerical result out of range",
        "is not a procfs",
        "is not an ordinary directory",
        "is inside /proc",
        "too many levels of symbolic links",
        "is larger than",
    ];
    let Error::Failed { doing, kind, .. } = error else { return false };
    let by_runtime =
        message.contains("OCI runtime create failed: ") || message.contains("OCI runtime exec failed: ");
    let places = ["create working directory", "gathering device information", " of the container: "];
    let by_place = places.iter().any(|place| message.contains(place));
    match kind {
        Kind::DataLoss | Kind::Hostile => {
            matches!(doing.as_str(), "load images" | "import image")
                || ["unpack into ", "import volume "].iter().any(|start| doing.starts_with(start))
        }
        Kind::NotFound | Kind::Denied | Kind::Internal if by_runtime || by_place => {
            let lower = message.to_lowercase();
            WORDS.iter().any(|word| lower.contains(word))
        }
        _ => false,
    }
}

/// The chain as a client should read it: what only repeats the request is left out, so that Docker's own sentence
/// (`No such image: x`) comes first, as clients expect.
fn text(error: &Error) -> String {
    // Docker's words for what the runtime says, which people and scripts look for.
    let whole = errors::chain(error);
    for (ours, dockers) in [
        ("runtime create: ", "failed to create task for container: OCI runtime create failed: "),
        ("runtime exec: ", "OCI runtime exec failed: "),
    ] {
        if let Some((_, said)) = whole.split_once(ours) {
            return format!("{dockers}{said}");
        }
    }
    match error {
        // The client knows which container it wanted to start.
        Error::Failed { doing, kind: Kind::NotFound | Kind::WrongState | Kind::InvalidArgument, source }
            if doing.starts_with("start container ") =>
        {
            errors::chain(source.as_ref())
        }
        Error::Failed { doing, kind: Kind::NotFound | Kind::WrongState | Kind::InvalidArgument, source }
            if matches!(
                doing.as_str(),
                "find image" | "remove image" | "tag image" | "load images" | "import image"
            ) =>
        {
            errors::chain(source.as_ref())
        }
        Error::Failed { doing, source, .. } if doing.starts_with("pull ") || doing.starts_with("push ") => {
            let text = errors::chain(source.as_ref());
            if names(&text, &doing[5..]) { text } else { format!("{doing}: {text}") }
        }
        other => errors::chain(other),
    }
}

/// Whether a text says which image it is about. Words about registries do, or have a URL that does; what is wrong with a blob or
/// with the disk does not.
fn names(text: &str, reference: &str) -> bool {
    let untagged = reference.split('@').next().unwrap_or_default();
    let untagged = match untagged.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => untagged,
    };
    let last = untagged.rsplit('/').next().unwrap_or_default();
    text.contains(untagged) || text.contains(&format!("/{last}/"))
}

fn status(kind: Kind) -> StatusCode {
    match kind {
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::AlreadyExists | Kind::WrongState => StatusCode::CONFLICT,
        Kind::InvalidArgument | Kind::Hostile => StatusCode::BAD_REQUEST,
        Kind::Denied => StatusCode::FORBIDDEN,
        Kind::Unauthenticated => StatusCode::UNAUTHORIZED,
        Kind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Exhausted | Kind::Cancelled | Kind::DataLoss | Kind::Internal => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

/// A JSON document.
pub(crate) fn json<T: serde::Serialize>(status: StatusCode, value: &T) -> Reply {
    let mut body = serde_json::to_vec(value).unwrap_or_else(|_| b"{}".to_vec());
    body.push(b'\n');
    with_body(status, Some("application/json"), body)
}

/// 200 with a JSON document.
pub(crate) fn ok<T: serde::Serialize>(value: &T) -> Outcome {
    Ok(json(StatusCode::OK, value))
}

/// A status and nothing else.
pub(crate) fn empty(status: StatusCode) -> Reply {
    with_body(status, None, Vec::new())
}

/// 204.
pub(crate) fn no_content() -> Outcome {
    Ok(empty(StatusCode::NO_CONTENT))
}

pub(crate) fn with_body(status: StatusCode, content_type: Option<&'static str>, body: Vec<u8>) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed());
    *reply.status_mut() = status;
    if let Some(kind) = content_type {
        reply.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    }
    reply
}

/// Pieces read ahead of a slow client.
const PIECES: usize = 32;

/// A body that is written while it is sent, of short lines. The sender fails once the client has gone.
pub(crate) fn stream(content_type: &'static str) -> (mpsc::Sender<Bytes>, Reply) {
    stream_ahead(content_type, PIECES)
}

/// The same of long pieces, of which as few as may be are kept for each of many slow clients.
pub(crate) fn bulk_stream(content_type: &'static str) -> (mpsc::Sender<Bytes>, Reply) {
    stream_ahead(content_type, 1)
}

fn stream_ahead(content_type: &'static str, pieces: usize) -> (mpsc::Sender<Bytes>, Reply) {
    let (sender, receiver) = mpsc::channel(pieces);
    (sender, of_body(content_type, ChannelBody(receiver)))
}

/// 200 with this body.
pub(crate) fn of_body<B>(content_type: &'static str, body: B) -> Reply
where
    B: Body<Data = Bytes, Error = std::io::Error> + Send + Sync + 'static,
{
    let mut reply = Response::new(body.boxed());
    reply.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    reply
}

struct ChannelBody(mpsc::Receiver<Bytes>);

impl Body for ChannelBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// One line of a JSON stream.
pub(crate) fn line<T: serde::Serialize>(value: &T) -> Bytes {
    let mut out = serde_json::to_vec(value).unwrap_or_default();
    out.extend_from_slice(b"\r\n");
    Bytes::from(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_names_its_image() {
        let check = |text, reference, expected| assert_eq!(names(text, reference), expected, "{text}");
        check("manifest for r:5000/a/b:1 not found", "r:5000/a/b:1", true);
        check("GET http://r:5000/v2/a/b/manifests/1: timed out", "r:5000/a/b:1", true);
        check("store blob sha256:00: no space left on device", "r:5000/a/b:1", false);
        check("store blob sha256:00", "busybox@sha256:11", false);
        check("pull access denied for busybox", "busybox:1", true);
    }
}
