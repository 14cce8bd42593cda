//! Containers of one image share its layers and its page cache, and what one changes reaches neither the image nor another. And
//! layers of zstd:chunked, which are zstd with a table of contents that plain readers skip.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::BUSYBOX;
use serde_json::{Value, json};
use std::process::Command;
use testkit::daemon::{Daemon, Options};
use testkit::registry::Registry;
use testkit::tar::{self, Entry};
use testkit::{images, wait_until};

const BIG: u64 = 24 << 20;

/// Bytes of files in memory that the kernel has put on a container's account.
fn cached(daemon: &Daemon, name: &str) -> u64 {
    let stats = daemon.get(&format!("/containers/{name}/stats?stream=false&one-shot=true"));
    let stats = &stats["memory_stats"]["stats"];
    stats["total_cache"].as_u64().or(stats["cache"].as_u64()).or(stats["file"].as_u64()).unwrap()
}

/// Has the kernel drop what it holds of the large files below `directory`, which are on disk.
fn forget_pages(directory: &std::path::Path) {
    for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let metadata = entry.metadata().unwrap();
        if metadata.is_dir() {
            forget_pages(&entry.path());
        } else if metadata.is_file() && metadata.len() >= BIG {
            let file = std::fs::File::open(entry.path()).unwrap();
            file.sync_all().unwrap();
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        }
    }
}

fn share(driver: &str) {
    if !testkit::is_root() {
        return;
    }
    let flags = vec!["--storage-driver".into(), driver.into()];
    let daemon = Daemon::start(Options { flags, ..Options::default() });
    // No two pages alike, and nothing that a file system could leave out.
    let big: Vec<u8> =
        (0..BIG / 8).flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect();
    let layer =
        tar::archive(&[Entry::file("big", 0o644, big), Entry::file("small", 0o644, "of the image\n")]);
    let archive =
        images::docker_archive("shared:1", &[images::busybox_layer(), &layer], &images::busybox_config());
    daemon.load(&archive).expect(200);
    forget_pages(&daemon.data_root.join("snapshots"));
    let before = daemon.get("/images/shared:1/json");
    let names = ["first", "second", "third"];
    for name in names {
        daemon
            .brig(&["run", "-d", "--name", name, "--network", "none", "shared:1", "sleep", "1000"])
            .success();
    }
    // Who reads it first pays for it; for the others it is there.
    for name in names {
        daemon.brig(&["exec", name, "sh", "-c", "cat /big > /dev/null"]).success();
    }
    let first = cached(&daemon, "first");
    assert!(first >= BIG / 2, "{first} of {BIG} bytes are on the first one's account");
    for name in &names[1..] {
        let later = cached(&daemon, name);
        assert!(later < BIG / 2, "{name} has {later} of {BIG} bytes once more");
    }

    // Written, replaced, removed, linked over, made a directory: in one container only.
    let script = "echo changed > /small; rm /bin/wget; mv /etc/passwd /etc/moved; ln -f /small /etc/group; \
                  rm /etc/not-a-program; mkdir /etc/not-a-program; echo x >> /big; chmod 700 /home; chown 1:1 /tmp";
    daemon.brig(&["exec", "first", "sh", "-c", script]).success();
    let look = "cat /small; test -x /bin/wget && test -f /etc/not-a-program && head -c 4 /etc/passwd; stat -c %a%s /home/. /big; \
                stat -c %u /tmp; cat /etc/group | head -n 1";
    let seen = daemon.brig(&["exec", "second", "sh", "-c", look]).success();
    assert!(
        seen.starts_with("of the image\nroot755") && seen.contains(&format!("644{BIG}\n0\nroot:")),
        "{seen}"
    );
    let fresh = daemon.brig(&["run", "--rm", "--network", "none", "shared:1", "sh", "-c", look]).success();
    assert_eq!(fresh, seen);
    assert_eq!(daemon.get("/images/shared:1/json"), before);
    // Every layer against the blob that it came from.
    let checked = daemon.request("GET", "/brig/check", &Value::Null).expect(200).json();
    assert_eq!((&checked["Faults"], &checked["LayersNotCompared"]), (&json!([]), &json!(0)), "{checked}");
    daemon.assert_empties();
}

#[test]
fn containers_share_directories() {
    share("overlay");
}

#[test]
fn containers_share_images() {
    share("erofs");
}

#[test]
fn zstd_chunked_is_read_as_zstd() {
    if !testkit::is_root() {
        return;
    }
    let (registry, directory) = (Registry::start(), tempfile::tempdir().unwrap());
    let file = directory.path().join("image.tar");
    let layer =
        tar::archive(&[Entry::file("one", 0o644, vec![1; 500_000]), Entry::file("two", 0o644, "two\n")]);
    let archive =
        images::docker_archive(BUSYBOX, &[images::busybox_layer(), &layer], &images::busybox_config());
    std::fs::write(&file, archive).unwrap();
    let reference = registry.reference("chunked", "1");
    let copied = Command::new("skopeo")
        .args(["--insecure-policy", "copy", "-q", "--dest-tls-verify=false", "--format", "oci"])
        .args(["--dest-compress-format", "zstd:chunked"])
        .arg(format!("docker-archive:{}", file.display()))
        .arg(format!("docker://{reference}"))
        .output()
        .unwrap();
    assert!(copied.status.success(), "{copied:?}");
    let manifest: Value = serde_json::from_slice(&registry.manifest("chunked", "1").unwrap()).unwrap();
    let layer = &manifest["layers"][1];
    assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+zstd");
    let has_table = layer["annotations"].as_object().unwrap().keys().any(|key| key.contains("zstd-chunked"));
    assert!(has_table, "it is no zstd:chunked: {layer}");

    let daemon = Daemon::start(Options::default());
    daemon.brig(&["pull", &reference]).success();
    let run = |script: &str| {
        daemon.brig(&["run", "--rm", "--network", "none", &reference, "sh", "-c", script]).success()
    };
    assert_eq!(run("cat /two; wc -c < /one"), "two\n500000");
    // It goes out as it came.
    let copy = registry.reference("copied", "1");
    daemon.brig(&["tag", &reference, &copy]).success();
    daemon.brig(&["push", &copy]).success();
    assert_eq!(registry.manifest("copied", "1"), registry.manifest("chunked", "1"));
    daemon.brig(&["rmi", &reference, &copy]).success();
    wait_until("nothing is left", || daemon.get("/images/json") == json!([]));
    daemon.assert_empties();
}
