//! Against a registry that breaks and cheats.

use crate::server::{Image, Request, Response, Server};
use crate::store::Store;
use errors::{HasKind as _, Kind};
use oci::image::{Index, Manifest, media_type};
use oci::{Descriptor, Digest, Platform};
use registry_client::{Auth, Client, Config, Error, Progress, Pulled, Timeouts, pull};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const BIG: usize = 3_000_000;

fn client() -> Client {
    let timeouts = Timeouts {
        idle: Duration::from_millis(500),
        backoff: Duration::from_millis(10),
        ..Timeouts::default()
    };
    Client::new(Config { timeouts, max_retries: 3, ..Config::default() }).unwrap()
}

async fn try_pull(server: &Server, store: &Store) -> Result<Pulled, Error> {
    let platform: Platform = "linux/amd64".parse().unwrap();
    pull(&client(), &server.reference("r:1"), &platform, &Auth::Anonymous, store.sink()).await
}

/// Serves `image`, but what `twist` answers instead.
async fn twisted(
    image: &Image,
    twist: impl Fn(&Request) -> Option<Response> + Send + Sync + 'static,
) -> Server {
    let image = image.clone();
    Server::start(move |request| twist(request).unwrap_or_else(|| image.answer(request))).await
}

/// Pulls and expects a failure of `kind` with these `words`, and nothing left open.
async fn check_failure(server: &Server, kind: Kind, words: &[&str]) -> Store {
    let store = Store::default();
    let error = try_pull(server, &store).await.unwrap_err();
    let chain = errors::chain(&error);
    assert_eq!(error.kind(), kind, "{chain}");
    for word in words {
        assert!(chain.contains(word), "{word:?} in {chain:?}");
    }
    assert_eq!(store.open(), 0);
    assert!(store.ready().is_empty());
    store
}

fn counter() -> (Arc<AtomicUsize>, Arc<AtomicUsize>) {
    let counter = Arc::new(AtomicUsize::new(0));
    (Arc::clone(&counter), counter)
}

#[tokio::test]
async fn a_layer_with_another_digest() {
    let image = Image::new(&[b"good"]);
    let path = image.layer_path(0);
    let server = twisted(&image, move |r| r.path.contains(&path).then(|| Response::ok(*b"evil"))).await;
    let (good, evil) = (Digest::of(b"good").to_string(), Digest::of(b"evil").to_string());
    let store = check_failure(&server, Kind::DataLoss, &[&good, &evil]).await;
    // And perhaps the config, which may have been on its way when the layer failed.
    assert!(matches!(store.discarded(), 1 | 2));
    assert!(store.blob(&Digest::of(b"evil")).is_none());
}

#[tokio::test]
async fn a_config_with_another_digest() {
    let image = Image::new(&[]);
    let path = format!("/blobs/{}", image.manifest.config.digest);
    let size = image.config.len();
    let server =
        twisted(&image, move |r| r.path.contains(&path).then(|| Response::ok(vec![b' '; size]))).await;
    check_failure(&server, Kind::DataLoss, &["expected digest", "config"]).await;
}

#[tokio::test]
async fn a_manifest_with_another_digest() {
    let image = Image::new(&[]);
    let other = Digest::of(b"other");
    // By the registry's own header.
    let served = image.served().with("Docker-Content-Digest", other.to_string());
    let server = twisted(&image, move |r| r.path.contains("manifests").then(|| served.clone())).await;
    check_failure(
        &server,
        Kind::DataLoss,
        &["expected digest", &other.to_string(), &image.digest().to_string()],
    )
    .await;
    // By the reference.
    let server = twisted(&image, |_| None).await;
    let pinned = server.reference(&format!("r@{other}"));
    let error = client().resolve(&pinned, &Auth::Anonymous).await.unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { expected, .. } if expected == other), "{error}");
    // By the descriptor's size.
    let wrong = Descriptor::new(media_type::OCI_MANIFEST, image.digest(), 7);
    let error = client().manifest(&pinned, &wrong, &Auth::Anonymous).await.unwrap_err();
    assert!(matches!(error, Error::SizeMismatch { expected: 7, .. }), "{error}");
}

