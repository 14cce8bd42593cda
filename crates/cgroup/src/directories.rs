//! The directories of one container: made, opened, joined.

use crate::file;
use crate::layout::{Hierarchy, Layout, Mode, layout};
use crate::{Error, Warning};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::OnceLock;

/// Deeper than any real path; the kernel's own default for `cgroup.max.depth` is higher, ours bounds our loops.
const MAX_DEPTH: usize = 32;

/// The directories of one container, one in each mounted hierarchy. Each is opened when it is first needed and held open.
#[derive(Debug)]
pub struct Cgroup {
    pub(crate) layout: &'static Layout,
    /// Absolute below the roots, no trailing slash.
    pub(crate) path: String,
    /// Parallel to `layout.hierarchies`; `None` where the directory is not there.
    directories: Vec<OnceLock<Option<OwnedFd>>>,
}

/// What a `cgroup` mount shows for one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HierarchyMount {
    /// Name below `/sys/fs/cgroup` inside, such as `cpu,cpuacct`; empty if the one v2 directory is all there is.
    pub name: String,
    /// The container's own directory on the host.
    pub source: PathBuf,
    /// Symlinks to make beside it, such as `cpu`.
    pub links: Vec<String>,
    /// `cgroup2`, else `cgroup`.
    pub v2: bool,
}

impl Cgroup {
    /// Makes the directories of `path` (absolute below the hierarchies' roots, such as `/brig/ID`) that are missing.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidPath`], [`Error::Occupied`] or [`Error::Frozen`] if the cgroup exists and is in use. Directories
    /// that this call made are gone again after an error.
    pub fn create(path: &str) -> Result<Cgroup, Error> {
        let layout = layout()?;
        check_path(path)?;
        let cgroup = Cgroup::named(layout, path);
        let mut made = Vec::new();
        let result = layout.hierarchies.iter().enumerate().try_for_each(|(index, hierarchy)| {
            let new = make(hierarchy, path)?;
            made.push(new);
            if !new {
                let directory = cgroup
                    .directory(index)
                    .ok_or_else(|| directory_error("open", hierarchy, path, Errno::NOENT))?;
                refuse_used(hierarchy, directory, path)?;
            } else if hierarchy.has("cpuset") && !hierarchy.v2 {
                crate::apply::fill_cpuset(hierarchy, path)?;
            }
            Ok(())
        });
        let result = result.and_then(|()| match layout.mode {
            Mode::V2 => crate::apply::enable_all(&cgroup),
            Mode::V1 | Mode::Hybrid => Ok(()),
        });
        if let Err(e) = result {
            for (hierarchy, _) in layout.hierarchies.iter().zip(made).filter(|(_, new)| *new) {
                // The first error is the one to tell; what was made is empty.
                let _ = rustix::fs::rmdir(cgroup.shown(hierarchy));
            }
            return Err(e);
        }
        Ok(cgroup)
    }

    /// Names `path`; a stopped container's directories may all be missing.
    pub fn open(path: &str) -> Result<Cgroup, Error> {
        let layout = layout()?;
        check_path(path)?;
        Ok(Cgroup::named(layout, path))
    }

    fn named(layout: &'static Layout, path: &str) -> Cgroup {
        let directories = layout.hierarchies.iter().map(|_| OnceLock::new()).collect();
        Cgroup { layout, path: path.to_owned(), directories }
    }

