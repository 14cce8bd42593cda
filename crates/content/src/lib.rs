//! The content store: blobs by digest.
//!
//! ```text
//! DIR/                      0700
//!   blobs/sha256/<hex>      committed: whole, synced, and hashing to its name
//!   ingest/<number>         being written; removed when the store is opened
//!   partial/<hex>           being written by who can go on later; removed when nobody has for a day
//!   trash/<number>          removed, to be deleted; emptied when the store is opened
//! ```
//!
//! A blob arrives through an [`Ingest`], which hashes what is written to it. [`Ingest::commit`] compares the hash with
//! what was promised, syncs the file, renames it to its digest and syncs the directory; an ingest dropped without that
//! leaves nothing. So a name below `blobs` is a promise, and the directory is the only record: no table can disagree
//! with it. Who needs a blob is recorded elsewhere (crate `metadata`).
//!
//! Invariants, by number: (C1) a committed blob matches its digest; (C2) a blob whose commit returned is there after a
//! power loss; (C3) an ingest that did not commit leaves nothing behind once the store has been opened again, but for one that was
//! begun by `ContentStore::resume`: what is there of it is hashed anew before anything is added, so that a wrong beginning
//! (a power loss may leave one) ends as a wrong digest, and is removed.

mod error;
mod follow;
mod ingest;
mod store;

pub use error::Error;
pub use follow::{Follower, Watch};
pub use ingest::Ingest;
pub use store::{ContentStore, PARTIAL_LIFE};
