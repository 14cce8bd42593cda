//! What keeps blobs and layers alive while someone works.

use oci::Digest;
use snapshot::LayerDir;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Keeps the blobs and layers named to it from being collected, until it is dropped.
///
/// Name a blob or layer *before* looking whether it is there: then it either is and stays, or is not and you bring it.
#[derive(Debug)]
pub struct Lease {
    table: Arc<Leases>,
    number: u64,
    /// Layers unpacked before anyone knew what lies below them, by blob and diff ID, with the size of their files.
    unpacked: Mutex<HashMap<(Digest, Digest), (LayerDir, u64)>>,
}

impl Lease {
    /// Keeps the blob `digest`, present or yet to come.
    pub fn keep_blob(&self, digest: &Digest) {
        self.table.lock().held(self.number).blobs.insert(*digest);
    }

    /// Keeps the layer `chain_id`, present or yet to come, and those below it that are present.
    pub fn keep_layer(&self, chain_id: &Digest) {
        self.table.lock().held(self.number).layers.insert(*chain_id);
    }
}

impl Lease {
    /// Keeps what the blob `blob` was unpacked to, for who makes a layer of it. What nobody asks for goes with the lease.
    pub(crate) fn keep_unpacked(&self, blob: Digest, diff_id: Digest, dir: LayerDir, size_bytes: u64) {
        let mut unpacked = self.unpacked.lock().unwrap_or_else(PoisonError::into_inner);
        drop(unpacked.insert((blob, diff_id), (dir, size_bytes)));
    }

    /// Gives what [`Lease::keep_unpacked`] got.
    pub(crate) fn take_unpacked(&self, blob: &Digest, diff_id: &Digest) -> Option<(LayerDir, u64)> {
        self.unpacked.lock().unwrap_or_else(PoisonError::into_inner).remove(&(*blob, *diff_id))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.table.lock().leases.remove(&self.number);
    }
}

/// All leases of this process.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    next: u64,
    leases: HashMap<u64, Held>,
}

#[derive(Debug, Default)]
struct Held {
    blobs: HashSet<Digest>,
    layers: HashSet<Digest>,
}

impl Leases {
    pub(crate) fn open(self: &Arc<Leases>) -> Lease {
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        state.leases.insert(number, Held::default());
        Lease { table: Arc::clone(self), number, unpacked: Mutex::default() }
    }

    /// While the guard lives nobody can begin to rely on a blob or layer. The collector holds it.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn held(&mut self, number: u64) -> &mut Held {
        self.leases.entry(number).or_default()
    }

    /// All blobs that leases keep.
    pub(crate) fn blobs(&self) -> HashSet<Digest> {
        self.leases.values().flat_map(|held| held.blobs.iter().copied()).collect()
    }

    /// All layers that leases keep.
    pub(crate) fn layers(&self) -> Vec<Digest> {
        self.leases.values().flat_map(|held| held.layers.iter().copied()).collect()
    }
}
