//! The cpu and cpuset controllers.

use super::{Target, missing};
use crate::convert::weight_of_shares;
use crate::{Cgroup, Error};
use oci::runtime::Cpu;
use rustix::io::Errno;

pub(super) fn apply(cgroup: &Cgroup, cpu: &Cpu) -> Result<(), Error> {
    for (name, list) in [("cpuset.cpus", &cpu.cpus), ("cpuset.mems", &cpu.mems)] {
        if let Some(list) = list.as_deref().filter(|l| !l.is_empty()) {
            Target::new(cgroup, "cpuset", name)?.write(name, list)?;
        }
    }
    let cpu = Cpu {
        shares: cpu.shares.filter(|&v| v != 0),
        quota: cpu.quota.filter(|&v| v != 0),
        period: cpu.period.filter(|&v| v != 0),
        realtime_runtime: cpu.realtime_runtime.filter(|&v| v != 0),
        realtime_period: cpu.realtime_period.filter(|&v| v != 0),
        ..cpu.clone()
    };
    let only_sets = Cpu { cpus: cpu.cpus.clone(), mems: cpu.mems.clone(), ..Cpu::default() };
    if cpu == only_sets {
        return Ok(());
    }
    let target = Target::new(cgroup, "cpu", "cpu limit")?;
    if target.v2 { apply_v2(&target, &cpu) } else { apply_v1(&target, &cpu) }
}

fn apply_v1(target: &Target<'_>, cpu: &Cpu) -> Result<(), Error> {
    if let Some(shares) = cpu.shares {
        target.write("cpu.shares", &shares.to_string())?;
    }
    if let Some(idle) = cpu.idle {
        write_or_missing(target, "cpu.idle", &idle.to_string())?;
    }
    bandwidth(target, cpu, |target| {
        let period = cpu.period.map(|v| v.to_string());
        let quota = cpu.quota.map(|v| v.max(-1).to_string());
        match (period, quota) {
            // The quota there may not fit the new period under the parent's limit.
            (Some(period), Some(quota)) => {
                target.write_pair(("cpu.cfs_period_us", &period), ("cpu.cfs_quota_us", &quota))
            }
            (Some(period), None) => target.write("cpu.cfs_period_us", &period),
            (None, Some(quota)) => target.write("cpu.cfs_quota_us", &quota),
            (None, None) => Ok(()),
        }
    })?;
    match (cpu.realtime_period, cpu.realtime_runtime) {
        (None, None) => Ok(()),
        _ if !crate::file::exists(target.directory, "cpu.rt_runtime_us") => {
            Err(missing("cpu", "realtime runtime (CONFIG_RT_GROUP_SCHED)".into()))
        }
        (Some(period), Some(runtime)) => target.write_pair(
            ("cpu.rt_period_us", &period.to_string()),
            ("cpu.rt_runtime_us", &runtime.to_string()),
        ),
        (Some(period), None) => target.write("cpu.rt_period_us", &period.to_string()),
        (None, Some(runtime)) => target.write("cpu.rt_runtime_us", &runtime.to_string()),
    }
}

fn apply_v2(target: &Target<'_>, cpu: &Cpu) -> Result<(), Error> {
    if cpu.realtime_runtime.is_some() || cpu.realtime_period.is_some() {
        return Err(missing("cpu", "realtime runtime (cgroup v2 has none)".into()));
    }
    if let Some(idle) = cpu.idle {
        write_or_missing(target, "cpu.idle", &idle.to_string())?;
    }
    // An idle group has no weight.
    if let (Some(shares), false) = (cpu.shares, cpu.idle == Some(1)) {
        target.write("cpu.weight", &weight_of_shares(shares).to_string())?;
    }
    bandwidth(target, cpu, |target| match (cpu.quota, cpu.period) {
        (None, None) => Ok(()),
        (None, Some(period)) => {
            let now = crate::file::read(target.directory, "cpu.max", &target.shown)?;
            let quota = now.split_ascii_whitespace().next().unwrap_or("max");
            target.write("cpu.max", &format!("{quota} {period}"))
        }
        (Some(quota), period) => {
            let quota = if quota < 0 { "max".into() } else { quota.to_string() };
            let period = period.map_or(String::new(), |p| format!(" {p}"));
            target.write("cpu.max", &format!("{quota}{period}"))
        }
    })
}

/// Runs `quota`, which writes quota and period, with the burst written where the kernel takes it: it must never be
/// above the quota, so a smaller one goes before and a larger one after.
fn bandwidth(
    target: &Target<'_>,
    cpu: &Cpu,
    quota: impl Fn(&Target<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let name = if target.v2 { "cpu.max.burst" } else { "cpu.cfs_burst_us" };
    let Some(burst) = cpu.burst.map(|b| b.to_string()) else { return quota(target) };
    match target.write_errno(name, &burst) {
        Ok(()) => quota(target),
        Err(Errno::INVAL) => {
            quota(target)?;
            target.write(name, &burst)
        }
        Err(Errno::NOENT) => Err(missing("cpu", name.to_owned())),
        Err(e) => Err(target.error(name, &burst, e)),
    }
}

fn write_or_missing(target: &Target<'_>, name: &str, value: &str) -> Result<(), Error> {
    if target.write_if_there(name, value)? { Ok(()) } else { Err(missing("cpu", name.to_owned())) }
}
