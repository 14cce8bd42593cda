//! What an image says of its volumes: nothing of the host comes into them, and what is in a volume stays.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::BUSYBOX;
use serde_json::json;
use std::process::Command;
use testkit::images;
use testkit::tar::{self, Entry};

/// T-VOL-1 (CVE-2022-23648): a `VOLUME` with `..`, or behind a symlink, copied the host's files into the container.
#[test]
fn volumes_of_images_hold_nothing_of_the_host() {
    let Some(daemon) = e2e::own() else { return };
    let secret = daemon.scratch().join("secret");
    std::fs::create_dir(&secret).unwrap();
    std::fs::write(secret.join("key"), "of the host").unwrap();
    let secret = secret.to_str().unwrap();
    let climb = "/..".repeat(20);
    let layer = tar::archive(&[
        Entry::symlink("absolute", secret),
        Entry::symlink("relative", &format!("..{climb}{secret}")),
        Entry::directory("deep", 0o755),
        Entry::symlink("deep/link", &format!("../..{climb}{secret}")),
    ]);
    let places = [
        format!("{climb}{secret}"),
        format!("/deep{climb}{secret}"),
        "/absolute".into(),
        "/relative".into(),
        "/deep/link".into(),
        "/deep/link/../secret".into(),
    ];
    let mut made = 0;
    for (at, place) in places.iter().enumerate() {
        let name = format!("evil:{at}");
        let config = json!({"Cmd": ["true"], "Volumes": {place: {}}});
        let layers: [&[u8]; 2] = [images::busybox_layer(), &layer];
        daemon.load(&images::docker_archive(&name, &layers, &config)).expect(200);
        // Refused, or made with a volume in which there is nothing.
        let find = "find / -path /proc -prune -o -path /sys -prune -o -type f -name key -print";
        let run = daemon.brig(&["run", "--name", "one", &name, "sh", "-c", find]);
        assert_eq!(run.stdout, "", "{place}: {run:?}");
        let volumes = daemon.data_root.join("volumes");
        let found = Command::new("grep").args(["-rl", "of the host"]).arg(&volumes).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&found.stdout), "", "{place}: {run:?}");
        made += usize::from(run.code == Some(0));
        daemon.brig(&["rm", "-f", "-v", "one"]);
    }
    assert!(made >= 3, "symlinks in the root are nothing bad: {made}");
    assert_eq!(std::fs::read_dir(secret).unwrap().count(), 1, "and nothing of the image is there");
    assert_eq!(std::fs::read_to_string(format!("{secret}/key")).unwrap(), "of the host");
    daemon.assert_no_leaks();
}

/// T-VOL-2 (CVE-2020-1726): what a volume holds was replaced by what the image has at the place that it is mounted on.
#[test]
fn a_volume_with_something_in_it_keeps_it() {
    let Some(daemon) = e2e::own() else { return };
    daemon.brig(&["volume", "create", "full"]).success();
    daemon.brig(&["run", "--rm", "-v", "full:/data", BUSYBOX, "sh", "-c", "echo mine > /data/f"]).success();
    let layer = tar::archive(&[
        Entry::directory("data", 0o777),
        Entry::file("data/f", 0o644, "of the image"),
        Entry::file("data/g", 0o644, "of the image"),
    ]);
    let config = json!({"Cmd": ["true"], "Volumes": {"/data": {}}});
    daemon.load(&images::docker_archive("filled:1", &[images::busybox_layer(), &layer], &config)).expect(200);
    let show = ["sh", "-c", "ls /data; cat /data/f"];
    let shown =
        |volume| daemon.brig(&[&["run", "--rm", "-v", volume, "filled:1"][..], &show].concat()).success();
    assert_eq!(shown("full:/data"), "f\nmine");
    // An empty one gets what the image has, once.
    assert_eq!(shown("empty:/data"), "f\ng\nof the image");
    daemon.brig(&["run", "--rm", "-v", "empty:/data", "filled:1", "rm", "/data/g"]).success();
    assert_eq!(shown("empty:/data"), "f\nof the image");
    daemon.assert_no_leaks();
}
