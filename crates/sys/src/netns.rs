//! Network namespaces: unshare(2) for a thread made for it. Entering an existing one is safe in rustix
//! (`move_into_link_name_space`); leaving the present one is not, because unshare can also split descriptor tables.
#![allow(unsafe_code, reason = "rustix marks unshare unsafe as a whole")]

use rustix::thread::UnshareFlags;

/// Moves the calling thread, and no other, into a new network namespace with only a `lo` that is down.
///
/// Call it on a thread that ends soon: nothing brings the thread back. Needs `CAP_SYS_ADMIN`.
///
/// # Errors
///
/// The kernel's errno: `EPERM`, `ENOSPC` at the limit of namespaces, `ENOMEM`.
///
/// Kernel: [unshare(2)](https://man7.org/linux/man-pages/man2/unshare.2.html), `CLONE_NEWNET`.
pub fn unshare_network() -> std::io::Result<()> {
    // SAFETY: unshare is unsafe for CLONE_FILES, which would let other threads see descriptors that are not theirs.
    // That flag is not set: only the network namespace of this thread changes.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.map_err(Into::into)
}

/// Moves the calling thread, and no other, into a new network namespace and a new mount namespace.
///
/// The new mount namespace still propagates to the old one; make `/` private before mounting. Tests use it to play a
/// host. Since Linux shares `fs_struct` between threads, the thread also gets its own working directory and umask.
///
/// # Errors
///
/// The kernel's errno: `EPERM`, `ENOSPC` at the limit of namespaces, `ENOMEM`.
///
/// Kernel: [unshare(2)](https://man7.org/linux/man-pages/man2/unshare.2.html), `CLONE_NEWNET`, `CLONE_NEWNS`.
pub fn unshare_network_and_mounts() -> std::io::Result<()> {
    // SAFETY: as in `unshare_network`: the descriptor table stays shared; CLONE_FS only gives this thread its own copy
    // of working directory, root and umask, which no Rust code takes for shared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS | UnshareFlags::FS) }
        .map_err(Into::into)
}
