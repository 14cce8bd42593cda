//! The overlay driver.
//!
//! ```text
//! DIR/                     0700
//!   snapshots/<n>/fs       a layer's files, or the changes of a writable snapshot
//!   snapshots/<n>/work     the kernel's scratch, of writable snapshots only
//!   empty/                 what lies below a snapshot on nothing
//!   trash/<n>-<m>          removed, to be deleted
//! ```
//!
//! Numbers are short so that many layers fit in one mount(2) of an old kernel. A directory belongs to nobody until its
//! record exists, so no step between making it and recording it needs to be undone after a crash: `reconcile` does.

use crate::snapshotter::{
    Delta, DeltaForm, LayerDir, MountOptions, NewLayer, Reconciled, Snapshotter, Usage,
};
use crate::{Error, tree};
use metadata::{Database, LayerRow, SnapshotRow, WriteTx};
use oci::Digest;
use oci::image::MAX_LAYERS;
use rootdir::RootDir;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Layers as directories, stacked by the kernel's overlay file system.
#[derive(Debug)]
pub struct Overlay {
    db: Arc<Database>,
    home: Arc<Home>,
}

/// The directories of the driver.
#[derive(Debug)]
struct Home {
    snapshots: PathBuf,
    empty: PathBuf,
    trash: PathBuf,
    next: AtomicU64,
    next_trash: AtomicU64,
}

impl Overlay {
    /// Opens the driver's directory `dir`, making it where it is missing. Call [`Snapshotter::reconcile`] next.
    pub fn open(dir: &Path, db: Arc<Database>) -> Result<Overlay, Error> {
        let home = Home::open(dir)?;
        let highest_recorded = db.read(|tx| -> Result<u64, Error> {
            let layers = tx.list_layers()?.into_iter().map(|l| l.number).max();
            let snapshots = tx.list_snapshots()?.into_iter().map(|s| s.number).max();
            Ok(layers.max(snapshots).unwrap_or(0))
        })?;
        home.next.fetch_max(highest_recorded + 1, Ordering::Relaxed);
        Ok(Overlay { db, home: Arc::new(home) })
    }

    fn snapshot(&self, key: &str) -> Result<SnapshotRow, Error> {
        let row = self.db.read(|tx| tx.snapshot(key))?;
        row.ok_or_else(|| Error::NotFound { key: key.into() })
    }
}

