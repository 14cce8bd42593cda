//! What images and containers must not reach by way of volumes: files of the host, and data that is there already.
#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::BUSYBOX;
use e2e::networks::sleeper;
use serde_json::json;
use testkit::images;

/// T-VOL-1 (CVE-2022-23648): a path of an image's VOLUME that leads up and out is one inside the container, and nothing of the
/// host is copied there.
#[test]
fn volumes_of_images_hold_nothing_of_the_host() {
    let Some(daemon) = e2e::own() else { return };
    let host = tempfile::tempdir().unwrap();
    std::fs::write(host.path().join("secret"), "tweet").unwrap();
    let out = host.path().to_str().unwrap().trim_start_matches('/');
    let paths = [
        format!("/../../../../../../../../../../../../{out}"),
        "/../../bin".into(),
        format!("/a/../../{out}/../{}", host.path().file_name().unwrap().to_str().unwrap()),
        "//double//slash".into(),
    ];
    let volumes: serde_json::Map<_, _> = paths.iter().map(|path| (path.clone(), json!({}))).collect();
    let config = json!({ "Cmd": ["sleep", "1000"], "Volumes": volumes });
    daemon.load(&images::docker_archive("up:1", &[images::busybox_layer()], &config)).expect(200);
    sleeper(&daemon, "plain", &[]);
    let bin = daemon.brig(&["exec", "plain", "ls", "/bin"]).success();
    daemon.brig(&["run", "-d", "--name", "one", "up:1"]).success();
    let inside = format!("/{out}");
    for (path, expected) in [(inside.as_str(), ""), ("/bin", bin.as_str()), ("/double/slash", "")] {
        let listed = daemon.brig(&["exec", "one", "ls", path]);
        assert_eq!((listed.code, listed.stdout.trim()), (Some(0), expected.trim()), "{path}");
    }
    let mounts = daemon.get("/containers/one/json")["Mounts"].clone();
    let mut at: Vec<&str> =
        mounts.as_array().unwrap().iter().map(|m| m["Destination"].as_str().unwrap()).collect();
    at.sort_unstable();
    assert_eq!(at, ["/bin", "/double/slash", &inside], "each place once");
    daemon.remove_all();
    // The root itself, and what is no path.
    for wrong in ["/..", "/", "relative"] {
        let config = json!({ "Cmd": ["true"], "Volumes": { wrong: {} } });
        daemon.load(&images::docker_archive("wrong:1", &[images::busybox_layer()], &config)).expect(200);
        let refused = daemon.brig(&["run", "--rm", "wrong:1"]);
        assert_eq!(refused.code, Some(125), "{wrong}: {refused:?}");
    }
    assert_eq!(std::fs::read_to_string(host.path().join("secret")).unwrap(), "tweet");
    daemon.assert_empties();
}

/// T-VOL-2 (CVE-2020-1726): a volume is filled from the image once, before anybody sees it, and never again.
#[test]
fn a_volume_is_filled_once() {
    let Some(daemon) = e2e::own() else { return };
    sleeper(&daemon, "plain", &[]);
    let bin = daemon.brig(&["exec", "plain", "ls", "/bin"]).success();
    // The first use, by several at once.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let seen = daemon.brig(&["run", "--rm", "-v", "shared:/bin", BUSYBOX, "ls", "/bin"]);
                assert_eq!((seen.code, seen.stdout.trim()), (Some(0), bin.trim()), "{seen:?}");
            });
        }
    });
    // What is there stays, and is all that is there.
    daemon.brig(&["volume", "create", "mine"]).success();
    let mut place = daemon.data_root.join("volumes/mine/_data");
    place.push("kept");
    std::fs::write(&place, "mine").unwrap();
    for _ in 0..2 {
        let run = ["run", "--rm", "-v", "mine:/etc/own", "-v", "mine:/bin/x", BUSYBOX, "ls", "/etc/own"];
        assert_eq!(daemon.brig(&run).success().trim(), "kept");
    }
    assert_eq!(std::fs::read_to_string(&place).unwrap(), "mine");
    let first = daemon.brig(&[
        "run",
        "--rm",
        "--mount",
        "type=volume,src=none,dst=/bin/x,volume-nocopy",
        BUSYBOX,
        "true",
    ]);
    assert_eq!(first.code, Some(0), "{first:?}");
    daemon.remove_all();
    daemon.assert_empties();
}

/// T-VOL-3 (CVE-2023-0778): a directory that the container makes a link to the host, and a directory again, while the volume is
/// exported.
#[test]
fn an_export_does_not_follow_what_a_container_swaps() {
    let Some(daemon) = e2e::own() else { return };
    let host = tempfile::tempdir().unwrap();
    std::fs::write(host.path().join("secret"), "tweet-of-the-host").unwrap();
    let swap = format!(
        "cd /v; while :; do mkdir d; echo inside > d/secret; rm -r d; ln -s {} d; rm d; echo more >> log; : > log; done",
        host.path().display()
    );
    daemon.brig(&["run", "-d", "--name", "racer", "-v", "raced:/v", BUSYBOX, "sh", "-c", &swap]).success();
    let archive = host.path().join("v.tar");
    let mut links = 0;
    for round in 0..1000 {
        daemon.brig(&["volume", "export", "-o", archive.to_str().unwrap(), "raced"]).success();
        let bytes = std::fs::read(&archive).unwrap();
        let secret = b"tweet-of-the-host";
        assert!(
            !bytes.windows(secret.len()).any(|part| part == secret),
            "a file of the host is in the archive"
        );
        let listed = std::process::Command::new("tar").arg("-tvf").arg(&archive).output().unwrap();
        assert!(listed.status.success(), "{listed:?}");
        links += u32::from(String::from_utf8_lossy(&listed.stdout).contains(" -> "));
        // Often enough in the midst of it.
        if round >= 20 && links >= 2 {
            break;
        }
    }
    assert!(links > 0, "the race is no good");
    daemon.remove_all();
}
