//! Owner, mode, times and extended attributes, on descriptors or on names that are not followed.

use crate::tar::{Entry, EntryKind, Timestamp};
use rootdir::RootDir;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

/// A failed call and its errno.
type Failed = (&'static str, Errno);

/// Gives entries their metadata. Knows what the kernel gives a new file by itself, to leave out calls that would change
/// nothing.
#[derive(Debug)]
pub(super) struct Setter {
    keep_owner: bool,
    /// The owner of a new file.
    owner: (u32, u32),
    /// Permission bits that a new file does not get.
    umask: u32,
}

impl Setter {
    pub(super) fn new(root: &RootDir, keep_owner: bool) -> Setter {
        let by_number = format!("/proc/self/fd/{}", root.as_fd().as_raw_fd());
        // With a default ACL the umask does not count.
        let has_acl =
            rustix::fs::getxattr(by_number, "system.posix_acl_default", &mut [0u8; 0]).is_ok_and(|n| n > 0);
        let umask = if has_acl { None } else { umask() };
        Setter {
            keep_owner,
            owner: (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
            umask: umask.unwrap_or(0o777),
        }
    }
}

/// This process's umask, read without changing it.
fn umask() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(line.trim(), 8).ok()
}

pub(crate) fn os(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}

/// `mtime` for both times: an access time would not survive the first read anyway.
pub(super) fn times(mtime: Timestamp) -> Timestamps {
    let time = Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// A default ACL, given to a directory, changes the modes of what is made in it.
const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

/// Whether an image may set this attribute. Overlay's own would let it rearrange the layers below it, and a host's
/// SELinux labels are the host's to give.
pub(crate) fn is_allowed(name: &[u8]) -> bool {
    let refused: [&[u8]; 3] = [b"trusted.overlay.", b"user.overlay.", b"security.selinux"];
    !refused.iter().any(|prefix| name.starts_with(prefix))
}

/// Whether the file system or the kind of file takes no such attribute, which is no reason to refuse an image.
fn is_not_for_here(name: &[u8], errno: Errno) -> bool {
    // The kernel allows user attributes on files and directories only.
    errno == Errno::OPNOTSUPP || errno == Errno::PERM && name.starts_with(b"user.")
}

impl Setter {
    /// Gives an open file or directory its owner, mode and attributes, in this order: chown(2) drops setuid bits and
    /// capabilities. `is_foreign`: it may have another group than a file of ours.
    pub(super) fn set_open(
        &mut self,
        fd: BorrowedFd<'_>,
        entry: &Entry,
        is_foreign: bool,
    ) -> Result<(), Failed> {
        let is_directory = entry.kind == EntryKind::Directory;
        let is_ours = !is_foreign && !is_directory && (entry.uid, entry.gid) == self.owner;
        if self.keep_owner && !is_ours {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            rustix::fs::fchown(fd, Some(uid), Some(gid)).map_err(|e| ("fchown", e))?;
        }
        if is_foreign || is_directory || entry.mode & (0o7000 | self.umask) != 0 {
            rustix::fs::fchmod(fd, Mode::from_raw_mode(entry.mode)).map_err(|e| ("fchmod", e))?;
        }
        for (name, value) in entry.xattrs.iter().filter(|(name, _)| is_allowed(name)) {
            match rustix::fs::fsetxattr(fd, &name[..], value, XattrFlags::empty()) {
                Err(e) if !is_not_for_here(name, e) => return Err(("fsetxattr", e)),
                _ => {}
            }
            if name == DEFAULT_ACL {
                self.umask = 0o777;
            }
        }
        Ok(())
    }

    /// As [`Setter::set_open`], with times, for what cannot be opened: symlinks, devices, FIFOs.
    pub(super) fn set_at(&self, dir: BorrowedFd<'_>, leaf: &[u8], entry: &Entry) -> Result<(), Failed> {
        if self.keep_owner {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            rustix::fs::chownat(dir, leaf, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| ("fchownat", e))?;
        }
        let is_symlink = entry.kind == EntryKind::Symlink;
        if !is_symlink || !entry.xattrs.is_empty() {
            // The descriptor pins the inode; by its number nothing more is followed.
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let place = rustix::fs::openat(dir, leaf, flags, Mode::empty()).map_err(|e| ("openat", e))?;
            let by_number = format!("/proc/self/fd/{}", place.as_raw_fd());
            if !is_symlink {
                rustix::fs::chmod(&by_number, Mode::from_raw_mode(entry.mode)).map_err(|e| ("chmod", e))?;
            }
            for (name, value) in entry.xattrs.iter().filter(|(name, _)| is_allowed(name)) {
                match rustix::fs::setxattr(&by_number, &name[..], value, XattrFlags::empty()) {
                    Err(e) if !is_not_for_here(name, e) => return Err(("setxattr", e)),
                    _ => {}
                }
            }
        }
        rustix::fs::utimensat(dir, leaf, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| ("utimensat", e))
    }
}
