//! The documents of an image: descriptor, manifest, index, config; OCI's and Docker's schema 2, which differ only
//! in media types.
//!
//! Spec: image-spec, descriptor.md, manifest.md, image-index.md, config.md.

use crate::{Digest, Platform};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Largest manifest or index that we read. Registries refuse larger ones (distribution-spec: at least 4 MiB).
pub const MAX_MANIFEST: usize = 4 << 20;
/// Largest image config that we read.
pub const MAX_CONFIG: usize = 8 << 20;
/// Most layers in one image. Overlay takes 500, Docker stops at 127.
pub const MAX_LAYERS: usize = 500;

/// Media types that we read.
pub mod media_type {
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

    /// Whether this names an index (manifest list).
    pub fn is_index(text: &str) -> bool {
        matches!(text, OCI_INDEX | DOCKER_INDEX)
    }

    /// Whether this names a manifest.
    pub fn is_manifest(text: &str) -> bool {
        matches!(text, OCI_MANIFEST | DOCKER_MANIFEST)
    }

    /// Whether this is what the config of a container image comes as. Old tools wrote the last.
    pub fn is_image_config(text: &str) -> bool {
        matches!(text, OCI_CONFIG | DOCKER_CONFIG | "application/octet-stream")
    }

    /// Whether this is a layer of a container image that can be unpacked: a tar with or without compression, which is told
    /// from the bytes. Encrypted layers end in `+encrypted`.
    pub fn is_tar_layer(text: &str) -> bool {
        const KINDS: [&str; 4] = [
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.nondistributable.v1.tar",
            "application/vnd.docker.image.rootfs.diff.tar",
            "application/vnd.docker.image.rootfs.foreign.diff.tar",
        ];
        let suffix = KINDS.iter().find_map(|kind| text.strip_prefix(kind));
        matches!(suffix, Some("" | "+gzip" | "+zstd" | "+xz" | "+bzip2" | ".gzip" | ".zstd"))
    }

    /// Whether this is a layer of a container image, also one that we cannot unpack.
    pub fn is_layer(text: &str) -> bool {
        text.starts_with("application/vnd.oci.image.layer.")
            || text.starts_with("application/vnd.docker.image.rootfs.")
    }
}

/// Annotation of an entry of an index: the manifest in it that the entry says something about, as attestations do.
const ABOUT: &str = "vnd.docker.reference.digest";

/// Names bytes by type, digest and size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// A descriptor without platform and annotations.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Descriptor {
        Descriptor {
            media_type: media_type.into(),
            digest,
            size,
            platform: None,
            annotations: BTreeMap::new(),
            urls: Vec::new(),
            artifact_type: None,
        }
    }
}

/// One image for one platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// Whether it is a container image: it has an image's config, and layers of an image or none at all. Else it is another
    /// artifact: a chart, a module, a signature, an attestation, which are kept as they are.
    pub fn is_image(&self) -> bool {
        let layered = match self.layers.as_slice() {
            [] => self.artifact_type.is_none(),
            layers => layers.iter().any(|layer| media_type::is_layer(&layer.media_type)),
        };
        media_type::is_image_config(&self.config.media_type) && layered
    }
}

/// Manifests to choose from by platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    pub manifests: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Index {
    /// The entries that say something about the manifest `digest`: attestations of how it was built, and what is in it.
    pub fn about(&self, digest: &Digest) -> impl Iterator<Item = &Descriptor> {
        let text = digest.to_string();
        self.manifests.iter().filter(move |entry| {
            media_type::is_manifest(&entry.media_type)
                && entry.annotations.get(ABOUT).is_some_and(|d| *d == text)
        })
    }

    /// Whether there is nothing to choose by: several entries, none of which names a platform. Such an index is one artifact
    /// with all that it lists.
    pub fn is_collection(&self) -> bool {
        let named =
            |entry: &Descriptor| entry.platform.as_ref().is_some_and(|platform| platform.os != "unknown");
        self.manifests.len() > 1 && !self.manifests.iter().any(named)
    }
}

/// What the image says of itself: platform, how to run it, which layers it is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub os: String,
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    #[serde(default)]
    pub config: Option<RunConfig>,
    /// Docker's own: the container that the image was committed from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// And what that one was made with, as the engine writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_config: Option<serde_json::Value>,
    pub rootfs: RootFs,
    #[serde(default)]
    pub history: Vec<History>,
    /// BuildKit's own: a build cache. Written with an image that is built, and never read for one that is built on it.
    #[serde(rename = "moby.buildkit.cache.v0", skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub build_cache: Option<String>,
}

