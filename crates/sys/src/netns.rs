//! Network namespaces: unshare(2) for a thread made for it. Entering an existing one is safe in rustix
//! (`move_into_link_name_space`); leaving the present one is not, because unshare can also split descriptor tables. And the
//! one ioctl that a new namespace needs: netdevice(7), `SIOCSIFFLAGS`.
#![allow(unsafe_code, reason = "rustix marks unshare unsafe as a whole, and has no ioctl of interfaces")]

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::UnshareFlags;
use std::os::fd::{AsRawFd as _, OwnedFd};

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

/// Sets `lo` of this network namespace up. Gives the socket that served, which is of no further use.
///
/// # Errors
///
/// The kernel's errno: `EPERM` without `CAP_NET_ADMIN` over the namespace.
///
/// Docs: [netdevice(7)](https://man7.org/linux/man-pages/man7/netdevice.7.html).
pub fn loopback_up() -> std::io::Result<OwnedFd> {
    // Interfaces are asked for through a socket of any family; this one every kernel has.
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: all zeros are a value of this C structure of integers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    // What is no choice of ours (that it is a loopback) the kernel keeps.
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP).unwrap_or(1);
    // SAFETY: the request is a `struct ifreq` with a name that ends in NUL, and outlives the call; the kernel reads it.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(socket) }
}
