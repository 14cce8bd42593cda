//! The drivers that keep whole trees: `btrfs`, where a tree is a subvolume and a copy a snapshot of it, and `vfs`, where
//! a copy is a copy (with blocks shared where the file system can).
//!
//! ```text
//! DIR/                     0700
//!   snapshots/<n>/fs       a layer with all below it, or a writable snapshot
//!   trash/<n>-<m>          removed, to be deleted
//! ```
//!
//! A layer begins as a copy of the one below it, so layers are unpacked one after another. A writable snapshot is a copy
//! of its topmost layer, and mounting it is a bind mount.

use crate::home::Home;
use crate::quota::Quotas;
use crate::snapshotter::{
    Audit, Delta, DeltaForm, LayerDir, Layers, MountOptions, NewLayer, Reconciled, Snapshotter, Target, Usage,
};
use crate::{Error, copy, overlay, records};
use metadata::{Database, LayerRow, SnapshotRow};
use oci::Digest;
use rootdir::RootDir;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How trees are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TreeForm {
    Btrfs,
    Vfs,
}

/// Layers and writable snapshots as whole trees.
#[derive(Debug)]
pub struct Trees {
    db: Arc<Database>,
    home: Arc<Home>,
    form: TreeForm,
    /// Of the file system below `vfs`.
    quotas: Quotas,
}

impl Trees {
    /// Opens the driver's directory `dir`, making it where it is missing. Call [`Snapshotter::reconcile`] next.
    ///
    /// # Errors
    ///
    /// [`Error::NotBtrfs`] for [`TreeForm::Btrfs`] on another file system.
    pub fn open(dir: &Path, form: TreeForm, db: Arc<Database>) -> Result<Trees, Error> {
        db.set_driver(form.name());
        let home = Home::open(dir, records::highest(&db)?)?;
        if form == TreeForm::Btrfs && !crate::quota::is_btrfs(&home.snapshots) {
            return Err(Error::NotBtrfs { path: dir.into() });
        }
        Ok(Trees { db, home: Arc::new(home), form, quotas: Quotas::default() })
    }

    /// Gives back what counted the tree's blocks, where that is not the tree itself.
    fn release(&self, number: u64) {
        if self.form == TreeForm::Vfs {
            self.quotas.release(&self.home.path(number, "fs"));
        }
    }

    fn tree(&self, number: u64) -> PathBuf {
        self.home.path(number, "fs")
    }

    /// Makes tree `number`: a copy of the layer `parent`, or empty.
    fn make(&self, number: u64, parent: Option<&Digest>) -> Result<(), Error> {
        let parent = match parent {
            Some(chain_id) => {
                let row = self.db.read(|tx| tx.layer(chain_id))?;
                Some(row.ok_or(Error::LayerNotFound { chain_id: *chain_id })?.number)
            }
            None => None,
        };
        self.home.make(number, &[])?;
        let (dir, path) = (self.home.dir(number), self.tree(number));
        let failed = |what, path: &Path| {
            let path = path.to_path_buf();
            move |source: io::Error| Error::File { what, path, source }
        };
        let opened = |path: &Path| open_dir(path).map_err(|e| failed("open", path)(e.into()));
        let source = parent.map(|parent| opened(&self.tree(parent))).transpose()?;
        match (self.form, &source) {
            (TreeForm::Btrfs, Some(source)) => {
                let snapshot = sys::btrfs::snapshot(source.as_fd(), opened(&dir)?.as_fd(), c"fs");
                return snapshot.map_err(failed("make a snapshot", &path));
            }
            (TreeForm::Btrfs, None) => sys::btrfs::create_subvolume(opened(&dir)?.as_fd(), c"fs")
                .map_err(failed("create subvolume", &path))?,
            (TreeForm::Vfs, _) => std::fs::create_dir(&path).map_err(failed("create directory", &path))?,
        }
        match &source {
            // The copy gives the root its attributes too.
            Some(source) => copy::copy_tree(source.as_fd(), opened(&path)?.as_fd())
                .map_err(|(below, e)| failed("copy", &path.join(below))(e.into())),
            None => std::fs::set_permissions(&path, Permissions::from_mode(0o755))
                .map_err(failed("change mode of", &path)),
        }
    }
}

