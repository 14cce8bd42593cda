//! Making directories, files, symlinks and places to mount on.

use crate::{Error, RootDir, split};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Dangling symlinks on the way to a directory that is to be made; the kernel's own limit for links in a path.
const MAX_LINKS: u32 = 40;

/// Names tried for a temporary file.
const MAX_NAMES: u32 = 16;

/// What runc and Docker give directories and files that they make to mount on.
const MOUNTPOINT_MODE: u32 = 0o755;

impl RootDir {
    /// Makes `path` and what is missing above it, each with exactly `mode` whatever the umask, and opens it (`O_PATH`).
    ///
    /// Symlinks are followed inside the root, also dangling ones: where they point, directories are made. What exists
    /// keeps its mode.
    ///
    /// # Errors
    ///
    /// [`Error::Open`] with `ENOTDIR` when a file is in the way, `ELOOP` when links go round.
    pub fn create_dir_all(&self, path: &Path, mode: Mode) -> Result<OwnedFd, Error> {
        self.ensure_dir(path, |parent, name, _| make_dir(parent, name, mode))
    }

    /// As [`RootDir::create_dir_all`], but `make` makes each missing directory: it gets the open directory above, the
    /// name, and the path so far from the root (relative, and textual: it may pass through symlinks).
    ///
    /// `AlreadyExists` from `make` is not a failure.
    pub fn ensure_dir(
        &self,
        path: &Path,
        mut make: impl FnMut(BorrowedFd<'_>, &OsStr, &Path) -> std::io::Result<()>,
    ) -> Result<OwnedFd, Error> {
        let mut wanted = path.to_owned();
        for _ in 0..=MAX_LINKS {
            match self.open_dir(&wanted) {
                Err(error) if error.is_errno(Errno::NOENT) => {}
                done => return done,
            }
            if let Some(elsewhere) = self.make_missing(&wanted, &mut make)? {
                wanted = elsewhere;
            }
        }
        Err(Error::Open { path: path.into(), source: Errno::LOOP.into() })
    }

    /// Makes the missing directories of `path` up to its end, or up to a dangling symlink: then returns the path with
    /// the link's target in place of the link.
    fn make_missing(
        &self,
        path: &Path,
        make: &mut impl FnMut(BorrowedFd<'_>, &OsStr, &Path) -> std::io::Result<()>,
    ) -> Result<Option<PathBuf>, Error> {
        let at = |operation, path: &Path, source| Error::At { operation, path: path.into(), source };
        let mut here = self.open_dir(Path::new("."))?;
        let mut so_far = PathBuf::new();
        let mut components = path.components();
        // Below a directory that was just made there is nothing to resolve.
        let mut fresh = false;
        while let Some(component) = components.next() {
            let name = match component {
                Component::Normal(name) => name,
                Component::ParentDir => OsStr::new(".."),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => continue,
            };
            let next = so_far.join(name);
            if !fresh {
                match self.open_dir(&next) {
                    Ok(fd) => {
                        (here, so_far) = (fd, next);
                        continue;
                    }
                    Err(error) if error.is_errno(Errno::NOENT) => {}
                    Err(error) => return Err(error),
                }
            }
            match rustix::fs::readlinkat(&here, name, Vec::new()) {
                Ok(target) => {
                    let target = Path::new(OsStr::from_bytes(target.as_bytes()));
                    return Ok(Some(so_far.join(target).join(components.as_path())));
                }
                Err(Errno::NOENT) => {}
                // It came into being meanwhile: resolve again.
                Err(Errno::INVAL) => return Ok(None),
                Err(e) => return Err(at("readlinkat", &next, e.into())),
            }
            match make(here.as_fd(), name, &next) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(at("mkdirat", &next, error));
                }
                _ => {}
            }
            match open_child_dir(&here, name) {
                Ok(fd) => here = fd,
                Err(Errno::LOOP | Errno::NOTDIR | Errno::NOENT) => return Ok(None),
                Err(e) => return Err(at("openat", &next, e.into())),
            }
            so_far = next;
            fresh = true;
        }
        Ok(None)
    }

    /// Makes the file `path`, which must not exist (a symlink there counts as existing), open for writing.
    ///
    /// The mode is exactly `mode` whatever the umask.
    ///
    /// # Errors
    ///
    /// [`Error::At`] with `EEXIST` when something is there.
    pub fn create_file(&self, path: &Path, mode: Mode) -> Result<File, Error> {
        let (parent, name) = self.open_parent(path)?;
        create_new(parent.as_fd(), name, mode).map_err(|source| Error::At {
            operation: "create",
            path: path.into(),
            source,
        })
    }

