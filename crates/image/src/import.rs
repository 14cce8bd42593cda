//! Making an image of blobs.

use crate::{Lease, OnProgress};
use oci::{Descriptor, Platform, Reference};

/// An image to make.
#[expect(missing_debug_implementations, reason = "holds a callback")]
#[derive(Clone, Copy)]
pub struct Import<'a> {
    /// A manifest or an index, whose blobs are in the content store.
    pub target: &'a Descriptor,
    /// Chooses from an index. A manifest named directly is taken whatever its platform.
    pub platform: &'a Platform,
    /// Names to point at the image, each with a tag or a digest. A pull gives `repository:tag` and
    /// `repository@digest`, with the digest of `target`.
    pub references: &'a [Reference],
    /// Keeps the blobs and layers; one of its own when there is none.
    pub lease: Option<&'a Lease>,
    pub progress: OnProgress<'a>,
}
