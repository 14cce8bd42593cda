//! What is written into and read from archives of images: the names of an OCI layout's parts, and how it names images.
//!
//! Spec: image-spec, image-layout.md; Docker image specification v1.2 for `manifest.json`.

use archive::{Error, Files};
use oci::image::{Index, Manifest, media_type};
use oci::{Descriptor, Digest, Reference};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;

/// The name that Docker gives an image in the annotations of an OCI layout.
pub(crate) const DOCKER_NAME: &str = "io.containerd.image.name";
/// The name that the specification provides; often only a tag.
pub(crate) const OCI_NAME: &str = "org.opencontainers.image.ref.name";
/// Indexes within indexes that we follow. Real ones have one level.
pub(crate) const MAX_INDEX_DEPTH: usize = 4;

/// What is wrong with an index that leads deeper than that.
pub(crate) fn too_deep(digest: Digest) -> crate::Error {
    let reason = format!("it leads through more than {MAX_INDEX_DEPTH} indexes");
    crate::Error::Document { document: "index", digest, reason }
}

/// Where a blob is.
pub(crate) fn path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Begins a layout with all that comes before its blobs: `manifests` are what its index names, `documents` the other files.
pub(crate) fn begin<W: Write>(
    files: &mut Files<W>,
    manifests: Vec<Descriptor>,
    documents: &[(&str, Vec<u8>)],
) -> Result<(), Error> {
    files.bytes("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    files.bytes("index.json", &bytes(&index(manifests, BTreeMap::new())))?;
    for (name, document) in documents {
        files.bytes(name, document)?;
    }
    files.directory("blobs")?;
    files.directory("blobs/sha256")
}

/// An index of these manifests.
pub(crate) fn index(manifests: Vec<Descriptor>, annotations: BTreeMap<String, String>) -> Index {
    Index { schema_version: 2, media_type: Some(media_type::OCI_INDEX.into()), manifests, annotations }
}

/// The target once for each of its names; as it is where it has none.
pub(crate) fn named<'r>(
    target: &Descriptor,
    references: impl IntoIterator<Item = &'r Reference>,
) -> Vec<Descriptor> {
    let name = |reference: &Reference| {
        let mut named = target.clone();
        named.annotations.insert(DOCKER_NAME.into(), reference.to_string());
        named.annotations.insert(OCI_NAME.into(), reference.tag().unwrap_or_default().into());
        named
    };
    let named: Vec<Descriptor> = references.into_iter().map(name).collect();
    if named.is_empty() { vec![target.clone()] } else { named }
}

/// An image in `manifest.json`.
pub(crate) fn docker_entry<'r>(
    manifest: &Manifest,
    references: impl IntoIterator<Item = &'r Reference>,
) -> Value {
    let tags: Vec<String> = references.into_iter().map(Reference::familiar).collect();
    let layers: Vec<String> = manifest.layers.iter().map(|layer| path(&layer.digest)).collect();
    json!({
        "Config": path(&manifest.config.digest),
        "RepoTags": if tags.is_empty() { Value::Null } else { json!(tags) },
        "Layers": layers,
    })
}

/// A document as it is written.
pub(crate) fn bytes<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain strings and numbers")
}
