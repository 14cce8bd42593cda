//! What has to be at a registry for an image to be there, and what is noted once it is.

use crate::document::{parse_any_manifest, parse_index};
use crate::import::point;
use crate::layout::{self, MAX_INDEX_DEPTH};
use crate::{Error, ImageId, Images, Lease};
use oci::image::{MAX_MANIFEST, media_type};
use oci::{Descriptor, Digest, Reference};
use std::collections::{HashMap, HashSet};

/// All of a manifest or an index, as far as it is here.
#[derive(Debug, Clone, Default)]
pub struct Outgoing {
    /// Configs and layers, each once.
    pub blobs: Vec<OutgoingBlob>,
    /// Manifests and indexes as the bytes they are, what is named before what names it; the target is the last.
    pub documents: Vec<(Descriptor, Vec<u8>)>,
    /// Manifests that the target names and that are not here, or not with all their blobs.
    pub absent: Vec<Descriptor>,
}

impl Outgoing {
    /// The digests of all that is here of it.
    pub(crate) fn digests(&self) -> impl Iterator<Item = Digest> {
        let documents = self.documents.iter().map(|(descriptor, _)| descriptor.digest);
        documents.chain(self.blobs.iter().map(|blob| blob.descriptor.digest))
    }
}

/// A blob of an image.
#[derive(Debug, Clone)]
pub struct OutgoingBlob {
    pub descriptor: Descriptor,
    /// A layer, not a config.
    pub is_layer: bool,
}

impl Images {
    /// Gathers what `target` (a manifest or an index in the content store) consists of. `lease` keeps it.
    ///
    /// # Errors
    ///
    /// [`Error::Content`] when the target itself is missing, [`Error::BlobLost`] when a blob of the manifest is,
    /// [`Error::Document`] when it cannot be read.
    pub fn outgoing(&self, target: &Descriptor, lease: &Lease) -> Result<Outgoing, Error> {
        let mut out = Outgoing::default();
        let mut seen = HashSet::new();
        self.gather(target, lease, MAX_INDEX_DEPTH, &mut seen, &mut out)?;
        Ok(out)
    }

    /// As [`Images::outgoing`] for the manifests `entries` of some index, as far as they are here.
    pub(crate) fn present<'e>(
        &self,
        entries: impl Iterator<Item = &'e Descriptor>,
        lease: &Lease,
    ) -> Result<Outgoing, Error> {
        let (mut out, mut seen) = (Outgoing::default(), HashSet::new());
        for entry in entries {
            lease.keep_blob(&entry.digest);
            if self.content.contains(&entry.digest) {
                self.gather(entry, lease, MAX_INDEX_DEPTH - 1, &mut seen, &mut out)?;
            } else {
                out.absent.push(entry.clone());
            }
        }
        Ok(out)
    }

    fn gather(
        &self,
        descriptor: &Descriptor,
        lease: &Lease,
        depth: usize,
        seen: &mut HashSet<Digest>,
        out: &mut Outgoing,
    ) -> Result<(), Error> {
        let digest = descriptor.digest;
        if !seen.insert(digest) {
            return Ok(());
        }
        lease.keep_blob(&digest);
        let bytes = self.content.read_bounded(&digest, MAX_MANIFEST as u64)?;
        if media_type::is_index(&descriptor.media_type) {
            if depth == 0 {
                return Err(layout::too_deep(digest));
            }
            let index = parse_index(&bytes, &digest, &descriptor.media_type)?;
            for entry in &index.manifests {
                lease.keep_blob(&entry.digest);
                if self.content.contains(&entry.digest) {
                    self.gather(entry, lease, depth - 1, seen, out)?;
                } else if seen.insert(entry.digest) {
                    out.absent.push(entry.clone());
                }
            }
        } else {
            let manifest = parse_any_manifest(&bytes, &digest)?;
            let layers = manifest.layers.iter().map(|layer| (layer, true));
            let mut missing = None;
            let mut blobs = Vec::new();
            for (blob, is_layer) in layers.chain([(&manifest.config, false)]) {
                lease.keep_blob(&blob.digest);
                match self.content.size(&blob.digest) {
                    Ok(size) if size == blob.size => {}
                    // Bytes that the registry is told to leave with its vendor.
                    Err(_) if !blob.urls.is_empty() => continue,
                    Err(content::Error::NotFound { .. })
                        if is_layer && self.remake(&manifest, blob, lease)? => {}
                    Ok(_) | Err(content::Error::NotFound { .. }) => missing = Some(blob.digest),
                    Err(e) => return Err(e.into()),
                }
                if seen.insert(blob.digest) {
                    blobs.push(OutgoingBlob { descriptor: blob.clone(), is_layer });
                }
            }
            match missing {
                None => out.blobs.extend(blobs),
                Some(digest) if out.documents.is_empty() && depth == MAX_INDEX_DEPTH => {
                    return Err(Error::BlobLost { digest });
                }
                Some(_) => {
                    // Other manifests may have these and be whole.
                    seen.retain(|digest| blobs.iter().all(|blob| blob.descriptor.digest != *digest));
                    out.absent.push(descriptor.clone());
                    return Ok(());
                }
            }
        }
        out.documents.push((descriptor.clone(), bytes));
        Ok(())
    }

    /// Repositories of `host` that are known to have `blobs`: those that images were pulled from or pushed to.
    pub fn homes(&self, host: &str, blobs: &[Digest]) -> Result<HashMap<Digest, Vec<String>>, Error> {
        let wanted: HashSet<&Digest> = blobs.iter().collect();
        self.db.read(|tx| {
            let mut repositories: HashMap<Digest, Vec<String>> = HashMap::new();
            for row in tx.list_references()?.into_iter().filter(|row| row.label.starts_with('@')) {
                let reference: Reference = format!("{}{}", row.repository, row.label).parse()?;
                if reference.host() == host {
                    repositories.entry(row.image_id).or_default().push(reference.repository().to_string());
                }
            }
            let mut out: HashMap<Digest, Vec<String>> = HashMap::new();
            for (image, repositories) in repositories {
                for blob in tx.blobs_of(&image)?.into_iter().filter(|blob| wanted.contains(blob)) {
                    let known = out.entry(blob).or_default();
                    known.extend(repositories.iter().cloned());
                    known.sort();
                    known.dedup();
                }
            }
            Ok(out)
        })
    }

    /// Notes that a registry has the image under `reference`, which names a digest. On disk when it returns; nothing
    /// when the image has gone meanwhile.
    pub fn note_digest(&self, id: &ImageId, reference: &Reference) -> Result<(), Error> {
        self.db.write_durable(|tx| match tx.image(&id.0)? {
            Some(_) => point(tx, id.0, std::slice::from_ref(reference)),
            None => Ok(()),
        })
    }
}
