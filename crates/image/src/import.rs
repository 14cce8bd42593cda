//! Making an image of blobs: choose, verify, unpack, sync once, record.

use crate::artifact::{Artifact, CREATED};
use crate::document::{chain_ids, choose, parse_any_manifest, parse_config, parse_index, parse_manifest};
use crate::layout::{self, MAX_INDEX_DEPTH};
use crate::store::load;
use crate::{Error, Image, Images, Lease, OnProgress};
use metadata::{ImageRow, WriteTx};
use oci::image::{ImageConfig, MAX_CONFIG, MAX_MANIFEST, Manifest, media_type};
use oci::{Descriptor, Digest, Platform, Reference};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// Layers of one image that are unpacked at once, at least and at most. More threads than cores help while some wait
/// for the disk; more than four found nothing left to do.
const THREADS: (usize, usize) = (2, 4);

/// An image to make.
#[expect(missing_debug_implementations, reason = "holds a callback")]
#[derive(Clone, Copy)]
pub struct Import<'a> {
    /// A manifest or an index, whose blobs are in the content store.
    pub target: &'a Descriptor,
    /// Chooses from an index. A manifest named directly is taken whatever its platform.
    pub platform: &'a Platform,
    /// Names to point at the image, each with a tag or a digest. A pull gives `repository:tag` and
    /// `repository@digest`, with the digest of `target`.
    pub references: &'a [Reference],
    /// Keeps the blobs and layers; one of its own when there is none.
    pub lease: Option<&'a Lease>,
    pub progress: OnProgress<'a>,
}

/// Who made what is imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// This store, by describing what it has.
    Here,
    /// Whoever wrote its documents.
    Others,
}

/// What a target turned out to be.
#[derive(Debug)]
enum Found {
    Image(Box<Resolved>),
    Artifact(Box<Artifact>),
}

/// An image.
#[derive(Debug)]
struct Resolved {
    manifest_descriptor: Descriptor,
    manifest: Manifest,
    config: ImageConfig,
    /// The documents read on the way, config included, and all of what the index says about the manifest beside.
    documents: Vec<Digest>,
}

impl Images {
    /// Makes an image of blobs in the content store; unpacks what is not unpacked yet. On disk when it returns.
    ///
    /// An image that is there already gets the further names. After a failure nothing names the blobs and layers
    /// brought in; [`Images::collect_garbage`] removes them once the lease is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Document`] and its neighbours for documents that contradict the specification or each other;
    /// [`Error::NoPlatform`]; [`Error::Content`] when a blob is missing; those of [`Images::unpack_layer`].
    pub fn import(&self, import: &Import<'_>) -> Result<Image, Error> {
        self.import_of(import, Origin::Others)
    }

    /// As [`Images::import`], of what a build made here: of its layers without a blob it is known what they pack to.
    ///
    /// # Errors
    ///
    /// As [`Images::import`].
    pub fn import_made(&self, import: &Import<'_>) -> Result<Image, Error> {
        self.import_of(import, Origin::Here)
    }

    fn import_of(&self, import: &Import<'_>, origin: Origin) -> Result<Image, Error> {
        match import.lease {
            Some(lease) => self.import_leased(import, origin, lease),
            None => self.import_leased(import, origin, &self.lease()),
        }
    }

