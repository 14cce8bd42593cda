//! Storage drivers through the daemon: one data root under each in turn, and what only one of them can.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "for tests only, where a panic is the report")]

use e2e::BUSYBOX;
use e2e::btrfs::Btrfs;
use std::path::{Path, PathBuf};
use std::process::Command;
use testkit::daemon::{Daemon, Options};

fn start(driver: &str, data_root: Option<PathBuf>) -> Daemon {
    Daemon::start(Options {
        flags: vec!["--storage-driver".into(), driver.into()],
        data_root,
        ..Options::default()
    })
}

#[test]
fn images_stay_when_the_driver_changes() {
    if !testkit::is_root() {
        return;
    }
    let mut daemon = start("overlay", None);
    daemon.load_busybox(BUSYBOX);
    let id = daemon.get(&format!("/images/{BUSYBOX}/json"))["Id"].clone();
    daemon.brig(&["run", "--name", "kept", BUSYBOX, "sh", "-c", "echo overlay > /root/by"]).success();
    for driver in ["erofs", "vfs", "overlay", "erofs"] {
        daemon.stop();
        daemon.spawn_with(&["--storage-driver", driver]);
        let shown = daemon.get("/info")["Driver"].clone();
        assert_eq!(shown, if driver == "overlay" { "overlay2" } else { driver });
        assert_eq!(daemon.get(&format!("/images/{BUSYBOX}/json"))["Id"], id);
        assert_eq!(daemon.brig(&["run", "--rm", BUSYBOX, "echo", driver]).success(), driver);
        if driver == "vfs" {
            // Its files are in the other driver's directories, and stay there.
            assert!(daemon.brig(&["start", "kept"]).expect(1).stderr.contains("not found"));
            daemon
                .brig(&["run", "--name", "whole", BUSYBOX, "sh", "-c", "rm /bin/wget; echo 1 > /new"])
                .success();
            let changes = daemon.brig(&["diff", "whole"]).success();
            assert_eq!(changes, "C /bin\nD /bin/wget\nA /new");
            daemon.brig(&["rm", "whole"]).success();
        } else {
            let by = daemon.exec_root.join("by");
            daemon.brig(&["cp", "kept:/root/by", by.to_str().unwrap()]).success();
            assert_eq!(std::fs::read_to_string(&by).unwrap(), "overlay\n");
        }
    }
    daemon.brig(&["rm", "kept"]).success();
    daemon.assert_no_leaks();
}

#[test]
fn a_base_that_another_driver_unpacked_is_built_on() {
    if !testkit::is_root() {
        return;
    }
    let mut daemon = start("overlay", None);
    daemon.load_busybox(BUSYBOX);
    let context = tempfile::tempdir().unwrap();
    std::fs::write(context.path().join("Dockerfile"), format!("FROM {BUSYBOX}\nRUN echo built > /f\n"))
        .unwrap();
    for driver in ["vfs", "erofs", "overlay"] {
        daemon.stop();
        daemon.spawn_with(&["--storage-driver", driver]);
        daemon.brig(&["build", "-t", "app", context.path().to_str().unwrap()]).success();
        assert_eq!(daemon.brig(&["run", "--rm", "app", "cat", "/f"]).success(), "built", "{driver}");
    }
    daemon.assert_no_leaks();
}

#[test]
fn subvolumes_and_their_limits() {
    if !testkit::is_root() {
        return;
    }
    let btrfs = Btrfs::new();
    let mut daemon = start("btrfs", Some(btrfs.root().join("data")));
    daemon.load_busybox(BUSYBOX);
    let script = "echo 1 > /new; rm /bin/wget; dd if=/dev/zero of=/much bs=1M count=64; sync; rm -f /much";
    let limited = ["run", "--name", "limited", "--storage-opt", "size=8m", BUSYBOX, "sh", "-c", script];
    daemon.brig(&limited).success();
    let log = daemon.brig(&["logs", "limited"]).stderr;
    assert!(log.contains("quota"), "{log}");
    daemon.brig(&["commit", "limited", "made:1"]).success();
    assert_eq!(daemon.brig(&["run", "--rm", "made:1", "cat", "/new"]).success(), "1");
    daemon.kill9();
    daemon.spawn();
    assert_eq!(daemon.brig(&["run", "--rm", "made:1", "cat", "/new"]).success(), "1");
    daemon.brig(&["rm", "limited"]).success();
    daemon.brig(&["rmi", "made:1", BUSYBOX]).success();
    let volumes = btrfs.root().join("data/btrfs");
    testkit::wait_until("subvolumes are gone", || {
        let count = |name: &str| std::fs::read_dir(volumes.join(name)).unwrap().count();
        count("snapshots") + count("trash") == 0
    });
    drop(daemon);
}

#[test]
fn what_a_driver_cannot_is_refused() {
    if !testkit::is_root() {
        return;
    }
    let daemon = start("overlay", None);
    daemon.load_busybox(BUSYBOX);
    let run = |value: &str| daemon.brig(&["run", "--rm", "--storage-opt", value, BUSYBOX, "true"]);
    for (value, words) in [
        ("size=1g", "storage driver overlay2 cannot limit the size"),
        ("size=much", "invalid size: 'much'"),
        ("inodes=5", "unknown storage option inodes"),
    ] {
        let refused = run(value).expect(125).stderr;
        assert!(refused.contains(words), "{refused}");
    }
    assert_eq!(daemon.container_ids(), Vec::<String>::new());
    // Not on a file system that is no Btrfs: it says so and does not start.
    let brigd = |root: &Path| {
        Command::new(testkit::daemon::program("brigd"))
            .args(["--config-file", "/dev/null", "--storage-driver", "btrfs", "--data-root"])
            .arg(root.join("data"))
            .arg("--exec-root")
            .arg(root.join("exec"))
            .arg("--host")
            .arg(format!("unix://{}", root.join("s").display()))
            .args(["--bridge", &daemon.bridge])
            .output()
            .unwrap()
    };
    let scratch = tempfile::tempdir().unwrap();
    let output = brigd(scratch.path());
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && log.contains("is not on Btrfs"), "{log}");
    daemon.assert_no_leaks();
}
