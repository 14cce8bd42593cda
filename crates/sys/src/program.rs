//! A program's entry without the standard library's preparations: no guard for stack overflows, which costs a reading of
//! `/proc/self/maps`, a second stack and fifteen system calls. For a program that is started for every container.
//!
//! What is kept of them: descriptors 0, 1 and 2 are open, so that no file opened later is taken for a standard stream, and
//! a broken pipe is an error, not a death.
#![allow(unsafe_code, reason = "the signal's action, and the name that the C library calls")]

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};

/// Makes `$main`, a `fn() -> u8`, the program. Its crate needs `#![no_main]`.
#[macro_export]
macro_rules! program {
    ($main:path) => {
        /// What the C library calls.
        #[unsafe(no_mangle)]
        extern "C" fn main() -> ::std::ffi::c_int {
            $crate::program::enter($main)
        }
    };
}

/// The body of [`program!`].
pub fn enter(main: fn() -> u8) -> std::ffi::c_int {
    open_standard_streams();
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    main().into()
}

fn open_standard_streams() {
    let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    let mut polled = streams.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::empty()));
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    if poll(&mut polled, Some(&now)).is_err() {
        return;
    }
    for _ in polled.iter().filter(|fd| fd.revents().contains(PollFlags::NVAL)) {
        // The lowest number is taken, which is the first one missing. It stays open for good.
        if let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()) {
            std::mem::forget(null);
        }
    }
}
