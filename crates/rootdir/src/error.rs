//! What goes wrong below a root.

use std::path::PathBuf;

/// Why an operation below a root failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused to open or resolve the path.
    #[error("open {path:?} in root")]
    Open { path: PathBuf, source: std::io::Error },
    /// The root itself could not be opened.
    #[error("open root {path:?}")]
    OpenRoot { path: PathBuf, source: std::io::Error },
    /// The kernel refused a step on a path that was resolved.
    #[error("{operation} {path:?} in root")]
    At { operation: &'static str, path: PathBuf, source: std::io::Error },
    /// The path names no entry of a directory: it is empty, the root, or ends in `..`.
    #[error("path {path:?} names no entry of a directory")]
    NoName { path: PathBuf },
    /// Something else stands there.
    #[error("{path:?} in root is not a {wanted}")]
    WrongType { path: PathBuf, wanted: &'static str },
    /// The file is larger than the reader takes.
    #[error("file {path:?} in root is larger than {max} bytes")]
    TooLarge { path: PathBuf, max: usize },
    /// The file is not UTF-8.
    #[error("file {path:?} in root is not UTF-8 text")]
    NotText { path: PathBuf },
}

impl errors::HasKind for Error {
    fn kind(&self) -> errors::Kind {
        use errors::Kind;
        match self {
            Error::Open { source, .. } | Error::OpenRoot { source, .. } | Error::At { source, .. } => {
                errors::io_kind(source)
            }
            Error::NoName { .. } | Error::WrongType { .. } | Error::NotText { .. } => Kind::InvalidArgument,
            Error::TooLarge { .. } => Kind::Exhausted,
        }
    }
}

impl Error {
    /// The kernel's errno, where the kernel refused.
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Error::Open { source, .. } | Error::OpenRoot { source, .. } | Error::At { source, .. } => {
                source.raw_os_error()
            }
            _ => None,
        }
    }

    /// Whether this is the kernel's `errno`.
    pub fn is_errno(&self, errno: rustix::io::Errno) -> bool {
        self.raw_os_error() == Some(errno.raw_os_error())
    }
}
