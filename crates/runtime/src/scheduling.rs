//! Words of the specification about processors and memory nodes, turned into the kernel's numbers.
//!
//! Spec: runtime-spec config.md, `scheduler` and `execCPUAffinity`; config-linux.md, "Memory policy".

use crate::Error;
use oci::runtime::{MemoryPolicy, Scheduler};
use rustix::thread::CpuSet;
use sys::scheduling::SchedulingAttributes;

const POLICIES: &[(&str, u32)] = &[
    ("SCHED_OTHER", 0),
    ("SCHED_FIFO", 1),
    ("SCHED_RR", 2),
    ("SCHED_BATCH", 3),
    ("SCHED_ISO", 4),
    ("SCHED_IDLE", 5),
    ("SCHED_DEADLINE", 6),
];

const FLAGS: &[(&str, u64)] = &[
    ("SCHED_FLAG_RESET_ON_FORK", 0x01),
    ("SCHED_FLAG_RECLAIM", 0x02),
    ("SCHED_FLAG_DL_OVERRUN", 0x04),
    ("SCHED_FLAG_KEEP_POLICY", 0x08),
    ("SCHED_FLAG_KEEP_PARAMS", 0x10),
    ("SCHED_FLAG_UTIL_CLAMP_MIN", 0x20),
    ("SCHED_FLAG_UTIL_CLAMP_MAX", 0x40),
];

/// Modes of memory policies with the kernel's numbers.
pub(crate) const MODES: &[(&str, u32)] = &[
    ("MPOL_DEFAULT", 0),
    ("MPOL_PREFERRED", 1),
    ("MPOL_BIND", 2),
    ("MPOL_INTERLEAVE", 3),
    ("MPOL_LOCAL", 4),
    ("MPOL_PREFERRED_MANY", 5),
    ("MPOL_WEIGHTED_INTERLEAVE", 6),
];

/// Flags of memory policies with the kernel's bits.
pub(crate) const MODE_FLAGS: &[(&str, u32)] = &[
    ("MPOL_F_NUMA_BALANCING", 1 << 13),
    ("MPOL_F_RELATIVE_NODES", 1 << 14),
    ("MPOL_F_STATIC_NODES", 1 << 15),
];

/// The highest number in a list of processors or nodes, and what the kernel's masks hold.
const MAX_NUMBER: usize = CpuSet::MAX_CPU - 1;

