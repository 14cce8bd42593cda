//! What tests across crates share. For `[dev-dependencies]` only: everything here panics when something is wrong,
//! with words for whoever reads the test's output.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

pub mod registry;
