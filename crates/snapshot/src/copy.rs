//! Copying a tree of ours, everything that files have included, sharing blocks where the file system can.

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Most bytes of attribute names, and of one value, that the kernel hands out.
const MAX_XATTR: usize = 65_536;
/// Bytes copied at once where blocks cannot be shared.
const PIECE: usize = 1 << 20;

/// Copies what is in the directory `from` into the empty directory `to`, and the attributes of `from` itself. The
/// error comes with the path at which it happened.
///
/// `from` must not change meanwhile; symlinks and mount points in it are not followed.
pub(crate) fn copy_tree(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), (PathBuf, Errno)> {
    let mut copier = Copier { from, to, links: HashMap::new(), times: Vec::new() };
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        copier.directory(&path, &mut pending)?;
    }
    for (path, stat) in std::mem::take(&mut copier.times).into_iter().rev() {
        let failed = |e| (path.clone(), e);
        let fd = open_dir(to, &path).map_err(failed)?;
        rustix::fs::futimens(&fd, &times(&stat)).map_err(failed)?;
    }
    Ok(())
}

struct Copier<'a> {
    from: BorrowedFd<'a>,
    to: BorrowedFd<'a>,
    /// Files with several names, by inode: the first name.
    links: HashMap<u64, PathBuf>,
    /// Directories, whose times are set last.
    times: Vec<(PathBuf, Stat)>,
}

impl Copier<'_> {
    fn directory(&mut self, path: &Path, pending: &mut Vec<PathBuf>) -> Result<(), (PathBuf, Errno)> {
        let failed = |e| (path.to_path_buf(), e);
        let (from, to) =
            (open_dir(self.from, path).map_err(failed)?, open_dir(self.to, path).map_err(failed)?);
        let stat = rustix::fs::fstat(&from).map_err(failed)?;
        attributes(&from, &to, &stat).map_err(failed)?;
        self.times.push((path.to_path_buf(), stat));
        let names = rootdir::list_at(from.as_fd())
            .map_err(|e| failed(Errno::from_io_error(&e).unwrap_or(Errno::IO)))?;
        for name in names {
            let below = path.join(&name);
            if self.entry(&from, &to, &name, &below).map_err(|e| (below.clone(), e))? {
                pending.push(below);
            }
        }
        Ok(())
    }

    /// Copies one entry; says whether it is a directory to be gone into.
    fn entry(&mut self, from: &OwnedFd, to: &OwnedFd, name: &OsStr, path: &Path) -> Result<bool, Errno> {
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let file_type = FileType::from_raw_mode(stat.st_mode);
        if file_type == FileType::Directory {
            rustix::fs::mkdirat(to, name, Mode::RWXU)?;
            return Ok(true);
        }
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&stat.st_ino) {
                rustix::fs::linkat(self.to, first, to, name, AtFlags::empty())?;
                return Ok(false);
            }
            self.links.insert(stat.st_ino, path.to_path_buf());
        }
        match file_type {
            FileType::RegularFile => {
                let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let source = rustix::fs::openat(from, name, flags | OFlags::RDONLY, Mode::empty())?;
                let create = flags | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
                let target = rustix::fs::openat(to, name, create, Mode::RUSR | Mode::WUSR)?;
                content(&source, &target, &stat)?;
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new())?;
                rustix::fs::symlinkat(target.as_c_str(), to, name)?;
            }
            other => rustix::fs::mknodat(to, name, other, Mode::empty(), stat.st_rdev)?,
        }
        let place = |dir: &OwnedFd| {
            rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        };
        attributes(&place(from)?, &place(to)?, &stat)?;
        rustix::fs::utimensat(to, name, &times(&stat), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(false)
    }
}

fn open_dir(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
}

/// Shares the blocks where the file system can; else copies what is no hole.
fn content(source: &OwnedFd, target: &OwnedFd, stat: &Stat) -> Result<(), Errno> {
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    if size == 0 || rustix::fs::ioctl_ficlone(target, source).is_ok() {
        return Ok(());
    }
    rustix::fs::ftruncate(target, size)?;
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(source, SeekFrom::Data(at)) {
            // Nothing but a hole is left.
            Err(Errno::NXIO) => return Ok(()),
            other => other?,
        };
        let end = rustix::fs::seek(source, SeekFrom::Hole(start))?;
        let (mut from, mut to) = (start, start);
        while from < end {
            let length = usize::try_from(end - from).map_or(PIECE, |n| n.min(PIECE));
            if rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), length)? == 0 {
                return Err(Errno::IO);
            }
        }
        at = end;
    }
    Ok(())
}

/// Owner, mode and extended attributes, in this order: chown(2) drops setuid bits and capabilities.
fn attributes(from: &OwnedFd, to: &OwnedFd, stat: &Stat) -> Result<(), Errno> {
    // By its number a descriptor is followed to its inode and no further.
    let by_number = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let (source, target) = (by_number(from), by_number(to));
    rustix::fs::chownat(
        to,
        "",
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
        AtFlags::EMPTY_PATH,
    )?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        rustix::fs::chmod(&target, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    }
    let mut names = vec![0; MAX_XATTR];
    let length = match rustix::fs::listxattr(&source, &mut names[..]) {
        Err(Errno::OPNOTSUPP) => 0,
        other => other?,
    };
    let mut value = Vec::new();
    for name in names[..length].split(|b| *b == 0).filter(|name| !name.is_empty()) {
        // The host's policy gives each file its own.
        if name.starts_with(b"security.selinux") {
            continue;
        }
        value.resize(MAX_XATTR, 0);
        let name = OsStr::from_bytes(name);
        let length = rustix::fs::getxattr(&source, name, &mut value[..])?;
        rustix::fs::setxattr(&target, name, &value[..length], XattrFlags::empty())?;
    }
    Ok(())
}

fn times(stat: &Stat) -> Timestamps {
    let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0) };
    Timestamps { last_access: time, last_modification: time }
}
