//! What a running container uses: one look at its cgroups, its network interfaces and the machine's clock.
//!
//! Nothing is sampled unless someone asks, and nothing is kept: rates are the business of who asks twice.

use crate::container::Container;
use crate::error::{During, Error, IoDuring, blocking};
use crate::{Engine, Record};
use std::collections::BTreeMap;
use std::sync::Arc;

pub use cgroup::{BlkioEntry, Stats as CgroupStats};

/// Counters of a container at one moment.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// When, RFC 3339.
    pub read: String,
    pub cgroup: CgroupStats,
    /// The numbers are cgroup v2's, whose names differ.
    pub is_v2: bool,
    /// CPU time of the whole machine since it started, idle time included, nanoseconds.
    pub system_ns: u64,
    pub online_cpus: u32,
    /// Bytes the container may use: its limit, or what the machine has.
    pub memory_limit: u64,
    /// By interface name. Empty where the network is not the container's own.
    pub networks: BTreeMap<String, Interface>,
}

/// Counters of one network interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Interface {
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

impl Engine {
    /// What the container uses now; None when it does not run.
    pub async fn sample(self: &Arc<Self>, container: &Container) -> Result<Option<Sample>, Error> {
        let record = container.record();
        if !record.state.status.is_alive() {
            return Ok(None);
        }
        let path = self.cgroups_path(&record);
        let is_v2 = self.cgroup_mode == cgroup::Mode::V2;
        blocking(move || sample(&path, is_v2, &record)).await
    }
}

fn sample(path: &str, is_v2: bool, record: &Record) -> Result<Option<Sample>, Error> {
    let stats = match cgroup::Cgroup::open(path).and_then(|c| c.stats()) {
        Ok(stats) => stats,
        // It ended while it was looked at.
        Err(cgroup::Error::NotFound { .. }) => return Ok(None),
        Err(e) => return Err(e).during(|| format!("read the cgroups of container {}", record.name)),
    };
    let read = |path: &str| std::fs::read_to_string(path).io_during(|| format!("read {path}"));
    let (system_ns, online_cpus) = parse_cpus(&read("/proc/stat")?);
    let machine = parse_memory(&read("/proc/meminfo")?);
    let pid = record.state.pid;
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let networks = if namespace(&pid.to_string()) == namespace("self") {
        // The host's, by whichever way: its interfaces count for everybody.
        BTreeMap::new()
    } else {
        // Gone with the process, which is no failure.
        parse_interfaces(&std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default())
    };
    Ok(Some(Sample {
        read: crate::record::now(),
        memory_limit: stats.memory.limit.map_or(machine, |limit| limit.min(machine)),
        cgroup: stats,
        is_v2,
        system_ns,
        online_cpus,
        networks,
    }))
}

/// The machine's CPU time in nanoseconds, and how many CPUs it was counted on. Kernel: proc_stat(5); guest time, the
/// ninth number and the tenth, is part of user time already.
fn parse_cpus(text: &str) -> (u64, u32) {
    let ns_per_tick = 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
    let total: u64 = text
        .lines()
        .find_map(|line| line.strip_prefix("cpu "))
        .map_or(0, |line| line.split_whitespace().take(8).filter_map(|n| n.parse::<u64>().ok()).sum());
    let is_cpu = |line: &&str| {
        line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let cpus = text.lines().filter(is_cpu).count();
    (total.saturating_mul(ns_per_tick), u32::try_from(cpus).unwrap_or(u32::MAX))
}

fn parse_memory(text: &str) -> u64 {
    let kib = text.lines().find_map(|l| l.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok());
    kib.map_or(0, |kib: u64| kib.saturating_mul(1024))
}

/// Kernel: proc_pid_net(5), `dev`: eight numbers of what came in, eight of what went out. The loopback is left out.
fn parse_interfaces(text: &str) -> BTreeMap<String, Interface> {
    let interface = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> = numbers.split_whitespace().map_while(|n| n.parse().ok()).collect();
        let at = |i: usize| numbers.get(i).copied();
        let interface = Interface {
            rx_bytes: at(0)?,
            rx_packets: at(1)?,
            rx_errors: at(2)?,
            rx_dropped: at(3)?,
            tx_bytes: at(8)?,
            tx_packets: at(9)?,
            tx_errors: at(10)?,
            tx_dropped: at(11)?,
        };
        Some((name.trim().to_string(), interface))
    };
    text.lines().filter_map(interface).filter(|(name, _)| name != "lo").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_time_is_without_guests() {
        let text = "cpu  1 2 3 4 5 6 7 8 100 100\ncpu0 1 0 0 0\ncpu1 1 0 0 0\nintr 5\ncpufoo 1\n";
        let (ns, cpus) = parse_cpus(text);
        assert_eq!((ns, cpus), (36 * (1_000_000_000 / rustix::param::clock_ticks_per_second()), 2));
    }

    #[test]
    fn interfaces_but_the_loopback() {
        let text = "Inter-|   Receive  | Transmit\n face |bytes packets\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  \
                    eth0:1234 5 1 2 0 0 0 0 99 7 3 4 0 0 0 0\n  bad: 1 2\n";
        let got = parse_interfaces(text);
        assert_eq!(got.len(), 1);
        let eth0 = got["eth0"];
        assert_eq!((eth0.rx_bytes, eth0.rx_dropped, eth0.tx_bytes, eth0.tx_dropped), (1234, 2, 99, 4));
    }

    #[test]
    fn memory_of_the_machine() {
        assert_eq!(parse_memory("MemTotal:       16 kB\nMemFree: 1 kB\n"), 16384);
    }
}
