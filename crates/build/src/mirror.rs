//! Making a directory like one of a client's: it tells all files first, and sends those that are asked for.
//!
//! ```text
//! client                          here
//!   each file, in order             compared with what is there: is its content wanted?
//!   that these were all             what was not told is removed
//!   the content of what is wanted   written under another name, then renamed
//! ```
//!
//! A file is as it was when kind, mode, size and time of change are. What a client tells is hostile: names that are no
//! plain relative paths, out of order, or below something that is no directory end the transfer; no symlink is followed.

use crate::error::Error;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use rustix::io::Errno;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

/// Most files of one directory tree.
const MAX_FILES: u32 = 2_000_000;
/// Longest path.
const MAX_PATH: usize = 4096;
/// Under which name a file is written; in the root, and told by no client because it is refused.
const PARTIAL: &str = ".brig-partial-";

/// A file as a client tells of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileStat {
    /// From the root of what is sent.
    pub path: String,
    /// Kind and permissions, as `st_mode` has them.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: i64,
    /// Nanoseconds since 1970.
    pub modified_ns: i64,
    /// Target of a symlink, or the first name of a file with several.
    pub link: String,
    pub attributes: BTreeMap<String, Vec<u8>>,
}

/// What a transfer came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Received {
    pub files: u32,
    /// Files that were sent, and their bytes.
    pub sent_files: u32,
    pub sent_bytes: u64,
    /// Something is not as it was before.
    pub is_changed: bool,
}

/// A file that was asked for.
#[derive(Debug)]
struct Missing {
    stat: FileStat,
    file: Option<std::fs::File>,
    written: u64,
}

/// A directory that is made like another one.
#[derive(Debug)]
pub struct Mirror {
    root: OwnedFd,
    /// The directories from the root to what was told last: name, and who is told in it.
    stack: Vec<Level>,
    next_id: u32,
    missing: HashMap<u32, Missing>,
    /// Further names of files that are still missing, made at the end.
    links: Vec<(String, String)>,
    /// Regular files that were told: only these can be linked to.
    regular: HashSet<String>,
    /// Inodes with several names that were found as they were told.
    seen: HashSet<u64>,
    /// Times of directories, set when nothing in them changes any more.
    directories: Vec<(String, i64)>,
    /// The times of all directories are what they are told to be, as far as nothing changes in them.
    has_times: bool,
    has_all: bool,
    is_finished: bool,
    received: Received,
}

#[derive(Debug)]
struct Level {
    path: String,
    fd: OwnedFd,
    /// What was told in it, which is in order.
    names: Vec<String>,
}

impl Level {
    fn last(&self) -> &str {
        self.names.last().map_or("", String::as_str)
    }
}

fn failed(what: &str, path: &str, e: impl Into<std::io::Error>) -> Error {
    let e: std::io::Error = e.into();
    let doing = format!("{what} {path:?} of a build context");
    Error::Failed { doing, kind: errors::io_kind(&e), source: Box::new(e) }
}

fn hostile(path: &str, why: &str) -> Error {
    Error::invalid(format!("the client told of a file {path:?}, {why}"))
}

impl Mirror {
    /// Of the directory that is open as `root`.
    pub fn new(root: OwnedFd) -> Mirror {
        Mirror {
            root,
            stack: Vec::new(),
            next_id: 0,
            missing: HashMap::new(),
            links: Vec::new(),
            regular: HashSet::new(),
            seen: HashSet::new(),
            directories: Vec::new(),
            has_times: true,
            has_all: false,
            is_finished: false,
            received: Received::default(),
        }
    }

    fn open_level(&self, path: &str) -> Result<Level, Error> {
        let fd = if path.is_empty() {
            self.root.try_clone().map_err(|e| failed("open", path, e))?
        } else {
            self.open(path, OFlags::RDONLY | OFlags::DIRECTORY)?
        };
        Ok(Level { path: path.to_string(), fd, names: Vec::new() })
    }

