//! Whiteouts: which names are some, and what they do.

use super::metadata::os;
use super::name::Name;
use super::{Applier, Place, Whiteouts, at, io_at};
use crate::Error;
use crate::whiteout::{OPAQUE, PREFIX};
use rootdir::RootDir;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use std::collections::HashSet;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// AUFS kept notes of its own under such names; old images carry them.
const AUFS: &[u8] = b".wh..wh.";

/// Levels of a tree in which lower layers' entries are told from those of this layer; each holds a descriptor.
const MAX_DEPTH: usize = 256;

/// What a name says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Meaning<'n> {
    Ordinary,
    /// AUFS's own.
    Ignored,
    /// Hides this name in lower layers.
    Whiteout(&'n [u8]),
    Opaque,
}

/// Tells what `name` means in a layer.
///
/// # Errors
///
/// [`Error::Hostile`] when it would hide `.`, `..` or nothing, or lies below a whiteout.
pub(crate) fn classify(name: &Name) -> Result<Meaning<'_>, Error> {
    let hostile = |what| Err(Error::Hostile { path: name.path().into(), what });
    let Some((parent, leaf)) = name.split() else { return Ok(Meaning::Ordinary) };
    for part in parent.split(|&byte| byte == b'/') {
        if part.starts_with(AUFS) {
            return Ok(Meaning::Ignored);
        }
        if part.starts_with(PREFIX) {
            return hostile("it lies below a whiteout");
        }
    }
    if leaf == OPAQUE {
        return Ok(Meaning::Opaque);
    }
    let Some(hidden) = leaf.strip_prefix(PREFIX) else { return Ok(Meaning::Ordinary) };
    match hidden {
        b"" | b"." | b".." => hostile("whiteout of no name"),
        _ if leaf.starts_with(AUFS) => Ok(Meaning::Ignored),
        hidden => Ok(Meaning::Whiteout(hidden)),
    }
}

/// Whether `leaf` is overlay's whiteout.
pub(super) fn is_whiteout(dir: BorrowedFd<'_>, leaf: &[u8]) -> bool {
    rustix::fs::statat(dir, leaf, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
    })
}

/// Marks a directory so that overlay shows nothing of the lower layers in it. Takes `O_PATH` descriptors too.
pub(super) fn set_opaque(dir: BorrowedFd<'_>) -> Result<(), Errno> {
    let by_number = format!("/proc/self/fd/{}", dir.as_raw_fd());
    rustix::fs::setxattr(by_number, "trusted.overlay.opaque", b"y", XattrFlags::empty())
}

impl Applier<'_> {
    /// Hides `hidden` of the lower layers, not of this one.
    pub(super) fn whiteout(&mut self, name: &Name, parent: &[u8], hidden: &[u8]) -> Result<(), Error> {
        let path = name.path();
        let dir = self.parents.get(parent)?.fd();
        if self.options.whiteouts == Whiteouts::Remove {
            let is_gone =
                remove_lower(&self.made, dir, hidden, 0).map_err(|source| io_at("remove", path, source))?;
            if is_gone {
                let gone = if parent.is_empty() { hidden.to_vec() } else { [parent, b"/", hidden].concat() };
                self.forget(&gone);
            }
            self.parents.clear();
            return Ok(());
        }
        let device = rustix::fs::makedev(0, 0);
        match rustix::fs::mknodat(dir, hidden, FileType::CharacterDevice, Mode::empty(), device) {
            Ok(()) => Ok(()),
            // This layer has put something there: a file hides what is below anyway, a directory must be opaque for it.
            Err(Errno::EXIST) => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                match rustix::fs::openat(dir, hidden, flags, Mode::empty()) {
                    Ok(fd) => set_opaque(fd.as_fd()).map_err(|e| at("setxattr", path, e)),
                    Err(Errno::NOTDIR | Errno::LOOP) => Ok(()),
                    Err(e) => Err(at("openat", path, e)),
                }
            }
            Err(e) => Err(at("mknodat", path, e)),
        }
    }

    /// Hides all that lower layers have in `parent`.
    pub(super) fn opaque(&mut self, name: &Name, parent: &[u8]) -> Result<(), Error> {
        let path = name.path();
        let dir = self.parents.get(parent)?.fd();
        if self.options.whiteouts != Whiteouts::Remove {
            return set_opaque(dir).map_err(|e| at("setxattr", path, e));
        }
        for child in list(dir).map_err(|source| io_at("list", path, source))? {
            remove_lower(&self.made, dir, &child, 0).map_err(|source| io_at("remove", path, source))?;
        }
        self.parents.clear();
        Ok(())
    }
}

/// Removes `name`, unless this layer `made` or passed through it; then, of a directory, what the layer did not make.
/// Whether nothing is left.
fn remove_lower(
    made: &HashSet<Place>,
    dir: BorrowedFd<'_>,
    name: &[u8],
    depth: usize,
) -> std::io::Result<bool> {
    let stat = rustix::fs::fstat(dir)?;
    if !made.contains(&(stat.st_dev, stat.st_ino, name.to_vec())) {
        rootdir::remove_all_at(dir, os(name))?;
        return Ok(true);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inner = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => return Ok(false),
        Err(e) => return Err(e.into()),
    };
    if depth >= MAX_DEPTH {
        return Err(Errno::NAMETOOLONG.into());
    }
    for child in list(inner.as_fd())? {
        remove_lower(made, inner.as_fd(), &child, depth + 1)?;
    }
    Ok(false)
}

fn list(dir: BorrowedFd<'_>) -> std::io::Result<Vec<Vec<u8>>> {
    let root = RootDir::from_fd(dir.try_clone_to_owned()?);
    let names = root.list(Path::new(".")).map_err(std::io::Error::other)?;
    Ok(names.into_iter().map(|name| name.as_bytes().to_vec()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meanings() {
        let check = |raw: &str, expected: Option<Meaning<'_>>| {
            let name = Name::parse(raw.as_bytes()).unwrap();
            assert_eq!(classify(&name).ok(), expected, "{raw}");
        };
        check("a/b", Some(Meaning::Ordinary));
        check("a/.wh", Some(Meaning::Ordinary));
        check("a/.wh.b", Some(Meaning::Whiteout(b"b")));
        check(".wh..b", Some(Meaning::Whiteout(b".b")));
        check("a/.wh..wh..opq", Some(Meaning::Opaque));
        check(".wh..wh.plnk", Some(Meaning::Ignored));
        check(".wh..wh.plnk/12.34", Some(Meaning::Ignored));
        check("a/.wh..wh.aufs", Some(Meaning::Ignored));
        check(".wh.", None);
        check("a/.wh..", None);
        check("a/.wh...", None);
        check(".wh.../x", None);
        check(".wh.a/x", None);
        check(".wh.a/.wh.x", None);
    }
}
