//! Limits of what a writable snapshot takes, by project quotas of ext4 and XFS: its directories belong to a project of their
//! own, whose number is found in them again when they are removed. Where a snapshot begins as a copy of its layers, every
//! file of that belongs to the project too, and the limit is on what comes on top.

use crate::Error;
use crate::home::Home;
use crate::tree;
use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;
use sys::project_quota;

/// Numbers tried before giving up on finding a free one.
const TRIES: u32 = 1000;
/// Projects of administrators are small numbers.
const FIRST: u32 = 1 << 24;

/// What is known of the quotas of a driver's file system.
#[derive(Debug, Default)]
pub(crate) struct Quotas {
    enforced: OnceLock<bool>,
}

impl Quotas {
    fn is_enforced(&self, any: &Path) -> bool {
        *self
            .enforced
            .get_or_init(|| open(any).and_then(|fd| project_quota::is_enforced(fd.as_fd())).unwrap_or(false))
    }

    /// Limits what goes into the empty directories `parts` of snapshot `number`.
    ///
    /// # Errors
    ///
    /// [`Error::NoQuota`] where the file system does not enforce limits of projects.
    pub(crate) fn limit(
        &self,
        home: &Home,
        driver: &'static str,
        number: u64,
        parts: &[&str],
        bytes: u64,
    ) -> Result<(), Error> {
        let directory = home.dir(number);
        let failed = at("limit the size of", &directory);
        let (any, project) = self.begin(home, driver, number)?;
        project_quota::limit(any.as_fd(), project, bytes).map_err(failed)?;
        for part in parts {
            let path = home.path(number, part);
            let assigned = open(&path).and_then(|fd| project_quota::assign(fd.as_fd(), project));
            assigned.map_err(at("limit the size of", &path))?;
        }
        Ok(())
    }

    /// Limits by how much the tree `part` of snapshot `number`, which is a copy of its layers, may grow.
    ///
    /// # Errors
    ///
    /// As [`Quotas::limit`].
    pub(crate) fn limit_growth(
        &self,
        home: &Home,
        driver: &'static str,
        number: u64,
        part: &str,
        bytes: u64,
    ) -> Result<(), Error> {
        let path = home.path(number, part);
        let (any, project) = self.begin(home, driver, number)?;
        let limited = open(&path).and_then(|root| {
            tree::assign(root, project)?;
            let there = project_quota::usage(any.as_fd(), project)?.bytes;
            project_quota::limit(any.as_fd(), project, there.saturating_add(bytes))
        });
        limited.map_err(at("limit the size of", &path))
    }

    /// A descriptor of the file system, and a project that is free.
    fn begin(&self, home: &Home, driver: &'static str, number: u64) -> Result<(OwnedFd, u32), Error> {
        if !self.is_enforced(&home.snapshots) {
            return Err(Error::NoQuota { driver });
        }
        let directory = home.dir(number);
        let begun = open(&directory).and_then(|any| Ok((any, free_project(home, number)?)));
        begun.map_err(at("limit the size of", &directory))
    }

    /// Gives the project of a snapshot that goes away free for others. What it fails on keeps its number until then.
    pub(crate) fn release(&self, home: &Home, number: u64, part: &str) {
        if !self.is_enforced(&home.snapshots) {
            return;
        }
        let path = home.path(number, part);
        let released = open(&path).and_then(|fd| match project_quota::project_of(fd.as_fd())? {
            0..FIRST => Ok(()),
            project => project_quota::limit(fd.as_fd(), project, 0),
        });
        match released {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), error = %e, "the number of its quota is not free again");
            }
            _ => {}
        }
    }
}

fn at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_path_buf();
    move |source| Error::File { what, path, source }
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// A project that nothing belongs to and that has no limit. Where it begins to look depends on the directory, so that several
/// data roots on one file system seldom meet.
fn free_project(home: &Home, number: u64) -> io::Result<u32> {
    let any = open(&home.snapshots)?;
    let inode = std::fs::metadata(&home.snapshots)?.ino();
    let begin = inode.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(number);
    for n in 0..TRIES {
        let wanted = begin.wrapping_add(n.into()) % u64::from(u32::MAX - FIRST);
        let project = FIRST + u32::try_from(wanted).unwrap_or(0);
        if project_quota::usage(any.as_fd(), project)? == project_quota::Usage::default() {
            return Ok(project);
        }
    }
    Err(io::Error::other("all numbers of projects that were looked at are in use"))
}