    /// Opens a path below the root without following anything.
    fn open(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Error> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve)
            .map_err(|e| failed("open", path, e))
    }

    /// A file is announced. Whether its content has to be sent, under the number of files that were announced before it.
    pub fn told(&mut self, stat: FileStat) -> Result<bool, Error> {
        if self.has_all {
            return Err(hostile(&stat.path, "after it had told all"));
        }
        let id = self.next_id;
        self.next_id += 1;
        if id >= MAX_FILES {
            return Err(Error::invalid(format!("a build context has more than {MAX_FILES} files")));
        }
        let path = stat.path.clone();
        if path.len() > MAX_PATH || path.split('/').any(|p| matches!(p, "" | "." | "..") || p.contains('\0'))
        {
            return Err(hostile(&path, "which is no plain relative path"));
        }
        if path.starts_with(PARTIAL) {
            return Err(hostile(&path, "a name that is used for what is not complete"));
        }
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
        self.enter(parent, &path)?;
        let level = self.stack.last_mut().expect("the root at least");
        if level.last() >= name {
            return Err(hostile(&path, "out of order"));
        }
        level.names.push(name.to_string());
        self.received.files += 1;
        match FileType::from_raw_mode(stat.mode) {
            FileType::Directory => {
                self.directory(name, &stat)?;
                // One in which nothing is told is complete too, and loses what it had.
                self.enter(&path, &path)?;
            }
            FileType::Symlink => self.symlink(name, &stat)?,
            FileType::Fifo => self.pipe(name, &stat)?,
            FileType::RegularFile if !stat.link.is_empty() => {
                if !self.regular.contains(&stat.link) {
                    return Err(hostile(&path, "another name of one that it has not told of"));
                }
                self.links.push((stat.link, path));
            }
            FileType::RegularFile => return self.file(id, name, stat),
            _ => return Err(hostile(&path, "a device or socket, which contexts may not have")),
        }
        Ok(false)
    }

    /// Goes to the directory `parent`: what is left on the way is complete.
    fn enter(&mut self, parent: &str, path: &str) -> Result<(), Error> {
        if self.stack.is_empty() {
            let level = self.open_level("")?;
            self.stack.push(level);
        }
        loop {
            let top = &self.stack.last().expect("the root is never left").path;
            if top == parent {
                return Ok(());
            }
            let top = top.clone();
            let is_above = top.is_empty() || parent.strip_prefix(&top).is_some_and(|r| r.starts_with('/'));
            if !is_above {
                self.leave()?;
                continue;
            }
            // One step down; it must be what was told last up there.
            let rest = if top.is_empty() { parent } else { &parent[top.len() + 1..] };
            let next = rest.split('/').next().unwrap_or(rest);
            let level = self.stack.last().expect("the root is never left");
            if level.last() != next {
                return Err(hostile(path, "before its directory"));
            }
            let below = if top.is_empty() { next.to_string() } else { format!("{top}/{next}") };
            let level = self.open_level(&below)?;
            self.stack.push(level);
        }
    }

    /// The directory on top is complete: what was not told of it goes.
    fn leave(&mut self) -> Result<(), Error> {
        let level = self.stack.pop().expect("called with one on top");
        let found = rootdir_list(&level.fd).map_err(|e| failed("list", &level.path, e))?;
        for name in found {
            let place =
                name.to_str().map(|name| level.names.binary_search_by(|told| told.as_str().cmp(name)));
            let is_told = place.is_some_and(|place| place.is_ok());
            let is_partial = name.to_str().is_some_and(|n| n.starts_with(PARTIAL) && level.path.is_empty());
            if !is_told && !is_partial {
                self.received.is_changed = true;
                remove_all(&level.fd, &name).map_err(|e| failed("remove", &level.path, e))?;
            }
        }
        Ok(())
    }

    fn found(&self, name: &str) -> Result<Option<rustix::fs::Stat>, Error> {
        let level = self.stack.last().expect("the root at least");
        match rustix::fs::statat(&level.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(failed("look at", name, e)),
        }
    }

    /// Makes room for something of another kind.
    fn clear(&mut self, name: &str) -> Result<(), Error> {
        self.received.is_changed = true;
        let level = self.stack.last().expect("the root at least");
        remove_all(&level.fd, std::ffi::OsStr::new(name)).map_err(|e| failed("remove", name, e))
    }

    fn directory(&mut self, name: &str, stat: &FileStat) -> Result<(), Error> {
        let found = self.found(name)?;
        let is_there = found.is_some_and(|f| FileType::from_raw_mode(f.st_mode).is_dir());
        if found.is_some() && !is_there {
            self.clear(name)?;
        }
        self.has_times &= found.is_some_and(|found| nanoseconds(&found) == Some(stat.modified_ns));
        let is_same = is_there && found.is_some_and(|found| is_owned(&found, stat));
        if !is_same {
            self.received.is_changed = true;
            let level = self.stack.last().expect("the root at least");
            if !is_there {
                rustix::fs::mkdirat(&level.fd, name, Mode::RWXU)
                    .map_err(|e| failed("create", &stat.path, e))?;
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(&level.fd, name, flags, Mode::empty())
                .map_err(|e| failed("open", &stat.path, e))?;
            settle(fd.as_fd(), stat).map_err(|e| failed("set up", &stat.path, e))?;
        }
        self.directories.push((stat.path.clone(), stat.modified_ns));
        Ok(())
    }

    fn symlink(&mut self, name: &str, stat: &FileStat) -> Result<(), Error> {
        if stat.link.is_empty() || stat.link.len() > MAX_PATH || stat.link.contains('\0') {
            return Err(hostile(&stat.path, "a symlink that leads to no path"));
        }
        let level = self.stack.last().expect("the root at least");
        if let Some(found) = self.found(name)? {
            let is_link = FileType::from_raw_mode(found.st_mode).is_symlink();
            let same = is_link
                && rustix::fs::readlinkat(&level.fd, name, Vec::new())
                    .is_ok_and(|text| text.to_bytes() == stat.link.as_bytes());
            if same {
                return Ok(());
            }
            self.clear(name)?;
        }
        self.received.is_changed = true;
        let level = self.stack.last().expect("the root at least");
        rustix::fs::symlinkat(stat.link.as_str(), &level.fd, name)
            .map_err(|e| failed("create", &stat.path, e))?;
        let times = times(stat.modified_ns);
        rustix::fs::utimensat(&level.fd, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| failed("set the time of", &stat.path, e))
    }

    fn pipe(&mut self, name: &str, stat: &FileStat) -> Result<(), Error> {
        if self.found(name)?.is_some() {
            self.clear(name)?;
        }
        self.received.is_changed = true;
        let level = self.stack.last().expect("the root at least");
        rustix::fs::mknodat(&level.fd, name, FileType::Fifo, permissions(stat.mode), 0)
            .map_err(|e| failed("create", &stat.path, e))
    }

    fn file(&mut self, id: u32, name: &str, stat: FileStat) -> Result<bool, Error> {
        self.regular.insert(stat.path.clone());
        if let Some(found) = self.found(name)? {
            let is_same = FileType::from_raw_mode(found.st_mode).is_file()
                && found.st_size == stat.size
                && is_owned(&found, &stat)
                && nanoseconds(&found) == Some(stat.modified_ns)
                // Of several names in the context only the first is what it was; other names are those of layers.
                && (found.st_nlink == 1 || self.seen.insert(found.st_ino));
            if is_same {
                return Ok(false);
            }
        }
        self.received.is_changed = true;
        self.missing.insert(id, Missing { stat, file: None, written: 0 });
        Ok(true)
    }

    /// All files were announced. Whether nothing is missing.
    pub fn told_all(&mut self) -> Result<bool, Error> {
        if std::mem::replace(&mut self.has_all, true) {
            return Err(Error::invalid("the client told twice that it had told all"));
        }
        self.enter("", "")?;
        self.leave()?;
        self.finish_if_complete()
    }

    /// A piece of a file's content; an empty one is its end. Whether nothing is missing any more.
    pub fn data(&mut self, id: u32, data: &[u8]) -> Result<bool, Error> {
        let Some(missing) = self.missing.get_mut(&id) else {
            return Err(Error::invalid(format!("the client sent file {id}, which nobody asked for")));
        };
        let partial = format!("{PARTIAL}{id}");
        let path = missing.stat.path.clone();
        if missing.file.is_none() {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(&self.root, partial.as_str(), flags, Mode::RUSR | Mode::WUSR)
                .map_err(|e| failed("create", &path, e))?;
            missing.file = Some(fd.into());
        }
        let file = missing.file.as_mut().expect("opened above");
        if !data.is_empty() {
            missing.written += data.len() as u64;
            self.received.sent_bytes += data.len() as u64;
            file.write_all(data).map_err(|e| failed("write", &path, e))?;
            return Ok(false);
        }
        let mut missing = self.missing.remove(&id).expect("looked at above");
        let file = missing.file.take().expect("opened above");
        // A file that grew or shrank while it was sent gets another time, so that it is asked for again.
        if u64::try_from(missing.stat.size) != Ok(missing.written) {
            missing.stat.modified_ns = 0;
        }
        settle(file.as_fd(), &missing.stat).map_err(|e| failed("set up", &path, e))?;
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let parent = match parent {
            "" => self.root.try_clone().map_err(|e| failed("open", &path, e))?,
            parent => self.open(parent, OFlags::PATH | OFlags::DIRECTORY)?,
        };
        let rename = || rustix::fs::renameat(&self.root, partial.as_str(), &parent, name);
        match rename() {
            Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => {
                remove_all(&parent, std::ffi::OsStr::new(name)).map_err(|e| failed("remove", &path, e))?;
                rename().map_err(|e| failed("rename", &path, e))?;
            }
            done => done.map_err(|e| failed("rename", &path, e))?,
        }
        self.received.sent_files += 1;
        self.finish_if_complete()
    }

    /// Links names and sets times, once nothing is missing. Whether that is so.
    fn finish_if_complete(&mut self) -> Result<bool, Error> {
        if !self.has_all || !self.missing.is_empty() || self.is_finished {
            return Ok(self.is_finished);
        }
        self.received.is_changed |= !self.links.is_empty();
        for (first, path) in std::mem::take(&mut self.links) {
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
            let parent = match parent {
                "" => self.root.try_clone().map_err(|e| failed("open", &path, e))?,
                parent => self.open(parent, OFlags::PATH | OFlags::DIRECTORY)?,
            };
            remove_all(&parent, std::ffi::OsStr::new(name)).map_err(|e| failed("remove", &path, e))?;
            let (above, first_name) = first.rsplit_once('/').unwrap_or(("", &first));
            let above = match above {
                "" => self.root.try_clone().map_err(|e| failed("open", &first, e))?,
                above => self.open(above, OFlags::PATH | OFlags::DIRECTORY)?,
            };
            rustix::fs::linkat(&above, first_name, &parent, name, AtFlags::empty())
                .map_err(|e| failed("link", &path, e))?;
        }
        let directories = std::mem::take(&mut self.directories);
        let have_changed = self.received.is_changed || !self.has_times;
        for (path, modified_ns) in directories.into_iter().rev().filter(|_| have_changed) {
            let fd = self.open(&path, OFlags::RDONLY | OFlags::DIRECTORY)?;
            rustix::fs::futimens(&fd, &times(modified_ns))
                .map_err(|e| failed("set the time of", &path, e))?;
        }
        self.is_finished = true;
        Ok(true)
    }

    /// What it came to so far.
    pub fn received(&self) -> Received {
        self.received
    }

    /// Whether everything is as it was told.
    pub fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// Removes what is not complete.
    pub fn clean(&self) {
        for name in rootdir_list(&self.root).unwrap_or_default() {
            if name.to_str().is_some_and(|n| n.starts_with(PARTIAL))
                && let Err(error) = rustix::fs::unlinkat(&self.root, &name, AtFlags::empty())
            {
                tracing::debug!(%error, ?name, "half a file of a build context stays");
            }
        }
    }
}

