//! The memory controller.

use super::Target;
use crate::convert::{max_or, swap_max};
use crate::{Cgroup, Error, Warning, file};
use oci::runtime::Memory;
use rustix::io::Errno;

pub(super) fn apply(cgroup: &Cgroup, memory: &Memory, warnings: &mut Vec<Warning>) -> Result<(), Error> {
    let set = |value: Option<i64>| value.filter(|&v| v != 0);
    let memory = Memory {
        limit: set(memory.limit),
        swap: set(memory.swap),
        reservation: set(memory.reservation),
        ..memory.clone()
    };
    // Limits of kernel memory are gone from the kernel (6.1 and before); runc ignores them too.
    if [memory.kernel, memory.kernel_tcp].into_iter().any(|v| set(v).is_some_and(|v| v > 0)) {
        warnings.push(Warning("kernel memory limit ignored: kernels have none any more".into()));
    }
    let oom_off = memory.disable_oom_killer == Some(true);
    if memory.limit.is_none()
        && memory.swap.is_none()
        && memory.reservation.is_none()
        && memory.swappiness.is_none()
        && !oom_off
    {
        return Ok(());
    }
    let target = Target::new(cgroup, "memory", "memory limit")?;
    if memory.check_before_update == Some(true) {
        check_usage(&target, memory.limit)?;
    }
    if target.v2 { apply_v2(&target, &memory, warnings) } else { apply_v1(&target, &memory, warnings) }
}

/// The kernel would kill what does not fit under a new limit.
fn check_usage(target: &Target<'_>, limit: Option<i64>) -> Result<(), Error> {
    let Some(limit) = limit.and_then(|l| u64::try_from(l).ok()) else { return Ok(()) };
    let name = if target.v2 { "memory.current" } else { "memory.usage_in_bytes" };
    let usage = file::read(target.directory, name, &target.shown)?;
    if usage.trim_ascii().parse::<u64>().is_ok_and(|usage| usage > limit) {
        return Err(target.error("memory limit", &limit.to_string(), Errno::BUSY));
    }
    Ok(())
}

fn apply_v1(target: &Target<'_>, memory: &Memory, warnings: &mut Vec<Warning>) -> Result<(), Error> {
    const LIMIT: &str = "memory.limit_in_bytes";
    const SUM: &str = "memory.memsw.limit_in_bytes";
    // The sum is never below the limit, so taking away the limit takes away both.
    let sum = if memory.limit == Some(-1) && memory.swap.is_none() { Some(-1) } else { memory.swap };
    let has_sum = sum.is_some() && file::exists(target.directory, SUM);
    if sum.is_some_and(|s| s != -1) && !has_sum {
        warnings.push(Warning("swap limit ignored: the kernel does not account swap".into()));
    }
    match (memory.limit, sum.filter(|_| has_sum)) {
        (Some(limit), Some(sum)) => {
            target.write_pair((LIMIT, &limit.to_string()), (SUM, &sum.to_string()))?;
        }
        (Some(limit), None) => target.write(LIMIT, &limit.to_string())?,
        (None, Some(sum)) => target.write(SUM, &sum.to_string())?,
        (None, None) => {}
    }
    if let Some(reservation) = memory.reservation {
        target.write("memory.soft_limit_in_bytes", &reservation.to_string())?;
    }
    if let Some(swappiness) = memory.swappiness {
        if swappiness > 100 {
            let value = swappiness.to_string();
            return Err(Error::InvalidValue { limit: "swappiness", value, reason: "it is above 100" });
        }
        target.write("memory.swappiness", &swappiness.to_string())?;
    }
    if memory.disable_oom_killer == Some(true) {
        target.write("memory.oom_control", "1")?;
    }
    Ok(())
}

fn apply_v2(target: &Target<'_>, memory: &Memory, warnings: &mut Vec<Warning>) -> Result<(), Error> {
    // Swap first when memory shrinks would be nicer, but neither bounds the other on v2.
    if let Some(swap) = swap_max(memory.limit, memory.swap)? {
        let there = target.write_if_there("memory.swap.max", &swap)?;
        if !there && swap != "max" {
            warnings.push(Warning("swap limit ignored: the kernel does not account swap".into()));
        }
    }
    if let Some(limit) = memory.limit {
        target.write("memory.max", &max_or(limit))?;
    }
    if let Some(reservation) = memory.reservation {
        target.write("memory.low", &max_or(reservation))?;
    }
    if memory.swappiness.is_some() {
        warnings.push(Warning("memory swappiness ignored: cgroup v2 has none".into()));
    }
    if memory.disable_oom_killer == Some(true) {
        warnings.push(Warning("disabling the OOM killer ignored: cgroup v2 cannot".into()));
    }
    Ok(())
}
