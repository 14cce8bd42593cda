//! The building site: the container's root while mounts are made in it, and what is known of it.
//!
//! File systems that we have just made hold nothing that an image put there, so what is made in them is made beside their
//! root's descriptor, without resolving the way to it again. Descriptors that have served are kept until the end, when
//! they go with few calls.

use crate::rooted;
use rootdir::RootDir;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Descriptors kept before they are closed together; below every default limit with what else is open.
const MAX_SPENT: usize = 256;

#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) root: RootDir,
    /// Roots of new file systems, by where they are.
    fresh: Vec<Fresh>,
    spent: Vec<OwnedFd>,
}

/// The root of a file system that we made.
#[derive(Debug)]
struct Fresh {
    point: PathBuf,
    root: OwnedFd,
    /// Below a procfs are other processes' files.
    procfs: bool,
}

impl Site {
    /// `spent` are descriptors to be closed with the others.
    pub(crate) fn new(root: RootDir, spent: Vec<OwnedFd>) -> Site {
        Site { root, fresh: Vec::new(), spent }
    }

    /// Takes a descriptor that nobody needs any more.
    pub(crate) fn spend(&mut self, fd: OwnedFd) {
        if self.spent.len() >= MAX_SPENT {
            sys::process::close_all(std::mem::take(&mut self.spent));
        }
        self.spent.push(fd);
    }

    /// Opens the directory `path`, which is [clean](rooted::clean), and makes what is missing of it.
    pub(crate) fn ensure_directory(&mut self, path: &Path) -> Result<OwnedFd, Errno> {
        if let Some((directory, name)) = self.fresh_parent(path) {
            // Whether it could be made shows in opening it; a link there is no directory and left to resolution.
            let _ = rustix::fs::mkdirat(directory, name, Mode::from_raw_mode(0o755));
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            if let Ok(fd) = rustix::fs::openat(directory, name, flags, Mode::empty()) {
                return Ok(fd);
            }
        }
        match self.open(path, OFlags::PATH | OFlags::DIRECTORY) {
            Err(Errno::NOENT) => rooted::ensure_directory(&self.root, path),
            other => other,
        }
    }

    /// The directory at `path`, `None` if nothing is there. A link in its place is refused, with `ENOTDIR`: over it a later
    /// write to a file that is thought to be the kernel's could land elsewhere.
    pub(crate) fn ordinary_directory(&mut self, path: &Path) -> Result<Option<OwnedFd>, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        match self.open(path, flags) {
            Err(Errno::NOTDIR | Errno::LOOP) => Err(Errno::NOTDIR),
            Ok(fd) => Ok(Some(fd)),
            Err(_) => Ok(None),
        }
    }

    /// Opens a target of the same type as `tree`: directory for directory, file for anything else. Makes what is missing.
    pub(crate) fn ensure_like(&mut self, path: &Path, tree: impl AsFd) -> Result<OwnedFd, Errno> {
        if rooted::file_type(tree)? == FileType::Directory {
            return self.ensure_directory(path);
        }
        match self.open(path, OFlags::PATH) {
            Err(Errno::NOENT) => rooted::ensure_file(&self.root, path),
            other => other,
        }
    }

    /// The directory that `path` is to be made in, and its name there.
    pub(crate) fn parent<'p>(&mut self, path: &'p Path) -> Result<(BorrowedFd<'_>, &'p OsStr), Errno> {
        let (parent, name) = path.parent().zip(path.file_name()).ok_or(Errno::ISDIR)?;
        if let Some(at) = self.fresh.iter().position(|fresh| fresh.point == parent) {
            return Ok((self.fresh[at].root.as_fd(), name));
        }
        let directory = self.ensure_directory(parent)?;
        self.spend(directory);
        Ok((self.spent.last().ok_or(Errno::BADF)?.as_fd(), name))
    }

    /// Whether `path` is known to be in a file system that we made and that is no procfs.
    pub(crate) fn is_plain(&self, path: &Path) -> bool {
        path.parent().is_some_and(|parent| self.fresh.iter().any(|f| f.point == parent && !f.procfs))
    }

    /// A file system was attached at `path`, which was opened here. For a new one, its kind.
    pub(crate) fn attached(&mut self, path: &Path, tree: OwnedFd, new: Option<&str>) {
        let fresh = std::mem::take(&mut self.fresh);
        for one in fresh {
            // What is hidden now is not what its path means.
            if one.point.starts_with(path) { self.spend(one.root) } else { self.fresh.push(one) }
        }
        match new {
            Some(kind) => self.fresh.push(Fresh { point: path.into(), root: tree, procfs: kind == "proc" }),
            None => self.spend(tree),
        }
    }

    /// Opens what is there. Where the way leads over a link, a mount may come to lie over one of the file systems known
    /// here without having its name; then they are forgotten.
    fn open(&mut self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
        match rustix::fs::openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::LOOP | Errno::AGAIN | Errno::INTR) => {
                self.forget();
                rooted::open(&self.root, path, flags)
            }
            other => other,
        }
    }

    fn forget(&mut self) {
        let fresh = std::mem::take(&mut self.fresh);
        fresh.into_iter().for_each(|fresh| self.spend(fresh.root));
    }

    fn fresh_parent<'p>(&self, path: &'p Path) -> Option<(BorrowedFd<'_>, &'p OsStr)> {
        let (parent, name) = path.parent().zip(path.file_name())?;
        let fresh = self.fresh.iter().find(|fresh| fresh.point == parent)?;
        Some((fresh.root.as_fd(), name))
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.forget();
        sys::process::close_all(std::mem::take(&mut self.spent));
    }
}