    fn import_leased(&self, import: &Import<'_>, origin: Origin, lease: &Lease) -> Result<Image, Error> {
        for reference in import.references {
            label(reference)?;
        }
        let resolved = match self.follow(import.target, import.platform, lease)? {
            Found::Image(resolved) => *resolved,
            Found::Artifact(artifact) => return self.import_artifact(import, *artifact, lease),
        };
        self.check_layers(&resolved, origin, lease)?;
        let chain_ids = self.unpack_layers(&resolved, lease, import.progress)?;
        let was_synced = self.sync_layers(&chain_ids)?;
        let id = resolved.manifest.config.digest;
        let mut row = ImageRow {
            id,
            manifest: resolved.manifest_descriptor,
            target: import.target.clone(),
            chain_id: chain_ids.last().copied(),
            size_bytes: 0,
            created: resolved.config.created.clone().unwrap_or_default(),
            added_ms: now_ms(),
            tagged_ms: None,
        };
        let platform = resolved.config.platform();
        let mut blobs = resolved.documents;
        blobs.extend(resolved.manifest.layers.iter().map(|layer| layer.digest));
        let is_index = media_type::is_index(&import.target.media_type);
        let mut record = |tx: &WriteTx<'_>| {
            for chain_id in &chain_ids {
                let missing = || snapshot::Error::LayerNotFound { chain_id: *chain_id };
                row.size_bytes += tx.layer(chain_id)?.ok_or_else(missing)?.size_bytes;
                tx.set_layer_durable(chain_id)?;
            }
            tx.put_image(&row, &blobs)?;
            if is_index {
                point_beside(tx, id, import.target, &platform, import.references)?;
            } else {
                point(tx, id, import.references)?;
            }
            // Here and not later, when someone may have removed it again.
            load(tx, &id)
        };
        // Of what is on disk only the times are new, which may be lost.
        if was_synced && !is_index {
            let known = self.db.write(|tx| match is_recorded(tx, &id, import)? {
                true => record(tx).map(Some),
                false => Ok(None),
            })?;
            if let Some(image) = known {
                return Ok(image);
            }
        }
        self.db.write_durable(record)
    }

    /// Puts the layers on disk, all at once, unless they are. Whether they were.
    fn sync_layers(&self, chain_ids: &[Digest]) -> Result<bool, Error> {
        for chain_id in chain_ids {
            if !self.snapshotter.layer(chain_id)?.is_some_and(|layer| layer.durable) {
                self.snapshotter.sync()?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Follows `target` to a manifest for `platform` and its config, or to what is no image.
    fn follow(&self, target: &Descriptor, platform: &Platform, lease: &Lease) -> Result<Found, Error> {
        let mut documents = Vec::new();
        let mut next = target.clone();
        for _ in 0..=MAX_INDEX_DEPTH {
            lease.keep_blob(&next.digest);
            let bytes = self.read_document(&next, "manifest", MAX_MANIFEST)?;
            if media_type::is_index(&next.media_type) {
                let index = parse_index(&bytes, &next.digest, &next.media_type)?;
                if index.is_collection() {
                    let created = index.annotations.get(CREATED).cloned();
                    return Ok(Found::Artifact(Box::new(Artifact { descriptor: next, documents, created })));
                }
                documents.push(next.digest);
                next = choose(&index, platform)?.clone();
                documents.extend(self.present(index.about(&next.digest), lease)?.digests());
                continue;
            }
            if !media_type::is_manifest(&next.media_type) {
                return Err(Error::NotAnImage { digest: next.digest, media_type: next.media_type });
            }
            let any = parse_any_manifest(&bytes, &next.digest)?;
            if !any.is_image() {
                let created = any.annotations.get(CREATED).cloned();
                next.artifact_type = any.artifact_type.or(next.artifact_type);
                return Ok(Found::Artifact(Box::new(Artifact { descriptor: next, documents, created })));
            }
            documents.push(next.digest);
            let manifest = parse_manifest(&bytes, &next.digest, &next.media_type)?;
            lease.keep_blob(&manifest.config.digest);
            documents.push(manifest.config.digest);
            let bytes = self.read_document(&manifest.config, "image config", MAX_CONFIG)?;
            let config = parse_config(&bytes, &manifest.config.digest)?;
            let resolved = Resolved { manifest_descriptor: next, manifest, config, documents };
            return Ok(Found::Image(Box::new(resolved)));
        }
        Err(layout::too_deep(target.digest))
    }

    fn read_document(
        &self,
        descriptor: &Descriptor,
        document: &'static str,
        max: usize,
    ) -> Result<Vec<u8>, Error> {
        let bytes = self.content.read_bounded(&descriptor.digest, max as u64)?;
        if bytes.len() as u64 != descriptor.size {
            let reason = format!("it has {} bytes, its descriptor says {}", bytes.len(), descriptor.size);
            return Err(Error::Document { document, digest: descriptor.digest, reason });
        }
        Ok(bytes)
    }

    fn check_layers(&self, resolved: &Resolved, origin: Origin, lease: &Lease) -> Result<(), Error> {
        let manifest = &resolved.manifest;
        let invalid = |reason| {
            let digest = resolved.manifest_descriptor.digest;
            Err(Error::Document { document: "manifest", digest, reason })
        };
        let (layers, diff_ids) = (manifest.layers.len(), resolved.config.rootfs.diff_ids.len());
        if layers != diff_ids {
            return invalid(format!("it has {layers} layers, its config has {diff_ids}"));
        }
        let ids = resolved.config.rootfs.diff_ids.iter().zip(chain_ids(&resolved.config));
        for (layer, (diff_id, chain_id)) in manifest.layers.iter().zip(ids) {
            lease.keep_blob(&layer.digest);
            lease.keep_layer(&chain_id);
            let size = match self.content.size(&layer.digest) {
                Ok(size) => size,
                Err(content::Error::NotFound { .. })
                    if self.is_unwritten(layer, diff_id, &chain_id)?
                        && (origin == Origin::Here || self.packs_to(&chain_id, &layer.digest)?) =>
                {
                    continue;
                }
                Err(content::Error::NotFound { .. })
                    if self.is_unwritten_elsewhere(layer, diff_id, &chain_id)?.is_some() =>
                {
                    self.make_blob(&chain_id, layer, lease)?;
                    layer.size
                }
                Err(e) => return Err(e.into()),
            };
            if size != layer.size {
                return invalid(format!(
                    "it says that layer {} has {} bytes, it has {size}",
                    layer.digest, layer.size
                ));
            }
        }
        Ok(())
    }

    /// Unpacks the layers that are missing, several at once. Returns the chain IDs of all, bottom first.
    fn unpack_layers(
        &self,
        resolved: &Resolved,
        lease: &Lease,
        progress: OnProgress<'_>,
    ) -> Result<Vec<Digest>, Error> {
        let chain_ids = chain_ids(&resolved.config);
        let layers = &resolved.manifest.layers;
        let (next, stop, failure) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::new(None));
        let work = || {
            while !stop.load(Ordering::Relaxed) {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let (Some(layer), Some(diff_id)) = (layers.get(at), resolved.config.rootfs.diff_ids.get(at))
                else {
                    return;
                };
                let parent = at.checked_sub(1).and_then(|below| chain_ids.get(below));
                if let Err(e) = self.unpack_layer(lease, layer, diff_id, parent, progress) {
                    stop.store(true, Ordering::Relaxed);
                    failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
                }
            }
        };
        // Where a layer begins as a copy of the one below, it is one after another.
        let most = if self.snapshotter.needs_parent() { 1 } else { layers.len() };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = cores.clamp(THREADS.0, THREADS.1).min(most);
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(work);
            }
            work();
        });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(e) => Err(e),
            None => Ok(chain_ids),
        }
    }
}

