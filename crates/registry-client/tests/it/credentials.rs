//! Who gets to see credentials (T-CRED-1): redirects, realms, `urls`, mirrors, loops. CVE-2020-15157,
//! CVE-2019-10214, CVE-2026-33540.

use crate::server::{Image, Response, Server};
use crate::store::Store;
use errors::{HasKind as _, Kind};
use oci::{Platform, Reference};
use registry_client::{Auth, Client, Config, Error, pull};

fn client() -> Client {
    Client::new(Config { max_retries: 0, ..Config::default() }).unwrap()
}

fn user() -> Auth {
    Auth::Basic { username: "u".into(), password: "s3cret".into() }
}

async fn pull_with(client: &Client, reference: &Reference, auth: &Auth) -> Result<Store, Error> {
    let (store, platform) = (Store::default(), Platform::host());
    pull(client, reference, &platform, auth, store.sink()).await.map(|_| store)
}

fn unauthorized(challenge: impl Into<String>) -> Response {
    let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
    Response::ok(body).status(401).with("WWW-Authenticate", challenge)
}

/// A registry that wants `Bearer good` from the realm given.
async fn guarded(image: Image, realm: String) -> Server {
    Server::start(move |request| {
        if request.header("authorization") == Some("Bearer good") {
            return if request.path == "/v2/" { Response::new(200) } else { image.answer(request) };
        }
        unauthorized(format!(r#"Bearer realm="{realm}",service="reg",scope="repository:other:push""#))
    })
    .await
}

#[tokio::test]
async fn bearer_tokens_are_fetched_once_and_kept() {
    let tokens = Server::start(|_| Response::ok(*br#"{"token":"good","expires_in":300}"#)).await;
    let registry = guarded(Image::new(&[b"a", b"b"]), format!("http://{}/token", tokens.address)).await;
    pull_with(&client(), &registry.reference("a/b:1"), &user()).await.unwrap();
    let seen = tokens.seen();
    assert_eq!(seen.len(), 1);
    // The scope is ours, whatever the registry asks for.
    assert_eq!(seen[0].path, "/token?service=reg&scope=repository%3Aa%2Fb%3Apull&account=u");
    assert_eq!(seen[0].header("authorization"), Some("Basic dTpzM2NyZXQ="));
    for request in registry.seen() {
        assert_ne!(
            request.header("authorization"),
            seen[0].header("authorization"),
            "no password to a Bearer registry"
        );
    }
}

#[tokio::test]
async fn anonymous_and_identity_tokens() {
    let tokens = Server::start(|_| Response::ok(*br#"{"access_token":"good","refresh_token":"next"}"#)).await;
    let registry = guarded(Image::new(&[]), format!("http://{}/token", tokens.address)).await;
    let reference = registry.reference("r");
    pull_with(&client(), &reference, &Auth::Anonymous).await.unwrap();
    pull_with(&client(), &reference, &Auth::IdentityToken("old".into())).await.unwrap();
    pull_with(&client(), &reference, &Auth::RegistryToken("good".into())).await.unwrap();
    let seen = tokens.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!((seen[0].method.as_str(), seen[0].header("authorization")), ("GET", None));
    assert_eq!((seen[1].method.as_str(), seen[1].path.as_str()), ("POST", "/token"));
    assert!(
        seen[1].body.contains("refresh_token=old") && seen[1].body.contains("service=reg"),
        "{}",
        seen[1].body
    );

    let status = client().check_login(&registry.address, &user()).await.unwrap();
    assert_eq!(status.identity_token.as_deref(), Some("next"));
    assert!(tokens.seen()[2].path.contains("offline_token=true"));
}

#[tokio::test]
async fn refused_credentials_are_told_apart_from_missing_repositories() {
    let tokens = Server::start(|request| match request.header("authorization") {
        Some(_) => Response::ok(*br#"{"details":"incorrect username or password"}"#).status(401),
        None => Response::ok(*br#"{"errors":[{"code":"DENIED","message":"denied"}]}"#).status(403),
    })
    .await;
    let registry = guarded(Image::new(&[]), format!("http://{}/token", tokens.address)).await;
    let reference = registry.reference("r:1");
    let error = client().resolve(&reference, &user()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthenticated);
    let expected = format!("login to {}: unauthorized: incorrect username or password", registry.address);
    assert_eq!(errors::chain(&error), expected);
    let error = client().resolve(&reference, &Auth::Anonymous).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    let expected = format!(
        "pull access denied for {}/r, repository does not exist or may require 'docker login': denied: denied",
        registry.address
    );
    assert_eq!(errors::chain(&error), expected);
    let error = client().check_login(&registry.address, &user()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthenticated);
}

#[tokio::test]
async fn realms_that_would_leak_are_refused() {
    for realm in [
        "http://auth.example/token",
        "http://10.0.0.1/token",
        "https://user:pw@auth.example/token",
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "https://127.1/token",
        "/token",
        "",
    ] {
        let registry = guarded(Image::new(&[]), realm.to_string()).await;
        for auth in [user(), Auth::Anonymous, Auth::IdentityToken("s3cret".into())] {
            let error = client().resolve(&registry.reference("r"), &auth).await.unwrap_err();
            assert!(matches!(error, Error::ChallengeRefused { .. }), "{realm}: {error}");
            assert_eq!(error.kind(), Kind::Hostile);
        }
        assert!(registry.seen().iter().all(|request| request.header("authorization").is_none()));
    }
}

#[tokio::test]
async fn token_servers_cannot_redirect() {
    let thief = Server::start(|_| Response::ok(*br#"{"token":"good"}"#)).await;
    let location = format!("http://{}/", thief.address);
    let tokens = Server::start(move |_| Response::new(307).with("Location", location.clone())).await;
    let registry = guarded(Image::new(&[]), format!("http://{}/token", tokens.address)).await;
    let error = client().resolve(&registry.reference("r"), &user()).await.unwrap_err();
    assert!(matches!(error, Error::ChallengeRefused { .. }), "{error}");
    assert!(thief.seen().is_empty());
}

#[tokio::test]
async fn endless_challenges_end() {
    let tokens = Server::start(|_| Response::ok(*br#"{"token":"never good"}"#)).await;
    let registry = guarded(Image::new(&[]), format!("http://{}/token", tokens.address)).await;
    let error = client().resolve(&registry.reference("r"), &user()).await.unwrap_err();
    assert!(matches!(error, Error::AccessDenied { .. }), "{error}");
    assert_eq!((registry.count("manifests"), tokens.seen().len()), (2, 1));
    let registry = Server::start(|_| unauthorized("Negotiate")).await;
    let error = client().resolve(&registry.reference("r"), &user()).await.unwrap_err();
    assert!(matches!(error, Error::ChallengeRefused { .. }), "{error}");
    assert!(registry.seen()[0].header("authorization").is_none());
}

#[tokio::test]
async fn redirects_to_another_host_carry_no_credentials() {
    let layer = vec![3; 5000];
    let image = Image::new(&[&layer]);
    let cdn = Server::start(move |request| Response::range(request, &layer)).await;
    let (path, target) = (image.layer_path(0), format!("http://{}/signed?key=1", cdn.address));
    let registry = Server::start(move |request| {
        if request.header("authorization").is_none() {
            return unauthorized("Basic realm=x");
        }
        // First within the host, where credentials stay, then out.
        match &request.path {
            p if p.contains("hop") => Response::new(307).with("Location", target.clone()),
            p if p.contains(&path) => Response::new(302).with("Location", "/hop"),
            _ => image.answer(request),
        }
    })
    .await;
    let store = pull_with(&client(), &registry.reference("r"), &user()).await.unwrap();
    assert_eq!(store.len(), 3);
    assert_eq!(cdn.seen().len(), 1);
    assert_eq!(cdn.seen()[0].path, "/signed?key=1");
    assert_eq!(cdn.seen()[0].header("authorization"), None);
    assert_eq!(registry.count("hop"), 1);
}

#[tokio::test]
async fn a_redirect_target_cannot_ask_for_credentials() {
    let thief = Server::start(|_| unauthorized("Basic realm=x")).await;
    let location = format!("http://{}/", thief.address);
    let registry = Server::start(move |_| Response::new(302).with("Location", location.clone())).await;
    let error = client().resolve(&registry.reference("r"), &user()).await.unwrap_err();
    assert!(matches!(error, Error::AccessDenied { .. }), "{error}");
    assert_eq!(thief.seen().len(), 1);
    assert_eq!(thief.seen()[0].header("authorization"), None);
}

#[tokio::test]
async fn redirects_that_go_nowhere_good_are_refused() {
    for location in ["http://cdn.example/x", "file:///etc/passwd", "http://10.0.0.1/", "", "/same"] {
        let registry = Server::start(move |_| Response::new(302).with("Location", location)).await;
        let error = client().resolve(&registry.reference("r"), &user()).await.unwrap_err();
        assert!(matches!(error, Error::RedirectRefused { .. }), "{location}: {error}");
        assert!(registry.seen().len() <= 11);
    }
}

#[tokio::test]
async fn urls_of_descriptors_are_ignored() {
    let thief = Server::start(|_| Response::ok(*b"x")).await;
    let mut image = Image::new(&[b"x"]);
    image.manifest.layers[0].urls = vec![format!("http://{}/x", thief.address)];
    image.manifest.layers[0].media_type = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip".into();
    let image = Image::of(image.manifest, image.config, Vec::new());
    let registry = Server::start(move |request| match request.header("authorization") {
        None => unauthorized("Basic realm=x"),
        Some(_) => image.answer(request),
    })
    .await;
    let error = pull_with(&client(), &registry.reference("r"), &user()).await.unwrap_err();
    assert!(matches!(error, Error::BlobUnknown { .. }), "{error}");
    assert!(thief.seen().is_empty());
}

#[tokio::test]
async fn mirrors_are_asked_first_and_without_credentials() {
    let image = Image::new(&[b"x"]);
    let dead = Server::start(|_| Response::new(404)).await;
    let inner = image.clone();
    let mirror = Server::start(move |request| {
        let mut request = request.clone();
        match request.path.strip_prefix("/hub") {
            Some(path) => request.path = path.to_string(),
            None => return Response::new(404),
        }
        inner.answer(&request)
    })
    .await;
    let refuses = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mirrors = vec![
        format!("http://{refuses}"),
        format!("http://{}", dead.address),
        format!("http://{}/hub/", mirror.address),
    ];
    let client = Client::new(Config { mirrors, max_retries: 0, ..Config::default() }).unwrap();
    pull_with(&client, &"busybox:1".parse().unwrap(), &user()).await.unwrap();
    assert_eq!(mirror.seen()[0].path, "/hub/v2/library/busybox/manifests/1");
    assert!(dead.count("manifests") > 0);
    for request in mirror.seen().iter().chain(&dead.seen()) {
        assert_eq!(request.header("authorization"), None);
    }
}

#[tokio::test]
async fn the_tags_that_a_mirror_tells_are_those_of_the_registry() {
    let silent = Server::start(|_| Response::ok(r#"{"name":"library/busybox","tags":null}"#)).await;
    let mirror = Server::start(|request| match request.path.split('?').next() {
        Some("/v2/library/busybox/tags/list") => Response::ok(r#"{"tags":["1","2"]}"#),
        _ => Response::new(404),
    })
    .await;
    let mirrors = vec![format!("http://{}", silent.address), format!("http://{}", mirror.address)];
    let client = Client::new(Config { mirrors, max_retries: 0, ..Config::default() }).unwrap();
    let tags = client.tags(&"busybox".parse().unwrap(), &user()).await.unwrap();
    assert_eq!(tags, ["1", "2"]);
    assert_eq!(silent.count("/tags/list"), 1);
    for request in mirror.seen().iter().chain(&silent.seen()) {
        assert_eq!(request.header("authorization"), None, "credentials are the registry's");
    }
}
