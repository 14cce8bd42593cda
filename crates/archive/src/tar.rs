//! The tar format: header blocks, extended headers, sparse maps, a strict reader and a writer.
//!
//! Read: ustar, the old V7 layout, GNU (long names, base-256 numbers, sparse files) and PAX. Where GNU tar and Go's
//! reader (Docker's) disagree on what bytes mean, the archive is refused: two readers that see two archives are how
//! content is smuggled past a scanner.
//!
//! Format: [pax(1)](https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html), "pax Interchange Format" and
//! "ustar Interchange Format"; GNU tar manual, "Basic Tar Format" and "Sparse Formats".

mod header;
mod pax;
mod reader;
mod writer;

pub(crate) use reader::Reader;
pub(crate) use writer::Writer;

/// Bytes in a header, and what content is padded to.
pub(crate) const BLOCK: usize = 512;

/// Longest name and link target: `PATH_MAX` without its NUL.
pub(crate) const MAX_PATH: usize = 4095;

/// What kind of thing an entry makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryKind {
    File,
    Directory,
    Symlink,
    Hardlink,
    CharDevice,
    BlockDevice,
    Fifo,
}

/// A time of last change. Before 1970 `seconds` is negative; `nanoseconds` always count forward, below 10^9.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Timestamp {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

/// Name and value of an extended attribute.
pub(crate) type Xattr = (Vec<u8>, Vec<u8>);

/// One entry, its extended headers already taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// As written: may be absolute, have `..`, end in `/`. Not empty, without NUL, at most [`MAX_PATH`].
    pub(crate) path: Vec<u8>,
    /// Target of a symlink or hard link, likewise; empty for other kinds.
    pub(crate) link: Vec<u8>,
    pub(crate) kind: EntryKind,
    /// Permission bits with setuid, setgid and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timestamp,
    /// Size of the file once written, holes included.
    pub(crate) size: u64,
    /// Major and minor number of a device.
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<Xattr>,
    /// Where the content goes, ascending and without overlap: offset and length. `None`: one piece from 0.
    pub(crate) sparse: Option<Vec<(u64, u64)>>,
}
