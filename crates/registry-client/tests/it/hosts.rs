//! `hosts.toml`: mirrors of any registry, asked before it.

use crate::server::{Image, Response, Server};
use crate::store::Store;
use crate::tls::{Authority, HOST};
use oci::Platform;
use registry_client::{Auth, Client, Config, Error, pull};
use std::path::Path;

fn client(certs: &Path) -> Client {
    let certs_dirs = vec![certs.to_path_buf()];
    Client::new(Config { certs_dirs, max_retries: 0, ..Config::default() }).unwrap()
}

fn write(certs: &Path, host: &str, text: &str) {
    std::fs::create_dir_all(certs.join(host)).unwrap();
    std::fs::write(certs.join(host).join("hosts.toml"), text).unwrap();
}

fn user() -> Auth {
    Auth::Basic { username: "u".into(), password: "s3cret".into() }
}

async fn pull_from(server: &Server, certs: &Path) -> Result<Store, Error> {
    let (store, platform) = (Store::default(), "linux/amd64".parse::<Platform>().unwrap());
    pull(&client(certs), &server.reference("a/b:1"), &platform, &user(), store.sink()).await?;
    Ok(store)
}

#[tokio::test]
async fn mirrors_are_asked_in_order_and_the_registry_for_the_rest() {
    let image = Image::new(&[b"one", b"two"]);
    let (only_here, served) = (image.layer_path(1), image.clone());
    let mirror = Server::start(move |request| match request.path.contains(&only_here) {
        true => Response::new(404),
        false => served.answer(request),
    })
    .await;
    let broken = Server::start(|_| Response::new(500)).await;
    let answers = image.clone();
    let registry = Server::start(move |request| {
        if request.header("authorization").is_none() {
            return Response::new(401).with("WWW-Authenticate", "Basic realm=\"x\"");
        }
        answers.answer(request)
    })
    .await;
    let certs = tempfile::tempdir().unwrap();
    write(
        certs.path(),
        &registry.address,
        &format!(
            "[host.\"http://{}\"]\n[host.\"http://{}/cache/v2\"]\noverride_path = true\n\
             [host.\"http://{}/cache/v2\".header]\nx-who = \"me\"\n",
            broken.address, mirror.address, mirror.address
        ),
    );
    pull_from(&registry, certs.path()).await.unwrap();
    assert!(broken.count("/v2/a/b/manifests/1?ns=127.0.0.1") == 1, "the first of the file, once");
    let seen = mirror.seen();
    assert!(seen[0].path.starts_with("/cache/v2/a/b/manifests/1?ns=127.0.0.1"), "{}", seen[0].path);
    assert!(seen.iter().all(|r| r.header("x-who") == Some("me")));
    assert!(seen.iter().all(|r| r.header("authorization").is_none()), "credentials are the registry's");
    let asked: Vec<String> = registry.seen().into_iter().map(|r| r.path).collect();
    assert!(!asked.is_empty() && asked.iter().all(|path| path.contains(&image.layer_path(1))), "{asked:?}");
}

#[tokio::test]
async fn capabilities_and_another_server() {
    let image = Image::new(&[b"one"]);
    let (first, second) = (image.clone(), image.clone());
    let mirror = Server::start(move |request| first.answer(request)).await;
    let upstream = Server::start(move |request| second.answer(request)).await;
    let nobody = Server::start(|_| Response::new(500)).await;
    let certs = tempfile::tempdir().unwrap();
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\ncapabilities = [\"pull\"]\n",
        upstream.address, mirror.address
    );
    // For registries that have no file of their own.
    write(certs.path(), "_default", &text);
    pull_from(&nobody, certs.path()).await.unwrap();
    assert!(nobody.seen().is_empty());
    assert_eq!((upstream.count("/manifests/"), upstream.count("/blobs/")), (1, 0));
    assert_eq!((mirror.count("/manifests/"), mirror.count("/blobs/")), (0, 2));
    write(certs.path(), &nobody.address, "nonsense = 1");
    let error = pull_from(&nobody, certs.path()).await.unwrap_err();
    let chain = errors::chain(&error);
    assert!(chain.contains("hosts.toml") && chain.contains("nonsense"), "{chain}");
}

#[tokio::test]
async fn certificates_of_a_mirror() {
    let (authority, image) = (Authority::new(), Image::new(&[]));
    let served = image.clone();
    let mirror =
        Server::start_at(HOST, Some(authority.acceptor(HOST, false, None)), move |r| served.answer(r)).await;
    let registry = Server::start(|_| Response::new(404)).await;
    let certs = tempfile::tempdir().unwrap();
    let host = format!("[host.\"https://{}\"]\n", mirror.address);
    write(certs.path(), &registry.address, &host);
    pull_from(&registry, certs.path()).await.unwrap_err();
    assert!(mirror.seen().is_empty(), "an unknown authority");
    std::fs::write(certs.path().join(&registry.address).join("mirror.pem"), &authority.pem).unwrap();
    write(certs.path(), &registry.address, &format!("{host}ca = \"mirror.pem\"\n"));
    pull_from(&registry, certs.path()).await.unwrap();
    write(certs.path(), &registry.address, &format!("{host}skip_verify = true\n"));
    pull_from(&registry, certs.path()).await.unwrap();
}
