//! Loading archives: those that tools write, and those that nobody should.

use crate::forge::{Forged, Tar, pack};
use crate::store::{Store, is_root};
use errors::{HasKind, Kind};
use image::{Error, Loaded};
use oci::Platform;
use serde_json::json;

fn load(store: &Store, tar: &[u8]) -> Result<Vec<Loaded>, Error> {
    store.images.load(tar, Some(&Platform::host()), &image::ignore)
}

fn names(loaded: &[Loaded]) -> Vec<String> {
    loaded.iter().flat_map(|l| l.references.iter().map(|r| r.familiar())).collect()
}

#[test]
fn an_oci_layout_is_loaded_plain_and_compressed() {
    if !is_root() {
        return;
    }
    for how in [archive::Compression::None, archive::Compression::Gzip, archive::Compression::Zstd] {
        let store = Store::new();
        let forged = Forged::small("layout", 3);
        let tar = pack(&forged.layout(Some("docker.io/library/x:1")).finish(), how);
        let loaded = load(&store, &tar).unwrap();
        assert_eq!(names(&loaded), ["x:1"]);
        assert_eq!(loaded[0].image.id, forged.id());
        assert_eq!(loaded[0].image.manifest.digest, forged.target().digest, "the manifest is kept as it was");
        assert_eq!(store.counts(), (3, 5, 1));
        assert_eq!(std::fs::read_dir(store.root.join("tmp")).unwrap().count(), 0);
        store.check();
    }
}

#[test]
fn a_docker_archive_is_loaded() {
    if !is_root() {
        return;
    }
    let store = Store::new();
    let forged = Forged::small("docker", 3);
    let loaded = load(&store, &forged.docker_archive(&["x:1", "y/z:latest"]).finish()).unwrap();
    assert_eq!(names(&loaded), ["x:1", "y/z:latest"]);
    assert_eq!(loaded[0].image.id, forged.id());
    store.with_mount(&loaded[0].image, |root| assert!(root.join("etc/2").exists()));
    let unnamed = Forged::small("unnamed", 1);
    let loaded = load(&store, &unnamed.docker_archive(&[]).finish()).unwrap();
    assert_eq!((names(&loaded).len(), loaded[0].image.id), (0, unnamed.id()));
    store.restart().check();
}

#[test]
fn a_layout_in_a_directory_is_loaded() {
    if !is_root() {
        return;
    }
    let store = Store::new();
    let forged = Forged::small("dir", 2);
    let dir = tempfile::tempdir().unwrap();
    let root = rootdir::RootDir::open(dir.path()).unwrap();
    archive::apply(&forged.layout(None).finish()[..], &root, &archive::Options::default()).unwrap();
    let loaded = store.images.load_layout(dir.path(), Some(&Platform::host()), &image::ignore).unwrap();
    assert_eq!(loaded[0].image.id, forged.id());
    store.check();
}

fn refuse(tar: Tar, expected: &str, kind: Kind) {
    let store = Store::new();
    let error = load(&store, &tar.finish()).unwrap_err();
    let text = errors::chain(&error);
    assert!(text.contains(expected), "{text}");
    assert_eq!(error.kind(), kind, "{text}");
    assert_eq!(store.counts(), (0, 0, 0), "{text}");
    assert_eq!(std::fs::read_dir(store.root.join("tmp")).unwrap().count(), 0);
    store.check();
}

