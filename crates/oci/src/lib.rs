//! The words of the OCI specifications, as types that cannot be wrong: digests, references, platforms, and the
//! image and runtime documents. Text in, types out; nothing here opens a file or a socket.

pub mod digest;
pub mod id_map;
pub mod image;
pub mod platform;
pub mod reference;
pub mod runtime;
pub mod signal;

pub use digest::Digest;
pub use id_map::IdMap;
pub use image::Descriptor;
pub use platform::Platform;
pub use reference::Reference;
