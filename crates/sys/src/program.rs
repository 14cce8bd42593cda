//! A program's entry without the standard library's preparations: no guard for stack overflows, which costs a reading of
//! `/proc/self/maps`, a second stack and fifteen system calls. For a program that is started for every container.
//!
//! What is kept of them: descriptors 0, 1 and 2 are open, so that no file opened later is taken for a standard stream, and
//! a broken pipe is an error, not a death.
#![allow(unsafe_code, reason = "the signal's action, and the name that the C library calls")]

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use std::ffi::{CStr, OsString, c_char, c_int};
use std::os::unix::ffi::OsStringExt as _;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// Makes `$main`, a `fn() -> u8`, the program. Its crate needs `#![no_main]`.
#[macro_export]
macro_rules! program {
    ($main:path) => {
        /// What the C library calls.
        #[unsafe(no_mangle)]
        extern "C" fn main(
            count: ::std::ffi::c_int,
            arguments: *const *const ::std::ffi::c_char,
        ) -> ::std::ffi::c_int {
            // SAFETY: these are what the C library gives.
            unsafe { $crate::program::enter(count, arguments, $main) }
        }
    };
}

/// How many there are, and where. The standard library knows them by itself with glibc only.
static ARGUMENTS: (AtomicUsize, AtomicPtr<*const c_char>) =
    (AtomicUsize::new(0), AtomicPtr::new(std::ptr::null_mut()));

/// What the program was called with, its name first. Empty in a program that does not begin by [`program!`].
pub fn arguments() -> Vec<OsString> {
    let first = ARGUMENTS.1.load(Ordering::Relaxed);
    let one = |number| {
        // SAFETY: `enter` was given this many pointers there.
        let argument = unsafe { first.add(number) };
        // SAFETY: the same.
        let argument = unsafe { argument.read() };
        // SAFETY: each leads to a C string; the kernel put them on the stack and nobody changes them.
        OsString::from_vec(unsafe { CStr::from_ptr(argument) }.to_bytes().to_vec())
    };
    (0..ARGUMENTS.0.load(Ordering::Relaxed)).map(one).collect()
}

/// The body of [`program!`].
///
/// # Safety
///
/// `count` and `arguments` are those of a C program's `main`.
pub unsafe fn enter(count: c_int, arguments: *const *const c_char, main: fn() -> u8) -> c_int {
    ARGUMENTS.1.store(arguments.cast_mut(), Ordering::Relaxed);
    ARGUMENTS.0.store(usize::try_from(count).unwrap_or(0), Ordering::Relaxed);
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