    /// Puts `bytes` at `path` with exactly `mode`: readers see the old file or the new one, also after a power loss.
    ///
    /// A symlink at `path` is replaced, not followed. The file and its directory are synced.
    pub fn write_file_atomic(&self, path: &Path, bytes: &[u8], mode: Mode) -> Result<(), Error> {
        let (parent_path, name) = split(path)?;
        let at = |operation| move |source| Error::At { operation, path: path.into(), source };
        let parent = self.open_file(parent_path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        let (mut file, temporary) = create_temporary(parent.as_fd(), mode).map_err(at("create"))?;
        let written =
            file.write_all(bytes).and_then(|()| file.sync_all()).map_err(at("write")).and_then(|()| {
                rustix::fs::renameat(&parent, temporary.as_str(), &parent, name)
                    .map_err(|e| at("renameat")(e.into()))
            });
        if let Err(error) = written {
            // The first failure is the one to tell; what is left is a file with a name of ours.
            let _best_effort = rustix::fs::unlinkat(&parent, temporary.as_str(), AtFlags::empty());
            return Err(error);
        }
        rustix::fs::fsync(&parent).map_err(|e| at("fsync directory of")(e.into()))
    }

    /// Makes the symlink `path` with the text `target`, which is not looked at.
    pub fn symlink(&self, target: &Path, path: &Path) -> Result<(), Error> {
        let (parent, name) = self.open_parent(path)?;
        rustix::fs::symlinkat(target, parent, name).map_err(|e| Error::At {
            operation: "symlinkat",
            path: path.into(),
            source: e.into(),
        })
    }

    /// Makes sure that something of the right type is at `path` to mount on, and opens it (`O_PATH`): a directory, or
    /// an empty file. Missing directories and the file get mode 0755, as from other runtimes. Symlinks are followed inside the root.
    ///
    /// # Errors
    ///
    /// [`Error::WrongType`] when a directory is wanted and something else is there, or the reverse.
    pub fn mkdirs_for_mountpoint(&self, path: &Path, is_dir: bool) -> Result<OwnedFd, Error> {
        let mode = Mode::from_raw_mode(MOUNTPOINT_MODE);
        let fd = if is_dir {
            match self.create_dir_all(path, mode) {
                Err(error) if error.is_errno(Errno::NOTDIR) => {
                    return Err(Error::WrongType { path: path.into(), wanted: "directory" });
                }
                other => other?,
            }
        } else {
            self.ensure_file(path, mode)?
        };
        Ok(fd)
    }

    /// Opens (`O_PATH`) the non-directory at `path`, made if missing. Dangling symlinks are followed inside the root.
    fn ensure_file(&self, path: &Path, mode: Mode) -> Result<OwnedFd, Error> {
        let mut wanted = path.to_owned();
        for _ in 0..=MAX_LINKS {
            match self.open_file(&wanted, OFlags::PATH, Mode::empty()) {
                Err(error) if error.is_errno(Errno::NOENT) => {}
                Err(error) => return Err(error),
                Ok(fd) => {
                    let stat = rustix::fs::fstat(&fd).map_err(|e| Error::At {
                        operation: "fstat",
                        path: path.into(),
                        source: e.into(),
                    })?;
                    if FileType::from_raw_mode(stat.st_mode).is_dir() {
                        return Err(Error::WrongType { path: path.into(), wanted: "file" });
                    }
                    return Ok(fd);
                }
            }
            let (parent_path, name) = split(&wanted)?;
            let parent = self.create_dir_all(parent_path, Mode::from_raw_mode(MOUNTPOINT_MODE))?;
            match rustix::fs::readlinkat(&parent, name, Vec::new()) {
                Ok(target) => {
                    wanted = parent_path.join(Path::new(OsStr::from_bytes(target.as_bytes())));
                    continue;
                }
                Err(Errno::NOENT | Errno::INVAL) => {}
                Err(e) => {
                    return Err(Error::At { operation: "readlinkat", path: wanted, source: e.into() });
                }
            }
            match create_new(parent.as_fd(), name, mode) {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(Error::At { operation: "create", path: wanted, source }),
            }
        }
        Err(Error::Open { path: path.into(), source: Errno::LOOP.into() })
    }
}

/// Opens the directory `name` of `parent` (`O_PATH`), following nothing.
fn open_child_dir(parent: impl AsFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// Makes the directory `name`, one name, in `parent` with exactly `mode` whatever the umask.
pub fn make_dir(parent: BorrowedFd<'_>, name: &OsStr, mode: Mode) -> std::io::Result<()> {
    rustix::fs::mkdirat(parent, name, mode)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    Ok(rustix::fs::fchmod(fd, mode)?)
}

/// Makes the file `name`, which must not exist, with exactly `mode`.
fn create_new(parent: BorrowedFd<'_>, name: &OsStr, mode: Mode) -> std::io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(parent, name, flags, mode)?;
    rustix::fs::fchmod(&fd, mode)?;
    Ok(File::from(fd))
}

/// Makes a file with a name of its own.
fn create_temporary(parent: BorrowedFd<'_>, mode: Mode) -> std::io::Result<(File, String)> {
    let mut tries = 0;
    loop {
        let mut random = [0u8; 8];
        // Eight bytes come in one piece: getrandom(2) does not cut requests up to 256 bytes.
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let name = format!(".tmp-{:016x}", u64::from_ne_bytes(random));
        match create_new(parent, OsStr::new(&name), mode) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && tries < MAX_NAMES => {
                tries += 1
            }
            done => return done.map(|file| (file, name)),
        }
    }
}
