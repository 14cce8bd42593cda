//! `test`: every test, those with real containers included.

use crate::build::{Profile, build};
use crate::packages;
use crate::run::{Result, run};
use crate::workspace::cargo;

/// `args` go to `cargo test`.
pub(crate) fn command(args: &[String]) -> Result<()> {
    with_environment(args, &[])
}

/// As [`command`], with further variables for the tests.
pub(crate) fn with_environment(args: &[String], variables: &[(&str, &str)]) -> Result<()> {
    packages::ensure(packages::BUILD)?;
    packages::ensure(packages::TEST)?;
    if !rustix::process::geteuid().is_root() {
        eprintln!("warning: not root: tests that need root are skipped");
    }
    // Debug builds: on two cores compiling takes longer than the tests do.
    let programs = build(Profile::Debug)?;
    let chosen = args.iter().any(|a| a == "-p" || a == "--package" || a.starts_with("--package="));
    let mut command = cargo();
    command.envs(variables.iter().copied());
    command.env("BRIG_BIN_DIR", programs).args(["test", "--no-fail-fast"]);
    if !chosen {
        command.arg("--workspace");
    }
    run(command.args(args))
}
