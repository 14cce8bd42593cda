//! The client's end of the Docker Engine API: HTTP/1.1 over a Unix or TCP socket, connections kept for reuse.
//!
//! The first request goes out under our own API version; a daemon that is older answers 400 and names its version in
//! the `Api-Version` header, and the request is sent again under that one. So a daemon of our age costs no round
//! trip for negotiation.

use crate::daemon;
use crate::error::{Error, Result};
use crate::host::{Endpoint, Host};
use crate::{ssh, tls};
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::cell::{Cell, RefCell};
use std::io;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// The newest API version that this client knows.
pub(crate) const API_VERSION: Version = Version { major: 1, minor: 47 };
/// Longest answer that is read as a whole. A list of ten thousand containers has about 20 MiB.
const MAX_ANSWER: usize = 256 << 20;
/// How long a TCP connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes that may wait in a local connection for the daemon to take them.
const SEND_BUFFER: usize = 512 << 10;

/// What must be escaped in a query's values and in a path's components.
pub(crate) const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A version of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

impl Version {
    fn parse(text: &str) -> Option<Version> {
        let (major, minor) = text.trim().split_once('.')?;
        Some(Version { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A request's body.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A socket of either kind.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A path below the version and its query, escaped as it is put together.
#[derive(Debug, Clone)]
pub(crate) struct Path {
    text: String,
    has_query: bool,
}

impl Path {
    /// Joins `components`; each is escaped, a slash within one too, except in those for images, where the API takes
    /// names with slashes.
    pub(crate) fn new(components: &[&str]) -> Path {
        let mut text = String::new();
        for component in components {
            text.push('/');
            text.extend(percent_encoding::utf8_percent_encode(component, QUERY));
        }
        Path { text, has_query: false }
    }

    /// Adds `name=value`.
    pub(crate) fn query(mut self, name: &str, value: &str) -> Path {
        self.text.push(if self.has_query { '&' } else { '?' });
        self.has_query = true;
        self.text.push_str(name);
        self.text.push('=');
        self.text.extend(percent_encoding::utf8_percent_encode(value, QUERY));
        self
    }

    /// Adds `name=value` where `value` is not empty.
    pub(crate) fn query_some(self, name: &str, value: &str) -> Path {
        if value.is_empty() { self } else { self.query(name, value) }
    }

    /// Adds `name=1` where `set`.
    pub(crate) fn flag(self, name: &str, set: bool) -> Path {
        if set { self.query(name, "1") } else { self }
    }
}

/// What a request carries besides its path.
#[derive(Debug, Default)]
pub(crate) struct Extra {
    /// `Content-Type` and bytes.
    pub(crate) content: Option<(&'static str, Bytes)>,
    /// Base64 of the JSON with the registry's credentials.
    pub(crate) registry_auth: Option<String>,
}

impl Extra {
    /// A JSON body.
    pub(crate) fn json(value: &impl serde::Serialize) -> Extra {
        // Our own request documents have string keys and finite numbers.
        let bytes = serde_json::to_vec(value).expect("request documents are plain JSON");
        Extra { content: Some(("application/json", bytes.into())), registry_auth: None }
    }
}

/// A connection to a daemon.
#[derive(Debug)]
pub(crate) struct Client {
    host: Host,
    version: Cell<Version>,
    negotiated: Cell<bool>,
    /// Every request is told on stderr.
    tells: bool,
    idle: RefCell<Vec<SendRequest<Body>>>,
}

#[derive(Deserialize)]
struct Message {
    message: String,
}

impl Client {
    /// A client for the daemon at `host`; connects when first used. `pinned` (from `DOCKER_API_VERSION`) fixes the
    /// version. With `tells` every request is told on stderr.
    pub(crate) fn new(host: Host, pinned: Option<Version>, tells: bool) -> Client {
        Client {
            host,
            version: Cell::new(pinned.unwrap_or(API_VERSION)),
            negotiated: Cell::new(pinned.is_some()),
            tells,
            idle: RefCell::default(),
        }
    }

    /// The version that requests go out under; the daemon's where it is lower and has been asked.
    pub(crate) fn version(&self) -> Version {
        self.version.get()
    }

    /// Sends a request and gives back a successful answer, whose body may still be coming.
    ///
    /// # Errors
    ///
    /// [`Error::Api`] where the daemon answers with a status of 400 or more.
    pub(crate) async fn request(
        &self,
        method: Method,
        path: &Path,
        extra: Extra,
    ) -> Result<Response<Incoming>> {
        loop {
            let body = match &extra.content {
                Some((_, bytes)) => Full::new(bytes.clone()).map_err(|never| match never {}).boxed_unsync(),
                None => Full::default().map_err(|never| match never {}).boxed_unsync(),
            };
            let version = self.version.get();
            let content_type = extra.content.as_ref().map(|(kind, _)| *kind);
            let request = self.build(&method, path, content_type, extra.registry_auth.as_deref(), body)?;
            let response = self.send(request).await?;
            match self.check(response).await {
                Err(Error::Api { status: 400, .. }) if self.version.get() != version => {}
                result => return result,
            }
        }
    }

    /// Sends a request whose body is a stream. Asks for the daemon's version first, as a stream cannot be sent twice.
    pub(crate) async fn request_stream(
        &self,
        method: Method,
        path: &Path,
        content_type: &'static str,
        body: Body,
    ) -> Result<Response<Incoming>> {
        self.negotiate().await?;
        let request = self.build(&method, path, Some(content_type), None, body)?;
        let response = self.send(request).await?;
        self.check(response).await
    }

    /// As [`Client::request_stream`] for a build: `POST`, with credentials for registries.
    pub(crate) async fn request_build(
        &self,
        path: &Path,
        content_type: &'static str,
        registry_config: Option<&str>,
        body: Body,
    ) -> Result<Response<Incoming>> {
        self.negotiate().await?;
        let mut request = self.build(&Method::POST, path, Some(content_type), None, body)?;
        if let Some(value) = registry_config.and_then(|text| text.parse().ok()) {
            request.headers_mut().insert("X-Registry-Config", value);
        }
        let response = self.send(request).await?;
        self.check(response).await
    }

    /// `GET`, read whole, as JSON.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &Path) -> Result<T> {
        let response = self.request(Method::GET, path, Extra::default()).await?;
        self.json(path, response).await
    }

    /// `POST` with a JSON body, answered with JSON.
    pub(crate) async fn post_json<T: DeserializeOwned>(
        &self,
        path: &Path,
        body: &impl serde::Serialize,
    ) -> Result<T> {
        let response = self.request(Method::POST, path, Extra::json(body)).await?;
        self.json(path, response).await
    }

    /// `POST` without a body; the answer's body is read and thrown away, so that the connection can be used again.
    /// Returns the status.
    pub(crate) async fn post(&self, path: &Path) -> Result<StatusCode> {
        let response = self.request(Method::POST, path, Extra::default()).await?;
        let status = response.status();
        self.read_all(response).await?;
        Ok(status)
    }

    /// `DELETE`, answered with whatever.
    pub(crate) async fn delete(&self, path: &Path) -> Result<Bytes> {
        let response = self.request(Method::DELETE, path, Extra::default()).await?;
        self.read_all(response).await
    }

    /// Reads an answer's body as JSON.
    pub(crate) async fn json<T: DeserializeOwned>(
        &self,
        path: &Path,
        response: Response<Incoming>,
    ) -> Result<T> {
        let bytes = self.read_all(response).await?;
        serde_json::from_slice(&bytes).map_err(|source| Error::Decode { what: path.text.clone(), source })
    }

    /// Reads an answer's body whole.
    pub(crate) async fn read_all(&self, response: Response<Incoming>) -> Result<Bytes> {
        let body = Limited::new(response.into_body(), MAX_ANSWER);
        let collected = body.collect().await.map_err(|e| Error::transport("read the answer", e))?;
        Ok(collected.to_bytes())
    }

    /// Learns the daemon's version, once.
    pub(crate) async fn negotiate(&self) -> Result<()> {
        if !self.negotiated.get() {
            let response = self.ping().await?;
            self.learn(&response);
            self.read_all(response).await?;
        }
        Ok(())
    }

    /// `GET /_ping`.
    pub(crate) async fn ping(&self) -> Result<Response<Incoming>> {
        let request = Request::get("/_ping").header(header::HOST, "localhost");
        let request = request
            .body(Full::default().map_err(|never| match never {}).boxed_unsync())
            .map_err(|e| Error::transport("build a request", e))?;
        self.send(request).await
    }

    /// The version-prefixed path, for requests that do not go through [`Client::request`].
    pub(crate) fn versioned(&self, path: &Path) -> String {
        format!("/v{}{}", self.version.get(), path.text)
    }

    /// A new connection, starting the daemon where nobody named an address and nobody listens.
    pub(crate) async fn connect(&self) -> Result<Box<dyn Io>> {
        match self.dial().await {
            Err(Error::Connect { cause, .. }) if !self.host.explicit && daemon::is_silence(&cause) => {
                daemon::start(&self.host.endpoint).await?;
                self.dial().await
            }
            result => result,
        }
    }

    async fn dial(&self) -> Result<Box<dyn Io>> {
        let failed = |cause: io::Error| Error::Connect { address: self.host.endpoint.to_string(), cause };
        match &self.host.endpoint {
            Endpoint::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(failed)?;
                // A piece of a long body goes in one call, not in one and a wait. Who may not has the default.
                let _ = rustix::net::sockopt::set_socket_send_buffer_size_force(&stream, SEND_BUFFER);
                Ok(Box::new(stream))
            }
            Endpoint::Tcp(address) => {
                let connecting = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
                let stream = connecting.map_err(io::Error::from).and_then(|r| r).map_err(failed)?;
                stream.set_nodelay(true).map_err(failed)?;
                Ok(Box::new(stream))
            }
            Endpoint::Tls(address, files) => {
                let shaking = async {
                    let stream = TcpStream::connect(address).await?;
                    stream.set_nodelay(true)?;
                    tls::connect(stream, address, files).await
                };
                let shaken = tokio::time::timeout(CONNECT_TIMEOUT, shaking).await;
                Ok(Box::new(shaken.map_err(io::Error::from).and_then(|r| r).map_err(failed)?))
            }
            Endpoint::Ssh(address) => Ok(Box::new(ssh::connect(address).map_err(failed)?)),
        }
    }

    fn build(
        &self,
        method: &Method,
        path: &Path,
        content_type: Option<&str>,
        registry_auth: Option<&str>,
        body: Body,
    ) -> Result<Request<Body>> {
        let mut builder = Request::builder()
            .method(method)
            .uri(self.versioned(path))
            .header(header::HOST, "localhost")
            .header(header::USER_AGENT, concat!("brig/", env!("CARGO_PKG_VERSION"), " (linux)"));
        if let Some(kind) = content_type {
            builder = builder.header(header::CONTENT_TYPE, kind);
        }
        if let Some(auth) = registry_auth {
            builder = builder.header("X-Registry-Auth", auth);
        }
        builder.body(body).map_err(|e| Error::transport("build a request", e))
    }

    /// Sends on an idle connection, or on a new one. An idle connection that the daemon closed meanwhile fails
    /// before the request is written, and the next is tried.
    async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>> {
        let (what, begin) =
            (self.tells.then(|| (request.method().clone(), request.uri().clone())), Instant::now());
        let answer = self.send_somehow(request).await;
        if let Some((method, uri)) = what {
            let end = match &answer {
                Ok(response) => response.status().as_str().to_string(),
                Err(error) => errors::chain(error),
            };
            self.tell(&method, &uri.to_string(), &end, begin);
        }
        answer
    }

    /// One line on a request and its answer, where lines are wanted.
    pub(crate) fn tell(&self, method: &Method, path: &str, end: &str, begin: Instant) {
        if self.tells {
            let line = format!("{method} {path}: {end} ({} ms)", begin.elapsed().as_millis());
            crate::terminal::warn(&crate::text::printable(&line));
        }
    }

    async fn send_somehow(&self, request: Request<Body>) -> Result<Response<Incoming>> {
        let mut request = request;
        loop {
            let idle = self.take_idle();
            let fresh = idle.is_none();
            let mut sender = match idle {
                Some(sender) => sender,
                None => self.open().await?,
            };
            match sender.try_send_request(request).await {
                Ok(response) => {
                    self.idle.borrow_mut().push(sender);
                    return Ok(response);
                }
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) if !fresh => request = unsent,
                    _ => return Err(Error::transport("send a request", failed.into_error())),
                },
            }
        }
    }

    /// A connection that is free now. One whose answer is still being read stays in the list and is not ready.
    fn take_idle(&self) -> Option<SendRequest<Body>> {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|sender| !sender.is_closed());
        let at = idle.iter().position(SendRequest::is_ready)?;
        Some(idle.swap_remove(at))
    }

