//! Why a snapshot operation failed.

use errors::Kind;
use oci::Digest;
use std::io;
use std::path::PathBuf;

/// Why a snapshot operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No layer has this chain ID.
    #[error("layer {chain_id} not found")]
    LayerNotFound { chain_id: Digest },
    /// No writable snapshot has this key.
    #[error("snapshot {key} not found")]
    NotFound { key: String },
    /// The key is taken.
    #[error("snapshot {key} already exists")]
    AlreadyExists { key: String },
    /// The layers name each other in a circle, or are more than an image may have.
    #[error("layer {chain_id} has more than {max} layers below it")]
    TooDeep { chain_id: Digest, max: usize },
    /// The kernel refused an operation on a file or directory of the store.
    #[error("{what} {path:?}")]
    File { what: &'static str, path: PathBuf, source: io::Error },
    /// A directory could not be opened as a root.
    #[error("open layer directory")]
    Root(#[from] rootdir::Error),
    /// A layer that is an image could not be mounted.
    #[error("mount layer {number}")]
    MountLayer { number: u64, source: mount::Error },
    /// The image to try mounting with could not be written.
    #[error("write an image to try")]
    Probe { source: archive::Error },
    /// What a snapshot takes cannot be limited.
    #[error("storage driver {driver} cannot limit the size of a container's changes")]
    NoQuota { driver: &'static str },
    /// The driver needs a file system that this is not.
    #[error("{path:?} is not on Btrfs")]
    NotBtrfs { path: PathBuf },
    /// The mount failed.
    #[error("mount snapshot {key}")]
    Mount { key: String, source: mount::Error },
    /// The unmount failed.
    #[error("unmount snapshot")]
    Unmount { source: mount::Error },
    /// The record could not be read or written.
    #[error("record of snapshots")]
    Metadata(#[from] metadata::Error),
}

impl Error {
    /// What a person can do about it, where there is something.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Error::Mount { source, .. } | Error::MountLayer { source, .. } | Error::Unmount { source } => {
                source.hint()
            }
            Error::Metadata(source) => source.hint(),
            Error::NoQuota { .. } => Some(
                "put the data root on ext4 or XFS that is mounted with `prjquota`, or use `--storage-driver btrfs` on Btrfs",
            ),
            _ => None,
        }
    }
}

impl errors::HasKind for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::LayerNotFound { .. } | Error::NotFound { .. } => Kind::NotFound,
            Error::AlreadyExists { .. } => Kind::AlreadyExists,
            Error::TooDeep { .. } => Kind::DataLoss,
            Error::File { source, .. } => errors::io_kind(source),
            Error::Root(source) => source.kind(),
            Error::Mount { source, .. } | Error::MountLayer { source, .. } | Error::Unmount { source } => {
                source.kind()
            }
            Error::NotBtrfs { .. } | Error::NoQuota { .. } => Kind::Unsupported,
            Error::Probe { source } => source.kind(),
            Error::Metadata(source) => source.kind(),
        }
    }
}
