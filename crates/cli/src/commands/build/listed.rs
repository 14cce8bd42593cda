//! Sending of a directory only what the daemon does not have: all files are told, and it answers which it wants.
//!
//! A file is as it was when kind, mode, size and time of change are. A small directory is sent whole: that is one request
//! less. So is one with names that are not UTF-8 text, and everything where the daemon does not know this way.

use crate::blocking::upload;
use crate::body;
use crate::error::{Error, Result};
use crate::http::{Client, Path};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use serde::Deserialize;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Files and bytes up to which a directory is sent whole.
const SMALL_FILES: usize = 100;
const SMALL_BYTES: i64 = 1 << 20;
/// The deepest directory that is looked into.
const MAX_DEPTH: usize = 400;
/// Bytes of a file that are sent together.
const PIECE: usize = 256 << 10;
/// Ends the content.
const END: u32 = u32::MAX;

type Text<T> = std::result::Result<T, String>;
/// Says which names go in: relative, and whether it is a directory.
pub(super) type Keep = dyn Fn(&FilePath, bool) -> bool + Send + Sync;

/// A directory whose files were told.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) token: String,
    root: PathBuf,
    /// Numbers and paths of the files that are wanted.
    wanted: Vec<(u32, String)>,
    /// How many were told.
    told: usize,
}

#[derive(Deserialize)]
struct Answer {
    token: String,
    wanted: Vec<(u32, u32)>,
}

/// What came of telling.
#[derive(Default)]
struct Told {
    paths: Vec<String>,
    /// A name cannot be told.
    is_strange: bool,
}

/// Tells the daemon of all files below `root`. None where it has to be sent whole.
pub(super) async fn tell(client: &Client, root: &FilePath, keep: Arc<Keep>) -> Result<Option<Listed>> {
    let failed = |source| Error::File { doing: "open build context", path: root.into(), source };
    let absolute = std::path::absolute(root).map_err(failed)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(&absolute, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
    if is_small(fd.as_fd(), &*keep) {
        return Ok(None);
    }
    let stat = rustix::fs::fstat(&fd).map_err(|e| failed(e.into()))?;
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    // Which directory of which machine.
    let key = format!("{} {} {} {}", boot.trim(), stat.st_dev, stat.st_ino, absolute.display());
    let path = Path::new(&["brig", "context"]).query("key", &key);
    let told = Arc::new(Mutex::new(Told::default()));
    let body = {
        let told = told.clone();
        upload(move |out| {
            let mut found = Told::default();
            let inside = Inside::begin();
            let done = walk(fd.as_fd(), "", 0, &*keep, inside.as_ref(), &mut |path, stat, fd| {
                let is_told = match path {
                    Some(path) => entry(out, path, stat, fd, inside.as_ref())?,
                    None => false,
                };
                found.is_strange = !is_told;
                let path = path.filter(|_| is_told).ok_or("a name is not UTF-8 text")?;
                found.paths.push(path.to_string());
                Ok(())
            });
            drop(inside);
            let done = done.and_then(|()| out.write_all(&[0, 0]).map_err(|e| e.to_string()));
            *told.lock().unwrap_or_else(PoisonError::into_inner) = found;
            done
        })
    };
    let sent = client
        .request_stream(hyper::Method::POST, &path, "application/vnd.brig.context", body::streamed(body))
        .await;
    let told = std::mem::take(&mut *told.lock().unwrap_or_else(PoisonError::into_inner));
    let answer: Answer = match sent {
        Ok(response) => client.json(&path, response).await?,
        Err(_) if told.is_strange => return Ok(None),
        // A daemon that knows nothing of it.
        Err(Error::Api { status: 404 | 405 | 501, .. }) => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut wanted = Vec::new();
    for (first, count) in answer.wanted {
        for number in first..first.saturating_add(count) {
            let path = usize::try_from(number).ok().and_then(|n| told.paths.get(n));
            let path = path.ok_or_else(|| {
                Error::Reported(format!("the daemon wants file {number}, of which it was not told"))
            })?;
            wanted.push((number, path.clone()));
        }
    }
    Ok(Some(Listed { token: answer.token, root: absolute, wanted, told: told.paths.len() }))
}

impl Listed {
    /// What there is to send, for a person.
    pub(super) fn shown(&self) -> String {
        format!("transferring context: {} of {} files", self.wanted.len(), self.told)
    }

    /// Sends the content of what is wanted.
    pub(super) fn send(&self, out: &mut dyn Write) -> Text<()> {
        let mut piece = vec![0; PIECE];
        for (number, path) in &self.wanted {
            let whole = self.root.join(path);
            let failed = |e: std::io::Error| format!("read {}: {e}", whole.display());
            let flags =
                OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
            let mut file: std::fs::File =
                rustix::fs::open(&whole, flags, Mode::empty()).map_err(|e| failed(e.into()))?.into();
            loop {
                let length = file.read(&mut piece).map_err(failed)?;
                let told = u32::try_from(length).map_err(|e| e.to_string())?;
                let mut put = |bytes: &[u8]| out.write_all(bytes).map_err(|e| e.to_string());
                put(&number.to_be_bytes())?;
                put(&told.to_be_bytes())?;
                put(&piece[..length])?;
                if length == 0 {
                    break;
                }
            }
        }
        out.write_all(&END.to_be_bytes()).map_err(|e| e.to_string())
    }
}

/// A working directory of this thread's own: attributes of a file are asked for by its name in it, as there is no call that takes
/// a directory, and a way through `/proc` costs more than the answer. Goes back when it is dropped.
#[derive(Debug)]
struct Inside {
    before: OwnedFd,
}

impl Inside {
    /// None where the thread cannot have one.
    fn begin() -> Option<Inside> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let before = rustix::fs::open(".", flags, Mode::empty()).ok()?;
        sys::thread_fs::unshare_fs().ok()?;
        Some(Inside { before })
    }

    fn enter(&self, directory: BorrowedFd<'_>) -> std::result::Result<(), Errno> {
        rustix::process::fchdir(directory)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        // Nobody else of this thread's looks at relative names where this fails.
        let _stays = rustix::process::fchdir(&self.before);
    }
}

/// What is told of a file: its path where that is text, and an `O_PATH` descriptor's worth of looking at it.
type Visit<'a> = dyn FnMut(Option<&str>, &Stat, (BorrowedFd<'_>, &std::ffi::OsStr)) -> Text<()> + 'a;

