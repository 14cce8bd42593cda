//! Images to registries, by both clients.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::Client;
use oci::Platform;
use serde_json::{Value, json};
use testkit::daemon::{Daemon, Options};
use testkit::images;
use testkit::registry::{PASSWORD, Registry, USER};

fn digests(daemon: &Daemon, name: &str) -> Vec<String> {
    let image = daemon.get(&format!("/images/{name}/json"));
    let list = image["RepoDigests"].as_array().unwrap().iter();
    list.map(|d| d.as_str().unwrap().to_string()).collect()
}

/// The lines of a progress stream.
fn stream(daemon: &Daemon, path: &str) -> Vec<Value> {
    let answer = daemon.request("POST", path, &Value::Null).expect(200);
    answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn what_was_pulled_goes_back_with_the_same_digest() {
    if !testkit::is_root() {
        return;
    }
    let daemon = Daemon::start(Options::default());
    let (from, to) = (Registry::start(), Registry::start());
    let pushed = images::push_busybox(&from, "busybox", "1");
    let source = from.reference("busybox", "1");
    Client::Brig.run(&daemon, &["pull", &source]).success();
    for client in [Client::Brig, Client::Docker] {
        let name = client.name("team/app");
        let target = to.reference(&name, "v1");
        client.run(&daemon, &["tag", &source, &target]).success();
        let said = client.run(&daemon, &["push", &target]).success();
        assert!(said.contains(&format!("The push refers to repository [{}/{name}]", to.address)), "{said}");
        let last = format!("v1: digest: {} size: {}", pushed.descriptor.digest, pushed.descriptor.size);
        assert!(said.contains(&last), "{said}");
        // Mounted from where the first client had pushed it.
        let expected = if client == Client::Brig { "Pushed" } else { "Mounted from b-team/app" };
        assert!(said.contains(expected), "{said}");
        let again = client.run(&daemon, &["push", &target]).success();
        assert!(again.contains("Layer already exists") && !again.contains("Pushed"), "{again}");
        let digest = format!("{}/{name}@{}", to.address, pushed.descriptor.digest);
        assert!(digests(&daemon, &target).contains(&digest));
        assert_eq!(client.run(&daemon, &["push", "-q", &target]).success(), target, "quiet is only the name");

        // All tags at once, and only those of the repository.
        client.run(&daemon, &["tag", &source, &to.reference(&name, "v2")]).success();
        let all = client.run(&daemon, &["push", "-a", &format!("{}/{name}", to.address)]).success();
        assert!(all.contains("v1: digest: ") && all.contains("v2: digest: "), "{all}");
        client.run(&daemon, &["rmi", &target, &to.reference(&name, "v2")]).success();
        Client::Brig.run(&daemon, &["pull", &to.reference(&name, "v2")]).success();
    }
    daemon.assert_empties();
}

#[test]
fn the_stream_is_dockers() {
    if !testkit::is_root() {
        return;
    }
    let daemon = Daemon::start(Options::default());
    let registry = Registry::start();
    let target = registry.reference("x", "1");
    daemon.load_busybox(&target);
    let repository = format!("{}/x", registry.address);
    let lines = stream(&daemon, &format!("/images/{repository}/push?tag=1"));
    assert_eq!(lines[0], json!({ "status": format!("The push refers to repository [{repository}]") }));
    assert_eq!(lines[1]["status"], "Preparing");
    assert_eq!(lines[1]["id"].as_str().unwrap().len(), 12);
    let aux = &lines.last().unwrap()["aux"];
    let digest = aux["Digest"].as_str().unwrap();
    assert_eq!(aux["Tag"], "1");
    assert_eq!(lines[lines.len() - 2]["status"], format!("1: digest: {digest} size: {}", aux["Size"]));
    assert_eq!(digests(&daemon, &target), [format!("{repository}@{digest}")]);

    // What is not there.
    let error = |path: &str| {
        let lines = stream(&daemon, path);
        lines.last().unwrap()["errorDetail"]["message"].as_str().unwrap().to_string()
    };
    assert_eq!(
        error(&format!("/images/{}/none/push?tag=1", registry.address)),
        format!("An image does not exist locally with the tag: {}/none", registry.address)
    );
    assert_eq!(
        error(&format!("/images/{repository}/push?tag=9")),
        format!("tag does not exist: {repository}:9")
    );
    let by_digest = daemon.request("POST", &format!("/images/{repository}@{digest}/push"), &Value::Null);
    assert_eq!(by_digest.expect(400).message(), "cannot push a digest reference");
    for client in [Client::Brig, Client::Docker] {
        let said = client.run(&daemon, &["push", &format!("{repository}:9")]).expect(1).stderr;
        assert!(said.contains("tag does not exist"), "{said}");
    }
    daemon.assert_empties();
}

#[test]
fn credentials_decide_who_may_push() {
    if !testkit::is_root() {
        return;
    }
    let daemon = Daemon::start(Options::default());
    let registry = Registry::start_with_login();
    for client in [Client::Brig, Client::Docker] {
        let target = registry.reference(&client.name("x"), "1");
        daemon.load_busybox(&target);
        let said = client.run(&daemon, &["push", &target]).expect(1).stderr;
        assert!(said.contains("no basic auth credentials"), "{said}");
        client.run(&daemon, &["login", "-u", USER, "-p", PASSWORD, &registry.address]).success();
        client.run(&daemon, &["push", &target]).success();
        client.run(&daemon, &["logout", &registry.address]).success();
        let said = client.run(&daemon, &["push", &target]).expect(1).stderr;
        assert!(said.contains("no basic auth credentials"), "{said}");
    }
}

#[test]
fn an_index_goes_whole_or_says_what_went_in_its_place() {
    if !testkit::is_root() {
        return;
    }
    let daemon = Daemon::start(Options::default());
    let (from, to) = (Registry::start(), Registry::start());
    let layer = testkit::tar::gzip(images::busybox_layer());
    let own = images::push_busybox(&from, "multi", "own").descriptor;
    let other: Platform = "linux/s390x".parse().unwrap();
    let foreign =
        from.push_image_for(&other, "multi", "other", &[layer], images::busybox_config()).descriptor;
    let index = from.push_index("multi", "1", &[own.clone(), foreign]);
    let source = from.reference("multi", "1");
    Client::Brig.run(&daemon, &["pull", &source]).success();
    // Where it came from, the registry has what is not here.
    let said = Client::Brig.run(&daemon, &["push", &source]).success();
    assert!(said.contains(&format!("1: digest: {}", index.digest)), "{said}");
    for client in [Client::Brig, Client::Docker] {
        let target = to.reference(&client.name("multi"), "1");
        client.run(&daemon, &["tag", &source, &target]).success();
        let said = client.run(&daemon, &["push", &target]).success();
        assert!(said.contains(&format!("1: digest: {}", own.digest)), "{said}");
        assert!(said.contains("only the available single-platform image was pushed"), "{said}");
        client.run(&daemon, &["push", "--platform", &Platform::host().to_string(), &target]).success();
        let said = client.run(&daemon, &["push", "--platform", "linux/s390x", &target]).expect(1).stderr;
        assert!(said.contains("does not provide the specified platform"), "{said}");
    }
}
