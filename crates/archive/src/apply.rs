//! Applies a tar stream below a root directory.

use crate::Error;
use rootdir::RootDir;
use std::io::Read;

/// What a whiteout entry (`.wh.NAME`, `.wh..wh..opq`) becomes.
///
/// Spec: image-spec, layer.md, "Whiteouts".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whiteouts {
    /// Overlay's own form, for a directory that will be an overlay layer: a character device 0:0, and the extended
    /// attribute `trusted.overlay.opaque=y`.
    Overlay,
    /// What lower layers left there is removed, for a directory that holds a whole tree.
    Remove,
    /// Nothing special: such names are ordinary names. For archives that are no layers (copy, add, import).
    Keep,
}

/// How an archive is applied.
#[derive(Debug, Clone)]
pub struct Options {
    pub whiteouts: Whiteouts,
    /// Refuse character and block devices (whiteouts are not counted among them).
    pub forbid_devices: bool,
    /// Give files the owners that the archive names; else they belong to the caller.
    pub keep_owner: bool,
    /// The most entries that are applied.
    pub max_entries: u64,
    /// The most bytes that are read from the tar stream, headers and padding included.
    pub max_bytes: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            whiteouts: Whiteouts::Overlay,
            forbid_devices: false,
            keep_owner: true,
            max_entries: MAX_ENTRIES,
            max_bytes: MAX_BYTES,
        }
    }
}

/// The largest public images have about a million files; ten times that still fits a layer's inodes in memory.
const MAX_ENTRIES: u64 = 10_000_000;

/// No layer on public registries comes near; a bomb of 1 MiB of gzip gives 1 GiB.
const MAX_BYTES: u64 = 256 << 30;

/// What an archive amounted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// Entries applied, whiteouts included.
    pub entries: u64,
    /// Bytes of file content written.
    pub bytes: u64,
    /// Bytes of the tar stream, to its very end.
    pub tar_bytes: u64,
}

/// Applies `tar`, an uncompressed tar stream, below `root`, and reads `tar` to its end, trailing bytes included, so
/// that a hashing reader around it sees all of it.
pub fn apply<R: Read>(tar: R, root: &RootDir, options: &Options) -> Result<Applied, Error> {
    drop((tar, root, options.clone()));
    Err(Error::Unsupported { what: "applying".into() })
}
