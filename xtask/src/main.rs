//! `cargo xtask`: everything one does with this repository, so that people, CI and scripts type the same commands.
//!
//! Each command is a module. What they share: [`run`] starts programs and says which one failed, [`workspace`] knows
//! where things are, [`packages`] installs what Debian has.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that talks to people")]

mod bench;
mod build;
mod conform;
mod fuzz;
mod install;
mod lint;
mod packages;
mod quickstart;
mod run;
mod test;
mod tidy;
mod trixie;
mod workspace;

use run::{Error, Result};
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  quickstart [--data-root DIR] [--exec-root DIR]
                          build brig, start brigd, load hello-world and run it
  build [--release]       build the five programs into target/brig/debug (or release)
  test [ARGS]             install what the tests need, build, run every test;
                          ARGS go to `cargo test`, for example a filter or `-p engine`
  conform runtime [BINARY...] [-- FILTER...]
                          the conformance tests of the runtime specification, against
                          brig-runtime, runc and crun, or against BINARY
  conform engines [ctr] [podman] [dockerd]
                          others' engines on brig-runtime
  lint [--fix]            rustfmt, clippy, tidy, cargo-deny
  tidy                    only the project's own rules
  bench [--runs 20] [--containers 100] [--without PEER] [--no-build] [--smoke]
                          brig, dockerd and podman in turn; writes bench/RESULTS.md
  bench runtime [--runs 40] [--crun PROGRAM] [--no-build] [--smoke]
                          brig-runtime, crun and runc in turn, and the floor; writes its part of bench/RESULTS.md
  bench images [--runs 5] [--without PEER] [--no-build] [--smoke]
                          brig, dockerd, containerd, podman, skopeo and the floor in turn: pull, push, save, load,
                          commit, diff, rmi; writes its part of bench/RESULTS.md
  conform network-stress  kill -9 at every step of what changes networks; many of everything
  bench build [--runs 5] [--without PEER] [--no-build] [--smoke]
                          brig, dockerd's classic builder, BuildKit (fetched from Debian) and buildah in turn: unchanged and
                          changed contexts, RUN steps, stages side by side; writes its part of bench/RESULTS.md
  bench network [--runs 5] [--seconds 5] [--without PEER] [--no-build] [--smoke]
                          brig, dockerd, podman and a bare veth pair in turn: throughput, ports, names, networks;
                          writes its part of bench/RESULTS.md
  conform api             Docker's description of its API, templates beside the docker CLI's, checkpoints
  conform compose [--compose PROGRAM | --fetch-compose]
                          projects of Compose's, up, asked, scaled and down
  conform docker-py [--engine brig|dockerd] [PYTEST ARGS]
  conform dockerode [--engine brig|dockerd] [--from REPOSITORY]
                          others' test suites against brig, or against its peers
  conform testcontainers [--engine brig|dockerd]
                          what tests of people's programs do with Testcontainers for Node
  conform build           the corpus of Dockerfiles, by brig and by the docker CLI
  fuzz TARGET... [--seconds 60] [--seed N]
                          feeds a target with changed inputs; `fuzz` alone lists the targets, `all` means each
  install [--prefix /usr/local] [--destdir DIR]
                          stripped release programs, completions, man pages, systemd units
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: &[String]) -> Result<()> {
    let Some((command, rest)) = args.split_first() else {
        return Err(Error::new(format!("which command?\n\n{USAGE}")));
    };
    match command.as_str() {
        "bench" => bench::command(rest),
        "build" => build::command(rest),
        "conform" => conform::command(rest),
        "fuzz" => fuzz::command(rest),
        "install" => install::command(rest),
        "lint" => lint::command(rest),
        "quickstart" => quickstart::command(rest),
        "test" => test::command(rest),
        "tidy" => tidy::command(rest),
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            Ok(())
        }
        other => Err(Error::new(format!("no command `{other}`\n\n{USAGE}"))),
    }
}
