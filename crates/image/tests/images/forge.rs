//! Makes images, good and bad.

use oci::image::media_type;
use oci::{Descriptor, Digest};
use serde_json::{Value, json};
use std::io::Write;

/// A tar archive under construction.
#[derive(Default)]
pub(crate) struct Tar {
    bytes: Vec<u8>,
}

impl Tar {
    pub(crate) fn new() -> Tar {
        Tar::default()
    }

    pub(crate) fn file(self, name: &str, content: &[u8]) -> Tar {
        self.entry(name, b'0', 0o644, "", content)
    }

    pub(crate) fn dir(self, name: &str) -> Tar {
        self.entry(name, b'5', 0o755, "", b"")
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Tar {
        self.entry(name, b'2', 0o777, target, b"")
    }

    /// One entry; the name is taken as it is, however wrong.
    pub(crate) fn entry(mut self, name: &str, kind: u8, mode: u32, link: &str, content: &[u8]) -> Tar {
        let mut header = [0u8; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, name.as_bytes());
        put(100, format!("{mode:07o}\0").as_bytes());
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        put(124, format!("{:011o}\0", content.len()).as_bytes());
        put(136, b"00000000000\0");
        put(148, b"        ");
        put(156, &[kind]);
        put(157, link.as_bytes());
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend_from_slice(&header);
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 1024, 0);
        self.bytes
    }
}

pub(crate) fn pack(bytes: &[u8], how: archive::Compression) -> Vec<u8> {
    let mut compressor = archive::compress(Vec::new(), how).unwrap();
    compressor.write_all(bytes).unwrap();
    compressor.finish().unwrap()
}

/// An image with all its parts at hand, to be broken at will.
#[derive(Clone)]
pub(crate) struct Forged {
    pub(crate) layers: Vec<Vec<u8>>,
    pub(crate) layer_types: Vec<&'static str>,
    pub(crate) config: Value,
    pub(crate) manifest: Value,
}

impl Forged {
    /// Layers are tars; they are packed by turns as gzip, zstd and not at all.
    pub(crate) fn new(tars: &[Vec<u8>]) -> Forged {
        let diff_ids: Vec<String> = tars.iter().map(|tar| Digest::of(tar).to_string()).collect();
        let history: Vec<Value> = (0..tars.len())
            .map(|n| json!({"created": "2024-01-02T03:04:05Z", "created_by": format!("step {n}")}))
            .collect();
        let config = json!({
            "architecture": oci::Platform::host().architecture, "os": "linux",
            "created": "2024-01-02T03:04:05Z",
            "config": {"Cmd": ["sh"], "Env": ["A=b"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": history,
        });
        let ways = [
            (archive::Compression::Gzip, media_type::OCI_LAYER_GZIP),
            (archive::Compression::Zstd, media_type::OCI_LAYER_ZSTD),
            (archive::Compression::None, media_type::OCI_LAYER),
        ];
        let packed = |(n, tar): (usize, &Vec<u8>)| (pack(tar, ways[n % 3].0), ways[n % 3].1);
        let (layers, layer_types) = tars.iter().enumerate().map(packed).unzip();
        let mut forged = Forged { layers, layer_types, config, manifest: Value::Null };
        forged.describe();
        forged
    }

    /// A few small layers with something of `seed` in each.
    pub(crate) fn small(seed: &str, layers: usize) -> Forged {
        let tars: Vec<Vec<u8>> = (0..layers)
            .map(|n| {
                Tar::new()
                    .dir("etc/")
                    .file(&format!("etc/{n}"), format!("{seed} {n}").as_bytes())
                    .file("etc/top", format!("{seed} {n}").as_bytes())
                    .finish()
            })
            .collect();
        Forged::new(&tars)
    }

    /// Makes the manifest fit the parts.
    pub(crate) fn describe(&mut self) {
        let config = self.config_bytes();
        let layers: Vec<Descriptor> = self
            .layers
            .iter()
            .zip(&self.layer_types)
            .map(|(bytes, kind)| Descriptor::new(kind, Digest::of(bytes), bytes.len() as u64))
            .collect();
        self.manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_MANIFEST,
            "config": Descriptor::new(media_type::OCI_CONFIG, Digest::of(&config), config.len() as u64),
            "layers": layers,
        });
    }

    pub(crate) fn config_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(&self.config).unwrap()
    }

    pub(crate) fn manifest_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(&self.manifest).unwrap()
    }

    pub(crate) fn target(&self) -> Descriptor {
        let bytes = self.manifest_bytes();
        Descriptor::new(media_type::OCI_MANIFEST, Digest::of(&bytes), bytes.len() as u64)
    }

    pub(crate) fn id(&self) -> image::ImageId {
        image::ImageId(Digest::of(&self.config_bytes()))
    }

    pub(crate) fn blobs(&self) -> Vec<Vec<u8>> {
        let mut blobs = vec![self.manifest_bytes(), self.config_bytes()];
        blobs.extend(self.layers.iter().cloned());
        blobs
    }

    pub(crate) fn store(&self, content: &content::ContentStore) {
        for blob in self.blobs() {
            content.put(&blob).unwrap();
        }
    }

    /// A tar of an OCI layout with this image, named by the annotation of Docker.
    pub(crate) fn layout(&self, name: Option<&str>) -> Tar {
        let mut entry = serde_json::to_value(self.target()).unwrap();
        if let Some(name) = name {
            entry["annotations"] = json!({"io.containerd.image.name": name});
        }
        let index = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [entry]});
        let mut tar = Tar::new().dir("blobs/").dir("blobs/sha256/");
        for blob in self.blobs() {
            tar = tar.file(&format!("blobs/sha256/{}", Digest::of(&blob).hex()), &blob);
        }
        tar.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
            .file("index.json", index.to_string().as_bytes())
    }

    /// A tar as `docker save` of the classic store writes it.
    pub(crate) fn docker_archive(&self, tags: &[&str]) -> Tar {
        let config = format!("{}.json", self.id().0.hex());
        let names: Vec<String> = (0..self.layers.len()).map(|n| format!("layer{n}/layer.tar")).collect();
        let list = json!([{"Config": config, "RepoTags": tags, "Layers": names}]);
        let mut tar = Tar::new().file(&config, &self.config_bytes());
        for (n, (layer, name)) in self.layers.iter().zip(&names).enumerate() {
            tar = tar.dir(&format!("layer{n}/")).file(name, layer);
        }
        tar.file("manifest.json", list.to_string().as_bytes())
    }
}
