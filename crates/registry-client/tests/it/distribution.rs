//! Against a real registry.

use crate::store::Store;
use errors::{HasKind as _, Kind};
use oci::image::media_type;
use oci::{Descriptor, Digest, Platform, Reference};
use registry_client::{Auth, Client, Config, Progress, pull};
use serde_json::json;
use testkit::registry::{PASSWORD, Registry, USER};

fn client() -> Client {
    Client::new(Config::default()).unwrap()
}

fn reference(registry: &Registry, rest: &str) -> Reference {
    format!("{}/{rest}", registry.address).parse().unwrap()
}

fn noise(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    let step = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..length).map(step).collect()
}

#[tokio::test]
async fn pulls_an_image() {
    let registry = Registry::start();
    let layers = [noise(3_000_000, 1), noise(10, 2), noise(700_000, 3), noise(10, 2)];
    let pushed = registry.push_image("a/b", "1", &layers, json!({"Cmd": ["sh"]}));
    let store = Store::default();
    let reference = reference(&registry, "a/b:1");
    let pulled =
        pull(&client(), &reference, &Platform::host(), &Auth::Anonymous, store.sink()).await.unwrap();
    assert_eq!(pulled.target.digest, pushed.descriptor.digest);
    assert_eq!(pulled.target, pulled.manifest);
    assert_eq!(pulled.config, Some(pushed.manifest.config.digest));
    assert_eq!(store.blob(&pulled.manifest.digest).unwrap(), pushed.bytes);
    for layer in &layers {
        assert_eq!(&store.blob(&Digest::of(layer)).unwrap(), layer);
    }
    // Two of four layers are the same: fetched once, announced twice.
    assert_eq!(store.ready(), [0, 1, 2, 3]);
    let events = store.events();
    assert_eq!(events[0], Progress::Resolving);
    let count = |matches: fn(&Progress) -> bool| events.iter().filter(|event| matches(event)).count();
    assert_eq!(count(|event| matches!(event, Progress::LayerQueued { .. })), 3);
    assert_eq!(count(|event| matches!(event, Progress::DownloadComplete { .. })), 3);
    let (digest, total) = (Digest::of(&layers[0]), 3_000_000);
    assert!(events.contains(&Progress::Downloading { digest, current: total, total }));

    // Again: nothing is fetched, everything is announced.
    let again = Store::default();
    for bytes in layers.iter().chain([&pushed.bytes]) {
        again.put(bytes);
    }
    again.put(&store.blob(&pulled.config.unwrap()).unwrap());
    pull(&client(), &reference, &Platform::host(), &Auth::Anonymous, again.sink()).await.unwrap();
    assert_eq!(again.ready(), [0, 1, 2, 3]);
    let exists = |event: &&Progress| matches!(event, Progress::AlreadyExists { .. });
    assert_eq!((again.events().iter().filter(exists).count(), again.events().len()), (3, 4));
}

#[tokio::test]
async fn chooses_from_an_index_and_says_what_there_is() {
    let registry = Registry::start();
    let push = |platform: &str, text: &str| {
        let platform = platform.parse().unwrap();
        registry.push_image_for(&platform, "multi", text, &[text.as_bytes().to_vec()], json!({}))
    };
    let (amd64, arm64) = (push("linux/amd64", "one"), push("linux/arm64/v8", "two"));
    let index = registry.push_index("multi", "all", &[arm64.descriptor.clone(), amd64.descriptor.clone()]);
    let reference = reference(&registry, "multi:all");
    for (platform, expected) in [("linux/amd64", &amd64), ("linux/arm64", &arm64)] {
        let store = Store::default();
        let platform = platform.parse().unwrap();
        let pulled = pull(&client(), &reference, &platform, &Auth::Anonymous, store.sink()).await.unwrap();
        assert_eq!(pulled.target, index);
        assert_eq!(pulled.manifest, expected.descriptor);
        assert_eq!(store.len(), 4);
    }
    let platform = "linux/s390x".parse().unwrap();
    let error =
        pull(&client(), &reference, &platform, &Auth::Anonymous, Store::default().sink()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert_eq!(
        errors::chain(&error),
        "no matching manifest for linux/s390x in the manifest list entries: there is linux/arm64/v8, linux/amd64"
    );
}

#[tokio::test]
async fn resolves_tags_and_digests() {
    let registry = Registry::start();
    let pushed = registry.push_image("r", "latest", &[b"x".to_vec()], json!({}));
    let (client, anonymous) = (client(), Auth::Anonymous);
    let plain = Descriptor { platform: None, ..pushed.descriptor.clone() };
    for rest in ["r".to_string(), "r:latest".to_string(), format!("r:gone@{}", plain.digest)] {
        let reference = reference(&registry, &rest);
        let (descriptor, bytes) = client.resolve(&reference, &anonymous).await.unwrap();
        assert_eq!((&descriptor, bytes.as_ref()), (&plain, pushed.bytes.as_slice()), "{rest}");
        assert_eq!(client.head(&reference, &anonymous).await.unwrap(), plain, "{rest}");
    }
    let layer = &pushed.manifest.layers[0];
    let mut stream = client.blob(&reference(&registry, "r"), layer, 0, &anonymous).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap().as_ref(), b"x");
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn says_what_is_missing_in_dockers_words() {
    let registry = Registry::start();
    registry.push_image("r", "1", &[b"x".to_vec()], json!({}));
    let (client, anonymous) = (client(), Auth::Anonymous);
    let host = &registry.address;
    for rest in ["r:nope", "never/seen:1"] {
        for error in [
            client.resolve(&reference(&registry, rest), &anonymous).await.unwrap_err(),
            client.head(&reference(&registry, rest), &anonymous).await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), Kind::NotFound);
            let expected =
                format!("manifest for {host}/{rest} not found: manifest unknown: manifest unknown");
            assert_eq!(errors::chain(&error), expected);
        }
    }
    let missing = Descriptor::new(media_type::OCI_LAYER, Digest::of(b"?"), 1);
    let error = client.blob(&reference(&registry, "r"), &missing, 0, &anonymous).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(errors::chain(&error).ends_with("not found: blob unknown: blob unknown to registry"), "{error}");
}

