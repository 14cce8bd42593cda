//! Which files a COPY, an ADD or a bind mount means: patterns resolved below a root, ignore files and excludes applied.

use crate::error::{During, Error, IoDuring};
use dockerfile::{Glob, Ignore, Verdict};
use rootdir::RootDir;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Deepest directory that is copied. A context with deeper ones is an attack on descriptors.
const MAX_DEPTH: usize = 400;
/// Most files that one pattern may mean.
const MAX_PICKS: usize = 1_000_000;

/// Something that a source names.
#[derive(Debug)]
pub(crate) struct Pick {
    /// Open (`O_PATH`), symlinks followed.
    pub(crate) fd: OwnedFd,
    pub(crate) stat: Stat,
    /// From the root, as it was named.
    pub(crate) path: String,
}

impl Pick {
    pub(crate) fn is_dir(&self) -> bool {
        FileType::from_raw_mode(self.stat.st_mode).is_dir()
    }

    /// The last part of its name.
    pub(crate) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    /// Opens it for reading its bytes.
    pub(crate) fn open(&self) -> std::io::Result<std::fs::File> {
        reopen(self.fd.as_fd(), OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)
    }
}

/// Opens what an `O_PATH` descriptor stands for.
fn reopen(fd: BorrowedFd<'_>, flags: OFlags) -> std::io::Result<std::fs::File> {
    use std::os::fd::AsRawFd;
    let by_number = format!("/proc/self/fd/{}", fd.as_raw_fd());
    Ok(rustix::fs::open(by_number, flags | OFlags::CLOEXEC, Mode::empty())?.into())
}

/// Go's `filepath.Clean` of a path from the root, without the slash.
pub(crate) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    parts.join("/")
}

/// Finds what `source` names below `root`. Nothing for a pattern that matches nothing.
///
/// # Errors
///
/// InvalidArgument in Docker's words for a plain name that is not there or is ignored.
pub(crate) fn pick(
    root: &RootDir,
    ignore: &Ignore,
    source: &str,
    double_star: bool,
) -> Result<Vec<Pick>, Error> {
    let path = clean(source);
    if !Glob::is_pattern(&path) {
        let missing = || {
            Error::invalid(format!(
                "file not found in build context or excluded by .dockerignore: stat {source}: file does not exist"
            ))
        };
        return match open_pick(root, &path)? {
            Some(pick) if path.is_empty() || ignore.judge(&path, pick.is_dir()) != Verdict::Ignored => {
                Ok(vec![pick])
            }
            _ => Err(missing()),
        };
    }
    let mut found = vec![String::new()];
    for part in path.split('/') {
        let mut next = Vec::new();
        let glob =
            Glob::new(part).ok_or_else(|| Error::invalid(format!("syntax error in pattern: {source}")))?;
        for dir in found {
            if double_star && part == "**" {
                next.push(dir.clone());
                directories_below(root, &dir, &mut next)?;
            } else if Glob::is_pattern(part) {
                let names = list(root, &dir)?;
                next.extend(
                    names
                        .iter()
                        .filter_map(|n| n.to_str())
                        .filter(|n| glob.matches(n))
                        .map(|n| join(&dir, n)),
                );
            } else {
                next.push(join(&dir, part));
            }
            if next.len() > MAX_PICKS {
                return Err(Error::invalid(format!("pattern {source} means more than {MAX_PICKS} files")));
            }
        }
        found = next;
    }
    let mut picks = Vec::new();
    for path in found {
        if let Some(pick) = open_pick(root, &path)?
            && ignore.judge(&path, pick.is_dir()) != Verdict::Ignored
        {
            picks.push(pick);
        }
    }
    Ok(picks)
}

fn open_pick(root: &RootDir, path: &str) -> Result<Option<Pick>, Error> {
    let doing = || format!("look at {path}");
    match root.open_file(Path::new(path), OFlags::PATH, Mode::empty()) {
        Ok(fd) => {
            let stat = rustix::fs::fstat(&fd).io_during(doing)?;
            Ok(Some(Pick { fd, stat, path: path.to_string() }))
        }
        Err(e) if [Errno::NOENT, Errno::NOTDIR, Errno::LOOP].iter().any(|errno| e.is_errno(*errno)) => {
            Ok(None)
        }
        Err(e) => Err(e).during(doing),
    }
}

fn list(root: &RootDir, dir: &str) -> Result<Vec<OsString>, Error> {
    match root.open_file(Path::new(dir), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) {
        Ok(fd) => rootdir::list_at(fd.as_fd()).io_during(|| format!("list {dir}")),
        Err(_) => Ok(Vec::new()),
    }
}

