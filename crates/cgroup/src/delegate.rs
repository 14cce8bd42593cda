//! A container that may manage its own cgroup: the directory, and the files in it that are safe to give away.
//!
//! Spec: runtime-spec config-linux.md, "Cgroup ownership". Kernel: admin-guide/cgroup-v2, "Delegation".

use crate::layout::Mode;
use crate::{Cgroup, Error};
use rustix::fs::Uid;
use rustix::io::Errno;

/// What the kernel says may be given away.
const LIST: &str = "/sys/kernel/cgroup/delegate";
/// The same on kernels that do not say it.
const FILES: &str = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads";

impl Cgroup {
    /// Gives the cgroup to `uid`. On cgroup v1, where that is not safe, nothing is done.
    pub fn delegate(&self, uid: u32) -> Result<(), Error> {
        let Some((hierarchy, _)) = self.v2().filter(|_| self.layout.mode == Mode::V2) else { return Ok(()) };
        let directory = self.shown(hierarchy);
        let list = std::fs::read_to_string(LIST).unwrap_or_else(|_| FILES.into());
        let files = list
            .split_ascii_whitespace()
            .filter(|name| !name.contains('/'))
            .map(|name| format!("{directory}/{name}"));
        for file in std::iter::once(directory.clone()).chain(files) {
            match rustix::fs::chown(&file, Some(Uid::from_raw(uid)), None) {
                Ok(()) | Err(Errno::NOENT) => {}
                // Of a user without privilege, whose own it is.
                Err(Errno::PERM) if !rustix::process::geteuid().is_root() => {}
                Err(e) => {
                    return Err(Error::File { operation: "change the owner of", file, source: e.into() });
                }
            }
        }
        Ok(())
    }
}
