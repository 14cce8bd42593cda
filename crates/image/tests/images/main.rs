//! Images end to end: real blobs, real layers, a real database, real overlay mounts.
//!
//! Needs root for what unpacks and mounts. Needs no program and no package.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "the helpers of tests fail as tests do")]

mod arriving;
mod forge;
mod full;
mod import;
mod load;
mod names;
mod store;
