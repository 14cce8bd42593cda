//! Several platforms of one index, kept side by side.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::Client;
use oci::{Descriptor, Platform};
use serde_json::{Value, json};
use testkit::daemon::{Daemon, Options};
use testkit::registry::Registry;
use testkit::tar::{self, Entry};
use testkit::{http, images};

const OTHER: &str = "linux/s390x";

/// An index of busybox for this machine and for another.
fn push_multi(registry: &Registry, tag: &str, mark: &str) -> (Descriptor, [Descriptor; 2]) {
    let layers = |what: &str| {
        let file = tar::archive(&[Entry::file("mark", 0o644, format!("{what} {mark}\n"))]);
        vec![tar::gzip(images::busybox_layer()), tar::gzip(&file)]
    };
    let push = |platform: &Platform, what: &str| {
        let tag = format!("{tag}-{what}");
        let config = images::busybox_config();
        registry.push_image_for(platform, "multi", &tag, &layers(what), config).descriptor
    };
    let all = [push(&Platform::host(), "own"), push(&OTHER.parse().unwrap(), "other")];
    (registry.push_index("multi", tag, &all), all)
}

fn inspect(daemon: &Daemon, name: &str, platform: &str) -> Value {
    let query = if platform.is_empty() { String::new() } else { format!("?platform={platform}") };
    daemon.get(&format!("/images/{name}/json{query}"))
}

#[test]
fn platforms_of_an_index_stand_side_by_side() {
    if !testkit::is_root() {
        return;
    }
    let daemon = Daemon::start(Options::default());
    let (from, to) = (Registry::start(), Registry::start());
    let (index, _) = push_multi(&from, "1", "one");
    let name = from.reference("multi", "1");
    let own = Platform::host();
    let pull = |client: Client, platform: &str| {
        client.run(&daemon, &["pull", "--platform", platform, &name]).success()
    };
    // The other first: it is what the name means as long as there is nothing else.
    pull(Client::Docker, OTHER);
    assert_eq!(inspect(&daemon, &name, "")["Architecture"], "s390x");
    let said = daemon.request("POST", "/containers/create", &json!({"Image": name})).expect(201).json();
    let warning = said["Warnings"][0].as_str().unwrap();
    assert!(warning.contains("(linux/s390x) does not match the detected host platform"), "{warning}");
    daemon.remove_all();
    let missing = format!("/containers/create?platform={own}");
    let said = daemon.request("POST", &missing, &json!({"Image": name})).expect(404).message();
    assert!(said.contains("does not provide the specified platform"), "{said}");
    assert_eq!(
        Client::Docker
            .run(&daemon, &["run", "--rm", "--platform", &own.to_string(), &name, "cat", "/mark"])
            .success(),
        "own one"
    );

    let both = |daemon: &Daemon| {
        assert_eq!(inspect(daemon, &name, "")["Architecture"], own.architecture);
        assert_eq!(inspect(daemon, &name, &own.to_string())["Architecture"], own.architecture);
        let other = inspect(daemon, &name, OTHER);
        assert_eq!(other["Architecture"], "s390x");
        assert_eq!(other["RepoTags"], json!([name]));
        let listed = daemon.get("/images/json");
        assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
        assert_eq!(daemon.get("/images/json?all=1").as_array().unwrap().len(), 2);
    };
    both(&daemon);
    let said = pull(Client::Brig, OTHER);
    assert!(said.contains("up to date"), "{said}");
    both(&daemon);
    let branches = |tree: &str| -> Vec<Vec<String>> {
        let lines = tree.lines().filter(|line| line.contains("─ "));
        lines.map(|line| line.split_whitespace().map(str::to_string).collect()).collect()
    };
    let tree = branches(&Client::Brig.run(&daemon, &["images", "--tree"]).success());
    assert_eq!(tree.iter().map(|line| line[1].as_str()).collect::<Vec<_>>(), [&own.to_string(), OTHER]);
    // Older clients have no tree.
    let dockers = Client::Docker.run(&daemon, &["images", "--tree"]);
    if dockers.code == Some(0) {
        assert_eq!(branches(&dockers.stdout), tree);
    }
    Client::Brig.run(&daemon, &["images", "--tree", "-q"]).expect(1);
    let shown = Client::Brig
        .run(&daemon, &["image", "inspect", "--platform", OTHER, "-f", "{{.Architecture}}", &name]);
    assert_eq!(shown.success(), "s390x");
    assert_eq!(Client::Brig.run(&daemon, &["run", "--rm", &name, "cat", "/mark"]).success(), "own one");

    // With all of it here, the index goes whole; a second name means all of it too.
    let target = to.reference("copy", "1");
    Client::Brig.run(&daemon, &["tag", &name, &target]).success();
    let said = Client::Docker.run(&daemon, &["push", &target]).success();
    assert!(said.contains(&format!("1: digest: {}", index.digest)), "{said}");
    assert_eq!(inspect(&daemon, &target, OTHER)["Architecture"], "s390x");
    Client::Brig.run(&daemon, &["rmi", &target]).success();
    both(&daemon);

    // A tag that moves takes what is here of the new index; the rest is no longer the tag's.
    push_multi(&from, "1", "two");
    pull(Client::Brig, &own.to_string());
    assert_eq!(Client::Brig.run(&daemon, &["run", "--rm", &name, "cat", "/mark"]).success(), "own two");
    daemon.request("GET", &format!("/images/{name}/json?platform={OTHER}"), &Value::Null).expect(404);
    pull(Client::Brig, OTHER);
    Client::Brig.run(&daemon, &["rmi", &name]).success();
    let left = daemon.get("/images/json");
    assert!(left.as_array().unwrap().iter().all(|i| i["RepoTags"] == json!([])), "{left}");
    daemon.assert_empties();
}

#[test]
fn what_is_no_image_is_refused_by_what_it_is() {
    if !testkit::is_root() {
        return;
    }
    let daemon = Daemon::start(Options::default());
    let registry = http::Server::start(|_, _| {
        http::Answer::new(200, r#"{"schemaVersion":1,"fsLayers":[]}"#)
            .with("Content-Type", "application/vnd.docker.distribution.manifest.v1+prettyjws")
    });
    let said = |name: &str| {
        Client::Docker.run(&daemon, &["pull", &format!("{}/{name}", registry.address)]).expect(1).stderr
    };
    assert!(said("old").contains("schema 1, which is not supported"), "{}", said("old"));
}
