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
    // SAFETY: the set is initialised by sigemptyset before it is used, and signalfd's result is a new descriptor.
    #[expect(clippy::multiple_unsafe_ops_per_block, reason = "one invariant: the set is initialised first")]
    unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        for &signal in FORWARDED {
            libc::sigaddset(&raw mut set, signal);
        }
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        match libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) {
            fd if fd < 0 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
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
