//! `fuzz`: the targets of `crates/fuzz` with the stable compiler, guided by the branches that an input reaches.

use crate::run::{Error, Result, output, run, status, take_value};
use crate::workspace::{cargo, host_triple, root, target};
use std::path::PathBuf;
use std::process::Command;

/// What makes the compiler count branches. Level 3 are edges; level 4 would want a function for indirect calls.
const COUNTERS: &str = " -C passes=sancov-module -C llvm-args=-sanitizer-coverage-level=3 \
                        -C llvm-args=-sanitizer-coverage-inline-8bit-counters";

pub(crate) fn command(args: &[String]) -> Result<()> {
    let mut args = args.to_vec();
    let seconds = take_value(&mut args, "--seconds")?.unwrap_or_else(|| "60".into());
    let seed = take_value(&mut args, "--seed")?;
    let program = build()?;
    let all = output(Command::new(&program).arg("--list"))?;
    if args.is_empty() {
        println!("{all}");
        return Ok(());
    }
    let names: Vec<&str> =
        if args == ["all"] { all.lines().collect() } else { args.iter().map(String::as_str).collect() };
    let mut failed = Vec::new();
    for name in names {
        let into = target().join("fuzz").join(name);
        let mut command = Command::new(&program);
        command.arg(name).arg("--into").arg(&into).args(["--seconds", &seconds]);
        command.args(seed.iter().flat_map(|seed| ["--seed", seed]));
        let status = status(&mut command)?;
        if status.success() {
            continue;
        }
        if status.code().is_none() {
            eprintln!(
                "{name}: {status}: too slow, too much memory or too deep; input: {}",
                into.join("current").display()
            );
        }
        failed.push(name);
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(Error::new(format!(
        "{}: once mended, put the input into {}",
        failed.join(", "),
        root().join("fuzz/seeds/NAME").display()
    )))
}

/// Builds the program in a directory of its own: with these flags nothing of another build can be used.
fn build() -> Result<PathBuf> {
    let triple = host_triple()?;
    let directory = target().join("fuzz");
    let mut command = cargo();
    command.env("RUSTFLAGS", std::env::var("RUSTFLAGS").unwrap_or_default() + COUNTERS);
    // With `--target` the flags stay away from build scripts and macros.
    command.args([
        "build",
        "--package",
        "fuzz",
        "--features",
        "coverage",
        "--profile",
        "fuzz",
        "--target",
        &triple,
    ]);
    run(command.arg("--target-dir").arg(&directory))?;
    Ok(directory.join(triple).join("fuzz/fuzz"))
}
