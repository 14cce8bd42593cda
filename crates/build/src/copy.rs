//! COPY and ADD: files from a root to a place in another.

use crate::adopt::Later;
use crate::chmod::Chmod;
use crate::error::{During, Error, IoDuring};
use crate::hash::attributes;
use crate::select::{Entry, Filter, Pick, walk};
use rootdir::RootDir;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// What directories that have to be made get.
const DIRECTORY_MODE: u32 = 0o755;

/// Where files go and what becomes of them there.
#[derive(Debug)]
pub(crate) struct Target<'a> {
    pub(crate) root: &'a RootDir,
    /// Absolute, clean, without the slash in front.
    pub(crate) path: String,
    /// It ends in a slash: a directory is meant.
    pub(crate) is_directory: bool,
    /// `None` keeps the owner.
    pub(crate) owner: Option<(u32, u32)>,
    pub(crate) chmod: Option<Chmod>,
}

/// A file that stands in the Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inline {
    pub(crate) name: String,
    pub(crate) content: String,
}

/// Reads a destination: joined with the working directory, and whether it ends in a slash.
pub(crate) fn destination(working_dir: &str, text: &str) -> (String, bool) {
    let is_directory = text.ends_with('/') || text.ends_with("/.") || text == "." || text.ends_with("/..");
    let whole = if text.starts_with('/') { text.to_string() } else { format!("{working_dir}/{text}") };
    (crate::select::clean(&whole), is_directory)
}

