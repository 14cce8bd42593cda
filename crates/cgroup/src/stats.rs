//! What a container used and how much it may.

use std::collections::BTreeMap;

/// Numbers of one container. What a controller that is absent would tell is zero, `None` or empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    pub cpu: CpuStats,
    pub memory: MemoryStats,
    pub pids: PidsStats,
    pub blkio: BlkioStats,
}

/// Times in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuStats {
    pub total_ns: u64,
    pub user_ns: u64,
    pub system_ns: u64,
    /// Per CPU, on v1 only.
    pub per_cpu_ns: Vec<u64>,
    /// Periods that passed, that were throttled, and how long.
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled_ns: u64,
}

/// Bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryStats {
    pub usage: u64,
    /// `None`: no limit.
    pub limit: Option<u64>,
    pub max_usage: u64,
    /// v1 `memory.failcnt`; on v2 `max` of `memory.events`.
    pub failcnt: u64,
    /// `memory.stat` as the kernel names it (v1 and v2 differ, as in Docker's API).
    pub stat: BTreeMap<String, u64>,
    pub swap_usage: u64,
    pub swap_limit: Option<u64>,
}

/// Tasks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PidsStats {
    pub current: u64,
    /// `None`: no limit.
    pub limit: Option<u64>,
}

/// Docker's two lists that have content on both versions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlkioStats {
    pub service_bytes: Vec<BlkioEntry>,
    pub serviced: Vec<BlkioEntry>,
}

/// One counter of one device; `op` is lower case (`read`, `write`, `sync`, `async`, `discard`, `total`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlkioEntry {
    pub major: u64,
    pub minor: u64,
    pub op: String,
    pub value: u64,
}
