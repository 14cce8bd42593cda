//! Volumes that may hold only so much, and volumes that hold what no path can name.
#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::BUSYBOX;
use e2e::btrfs::Btrfs;
use rustix::fs::{Mode, OFlags};
use serde_json::json;
use std::path::PathBuf;
use testkit::daemon::{Daemon, Options};
use testkit::wait_until;

fn content(daemon: &Daemon, volume: &str) -> PathBuf {
    daemon.data_root.join("volumes").join(volume).join("_data")
}

/// Whoever writes, whenever, and also by import: no more than the size.
#[test]
fn a_volume_of_a_size_takes_no_more() {
    if !testkit::is_root() {
        return;
    }
    let btrfs = Btrfs::new();
    let mut daemon =
        Daemon::start(Options { data_root: Some(btrfs.root().join("data")), ..Options::default() });
    daemon.load_busybox(BUSYBOX);
    daemon.docker(&["volume", "create", "-o", "size=8m", "small"]).success();
    assert_eq!(daemon.get("/volumes/small")["Options"], json!({ "size": "8m" }));
    daemon.docker(&["volume", "create", "large"]).success();
    let fill = "dd if=/dev/zero of=/v/much bs=1M count=16 conv=fsync 2>&1 || echo refused";
    let run = |volume: &str, script: &str| {
        daemon.docker(&["run", "--rm", "-v", &format!("{volume}:/v"), BUSYBOX, "sh", "-c", script]).success()
    };
    let full = run("small", fill);
    assert!(full.contains("quota") && full.ends_with("refused"), "{full}");
    let fits =
        run("small", "rm /v/much; dd if=/dev/zero of=/v/less bs=1M count=4 conv=fsync 2>&1 && echo fits");
    assert!(fits.ends_with("fits"), "{fits}");
    // Made by a mount, with the options there; anonymous ones too.
    let mount = "type=volume,src=mounted,dst=/v,volume-opt=size=8m";
    let full = daemon.docker(&["run", "--rm", "--mount", mount, BUSYBOX, "sh", "-c", fill]).success();
    assert!(full.ends_with("refused"), "{full}");
    assert!(!run("large", fill).contains("refused"));
    // The next daemon keeps to it.
    daemon.kill9();
    daemon.spawn();
    let run = |volume: &str, script: &str| {
        daemon.docker(&["run", "--rm", "-v", &format!("{volume}:/v"), BUSYBOX, "sh", "-c", script]).success()
    };
    assert!(run("small", fill).ends_with("refused"));
    let archive = daemon.scratch().join("large.tar");
    daemon.brig(&["volume", "export", "-o", archive.to_str().unwrap(), "large"]).success();
    let import = daemon.brig(&["volume", "import", "mounted", archive.to_str().unwrap()]);
    assert!(import.code != Some(0) && import.stderr.contains("uota"), "{}", import.stderr);
    let both = daemon.request(
        "POST",
        "/volumes/create",
        &json!({ "Name": "both",
        "DriverOpts": { "size": "1m", "type": "tmpfs", "device": "tmpfs" } }),
    );
    assert_eq!(both.status, 400, "{}", both.text());
    assert!(both.message().contains("conflicting options"), "{}", both.text());
    daemon.docker(&["volume", "prune", "-a", "-f"]).success();
    let volumes = daemon.data_root.join("volumes");
    wait_until("they are gone", || std::fs::read_dir(&volumes).unwrap().next().is_none());
    drop(daemon);
}

/// A container can nest directories deeper than any path is long.
#[test]
fn deep_trees_are_counted_and_removed() {
    const DEPTH: u32 = 2_500;
    let Some(mut daemon) = e2e::own() else { return };
    daemon.docker(&["volume", "create", "deep"]).success();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let deepen = || {
        let mut at = rustix::fs::open(content(&daemon, "deep"), flags, Mode::empty()).unwrap();
        for _ in 0..DEPTH {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, "d", flags, Mode::empty()).unwrap();
        }
        let file = rustix::fs::openat(&at, "f", OFlags::WRONLY | OFlags::CREATE, Mode::RUSR).unwrap();
        rustix::io::write(&file, b"at the end").unwrap();
    };
    deepen();
    let usage = daemon.get("/system/df?type=volume")["Volumes"][0]["UsageData"]["Size"].clone();
    assert_eq!(usage, 10, "what is at the end is counted");
    daemon.docker(&["volume", "rm", "deep"]).success();
    let volumes = daemon.data_root.join("volumes");
    wait_until("it is gone", || std::fs::read_dir(&volumes).unwrap().next().is_none());

    // As after a kill between the record's removal and the directory's.
    daemon.docker(&["volume", "create", "deep"]).success();
    deepen();
    daemon.stop();
    std::fs::rename(volumes.join("deep"), volumes.join(".removing-0123")).unwrap();
    daemon.spawn();
    wait_until("it is gone", || std::fs::read_dir(&volumes).unwrap().next().is_none());
}
