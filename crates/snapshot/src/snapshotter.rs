//! The contract that every driver keeps; the crate's documentation explains it.

use crate::Error;
use metadata::{LayerRow, SnapshotRow};
use oci::Digest;
use rootdir::RootDir;
use std::fmt;
use std::path::{Path, PathBuf};

/// Keeps layers and writable snapshots, and mounts them. All calls block and may come from any thread.
pub trait Snapshotter: Send + Sync + fmt::Debug {
    /// Name of the driver as Docker shows it, for example `overlay2`.
    fn driver(&self) -> &'static str;

    /// Makes an empty directory to apply one layer into. Dropping it removes it.
    fn prepare_layer(&self) -> Result<LayerDir, Error>;

    /// Makes the filled directory the layer `new.chain_id`. Says whether it was new: if someone else committed the
    /// same layer meanwhile, theirs stays and this directory is removed.
    ///
    /// The layer is not durable until [`Snapshotter::sync`] has run and the record says so
    /// (`metadata::WriteTx::set_layer_durable`), together with the record of the image that needs it.
    fn commit_layer(&self, dir: LayerDir, new: &NewLayer) -> Result<bool, Error>;

    /// Puts the files of all layers on disk.
    fn sync(&self) -> Result<(), Error>;

    /// Makes a writable snapshot on the layer `parent` and those below it, or on nothing.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyExists`], [`Error::LayerNotFound`].
    fn prepare(&self, key: &str, parent: Option<&Digest>) -> Result<(), Error>;

    /// Mounts a writable snapshot on the directory `target`.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::LayerNotFound`] when a layer is gone; [`Error::Mount`] with the kernel's reason.
    fn mount(&self, key: &str, target: &Path, options: &MountOptions) -> Result<(), Error>;

    /// Takes the mount on `target` away. Without `MountOptions::volatile` the kernel syncs the file system.
    fn unmount(&self, target: &Path) -> Result<(), Error>;

    /// Removes a writable snapshot, which is not mounted. Says whether there was one. Works on a full disk.
    fn remove(&self, key: &str) -> Result<bool, Error>;

    /// The directory with the changes of a writable snapshot, in the driver's form.
    fn upper(&self, key: &str) -> Result<PathBuf, Error>;

    /// What tells the changes of a writable snapshot, mounted or not, as `archive::Delta` reads it.
    fn delta(&self, key: &str) -> Result<Delta, Error>;

    /// The directories of a layer and of those below it, topmost first, in the driver's form.
    fn layers(&self, chain_id: &Digest) -> Result<Vec<PathBuf>, Error>;

    /// What the changes of a writable snapshot take. May be called while it is mounted and changing.
    fn usage(&self, key: &str) -> Result<Usage, Error>;

    /// The layer with this chain ID.
    fn layer(&self, chain_id: &Digest) -> Result<Option<LayerRow>, Error>;

    /// All writable snapshots, by key.
    fn list(&self) -> Result<Vec<SnapshotRow>, Error>;

    /// Removes every layer that is neither one of `roots`, nor the parent of a writable snapshot, nor below one of
    /// these. Returns the removed. Works on a full disk.
    fn remove_unused_layers(&self, roots: &[Digest]) -> Result<Vec<LayerRow>, Error>;

    /// Brings disk and record together. For start-up, before anything else: work in progress is taken for leftovers.
    fn reconcile(&self) -> Result<Reconciled, Error>;

    /// Deletes what removals left for later. Returns the number of trees deleted. May take long; for a thread of its
    /// own. What cannot be deleted now stays for the next call.
    fn empty_trash(&self) -> Result<usize, Error>;
}

/// A writable snapshot and what it began as, as directories that stay until this is dropped.
#[derive(Debug)]
pub struct Delta {
    pub form: DeltaForm,
    /// What keeps the directories there, where something must (a mount made for this).
    pub guard: Option<Box<dyn Guard>>,
}

/// See [`Delta`].
#[derive(Debug)]
pub enum DeltaForm {
    /// Overlay's upper directory and its lower layers, topmost first.
    Upper { upper: RootDir, lowers: Vec<RootDir> },
    /// A whole tree, and the tree of its parent.
    Tree { tree: RootDir, below: Option<RootDir> },
}

/// Something that undoes itself when dropped.
pub trait Guard: Send + fmt::Debug {}

/// A layer about to be committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLayer {
    pub chain_id: Digest,
    /// Chain ID of the layer below.
    pub parent: Option<Digest>,
    pub diff_id: Digest,
    /// Sum of the sizes of its files.
    pub size_bytes: u64,
}

/// How a writable snapshot is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MountOptions {
    /// Never sync for this mount. After a power loss the changes made in it may be damaged.
    pub volatile: bool,
    pub read_only: bool,
}

/// What a tree takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Sum of the sizes of files; of several hard links, one counts. What Docker shows.
    pub size_bytes: u64,
    /// Blocks taken on disk, directories included.
    pub disk_bytes: u64,
    /// Files and directories, the root not counted.
    pub inodes: u64,
}

/// What [`Snapshotter::reconcile`] did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reconciled {
    /// Layers whose directory was gone, or whose work did not finish. Their records are gone now.
    pub lost_layers: Vec<Digest>,
    /// Writable snapshots whose directory was gone. Their records are gone now.
    pub lost_snapshots: Vec<String>,
    /// Directories without record, now in the trash.
    pub orphans: usize,
}

impl Reconciled {
    /// Whether disk and record agreed.
    pub fn is_clean(&self) -> bool {
        *self == Reconciled::default()
    }
}

/// A directory to apply a layer into.
pub struct LayerDir {
    pub(crate) number: u64,
    pub(crate) root: RootDir,
    /// Taken by a commit; run by a drop.
    pub(crate) discard: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl LayerDir {
    /// Where the layer's files go.
    pub fn root(&self) -> &RootDir {
        &self.root
    }
}

impl Drop for LayerDir {
    fn drop(&mut self) {
        if let Some(discard) = self.discard.take() {
            discard();
        }
    }
}

impl fmt::Debug for LayerDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerDir").field("number", &self.number).finish_non_exhaustive()
    }
}
