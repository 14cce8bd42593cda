//! Limits of what directories take, by project quotas of ext4 and XFS: those of a writable snapshot, or of a volume, belong to
//! a project of their own, whose number is found in them again when they are removed. Where a snapshot begins as a copy of its
//! layers, every file of that belongs to the project too, and the limit is on what comes on top.

use crate::Error;
use crate::home::Home;
use crate::tree;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use sys::project_quota;

/// Numbers tried before giving up on finding a free one.
const TRIES: u32 = 1000;
/// Projects of administrators are small numbers.
const FIRST: u32 = 1 << 24;

/// The inode of a Btrfs subvolume's root.
const SUBVOLUME_ROOT: u64 = 256;

/// What is known of the quotas of a file system.
#[derive(Debug, Default)]
pub struct Quotas {
    enforced: OnceLock<bool>,
    /// Held from looking for a free project until something belongs to it.
    claiming: Mutex<()>,
}

impl Quotas {
    /// Whether the file system of the directory `any`, always the same one, enforces limits of projects.
    pub fn is_enforced(&self, any: &Path) -> bool {
        if let Some(known) = self.enforced.get() {
            return *known;
        }
        let Ok(fd) = open(any) else { return false };
        *self.enforced.get_or_init(|| project_quota::is_enforced(fd.as_fd()).unwrap_or(false))
    }

    /// Limits what goes into `directories`, which are empty and on the file system of `base`, to `bytes` altogether. `base`
    /// and `number` say where to begin to look for a project that nobody has.
    ///
    /// # Errors
    ///
    /// [`Error::File`].
    pub fn limit_directories(
        &self,
        base: &Path,
        number: u64,
        directories: &[PathBuf],
        bytes: u64,
    ) -> Result<(), Error> {
        let Some((first, rest)) = directories.split_first() else { return Ok(()) };
        let any = open(base).map_err(at("limit the size of", base))?;
        let claimed = open(first).and_then(|first| self.claim(&any, base, number, &first));
        let project = claimed.map_err(at("limit the size of", first))?;
        rest.iter().try_for_each(|path| {
            let assigned = open(path).and_then(|fd| project_quota::assign(fd.as_fd(), project));
            assigned.map_err(at("limit the size of", path))
        })?;
        project_quota::limit(any.as_fd(), project, bytes).map_err(at("limit the size of", base))
    }

    /// Puts the directory `first` into a project that nobody has. What is in it is taken, and free again when that is removed:
    /// a limit that nothing belongs to would stay for ever.
    fn claim(&self, any: &OwnedFd, base: &Path, number: u64, first: &OwnedFd) -> io::Result<u32> {
        let _turn = self.claiming.lock().unwrap_or_else(PoisonError::into_inner);
        let project = free_project(any, base, number)?;
        project_quota::assign(first.as_fd(), project)?;
        Ok(project)
    }

    /// Whether the file system of the directory `any`, always the same one, has directories that take only so much.
    pub fn has_limits(&self, any: &Path) -> bool {
        is_btrfs(any) || self.is_enforced(any)
    }

    /// Makes the directory `name` in `parent`, that takes at most `bytes`: on Btrfs a subvolume, elsewhere a project. `base`
    /// and `number` as in [`Quotas::limit_directories`]. One that is there, empty, is taken as it is.
    ///
    /// # Errors
    ///
    /// [`Error::File`].
    pub fn make_limited(
        &self,
        base: &Path,
        number: u64,
        (parent, name): (&Path, &CStr),
        bytes: u64,
    ) -> Result<(), Error> {
        let path = parent.join(OsStr::from_bytes(name.to_bytes()));
        let failed =
            |source: io::Error| Error::File { what: "make with a limit", path: path.clone(), source };
        let above = open(parent).map_err(failed)?;
        if !is_btrfs(parent) {
            match rustix::fs::mkdirat(&above, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(failed(e.into())),
            }
            return self.limit_directories(base, number, &[path], bytes);
        }
        let created = sys::btrfs::create_subvolume(above.as_fd(), name);
        match created {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(failed(e)),
            // A limit on a plain directory would be one on the subvolume that it is in.
            Err(e) if std::fs::symlink_metadata(&path).map_err(failed)?.ino() != SUBVOLUME_ROOT => {
                return Err(failed(e));
            }
            _ => {}
        }
        let tree = open(&path).map_err(failed)?;
        sys::btrfs::enable_quota(tree.as_fd()).map_err(failed)?;
        sys::btrfs::limit_exclusive(tree.as_fd(), bytes).map_err(failed)
    }

