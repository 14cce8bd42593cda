//! `POST /session` and `POST /grpc`: connections that go on as HTTP/2, for crate `buildkit`.

use crate::reply::{Failure, Outcome, empty};
use crate::request::Call;
use crate::serve::Api;
use crate::wire::Wire;
use ::buildkit::SessionInfo;
use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper_util::rt::TokioIo;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What such connections go on as.
const H2C: &str = "h2c";
/// Methods of one session; clients have some twenty.
const MAX_METHODS: usize = 200;

/// `POST /session`: the client serves its files and secrets on this connection.
pub(crate) fn session(api: &Arc<Api>, call: Call) -> Outcome {
    let id = call.header("X-Docker-Expose-Session-Uuid");
    if id.is_empty() {
        return Err(Failure::bad_request("no session ID: X-Docker-Expose-Session-Uuid is missing"));
    }
    let methods = call.request.headers().get_all("X-Docker-Expose-Session-Grpc-Method");
    let info = SessionInfo {
        id,
        shared_key: call.header("X-Docker-Expose-Session-Sharedkey"),
        methods: methods
            .iter()
            .take(MAX_METHODS)
            .filter_map(|m| Some(m.to_str().ok()?.to_string()))
            .collect(),
    };
    let server = api.buildkit.clone();
    upgraded(call, move |stream| async move { server.session(info, stream).await })
}

/// `POST /grpc`: the client calls on this connection.
pub(crate) fn grpc(api: &Arc<Api>, call: Call) -> Outcome {
    let server = api.buildkit.clone();
    upgraded(call, move |stream| async move { server.serve(stream).await })
}

/// Answers that the connection goes on as HTTP/2, and goes on.
fn upgraded<F, R>(mut call: Call, go_on: F) -> Outcome
where
    F: FnOnce(Stream) -> R + Send + 'static,
    R: Future<Output = ()> + Send,
{
    if !call.header("Upgrade").eq_ignore_ascii_case(H2C) {
        return Err(Failure::bad_request("no upgrade to h2c is asked for"));
    }
    let upgrade = hyper::upgrade::on(&mut call.request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => match upgraded.downcast::<TokioIo<Wire>>() {
                Ok(parts) => go_on(Stream { first: parts.read_buf, wire: parts.io.into_inner() }).await,
                Err(_) => tracing::error!("an upgraded connection is none of ours"),
            },
            Err(error) => tracing::debug!(%error, "upgrade"),
        }
    });
    let mut reply = empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = reply.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(H2C));
    Ok(reply)
}

/// A connection of which something was read already.
struct Stream {
    first: Bytes,
    wire: Wire,
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        if stream.first.is_empty() {
            return Pin::new(&mut stream.wire).poll_read(context, buffer);
        }
        let n = stream.first.len().min(buffer.remaining());
        buffer.put_slice(&stream.first.split_to(n));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().wire).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().wire).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().wire).poll_shutdown(context)
    }
}
