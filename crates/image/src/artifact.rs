//! OCI artifacts that are no container images: charts, modules, signatures, attestations, and indexes of such.
//!
//! They are kept byte for byte under the same names, leases and collection as images, so that save, load, tag, push and
//! removal do what they do for an image. There is no config that an id could be the digest of (many artifacts share one
//! empty config), so the id is the digest of the manifest.

use crate::import::{now_ms, point, point_beside};
use crate::store::load;
use crate::{Error, Image, Images, Import, Lease};
use metadata::ImageRow;
use oci::image::{ImageConfig, RootFs, media_type};
use oci::{Descriptor, Digest};

/// Annotation: when it was made.
pub(crate) const CREATED: &str = "org.opencontainers.image.created";

/// What an import led to.
#[derive(Debug)]
pub(crate) struct Artifact {
    /// A manifest, or an index of which all is wanted.
    pub(crate) descriptor: Descriptor,
    /// The indexes that led to it.
    pub(crate) documents: Vec<Digest>,
    pub(crate) created: Option<String>,
}

/// What stands for the config of what has none.
pub(crate) fn config() -> ImageConfig {
    ImageConfig {
        created: None,
        author: None,
        architecture: String::new(),
        os: String::new(),
        os_version: None,
        variant: None,
        config: None,
        container: None,
        container_config: None,
        rootfs: RootFs { kind: "layers".into(), diff_ids: Vec::new() },
        history: Vec::new(),
        build_cache: None,
    }
}

impl Images {
    /// Records an artifact whose blobs are in the content store. On disk when it returns.
    ///
    /// # Errors
    ///
    /// [`Error::Content`] when a blob of a manifest that was named is missing.
    pub(crate) fn import_artifact(
        &self,
        import: &Import<'_>,
        artifact: Artifact,
        lease: &Lease,
    ) -> Result<Image, Error> {
        let whole = self.outgoing(&artifact.descriptor, lease)?;
        let layers = whole.blobs.iter().filter(|blob| blob.is_layer).map(|blob| blob.descriptor.size);
        let mut target = import.target.clone();
        if target.digest == artifact.descriptor.digest {
            target.artifact_type.clone_from(&artifact.descriptor.artifact_type);
        }
        let platform = artifact.descriptor.platform.clone();
        let id = artifact.descriptor.digest;
        let row = ImageRow {
            id,
            size_bytes: layers.sum(),
            manifest: artifact.descriptor,
            target,
            chain_id: None,
            created: artifact.created.unwrap_or_default(),
            added_ms: now_ms(),
            tagged_ms: None,
        };
        let mut blobs = artifact.documents;
        blobs.extend(whole.digests());
        self.db.write_durable(|tx| {
            tx.put_image(&row, &blobs)?;
            match platform {
                Some(platform) if media_type::is_index(&import.target.media_type) => {
                    point_beside(tx, id, import.target, &platform, import.references)?;
                }
                _ => point(tx, id, import.references)?,
            }
            load(tx, &id)
        })
    }
}
