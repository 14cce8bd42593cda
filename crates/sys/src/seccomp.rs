//! Loading of a system call filter.
//!
//! Kernel: [seccomp(2)](https://man7.org/linux/man-pages/man2/seccomp.2.html).
#![allow(unsafe_code, reason = "rustix has no seccomp")]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// One instruction, `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

#[repr(C)]
struct Program {
    length: libc::c_ushort,
    first: *const Instruction,
}

/// Whether the kernel knows this `SECCOMP_FILTER_FLAG_*`.
pub fn has_flag(flag: u32) -> bool {
    // SAFETY: without a program the kernel looks at the flags, finds nothing to read and changes nothing.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::c_ulong::from(flag),
            std::ptr::null::<Program>(),
        )
    };
    // EFAULT: it came as far as to read the program.
    result < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}

/// Puts `program` over the calling thread, with `SECCOMP_FILTER_FLAG_*` bits. There is no way back.
///
/// Gives the listener if `flags` ask for one.
///
/// # Errors
///
/// `EACCES` without `CAP_SYS_ADMIN` and without `no_new_privs`; `EINVAL` for a program or flags the kernel refuses.
pub fn load(program: &[Instruction], flags: u32) -> io::Result<Option<OwnedFd>> {
    let length = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let header = Program { length, first: program.as_ptr() };
    // SAFETY: `header` is a `struct sock_fprog` that describes exactly the slice `program`; both outlive the call and
    // the kernel copies them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::c_ulong::from(flags),
            std::ptr::from_ref(&header),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    const NEW_LISTENER: u32 = 1 << 3;
    if flags & NEW_LISTENER == 0 {
        return Ok(None);
    }
    let raw = i32::try_from(result).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: with NEW_LISTENER a success is a new descriptor that nobody else knows.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(raw) }))
}
