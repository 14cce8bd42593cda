//! What was built under one storage driver, under another: also when nothing but the first driver's files has its content.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::BUSYBOX;
use e2e::btrfs::Btrfs;
use serde_json::{Value, json};
use std::path::PathBuf;
use testkit::daemon::{Daemon, Options};

/// Of everything that layers can have, and one that begins on nothing (`--link`).
const DOCKERFILE: &str = "FROM BASE\n\
    RUN mkdir -p /d/e /gone /as && echo NUMBER > /d/one && ln /d/one /d/two && ln -s one /d/three && mkfifo /d/pipe && touch /gone/x\n\
    RUN rm -r /gone /bin/wget /as && mkdir /gone && touch /as && chmod 700 /d/e && chown 5:6 /d/e\n\
    COPY --link in /root/in\n\
    COPY --chown=7:8 in /d/in\n";
const SHOW: &str = "cat /d/one /d/in /root/in; ls /gone; test -f /as; stat -c %h:%u:%g /d/three /d/one; stat -c %a:%u:%g /d/e; ls /bin/wget";

fn start(driver: &str, data_root: Option<PathBuf>) -> Daemon {
    let flags = vec!["--storage-driver".into(), driver.into()];
    let daemon = Daemon::start(Options { flags, data_root, ..Options::default() });
    daemon.load_busybox(BUSYBOX);
    daemon
}

fn change(daemon: &mut Daemon, driver: &str) {
    daemon.stop();
    daemon.spawn_with(&["--storage-driver", driver]);
}

fn build(daemon: &Daemon, number: usize) -> String {
    let dir = tempfile::tempdir().unwrap();
    let text = DOCKERFILE.replace("BASE", BUSYBOX).replace("NUMBER", &number.to_string());
    std::fs::write(dir.path().join("Dockerfile"), text).unwrap();
    std::fs::write(dir.path().join("in"), "in\n").unwrap();
    let tag = format!("made:{number}");
    daemon.brig(&["build", "-t", &tag, dir.path().to_str().unwrap()]).success();
    tag
}

fn faults(daemon: &Daemon) -> Value {
    daemon.get("/brig/check")["Faults"].clone()
}

fn run(daemon: &Daemon, tag: &str, number: usize) {
    let shown = daemon.brig(&["run", "--rm", tag, "sh", "-c", SHOW]).expect(1);
    assert_eq!(shown.stdout.trim(), format!("{number}\nin\nin\n1:0:0\n2:0:0\n700:5:6"), "{shown:?}");
    assert!(shown.stderr.contains("/bin/wget: No such file"), "{shown:?}");
}

#[test]
fn what_was_built_runs_under_every_other_driver() {
    if !testkit::is_root() {
        return;
    }
    let btrfs = Btrfs::new();
    let mut daemon = start("overlay", Some(btrfs.root().join("data")));
    // From each to each.
    let road = [
        "erofs", "overlay", "vfs", "overlay", "btrfs", "erofs", "vfs", "erofs", "btrfs", "vfs", "btrfs",
        "overlay",
    ];
    for (number, driver) in road.into_iter().enumerate() {
        let tag = build(&daemon, number);
        let image = daemon.get(&format!("/images/{tag}/json"));
        change(&mut daemon, driver);
        assert_eq!(faults(&daemon), json!([]), "{driver}");
        run(&daemon, &tag, number);
        assert_eq!(daemon.get(&format!("/images/{tag}/json"))["Id"], image["Id"]);
        assert_eq!(faults(&daemon), json!([]), "{driver}");
    }
    for number in 0..road.len() {
        run(&daemon, &format!("made:{number}"), number);
    }
    let report = daemon.get("/brig/df");
    assert_eq!(report["Unaccounted"], json!([]), "{report}");
    let names: Vec<_> = report["Parts"].as_array().unwrap().iter().map(|p| p["Name"].clone()).collect();
    assert!(names.contains(&json!("layers, storage driver vfs")), "{report}");
    daemon.assert_no_leaks();
}

