//! Layer blob -> layer: decompress, hash, apply, verify, commit.

use crate::{Error, Images, Lease, OnProgress, Progress, State};
use archive::{Compression, Hashing};
use content::{Follower, Watch};
use oci::{Descriptor, Digest};
use snapshot::{LayerDir, NewLayer};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{self, Read};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Bytes of a blob between two reports of progress.
const REPORT_EVERY: u64 = 512 << 10;

impl Images {
    /// Unpacks one layer whose blob is in the content store, unless it is there already. Returns its chain ID.
    ///
    /// May be called for several layers at once and in any order; `parent` is the chain ID of the layer below. When
    /// two callers want the same layer, one unpacks it and the other waits. The layer becomes durable with the
    /// [`Images::import`] of an image that has it.
    ///
    /// # Errors
    ///
    /// [`Error::Unpack`] for a layer that is no tar; [`Error::DiffIdMismatch`] for one that is another than promised.
    pub fn unpack_layer(
        &self,
        lease: &Lease,
        layer: &Descriptor,
        diff_id: &Digest,
        parent: Option<&Digest>,
        progress: OnProgress<'_>,
    ) -> Result<Digest, Error> {
        let chain_id = Digest::chain(parent.copied(), *diff_id);
        lease.keep_blob(&layer.digest);
        lease.keep_layer(&chain_id);
        let _turn = self.turns.wait(chain_id);
        if self.snapshotter.layer(&chain_id)?.is_some() {
            progress(&Progress { layer: layer.digest, state: State::Exists });
            return Ok(chain_id);
        }
        let (dir, size_bytes) = match lease.take_unpacked(&layer.digest, diff_id) {
            Some(unpacked) => unpacked,
            None => {
                let dir = self.snapshotter.prepare_layer(parent)?;
                let blob = self.content.open_blob(&layer.digest)?;
                let size_bytes = apply(&dir, blob, layer, diff_id, Hashed::No, progress)?;
                (dir, size_bytes)
            }
        };
        self.commit_layer(dir, layer, diff_id, parent, size_bytes, progress)?;
        Ok(chain_id)
    }

    /// As [`Images::unpack_layer`] for a blob that is still arriving: what there is of it is unpacked as it comes. The
    /// layer is committed only when the blob is, which verifies it. Does nothing where it cannot, or where someone is at
    /// the layer already: an [`Images::import`] sees to all layers in the end.
    ///
    /// # Errors
    ///
    /// Also [`Error::Unpack`] or [`Error::Content`] when the blob is given up.
    pub fn unpack_arriving(
        &self,
        lease: &Lease,
        layer: &Descriptor,
        diff_id: &Digest,
        parent: Option<&Digest>,
        blob: Follower,
        progress: OnProgress<'_>,
    ) -> Result<(), Error> {
        let chain_id = Digest::chain(parent.copied(), *diff_id);
        lease.keep_layer(&chain_id);
        let watch = blob.watch();
        let Some(_turn) = self.turns.arrive(chain_id, watch.clone()) else { return Ok(()) };
        if self.snapshotter.needs_parent() || self.snapshotter.layer(&chain_id)?.is_some() {
            return Ok(());
        }
        let dir = self.snapshotter.prepare_layer(parent)?;
        let size_bytes = apply(&dir, blob, layer, diff_id, Hashed::ByIngest, progress)?;
        if !watch.committed() {
            return Err(content::Error::NotFound { digest: layer.digest }.into());
        }
        self.commit_layer(dir, layer, diff_id, parent, size_bytes, progress)
    }

    fn commit_layer(
        &self,
        dir: LayerDir,
        layer: &Descriptor,
        diff_id: &Digest,
        parent: Option<&Digest>,
        size_bytes: u64,
        progress: OnProgress<'_>,
    ) -> Result<(), Error> {
        let chain_id = Digest::chain(parent.copied(), *diff_id);
        let new = NewLayer { chain_id, parent: parent.copied(), diff_id: *diff_id, size_bytes };
        self.snapshotter.commit_layer(dir, &new)?;
        progress(&Progress { layer: layer.digest, state: State::Done });
        Ok(())
    }
}

