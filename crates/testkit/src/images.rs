//! Images to run: busybox, made from Debian's `busybox-static`; and a Debian of `debootstrap`, for who asks.

use crate::registry::{Pushed, Registry};
use crate::tar::{self, Entry};
use oci::image::{Index, Manifest, media_type};
use oci::{Descriptor, Digest, Platform};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Statically linked, since an image has no libraries.
const BUSYBOX: &str = "/bin/busybox";

/// The layer of a busybox image, a tar: the program, a link for each of its applets, and the files that programs expect.
pub fn busybox_layer() -> &'static [u8] {
    static LAYER: OnceLock<Vec<u8>> = OnceLock::new();
    LAYER.get_or_init(|| {
        let output = Command::new(BUSYBOX)
            .arg("--list")
            .output()
            .expect("run busybox; it is in the package `busybox-static`");
        let mut entries: Vec<Entry> =
            ["bin", "dev", "etc", "home", "proc", "root", "run", "sys", "usr", "usr/bin", "var"]
                .map(|name| Entry::directory(&format!("{name}/"), 0o755))
                .to_vec();
        entries.push(Entry::directory("tmp/", 0o1777));
        entries.push(Entry::file("bin/busybox", 0o755, tar::read(Path::new(BUSYBOX))));
        let applets = String::from_utf8(output.stdout).unwrap();
        let links = applets.lines().filter(|applet| *applet != "busybox");
        entries.extend(links.map(|applet| Entry::symlink(&format!("bin/{applet}"), "busybox")));
        let passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n\
                      app:x:1000:1001:app:/home:/bin/sh\n";
        entries.push(Entry::file("etc/passwd", 0o644, passwd));
        entries.push(Entry::file(
            "etc/group",
            0o644,
            "root:x:0:\nnogroup:x:65534:\napp:x:1001:\nextra:x:1002:app\n",
        ));
        // For who wants to see 126: there, and no program.
        entries.push(Entry::file("etc/not-a-program", 0o644, "text\n"));
        tar::archive(&entries)
    })
}

/// How a busybox image runs when nobody says otherwise.
pub fn busybox_config() -> Value {
    json!({"Cmd": ["sh"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]})
}

/// Pushes a busybox image whose layer is gzip.
pub fn push_busybox(registry: &Registry, repository: &str, tag: &str) -> Pushed {
    static COMPRESSED: OnceLock<Vec<u8>> = OnceLock::new();
    let layer = COMPRESSED.get_or_init(|| tar::gzip(busybox_layer()));
    registry.push_image(repository, tag, std::slice::from_ref(layer), busybox_config())
}

/// The configuration document of an image of these uncompressed layers.
fn config_document(layers: &[&[u8]], config: &Value) -> Vec<u8> {
    let platform = Platform::host();
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
    let history: Vec<Value> = layers.iter().map(|_| json!({"created_by": "testkit"})).collect();
    json!({
        "architecture": platform.architecture, "os": platform.os, "config": config,
        "created": "2024-01-01T00:00:00Z",
        "rootfs": {"type": "layers", "diff_ids": diff_ids}, "history": history,
    })
    .to_string()
    .into_bytes()
}

/// An archive as `docker save` of old wrote it. `layers` are plain tars, bottom first.
pub fn docker_archive(reference: &str, layers: &[&[u8]], config: &Value) -> Vec<u8> {
    let document = config_document(layers, config);
    let name = format!("{}.json", Digest::of(&document).to_string().trim_start_matches("sha256:"));
    let paths: Vec<String> = (0..layers.len()).map(|n| format!("layer{n}/layer.tar")).collect();
    let manifest = json!([{"Config": name, "RepoTags": [reference], "Layers": paths}]);
    let mut entries = vec![Entry::file(&name, 0o644, document)];
    entries.extend(paths.iter().zip(layers).map(|(path, layer)| Entry::file(path, 0o644, layer)));
    entries.push(Entry::file("manifest.json", 0o644, manifest.to_string()));
    tar::archive(&entries)
}

/// A tar of an OCI layout. `layers` are plain tars, bottom first.
pub fn oci_archive(reference: &str, layers: &[&[u8]], config: &Value) -> Vec<u8> {
    let mut entries = vec![Entry::file("oci-layout", 0o644, r#"{"imageLayoutVersion":"1.0.0"}"#)];
    let mut blob = |media_type: &str, bytes: &[u8]| {
        let digest = Digest::of(bytes);
        let hex = digest.to_string().trim_start_matches("sha256:").to_string();
        entries.push(Entry::file(&format!("blobs/sha256/{hex}"), 0o644, bytes));
        Descriptor::new(media_type, digest, bytes.len() as u64)
    };
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type::OCI_MANIFEST.into()),
        artifact_type: None,
        config: blob(media_type::OCI_CONFIG, &config_document(layers, config)),
        layers: layers.iter().map(|layer| blob(media_type::OCI_LAYER, layer)).collect(),
        annotations: Default::default(),
    };
    let mut descriptor = blob(media_type::OCI_MANIFEST, &serde_json::to_vec(&manifest).unwrap());
    descriptor.annotations.insert("io.containerd.image.name".into(), reference.into());
    let index = Index {
        schema_version: 2,
        media_type: Some(media_type::OCI_INDEX.into()),
        manifests: vec![descriptor],
        annotations: Default::default(),
    };
    entries.push(Entry::file("index.json", 0o644, serde_json::to_vec(&index).unwrap()));
    tar::archive(&entries)
}

/// A busybox image as `docker save` writes it, named `reference`.
pub fn busybox_archive(reference: &str) -> Vec<u8> {
    docker_archive(reference, &[busybox_layer()], &busybox_config())
}

/// The root file system of a minimal Debian as a gzip tar. Made by `debootstrap` from Debian's mirror the first time,
/// which takes a minute, and kept in the target directory.
pub fn debian_layer() -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
        let kept = target.join("debian-bookworm.tar.gz");
        if !kept.exists() {
            make_debian(&target, &kept);
        }
        kept
    })
    .clone()
}

fn make_debian(target: &Path, kept: &Path) {
    std::fs::create_dir_all(target).unwrap();
    let scratch = tempfile::tempdir_in(target).unwrap();
    let root = scratch.path().join("root");
    let log = std::fs::File::create(scratch.path().join("log")).unwrap();
    let status = Command::new("debootstrap")
        .args(["--variant=minbase", "--include=ca-certificates", "bookworm"])
        .arg(&root)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .status()
        .expect("run debootstrap; it is in the package of that name");
    let said = || std::fs::read_to_string(scratch.path().join("log")).unwrap_or_default();
    assert!(status.success(), "debootstrap ended with {status}:\n{}", said());
    let archive = scratch.path().join("layer.tar.gz");
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(&root).args(["--numeric-owner", "--xattrs", "-czf"]).arg(&archive).arg(".");
    assert!(tar.status().unwrap().success(), "pack {}", root.display());
    std::fs::rename(&archive, kept).unwrap();
}
