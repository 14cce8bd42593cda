//! `manifest create`, `annotate`, `inspect`, `push` and `rm`, by brig and by the docker CLI, which asks registries itself; and
//! pulls of all tags.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::Client;
use oci::Platform;
use serde_json::{Value, json};
use testkit::daemon::{Daemon, Options};
use testkit::registry::Registry;
use testkit::{images, tar};

fn machines() -> Option<(Daemon, Registry)> {
    testkit::is_root().then(|| (Daemon::start(Options::default()), Registry::start()))
}

/// Two images for two platforms, each in a repository of its own.
fn push_two(registry: &Registry) -> [String; 2] {
    ["amd64", "arm64"].map(|name| {
        let platform: Platform = format!("linux/{name}").parse().unwrap();
        let layer = tar::gzip(&tar::archive(&[tar::Entry::file("name", 0o644, name)]));
        registry.push_image_for(&platform, name, "1", &[layer], images::busybox_config());
        registry.reference(name, "1")
    })
}

fn made(registry: &Registry, repository: &str) -> Value {
    serde_json::from_slice(&registry.manifest(repository, "all").unwrap()).unwrap()
}

#[test]
fn a_list_is_made_annotated_and_pushed() {
    let Some((daemon, registry)) = machines() else { return };
    let [amd64, arm64] = push_two(&registry);
    for (client, repository) in [(Client::Brig, "by-brig"), (Client::Docker, "by-docker")] {
        let list = registry.reference(repository, "all");
        let run = |args: &[&str]| client.run(&daemon, args);
        let said = run(&["manifest", "create", "--insecure", &list, &amd64]).success();
        assert_eq!(said, format!("Created manifest list {list}"));
        let refused = run(&["manifest", "create", "--insecure", &list, &arm64]).expect(1);
        assert!(refused.stderr.contains("refusing to amend an existing manifest list with no --amend flag"));
        run(&["manifest", "create", "--insecure", "--amend", &list, &arm64]).success();
        let annotate = [
            "manifest",
            "annotate",
            "--variant",
            "v8",
            "--os-version",
            "5.1",
            "--os-features",
            "a,b",
            &list,
            &arm64,
        ];
        run(&annotate).success();
        run(&["manifest", "annotate", "--arch", "arm", &list, &registry.reference("none", "1")]).expect(1);
        let local: Value = serde_json::from_str(&run(&["manifest", "inspect", &list]).success()).unwrap();
        assert_eq!(local["manifests"].as_array().unwrap().len(), 2);
        let one = run(&["manifest", "inspect", "--verbose", &list, &arm64]).success();
        let one: Value = serde_json::from_str(&one).unwrap();
        assert_eq!(one["Descriptor"]["platform"]["variant"], "v8");
        let said = run(&["manifest", "push", "--insecure", &list]).success();
        assert_eq!(said.matches("Pushed ref ").count(), 2, "{said}");
        let bytes = registry.manifest(repository, "all").unwrap();
        assert_eq!(said.lines().last().unwrap(), oci::Digest::of(&bytes).to_string());
        // It stays until it is removed.
        run(&["manifest", "push", "--insecure", "--purge", &list]).success();
        let again = run(&["manifest", "push", "--insecure", &list]).expect(1);
        assert!(again.stderr.contains("No such manifest"), "{again:?}");
        run(&["manifest", "rm", &list]).expect(1);
        let pushed = run(&["manifest", "inspect", "--insecure", &list]).success();
        assert_eq!(serde_json::from_str::<Value>(&pushed).unwrap(), made(&registry, repository));
    }
    // Both made the same of it, in whatever order.
    let entries = |repository: &str| {
        let mut entries = made(&registry, repository)["manifests"].as_array().unwrap().clone();
        entries.sort_by_key(|entry| entry["digest"].to_string());
        entries
    };
    assert_eq!(entries("by-brig"), entries("by-docker"));
    assert_eq!(
        entries("by-brig").iter().find(|e| e["platform"]["architecture"] == "arm64").unwrap()["platform"],
        json!({"architecture": "arm64", "os": "linux", "variant": "v8", "os.version": "5.1", "os.features": ["a", "b"]})
    );
    // What was pushed is an image for either platform.
    let list = registry.reference("by-brig", "all");
    for platform in ["linux/amd64", "linux/arm64"] {
        daemon.brig(&["pull", "--platform", platform, &list]).success();
    }
    daemon.assert_empties();
}

#[test]
fn lists_of_what_cannot_be_are_refused() {
    let Some((daemon, registry)) = machines() else { return };
    let [amd64, arm64] = push_two(&registry);
    let list = registry.reference("x", "1");
    daemon.brig(&["manifest", "create", &list, &amd64, &arm64]).success();
    daemon.brig(&["manifest", "push", "--purge", &list]).success();
    // A list of lists; of another registry; of nothing.
    let outer = registry.reference("y", "1");
    let refused = daemon.brig(&["manifest", "create", &outer, &list]).expect(1);
    assert!(refused.stderr.contains("is a manifest list"), "{refused:?}");
    daemon.brig(&["manifest", "create", "localhost:1/z:1", &amd64]).success();
    let refused = daemon.brig(&["manifest", "push", "localhost:1/z:1"]).expect(1);
    assert!(refused.stderr.contains("from a different registry"), "{refused:?}");
    daemon.brig(&["manifest", "rm", "localhost:1/z:1"]).success();
    daemon.brig(&["manifest", "create", &outer, &registry.reference("amd64", "missing")]).expect(1);
    let post = |path: &str, kind: &str, body: &[u8]| {
        let path = format!("/distribution/{}/manifest{path}", registry.reference("y", "1"));
        testkit::raw::send(&daemon.socket, "POST", &path, kind, body).unwrap().status
    };
    let index = oci::image::media_type::OCI_INDEX;
    assert_eq!(post("", index, b"{}"), 400);
    assert_eq!(post("", "text/plain", br#"{"schemaVersion":2,"manifests":[]}"#), 400);
    assert_eq!(post("?from=x:1", index, br#"{"schemaVersion":2,"manifests":[]}"#), 400);
    assert_eq!(registry.manifest("y", "1"), None);
}

#[test]
fn all_tags_of_a_repository_are_pulled() {
    let Some((daemon, registry)) = machines() else { return };
    for tag in ["1", "2", "third"] {
        let layer = tar::archive(&[tar::Entry::file("tag", 0o644, tag)]);
        registry.push_image("many", tag, &[layer], images::busybox_config());
    }
    let repository = format!("{}/many", registry.address);
    for client in [Client::Brig, Client::Docker] {
        let said = client.run(&daemon, &["pull", "--all-tags", &repository]).success();
        assert_eq!(said.matches("Pulling from many").count(), 3, "{said}");
        assert_eq!(daemon.get("/images/json").as_array().unwrap().len(), 3);
        client.run(&daemon, &["pull", "-a", &format!("{repository}:1")]).expect(1);
        for tag in ["1", "2", "third"] {
            client.run(&daemon, &["rmi", &format!("{repository}:{tag}")]).success();
        }
    }
    let missing = Client::Brig.run(&daemon, &["pull", "-a", &format!("{}/none", registry.address)]).expect(1);
    assert!(missing.stderr.contains("not found"), "{missing:?}");
    daemon.assert_empties();
}