#[test]
fn archives_that_lie_are_refused_and_leave_nothing() {
    if !is_root() {
        return;
    }
    let good = || Forged::small("load", 2);
    let invalid = Kind::InvalidArgument;
    refuse(Tar::new().file("x", b"y"), "neither an oci-layout nor", invalid);
    refuse(Tar::new().file("manifest.json", b"{"), "manifest.json", invalid);
    refuse(Tar::new().file("manifest.json", b"[]"), "names an image", invalid);
    refuse(Tar::new().file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#), "index.json", Kind::NotFound);
    refuse(Tar::new().symlink("manifest.json", "/etc/passwd"), "names an image", invalid);
    refuse(Tar::new().entry("manifest.json", b'6', 0o644, "", b""), "not a regular file", invalid);
    refuse(Tar::new().file("../manifest.json", b"[]"), "read image archive", Kind::Hostile);
    let entry = |config: &str, layer: &str| {
        let list = json!([{"Config": config, "RepoTags": ["x:1"], "Layers": [layer, layer]}]).to_string();
        let forged = good();
        let name = format!("{}.json", forged.id().0.hex());
        Tar::new().file(&name, &forged.config_bytes()).file("manifest.json", list.as_bytes())
    };
    let config = format!("{}.json", good().id().0.hex());
    refuse(entry("../../../../etc/passwd", "l"), "etc/passwd", Kind::NotFound);
    refuse(entry(&config, "/proc/self/environ"), "environ", Kind::NotFound);
    refuse(entry(&config, &config), "unpack layer", Kind::DataLoss);
    let mut short = good();
    short.layers.pop();
    refuse(short.docker_archive(&["x:1"]), "names 1 layers, the config has 2", invalid);
    refuse(good().docker_archive(&["No Name"]), "invalid reference", invalid);
    let mut wrong = good();
    // The manifest goes on naming the layer that was there.
    wrong.layers[1] = b"something else".to_vec();
    refuse(wrong.layout(None), "No such file", Kind::NotFound);
}

#[test]
fn a_blob_with_the_wrong_bytes_is_refused() {
    if !is_root() {
        return;
    }
    let store = Store::new();
    let forged = Forged::small("load", 1);
    let mut tar = forged.layout(None);
    let layer = &forged.layers[0];
    let mut changed = layer.clone();
    changed[20] ^= 1;
    tar = tar.file(&format!("blobs/sha256/{}", oci::Digest::of(layer).hex()), &changed);
    let error = load(&store, &tar.finish()).unwrap_err();
    assert_eq!(error.kind(), Kind::DataLoss);
    assert!(errors::chain(&error).contains("has digest"));
    assert_eq!(store.counts(), (0, 0, 0));
}

/// The image that the repository ships, brought in as `quickstart` does.
#[test]
fn the_hello_world_of_the_repository_is_loaded() {
    if !is_root() {
        return;
    }
    let store = Store::new();
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../images/hello-world");
    let loaded = store.images.load_layout(&dir, Some(&Platform::host()), &image::ignore).unwrap();
    assert_eq!(loaded.len(), 1);
    assert!(names(&loaded).iter().any(|name| name.starts_with("hello-world")), "{:?}", names(&loaded));
    store.with_mount(&loaded[0].image, |root| assert!(std::fs::read_dir(root).unwrap().count() > 0));
    store.check();
}

#[test]
fn an_archive_by_xz_and_layers_by_links_are_loaded() {
    if !is_root() {
        return;
    }
    // Docker once wrote a layer that two images share a second time as a link.
    let tars = [
        Tar::new().file("etc/large", &vec![3; 200_000]).finish(),
        Tar::new().file("etc/small", b"1").finish(),
    ];
    let forged = Forged::new(&tars);
    let config = format!("{}.json", forged.id().0.hex());
    let list = json!([{"Config": config, "RepoTags": ["x:1"], "Layers": ["b/layer.tar", "c/layer.tar"]}])
        .to_string();
    let tar = Tar::new()
        .file(&config, &forged.config_bytes())
        .file("a/layer.tar", &tars[0])
        .symlink("b/layer.tar", "../a/layer.tar")
        .file("c/layer.tar", &tars[1])
        .file("manifest.json", list.as_bytes())
        .finish();
    let store = Store::new();
    let loaded = load(&store, &tar).unwrap();
    store.with_mount(&loaded[0].image, |root| {
        assert_eq!(std::fs::metadata(root.join("etc/large")).unwrap().len(), 200_000);
        assert!(root.join("etc/small").exists());
    });
    store.check();
    // What was unpacked while it came is what an unpacking afterwards makes.
    let again = Store::new();
    assert_eq!(load(&again, &tar).unwrap()[0].image.id, loaded[0].image.id);
    drop(again);
    let mut xz = std::process::Command::new("xz");
    let child = xz.arg("-c").stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn();
    let Ok(mut child) = child else { return println!("skipped: no program xz") };
    let mut input = child.stdin.take().unwrap();
    let bytes = tar.clone();
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut input, &bytes));
    let packed = child.wait_with_output().unwrap().stdout;
    writer.join().unwrap().unwrap();
    let store = Store::new();
    assert_eq!(load(&store, &packed).unwrap()[0].image.id, forged.id());
    store.check();
}
