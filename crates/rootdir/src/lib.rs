//! Paths below a directory handle. Whoever controls the tree below the handle (an image, a container) may put
//! symlinks anywhere; resolution treats the handle as `/`, so none of them leads out.
//!
//! Kernel: [openat2(2)](https://man7.org/linux/man-pages/man2/openat2.2.html), `RESOLVE_IN_ROOT`, Linux 5.6.

use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Why an operation below a root failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused to open or resolve the path.
    #[error("open {path:?} in root")]
    Open { path: PathBuf, source: std::io::Error },
    /// The root itself could not be opened.
    #[error("open root {path:?}")]
    OpenRoot { path: PathBuf, source: std::io::Error },
}

impl errors::HasKind for Error {
    fn kind(&self) -> errors::Kind {
        match self {
            Error::Open { source, .. } | Error::OpenRoot { source, .. } => errors::io_kind(source),
        }
    }
}

/// A directory that stands for `/`.
#[derive(Debug)]
pub struct RootDir {
    fd: OwnedFd,
}

/// `EAGAIN` means that a rename raced with the resolution of `..`; after this many the tree is being attacked.
const MAX_RETRIES: u32 = 64;

impl RootDir {
    /// Opens `path`, which the caller trusts, as a root.
    pub fn open(path: &Path) -> Result<RootDir, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty())
            .map(|fd| RootDir { fd })
            .map_err(|e| Error::OpenRoot { path: path.into(), source: e.into() })
    }

    /// Takes an open directory as a root.
    pub fn from_fd(fd: OwnedFd) -> RootDir {
        RootDir { fd }
    }

    /// Opens `path` (absolute or relative, both from the root), following symlinks inside the root only.
    ///
    /// `mode` counts only with `CREATE`. Close-on-exec is always set. Magic links are never followed.
    pub fn open_file(&self, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Error> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let path_or_dot = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let mut tries = 0;
        loop {
            match rustix::fs::openat2(&self.fd, path_or_dot, flags | OFlags::CLOEXEC, mode, resolve) {
                Ok(fd) => return Ok(fd),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) if tries < MAX_RETRIES => tries += 1,
                Err(e) => return Err(Error::Open { path: path.into(), source: e.into() }),
            }
        }
    }
}

impl AsFd for RootDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
