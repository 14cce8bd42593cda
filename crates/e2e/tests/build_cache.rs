//! Caches that are shared between machines: two daemons with stores of their own, and a registry, an image, or a
//! directory between them.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::BUSYBOX;
use serde_json::Value;
use testkit::daemon::{Daemon, Finished};
use testkit::registry::Registry;

/// Steps whose results nobody can make again: a step that is not taken from a cache gives another image.
const DOCKERFILE: &str = "FROM scratch AS none\n\
    ENV first=1\n\
    FROM BASE AS tools\n\
    RUN cat /proc/sys/kernel/random/uuid > /tool\n\
    FROM BASE\n\
    ENV a=1\n\
    WORKDIR /w\n\
    COPY --from=tools /tool /copied\n\
    COPY in /w/in\n\
    RUN cat /proc/sys/kernel/random/uuid > /own; : > /w/empty\n\
    RUN true\n\
    CMD [\"cat\", \"/own\"]\n";

struct Site {
    dir: tempfile::TempDir,
    registry: Registry,
    a: Daemon,
    b: Daemon,
}

impl Site {
    fn new() -> Option<Site> {
        let (a, b) = (e2e::own()?, e2e::own()?);
        let dir = tempfile::tempdir().unwrap();
        let site = Site { dir, registry: Registry::start(), a, b };
        site.write("Dockerfile", &DOCKERFILE.replace("BASE", BUSYBOX));
        site.write("in", "1");
        Some(site)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.dir.path().join(name), text).unwrap();
    }

    fn run(&self, daemon: &Daemon, flags: &[&str]) -> Finished {
        let file = self.dir.path().join("metadata");
        let common = ["build", "-t", "app", "--progress=plain", "--metadata-file", file.to_str().unwrap()];
        daemon.brig(&[&common[..], flags, &[self.dir.path().to_str().unwrap()]].concat())
    }

    /// Builds; what was shown, and the image's digest.
    #[track_caller]
    fn build(&self, daemon: &Daemon, flags: &[&str]) -> (String, String) {
        let done = self.run(daemon, flags);
        assert_eq!(done.code, Some(0), "{done:?}");
        let metadata = std::fs::read(self.dir.path().join("metadata")).unwrap();
        let metadata: Value = serde_json::from_slice(&metadata).unwrap();
        (done.stderr, metadata["containerimage.digest"].as_str().unwrap().to_string())
    }

    /// The manifest of the cache that `shown` tells of.
    fn manifest(&self, shown: &str) -> Value {
        let line = shown.lines().find(|l| l.starts_with("exporting cache to registry: ")).unwrap();
        let digest = line.split([' ', ',']).find(|w| w.starts_with("sha256:")).unwrap().parse().unwrap();
        serde_json::from_slice(&std::fs::read(self.registry.blob_path(&digest)).unwrap()).unwrap()
    }

    fn cache(&self, name: &str) -> String {
        self.registry.reference(name, "cache")
    }
}

fn is_done(shown: &str) -> bool {
    shown.contains("DONE")
}

/// Steps that were done although a cache was there; stages and what a build loads are not steps.
#[track_caller]
fn assert_all_cached(shown: &str) {
    let mut names = std::collections::BTreeMap::new();
    for line in shown.lines() {
        let Some((number, rest)) = line.strip_prefix('#').and_then(|l| l.split_once(' ')) else { continue };
        if rest.starts_with('[') {
            names.insert(number, rest);
        } else if is_done(rest) {
            let name = names.get(number).copied().unwrap_or_default();
            assert!(name.contains("FROM"), "{name} was done:\n{shown}");
        }
    }
    assert!(shown.contains("CACHED"), "{shown}");
}

