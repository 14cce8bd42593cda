//! Layer blob -> layer: decompress, hash, apply, verify, commit.

use crate::{Error, Images, Lease, OnProgress, Progress, State};
use archive::Hashing;
use oci::{Descriptor, Digest};
use snapshot::{LayerDir, NewLayer};
use std::collections::HashSet;
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
        let (dir, size_bytes) = self.apply_layer(layer, diff_id, parent, progress)?;
        let new = NewLayer { chain_id, parent: parent.copied(), diff_id: *diff_id, size_bytes };
        self.snapshotter.commit_layer(dir, &new)?;
        progress(&Progress { layer: layer.digest, state: State::Done });
        Ok(chain_id)
    }

    /// Applies a layer's blob into a directory of its own. Returns that and the size of its files.
    fn apply_layer(
        &self,
        layer: &Descriptor,
        diff_id: &Digest,
        parent: Option<&Digest>,
        progress: OnProgress<'_>,
    ) -> Result<(LayerDir, u64), Error> {
        let failed = |source| Error::Unpack { layer: layer.digest, source };
        let dir = self.snapshotter.prepare_layer(parent)?;
        let blob = Reporting::new(self.content.open_blob(&layer.digest)?, layer, progress);
        let mut tar = Hashing::new(archive::decompress(blob).map_err(failed)?);
        let applied = dir.apply(&mut tar).map_err(failed)?;
        match tar.finish().0 {
            actual if actual == *diff_id => Ok((dir, applied.bytes)),
            actual => Err(Error::DiffIdMismatch { layer: layer.digest, expected: *diff_id, actual }),
        }
    }
}

/// Lets one thread at a time unpack a layer.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    taken: Mutex<HashSet<Digest>>,
    freed: Condvar,
}

/// The right to unpack one layer.
struct Turn<'a> {
    turns: &'a Turns,
    chain_id: Digest,
}

impl Turns {
    fn wait(&self, chain_id: Digest) -> Turn<'_> {
        let mut taken = self.lock();
        while !taken.insert(chain_id) {
            taken = self.freed.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        Turn { turns: self, chain_id }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.lock().remove(&self.chain_id);
        self.turns.freed.notify_all();
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
