//! The runtime specification: `crates/brig-runtime/tests/conformance`, which ask any program with runc's command line. That
//! runc and crun pass them, but for listed exceptions, is how we know that they ask for what is demanded.

use crate::build::{Profile, build};
use crate::packages;
use crate::run::{Error, Result, run};
use crate::workspace::{cargo, in_path};
use std::process::Command;

/// Debian's runtimes, by their programs.
const OTHERS: &[&str] = &["runc", "crun"];

/// `[BINARY...] [-- FILTER...]`.
pub(super) fn command(args: &[String]) -> Result<()> {
    packages::ensure(packages::BUILD)?;
    packages::ensure(packages::CONFORM_RUNTIME)?;
    let (binaries, filters) = match args.iter().position(|a| a == "--") {
        Some(at) => (&args[..at], &args[at + 1..]),
        None => (args, &[][..]),
    };
    let ours = build(Profile::Debug)?.join("brig-runtime").display().to_string();
    let all: Vec<String> = match binaries {
        [] => std::iter::once(ours).chain(OTHERS.iter().map(|name| (*name).to_owned())).collect(),
        given => given.to_vec(),
    };
    let mut failed = Vec::new();
    for binary in &all {
        if !binary.contains('/') && !in_path(binary) {
            return Err(Error::new(format!("no program {binary}")));
        }
        let mut tests = cargo();
        tests.args(["test", "-q", "-p", "brig-runtime", "--test", "conformance", "--", "--full"]);
        tests.args(["--runtime", binary]).args(filters);
        // Everyone must be asked before the first failure ends it.
        if let Err(error) = run(&mut on_one_cgroup_version(tests)) {
            failed.push(format!("{binary}: {error}"));
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(Error::new(failed.join("\n"))) }
}

/// crun refuses a machine that has cgroup v1 and a v2 with controllers beside it: it sees no v2 then.
fn on_one_cgroup_version(command: Command) -> Command {
    let script = "[ ! -e /sys/fs/cgroup/unified ] || umount -l /sys/fs/cgroup/unified; exec \"$@\"";
    let is_crun = command.get_args().any(|a| a.to_string_lossy().ends_with("crun"));
    if !is_crun {
        return command;
    }
    let mut wrapped = Command::new("unshare");
    wrapped.args(["--mount", "sh", "-ec", script, "sh"]).arg(command.get_program()).args(command.get_args());
    wrapped
}
