//! Files of a context that become files of a layer without being written again.
//!
//! A context lies on the file system of the layers, and nobody changes a file of it: one that changes comes as a new file
//! and takes the other's name. So a COPY gives the layer the context's own file, by reference (`FICLONE`) where the file
//! system can, else by a second name.
//!
//! ```text
//! workspace mounted    directories, symlinks, and files that go where something may lie below; others are left for later
//! unmounted            what was left, straight into the directories of the layer that this copy has made
//! ```
//!
//! A second name cannot go through the mount, and under it no directory may be written to that is merged with others; the
//! directories that the copy itself has made lie on nothing.
//!
//! A container sees that such a file has more than one link, and another time of the inode's own change (`ctime`) whenever a
//! build or a prune gives it a name or takes one. Programs that mind (cron, of its tables) mind it of small
//! files, which are copied. Modes, owners and times belong to the file: where the layer's are to be others it is copied.

mod names;

use crate::copy::{Target, open_below, times_of};
use crate::error::{Error, IoDuring};
use crate::kept::{Known, Stamp};
use crate::select::{Entry, Filter, Pick, walk};
use names::Below;
use rootdir::RootDir;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::collections::HashSet;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Smaller files are copied: it takes no longer.
const MIN_SIZE: i64 = 8 << 10;
/// Most files of one step: who packs a layer remembers each file with several names.
const MAX_FILES: usize = 200_000;

/// What of a picked directory was left for later.
#[derive(Debug)]
pub(crate) struct Later {
    /// Times after it are changed in the layer.
    latest_s: Option<i64>,
    /// Where the contents go, from the root of the layer.
    top: Option<PathBuf>,
    /// That directory was made by the copy.
    is_new: bool,
    /// Directories that the copy has made in those that were there, from the picked one.
    made: HashSet<PathBuf>,
    files: usize,
}

impl Later {
    pub(crate) fn new(latest_s: Option<i64>) -> Later {
        Later { latest_s, top: None, is_new: false, made: HashSet::new(), files: 0 }
    }

    /// The copy begins, into the directory `top` of the mounted `root`.
    pub(crate) fn begin(&mut self, root: &RootDir, top: BorrowedFd<'_>, was_there: bool) {
        self.is_new = !was_there;
        self.top = place_below(root.as_fd(), top);
    }

    /// A directory was made.
    pub(crate) fn made(&mut self, relative: &Path) {
        if !self.is_ours(relative.parent().unwrap_or(Path::new(""))) {
            self.made.insert(relative.to_path_buf());
        }
    }

    /// Whether the copy has made this directory, or one above it.
    fn is_ours(&self, relative: &Path) -> bool {
        self.is_new || !self.made.is_empty() && relative.ancestors().any(|path| self.made.contains(path))
    }

    /// Whether this file is one to leave for later. The same answer whenever it is asked after its directory was made.
    fn is_left(&self, target: &Target<'_>, entry: &Entry<'_>) -> bool {
        let stat = entry.stat;
        let is_late =
            |seconds: i64| stat.st_mtime > seconds || stat.st_mtime == seconds && stat.st_mtime_nsec != 0;
        self.top.is_some()
            && entry.kind() == FileType::RegularFile
            && stat.st_size >= MIN_SIZE
            && target.owner_of(stat) == (stat.st_uid, stat.st_gid)
            && target.mode_of(stat, false) == stat.st_mode & 0o7777
            && !self.latest_s.is_some_and(is_late)
            && self.is_ours(entry.relative.parent().unwrap_or(Path::new("")))
    }

    /// Whether this file is left for later, which is noted.
    pub(crate) fn leave(&mut self, target: &Target<'_>, entry: &Entry<'_>) -> bool {
        let is_left = self.is_left(target, entry);
        self.files += usize::from(is_left);
        is_left
    }

