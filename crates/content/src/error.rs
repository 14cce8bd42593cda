//! Why a content operation failed.

use errors::Kind;
use oci::Digest;
use std::io;
use std::path::PathBuf;

/// Why a content operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No committed blob has this digest.
    #[error("blob {digest} not found")]
    NotFound { digest: Digest },
    /// The bytes do not hash to the digest promised.
    #[error("blob {expected} has digest {actual}")]
    DigestMismatch { expected: Digest, actual: Digest },
    /// The bytes are more or fewer than promised.
    #[error("blob has {actual} bytes, not the {expected} promised")]
    SizeMismatch { expected: u64, actual: u64 },
    /// The blob is larger than the reader takes.
    #[error("blob {digest} has {size} bytes, more than the {max} allowed")]
    TooLarge { digest: Digest, size: u64, max: u64 },
    /// The kernel refused an operation on the blob.
    #[error("{what} blob {digest}")]
    Blob { what: &'static str, digest: Digest, source: io::Error },
    /// The kernel refused an operation on a file or directory of the store.
    #[error("{what} {path:?}")]
    File { what: &'static str, path: PathBuf, source: io::Error },
}

impl errors::HasKind for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::NotFound { .. } => Kind::NotFound,
            Error::DigestMismatch { .. } | Error::SizeMismatch { .. } => Kind::DataLoss,
            Error::TooLarge { .. } => Kind::InvalidArgument,
            Error::Blob { source, .. } | Error::File { source, .. } => errors::io_kind(source),
        }
    }
}