impl TreeForm {
    fn name(self) -> &'static str {
        match self {
            TreeForm::Btrfs => "btrfs",
            TreeForm::Vfs => "vfs",
        }
    }
}

impl Snapshotter for Trees {
    fn driver(&self) -> &'static str {
        self.form.name()
    }

    fn prepare_layer(&self, parent: Option<&Digest>) -> Result<LayerDir, Error> {
        let number = self.home.number();
        let home = Arc::clone(&self.home);
        let discard = Box::new(move || home.discard_or_leave(number));
        match self.make(number, parent).and_then(|()| Ok(RootDir::open(&self.tree(number))?)) {
            Ok(root) => Ok(LayerDir { number, target: Target::Tree { root }, discard: Some(discard) }),
            Err(e) => {
                discard();
                Err(e)
            }
        }
    }

    fn needs_parent(&self) -> bool {
        true
    }

    fn commit_layer(&self, mut dir: LayerDir, new: &NewLayer) -> Result<bool, Error> {
        let inserted = self.db.write(|tx| tx.insert_layer(&new.row(dir.number)))?;
        if inserted {
            dir.discard = None;
        }
        Ok(inserted)
    }

    fn commit(&self, key: &str, new: &NewLayer) -> Result<bool, Error> {
        let number = records::snapshot(&self.db, key)?.number;
        let inserted = self.db.write(|tx| -> Result<bool, Error> {
            tx.delete_snapshot(key)?;
            Ok(tx.insert_layer(&new.row(number))?)
        })?;
        if !inserted {
            self.home.discard(number)?;
        }
        Ok(inserted)
    }

    fn sync(&self) -> Result<(), Error> {
        self.home.sync()
    }

    fn prepare(&self, key: &str, parent: Option<&Digest>) -> Result<(), Error> {
        let number = self.home.number();
        let row = SnapshotRow { key: key.into(), number, parent: parent.copied() };
        if self.db.read(|tx| tx.snapshot(key))?.is_some() {
            return Err(Error::AlreadyExists { key: key.into() });
        }
        let made = self.make(number, parent).and_then(|()| records::insert_snapshot(&self.db, &row));
        if made.is_err() {
            self.home.discard_or_leave(number);
        }
        made
    }

    /// Counted is what the snapshot does not share with its layers, of `vfs` what it has more than they.
    fn limit(&self, key: &str, bytes: u64) -> Result<(), Error> {
        if self.form == TreeForm::Vfs {
            let number = records::snapshot(&self.db, key)?.number;
            return self.quotas.limit_growth(&self.home, self.driver(), number, "fs", bytes);
        }
        let path = self.upper(key)?;
        let failed = |source: io::Error| Error::File { what: "limit", path: path.clone(), source };
        let tree = open_dir(&path).map_err(|e| failed(e.into()))?;
        sys::btrfs::enable_quota(tree.as_fd()).map_err(failed)?;
        sys::btrfs::limit_exclusive(tree.as_fd(), bytes).map_err(failed)
    }

    fn mount(&self, key: &str, target: &Path, options: &MountOptions) -> Result<(), Error> {
        let row = records::snapshot(&self.db, key)?;
        mount::bind_root(&self.tree(row.number), target, options.read_only)
            .map_err(|source| Error::Mount { key: key.into(), source })
    }

    fn mount_mapped(
        &self,
        key: &str,
        target: &Path,
        options: &MountOptions,
        mapping: mount::Mapping<'_>,
    ) -> Result<(), Error> {
        let row = records::snapshot(&self.db, key)?;
        mount::bind_mapped_root(&self.tree(row.number), target, options.read_only, mapping)
            .map_err(|source| Error::Mount { key: key.into(), source })
    }

    fn unmount(&self, target: &Path) -> Result<(), Error> {
        mount::unmount_unused(target).map_err(|source| Error::Unmount { source })
    }

    fn remove(&self, key: &str) -> Result<bool, Error> {
        let Some(row) = records::delete_snapshot(&self.db, key)? else { return Ok(false) };
        self.release(row.number);
        self.home.discard(row.number)?;
        Ok(true)
    }

    fn upper(&self, key: &str) -> Result<PathBuf, Error> {
        Ok(self.tree(records::snapshot(&self.db, key)?.number))
    }

    fn delta(&self, key: &str) -> Result<Delta, Error> {
        let row = records::snapshot(&self.db, key)?;
        let tree = RootDir::open(&self.tree(row.number))?;
        let below = match &row.parent {
            Some(chain_id) => {
                self.layers(chain_id)?.paths.first().map(|path| RootDir::open(path)).transpose()?
            }
            None => None,
        };
        Ok(Delta { form: DeltaForm::Tree { tree, below }, guard: None })
    }

    fn layers(&self, chain_id: &Digest) -> Result<Layers, Error> {
        let rows = records::chain(&self.db, chain_id)?;
        Ok(Layers { paths: rows.iter().map(|row| self.tree(row.number)).collect(), guard: None })
    }

    /// The difference between the tree and what it began as.
    fn usage(&self, key: &str) -> Result<Usage, Error> {
        let row = records::snapshot(&self.db, key)?;
        let all = overlay::measure(&self.tree(row.number))?;
        let below = match &row.parent {
            Some(chain_id) => match self.layers(chain_id)?.paths.first() {
                Some(path) => overlay::measure(path)?,
                None => Usage::default(),
            },
            None => Usage::default(),
        };
        Ok(Usage {
            size_bytes: all.size_bytes.saturating_sub(below.size_bytes),
            disk_bytes: all.disk_bytes.saturating_sub(below.disk_bytes),
            inodes: all.inodes.saturating_sub(below.inodes),
        })
    }

    fn layer(&self, chain_id: &Digest) -> Result<Option<LayerRow>, Error> {
        Ok(self.db.read(|tx| tx.layer(chain_id))?)
    }

    fn list(&self) -> Result<Vec<SnapshotRow>, Error> {
        Ok(self.db.read(|tx| tx.list_snapshots())?)
    }

    fn remove_unused_layers(&self, roots: &[Digest]) -> Result<Vec<LayerRow>, Error> {
        let removed = self.db.delete(|tx| records::delete_unused(tx, roots))?;
        for row in &removed {
            self.home.discard(row.number)?;
        }
        Ok(removed)
    }

    fn audit(&self) -> Result<Audit, Error> {
        // Disk first: a directory whose record is made meanwhile is no orphan, one that is made meanwhile not seen.
        records::audit(&self.db, &self.home.list()?)
    }

    /// Not where another layer or a container began as a copy of it: that has the damage too.
    fn forget_layer(&self, chain_id: &Digest) -> Result<bool, Error> {
        let Some(row) = self.layer(chain_id)? else { return Ok(true) };
        let is_copied = self.db.read(|tx| -> Result<bool, Error> {
            let mut parents = tx.list_layers()?.into_iter().filter_map(|layer| layer.parent);
            let mut below = tx.list_snapshots()?.into_iter().filter_map(|snapshot| snapshot.parent);
            Ok(parents.any(|p| p == *chain_id) || below.any(|p| p == *chain_id))
        })?;
        if is_copied {
            return Ok(false);
        }
        self.db.delete(|tx| tx.delete_layer(chain_id))?;
        self.home.discard(row.number)?;
        Ok(true)
    }

    fn is_overlay_form(&self) -> bool {
        false
    }

    fn reconcile(&self) -> Result<Reconciled, Error> {
        let on_disk = self.home.list()?;
        let mut done = self.db.delete(|tx| records::delete_lost(tx, &on_disk))?;
        let recorded = records::numbers(&self.db)?;
        for number in on_disk.difference(&recorded) {
            self.release(*number);
            self.home.discard(*number)?;
            done.orphans += 1;
        }
        Ok(done)
    }

    /// A subvolume goes by one call, where it has none in it.
    fn empty_trash(&self) -> Result<usize, Error> {
        if self.form == TreeForm::Btrfs {
            for name in self.home.list_trash()? {
                let dir = self.home.trash.join(name);
                // What stays is deleted like any tree, and fails like one.
                if let Ok(dir) = open_dir(&dir)
                    && let Err(error) = sys::btrfs::destroy_subvolume(dir.as_fd(), c"fs")
                {
                    tracing::debug!(%error, "subvolume not destroyed");
                }
            }
        }
        self.home.empty_trash()
    }
}

fn open_dir(path: &Path) -> Result<OwnedFd, rustix::io::Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}
