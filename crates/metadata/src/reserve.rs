//! Blocks kept aside for the moment the disk is full.
//!
//! Deleting a record appends to the write-ahead log, which needs space: without a reserve, a full disk could not be
//! emptied. The file is given up when a deletion fails for want of space and made again once there is some.

use std::fs::File;
use std::path::{Path, PathBuf};

/// Size of the reserve: several hundred pages of log, and room for the directory entries of the trash.
const RESERVE_BYTES: u64 = 2 << 20;

/// The reserve file of one data root.
#[derive(Debug)]
pub(crate) struct Reserve {
    path: PathBuf,
}

impl Reserve {
    pub(crate) fn new(dir: &Path) -> Reserve {
        Reserve { path: dir.join("reserve") }
    }

    /// Whether the blocks are in use elsewhere.
    pub(crate) fn is_spent(&self) -> bool {
        !self.path.exists()
    }

    /// Gives the blocks back to the file system. Says whether there were any.
    pub(crate) fn release(&self) -> bool {
        std::fs::remove_file(&self.path).is_ok()
    }

    /// Takes the blocks again where they are missing. Failure means that the disk is (nearly) full, which others
    /// will report better; the next call tries again.
    pub(crate) fn restore(&self) {
        if std::fs::metadata(&self.path).is_ok_and(|m| m.len() == RESERVE_BYTES) {
            return;
        }
        let taken = File::create(&self.path).and_then(|file| {
            let flags = rustix::fs::FallocateFlags::empty();
            rustix::fs::fallocate(&file, flags, 0, RESERVE_BYTES).map_err(std::io::Error::from)
        });
        if taken.is_err() {
            self.release();
        }
    }
}