    async fn open(&self) -> Result<SendRequest<Body>> {
        let stream = self.connect().await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| Error::transport("open a connection", e))?;
        // Ends when the sender is dropped or the daemon closes; its error also reaches the request it concerns.
        drop(tokio::spawn(async move {
            drop(connection.await);
        }));
        Ok(sender)
    }

    /// Turns an error status into an error, learning the daemon's version on the way.
    async fn check(&self, response: Response<Incoming>) -> Result<Response<Incoming>> {
        let status = response.status();
        if !status.is_client_error() && !status.is_server_error() {
            return Ok(response);
        }
        if status == StatusCode::BAD_REQUEST && !self.negotiated.get() {
            self.learn(&response);
        }
        let bytes = self.read_all(response).await?;
        Err(api_error(status.as_u16(), &bytes))
    }

    fn learn(&self, response: &Response<Incoming>) {
        let header = response.headers().get("api-version").and_then(|v| v.to_str().ok());
        self.learn_version(header);
    }

    /// Lowers the version to the daemon's, `text`, where that is lower. Only once.
    pub(crate) fn learn_version(&self, text: Option<&str>) {
        if self.negotiated.get() {
            return;
        }
        if let Some(version) = text.and_then(Version::parse) {
            self.negotiated.set(true);
            self.version.set(version.min(self.version.get()));
        }
    }
}

