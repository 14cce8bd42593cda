//! The directories above entries, held open: entries of one directory follow one another in an archive, and opening the
//! way to it for each would cost more than making the file.

use super::metadata::os;
use super::{Options, Place, at, io_at};
use crate::Error;
use rootdir::RootDir;
use rustix::fs::{FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Directories held open. Deeper ones are opened as needed; few trees are deeper.
const MAX_OPEN: usize = 32;

/// What a parent gets that neither the archive nor a lower layer describes.
const DEFAULT_MODE: u32 = 0o755;

/// An open directory.
#[derive(Debug)]
pub(super) struct Level {
    /// How much of [`Parents::path`] leads here.
    end: usize,
    fd: OwnedFd,
    /// Whether new entries take its group (setgid).
    inherits_group: bool,
}

impl Level {
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn inherits_group(&self) -> bool {
        self.inherits_group
    }
}

/// The way to the current directory.
#[derive(Debug)]
pub(super) struct Parents<'a> {
    root: &'a RootDir,
    options: &'a Options,
    /// The textual path that `levels` are prefixes of.
    path: Vec<u8>,
    /// From the root (which is always there once used) down. Levels may skip parts of the path.
    levels: Vec<Level>,
}

impl<'a> Parents<'a> {
    pub(super) fn new(root: &'a RootDir, options: &'a Options) -> Parents<'a> {
        Parents { root, options, path: Vec::new(), levels: Vec::new() }
    }

    /// The directory `path` (cleaned, relative to the root), made if it is missing.
    pub(super) fn get(&mut self, path: &[u8]) -> Result<&Level, Error> {
        self.keep_common(path);
        if self.levels.is_empty() {
            let fd = self.root.open_dir(Path::new(".")).map_err(|source| fail(path, source))?;
            self.push(0, fd, path)?;
        }
        let mut end = self.levels.last().map_or(0, |level| level.end);
        while end < path.len() {
            let start = if end == 0 { 0 } else { end + 1 };
            let next =
                path[start..].iter().position(|&byte| byte == b'/').map_or(path.len(), |at| start + at);
            let fd = self.open_child(&path[..next], &path[start..next])?;
            self.push(next, fd, path)?;
            end = next;
        }
        Ok(self.levels.last().expect("the root's level was pushed above"))
    }

    /// Takes the directory `path`, just made or opened in the current one, as the next current one.
    pub(super) fn enter(&mut self, path: &[u8], fd: OwnedFd, mode: u32) {
        self.add(Level { end: path.len(), fd, inherits_group: mode & 0o2000 != 0 }, path);
    }

    /// Closes everything: what the paths lead to may have changed.
    pub(super) fn clear(&mut self) {
        self.levels.clear();
        self.path.clear();
    }

    /// Where `leaf` in `parent` is, and where each directory above it is.
    pub(super) fn places(&mut self, parent: &[u8], leaf: &[u8]) -> Result<Vec<Place>, Error> {
        let mut places = Vec::new();
        let (mut above, mut last) = (parent, leaf);
        loop {
            let path = Path::new(os(above));
            let fd = self.root.open_dir(path).map_err(|source| fail(above, source))?;
            let stat = rustix::fs::fstat(&fd).map_err(|e| at("fstat", path, e))?;
            places.push((stat.st_dev, stat.st_ino, last.to_vec()));
            if above.is_empty() {
                return Ok(places);
            }
            match above.iter().rposition(|&byte| byte == b'/') {
                Some(slash) => (above, last) = (&above[..slash], &above[slash + 1..]),
                None => (above, last) = (&[], above),
            }
        }
    }

    /// Drops the levels that are not on the way to `path`.
    fn keep_common(&mut self, path: &[u8]) {
        while let Some(level) = self.levels.last() {
            let end = level.end;
            let is_on_the_way = path.get(..end).is_some_and(|prefix| *prefix == self.path[..end])
                && (end == 0 || matches!(path.get(end), None | Some(b'/')));
            if is_on_the_way {
                break;
            }
            self.levels.pop();
        }
    }

    fn push(&mut self, end: usize, fd: OwnedFd, path: &[u8]) -> Result<(), Error> {
        let stat = rustix::fs::fstat(&fd).map_err(|e| at("fstat", Path::new(os(path)), e))?;
        self.add(Level { end, fd, inherits_group: stat.st_mode & 0o2000 != 0 }, path);
        Ok(())
    }

    /// Adds a level on the way to `path`, which the levels so far are on the way to as well.
    fn add(&mut self, level: Level, path: &[u8]) {
        if self.levels.len() >= MAX_OPEN {
            self.levels.pop();
        }
        self.path.clear();
        self.path.extend_from_slice(path);
        self.levels.push(level);
    }

    /// Opens the directory `name` of the last level, which `path` leads to from the root.
    fn open_child(&self, path: &[u8], name: &[u8]) -> Result<OwnedFd, Error> {
        let here = self.levels.last().expect("the root's level comes first");
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(&here.fd, name, flags, Mode::empty());
        let whole = Path::new(os(path));
        match open() {
            // Made right here: from the root, a long path of missing directories would be walked again for each.
            Err(Errno::NOENT) => {
                self.make(here.fd(), os(name), whole).map_err(|source| io_at("mkdirat", whole, source))?;
                open().map_err(|e| at("openat", whole, e))
            }
            // A symlink, to be followed from the root.
            Err(Errno::NOTDIR | Errno::LOOP) => self
                .root
                .ensure_dir(whole, |dir, name, path| self.make(dir, name, path))
                .map_err(|source| fail(path, source)),
            other => other.map_err(|e| at("openat", whole, e)),
        }
    }

    /// Makes a directory that the archive does not list.
    fn make(&self, dir: BorrowedFd<'_>, name: &OsStr, path: &Path) -> std::io::Result<()> {
        for lower in &self.options.lowers {
            let Ok(stat) = lower.metadata(path) else { continue };
            if !FileType::from_raw_mode(stat.st_mode).is_dir() {
                // A file, or a whiteout: what lies deeper does not count.
                break;
            }
            rootdir::make_dir(dir, name, Mode::RWXU)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(dir, name, flags, Mode::empty())?;
            if self.options.keep_owner {
                let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
                rustix::fs::fchown(&fd, Some(uid), Some(gid))?;
            }
            rustix::fs::fchmod(&fd, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
            return Ok(());
        }
        rootdir::make_dir(dir, name, Mode::from_raw_mode(DEFAULT_MODE))
    }
}

fn fail(path: &[u8], source: rootdir::Error) -> Error {
    Error::Root { path: os(path).into(), source }
}
