//! Writes EROFS images: uncompressed, the same bytes for the same calls, mostly front to back.
//!
//! ```text
//! block 0        superblock at 1024, the root's inode at 1152
//! block 1 ..     file data and chunks of metadata, in the order in which they came
//! ```
//!
//! The metadata area starts at block 0, so an inode may lie anywhere in the image and its number says where: the inode
//! of a file is written as soon as its content is, and what a caller must remember of it is one number. Only
//! directories wait for the end, because they name the numbers of their entries.
//!
//! An inode, its extended attributes and the tail of its content that fills no block lie together in one block where
//! they fit. Inodes are the extended ones: 32-bit owners, and a time of their own to the nanosecond.
//!
//! # Order of calls
//!
//! ```text
//! new ──> begin_file, content | hole .., end_file ──> Nid      for each file
//!     ──> node ──> Nid                                         symlinks, devices, FIFOs
//!     ──> place_root, place_directory ──> Place                when all other inodes are written
//!     ──> write_directory                                      for each
//!     ──> finish
//! ```
//!
//! Kernel: [Documentation/filesystems/erofs.rst](https://docs.kernel.org/filesystems/erofs.html); the structures are in
//! `fs/erofs/erofs_fs.h`.

mod directory;
mod format;
mod writer;
mod xattr;

pub use directory::{DirEntry, Layout};
pub use writer::{Attributes, Nid, Node, Place, Writer};
pub use xattr::Xattrs;

/// Why an image could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file refused a write.
    #[error("write image")]
    Write(#[from] std::io::Error),
    /// The format has no room for it.
    #[error("{what} does not fit in an EROFS image")]
    TooLarge { what: &'static str },
}
