//! Names by which a layer hides what lower layers have.
//!
//! Spec: image-spec, layer.md, "Whiteouts".

use rustix::fs::{FileType, Stat};

/// Whether this is overlay's own form of a whiteout: a character device 0:0.
pub(crate) fn is_overlay_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Names that start so hide the rest of the name in lower layers.
pub(crate) const PREFIX: &[u8] = b".wh.";

/// Hides everything that lower layers have in the directory that holds it.
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";