#[tokio::test]
async fn a_layer_shorter_or_longer_than_promised() {
    let image = Image::new(&[&[7; 1000]]);
    for no_length in [false, true] {
        for (length, came) in [(10, "10"), (2000, if no_length { "more than 1000" } else { "2000" })] {
            let path = image.layer_path(0);
            let response = Response { no_length, ..Response::ok(vec![7; length]) };
            let server = twisted(&image, move |r| r.path.contains(&path).then(|| response.clone())).await;
            let expected = format!("expected 1000 bytes, but received {came}");
            check_failure(&server, Kind::DataLoss, &[&expected]).await;
        }
    }
}

#[tokio::test]
async fn server_errors_pass() {
    let image = Image::new(&[b"x"]);
    let (seen, count) = counter();
    let server = twisted(&image, move |_| {
        let turn = seen.fetch_add(1, Ordering::SeqCst);
        // Every other request fails.
        (turn % 2 == 0).then(|| Response::new([500, 502, 503, 504][turn / 2 % 4]))
    })
    .await;
    try_pull(&server, &Store::default()).await.unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 6);
}

#[tokio::test]
async fn server_errors_that_do_not_pass_are_told() {
    let server = Server::start(|_| Response::ok(*b"out of disk\x1b[2J").with("X", "y").status(503)).await;
    check_failure(&server, Kind::Unavailable, &["503", "out of disk"]).await;
    assert_eq!(server.count("manifests"), 4);
    let huge = format!(r#"{{"errors":[{{"code":"X","message":"{}"}}]}}"#, "y".repeat(1 << 20));
    let server = Server::start(move |_| Response::ok(huge.clone()).status(400)).await;
    check_failure(&server, Kind::Internal, &["400"]).await;
    assert_eq!(server.count("manifests"), 1);
}

#[tokio::test]
async fn busy_registries_get_the_time_they_ask_for() {
    let image = Image::new(&[]);
    let (seen, _) = counter();
    let server = twisted(&image, move |_| {
        let first = seen.fetch_add(1, Ordering::SeqCst) == 0;
        first.then(|| Response::new(429).with("Retry-After", "1"))
    })
    .await;
    let start = Instant::now();
    try_pull(&server, &Store::default()).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));
    let body = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#;
    let server = Server::start(move |_| Response::ok(body).status(429)).await;
    check_failure(&server, Kind::Unavailable, &["toomanyrequests: slow down"]).await;
}

#[tokio::test]
async fn broken_downloads_are_resumed() {
    let layer: Vec<u8> = (0..BIG).map(|n| n.to_le_bytes()[n % 3]).collect();
    let image = Image::new(&[&layer]);
    for honours_range in [true, false] {
        let (path, body) = (image.layer_path(0), layer.clone());
        let server = twisted(&image, move |r| {
            r.path.contains(&path).then(|| {
                let whole =
                    if honours_range { Response::range(r, &body) } else { Response::ok(body.clone()) };
                let cut = match r.offset() {
                    None => Some(1_000_000),
                    Some(offset) if offset < 1_500_000 => {
                        Some(if honours_range { 700_000 } else { 1_700_000 })
                    }
                    Some(_) => None,
                };
                Response { cut, ..whole }
            })
        })
        .await;
        let store = Store::default();
        try_pull(&server, &store).await.unwrap();
        assert_eq!(store.blob(&Digest::of(&layer)).unwrap(), layer);
        let offsets: Vec<_> =
            server.seen().iter().filter(|r| r.path.contains("blobs")).filter_map(Request::offset).collect();
        assert_eq!(offsets, [1_000_000, 1_700_000]);
        let retries = store.events().iter().filter(|e| matches!(e, Progress::Retrying { .. })).count();
        assert_eq!(retries, 2);
    }
}

#[tokio::test]
async fn ranges_that_start_elsewhere_are_refused() {
    let image = Image::new(&[&[1; 1000]]);
    let path = image.layer_path(0);
    let server = twisted(&image, move |r| {
        r.path.contains(&path).then(|| match r.offset() {
            None => Response { cut: Some(500), ..Response::ok(vec![1; 1000]) },
            Some(_) => Response::ok(vec![1; 600]).status(206).with("Content-Range", "bytes 400-999/1000"),
        })
    })
    .await;
    check_failure(&server, Kind::DataLoss, &["from 500 on", "from 400 on"]).await;
}

