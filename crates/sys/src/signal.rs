//! Signals that a foreground process passes on, as a descriptor.
//!
//! Kernel: signalfd(2), sigprocmask(2).
#![allow(unsafe_code, reason = "signal sets are filled by C functions")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// `SIGWINCH`.
pub const WINCH: i32 = libc::SIGWINCH;

const FORWARDED: &[i32] = &[
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGCONT,
    libc::SIGWINCH,
];

/// Blocks what is meant for the process that we stand for, and gives a non-blocking descriptor that tells of it.
pub fn block_forwarded() -> io::Result<OwnedFd> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset only writes the set, which has its size.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for &signal in FORWARDED {
        // SAFETY: the set was initialised by sigemptyset, and each number is a signal's.
        unsafe { libc::sigaddset(set.as_mut_ptr(), signal) };
    }
    // SAFETY: the set is initialised; a null old set asks for nothing back.
    unsafe { libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) };
    // SAFETY: the set is initialised, and -1 asks for a new descriptor.
    match unsafe { libc::signalfd(-1, set.as_ptr(), libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) } {
        fd if fd < 0 => Err(io::Error::last_os_error()),
        // SAFETY: the kernel just made this descriptor and nobody else knows it.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
    }
}

/// The next signal's number, if one is there.
pub fn next(signals: impl AsFd) -> Option<i32> {
    let mut info = std::mem::MaybeUninit::<libc::signalfd_siginfo>::uninit();
    let size = size_of::<libc::signalfd_siginfo>();
    // SAFETY: the kernel writes at most `size` bytes into `info`, which has that size.
    let count = unsafe { libc::read(signals.as_fd().as_raw_fd(), info.as_mut_ptr().cast(), size) };
    if usize::try_from(count) != Ok(size) {
        return None;
    }
    // SAFETY: the read above filled the whole structure, and every bit pattern of it is valid.
    i32::try_from(unsafe { info.assume_init() }.ssi_signo).ok()
}
