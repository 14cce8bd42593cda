//! Why the store was of no use.

use errors::Kind;
use std::io;

/// Why an operation on the store failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not `host:port`, with or without `http://` or `https://`.
    #[error("{address:?} is not the address of an etcd server, [http[s]://]HOST:PORT")]
    Address { address: String },
    /// It could not be reached, or did not answer in time.
    #[error("ask etcd at {address}")]
    Unavailable { address: String, source: io::Error },
    /// It said no.
    #[error("etcd at {address}: {message}")]
    Refused { address: String, message: String },
    /// What it said is not an answer.
    #[error("etcd answered no {what}")]
    Answer { what: String },
    /// What was to be listened to is no longer kept; everything must be read anew.
    #[error("etcd has forgotten what changed since")]
    Compacted,
}

impl errors::HasKind for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Address { .. } => Kind::InvalidArgument,
            Error::Unavailable { .. } | Error::Refused { .. } | Error::Compacted => Kind::Unavailable,
            Error::Answer { .. } => Kind::Internal,
        }
    }
}