#[tokio::test]
async fn silence_ends_a_pull() {
    let image = Image::new(&[&[1; 1000]]);
    let path = image.layer_path(0);
    let stall = Response { stall: Some(0), ..Response::ok(vec![1; 1000]) };
    let server = twisted(&image, move |r| r.path.contains(&path).then(|| stall.clone())).await;
    check_failure(&server, Kind::Unavailable, &["no answer within 500ms"]).await;
}

#[tokio::test]
async fn documents_that_are_none() {
    let check = async |kind: &str, body: &[u8], expected: Kind, words: &[&str]| {
        let served = Response::ok(body).with("Content-Type", kind);
        let server = Server::start(move |_| served.clone()).await;
        check_failure(&server, expected, words).await;
    };
    let oci = media_type::OCI_MANIFEST;
    check(oci, b"{", Kind::DataLoss, &["not a manifest"]).await;
    check(oci, b"<html>", Kind::DataLoss, &["not a manifest"]).await;
    check(
        oci,
        br#"{"layers":[],"manifests":[],"config":{}}"#,
        Kind::DataLoss,
        &["both an index and a manifest"],
    )
    .await;
    check(oci, br#"{"layers":[{"digest":"sha256:../../x"}],"config":{}}"#, Kind::DataLoss, &["manifest"])
        .await;
    check(oci, &vec![b' '; 5 << 20], Kind::Unsupported, &["larger than 4194304 bytes"]).await;
    let schema1 = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    check(schema1, br#"{"schemaVersion":1}"#, Kind::Unsupported, &["schema 1, which is not supported"]).await;
    check(oci, br#"{"mediaType":"application/vnd.x","layers":[]}"#, Kind::DataLoss, &["came as"]).await;
    check(
        "text/plain",
        br#"{"mediaType":"application/vnd.x","layers":[]}"#,
        Kind::Unsupported,
        &["unsupported media type"],
    )
    .await;
    let mut greedy = Image::new(&[]).manifest;
    greedy.config.size = 1 << 40;
    check(oci, &serde_json::to_vec(&greedy).unwrap(), Kind::Unsupported, &["larger than"]).await;
}

#[tokio::test]
async fn endless_manifests_are_cut_off() {
    let endless = Response { no_length: true, ..Response::ok(vec![b' '; 5 << 20]) };
    let server = Server::start(move |_| endless.clone()).await;
    check_failure(&server, Kind::Unsupported, &["larger than"]).await;
}

#[tokio::test]
async fn manifests_that_do_not_fit_their_config() {
    let two = Image::new(&[b"a", b"b"]);
    let mut manifest = two.manifest.clone();
    manifest.layers.pop();
    let image = Image::of(manifest, two.config.clone(), two.layers.clone());
    let server = twisted(&image, |_| None).await;
    let store = Store::default();
    let error = try_pull(&server, &store).await.unwrap_err();
    assert!(errors::chain(&error).contains("lists 2 layers, its manifest 1"), "{error}");
    let manifest = Manifest { layers: vec![two.manifest.layers[0].clone(); 501], ..two.manifest.clone() };
    let server = twisted(&Image::of(manifest, two.config.clone(), two.layers.clone()), |_| None).await;
    check_failure(&server, Kind::DataLoss, &["501 layers"]).await;
    let mut manifest = two.manifest.clone();
    manifest.layers[1] = Descriptor { size: 9, ..manifest.layers[0].clone() };
    let server = twisted(&Image::of(manifest, two.config.clone(), two.layers), |_| None).await;
    check_failure(&server, Kind::DataLoss, &["has 1 and 9 bytes"]).await;
}

#[tokio::test]
async fn indexes_within_indexes_end() {
    let serve = |inner: &[u8]| {
        let entry = Descriptor {
            platform: Some("linux/amd64".parse().unwrap()),
            ..Descriptor::new(media_type::OCI_INDEX, Digest::of(inner), inner.len() as u64)
        };
        let index = Index {
            schema_version: 2,
            media_type: Some(media_type::OCI_INDEX.into()),
            manifests: vec![entry],
            annotations: Default::default(),
        };
        serde_json::to_vec(&index).unwrap()
    };
    let mut all = vec![Image::new(&[]).bytes];
    for _ in 0..9 {
        all.push(serve(all.last().unwrap()));
    }
    let server = Server::start(move |r| {
        let named = all.iter().find(|body| r.path.ends_with(&Digest::of(body).to_string()));
        Response::ok(named.unwrap_or(all.last().unwrap()).clone()).with("Content-Type", media_type::OCI_INDEX)
    })
    .await;
    check_failure(&server, Kind::DataLoss, &["nested deeper"]).await;
}

#[tokio::test]
async fn layers_come_side_by_side() {
    let image = Image::new(&[b"a", b"b", b"c", b"d", b"e"]);
    let paths: Vec<String> = (0..5).map(|index| image.layer_path(index)).collect();
    let delay = Duration::from_millis(300);
    let inner = image.clone();
    let server = twisted(&image, move |r| {
        let slow = paths.iter().any(|path| r.path.contains(path));
        slow.then(|| Response { delay, ..inner.answer(r) })
    })
    .await;
    let store = Store::default();
    try_pull(&server, &store).await.unwrap();
    assert_eq!(server.most_answering(), 3);
    assert_eq!(store.ready(), [0, 1, 2, 3, 4]);
}

#[tokio::test]
async fn registries_on_ipv6() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        println!("skipped: needs IPv6 on loopback");
        return;
    }
    let image = Image::new(&[b"x"]);
    let server = Server::start_at("::1", None, move |request| image.answer(request)).await;
    try_pull(&server, &Store::default()).await.unwrap();
    assert!(server.address.starts_with("[::1]:"));
    assert_eq!(server.seen()[0].header("host"), Some(server.address.as_str()));
}

#[tokio::test]
async fn a_sink_that_fails_ends_the_pull() {
    let layer = vec![1; BIG];
    let server = twisted(&Image::new(&[&layer]), |_| None).await;
    let store = Store::default();
    store.fail_writes();
    let error = try_pull(&server, &store).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Exhausted, "{}", errors::chain(&error));
    assert_eq!((store.open(), store.discarded()), (0, 1));
}

