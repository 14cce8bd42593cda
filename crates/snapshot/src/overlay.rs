//! The overlay family of drivers: layers stacked by the kernel's overlay file system.
//!
//! ```text
//! DIR/                        0700
//!   snapshots/<n>/fs          driver `overlay`: a layer's files; and the changes of a writable snapshot
//!   snapshots/<n>/layer.erofs driver `erofs`: a layer as one image, mounted on MOUNTS/<n> while it is used
//!   snapshots/<n>/root        of a layer that lists the root: an empty directory with the attributes it gives it
//!   snapshots/<n>/work        the kernel's scratch, of writable snapshots only
//!   empty/                    what lies below a snapshot on nothing
//!   trash/<n>-<m>             removed, to be deleted
//! ```
//!
//! The two drivers differ in the form of the layers that they make. Each uses the layers of the other as they are, in one
//! stack with its own, so that changing between them costs nothing.
//!
//! Numbers are short so that many layers fit in one mount(2) of an old kernel. A directory belongs to nobody until its
//! record exists, so no step between making it and recording it needs to be undone after a crash: `reconcile` does.

use crate::chains::Chains;
use crate::home::Home;
use crate::layer_mounts::{Hold, IDLE, LayerMounts};
use crate::quota::Quotas;
use crate::snapshotter::{
    Audit, Delta, DeltaForm, LayerDir, Layers, MountOptions, NewLayer, Reconciled, Snapshotter, Target, Usage,
};
use crate::{Error, records, root, tree};
use metadata::{Database, LayerRow, SnapshotRow};
use oci::Digest;
use rootdir::RootDir;
use rustix::fs::{Mode, OFlags};
use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

/// What new layers are kept as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerForm {
    Directory,
    /// An EROFS image. Needs Linux 6.12, see [`Overlay::can_mount_images`].
    Image,
}

/// Layers as directories or EROFS images, stacked by the kernel's overlay file system.
#[derive(Debug)]
pub struct Overlay {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    db: Arc<Database>,
    home: Arc<Home>,
    quotas: Quotas,
    chains: Chains,
    form: LayerForm,
    mounts: Arc<LayerMounts>,
    /// Held for writing by the sweeper: no overlay is being put together then.
    mounting: RwLock<()>,
    is_sweeping: AtomicBool,
    has_images: AtomicBool,
    /// Layers made by this process whose files may not be on disk.
    unsynced: Mutex<HashMap<u64, LayerForm>>,
}

/// How often the measuring of a tree is begun anew because it was being rearranged.
const MAX_MEASURES: u32 = 5;

impl Overlay {
    /// Opens the driver `overlay` in `dir`. Call [`Snapshotter::reconcile`] next.
    pub fn open(dir: &Path, db: Arc<Database>) -> Result<Overlay, Error> {
        Overlay::open_with(dir, &dir.join("mounts"), LayerForm::Directory, db)
    }

    /// Opens the driver's directory `dir`, making it where it is missing. Layers that are images are mounted below
    /// `mounts`, which need not survive a restart of the machine; layers that are made get the form `form`. Call
    /// [`Snapshotter::reconcile`] next.
    pub fn open_with(
        dir: &Path,
        mounts: &Path,
        form: LayerForm,
        db: Arc<Database>,
    ) -> Result<Overlay, Error> {
        db.set_driver("overlay");
        let home = Home::open(dir, records::highest(&db)?)?;
        let inner = Inner {
            db,
            home: Arc::new(home),
            quotas: Quotas::default(),
            chains: Chains::default(),
            form,
            mounts: LayerMounts::open(mounts)?,
            mounting: RwLock::new(()),
            is_sweeping: AtomicBool::new(false),
            has_images: AtomicBool::new(true),
            unsynced: Mutex::default(),
        };
        Ok(Overlay { inner: Arc::new(inner) })
    }

    /// For a kernel that cannot mount images: layers that are some count as lost, to be unpacked again from their blobs.
    pub fn without_images(self) -> Overlay {
        self.inner.has_images.store(false, Ordering::SeqCst);
        self
    }

    /// Unmounts layers that nothing has used for `idle`, as happens by itself some seconds after their last use. Says
    /// whether there are idle ones left.
    pub fn unmount_idle(&self, idle: Duration) -> bool {
        self.inner.sweep(idle)
    }