/// Shows everything below a directory that is kept, parents first, siblings by name.
fn walk(
    fd: BorrowedFd<'_>,
    path: &str,
    depth: usize,
    keep: &Keep,
    inside: Option<&Inside>,
    visit: &mut Visit<'_>,
) -> Text<()> {
    let failed = |path: &str, e: std::io::Error| format!("read {path:?} of the build context: {e}");
    if depth > MAX_DEPTH {
        return Err(format!("directories are nested deeper than {MAX_DEPTH}: {path}"));
    }
    let enter = || inside.map_or(Ok(()), |inside| inside.enter(fd)).map_err(|e| failed(path, e.into()));
    enter()?;
    for name in rootdir::list_at(fd).map_err(|e| failed(path, e))? {
        let stat = match rustix::fs::statat(fd, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(e) => return Err(failed(path, e.into())),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        let lossy = name.to_string_lossy();
        let below = if path.is_empty() { lossy.into_owned() } else { format!("{path}/{lossy}") };
        if !keep(FilePath::new(&below), kind.is_dir()) || kind.is_socket() {
            continue;
        }
        visit(name.to_str().map(|_| below.as_str()), &stat, (fd, &name))?;
        if kind.is_dir() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let inner: OwnedFd = match rustix::fs::openat(fd, &name, flags, Mode::empty()) {
                Ok(inner) => inner,
                Err(e) => return Err(failed(&below, e.into())),
            };
            walk(inner.as_fd(), &below, depth + 1, keep, inside, visit)?;
            enter()?;
        }
    }
    Ok(())
}

/// Whether there is so little that it is sent whole.
fn is_small(fd: BorrowedFd<'_>, keep: &Keep) -> bool {
    let (mut files, mut bytes) = (0, 0);
    // Opened anew: a descriptor knows how far it was read, and this one is read again.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(own) = rustix::fs::openat(fd, ".", flags, Mode::empty()) else { return true };
    let looked = walk(own.as_fd(), "", 0, keep, None, &mut |_, stat, _| {
        files += 1;
        bytes += stat.st_size;
        if files > SMALL_FILES || bytes > SMALL_BYTES { Err("enough".into()) } else { Ok(()) }
    });
    looked.is_ok()
}

/// Writes what is told of one file. False where that cannot be told, since it is not text.
fn entry(
    out: &mut dyn Write,
    path: &str,
    stat: &Stat,
    (dir, name): (BorrowedFd<'_>, &std::ffi::OsStr),
    inside: Option<&Inside>,
) -> Text<bool> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    let failed = |e: Errno| format!("read {path:?} of the build context: {e}");
    let link = match kind {
        FileType::Symlink => {
            let bytes = rustix::fs::readlinkat(dir, name, Vec::new()).map_err(failed)?.into_bytes();
            let Ok(text) = String::from_utf8(bytes) else { return Ok(false) };
            text
        }
        _ => String::new(),
    };
    let attributes = if kind.is_file() { attributes(dir, name, inside).map_err(failed)? } else { Vec::new() };
    let length = |n: usize| u16::try_from(n).map_err(|_| format!("{path:?} has a name that is too long"));
    let modified = stat.st_mtime.saturating_mul(1_000_000_000);
    let modified = modified.saturating_add(i64::try_from(stat.st_mtime_nsec).unwrap_or(0));
    let mut bytes = Vec::with_capacity(64 + path.len());
    bytes.extend(length(path.len())?.to_be_bytes());
    bytes.extend(path.as_bytes());
    bytes.extend(stat.st_mode.to_be_bytes());
    bytes.extend(stat.st_size.to_be_bytes());
    bytes.extend(modified.to_be_bytes());
    bytes.extend(length(link.len())?.to_be_bytes());
    bytes.extend(link.as_bytes());
    bytes.push(u8::try_from(attributes.len()).map_err(|_| format!("{path:?} has too many attributes"))?);
    for (name, value) in attributes {
        bytes.push(u8::try_from(name.len()).map_err(|e| e.to_string())?);
        bytes.extend(name.as_bytes());
        bytes.extend(u32::try_from(value.len()).map_err(|e| e.to_string())?.to_be_bytes());
        bytes.extend(value);
    }
    out.write_all(&bytes).map_err(|e| e.to_string())?;
    Ok(true)
}