#[tokio::test]
async fn a_dropped_pull_leaves_nothing_behind() {
    let image = Image::new(&[&vec![1; BIG]]);
    let path = image.layer_path(0);
    let stall = Response { stall: Some(1_000_000), ..Response::ok(vec![1; BIG]) };
    let server = twisted(&image, move |r| r.path.contains(&path).then(|| stall.clone())).await;
    let store = Store::default();
    let some = |event: &Progress| matches!(event, Progress::Downloading { .. });
    {
        let pull = try_pull(&server, &store);
        let begun = async {
            while !store.events().iter().any(some) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            result = pull => panic!("{result:?}"),
            () = begun => {}
        }
    }
    while store.open() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The layer, and the config beside it where that was not whole yet.
    assert!((1..=2).contains(&store.discarded()), "{}", store.discarded());
    // The connection's task ends too; what is left is the server's.
    let handle = tokio::runtime::Handle::current();
    let start = Instant::now();
    while handle.metrics().num_alive_tasks() > 2 && start.elapsed() < Duration::from_secs(5) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(handle.metrics().num_alive_tasks() <= 2, "{}", handle.metrics().num_alive_tasks());
}

#[tokio::test]
async fn a_layer_that_drips_ends_the_pull() {
    let image = Image::new(&[&[7; 100_000]]);
    let path = image.layer_path(0);
    let layer = image.layers[0].clone();
    let server = twisted(&image, move |r| {
        let drip = Some(Duration::from_millis(20));
        r.path.contains(&path).then(|| Response { drip, ..Response::range(r, &layer) })
    })
    .await;
    check_failure(&server, Kind::Unavailable, &["no answer within"]).await;
    assert_eq!(server.count("/blobs/") - 1, 4, "once and three times again, and the config");
}

#[tokio::test]
async fn ten_thousand_layers_are_too_many() {
    let mut image = Image::new(&[b"x"]);
    image.manifest.layers = vec![image.manifest.layers[0].clone(); 10_000];
    let image = Image::of(image.manifest, image.config, image.layers);
    let server = twisted(&image, |_| None).await;
    check_failure(&server, Kind::DataLoss, &["10000 layers", "at most 500"]).await;
    assert_eq!(server.count("/blobs/"), 0, "nothing was fetched");
}
