//! Layers whose blobs are gone, packed again from what they were unpacked to.
//!
//! A layer that was made here (commit, build) packs to the bytes that it had, since what is written depends on nothing but
//! the files. Of one that others made the order of its files and more is lost: it packs to another layer with the same files.

use crate::commit::{NewLayer, layer_type};
use crate::{Error, Images, Lease};
use archive::{Compression, Hashing, Packed};
use metadata::LayerRow;
use oci::image::{ImageConfig, MAX_CONFIG, MAX_LAYERS, Manifest, media_type};
use oci::{Descriptor, Digest};
use rootdir::RootDir;
use snapshot::{DeltaForm, Guard};
use std::io::Write;
use std::path::PathBuf;

impl Images {
    /// Packs the layer `chain_id` and those below it, bottom first. Where `diff_id` and digest of one are what they were
    /// depends on who made it; the same layers give the same blobs each time.
    ///
    /// # Errors
    ///
    /// [`Error::Snapshot`] when a layer is gone; [`Error::Pack`] with the path that could not be read.
    pub fn repack(&self, chain_id: &Digest, lease: &Lease) -> Result<Vec<NewLayer>, Error> {
        let chain = self.chain(chain_id)?;
        chain.iter().map(|row| self.pack_layer(&row.chain_id, Compression::None, lease)).collect()
    }

    /// The layer `chain_id` and those below it, bottom first.
    fn chain(&self, chain_id: &Digest) -> Result<Vec<LayerRow>, Error> {
        let mut chain = Vec::new();
        let mut next = Some(*chain_id);
        while let Some(chain_id) = next.filter(|_| chain.len() < MAX_LAYERS) {
            let missing = snapshot::Error::LayerNotFound { chain_id };
            let row = self.snapshotter.layer(&chain_id)?.ok_or(missing)?;
            next = row.parent;
            chain.push(row);
        }
        chain.reverse();
        Ok(chain)
    }

    /// Packs one layer into the content store.
    fn pack_layer(
        &self,
        chain_id: &Digest,
        compression: Compression,
        lease: &Lease,
    ) -> Result<NewLayer, Error> {
        let failed = |source| Error::Pack { key: chain_id.to_string(), source };
        let compressor = archive::compress(self.content.ingest(None, None)?, compression).map_err(failed)?;
        let files = self.own_files(chain_id)?;
        let (tar, packed) = files.write(false, Hashing::new(compressor)).map_err(failed)?;
        let (compressor, diff_id, _) = tar.into_parts();
        let ingest = compressor.finish().map_err(failed)?;
        let (digest, size) = ingest.commit_kept(|digest| lease.keep_blob(digest))?;
        let descriptor = Descriptor::new(layer_type(compression), digest, size);
        Ok(NewLayer { descriptor, diff_id, packed })
    }

    /// Packs the files of the layer `chain_id` into the content store where that makes the blob `wanted`; says whether it does.
    /// What `is_alone` began on nothing, whatever it lies on now.
    pub(crate) fn pack_wanted(
        &self,
        chain_id: &Digest,
        files: &Files,
        is_alone: bool,
        wanted: &Descriptor,
    ) -> Result<bool, Error> {
        let failed = |source| Error::Pack { key: chain_id.to_string(), source };
        let ingest = self.content.ingest(Some(wanted.digest), None)?;
        let compressor = archive::compress(ingest, compression_of(wanted)).map_err(failed)?;
        let (compressor, _) = files.write(is_alone, compressor).map_err(failed)?;
        match compressor.finish().map_err(failed)?.commit() {
            Ok((_, size)) => Ok(size == wanted.size),
            Err(content::Error::DigestMismatch { .. }) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// The files of a layer under the driver in use.
    pub(crate) fn own_files(&self, chain_id: &Digest) -> Result<Files, Error> {
        let open = |path: &PathBuf| RootDir::open(path).map_err(|e| Error::Snapshot(e.into()));
        let layers = self.snapshotter.layers(chain_id)?;
        let mut roots = layers.paths.iter().map(open);
        let Some(own) = roots.next().transpose()? else {
            return Err(snapshot::Error::LayerNotFound { chain_id: *chain_id }.into());
        };
        let form = if self.snapshotter.is_overlay_form() {
            DeltaForm::Upper { upper: own, lowers: roots.collect::<Result<_, _>>()? }
        } else {
            DeltaForm::Tree { tree: own, below: roots.next().transpose()? }
        };
        Ok(Files { form, _guard: layers.guard })
    }

    /// Makes the blob `layer` of a manifest again, where what its layer packs to is that blob. Says whether it is.
    pub(crate) fn remake(
        &self,
        manifest: &Manifest,
        layer: &Descriptor,
        lease: &Lease,
    ) -> Result<bool, Error> {
        let Some(at) = manifest.layers.iter().position(|known| known.digest == layer.digest) else {
            return Ok(false);
        };
        let config = match self.content.read_bounded(&manifest.config.digest, MAX_CONFIG as u64) {
            Ok(bytes) if media_type::is_image_config(&manifest.config.media_type) => bytes,
            Ok(_) | Err(content::Error::NotFound { .. }) => return Ok(false),
            Err(e) => return Err(e.into()),
        };
        // What is said about an image has a config that is none.
        let Ok(config): Result<ImageConfig, _> = crate::parse_config(&config, &manifest.config.digest) else {
            return Ok(false);
        };
        let Some(chain_id) = crate::chain_ids(&config).get(at).copied() else { return Ok(false) };
        lease.keep_layer(&chain_id);
        match self.make_blob(&chain_id, layer, lease) {
            Ok(()) => {
                tracing::debug!(digest = %layer.digest, "a blob is made of its layer");
                Ok(true)
            }
            Err(Error::Content(content::Error::NotFound { .. })) => Ok(false),
            Err(e) => Err(e),
        }
    }
}

/// The files of a layer, and what it lies on.
pub(crate) struct Files {
    form: DeltaForm,
    _guard: Option<Box<dyn Guard>>,
}

impl Files {
    /// Of a layer that another driver keeps.
    pub(crate) fn of_other(form: DeltaForm) -> Files {
        Files { form, _guard: None }
    }

    /// Whether it can be told what they would be on nothing, and that is something else.
    pub(crate) fn is_apart(&self) -> bool {
        matches!(&self.form, DeltaForm::Upper { lowers, .. } if !lowers.is_empty())
    }

    /// Writes them as an archive.
    pub(crate) fn write<W: Write>(&self, is_alone: bool, mut out: W) -> Result<(W, Packed), archive::Error> {
        let delta = match &self.form {
            DeltaForm::Upper { upper, .. } if is_alone => archive::Delta::Upper { upper, lowers: &[] },
            DeltaForm::Upper { upper, lowers } => archive::Delta::Upper { upper, lowers },
            DeltaForm::Tree { tree, below } => archive::Delta::Tree { tree, below: below.as_ref() },
        };
        let packed = archive::write_changes(&mut out, &delta, &[])?;
        Ok((out, packed))
    }
}

/// How the blob of a layer is compressed, by its type.
pub(crate) fn compression_of(layer: &Descriptor) -> Compression {
    match layer.media_type.rsplit(['+', '.']).next() {
        Some("gzip") => Compression::Gzip,
        Some("zstd") => Compression::Zstd,
        _ => Compression::None,
    }
}
