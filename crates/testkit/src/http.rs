//! A server of a test's own: answers whatever a function says, and remembers what it was asked.

use oci::Digest;
use oci::image::media_type;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A request as it came.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub method: String,
    /// Path with query.
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    /// The value of a header, whose name is in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// An answer.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Sends so many bytes of the body and then nothing until the client has gone.
    pub stall: Option<usize>,
}

impl Answer {
    /// A status and a body.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Answer {
        Answer { status, body: body.into(), ..Answer::default() }
    }

    /// With a further header.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Answer {
        self.headers.push((name.into(), value.into()));
        self
    }
}

/// An image that a function serves, as a registry would.
#[derive(Debug, Clone)]
pub struct Served {
    /// Manifest and media type, by tag and by digest.
    manifests: Vec<(String, &'static str, Vec<u8>)>,
    blobs: Vec<(String, Vec<u8>)>,
}

impl Served {
    /// An image of these layers, tars plain or gzip, under `tag`. `config` says how to run it.
    pub fn image(tag: &str, layers: &[Vec<u8>], config: &serde_json::Value) -> Served {
        let image = crate::registry::document(&oci::Platform::host(), layers, config);
        let mut blobs: Vec<(String, Vec<u8>)> =
            layers.iter().map(|layer| (Digest::of(layer).to_string(), layer.clone())).collect();
        blobs.push((image.manifest.config.digest.to_string(), image.config));
        let digest = Digest::of(&image.bytes).to_string();
        let manifest = |name: &str| (name.to_string(), media_type::OCI_MANIFEST, image.bytes.clone());
        Served { manifests: vec![manifest(tag), manifest(&digest)], blobs }
    }

    /// What a well-behaved registry answers to a request that reads.
    pub fn answer(&self, request: &Request) -> Answer {
        let name = request.path.rsplit('/').next().unwrap_or_default();
        if request.path.contains("/manifests/") {
            let found = self.manifests.iter().find(|(known, ..)| known == name);
            return found.map_or(Answer::new(404, ""), |(_, kind, bytes)| {
                Answer::new(200, bytes.clone())
                    .with("Content-Type", *kind)
                    .with("Docker-Content-Digest", Digest::of(bytes).to_string())
            });
        }
        let Some((_, blob)) = self.blobs.iter().find(|(known, _)| known == name) else {
            return Answer::new(if request.path == "/v2/" { 200 } else { 404 }, "");
        };
        let range = request.header("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-'));
        match range.and_then(|start| start.parse::<usize>().ok()) {
            None => Answer::new(200, blob.clone()),
            Some(start) => Answer::new(206, &blob[start..])
                .with("Content-Range", format!("bytes {start}-{}/{}", blob.len() - 1, blob.len())),
        }
    }
}

/// A running server; ends with the value.
#[derive(Debug)]
pub struct Server {
    /// `127.0.0.1:port`.
    pub address: String,
    seen: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
}

impl Server {
    /// Starts on a free port of loopback, without TLS. `answer` gets each request and the server's own address.
    pub fn start(answer: impl Fn(&Request, &str) -> Answer + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (seen, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (answer, own) = (Arc::new(answer), address.clone());
        let (log, stopped) = (seen.clone(), stop.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (answer, log, own) = (answer.clone(), log.clone(), own.clone());
                std::thread::spawn(move || {
                    let Ok(stream) = stream else { return };
                    // A client that hangs up has what it wanted.
                    let _gone = serve(stream, &log, |request| answer(request, &own));
                });
            }
        });
        Server { address, seen, stop }
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many requests had this method, and this in their path.
    pub fn count(&self, method: &str, part: &str) -> usize {
        self.seen().iter().filter(|r| r.method == method && r.path.contains(part)).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        drop(TcpStream::connect(&self.address));
    }
}

/// One request on each connection.
fn serve(
    mut stream: TcpStream,
    log: &Mutex<Vec<Request>>,
    answer: impl Fn(&Request) -> Answer,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ');
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(()) };
    let mut request = Request { method: method.into(), path: path.into(), ..Request::default() };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        request.headers.push((name.to_ascii_lowercase(), value.trim().to_string()));
    }
    let length: usize = request.header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    request.body.resize(length, 0);
    reader.read_exact(&mut request.body)?;
    let answer = answer(&request);
    let head_only = request.method == "HEAD";
    log.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    let mut head = format!("HTTP/1.1 {} Status\r\nConnection: close\r\n", answer.status);
    if !answer.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
        head += &format!("Content-Length: {}\r\n", answer.body.len());
    }
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if head_only {
        return stream.flush();
    }
    let end = answer.stall.unwrap_or(answer.body.len()).min(answer.body.len());
    stream.write_all(&answer.body[..end])?;
    stream.flush()?;
    if answer.stall.is_some() {
        // Ends with the connection.
        reader.read_to_end(&mut Vec::new())?;
    }
    Ok(())
}