impl Target<'_> {
    /// Copies a picked file into place, or the contents of a picked directory. `below` is a directory below the target.
    pub(crate) fn put(&self, pick: &Pick, filter: Filter<'_>, below: &str) -> Result<(), Error> {
        self.put_most(pick, filter, below, None)
    }

    /// As [`Target::put`], but for what `later` wants to be left.
    pub(crate) fn put_most(
        &self,
        pick: &Pick,
        filter: Filter<'_>,
        below: &str,
        later: Option<&mut Later>,
    ) -> Result<(), Error> {
        let base = if below.is_empty() {
            self.path.clone()
        } else {
            crate::select::clean(&format!("{}/{below}", self.path))
        };
        if pick.is_dir() {
            return self.put_contents(pick, filter, &base, later);
        }
        let (dir, name) = self.place_of_file(&base, pick.name(), !below.is_empty())?;
        let doing = || format!("copy {}", pick.path);
        if !FileType::from_raw_mode(pick.stat.st_mode).is_file() {
            return self.put_special(dir.as_fd(), OsStr::new(&name), &pick.stat, &pick.path);
        }
        let source = pick.open().io_during(doing)?;
        self.put_file(source, &pick.stat, dir.as_fd(), OsStr::new(&name), doing)
    }

    /// Writes a file of the Dockerfile into place.
    pub(crate) fn put_inline(&self, inline: &Inline) -> Result<(), Error> {
        let (dir, name) = self.place_of_file(&self.path, &inline.name, false)?;
        let doing = || format!("write {}", inline.name);
        let mut file = self.create(dir.as_fd(), OsStr::new(&name)).io_during(doing)?;
        file.write_all(inline.content.as_bytes()).io_during(doing)?;
        let mode = self.chmod.as_ref().map_or(0o644, |c| c.apply(0o644, false));
        let (uid, gid) = self.owner.unwrap_or((0, 0));
        set(&file, uid, gid, mode).io_during(doing)
    }

    /// Unpacks a tar archive into the target, which is made if it is missing.
    pub(crate) fn unpack(&self, archive: impl Read + Send, what: &str) -> Result<(), Error> {
        let doing = || format!("unpack {what}");
        let dir = self.directory(&self.path)?;
        let options = archive::Options {
            whiteouts: archive::Whiteouts::Keep,
            owner: self.owner,
            ..archive::Options::default()
        };
        archive::apply(archive::decompress(archive).during(doing)?, &RootDir::from_fd(dir), &options)
            .during(doing)?;
        Ok(())
    }

    /// Makes what is missing of a directory and opens it.
    pub(crate) fn directory(&self, path: &str) -> Result<OwnedFd, Error> {
        let (uid, gid) = self.owner.unwrap_or((0, 0));
        let path = Path::new(if path.is_empty() { "." } else { path });
        self.root
            .ensure_dir(path, |parent, name, _| {
                rootdir::make_dir(parent, name, Mode::from_raw_mode(DIRECTORY_MODE))?;
                rustix::fs::chownat(
                    parent,
                    name,
                    Some(Uid::from_raw(uid)),
                    Some(Gid::from_raw(gid)),
                    AtFlags::SYMLINK_NOFOLLOW,
                )?;
                Ok(())
            })
            .during(|| format!("make directory /{}", path.display()))
    }

    /// The directory and the name that a file of name `own_name` is written to.
    fn place_of_file(
        &self,
        base: &str,
        own_name: &str,
        in_directory: bool,
    ) -> Result<(OwnedFd, String), Error> {
        let exists = self.root.open_dir(Path::new(if base.is_empty() { "." } else { base }));
        if self.is_directory || in_directory || base.is_empty() || exists.is_ok() {
            return Ok((self.directory(base)?, own_name.to_string()));
        }
        let (parent, name) = base.rsplit_once('/').unwrap_or(("", base));
        Ok((self.directory(parent)?, name.to_string()))
    }

    fn put_contents(
        &self,
        pick: &Pick,
        filter: Filter<'_>,
        base: &str,
        mut later: Option<&mut Later>,
    ) -> Result<(), Error> {
        let was_there = self.root.open_dir(Path::new(if base.is_empty() { "." } else { base })).is_ok();
        let top = self.directory(base)?;
        if let Some(later) = &mut later {
            later.begin(self.root, top.as_fd(), was_there);
        }
        let mut times: Vec<(PathBuf, Stat)> = Vec::new();
        // The directory that the last entry went to, which is mostly the next one's too.
        let mut last: (PathBuf, Option<OwnedFd>) = (PathBuf::new(), None);
        walk(pick, filter, &mut |entry| {
            if let Some(later) = &mut later
                && later.leave(self, entry)
            {
                return Ok(());
            }
            let parent = entry.relative.parent().unwrap_or(Path::new(""));
            if last.1.is_none() || last.0 != parent {
                last = (parent.to_path_buf(), Some(open_below(top.as_fd(), parent)?));
            }
            let dir = last.1.as_ref().expect("set above").as_fd();
            if entry.kind().is_dir() {
                times.push((entry.relative.to_path_buf(), *entry.stat));
            }
            let is_made = self.put_entry(entry, dir)?;
            if let Some(later) = later.as_mut().filter(|_| is_made) {
                later.made(entry.relative);
            }
            Ok(())
        })?;
        // Last, because each entry made inside changes them.
        for (path, stat) in times.iter().rev() {
            let dir = open_below(top.as_fd(), path)?;
            rustix::fs::futimens(&dir, &times_of(stat))
                .io_during(|| format!("set times of {}", path.display()))?;
        }
        if !was_there {
            let doing = || format!("make directory /{base}");
            let dir = reopen_dir(top.as_fd()).io_during(doing)?;
            self.finish(&dir, &pick.stat, true).io_during(doing)?;
        }
        Ok(())
    }

    /// Whether it made a directory that was not there.
    fn put_entry(&self, entry: &Entry<'_>, dir: BorrowedFd<'_>) -> Result<bool, Error> {
        let doing = || format!("copy {}", entry.relative.display());
        let mut is_made = false;
        match entry.kind() {
            FileType::Directory => {
                match rustix::fs::mkdirat(dir, entry.name, Mode::from_raw_mode(DIRECTORY_MODE)) {
                    Ok(()) => is_made = true,
                    Err(Errno::EXIST) => {
                        let stat = rustix::fs::statat(dir, entry.name, AtFlags::SYMLINK_NOFOLLOW)
                            .io_during(doing)?;
                        if !FileType::from_raw_mode(stat.st_mode).is_dir() {
                            return Err(Error::invalid(format!(
                                "cannot copy to non-directory: {}",
                                entry.relative.display()
                            )));
                        }
                    }
                    Err(e) => return Err(e).io_during(doing),
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let made = rustix::fs::openat(dir, entry.name, flags, Mode::empty()).io_during(doing)?;
                self.finish(&made, entry.stat, true).io_during(doing)
            }
            FileType::RegularFile => {
                let source = entry.open().io_during(doing)?;
                self.put_file(source, entry.stat, dir, entry.name, doing)
            }
            FileType::Symlink => {
                let text = entry.link().io_during(doing)?;
                clear(dir, entry.name).io_during(doing)?;
                rustix::fs::symlinkat(&text[..], dir, entry.name).io_during(doing)?;
                let (uid, gid) = self.owner_of(entry.stat);
                rustix::fs::chownat(
                    dir,
                    entry.name,
                    Some(Uid::from_raw(uid)),
                    Some(Gid::from_raw(gid)),
                    AtFlags::SYMLINK_NOFOLLOW,
                )
                .io_during(doing)?;
                rustix::fs::utimensat(dir, entry.name, &times_of(entry.stat), AtFlags::SYMLINK_NOFOLLOW)
                    .io_during(doing)
            }
            _ => self.put_special(dir, entry.name, entry.stat, &entry.relative.to_string_lossy()),
        }
        .map(|()| is_made)
    }

    fn put_special(&self, dir: BorrowedFd<'_>, name: &OsStr, stat: &Stat, shown: &str) -> Result<(), Error> {
        let doing = || format!("copy {shown}");
        let kind = FileType::from_raw_mode(stat.st_mode);
        if !matches!(kind, FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice) {
            return Err(Error::invalid(format!("cannot copy {shown}: it is a socket")));
        }
        clear(dir, name).io_during(doing)?;
        let mode = self.mode_of(stat, false);
        rustix::fs::mknodat(dir, name, kind, Mode::from_raw_mode(mode), stat.st_rdev).io_during(doing)?;
        let (uid, gid) = self.owner_of(stat);
        rustix::fs::chownat(
            dir,
            name,
            Some(Uid::from_raw(uid)),
            Some(Gid::from_raw(gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .io_during(doing)?;
        rustix::fs::utimensat(dir, name, &times_of(stat), AtFlags::SYMLINK_NOFOLLOW).io_during(doing)
    }

    pub(crate) fn put_file(
        &self,
        mut source: File,
        stat: &Stat,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        doing: impl Fn() -> String + Copy,
    ) -> Result<(), Error> {
        let mut file = self.create(dir, name).io_during(doing)?;
        // In the kernel, and by reference where the file system can.
        std::io::copy(&mut source, &mut file).io_during(doing)?;
        for (name, value) in attributes(&source).io_during(doing)? {
            rustix::fs::fsetxattr(&file, &name[..], &value, rustix::fs::XattrFlags::empty())
                .io_during(doing)?;
        }
        self.finish(&file, stat, false).io_during(doing)?;
        rustix::fs::futimens(&file, &times_of(stat)).io_during(doing)
    }

    fn create(&self, dir: BorrowedFd<'_>, name: &OsStr) -> std::io::Result<File> {
        clear(dir, name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600))?.into())
    }

    /// Owner first: it takes special bits away. Capabilities would go with it too, and are set again by the caller's order.
    fn finish(&self, file: impl AsFd, stat: &Stat, is_dir: bool) -> std::io::Result<()> {
        let (uid, gid) = self.owner_of(stat);
        let kept = if is_dir { Vec::new() } else { attributes(&file)? };
        set(&file, uid, gid, self.mode_of(stat, is_dir))?;
        for (name, value) in kept {
            rustix::fs::fsetxattr(&file, &name[..], &value, rustix::fs::XattrFlags::empty())?;
        }
        if is_dir {
            rustix::fs::futimens(&file, &times_of(stat))?;
        }
        Ok(())
    }

    pub(crate) fn owner_of(&self, stat: &Stat) -> (u32, u32) {
        self.owner.unwrap_or((stat.st_uid, stat.st_gid))
    }

    pub(crate) fn mode_of(&self, stat: &Stat, is_dir: bool) -> u32 {
        let own = stat.st_mode & 0o7777;
        self.chmod.as_ref().map_or(own, |chmod| chmod.apply(own, is_dir))
    }
}

fn set(file: impl AsFd, uid: u32, gid: u32, mode: u32) -> std::io::Result<()> {
    rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    Ok(rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?)
}

/// Makes sure that nothing is at a name; a directory stays and is an error.
fn clear(dir: BorrowedFd<'_>, name: &OsStr) -> std::io::Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => {
            Err(std::io::Error::new(std::io::ErrorKind::IsADirectory, "cannot copy to directory"))
        }
        Err(e) => Err(e.into()),
    }
}

