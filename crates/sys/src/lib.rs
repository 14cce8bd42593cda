//! Every syscall, ioctl and structure that rustix does not have. No policy: one function per call, descriptors in,
//! descriptors or errors out. A raw integer never leaves this crate. It is the only crate with `unsafe` code; other
//! crates use `rustix` for what it has.
//!
//! `brig` and `brig-runtime` are built with musl too, whose structures are not all glibc's: modules that they do not
//! use may be for glibc only.

pub mod bpf;
pub mod btrfs;
#[cfg(feature = "coverage")]
pub mod coverage;
#[cfg(target_env = "gnu")]
pub mod datagrams;
mod error_texts;
pub mod footprint;
pub mod fs_ids;
pub mod heap;
pub mod keyring;
pub mod launcher;
pub mod mount_attr;
pub mod netns;
pub mod process;
pub mod program;
#[cfg(target_env = "gnu")]
pub mod project_quota;
#[cfg(target_env = "gnu")]
pub mod ptrace;
pub mod scheduling;
pub mod seccomp;
pub mod session;
pub mod signal;
pub mod signalfd;
pub mod spawn;
pub mod spent;
pub mod thread_fs;
pub mod writeback;
