//! The directories of a driver: numbered, each belonging to nobody until its record exists.
//!
//! ```text
//! DIR/                     0700
//!   snapshots/<n>/...      a layer or a writable snapshot, in the driver's form
//!   empty/                 what lies below a snapshot on nothing
//!   trash/<n>-<m>          removed, to be deleted
//! ```

use crate::{Error, tree};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use std::collections::HashSet;
use std::ffi::CString;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The directories of a driver.
#[derive(Debug)]
pub(crate) struct Home {
    pub(crate) snapshots: PathBuf,
    pub(crate) empty: PathBuf,
    pub(crate) trash: PathBuf,
    next: AtomicU64,
    next_trash: AtomicU64,
}

impl Home {
    /// Opens `dir`, making it where it is missing. Numbers up to `taken` are not given out.
    pub(crate) fn open(dir: &Path, taken: u64) -> Result<Home, Error> {
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
        let highest = home.list()?.into_iter().max().unwrap_or(0).max(taken);
        home.next.fetch_max(highest + 1, Ordering::Relaxed);
        let trash = numbers(&home.trash, |name| name.rsplit_once('-')?.1.parse().ok())?;
        home.next_trash.fetch_max(trash.into_iter().max().map_or(0, |n| n + 1), Ordering::Relaxed);
        Ok(home)
    }

    /// A number that no directory has.
    pub(crate) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn path(&self, number: u64, part: &str) -> PathBuf {
        self.snapshots.join(number.to_string()).join(part)
    }

    /// Makes directory `number` with these parts. `fs` becomes the root of a container and is open to all, as Docker's
    /// is; the directories above keep others of the host out.
    pub(crate) fn make(&self, number: u64, parts: &[&str]) -> Result<(), Error> {
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

    /// The directory `number`.
    pub(crate) fn dir(&self, number: u64) -> PathBuf {
        self.snapshots.join(number.to_string())
    }

    /// The numbers of all directories.
    pub(crate) fn list(&self) -> Result<HashSet<u64>, Error> {
        numbers(&self.snapshots, |name| name.parse().ok())
    }

    /// Moves directory `number` to the trash.
    pub(crate) fn discard(&self, number: u64) -> Result<(), Error> {
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
    pub(crate) fn discard_or_leave(&self, number: u64) {
        if let Err(e) = self.discard(number) {
            tracing::warn!(number, error = errors::chain(&e), "snapshot directory left behind");
        }
    }

    /// The names of what is in the trash.
    pub(crate) fn list_trash(&self) -> Result<Vec<String>, Error> {
        names(&self.trash)
    }

    /// Syncs the whole file system, which is what many small files come to.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        let failed = |source: io::Error| Error::File {
            what: "sync file system of",
            path: self.snapshots.clone(),
            source,
        };
        let dir = std::fs::File::open(&self.snapshots).map_err(failed)?;
        rustix::fs::syncfs(&dir).map_err(|e| failed(e.into()))
    }

    pub(crate) fn empty_trash(&self) -> Result<usize, Error> {
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

pub(crate) fn make_dir(path: &Path, recursive: bool, mode: u32) -> Result<(), Error> {
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