#[tokio::test]
async fn resumes_a_blob_at_an_offset() {
    let registry = Registry::start();
    let bytes = noise(100_000, 7);
    let layer = registry.push_blob("r", media_type::OCI_LAYER, &bytes);
    let mut stream =
        client().blob(&reference(&registry, "r"), &layer, 60_000, &Auth::Anonymous).await.unwrap();
    assert!(stream.resumed());
    let mut got = Vec::new();
    while let Some(piece) = stream.next().await {
        got.extend_from_slice(&piece.unwrap());
    }
    assert_eq!(got, &bytes[60_000..]);
}

#[tokio::test]
async fn logs_in() {
    let registry = Registry::start_with_login();
    registry.push_image("r", "1", &[b"x".to_vec()], json!({}));
    let client = client();
    let user = |password: &str| Auth::Basic { username: USER.into(), password: password.into() };
    let (good, bad) = (user(PASSWORD), user("wrong"));
    let reference = reference(&registry, "r:1");

    assert_eq!(client.check_login(&registry.address, &good).await.unwrap().identity_token, None);
    let error = client.check_login(&registry.address, &bad).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthenticated);
    assert!(
        errors::chain(&error).contains("unauthorized: authentication required"),
        "{}",
        errors::chain(&error)
    );
    let error = client.check_login(&registry.address, &Auth::Anonymous).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthenticated);

    let store = Store::default();
    pull(&client, &reference, &Platform::host(), &good, store.sink()).await.unwrap();
    assert_eq!(store.len(), 3);
    let error = client.resolve(&reference, &Auth::Anonymous).await.unwrap_err();
    assert!(errors::chain(&error).ends_with("no basic auth credentials"), "{error}");
    let error = client.resolve(&reference, &bad).await.unwrap_err();
    let expected = format!("pull access denied for {}/r, repository does not exist", registry.address);
    assert!(errors::chain(&error).starts_with(&expected), "{error}");
    assert_eq!(error.kind(), Kind::Denied);
}

#[tokio::test]
async fn a_host_that_is_not_there_is_named() {
    // Bound and closed: nobody listens there.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let reference: Reference = format!("{address}/r").parse().unwrap();
    let error = client().resolve(&reference, &Auth::Anonymous).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    let chain = errors::chain(&error);
    assert!(chain.contains(&address.to_string()) && chain.contains("Connection refused"), "{chain}");
}

/// A chart: nothing of it is announced as a layer, and all of it is there.
#[tokio::test]
async fn pulls_what_is_no_image() {
    let registry = Registry::start();
    let config = registry.push_blob("chart", "application/vnd.cncf.helm.config.v1+json", b"{\"name\":\"x\"}");
    let content =
        registry.push_blob("chart", "application/vnd.cncf.helm.chart.content.v1.tar+gzip", &noise(10_000, 7));
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": [content, content]});
    let bytes = serde_json::to_vec(&manifest).unwrap();
    registry.push_manifest("chart", "1", oci::image::media_type::OCI_MANIFEST, &bytes);
    let store = Store::default();
    let reference = reference(&registry, "chart:1");
    let pulled =
        pull(&client(), &reference, &Platform::host(), &Auth::Anonymous, store.sink()).await.unwrap();
    assert_eq!((&pulled.target, pulled.config), (&pulled.manifest, Some(config.digest)));
    for digest in [config.digest, content.digest, Digest::of(&bytes)] {
        assert!(store.blob(&digest).is_some());
    }
    assert!(store.ready().is_empty());
    assert_eq!(client().tags(&reference, &Auth::Anonymous).await.unwrap(), ["1"]);
}
