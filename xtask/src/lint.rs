//! `lint`: what can be said about the code without running it.

use crate::run::{Error, Result, no_more, output, run, take_flag};
use crate::workspace::{cargo, in_path, root};
use crate::{build, packages, tidy};

pub(crate) fn command(args: &[String]) -> Result<()> {
    let mut args = args.to_vec();
    let fix = take_flag(&mut args, "--fix");
    no_more(&args)?;
    // Clippy runs the build scripts, which compile C.
    packages::ensure(packages::BUILD)?;
    for (subcommand, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        output(cargo().args([subcommand, "--version"]))
            .map_err(|e| Error::new(format!("{e}; rustup component add {component}")))?;
    }
    let mut failed = Vec::new();
    let mut check = |name: &'static str, result: Result<()>| {
        if let Err(error) = result {
            eprintln!("error: {error}");
            failed.push(name);
        }
    };
    check("fmt", run(cargo().args(["fmt", "--all"]).args((!fix).then_some("--check"))));
    check("clippy", clippy(fix));
    check("tidy", tidy::tidy());
    check("deny", deny());
    check("size of programs", build::check_sizes());
    if failed.is_empty() {
        println!("lint: clean");
        return Ok(());
    }
    Err(Error::new(format!("lint failed: {}", failed.join(", "))))
}

fn clippy(fix: bool) -> Result<()> {
    let mut command = cargo();
    command.args(["clippy", "--workspace", "--all-targets"]);
    if fix {
        command.args(["--fix", "--allow-dirty", "--allow-staged"]);
    }
    run(command.args(["--", "-D", "warnings"]))
}

/// Licences, advisories and sources of dependencies.
fn deny() -> Result<()> {
    if !in_path("cargo-deny") || !root().join("deny.toml").exists() {
        println!("skipped: cargo deny (not installed)");
        return Ok(());
    }
    run(cargo().args(["deny", "check"]))
}