    /// Limits what goes into the empty directories `parts` of snapshot `number`.
    ///
    /// # Errors
    ///
    /// [`Error::NoQuota`] where the file system does not enforce limits of projects.
    pub(crate) fn limit(
        &self,
        home: &Home,
        driver: &'static str,
        number: u64,
        parts: &[&str],
        bytes: u64,
    ) -> Result<(), Error> {
        if !self.is_enforced(&home.snapshots) {
            return Err(Error::NoQuota { driver });
        }
        let directories: Vec<PathBuf> = parts.iter().map(|part| home.path(number, part)).collect();
        self.limit_directories(&home.snapshots, number, &directories, bytes)
    }

    /// Limits by how much the tree `part` of snapshot `number`, which is a copy of its layers, may grow.
    ///
    /// # Errors
    ///
    /// As [`Quotas::limit`].
    pub(crate) fn limit_growth(
        &self,
        home: &Home,
        driver: &'static str,
        number: u64,
        part: &str,
        bytes: u64,
    ) -> Result<(), Error> {
        let path = home.path(number, part);
        if !self.is_enforced(&home.snapshots) {
            return Err(Error::NoQuota { driver });
        }
        let limited = open(&path).and_then(|root| {
            let any = open(&home.snapshots)?;
            let project = self.claim(&any, &home.snapshots, number, &root)?;
            tree::assign(root, project)?;
            let there = project_quota::usage(any.as_fd(), project)?.bytes;
            project_quota::limit(any.as_fd(), project, there.saturating_add(bytes))
        });
        limited.map_err(at("limit the size of", &path))
    }

    /// Gives the project of a directory that goes away, if it has one, free for others. What it fails on keeps its number
    /// until then.
    pub fn release(&self, directory: &Path) {
        let Some(parent) = directory.parent() else { return };
        if !self.is_enforced(parent) {
            return;
        }
        let released = open(directory).and_then(|fd| match project_quota::project_of(fd.as_fd())? {
            0..FIRST => Ok(()),
            project => project_quota::limit(fd.as_fd(), project, 0),
        });
        match released {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %directory.display(), error = %e, "the number of its quota is not free again");
            }
            _ => {}
        }
    }
}

/// Whether the directory is on Btrfs.
pub(crate) fn is_btrfs(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|f| u64::try_from(f.f_type) == Ok(sys::btrfs::SUPER_MAGIC))
}

fn at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_path_buf();
    move |source| Error::File { what, path, source }
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// A project that nothing belongs to and that has no limit. Where it begins to look depends on the directory, so that several
/// data roots on one file system seldom meet.
fn free_project(any: &OwnedFd, base: &Path, number: u64) -> io::Result<u32> {
    let inode = std::fs::metadata(base)?.ino();
    let begin = inode.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(number);
    for n in 0..TRIES {
        let wanted = begin.wrapping_add(n.into()) % u64::from(u32::MAX - FIRST);
        let project = FIRST + u32::try_from(wanted).unwrap_or(0);
        if project_quota::usage(any.as_fd(), project)? == project_quota::Usage::default() {
            return Ok(project);
        }
    }
    Err(io::Error::other("all numbers of projects that were looked at are in use"))
}
