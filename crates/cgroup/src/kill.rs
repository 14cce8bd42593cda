//! Freezing, thawing, listing and killing processes.

use crate::directories::directory_error;
use crate::file;
use crate::layout::Hierarchy;
use crate::{Cgroup, Error};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// Freezing takes a millisecond; a task in an uninterruptible sleep can keep it from ending.
const FREEZE_LIMIT: Duration = Duration::from_secs(10);

/// Rounds of "list, then kill"; more can only mean that something outside keeps adding processes.
const KILL_ROUNDS: usize = 64;

impl Cgroup {
    /// Stops all processes and waits until they are.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] after ten seconds (then all are running again), [`Error::MissingController`] where there
    /// is neither the v1 freezer nor v2.
    pub fn freeze(&self) -> Result<(), Error> {
        self.set_frozen(true)
    }

    /// Lets frozen processes run again. Not an error if they do already.
    pub fn thaw(&self) -> Result<(), Error> {
        self.set_frozen(false)
    }

    /// Whether the processes are stopped by [`Cgroup::freeze`]; false if the cgroup is gone.
    pub fn is_frozen(&self) -> Result<bool, Error> {
        let Some((hierarchy, directory)) = self.freezer() else { return Ok(false) };
        is_frozen(hierarchy, directory).map_err(|e| directory_error("read", hierarchy, &self.path, e))
    }

