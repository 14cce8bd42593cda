//! Attributes of mounts, changed through a descriptor.
//!
//! Kernel: [mount_setattr(2)](https://man7.org/linux/man-pages/man2/mount_setattr.2.html), Linux 5.12; open_tree_attr(2), Linux
//! 6.15.
#![allow(unsafe_code, reason = "rustix has no mount_setattr and no open_tree_attr")]

use rustix::mount::OpenTreeFlags;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd};

pub const RDONLY: u64 = 0x1;
pub const NOSUID: u64 = 0x2;
pub const NODEV: u64 = 0x4;
pub const NOEXEC: u64 = 0x8;
/// Mask of the access time modes; cleared together with setting one.
pub const ATIME_MASK: u64 = 0x70;
pub const NOATIME: u64 = 0x10;
pub const STRICTATIME: u64 = 0x20;
pub const NODIRATIME: u64 = 0x80;
pub const NOSYMFOLLOW: u64 = 0x20_0000;

pub const UNBINDABLE: u64 = 1 << 17;
pub const PRIVATE: u64 = 1 << 18;
pub const SLAVE: u64 = 1 << 19;
pub const SHARED: u64 = 1 << 20;

/// What to change: bits of this module. `set` and `clear` as the kernel's `attr_set` and `attr_clr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Attributes {
    pub set: u64,
    pub clear: u64,
    pub propagation: u64,
    /// Only for `MOUNT_ATTR_IDMAP`, see [`set_idmap`].
    userns_fd: u64,
}

impl Attributes {
    /// Sets and clears attributes, leaves propagation.
    pub fn new(set: u64, clear: u64) -> Attributes {
        Attributes { set, clear, ..Attributes::default() }
    }

    /// Changes propagation only.
    pub fn propagation(propagation: u64) -> Attributes {
        Attributes { propagation, ..Attributes::default() }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        *self == Attributes::default()
    }
}

/// Changes the mount whose root is open as `mount`, with `recursive` also all below it.
///
/// # Errors
///
/// `EINVAL` when `mount` is not the root of a mount, `EPERM` for an attribute locked by a user namespace.
pub fn set(mount: impl AsFd, recursive: bool, attributes: &Attributes) -> io::Result<()> {
    change(mount.as_fd(), recursive, attributes)
}

/// The same for all mounts of the caller's namespace, from `/` on.
pub fn set_everywhere(attributes: &Attributes) -> io::Result<()> {
    call(rustix::fs::CWD, c"/", libc::AT_RECURSIVE, attributes)
}

/// Shows the files of the detached mount open as `mount` with ids mapped as the user namespace `namespace` maps them:
/// what is id 0 on disk appears as the id outside that its 0 stands for. With `recursive` all mounts below too.
///
/// # Errors
///
/// `EINVAL` when the file system has no id-mapped mounts, `EPERM` without privilege over it or when it is mapped already.
pub fn set_idmap(mount: impl AsFd, recursive: bool, namespace: BorrowedFd<'_>) -> io::Result<()> {
    const IDMAP: u64 = 0x0010_0000;
    let userns_fd = namespace.as_raw_fd().cast_unsigned().into();
    change(mount.as_fd(), recursive, &Attributes { set: IDMAP, userns_fd, ..Attributes::default() })
}

/// Clones what is open as `tree`, or what has the name `path` in that directory and is no link, with `recursive` all below
/// it, not attached anywhere, with other attributes from the start.
///
/// # Errors
///
/// As [`set`], and as open_tree(2).
pub fn clone_with(
    tree: impl AsFd,
    path: &CStr,
    recursive: bool,
    attributes: &Attributes,
) -> io::Result<OwnedFd> {
    // The same number on all architectures.
    const OPEN_TREE_ATTR: libc::c_long = 467;
    let tree = tree.as_fd();
    let below = if recursive { OpenTreeFlags::AT_RECURSIVE } else { OpenTreeFlags::empty() };
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW
        | below
        | if path.is_empty() { OpenTreeFlags::AT_EMPTY_PATH } else { OpenTreeFlags::empty() };
    // SAFETY: as in `call`: a C string and a structure of this size, which the kernel only reads.
    let result = unsafe {
        libc::syscall(
            OPEN_TREE_ATTR,
            tree.as_raw_fd(),
            path.as_ptr(),
            flags.bits(),
            std::ptr::from_ref(attributes),
            size_of::<Attributes>(),
        )
    };
    match i32::try_from(result) {
        // SAFETY: a new descriptor that nobody else knows.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => {
            let error = io::Error::last_os_error();
            if error.raw_os_error() == Some(libc::ENOENT) {
                return Err(error);
            }
            // An older kernel does not know the call, and filters refuse what they do not know; a true refusal comes again.
            let clone = rustix::mount::open_tree(tree, path, flags)?;
            set(&clone, recursive, attributes)?;
            Ok(clone)
        }
    }
}

fn change(mount: BorrowedFd<'_>, recursive: bool, attributes: &Attributes) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    call(mount, c"", flags, attributes)
}

fn call(
    directory: BorrowedFd<'_>,
    path: &CStr,
    flags: libc::c_int,
    attributes: &Attributes,
) -> io::Result<()> {
    // SAFETY: the path is a C string and the structure has the layout and size of `struct mount_attr`, version
    // 0; both outlive the call and the kernel only reads them. A descriptor in it is borrowed by the caller.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            directory.as_raw_fd(),
            path.as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<Attributes>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
