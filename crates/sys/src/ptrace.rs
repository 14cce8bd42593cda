//! Following other processes from system call to system call, for tests that end them between two.
//!
//! `unsafe`: `ptrace` and `waitpid` are C calls that rustix does not have in this form. Covers `ptrace(2)`, `waitpid(2)`.
//!
//! One thread does everything to the threads that it follows: the kernel knows tracers by thread.
#![allow(unsafe_code, reason = "ptrace is a C call that rustix does not have")]

use rustix::process::Pid;
use std::io;

/// What a followed thread stopped for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// It is about to enter a system call, or has just come back from one.
    SystemCall,
    /// It has made another thread or process, which is followed too and stops by itself.
    Made(Pid),
    /// It runs another program now.
    Executed,
    /// It was told to stop, or was made stopped.
    Paused,
    /// A signal is on its way to it.
    Signal(i32),
    /// It is gone.
    Ended,
}

/// A system call that is about to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub number: i64,
    pub arguments: [u64; 6],
}

/// The calls that change what others see: files, mounts, namespaces, processes, what is sent to somebody.
const CHANGES: &[(libc::c_long, &str)] = &[
    (libc::SYS_write, "write"),
    (libc::SYS_pwrite64, "pwrite64"),
    (libc::SYS_writev, "writev"),
    (libc::SYS_sendto, "sendto"),
    (libc::SYS_sendmsg, "sendmsg"),
    (libc::SYS_connect, "connect"),
    (libc::SYS_bind, "bind"),
    (libc::SYS_openat, "openat"),
    (libc::SYS_ftruncate, "ftruncate"),
    (libc::SYS_fallocate, "fallocate"),
    (libc::SYS_fsync, "fsync"),
    (libc::SYS_fdatasync, "fdatasync"),
    (libc::SYS_rename, "rename"),
    (libc::SYS_renameat, "renameat"),
    (libc::SYS_renameat2, "renameat2"),
    (libc::SYS_mkdir, "mkdir"),
    (libc::SYS_mkdirat, "mkdirat"),
    (libc::SYS_mknodat, "mknodat"),
    (libc::SYS_rmdir, "rmdir"),
    (libc::SYS_unlink, "unlink"),
    (libc::SYS_unlinkat, "unlinkat"),
    (libc::SYS_linkat, "linkat"),
    (libc::SYS_symlink, "symlink"),
    (libc::SYS_symlinkat, "symlinkat"),
    (libc::SYS_chmod, "chmod"),
    (libc::SYS_fchmod, "fchmod"),
    (libc::SYS_fchmodat, "fchmodat"),
    (libc::SYS_fchown, "fchown"),
    (libc::SYS_fchownat, "fchownat"),
    (libc::SYS_setxattr, "setxattr"),
    (libc::SYS_fsetxattr, "fsetxattr"),
    (libc::SYS_copy_file_range, "copy_file_range"),
    (libc::SYS_mount, "mount"),
    (libc::SYS_umount2, "umount2"),
    (libc::SYS_move_mount, "move_mount"),
    (libc::SYS_fsmount, "fsmount"),
    (libc::SYS_open_tree, "open_tree"),
    (libc::SYS_mount_setattr, "mount_setattr"),
    (libc::SYS_pivot_root, "pivot_root"),
    (libc::SYS_unshare, "unshare"),
    (libc::SYS_setns, "setns"),
    (libc::SYS_vfork, "vfork"),
    (libc::SYS_clone3, "clone3"),
    (libc::SYS_execve, "execve"),
    (libc::SYS_execveat, "execveat"),
    (libc::SYS_kill, "kill"),
    (libc::SYS_pidfd_send_signal, "pidfd_send_signal"),
    (libc::SYS_setuid, "setuid"),
    (libc::SYS_capset, "capset"),
    (libc::SYS_seccomp, "seccomp"),
    (libc::SYS_bpf, "bpf"),
];

impl Entry {
    /// The name of the call, if it is one that changes what others see.
    pub fn change(&self) -> Option<&'static str> {
        let creates = |flags: u64| flags & u64::from(libc::O_CREAT.unsigned_abs()) != 0;
        let found = CHANGES.iter().find(|(number, _)| *number == self.number)?;
        (found.1 != "openat" || creates(self.arguments[2])).then_some(found.1)
    }
}

/// Begins to follow a thread, which goes on. With `children` the processes that it makes are followed too, else only threads.
///
/// # Errors
///
/// The kernel's errno: `EPERM` when somebody follows it already, `ESRCH` when it is gone.
///
/// Kernel: [ptrace(2)](https://man7.org/linux/man-pages/man2/ptrace.2.html), `PTRACE_SEIZE`.
pub fn seize(thread: Pid, children: bool) -> io::Result<()> {
    let mut options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE;
    if children {
        options |= libc::PTRACE_O_TRACEFORK | libc::PTRACE_O_TRACEVFORK | libc::PTRACE_O_TRACEEXEC;
    }
    call(libc::PTRACE_SEIZE, thread, usize::try_from(options).expect("flags are positive"))
}

/// Makes a followed thread stop, with [`Stop::Paused`].
pub fn interrupt(thread: Pid) -> io::Result<()> {
    call(libc::PTRACE_INTERRUPT, thread, 0)
}

