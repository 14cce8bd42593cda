//! What tests across crates share. For `[dev-dependencies]` only: everything here panics when something is wrong,
//! with words for whoever reads the test's output.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

pub mod daemon;
pub mod http;
pub mod images;
pub mod leaks;
pub mod raw;
pub mod registry;
pub mod tar;

use std::time::{Duration, Instant};

/// No state takes longer than this to come, on a machine that does other things too.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Whether tests that need root can run; says that they are skipped when not.
#[allow(clippy::print_stdout, reason = "read by who runs the tests")]
pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: needs root");
    }
    root
}

/// Asks until there is an answer. Panics after [`PATIENCE`].
#[track_caller]
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begin.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Asks until it is so. Panics after [`PATIENCE`].
#[track_caller]
pub fn wait_until(what: &str, mut ask: impl FnMut() -> bool) {
    wait_for(what, || ask().then_some(()));
}
