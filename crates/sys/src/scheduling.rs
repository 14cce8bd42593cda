//! Where, and how favoured, a process runs, and where its memory lies.
//!
//! Kernel: sched_setattr(2), Linux 3.14; set_mempolicy(2).
#![allow(unsafe_code, reason = "rustix has neither")]

use std::io;

/// What the first version of `struct sched_attr` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SchedulingAttributes {
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    pub runtime_ns: u64,
    pub deadline_ns: u64,
    pub period_ns: u64,
}

/// Sets how the calling thread is scheduled.
///
/// # Errors
///
/// `EPERM` without `CAP_SYS_NICE`, or for a real-time policy in a cgroup without real-time budget; `EINVAL` for values
/// that do not fit the policy; `EBUSY` when deadlines cannot be met.
pub fn set_scheduler(attributes: &SchedulingAttributes) -> io::Result<()> {
    #[repr(C)]
    struct Sized {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        times_ns: [u64; 3],
    }
    let a = attributes;
    let attributes = Sized {
        size: 48,
        policy: a.policy,
        flags: a.flags,
        nice: a.nice,
        priority: a.priority,
        times_ns: [a.runtime_ns, a.deadline_ns, a.period_ns],
    };
    const { assert!(size_of::<Sized>() == 48) };
    // SAFETY: the structure has the layout and, in its first field, the size of version 0 of `struct sched_attr`; it
    // outlives the call, and the kernel only reads it.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, std::ptr::from_ref(&attributes), 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets from which memory nodes the calling thread and its children get memory: `mode` is an `MPOL_*` with its flags,
/// bit n of `nodes` stands for node n.
///
/// # Errors
///
/// `EINVAL` for nodes that are not there or do not fit the mode, `ENOSYS` on a kernel without NUMA.
pub fn set_memory_policy(mode: u32, nodes: &[u64]) -> io::Result<()> {
    // The kernel reads one bit less than it is told (set_mempolicy(2), BUGS); a word more holds that bit.
    let padded: Vec<u64> = nodes.iter().copied().chain([0]).collect();
    let (mask, bits) = match nodes.len() {
        0 => (std::ptr::null(), 0),
        words => (padded.as_ptr(), words * 64 + 1),
    };
    // SAFETY: `mask` is null with no bits, or points to `bits` readable bits of `padded`, which outlives the call; the
    // kernel only reads them.
    let result = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