/// Who hashes the blob that a layer is unpacked from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hashed {
    /// Nobody: it comes from disk.
    No,
    /// Whoever takes it in, while it is read here: what it is called when that is done is a plain layer's diff ID.
    ByIngest,
}

/// Applies a layer's blob. Returns the size of its files.
fn apply<R: Read + Send>(
    dir: &LayerDir,
    blob: R,
    layer: &Descriptor,
    diff_id: &Digest,
    hashed: Hashed,
    progress: OnProgress<'_>,
) -> Result<u64, Error> {
    let applied = apply_plain(dir, Reporting::new(blob, layer, progress), hashed);
    let (size_bytes, actual) = applied.map_err(|source| Error::Unpack { layer: layer.digest, source })?;
    let actual = actual.unwrap_or(layer.digest);
    if actual != *diff_id {
        return Err(Error::DiffIdMismatch { layer: layer.digest, expected: *diff_id, actual });
    }
    Ok(size_bytes)
}

/// Applies what may be a layer. Returns the size of its files and its diff ID; none where that is the digest of the blob, which
/// someone else finds out.
pub(crate) fn apply_plain<R: Read + Send>(
    dir: &LayerDir,
    blob: R,
    hashed: Hashed,
) -> Result<(u64, Option<Digest>), archive::Error> {
    let plain = archive::decompress(blob)?;
    let is_blob = plain.compression() == Compression::None && hashed == Hashed::ByIngest;
    // Decompressing takes longest; hashing and applying go on beside it.
    archive::read_ahead(plain, |plain| {
        if is_blob {
            return dir.apply(plain).map(|applied| (applied.bytes, None));
        }
        let mut tar = Hashing::new(plain);
        dir.apply(&mut tar).map(|applied| (applied.bytes, Some(tar.finish().0)))
    })
}

/// Lets one thread at a time unpack a layer.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    taken: Mutex<HashMap<Digest, Taken>>,
    freed: Condvar,
}

/// By whom a layer is being unpacked.
#[derive(Debug)]
enum Taken {
    /// Someone who has the whole blob.
    Whole,
    /// Someone whose blob is arriving, however slowly. Nobody waits for them before it is there.
    Arriving(Watch),
}

/// The right to unpack one layer.
struct Turn<'a> {
    turns: &'a Turns,
    chain_id: Digest,
    /// It goes on beside someone whose blob does not arrive.
    is_beside: bool,
}

impl Turns {
    fn wait(&self, chain_id: Digest) -> Turn<'_> {
        let mut taken = self.lock();
        loop {
            match taken.get(&chain_id) {
                None => {
                    taken.insert(chain_id, Taken::Whole);
                    return Turn { turns: self, chain_id, is_beside: false };
                }
                Some(Taken::Arriving(blob)) if !blob.is_committed() => {
                    return Turn { turns: self, chain_id, is_beside: true };
                }
                Some(_) => taken = self.freed.wait(taken).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// A turn for someone whose blob is arriving, unless someone else has one.
    fn arrive(&self, chain_id: Digest, blob: Watch) -> Option<Turn<'_>> {
        match self.lock().entry(chain_id) {
            Entry::Occupied(_) => None,
            Entry::Vacant(place) => {
                place.insert(Taken::Arriving(blob));
                Some(Turn { turns: self, chain_id, is_beside: false })
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Taken>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.is_beside {
            self.turns.lock().remove(&self.chain_id);
            self.turns.freed.notify_all();
        }
    }
}

/// A blob being read, with reports of how far it is.
struct Reporting<'a, R> {
    inner: R,
    layer: &'a Descriptor,
    progress: OnProgress<'a>,
    read: u64,
    reported: u64,
}

impl<'a, R> Reporting<'a, R> {
    fn new(inner: R, layer: &'a Descriptor, progress: OnProgress<'a>) -> Reporting<'a, R> {
        Reporting { inner, layer, progress, read: 0, reported: 0 }
    }
}

impl<R: Read> Read for Reporting<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.read += count as u64;
        if self.read - self.reported >= REPORT_EVERY {
            self.reported = self.read;
            let state = State::Extracting { current_bytes: self.read, total_bytes: self.layer.size };
            (self.progress)(&Progress { layer: self.layer.digest, state });
        }
        Ok(count)
    }
}
