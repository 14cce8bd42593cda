//! Making and finding mount targets below the container's root, by descriptor.

use rootdir::RootDir;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

/// The errno of a `rootdir` error.
fn errno(error: rootdir::Error) -> Errno {
    error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

/// `path` without `.`, `..` and doubled slashes, absolute. Lexical, as runtimes have always cleaned destinations; symlinks
/// are met later, inside the root.
pub(crate) fn clean(path: &str) -> PathBuf {
    let mut out = PathBuf::from("/");
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    out
}

/// Opens `path`, following links inside the root.
pub(crate) fn open(root: &RootDir, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    root.open_file(path, flags, Mode::empty()).map_err(errno)
}

/// Opens `path` without reading it.
pub(crate) fn find(root: &RootDir, path: &Path) -> Result<OwnedFd, Errno> {
    root.open_file(path, OFlags::PATH, Mode::empty()).map_err(errno)
}

/// As [`find`], but a symlink at the end is opened itself.
pub(crate) fn find_no_follow(root: &RootDir, path: &Path) -> Result<OwnedFd, Errno> {
    root.open_file(path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()).map_err(errno)
}

/// Opens the directory `path`, which is [`clean`], and makes what is missing of it with mode 0755. A link that leads to where
/// nothing is yet is followed below the root.
///
/// Each part is made beside the descriptor of its parent and opened without following, so a link that appears in
/// between makes nothing elsewhere: it is read, and followed from the root (CVE-2024-45310).
pub(crate) fn ensure_directory(root: &RootDir, path: &Path) -> Result<OwnedFd, Errno> {
    directory(root, path, MAX_LINKS)
}

fn directory(root: &RootDir, path: &Path, links: u32) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    match root.open_file(path, flags, Mode::empty()).map_err(errno) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let Some((parent, name)) = path.parent().zip(path.file_name()) else { return Err(Errno::NOENT) };
    let below = directory(root, parent, links)?;
    match rustix::fs::mkdirat(&below, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(e),
    }
    match rustix::fs::openat(&below, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Err(e @ (Errno::NOTDIR | Errno::LOOP)) => {
            let path = link(&below, parent, name).ok_or(e)?;
            directory(root, &path, links.checked_sub(1).ok_or(Errno::LOOP)?)
        }
        other => other,
    }
}

/// Where the link `name` in `directory`, which is `path`, leads, as a path below the root; lexically.
fn link(directory: &OwnedFd, path: &Path, name: &std::ffi::OsStr) -> Option<PathBuf> {
    let to = rustix::fs::readlinkat(directory, name, Vec::new()).ok()?;
    Some(clean(path.join(to.to_str().ok()?).to_str()?))
}

/// As many as the kernel follows.
const MAX_LINKS: u32 = 40;

/// Opens `path`, which is [`clean`], and makes an empty file if there is nothing. A link that leads to where nothing is yet, as
/// images have at `/etc/resolv.conf`, is followed below the root, and the file is made there.
pub(crate) fn ensure_file(root: &RootDir, path: &Path) -> Result<OwnedFd, Errno> {
    file(root, path, MAX_LINKS)
}

fn file(root: &RootDir, path: &Path, links: u32) -> Result<OwnedFd, Errno> {
    match find(root, path) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let Some((parent, name)) = path.parent().zip(path.file_name()) else { return Err(Errno::ISDIR) };
    let below = ensure_directory(root, parent)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
    match rustix::fs::openat(&below, name, flags, Mode::from_raw_mode(0o755)) {
        Ok(new) => drop(new),
        // Or someone was faster.
        Err(Errno::EXIST) => {
            let path = link(&below, parent, name).ok_or(Errno::EXIST)?;
            return file(root, &path, links.checked_sub(1).ok_or(Errno::LOOP)?);
        }
        Err(e) => return Err(e),
    }
    rustix::fs::openat(&below, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// The type of an open file.
pub(crate) fn file_type(fd: impl AsFd) -> Result<FileType, Errno> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode))
}

/// Whether `fd` is the character device `major`:`minor`.
pub(crate) fn is_device(fd: impl AsFd, kind: FileType, major: u32, minor: u32) -> Result<bool, Errno> {
    let stat = rustix::fs::fstat(fd)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == kind && stat.st_rdev == rustix::fs::makedev(major, minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned() {
        let check = |path: &str, want: &str| assert_eq!(clean(path), Path::new(want), "{path:?}");
        check("/a//b/./c", "/a/b/c");
        check("a/../../b", "/b");
        check("/..", "/");
        check("", "/");
    }

    #[test]
    fn nothing_is_made_outside() {
        let outside = tempfile::tempdir().unwrap();
        let inside = tempfile::tempdir().unwrap();
        let root = RootDir::open(inside.path()).unwrap();
        std::os::unix::fs::symlink(outside.path(), inside.path().join("link")).unwrap();
        std::os::unix::fs::symlink("/nowhere", inside.path().join("dangling")).unwrap();
        // The absolute link leads below the root, where its target is missing and is made.
        assert!(ensure_directory(&root, Path::new("/link/x")).is_ok());
        let name = outside.path().strip_prefix("/").unwrap();
        assert!(inside.path().join(name).join("x").is_dir());
        assert!(ensure_file(&root, Path::new("/dangling")).is_ok());
        assert!(inside.path().join("nowhere").is_file() && !Path::new("/nowhere").exists());
        std::os::unix::fs::symlink("../../run/x/y", inside.path().join("deep")).unwrap();
        assert!(ensure_file(&root, Path::new("/deep")).is_ok() && inside.path().join("run/x/y").is_file());
        assert_eq!(ensure_directory(&root, Path::new("/nowhere/x")).unwrap_err(), Errno::NOTDIR);
        std::os::unix::fs::symlink("loop", inside.path().join("loop")).unwrap();
        assert_eq!(ensure_file(&root, Path::new("/loop")).unwrap_err(), Errno::LOOP);
        assert!(ensure_directory(&root, Path::new("/a/b/c")).is_ok());
        assert!(ensure_file(&root, Path::new("/a/f")).is_ok());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}
