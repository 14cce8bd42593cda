//! The runtime specification: `crates/brig-runtime/tests/conformance`, which ask any program with runc's command line. That
//! runc and crun pass them, but for listed exceptions, is how we know that they ask for what is demanded.
//!
//! `cargo xtask test` asks the debug build. With `--release` the program that users get, linked with another C library, is asked
//! instead, and by the runtime's other test programs too.

use crate::build::{Profile, build_static};
use crate::packages;
use crate::run::{Error, Result, run, take_flag};
use crate::workspace::{cargo, in_path};
use std::process::Command;

/// Debian's runtimes, by their programs.
const OTHERS: &[&str] = &["runc", "crun"];

/// `[--release] [BINARY...] [-- FILTER...]`.
pub(super) fn command(args: &[String]) -> Result<()> {
    let end = args.iter().position(|a| a == "--").unwrap_or(args.len());
    let mut binaries = args[..end].to_vec();
    let filters = args.get(end + 1..).unwrap_or_default();
    let release = take_flag(&mut binaries, "--release");
    packages::ensure(packages::BUILD)?;
    packages::ensure(packages::CONFORM_RUNTIME)?;
    let profile = if release { Profile::Release } else { Profile::Debug };
    let ours = build_static(profile)?.join("brig-runtime").display().to_string();
    let others = OTHERS.iter().map(|name| (*name).to_owned());
    let all: Vec<String> = match (binaries.is_empty(), release) {
        (false, _) => binaries,
        (true, true) => vec![ours.clone()],
        (true, false) => std::iter::once(ours.clone()).chain(others).collect(),
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
    if release && filters.is_empty() {
        let mut tests = cargo();
        tests.env("BRIG_TEST_PROGRAM", &ours).args(["test", "-q", "-p", "brig-runtime", "--no-fail-fast"]);
        if let Err(error) = run(&mut tests) {
            failed.push(format!("the tests of brig-runtime on {ours}: {error}"));
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
