//! `conform`: what judges engines and runtimes, by others or by us, run against ours, and where that can be against
//! theirs, so that the verdict is known to be fair. Long, and not part of `test`; each suite says what it needs.

mod build;
mod compose;
mod compose2;
mod daemons;
mod debian;
mod docker_py;
mod dockerode;
mod engines;
mod images;
mod runtime;
mod vm;

use crate::run::{Error, Result};

const SUITES: &str = "api, build [--buildx PROGRAM | --fetch-buildx], compose [--compose PROGRAM | --fetch-compose], docker-py [--engine brig|dockerd] [PYTEST ARGS], dockerode [--engine brig|dockerd] [--from REPOSITORY], engines [ctr] [podman] [dockerd], image-stress, network-stress, runtime [BINARY...] [-- FILTER...], runtime-kill, testcontainers [--engine brig|dockerd], vm [FILTER...]";

pub(crate) fn command(args: &[String]) -> Result<()> {
    let Some((suite, rest)) = args.split_first() else {
        return Err(Error::new(format!("which suite? {SUITES}")));
    };
    match suite.as_str() {
        "api" => api(rest),
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

/// Docker's description of the API against the daemon, templates against the docker CLI's, checkpoints.
fn api(args: &[String]) -> Result<()> {
    if let Some(other) = args.first() {
        return Err(Error::new(format!("conform api takes no arguments, not {other:?}")));
    }
    let tests = ["--test", "api_surface", "--test", "checkpoints", "--test", "formats"];
    let line = [&["-p", "e2e"][..], &tests, &["--", "--include-ignored"]].concat();
    crate::test::with_environment(&line.iter().map(ToString::to_string).collect::<Vec<_>>(), &[])
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