    /// Whether the kernel mounts EROFS images that are files in `dir`: tried, on a directory made and removed there.
    pub fn can_mount_images(dir: &Path) -> Result<(), Error> {
        let scratch = dir.join("erofs-probe");
        tree::remove_tree(&scratch)?;
        let failed = |source| Error::File { what: "prepare", path: scratch.clone(), source };
        std::fs::create_dir_all(scratch.join("root")).map_err(failed)?;
        let image = scratch.join("image");
        let file = std::fs::File::create(&image).map_err(failed)?;
        let target = scratch.join("root");
        let written = archive::write_image(io::empty(), file, &RootDir::open(&target)?);
        let tried = written
            .map_err(|source| Error::Probe { source })
            .and_then(|_| {
                mount::mount_erofs(&image, &target).map_err(|source| Error::MountLayer { number: 0, source })
            })
            .and_then(|()| mount::unmount_unused(&target).map_err(|source| Error::Unmount { source }));
        tree::remove_tree(&scratch)?;
        tried
    }
}

impl Snapshotter for Overlay {
    fn driver(&self) -> &'static str {
        match self.inner.form {
            LayerForm::Directory => "overlay2",
            LayerForm::Image => "erofs",
        }
    }

    fn prepare_layer(&self, _: Option<&Digest>) -> Result<LayerDir, Error> {
        let inner = &self.inner;
        let number = inner.home.number();
        let home = Arc::clone(&inner.home);
        let discard = Box::new(move || home.discard_or_leave(number));
        match inner.new_layer(number) {
            Ok(target) => Ok(LayerDir { number, target, discard: Some(discard) }),
            Err(e) => {
                discard();
                Err(e)
            }
        }
    }

    fn commit_layer(&self, mut dir: LayerDir, new: &NewLayer) -> Result<bool, Error> {
        // Before anyone can see the layer and rely on a sync.
        self.inner.unsynced().insert(dir.number, self.inner.form);
        let inserted = self.inner.db.write(|tx| tx.insert_layer(&new.row(dir.number)));
        match inserted {
            Ok(true) => dir.discard = None,
            _ => drop(self.inner.unsynced().remove(&dir.number)),
        }
        Ok(inserted?)
    }

    fn commit(&self, key: &str, new: &NewLayer) -> Result<bool, Error> {
        let inner = &self.inner;
        let number = records::snapshot(&inner.db, key)?.number;
        // Before anyone can see the layer and rely on a sync. What was written to is a directory, whatever the form of
        // layers that are unpacked.
        inner.unsynced().insert(number, LayerForm::Directory);
        let inserted = inner.db.write(|tx| -> Result<bool, Error> {
            tx.delete_snapshot(key)?;
            Ok(tx.insert_layer(&new.row(number))?)
        });
        match inserted {
            // The kernel's scratch; left behind it would be in nobody's way.
            Ok(true) => tree::remove_tree(&inner.home.path(number, "work"))?,
            Ok(false) => {
                inner.unsynced().remove(&number);
                inner.home.discard(number)?;
            }
            Err(_) => drop(inner.unsynced().remove(&number)),
        }
        inserted
    }

    fn sync(&self) -> Result<(), Error> {
        self.inner.sync()
    }

    fn prepare(&self, key: &str, parent: Option<&Digest>) -> Result<(), Error> {
        let inner = &self.inner;
        let number = inner.home.number();
        let row = SnapshotRow { key: key.into(), number, parent: parent.copied() };
        let made = inner
            .home
            .make(number, &["fs", "work"])
            .and_then(|()| inner.copy_root(number, parent))
            .and_then(|()| records::insert_snapshot(&inner.db, &row));
        if made.is_err() {
            inner.home.discard_or_leave(number);
        }
        made
    }

    fn limit(&self, key: &str, bytes: u64) -> Result<(), Error> {
        let inner = &self.inner;
        let number = records::snapshot(&inner.db, key)?.number;
        // What overlay moves from one to the other may not change its project on the way.
        inner.quotas.limit(&inner.home, self.driver(), number, &["fs", "work"], bytes)
    }

    fn mount(&self, key: &str, target: &Path, options: &MountOptions) -> Result<(), Error> {
        self.inner.mount(key, options, |overlay| mount::mount_overlay(overlay, target))
    }

    fn mount_mapped(
        &self,
        key: &str,
        target: &Path,
        options: &MountOptions,
        mapping: mount::Mapping<'_>,
    ) -> Result<(), Error> {
        self.inner.mount(key, options, |overlay| mount::mount_mapped_overlay(overlay, mapping, target))
    }

    fn unmount(&self, target: &Path) -> Result<(), Error> {
        let unmounted = mount::unmount_unused(target).map_err(|source| Error::Unmount { source });
        Inner::sweep_later(&self.inner);
        unmounted
    }

    fn remove(&self, key: &str) -> Result<bool, Error> {
        let Some(row) = records::delete_snapshot(&self.inner.db, key)? else { return Ok(false) };
        self.inner.quotas.release(&self.inner.home.path(row.number, "fs"));
        self.inner.home.discard(row.number)?;
        Ok(true)
    }

    fn upper(&self, key: &str) -> Result<PathBuf, Error> {
        Ok(self.inner.home.path(records::snapshot(&self.inner.db, key)?.number, "fs"))
    }

    fn delta(&self, key: &str) -> Result<Delta, Error> {
        let row = records::snapshot(&self.inner.db, key)?;
        let (lowers, hold) = match &row.parent {
            Some(chain_id) => self.inner.lowers(chain_id)?,
            None => (Vec::new(), None),
        };
        let upper = RootDir::open(&self.inner.home.path(row.number, "fs"))?;
        let lowers = lowers.iter().map(|path| RootDir::open(path)).collect::<Result<_, _>>()?;
        Ok(Delta { form: DeltaForm::Upper { upper, lowers }, guard: hold.map(|hold| Box::new(hold) as _) })
    }

    fn layers(&self, chain_id: &Digest) -> Result<Layers, Error> {
        let (paths, hold) = self.inner.lowers(chain_id)?;
        Ok(Layers { paths, guard: hold.map(|hold| Box::new(hold) as _) })
    }

    fn usage(&self, key: &str) -> Result<Usage, Error> {
        measure(&self.upper(key)?)
    }

    fn layer(&self, chain_id: &Digest) -> Result<Option<LayerRow>, Error> {
        Ok(self.inner.db.read(|tx| tx.layer(chain_id))?)
    }

    fn list(&self) -> Result<Vec<SnapshotRow>, Error> {
        Ok(self.inner.db.read(|tx| tx.list_snapshots())?)
    }

    fn remove_unused_layers(&self, roots: &[Digest]) -> Result<Vec<LayerRow>, Error> {
        let removed = self.inner.db.delete(|tx| records::delete_unused(tx, roots));
        self.inner.chains.forget();
        let removed = removed?;
        for row in &removed {
            self.inner.mounts.forget(row.number);
            self.inner.unsynced().remove(&row.number);
            self.inner.home.discard(row.number)?;
        }
        Ok(removed)
    }

    fn audit(&self) -> Result<Audit, Error> {
        // What the kernel has cached of an image that nobody uses would hide what the disk has.
        self.inner.sweep(Duration::ZERO);
        // Disk first: a directory whose record is made meanwhile is no orphan, one that is made meanwhile not seen.
        records::audit(&self.inner.db, &self.inner.home.list()?)
    }

    fn forget_layer(&self, chain_id: &Digest) -> Result<bool, Error> {
        let inner = &self.inner;
        let _no_mount = inner.mounting.write().unwrap_or_else(PoisonError::into_inner);
        let Some(row) = self.layer(chain_id)? else { return Ok(true) };
        if inner.layers_in_use()?.contains(&row.number) {
            return Ok(false);
        }
        let deleted = inner.db.delete(|tx| tx.delete_layer(chain_id));
        inner.chains.forget();
        deleted?;
        inner.mounts.forget(row.number);
        inner.unsynced().remove(&row.number);
        inner.home.discard(row.number)?;
        Ok(true)
    }

    fn reconcile(&self) -> Result<Reconciled, Error> {
        let inner = &self.inner;
        let mut on_disk = inner.home.list()?;
        let usable: HashSet<u64> =
            on_disk.iter().copied().filter(|number| inner.is_usable(*number)).collect();
        let lost = inner.db.delete(|tx| records::delete_lost(tx, &usable));
        inner.chains.forget();
        let mut done = lost?;
        let recorded = records::numbers(&inner.db)?;
        on_disk.retain(|number| !recorded.contains(number));
        for number in on_disk {
            inner.mounts.forget(number);
            inner.quotas.release(&inner.home.path(number, "fs"));
            inner.home.discard(number)?;
            done.orphans += 1;
        }
        // A layer that is gone may have left its mount.
        for number in inner.mounts.numbers().difference(&recorded) {
            inner.mounts.forget(*number);
        }
        Inner::sweep_later(inner);
        Ok(done)
    }

    fn empty_trash(&self) -> Result<usize, Error> {
        self.inner.home.empty_trash()
    }
}

