//! `fuzz NAME`: runs one target. `cargo xtask fuzz` builds it with counters and starts it.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that talks to people")]

use fuzz::{Random, Session, TARGETS, read_all, run_once, seeds_of, target};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// More memory than this for inputs of at most 64 KiB is a fault.
const MAX_MEMORY: u64 = 6 << 30;

const USAGE: &str =
    "usage: fuzz NAME --into DIR [--seconds N] [--seed N]\n       fuzz NAME --input FILE\n       fuzz --list";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(code) => code,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<ExitCode, String> {
    let value = |name: &str| args.iter().position(|a| a == name).and_then(|at| args.get(at + 1));
    let number = |name: &str, default: u64| match value(name) {
        Some(text) => text.parse().map_err(|_| format!("{name}: {text:?} is not a number")),
        None => Ok(default),
    };
    let name = args.first().ok_or(USAGE)?;
    if name == "--list" {
        TARGETS.iter().for_each(|t| println!("{}", t.name));
        return Ok(ExitCode::SUCCESS);
    }
    let target = target(name).ok_or_else(|| format!("no target {name:?}; --list has them"))?;
    let limit = Rlimit { current: Some(MAX_MEMORY), maximum: Some(MAX_MEMORY) };
    setrlimit(Resource::As, limit).map_err(|e| format!("limit the memory: {e}"))?;
    if let Some(path) = value("--input") {
        let data = std::fs::read(path).map_err(|e| format!("read {path}: {e}"))?;
        // Not caught: the panic with its backtrace is what is wanted.
        (target.run)(&data);
        println!("{path}: no fault");
        return Ok(ExitCode::SUCCESS);
    }
    let into = PathBuf::from(value("--into").ok_or(USAGE)?);
    let seed = number("--seed", u64::from(std::process::id()) ^ 0x2545_f491_4f6c_dd1d)?;
    let time = Duration::from_secs(number("--seconds", 60)?);
    println!("{name}: random seed {seed}");
    fuzz(target, &into, seed, time).map_err(|e| format!("{}: {e}", into.display()))
}

/// Runs `target`; `into` is given what it found, and what it learned for the next time.
fn fuzz(target: fuzz::Target, into: &Path, seed: u64, time: Duration) -> io::Result<ExitCode> {
    let learned = into.join("learned");
    std::fs::create_dir_all(&learned)?;
    let files = [read_all(&seeds_of(&target))?, read_all(&learned)?].concat();
    let before = files.len();
    let seeds = files.into_iter().map(|(_, bytes)| bytes).collect();
    let current = std::fs::File::create(into.join("current"))?;
    let mut session = Session::new(target, seeds, Random::new(seed));
    let result = session.run(time, |input| {
        // Best effort: it is looked at only after a death by signal.
        let _written = current.set_len(input.len() as u64).and_then(|()| current.write_all_at(input, 0));
    });
    let (kept, reached, runs) = session.figures();
    println!("{}: {runs} runs, {reached} branches, {kept} inputs", target.name);
    for (index, input) in session.corpus().iter().enumerate().skip(before) {
        std::fs::write(learned.join(format!("{seed:x}-{index}")), input)?;
    }
    let Err(failure) = result else {
        std::fs::remove_file(into.join("current"))?;
        return Ok(ExitCode::SUCCESS);
    };
    let path = into.join(format!("failure-{seed:x}"));
    std::fs::write(&path, &failure.input)?;
    // What the smaller input says may be other words at the same place.
    let message = run_once(&target, &failure.input).err().unwrap_or(failure.message);
    eprintln!("{}: {message}\ninput: {}", target.name, path.display());
    Ok(ExitCode::FAILURE)
}
