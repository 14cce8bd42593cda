//! Removing images, by Docker's rules and in Docker's words.

use crate::ImageId;
use std::fmt;

/// How an image is removed.
#[derive(Clone, Copy)]
pub struct Remove<'a> {
    /// Also when several references or stopped containers stand against it.
    pub force: bool,
    /// Leave untagged parents. Images here have no parents; kept for Docker's interface.
    pub no_prune: bool,
    /// The containers that were made from an image.
    pub users: &'a dyn Fn(&ImageId) -> Vec<User>,
}

impl fmt::Debug for Remove<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remove").field("force", &self.force).finish_non_exhaustive()
    }
}

/// A container that was made from an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub container_id: String,
    pub running: bool,
}

/// One thing that a removal did, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A reference, as Docker shows it.
    Untagged(String),
    /// An image's id or a layer's chain ID.
    Deleted(String),
}
