//! A sink in memory that checks digests, and writes down what it hears.

use errors::{Kind, Report};
use oci::image::Manifest;
use oci::{Descriptor, Digest};
use registry_client::{Blob, Progress, Sink};
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

#[derive(Debug, Default, Clone)]
pub(crate) struct Store(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    blobs: Mutex<HashMap<Digest, Vec<u8>>>,
    events: Mutex<Vec<Progress>>,
    ready: Mutex<Vec<usize>>,
    /// Blobs begun and neither committed nor dropped.
    open: AtomicUsize,
    discarded: AtomicUsize,
    fail_writes: Mutex<bool>,
}

impl Store {
    pub(crate) fn sink(&self) -> Arc<dyn Sink> {
        Arc::new(self.clone())
    }

    pub(crate) fn blob(&self, digest: &Digest) -> Option<Vec<u8>> {
        self.0.blobs.lock().unwrap().get(digest).cloned()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.blobs.lock().unwrap().len()
    }

    pub(crate) fn put(&self, bytes: &[u8]) {
        self.0.blobs.lock().unwrap().insert(Digest::of(bytes), bytes.to_vec());
    }

    pub(crate) fn events(&self) -> Vec<Progress> {
        self.0.events.lock().unwrap().clone()
    }

    /// Indices of ready layers, sorted.
    pub(crate) fn ready(&self) -> Vec<usize> {
        let mut ready = self.0.ready.lock().unwrap().clone();
        ready.sort_unstable();
        ready
    }

    pub(crate) fn open(&self) -> usize {
        self.0.open.load(Ordering::SeqCst)
    }

    pub(crate) fn discarded(&self) -> usize {
        self.0.discarded.load(Ordering::SeqCst)
    }

    pub(crate) fn fail_writes(&self) {
        *self.0.fail_writes.lock().unwrap() = true;
    }
}

impl Sink for Store {
    fn has(&self, digest: &Digest) -> bool {
        self.0.blobs.lock().unwrap().contains_key(digest)
    }

    fn begin(&self, descriptor: &Descriptor) -> Result<Box<dyn Blob>, Report> {
        self.0.open.fetch_add(1, Ordering::SeqCst);
        let promised = descriptor.digest;
        Ok(Box::new(Writing { store: self.clone(), promised, bytes: Vec::new(), committed: false }))
    }

    fn progress(&self, event: Progress) {
        self.0.events.lock().unwrap().push(event);
    }

    fn layer_ready(&self, manifest: &Manifest, index: usize) {
        assert!(self.has(&manifest.config.digest), "the config is stored before any layer is announced");
        assert!(self.has(&manifest.layers[index].digest));
        self.0.ready.lock().unwrap().push(index);
    }
}

struct Writing {
    store: Store,
    promised: Digest,
    bytes: Vec<u8>,
    committed: bool,
}

impl Blob for Writing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if *self.store.0.fail_writes.lock().unwrap() && self.bytes.len() + bytes.len() > 100_000 {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn commit(mut self: Box<Self>) -> Result<(), Report> {
        let actual = Digest::of(&self.bytes);
        if actual != self.promised {
            return Err(Report::new(Kind::DataLoss, format!("blob {} arrived as {actual}", self.promised)));
        }
        self.store.0.blobs.lock().unwrap().insert(actual, std::mem::take(&mut self.bytes));
        self.committed = true;
        Ok(())
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if !self.committed {
            self.store.0.discarded.fetch_add(1, Ordering::SeqCst);
        }
        self.store.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}