/// Names in a directory. Opened anew: duplicates of a descriptor share how far it was read.
fn rootdir_list(fd: &OwnedFd) -> std::io::Result<Vec<std::ffi::OsString>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(fd, ".", flags, Mode::empty())?;
    rootdir::list_at(fd.as_fd())
}

fn remove_all(parent: &OwnedFd, name: &std::ffi::OsStr) -> std::io::Result<()> {
    match rootdir::remove_all_at(parent.as_fd(), name) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn permissions(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o7777)
}

/// Whether owner and permissions are those that were told.
fn is_owned(found: &rustix::fs::Stat, stat: &FileStat) -> bool {
    permissions(stat.mode) == Mode::from_raw_mode(found.st_mode & 0o7777)
        && (found.st_uid, found.st_gid) == (stat.uid, stat.gid)
        && stat.attributes.is_empty()
}

fn nanoseconds(stat: &rustix::fs::Stat) -> Option<i64> {
    let nanos = i64::try_from(stat.st_mtime_nsec).ok()?;
    stat.st_mtime.checked_mul(1_000_000_000)?.checked_add(nanos)
}

fn times(modified_ns: i64) -> Timestamps {
    let time = Timespec {
        tv_sec: modified_ns.div_euclid(1_000_000_000),
        tv_nsec: modified_ns.rem_euclid(1_000_000_000),
    };
    Timestamps { last_access: time, last_modification: time }
}

