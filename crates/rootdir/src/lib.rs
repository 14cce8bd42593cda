//! Paths below a directory handle. Whoever controls the tree below the handle (an image, a container) may put
//! symlinks anywhere; resolution treats the handle as `/`, so none of them leads out.
//!
//! Every function takes a path from the root, absolute or relative (both mean the same), and holds what it resolved as
//! a descriptor: nothing is looked up twice, so a rename between two steps changes nothing.
//!
//! Kernel: [openat2(2)](https://man7.org/linux/man-pages/man2/openat2.2.html), `RESOLVE_IN_ROOT`, Linux 5.6.

mod create;
mod error;
mod read;
mod remove;

pub use create::make_dir;
pub use error::Error;
pub use read::list_at;
pub use remove::remove_all_at;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

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

    /// A second handle on the same root.
    pub fn try_clone(&self) -> Result<RootDir, Error> {
        self.fd
            .try_clone()
            .map(RootDir::from_fd)
            .map_err(|source| Error::OpenRoot { path: "/".into(), source })
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
                Err(Errno::AGAIN | Errno::INTR) if tries < MAX_RETRIES => tries += 1,
                Err(e) => return Err(Error::Open { path: path.into(), source: e.into() }),
            }
        }
    }

    /// Opens the directory `path` as a place to work in (`O_PATH`), following symlinks inside the root.
    pub fn open_dir(&self, path: &Path) -> Result<OwnedFd, Error> {
        self.open_file(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
    }

    /// The directory `path`, as a root of its own.
    pub fn subroot(&self, path: &Path) -> Result<RootDir, Error> {
        self.open_dir(path).map(RootDir::from_fd)
    }

    /// Opens the directory that holds `path`, following symlinks inside the root, and gives the last name, on which
    /// nothing is followed.
    ///
    /// # Errors
    ///
    /// [`Error::NoName`] when `path` is the root, empty, or ends in `..`.
    pub fn open_parent<'p>(&self, path: &'p Path) -> Result<(OwnedFd, &'p OsStr), Error> {
        let (parent, name) = split(path)?;
        Ok((self.open_dir(parent)?, name))
    }
}

/// Splits off the last name, which must be a real one.
fn split(path: &Path) -> Result<(&Path, &OsStr), Error> {
    let mut components = path.components();
    match components.next_back() {
        Some(Component::Normal(name)) => Ok((components.as_path(), name)),
        _ => Err(Error::NoName { path: path.into() }),
    }
}

impl From<RootDir> for OwnedFd {
    fn from(root: RootDir) -> OwnedFd {
        root.fd
    }
}

impl AsFd for RootDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
