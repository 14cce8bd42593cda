//! A store whose process is killed at any moment. A program of its own: it starts and kills children of itself, which other
//! tests of the same process do not bear.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "the helpers of tests fail as tests do")]
#![allow(dead_code, reason = "the other tests use what this one does not")]

#[path = "images/crash.rs"]
mod crash;
#[path = "images/forge.rs"]
mod forge;
#[path = "images/powerloss.rs"]
mod powerloss;
#[path = "images/store.rs"]
mod store;