/// Whether the image is there, from the same manifest and with all its names.
fn is_recorded(tx: &WriteTx<'_>, id: &Digest, import: &Import<'_>) -> Result<bool, Error> {
    let known = tx.image(id)?;
    if known.is_none_or(|row| row.target != *import.target || row.manifest != *import.target) {
        return Ok(false);
    }
    for reference in import.references {
        let (repository, label) = (reference.name(), label(reference)?);
        let has_platforms = !tx.platforms_of_reference(&repository, &label)?.is_empty();
        if has_platforms || tx.reference(&repository, &label)? != Some(*id) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Points `references` at the image `id`. What they led to by platform is forgotten.
pub(crate) fn point(tx: &WriteTx<'_>, id: Digest, references: &[Reference]) -> Result<(), Error> {
    for reference in references {
        let row = row(reference, id)?;
        tx.delete_platforms(&row.repository, &row.label)?;
        tx.put_reference(&row, now_ms())?;
    }
    Ok(())
}

/// Points `references` at the image `id`, which was chosen for `platform` from the index `target`. Images of that index
/// that they lead to already stay beside it, and one for this machine goes before one for another.
pub(crate) fn point_beside(
    tx: &WriteTx<'_>,
    id: Digest,
    target: &Descriptor,
    platform: &Platform,
    references: &[Reference],
) -> Result<(), Error> {
    for reference in references {
        let new = row(reference, id)?;
        let known = tx.platforms_of_reference(&new.repository, &new.label)?;
        let before = match tx.reference(&new.repository, &new.label)? {
            Some(before) => tx.image(&before)?,
            None => None,
        };
        let same = before.filter(|before| before.target.digest == target.digest && !known.is_empty());
        if same.is_none() {
            tx.delete_platforms(&new.repository, &new.label)?;
        }
        tx.put_platform(&new, &platform.to_string())?;
        let here = Platform::host();
        let stays = same.filter(|same| {
            let for_here = |(name, image): &(String, Digest)| {
                *image == same.id && name.parse::<Platform>().is_ok_and(|p| p.satisfies(&here))
            };
            same.id != id && known.iter().any(for_here) && !platform.satisfies(&here)
        });
        if stays.is_none() {
            tx.put_reference(&new, now_ms())?;
        }
    }
    Ok(())
}

fn row(reference: &Reference, image_id: Digest) -> Result<metadata::ReferenceRow, Error> {
    Ok(metadata::ReferenceRow { repository: reference.name(), label: label(reference)?, image_id })
}

/// The part of a reference behind its repository, as recorded. A digest says more than a tag.
pub(crate) fn label(reference: &Reference) -> Result<String, Error> {
    match (reference.digest(), reference.tag()) {
        (Some(digest), _) => Ok(format!("@{digest}")),
        (None, Some(tag)) => Ok(format!(":{tag}")),
        (None, None) => {
            Err(oci::reference::ParseReferenceError { reason: "neither tag nor digest is named" }.into())
        }
    }
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
