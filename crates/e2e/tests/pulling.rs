//! What pulls cost a registry, and what they keep: counted at the registry.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::Client;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use testkit::daemon::{Daemon, Options};
use testkit::http::{Answer, Served, Server};
use testkit::tar::{self, Entry};
use testkit::{images, raw, wait_until};

/// A layer whose gzip has at least `size` bytes.
fn noise(name: &str, size: usize) -> Vec<u8> {
    let mut state = 7u32;
    let step = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    let bytes: Vec<u8> = (0..size).map(step).collect();
    tar::archive(&[Entry::file(name, 0o644, bytes)])
}

fn busybox(size: usize) -> (Served, Vec<Vec<u8>>) {
    let layers = vec![tar::gzip(images::busybox_layer()), noise("noise", size)];
    (Served::image("1", &layers, &images::busybox_config()), layers)
}

fn digest(layer: &[u8]) -> String {
    oci::Digest::of(layer).to_string()
}

#[test]
fn fifty_pulls_at_once_are_one_download_and_the_next_is_one_round_trip() {
    if !testkit::is_root() {
        return;
    }
    let daemon = Daemon::start(Options::default());
    let (image, layers) = busybox(2_000_000);
    let registry = Server::start(move |request, _| image.answer(request));
    let reference = format!("{}/busybox:1", registry.address);
    let path = format!("/images/create?fromImage={}/busybox&tag=1", registry.address);
    let barrier = Arc::new(Barrier::new(50));
    std::thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| {
                barrier.wait();
                let answer = raw::request(&daemon.socket, "POST", &path, &Value::Null).expect(200);
                assert!(!answer.text().contains("error"), "{}", answer.text());
            });
        }
    });
    for layer in &layers {
        assert_eq!(registry.count("GET", &digest(layer)), 1);
    }
    assert_eq!(registry.count("GET", "/blobs/"), layers.len() + 1, "and the config");
    assert_eq!(Client::Docker.run(&daemon, &["run", "--rm", &reference, "echo", "there"]).success(), "there");

    for client in [Client::Brig, Client::Docker] {
        let before = registry.seen().len();
        let said = client.run(&daemon, &["pull", &reference]).success();
        assert!(said.contains(&format!("Image is up to date for {reference}")), "{said}");
        let asked: Vec<String> =
            registry.seen()[before..].iter().map(|r| format!("{} {}", r.method, r.path)).collect();
        assert_eq!(asked, ["HEAD /v2/busybox/manifests/1"]);
    }
    // A digest names the same thing for ever.
    let before = registry.seen().len();
    let pinned = daemon.get(&format!("/images/{reference}/json"))["RepoDigests"][0].clone();
    Client::Brig.run(&daemon, &["pull", pinned.as_str().unwrap()]).success();
    assert_eq!(registry.seen().len(), before);
    // A second name for it costs its manifest, and is an image's second name.
    let other = format!("{}/other", registry.address);
    Client::Brig.run(&daemon, &["pull", &format!("{other}:1")]).success();
    assert_eq!(registry.count("GET", "/v2/other/blobs/"), 0);
    let image = daemon.get(&format!("/images/{reference}/json"));
    assert_eq!(image["RepoTags"].as_array().unwrap().len(), 2);
    assert!(image["RepoDigests"].as_array().unwrap().iter().any(|d| d.as_str().unwrap().starts_with(&other)));
    daemon.assert_empties();
}

#[test]
fn a_download_goes_on_after_the_daemon_was_killed() {
    if !testkit::is_root() {
        return;
    }
    let mut daemon = Daemon::start(Options::default());
    let (image, layers) = busybox(6_000_000);
    let (big, half) = (digest(&layers[1]), 3_000_000);
    let stall = Arc::new(AtomicBool::new(true));
    let registry = Server::start({
        let (big, stall) = (big.clone(), stall.clone());
        move |request, _| {
            let mut answer = image.answer(request);
            if request.path.contains(&big) && stall.load(Ordering::SeqCst) {
                answer.stall = Some(half);
            }
            answer
        }
    });
    let reference = format!("{}/busybox:1", registry.address);
    let mut pull = daemon.brig_command(&["pull", &reference]);
    let mut pull =
        pull.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let partial = daemon.data_root.join("content/partial").join(big.trim_start_matches("sha256:"));
    // What the socket and the queue hold may be lost, not more.
    wait_until("half of the layer is on disk", || {
        std::fs::metadata(&partial).is_ok_and(|m| m.len() >= 2_000_000)
    });
    daemon.kill9();
    pull.wait().unwrap();
    stall.store(false, Ordering::SeqCst);
    daemon.spawn();
    let there = std::fs::metadata(&partial).unwrap().len();
    Client::Brig.run(&daemon, &["pull", &reference]).success();
    let last = registry.seen().into_iter().rfind(|r| r.path.contains(&big)).unwrap();
    assert_eq!(last.header("range"), Some(format!("bytes={there}-").as_str()));
    assert!(!partial.exists());
    Client::Brig.run(&daemon, &["run", "--rm", &reference, "true"]).success();

    // The same when the client goes away, and when what was left is not what it should be.
    Client::Brig.run(&daemon, &["rmi", &reference]).success();
    stall.store(true, Ordering::SeqCst);
    let mut pull = daemon.brig_command(&["pull", &reference]);
    let mut pull =
        pull.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    wait_until("half of the layer is on disk", || {
        std::fs::metadata(&partial).is_ok_and(|m| m.len() >= 2_000_000)
    });
    pull.kill().unwrap();
    pull.wait().unwrap();
    stall.store(false, Ordering::SeqCst);
    daemon.restart();
    let mut bytes = std::fs::read(&partial).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(&partial, bytes).unwrap();
    let before = registry.count("GET", &big);
    Client::Brig.run(&daemon, &["pull", &reference]).success();
    assert_eq!(registry.count("GET", &big), before + 2, "the rest, and then all of it");
    Client::Brig.run(&daemon, &["run", "--rm", &reference, "true"]).success();
    daemon.assert_empties();
}

#[test]
fn a_registry_that_has_had_enough_is_quoted() {
    if !testkit::is_root() {
        return;
    }
    let daemon = Daemon::start(Options::default());
    let registry = Server::start(|_, _| {
        let body = json!({"errors": [{"code": "TOOMANYREQUESTS", "message": "You have reached your pull rate limit."}]});
        Answer::new(429, body.to_string()).with("Retry-After", "3600")
    });
    for client in [Client::Brig, Client::Docker] {
        let begun = registry.seen().len();
        let said = client.run(&daemon, &["pull", &format!("{}/x", registry.address)]).expect(1).stderr;
        assert!(said.contains("toomanyrequests: You have reached your pull rate limit."), "{said}");
        assert_eq!(registry.seen().len(), begun + 1, "an hour is not waited for");
    }
}
