//! Pushes: to a real registry, over a connection that breaks, and to servers that take blobs otherwise.

use crate::server::{Request, Response, Server};
use crate::store::Store;
use errors::{HasKind as _, Kind, Report};
use oci::image::{Manifest, media_type};
use oci::{Descriptor, Digest, Platform, Reference};
use registry_client::{
    Auth, Client, Config, Error, Outgoing, PushProgress, Shipment, Source, Timeouts, pull, push,
};
use serde_json::json;
use std::collections::HashMap;
use std::io::{Cursor, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use testkit::registry::{PASSWORD, Registry, USER};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Blobs in memory, and what was heard.
#[derive(Default)]
struct Memory {
    blobs: HashMap<Digest, Vec<u8>>,
    events: Mutex<Vec<PushProgress>>,
    opened: AtomicUsize,
}

impl Source for Memory {
    fn open(&self, digest: &Digest, offset: u64) -> Result<Box<dyn Read + Send>, Report> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        let blob = self.blobs.get(digest).ok_or_else(|| Report::new(Kind::NotFound, "no such blob"))?;
        Ok(Box::new(Cursor::new(blob[usize::try_from(offset).unwrap()..].to_vec())))
    }

    fn progress(&self, event: PushProgress) {
        self.events.lock().unwrap().push(event);
    }
}

impl Memory {
    fn heard(&self, what: impl Fn(&PushProgress) -> bool) -> usize {
        self.events.lock().unwrap().iter().filter(|event| what(event)).count()
    }
}

/// An image of `layers`, to be pushed.
fn image(layers: &[Vec<u8>]) -> (Arc<Memory>, Shipment) {
    let mut memory = Memory::default();
    let mut add = |kind: &str, bytes: &[u8]| {
        memory.blobs.insert(Digest::of(bytes), bytes.to_vec());
        Descriptor::new(kind, Digest::of(bytes), bytes.len() as u64)
    };
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
    let config =
        json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type::OCI_MANIFEST.into()),
        artifact_type: None,
        config: add(media_type::OCI_CONFIG, config.to_string().as_bytes()),
        layers: layers.iter().map(|layer| add(media_type::OCI_LAYER, layer)).collect(),
        annotations: Default::default(),
    };
    // Bytes that nobody would write again the same way.
    let bytes = serde_json::to_string_pretty(&manifest).unwrap() + "\n \n";
    let target = Descriptor::new(media_type::OCI_MANIFEST, Digest::of(bytes.as_bytes()), bytes.len() as u64);
    let outgoing = |descriptor: &Descriptor, visible| Outgoing {
        descriptor: descriptor.clone(),
        visible,
        sources: Vec::new(),
    };
    let mut blobs: Vec<Outgoing> = manifest.layers.iter().map(|layer| outgoing(layer, true)).collect();
    blobs.push(outgoing(&manifest.config, false));
    (Arc::new(memory), Shipment { blobs, documents: vec![(target, bytes.into_bytes().into())] })
}

fn client() -> Client {
    let timeouts = Timeouts { backoff: Duration::from_millis(5), ..Timeouts::default() };
    Client::new(Config { timeouts, max_retries: 3, ..Config::default() }).unwrap()
}

fn at(address: &str, rest: &str) -> Reference {
    format!("{address}/{rest}").parse().unwrap()
}

fn noise(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    let step = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..length).map(step).collect()
}

/// Pulls `reference` and compares it with what was pushed.
async fn check_there(reference: &Reference, auth: &Auth, memory: &Memory, shipment: &Shipment) {
    let store = Store::default();
    let pulled = pull(&client(), reference, &Platform::host(), auth, store.sink()).await.unwrap();
    let (target, bytes) = &shipment.documents[0];
    assert_eq!(pulled.target.digest, target.digest);
    assert_eq!(store.blob(&target.digest).unwrap(), bytes.to_vec());
    for (digest, bytes) in &memory.blobs {
        assert_eq!(store.blob(digest).as_ref(), Some(bytes));
    }
}