/// Lets a stopped thread go on to the next system call, with this signal (0 for none).
pub fn resume(thread: Pid, signal: i32) -> io::Result<()> {
    call(libc::PTRACE_SYSCALL, thread, usize::try_from(signal).expect("signals are positive"))
}

/// Follows a stopped thread no longer; it goes on.
pub fn detach(thread: Pid) -> io::Result<()> {
    call(libc::PTRACE_DETACH, thread, 0)
}

/// The call that a thread stopped with [`Stop::SystemCall`] is about to make; None when it has just made it.
///
/// Kernel: [ptrace(2)](https://man7.org/linux/man-pages/man2/ptrace.2.html), `PTRACE_GET_SYSCALL_INFO`, Linux 5.3.
pub fn entry(thread: Pid) -> io::Result<Option<Entry>> {
    let mut info = std::mem::MaybeUninit::<libc::ptrace_syscall_info>::zeroed();
    let size = size_of::<libc::ptrace_syscall_info>();
    // SAFETY: the kernel writes at most `size` bytes to `info`, which has so many.
    let written = unsafe {
        libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, thread.as_raw_nonzero().get(), size, info.as_mut_ptr())
    };
    if written < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was zeroed, and every field is an integer: all of it is initialised whatever the kernel wrote.
    let info = unsafe { info.assume_init() };
    if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return Ok(None);
    }
    // SAFETY: `op` says that the kernel filled this member of the union.
    let entry = unsafe { info.u.entry };
    Ok(Some(Entry { number: i64::try_from(entry.nr).unwrap_or(-1), arguments: entry.args }))
}

/// Waits until one of the threads that this thread follows stops. None when it follows none, and has no children.
///
/// A child of this very thread that ends is reaped by this.
pub fn wait() -> io::Result<Option<(Pid, Stop)>> {
    let mut status = 0;
    let flags = libc::__WALL | libc::__WNOTHREAD;
    let pid = loop {
        // SAFETY: `status` lives through the call.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, flags) };
        match (pid, io::Error::last_os_error().raw_os_error()) {
            (-1, Some(libc::EINTR)) => {}
            (-1, Some(libc::ECHILD)) => return Ok(None),
            (-1, _) => return Err(io::Error::last_os_error()),
            (pid, _) => break Pid::from_raw(pid).expect("waitpid gives a positive pid"),
        }
    };
    if !libc::WIFSTOPPED(status) {
        return Ok(Some((pid, Stop::Ended)));
    }
    let signal = libc::WSTOPSIG(status);
    let stop = match status >> 16 {
        0 if signal == libc::SIGTRAP | 0x80 => Stop::SystemCall,
        0 => Stop::Signal(signal),
        libc::PTRACE_EVENT_CLONE | libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK => {
            match message(pid)?.and_then(Pid::from_raw) {
                Some(made) => Stop::Made(made),
                None => Stop::Paused,
            }
        }
        libc::PTRACE_EVENT_EXEC => Stop::Executed,
        _ => Stop::Paused,
    };
    Ok(Some((pid, stop)))
}

/// What the kernel has to say about the event that a thread stopped for; None when the thread is gone.
fn message(thread: Pid) -> io::Result<Option<i32>> {
    let mut value: libc::c_ulong = 0;
    // SAFETY: the kernel writes one long to `value`, which lives through the call.
    let status = unsafe {
        libc::ptrace(
            libc::PTRACE_GETEVENTMSG,
            thread.as_raw_nonzero().get(),
            std::ptr::null_mut::<libc::c_void>(),
            &raw mut value,
        )
    };
    match status {
        0 => Ok(i32::try_from(value).ok()),
        _ if io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH) => Ok(None),
        _ => Err(io::Error::last_os_error()),
    }
}

fn call(request: libc::c_uint, thread: Pid, data: usize) -> io::Result<()> {
    // SAFETY: of the requests made here the kernel takes `data` as a number and reads or writes no memory of ours.
    let status = unsafe {
        libc::ptrace(request, thread.as_raw_nonzero().get(), std::ptr::null_mut::<libc::c_void>(), data)
    };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_followed_to_its_end() {
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().expect("cat");
        let stdin = child.stdin.take();
        let pid = Pid::from_child(&child);
        let follower = std::thread::spawn(move || {
            seize(pid, true).expect("nobody else follows it");
            interrupt(pid).expect("it is there");
            // It reads, and ends when there is nothing to read any more.
            drop(stdin);
            let mut numbers = Vec::new();
            while let Some((thread, stop)) = wait().expect("wait") {
                match stop {
                    Stop::Ended => continue,
                    Stop::SystemCall => {
                        numbers.extend(entry(thread).expect("it is stopped").map(|e| e.number));
                    }
                    _ => {}
                }
                resume(thread, 0).expect("it is stopped");
            }
            numbers
        });
        let numbers = follower.join().expect("no panic");
        // Who follows reaps, being a thread of the child's parent.
        match child.wait() {
            Ok(status) => assert!(status.success()),
            Err(e) => assert_eq!(e.raw_os_error(), Some(libc::ECHILD)),
        }
        assert_eq!(numbers.last(), Some(&libc::SYS_exit_group), "{numbers:?}");
    }
}
