//! Times of files that a reproducible build must not tell: those after a given second become that second.

use rootdir::RootDir;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Sets the time of each file below `root` that was changed after `seconds` to it. Blocking.
pub(crate) fn clamp(root: &RootDir, seconds: i64) -> std::io::Result<()> {
    let mut pending = vec![PathBuf::from(".")];
    let wanted = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: wanted, last_modification: wanted };
    let is_later =
        |s: &rustix::fs::Stat| s.st_mtime > seconds || (s.st_mtime == seconds && s.st_mtime_nsec != 0);
    while let Some(path) = pending.pop() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let dir: OwnedFd = root
            .open_file(&path, flags, Mode::empty())
            .map_err(|e| std::io::Error::other(errors::chain(&e)))?;
        for name in rootdir::list_at(std::os::fd::AsFd::as_fd(&dir))? {
            let stat = rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode).is_dir() {
                pending.push(path.join(&name));
            }
            if is_later(&stat) {
                rustix::fs::utimensat(&dir, &name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
            }
        }
    }
    Ok(())
}
