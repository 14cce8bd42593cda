//! The attributes of a root directory, carried by an empty directory from a layer to the snapshots on it.

use crate::Error;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;
use std::path::Path;

/// Most bytes of attribute names, and of one value, that the kernel hands out.
const MAX_XATTR: usize = 65_536;

/// Gives the directory `to` owner, mode, time and extended attributes of `from`.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let failed = |what, path: &Path| {
        let path = path.to_path_buf();
        move |e: Errno| Error::File { what, path, source: e.into() }
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let source = rustix::fs::open(from, flags, Mode::empty()).map_err(failed("open", from))?;
    let target = rustix::fs::open(to, flags, Mode::empty()).map_err(failed("open", to))?;
    let stat = rustix::fs::fstat(&source).map_err(failed("stat", from))?;
    let (uid, gid) = (rustix::fs::Uid::from_raw(stat.st_uid), rustix::fs::Gid::from_raw(stat.st_gid));
    rustix::fs::fchown(&target, Some(uid), Some(gid)).map_err(failed("change owner of", to))?;
    rustix::fs::fchmod(&target, Mode::from_raw_mode(stat.st_mode & 0o7777))
        .map_err(failed("change mode of", to))?;
    let mut names = vec![0; MAX_XATTR];
    let length = match rustix::fs::flistxattr(&source, &mut names[..]) {
        Err(Errno::OPNOTSUPP) => 0,
        other => other.map_err(failed("list attributes of", from))?,
    };
    let mut value = Vec::new();
    for name in names[..length].split(|b| *b == 0).filter(|name| is_carried(name)) {
        value.resize(MAX_XATTR, 0);
        let length = rustix::fs::fgetxattr(&source, name, &mut value[..])
            .map_err(failed("read attribute of", from))?;
        rustix::fs::fsetxattr(&target, name, &value[..length], XattrFlags::empty())
            .map_err(failed("set attribute of", to))?;
    }
    let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0) };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("set times of", to))
}

/// Not what overlay notes on the directories of its layers, nor what the host's policy gives each file.
fn is_carried(name: &[u8]) -> bool {
    !name.is_empty() && !name.starts_with(b"trusted.overlay.") && !name.starts_with(b"security.selinux")
}