impl Inner {
    fn new_layer(&self, number: u64) -> Result<Target, Error> {
        match self.form {
            LayerForm::Directory => {
                self.home.make(number, &["fs"])?;
                let dir = self.home.dir(number);
                Ok(Target::Directory { root: RootDir::open(&dir.join("fs"))?, template: dir.join("root") })
            }
            LayerForm::Image => {
                self.home.make(number, &["root"])?;
                let dir = self.home.dir(number);
                Ok(Target::Image { path: dir.join("layer.erofs"), template: dir.join("root") })
            }
        }
    }

    /// Whether this kernel can do something with what is in directory `number`.
    fn is_usable(&self, number: u64) -> bool {
        self.has_images.load(Ordering::SeqCst) || !self.home.path(number, "layer.erofs").exists()
    }

    /// The directories of a layer and of those below it, topmost first, and what keeps them there.
    fn lowers(&self, chain_id: &Digest) -> Result<(Vec<PathBuf>, Option<Hold>), Error> {
        let mut images = Vec::new();
        let mut paths = Vec::new();
        for link in &self.chains.get(&self.db, &self.home, chain_id)?.links {
            if link.is_directory {
                paths.push(self.home.path(link.number, "fs"));
            } else {
                images.push((link.number, self.home.path(link.number, "layer.erofs")));
                paths.push(self.mounts.path(link.number));
            }
        }
        let hold = if images.is_empty() { None } else { Some(self.mounts.hold(&images)?) };
        Ok((paths, hold))
    }

