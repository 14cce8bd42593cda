//! Seccomp profiles of the runtime specification compiled to classic BPF, and Docker's default profile.
//!
//! A program first tells the architectures apart (a 64-bit process can always enter the kernel through the 32-bit
//! table), then finds the call by binary search over ranges of numbers that share an action, then checks arguments.
//! libseccomp tests one number after the other; the search needs a tenth of the instructions, which the kernel must
//! check and translate at each container start.
//!
//! Programs are not kept by the content of their profiles. Docker's profile for three architectures takes 1.6 million
//! instructions of the 3.0 million that `create` takes itself (callgrind, release build with musl), 0.7 of them for finding
//! numbers by name: less of those is worth more than a file of filters that somebody could write to.

mod architecture;
mod assemble;
mod compile;
mod default_profile;
mod docker_file;
mod error;
mod profile;
mod tables;

pub use architecture::names as architectures;
pub use compile::compile;
pub use default_profile::docker_default;
pub use docker_file::{ProfileError, docker_file};
pub use error::Error;
pub use profile::{ACTIONS, FLAGS, OPERATORS};

/// One classic BPF instruction, `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

/// A compiled filter and how to install it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// At most 4096, the kernel's limit.
    pub instructions: Vec<Instruction>,
    /// `SECCOMP_FILTER_FLAG_*` for seccomp(2), without `NEW_LISTENER`, which depends on `notify`.
    pub flags: u32,
    /// Some call is answered by `SCMP_ACT_NOTIFY`: install with a listener.
    pub notify: bool,
}
