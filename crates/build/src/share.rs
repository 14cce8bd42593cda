//! Caches that are shared between machines: records of builds and their layers, at a registry, in an image, in a
//! directory of a client's.
//!
//! ```text
//! import   manifest and document are read when a build begins: keys and what they lead to, no layer
//!          a key that is known here is taken from here; else one that is known there is taken as it says
//! lent     such a layer stays where it is until somebody needs its files: a command that runs on it, a copy out of it,
//!          the image in the end. Then it is fetched and verified as those of images are
//!          what cannot be fetched, or is not what it should be, is given up, and its steps are done here
//! export   when the image is made: the records of all steps, and the layers of the image (`min`) or all (`max`)
//! ```
//!
//! Keys hold all that a step depends on, so a cache is as good as who made it: who can write it can put any files into
//! the images that are built with it. What is verified is that a layer is what its record says.

mod exporting;
pub(crate) mod format;
mod importing;
mod lent;
mod settings;
mod store;
mod trail;

pub(crate) use exporting::give_all;
pub use exporting::{Exported, export_cache};
pub use settings::{CacheFrom, CachePlace, CacheSettings, CacheTarget, CacheTo};
pub use store::{Arriving, BlobStore, receive_blob};

pub(crate) use importing::import;
pub(crate) use lent::Lent;
pub(crate) use trail::{Trail, Trodden};
