//! Committing: the changes of a writable snapshot become a layer blob, and layers with a config become an image.
//!
//! For `commit` and for builds. Two steps, which do not need each other:
//!
//! 1. [`Images::commit_snapshot`]: writable snapshot -> layer blob in the content store ([`NewLayer`]). Only what changed
//!    is read. What is written depends on nothing but the changes: the same changes give the same digests.
//! 2. [`Images::assemble`]: layer descriptors, bottom first, and a config -> config blob, manifest blob, unpacked layers,
//!    record and references, in one durable step ([`Images::import`]). [`push_layer`] adds a layer with its line of
//!    history to a config; [`Images::manifest`] gives the layers of the image to begin with.
//!
//! The lease handed to both keeps what is made from being collected in between. A process killed on the way leaves
//! nothing that has a name: the next [`Images::reconcile`] collects it.

use crate::{Error, Image, ImageId, Images, Import, Lease, OnProgress};
use archive::{Compression, Hashing, Packed};
use oci::image::{History, ImageConfig, MAX_LAYERS, MAX_MANIFEST, Manifest, media_type};
use oci::{Descriptor, Digest, Platform, Reference};
use snapshot::DeltaForm;

/// A layer blob that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLayer {
    /// Of the blob, compressed as asked for.
    pub descriptor: Descriptor,
    /// Of the uncompressed tar.
    pub diff_id: Digest,
    pub packed: Packed,
}

/// An image to make of layers whose blobs are in the content store.
#[expect(missing_debug_implementations, reason = "holds a callback")]
#[derive(Clone, Copy)]
pub struct Assemble<'a> {
    /// `rootfs.diff_ids` has one entry for each of `layers`.
    pub config: &'a ImageConfig,
    /// Bottom first.
    pub layers: &'a [Descriptor],
    /// Names to point at the image, each with a tag; may be empty.
    pub references: &'a [Reference],
    /// The image that this one was made from, where that is one of ours.
    pub parent: Option<ImageId>,
    pub lease: &'a Lease,
    pub progress: OnProgress<'a>,
}

impl Images {
    /// Writes the changes of the writable snapshot `key` as a layer blob; `None` when nothing changed.
    ///
    /// `places` are what the engine makes in every root to mount on (relative paths): left out while new and empty. The
    /// snapshot may be mounted but should not be written to meanwhile.
    ///
    /// # Errors
    ///
    /// [`Error::Pack`] with the path that could not be read or written.
    pub fn commit_snapshot(
        &self,
        lease: &Lease,
        key: &str,
        places: &[&str],
        compression: Compression,
    ) -> Result<Option<NewLayer>, Error> {
        let failed = |source| Error::Pack { key: key.into(), source };
        let delta = self.snapshotter.delta(key)?;
        let ingest = self.content.ingest(None, None)?;
        let compressor = archive::compress(ingest, compression).map_err(failed)?;
        let mut tar = Hashing::new(compressor);
        let packed = archive::write_changes(&mut tar, &borrowed(&delta), places).map_err(failed)?;
        drop(delta);
        if packed.entries == 0 {
            return Ok(None);
        }
        let (compressor, diff_id, _) = tar.into_parts();
        let ingest = compressor.finish().map_err(failed)?;
        let (digest, size) = ingest.commit_kept(|digest| lease.keep_blob(digest))?;
        let descriptor = Descriptor::new(layer_type(compression), digest, size);
        Ok(Some(NewLayer { descriptor, diff_id, packed }))
    }

    /// Lists what was changed in the writable snapshot `key`. `places` as for [`Images::commit_snapshot`].
    pub fn changes(&self, key: &str, places: &[&str]) -> Result<Vec<archive::Change>, Error> {
        let delta = self.snapshotter.delta(key)?;
        archive::changes(&borrowed(&delta), places).map_err(|source| Error::Pack { key: key.into(), source })
    }

    /// Makes an image of a config and layers; unpacks layers that are not. On disk when it returns.
    ///
    /// # Errors
    ///
    /// As [`Images::import`].
    pub fn assemble(&self, assemble: &Assemble<'_>) -> Result<Image, Error> {
        let lease = assemble.lease;
        for layer in assemble.layers {
            lease.keep_blob(&layer.digest);
        }
        let config = serde_json::to_vec(assemble.config).expect("a config is plain strings and numbers");
        let config_digest = Digest::of(&config);
        lease.keep_blob(&config_digest);
        self.content.put(&config)?;
        let manifest = manifest_of(config_digest, config.len() as u64, assemble.layers.to_vec());
        let manifest_digest = Digest::of(&manifest);
        lease.keep_blob(&manifest_digest);
        self.content.put(&manifest)?;
        let target = Descriptor::new(media_type::OCI_MANIFEST, manifest_digest, manifest.len() as u64);
        let image = self.import_made(&Import {
            target: &target,
            platform: &Platform::host(),
            references: assemble.references,
            lease: Some(lease),
            progress: assemble.progress,
        })?;
        if let Some(parent) = assemble.parent.filter(|parent| *parent != image.id) {
            self.db.write(|tx| tx.put_image_parent(&image.id.0, &parent.0))?;
        }
        Ok(image)
    }

    /// The manifest of an image, its layers bottom first.
    pub fn manifest(&self, id: &ImageId) -> Result<Manifest, Error> {
        let descriptor = self.image(id)?.manifest;
        let bytes = self.content.read_bounded(&descriptor.digest, MAX_MANIFEST as u64)?;
        crate::parse_manifest(&bytes, &descriptor.digest, &descriptor.media_type)
    }
}

/// Adds one step to a config: its layer, or none for a step that changed no file, and its line of history.
///
/// # Errors
///
/// [`Error::TooManyLayers`].
pub fn push_layer(config: &mut ImageConfig, layer: Option<&NewLayer>, history: History) -> Result<(), Error> {
    if let Some(layer) = layer {
        if config.rootfs.diff_ids.len() >= MAX_LAYERS {
            return Err(Error::TooManyLayers { max: MAX_LAYERS });
        }
        config.rootfs.diff_ids.push(layer.diff_id);
    }
    config.history.push(History { empty_layer: layer.is_none(), ..history });
    Ok(())
}

/// The media type of a layer that is compressed so.
pub fn layer_type(compression: Compression) -> &'static str {
    match compression {
        Compression::None => media_type::OCI_LAYER,
        Compression::Gzip => media_type::OCI_LAYER_GZIP,
        Compression::Zstd => media_type::OCI_LAYER_ZSTD,
        // In nobody's specification, but whoever reads it knows what it is.
        Compression::Xz => "application/vnd.oci.image.layer.v1.tar+xz",
        Compression::Bzip2 => "application/vnd.oci.image.layer.v1.tar+bzip2",
    }
}

/// The manifest of an image with this config and these layers.
pub(crate) fn manifest_of(config: Digest, config_size: u64, layers: Vec<Descriptor>) -> Vec<u8> {
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type::OCI_MANIFEST.into()),
        artifact_type: None,
        config: Descriptor::new(media_type::OCI_CONFIG, config, config_size),
        layers,
        annotations: Default::default(),
    };
    serde_json::to_vec(&manifest).expect("a manifest is plain strings and numbers")
}

pub(crate) fn borrowed(delta: &snapshot::Delta) -> archive::Delta<'_> {
    match &delta.form {
        DeltaForm::Upper { upper, lowers } => archive::Delta::Upper { upper, lowers },
        DeltaForm::Tree { tree, below } => archive::Delta::Tree { tree, below: below.as_ref() },
    }
}
