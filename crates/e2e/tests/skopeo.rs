//! Archives of images, exchanged with skopeo in both formats. Debian: skopeo.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::BUSYBOX;
use std::path::Path;
use std::process::Command;
use testkit::daemon::{Daemon, Options};
use testkit::registry::Registry;
use testkit::{images, tar};

fn skopeo(args: &[&str]) -> String {
    let output = Command::new("skopeo").arg("--insecure-policy").args(args).output().expect("run skopeo");
    assert!(output.status.success(), "skopeo {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn both_read_what_the_other_writes() {
    if !testkit::is_root() {
        return;
    }
    let registry = Registry::start();
    let daemon = Daemon::start(Options::default());
    // One image with layers as they are, one whose layer is gzip.
    daemon.load_busybox(BUSYBOX);
    daemon.brig(&["run", "--name", "one", BUSYBOX, "sh", "-c", "echo made > /made"]).success();
    daemon.brig(&["commit", "one", "made:1"]).success();
    daemon.brig(&["rm", "one"]).success();
    images::push_busybox(&registry, "packed", "1");
    let packed = registry.reference("packed", "1");
    daemon.brig(&["pull", &packed]).success();
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let (ours, unpacked) = (at("ours.tar"), at("ours"));
    daemon.brig(&["save", "-o", &ours, "made:1", &packed]).success();
    std::fs::create_dir(&unpacked).unwrap();
    assert!(Command::new("tar").args(["-C", &unpacked, "-xf", &ours]).status().unwrap().success());
    let id = |name: &str| daemon.get(&format!("/images/{name}/json"))["Id"].as_str().unwrap().to_string();
    let made = id("made:1");

    // Through skopeo and back, by each way in and each way out.
    let ways_in = [format!("docker-archive:{ours}:made:1"), format!("oci:{unpacked}:1")];
    let ways_out = [("docker-archive", "d.tar"), ("oci-archive", "o.tar")];
    for (n, way_in) in ways_in.iter().enumerate() {
        // Names in an OCI layout are tags alone, which both images have.
        if n == 1 {
            daemon.brig(&["save", "-o", &ours, "made:1"]).success();
            std::fs::remove_dir_all(&unpacked).unwrap();
            std::fs::create_dir(&unpacked).unwrap();
            assert!(Command::new("tar").args(["-C", &unpacked, "-xf", &ours]).status().unwrap().success());
        }
        for (kind, file) in ways_out {
            let theirs = at(&format!("{n}-{file}"));
            skopeo(&["copy", "-q", way_in, &format!("{kind}:{theirs}:back/{kind}:{n}")]);
            let compressed = at("compressed");
            std::fs::write(&compressed, tar::gzip(&std::fs::read(&theirs).unwrap())).unwrap();
            for path in [&theirs, &compressed] {
                daemon.brig(&["load", "-i", path]).success();
                let name = format!("back/{kind}:{n}");
                assert_eq!(
                    daemon.brig(&["run", "--rm", &name, "cat", "/made"]).success(),
                    "made",
                    "{way_in} {name}"
                );
                daemon.brig(&["rmi", &name]).success();
            }
            assert!(Path::new(&theirs).exists());
        }
    }
    assert_eq!(id("made:1"), made);
    // What came compressed goes out as it came, and is read.
    daemon.brig(&["save", "-o", &ours, &packed]).success();
    skopeo(&["inspect", &format!("docker-archive:{ours}:{packed}")]);
    skopeo(&["copy", "-q", &format!("docker-archive:{ours}:{packed}"), &format!("oci:{}:x", at("copied"))]);
    daemon.assert_no_leaks();
}