    /// Whether there is anything to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.files == 0
    }

    /// Puts what was left of `pick` into the layer, whose root is that of `target`, on the directories `below`. Blocking.
    pub(crate) fn finish(
        &self,
        target: &Target<'_>,
        pick: &Pick,
        filter: Filter<'_>,
        known: Option<&Known>,
        below: &[PathBuf],
    ) -> Result<(), Error> {
        let place = self.top.as_deref().unwrap_or(Path::new(""));
        let top = open_below(target.root.as_fd(), place)?;
        let mut times: Vec<(PathBuf, Stat)> = Vec::new();
        let mut last: (PathBuf, Option<OwnedFd>) = (PathBuf::new(), None);
        let below = Below::new(below);
        let mut giver = Giver { target, known, given: HashSet::new(), below, way: Way::Reference };
        walk(pick, filter, &mut |entry| {
            if entry.kind().is_dir() && self.is_ours(entry.relative) {
                times.push((entry.relative.to_path_buf(), *entry.stat));
            }
            if !self.is_left(target, entry) {
                return Ok(());
            }
            let parent = entry.relative.parent().unwrap_or(Path::new(""));
            if last.1.is_none() || last.0 != parent {
                last = (parent.to_path_buf(), Some(open_below(top.as_fd(), parent)?));
            }
            giver.give(entry, last.1.as_ref().expect("set above").as_fd())
        })?;
        // Again, because each file made inside changes them.
        if self.is_new {
            times.insert(0, (PathBuf::new(), pick.stat));
        }
        for (path, stat) in times.iter().rev() {
            let dir = open_below(top.as_fd(), path)?;
            rustix::fs::futimens(&dir, &times_of(stat))
                .io_during(|| format!("set times of {}", path.display()))?;
        }
        Ok(())
    }
}

/// How files are given, the best first; the next one where the file system refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Reference,
    Link,
    Copy,
}

struct Giver<'a> {
    target: &'a Target<'a>,
    known: Option<&'a Known>,
    /// Files that the layer has under one name: under a second they would be one file there, which a copy is not.
    given: HashSet<(u64, u64)>,
    below: Below<'a>,
    way: Way,
}

impl Giver<'_> {
    fn give(&mut self, entry: &Entry<'_>, dir: BorrowedFd<'_>) -> Result<(), Error> {
        let doing = || format!("copy {}", entry.relative.display());
        let source = entry.open().io_during(doing)?;
        if self.way == Way::Reference && !can_clone(&source, dir).io_during(doing)? {
            self.way = Way::Link;
        }
        if self.way == Way::Link && self.link(&source, entry, dir).io_during(doing)? {
            return Ok(());
        }
        // By reference where the file system can.
        self.target.put_file(source, entry.stat, dir, entry.name, doing)
    }

    /// Gives the file a second name in `dir`. Whether that could be.
    fn link(&mut self, source: &File, entry: &Entry<'_>, dir: BorrowedFd<'_>) -> std::io::Result<bool> {
        let stat = rustix::fs::fstat(source)?;
        let id = (stat.st_dev, stat.st_ino);
        let is_it =
            id == (entry.stat.st_dev, entry.stat.st_ino) && FileType::from_raw_mode(stat.st_mode).is_file();
        if !is_it || self.given.len() >= MAX_FILES || self.given.contains(&id) || !is_plain(source)? {
            return Ok(false);
        }
        if self.below.may_have(stat.st_dev, stat.st_ino, stat.st_nlink) {
            return Ok(false);
        }
        match rustix::fs::linkat(entry.dir, entry.name, dir, entry.name, AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::XDEV | Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS) => {
                self.way = Way::Copy;
                return Ok(false);
            }
            // As many names as a file can have.
            Err(Errno::MLINK) => return Ok(false),
            Err(e) => return Err(e.into()),
        }
        self.given.insert(id);
        // A name more changes the time of the inode's own change, and nothing else.
        if let Some(known) = self.known {
            known.renew(&Stamp::of(&stat), Stamp::of(&rustix::fs::fstat(source)?));
        }
        Ok(true)
    }
}

/// Whether the file has no attributes but those that a copy gets.
fn is_plain(file: &File) -> std::io::Result<bool> {
    let mut names = [0u8; 4096];
    match rustix::fs::flistxattr(file, &mut names[..]) {
        Ok(length) => {
            Ok(names[..length].split(|b| *b == 0).all(|name| name.is_empty() || crate::hash::is_copied(name)))
        }
        Err(Errno::OPNOTSUPP) => Ok(true),
        Err(Errno::RANGE) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Whether a file of `dir` can have the content of `source` by reference: tried on one without a name.
fn can_clone(source: &File, dir: BorrowedFd<'_>) -> std::io::Result<bool> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, ".", flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(rustix::fs::ioctl_ficlone(&file, source).is_ok()),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// The path of the open directory `dir` from `root`, symlinks resolved.
fn place_below(root: BorrowedFd<'_>, dir: BorrowedFd<'_>) -> Option<PathBuf> {
    let path = |fd: BorrowedFd<'_>| std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok();
    path(dir)?.strip_prefix(path(root)?).ok().map(Path::to_path_buf)
}
