//! Walking trees that someone else made: measuring and deleting them.
//!
//! A container can nest directories deeper than any path, any stack and any number of descriptors allow. So the walk
//! holds one descriptor, goes down by name and up by `..`, and compares where it arrives with where it came from: a
//! tree that is rearranged meanwhile ends the walk, it never leads out. Symlinks and mount points are not entered.

use crate::Error;
use crate::snapshotter::Usage;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, IFlags, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::collections::HashSet;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use sys::project_quota;

/// What is done with a tree on the way.
trait Visitor {
    /// Sees an entry that is not a directory.
    fn file(&mut self, dir: &OwnedFd, name: &CString) -> Result<(), Errno>;
    /// Sees a directory before its entries.
    fn enter(&mut self, dir: &OwnedFd, stat: &Stat) -> Result<(), Errno>;
    /// Sees a directory after its entries; `parent` is open again.
    fn leave(&mut self, parent: &OwnedFd, name: &CString) -> Result<(), Errno>;
}

/// Measures the tree in the directory open as `root`, which may be changing.
pub(crate) fn measure(root: OwnedFd) -> Result<Usage, Errno> {
    let mut measuring = Measuring { usage: Usage::default(), linked: HashSet::new() };
    walk(root, &mut measuring)?;
    Ok(measuring.usage)
}

/// Measures the tree at `path`, however deep it is, as far as it is not mounted there.
///
/// # Errors
///
/// [`Error::File`].
pub fn measure_tree(path: &Path) -> Result<Usage, Error> {
    let failed = |source: Errno| Error::File { what: "measure", path: path.into(), source: source.into() };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).and_then(measure).map_err(failed)
}

/// Gives the directory open as `root` and what is in it to `project`, as [`project_quota`] does. What is neither file nor
/// directory takes no blocks and stays whose it is.
pub(crate) fn assign(root: OwnedFd, project: u32) -> Result<(), Errno> {
    let mut assigning = Assigning { project };
    assigning.directory(&root)?;
    walk(root, &mut assigning)
}

/// Deletes the tree at `path`, whose parent the caller trusts, however deep it is. A missing one is no error.
pub fn remove_tree(path: &Path) -> Result<(), Error> {
    let failed = |source: Errno| Error::File { what: "delete", path: path.into(), source: source.into() };
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(failed(Errno::INVAL));
    };
    let name = CString::new(name.as_bytes()).map_err(|_| failed(Errno::INVAL))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::open(parent, flags, Mode::empty()) {
        Ok(parent) => remove(&parent, &name).map_err(failed),
        Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(failed(e)),
    }
}

/// Deletes the directory `name` in `parent` and all that is in it. A missing one is no error.
pub(crate) fn remove(parent: &OwnedFd, name: &CString) -> Result<(), Errno> {
    let root = match open_dir(parent, name) {
        Ok(root) => root,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => return Removing.file(parent, name),
        Err(e) => return Err(e),
    };
    walk(root, &mut Removing)?;
    Removing.leave(parent, name)
}

/// A directory on the way from the root to where the walk is.
struct Level {
    name: CString,
    id: (u64, u64),
    /// Directories in it that are still to be visited.
    pending: Vec<CString>,
}

fn walk(root: OwnedFd, visitor: &mut dyn Visitor) -> Result<(), Errno> {
    let stat = rustix::fs::fstat(&root)?;
    let mut current = root;
    let pending = visit_entries(&current, visitor)?;
    let mut levels = vec![Level { name: CString::default(), id: (stat.st_dev, stat.st_ino), pending }];
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.pending.pop() {
            let child = match open_dir(&current, &name) {
                Ok(child) => child,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(e) => return Err(e),
            };
            let stat = rustix::fs::fstat(&child)?;
            visitor.enter(&child, &stat)?;
            let pending = visit_entries(&child, visitor)?;
            levels.push(Level { name, id: (stat.st_dev, stat.st_ino), pending });
            current = child;
            continue;
        }
        let done = levels.pop().expect("the loop saw a last level");
        let Some(above) = levels.last() else { break };
        let parent = open_dir(&current, &CString::from(c".."))?;
        let stat = rustix::fs::fstat(&parent)?;
        if (stat.st_dev, stat.st_ino) != above.id {
            return Err(Errno::STALE);
        }
        visitor.leave(&parent, &done.name)?;
        current = parent;
    }
    Ok(())
}

