//! What the OCI runtime specification demands, asked of any runtime with runc's command line.
//!
//! ```text
//! cargo test -p brig-runtime --test conformance -- [--runtime PATH] [--full] [--list] [FILTER...]
//! ```
//!
//! Without `--runtime` the program built here is asked, without `--full` only the quick tests. Each test names the section of the
//! specification that it is about by the section's anchor, such as `runtimeCreate` in runtime.md. So that the tests are known
//! to be fair they are run against others' runtimes too; [`exceptions`] lists what those are known to do otherwise.
//!
//! Spec: runtime-spec 1.3: runtime.md, runtime-linux.md, config.md, config-linux.md.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test program of its own"
)]

mod case;
mod exceptions;
mod hooks;
mod lifecycle;
mod linux;
mod mounts;
mod namespaces;
mod process;
#[path = "../support/program.rs"]
mod program;
mod resources;

use case::{Runtime, Skip};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// One demand of the specification.
#[derive(Clone, Copy)]
struct Test {
    /// Anchor of the section.
    section: &'static str,
    /// Also in the exceptions, so that it must not change lightly.
    name: &'static str,
    run: fn(&Runtime, &str),
    quick: bool,
}

macro_rules! tests {
    ($($(#[$quick:ident])? $section:ident $name:ident;)*) => {
        /// The tests of this module.
        pub(crate) const TESTS: &[crate::Test] = &[$(crate::Test {
            section: stringify!($section),
            name: stringify!($name),
            run: $name,
            quick: tests!(@ $($quick)?),
        }),*];
    };
    (@ quick) => { true };
    (@) => { false };
}
pub(crate) use tests;

enum Outcome {
    Passed,
    Skipped(String),
    Failed(String),
}

fn main() -> ExitCode {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let mut flag = |name: &str| args.iter().position(|a| a == name).map(|at| args.remove(at)).is_some();
    let (full, list) = (flag("--full"), flag("--list"));
    // What cargo passes on to every test program, and means nothing here.
    for ignored in ["--nocapture", "--quiet", "-q", "--exact"] {
        flag(ignored);
    }
    let path = match args.iter().position(|a| a == "--runtime") {
        Some(at) if at + 1 < args.len() => args.drain(at..at + 2).nth(1).unwrap_or_default(),
        _ => program::runtime_program(),
    };
    let all = [
        lifecycle::TESTS,
        process::TESTS,
        mounts::TESTS,
        hooks::TESTS,
        namespaces::TESTS,
        linux::TESTS,
        resources::TESTS,
    ];
    let wanted = |test: &&Test| {
        let named = args.is_empty()
            || args.iter().any(|f| test.name.contains(f.as_str()) || test.section.contains(f.as_str()));
        named && (full || test.quick || !args.is_empty())
    };
    let tests: Vec<Test> = all.iter().flat_map(|tests| tests.iter()).filter(wanted).copied().collect();
    if list {
        tests.iter().for_each(|test| println!("{}: {}", test.section, test.name));
        return ExitCode::SUCCESS;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return ExitCode::SUCCESS;
    }
    let runtime = Runtime::new(&path);
    println!("{} tests of runtime-spec against {} ({path})", tests.len(), runtime.version());
    perform(&runtime, &tests)
}

/// Runs them two at a time, and tells how each ended.
fn perform(runtime: &Runtime, tests: &[Test]) -> ExitCode {
    std::panic::set_hook(Box::new(|_| {}));
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(test) = tests.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = one(runtime, test);
                    outcomes.lock().unwrap().push((*test, outcome));
                }
            });
        }
    });
    let (mut passed, mut skipped, mut known, mut failed) = (0, 0, 0, 0);
    for (Test { section, name, .. }, outcome) in outcomes.into_inner().unwrap() {
        let exception = exceptions::reason(runtime, name);
        match (outcome, exception) {
            (Outcome::Passed, None) => passed += 1,
            (Outcome::Passed, Some(reason)) => {
                passed += 1;
                println!("note {section} {name}: passes, though listed: {reason}");
            }
            (Outcome::Skipped(reason), _) => {
                skipped += 1;
                println!("skip {section} {name}: {reason}");
            }
            (Outcome::Failed(_), Some(reason)) => {
                known += 1;
                println!("known {section} {name}: {reason}");
            }
            (Outcome::Failed(text), None) => {
                failed += 1;
                println!("FAIL {section} {name}: {text}");
            }
        }
    }
    case::remove_groups();
    println!("{passed} passed, {failed} failed, {known} known exceptions, {skipped} skipped");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn one(runtime: &Runtime, test: &Test) -> Outcome {
    match catch_unwind(AssertUnwindSafe(|| (test.run)(runtime, test.name))) {
        Ok(()) => Outcome::Passed,
        Err(cause) => match cause.downcast::<Skip>() {
            Ok(skip) => Outcome::Skipped(skip.0),
            Err(cause) => {
                let text = cause.downcast_ref::<String>().cloned();
                let text = text.or_else(|| cause.downcast_ref::<&str>().map(|s| (*s).to_owned()));
                Outcome::Failed(text.unwrap_or_default().replace('\n', " | "))
            }
        },
    }
}
