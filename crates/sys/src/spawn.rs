//! Starting a program with three descriptors, and nothing else inherited that matters.
//!
//! `unsafe`: `posix_spawn` takes C structures by address. Covers `posix_spawn(3)`, `close_range(2)`.
//!
//! `std::process::Command` leaves the caller's signal mask in place, and an OCI runtime hands it on to the container:
//! a supervisor that blocks SIGTERM would then start containers that cannot be stopped.

#![expect(unsafe_code, reason = "posix_spawn and close_range are C calls that rustix does not have")]

use crate::signalfd::set_of;
use errors::{HasKind, Kind};
use rustix::process::Pid;
use std::ffi::{CString, OsStr};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// A program to start.
#[derive(Debug)]
pub struct Program<'a> {
    /// Path, not searched for.
    pub path: &'a OsStr,
    /// All arguments, the program's name first.
    pub args: &'a [&'a OsStr],
    /// `NAME=value`, all of them.
    pub env: &'a [&'a OsStr],
    pub stdin: BorrowedFd<'a>,
    pub stdout: BorrowedFd<'a>,
    pub stderr: BorrowedFd<'a>,
}

/// A program that did not start, or descriptors that did not close.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel did not start it, or not execute it.
    #[error("posix_spawn({program:?})")]
    Spawn { program: String, source: io::Error },
    /// A path, an argument or a variable holds a NUL byte.
    #[error("posix_spawn({program:?}): an argument holds a NUL byte")]
    Nul { program: String },
    /// A descriptor that a parent promised is not there.
    #[error("take inherited descriptor {number}")]
    Inherit { number: i32, source: io::Error },
    /// Inherited descriptors stay.
    #[error("close_range({first}, ~0)")]
    CloseRange { first: u32, source: io::Error },
}

impl HasKind for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Spawn { source, .. }
            | Error::CloseRange { source, .. }
            | Error::Inherit { source, .. } => errors::io_kind(source),
            Error::Nul { .. } => Kind::InvalidArgument,
        }
    }
}

/// Starts `program` with an empty signal mask, every signal at its default, and its three descriptors as 0, 1, 2.
/// Descriptors that are not close-on-exec are inherited too. The caller must reap the process.
///
/// Returns once the program executes: glibc shares memory with the child until then, so this costs no page-table copy.
/// None of the three descriptors may be 0, 1 or 2 unless it stays in its place.
///
/// # Errors
///
/// [`Error::Spawn`] with the errno of the clone or of the execve; [`Error::Nul`].
///
/// [posix_spawn(3)](https://man7.org/linux/man-pages/man3/posix_spawn.3.html).
pub fn spawn(program: &Program<'_>) -> Result<Pid, Error> {
    let name = || program.path.to_string_lossy().into_owned();
    let c_string = |s: &OsStr| CString::new(s.as_bytes()).map_err(|_| Error::Nul { program: name() });
    let path = c_string(program.path)?;
    let args = program.args.iter().map(|a| c_string(a)).collect::<Result<Vec<_>, _>>()?;
    let env = program.env.iter().map(|a| c_string(a)).collect::<Result<Vec<_>, _>>()?;
    let argv = pointers(&args);
    let envp = pointers(&env);
    let fail = |status| Error::Spawn { program: name(), source: io::Error::from_raw_os_error(status) };
    let actions = Actions::new([program.stdin, program.stdout, program.stderr]).map_err(fail)?;
    let attributes = Attributes::new().map_err(fail)?;
    let mut pid = 0;
    // SAFETY: both structures are initialised and live through the call; argv and envp are arrays of pointers into
    // `args` and `env`, which live as long, each ended by a null.
    let status = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            path.as_ptr(),
            &raw const actions.0,
            &raw const attributes.0,
            argv.as_ptr(),
            envp.as_ptr(),
        )
    };
    if status != 0 {
        return Err(fail(status));
    }
    Ok(Pid::from_raw(pid).expect("posix_spawn gives a positive pid"))
}

/// Closes every descriptor of this process from `first` up: what a parent leaked into a program that stays.
///
/// Only for the first line of `main`, when no value of this process owns a descriptor yet but 0, 1 and 2: one that is
/// owned would be closed under its owner.
///
/// # Errors
///
/// [`Error::CloseRange`]; `ENOSYS` before Linux 5.9.
///
/// Kernel: [close_range(2)](https://man7.org/linux/man-pages/man2/close_range.2.html).
pub fn close_inherited(first: u32) -> Result<(), Error> {
    // SAFETY: called at the start of `main` (see above), where the descriptors are the parent's leavings and no value
    // owns them; the call touches no memory.
    let status = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
    if status != 0 {
        return Err(Error::CloseRange { first, source: io::Error::last_os_error() });
    }
    Ok(())
}

/// Marks every descriptor of this process from `first` up close-on-exec: what a parent leaked into a program that spawns
/// others.
///
/// # Errors
///
/// [`Error::CloseRange`]; `EINVAL` before Linux 5.11.
///
/// Kernel: [close_range(2)](https://man7.org/linux/man-pages/man2/close_range.2.html), `CLOSE_RANGE_CLOEXEC`.
pub fn cloexec_inherited(first: u32) -> Result<(), Error> {
    // SAFETY: the call changes a flag of open descriptors; nothing is closed and no memory is touched.
    let status = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if status != 0 {
        return Err(Error::CloseRange { first, source: io::Error::last_os_error() });
    }
    Ok(())
}

