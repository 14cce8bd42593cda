//! The building site: the container's root while mounts are made in it, and what is known of it.
//!
//! File systems that we have just made hold nothing that an image put there, so what is made in them is made beside their
//! root's descriptor, without resolving the way to it again; and in a tmpfs of ours a directory just made is what its name
//! says, so that mount(2) may be told the name: one call in place of seven.

use crate::rooted;
use rootdir::RootDir;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use sys::spent::spend;

#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) root: RootDir,
    /// Roots of new file systems, by where they are.
    fresh: Vec<Fresh>,
    /// Which of them is the working directory.
    entered: Option<PathBuf>,
    /// The directory that was asked for last, where it is none of them.
    last: Option<OwnedFd>,
    /// What was opened last is on the mount that the root is on.
    stayed: bool,
}

/// The root of a file system that we made.
#[derive(Debug)]
struct Fresh {
    point: PathBuf,
    root: OwnedFd,
    kind: Kind,
    /// Something is mounted in it: what is seen there need not be its own.
    covered: bool,
}

/// What matters of a new file system's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Below it are other processes' files.
    Proc,
    /// All that is in it we made.
    Tmpfs,
    /// All that is in it the kernel made.
    Sysfs,
    Other,
}

impl Site {
    pub(crate) fn new(root: RootDir) -> Site {
        Site { root, fresh: Vec::new(), entered: None, last: None, stayed: false }
    }

    /// Makes the directory `path` in a tmpfs of ours, and makes that the working directory: then the name given is the new
    /// directory, and nothing else, until this is called again. `None` where that is not so.
    pub(crate) fn new_directory<'p>(&mut self, path: &'p Path) -> Option<&'p OsStr> {
        let (parent, name) = path.parent().zip(path.file_name())?;
        let fresh = self.fresh.iter().find(|fresh| fresh.point == parent && fresh.kind == Kind::Tmpfs)?;
        // What is there already may be a link that was copied up.
        rustix::fs::mkdirat(&fresh.root, name, Mode::from_raw_mode(0o755)).ok()?;
        if self.entered.as_deref() != Some(parent) {
            rustix::process::fchdir(&fresh.root).ok()?;
            self.entered = Some(parent.into());
        }
        Some(name)
    }

    /// Makes a sysfs of ours in which nothing is mounted the working directory, and gives the rest of `path`, where the kernel
    /// has no links. The caller goes on from there. `None` where that is not so, with nothing done.
    pub(crate) fn enter_sysfs<'p>(&mut self, path: &'p Path) -> Option<&'p Path> {
        let mut all = self.fresh.iter().filter(|fresh| fresh.kind == Kind::Sysfs && !fresh.covered);
        let (fresh, rest) = all.find_map(|fresh| Some((fresh, path.strip_prefix(&fresh.point).ok()?)))?;
        if rest != Path::new("fs/cgroup") {
            return None;
        }
        rustix::process::fchdir(&fresh.root).ok()?;
        self.entered = None;
        Some(rest)
    }

    /// The working directory is another now.
    pub(crate) fn left(&mut self) {
        self.entered = None;
    }

    /// Lets go of everything, the root too.
    pub(crate) fn leave(mut self) {
        self.forget();
        self.last.into_iter().chain([self.root.into()]).for_each(spend);
    }

    /// The root of a procfs or sysfs of ours and a name in it, where only the kernel makes names, and this one is no link.
    pub(crate) fn kernel_name<'p>(&self, path: &'p Path) -> Option<(BorrowedFd<'_>, &'p OsStr)> {
        const LINKS: [&str; 4] = ["self", "thread-self", "mounts", "net"];
        let (parent, name) = path.parent().zip(path.file_name())?;
        let by_kernel = |fresh: &&Fresh| matches!(fresh.kind, Kind::Proc | Kind::Sysfs);
        let fresh = self.fresh.iter().filter(by_kernel).find(|fresh| fresh.point == parent)?;
        (!LINKS.iter().any(|link| name == *link)).then_some((fresh.root.as_fd(), name))
    }

    /// Opens the directory `path`, which is [clean](rooted::clean), and makes what is missing of it.
    pub(crate) fn ensure_directory(&mut self, path: &Path) -> Result<OwnedFd, Errno> {
        self.stayed = false;
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
        self.stayed = false;
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
        self.last = Some(self.ensure_directory(parent)?);
        Ok((self.last.as_ref().ok_or(Errno::BADF)?.as_fd(), name))
    }

    /// Whether `path`, which was opened last, is known to be in no procfs: it is in another file system that we made, or on the
    /// mount that the root is on. A root that is a procfs itself, in which nothing can be made, is its caller's own will.
    pub(crate) fn is_plain(&self, path: &Path) -> bool {
        self.stayed
            || path
                .parent()
                .is_some_and(|parent| self.fresh.iter().any(|f| f.point == parent && f.kind != Kind::Proc))
    }

    /// A file system was attached at `path`, which was opened here. For a new one, its kind.
    pub(crate) fn attached(&mut self, path: &Path, tree: OwnedFd, new: Option<&str>) {
        self.covered(path);
        let kind = match new {
            None => return spend(tree),
            Some("proc") => Kind::Proc,
            Some("tmpfs") => Kind::Tmpfs,
            Some("sysfs") => Kind::Sysfs,
            Some(_) => Kind::Other,
        };
        self.fresh.push(Fresh { point: path.into(), root: tree, kind, covered: false });
    }

    /// Something is mounted at `path` now: what is hidden by it is not what its path means any more.
    pub(crate) fn covered(&mut self, path: &Path) {
        for mut one in std::mem::take(&mut self.fresh) {
            if one.point.starts_with(path) {
                self.entered.take_if(|entered| *entered == one.point);
                spend(one.root);
                continue;
            }
            one.covered |= path.starts_with(&one.point);
            self.fresh.push(one);
        }
    }

    /// Opens what is there. Where the way leads over a link, a mount may come to lie over one of the file systems known
    /// here without having its name; then they are forgotten.
    fn open(&mut self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
        let open =
            |resolve| rustix::fs::openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve);
        let opened = open(resolve | ResolveFlags::NO_XDEV);
        self.stayed = opened.is_ok();
        match opened {
            Err(Errno::XDEV) => {}
            Err(Errno::LOOP | Errno::AGAIN | Errno::INTR) => {
                self.forget();
                return rooted::open(&self.root, path, flags);
            }
            other => return other,
        }
        match open(resolve) {
            Err(Errno::LOOP | Errno::AGAIN | Errno::INTR) => {
                self.forget();
                rooted::open(&self.root, path, flags)
            }
            other => other,
        }
    }

    fn forget(&mut self) {
        self.entered = None;
        std::mem::take(&mut self.fresh).into_iter().for_each(|fresh| spend(fresh.root));
    }

    fn fresh_parent<'p>(&self, path: &'p Path) -> Option<(BorrowedFd<'_>, &'p OsStr)> {
        let (parent, name) = path.parent().zip(path.file_name())?;
        let fresh = self.fresh.iter().find(|fresh| fresh.point == parent)?;
        Some((fresh.root.as_fd(), name))
    }
}
