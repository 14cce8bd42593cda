//! How nothing of the host is ever the `/proc/PID/exe` of what a hostile image runs. If it were this program's file, the
//! image could have it opened for writing once the runtime is gone (CVE-2019-5736: the image's entry point is a link to
//! `/proc/self/exe`, or a script whose interpreter is).
//!
//! Two ways. Mostly the child ends in the [launcher](sys::launcher), which is what executes the image's program; until
//! then nobody can look at the child: it is not dumpable, it has more capabilities than anybody in the container, and in a
//! new PID namespace it is alone. Where that is not enough ([`is_needed`]), this program first copies itself into a sealed
//! memfd and starts over in it, which costs a millisecond.

use crate::{Error, config};
use oci::runtime::{Process, Seccomp, Spec};
use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use sys::launcher::SEALS;

/// What decides about the way.
#[derive(Debug)]
pub(crate) struct Circumstances<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) process: &'a Process,
    /// Others than the container's own processes see the new one, or may have `CAP_SYS_PTRACE` over it.
    pub(crate) watched: bool,
    /// The process runs startContainer hooks, which are files of the image.
    pub(crate) starts: bool,
}

/// Whether the launcher is not enough.
pub(crate) fn is_needed(of: &Circumstances<'_>) -> Result<bool, Error> {
    let hooks = of.spec.hooks.as_ref().is_some_and(|hooks| !hooks.start_container.is_empty());
    Ok(!sys::launcher::AVAILABLE
        || of.watched
        || of.starts && hooks
        // A label is for the next execve, which would be the launcher's.
        || config::label(of.process)?.is_some()
        || of.spec.linux.as_ref().and_then(|linux| linux.seccomp.as_ref()).is_some_and(|profile| {
            notifies(profile) || !of.process.no_new_privileges && !allows_launcher(profile)
        }))
}

/// A container whose processes may look into any other process that they see.
pub(crate) fn has_ptrace(spec: &Spec) -> bool {
    let user = spec.linux.as_ref().is_some_and(|linux| linux.namespaces.iter().any(|n| n.kind == "user"));
    let process = spec.process.as_ref().and_then(|process| process.capabilities.as_ref());
    // In a user namespace of its own a capability says nothing about processes that came from outside.
    !user && process.is_none_or(|caps| caps.bounding.iter().any(|name| name == "CAP_SYS_PTRACE"))
}

/// The listener is taken by this program, not by the launcher.
fn notifies(profile: &Seccomp) -> bool {
    let mut actions = profile.syscalls.iter().map(|rule| &rule.action);
    profile.default_action == "SCMP_ACT_NOTIFY" || actions.any(|action| action == "SCMP_ACT_NOTIFY")
}

/// Whether a profile that is in force before the launcher runs lets it do its work. Docker's does. When in doubt, no.
fn allows_launcher(profile: &Seccomp) -> bool {
    let made = |action: &str| matches!(action, "SCMP_ACT_ALLOW" | "SCMP_ACT_LOG");
    sys::launcher::CALLS.iter().all(|call| {
        let mut rules = profile.syscalls.iter().filter(|rule| rule.names.iter().any(|name| name == call));
        let plain = profile.syscalls.iter().any(|rule| {
            made(&rule.action) && rule.args.is_empty() && rule.names.iter().any(|name| name == call)
        });
        rules.all(|rule| made(&rule.action)) && (plain || made(&profile.default_action))
    })
}

/// Returns when this program runs from a sealed copy; otherwise makes one and starts over in it.
pub(crate) fn ensure_sealed() -> Result<(), Error> {
    let program = rustix::fs::open("/proc/self/exe", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::io("open /proc/self/exe", e))?;
    if rustix::fs::fcntl_get_seals(&program).is_ok_and(|seals| seals.contains(SEALS)) {
        return Ok(());
    }
    let copy = sealed_copy(&program).map_err(|e| Error::io("copy this program into a sealed memfd", e))?;
    let strings = |list: Vec<std::ffi::OsString>| {
        let list = list.into_iter().filter_map(|s| CString::new(s.into_vec()).ok());
        sys::process::StringList::new(list.collect())
    };
    let args = strings(sys::program::arguments());
    let pair = |(mut name, value): (std::ffi::OsString, std::ffi::OsString)| {
        name.push("=");
        name.push(value);
        name
    };
    let env = strings(std::env::vars_os().map(pair).collect());
    Err(Error::io("execute this program from a sealed memfd", sys::process::execve_file(copy, &args, &env)))
}

fn sealed_copy(program: &OwnedFd) -> Result<OwnedFd, Errno> {
    const NAME: &str = "brig-runtime";
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let copy = match rustix::fs::memfd_create(NAME, flags | MemfdFlags::EXEC) {
        // Before Linux 6.3 there is no such flag and every memfd may be executed.
        Err(Errno::INVAL) => rustix::fs::memfd_create(NAME, flags)?,
        other => other?,
    };
    let length = usize::try_from(rustix::fs::fstat(program)?.st_size).map_err(|_| Errno::FBIG)?;
    let mut offset = 0;
    let mut left = length;
    while left > 0 {
        match rustix::fs::sendfile(copy.as_fd(), program.as_fd(), Some(&mut offset), left)? {
            0 => return Err(Errno::IO),
            count => left -= count,
        }
    }
    rustix::fs::fcntl_add_seals(&copy, SEALS)?;
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci::runtime::{SyscallArg, SyscallRule};

    #[test]
    fn profiles_that_allow_the_launcher() {
        let all: Vec<&str> = sys::launcher::CALLS.to_vec();
        let rule = |names: &[&str], action: &str, args: usize| SyscallRule {
            names: names.iter().map(|n| (*n).to_owned()).collect(),
            action: action.into(),
            args: vec![SyscallArg::default(); args],
            ..SyscallRule::default()
        };
        let check = |default: &str, syscalls: Vec<SyscallRule>, want: bool| {
            let profile = Seccomp { default_action: default.into(), syscalls, ..Seccomp::default() };
            assert_eq!(allows_launcher(&profile), want, "{profile:?}");
        };
        check("SCMP_ACT_ALLOW", vec![], true);
        check("SCMP_ACT_ERRNO", vec![], false);
        check("SCMP_ACT_ERRNO", vec![rule(&all, "SCMP_ACT_ALLOW", 0)], true);
        check("SCMP_ACT_ERRNO", vec![rule(&all, "SCMP_ACT_ALLOW", 1)], false);
        check("SCMP_ACT_ERRNO", vec![rule(&all[1..], "SCMP_ACT_ALLOW", 0)], false);
        check("SCMP_ACT_ALLOW", vec![rule(&["execveat"], "SCMP_ACT_ERRNO", 0)], false);
        check("SCMP_ACT_ALLOW", vec![rule(&["mkdir"], "SCMP_ACT_ERRNO", 0)], true);
        assert!(allows_launcher(&seccomp::docker_default(&[])));
    }
}