/// It is sent away as it is, and lies below what is built on it, without having been run.
#[test]
fn what_was_built_is_saved_and_built_on_under_another_driver() {
    if !testkit::is_root() {
        return;
    }
    let mut daemon = start("erofs", None);
    let tag = build(&daemon, 1);
    let save = |daemon: &Daemon| {
        daemon.request("GET", &format!("/images/get?names={tag}"), &Value::Null).expect(200).body
    };
    change(&mut daemon, "vfs");
    let first = save(&daemon);
    daemon.brig(&["rmi", &tag]).success();
    assert!(daemon.load(&first).text().contains("Loaded image"));
    run(&daemon, &tag, 1);
    assert!(save(&daemon) == first);
    change(&mut daemon, "erofs");
    run(&daemon, &tag, 1);
    let tag = build(&daemon, 2);
    daemon.brig(&["run", "--name", "kept", &tag, "touch", "/kept"]).success();
    change(&mut daemon, "vfs");
    assert_eq!(faults(&daemon), json!([]), "a container of the other driver is not lost");
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("Dockerfile"), format!("FROM {tag}\nRUN echo on > /on\n")).unwrap();
    daemon.brig(&["build", "-t", "made:on", dir.path().to_str().unwrap()]).success();
    assert_eq!(daemon.brig(&["run", "--rm", "made:on", "cat", "/on", "/d/one"]).success(), "on\n2");
    // What shares a layer with what is unpacked, and was not needed yet, is not given up at a start.
    let image = daemon.get(&format!("/images/{tag}/json"))["Id"].clone();
    change(&mut daemon, "vfs");
    change(&mut daemon, "erofs");
    assert_eq!(daemon.get(&format!("/images/{tag}/json"))["Id"], image);
    assert_eq!(daemon.brig(&["diff", "kept"]).success(), "A /kept");
    daemon.brig(&["rm", "kept"]).success();
    daemon.assert_no_leaks();
}

/// Files that are not what they were, or not there, are no image; nothing is given up because of it.
#[test]
fn a_driver_that_cannot_be_read_is_named() {
    if !testkit::is_root() {
        return;
    }
    let mut daemon = start("overlay", None);
    let tag = build(&daemon, 1);
    change(&mut daemon, "vfs");
    let (snapshots, away) = (daemon.data_root.join("snapshots"), daemon.data_root.join("away"));
    std::fs::rename(&snapshots, &away).unwrap();
    let refused = |daemon: &Daemon| {
        let stderr = daemon.brig(&["run", "--rm", &tag, "true"]).expect(125).stderr;
        for word in [&*tag, "sha256:", "storage driver vfs", "storage driver overlay", "save or push"] {
            assert!(stderr.contains(word), "{word}: {stderr}");
        }
        let faults = faults(daemon);
        assert_eq!(faults.as_array().unwrap().len(), 4, "{faults}");
        assert!(faults[0]["Fault"].as_str().unwrap().contains("storage driver overlay"), "{faults}");
    };
    refused(&daemon);
    daemon.kill9();
    daemon.spawn_with(&["--storage-driver", "vfs"]);
    refused(&daemon);
    std::fs::rename(&away, &snapshots).unwrap();
    let files = std::fs::read_dir(&snapshots).unwrap().map(|entry| entry.unwrap().path().join("fs/d/in"));
    let file = files.into_iter().find(|path| path.exists()).unwrap();
    std::fs::write(&file, "other\n").unwrap();
    let stderr = daemon.brig(&["run", "--rm", &tag, "true"]).expect(125).stderr;
    assert!(stderr.contains("has been lost"), "{stderr}");
    assert_eq!(faults(&daemon).as_array().unwrap().len(), 1);
    daemon.brig(&["rmi", &tag]).success();
    daemon.assert_no_leaks();
}
