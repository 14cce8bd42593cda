//! Times of files that a reproducible build must not tell: those after a given second become that second.

use rootdir::RootDir;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// Sets the time of each file below `root` that was changed after `seconds` to it. Blocking.
pub(crate) fn clamp(root: &RootDir, seconds: i64) -> std::io::Result<()> {
    let mut pending = vec![PathBuf::from(".")];
    while let Some(path) = pending.pop() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let dir: OwnedFd = root
            .open_file(&path, flags, Mode::empty())
            .map_err(|e| std::io::Error::other(errors::chain(&e)))?;
        for name in rootdir::list_at(dir.as_fd())? {
            let stat = rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode).is_dir() {
                pending.push(path.join(&name));
            }
            one(dir.as_fd(), &name, &stat, seconds)?;
        }
    }
    Ok(())
}

/// The same for those of `changes` alone, of a tree that has what it began with too. Blocking.
pub(crate) fn clamp_changes(
    root: &RootDir,
    changes: &[archive::Change],
    seconds: i64,
) -> std::io::Result<()> {
    for change in changes.iter().filter(|change| change.kind != archive::ChangeKind::Deleted) {
        let (dir, name) =
            root.open_parent(&change.path).map_err(|e| std::io::Error::other(errors::chain(&e)))?;
        let stat = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        one(dir.as_fd(), name, &stat, seconds)?;
    }
    Ok(())
}

fn one(dir: BorrowedFd<'_>, name: &OsStr, stat: &Stat, seconds: i64) -> std::io::Result<()> {
    let wanted = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: wanted, last_modification: wanted };
    if stat.st_mtime > seconds || (stat.st_mtime == seconds && stat.st_mtime_nsec != 0) {
        rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}
