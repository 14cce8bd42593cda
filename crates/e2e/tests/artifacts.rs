//! What is no plain image: attestations in an index, artifacts, collections of artifacts, referrers, several platforms. All
//! go through pull, save, load and push with the same digests.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use oci::image::media_type::{OCI_CONFIG, OCI_INDEX, OCI_MANIFEST};
use oci::{Descriptor, Digest, Platform};
use serde_json::{Value, json};
use std::path::Path;
use testkit::daemon::{Daemon, Options};
use testkit::registry::{Pushed, Registry};
use testkit::{images, tar};

const EMPTY: &str = "application/vnd.oci.empty.v1+json";

fn machines() -> Option<(Daemon, Daemon, Registry)> {
    if !testkit::is_root() {
        return None;
    }
    Some((Daemon::start(Options::default()), Daemon::start(Options::default()), Registry::start()))
}

/// A file of an archive, as GNU tar reads it.
fn member(archive: &Path, name: &str) -> Value {
    let output = std::process::Command::new("tar").arg("-xOf").arg(archive).arg(name).output().unwrap();
    assert!(output.status.success(), "{name}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn busybox(registry: &Registry, repository: &str, platform: &str) -> Pushed {
    let layer = tar::gzip(images::busybox_layer());
    let platform: Platform = platform.parse().unwrap();
    registry.push_image_for(&platform, repository, "only", &[layer], images::busybox_config())
}

/// What build tools put beside an image: a manifest of the platform `unknown` about it.
fn attestation(registry: &Registry, repository: &str, about: &Digest) -> (Descriptor, Digest) {
    let statement = json!({"_type": "https://in-toto.io/Statement/v0.1", "subject": about}).to_string();
    let layer = registry.push_blob(repository, "application/vnd.in-toto+json", statement.as_bytes());
    let config = json!({
        "architecture": "unknown", "os": "unknown", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
    });
    let config = registry.push_blob(repository, OCI_CONFIG, config.to_string().as_bytes());
    let manifest =
        json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [layer]});
    let bytes = serde_json::to_vec(&manifest).unwrap();
    let mut entry = registry.push_manifest(repository, &Digest::of(&bytes).to_string(), OCI_MANIFEST, &bytes);
    entry.platform = Some("unknown/unknown".parse().unwrap());
    entry.annotations.insert("vnd.docker.reference.type".into(), "attestation-manifest".into());
    entry.annotations.insert("vnd.docker.reference.digest".into(), about.to_string());
    (entry, layer.digest)
}

/// An artifact that is no image, as `oras` makes them. Returns its bytes.
fn artifact(
    registry: &Registry,
    repository: &str,
    tag: &str,
    text: &str,
    subject: Option<&Descriptor>,
) -> Vec<u8> {
    let config = registry.push_blob(repository, EMPTY, b"{}");
    let layer = registry.push_blob(repository, "text/plain", text.as_bytes());
    let mut manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": "application/vnd.example+type",
        "config": config, "layers": [layer], "annotations": {"org.opencontainers.image.created": "2024-01-02T03:04:05Z"},
    });
    if let Some(subject) = subject {
        manifest["subject"] =
            json!({"mediaType": subject.media_type, "digest": subject.digest, "size": subject.size});
    }
    // Not how we would write it: nobody may write it anew.
    let bytes = serde_json::to_vec_pretty(&manifest).unwrap();
    registry.push_manifest(repository, tag, OCI_MANIFEST, &bytes);
    bytes
}

#[test]
fn attestations_stay_with_their_image() {
    let Some((daemon, other, registry)) = machines() else { return };
    let host = Platform::host().to_string();
    let image = busybox(&registry, "built", &host);
    let (entry, statement) = attestation(&registry, "built", &image.descriptor.digest);
    let index = registry.push_index("built", "1", &[image.descriptor.clone(), entry.clone()]);
    let reference = registry.reference("built", "1");
    daemon.brig(&["pull", &reference]).success();
    let inspected = daemon.get(&format!("/images/{reference}/json"));
    assert_eq!(inspected["Descriptor"]["digest"], json!(index.digest));
    assert_eq!(inspected["Id"], json!(image.manifest.config.digest));

    // By archive to another daemon, which has never seen the registry, and from there to an empty repository.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("saved.tar");
    daemon.brig(&["save", "-o", path.to_str().unwrap(), &reference]).success();
    assert_eq!(member(&path, "index.json")["manifests"][0]["digest"], json!(index.digest));
    assert_eq!(member(&path, "manifest.json")[0]["RepoTags"], json!([reference]));
    other.brig(&["load", "-i", path.to_str().unwrap()]).success();
    assert_eq!(
        other.brig(&["run", "--rm", "--network", "none", &reference, "echo", "here"]).success(),
        "here"
    );
    let copy = registry.reference("copied", "2");
    other.brig(&["tag", &reference, &copy]).success();
    other.brig(&["push", &copy]).success();
    assert_eq!(registry.manifest("copied", "2"), registry.manifest("built", "1"));
    assert!(registry.manifest("copied", &entry.digest.to_string()).is_some());
    assert!(registry.has_blob("copied", &statement));

    // A restart collects nothing of it, and a check finds nothing.
    let mut other = other;
    other.restart();
    assert_eq!(other.request("GET", "/brig/check", &Value::Null).expect(200).json()["Faults"], json!([]));
    let hex = statement.hex();
    assert!(other.data_root.join("content/blobs/sha256").join(&hex).exists());
    other.brig(&["rmi", &reference, &copy]).success();
    assert!(!other.data_root.join("content/blobs/sha256").join(&hex).exists());
    daemon.assert_empties();
    other.assert_empties();
}

