//! Functions that take any bytes and must neither panic, nor hang, nor eat the memory, nor break the property that they
//! check themselves.
//!
//! A target is one file in `src/targets` with `pub(crate) fn run(data: &[u8])`; `build.rs` finds it by its name. Its
//! seeds, real inputs and those that once failed, are the files of `fuzz/seeds/NAME`. Three things run it:
//!
//! - `cargo xtask fuzz NAME` on the stable compiler: [`Session`] changes seeds and keeps what reaches new branches;
//! - `cargo fuzz` with the nightly compiler and libFuzzer: see `fuzz/any.rs`;
//! - this crate's tests: each seed, and a fixed number of changes of it, in every run of the test suite.

mod mutate;
mod session;

pub use mutate::{Mutator, Random};
pub use session::{Failure, Session, run_once};

use std::path::{Path, PathBuf};

/// One function that is fed.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
}

include!(concat!(env!("OUT_DIR"), "/targets.rs"));

/// The target of this name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().copied().find(|t| t.name == name)
}

/// Where a target's seeds are.
pub fn seeds_of(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target.name)
}

/// The files of a directory, by name; none where there is no directory.
///
/// # Errors
///
/// When one cannot be read.
pub fn read_all(directory: &Path) -> std::io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let entries = match std::fs::read_dir(directory) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut paths: Vec<PathBuf> = entries.map(|e| Ok(e?.path())).collect::<std::io::Result<_>>()?;
    paths.sort();
    paths.into_iter().map(|path| Ok((path.clone(), std::fs::read(&path)?))).collect()
}