/// Takes `count` descriptors from `first` up that a parent handed over on purpose, as systemd does, close-on-exec.
///
/// Once, at the start of the program, while nobody else can own them.
///
/// # Errors
///
/// [`Error::Inherit`] when one of them is not open.
pub fn take_inherited(first: i32, count: u32) -> Result<Vec<OwnedFd>, Error> {
    (first..)
        .take(count as usize)
        .map(|number| {
            // SAFETY: F_SETFD only changes a flag, and fails with EBADF on a number that is not open.
            if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
                return Err(Error::Inherit { number, source: io::Error::last_os_error() });
            }
            // SAFETY: open, as the line above found, and handed over to this process; the caller asks only once.
            Ok(unsafe { OwnedFd::from_raw_fd(number) })
        })
        .collect()
}

fn pointers(strings: &[CString]) -> Vec<*mut libc::c_char> {
    strings.iter().map(|s| s.as_ptr().cast_mut()).chain(std::iter::once(std::ptr::null_mut())).collect()
}

struct Actions(libc::posix_spawn_file_actions_t);

impl Actions {
    fn new(stdio: [BorrowedFd<'_>; 3]) -> Result<Actions, i32> {
        let mut raw = MaybeUninit::uninit();
        // SAFETY: init writes the whole structure, or fails and we do not read it.
        let status = unsafe { libc::posix_spawn_file_actions_init(raw.as_mut_ptr()) };
        if status != 0 {
            return Err(status);
        }
        // SAFETY: initialised by the call above.
        let mut actions = Actions(unsafe { raw.assume_init() });
        for (target, fd) in (0..).zip(stdio) {
            // SAFETY: the structure is initialised. The descriptors stay open until the spawn: the caller borrows.
            let status =
                unsafe { libc::posix_spawn_file_actions_adddup2(&raw mut actions.0, fd.as_raw_fd(), target) };
            if status != 0 {
                return Err(status);
            }
        }
        Ok(actions)
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: initialised in `new`, destroyed once, here.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    fn new() -> Result<Attributes, i32> {
        let mut raw = MaybeUninit::uninit();
        // SAFETY: init writes the whole structure, or fails and we do not read it.
        let status = unsafe { libc::posix_spawnattr_init(raw.as_mut_ptr()) };
        if status != 0 {
            return Err(status);
        }
        // SAFETY: initialised by the call above.
        let mut attributes = Attributes(unsafe { raw.assume_init() });
        let none = set_of(&[]);
        // SAFETY: both structures are initialised.
        unsafe { libc::posix_spawnattr_setsigmask(&raw mut attributes.0, &raw const none) };
        let all =
            set_of(&(1..32).filter(|s| ![libc::SIGKILL, libc::SIGSTOP].contains(s)).collect::<Vec<_>>());
        // SAFETY: both structures are initialised.
        unsafe { libc::posix_spawnattr_setsigdefault(&raw mut attributes.0, &raw const all) };
        let flags = libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF;
        let flags = libc::c_short::try_from(flags).expect("both flags fit a short");
        // SAFETY: the structure is initialised.
        let status = unsafe { libc::posix_spawnattr_setflags(&raw mut attributes.0, flags) };
        if status == 0 { Ok(attributes) } else { Err(status) }
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialised in `new`, destroyed once, here.
        unsafe { libc::posix_spawnattr_destroy(&raw mut self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{WaitOptions, waitpid};
    use std::io::Read as _;
    use std::os::fd::AsFd as _;

    fn status_of(script: &str) -> (Option<i32>, String) {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let null = std::fs::File::options().read(true).write(true).open("/dev/null").unwrap();
        let args = ["sh", "-c", script].map(OsStr::new);
        let program = Program {
            path: OsStr::new("/bin/sh"),
            args: &args,
            env: &[OsStr::new("A=b")],
            stdin: null.as_fd(),
            stdout: writer.as_fd(),
            stderr: null.as_fd(),
        };
        let pid = spawn(&program).unwrap();
        drop(writer);
        let mut out = String::new();
        reader.read_to_string(&mut out).unwrap();
        let (_, status) = waitpid(Some(pid), WaitOptions::empty()).unwrap().unwrap();
        (status.exit_status(), out)
    }

    #[test]
    fn runs_with_its_descriptors_and_environment() {
        assert_eq!(status_of("echo $A; exit 3"), (Some(3), "b\n".into()));
    }

    #[test]
    fn no_signal_stays_blocked() {
        let _fd = crate::signalfd::block(&[libc::SIGUSR1, libc::SIGUSR2]).unwrap();
        let (_, out) = status_of("grep SigBlk /proc/self/status");
        assert_eq!(out.trim(), "SigBlk:\t0000000000000000");
    }

    #[test]
    fn a_missing_program_is_said_at_once() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let program = Program {
            path: OsStr::new("/no/such/program"),
            args: &[],
            env: &[],
            stdin: null.as_fd(),
            stdout: null.as_fd(),
            stderr: null.as_fd(),
        };
        assert_eq!(spawn(&program).unwrap_err().kind(), Kind::NotFound);
    }
}
