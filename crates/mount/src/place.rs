//! Bind mounts, and taking mounts away.

use crate::{Error, list};
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a mount that nobody should use may seem in use, and how often one looks.
const BUSY_FOR: Duration = Duration::from_millis(500);
const BUSY_PAUSE: Duration = Duration::from_millis(2);

/// Binds the file or directory `source` on `target`, which is of the same sort. Mounts below `source` do not come
/// along. Neither path is followed where its last part is a symlink.
///
/// Kernel: [open_tree(2)](https://man7.org/linux/man-pages/man2/open_tree.2.html), Linux 5.2.
pub fn bind(source: &Path, target: &Path) -> Result<(), Error> {
    let failed = |call| {
        move |e: Errno| Error::Bind {
            source_path: source.into(),
            target: target.into(),
            call,
            source: e.into(),
        }
    };
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    let tree = rustix::mount::open_tree(CWD, source, flags).map_err(failed("open_tree"))?;
    rustix::mount::move_mount(&tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(failed("move_mount"))
}

/// Binds what `source` is open on, with the mounts below it, on `target`, which is of the same sort. Whoever opened
/// `source` below a directory handle cannot be led elsewhere by links that change meanwhile.
///
/// Kernel: [open_tree(2)](https://man7.org/linux/man-pages/man2/open_tree.2.html), Linux 5.2.
pub fn bind_open(source: BorrowedFd<'_>, target: &Path) -> Result<(), Error> {
    let failed = |call| {
        move |e: Errno| Error::Bind {
            source_path: "an open file".into(),
            target: target.into(),
            call,
            source: e.into(),
        }
    };
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = rustix::mount::open_tree(source, "", flags).map_err(failed("open_tree"))?;
    rustix::mount::move_mount(&tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(failed("move_mount"))
}

/// Binds the directory `source` on `target` as the root of a container: private, so that what is mounted in one place
/// does not show in the other, and read-only where that is asked for.
///
/// Kernel: [mount_setattr(2)](https://man7.org/linux/man-pages/man2/mount_setattr.2.html), Linux 5.12.
pub fn bind_root(source: &Path, target: &Path, read_only: bool) -> Result<(), Error> {
    bind_root_as(source, target, read_only, None)
}

/// The same, with its ids mapped as the user namespace `ids` maps them.
pub(crate) fn bind_root_as(
    source: &Path,
    target: &Path,
    read_only: bool,
    ids: Option<BorrowedFd<'_>>,
) -> Result<(), Error> {
    let failed = |call, source_error: std::io::Error| Error::Bind {
        source_path: source.into(),
        target: target.into(),
        call,
        source: source_error,
    };
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    let tree = rustix::mount::open_tree(CWD, source, flags).map_err(|e| failed("open_tree", e.into()))?;
    if let Some(ids) = ids {
        sys::mount_attr::set_idmap(&tree, false, ids).map_err(|e| failed("mount_setattr(idmap)", e))?;
    }
    if read_only {
        let attributes = sys::mount_attr::Attributes::new(sys::mount_attr::RDONLY, 0);
        sys::mount_attr::set(&tree, false, &attributes).map_err(|e| failed("mount_setattr", e))?;
    }
    rustix::mount::move_mount(&tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|e| failed("move_mount", e.into()))
}

/// Unmounts `target`; fails while it is in use.
///
/// Kernel: [umount2(2)](https://man7.org/linux/man-pages/man2/umount2.2.html).
pub fn unmount(target: &Path) -> Result<(), Error> {
    rustix::mount::unmount(target, UnmountFlags::NOFOLLOW)
        .map_err(|e| Error::Unmount { target: target.into(), source: e.into() })
}

/// As [`unmount`], for a mount whose users are gone. A program that another thread is just starting holds, until its
/// `execve`, whatever descriptors this process had open; so one that seems in use is tried for a short while.
pub fn unmount_unused(target: &Path) -> Result<(), Error> {
    let begin = Instant::now();
    loop {
        match rustix::mount::unmount(target, UnmountFlags::NOFOLLOW) {
            Ok(()) => return Ok(()),
            Err(Errno::BUSY) if begin.elapsed() < BUSY_FOR => std::thread::sleep(BUSY_PAUSE),
            Err(e) => return Err(Error::Unmount { target: target.into(), source: e.into() }),
        }
    }
}

/// Takes `target` out of the tree at once, with all mounts below it; the kernel unmounts them when the last user is
/// gone.
pub fn detach(target: &Path) -> Result<(), Error> {
    rustix::mount::unmount(target, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
        .map_err(|e| Error::Unmount { target: target.into(), source: e.into() })
}

/// Whether something is mounted on `target`, an absolute path without symlinks. The kernel is asked for this one place: the
/// table of all mounts grows with every container.
///
/// Kernel: [statx(2)](https://man7.org/linux/man-pages/man2/statx.2.html), `STATX_ATTR_MOUNT_ROOT`, Linux 5.8.
pub fn is_mounted(target: &Path) -> Result<bool, Error> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    match rustix::fs::statx(CWD, target, flags, StatxFlags::TYPE) {
        Ok(found) if found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) => {
            Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
        }
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        // An older kernel, or a file system that is broken.
        Ok(_) | Err(_) => Ok(list()?.iter().any(|mount| mount.target == target)),
    }
}
