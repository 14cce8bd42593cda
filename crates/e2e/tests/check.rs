//! `system check`: what is damaged is found, named and repaired; and `system df` that adds up.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::{BUSYBOX, own};
use serde_json::{Value, json};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use testkit::daemon::{Daemon, Options};
use testkit::images;
use testkit::registry::Registry;
use testkit::tar::{self, Entry};

fn check(daemon: &Daemon) -> Value {
    daemon.get("/brig/check")
}

fn repair(daemon: &Daemon) -> Value {
    daemon.request("POST", "/brig/check?repair=1", &Value::Null).expect(200).json()
}

/// Changes one byte in the middle of a file.
fn flip(path: &Path, at: u64) {
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    file.sync_all().unwrap();
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files_below(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

const MARK: &[u8] = b"a text that is nowhere else";

#[test]
fn a_flipped_bit_in_a_layer_is_found_and_the_layer_made_again() {
    let Some(daemon) = own() else { return };
    let layer = tar::archive(&[Entry::file("marked", 0o644, MARK.repeat(1000))]);
    daemon
        .load(&images::docker_archive(
            "marked:1",
            &[images::busybox_layer(), &layer],
            &images::busybox_config(),
        ))
        .expect(200);
    let clean = check(&daemon);
    assert_eq!(clean["Faults"], json!([]), "{clean}");
    assert_eq!(
        (&clean["Images"], &clean["Layers"], &clean["LayersNotCompared"]),
        (&json!(2), &json!(2), &json!(0))
    );
    assert_eq!(daemon.brig(&["system", "check"]).code, Some(0));

    let place = |file: &PathBuf| {
        let bytes = std::fs::read(file).unwrap();
        bytes.windows(MARK.len()).position(|w| w == MARK).map(|at| (file.clone(), at as u64 + 5))
    };
    let (path, at) = files_below(&daemon.data_root.join("snapshots")).iter().find_map(place).unwrap();
    flip(&path, at);
    let found = daemon.brig(&["system", "check"]);
    assert_eq!(found.code, Some(1));
    assert!(found.stdout.contains("marked: its content has changed"), "{}", found.stdout);
    let faults = check(&daemon)["Faults"].clone();
    assert_eq!(faults.as_array().unwrap().len(), 1, "{faults}");
    let id = daemon.get("/images/marked:1/json")["Id"].clone();
    assert_eq!((&faults[0]["Kind"], &faults[0]["Images"]), (&json!("layer"), &json!([id])));

    // Not under a container that runs on it.
    daemon.brig(&["run", "-d", "--name", "one", "marked:1", "sleep", "1000"]).success();
    let refused = repair(&daemon)["Faults"].clone();
    assert_eq!(refused[0]["Repaired"], false, "{refused}");
    assert!(refused[0]["Repair"].as_str().unwrap().contains("in use"), "{refused}");
    daemon.brig(&["rm", "-f", "one"]).success();
    testkit::wait_until("the layer is repaired", || {
        repair(&daemon)["Faults"][0]["Repaired"] == true || check(&daemon)["Faults"] == json!([])
    });
    assert_eq!(check(&daemon)["Faults"], json!([]));
    let text = daemon.brig(&["run", "--rm", "marked:1", "cat", "/marked"]).success();
    assert!(text.as_bytes() == MARK.repeat(1000));
    daemon.brig(&["run", "--rm", BUSYBOX, "true"]).success();
    daemon.brig(&["rmi", "marked:1", BUSYBOX]).success();
    daemon.assert_empties();
}

#[test]
fn a_flipped_bit_in_a_blob_is_found_and_the_blob_fetched_again() {
    if !testkit::is_root() {
        return;
    }
    let registry = Registry::start();
    let daemon = Daemon::start(Options::default());
    images::push_busybox(&registry, "busybox", "1");
    let name = registry.reference("busybox", "1");
    daemon.brig(&["pull", &name]).success();
    daemon
        .load(&images::docker_archive(
            "local:1",
            &[&tar::archive(&[Entry::file("x", 0o644, "y")])],
            &json!({}),
        ))
        .expect(200);
    let blobs = files_below(&daemon.data_root.join("content/blobs"));
    for blob in &blobs {
        flip(blob, std::fs::metadata(blob).unwrap().size() / 2);
    }
    let found = check(&daemon)["Faults"].clone();
    assert_eq!(found.as_array().unwrap().len(), blobs.len(), "{found}");
    assert!(
        found
            .as_array()
            .unwrap()
            .iter()
            .all(|f| f["Kind"] == "blob" && f["Images"].as_array().unwrap().len() == 1)
    );
    let repaired = repair(&daemon)["Faults"].clone();
    let fetched = |f: &&Value| f["Repair"] == "fetched again";
    assert_eq!(
        repaired.as_array().unwrap().iter().filter(fetched).count(),
        3,
        "config, manifest and layer: {repaired}"
    );
    let why = "it did not come from a registry: load or pull the image again";
    assert!(repaired.as_array().unwrap().iter().any(|f| f["Repair"] == why), "{repaired}");
    // What was pulled is whole again, and nothing keeps it from running.
    assert_eq!(daemon.brig(&["run", "--rm", &name, "echo", "hi"]).success(), "hi");
    daemon.request("GET", &format!("/images/{name}/get"), &Value::Null).expect(200);
    let left = check(&daemon)["Faults"].clone();
    let local = daemon
        .get("/images/json")
        .as_array()
        .unwrap()
        .iter()
        .find(|i| i["RepoTags"] == json!(["local:1"]))
        .unwrap()["Id"]
        .clone();
    assert!(left.as_array().unwrap().iter().all(|f| f["Images"] == json!([local])), "{left}");
    daemon.brig(&["rmi", "local:1"]).success();
    assert_eq!(check(&daemon)["Faults"], json!([]));
}

#[test]
fn records_and_directories_are_compared_both_ways() {
    let Some(daemon) = own() else { return };
    daemon.brig(&["create", "--name", "one", BUSYBOX]).success();
    let snapshots = daemon.data_root.join("snapshots");
    std::fs::create_dir(snapshots.join("4711")).unwrap();
    let stray = daemon.data_root.join("content/blobs/sha256").join("0".repeat(64));
    std::fs::write(&stray, "x").unwrap();
    let faults = check(&daemon)["Faults"].clone();
    let has = |kind: &str, text: &str| {
        faults
            .as_array()
            .unwrap()
            .iter()
            .any(|f| f["Kind"] == kind && f["Fault"].as_str().unwrap().contains(text))
    };
    assert!(has("directory", "without a record"), "{faults}");
    assert!(has("blob", "has digest"), "{faults}");
    std::fs::remove_file(&stray).unwrap();
    std::fs::remove_dir(snapshots.join("4711")).unwrap();
    // A container's changes are gone: named, and nothing to be done.
    let own = std::fs::read_dir(&snapshots)
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.join("work").exists())
        .unwrap();
    let away = daemon.data_root.join("away");
    std::fs::rename(&own, &away).unwrap();
    let faults = repair(&daemon)["Faults"].clone();
    assert_eq!(faults[0]["Kind"], "snapshot", "{faults}");
    std::fs::rename(&away, &own).unwrap();
    assert_eq!(check(&daemon)["Faults"], json!([]));
    daemon.remove_all();
}

#[test]
fn the_parts_add_up_to_what_the_file_system_says() {
    let Some(daemon) = own() else { return };
    let script = "head -c 3000000 /dev/zero > /data/v; head -c 2000000 /dev/zero > /own";
    daemon.brig(&["run", "--name", "one", "-v", "vol:/data", BUSYBOX, "sh", "-c", script]).success();
    std::fs::write(daemon.data_root.join("stranger"), vec![1; 500_000]).unwrap();
    let report = daemon.get("/brig/df");
    let sum = |name: &str| {
        report[name].as_array().unwrap().iter().map(|p| p["Bytes"].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!(sum("Parts") + sum("Unaccounted"), report["Total"].as_u64().unwrap());
    let names: Vec<&str> =
        report["Unaccounted"].as_array().unwrap().iter().map(|p| p["Name"].as_str().unwrap()).collect();
    assert_eq!(names, ["stranger"], "{report}");
    let part = |name: &str| {
        let found = report["Parts"].as_array().unwrap().iter().find(|p| p["Name"] == name);
        found.unwrap_or_else(|| panic!("{name}: {report}"))["Bytes"].as_u64().unwrap()
    };
    assert!(
        part("volumes") >= 3_000_000
            && part("containers' changes") >= 2_000_000
            && part("blobs") > 0
            && part("layers") > 0
    );
    // What du counts of the same tree.
    let du =
        std::process::Command::new("du").args(["-s", "-x", "-B1"]).arg(&daemon.data_root).output().unwrap();
    let counted: u64 =
        String::from_utf8(du.stdout).unwrap().split_whitespace().next().unwrap().parse().unwrap();
    let total = daemon.get("/brig/df")["Total"].as_u64().unwrap();
    assert!(counted.abs_diff(total) <= 256 << 10, "du says {counted}, the report {total}");
    let text = daemon.brig(&["system", "df", "-v"]).success();
    for word in ["Images space usage:", "Local Volumes space usage:", "unaccounted: stranger", "SHARED SIZE"]
    {
        assert!(text.contains(word), "{word}: {text}");
    }
    std::fs::remove_file(daemon.data_root.join("stranger")).unwrap();
    let pruned = daemon.brig(&["system", "prune", "-a", "-f", "--volumes"]).success();
    assert!(pruned.contains("Deleted Containers:") && pruned.contains("Deleted Images:"), "{pruned}");
    assert_eq!(daemon.get("/images/json?all=1"), json!([]));
}
