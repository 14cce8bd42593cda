//! The three processes of a bench, one after the other:
//!
//! ```text
//! cargo xtask bench ...   builds, prepares, and at the end removes cgroups and directories: [`outside`]
//!   init (unshare)        process 1 of namespaces of its own: pid, mount, network; reaps: [`init`]
//!     inside              starts the engines, measures, writes bench/RESULTS.md; begins with [`own_namespace`]
//! ```
//!
//! So the engines' bridges, firewall rules and mounts are not this machine's, and when `init` ends the kernel ends
//! whatever they left running.

use super::engines;
use crate::build::{Profile, build};
use crate::packages::{self, Package};
use crate::run::{Doing, Error, Result, run};
use crate::workspace::target;
use rustix::process::{WaitOptions, wait};
use std::path::Path;
use std::process::Command;

/// Has all programs there, prepares a directory that is called `name` and a number, and runs the stage whose command line
/// is `words` in it. Without a build, the programs are those of the last one.
pub(super) fn outside(
    name: &str,
    packages: &[&[Package]],
    no_build: bool,
    prepare: impl FnOnce(&Path) -> Result<()>,
    words: impl FnOnce(&Path) -> Result<Vec<String>>,
) -> Result<()> {
    packages::ensure(packages::BUILD)?;
    packages::ensure(packages::BENCH)?;
    packages.iter().try_for_each(|more| packages::ensure(more))?;
    if !rustix::process::geteuid().is_root() {
        return Err(Error::new("the bench starts container engines: run it as root"));
    }
    if no_build {
        eprintln!("warning: measuring the programs of the last build, which may not be those of this commit");
    } else {
        build(Profile::Release)?;
    }
    let work = target().join(format!("{name}-{}", std::process::id()));
    std::fs::create_dir_all(&work).doing(|| format!("create {}", work.display()))?;
    let measured = prepare(&work).and_then(|()| {
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]);
        run(command.arg("--mount-proc").args(words(&work)?))
    });
    engines::remove_cgroups();
    // The namespaces are gone, and with them all mounts below.
    let removed = std::fs::remove_dir_all(&work).doing(|| format!("remove {}", work.display()));
    measured.and(removed)
}

/// Process 1: supervisors whose parents end become its children, and it takes their exit statuses.
pub(super) fn init(words: &[String]) -> Result<()> {
    let mut child = Command::new(&words[0]).args(&words[1..]).spawn().doing(|| "start the bench".into())?;
    let pid = rustix::process::Pid::from_child(&child);
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((ended, status))) if ended == pid => {
                return match status.exit_status() {
                    Some(0) => Ok(()),
                    _ => Err(Error::new("the bench failed")),
                };
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => {
                // Nothing to wait for: then the child is not there either.
                drop(child.kill());
                return Err(Error::new(format!("wait for the bench: {errno}")));
            }
        }
    }
}

/// What is ours alone in the namespaces that we are in now.
pub(super) fn own_namespace() -> Result<()> {
    // A /run of our own: peers keep locks and sockets in places that no flag of theirs changes.
    for words in [&["ip", "link", "set", "lo", "up"][..], &["mount", "-t", "tmpfs", "tmpfs", "/run"]] {
        run(Command::new(words[0]).args(&words[1..]))?;
    }
    // crun refuses cgroup v1 with controllers in a v2 hierarchy beside it. Only this mount namespace loses that one.
    let unified = Path::new("/sys/fs/cgroup/unified");
    if std::fs::read_to_string(unified.join("cgroup.controllers")).is_ok_and(|text| !text.trim().is_empty()) {
        run(Command::new("umount").arg(unified))?;
    }
    Ok(())
}
