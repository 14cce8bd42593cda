//! Descriptors that have served, for a program that makes a container and is gone: closing each is a system call, and
//! there are dozens. Such a program [keeps](keep) them instead; the kernel closes them with the process, execve does because
//! they are close-on-exec, and [`close`] does it with few calls where what they lead to must not be in reach any more.
//!
//! Nobody else is served by that: without [`keep`] a spent descriptor is closed at once.
//!
//! Kernel: [close_range(2)](https://man7.org/linux/man-pages/man2/close_range.2.html), Linux 5.9.
#![allow(unsafe_code, reason = "rustix has no close_range")]

use std::os::fd::{IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Kept before they are closed together; below every default limit with what else is open.
const MAX: usize = 256;

static KEEP: AtomicBool = AtomicBool::new(false);
static SPENT: Mutex<Vec<OwnedFd>> = Mutex::new(Vec::new());

/// From now on [`spend`] keeps what it is given. For a program that is started for one thing and leaves.
pub fn keep() {
    KEEP.store(true, Ordering::Relaxed);
}

/// Takes a descriptor that nobody needs any more, close-on-exec.
pub fn spend(fd: OwnedFd) {
    if !KEEP.load(Ordering::Relaxed) {
        return drop(fd);
    }
    let mut spent = SPENT.lock().unwrap_or_else(PoisonError::into_inner);
    spent.push(fd);
    if spent.len() >= MAX {
        close_all(std::mem::take(&mut spent));
    }
}

/// Closes all that are kept. A process made by [`clone3`](crate::process::clone3) has its own copies of them.
pub fn close() {
    let spent = std::mem::take(&mut *SPENT.lock().unwrap_or_else(PoisonError::into_inner));
    close_all(spent);
}

/// Closes descriptors, those with numbers in a row in one call.
fn close_all(fds: Vec<OwnedFd>) {
    let mut numbers: Vec<RawFd> = fds.into_iter().map(IntoRawFd::into_raw_fd).collect();
    numbers.sort_unstable();
    let mut rest = numbers.as_slice();
    while let Some(&first) = rest.first() {
        let count = rest.iter().zip(first..).take_while(|&(&number, expected)| number == expected).count();
        let last = rest[count - 1];
        // SAFETY: every number from `first` to `last` was an owned descriptor, given up by `into_raw_fd` above.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        rest = &rest[count..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd as _;

    /// Whether `number` is still the file with this inode; another test may have taken the number.
    fn is_open(number: RawFd, inode: u64) -> bool {
        let now = crate::process::borrow_inherited(number).ok().and_then(|fd| rustix::fs::fstat(fd).ok());
        now.is_some_and(|stat| stat.st_ino == inode)
    }

    #[test]
    fn kept_until_closed_and_the_others_stay() {
        let pipes: Vec<_> = (0..6).map(|_| std::io::pipe().unwrap()).collect();
        let (spent, others): (Vec<_>, Vec<_>) = pipes.into_iter().map(|(r, w)| (OwnedFd::from(r), w)).unzip();
        let marks: Vec<_> =
            spent.iter().map(|fd| (fd.as_raw_fd(), rustix::fs::fstat(fd).unwrap().st_ino)).collect();
        let mut spent = spent.into_iter();
        spend(spent.next().unwrap());
        assert!(!is_open(marks[0].0, marks[0].1));
        keep();
        spent.for_each(spend);
        assert!(marks[1..].iter().all(|&(number, inode)| is_open(number, inode)));
        close();
        assert!(!marks.iter().any(|&(number, inode)| is_open(number, inode)));
        assert!(others.iter().all(|fd| rustix::fs::fstat(fd).is_ok()));
    }
}
