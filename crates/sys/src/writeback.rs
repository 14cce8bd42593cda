//! Sending what is written on its way to disk while more is written, so that a sync at the end finds little to wait for.
//!
//! Kernel: [sync_file_range(2)](https://man7.org/linux/man-pages/man2/sync_file_range.2.html).
#![allow(unsafe_code, reason = "rustix has no such call")]

use std::os::fd::{AsRawFd, BorrowedFd};

/// Bytes that are sent at a time. Large enough to be one stretch on disk, small enough that the last of it is quick.
const PIECE: u64 = 8 << 20;

/// How far the beginning of a file is on its way.
#[derive(Debug, Default)]
pub struct Writeback {
    started: u64,
}

impl Writeback {
    /// Says that `file` has been written up to byte `end`. Promises nothing: only a sync tells that bytes are on disk, and
    /// what fails here fails there.
    pub fn written(&mut self, file: BorrowedFd<'_>, end: u64) {
        if end < self.started.saturating_add(PIECE) {
            return;
        }
        let (Ok(from), Ok(length)) = (i64::try_from(self.started), i64::try_from(end - self.started)) else {
            return;
        };
        // SAFETY: takes a descriptor, which `file` keeps open, and numbers; no memory of ours.
        let _promises_nothing =
            unsafe { libc::sync_file_range(file.as_raw_fd(), from, length, libc::SYNC_FILE_RANGE_WRITE) };
        self.started = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn pieces_are_sent_once() {
        let mut writeback = Writeback::default();
        // Nothing that could be sent: nobody is told.
        let null = std::fs::File::open("/dev/null").unwrap();
        for (end, started) in
            [(0, 0), (PIECE - 1, 0), (PIECE + 5, PIECE + 5), (2 * PIECE, PIECE + 5), (u64::MAX, PIECE + 5)]
        {
            writeback.written(null.as_fd(), end);
            assert_eq!(writeback.started, started, "{end}");
        }
    }
}
