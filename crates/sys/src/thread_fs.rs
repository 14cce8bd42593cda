//! A working directory, or a whole tree of mounts, of one's own for a thread.
//!
//! Kernel: [unshare(2)](https://man7.org/linux/man-pages/man2/unshare.2.html), `CLONE_FS`, `CLONE_NEWNS`.
#![allow(unsafe_code, reason = "rustix marks every unshare as unsafe because of CLONE_FILES")]

use rustix::thread::UnshareFlags;
use std::io;

/// Gives the calling thread its own working directory, root and umask, which it shared with the process until now.
///
/// There is no way back: for threads that end soon.
pub fn unshare_fs() -> io::Result<()> {
    // SAFETY: CLONE_FS separates working directory, root and umask, none of which any memory or descriptor depends
    // on. The flag that can break memory safety, CLONE_FILES, is not passed.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }.map_err(io::Error::from)
}

/// Gives the calling thread its own tree of mounts, a copy of the process's, and with it its own working directory.
///
/// There is no way back: for threads that end soon. Mounts made in it are gone with the thread, unless a descriptor keeps
/// them.
pub fn unshare_mounts() -> io::Result<()> {
    // SAFETY: CLONE_NEWNS and the CLONE_FS that it implies separate the tree of mounts, working directory, root and
    // umask, none of which any memory or descriptor depends on. CLONE_FILES is not passed.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.map_err(io::Error::from)
}
