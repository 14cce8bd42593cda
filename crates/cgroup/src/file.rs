//! Reading and writing the small files of a cgroup directory, relative to its descriptor.

use crate::Error;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::os::fd::{BorrowedFd, OwnedFd};
use sys::spent::spend;

/// The most that one control file may hold; `cgroup.procs` of a large container is the longest.
const MAX_FILE: usize = 16 << 20;

/// Nothing in a cgroup hierarchy is a symlink or a mount that we made.
pub(crate) const RESOLVE: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_XDEV);

pub(crate) fn open_directory(parent: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat2(parent, path, flags, Mode::empty(), RESOLVE)
}

/// A directory by its path on the host; below the mount point no link can be in the way.
pub(crate) fn open_path(path: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

pub(crate) fn open(directory: BorrowedFd<'_>, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(directory, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

pub(crate) fn read_errno(directory: BorrowedFd<'_>, name: &str) -> Result<String, Errno> {
    read_all(open(directory, name, OFlags::RDONLY)?, 4096, SHORT)
}

/// A control file by its path on the host.
pub(crate) fn read_control(path: &str) -> Result<String, Errno> {
    read_all(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?, 4096, SHORT)
}

/// A table of the kernel's, whose lines may be long.
pub(crate) fn read_table(path: &str) -> Result<String, Errno> {
    read_all(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?, 16384, 0)
}

/// A file of the kernel's by its path on the host.
pub(crate) fn open_to_write(path: &str) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
}

/// Writes a file of the kernel's by its path on the host.
pub(crate) fn write_path(path: &str, value: &str) -> Result<(), Errno> {
    write_and_spend(open_to_write(path)?, value)
}

fn write_and_spend(fd: OwnedFd, value: &str) -> Result<(), Errno> {
    let written = rustix::io::retry_on_intr(|| rustix::io::write(&fd, value.as_bytes()));
    spend(fd);
    written.map(|_| ())
}

/// A read of a control file that gives less is the last one: the kernel hands out whole lines, page by page, and no line
/// of these files is that long. Saves asking again.
const SHORT: usize = 2048;

fn read_all(fd: OwnedFd, expected: usize, short: usize) -> Result<String, Errno> {
    let mut bytes = Vec::with_capacity(expected);
    loop {
        if bytes.capacity() - bytes.len() < 1024 {
            bytes.reserve(bytes.len().max(4096));
        }
        match rustix::io::read(&fd, rustix::buffer::spare_capacity(&mut bytes)) {
            Ok(0) => break,
            Ok(count) if count < short => break,
            Ok(_) if bytes.len() <= MAX_FILE => {}
            Ok(_) => return Err(Errno::FBIG),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    spend(fd);
    String::from_utf8(bytes).map_err(|_| Errno::ILSEQ)
}

/// The text of `name`; `shown` is the directory's path for messages.
pub(crate) fn read(directory: BorrowedFd<'_>, name: &str, shown: &str) -> Result<String, Error> {
    read_errno(directory, name).map_err(|e| Error::File {
        operation: "read",
        file: format!("{shown}/{name}"),
        source: e.into(),
    })
}

pub(crate) fn write_errno(directory: BorrowedFd<'_>, name: &str, value: &str) -> Result<(), Errno> {
    let fd = open(directory, name, OFlags::WRONLY)?;
    write_and_spend(fd, value)
}

pub(crate) fn write(directory: BorrowedFd<'_>, name: &str, value: &str, shown: &str) -> Result<(), Error> {
    write_errno(directory, name, value).map_err(|e| Error::Write {
        value: value.to_owned(),
        file: format!("{shown}/{name}"),
        source: e.into(),
    })
}

pub(crate) fn exists(directory: BorrowedFd<'_>, name: &str) -> bool {
    rustix::fs::accessat(directory, name, rustix::fs::Access::EXISTS, rustix::fs::AtFlags::empty()).is_ok()
}
