//! Starting a program in a session of its own, so that it outlives the terminal it was started from.
//! Unsafe because `pre_exec` runs code between fork and exec. Man pages: setsid(2), fork(2).
#![allow(unsafe_code, reason = "CommandExt::pre_exec is unsafe")]

use std::os::unix::process::CommandExt;
use std::process::Command;

/// Makes `command` call `setsid()` before it executes: the program leads a new session without a terminal.
///
/// A failing `setsid` makes the later `spawn` fail with its errno.
///
/// Kernel: [setsid(2)](https://man7.org/linux/man-pages/man2/setsid.2.html).
pub fn new_session(command: &mut Command) -> &mut Command {
    // SAFETY: the closure runs in the child of a fork, where only async-signal-safe calls are allowed; it makes one
    // system call, allocates nothing, takes no lock and touches no memory of ours.
    unsafe { command.pre_exec(|| rustix::process::setsid().map(drop).map_err(Into::into)) }
}