/// Opens a directory that this copy has made or merged into, following nothing.
pub(crate) fn open_below(top: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Error> {
    let doing = || format!("open directory {}", path.display());
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = rustix::fs::ResolveFlags::BENEATH | rustix::fs::ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(top, path, flags, Mode::empty(), resolve).io_during(doing)
}

fn reopen_dir(fd: BorrowedFd<'_>) -> std::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(fd, ".", flags, Mode::empty())?)
}

pub(crate) fn times_of(stat: &Stat) -> Timestamps {
    let at =
        |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: i64::try_from(nanoseconds).unwrap_or(0) };
    Timestamps {
        last_access: at(stat.st_mtime, stat.st_mtime_nsec),
        last_modification: at(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Whether a file is a tar archive, compressed or not: by its content, not by its name.
///
/// # Errors
///
/// Unsupported for compressions that this build cannot undo.
pub(crate) fn is_tar(file: &mut File, shown: &str) -> Result<bool, Error> {
    const BLOCK: usize = 512;
    let doing = || format!("look into {shown}");
    let mut head = Vec::new();
    {
        let clone = file.try_clone().io_during(doing)?;
        let plain = archive::decompress(clone).during(doing)?;
        // What cannot be decompressed is no archive of ours to unpack.
        if plain.take(BLOCK as u64).read_to_end(&mut head).is_err() {
            head.clear();
        }
    }
    file.rewind().io_during(doing)?;
    if head.len() < BLOCK {
        return Ok(false);
    }
    let stored = head[148..156]
        .iter()
        .filter(|b| (b'0'..=b'7').contains(b))
        .fold(0u64, |n, b| n * 8 + u64::from(b - b'0'));
    let sum: u64 = head
        .iter()
        .enumerate()
        .map(|(at, b)| if (148..156).contains(&at) { 32 } else { u64::from(*b) })
        .sum();
    Ok(stored == sum && stored != 0 && head.iter().any(|b| *b != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations() {
        let check = |dir: &str, text: &str, want: (&str, bool)| {
            assert_eq!(destination(dir, text), (want.0.to_string(), want.1), "{dir} {text}");
        };
        check("/", "a", ("a", false));
        check("/w", "a/", ("w/a", true));
        check("/w", ".", ("w", true));
        check("/w", "/x/../y", ("y", false));
        check("/w", "../../..", ("", true));
        check("/w", "./", ("w", true));
    }
}
