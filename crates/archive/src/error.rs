//! What goes wrong with an archive.

use std::path::PathBuf;

/// Why an archive could not be read, applied or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream below failed, or holds compressed bytes that do not decompress.
    #[error("read the archive")]
    Read { source: std::io::Error },
    /// The stream ended inside an entry.
    #[error("archive is truncated: it ends {wanted} at byte {offset}")]
    Truncated { wanted: &'static str, offset: u64 },
    /// Bytes that are no tar archive, or one that readers would understand in different ways.
    #[error("archive is malformed at byte {offset}: {what}")]
    Malformed { what: String, offset: u64 },
    /// A named maximum is passed.
    #[error("archive has more {what} than the {max} allowed")]
    TooLarge { what: &'static str, max: u64 },
    /// A format or entry that this build does not know.
    #[error("{what} is not supported")]
    Unsupported { what: String },
    /// An entry that only an attack explains.
    #[error("entry {path:?} refused: {what}")]
    Hostile { path: PathBuf, what: &'static str },
    /// An entry that the caller's options forbid.
    #[error("entry {path:?} refused: {what} is not allowed here")]
    Forbidden { path: PathBuf, what: &'static str },
    /// An entry belongs to somebody whom the caller's mapping of ids does not know.
    #[error("entry {path:?} belongs to {uid}:{gid}, which is not mapped in the container's user namespace")]
    Unmapped { path: PathBuf, uid: u32, gid: u32 },
    /// An entry would replace a directory by something else, or the reverse, which the caller's options forbid.
    #[error("cannot overwrite {} {path:?} with {}", kind(*there_is_dir), kind(!*there_is_dir))]
    OtherKind { path: PathBuf, there_is_dir: bool },
    /// The kernel refused a step on one entry.
    #[error("{operation} {path:?}")]
    Entry { operation: &'static str, path: PathBuf, source: std::io::Error },
    /// A path below the root could not be used.
    #[error("entry {path:?}")]
    Root { path: PathBuf, source: rootdir::Error },
    /// An entry could not be written into an image.
    #[error("image of {path:?}")]
    Image { path: PathBuf, source: erofs::Error },
    /// The consumer of a written archive refused bytes.
    #[error("write the archive")]
    Write { source: std::io::Error },
}

impl errors::HasKind for Error {
    fn kind(&self) -> errors::Kind {
        use errors::Kind;
        match self {
            Error::Read { source } | Error::Write { source } | Error::Entry { source, .. } => {
                errors::io_kind(source)
            }
            Error::Image { source: erofs::Error::Write(source), .. } => errors::io_kind(source),
            Error::Image { source: erofs::Error::TooLarge { .. }, .. } => Kind::Unsupported,
            Error::Truncated { .. } | Error::Malformed { .. } => Kind::DataLoss,
            Error::TooLarge { .. } => Kind::Exhausted,
            Error::Unsupported { .. } => Kind::Unsupported,
            Error::Hostile { .. } => Kind::Hostile,
            Error::OtherKind { .. } | Error::Unmapped { .. } => Kind::InvalidArgument,
            Error::Forbidden { .. } => Kind::Denied,
            Error::Root { source, .. } => source.kind(),
        }
    }
}

fn kind(is_dir: bool) -> &'static str {
    if is_dir { "directory" } else { "non-directory" }
}
