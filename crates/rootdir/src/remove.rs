//! Recursive removal by descriptors: no symlink is followed, no mount is entered, and neither depth nor width of a
//! hostile tree decides how many descriptors or how much stack are used.

use crate::{Error, RootDir};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags};
use rustix::io::Errno;
use std::ffi::{CStr, CString, OsStr};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Directories above the current one that stay open. Deeper ones are found again through `..`.
const MAX_OPEN: usize = 64;

/// Subdirectories remembered per directory and pass, so that a wide tree does not fill the memory.
const MAX_PENDING: usize = 4096;

/// Passes over a directory in which entries keep appearing before giving up with `ENOTEMPTY`.
const MAX_PASSES: u32 = 64;

/// Room for the names that one `getdents64` call gives.
const DIRECTORY_BUFFER: usize = 32 * 1024;

impl RootDir {
    /// Removes `path` and everything below it. Nothing there is no failure. A symlink is removed, not followed.
    ///
    /// Directories without permissions are no hindrance to root, nor to their owner. A mount point below is never
    /// entered: the removal stops there with `EXDEV` or `EBUSY`.
    pub fn remove_all(&self, path: &Path) -> Result<(), Error> {
        let (parent, name) = match self.open_parent(path) {
            Err(error) if error.is_errno(Errno::NOENT) || error.is_errno(Errno::NOTDIR) => return Ok(()),
            other => other?,
        };
        remove_all_at(parent.as_fd(), name).map_err(|source| Error::At {
            operation: "remove",
            path: path.into(),
            source,
        })
    }
}

/// Removes the entry `name` of the directory `parent` and everything below it; see [`RootDir::remove_all`].
///
/// `name` must be one name: with a `/`, or as `.` or `..`, it is refused with `InvalidInput`.
pub fn remove_all_at(parent: BorrowedFd<'_>, name: &OsStr) -> std::io::Result<()> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    let name = CString::new(bytes)?;
    if remove_shallow(parent, &name, FileType::Unknown)? {
        return Ok(());
    }
    Removal { base: parent, frames: Vec::new() }.run(name)
}

/// Removes what is not a directory, and empty directories. `false` when it is a directory with something in it.
fn remove_shallow(parent: BorrowedFd<'_>, name: &CStr, kind: FileType) -> std::io::Result<bool> {
    if kind != FileType::Directory {
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(true),
            Err(Errno::ISDIR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        // It was a directory when it was listed.
        Err(Errno::NOTDIR) if kind == FileType::Directory => remove_shallow(parent, name, FileType::Unknown),
        Err(e) => Err(e.into()),
    }
}

/// A directory that is being emptied.
struct Frame {
    /// `None` while the removal is deeper than [`MAX_OPEN`] below.
    fd: Option<OwnedFd>,
    /// Device and inode, to know the directory again.
    id: (u64, u64),
    name: CString,
    /// Subdirectories with something in them, seen in the last pass.
    pending: Vec<CString>,
    passes: u32,
}

struct Removal<'a> {
    base: BorrowedFd<'a>,
    /// From the top down.
    frames: Vec<Frame>,
}

impl Removal<'_> {
    fn run(mut self, name: CString) -> std::io::Result<()> {
        self.descend(name)?;
        while let Some(frame) = self.frames.last_mut() {
            match frame.pending.pop() {
                Some(child) => self.descend(child)?,
                None => self.finish()?,
            }
        }
        Ok(())
    }

    /// The open directory at the end of `frames`.
    fn here(&self) -> BorrowedFd<'_> {
        match self.frames.last() {
            Some(frame) => frame.fd.as_ref().expect("the deepest directory is always open").as_fd(),
            None => self.base,
        }
    }

    /// Enters the subdirectory `name` and removes what is easy in it.
    fn descend(&mut self, name: CString) -> std::io::Result<()> {
        let fd = match open_directory(self.here(), &name) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(()),
            // Swapped for something else since it was listed.
            Err(Errno::NOTDIR | Errno::LOOP) => {
                return remove_shallow(self.here(), &name, FileType::Unknown).map(|_| ());
            }
            Err(e) => return Err(e.into()),
        };
        let id = identity(fd.as_fd())?;
        let pending = sweep(fd.as_fd())?;
        if self.frames.len() > MAX_OPEN
            && let Some(above) = self.frames.last_mut()
        {
            above.fd = None;
        }
        self.frames.push(Frame { fd: Some(fd), id, name, pending, passes: 0 });
        Ok(())
    }

    /// Removes the deepest directory, which should be empty now, or sweeps it again.
    fn finish(&mut self) -> std::io::Result<()> {
        let Some(mut frame) = self.frames.pop() else { return Ok(()) };
        let fd = frame.fd.take().expect("the deepest directory is always open");
        if let Some(above) = self.frames.last_mut()
            && above.fd.is_none()
        {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let up = rustix::fs::openat(&fd, "..", flags, Mode::empty())?;
            if identity(up.as_fd())? != above.id {
                // Someone moved the directory that we are in; what is above it now is not ours to remove.
                return Err(Errno::STALE.into());
            }
            above.fd = Some(up);
        }
        if remove_shallow(self.here(), &frame.name, FileType::Directory)? {
            return Ok(());
        }
        // More subdirectories than one pass remembers, or someone adds entries while we remove them.
        let progress = sweep_progress(&mut frame, fd.as_fd())?;
        if !progress && frame.passes > MAX_PASSES {
            return Err(Errno::NOTEMPTY.into());
        }
        frame.passes += 1;
        frame.fd = Some(fd);
        self.frames.push(frame);
        Ok(())
    }
}

/// Sweeps again; whether there are subdirectories to go through.
fn sweep_progress(frame: &mut Frame, fd: BorrowedFd<'_>) -> std::io::Result<bool> {
    rustix::fs::seek(fd, rustix::fs::SeekFrom::Start(0))?;
    frame.pending = sweep(fd)?;
    Ok(frame.pending.len() == MAX_PENDING)
}

/// Opens a subdirectory, entering no mount and following no link.
fn open_directory(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
    let open = || rustix::fs::openat2(parent, name, flags, Mode::empty(), resolve);
    match open() {
        // Not root: an owner may give himself the permissions. fchmod(2) does not take O_PATH descriptors and
        // fchmodat(2) cannot refuse symlinks before Linux 6.6, so the way leads through /proc.
        Err(Errno::ACCESS) => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let place = rustix::fs::openat(parent, name, flags, Mode::empty())?;
            let by_number = format!("/proc/self/fd/{}", place.as_raw_fd());
            rustix::fs::chmod(by_number, Mode::RWXU).map_err(|_| Errno::ACCESS)?;
            open()
        }
        other => other,
    }
}

fn identity(fd: BorrowedFd<'_>) -> std::io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(fd)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Removes all entries of a directory that are not directories with something in them; returns the names of those.
fn sweep(fd: BorrowedFd<'_>) -> std::io::Result<Vec<CString>> {
    let mut buffer = [MaybeUninit::uninit(); DIRECTORY_BUFFER];
    let mut directory = RawDir::new(fd, &mut buffer);
    let mut pending = Vec::new();
    while let Some(entry) = directory.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        if !remove_shallow(fd, name, entry.file_type())? {
            pending.push(name.to_owned());
            if pending.len() == MAX_PENDING {
                break;
            }
        }
    }
    Ok(pending)
}
