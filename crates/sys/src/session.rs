//! Starting a program in a session or a process group of its own.
//! Unsafe because `pre_exec` runs code between fork and exec. Man pages: setsid(2), setpgid(2), tcsetpgrp(3), fork(2).
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

/// Makes `command` lead a new process group, which becomes the foreground of the terminal on standard input, if there is
/// one, before it executes: it may read from the first moment on.
///
/// A program whose standard input is no terminal only leads its group. It begins with every signal unblocked and at its
/// default action, whatever the caller has blocked.
///
/// Kernel: setpgid(2), [tcsetpgrp(3)](https://man7.org/linux/man-pages/man3/tcsetpgrp.3.html).
pub fn foreground_group(command: &mut Command) -> &mut Command {
    let take = || {
        rustix::process::setpgid(None, None)?;
        let blocked = crate::signalfd::set_of(&[libc::SIGTTOU]);
        // A group in the background that takes the terminal would be stopped for it.
        // SAFETY: the set is initialised and lives through the call; a null old set asks for nothing back.
        let status =
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const blocked, std::ptr::null_mut()) };
        if status != 0 {
            return Err(std::io::Error::from_raw_os_error(status));
        }
        // ENOTTY, or a terminal of another session: there is nothing to take.
        let _ = rustix::termios::tcsetpgrp(rustix::stdio::stdin(), rustix::process::getpid());
        crate::process::reset_signals(&crate::process::Inherited::UNKNOWN);
        Ok(())
    };
    // SAFETY: the closure runs in the child of a fork, where only async-signal-safe calls are allowed; it only
    // makes system calls, allocates nothing, takes no lock and touches no memory but its own stack.
    unsafe { command.pre_exec(take) }
}