#[tokio::test]
async fn what_is_pushed_is_pulled_and_only_what_is_missing_is_sent() {
    let registry = Registry::start();
    let layers = [noise(3_000_000, 1), noise(10, 2), noise(700_000, 3)];
    let (memory, shipment) = image(&layers);
    let reference = at(&registry.address, "a/b:1");
    push(&client(), &reference, &Auth::Anonymous, &shipment, memory.clone()).await.unwrap();
    check_there(&reference, &Auth::Anonymous, &memory, &shipment).await;
    assert_eq!(memory.heard(|e| matches!(e, PushProgress::Queued { .. })), 3);
    assert_eq!(memory.heard(|e| matches!(e, PushProgress::Pushed { .. })), 3);
    let (digest, total) = (Digest::of(&layers[0]), 3_000_000);
    assert!(
        memory.heard(|e| *e == PushProgress::Pushing { digest, current: total, total }) >= 1,
        "the bar reaches its end"
    );

    // Again under another tag: nothing is read.
    let opened = memory.opened.load(Ordering::SeqCst);
    let other = at(&registry.address, "a/b:2");
    push(&client(), &other, &Auth::Anonymous, &shipment, memory.clone()).await.unwrap();
    assert_eq!(memory.opened.load(Ordering::SeqCst), opened);
    assert_eq!(memory.heard(|e| matches!(e, PushProgress::Exists { .. })), 3);
    check_there(&other, &Auth::Anonymous, &memory, &shipment).await;

    // To another repository: mounted from the first, but for what that turns out not to have.
    let (memory, mut shipment) = image(&[layers[0].clone(), noise(1000, 9)]);
    for blob in &mut shipment.blobs {
        blob.sources = vec!["no/such".into(), "a/b".into()];
    }
    let third = at(&registry.address, "c:1");
    push(&client(), &third, &Auth::Anonymous, &shipment, memory.clone()).await.unwrap();
    check_there(&third, &Auth::Anonymous, &memory, &shipment).await;
    assert_eq!(
        memory.heard(
            |e| matches!(e, PushProgress::Mounted { digest: d, from } if *d == digest && from == "a/b")
        ),
        0,
        "an unknown first source makes the registry begin an upload"
    );
    let (memory, mut shipment) = image(&[layers[0].clone(), noise(1000, 10)]);
    for blob in &mut shipment.blobs {
        blob.sources = vec!["a/b".into()];
    }
    let fourth = at(&registry.address, "d:1");
    push(&client(), &fourth, &Auth::Anonymous, &shipment, memory.clone()).await.unwrap();
    check_there(&fourth, &Auth::Anonymous, &memory, &shipment).await;
    assert_eq!(memory.heard(|e| matches!(e, PushProgress::Mounted { from, .. } if from == "a/b")), 1);
    assert_eq!(memory.heard(|e| matches!(e, PushProgress::Pushed { .. })), 1);
    assert_eq!(memory.opened.load(Ordering::SeqCst), 2, "the new layer and the config");
}

#[tokio::test]
async fn a_registry_with_passwords() {
    let registry = Registry::start_with_login();
    let (memory, shipment) = image(&[noise(100_000, 1)]);
    let reference = at(&registry.address, "a:1");
    let user = |password: &str| Auth::Basic { username: USER.into(), password: password.into() };
    let try_as = |auth: Auth| {
        let (memory, shipment, reference) = (memory.clone(), shipment.clone(), reference.clone());
        async move { push(&client(), &reference, &auth, &shipment, memory).await }
    };
    let error = try_as(Auth::Anonymous).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthenticated);
    assert!(errors::chain(&error).contains("no basic auth credentials"), "{}", errors::chain(&error));
    let error = try_as(user("wrong")).await.unwrap_err();
    assert!(matches!(error, Error::PushDenied { .. }), "{error:?}");
    assert!(errors::chain(&error).contains("unauthorized"), "{}", errors::chain(&error));
    try_as(user(PASSWORD)).await.unwrap();
    check_there(&reference, &user(PASSWORD), &memory, &shipment).await;
}