/// Shows the visitor every entry that is not a directory, and returns the directories.
fn visit_entries(dir: &OwnedFd, visitor: &mut dyn Visitor) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push((name.to_owned(), entry.file_type()));
        }
    }
    let mut directories = Vec::new();
    for (name, file_type) in names {
        let is_dir = match file_type {
            FileType::Directory => true,
            FileType::Unknown => match rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode) == FileType::Directory,
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(e),
            },
            _ => false,
        };
        if is_dir {
            directories.push(name);
        } else {
            visitor.file(dir, &name)?;
        }
    }
    Ok(directories)
}

/// Fails with `EXDEV` at a mount point, also at one of the same file system. A subvolume of Btrfs, which anybody may make in
/// his directories, has a device number of its own and is a directory like any other.
fn open_dir(parent: &OwnedFd, name: &CString) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(parent, name, flags, Mode::empty(), ResolveFlags::NO_XDEV)
}

struct Measuring {
    usage: Usage,
    linked: HashSet<(u64, u64)>,
}

impl Measuring {
    fn add_blocks(&mut self, stat: &Stat) {
        self.usage.inodes += 1;
        self.usage.disk_bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
    }
}

impl Visitor for Measuring {
    fn file(&mut self, dir: &OwnedFd, name: &CString) -> Result<(), Errno> {
        let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(()),
            Err(e) => return Err(e),
        };
        if stat.st_nlink > 1 && !self.linked.insert((stat.st_dev, stat.st_ino)) {
            return Ok(());
        }
        self.add_blocks(&stat);
        self.usage.size_bytes += u64::try_from(stat.st_size).unwrap_or(0);
        Ok(())
    }

    fn enter(&mut self, _: &OwnedFd, stat: &Stat) -> Result<(), Errno> {
        self.add_blocks(stat);
        Ok(())
    }

    fn leave(&mut self, _: &OwnedFd, _: &CString) -> Result<(), Errno> {
        Ok(())
    }
}

struct Assigning {
    project: u32,
}

impl Assigning {
    fn directory(&self, dir: &OwnedFd) -> Result<(), Errno> {
        project_quota::assign(dir.as_fd(), self.project).map_err(errno)
    }
}

impl Visitor for Assigning {
    fn file(&mut self, dir: &OwnedFd, name: &CString) -> Result<(), Errno> {
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(dir, name, flags, Mode::empty())?;
        project_quota::assign_file(file.as_fd(), self.project).map_err(errno)
    }

    fn enter(&mut self, dir: &OwnedFd, _: &Stat) -> Result<(), Errno> {
        self.directory(dir)
    }

    fn leave(&mut self, _: &OwnedFd, _: &CString) -> Result<(), Errno> {
        Ok(())
    }
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

struct Removing;

impl Visitor for Removing {
    fn file(&mut self, dir: &OwnedFd, name: &CString) -> Result<(), Errno> {
        unlink(dir, name, AtFlags::empty())
    }

    fn enter(&mut self, _: &OwnedFd, _: &Stat) -> Result<(), Errno> {
        Ok(())
    }

    fn leave(&mut self, parent: &OwnedFd, name: &CString) -> Result<(), Errno> {
        unlink(parent, name, AtFlags::REMOVEDIR)
    }
}

/// Unlinks; where a file or its directory was made immutable or append-only (`chattr`), takes that back first.
fn unlink(dir: &OwnedFd, name: &CString, flags: AtFlags) -> Result<(), Errno> {
    let unlinked = match rustix::fs::unlinkat(dir, name, flags) {
        Err(Errno::PERM) => {
            clear_flags(dir);
            let open = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let is_plain = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| {
                matches!(FileType::from_raw_mode(stat.st_mode), FileType::RegularFile | FileType::Directory)
            });
            if is_plain && let Ok(fd) = rustix::fs::openat(dir, name, open, Mode::empty()) {
                clear_flags(&fd);
            }
            rustix::fs::unlinkat(dir, name, flags)
        }
        other => other,
    };
    match unlinked {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Fails silently: the unlink that follows says what is wrong.
fn clear_flags(fd: &impl AsFd) {
    if let Ok(flags) = rustix::fs::ioctl_getflags(fd) {
        let cleared = flags - (IFlags::IMMUTABLE | IFlags::APPEND);
        if cleared != flags {
            rustix::fs::ioctl_setflags(fd, cleared).unwrap_or_default();
        }
    }
}
