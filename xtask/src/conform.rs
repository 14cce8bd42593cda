//! `conform`: what judges engines and runtimes, by others or by us, run against ours, and where that can be against
//! theirs, so that the verdict is known to be fair. Long, and not part of `test`; each suite says what it needs.

mod archives;
mod build;
mod compose;
mod compose2;
mod daemons;
mod docker_py;
mod dockerode;
mod engines;
mod exceptions;
mod images;
mod runtime;
mod vm;

use crate::run::{Error, Result};

const SUITES: &str = "api, archives, build [--buildx PROGRAM | --fetch-buildx], compose [--compose PROGRAM | --fetch-compose], docker-py [--engine brig|dockerd] [PYTEST ARGS], dockerode [--engine brig|dockerd] [--from REPOSITORY], engines [ctr] [podman] [dockerd], image-stress, network-stress, runtime [BINARY...] [-- FILTER...], runtime-kill, stress [PROGRAM...] [TEST...], testcontainers [--engine brig|dockerd], vm [FILTER...]";

pub(crate) fn command(args: &[String]) -> Result<()> {
    let Some((suite, rest)) = args.split_first() else {
        return Err(Error::new(format!("which suite? {SUITES}")));
    };
    match suite.as_str() {
        "api" => api(rest),
        "archives" => archives::command(rest),
        "compose" => compose::command(rest),
        "docker-py" => docker_py::command(rest),
        "dockerode" => dockerode::command(rest),
        "testcontainers" => dockerode::testcontainers(rest),
        "build" => build::command(rest),
        "engines" => engines::command(rest),
        "image-stress" => image_stress(rest),
        "network-stress" => network_stress(rest),
        "runtime" => runtime::command(rest),
        "runtime-kill" => runtime_kill(rest),
        "stress" => stress(rest),
        "vm" => vm::command(rest),
        // By a unit of the machine's, not by people.
        "vm-inside" => vm::inside::command(),
        other => Err(Error::new(format!("no suite {other:?}; there are: {SUITES}"))),
    }
}

/// kill -9 at every step of what changes networks, 200 networks, 1,000 endpoints, 500 ports (`crates/e2e/tests/network_crash.rs`).
fn network_stress(args: &[String]) -> Result<()> {
    if let Some(other) = args.first() {
        return Err(Error::new(format!("conform network-stress takes no arguments, not {other:?}")));
    }
    let line = ["-p", "e2e", "--test", "network_crash", "--", "--include-ignored"].map(str::to_string);
    crate::test::with_environment(&line, &[("BRIG_CONFORM_NETWORK_STRESS", "1")])
}

/// Docker's description of the API against the daemon, templates against the docker CLI's, answers to mistakes against those of
/// dockerd, checkpoints.
fn api(args: &[String]) -> Result<()> {
    if let Some(other) = args.first() {
        return Err(Error::new(format!("conform api takes no arguments, not {other:?}")));
    }
    let tests =
        ["--test", "api_surface", "--test", "checkpoints", "--test", "error_texts", "--test", "formats"];
    let line = [&["-p", "e2e"][..], &tests, &["--", "--include-ignored"]].concat();
    // The words of a dockerd that is nearer to today's than this Debian's.
    let dockerd = crate::trixie::fetch(&["docker.io"])?.join("usr/sbin/dockerd");
    let line: Vec<String> = line.iter().map(ToString::to_string).collect();
    crate::test::with_environment(&line, &[("BRIG_TEST_DOCKERD", &dockerd.to_string_lossy())])
}

/// 1,000 containers from 50 clients, logs at full speed, followers by the hundred; requests that no client would send; kill
/// -9 before every step of every verb; nothing left to have of descriptors, processes, memory, disk (the tests named below, in
/// `crates/e2e/tests`). Names of tests choose among them.
fn stress(args: &[String]) -> Result<()> {
    const PROGRAMS: &[&str] =
        &["stress", "fuzzed_api", "crash_steps", "exhaustion", "little_memory", "clock_jumps", "stuck"];
    crate::packages::ensure(crate::packages::CONFORM_STRESS)?;
    let (programs, filters): (Vec<&String>, Vec<&String>) =
        args.iter().partition(|a| PROGRAMS.contains(&a.as_str()));
    let mut line: Vec<String> = ["-p", "e2e"].map(str::to_string).to_vec();
    for program in PROGRAMS.iter().filter(|p| programs.is_empty() || programs.iter().any(|a| a == *p)) {
        line.extend(["--test".to_string(), (*program).to_string()]);
    }
    line.extend(["--", "--include-ignored", "--test-threads=1", "--nocapture"].map(str::to_string));
    line.extend(filters.into_iter().cloned());
    crate::test::with_environment(&line, &[("BRIG_CONFORM_STRESS", "1")])
}

/// kill -9 at every step of what changes images (`crates/e2e/tests/image_crash.rs`).
fn image_stress(args: &[String]) -> Result<()> {
    if let Some(other) = args.first() {
        return Err(Error::new(format!("conform image-stress takes no arguments, not {other:?}")));
    }
    let line = ["-p", "e2e", "--test", "image_crash"].map(str::to_string);
    crate::test::with_environment(&line, &[("BRIG_CONFORM_IMAGE_STRESS", "1")])
}

/// kill -9 of the runtime at every system call of every verb (`crates/brig-runtime/tests/killed.rs`).
fn runtime_kill(args: &[String]) -> Result<()> {
    if let Some(other) = args.first() {
        return Err(Error::new(format!("conform runtime-kill takes no arguments, not {other:?}")));
    }
    let line = ["-p", "brig-runtime", "--test", "killed", "--", "--nocapture", "system_calls"];
    crate::test::with_environment(&line.map(str::to_string), &[("BRIG_KILL_EVERY", "1")])
}
