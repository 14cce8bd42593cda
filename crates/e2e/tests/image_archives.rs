//! `save`, `load`, `import`, `prune`: images as archives, through both clients.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::BUSYBOX;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use testkit::daemon::{Daemon, Options, Running, finish};
use testkit::images;
use testkit::tar::{self, Entry};

fn bare() -> Option<Daemon> {
    testkit::is_root().then(|| Daemon::start(Options::default()))
}

fn own() -> Option<Daemon> {
    let daemon = bare()?;
    daemon.load_busybox(BUSYBOX);
    Some(daemon)
}

fn save(daemon: &Daemon, names: &[&str]) -> Vec<u8> {
    let names: Vec<String> = names.iter().map(|n| format!("names={n}")).collect();
    daemon.request("GET", &format!("/images/get?{}", names.join("&")), &Value::Null).expect(200).body
}

/// A file of an archive, as GNU tar reads it.
fn member(archive: &Path, name: &str) -> String {
    let output = Command::new("tar").arg("-xOf").arg(archive).arg(name).output().unwrap();
    assert!(output.status.success(), "{name}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn commit(daemon: &Daemon, script: &str, name: &str) {
    daemon.brig(&["run", "--name", "maker", BUSYBOX, "sh", "-c", script]).success();
    daemon.brig(&["commit", "-c", "CMD [\"cat\", \"/made\"]", "maker", name]).success();
    daemon.brig(&["rm", "maker"]).success();
}

#[test]
fn what_is_saved_is_loaded_again_with_the_same_digests() {
    let (Some(daemon), Some(other)) = (own(), bare()) else { return };
    commit(&daemon, "echo one > /made", "made:1");
    daemon.brig(&["tag", "made:1", "made:2"]).success();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("all.tar");
    let file = path.to_str().unwrap();
    daemon.brig(&["save", "-o", file, "made", BUSYBOX]).success();
    assert_eq!(std::fs::read(&path).unwrap(), save(&daemon, &["made", BUSYBOX]), "the same bytes each time");

    let manifest: Value = serde_json::from_str(&member(&path, "manifest.json")).unwrap();
    assert_eq!(manifest[0]["RepoTags"], json!(["made:1", "made:2"]));
    assert_eq!(manifest[0]["Layers"].as_array().unwrap().len(), 2);
    let index: Value = serde_json::from_str(&member(&path, "index.json")).unwrap();
    let names: Vec<&str> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["annotations"]["io.containerd.image.name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        ["docker.io/library/made:1", "docker.io/library/made:2", "docker.io/library/busybox:latest"]
    );
    assert_eq!(index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"], "1");

    let said = other.docker(&["load", "-i", file]).success();
    assert!(said.contains("Loaded image: made:1") && said.contains("Loaded image: made:2"), "{said}");
    let id = |d: &Daemon, name: &str| d.get(&format!("/images/{name}/json"))["Id"].clone();
    for name in ["made:1", "made:2", BUSYBOX] {
        assert_eq!(id(&daemon, name), id(&other, name));
    }
    assert_eq!(other.brig(&["run", "--rm", "made:2"]).success(), "one");
    assert_eq!(save(&other, &["made", BUSYBOX]), std::fs::read(&path).unwrap(), "and from the other side");

    // By id no name goes along; by a tag only that one.
    let by_id = daemon.docker_command(&["save", id(&daemon, "made:1").as_str().unwrap()]);
    std::fs::write(&path, by_id.output_bytes()).unwrap();
    assert_eq!(member(&path, "manifest.json").matches("null").count(), 1);
    std::fs::write(&path, save(&daemon, &["made:2"])).unwrap();
    assert!(!member(&path, "manifest.json").contains("made:1"));
    let missing = daemon.request("GET", "/images/none/get", &Value::Null).expect(404);
    assert_eq!(missing.message(), "No such image: none:latest");
    assert_ne!(daemon.brig(&["save", "-o", file, "none"]).code, Some(0));
    assert!(path.exists(), "a failed save leaves what was there");
}

trait Bytes {
    fn output_bytes(self) -> Vec<u8>;
}

impl Bytes for Command {
    fn output_bytes(mut self) -> Vec<u8> {
        let output = self.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout
    }
}

#[test]
fn a_root_file_system_is_imported() {
    let Some(daemon) = own() else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("root.tar");
    daemon.brig(&["run", "--name", "one", BUSYBOX, "sh", "-c", "echo text > /file"]).success();
    daemon.brig(&["export", "-o", path.to_str().unwrap(), "one"]).success();
    let file = path.to_str().unwrap();
    let flags = ["import", "-c", "CMD [\"cat\", \"/file\"]", "-c", "ENV A=b", "-m", "why", file, "new:1"];
    let id = daemon.brig(&flags).success();
    assert_eq!(daemon.get("/images/new:1/json")["Id"], json!(id));
    assert_eq!(daemon.brig(&["run", "--rm", "new:1"]).success(), "text");
    assert!(daemon.docker(&["history", "new:1"]).success().contains("why"));
    // Compressed, from a pipe, by the other client.
    let gzip = tar::gzip(&std::fs::read(&path).unwrap());
    let id =
        finish(daemon.docker_command(&["import", "-c", "CMD [\"cat\", \"/file\"]", "-", "new:2"]), &gzip)
            .success();
    assert!(id.starts_with("sha256:"), "{id}");
    assert_eq!(daemon.brig(&["run", "--rm", "new:2"]).success(), "text");
    let layers = |name: &str| daemon.get(&format!("/images/{name}/json"))["RootFS"].clone();
    assert_eq!(layers("new:1"), layers("new:2"));
    // What is no tar, breaks off or is hostile leaves nothing.
    let before = daemon.get("/images/json").as_array().unwrap().len();
    let import = |body: &[u8], query: &str| {
        let path = format!("/images/create?fromSrc=-{query}");
        testkit::raw::send(&daemon.socket, "POST", &path, "application/x-tar", body).unwrap()
    };
    import(b"this is no tar", "").expect(400);
    import(&gzip[..gzip.len() / 2], "").expect(400);
    import(&tar::archive(&[Entry::file("../../out", 0o644, "")]), "").expect(400);
    import(&gzip, "&changes=RUN%20x").expect(400);
    import(&gzip, "&repo=BAD").expect(400);
    assert_eq!(daemon.get("/images/json").as_array().unwrap().len(), before);
    daemon.remove_all();
    daemon.brig(&["rmi", "new:1", "new:2", BUSYBOX]).success();
    daemon.assert_empties();
}

#[test]
fn what_nobody_uses_is_pruned() {
    let Some(daemon) = own() else { return };
    commit(&daemon, "echo one > /made", "made:1");
    commit(&daemon, "echo two > /made", "made:1");
    daemon.load(&images::busybox_archive("spare:1"));
    let count = || daemon.get("/images/json?all=1").as_array().unwrap().len();
    let prune = |filters: Value| {
        let coded = filters.to_string().replace('{', "%7B").replace('}', "%7D").replace('"', "%22");
        daemon.request("POST", &format!("/images/prune?filters={coded}"), &Value::Null)
    };
    assert_eq!(count(), 3);
    prune(json!({"nonsense": ["x"]})).expect(400);
    prune(json!({"until": ["1970-01-02T00:00:00Z"]})).expect(200);
    prune(json!({"label": ["a=b"]})).expect(200);
    assert_eq!(count(), 3);
    let said = daemon.brig(&["image", "prune", "-f"]).success();
    assert!(said.contains("deleted: sha256:") && !said.contains("reclaimed space: 0B"), "{said}");
    assert_eq!(count(), 2);
    daemon.brig(&["create", "--name", "one", "made:1"]).success();
    daemon.docker(&["image", "prune", "-a", "-f"]).success();
    // What made:1 was made from has a child.
    assert_eq!(count(), 2);
    daemon.brig(&["rm", "one"]).success();
    daemon.brig(&["image", "prune", "-a", "-f"]).success();
    assert_eq!(count(), 0);
    daemon.assert_empties();
}

#[test]
fn children_keep_their_parents() {
    let Some(daemon) = own() else { return };
    commit(&daemon, "echo one > /made", "made:1");
    let base = daemon.get(&format!("/images/{BUSYBOX}/json"))["Id"].as_str().unwrap().to_string();
    assert_eq!(daemon.get("/images/made:1/json")["Parent"], json!(base));
    let refused = daemon.request("DELETE", &format!("/images/{base}?force=1"), &Value::Null).expect(409);
    let words = "(cannot be forced) - image has dependent child images";
    assert!(refused.message().ends_with(words), "{}", refused.message());
    assert_eq!(daemon.docker(&["rmi", BUSYBOX]).success(), format!("Untagged: {BUSYBOX}"));
    assert_eq!(daemon.brig(&["images", "-q"]).success().lines().count(), 1, "a step is hidden");
    assert_eq!(daemon.brig(&["images", "-aq"]).success().lines().count(), 2);
    assert_eq!(daemon.brig(&["run", "--rm", "made:1"]).success(), "one");
    let gone = daemon.brig(&["rmi", "made:1"]).success();
    assert!(gone.contains(&format!("Deleted: {base}")), "{gone}");
    daemon.assert_empties();
}

#[test]
fn one_archive_is_loaded_and_removed_by_many_at_once() {
    let Some(daemon) = bare() else { return };
    let archive = images::busybox_archive(BUSYBOX);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..5 {
                    daemon.load(&archive).expect(200);
                }
            });
            scope.spawn(|| {
                for _ in 0..15 {
                    let status =
                        daemon.request("DELETE", &format!("/images/{BUSYBOX}?force=1"), &Value::Null).status;
                    assert!(matches!(status, 200 | 404 | 409), "{status}");
                }
            });
            scope.spawn(|| {
                for _ in 0..5 {
                    let saved = daemon.request("GET", &format!("/images/{BUSYBOX}/get"), &Value::Null);
                    assert!(matches!(saved.status, 200 | 404), "{}", saved.text());
                }
            });
        }
    });
    daemon.load(&archive).expect(200);
    assert_eq!(daemon.brig(&["run", "--rm", BUSYBOX, "echo", "hi"]).success(), "hi");
    daemon.brig(&["rmi", BUSYBOX]).success();
    daemon.assert_empties();
}

