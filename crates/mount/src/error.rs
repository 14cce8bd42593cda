//! Why a mount operation failed.

use errors::Kind;
use std::io;
use std::path::PathBuf;

/// Why a mount operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call of the overlay mount failed. `log` is what the kernel wrote about it, in brackets, or empty.
    #[error("mount overlay on {target:?}: {call}{log}")]
    Overlay { target: PathBuf, call: String, log: String, hint: Option<&'static str>, source: io::Error },
    /// A file system image could not be mounted. `call` ends with what the kernel wrote about it.
    #[error("mount image {image:?} on {target:?}: {call}")]
    Image { image: PathBuf, target: PathBuf, call: String, source: io::Error },
    /// A bind mount failed.
    #[error("bind {source_path:?} on {target:?}: {call}")]
    Bind { source_path: PathBuf, target: PathBuf, call: &'static str, source: io::Error },
    /// A private tree of mounts could not be made.
    #[error("make a view of {base:?}: {call}")]
    View { base: PathBuf, call: &'static str, source: io::Error },
    /// A file system named by type and device was not mounted.
    #[error("mount {device:?} of type {kind:?} on {target:?}")]
    FileSystem { kind: String, device: String, target: PathBuf, source: io::Error },
    /// The kernel refused to unmount.
    #[error("unmount {target:?}")]
    Unmount { target: PathBuf, source: io::Error },
    /// The list of mounts could not be read.
    #[error("read {path:?}")]
    Read { path: PathBuf, source: io::Error },
    /// A line of the list of mounts is not of the form that proc(5) gives.
    #[error("mountinfo line {line:?} is malformed")]
    Malformed { line: String },
}

impl Error {
    /// What a person can do about it, where there is something.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Error::Overlay { hint, .. } => *hint,
            _ => None,
        }
    }
}

impl errors::HasKind for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Overlay { source, .. } | Error::FileSystem { source, .. }
                if source.raw_os_error() == Some(libc_errno::ENODEV) =>
            {
                Kind::Unsupported
            }
            Error::Image { source, .. }
                if matches!(source.raw_os_error(), Some(libc_errno::ENODEV | libc_errno::ENOTBLK)) =>
            {
                Kind::Unsupported
            }
            Error::Overlay { source, .. }
            | Error::Image { source, .. }
            | Error::Bind { source, .. }
            | Error::View { source, .. }
            | Error::FileSystem { source, .. }
            | Error::Unmount { source, .. }
            | Error::Read { source, .. } => errors::io_kind(source),
            Error::Malformed { .. } => Kind::Internal,
        }
    }
}

/// Error numbers that `std::io::ErrorKind` has no name for.
mod libc_errno {
    pub(super) const ENODEV: i32 = rustix::io::Errno::NODEV.raw_os_error();
    /// This kernel's EROFS takes block devices only.
    pub(super) const ENOTBLK: i32 = rustix::io::Errno::NOTBLK.raw_os_error();
}
