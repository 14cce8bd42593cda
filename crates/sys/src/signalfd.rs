//! Signals as a descriptor, and any signal number through a pidfd.
//!
//! `unsafe`: the calls take C structures by address. Covers sigprocmask(2), signalfd(2), `pidfd_send_signal(2)`.

#![expect(unsafe_code, reason = "sigset_t is filled by C functions, and rustix knows no real-time signals")]

use errors::{HasKind, Kind};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A signal call that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The mask of this thread could not be changed.
    #[error("sigprocmask(SIG_BLOCK, {signals:?})")]
    Block { signals: Vec<i32>, source: io::Error },
    /// No descriptor for the signals.
    #[error("signalfd({signals:?})")]
    SignalFd { signals: Vec<i32>, source: io::Error },
    /// The process did not get the signal.
    #[error("pidfd_send_signal({signal})")]
    Send { signal: i32, source: io::Error },
}

impl HasKind for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Block { source, .. } | Error::SignalFd { source, .. } | Error::Send { source, .. } => {
                match source.raw_os_error() {
                    Some(libc::ESRCH) => Kind::WrongState,
                    Some(libc::EINVAL) => Kind::InvalidArgument,
                    Some(libc::EMFILE | libc::ENFILE) => Kind::Exhausted,
                    _ => errors::io_kind(source),
                }
            }
        }
    }
}

impl Error {
    /// Whether the process was gone already.
    pub fn is_gone(&self) -> bool {
        matches!(self, Error::Send { source, .. } if source.raw_os_error() == Some(libc::ESRCH))
    }
}

/// Blocks the signals numbered `signals` in the calling thread and gives a non-blocking, close-on-exec descriptor
/// that is readable while one is pending. A read takes it (`struct signalfd_siginfo`, 128 bytes each).
///
/// Programs spawned later inherit the mask unless the spawner clears it, as [`crate::spawn::spawn`] does.
///
/// # Errors
///
/// [`Error::Block`], [`Error::SignalFd`].
///
/// Kernel: [signalfd(2)](https://man7.org/linux/man-pages/man2/signalfd.2.html).
pub fn block(signals: &[i32]) -> Result<OwnedFd, Error> {
    let set = set_of(signals);
    // SAFETY: `set` was initialised by sigemptyset in `set_of`; a null old set asks for nothing back.
    let status = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    if status != 0 {
        return Err(Error::Block { signals: signals.to_vec(), source: io::Error::from_raw_os_error(status) });
    }
    // SAFETY: -1 asks for a new descriptor, and the set lives through the call.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
    if fd < 0 {
        return Err(Error::SignalFd { signals: signals.to_vec(), source: io::Error::last_os_error() });
    }
    // SAFETY: the kernel just made this descriptor for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends the signal numbered `signal`, real-time ones included, to the process behind `pidfd`.
///
/// # Errors
///
/// [`Error::Send`]: `ESRCH` when it is gone, `EINVAL` for a number that is no signal.
///
/// Kernel: [pidfd_send_signal(2)](https://man7.org/linux/man-pages/man2/pidfd_send_signal.2.html), 5.1 or newer.
pub fn send(pidfd: BorrowedFd<'_>, signal: i32) -> Result<(), Error> {
    let info: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: a null siginfo makes the kernel fill in what kill(2) would; the descriptor is borrowed, so open.
    let status = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, 0) };
    if status != 0 {
        return Err(Error::Send { signal, source: io::Error::last_os_error() });
    }
    Ok(())
}

/// The set with these members; numbers that are no signal are left out.
pub(crate) fn set_of(signals: &[i32]) -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the whole set it is given.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: initialised by the line above.
    let mut set = unsafe { set.assume_init() };
    for &signal in signals {
        // SAFETY: the set is initialised; a number out of range is refused with EINVAL and changes nothing.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    set
}