    /// The directory in hierarchy `index`, if it is there.
    pub(crate) fn directory(&self, index: usize) -> Option<BorrowedFd<'_>> {
        let open = || file::open_path(&self.shown(self.layout.hierarchies.get(index)?)).ok();
        self.directories.get(index)?.get_or_init(open).as_ref().map(AsFd::as_fd)
    }

    /// The path given, below the hierarchies' roots.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether any of the directories is there, or was when it was first used.
    pub fn exists(&self) -> bool {
        (0..self.directories.len()).any(|index| self.directory(index).is_some())
    }

    /// Puts process `pid` (0: the caller), all its threads, into every directory.
    pub fn join(&self, pid: i32) -> Result<(), Error> {
        self.join_where(pid, |_| true)
    }

    /// Puts process `pid` into the v1 directories only: for one cloned into [`Cgroup::v2_directory`] already.
    pub fn join_v1(&self, pid: i32) -> Result<(), Error> {
        self.join_where(pid, |hierarchy| !hierarchy.v2)
    }

    fn join_where(&self, pid: i32, wanted: impl Fn(&Hierarchy) -> bool) -> Result<(), Error> {
        let text = pid.to_string();
        for (hierarchy, directory) in self.present() {
            if wanted(hierarchy) {
                file::write(directory, "cgroup.procs", &text, &self.shown(hierarchy))?;
            }
        }
        Ok(())
    }

    /// Sets limits. What is absent in `resources` stays as it is.
    ///
    /// # Errors
    ///
    /// [`Error::MissingController`] if a limit is asked for that nothing here can enforce; [`Error::Write`] if the
    /// kernel refuses a value.
    pub fn apply(&self, resources: &oci::runtime::Resources) -> Result<Vec<Warning>, Error> {
        crate::apply::apply(self, resources)
    }

    /// The v2 directory, for `CLONE_INTO_CGROUP`; in hybrid mode the remaining ones want [`Cgroup::join_v1`].
    pub fn v2_directory(&self) -> Option<BorrowedFd<'_>> {
        self.v2().map(|(_, fd)| fd)
    }

    /// What a mount of type `cgroup` shows inside the container, in the order of the host's mounts.
    pub fn mounts(&self) -> Vec<HierarchyMount> {
        let only_v2 = self.layout.mode == Mode::V2;
        let one = |hierarchy: &Hierarchy| {
            let name = hierarchy.directory.rsplit('/').next().unwrap_or_default();
            let links = match hierarchy.controllers.as_slice() {
                several @ [_, _, ..] if !hierarchy.v2 => {
                    several.iter().filter(|c| *c != name).cloned().collect()
                }
                _ => Vec::new(),
            };
            HierarchyMount {
                name: if only_v2 { String::new() } else { name.to_owned() },
                source: PathBuf::from(self.shown(hierarchy)),
                links,
                v2: hierarchy.v2,
            }
        };
        self.layout.hierarchies.iter().map(one).collect()
    }

    pub(crate) fn present(&self) -> impl Iterator<Item = (&'static Hierarchy, BorrowedFd<'_>)> {
        let all = self.layout.hierarchies.iter().enumerate();
        all.filter_map(|(index, hierarchy)| Some((hierarchy, self.directory(index)?)))
    }

    pub(crate) fn v2(&self) -> Option<(&'static Hierarchy, BorrowedFd<'_>)> {
        let index = self.layout.hierarchies.iter().position(|hierarchy| hierarchy.v2)?;
        Some((&self.layout.hierarchies[index], self.directory(index)?))
    }

    /// The directory whose hierarchy has `controller`.
    pub(crate) fn controller(&self, controller: &str) -> Option<(&'static Hierarchy, BorrowedFd<'_>)> {
        let index = self.layout.index_of(controller)?;
        Some((&self.layout.hierarchies[index], self.directory(index)?))
    }

    pub(crate) fn shown(&self, hierarchy: &Hierarchy) -> String {
        format!("{}{}", hierarchy.directory, self.path)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        self.directories.iter_mut().filter_map(|one| one.take().flatten()).for_each(sys::spent::spend);
    }
}

pub(crate) fn directory_error(operation: &'static str, hierarchy: &Hierarchy, path: &str, e: Errno) -> Error {
    Error::File { operation, file: format!("{}{path}", hierarchy.directory), source: e.into() }
}

fn check_path(path: &str) -> Result<(), Error> {
    let refuse = |reason| Err(Error::InvalidPath { path: path.to_owned(), reason });
    let Some(relative) = path.strip_prefix('/') else { return refuse("is not absolute") };
    if relative.is_empty() {
        return refuse("is the root");
    }
    if relative.split('/').count() > MAX_DEPTH {
        return refuse("is too deep");
    }
    for component in relative.split('/') {
        match component {
            "" => return refuse("has an empty component"),
            "." | ".." => return refuse("has a `.` or `..`"),
            _ if component.len() > 255 => return refuse("has a component over 255 bytes"),
            // A new line would forge lines of /proc/PID/cgroup; NUL ends a path.
            _ if component.bytes().any(|b| b < b' ' || b == 0x7f) => {
                return refuse("has a control character");
            }
            _ => {}
        }
    }
    Ok(())
}

/// Makes the last component of `path`, and what is missing above it. True if the last one is new.
///
/// By the whole path: nobody can make a symlink in a cgroup hierarchy, and `path` was checked.
fn make(hierarchy: &Hierarchy, path: &str) -> Result<bool, Error> {
    let whole = format!("{}{path}", hierarchy.directory);
    let mkdir = || rustix::fs::mkdir(&whole, rustix::fs::Mode::from_raw_mode(0o755));
    let made = match (mkdir(), path.rsplit_once('/')) {
        (Err(Errno::NOENT), Some((parent, _))) if !parent.is_empty() => {
            make(hierarchy, parent)?;
            mkdir()
        }
        (other, _) => other,
    };
    match made {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(e) => Err(directory_error("make", hierarchy, path, e)),
    }
}

/// A directory left over from an earlier container of that name may be used again, one in use may not.
fn refuse_used(hierarchy: &Hierarchy, directory: BorrowedFd<'_>, path: &str) -> Result<(), Error> {
    let at = |e| directory_error("read", hierarchy, path, e);
    if !crate::kill::pids_below(directory).map_err(at)?.is_empty() {
        return Err(Error::Occupied { path: path.to_owned() });
    }
    if crate::kill::is_frozen(hierarchy, directory).map_err(at)? {
        return Err(Error::Frozen { path: path.to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_paths_are_refused() {
        let check = |path: &str, ok: bool| assert_eq!(check_path(path).is_ok(), ok, "{path:?}");
        check("/brig/ID", true);
        check("/a", true);
        check("/a/b..c", true);
        for bad in ["", "/", "a", "//a", "/a/", "/a/../b", "/..", "/a/./b", "/a\n0::/x", "/a\0b"] {
            check(bad, false);
        }
        check(&"/a".repeat(33), false);
        check(&format!("/{}", "a".repeat(256)), false);
    }
}
