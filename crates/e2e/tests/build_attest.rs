//! What is said of an image beside it: provenance and packages, in the index that a registry gets.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::BUSYBOX;
use oci::Digest;
use serde_json::Value;
use testkit::registry::Registry;

const DOCKERFILE: &str = "FROM BASE\n\
    ARG shown=no\n\
    COPY status /var/lib/dpkg/status\n\
    RUN --mount=type=secret,id=key,required test -s /run/secrets/key\n\
    RUN --network=none true\n";
const STATUS: &str = "Package: hello\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.10-3\n";

fn read(registry: &Registry, digest: &Value) -> (String, Value) {
    let digest: Digest = digest.as_str().unwrap().parse().unwrap();
    let text = String::from_utf8(std::fs::read(registry.blob_path(&digest)).unwrap()).unwrap();
    let value = serde_json::from_str(&text).unwrap();
    (text, value)
}

#[test]
fn provenance_and_packages_go_with_the_image() {
    let Some(daemon) = e2e::own() else { return };
    let registry = Registry::start();
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("Dockerfile", &DOCKERFILE.replace("BASE", BUSYBOX));
    write("status", STATUS);
    write("key", "hidden");
    let (metadata, key) = (dir.path().join("metadata"), dir.path().join("key"));
    let (metadata, secret) = (metadata.to_str().unwrap(), format!("id=key,src={}", key.display()));
    let build = |tag: &str, flags: &[&str]| {
        let common = ["build", "-q", "--metadata-file", metadata, "--secret", &secret, "-t", tag];
        let args = ["--build-arg", "shown=visible", dir.path().to_str().unwrap()];
        let done = daemon.brig(&[&common[..], flags, &args[..]].concat());
        assert_eq!(done.code, Some(0), "{done:?}");
        let text: Value = serde_json::from_slice(&std::fs::read(metadata).unwrap()).unwrap();
        text["containerimage.digest"].clone()
    };
    let kinds = [
        ("v1", "max", "https://slsa.dev/provenance/v1"),
        ("v0.2", "min", "https://slsa.dev/provenance/v0.2"),
    ];
    let attested = kinds.map(|(version, mode, kind)| {
        let name = registry.reference("attested", mode);
        let provenance = format!("--provenance=mode={mode},version={version},builder-id=https://x.example/b");
        // Of an image of its own: the same image has one index, that of its last build.
        let label = format!("--label=mode={mode}");
        let plain = build("plain", &[&label]);
        assert_eq!(build("again", &[&label, "--provenance=false"]), plain);
        let index = build(&name, &[&label, &provenance, "--sbom"]);
        (name, index, plain, version, mode, kind)
    });
    // What is said is kept with the image, so that it is pushed later too.
    daemon.brig(&["builder", "prune", "-a", "-f"]).success();
    for (name, index, plain, version, mode, kind) in attested {
        daemon.brig(&["push", &name]).success();
        let (_, index) = read(&registry, &index);
        let manifests = index["manifests"].as_array().unwrap();
        assert_eq!((manifests.len(), &manifests[0]["digest"]), (2, &plain), "{index}");
        let notes = &manifests[1]["annotations"];
        assert_eq!(notes["vnd.docker.reference.type"], "attestation-manifest");
        assert_eq!(notes["vnd.docker.reference.digest"], plain);
        assert_eq!(manifests[1]["platform"]["os"], "unknown");
        let (_, manifest) = read(&registry, &manifests[1]["digest"]);
        let mut found = Vec::new();
        for layer in manifest["layers"].as_array().unwrap() {
            let (text, statement) = read(&registry, &layer["digest"]);
            assert!(!text.contains("hidden"), "{text}");
            let predicate = &statement["predicate"];
            assert_eq!(layer["annotations"]["in-toto.io/predicate-type"], statement["predicateType"]);
            let subject = &statement["subject"][0];
            assert_eq!(
                format!("sha256:{}", subject["digest"]["sha256"].as_str().unwrap()),
                plain.as_str().unwrap()
            );
            assert!(subject["name"].as_str().unwrap().contains(&format!("attested@{mode}")), "{subject}");
            if statement["predicateType"] == "https://spdx.dev/Document" {
                assert_eq!(predicate["packages"][0]["name"], "hello");
                assert!(text.contains("pkg:deb/debian/hello@2.10-3?arch=amd64"), "{text}");
            } else {
                assert_eq!(text.contains("visible"), mode == "max", "{text}");
                assert_eq!(text.contains("\"id\": \"key\""), mode == "max", "{text}");
                assert!(
                    text.contains("pkg:docker/busybox@latest") && text.contains("https://x.example/b"),
                    "{text}"
                );
                let source = if version == "v1" {
                    &predicate["buildDefinition"]["externalParameters"]["configSource"]["path"]
                } else {
                    &predicate["invocation"]["configSource"]["entryPoint"]
                };
                assert_eq!(source, "Dockerfile");
            }
            found.push(statement["predicateType"].as_str().unwrap().to_string());
        }
        assert_eq!(found, ["https://spdx.dev/Document", kind]);
        assert_eq!(
            daemon.brig(&["run", "--rm", &name, "cat", "/var/lib/dpkg/status"]).success(),
            STATUS.trim_end()
        );
    }
    for (flag, want) in [
        ("--provenance=mode=most", "most"),
        ("--attest=type=vex", "vex"),
        ("--attest=type=sbom,generator=docker/scanner", "docker/scanner"),
        ("--provenance=complete-materials=true", "incomplete"),
    ] {
        let failed = daemon.brig(&["build", "--secret", &secret, flag, dir.path().to_str().unwrap()]);
        assert!(failed.code != Some(0) && failed.stderr.contains(want), "{flag}: {failed:?}");
    }
    daemon.assert_no_leaks();
}