#[test]
fn a_registry_between_two_machines() {
    let Some(site) = Site::new() else { return };
    for (name, more) in [
        ("plain", ""),
        ("index", ",image-manifest=false"),
        ("docker", ",oci-mediatypes=false"),
        ("zstd", ",compression=zstd"),
        ("gzip", ",compression=gzip"),
    ] {
        let cache = site.cache(name);
        let to = format!("type=registry,ref={cache},mode=max{more}");
        let (shown, first) = site.build(&site.a, &["--cache-to", &to]);
        let manifest = site.manifest(&shown);
        let blobs = manifest["layers"].as_array().or(manifest["manifests"].as_array()).unwrap();
        let kinds: Vec<&str> = blobs.iter().map(|b| b["mediaType"].as_str().unwrap()).collect();
        match name {
            "plain" => assert_eq!(manifest["config"]["mediaType"], "application/vnd.buildkit.cacheconfig.v0"),
            "index" => assert!(kinds.contains(&"application/vnd.buildkit.cacheconfig.v0"), "{kinds:?}"),
            "docker" => assert!(kinds.contains(&"application/vnd.docker.image.rootfs.diff.tar"), "{kinds:?}"),
            kind => assert!(kinds.iter().all(|k| k.ends_with(kind)), "{kinds:?}"),
        }
        site.b.brig(&["builder", "prune", "-af"]).success();
        let (shown, second) = site.build(&site.b, &["--cache-from", &cache]);
        assert_all_cached(&shown);
        assert_eq!(first, second, "{name}");
        site.b.brig(&["rmi", "app"]).success();
        site.b.brig(&["builder", "prune", "-af"]).success();
    }
    let run = |daemon: &Daemon| daemon.brig(&["run", "--rm", "app"]).success();
    site.build(&site.b, &["--cache-from", &site.cache("plain")]);
    assert_eq!(run(&site.a), run(&site.b));
    site.a.assert_no_leaks();
    site.b.assert_no_leaks();
}