fn number<T: Copy>(table: &[(&str, T)], name: &str) -> Option<T> {
    table.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

/// What `process.scheduler` means.
pub(crate) fn scheduler(wanted: &Scheduler) -> Result<SchedulingAttributes, Error> {
    let refuse = |field: &str, reason: String| Error::invalid(format!("process.scheduler.{field}"), reason);
    let policy = number(POLICIES, &wanted.policy)
        .ok_or_else(|| refuse("policy", format!("unknown policy {:?}", wanted.policy)))?;
    let flags = wanted.flags.iter().try_fold(0, |flags, name| {
        let flag = number(FLAGS, name).ok_or_else(|| refuse("flags", format!("unknown flag {name:?}")))?;
        Ok::<_, Error>(flags | flag)
    })?;
    let deadline = wanted.policy == "SCHED_DEADLINE";
    if !deadline && (wanted.runtime, wanted.deadline, wanted.period) != (0, 0, 0) {
        return Err(refuse("policy", "runtime, deadline and period are for SCHED_DEADLINE".into()));
    }
    if !(-20..=19).contains(&wanted.nice) {
        return Err(refuse("nice", format!("{} is not between -20 and 19", wanted.nice)));
    }
    let real_time = matches!(wanted.policy.as_str(), "SCHED_FIFO" | "SCHED_RR");
    let priority = u32::try_from(wanted.priority)
        .ok()
        .filter(|&priority| priority <= 99 && (real_time || priority == 0))
        .ok_or_else(|| refuse("priority", format!("{} does not fit {}", wanted.priority, wanted.policy)))?;
    Ok(SchedulingAttributes {
        policy,
        flags,
        nice: wanted.nice,
        priority,
        runtime_ns: wanted.runtime,
        deadline_ns: wanted.deadline,
        period_ns: wanted.period,
    })
}

/// Mode with flags, and nodes as words of bits, of `linux.memoryPolicy`.
pub(crate) fn memory_policy(wanted: &MemoryPolicy) -> Result<(u32, Vec<u64>), Error> {
    let refuse = |field: &str, reason: String| Error::invalid(format!("linux.memoryPolicy.{field}"), reason);
    let mode = number(MODES, &wanted.mode)
        .ok_or_else(|| refuse("mode", format!("invalid memory policy mode {:?}", wanted.mode)))?;
    let mode = wanted.flags.iter().try_fold(mode, |mode, name| {
        let flag = number(MODE_FLAGS, name)
            .ok_or_else(|| refuse("flags", format!("invalid memory policy flag {name:?}")))?;
        Ok::<_, Error>(mode | flag)
    })?;
    let mut words = Vec::new();
    for node in list(&wanted.nodes).map_err(|reason| refuse("nodes", reason))? {
        words.resize(words.len().max(node / 64 + 1), 0);
        words[node / 64] |= 1 << (node % 64);
    }
    Ok((mode, words))
}

/// The processors of a list such as `0-3,7`; none for an empty list.
pub(crate) fn processors(field: &str, text: &str) -> Result<Option<CpuSet>, Error> {
    let numbers =
        list(text).map_err(|reason| Error::invalid(format!("process.execCPUAffinity.{field}"), reason))?;
    if numbers.is_empty() {
        return Ok(None);
    }
    let mut set = CpuSet::new();
    numbers.into_iter().for_each(|number| set.set(number));
    Ok(Some(set))
}

/// The numbers of a list of numbers and ranges.
fn list(text: &str) -> Result<Vec<usize>, String> {
    let mut numbers = Vec::new();
    for part in text.split(',').map(str::trim).filter(|_| !text.trim().is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            text.parse::<usize>().ok().filter(|&n| digits && n <= MAX_NUMBER)
        };
        match (number(first.trim()), number(last.trim())) {
            (Some(first), Some(last)) if first <= last => numbers.extend(first..=last),
            _ => return Err(format!("{text:?} is not a list such as 0-3,7 with numbers up to {MAX_NUMBER}")),
        }
        if numbers.len() > 16 * (MAX_NUMBER + 1) {
            return Err(format!("{} numbers are too many", numbers.len()));
        }
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        let check =
            |text: &str, want: Option<&[usize]>| assert_eq!(list(text).ok().as_deref(), want, "{text:?}");
        check("", Some(&[]));
        check("0-2,7", Some(&[0, 1, 2, 7]));
        check(" 3 , 5 - 6 ", Some(&[3, 5, 6]));
        for bad in ["a", "1-", "-1", "2-1", "1,", ",", "1024", "+1", "99999999999999999999"] {
            check(bad, None);
        }
    }

    #[test]
    fn schedulers() {
        let given = |policy: &str, nice, priority, runtime| Scheduler {
            policy: policy.into(),
            nice,
            priority,
            runtime,
            ..Scheduler::default()
        };
        assert_eq!(scheduler(&given("SCHED_BATCH", 5, 0, 0)).unwrap().policy, 3);
        assert_eq!(scheduler(&given("SCHED_FIFO", 0, 99, 0)).unwrap().priority, 99);
        for bad in [given("SCHED_X", 0, 0, 0), given("SCHED_OTHER", 20, 0, 0), given("SCHED_OTHER", 0, 1, 0)]
        {
            assert!(scheduler(&bad).is_err(), "{bad:?}");
        }
        assert!(scheduler(&given("SCHED_RR", 0, 100, 0)).is_err());
        assert!(scheduler(&given("SCHED_RR", 0, 1, 5)).is_err());
    }

    #[test]
    fn memory_policies() {
        let given = |mode: &str, nodes: &str, flag: &str| MemoryPolicy {
            mode: mode.into(),
            nodes: nodes.into(),
            flags: vec![flag.into()],
        };
        let (mode, nodes) = memory_policy(&given("MPOL_BIND", "0,65", "MPOL_F_STATIC_NODES")).unwrap();
        assert_eq!((mode, nodes), (2 | 1 << 15, vec![1, 2]));
        assert!(memory_policy(&given("MPOL_X", "", "MPOL_F_STATIC_NODES")).is_err());
        assert!(memory_policy(&given("MPOL_BIND", "x", "MPOL_F_STATIC_NODES")).is_err());
        assert!(memory_policy(&given("MPOL_BIND", "0", "MPOL_F_X")).is_err());
    }
}