/// Passes bytes on to `upstream`, and breaks all connections each time that so many have come from the client.
async fn breaking(upstream: String, breaks: Vec<usize>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (count, breaks) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(breaks)));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&upstream).await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            let back = tokio::spawn(async move {
                // Ends when either side has gone.
                let _gone = tokio::io::copy(&mut from_server, &mut to_client).await;
            });
            let (count, breaks) = (count.clone(), breaks.clone());
            tokio::spawn(async move {
                let mut buffer = vec![0; 16 << 10];
                while let Ok(n @ 1..) = from_client.read(&mut buffer).await {
                    let total = count.fetch_add(n, Ordering::SeqCst) + n;
                    if to_server.write_all(&buffer[..n]).await.is_err() {
                        break;
                    }
                    let mut breaks = breaks.lock().unwrap();
                    if breaks.first().is_some_and(|at| total >= *at) {
                        breaks.remove(0);
                        break;
                    }
                }
                back.abort();
            });
        }
    });
    address
}

#[tokio::test]
async fn uploads_go_on_where_they_broke() {
    let registry = Registry::start();
    let layer = noise(12_000_000, 1);
    let (memory, shipment) = image(std::slice::from_ref(&layer));
    let address = breaking(registry.address.clone(), vec![3_000_000, 7_000_000, 10_000_000]).await;
    push(&client(), &at(&address, "a:1"), &Auth::Anonymous, &shipment, memory.clone()).await.unwrap();
    check_there(&at(&registry.address, "a:1"), &Auth::Anonymous, &memory, &shipment).await;
    assert!(memory.heard(|e| matches!(e, PushProgress::Retrying { .. })) >= 3);
}

/// A registry in memory. Blobs come as `take` says, by the request and what the upload has so far; `None` is the
/// usual answer.
#[derive(Default)]
struct Uploads {
    parts: Mutex<HashMap<String, Vec<u8>>>,
    blobs: Mutex<HashMap<String, Vec<u8>>>,
    manifests: Mutex<HashMap<String, Vec<u8>>>,
    next: AtomicUsize,
}

