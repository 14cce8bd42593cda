//! Documents of images that are no records yet: manifests and indexes in the content store, and archives of them.

use crate::commit::manifest_of;
use crate::{Error, Images, Lease, layout};
use archive::Files;
use oci::image::{ImageConfig, Manifest, media_type};
use oci::{Descriptor, Digest, Reference};
use std::collections::BTreeMap;
use std::io::Write;

/// A manifest in the content store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Composed {
    pub manifest: Descriptor,
    /// Digest of the config: the id of the image that it would be.
    pub config: Digest,
}

/// What an archive of the OCI layout begins with.
#[derive(Debug, Clone)]
pub struct Root {
    pub target: Descriptor,
    pub references: Vec<Reference>,
    /// Written also in the form that `docker load` of any age reads; for a manifest only.
    pub is_docker: bool,
}

impl Images {
    /// Puts config and manifest into the content store, where the lease keeps them.
    pub fn compose(
        &self,
        config: &ImageConfig,
        layers: &[Descriptor],
        annotations: &BTreeMap<String, String>,
        lease: &Lease,
    ) -> Result<Composed, Error> {
        for layer in layers {
            lease.keep_blob(&layer.digest);
        }
        let bytes = serde_json::to_vec(config).expect("a config is plain strings and numbers");
        let digest = self.keep(&bytes, lease)?;
        let plain = manifest_of(digest, bytes.len() as u64, layers.to_vec());
        let manifest = if annotations.is_empty() {
            plain
        } else {
            let mut manifest: Manifest = serde_json::from_slice(&plain).expect("it was written above");
            manifest.annotations.clone_from(annotations);
            serde_json::to_vec(&manifest).expect("a manifest is plain strings and numbers")
        };
        let mut descriptor =
            Descriptor::new(media_type::OCI_MANIFEST, self.keep(&manifest, lease)?, manifest.len() as u64);
        descriptor.platform = Some(config.platform());
        Ok(Composed { manifest: descriptor, config: digest })
    }

    /// Puts an index of manifests into the content store, where the lease keeps it.
    pub fn compose_index(
        &self,
        manifests: Vec<Descriptor>,
        annotations: BTreeMap<String, String>,
        lease: &Lease,
    ) -> Result<Descriptor, Error> {
        let bytes = layout::bytes(&layout::index(manifests, annotations));
        Ok(Descriptor::new(media_type::OCI_INDEX, self.keep(&bytes, lease)?, bytes.len() as u64))
    }

    pub(crate) fn keep(&self, bytes: &[u8], lease: &Lease) -> Result<Digest, Error> {
        let digest = Digest::of(bytes);
        lease.keep_blob(&digest);
        self.content.put(bytes)?;
        Ok(digest)
    }

    /// Writes an archive of the OCI layout with all that `root` consists of. Blocks.
    ///
    /// # Errors
    ///
    /// [`Error::WriteArchive`] when `out` refuses bytes; [`Error::Content`] for a blob that is missing.
    pub fn write_layout<W: Write>(&self, root: &Root, lease: &Lease, out: W) -> Result<(), Error> {
        let failed = |source| Error::WriteArchive { source };
        let outgoing = self.outgoing(&root.target, lease)?;
        if let Some(missing) = outgoing.absent.first() {
            return Err(content::Error::NotFound { digest: missing.digest }.into());
        }
        let mut files = Files::new(out);
        let mut documents = Vec::new();
        if root.is_docker {
            let bytes = self.content.read_bounded(&root.target.digest, oci::image::MAX_MANIFEST as u64)?;
            let manifest = crate::parse_manifest(&bytes, &root.target.digest, &root.target.media_type)?;
            let entry = layout::docker_entry(&manifest, &root.references);
            documents.push(("manifest.json", layout::bytes(&[entry])));
        }
        let manifests = layout::named(&root.target, &root.references);
        layout::begin(&mut files, manifests, &documents).map_err(failed)?;
        for (descriptor, bytes) in &outgoing.documents {
            files.bytes(&layout::path(&descriptor.digest), bytes).map_err(failed)?;
        }
        for blob in &outgoing.blobs {
            let mut file = self.content.open_blob(&blob.descriptor.digest)?;
            files
                .file(&layout::path(&blob.descriptor.digest), blob.descriptor.size, &mut file)
                .map_err(failed)?;
        }
        files.finish().map(drop).map_err(failed)
    }
}