    /// Mounts the overlay of a writable snapshot by `road`.
    fn mount(
        &self,
        key: &str,
        options: &MountOptions,
        road: impl FnOnce(&mount::Overlay<'_>) -> Result<(), mount::Error>,
    ) -> Result<(), Error> {
        let row = records::snapshot(&self.db, key)?;
        let _no_sweep = self.mounting.read().unwrap_or_else(PoisonError::into_inner);
        let (lowers, hold) = match &row.parent {
            Some(chain_id) => self.lowers(chain_id)?,
            None => (vec![self.home.empty.clone()], None),
        };
        let work = self.home.path(row.number, "work");
        // A volatile mount leaves a marker that makes the kernel refuse the next mount, for fear of a power loss since.
        // We promise nothing about volatile changes after one, and lose nothing without one.
        tree::remove_tree(&work.join("work/incompat"))?;
        let overlay = mount::Overlay {
            lowers: &lowers,
            upper: &self.home.path(row.number, "fs"),
            work: &work,
            volatile: options.volatile,
            read_only: options.read_only,
        };
        let mounted = road(&overlay);
        // From here on the overlay itself shows which layers are in use.
        drop(hold);
        mounted.map_err(|source| Error::Mount { key: key.into(), source })
    }

    /// Gives a new writable snapshot's root the attributes that the topmost layer which lists the root gives it.
    fn copy_root(&self, number: u64, parent: Option<&Digest>) -> Result<(), Error> {
        let Some(chain_id) = parent else { return Ok(()) };
        match self.chains.get(&self.db, &self.home, chain_id)?.root {
            Some(layer) => root::copy(&self.home.path(layer, "root"), &self.home.path(number, "fs")),
            None => Ok(()),
        }
    }

    /// Images one by one; directories by syncing the whole file system, which is what many small files come to.
    fn sync(&self) -> Result<(), Error> {
        let pending = self.unsynced().clone();
        let failed = |path: &Path| {
            let path = path.to_path_buf();
            move |source: io::Error| Error::File { what: "sync", path, source }
        };
        if pending.values().any(|form| *form == LayerForm::Directory) {
            self.home.sync()?;
        } else {
            let images = pending.keys().map(|number| self.home.path(*number, "layer.erofs"));
            let directories = pending.keys().map(|number| self.home.dir(*number));
            let templates = pending.keys().map(|number| self.home.path(*number, "root"));
            for path in images.chain(templates).chain(directories).chain([self.home.snapshots.clone()]) {
                match std::fs::File::open(&path) {
                    Ok(file) => file.sync_all().map_err(failed(&path))?,
                    // Few layers list the root, and a layer may have been removed meanwhile.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => return Err(failed(&path)(e)),
                }
            }
        }
        // What was committed meanwhile has its own caller.
        self.unsynced().retain(|number, _| !pending.contains_key(number));
        Ok(())
    }

    fn unsynced(&self) -> MutexGuard<'_, HashMap<u64, LayerForm>> {
        self.unsynced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Unmounts idle layers from a thread that ends when there are none left. One at a time.
    fn sweep_later(inner: &Arc<Inner>) {
        if inner.mounts.numbers().is_empty() || inner.is_sweeping.swap(true, Ordering::SeqCst) {
            return;
        }
        let weak = Arc::downgrade(inner);
        let work = move || loop {
            std::thread::sleep(IDLE / 4);
            let Some(inner) = weak.upgrade() else { return };
            if !inner.sweep(IDLE) {
                inner.is_sweeping.store(false, Ordering::SeqCst);
                // An overlay may have been unmounted just before, by someone who saw a sweeper at work.
                if !inner.sweep(IDLE) || inner.is_sweeping.swap(true, Ordering::SeqCst) {
                    return;
                }
            }
        };
        if let Err(e) = std::thread::Builder::new().name("layer-sweeper".into()).spawn(work) {
            tracing::warn!(error = %e, "idle layers stay mounted");
            inner.is_sweeping.store(false, Ordering::SeqCst);
        }
    }

    /// Unmounts layers that have been idle for `idle`. Says whether there are idle ones left.
    fn sweep(&self, idle: Duration) -> bool {
        let _no_mount = self.mounting.write().unwrap_or_else(PoisonError::into_inner);
        match self.layers_in_use() {
            Ok(in_use) => self.mounts.sweep(&in_use, idle),
            Err(e) => {
                tracing::warn!(error = errors::chain(&e), "idle layers stay mounted");
                false
            }
        }
    }

    /// The layers below overlays that are mounted, by what the kernel says of these.
    fn layers_in_use(&self) -> Result<HashSet<u64>, Error> {
        let overlays = mount::list_overlays().map_err(|source| Error::Unmount { source })?;
        let rows = self.db.read(|tx| tx.list_snapshots())?;
        let mut in_use = HashSet::new();
        for row in rows {
            let upper = self.home.path(row.number, "fs");
            let is_mounted = overlays.iter().any(|overlay| overlay.upper.as_ref() == Some(&upper));
            if let Some(chain_id) = row.parent.filter(|_| is_mounted) {
                let chain = self.chains.get(&self.db, &self.home, &chain_id)?;
                in_use.extend(chain.links.iter().map(|link| link.number));
            }
        }
        // Where a path was too long to be given by name, the kernel knows it by another: nothing is idle for sure.
        if overlays.iter().any(|overlay| overlay.upper.as_ref().is_some_and(|p| p.starts_with("/proc"))) {
            in_use.extend(self.mounts.numbers());
        }
        Ok(in_use)
    }
}

/// Measures a tree that may be changing.
pub(crate) fn measure(path: &Path) -> Result<Usage, Error> {
    let failed =
        |source: rustix::io::Errno| Error::File { what: "measure", path: path.into(), source: source.into() };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut tries = 0;
    loop {
        let dir = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
        match tree::measure(dir) {
            // A directory was moved while we were in it.
            Err(rustix::io::Errno::STALE) if tries < MAX_MEASURES => tries += 1,
            other => return other.map_err(failed),
        }
    }
}
