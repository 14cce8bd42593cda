//! The contract that every driver keeps; the crate's documentation explains it.

use crate::Error;
use archive::Applied;
use metadata::{LayerRow, SnapshotRow};
use oci::Digest;
use rootdir::RootDir;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Keeps layers and writable snapshots, and mounts them. All calls block and may come from any thread.
pub trait Snapshotter: Send + Sync + fmt::Debug {
    /// Name of the driver as Docker shows it, for example `overlay2`.
    fn driver(&self) -> &'static str;

    /// Makes a place to apply one layer into, which will lie on the layer `parent`. Dropping it removes it.
    ///
    /// # Errors
    ///
    /// [`Error::LayerNotFound`] from drivers whose layers need each other, see [`Snapshotter::needs_parent`].
    fn prepare_layer(&self, parent: Option<&Digest>) -> Result<LayerDir, Error>;

    /// Whether a layer can be prepared only when the one below it is committed. Else the layers of an image may be
    /// unpacked in any order, and several at once.
    fn needs_parent(&self) -> bool {
        false
    }

    /// Makes the filled directory the layer `new.chain_id`. Says whether it was new: if someone else committed the
    /// same layer meanwhile, theirs stays and this directory is removed.
    ///
    /// The layer is not durable until [`Snapshotter::sync`] has run and the record says so
    /// (`metadata::WriteTx::set_layer_durable`), together with the record of the image that needs it.
    fn commit_layer(&self, dir: LayerDir, new: &NewLayer) -> Result<bool, Error>;

    /// Makes the changes of the writable snapshot `key`, which is not mounted, the layer `new.chain_id`: no file is
    /// written again. The snapshot is gone then. Says whether the layer was new: if someone else committed the same
    /// meanwhile, theirs stays.
    ///
    /// As with [`Snapshotter::commit_layer`], the layer is not durable yet.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    fn commit(&self, key: &str, new: &NewLayer) -> Result<bool, Error>;

    /// Puts the files of all layers on disk.
    fn sync(&self) -> Result<(), Error>;

    /// Makes a writable snapshot on the layer `parent` and those below it, or on nothing.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyExists`], [`Error::LayerNotFound`].
    fn prepare(&self, key: &str, parent: Option<&Digest>) -> Result<(), Error>;

    /// Limits what the changes of a writable snapshot may take on disk; more fails with `EDQUOT`.
    ///
    /// # Errors
    ///
    /// [`Error::NoQuota`] from drivers and on file systems that cannot.
    fn limit(&self, _key: &str, _bytes: u64) -> Result<(), Error> {
        Err(Error::NoQuota { driver: self.driver() })
    }

    /// Mounts a writable snapshot on the directory `target`.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::LayerNotFound`] when a layer is gone; [`Error::Mount`] with the kernel's reason.
    fn mount(&self, key: &str, target: &Path, options: &MountOptions) -> Result<(), Error>;

    /// As [`Snapshotter::mount`], with ids mapped: files belong on disk to ids of the mapping's namespace, so that the same
    /// snapshot can be mounted with another mapping, or none, afterwards.
    ///
    /// # Errors
    ///
    /// As of `mount`; the kernel's `EINVAL` where the file system or the kernel has no such mounts.
    fn mount_mapped(
        &self,
        key: &str,
        target: &Path,
        options: &MountOptions,
        mapping: mount::Mapping<'_>,
    ) -> Result<(), Error>;

    /// Takes the mount on `target` away. Without `MountOptions::volatile` the kernel syncs the file system.
    fn unmount(&self, target: &Path) -> Result<(), Error>;

    /// Removes a writable snapshot, which is not mounted. Says whether there was one. Works on a full disk.
    fn remove(&self, key: &str) -> Result<bool, Error>;

    /// The directory with the changes of a writable snapshot, in the driver's form.
    fn upper(&self, key: &str) -> Result<PathBuf, Error>;

    /// What tells the changes of a writable snapshot, mounted or not, as `archive::Delta` reads it.
    fn delta(&self, key: &str) -> Result<Delta, Error>;

    /// The directories of a layer and of those below it, topmost first, in the driver's form.
    fn layers(&self, chain_id: &Digest) -> Result<Layers, Error>;

    /// What the changes of a writable snapshot take. May be called while it is mounted and changing.
    fn usage(&self, key: &str) -> Result<Usage, Error>;