#[test]
fn only_what_is_used_is_fetched_and_what_is_lost_is_made() {
    let Some(site) = Site::new() else { return };
    let (min, max) = (site.cache("min"), site.cache("max"));
    let to = [format!("type=registry,ref={min}"), format!("type=registry,ref={max},mode=max")];
    let (_, first) = site.build(&site.a, &["--cache-to", &to[0]]);
    let (shown, _) = site.build(&site.a, &["--cache-to", &to[1]]);
    let layers: Vec<oci::Digest> = site.manifest(&shown)["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|l| l["digest"].as_str().unwrap().parse().unwrap())
        .collect();
    // The one of the stage `tools`, which is the first; nobody needs it.
    let tool = site.registry.blob_path(&layers[0]);
    std::fs::rename(&tool, tool.with_extension("away")).unwrap();
    for cache in [&min, &max] {
        let (shown, second) = site.build(&site.b, &["--cache-from", cache]);
        assert_all_cached(&shown);
        assert_eq!(first, second);
        site.b.brig(&["rmi", "app"]).success();
        site.b.brig(&["builder", "prune", "-af"]).success();
    }
    // Now it is needed. It is missing; then it is another than was promised; then its own bytes are.
    let other = DOCKERFILE.replace("BASE", BUSYBOX).replace("/tool /copied", "/tool /elsewhere");
    site.write("Dockerfile", &other);
    for step in 0..4 {
        match step {
            0 => {}
            1 => {
                let mut bytes = std::fs::read(tool.with_extension("away")).unwrap();
                bytes[700] ^= 1;
                std::fs::write(&tool, bytes).unwrap();
            }
            2 => std::fs::write(&tool, b"short").unwrap(),
            _ => std::fs::rename(tool.with_extension("away"), &tool).unwrap(),
        }
        for cache in [&min, &max] {
            let (shown, _) = site.build(&site.b, &["--cache-from", cache]);
            let fell_back = shown.contains("is of no use for this step");
            assert_eq!(fell_back, step < 3 || cache == &min, "{step} {cache}:\n{shown}");
            let show = "cat /elsewhere | wc -c; cat /own | wc -c; cat /w/in";
            let shown = site.b.brig(&["run", "--rm", "app", "sh", "-c", show]).success();
            assert_eq!(shown, "37\n37\n1");
            site.b.brig(&["rmi", "app"]).success();
            site.b.brig(&["builder", "prune", "-af"]).success();
        }
    }
    site.b.assert_no_leaks();
}

#[test]
fn an_image_carries_its_own_cache() {
    let Some(site) = Site::new() else { return };
    let name = site.registry.reference("inline", "1");
    let build = |daemon: &Daemon, flags: &[&str]| site.build(daemon, flags);
    build(&site.a, &["-t", &name, "--build-arg", "BUILDKIT_INLINE_CACHE=1"]);
    site.a.brig(&["push", &name]).success();
    let text = |daemon: &Daemon| daemon.brig(&["run", "--rm", "app"]).success();
    let (shown, _) = build(&site.b, &["--cache-from", &name]);
    assert_all_cached(&shown);
    assert_eq!(text(&site.a), text(&site.b));
    // What is built on it does not have its cache.
    site.b.brig(&["builder", "prune", "-af"]).success();
    site.b.brig(&["pull", "-q", &name]).success();
    site.write("on", &format!("FROM {name}\nRUN true\n"));
    let on = site.dir.path().join("on");
    let (_, plain) = build(&site.b, &["-f", on.to_str().unwrap()]);
    let (_, again) = build(&site.b, &["-f", on.to_str().unwrap(), "--cache-to", "type=inline"]);
    assert_ne!(plain, again);
    // The classic client, and an image that is here already.
    site.b.brig(&["builder", "prune", "-af"]).success();
    let mut docker = site.b.docker_command(&["build", "--cache-from", &name, "-t", "app"]);
    docker.arg(site.dir.path()).env("DOCKER_BUILDKIT", "0");
    let shown = testkit::daemon::finish(docker, &[]).success();
    assert!(shown.contains("importing cache manifest from"), "{shown}");
    assert!(!shown.contains("Running in"), "{shown}");
    assert_eq!(text(&site.a), text(&site.b));
    // An image that has none, and one that is nowhere.
    for (from, want) in [(BUSYBOX, "importing cache manifest from"), ("127.0.0.1:1/none", "[Warning]")] {
        let (shown, _) = build(&site.b, &["--cache-from", from]);
        assert!(shown.contains(want), "{shown}");
    }
}

#[test]
fn a_directory_of_the_clients() {
    let Some(site) = Site::new() else { return };
    let dest = site.dir.path().parent().unwrap().join(format!("cache-{}", std::process::id()));
    let _gone = Removed(dest.clone());
    let dir = dest.to_str().unwrap();
    let (to, from) = (format!("type=local,dest={dir},mode=max"), format!("type=local,src={dir}"));
    // There is nothing yet, which is told.
    let (shown, _) = site.build(&site.a, &["--cache-from", &from]);
    assert!(shown.contains("skipped"), "{shown}");
    let (_, first) = site.build(&site.a, &["--cache-to", &to]);
    let (shown, second) = site.build(&site.b, &["--cache-from", &from]);
    assert_all_cached(&shown);
    assert_eq!(first, second);
    site.b.brig(&["rmi", "app"]).success();
    site.b.brig(&["builder", "prune", "-af"]).success();
    // A blob of the layout that was changed.
    let index: Value = serde_json::from_slice(&std::fs::read(dest.join("index.json")).unwrap()).unwrap();
    let blob = |digest: &Value| {
        dest.join("blobs/sha256").join(digest.as_str().unwrap().trim_start_matches("sha256:"))
    };
    let manifest = blob(&index["manifests"][0]["digest"]);
    let document: Value = serde_json::from_slice(&std::fs::read(&manifest).unwrap()).unwrap();
    let last = blob(&document["layers"].as_array().unwrap().last().unwrap()["digest"]);
    std::fs::write(&last, vec![0; 2048]).unwrap();
    let (shown, third) = site.build(&site.b, &["--cache-from", &from]);
    assert!(shown.contains("is of no use for this step"), "{shown}");
    assert_ne!(first, third);
    for bad in ["type=local", "type=s3,bucket=x", "type=local,dest=/x,mode=most"] {
        let failed = site.run(&site.a, &["--cache-to", bad]);
        assert!(failed.code != Some(0), "{failed:?}");
    }
    site.b.assert_no_leaks();
}

/// Removes a directory.
struct Removed(std::path::PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

#[test]
fn hostile_documents_change_nothing() {
    let Some(site) = Site::new() else { return };
    let (registry, repository) = (&site.registry, "hostile");
    let put = |tag: &str, config: &[u8], layers: &str| {
        let kind = "application/vnd.buildkit.cacheconfig.v0";
        let config = registry.push_blob(repository, kind, config);
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
            "config":{{"mediaType":"{kind}","digest":"{}","size":{}}},"layers":[{layers}]}}"#,
            config.digest, config.size
        );
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        registry.push_manifest(repository, tag, media_type, manifest.as_bytes());
        registry.reference(repository, tag)
    };
    let circle =
        r#"{"layers":[{"blob":"sha256:0","parent":0}],"records":[{"digest":"x","inputs":[[{"link":0}]]}]}"#;
    let deep = format!("{{\"records\":{}", "[".repeat(100_000));
    for (tag, config, want) in [
        ("circle", circle, ""),
        ("deep", deep.as_str(), "[Warning]"),
        ("nothing", "", "[Warning]"),
        ("no-json", "\u{0}\u{1}", "[Warning]"),
    ] {
        let (shown, _) =
            site.build(&site.a, &["--no-cache", "--cache-from", &put(tag, config.as_bytes(), "")]);
        assert!(shown.contains(want), "{tag}: {shown}");
    }
    site.a.assert_no_leaks();
}
