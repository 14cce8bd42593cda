//! A tree of mounts that nobody else sees, held by a descriptor: what a container's root looks like with its volumes on it.
//!
//! Made by a thread in a mount namespace of its own, then copied out of it (`open_tree` with `OPEN_TREE_CLONE`), so that it
//! lasts as long as the descriptor and holds no other mount of the machine. A process that dies leaves nothing.
//!
//! Kernel: [open_tree(2)](https://man7.org/linux/man-pages/man2/open_tree.2.html), Linux 5.2.

use crate::Error;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags};
use std::path::Path;

/// Makes a private copy of what is mounted on `base`, with what `attach` mounts on it (see [`attach_at`]; the descriptor it
/// gets is the root of the copy). With `read_only` the root itself cannot be written to; what is attached can.
pub fn private_view<E: From<Error> + Send>(
    base: &Path,
    read_only: bool,
    attach: impl FnOnce(&OwnedFd) -> Result<(), E> + Send,
) -> Result<OwnedFd, E> {
    let fail = |call| move |source| Error::View { base: base.into(), call, source };
    let work = || -> Result<OwnedFd, E> {
        sys::thread_fs::unshare_mounts().map_err(fail("unshare"))?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).map_err(|e| fail("make private")(e.into()))?;
        let root = open_tree(CWD, base, OpenTreeFlags::empty()).map_err(|e| fail("open_tree")(e.into()))?;
        attach(&root)?;
        if read_only {
            make_read_only(&root, false).map_err(fail("make read-only"))?;
        }
        let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_RECURSIVE;
        let flags = clone | OpenTreeFlags::AT_EMPTY_PATH;
        Ok(open_tree(&root, Path::new(""), flags).map_err(|e| fail("open_tree")(e.into()))?)
    };
    std::thread::scope(|scope| scope.spawn(work).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// How something is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attach {
    /// With what is mounted below.
    pub recursive: bool,
    pub read_only: bool,
    /// What is mounted below is read-only as well.
    pub read_only_below: bool,
}

/// Binds `source`, whose last part is followed where it is a symlink, on what is open as `target`. For the closure of
/// [`private_view`]: the mount is made in the calling thread's tree. No path below `target` is resolved.
///
/// With `ids` its ids are mapped as that user namespace maps them.
pub fn attach_at(
    source: &Path,
    target: impl AsFd,
    how: Attach,
    ids: Option<BorrowedFd<'_>>,
) -> Result<(), Error> {
    let failed = |call: &'static str, e: std::io::Error| Error::View { base: source.into(), call, source: e };
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE;
    if how.recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = open_tree(CWD, source, flags).map_err(|e| failed("open_tree", e.into()))?;
    if let Some(ids) = ids {
        sys::mount_attr::set_idmap(&tree, how.recursive, ids).map_err(|e| failed("map ids", e))?;
    }
    let by_descriptor = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(&tree, "", target, "", by_descriptor)
        .map_err(|e| failed("move_mount", e.into()))?;
    if how.read_only {
        make_read_only(&tree, how.read_only_below).map_err(|e| failed("make read-only", e))?;
    }
    Ok(())
}

fn open_tree(dir: impl AsFd, path: &Path, flags: OpenTreeFlags) -> Result<OwnedFd, Errno> {
    rustix::mount::open_tree(dir, path, flags | OpenTreeFlags::OPEN_TREE_CLOEXEC)
}

fn make_read_only(mount: &OwnedFd, recursive: bool) -> std::io::Result<()> {
    let attributes = sys::mount_attr::Attributes::new(sys::mount_attr::RDONLY, 0);
    match sys::mount_attr::set(mount, recursive, &attributes) {
        // Linux 5.11 has no mount_setattr(2).
        Err(e) if e.raw_os_error() == Some(Errno::NOSYS.raw_os_error()) => {
            let by_number = format!("/proc/self/fd/{}", mount.as_raw_fd());
            Ok(rustix::mount::mount_remount(by_number, MountFlags::BIND | MountFlags::RDONLY, "")?)
        }
        other => other,
    }
}
