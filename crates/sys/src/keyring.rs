//! Session keyrings.
//!
//! Kernel: [keyctl(2)](https://man7.org/linux/man-pages/man2/keyctl.2.html).
#![allow(unsafe_code, reason = "rustix has no keyctl")]

use std::ffi::CStr;
use std::io;

/// Replaces the caller's session keyring by a new one called `name`.
///
/// # Errors
///
/// `ENOSYS` on a kernel without keys, `EDQUOT` when the user has too many.
///
/// Kernel: [KEYCTL_JOIN_SESSION_KEYRING(2const)](https://man7.org/linux/man-pages/man2/KEYCTL_JOIN_SESSION_KEYRING.2const.html).
pub fn join_session(name: &CStr) -> io::Result<()> {
    // SAFETY: the kernel reads one NUL-terminated string, which `name` is and which outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
