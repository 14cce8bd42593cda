//! A real registry on loopback, to pull from.
//!
//! Needs the package `docker-registry` (`apt-get install docker-registry`), whose program is CNCF distribution. Each
//! [`Registry`] is a process of its own with storage of its own; both end with the value.
//!
//! ```no_run
//! let registry = testkit::registry::Registry::start();
//! let tar = vec![0; 1024];
//! registry.push_image("busybox", "1", &[tar], serde_json::json!({"Cmd": ["sh"]}));
//! // pull from `{registry.address}/busybox:1`
//! ```

use oci::image::{Index, Manifest, media_type};
use oci::{Descriptor, Digest, Platform};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The user that a registry started with [`Registry::start_with_login`] knows.
pub const USER: &str = "user";
/// Their password.
pub const PASSWORD: &str = "secret";
/// bcrypt of [`PASSWORD`] at the lowest cost.
const HTPASSWD: &str = "user:$2b$04$dy9PWEhhNdZszd6Gc/apFeLOqsX.UZ67EwLxG6jHK4bzOQdQbuaUS\n";
/// base64 of `user:secret`.
const BASIC: &str = "Basic dXNlcjpzZWNyZXQ=";

/// A running registry; plain HTTP, no TLS.
#[derive(Debug)]
pub struct Registry {
    /// `127.0.0.1:port`, the host of references to it.
    pub address: String,
    login: bool,
    process: Child,
    _root: tempfile::TempDir,
}

/// An image as it was pushed.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// The manifest.
    pub descriptor: Descriptor,
    pub manifest: Manifest,
    /// The manifest's bytes.
    pub bytes: Vec<u8>,
}

impl Registry {
    /// Starts a registry that lets everyone in, on a free port.
    pub fn start() -> Registry {
        Registry::spawn(false)
    }

    /// Starts a registry that wants Basic authentication as [`USER`] with [`PASSWORD`].
    pub fn start_with_login() -> Registry {
        Registry::spawn(true)
    }

    fn spawn(login: bool) -> Registry {
        let root = tempfile::tempdir().unwrap();
        let config = configuration(root.path(), login);
        let path = root.path().join("config.json");
        std::fs::write(&path, config.to_string()).unwrap();
        let mut process = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start docker-registry; it is in the package `docker-registry`");
        let mut log = BufReader::new(process.stderr.take().expect("stderr is piped")).lines();
        let mut seen = String::new();
        let address = loop {
            let Some(Ok(line)) = log.next() else {
                let _ended = process.wait();
                panic!("docker-registry ended instead of listening:\n{seen}");
            };
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.split(['"', ' ', ',']).next().unwrap_or_default().to_string();
            }
            seen.push_str(&line);
            seen.push('\n');
        };
        // Nobody may block on a full pipe. The thread ends with the process.
        std::thread::spawn(move || log.for_each(drop));
        Registry { address, login, process, _root: root }
    }

    /// The reference text of `tag` in `repository` here.
    pub fn reference(&self, repository: &str, tag: &str) -> String {
        format!("{}/{repository}:{tag}", self.address)
    }

    /// Pushes an image of `layers`, bottom first, each the bytes of a tar archive, plain or gzip. `config` is the
    /// object that says how to run it (`Cmd`, `Env`, `User`, …). The platform is the host's.
    pub fn push_image(&self, repository: &str, tag: &str, layers: &[Vec<u8>], config: Value) -> Pushed {
        self.push_image_for(&Platform::host(), repository, tag, layers, config)
    }

    /// As [`Registry::push_image`], for a platform. `tag` may be a digest's text or anything a registry takes.
    pub fn push_image_for(
        &self,
        platform: &Platform,
        repository: &str,
        tag: &str,
        layers: &[Vec<u8>],
        config: Value,
    ) -> Pushed {
        let Document { manifest, bytes, config } = document(platform, layers, &config);
        self.push_blob(repository, media_type::OCI_CONFIG, &config);
        for layer in layers {
            self.push_blob(repository, layer_type(layer), layer);
        }
        let descriptor = self.push_manifest(repository, tag, media_type::OCI_MANIFEST, &bytes);
        Pushed { descriptor: Descriptor { platform: Some(platform.clone()), ..descriptor }, manifest, bytes }
    }

    /// Pushes an index of manifests that are in `repository` already.
    pub fn push_index(&self, repository: &str, tag: &str, manifests: &[Descriptor]) -> Descriptor {
        let index = Index {
            schema_version: 2,
            media_type: Some(media_type::OCI_INDEX.into()),
            manifests: manifests.to_vec(),
            annotations: Default::default(),
        };
        self.push_manifest(repository, tag, media_type::OCI_INDEX, &serde_json::to_vec(&index).unwrap())
    }

    /// Uploads a blob in one piece. Spec: distribution-spec, "Pushing a blob monolithically".
    pub fn push_blob(&self, repository: &str, media_type: &str, bytes: &[u8]) -> Descriptor {
        let digest = Digest::of(bytes);
        let started = self.request("POST", &format!("/v2/{repository}/blobs/uploads/"), "", &[]);
        assert_eq!(started.status, 202, "start an upload: {started:?}");
        let location = started.header("location");
        let path = location.strip_prefix(&format!("http://{}", self.address)).unwrap_or(&location);
        let path = format!("{path}{}digest={digest}", if path.contains('?') { '&' } else { '?' });
        let done = self.request("PUT", &path, "application/octet-stream", bytes);
        assert_eq!(done.status, 201, "upload blob {digest}: {done:?}");
        Descriptor::new(media_type, digest, bytes.len() as u64)
    }

    /// Uploads a manifest or index under a tag or under its digest.
    pub fn push_manifest(&self, repository: &str, name: &str, media_type: &str, bytes: &[u8]) -> Descriptor {
        let done = self.request("PUT", &format!("/v2/{repository}/manifests/{name}"), media_type, bytes);
        assert_eq!(done.status, 201, "upload manifest {repository}:{name}: {done:?}");
        Descriptor::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }

    /// The bytes of a manifest or index under a tag or a digest; none where there is none.
    pub fn manifest(&self, repository: &str, name: &str) -> Option<Vec<u8>> {
        let answer = self.request("GET", &format!("/v2/{repository}/manifests/{name}"), "", &[]);
        match answer.status {
            200 => Some(answer.body.into_bytes()),
            404 => None,
            _ => panic!("get manifest {repository}:{name}: {answer:?}"),
        }
    }

    /// Whether a repository has a blob.
    pub fn has_blob(&self, repository: &str, digest: &Digest) -> bool {
        self.request("HEAD", &format!("/v2/{repository}/blobs/{digest}"), "", &[]).status == 200
    }

    /// The file in which the registry keeps a blob: for tests that change it behind the registry's back.
    pub fn blob_path(&self, digest: &Digest) -> std::path::PathBuf {
        let text = digest.to_string();
        let hex = text.trim_start_matches("sha256:");
        let blobs = self._root.path().join("storage/docker/registry/v2/blobs/sha256");
        let path = blobs.join(&hex[..2]).join(hex).join("data");
        assert!(path.exists(), "{} is missing", path.display());
        path
    }

    /// One request on a connection of its own.
    fn request(&self, method: &str, path: &str, content_type: &str, body: &[u8]) -> Response {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.address);
        head += &format!("Content-Length: {}\r\n", body.len());
        for kind in [
            media_type::OCI_INDEX,
            media_type::OCI_MANIFEST,
            media_type::DOCKER_INDEX,
            media_type::DOCKER_MANIFEST,
        ] {
            head += &format!("Accept: {kind}\r\n");
        }
        if !content_type.is_empty() {
            head += &format!("Content-Type: {content_type}\r\n");
        }
        if self.login {
            head += &format!("Authorization: {BASIC}\r\n");
        }
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        Response::parse(&String::from_utf8_lossy(&answer))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Nothing to do about a failure here; the process has ended then.
        let _killed = self.process.kill();
        let _ended = self.process.wait();
    }
}

