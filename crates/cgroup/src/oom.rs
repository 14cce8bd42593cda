//! Hearing of processes that the kernel killed for want of memory.

use crate::directories::directory_error;
use crate::{Cgroup, Error, file};
use rustix::event::{EventfdFlags, PollFlags, eventfd};
use rustix::fs::OFlags;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

/// Something to poll.
#[derive(Debug)]
pub struct OomEvents {
    /// v1: an eventfd. v2: `memory.events`.
    fd: OwnedFd,
    /// v1: what the eventfd counts must stay open.
    _control: Option<OwnedFd>,
    /// v2: kills counted so far.
    seen: Option<u64>,
}

impl Cgroup {
    /// Watches for kills from now on.
    ///
    /// # Errors
    ///
    /// [`Error::MissingController`] where memory is not controlled.
    ///
    /// Kernel: admin-guide/cgroup-v1/memory.rst, "OOM Control"; admin-guide/cgroup-v2.rst, `memory.events`.
    pub fn oom_events(&self) -> Result<OomEvents, Error> {
        let (hierarchy, directory) = self
            .controller("memory")
            .ok_or_else(|| crate::apply::missing("memory", "notification of killed processes".into()))?;
        let at = |e| directory_error("watch memory of", hierarchy, &self.path, e);
        if hierarchy.v2 {
            let fd = file::open(directory, "memory.events", OFlags::RDONLY).map_err(at)?;
            let mut events = OomEvents { fd, _control: None, seen: Some(0) };
            events.take();
            return Ok(events);
        }
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(at)?;
        let control = file::open(directory, "memory.oom_control", OFlags::RDONLY).map_err(at)?;
        let words = format!("{} {}", fd.as_raw_fd(), control.as_raw_fd());
        file::write(directory, "cgroup.event_control", &words, &self.shown(hierarchy))?;
        Ok(OomEvents { fd, _control: Some(control), seen: None })
    }
}

impl OomEvents {
    /// What to poll for.
    pub fn flags(&self) -> PollFlags {
        if self.seen.is_some() { PollFlags::PRI } else { PollFlags::IN }
    }

    /// How many there were since the last call. On v1 the kernel also tells when the cgroup is removed.
    pub fn take(&mut self) -> u64 {
        let Some(seen) = &mut self.seen else {
            let mut count = [0u8; 8];
            return match rustix::io::read(&self.fd, &mut count) {
                Ok(8) => u64::from_ne_bytes(count),
                _ => 0,
            };
        };
        let mut bytes = [0u8; 1024];
        let length = rustix::io::pread(&self.fd, &mut bytes, 0).unwrap_or(0);
        let text = String::from_utf8_lossy(&bytes[..length]);
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        let Some(count) = line.and_then(|count| count.trim().parse().ok()) else { return 0 };
        let new = u64::saturating_sub(count, *seen);
        *seen = count;
        new
    }
}

impl AsFd for OomEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