/// The attributes that are copied at all: file capabilities and the user's own.
fn attributes(
    dir: BorrowedFd<'_>,
    name: &std::ffi::OsStr,
    inside: Option<&Inside>,
) -> std::result::Result<Vec<(String, Vec<u8>)>, Errno> {
    use std::os::fd::AsRawFd as _;
    let path = match inside {
        Some(_) => name.as_bytes().to_vec(),
        None => [format!("/proc/self/fd/{}/", dir.as_raw_fd()).as_bytes(), name.as_bytes()].concat(),
    };
    // Most files have none.
    let mut names = Vec::new();
    let length = loop {
        match rustix::fs::llistxattr(path.as_slice(), names.as_mut_slice()) {
            Ok(0) => return Ok(Vec::new()),
            // With no room it says how much there is.
            Ok(length) if length > names.len() => names.resize(length, 0),
            Ok(length) => break length,
            Err(Errno::RANGE) if names.len() < 1 << 20 => names.resize(names.len() * 4, 0),
            // A file that has gone is asked for and missed.
            Err(Errno::OPNOTSUPP | Errno::NOENT) => return Ok(Vec::new()),
            Err(e) => return Err(e),
        }
    };
    let mut out = Vec::new();
    for name in names[..length].split(|b| *b == 0) {
        let Ok(text) = std::str::from_utf8(name) else { continue };
        if text != "security.capability" && !text.starts_with("user.") {
            continue;
        }
        let mut value = vec![0; 64 << 10];
        match rustix::fs::lgetxattr(path.as_slice(), text, &mut value) {
            Ok(length) => {
                value.truncate(length);
                out.push((text.to_string(), value));
            }
            Err(Errno::NODATA) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small(dir: &FilePath, keep: &Keep) -> bool {
        let fd = rustix::fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        is_small(fd.as_fd(), keep)
    }

    #[test]
    fn what_is_ignored_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("many")).unwrap();
        for n in 0..=SMALL_FILES {
            std::fs::write(dir.path().join(format!("many/{n}")), "").unwrap();
        }
        assert!(!small(dir.path(), &|_, _| true));
        let fd = rustix::fs::open(dir.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        is_small(fd.as_fd(), &|_, _| true);
        let mut seen = 0;
        let mut count = |_: Option<&str>, _: &Stat, _: (BorrowedFd<'_>, &std::ffi::OsStr)| {
            seen += 1;
            Ok(())
        };
        walk(fd.as_fd(), "", 0, &|_, _| true, None, &mut count).unwrap();
        assert_eq!(seen, SMALL_FILES + 2, "looking does not use it up");
        assert!(small(dir.path(), &|path, _| path != FilePath::new("many")));
        std::fs::File::create(dir.path().join("large")).unwrap().set_len(2 << 20).unwrap();
        assert!(!small(dir.path(), &|path, _| path != FilePath::new("many")));
    }

    #[test]
    fn entries_have_the_servers_form() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "abc").unwrap();
        std::os::unix::fs::symlink("to", dir.path().join("l")).unwrap();
        let fd = rustix::fs::open(dir.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let mut out = Vec::new();
        let mut both = Vec::new();
        let before = std::env::current_dir().unwrap();
        for inside in [None, Inside::begin()] {
            out.clear();
            let own =
                rustix::fs::openat(&fd, ".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
            walk(own.as_fd(), "", 0, &|_, _| true, inside.as_ref(), &mut |path, stat, fd| {
                assert!(entry(&mut out, path.unwrap(), stat, fd, inside.as_ref())?);
                Ok(())
            })
            .unwrap();
            both.push(out.clone());
        }
        assert_eq!(both[0], both[1]);
        assert_eq!(std::env::current_dir().unwrap(), before);
        assert_eq!(out[..3], *b"\0\x01f");
        // Path, mode, size, time, no link, no attributes; then the next.
        let second = 2 + 1 + 4 + 8 + 8 + 2 + 1;
        assert_eq!(out[7..15], 3_i64.to_be_bytes());
        assert_eq!(out[second..second + 3], *b"\0\x01l");
        assert_eq!(out[second + 23..], *b"\0\x02to\0");
    }
}
