//! What was changed in a writable tree: told by the changes alone where overlay keeps them apart, else by comparing
//! two trees.
//!
//! A directory counts as modified when something below it changed, as Docker shows it; one that is only there because
//! overlay copied it up on the way to nothing is left out. So are the *places*: what an engine makes in every root to
//! mount on, as long as it is new and empty.

use crate::pack::{at, kept, sorted, xattrs};
use crate::{Error, Packed, whiteout};
use rootdir::RootDir;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A tree that was written to, and what it began as.
#[derive(Debug, Clone, Copy)]
pub enum Delta<'a> {
    /// Overlay's upper directory on its lower layers, topmost first. Costs what changed.
    Upper { upper: &'a RootDir, lowers: &'a [RootDir] },
    /// A whole tree, and the whole tree that it began as; none when it began as nothing. Costs what both hold.
    Tree { tree: &'a RootDir, below: Option<&'a RootDir> },
}

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    Modified,
    Added,
    Deleted,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Relative to the root of the tree.
    pub path: PathBuf,
    pub kind: ChangeKind,
}

/// Lists what changed, parents before children, siblings by name.
///
/// `places` (relative paths) are left out while they are new and empty. A file whose owner, mode, size, time and
/// attributes are those it began with counts as unchanged.
///
/// # Errors
///
/// [`Error::Entry`] for what the kernel refused. What vanishes meanwhile is no error.
pub fn changes(delta: &Delta<'_>, places: &[&str]) -> Result<Vec<Change>, Error> {
    Walk::new(delta, places, Purpose::List)?.run()
}

/// Writes what changed as a layer; nothing but the end of an archive where nothing did. The tree should not be in use.
///
/// Of an upper directory every file is written, whatever it looks like: overlay copied it up for a reason.
///
/// # Errors
///
/// As [`crate::diff`].
pub fn write_changes<W: Write>(out: W, delta: &Delta<'_>, places: &[&str]) -> Result<Packed, Error> {
    let changes = Walk::new(delta, places, Purpose::Layer)?.run()?;
    crate::pack::write_layer(out, delta.tree(), &changes)
}

impl Delta<'_> {
    fn tree(&self) -> &RootDir {
        match self {
            Delta::Upper { upper, .. } => upper,
            Delta::Tree { tree, .. } => tree,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    List,
    Layer,
}

struct Walk<'a> {
    tree: &'a RootDir,
    lowers: Vec<&'a RootDir>,
    /// The tree holds changes only, in overlay's form.
    is_upper: bool,
    places: &'a [&'a str],
    purpose: Purpose,
    base: OwnedFd,
    found: Vec<Found>,
}

struct Found {
    path: PathBuf,
    /// None: unchanged so far, waiting for a change below.
    kind: Option<ChangeKind>,
}

/// A directory being walked.
struct Frame {
    path: PathBuf,
    children: std::vec::IntoIter<OsString>,
    /// Which of the lower layers show their content here, topmost first.
    active: Vec<usize>,
    /// Its own entry in `found`; none for the root.
    own: Option<usize>,
}

/// What the lower layers together have at a path.
struct Below {
    stat: Option<Stat>,
    /// Which of them it is from.
    top: Option<usize>,
    /// Which of them show their content in it, if it is a directory.
    active: Vec<usize>,
}

