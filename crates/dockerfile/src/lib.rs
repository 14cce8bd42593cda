//! The Dockerfile language. Pure: text goes in, a syntax tree comes out; nothing is read, run or resolved here.
//!
//! ```text
//! text ─ line ─> logical lines (directives, comments, continuations, heredocs)
//!      ─ instruction ─> one typed instruction for each, with its flags and words as they were written
//!      ─ file ─> global ARGs and stages
//! ```
//!
//! Words keep their quotes and `$`: what a variable is worth is known when an instruction is reached, so that
//! [`Expander`] is called by the builder, instruction by instruction. [`Ignore`] has the patterns of `.dockerignore`,
//! [`check()`] the build checks with Docker's rule names, [`Change`] what an instruction
//! does to an image's config.
//!
//! A Dockerfile comes from a stranger: no text makes this crate panic, and each size that could grow has a maximum.
//!
//! Spec: Docker's Dockerfile reference, frontend version 1.

mod change;
mod check;
mod error;
mod expand;
mod file;
mod flags;
mod glob;
mod health;
mod heredoc;
mod ignore;
mod instruction;
mod line;
mod mount;
mod suggest;
mod words;

pub use change::{Change, Wrong, command_words, parse_changes, shell};
pub use check::{Rule, Warning, check, check_base_platform, check_ignored};
pub use error::Error;
pub use expand::{Expanded, Expander};
pub use file::{Dockerfile, From, Stage, TargetError};
pub use glob::Glob;
pub use health::{HealthCheck, parse_duration_ns};
pub use heredoc::Heredoc;
pub use ignore::{Ignore, Verdict};
pub use instruction::{Arg, Command, Copy, Instruction, Kind, Pair, Run};
pub use line::{Checks, Directives, MAX_LINE};
pub use mount::{Mount, MountKind, Sharing};
pub use suggest::suggest;
