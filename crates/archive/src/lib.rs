//! Tar layers. A layer's bytes come from a registry or a client and are hostile: our own reader is strict (what two
//! readers would understand differently is refused), every length has a named maximum, and what is applied goes below
//! a directory handle, by descriptors only.

mod apply;
mod changes;
mod compression;
mod error;
mod files;
mod hashing;
#[cfg(test)]
mod hello_world;
mod image;
mod members;
mod pack;
mod read_ahead;
mod tar;
mod verify;
mod whiteout;

pub use apply::{Applied, Options, Whiteouts, apply};
pub use changes::{Change, ChangeKind, Delta, changes, write_changes};
pub use compression::{Compression, Compressor, Decompressor, compress, decompress};
pub use error::Error;
pub use files::Files;
pub use hashing::Hashing;
pub use image::write_image;
pub use members::{Member, clean_name, members};
pub use pack::{PackOptions, Packed, diff, pack, pack_kept};
pub use read_ahead::{Ahead, read_ahead};
pub use verify::verify;
