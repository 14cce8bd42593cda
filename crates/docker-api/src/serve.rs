//! Connections: one task each, HTTP/1.1 with upgrades.

use crate::peer::{self, Peer};
use crate::reply::{Failure, Reply};
use crate::request::{Call, Query};
use crate::wire::Listener;
use crate::{API_VERSION, MIN_API_VERSION, route};
use engine::Engine;
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long a client may take to send the head of a request (T-HTTP-1: slow heads).
const HEAD_DEADLINE: Duration = Duration::from_secs(60);

/// What all handlers share.
#[derive(Debug)]
pub struct Api {
    pub engine: Arc<Engine>,
    /// BuildKit's API, whose connections begin as requests here.
    pub buildkit: Arc<buildkit::Server>,
    /// Builds whose clients have shared caches.
    pub exchanges: crate::Exchanges,
    /// Version text of the program.
    pub version: &'static str,
    /// Told of every request, for those who wait for a rest.
    pub requests: tokio::sync::Notify,
}

/// Takes connections from `listener` until `stop` becomes true. Connections under way are left to end by themselves.
pub async fn serve(listener: Listener, api: Arc<Api>, mut stop: watch::Receiver<bool>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|s| *s) => return,
        };
        let accepted = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors: waiting lets others end; spinning would not.
                tracing::warn!(%error, "accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let api = api.clone();
        tokio::spawn(async move {
            let stream = match accepted.ready().await {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::debug!(%error, "TLS handshake");
                    return;
                }
            };
            let peer = Peer::of(&stream)
                .inspect_err(|error| tracing::warn!(%error, "duplicate a client's socket"))
                .ok();
            let service = service_fn(move |mut request: Request<Incoming>| {
                let api = api.clone();
                if let Some(peer) = peer.clone() {
                    request.extensions_mut().insert(peer);
                }
                async move { Ok::<_, Infallible>(answer(&api, request).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(hyper_util::rt::TokioTimer::new())
                .header_read_timeout(HEAD_DEADLINE)
                .half_close(true)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection");
            }
        });
    }
}

async fn answer(api: &Arc<Api>, request: Request<Incoming>) -> Reply {
    let method = request.method().clone();
    let path = request.uri().path().to_string();
    let asker = request.extensions().get::<Peer>().cloned();
    api.requests.notify_one();
    let outcome = dispatch(api, request).await;
    let mut reply = match outcome {
        Ok(reply) => peer::watched(reply, asker),
        Err(failure) => {
            if failure.status.is_server_error() && failure.status != StatusCode::NOT_IMPLEMENTED {
                tracing::error!(%method, path, status = failure.status.as_u16(), error = failure.message, "request failed");
            } else {
                tracing::debug!(%method, path, status = failure.status.as_u16(), error = failure.message, "request refused");
            }
            failure.reply()
        }
    };
    let headers = reply.headers_mut();
    headers.insert("Api-Version", HeaderValue::from_static(API_VERSION));
    headers.insert(
        "Docker-Experimental",
        HeaderValue::from_static(if api.engine.config().experimental { "true" } else { "false" }),
    );
    headers.insert("Ostype", HeaderValue::from_static("linux"));
    headers
        .insert("Server", HeaderValue::from_static(concat!("brig/", env!("CARGO_PKG_VERSION"), " (linux)")));
    reply
}

async fn dispatch(api: &Arc<Api>, request: Request<Incoming>) -> Result<Reply, Failure> {
    let path = request.uri().path().to_string();
    let (version, rest) = split_version(&path)?;
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let rest = rest.to_string();
    route::call(api, &rest, Call { request, query, version }).await
}

/// `/v1.43/x` is version 1.43 and path `/x`; without a version the newest is meant.
fn split_version(path: &str) -> Result<((u32, u32), &str), Failure> {
    let parse = |text: &str| {
        let (major, minor) = text.split_once('.')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    let (newest, oldest) = (parse(API_VERSION).unwrap_or((1, 0)), parse(MIN_API_VERSION).unwrap_or((1, 0)));
    let Some((text, rest)) = path.strip_prefix("/v").and_then(|p| p.split_once('/')) else {
        return Ok((newest, path));
    };
    let Some(version) = parse(text) else { return Ok((newest, path)) };
    if version > newest {
        return Err(Failure::bad_request(format!(
            "client version {text} is too new. Maximum supported API version is {API_VERSION}"
        )));
    }
    if version < oldest {
        return Err(Failure::bad_request(format!(
            "client version {text} is too old. Minimum supported API version is {MIN_API_VERSION}, please upgrade \
             your client to a newer version"
        )));
    }
    // The slash that was split off belongs to the path.
    Ok((version, &path[path.len() - rest.len() - 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_split_off_and_checked() {
        assert_eq!(split_version("/v1.43/x/y").unwrap(), ((1, 43), "/x/y"));
        assert_eq!(split_version("/_ping").unwrap(), ((1, 55), "/_ping"));
        assert_eq!(split_version("/version").unwrap().1, "/version");
        assert!(split_version("/v1.23/x").is_err());
        assert!(split_version("/v1.99/x").is_err());
    }
}