#[test]
fn a_daemon_killed_in_load_save_or_import_leaves_nothing() {
    let Some(mut daemon) = bare() else { return };
    // Large enough that a kill comes in the middle.
    let layer = tar::archive(&[Entry::file("large", 0o644, vec![7u8; 60 << 20])]);
    let archive =
        images::docker_archive("large:1", &[images::busybox_layer(), &layer], &images::busybox_config());
    let dir = tempfile::tempdir().unwrap();
    let (file, root) = (dir.path().join("a.tar"), dir.path().join("root.tar"));
    std::fs::write(&file, &archive).unwrap();
    std::fs::write(&root, &layer).unwrap();
    for (n, args) in [["load", "-i", file.to_str().unwrap()], ["import", root.to_str().unwrap(), "new:1"]]
        .iter()
        .cycle()
        .take(6)
        .enumerate()
    {
        let running = Running::start(daemon.brig_command(args));
        std::thread::sleep(std::time::Duration::from_millis(60 * (n as u64 + 1)));
        daemon.kill9();
        drop(running.finish());
        daemon.spawn();
        let images = daemon.get("/images/json?all=1");
        for image in images.as_array().unwrap() {
            daemon.brig(&["rmi", image["Id"].as_str().unwrap()]).success();
        }
        daemon.assert_empties();
    }
    daemon.brig(&["load", "-i", file.to_str().unwrap()]).success();
    let out = dir.path().join("out.tar");
    let saving = Running::start(daemon.brig_command(&["save", "-o", out.to_str().unwrap(), "large:1"]));
    std::thread::sleep(std::time::Duration::from_millis(50));
    daemon.kill9();
    if saving.finish().code != Some(0) {
        assert!(!out.exists(), "half an archive does not pass for a whole");
    }
    daemon.spawn();
    assert_eq!(
        daemon.brig(&["run", "--rm", "large:1", "stat", "-c", "%s", "/large"]).success(),
        (60 << 20).to_string()
    );
    daemon.brig(&["rmi", "large:1"]).success();
    daemon.assert_empties();
}
