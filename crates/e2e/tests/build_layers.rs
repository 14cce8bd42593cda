//! `build`: a layer is kept once, as the files that its step left; its blob is made when somebody needs it, the same each time.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::BUSYBOX;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use testkit::daemon::{Daemon, Finished};
use testkit::registry::Registry;

/// Of everything that layers can have, and a layer that begins on nothing (`--link`).
const DOCKERFILE: &str = "FROM BASE\n\
    RUN mkdir -p /d/e /gone && echo one > /d/one && ln /d/one /d/two && ln -s one /d/three && mkfifo /d/pipe && touch /gone/x\n\
    RUN rm -r /gone /bin/wget && mkdir /gone && chmod 700 /d/e && chown 5:6 /d/one && head -c 300000 /dev/urandom > /d/large\n\
    COPY --link in /root/in\n\
    COPY --chown=7:8 in /d/in\n\
    CMD [\"sh\", \"-c\", \"cat /d/one /d/in /root/in; ls /gone\"]\n";

fn context() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("Dockerfile"), DOCKERFILE.replace("BASE", BUSYBOX)).unwrap();
    std::fs::write(dir.path().join("in"), "in\n").unwrap();
    dir
}

fn build(daemon: &Daemon, dir: &Path, flags: &[&str]) -> Finished {
    let path = dir.to_str().unwrap();
    daemon.brig(&[&["build", "-t", "app", "--progress=plain"], flags, &[path]].concat())
}

/// The blobs that are archives.
fn archives(daemon: &Daemon) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(daemon.data_root.join("content/blobs/sha256")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| std::fs::read(path).unwrap().get(257..262) == Some(b"ustar")).collect()
}

fn save(daemon: &Daemon) -> Vec<u8> {
    daemon.request("GET", "/images/get?names=app", &Value::Null).expect(200).body
}

fn checked(daemon: &Daemon) -> Value {
    daemon.get("/brig/check")
}

#[test]
fn blobs_are_made_when_they_are_needed() {
    let (Some(mut daemon), Some(other)) = (e2e::own(), e2e::own()) else { return };
    let registry = Registry::start();
    let dir = context();
    // The base came as an archive.
    let before = archives(&daemon).len();
    build(&daemon, dir.path(), &[]).success();
    // That of `--link` too: it does not begin on what it lies on.
    assert_eq!(archives(&daemon).len(), before, "nothing was packed");
    let run = |daemon: &Daemon| daemon.brig(&["run", "--rm", "app"]).success();
    assert_eq!(run(&daemon), "one\nin\nin");
    let image = daemon.get("/images/app/json");
    assert_eq!(checked(&daemon)["Faults"], json!([]));

    // What was finished is there after kill -9, and is known to the next build.
    daemon.kill9();
    daemon.spawn();
    assert_eq!(checked(&daemon)["Faults"], json!([]));
    let again = build(&daemon, dir.path(), &[]);
    assert_eq!(again.stderr.matches("CACHED").count(), 5, "{again:?}");
    assert_eq!(daemon.get("/images/app/json")["Id"], image["Id"]);
    assert_eq!(archives(&daemon).len(), before, "and still nothing was packed");

    // A registry gets the blobs that the manifest names, and another daemon the same image.
    let reference = registry.reference("app", "1");
    daemon.brig(&["tag", "app", &reference]).success();
    daemon.brig(&["push", &reference]).success();
    assert_eq!(archives(&daemon).len(), before + 4);
    other.brig(&["pull", &reference]).success();
    other.brig(&["tag", &reference, "app"]).success();
    assert_eq!(other.get("/images/app/json")["Id"], image["Id"]);
    assert_eq!(run(&other), "one\nin\nin");

    // They are the same each time, also on a daemon that was killed meanwhile.
    let whole = save(&daemon);
    for path in archives(&daemon) {
        // The base is others' work.
        let name = path.file_name().unwrap().to_str().unwrap().to_string();
        let own = image["RootFS"]["Layers"].as_array().unwrap()[1..].iter();
        if own.filter_map(Value::as_str).any(|diff_id| diff_id.ends_with(&name)) {
            std::fs::remove_file(path).unwrap();
        }
    }
    daemon.kill9();
    daemon.spawn();
    assert!(save(&daemon) == whole, "another archive");
    daemon.brig(&["rmi", "app", &reference]).success();
    daemon.brig(&["builder", "prune", "-af"]).success();
    assert_eq!(archives(&daemon).len(), before, "and they go with the image");
    other.remove_all();
    daemon.brig(&["rmi", BUSYBOX]).success();
    daemon.assert_empties();
}

/// A layer without blob is compared with what it is described as.
#[test]
fn a_layer_that_was_changed_is_found() {
    let Some(daemon) = e2e::own() else { return };
    let dir = context();
    build(&daemon, dir.path(), &[]).success();
    assert_eq!(checked(&daemon)["Faults"], json!([]));
    let snapshots = daemon.data_root.join("snapshots");
    let files = std::fs::read_dir(snapshots).unwrap().map(|entry| entry.unwrap().path().join("fs/d/in"));
    let file = files.into_iter().find(|path| path.exists()).unwrap();
    std::fs::write(&file, "changed\n").unwrap();
    let faults = checked(&daemon)["Faults"].clone();
    assert_eq!(faults.as_array().unwrap().len(), 1, "{faults}");
    let failed = daemon.request("GET", "/images/get?names=app", &Value::Null);
    assert!(failed.status >= 400, "it is not given away: {}", failed.text());
    daemon.assert_no_leaks();
}

/// An image that carries its cache is used where its layers are, without their blobs.
#[test]
fn an_inline_cache_needs_no_blobs_where_its_layers_are() {
    let Some(daemon) = e2e::own() else { return };
    let dir = context();
    build(&daemon, dir.path(), &["--cache-to", "type=inline"]).success();
    let image = daemon.get("/images/app/json")["Id"].clone();
    let before = archives(&daemon).len();
    daemon.brig(&["tag", "app", "old"]).success();
    // Rows of the cache go, layers stay with the image.
    daemon.brig(&["builder", "prune", "-af"]).success();
    let again = build(&daemon, dir.path(), &["--cache-from", "old", "--cache-to", "type=inline"]);
    assert_eq!(again.stderr.matches("CACHED").count(), 5, "{again:?}");
    assert_eq!(daemon.get("/images/app/json")["Id"], image);
    assert_eq!(archives(&daemon).len(), before);
    // Nor to give that cache on: what is missing is made.
    daemon.brig(&["builder", "prune", "-af"]).success();
    let out = tempfile::tempdir().unwrap();
    let to = format!("type=local,mode=max,dest={}", out.path().display());
    build(&daemon, dir.path(), &["--cache-from", "old", "--cache-to", &to]).success();
    assert!(out.path().join("index.json").exists());
    daemon.assert_no_leaks();
}
