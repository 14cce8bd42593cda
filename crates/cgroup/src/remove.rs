//! Removing the directories of a container and those made inside it.

use crate::directories::directory_error;
use crate::file;
use crate::{Cgroup, Error};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, Dir, FileType, OFlags, unlinkat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// From SIGKILL to an empty cgroup takes milliseconds, with much memory to free seconds.
const REMOVE_LIMIT: Duration = Duration::from_secs(10);

impl Cgroup {
    /// Removes the directories if no process and no other directory is in them, which asking would cost more calls. False as
    /// soon as one cannot be removed, whyever: [`Cgroup::remove`] knows.
    pub fn remove_empty(&self) -> bool {
        self.layout.hierarchies.iter().all(|hierarchy| {
            matches!(rustix::fs::rmdir(self.shown(hierarchy)), Ok(()) | Err(Errno::NOENT | Errno::NODEV))
        })
    }

    /// Removes the directories and all below them. Waits up to ten seconds for killed processes to be gone.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] if processes stay. All hierarchies are tried; the first error is returned.
    pub fn remove(&self) -> Result<(), Error> {
        let until = Instant::now() + REMOVE_LIMIT;
        let mut result = Ok(());
        for hierarchy in &self.layout.hierarchies {
            // By the whole path first, which needs no descriptor and mostly is all.
            let one = match rustix::fs::rmdir(self.shown(hierarchy)) {
                Ok(()) | Err(Errno::NOENT | Errno::NODEV) => Ok(()),
                Err(_) => {
                    hierarchy.root().and_then(|root| remove_one(root, &self.path[1..], hierarchy.v2, until))
                }
            };
            let one = one.map_err(|e| match e {
                Errno::BUSY => Error::Busy {
                    path: self.shown(hierarchy),
                    waited_ms: u64::try_from(REMOVE_LIMIT.as_millis()).unwrap_or(u64::MAX),
                },
                e => directory_error("remove", hierarchy, &self.path, e),
            });
            result = result.and(one);
        }
        result
    }
}

fn remove_one(parent: BorrowedFd<'_>, path: &str, v2: bool, until: Instant) -> Result<(), Errno> {
    let mut pause = Duration::from_micros(200);
    loop {
        // No symlink can be made in a cgroup hierarchy, so the path is what it says.
        match unlinkat(parent, path, AtFlags::REMOVEDIR) {
            Err(Errno::BUSY | Errno::NOTEMPTY) => {}
            Ok(()) | Err(Errno::NOENT | Errno::NODEV) => return Ok(()),
            Err(e) => return Err(e),
        }
        let directory = match file::open_directory(parent, path) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NODEV) => return Ok(()),
            Err(e) => return Err(e),
        };
        let children = children(directory.as_fd())?;
        for child in &children {
            remove_one(directory.as_fd(), child, v2, until)?;
        }
        if Instant::now() >= until {
            return Err(Errno::BUSY);
        }
        if children.is_empty() {
            wait_empty(directory.as_fd(), v2, pause, until)?;
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }
}

/// Waits until the kernel says that the cgroup is empty (v2), or that one of its processes has ended (v1, which says
/// nothing of the whole). Else a moment: a process that has
/// ended is not listed, and holds the cgroup a little longer.
fn wait_empty(directory: BorrowedFd<'_>, v2: bool, pause: Duration, until: Instant) -> Result<(), Errno> {
    if v2 {
        match file::open(directory, "cgroup.events", OFlags::RDONLY) {
            Ok(events) => match crate::kill::wait_event(&events, "populated 0", until) {
                Ok(_) | Err(Errno::NODEV) => {}
                Err(e) => return Err(e),
            },
            Err(Errno::NOENT | Errno::NODEV) => {}
            Err(e) => return Err(e),
        }
    } else if let Some(pid) = crate::kill::pids_below(directory)?.first().and_then(|&pid| Pid::from_raw(pid))
        && let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty())
    {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => return Ok(()),
            Err(e) => return Err(e),
        }
    }
    std::thread::sleep(pause);
    Ok(())
}

/// The names of the directories in `directory`.
pub(crate) fn children(directory: BorrowedFd<'_>) -> Result<Vec<String>, Errno> {
    // Each directory below holds a link: two mean none. Saves reading forty names on each call.
    if rustix::fs::fstat(directory)?.st_nlink == 2 {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type() == FileType::Directory && name != c"." && name != c".." {
            names.push(name.to_str().map_err(|_| Errno::ILSEQ)?.to_owned());
        }
    }
    Ok(names)
}
