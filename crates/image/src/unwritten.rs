//! Layers without a blob: what was made here is kept once, as files, and packed when someone needs its bytes.
//!
//! A build hashes what its steps changed ([`Images::describe_snapshot`]) and writes no archive of it. An image can have such
//! a layer as it has others: its descriptor is that of the plain archive, whose digest is the layer's diff ID. Who sends the
//! image away (push, save, a shared cache) has the blob made ([`Images::make_blob`]); what is packed depends on nothing but
//! the files, so it is the same each time, and it is verified to be what was described.

use crate::document::chain_ids;
use crate::repack::Files;
use crate::{Error, Images, Lease, NewLayer, layer_type, parse_config};
use archive::{Compression, Hashing};
use oci::image::{MAX_CONFIG, Manifest, media_type};
use oci::{Descriptor, Digest};
use std::collections::HashMap;

impl Images {
    /// As [`Images::commit_snapshot`] without compression, but of what overlay keeps apart the blob is only described: the files
    /// are read once and nothing is written.
    ///
    /// # Errors
    ///
    /// [`Error::Pack`] with the path that could not be read.
    pub fn describe_snapshot(&self, lease: &Lease, key: &str) -> Result<Option<NewLayer>, Error> {
        if !self.snapshotter.is_overlay_form() {
            // Whole trees would be compared once more to pack it.
            return self.commit_snapshot(lease, key, &[], Compression::None);
        }
        let delta = self.snapshotter.delta(key)?;
        let mut tar = Hashing::new(std::io::sink());
        let packed = archive::write_changes(&mut tar, &crate::commit::borrowed(&delta), &[])
            .map_err(|source| Error::Pack { key: key.into(), source })?;
        if packed.entries == 0 {
            return Ok(None);
        }
        let (diff_id, size) = tar.finish();
        lease.keep_blob(&diff_id);
        let descriptor = Descriptor::new(layer_type(Compression::None), diff_id, size);
        Ok(Some(NewLayer { descriptor, diff_id, packed }))
    }

    /// Has the blob `layer` of the layer `chain_id` in the content store, made of its files where it is not there. `lease` keeps
    /// both.
    ///
    /// # Errors
    ///
    /// [`content::Error::NotFound`] when no driver has the layer, or it packs to another blob, which only one can that others
    /// packed; [`Error::OtherDriver`] when it is with a driver that cannot be read any more.
    pub fn make_blob(&self, chain_id: &Digest, layer: &Descriptor, lease: &Lease) -> Result<(), Error> {
        lease.keep_blob(&layer.digest);
        lease.keep_layer(chain_id);
        if self.content.contains(&layer.digest) {
            return Ok(());
        }
        let packs = |files: &Files, is_alone| self.pack_wanted(chain_id, files, is_alone, layer);
        match self.try_files(chain_id, &layer.digest, packs)? {
            true => Ok(()),
            false => Err(content::Error::NotFound { digest: layer.digest }.into()),
        }
    }

    /// Whether the layer `chain_id` is here and `layer` is what it is packed to, without compression.
    pub(crate) fn is_unwritten(
        &self,
        layer: &Descriptor,
        diff_id: &Digest,
        chain_id: &Digest,
    ) -> Result<bool, Error> {
        Ok(layer.digest == *diff_id && self.snapshotter.layer(chain_id)?.is_some())
    }

    /// As [`Images::is_unwritten`] for a layer that another driver has: which.
    pub(crate) fn is_unwritten_elsewhere(
        &self,
        layer: &Descriptor,
        diff_id: &Digest,
        chain_id: &Digest,
    ) -> Result<Option<&'static str>, Error> {
        if layer.digest == *diff_id { Ok(self.others.find(chain_id)?) } else { Ok(None) }
    }

    /// Those layers of a manifest that have no blob and are here: their chain IDs by the digests of their blobs.
    pub(crate) fn unwritten(&self, manifest: &Manifest) -> Result<HashMap<Digest, Digest>, Error> {
        let mut out = HashMap::new();
        if manifest.layers.iter().all(|layer| self.content.contains(&layer.digest))
            || !media_type::is_image_config(&manifest.config.media_type)
        {
            return Ok(out);
        }
        let bytes = match self.content.read_bounded(&manifest.config.digest, MAX_CONFIG as u64) {
            Ok(bytes) => bytes,
            // Nothing can be told without it; who checks the blobs tells what is wrong with it.
            Err(_) => return Ok(out),
        };
        let Ok(config) = parse_config(&bytes, &manifest.config.digest) else { return Ok(out) };
        let each = manifest.layers.iter().zip(&config.rootfs.diff_ids).zip(chain_ids(&config));
        for ((layer, diff_id), chain_id) in each {
            if !self.content.contains(&layer.digest)
                && (self.is_unwritten(layer, diff_id, &chain_id)?
                    || self.is_unwritten_elsewhere(layer, diff_id, &chain_id)?.is_some())
            {
                out.insert(layer.digest, chain_id);
            }
        }
        Ok(out)
    }

    /// Whether the layer `chain_id` still packs to the blob `digest`. Reads all of it.
    pub(crate) fn packs_to(&self, chain_id: &Digest, digest: &Digest) -> Result<bool, Error> {
        let packs = |files: &Files, is_alone| {
            let failed = |source| Error::Pack { key: chain_id.to_string(), source };
            let (tar, _) = files.write(is_alone, Hashing::new(std::io::sink())).map_err(failed)?;
            Ok(tar.finish().0 == *digest)
        };
        self.try_files(chain_id, digest, packs)
    }

    /// Whether the layer `chain_id` `packs` to what is wanted: as it lies on others or as it would be on nothing, under the
    /// driver in use or under another.
    fn try_files(
        &self,
        chain_id: &Digest,
        blob: &Digest,
        packs: impl Fn(&Files, bool) -> Result<bool, Error>,
    ) -> Result<bool, Error> {
        let fits = |files: &Files| -> Result<bool, Error> {
            Ok(packs(files, false)? || (files.is_apart() && packs(files, true)?))
        };
        let own = match self.snapshotter.layer(chain_id)? {
            Some(_) => self.own_files(chain_id).and_then(|files| fits(&files)),
            None => Ok(false),
        };
        if matches!(own, Ok(true)) {
            return own;
        }
        // What cannot be read here may be whole there.
        let Some(driver) = self.others.find(chain_id)? else { return own };
        match self.others.open(driver, chain_id) {
            Ok(form) => Ok(fits(&Files::of_other(form))? || own?),
            Err(e) => Err(Error::OtherDriver { layer: *blob, driver, source: Box::new(e.into()) }),
        }
    }
}
