//! `tmpcopyup`: a tmpfs that begins with what is in the directory that it covers.
//!
//! Both ends are descriptors and no link is followed, so nothing of the host is read or written.

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timestamps, Uid};
use rustix::io::Errno;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Deeper trees are refused: each level holds two descriptors open.
const MAX_DEPTH: u32 = 128;

/// Copies what is in the directory `from`, and its own mode and owner, into the directory `to`.
pub(crate) fn copy(from: impl AsFd, to: impl AsFd) -> Result<(), Errno> {
    let from = open_directory(from.as_fd(), c".")?;
    let to = open_directory(to.as_fd(), c".")?;
    let stat = rustix::fs::fstat(&from)?;
    contents(&from, &to, 0)?;
    rustix::fs::fchown(&to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    rustix::fs::fchmod(&to, mode(&stat))
}

fn open_directory(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

fn mode(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode & 0o7777)
}

fn contents(from: &OwnedFd, to: &OwnedFd, depth: u32) -> Result<(), Errno> {
    if depth > MAX_DEPTH {
        return Err(Errno::LOOP);
    }
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        one(from, to, name, &stat, depth)?;
    }
    Ok(())
}

fn one(from: &OwnedFd, to: &OwnedFd, name: &CStr, stat: &Stat, depth: u32) -> Result<(), Errno> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    match kind {
        FileType::Directory => {
            rustix::fs::mkdirat(to, name, Mode::RWXU)?;
            let below = open_directory(to.as_fd(), name)?;
            contents(&open_directory(from.as_fd(), name)?, &below, depth + 1)?;
        }
        FileType::RegularFile => file(from, to, name)?,
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(from, name, Vec::new())?;
            rustix::fs::symlinkat(target.as_c_str(), to, name)?;
        }
        // A socket means nothing without who listens.
        FileType::Socket | FileType::Unknown => return Ok(()),
        _ => rustix::fs::mknodat(to, name, kind, Mode::RUSR, stat.st_rdev)?,
    }
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    if kind != FileType::Symlink {
        // The name is on a tmpfs that nobody else sees yet: it cannot have become a link.
        rustix::fs::chmodat(to, name, mode(stat), AtFlags::empty())?;
    }
    let times = Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: stat.st_atime, tv_nsec: stat.st_atime_nsec as _ },
        last_modification: rustix::fs::Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ },
    };
    rustix::fs::utimensat(to, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

fn file(from: &OwnedFd, to: &OwnedFd, name: &CStr) -> Result<(), Errno> {
    // Not blocked by a fifo that took the file's place.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let source = rustix::fs::openat(from, name, flags, Mode::empty())?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let target = rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
    loop {
        match rustix::fs::sendfile(&target, &source, None, 1 << 30) {
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    #[test]
    fn a_tree_is_copied() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let at = |path: &str| from.path().join(path);
        std::fs::create_dir_all(at("a/b")).unwrap();
        std::fs::write(at("a/b/file"), "content").unwrap();
        std::fs::set_permissions(at("a/b/file"), std::fs::Permissions::from_mode(0o4751)).unwrap();
        std::fs::set_permissions(from.path(), std::fs::Permissions::from_mode(0o1777)).unwrap();
        symlink("/etc/passwd", at("a/link")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        let open = |path: &std::path::Path| std::fs::File::open(path).unwrap();
        copy(open(from.path()), open(to.path())).unwrap();
        let copied = to.path().join("a/b/file");
        assert_eq!(std::fs::read_to_string(&copied).unwrap(), "content");
        assert_eq!(copied.metadata().unwrap().mode() & 0o7777, 0o4751);
        assert_eq!(copied.metadata().unwrap().mtime(), at("a/b/file").metadata().unwrap().mtime());
        assert_eq!(to.path().join("a/link").read_link().unwrap(), std::path::Path::new("/etc/passwd"));
        assert_eq!(to.path().metadata().unwrap().mode() & 0o7777, 0o1777);
        assert!(to.path().join("fifo").symlink_metadata().is_ok());
    }
}
