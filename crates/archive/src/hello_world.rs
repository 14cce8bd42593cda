//! Builds the image in `images/hello-world` and compares it, byte by byte, with what is checked in. With `BRIG_BLESS=1` in
//! the environment it writes the files instead.
//!
//! The layer is a plain tar: its digest then depends on no compressor's version.

use crate::tar::{Entry, EntryKind, Timestamp, Writer};
use oci::image::{History, ImageConfig, Index, Manifest, RootFs, RunConfig, media_type};
use oci::{Descriptor, Digest, Platform};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// When the image says it was made. Fixed: the same sources give the same image.
const CREATED: &str = "2026-11-21T00:00:00Z";
const CREATED_SECONDS: i64 = 1_795_219_200;

const NAME: &str = "docker.io/library/hello-world:latest";

/// Largest directory that is to be shipped.
const MAX_SIZE: usize = 20 * 1024;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../images/hello-world")
}

/// Files of the layout by path.
#[derive(Default)]
struct Layout(BTreeMap<PathBuf, Vec<u8>>);

impl Layout {
    fn blob(&mut self, media_type: &str, bytes: Vec<u8>) -> Descriptor {
        let digest = Digest::of(&bytes);
        let descriptor = Descriptor::new(media_type, digest, bytes.len().try_into().unwrap());
        self.0.insert(Path::new("blobs/sha256").join(digest.hex()), bytes);
        descriptor
    }

    fn document(&mut self, media_type: &str, document: &impl Serialize) -> Descriptor {
        self.blob(media_type, serde_json::to_vec(document).unwrap())
    }

    fn manifest(&mut self, platform: Platform, program: &[u8]) -> Descriptor {
        let layer = self.blob(media_type::OCI_LAYER, layer(program));
        let config = ImageConfig {
            created: Some(CREATED.into()),
            author: None,
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            os_version: None,
            variant: platform.variant.clone(),
            config: Some(RunConfig {
                env: Some(vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()]),
                cmd: Some(vec!["/hello".into()]),
                working_dir: "/".into(),
                ..RunConfig::default()
            }),
            container: None,
            container_config: None,
            rootfs: RootFs { kind: "layers".into(), diff_ids: vec![layer.digest] },
            history: vec![History {
                created: Some(CREATED.into()),
                created_by: Some("COPY hello /".into()),
                ..History::default()
            }],
            build_cache: None,
        };
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(media_type::OCI_MANIFEST.into()),
            artifact_type: None,
            config: self.document(media_type::OCI_CONFIG, &config),
            layers: vec![layer],
            annotations: BTreeMap::new(),
        };
        let descriptor = self.document(media_type::OCI_MANIFEST, &manifest);
        Descriptor { platform: Some(platform), ..descriptor }
    }
}

/// A layer that has `program` as `/hello`.
fn layer(program: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes);
    let hello = Entry {
        path: b"hello".to_vec(),
        link: Vec::new(),
        kind: EntryKind::File,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: Timestamp { seconds: CREATED_SECONDS, nanoseconds: 0 },
        size: program.len().try_into().unwrap(),
        device: (0, 0),
        xattrs: Vec::new(),
        sparse: None,
    };
    writer.entry(&hello).unwrap();
    writer.content(program).unwrap();
    writer.finish().unwrap();
    bytes
}

fn build() -> Layout {
    let mut layout = Layout::default();
    let platform = |architecture: &str, variant: Option<&str>| Platform {
        architecture: architecture.into(),
        os: "linux".into(),
        os_version: None,
        variant: variant.map(Into::into),
    };
    let program = |name: &str| std::fs::read(directory().join("src").join(name)).unwrap();
    let manifests = vec![
        layout.manifest(platform("amd64", None), &program("hello.amd64")),
        layout.manifest(platform("arm64", Some("v8")), &program("hello.arm64")),
    ];
    let index = |manifests, media_type: Option<&str>| Index {
        schema_version: 2,
        media_type: media_type.map(Into::into),
        manifests,
        annotations: BTreeMap::new(),
    };
    let mut image = layout.document(media_type::OCI_INDEX, &index(manifests, Some(media_type::OCI_INDEX)));
    for key in ["io.containerd.image.name", "org.opencontainers.image.ref.name"] {
        image.annotations.insert(key.into(), NAME.into());
    }
    let top = serde_json::to_vec(&index(vec![image], Some(media_type::OCI_INDEX))).unwrap();
    layout.0.insert("index.json".into(), top);
    layout.0.insert("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
    layout
}

#[test]
fn checked_in_image_is_what_its_sources_give() {
    let built = build().0;
    let blobs = directory().join("blobs/sha256");
    if std::env::var_os("BRIG_BLESS").is_some() {
        drop(std::fs::remove_dir_all(&blobs));
        std::fs::create_dir_all(&blobs).unwrap();
        for (path, bytes) in &built {
            std::fs::write(directory().join(path), bytes).unwrap();
        }
    }
    let mut size = 0;
    for (path, bytes) in &built {
        assert_eq!(std::fs::read(directory().join(path)).unwrap(), *bytes, "{path:?}");
        size += bytes.len();
    }
    // Nothing that no index names.
    let expected = built.keys().filter(|path| path.starts_with("blobs")).count();
    assert_eq!(std::fs::read_dir(blobs).unwrap().count(), expected);
    for source in std::fs::read_dir(directory().join("src")).unwrap() {
        size += usize::try_from(source.unwrap().metadata().unwrap().len()).unwrap();
    }
    assert!(size < MAX_SIZE, "{size}");
}

#[cfg(target_arch = "x86_64")]
#[test]
fn program_prints_its_text_and_tells_failure() {
    let program = directory().join("src/hello.amd64");
    let text = std::fs::read(directory().join("src/hello.txt")).unwrap();
    let output = std::process::Command::new(&program).output().unwrap();
    assert!(output.status.success());
    assert_eq!(output.stdout, text);
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let status = std::process::Command::new(&program).stdout(full).status().unwrap();
    assert_eq!(status.code(), Some(1));
}