#[test]
fn an_attestation_that_the_registry_has_lost_is_no_obstacle() {
    let Some((daemon, _, _)) = machines() else { return };
    let layer = tar::gzip(images::busybox_layer());
    let served = testkit::http::Served::image("image", &[layer], &images::busybox_config());
    let request =
        |path: &str| testkit::http::Request { method: "GET".into(), path: path.into(), ..Default::default() };
    let manifest = served.answer(&request("/v2/r/manifests/image")).body;
    let host = Platform::host();
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [
        {"mediaType": OCI_MANIFEST, "digest": Digest::of(&manifest), "size": manifest.len(), "platform": host},
        {"mediaType": OCI_MANIFEST, "digest": Digest::of(b"lost"), "size": 4,
         "platform": {"os": "unknown", "architecture": "unknown"},
         "annotations": {"vnd.docker.reference.digest": Digest::of(&manifest)}},
    ]});
    let registry = testkit::http::Server::start(move |request, _| match request.path.as_str() {
        "/v2/r/manifests/1" => {
            testkit::http::Answer::new(200, index.to_string()).with("Content-Type", OCI_INDEX)
        }
        _ => served.answer(request),
    });
    let reference = format!("{}/r:1", registry.address);
    daemon.brig(&["pull", &reference]).success();
    daemon.brig(&["run", "--rm", "--network", "none", &reference, "true"]).success();
    daemon.assert_empties();
}

#[test]
fn artifacts_are_kept_as_they_are() {
    let Some((daemon, other, registry)) = machines() else { return };
    let bytes = artifact(&registry, "things", "1", "some text\n", None);
    let digest = Digest::of(&bytes);
    let reference = registry.reference("things", "1");
    // By both clients; the second time it is there already.
    daemon.brig(&["pull", &reference]).success();
    assert!(daemon.docker(&["pull", &reference]).success().contains("Image is up to date"));
    let inspected = daemon.get(&format!("/images/{reference}/json"));
    assert_eq!(inspected["Id"], json!(digest));
    assert_eq!(inspected["Descriptor"]["artifactType"], "application/vnd.example+type");
    assert_eq!((&inspected["Size"], &inspected["Os"]), (&json!(10), &json!("")));
    assert_eq!(inspected["Created"], "2024-01-02T03:04:05Z");
    assert!(daemon.docker(&["images"]).success().contains("things"));
    assert!(daemon.docker(&["history", &reference]).success().lines().count() == 1);
    let run = daemon.docker(&["run", "--rm", &reference]);
    assert!(run.stderr.contains("not a container image"), "{run:?}");
    let context = tempfile::tempdir().unwrap();
    std::fs::write(context.path().join("Dockerfile"), format!("FROM {reference}\n")).unwrap();
    let build = daemon.brig(&["build", context.path().to_str().unwrap()]);
    assert!(build.stderr.contains("not a container image"), "{build:?}");

    let path = context.path().join("saved.tar");
    daemon.brig(&["save", "-o", path.to_str().unwrap(), &reference]).success();
    let root = &member(&path, "index.json")["manifests"][0];
    assert_eq!(root["digest"], json!(digest));
    assert_eq!(root["artifactType"], "application/vnd.example+type");
    assert_eq!(member(&path, "manifest.json"), json!([]));
    assert!(other.docker(&["load", "-i", path.to_str().unwrap()]).success().contains(&reference));
    let copy = registry.reference("copied", "1");
    other.docker(&["tag", &reference, &copy]).success();
    other.docker(&["push", &copy]).success();
    assert_eq!(registry.manifest("copied", "1"), Some(bytes));

    let mut other = other;
    other.restart();
    assert_eq!(other.request("GET", "/brig/check", &Value::Null).expect(200).json()["Faults"], json!([]));
    other.docker(&["rmi", &reference]).success();
    assert!(other.docker(&["rmi", &copy]).success().contains(&format!("Deleted: {digest}")));
    daemon.assert_empties();
    other.assert_empties();
}