/// Reads `DOCKER_API_VERSION`.
pub(crate) fn pinned_version(text: Option<&str>) -> Result<Option<Version>> {
    let Some(text) = text.filter(|t| !t.is_empty()) else { return Ok(None) };
    match Version::parse(text.trim_start_matches('v')) {
        Some(version) => Ok(Some(version)),
        None => Err(Error::Usage(format!("invalid DOCKER_API_VERSION {text:?}: want MAJOR.MINOR"))),
    }
}

/// The error in the body of a failed answer.
pub(crate) fn api_error(status: u16, body: &[u8]) -> Error {
    let message = match serde_json::from_slice::<Message>(body) {
        Ok(Message { message }) => message,
        Err(_) if body.is_empty() => format!("status {status} without a message"),
        Err(_) => String::from_utf8_lossy(body).trim().chars().take(4096).collect(),
    };
    Error::Api { status, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_escaped() {
        let path = Path::new(&["containers", "a/../b", "json"]).query("x", "a=b&c d").flag("all", true);
        assert_eq!(path.text, "/containers/a%2F..%2Fb/json?x=a%3Db%26c%20d&all=1");
        assert_eq!(Path::new(&["info"]).query_some("x", "").text, "/info");
    }

    #[test]
    fn errors_are_read() {
        let check = |body: &[u8], expected: &str| assert_eq!(api_error(404, body).to_string(), expected);
        check(br#"{"message":"no"}"#, "Error response from daemon: no");
        check(b"plain\n", "Error response from daemon: plain");
        check(b"", "Error response from daemon: status 404 without a message");
    }

    #[test]
    fn versions() {
        assert_eq!(pinned_version(Some("1.41")).unwrap(), Some(Version { major: 1, minor: 41 }));
        assert!(pinned_version(Some("x")).is_err());
        assert!(Version::parse("1.9").unwrap() < Version::parse("1.41").unwrap());
    }
}
