//! Making a process and turning it into another program.
//!
//! Kernel: clone(2) (`clone3`), execve(2), execveat(2), close_range(2), personality(2), ioprio_set(2), umask(2).
#![allow(unsafe_code, reason = "rustix does not clone or execute, and keeps signal state out of reach")]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Which side of [`clone3`] this is.
#[derive(Debug)]
pub enum Cloned {
    /// The new process.
    Child,
    /// The old one, with the new one's id as this PID namespace numbers it and a descriptor of it.
    Parent { pid: i32, pidfd: OwnedFd },
}

/// This process was made by [`clone3`], so it began with one thread.
static CLONED: AtomicBool = AtomicBool::new(false);

/// Wider than libc's constant of that name.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Forks, with new namespaces for the `CLONE_NEW*` bits in `namespaces`, into the v2 cgroup directory `cgroup` if given.
///
/// With `sibling` the new process is a child of the caller's parent (`CLONE_PARENT`).
///
/// # Errors
///
/// `EBUSY` if the process has more than one thread: the child would inherit locks that nobody opens. Otherwise the
/// kernel's, for example `ENOSPC` for too many namespaces and `EAGAIN` for too many processes.
pub fn clone3(namespaces: u64, sibling: bool, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    if threads()? != 1 {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    let mut pidfd: RawFd = -1;
    let into_cgroup = if cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 };
    let parent = if sibling { libc::CLONE_PARENT as u64 } else { 0 };
    let args = CloneArgs {
        flags: namespaces | libc::CLONE_PIDFD as u64 | into_cgroup | parent,
        pidfd: (&raw mut pidfd).addr() as u64,
        exit_signal: if sibling { 0 } else { libc::SIGCHLD as u64 },
        cgroup: cgroup.map_or(0, |fd| fd.as_raw_fd().cast_unsigned().into()),
        ..CloneArgs::default()
    };
    // SAFETY: without CLONE_VM the child works on its own copy of memory, on a copy of this stack. The one thread check
    // above makes sure that no lock is held by a thread that the child does not have. `args` has the layout of `struct
    // clone_args` and `pidfd` is written before the call returns in the parent.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            CLONED.store(true, Ordering::Relaxed);
            Ok(Cloned::Child)
        }
        pid => {
            let pid = i32::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
            // SAFETY: CLONE_PIDFD stored a new descriptor here that nobody else knows.
            Ok(Cloned::Parent { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
        }
    }
}

/// Threads of this process: `/proc/self/task` has that many directories beside `.` and `..`.
fn threads() -> io::Result<u64> {
    let stat = match rustix::fs::stat("/proc/self/task") {
        // After joining a mount namespace /proc may be that of another PID namespace, where this process is not.
        Err(rustix::io::Errno::NOENT) if CLONED.load(Ordering::Relaxed) => return Ok(1),
        other => other?,
    };
    Ok((stat.st_nlink as u64).saturating_sub(2))
}

/// Moves the caller into new namespaces, `CLONE_NEW*` bits; for PID and time only its future children.
///
/// # Errors
///
/// `EINVAL` for bits that are no namespaces.
///
/// Kernel: [unshare(2)](https://man7.org/linux/man-pages/man2/unshare.2.html).
pub fn unshare(namespaces: u32) -> io::Result<()> {
    const NAMESPACES: u32 = 0x7e02_0080;
    if namespaces & !NAMESPACES != 0 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let flags = rustix::thread::UnshareFlags::from_bits_retain(namespaces);
    // SAFETY: the danger is in CLONE_FILES, which is not among the bits let through above.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(Into::into)
}