/// JSON is YAML.
fn configuration(root: &Path, login: bool) -> Value {
    let mut config = json!({
        "version": "0.1",
        "log": {"level": "info"},
        "storage": {"filesystem": {"rootdirectory": root.join("storage")}, "delete": {"enabled": true}},
        "http": {"addr": "127.0.0.1:0", "secret": "tests"},
    });
    if login {
        let path = root.join("htpasswd");
        std::fs::write(&path, HTPASSWD).unwrap();
        config["auth"] = json!({"htpasswd": {"realm": "tests", "path": path}});
    }
    config
}

/// The documents of an image.
pub(crate) struct Document {
    pub(crate) manifest: Manifest,
    pub(crate) bytes: Vec<u8>,
    pub(crate) config: Vec<u8>,
}

pub(crate) fn document(platform: &Platform, layers: &[Vec<u8>], config: &Value) -> Document {
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| diff_id(layer)).collect();
    let config = json!({
        "architecture": platform.architecture,
        "os": platform.os,
        "variant": platform.variant,
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": layers.iter().map(|_| json!({"created_by": "testkit"})).collect::<Vec<_>>(),
    });
    let config = config.to_string().into_bytes();
    let describe = |kind: &str, bytes: &[u8]| Descriptor::new(kind, Digest::of(bytes), bytes.len() as u64);
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type::OCI_MANIFEST.into()),
        artifact_type: None,
        config: describe(media_type::OCI_CONFIG, &config),
        layers: layers.iter().map(|layer| describe(layer_type(layer), layer)).collect(),
        annotations: Default::default(),
    };
    Document { bytes: serde_json::to_vec(&manifest).unwrap(), manifest, config }
}

fn layer_type(layer: &[u8]) -> &'static str {
    if layer.starts_with(&[0x1f, 0x8b]) { media_type::OCI_LAYER_GZIP } else { media_type::OCI_LAYER }
}

fn diff_id(layer: &[u8]) -> Digest {
    if layer_type(layer) == media_type::OCI_LAYER {
        return Digest::of(layer);
    }
    let mut tar = Vec::new();
    flate2::read::MultiGzDecoder::new(layer).read_to_end(&mut tar).expect("a gzip layer");
    Digest::of(&tar)
}

#[derive(Debug)]
struct Response {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Response {
    fn parse(text: &str) -> Response {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let header = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_string()))
        };
        Response {
            status: status.unwrap_or_else(|| panic!("no HTTP answer: {text:?}")),
            headers: lines.filter_map(header).collect(),
            body: body.to_string(),
        }
    }

    fn header(&self, name: &str) -> String {
        let found = self.headers.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.clone()).unwrap_or_else(|| panic!("no {name} header: {self:?}"))
    }
}