impl Uploads {
    fn answer(&self, request: &Request) -> Response {
        let path = request.path.split('?').next().unwrap();
        let name = path.rsplit('/').next().unwrap().to_string();
        let mut parts = self.parts.lock().unwrap();
        match (request.method.as_str(), path) {
            ("HEAD", p) if p.contains("/blobs/") => match self.blobs.lock().unwrap().get(&name) {
                Some(blob) => Response::new(200).with("Content-Length", blob.len().to_string()),
                None => Response::new(404),
            },
            ("POST", _) => {
                let id = format!("u{}", self.next.fetch_add(1, Ordering::SeqCst));
                parts.insert(id.clone(), Vec::new());
                // Relative, and with a query of its own.
                Response::new(202).with("Location", format!("/v2/r/blobs/uploads/{id}?state=x"))
            }
            ("GET", _) => match parts.get(&name) {
                Some(part) => Response::new(204)
                    .with("Location", request.path.clone())
                    .with("Range", format!("0-{}", part.len().saturating_sub(1))),
                None => Response::new(404),
            },
            ("PATCH", _) => {
                let part = parts.get_mut(&name).expect("an upload that was begun");
                let start: usize =
                    request.header("content-range").unwrap().split('-').next().unwrap().parse().unwrap();
                if start != part.len() {
                    return Response::new(416);
                }
                part.extend_from_slice(&request.bytes);
                Response::new(202).with("Location", request.path.clone())
            }
            ("PUT", p) if p.contains("/manifests/") => {
                self.manifests.lock().unwrap().insert(name, request.bytes.clone());
                Response::new(201)
            }
            ("PUT", _) => {
                let mut blob = parts.remove(&name).expect("an upload that was begun");
                blob.extend_from_slice(&request.bytes);
                let digest = Digest::of(&blob).to_string();
                if !request.path.contains(&digest.replace(':', "%3A")) {
                    return Response::ok(*br#"{"errors":[{"code":"DIGEST_INVALID","message":"x"}]}"#)
                        .status(400);
                }
                self.blobs.lock().unwrap().insert(digest, blob);
                Response::new(201)
            }
            _ => Response::new(405),
        }
    }
}

/// Pushes one layer of `size` bytes to a registry that sometimes answers otherwise.
async fn try_push(
    size: usize,
    twist: impl Fn(&Request) -> Option<Response> + Send + Sync + 'static,
) -> (Server, Result<(), Error>) {
    let uploads = Arc::new(Uploads::default());
    let shared = uploads.clone();
    let server = Server::start(move |request| twist(request).unwrap_or_else(|| shared.answer(request))).await;
    let layer = noise(size, 1);
    let (memory, shipment) = image(std::slice::from_ref(&layer));
    let result = push(&client(), &server.reference("r:1"), &Auth::Anonymous, &shipment, memory).await;
    if result.is_ok() {
        assert_eq!(uploads.blobs.lock().unwrap().get(&Digest::of(&layer).to_string()), Some(&layer));
        assert_eq!(uploads.manifests.lock().unwrap().get("1").unwrap(), &shipment.documents[0].1.to_vec());
    }
    (server, result)
}

fn of_layer(request: &Request) -> bool {
    request.bytes.len() > 10_000
}

#[tokio::test]
async fn a_registry_that_takes_only_chunks() {
    let (server, result) =
        try_push(20_000_000, |r| (r.bytes.len() > 8 << 20).then(|| Response::new(413))).await;
    result.unwrap();
    let patches: Vec<usize> =
        server.seen().iter().filter(|r| r.method == "PATCH").map(|r| r.bytes.len()).collect();
    assert_eq!(patches, [8 << 20, 8 << 20, 20_000_000 - (16 << 20)]);
    // And one that takes nothing at all.
    let (_server, result) = try_push(20_000_000, |r| of_layer(r).then(|| Response::new(413))).await;
    let error = result.unwrap_err();
    assert!(errors::chain(&error).contains("413"), "{}", errors::chain(&error));
}

#[tokio::test]
async fn a_busy_registry_is_asked_again_and_a_broken_one_not_forever() {
    let count = AtomicUsize::new(0);
    let (_server, result) = try_push(100_000, move |r| {
        (of_layer(r) && count.fetch_add(1, Ordering::SeqCst) < 2).then(|| Response::new(503))
    })
    .await;
    result.unwrap();
    let (server, result) = try_push(100_000, |r| of_layer(r).then(|| Response::new(503))).await;
    assert_eq!(result.unwrap_err().kind(), Kind::Unavailable);
    assert_eq!(server.seen().iter().filter(|r| of_layer(r)).count(), 4, "once and three times again");
    let manifests = server.seen().iter().filter(|r| r.path.contains("/manifests/")).count();
    assert_eq!(manifests, 0, "no manifest without its blobs");
}

#[tokio::test]
async fn a_registry_that_forgets_uploads() {
    let count = AtomicUsize::new(0);
    let (server, result) = try_push(100_000, move |r| {
        (of_layer(r) && count.fetch_add(1, Ordering::SeqCst) == 0).then(|| Response::new(404))
    })
    .await;
    result.unwrap();
    assert_eq!(server.seen().iter().filter(|r| r.method == "POST").count(), 3, "config, layer, layer again");
}

#[tokio::test]
async fn a_registry_that_remembers_half() {
    let uploads = Arc::new(Uploads::default());
    let shared = uploads.clone();
    let server = Server::start(move |request| {
        if request.method == "PUT" && of_layer(request) {
            let id = request.path.split('?').next().unwrap().rsplit('/').next().unwrap();
            shared.parts.lock().unwrap().insert(id.to_string(), request.bytes[..40_000].to_vec());
            return Response::new(502);
        }
        shared.answer(request)
    })
    .await;
    let layer = noise(100_000, 1);
    let (memory, shipment) = image(std::slice::from_ref(&layer));
    push(&client(), &server.reference("r:1"), &Auth::Anonymous, &shipment, memory).await.unwrap();
    let ranges: Vec<String> =
        server.seen().iter().filter_map(|r| r.header("content-range").map(str::to_string)).collect();
    assert_eq!(ranges, ["40000-99999"]);
    assert_eq!(uploads.blobs.lock().unwrap().get(&Digest::of(&layer).to_string()), Some(&layer));
}

#[tokio::test]
async fn answers_that_lie_or_lead_astray() {
    let other = Digest::of(b"other").to_string();
    let told = other.clone();
    let (_server, result) = try_push(100_000, move |r| {
        (r.method == "PUT" && of_layer(r))
            .then(|| Response::new(201).with("Docker-Content-Digest", told.clone()))
    })
    .await;
    let error = result.unwrap_err();
    assert_eq!(error.kind(), Kind::DataLoss);
    assert!(errors::chain(&error).contains(&other));

    for location in ["http://169.254.169.254/x", "http://example.com/upload", "file:///x", ""] {
        let (_server, result) = try_push(100_000, move |r| {
            (r.method == "POST").then(|| Response::new(202).with("Location", location))
        })
        .await;
        let error = result.unwrap_err();
        assert!(
            matches!(error, Error::RedirectRefused { .. } | Error::Malformed { .. }),
            "{location}: {error:?}"
        );
    }

    // In circles, and by a status that would make a POST a GET.
    for (status, location) in [(307, "/v2/r/blobs/uploads/"), (302, "/elsewhere")] {
        let (_server, result) = try_push(100_000, move |r| {
            (r.method == "POST").then(|| Response::new(status).with("Location", location))
        })
        .await;
        let error = result.unwrap_err();
        assert!(matches!(error, Error::RedirectRefused { .. }), "{status}: {error:?}");
    }
}

#[tokio::test]
async fn a_blob_that_the_caller_has_not() {
    let server = Server::start({
        let uploads = Uploads::default();
        move |request| uploads.answer(request)
    })
    .await;
    let (_, shipment) = image(&[noise(100_000, 1)]);
    let empty = Arc::new(Memory::default());
    let error =
        push(&client(), &server.reference("r:1"), &Auth::Anonymous, &shipment, empty).await.unwrap_err();
    assert!(matches!(error, Error::Source { .. }), "{error:?}");
    assert_eq!(error.kind(), Kind::NotFound);
}

#[tokio::test]
async fn tokens_are_asked_for_pushing_and_for_the_source_of_a_mount() {
    let tokens = Server::start(|_| Response::ok(*br#"{"token":"good","expires_in":300}"#)).await;
    let realm = format!("http://{}/token", tokens.address);
    let uploads = Uploads::default();
    let registry = Server::start(move |request| {
        if request.header("authorization") == Some("Bearer good") {
            return uploads.answer(request);
        }
        Response::new(401).with("WWW-Authenticate", format!(r#"Bearer realm="{realm}",service="reg""#))
    })
    .await;
    let (memory, mut shipment) = image(&[noise(100_000, 1)]);
    shipment.blobs[0].sources = vec!["other/one".into()];
    let user = Auth::Basic { username: "u".into(), password: "p".into() };
    push(&client(), &registry.reference("r:1"), &user, &shipment, memory).await.unwrap();
    let seen = tokens.seen();
    let scopes: Vec<&str> = seen.iter().map(|r| r.path.as_str()).collect();
    let own = "scope=repository%3Ar%3Apull%2Cpush";
    assert!(scopes.iter().all(|path| path.contains(own)), "{scopes:?}");
    let both = format!("{own}&scope=repository%3Aother%2Fone%3Apull");
    assert_eq!(scopes.iter().filter(|path| path.contains(&both)).count(), 1, "{scopes:?}");
}
