//! Looking at what is there.

use crate::{Error, RootDir};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Room for the names that one `getdents64` call gives.
const DIRECTORY_BUFFER: usize = 32 * 1024;

impl RootDir {
    /// What is at `path`, symlinks followed inside the root.
    pub fn metadata(&self, path: &Path) -> Result<Stat, Error> {
        let fd = self.open_file(path, OFlags::PATH, Mode::empty())?;
        rustix::fs::fstat(&fd).map_err(|e| at("fstat", path, e))
    }

    /// What is at `path`; a symlink there is not followed.
    pub fn symlink_metadata(&self, path: &Path) -> Result<Stat, Error> {
        let fd = self.open_file(path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?;
        rustix::fs::fstat(&fd).map_err(|e| at("fstat", path, e))
    }

    /// Whether something is at `path`, symlinks followed inside the root.
    pub fn exists(&self, path: &Path) -> Result<bool, Error> {
        match self.open_file(path, OFlags::PATH, Mode::empty()) {
            Ok(_) => Ok(true),
            Err(error) if error.is_errno(Errno::NOENT) || error.is_errno(Errno::NOTDIR) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The text of the symlink `path`.
    pub fn read_link(&self, path: &Path) -> Result<PathBuf, Error> {
        let (parent, name) = self.open_parent(path)?;
        let text =
            rustix::fs::readlinkat(&parent, name, Vec::new()).map_err(|e| at("readlinkat", path, e))?;
        Ok(OsString::from_vec(text.into_bytes()).into())
    }

    /// Opens the regular file `path` for reading. A device or FIFO is never opened, only looked at.
    ///
    /// # Errors
    ///
    /// [`Error::WrongType`] when something else is there.
    pub fn open_regular(&self, path: &Path) -> Result<File, Error> {
        let wrong = || Error::WrongType { path: path.into(), wanted: "regular file" };
        let place = self.open_file(path, OFlags::PATH, Mode::empty())?;
        let seen = rustix::fs::fstat(&place).map_err(|e| at("fstat", path, e))?;
        if !FileType::from_raw_mode(seen.st_mode).is_file() {
            return Err(wrong());
        }
        // An O_PATH descriptor reopens only through /proc, which may be missing here. Who swaps the file now gets caught
        // by the comparison; a FIFO swapped in does not block.
        let fd = self.open_file(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty())?;
        let opened = rustix::fs::fstat(&fd).map_err(|e| at("fstat", path, e))?;
        if (opened.st_dev, opened.st_ino) != (seen.st_dev, seen.st_ino) {
            return Err(wrong());
        }
        Ok(File::from(fd))
    }

    /// Reads the regular file `path`, which may have at most `max` bytes.
    pub fn read_bounded(&self, path: &Path, max: usize) -> Result<Vec<u8>, Error> {
        let file = self.open_regular(path)?;
        let mut bytes = Vec::new();
        let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
        file.take(limit).read_to_end(&mut bytes).map_err(|source| Error::At {
            operation: "read",
            path: path.into(),
            source,
        })?;
        if bytes.len() > max {
            return Err(Error::TooLarge { path: path.into(), max });
        }
        Ok(bytes)
    }

    /// As [`RootDir::read_bounded`], for UTF-8 text.
    pub fn read_to_string_bounded(&self, path: &Path, max: usize) -> Result<String, Error> {
        String::from_utf8(self.read_bounded(path, max)?).map_err(|_| Error::NotText { path: path.into() })
    }

    /// The names in the directory `path`, sorted by bytes, without `.` and `..`.
    pub fn list(&self, path: &Path) -> Result<Vec<OsString>, Error> {
        let fd = self.open_file(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        list_at(fd.as_fd()).map_err(|source| Error::At { operation: "list", path: path.into(), source })
    }

    /// Removes the file or symlink `path`, not a directory. `false` when nothing was there.
    pub fn remove_file(&self, path: &Path) -> Result<bool, Error> {
        let (parent, name) = match self.open_parent(path) {
            Err(error) if error.is_errno(Errno::NOENT) => return Ok(false),
            other => other?,
        };
        match rustix::fs::unlinkat(&parent, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(e) => Err(at("unlinkat", path, e)),
        }
    }
}

/// The names in `directory`, which is open for reading, sorted by bytes, without `.` and `..`.
pub fn list_at(directory: BorrowedFd<'_>) -> std::io::Result<Vec<OsString>> {
    let mut buffer = [MaybeUninit::uninit(); DIRECTORY_BUFFER];
    let mut directory = RawDir::new(directory, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = directory.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn at(operation: &'static str, path: &Path, errno: Errno) -> Error {
    Error::At { operation, path: path.into(), source: errno.into() }
}