/// A list of C strings as `execve` wants it: pointers, the last one null.
#[derive(Debug)]
pub struct StringList {
    strings: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl StringList {
    /// Makes the list. All allocation is here, none later.
    pub fn new(strings: Vec<CString>) -> StringList {
        let mut list = StringList { strings, pointers: Vec::new() };
        list.point();
        list
    }

    /// Adds one at the end.
    pub fn push(&mut self, string: CString) {
        self.strings.push(string);
        self.point();
    }

    /// The same with `first` before all.
    #[must_use]
    pub fn after(mut self, first: CString) -> StringList {
        self.strings.insert(0, first);
        self.point();
        self
    }

    /// The strings.
    pub fn strings(&self) -> &[CString] {
        &self.strings
    }

    fn point(&mut self) {
        self.pointers = self.strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect();
    }
}

/// Becomes the program at `path`. Returns only on failure.
pub fn execve(path: &CStr, args: &StringList, env: &StringList) -> io::Error {
    // SAFETY: both lists end in a null pointer, and the strings they point to live in the same value (`StringList::point`
    // runs after every change).
    unsafe { libc::execve(path.as_ptr(), args.pointers.as_ptr(), env.pointers.as_ptr()) };
    io::Error::last_os_error()
}

/// Becomes the program open as `file`. Returns only on failure.
pub fn execve_file(file: impl AsFd, args: &StringList, env: &StringList) -> io::Error {
    // SAFETY: as for `execve`; the path is an empty C string.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_fd().as_raw_fd(),
            c"".as_ptr(),
            args.pointers.as_ptr(),
            env.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// Ends the process at once: no destructors, no exit handlers. For a child of [`clone3`].
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` takes any number and does not return; nothing of this process is needed after it.
    unsafe { libc::_exit(code) }
}

/// Marks every descriptor from `first` on as closed at execve, known to us or not.
///
/// Kernel: close_range(2) with `CLOSE_RANGE_CLOEXEC`, Linux 5.11.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: nothing is closed now, so no owner of a descriptor is harmed; execve ends them all together.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// What a process inherits from its parent, as its `/proc/PID/status` tells, one bit each: 1 for signal 1 and for capability 0.
/// What is not known is as if all were set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inherited {
    /// Signals that are ignored. An execve keeps them so.
    pub ignored: u64,
    /// Signals that are blocked; likewise.
    pub blocked: u64,
    /// Capabilities of the bounding set.
    pub bounding: u64,
    /// Capabilities of the ambient set.
    pub ambient: u64,
    /// Capabilities that are held.
    pub permitted: u64,
    /// User and group, where all four of each are the same, and no other groups.
    pub only_ids: Option<(u32, u32)>,
}

impl Inherited {
    /// Nothing is known.
    pub const UNKNOWN: Inherited = Inherited {
        ignored: u64::MAX,
        blocked: u64::MAX,
        bounding: u64::MAX,
        ambient: u64::MAX,
        permitted: u64::MAX,
        only_ids: None,
    };

    /// From the text of a `status`.
    pub fn parse(status: &str) -> Inherited {
        let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        let mask = |name: &str| {
            line(name).and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(u64::MAX)
        };
        // Real, effective, saved, and that of file systems.
        let id = |name: &str| {
            let mut ids = line(name)?.split_ascii_whitespace();
            let first = ids.next()?;
            let rest: Vec<&str> = ids.collect();
            first.parse().ok().filter(|_| rest == [first; 3])
        };
        let alone = line("Groups:").is_some_and(|groups| groups.trim().is_empty());
        Inherited {
            ignored: mask("SigIgn:"),
            blocked: mask("SigBlk:"),
            bounding: mask("CapBnd:"),
            ambient: mask("CapAmb:"),
            permitted: mask("CapPrm:"),
            only_ids: id("Uid:").zip(id("Gid:")).filter(|_| alone),
        }
    }
}

/// Gives ignored signals their default action and unblocks blocked ones, as a new program expects it. Handlers are the
/// kernel's to forget.
pub fn reset_signals(inherited: &Inherited) {
    for signal in 1..=libc::SIGRTMAX() {
        if inherited.ignored >> (signal - 1) & 1 != 0 && signal != libc::SIGKILL && signal != libc::SIGSTOP {
            // SAFETY: the default action runs no code of ours.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
    if inherited.blocked == 0 {
        return;
    }
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset only writes the set, which has its size.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: the set was initialised by sigemptyset; a null old set asks for nothing back.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut()) };
}

/// The effective user and group that this program was started with, which the kernel left beside its arguments: no system
/// call. For who did not change them.
///
/// Docs: getauxval(3), `AT_EUID`, `AT_EGID`.
pub fn ids_at_start() -> (u32, u32) {
    let ids = [libc::AT_EUID, libc::AT_EGID].map(|name| {
        // SAFETY: reads what the C library found at the start; any number may be asked for.
        let id = unsafe { libc::getauxval(name) };
        u32::try_from(id).unwrap_or(u32::MAX)
    });
    (ids[0], ids[1])
}

/// Lets SIGTERM end this process until its next execve, also where it is process 1 of a PID namespace, to which the kernel
/// brings no signal that it does not handle.
pub fn end_at_sigterm() {
    extern "C" fn end(_: libc::c_int) {
        exit_now(128 + libc::SIGTERM)
    }
    let handler = end as extern "C" fn(libc::c_int);
    // SAFETY: the handler does nothing but leave by `_exit`, which may be called at any moment.
    unsafe { libc::signal(libc::SIGTERM, handler as libc::sighandler_t) };
}

/// Sends signal `number`, real-time ones too, to the process behind `pidfd`; 0 only asks whether it is there.
///
/// # Errors
///
/// `ESRCH` when it is gone, `EINVAL` for a number that is no signal.
///
/// Kernel: pidfd_send_signal(2), Linux 5.1.
pub fn send_signal(pidfd: impl AsFd, number: i32) -> io::Result<()> {
    let pidfd = pidfd.as_fd().as_raw_fd();
    // SAFETY: a null siginfo asks the kernel to fill it as kill(2) does; no memory of ours is touched.
    let result = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd, number, std::ptr::null::<libc::siginfo_t>(), 0)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets the execution domain, `PER_*`.
pub fn set_personality(domain: u32) -> io::Result<()> {
    // SAFETY: changes flags of this thread only, no memory.
    let result = unsafe { libc::personality(libc::c_ulong::from(domain)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets the I/O class (1 real time, 2 best effort, 3 idle) and level (0..7) of the caller.
pub fn set_io_priority(class: u32, level: u32) -> io::Result<()> {
    const WHO_PROCESS: libc::c_int = 1;
    // SAFETY: takes three numbers, changes no memory.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, class << 13 | level) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Takes descriptor `number`, inherited from whoever started this program.
///
/// # Errors
///
/// `EBADF` if nothing is open there.
pub fn borrow_inherited(number: i32) -> io::Result<BorrowedFd<'static>> {
    if number < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: only asks for flags; a number that is not open gives EBADF.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and inherited descriptors below 3 + preserved are never closed by this program.
    Ok(unsafe { BorrowedFd::borrow_raw(number) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_status_tells() {
        let text = "Name:\tx\nUid:\t0\t0\t0\t0\nGid:\t7\t7\t7\t7\nGroups:\t \nSigBlk:\t0000000000000000\n\
                    SigIgn:\t0000000000001001\nSigCgt:\t1\nCapPrm:\t00000000000000ff\nCapBnd:\t00000000000004ff\nCapAmb:\t0000000000000000\n";
        let expected = Inherited {
            ignored: 0x1001,
            blocked: 0,
            bounding: 0x4ff,
            ambient: 0,
            permitted: 0xff,
            only_ids: Some((0, 7)),
        };
        assert_eq!(Inherited::parse(text), expected);
        assert_eq!(Inherited::parse(""), Inherited::UNKNOWN);
        for other in [text.replace("7\t7\n", "7\t8\n"), text.replace("Groups:\t ", "Groups:\t0 ")] {
            assert_eq!(Inherited::parse(&other).only_ids, None, "{other}");
        }
    }

    #[test]
    fn several_threads_are_refused() {
        // The test harness runs this in a second thread.
        let error = clone3(0, false, None).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBUSY));
    }
}