impl<'a> Walk<'a> {
    fn new(delta: &Delta<'a>, places: &'a [&'a str], purpose: Purpose) -> Result<Walk<'a>, Error> {
        let (tree, lowers, is_upper) = match *delta {
            Delta::Upper { upper, lowers } => (upper, lowers.iter().collect(), true),
            Delta::Tree { tree, below } => (tree, below.into_iter().collect(), false),
        };
        let root = Path::new(".");
        let base = tree.open_dir(root).map_err(|source| Error::Root { path: root.into(), source })?;
        Ok(Walk { tree, lowers, is_upper, places, purpose, base, found: Vec::new() })
    }

    fn run(mut self) -> Result<Vec<Change>, Error> {
        let all = (0..self.lowers.len()).collect();
        let mut frames = Vec::new();
        let root = self.enter(PathBuf::new(), all, None, false)?;
        frames.extend(root);
        while let Some(frame) = frames.last_mut() {
            let Some(name) = frame.children.next() else {
                let own = frame.own;
                frames.pop();
                self.leave(own);
                continue;
            };
            let path = frame.path.join(&name);
            let below = self.below(&frame.active, &path)?;
            if let Some(frame) = self.visit(path, below)? {
                frames.push(frame);
            }
        }
        let done = self.found.into_iter();
        Ok(done.filter_map(|f| Some(Change { path: f.path, kind: f.kind? })).collect())
    }

    /// Judges what is at `path`; a frame for a directory whose children are next.
    fn visit(&mut self, path: PathBuf, below: Below) -> Result<Option<Frame>, Error> {
        let opened = match open(&self.base, &path) {
            Ok(opened) => opened,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => None,
            Err(e) => return Err(at("openat2", &path, e)),
        };
        let Some((fd, stat)) = opened else {
            // Only a whole tree is asked for names that it does not have.
            if below.stat.is_some() && !self.is_upper {
                self.found.push(Found { path, kind: Some(ChangeKind::Deleted) });
            }
            return Ok(None);
        };
        if self.is_upper && whiteout::is_overlay_whiteout(&stat) {
            if below.stat.is_some() {
                self.found.push(Found { path, kind: Some(ChangeKind::Deleted) });
            }
            return Ok(None);
        }
        let is_dir = FileType::from_raw_mode(stat.st_mode).is_dir();
        let opaque = self.is_upper && is_dir && is_opaque(&fd, &path)?;
        let mut kind = match &below.stat {
            None => Some(ChangeKind::Added),
            Some(old) if !self.is_same(old, &stat, &fd, &path, &below)? => Some(ChangeKind::Modified),
            Some(_) => None,
        };
        if self.purpose == Purpose::Layer && kind.is_none() && (opaque || (self.is_upper && !is_dir)) {
            kind = Some(ChangeKind::Modified);
        }
        if kind.is_none() && !is_dir {
            return Ok(None);
        }
        if kind == Some(ChangeKind::Added) && !is_dir && stat.st_size == 0 && self.is_place(&path) {
            return Ok(None);
        }
        let own = Some(self.found.len());
        self.found.push(Found { path: path.clone(), kind });
        if !is_dir {
            return Ok(None);
        }
        drop(fd);
        // The mark hides whatever is below, so that a layer with it must hold everything.
        let active = if opaque && self.purpose == Purpose::Layer { Vec::new() } else { below.active };
        self.enter(path, active, own, opaque)
    }

    fn enter(
        &mut self,
        path: PathBuf,
        active: Vec<usize>,
        own: Option<usize>,
        opaque: bool,
    ) -> Result<Option<Frame>, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let here = match open_as(&self.base, &path, flags) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            // A mount below is no change of this tree.
            Err(Errno::XDEV) => {
                self.leave(own);
                return Ok(None);
            }
            Err(e) => return Err(at("openat2", &path, e)),
        };
        let mut names: BTreeSet<OsString> = sorted(here.as_fd(), &path)?.into_iter().collect();
        if opaque && self.purpose == Purpose::List {
            // What the mark hides was deleted, unless it is there again.
            for name in self.names_below(&active, &path)? {
                if !names.contains(&name) && self.below(&active, &path.join(&name))?.stat.is_some() {
                    let path = path.join(&name);
                    self.found.push(Found { path, kind: Some(ChangeKind::Deleted) });
                }
            }
        } else if !self.is_upper {
            names.extend(self.names_below(&active, &path)?);
        }
        let children = names.into_iter().collect::<Vec<_>>().into_iter();
        Ok(Some(Frame { path, children, active, own }))
    }

    /// After the children of a directory: it changed when one of them did.
    fn leave(&mut self, own: Option<usize>) {
        let Some(own) = own else { return };
        let has_changes = self.found.len() > own + 1;
        let found = &mut self.found[own];
        match (found.kind, has_changes) {
            (None, true) => found.kind = Some(ChangeKind::Modified),
            (None, false) => drop(self.found.pop()),
            (Some(ChangeKind::Added), false) if is_one_of(self.places, &found.path) => drop(self.found.pop()),
            _ => {}
        }
    }

    fn is_place(&self, path: &Path) -> bool {
        is_one_of(self.places, path)
    }