/// Owner, attributes, mode and time, in the order in which one does not undo the other.
fn settle(fd: std::os::fd::BorrowedFd<'_>, stat: &FileStat) -> std::io::Result<()> {
    let owner = |id| Some((rustix::fs::Uid::from_raw(stat.uid), rustix::fs::Gid::from_raw(id)));
    let (uid, gid) = owner(stat.gid).unzip();
    rustix::fs::fchown(fd, uid, gid)?;
    rustix::fs::fchmod(fd, permissions(stat.mode))?;
    for (name, value) in told_attributes(&stat.attributes) {
        match rustix::fs::fsetxattr(fd, name, value, rustix::fs::XattrFlags::empty()) {
            // As for copies: what the file system cannot keep is not kept.
            Err(Errno::OPNOTSUPP | Errno::PERM) | Ok(()) => {}
            Err(e) => return Err(e.into()),
        }
    }
    rustix::fs::futimens(fd, &times(stat.modified_ns))?;
    Ok(())
}

/// The attributes that are copied at all: file capabilities and the user's own.
fn told_attributes(all: &BTreeMap<String, Vec<u8>>) -> impl Iterator<Item = (&str, &[u8])> {
    all.iter()
        .map(|(name, value)| (name.as_str(), value.as_slice()))
        .filter(|(name, _)| *name == "security.capability" || name.starts_with("user."))
}

#[cfg(test)]
mod tests;
