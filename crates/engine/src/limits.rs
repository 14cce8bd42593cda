//! Checks of the limits and places that a create request names: what no kernel and no runtime would take is refused
//! while the client can still be told which field was wrong.

use crate::error::Error;
use crate::model::HostConfig;
use std::collections::BTreeSet;

/// CFS periods that the kernel takes, microseconds.
const PERIODS: std::ops::RangeInclusive<i64> = 1_000..=1_000_000;
/// Least CFS quota, microseconds.
const MIN_QUOTA: i64 = 1_000;
/// Highest number of a CPU or memory node; what is above is a typing mistake, not a machine.
const MAX_CPU: u32 = 8_191;

/// Checks the limits of `host`. Reads which CPUs and memory nodes this machine has.
pub(crate) fn check(host: &HostConfig) -> Result<(), Error> {
    let parent = &host.cgroup_parent;
    if parent.split('/').any(|part| part == "..") || parent.bytes().any(|b| b.is_ascii_control()) {
        return Err(Error::invalid(format!("invalid cgroup parent {parent:?}")));
    }
    if host.cpu_period != 0 && !PERIODS.contains(&host.cpu_period) {
        return Err(Error::invalid(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        ));
    }
    if host.cpu_quota > 0 && host.cpu_quota < MIN_QUOTA {
        return Err(Error::invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)"));
    }
    if host.nano_cpus != 0 {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        let most = i64::try_from(cpus).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
        if !(0..=most).contains(&host.nano_cpus) {
            return Err(Error::invalid(format!(
                "Range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
            )));
        }
    }
    if host.memory_swap < -1 {
        return Err(Error::invalid(format!("invalid memory swap limit: {}", host.memory_swap)));
    }
    if let Some(swappiness) = host.memory_swappiness.filter(|n| !(-1..=100).contains(n)) {
        return Err(Error::invalid(format!(
            "Invalid value: {swappiness}, valid memory swappiness range is 0-100"
        )));
    }
    if !(-1000..=1000).contains(&host.oom_score_adj) {
        return Err(Error::invalid(format!(
            "Invalid value {}, range for oom score adj is [-1000, 1000]",
            host.oom_score_adj
        )));
    }
    check_set("CPUs", "cpuset cpus", &host.cpuset_cpus, "/sys/devices/system/cpu/online")?;
    check_set("memory nodes", "cpuset mems", &host.cpuset_mems, "/sys/devices/system/node/online")
}

fn check_set(things: &str, field: &str, wanted: &str, online: &str) -> Result<(), Error> {
    if wanted.is_empty() {
        return Ok(());
    }
    let set =
        parse_set(wanted).ok_or_else(|| Error::invalid(format!("Invalid value {wanted} for {field}")))?;
    let text = std::fs::read_to_string(online).unwrap_or_default();
    match parse_set(text.trim()) {
        Some(there) if !set.is_subset(&there) => Err(Error::invalid(format!(
            "Requested {things} are not available - requested {wanted}, available: {}",
            text.trim()
        ))),
        // A kernel without NUMA has no list; it refuses what it does not have.
        _ => Ok(()),
    }
}

/// `0-2,7`. Kernel: cpuset(7), list format.
fn parse_set(text: &str) -> Option<BTreeSet<u32>> {
    let mut out = BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last > MAX_CPU {
            return None;
        }
        out.extend(first..=last);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_cpus() {
        let check = |text: &str, want: Option<&[u32]>| {
            assert_eq!(parse_set(text), want.map(|w| w.iter().copied().collect()), "{text}");
        };
        check("0", Some(&[0]));
        check("0-2,7", Some(&[0, 1, 2, 7]));
        for bad in ["", "a", "1-", "-1", "2-1", "0,,1", "99999", "0-4294967295", "../../x", "1\0"] {
            check(bad, None);
        }
    }

    #[test]
    fn what_no_kernel_takes_is_refused() {
        let refused = |change: fn(&mut HostConfig)| {
            let mut host = HostConfig::default();
            change(&mut host);
            assert!(check(&host).is_err(), "{host:?}");
        };
        assert!(check(&HostConfig::default()).is_ok());
        refused(|h| h.cgroup_parent = "../../x".into());
        refused(|h| h.cgroup_parent = "a\0".into());
        refused(|h| h.cpu_period = 1);
        refused(|h| h.cpu_quota = 1);
        refused(|h| h.nano_cpus = i64::MAX);
        refused(|h| h.memory_swap = -5);
        refused(|h| h.memory_swappiness = Some(101));
        refused(|h| h.oom_score_adj = 5000);
        refused(|h| h.cpuset_cpus = "8000".into());
        refused(|h| h.cpuset_mems = "x".into());
    }
}
