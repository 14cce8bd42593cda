//! What images and archives must not reach: settings that are the client's, memory, the store of others on the host.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::BUSYBOX;
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use testkit::daemon::{Daemon, Options};
use testkit::images;
use testkit::tar::{self, Entry};

/// T-LABEL-2 (CVE-2026-53488): a label of an image was obeyed as if a client had set it.
#[test]
fn labels_of_images_steer_nothing() {
    if !testkit::is_root() {
        return;
    }
    let daemon = Daemon::start(Options::default());
    let labels = json!({
        "brig.health-action": "kill", "brig.net-rate-in": "1", "brig.net-rate-out": "1", "brig.anything": "x", "plain": "kept",
    });
    let config = json!({
        "Cmd": ["sleep", "1000"], "Labels": labels,
        "Healthcheck": {"Test": ["CMD", "false"], "Interval": 1_000_000, "Retries": 1},
    });
    daemon.load(&images::docker_archive("labelled:1", &[images::busybox_layer()], &config)).expect(200);
    daemon.brig(&["run", "-d", "--name", "one", "labelled:1"]).success();
    let inspected = daemon.get("/containers/one/json");
    assert_eq!(inspected["Config"]["Labels"], json!({"plain": "kept"}));
    testkit::wait_until("it is unhealthy", || {
        daemon.get("/containers/one/json")["State"]["Health"]["Status"] == "unhealthy"
    });
    // The action would have come with that verdict.
    assert_eq!(daemon.state("one")["Status"], "running");
    // One whose value nobody could obey is no obstacle either; what the client says still counts.
    let nonsense = json!({"Cmd": ["true"], "Labels": {"brig.health-action": "explode"}});
    daemon.load(&images::docker_archive("nonsense:1", &[images::busybox_layer()], &nonsense)).expect(200);
    daemon.brig(&["run", "--rm", "nonsense:1"]).success();
    let own = ["run", "--rm", "--label", "brig.health-action=explode", "nonsense:1"];
    assert!(daemon.brig(&own).expect(125).stderr.contains("brig.health-action=explode"));
    daemon.assert_empties();
}

/// T-LIMIT-1 (CVE-2023-25153): documents of an archive were read into memory whatever their size.
#[test]
fn documents_of_archives_have_a_maximum() {
    if !testkit::is_root() {
        return;
    }
    let daemon = Daemon::start(Options::default());
    let layout = || Entry::file("oci-layout", 0o644, r#"{"imageLayoutVersion":"1.0.0"}"#);
    let large = |bytes: usize| vec![b' '; bytes];
    let index = |kind: &str, bytes: &[u8]| {
        let digest = oci::Digest::of(bytes);
        let entry = json!({"mediaType": kind, "digest": digest, "size": bytes.len()});
        let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
        let path = format!("blobs/sha256/{}", digest.hex());
        tar::archive(&[layout(), Entry::file("index.json", 0o644, index), Entry::file(&path, 0o644, bytes)])
    };
    let manifest = {
        let config = large(9 << 20);
        let digest = oci::Digest::of(&config);
        let manifest = json!({
            "schemaVersion": 2, "layers": [],
            "config": {"mediaType": oci::image::media_type::OCI_CONFIG, "digest": digest, "size": config.len()},
        })
        .to_string();
        let own = oci::Digest::of(manifest.as_bytes());
        let entry =
            json!({"mediaType": oci::image::media_type::OCI_MANIFEST, "digest": own, "size": manifest.len()});
        let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
        tar::archive(&[
            layout(),
            Entry::file("index.json", 0o644, index),
            Entry::file(&format!("blobs/sha256/{}", own.hex()), 0o644, manifest),
            Entry::file(&format!("blobs/sha256/{}", digest.hex()), 0o644, config),
        ])
    };
    let cases = [
        ("manifest.json", tar::archive(&[Entry::file("manifest.json", 0o644, large(5 << 20))])),
        ("index.json", tar::archive(&[layout(), Entry::file("index.json", 0o644, large(5 << 20))])),
        ("oci-layout", tar::archive(&[Entry::file("oci-layout", 0o644, large(5 << 20))])),
        ("a manifest", index(oci::image::media_type::OCI_MANIFEST, &large(5 << 20))),
        ("an index", index(oci::image::media_type::OCI_INDEX, &large(5 << 20))),
        ("a config", manifest),
    ];
    for (what, archive) in cases {
        let said = daemon.load(&archive).expect(200).text();
        let refused = ["more than", "larger than", "its config has"].iter().any(|words| said.contains(words));
        assert!(said.contains("errorDetail") && refused, "{what}: {said}");
    }
    daemon.assert_empties();
}

/// T-PERM-1 (CVE-2021-41091, CVE-2021-41103): others of the host could walk into the store, to setuid programs of images.
#[test]
fn others_of_the_host_cannot_enter_the_store() {
    if !testkit::is_root() {
        return;
    }
    // Where they could go, if it were for the directories above alone.
    let above = tempfile::tempdir().unwrap();
    std::fs::set_permissions(above.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let daemon = Daemon::start(Options { data_root: Some(above.path().join("data")), ..Options::default() });
    let setuid = tar::archive(&[Entry::file("program", 0o4755, "#!/bin/sh\n")]);
    let archive =
        images::docker_archive(BUSYBOX, &[images::busybox_layer(), &setuid], &images::busybox_config());
    daemon.load(&archive).expect(200);
    daemon.brig(&["volume", "create", "kept"]).success();
    daemon
        .brig(&["run", "-d", "--name", "one", "-v", "kept:/v", "--network", "none", BUSYBOX, "sleep", "1000"])
        .success();
    let find = |path: &std::path::Path| {
        let output = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "find"])
            .arg(path)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_string).collect::<Vec<_>>()
    };
    let seen = find(above.path());
    assert_eq!(
        seen,
        [above.path().display().to_string(), daemon.data_root.display().to_string()],
        "nobody looks in"
    );
    // Not for the top alone: each part keeps others out by itself.
    std::fs::set_permissions(&daemon.data_root, PermissionsExt::from_mode(0o755)).unwrap();
    let seen = find(&daemon.data_root);
    let inside: Vec<&String> = seen
        .iter()
        .filter(|path| {
            path.contains("/snapshots/") || path.contains("/content/") || path.contains("/volumes/")
        })
        .collect();
    assert!(inside.is_empty(), "{inside:?}");
    daemon.assert_empties();
}
