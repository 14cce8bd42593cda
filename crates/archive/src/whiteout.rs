//! Names by which a layer hides what lower layers have.
//!
//! Spec: image-spec, layer.md, "Whiteouts".

/// Names that start so hide the rest of the name in lower layers.
pub(crate) const PREFIX: &[u8] = b".wh.";

/// Hides everything that lower layers have in the directory that holds it.
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";