#[test]
fn an_index_of_artifacts_is_one_thing() {
    let Some((daemon, other, registry)) = machines() else { return };
    let kept: Vec<Vec<u8>> =
        ["one", "two", "three"].iter().map(|text| artifact(&registry, "all", text, text, None)).collect();
    let entries: Vec<Descriptor> = kept
        .iter()
        .map(|bytes| Descriptor::new(OCI_MANIFEST, Digest::of(bytes), bytes.len() as u64))
        .collect();
    let index = registry.push_index("all", "1", &entries);
    let reference = registry.reference("all", "1");
    daemon.brig(&["pull", &reference]).success();
    assert_eq!(daemon.get(&format!("/images/{reference}/json"))["Id"], json!(index.digest));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("saved.tar");
    daemon.brig(&["save", "-o", path.to_str().unwrap(), &reference]).success();
    other.brig(&["load", "-i", path.to_str().unwrap()]).success();
    let copy = registry.reference("copied", "1");
    other.brig(&["tag", &reference, &copy]).success();
    other.brig(&["push", &copy]).success();
    assert_eq!(registry.manifest("copied", "1"), registry.manifest("all", "1"));
    for bytes in kept {
        assert_eq!(registry.manifest("copied", &Digest::of(&bytes).to_string()), Some(bytes));
    }
    daemon.assert_empties();
    other.assert_empties();
}

/// Debian's registry knows no referrers: they are listed under a tag that the subject's digest makes.
#[test]
fn what_is_pushed_about_an_image_is_listed() {
    let Some((daemon, _, registry)) = machines() else { return };
    let image = images::push_busybox(&registry, "source", "image");
    let mut expected = Vec::new();
    for (n, text) in ["first", "second"].iter().enumerate() {
        let tag = format!("about{n}");
        let bytes = artifact(&registry, "source", &tag, text, Some(&image.descriptor));
        let (from, to) = (registry.reference("source", &tag), registry.reference("copied", &tag));
        daemon.brig(&["pull", &from]).success();
        daemon.brig(&["tag", &from, &to]).success();
        // Pushed twice, listed once.
        daemon.brig(&["push", &to]).success();
        daemon.brig(&["push", &to]).success();
        expected.push(json!(Digest::of(&bytes)));
    }
    let tag = image.descriptor.digest.to_string().replace(':', "-");
    let list: Value = serde_json::from_slice(&registry.manifest("copied", &tag).unwrap()).unwrap();
    let entries = list["manifests"].as_array().unwrap();
    assert_eq!(entries.iter().map(|entry| entry["digest"].clone()).collect::<Vec<_>>(), expected);
    assert_eq!(entries[0]["artifactType"], "application/vnd.example+type");
    assert_eq!(entries[0]["annotations"]["org.opencontainers.image.created"], "2024-01-02T03:04:05Z");
    daemon.assert_empties();
}

#[test]
fn all_platforms_that_are_here_are_saved_and_loaded() {
    let Some((daemon, other, registry)) = machines() else { return };
    let host = Platform::host().to_string();
    let foreign = if host.contains("arm64") { "linux/amd64" } else { "linux/arm64" };
    let all = ["linux/s390x", foreign, &host].map(|platform| busybox(&registry, "many", platform).descriptor);
    let index = registry.push_index("many", "1", &all);
    let reference = registry.reference("many", "1");
    for platform in [foreign, &host] {
        daemon.brig(&["pull", "--platform", platform, &reference]).success();
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("saved.tar");
    daemon.brig(&["save", "-o", path.to_str().unwrap(), &reference]).success();
    let said = other.docker(&["load", "-i", path.to_str().unwrap()]).success();
    assert_eq!(said.matches("Loaded image: ").count(), 1, "{said}");
    let inspect = |platform: &str| {
        other.request("GET", &format!("/images/{reference}/json?platform={platform}"), &Value::Null)
    };
    let shown = other.get(&format!("/images/{reference}/json"));
    assert_eq!((&shown["Descriptor"]["digest"], &shown["Os"]), (&json!(index.digest), &json!("linux")));
    assert_eq!(format!("linux/{}", shown["Architecture"].as_str().unwrap()), host);
    assert_eq!(inspect(foreign).expect(200).json()["Descriptor"]["digest"], json!(index.digest));
    inspect("linux/s390x").expect(404);
    // The registry has the third, so the whole index goes there.
    other.brig(&["push", &reference]).success();
    // One platform alone is saved as the one manifest.
    daemon.brig(&["save", "--platform", foreign, "-o", path.to_str().unwrap(), &reference]).success();
    assert_eq!(member(&path, "index.json")["manifests"][0]["digest"], json!(all[1].digest));
    daemon.brig(&["save", "--platform", "linux/s390x", "-o", path.to_str().unwrap(), &reference]).expect(1);
    daemon.assert_empties();
    other.assert_empties();
}