    /// What the layers `active` in the directory above have at `path`.
    fn below(&self, active: &[usize], path: &Path) -> Result<Below, Error> {
        let mut below = Below { stat: None, top: None, active: Vec::new() };
        for &index in active {
            let (fd, stat) = match open(self.lowers[index], path) {
                Ok(Some(found)) => found,
                Ok(None) | Err(Errno::NOENT) => continue,
                Err(Errno::NOTDIR | Errno::LOOP) => break,
                Err(e) => return Err(at("openat2", path, e)),
            };
            if self.is_upper && whiteout::is_overlay_whiteout(&stat) {
                break;
            }
            let is_dir = FileType::from_raw_mode(stat.st_mode).is_dir();
            if below.stat.is_none() {
                (below.stat, below.top) = (Some(stat), Some(index));
            }
            if !is_dir {
                break;
            }
            below.active.push(index);
            if self.is_upper && is_opaque(&fd, path)? {
                break;
            }
        }
        Ok(below)
    }

    fn names_below(&self, active: &[usize], path: &Path) -> Result<BTreeSet<OsString>, Error> {
        let mut names = BTreeSet::new();
        for &index in active {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            match open_as(self.lowers[index], path, flags) {
                Ok(fd) => names.extend(sorted(fd.as_fd(), path)?),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(e) => return Err(at("openat2", path, e)),
            }
        }
        Ok(names)
    }

    /// Whether `new` is what was there before. Sizes and times of directories say nothing: entries change them.
    fn is_same(
        &self,
        old: &Stat,
        new: &Stat,
        fd: &OwnedFd,
        path: &Path,
        below: &Below,
    ) -> Result<bool, Error> {
        let key = |s: &Stat| (s.st_mode, s.st_uid, s.st_gid, s.st_rdev);
        let times = |s: &Stat| (s.st_size, s.st_mtime, s.st_mtime_nsec);
        let is_dir = FileType::from_raw_mode(new.st_mode).is_dir();
        if key(old) != key(new) || (!is_dir && times(old) != times(new)) {
            return Ok(false);
        }
        if !is_dir && !FileType::from_raw_mode(new.st_mode).is_file() {
            return Ok(true);
        }
        // Attributes last: they cost calls of their own.
        let Some(lower) = below.top else { return Ok(true) };
        let Ok(Some((old_fd, _))) = open(self.lowers[lower], path) else { return Ok(true) };
        Ok(kept(xattrs(fd.as_fd(), path)?) == kept(xattrs(old_fd.as_fd(), path)?))
    }
}

impl std::fmt::Debug for Walk<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Walk").field("tree", self.tree).finish_non_exhaustive()
    }
}

fn is_one_of(places: &[&str], path: &Path) -> bool {
    places.iter().any(|place| Path::new(place) == path)
}

/// Opens what is at `path` (`O_PATH`), following nothing and entering no mount. `None` for the far side of a mount.
fn open(base: impl AsFd, path: &Path) -> Result<Option<(OwnedFd, Stat)>, Errno> {
    match open_as(base, path, OFlags::PATH | OFlags::NOFOLLOW) {
        Ok(fd) => {
            let stat = rustix::fs::fstat(&fd)?;
            Ok(Some((fd, stat)))
        }
        Err(Errno::XDEV) => Ok(None),
        Err(e) => Err(e),
    }
}

pub(crate) fn open_as(base: impl AsFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(base, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// Whether overlay hides what lower layers have in a directory.
pub(crate) fn is_opaque(fd: &OwnedFd, path: &Path) -> Result<bool, Error> {
    let by_number = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let mut value = [0u8; 4];
    match rustix::fs::getxattr(by_number, "trusted.overlay.opaque", &mut value[..]) {
        Ok(n) => Ok(value[..n] == *b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(e) => Err(at("getxattr", path, e)),
    }
}

/// The last name of a path and the directory above it.
pub(crate) fn split(path: &Path) -> (&Path, &OsStr) {
    (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default())
}

pub(crate) fn stat_in(dir: &OwnedFd, leaf: &OsStr) -> Result<Stat, Errno> {
    rustix::fs::statat(dir, leaf, AtFlags::SYMLINK_NOFOLLOW)
}
