//! Control groups of one container: directories made, processes put in, limits set, use counted, processes frozen
//! and killed, directories removed; on v1, v2 and both at once.
//!
//! ```text
//! /sys/fs/cgroup/memory/brig/ID      v1: the same path below each hierarchy
//! /sys/fs/cgroup/pids/brig/ID
//! /sys/fs/cgroup/brig/ID             v2
//! ```
//!
//! The hierarchies are found once for a process, in `/proc/self/mountinfo`, and opened; after that everything is
//! relative to a descriptor. The crate starts no thread and takes no lock.
//!
//! Spec: runtime-spec config-linux.md, "Control groups". Kernel: admin-guide/cgroup-v1, admin-guide/cgroup-v2.

mod apply;
mod convert;
pub mod dbus;
mod delegate;
mod devices;
mod directories;
mod error;
mod file;
mod kill;
mod layout;
mod oom;
mod read_stats;
mod remove;
mod stats;
mod systemd;

pub use directories::{Cgroup, HierarchyMount};
pub use error::{Error, Warning};
pub use layout::{Limits, Mode, limits, mode};
pub use oom::OomEvents;
pub use stats::{BlkioEntry, BlkioStats, CpuStats, MemoryStats, PidsStats, Stats};
pub use systemd::Unit;
