//! `conform dockerode`: the tests of Docker's client for Node, from its repository (its package on npm leaves them out), against
//! brigd or against Debian's dockerd; and `conform testcontainers`: a program of ours that uses Testcontainers for Node as
//! people's tests do.
//!
//! What they need comes from npm by npm itself. `dockerode.exceptions` beside this file lists what does not pass, each with its
//! reason; any other failure is an error, and so is an exception that passes.

use super::{daemons, exceptions};
use crate::packages;
use crate::run::{Doing, Error, Result, no_more, output, run, take_value};
use crate::workspace::root;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

const REPOSITORY: &str = "https://github.com/apocas/dockerode.git";
/// Of version 5.0.1.
const COMMIT: &str = "3624bc02dfc60afdf9b59ade72d34a9b2f2edd5d";
/// About swarms, which brig leaves to others.
const NOT_OURS: &str = "test/swarm.js";
/// The tests connect to this one, whatever the environment says, when it is there.
const MACHINES_ENGINE: &str = "/var/run/docker.sock";
const EXCEPTIONS: &str = include_str!("dockerode.exceptions");
/// Reads Mocha's report: a line for each test, PASSED, FAILED or SKIPPED, its name, and the reason.
const READ_REPORT: &str = "const r=JSON.parse(require('fs').readFileSync(process.argv[1]));\
    for(const [w,l] of [['PASSED',r.passes],['FAILED',r.failures],['SKIPPED',r.pending]])\
    for(const t of l)console.log(w+' '+t.fullTitle+(t.err.message?' - '+t.err.message.split('\\n')[0]:''))";

const TESTCONTAINERS: &str = "testcontainers@10.28.0";
const PROGRAM: &str = include_str!("testcontainers.mjs");

pub(super) fn command(args: &[String]) -> Result<()> {
    let mut args = args.to_vec();
    let engine = take_value(&mut args, "--engine")?.unwrap_or_else(|| "brig".into());
    let repository = take_value(&mut args, "--from")?.unwrap_or_else(|| REPOSITORY.into());
    no_more(&args)?;
    let home = home("dockerode")?;
    let sources = home.join("sources");
    if !sources.join("node_modules").exists() {
        drop(std::fs::remove_dir_all(&sources));
        run(Command::new("git").args(["clone", "-q", &repository]).arg(&sources))?;
        run(Command::new("git").args(["checkout", "-q", COMMIT]).current_dir(&sources))?;
        run(Command::new("npm")
            .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
            .current_dir(&sources))?;
    }
    let report = daemons::with_images(&engine, |host| {
        test(&sources, host, &home.join(format!("report-{engine}.json")))
    })?;
    print!("{report}");
    judge(&report, &engine)
}

pub(super) fn testcontainers(args: &[String]) -> Result<()> {
    let mut args = args.to_vec();
    let engine = take_value(&mut args, "--engine")?.unwrap_or_else(|| "brig".into());
    no_more(&args)?;
    let home = home("testcontainers")?;
    if !home.join("node_modules/testcontainers").exists() {
        std::fs::write(home.join("package.json"), "{\"private\":true}")
            .doing(|| "write package.json".into())?;
        run(Command::new("npm")
            .args(["install", "--ignore-scripts", "--no-audit", "--no-fund", TESTCONTAINERS])
            .current_dir(&home))?;
    }
    std::fs::write(home.join("run.mjs"), PROGRAM).doing(|| "write run.mjs".into())?;
    daemons::with_images(&engine, |host| {
        let mut node = Command::new("node");
        // The helper that cleans up after a killed test program comes from Docker Hub.
        node.arg("run.mjs")
            .current_dir(&home)
            .env("DOCKER_HOST", host)
            .env("TESTCONTAINERS_RYUK_DISABLED", "true");
        run(node.env("HOME", &home))
    })
}

fn home(name: &str) -> Result<PathBuf> {
    packages::ensure(packages::BUILD)?;
    packages::ensure(packages::CONFORM)?;
    packages::ensure(packages::CONFORM_NODE)?;
    if Path::new(MACHINES_ENGINE).exists() {
        return Err(Error::new(format!(
            "{MACHINES_ENGINE} is there: these tests would take it for the engine under test"
        )));
    }
    let home = root().join("target/conform").join(name);
    std::fs::create_dir_all(&home).doing(|| format!("create {}", home.display()))?;
    Ok(home)
}

/// Runs the tests; a line for each.
fn test(sources: &Path, host: &str, report: &Path) -> Result<String> {
    let mut mocha = Command::new("node");
    mocha
        .current_dir(sources)
        .env("DOCKER_HOST", host)
        .args(["node_modules/mocha/bin/mocha.js", "--exit", "--ignore", NOT_OURS, "--reporter", "json"])
        .args(["--reporter-option", &format!("output={}", report.display())]);
    // What the containers print goes there too; the exit code says only that something failed.
    let done = mocha.output().doing(|| "run mocha".into())?;
    output(Command::new("node").args(["-e", READ_REPORT]).arg(report)).map_err(|e| {
        Error::new(format!("{e}; mocha said: {}", String::from_utf8_lossy(&done.stderr).trim_end()))
    })
}

/// Compares what failed with what may.
fn judge(report: &str, engine: &str) -> Result<()> {
    let of = |word: &str| -> BTreeSet<&str> {
        let lines = report.lines().filter_map(|l| l.strip_prefix(word)?.strip_prefix(' '));
        lines.map(|rest| rest.split(" - ").next().unwrap_or(rest)).collect()
    };
    let (passed, failed) = (of("PASSED"), of("FAILED"));
    exceptions::judge(engine, &passed, &failed, EXCEPTIONS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_from_exceptions() {
        assert!(judge("", "brig").is_err());
        assert!(judge("PASSED a b\n", "brig").is_ok());
        assert!(judge("PASSED a b\nFAILED c d - why\n", "brig").is_err());
        assert!(judge("PASSED a b\nFAILED c d - why\n", "dockerd").is_ok());
    }
}