impl ImageConfig {
    /// What the image runs on.
    pub fn platform(&self) -> Platform {
        Platform {
            architecture: self.architecture.clone(),
            os: self.os.clone(),
            os_version: self.os_version.clone(),
            variant: self.variant.clone(),
        }
    }
}

/// The layers of an image, bottom first, by digest of their uncompressed bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    #[serde(rename = "type")]
    pub kind: String,
    pub diff_ids: Vec<Digest>,
}

/// How one layer, or one instruction without a layer, came to be.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct History {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// Defaults for containers of this image. Docker's extensions (`Healthcheck`, `OnBuild`, `Shell`) included.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RunConfig {
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_default")]
    pub user: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exposed_ports: Option<BTreeMap<String, Empty>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volumes: Option<BTreeMap<String, Empty>>,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_default")]
    pub working_dir: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_build: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub args_escaped: bool,
}

/// The `{}` that stands for membership in `ExposedPorts` and `Volumes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Empty {}

fn null_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_told_from_other_artifacts() {
        let check = |config: &str, artifact: Option<&str>, layers: &[&str], expected: bool| {
            let describe = |kind: &str| Descriptor::new(kind, Digest::of(kind.as_bytes()), 1);
            let manifest = Manifest {
                schema_version: 2,
                media_type: None,
                artifact_type: artifact.map(str::to_string),
                config: describe(config),
                layers: layers.iter().map(|kind| describe(kind)).collect(),
                annotations: BTreeMap::new(),
            };
            assert_eq!(manifest.is_image(), expected, "{config} {artifact:?} {layers:?}");
        };
        check(media_type::OCI_CONFIG, None, &[media_type::OCI_LAYER_GZIP], true);
        check(media_type::DOCKER_CONFIG, Some("application/vnd.x"), &[media_type::DOCKER_LAYER_GZIP], true);
        check("application/octet-stream", None, &[media_type::DOCKER_LAYER_GZIP], true);
        check(media_type::OCI_CONFIG, None, &[], true);
        check(media_type::OCI_CONFIG, None, &["application/vnd.oci.image.layer.v1.tar+gzip+encrypted"], true);
        check(media_type::OCI_CONFIG, None, &["application/vnd.in-toto+json"], false);
        check("application/vnd.oci.empty.v1+json", Some("application/vnd.x"), &["text/plain"], false);
        check("application/vnd.cncf.helm.config.v1+json", None, &["application/tar+gzip"], false);
        check("application/vnd.oci.empty.v1+json", None, &[media_type::OCI_LAYER], false);
    }

    #[test]
    fn an_index_without_platforms_is_one_thing() {
        let entry = |platform: Option<&str>| Descriptor {
            platform: platform.map(|text| text.parse().unwrap()),
            ..Descriptor::new(media_type::OCI_MANIFEST, Digest::of(b"x"), 1)
        };
        let check = |platforms: &[Option<&str>], expected: bool| {
            let manifests = platforms.iter().map(|p| entry(*p)).collect();
            let index =
                Index { schema_version: 2, media_type: None, manifests, annotations: BTreeMap::new() };
            assert_eq!(index.is_collection(), expected, "{platforms:?}");
        };
        check(&[], false);
        check(&[None], false);
        check(&[None, None], true);
        check(&[None, Some("unknown/unknown")], true);
        check(&[Some("linux/amd64"), Some("unknown/unknown")], false);
    }

    #[test]
    fn what_is_said_about_a_manifest_is_found() {
        let (image, other) = (Digest::of(b"image"), Digest::of(b"other"));
        let mut attestation = Descriptor::new(media_type::OCI_MANIFEST, Digest::of(b"a"), 1);
        attestation.annotations.insert(ABOUT.into(), image.to_string());
        let manifests = vec![Descriptor::new(media_type::OCI_MANIFEST, image, 1), attestation.clone()];
        let index = Index { schema_version: 2, media_type: None, manifests, annotations: BTreeMap::new() };
        assert_eq!(index.about(&image).collect::<Vec<_>>(), [&attestation]);
        assert_eq!(index.about(&other).count(), 0);
    }

    #[test]
    fn reads_a_config_with_nulls() {
        let text = r#"{"architecture":"amd64","os":"linux","config":{"User":null,"Env":null,"Cmd":["sh"]},
            "rootfs":{"type":"layers","diff_ids":[]}}"#;
        let config: ImageConfig = serde_json::from_str(text).unwrap();
        let run = config.config.unwrap();
        assert_eq!((run.user.as_str(), run.cmd.unwrap()), ("", vec!["sh".to_string()]));
    }
}
