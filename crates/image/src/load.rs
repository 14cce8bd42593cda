//! Images from an archive.

use crate::Image;
use oci::Reference;

/// An image that was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    pub image: Image,
    /// The names that the archive gave it; none for an image known by its id only.
    pub references: Vec<Reference>,
}