    /// The layer with this chain ID.
    fn layer(&self, chain_id: &Digest) -> Result<Option<LayerRow>, Error>;

    /// All writable snapshots, by key.
    fn list(&self) -> Result<Vec<SnapshotRow>, Error>;

    /// Removes every layer that is neither one of `roots`, nor the parent of a writable snapshot, nor below one of
    /// these. Returns the removed. Works on a full disk.
    fn remove_unused_layers(&self, roots: &[Digest]) -> Result<Vec<LayerRow>, Error>;

    /// Compares disk and record without changing either, and lets go of cached mounts that nobody uses, so that what is read
    /// next comes from disk. What is being made or removed meanwhile may show.
    fn audit(&self) -> Result<Audit, Error>;

    /// Forgets one layer, whoever needs it, so that it can be made again in its place: for a layer that is damaged. Says
    /// whether that was possible: not where other layers were made from its files, nor while it is mounted.
    fn forget_layer(&self, chain_id: &Digest) -> Result<bool, Error>;

    /// Whether directories of layers are in overlay's form, each layer by itself, as `archive::verify` reads it.
    fn is_overlay_form(&self) -> bool {
        true
    }

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

/// Directories of layers, which stay until this is dropped.
#[derive(Debug)]
pub struct Layers {
    /// Topmost first.
    pub paths: Vec<PathBuf>,
    /// As in [`Delta`].
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

/// What [`Snapshotter::audit`] found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Audit {
    /// Layers whose directory is gone.
    pub lost_layers: Vec<Digest>,
    /// Writable snapshots whose directory is gone.
    pub lost_snapshots: Vec<String>,
    /// Numbers of directories without a record.
    pub orphans: Vec<u64>,
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

impl NewLayer {
    pub(crate) fn row(&self, number: u64) -> LayerRow {
        LayerRow {
            chain_id: self.chain_id,
            number,
            parent: self.parent,
            diff_id: self.diff_id,
            size_bytes: self.size_bytes,
            durable: false,
        }
    }
}

/// A place to apply a layer into.
pub struct LayerDir {
    pub(crate) number: u64,
    pub(crate) target: Target,
    /// Taken by a commit; run by a drop.
    pub(crate) discard: Option<Box<dyn FnOnce() + Send + Sync>>,
}

/// What a layer becomes.
#[derive(Debug)]
pub(crate) enum Target {
    /// A directory in overlay's form. `template` is made when the layer lists the root.
    Directory { root: RootDir, template: PathBuf },
    /// An image in the file `path`, with whiteouts in overlay's form. `template` stays when the layer lists the root.
    Image { path: PathBuf, template: PathBuf },
    /// A whole tree, which holds the layers below already.
    Tree { root: RootDir },
}

impl LayerDir {
    /// Applies `tar`, an uncompressed tar stream, and reads it to its end. Once; a place in which it failed is dropped.
    ///
    /// # Errors
    ///
    /// As [`archive::apply`].
    pub fn apply<R: Read>(&self, tar: R) -> Result<Applied, archive::Error> {
        let at = |operation, path: &Path| {
            let path = path.to_path_buf();
            move |source: io::Error| archive::Error::Entry { operation, path, source }
        };
        let options = archive::Options::default();
        match &self.target {
            Target::Directory { root, template } => {
                let applied = archive::apply(tar, root, &options)?;
                if applied.has_root {
                    std::fs::create_dir(template).map_err(at("mkdir", template))?;
                    let from = template.with_file_name("fs");
                    crate::root::copy(&from, template)
                        .map_err(|e| at("copy", template)(io::Error::other(e)))?;
                }
                Ok(applied)
            }
            Target::Image { path, template } => {
                let image = std::fs::File::create_new(path).map_err(at("open", path))?;
                let root = RootDir::open(template)
                    .map_err(|source| archive::Error::Root { path: template.clone(), source })?;
                let applied = archive::write_image(tar, image, &root)?;
                if !applied.has_root {
                    std::fs::remove_dir(template).map_err(at("rmdir", template))?;
                }
                Ok(applied)
            }
            Target::Tree { root } => {
                let options = archive::Options { whiteouts: archive::Whiteouts::Remove, ..options };
                archive::apply(tar, root, &options)
            }
        }
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