fn directories_below(root: &RootDir, dir: &str, out: &mut Vec<String>) -> Result<(), Error> {
    let mut pending = vec![dir.to_string()];
    while let Some(dir) = pending.pop() {
        for name in list(root, &dir)?.iter().filter_map(|n| n.to_str()) {
            let path = join(&dir, name);
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            if root.open_file(Path::new(&path), flags, Mode::empty()).is_ok() {
                if out.len() > MAX_PICKS || path.split('/').count() > MAX_DEPTH {
                    return Err(Error::invalid("the context has too many directories for **"));
                }
                out.push(path.clone());
                pending.push(path);
            }
        }
    }
    Ok(())
}

fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() { name.to_string() } else { format!("{dir}/{name}") }
}

/// Something below a picked directory.
pub(crate) struct Entry<'a> {
    /// The directory that holds it.
    pub(crate) dir: BorrowedFd<'a>,
    pub(crate) name: &'a OsStr,
    /// From the picked directory.
    pub(crate) relative: &'a Path,
    pub(crate) stat: &'a Stat,
}

impl Entry<'_> {
    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Opens a regular file for reading, following nothing.
    pub(crate) fn open(&self) -> std::io::Result<std::fs::File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(self.dir, self.name, flags, Mode::empty())?.into())
    }

    /// The text of a symlink.
    pub(crate) fn link(&self) -> std::io::Result<Vec<u8>> {
        Ok(rustix::fs::readlinkat(self.dir, self.name, Vec::new())?.into_bytes())
    }
}

/// What of a directory is walked over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Filter<'a> {
    /// On paths from the context's root.
    pub(crate) ignore: &'a Ignore,
    /// On paths from the picked directory.
    pub(crate) exclude: &'a Ignore,
}

impl Filter<'_> {
    fn judge(&self, from_root: &str, relative: &Path, is_dir: bool) -> Verdict {
        let of_context =
            if self.ignore.is_empty() { Verdict::Kept } else { self.ignore.judge(from_root, is_dir) };
        let own = if self.exclude.is_empty() {
            Verdict::Kept
        } else {
            self.exclude.judge(&relative.to_string_lossy(), is_dir)
        };
        match (of_context, own) {
            (Verdict::Ignored, _) | (_, Verdict::Ignored) => Verdict::Ignored,
            (Verdict::Kept, Verdict::Kept) => Verdict::Kept,
            _ => Verdict::IgnoredButEnter,
        }
    }
}

/// Shows `visit` all that is below a picked directory, parents before children, siblings by name. A directory that is left
/// out comes only with something that is taken back in.
pub(crate) fn walk(
    pick: &Pick,
    filter: Filter<'_>,
    visit: &mut dyn FnMut(&Entry<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let dir = reopen(pick.fd.as_fd(), OFlags::RDONLY | OFlags::DIRECTORY)
        .io_during(|| format!("open {}", pick.path))?;
    let mut walk = Walk { filter, visit, waiting: Vec::new() };
    walk.directory(OwnedFd::from(dir).as_fd(), &pick.path, &PathBuf::new(), 0)
}

struct Walk<'a> {
    filter: Filter<'a>,
    visit: &'a mut dyn FnMut(&Entry<'_>) -> Result<(), Error>,
    /// Directories on the way here that were left out so far: holder, name, path, stat.
    waiting: Vec<(OwnedFd, OsString, PathBuf, Stat)>,
}

impl Walk<'_> {
    fn directory(
        &mut self,
        fd: BorrowedFd<'_>,
        from_root: &str,
        relative: &Path,
        depth: usize,
    ) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(Error::invalid(format!(
                "directories are nested deeper than {MAX_DEPTH}: {from_root}"
            )));
        }
        let doing = |path: &Path| format!("read {}", path.display());
        for name in rootdir::list_at(fd).io_during(|| doing(relative))? {
            let path = relative.join(&name);
            let from_root = join(from_root, &name.to_string_lossy());
            let stat = match rustix::fs::statat(fd, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(e).io_during(|| doing(&path)),
            };
            let is_dir = FileType::from_raw_mode(stat.st_mode).is_dir();
            let verdict = self.filter.judge(&from_root, &path, is_dir);
            if verdict == Verdict::Ignored {
                continue;
            }
            let is_waiting = verdict == Verdict::IgnoredButEnter;
            if is_waiting {
                let holder = fd.try_clone_to_owned().io_during(|| doing(&path))?;
                self.waiting.push((holder, name.clone(), path.clone(), stat));
            } else {
                for (holder, name, path, stat) in std::mem::take(&mut self.waiting) {
                    let entry = Entry { dir: holder.as_fd(), name: &name, relative: &path, stat: &stat };
                    (self.visit)(&entry)?;
                }
                (self.visit)(&Entry { dir: fd, name: &name, relative: &path, stat: &stat })?;
            }
            if is_dir {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let child = rustix::fs::openat(fd, &name, flags, Mode::empty()).io_during(|| doing(&path))?;
                self.directory(child.as_fd(), &from_root, &path, depth + 1)?;
            }
            if is_waiting {
                // Still there: nothing below it was taken back in.
                self.waiting.retain(|(_, _, waiting, _)| *waiting != path);
            }
        }
        Ok(())
    }
}