    /// All processes, those of nested cgroups too, as this process's PID namespace numbers them, sorted.
    pub fn pids(&self) -> Result<Vec<i32>, Error> {
        let Some((hierarchy, directory)) = self.counting() else { return Ok(Vec::new()) };
        let mut pids =
            pids_below(directory).map_err(|e| directory_error("list", hierarchy, &self.path, e))?;
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Sends SIGKILL to all processes, frozen ones too, so that none can fork away from it. Does not wait for their end.
    pub fn kill(&self) -> Result<(), Error> {
        if let Some((hierarchy, directory)) = self.v2() {
            match file::write_errno(directory, "cgroup.kill", "1") {
                Ok(()) => return self.thaw_v1(),
                Err(Errno::NODEV) => return Ok(()),
                // Before Linux 5.14.
                Err(Errno::NOENT) => {}
                Err(e) => return Err(directory_error("kill", hierarchy, &self.path, e)),
            }
        }
        self.kill_one_by_one()
    }

    fn kill_one_by_one(&self) -> Result<(), Error> {
        // Without a freezer, or with a task that does not freeze, the rounds below still win against a fork bomb
        // that has a pids limit.
        let frozen = self.freezer().is_some() && self.freeze().is_ok();
        let mut result = Ok(());
        for _ in 0..KILL_ROUNDS {
            let pids = self.pids()?;
            for pid in pids.iter().filter_map(|&pid| Pid::from_raw(pid)) {
                match kill_process(pid, Signal::KILL) {
                    Ok(()) | Err(Errno::SRCH) => {}
                    Err(e) => {
                        let file = format!("process {} of cgroup {}", pid.as_raw_pid(), self.path);
                        result = Err(Error::File { operation: "kill", file, source: e.into() });
                    }
                }
            }
            if frozen || pids.is_empty() {
                break;
            }
        }
        let thawed = if frozen { self.thaw() } else { Ok(()) };
        result.and(thawed)
    }

    /// A killed process dies only when it runs; the v1 freezer does not let it.
    fn thaw_v1(&self) -> Result<(), Error> {
        match self.controller("freezer") {
            Some((hierarchy, _)) if !hierarchy.v2 && self.is_frozen()? => self.thaw(),
            _ => Ok(()),
        }
    }

    fn freezer(&self) -> Option<(&'static Hierarchy, BorrowedFd<'_>)> {
        self.controller("freezer").or_else(|| self.v2())
    }

    /// The hierarchy in which processes are listed. In hybrid mode v2, in which they are also killed.
    fn counting(&self) -> Option<(&'static Hierarchy, BorrowedFd<'_>)> {
        let v1 = || ["pids", "freezer", "memory"].iter().find_map(|name| self.controller(name));
        self.v2().or_else(v1).or_else(|| self.present().next())
    }

    fn set_frozen(&self, wanted: bool) -> Result<(), Error> {
        let Some((hierarchy, directory)) = self.freezer() else {
            if self.exists() || wanted {
                return Err(crate::apply::missing("freezer", "freeze".into()));
            }
            return Ok(());
        };
        let result =
            if hierarchy.v2 { set_frozen_v2(directory, wanted) } else { set_frozen_v1(directory, wanted) };
        match result {
            Ok(true) => Ok(()),
            Ok(false) => {
                // Half a freeze is worse than none.
                let name = if hierarchy.v2 { "cgroup.freeze" } else { "freezer.state" };
                let _ = file::write_errno(directory, name, if hierarchy.v2 { "0" } else { "THAWED" });
                let waited_ms = u64::try_from(FREEZE_LIMIT.as_millis()).unwrap_or(u64::MAX);
                let operation = if wanted { "freeze" } else { "thaw" };
                Err(Error::Timeout { operation, path: self.path.clone(), waited_ms })
            }
            Err(Errno::NODEV | Errno::NOENT) if !wanted => Ok(()),
            Err(e) => Err(directory_error(if wanted { "freeze" } else { "thaw" }, hierarchy, &self.path, e)),
        }
    }
}

fn set_frozen_v2(directory: BorrowedFd<'_>, wanted: bool) -> Result<bool, Errno> {
    // Opened before the write, so that no change is missed.
    let events = file::open(directory, "cgroup.events", OFlags::RDONLY)?;
    file::write_errno(directory, "cgroup.freeze", if wanted { "1" } else { "0" })?;
    let line = if wanted { "frozen 1" } else { "frozen 0" };
    wait_event(&events, line, Instant::now() + FREEZE_LIMIT)
}

/// Waits until `cgroup.events` has `line`. False when the time is over.
pub(crate) fn wait_event(events: &OwnedFd, line: &str, until: Instant) -> Result<bool, Errno> {
    let mut bytes = [0u8; 256];
    loop {
        let length = rustix::io::pread(events, &mut bytes, 0)?;
        if bytes[..length].split(|&b| b == b'\n').any(|l| l == line.as_bytes()) {
            return Ok(true);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        // kernfs reports a change since the last read as POLLPRI.
        let timeout = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
        match poll(&mut [PollFd::new(events, PollFlags::PRI)], Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
}

fn set_frozen_v1(directory: BorrowedFd<'_>, wanted: bool) -> Result<bool, Errno> {
    let state = if wanted { "FROZEN" } else { "THAWED" };
    let until = Instant::now() + FREEZE_LIMIT;
    let mut pause = Duration::from_micros(50);
    loop {
        // Written again each time: a task that forked in between is caught only by a new write.
        file::write_errno(directory, "freezer.state", state)?;
        if file::read_errno(directory, "freezer.state")?.trim_end() == state {
            return Ok(true);
        }
        if Instant::now() >= until {
            return Ok(false);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

/// Whether the directory is frozen or about to be. The hierarchy says how to ask.
pub(crate) fn is_frozen(hierarchy: &Hierarchy, directory: BorrowedFd<'_>) -> Result<bool, Errno> {
    let (name, thawed) = match (hierarchy.v2, hierarchy.has("freezer")) {
        (true, _) => ("cgroup.freeze", "0"),
        (false, true) => ("freezer.state", "THAWED"),
        (false, false) => return Ok(false),
    };
    match file::read_errno(directory, name) {
        Ok(text) => Ok(text.trim_end() != thawed),
        Err(Errno::NOENT | Errno::NODEV) => Ok(false),
        Err(e) => Err(e),
    }
}

/// The processes in a directory and below it.
pub(crate) fn pids_below(directory: BorrowedFd<'_>) -> Result<Vec<i32>, Errno> {
    let mut pids = Vec::new();
    // EOPNOTSUPP: a threaded cgroup, whose processes are listed in the domain above it.
    match file::read_errno(directory, "cgroup.procs") {
        // A process of a PID namespace that we do not see is 0.
        Ok(text) => pids.extend(text.lines().filter_map(|l| l.parse().ok()).filter(|&pid: &i32| pid > 0)),
        Err(Errno::NOENT | Errno::NODEV | Errno::OPNOTSUPP) => {}
        Err(e) => return Err(e),
    }
    for child in crate::remove::children(directory)? {
        match file::open_directory(directory, &child) {
            Ok(fd) => pids.extend(pids_below(fd.as_fd())?),
            Err(Errno::NOENT | Errno::NODEV) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(pids)
}