impl Snapshotter for Overlay {
    fn driver(&self) -> &'static str {
        "overlay2"
    }

    fn prepare_layer(&self) -> Result<LayerDir, Error> {
        let number = self.home.number();
        let home = Arc::clone(&self.home);
        let discard = Box::new(move || home.discard_or_leave(number));
        let made = self.home.make(number, &["fs"]);
        match made.and_then(|()| Ok(RootDir::open(&self.home.path(number, "fs"))?)) {
            Ok(root) => Ok(LayerDir { number, root, discard: Some(discard) }),
            Err(e) => {
                discard();
                Err(e)
            }
        }
    }

    fn commit_layer(&self, mut dir: LayerDir, new: &NewLayer) -> Result<bool, Error> {
        let row = LayerRow {
            chain_id: new.chain_id,
            number: dir.number,
            parent: new.parent,
            diff_id: new.diff_id,
            size_bytes: new.size_bytes,
            durable: false,
        };
        let inserted = self.db.write(|tx| tx.insert_layer(&row))?;
        if inserted {
            dir.discard = None;
        }
        Ok(inserted)
    }

    fn sync(&self) -> Result<(), Error> {
        let path = &self.home.snapshots;
        let failed =
            |source: io::Error| Error::File { what: "sync file system of", path: path.clone(), source };
        let dir = std::fs::File::open(path).map_err(failed)?;
        rustix::fs::syncfs(&dir).map_err(|e| failed(e.into()))
    }

    fn prepare(&self, key: &str, parent: Option<&Digest>) -> Result<(), Error> {
        let number = self.home.number();
        let row = SnapshotRow { key: key.into(), number, parent: parent.copied() };
        let made = self.home.make(number, &["fs", "work"]).and_then(|()| {
            self.db.write(|tx| {
                if let Some(chain_id) = parent {
                    tx.layer(chain_id)?.ok_or(Error::LayerNotFound { chain_id: *chain_id })?;
                }
                let is_new = tx.insert_snapshot(&row)?;
                if is_new { Ok(()) } else { Err(Error::AlreadyExists { key: key.into() }) }
            })
        });
        if made.is_err() {
            self.home.discard_or_leave(number);
        }
        made
    }

    fn mount(&self, key: &str, target: &Path, options: &MountOptions) -> Result<(), Error> {
        let row = self.snapshot(key)?;
        let lowers = match &row.parent {
            Some(chain_id) => self.layers(chain_id)?,
            None => vec![self.home.empty.clone()],
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
        mount::mount_overlay(&overlay, target).map_err(|source| Error::Mount { key: key.into(), source })
    }

    fn unmount(&self, target: &Path) -> Result<(), Error> {
        mount::unmount(target).map_err(|source| Error::Unmount { source })
    }

    fn remove(&self, key: &str) -> Result<bool, Error> {
        let row = self.db.delete(|tx| -> Result<_, Error> {
            let row = tx.snapshot(key)?;
            tx.delete_snapshot(key)?;
            Ok(row)
        })?;
        let Some(row) = row else { return Ok(false) };
        self.home.discard(row.number)?;
        Ok(true)
    }

    fn upper(&self, key: &str) -> Result<PathBuf, Error> {
        Ok(self.home.path(self.snapshot(key)?.number, "fs"))
    }

    fn delta(&self, key: &str) -> Result<Delta, Error> {
        let row = self.snapshot(key)?;
        let lowers = match &row.parent {
            Some(chain_id) => self.layers(chain_id)?,
            None => Vec::new(),
        };
        let upper = RootDir::open(&self.home.path(row.number, "fs"))?;
        let lowers = lowers.iter().map(|path| RootDir::open(path)).collect::<Result<_, _>>()?;
        Ok(Delta { form: DeltaForm::Upper { upper, lowers }, guard: None })
    }

    fn layers(&self, chain_id: &Digest) -> Result<Vec<PathBuf>, Error> {
        self.db.read(|tx| {
            let mut paths = Vec::new();
            let mut next = Some(*chain_id);
            while let Some(link) = next {
                if paths.len() == MAX_LAYERS {
                    return Err(Error::TooDeep { chain_id: *chain_id, max: MAX_LAYERS });
                }
                let row = tx.layer(&link)?.ok_or(Error::LayerNotFound { chain_id: link })?;
                paths.push(self.home.path(row.number, "fs"));
                next = row.parent;
            }
            Ok(paths)
        })
    }

    fn usage(&self, key: &str) -> Result<Usage, Error> {
        let path = self.upper(key)?;
        let failed = |source: rustix::io::Errno| Error::File {
            what: "measure",
            path: path.clone(),
            source: source.into(),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut tries = 0;
        loop {
            let dir = rustix::fs::open(&path, flags, Mode::empty()).map_err(failed)?;
            match tree::measure(dir) {
                // A directory was moved while we were in it.
                Err(rustix::io::Errno::STALE) if tries < MAX_MEASURES => tries += 1,
                other => return other.map_err(failed),
            }
        }
    }

    fn layer(&self, chain_id: &Digest) -> Result<Option<LayerRow>, Error> {
        Ok(self.db.read(|tx| tx.layer(chain_id))?)
    }

    fn list(&self) -> Result<Vec<SnapshotRow>, Error> {
        Ok(self.db.read(|tx| tx.list_snapshots())?)
    }

    fn remove_unused_layers(&self, roots: &[Digest]) -> Result<Vec<LayerRow>, Error> {
        let removed = self.db.delete(|tx| delete_unused(tx, roots))?;
        for row in &removed {
            self.home.discard(row.number)?;
        }
        Ok(removed)
    }

    fn reconcile(&self) -> Result<Reconciled, Error> {
        let on_disk = self.home.list()?;
        let mut done = self.db.delete(|tx| delete_lost(tx, &on_disk))?;
        let recorded: HashSet<u64> = self.db.read(|tx| -> Result<_, Error> {
            let layers = tx.list_layers()?.into_iter().map(|l| l.number);
            Ok(layers.chain(tx.list_snapshots()?.into_iter().map(|s| s.number)).collect())
        })?;
        for number in on_disk.difference(&recorded) {
            self.home.discard(*number)?;
            done.orphans += 1;
        }
        Ok(done)
    }

    fn empty_trash(&self) -> Result<usize, Error> {
        self.home.empty_trash()
    }
}

/// How often the measuring of a tree is begun anew because it was being rearranged.
const MAX_MEASURES: u32 = 5;

fn delete_unused(tx: &WriteTx<'_>, roots: &[Digest]) -> Result<Vec<LayerRow>, Error> {
    let mut unused: HashMap<Digest, LayerRow> =
        tx.list_layers()?.into_iter().map(|row| (row.chain_id, row)).collect();
    let parents = tx.list_snapshots()?.into_iter().filter_map(|row| row.parent);
    for root in parents.chain(roots.iter().copied()) {
        let mut next = Some(root);
        // A link that is no longer in the map was reached before, and with it everything below.
        while let Some(row) = next.and_then(|link| unused.remove(&link)) {
            next = row.parent;
        }
    }
    let mut removed: Vec<LayerRow> = unused.into_values().collect();
    removed.sort_unstable_by_key(|row| std::cmp::Reverse(row.number));
    for row in &removed {
        tx.delete_layer(&row.chain_id)?;
    }
    Ok(removed)
}

/// Deletes the records whose directory is not among `on_disk`, and those of layers that never became durable.
fn delete_lost(tx: &WriteTx<'_>, on_disk: &HashSet<u64>) -> Result<Reconciled, Error> {
    let mut done = Reconciled::default();
    for row in tx.list_layers()? {
        if !row.durable || !on_disk.contains(&row.number) {
            tx.delete_layer(&row.chain_id)?;
            done.lost_layers.push(row.chain_id);
        }
    }
    for row in tx.list_snapshots()? {
        if !on_disk.contains(&row.number) {
            tx.delete_snapshot(&row.key)?;
            done.lost_snapshots.push(row.key);
        }
    }
    Ok(done)
}

impl Home {
    fn open(dir: &Path) -> Result<Home, Error> {
        let home = Home {
            snapshots: dir.join("snapshots"),
            empty: dir.join("empty"),
            trash: dir.join("trash"),
            next: AtomicU64::new(1),
            next_trash: AtomicU64::new(0),
        };
        for path in [&home.snapshots, &home.empty, &home.trash] {
            make_dir(path, true, 0o700)?;
        }
        let highest = home.list()?.into_iter().max().unwrap_or(0);
        home.next.fetch_max(highest + 1, Ordering::Relaxed);
        let trash = numbers(&home.trash, |name| name.rsplit_once('-')?.1.parse().ok())?;
        home.next_trash.fetch_max(trash.into_iter().max().map_or(0, |n| n + 1), Ordering::Relaxed);
        Ok(home)
    }

    /// A number that no directory has.
    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn path(&self, number: u64, part: &str) -> PathBuf {
        self.snapshots.join(number.to_string()).join(part)
    }

    /// Makes directory `number` with these parts. `fs` becomes the root of a container and is open to all, as Docker's
    /// is; the directories above keep others of the host out.
    fn make(&self, number: u64, parts: &[&str]) -> Result<(), Error> {
        make_dir(&self.snapshots.join(number.to_string()), false, 0o700)?;
        for part in parts {
            let path = self.path(number, part);
            make_dir(&path, false, 0o700)?;
            if *part == "fs" {
                // Not left to mkdir, which asks the umask.
                std::fs::set_permissions(&path, Permissions::from_mode(0o755))
                    .map_err(|source| Error::File { what: "change mode of", path, source })?;
            }
        }
        Ok(())
    }

    /// The numbers of all directories.
    fn list(&self) -> Result<HashSet<u64>, Error> {
        numbers(&self.snapshots, |name| name.parse().ok())
    }

    /// Moves directory `number` to the trash.
    fn discard(&self, number: u64) -> Result<(), Error> {
        let serial = self.next_trash.fetch_add(1, Ordering::Relaxed);
        let path = self.snapshots.join(number.to_string());
        match std::fs::rename(&path, self.trash.join(format!("{number}-{serial}"))) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(Error::File { what: "move to trash", path, source })
            }
            _ => Ok(()),
        }
    }

    /// As [`Home::discard`] where a failure has no one to go to: the directory has no record, so `reconcile` finds it.
    fn discard_or_leave(&self, number: u64) {
        if let Err(e) = self.discard(number) {
            tracing::warn!(number, error = errors::chain(&e), "snapshot directory left behind");
        }
    }

    fn empty_trash(&self) -> Result<usize, Error> {
        let failed = |what, path: &Path, source: io::Error| Error::File { what, path: path.into(), source };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let trash: OwnedFd = rustix::fs::open(&self.trash, flags, Mode::empty())
            .map_err(|e| failed("open", &self.trash, e.into()))?;
        let mut deleted = 0;
        let mut first_failure = None;
        for name in names(&self.trash)? {
            let path = self.trash.join(&name);
            let Ok(name) = CString::new(name) else { continue };
            match tree::remove(&trash, &name) {
                Ok(()) => deleted += 1,
                Err(e) => {
                    first_failure.get_or_insert_with(|| failed("delete", &path, e.into()));
                }
            }
        }
        first_failure.map_or(Ok(deleted), Err)
    }
}

fn make_dir(path: &Path, recursive: bool, mode: u32) -> Result<(), Error> {
    std::fs::DirBuilder::new().recursive(recursive).mode(mode).create(path).map_err(|source| Error::File {
        what: "create directory",
        path: path.into(),
        source,
    })
}

fn names(dir: &Path) -> Result<Vec<String>, Error> {
    let failed = |source| Error::File { what: "list", path: dir.into(), source };
    std::fs::read_dir(dir)
        .map_err(failed)?
        .filter_map(|entry| entry.map(|e| e.file_name().into_string().ok()).transpose())
        .collect::<io::Result<_>>()
        .map_err(failed)
}

fn numbers(dir: &Path, parse: impl Fn(&str) -> Option<u64>) -> Result<HashSet<u64>, Error> {
    Ok(names(dir)?.iter().filter_map(|name| parse(name)).collect())
}
