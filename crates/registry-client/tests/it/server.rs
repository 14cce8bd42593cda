//! An HTTP server that answers as a test tells it to, broken answers included. One request per connection.

use oci::image::{ImageConfig, Manifest, RootFs, media_type};
use oci::{Descriptor, Digest, Reference};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path with query.
    pub(crate) path: String,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
    pub(crate) bytes: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// First byte asked for.
    pub(crate) fn offset(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

/// An answer, and how it goes wrong.
#[derive(Debug, Clone, Default)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Sends no `Content-Length`; the body ends with the connection.
    pub(crate) no_length: bool,
    /// Closes after so many bytes of the body.
    pub(crate) cut: Option<usize>,
    /// Falls silent after so many bytes of the body.
    pub(crate) stall: Option<usize>,
    /// Sends the body a byte at a time, this long apart.
    pub(crate) drip: Option<Duration>,
    /// Waits before answering.
    pub(crate) delay: Duration,
}

impl Response {
    pub(crate) fn new(status: u16) -> Response {
        Response { status, ..Response::default() }
    }

    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Response {
        Response { status: 200, body: body.into(), ..Response::default() }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Response {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub(crate) fn status(self, status: u16) -> Response {
        Response { status, ..self }
    }

    /// The part of `body` that `request` asks for.
    pub(crate) fn range(request: &Request, body: &[u8]) -> Response {
        match request.offset() {
            None => Response::ok(body),
            Some(offset) => Response { status: 206, ..Response::ok(&body[offset..]) }
                .with("Content-Range", format!("bytes {offset}-{}/{}", body.len() - 1, body.len())),
        }
    }
}

type Handler = dyn Fn(&Request) -> Response + Send + Sync;

pub(crate) struct Server {
    pub(crate) address: String,
    log: Arc<Log>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Log {
    requests: Mutex<Vec<Request>>,
    answering: AtomicUsize,
    most_answering: AtomicUsize,
}

impl Server {
    /// On 127.0.0.1, without TLS.
    pub(crate) async fn start(handler: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Server {
        Server::start_at("127.0.0.1", None, handler).await
    }

    /// On an address of this machine, with or without TLS.
    pub(crate) async fn start_at(
        host: &str,
        tls: Option<TlsAcceptor>,
        handler: impl Fn(&Request) -> Response + Send + Sync + 'static,
    ) -> Server {
        let listener = TcpListener::bind((host, 0)).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let log = Arc::new(Log::default());
        let (shared, handler) = (Arc::clone(&log), Arc::new(handler));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (log, handler, tls) = (Arc::clone(&shared), handler.clone(), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => serve(stream, log, handler).await,
                        // A client may well hang up during the handshake.
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, log, handler).await;
                            }
                        }
                    }
                });
            }
        });
        Server { address, log, task }
    }

    pub(crate) fn reference(&self, rest: &str) -> Reference {
        format!("{}/{rest}", self.address).parse().unwrap()
    }

    /// All requests so far.
    pub(crate) fn seen(&self) -> Vec<Request> {
        self.log.requests.lock().unwrap().clone()
    }

    /// How many answers were being given at the same time, at most.
    pub(crate) fn most_answering(&self) -> usize {
        self.log.most_answering.load(Ordering::SeqCst)
    }

    /// How many requests had this in their path.
    pub(crate) fn count(&self, part: &str) -> usize {
        self.seen().iter().filter(|request| request.path.contains(part)).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, log: Arc<Log>, handler: Arc<Handler>) {
    // What is no request, such as a TLS hello, gets no answer.
    let Some(request) = read(&mut stream).await else { return };
    let response = handler(&request);
    log.requests.lock().unwrap().push(request.clone());
    let answering = log.answering.fetch_add(1, Ordering::SeqCst) + 1;
    log.most_answering.fetch_max(answering, Ordering::SeqCst);
    tokio::time::sleep(response.delay).await;
    log.answering.fetch_sub(1, Ordering::SeqCst);
    let mut head = format!("HTTP/1.1 {} Status\r\nConnection: close\r\n", response.status);
    if !response.no_length && !response.headers.iter().any(|(name, _)| name == "Content-Length") {
        head += &format!("Content-Length: {}\r\n", response.body.len());
    }
    for (name, value) in &response.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let body = if request.method == "HEAD" { &[][..] } else { &response.body };
    let end = response.cut.or(response.stall).unwrap_or(body.len()).min(body.len());
    // The client may have gone; then so do we.
    let _gone = stream.write_all(format!("{head}\r\n").as_bytes()).await;
    match response.drip {
        None => drop(stream.write_all(&body[..end]).await),
        Some(apart) => {
            for byte in &body[..end] {
                if stream.write_all(&[*byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(apart).await;
            }
        }
    }
    if response.stall.is_some() {
        std::future::pending::<()>().await;
    }
    let _gone = stream.shutdown().await;
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<Request> {
    let mut bytes: Vec<u8> = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if bytes.first().is_some_and(|byte| !byte.is_ascii_uppercase()) {
            return None;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).ok()?;
    let mut lines = head.lines();
    let mut words = lines.next()?.split(' ');
    let (method, path) = (words.next()?.to_string(), words.next()?.to_string());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_string()))
        .collect();
    let mut request = Request { method, path, headers, body: String::new(), bytes: Vec::new() };
    let length: usize = request.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = bytes[end + 4..].to_vec();
    while body.len() < length {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    request.body = String::from_utf8_lossy(&body).into_owned();
    request.bytes = body;
    Some(request)
}

/// An image to be served by a handler.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) manifest: Manifest,
    pub(crate) bytes: Vec<u8>,
    pub(crate) config: Vec<u8>,
    pub(crate) layers: Vec<Vec<u8>>,
}

impl Image {
    pub(crate) fn new(layers: &[&[u8]]) -> Image {
        let layers: Vec<Vec<u8>> = layers.iter().map(|layer| layer.to_vec()).collect();
        let diff_ids = layers.iter().map(|layer| Digest::of(layer)).collect();
        let config = ImageConfig {
            created: None,
            author: None,
            architecture: "amd64".into(),
            os: "linux".into(),
            os_version: None,
            variant: None,
            config: None,
            container: None,
            container_config: None,
            rootfs: RootFs { kind: "layers".into(), diff_ids },
            history: Vec::new(),
            build_cache: None,
        };
        let config = serde_json::to_vec(&config).unwrap();
        let describe =
            |kind: &str, bytes: &[u8]| Descriptor::new(kind, Digest::of(bytes), bytes.len() as u64);
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(media_type::OCI_MANIFEST.into()),
            artifact_type: None,
            config: describe(media_type::OCI_CONFIG, &config),
            layers: layers.iter().map(|layer| describe(media_type::OCI_LAYER, layer)).collect(),
            annotations: Default::default(),
        };
        Image::of(manifest, config, layers)
    }

    /// With a manifest that need not fit the rest.
    pub(crate) fn of(manifest: Manifest, config: Vec<u8>, layers: Vec<Vec<u8>>) -> Image {
        let bytes = serde_json::to_vec(&manifest).unwrap();
        Image { manifest, bytes, config, layers }
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.bytes)
    }

    /// The manifest, as it should be served.
    pub(crate) fn served(&self) -> Response {
        Response::ok(self.bytes.clone()).with("Content-Type", media_type::OCI_MANIFEST)
    }

    /// What a well-behaved registry answers.
    pub(crate) fn answer(&self, request: &Request) -> Response {
        if request.path.contains("/manifests/") {
            return self.served();
        }
        let blobs = self.layers.iter().chain([&self.config]);
        let found = blobs.into_iter().find(|blob| request.path.contains(&Digest::of(blob).to_string()));
        found.map_or(Response::new(404), |blob| Response::range(request, blob))
    }

    /// Path of a layer.
    pub(crate) fn layer_path(&self, index: usize) -> String {
        format!("/blobs/{}", self.manifest.layers[index].digest)
    }
}
