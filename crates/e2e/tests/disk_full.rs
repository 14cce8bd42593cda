//! The disk is full: an error that says so, a store that stays sound, and room can be made with `rm` and `rmi`.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::{BUSYBOX, Client};
use rustix::mount::{MountFlags, UnmountFlags};
use serde_json::Value;
use std::path::Path;
use testkit::daemon::{Daemon, Options};
use testkit::images;
use testkit::registry::Registry;
use testkit::tar::{Entry, archive};

/// A small file system; gone when dropped.
struct SmallDisk {
    directory: tempfile::TempDir,
}

impl SmallDisk {
    fn new(size: &str) -> SmallDisk {
        let directory = tempfile::Builder::new().prefix("brig-test-disk-").tempdir().unwrap();
        let options = std::ffi::CString::new(format!("size={size},mode=700")).unwrap();
        rustix::mount::mount(
            "tmpfs",
            directory.path(),
            "tmpfs",
            MountFlags::empty(),
            Some(options.as_c_str()),
        )
        .unwrap();
        SmallDisk { directory }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ignored = rustix::mount::unmount(self.path(), UnmountFlags::DETACH);
    }
}

fn no_space(text: &str) -> bool {
    text.contains("No space left on device")
}

#[test]
fn full_while_pulling_and_while_writing() {
    if !testkit::is_root() {
        return;
    }
    let disk = SmallDisk::new("32m");
    // Dropped before the disk is.
    let daemon = Daemon::start(Options { data_root: Some(disk.path().join("data")), ..Options::default() });
    let registry = Registry::start();
    images::push_busybox(&registry, "busybox", "1");
    let large = archive(&[Entry::file("large", 0o644, vec![1; 40 << 20])]);
    registry.push_image("large", "1", &[large], images::busybox_config());
    let run = |args: &[&str]| Client::Brig.run(&daemon, args);

    let failed = run(&["pull", &registry.reference("large", "1")]).expect(1);
    assert!(no_space(&failed.stderr), "{failed:?}");
    daemon.assert_no_leaks();
    assert_eq!(daemon.get("/images/json"), Value::Array(Vec::new()));

    // What the failed pull took has been given back.
    let reference = registry.reference("busybox", "1");
    run(&["pull", &reference]).success();
    run(&["tag", &reference, BUSYBOX]).success();
    let fill =
        run(&["run", "--name", "fills", BUSYBOX, "dd", "if=/dev/zero", "of=/file", "bs=64k"]).expect(1);
    assert!(no_space(&fill.stderr), "{fill:?}");
    run(&["rm", "fills"]).success();
    assert_eq!(run(&["run", "--rm", BUSYBOX, "echo", "hi"]).success(), "hi");

    run(&["run", "--name", "again", BUSYBOX, "dd", "if=/dev/zero", "of=/file", "bs=64k"]).expect(1);
    run(&["rmi", &reference]).success();
    run(&["rm", "again"]).success();
    daemon.assert_empties();
}

#[test]
fn what_fills_the_disk_can_be_stopped_and_removed() {
    if !testkit::is_root() {
        return;
    }
    let disk = SmallDisk::new("24m");
    let options = Options { data_root: Some(disk.path().join("data")), ..Options::default() };
    let mut daemon = Daemon::start(options);
    daemon.load_busybox(BUSYBOX);
    let run = |daemon: &Daemon, args: &[&str]| Client::Brig.run(daemon, args);
    let write = "while :; do dd if=/dev/zero of=/f$((i=i+1)) bs=64k 2>/dev/null || sleep 0.1; done";
    run(&daemon, &["run", "-d", "--name", "logger", BUSYBOX, "yes", &"a".repeat(200)]).success();
    run(&daemon, &["run", "-d", "--name", "writer", BUSYBOX, "sh", "-c", write]).success();
    let free = || rustix::fs::statvfs(disk.path()).unwrap().f_bavail;
    testkit::wait_until("the disk is full", || free() == 0);
    run(&daemon, &["stop", "-t", "0", "logger", "writer"]).success();
    daemon.kill9();
    daemon.spawn();
    run(&daemon, &["rm", "logger", "writer"]).success();
    assert_eq!(run(&daemon, &["run", "--rm", BUSYBOX, "echo", "hi"]).success(), "hi");
    daemon.assert_empties();
}

#[test]
fn full_while_archives_come_in_and_go_out() {
    if !testkit::is_root() {
        return;
    }
    let disk = SmallDisk::new("24m");
    let daemon = Daemon::start(Options { data_root: Some(disk.path().join("data")), ..Options::default() });
    daemon.load_busybox(BUSYBOX);
    let before = daemon.get("/images/json?all=1");
    let send = |method: &str, path: &str, body: &[u8]| {
        testkit::raw::send(&daemon.socket, method, path, "application/x-tar", body).unwrap()
    };
    // A few KiB that become 60 MiB.
    let bomb = testkit::tar::gzip(&archive(&[Entry::file("large", 0o644, vec![0; 60 << 20])]));
    let large = archive(&[Entry::file("large", 0o644, vec![1; 40 << 20])]);
    let packed = testkit::tar::gzip(&images::docker_archive("large:1", &[&large], &images::busybox_config()));
    for (path, body) in
        [("/images/load", &packed), ("/images/create?fromSrc=-", &bomb), ("/images/create?fromSrc=-", &large)]
    {
        // A load has begun to answer by then.
        let answer = send("POST", path, body);
        assert!(no_space(&answer.text()), "{path}: {}", answer.text());
        assert_eq!(daemon.get("/images/json?all=1"), before, "{path}");
    }
    daemon.brig(&["create", "--name", "one", BUSYBOX]).success();
    let answer = send("PUT", "/containers/one/archive?path=/tmp", &bomb).expect(500);
    assert!(no_space(&answer.message()), "{}", answer.message());
    daemon.brig(&["rm", "one"]).success();
    // Room for the changes, and none for the layer that is made of them.
    daemon
        .brig(&["run", "--name", "two", BUSYBOX, "sh", "-c", "dd if=/dev/urandom of=/f bs=1M count=13"])
        .success();
    let failed = daemon.brig(&["commit", "two", "made:1"]).expect(1);
    assert!(no_space(&failed.stderr), "{failed:?}");
    assert_eq!(daemon.get("/images/json?all=1"), before);
    // What goes out needs no room.
    daemon.request("GET", "/containers/two/export", &Value::Null).expect(200);
    daemon.request("GET", &format!("/images/{BUSYBOX}/get"), &Value::Null).expect(200);
    daemon.brig(&["rm", "two"]).success();
    assert_eq!(daemon.get("/brig/check")["Faults"], Value::Array(Vec::new()));
    assert_eq!(daemon.brig(&["run", "--rm", BUSYBOX, "echo", "hi"]).success(), "hi");
    daemon.brig(&["rmi", BUSYBOX]).success();
    daemon.assert_empties();
}
