//! What the container may use: cgroup limits, device rules, resource limits.

use super::Input;
use crate::error::Error;
use crate::model::HostConfig;
use oci::runtime as spec;
use std::collections::BTreeMap;

/// CFS period that `--cpus` is a share of, microseconds.
const CPU_PERIOD: i64 = 100_000;

pub(super) fn rlimits(host: &HostConfig, open_files: Option<(u64, u64)>) -> Result<Vec<spec::Rlimit>, Error> {
    const NAMES: &[&str] = &[
        "as",
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    let asked = host
        .ulimits
        .iter()
        .map(|limit| {
            let name = limit.name.to_ascii_lowercase();
            if !NAMES.contains(&name.as_str()) {
                return Err(Error::invalid(format!("invalid ulimit type: {}", limit.name)));
            }
            // -1 is unlimited, which is the largest u64 to the kernel.
            let value = |n: i64| u64::try_from(n).unwrap_or(u64::MAX);
            if value(limit.soft) > value(limit.hard) {
                return Err(Error::invalid(format!(
                    "ulimit soft limit must be less than or equal to hard limit: {} > {}",
                    limit.soft, limit.hard
                )));
            }
            Ok(spec::Rlimit {
                kind: format!("RLIMIT_{}", name.to_ascii_uppercase()),
                hard: value(limit.hard),
                soft: value(limit.soft),
            })
        })
        .collect::<Result<Vec<_>, Error>>()?;
    let kind = "RLIMIT_NOFILE";
    let open_files = open_files.filter(|_| asked.iter().all(|limit| limit.kind != kind));
    let open_files = open_files.map(|(soft, hard)| spec::Rlimit { kind: kind.into(), hard, soft });
    Ok(asked.into_iter().chain(open_files).collect())
}

pub(super) fn resources(input: &Input<'_>) -> Result<spec::Resources, Error> {
    let limits = limits(&input.record.host_config, input.device_numbers)?;
    Ok(spec::Resources { devices: device_rules(input)?, ..limits })
}

/// The limits without the rules for devices: what can be changed while the container runs.
pub(crate) fn limits(
    host: &HostConfig,
    device_numbers: &BTreeMap<String, (i64, i64)>,
) -> Result<spec::Resources, Error> {
    let positive = |n: i64| (n > 0).then_some(n);
    let unsigned = |n: i64| u64::try_from(n).ok().filter(|n| *n > 0);
    let swap = match (host.memory, host.memory_swap) {
        (_, -1) => Some(-1),
        (memory, 0) if memory > 0 => Some(memory.saturating_mul(2)),
        (_, 0) => None,
        (_, swap) => Some(swap),
    };
    let memory = spec::Memory {
        limit: Some(host.memory).filter(|n| *n != 0),
        reservation: positive(host.memory_reservation),
        swap,
        swappiness: host.memory_swappiness.and_then(|n| u64::try_from(n).ok()),
        disable_oom_killer: host.oom_kill_disable.filter(|on| *on),
        ..spec::Memory::default()
    };
    let (quota, period) = if host.nano_cpus > 0 {
        (Some(host.nano_cpus / (1_000_000_000 / CPU_PERIOD)), u64::try_from(CPU_PERIOD).ok())
    } else {
        (Some(host.cpu_quota).filter(|q| *q != 0), unsigned(host.cpu_period))
    };
    let text = |s: &String| (!s.is_empty()).then(|| s.clone());
    let cpu = spec::Cpu {
        shares: unsigned(host.cpu_shares),
        quota,
        period,
        realtime_runtime: positive(host.cpu_realtime_runtime),
        realtime_period: unsigned(host.cpu_realtime_period),
        cpus: text(&host.cpuset_cpus),
        mems: text(&host.cpuset_mems),
        ..spec::Cpu::default()
    };
    Ok(spec::Resources {
        memory: (memory != spec::Memory::default()).then_some(memory),
        cpu: (cpu != spec::Cpu::default()).then_some(cpu),
        pids: host.pids_limit.filter(|n| *n != 0).map(|limit| spec::Pids { limit }),
        block_io: block_io(host, device_numbers)?,
        ..spec::Resources::default()
    })
}

fn block_io(
    host: &HostConfig,
    device_numbers: &BTreeMap<String, (i64, i64)>,
) -> Result<Option<spec::BlockIo>, Error> {
    let numbers = |path: &str| {
        device_numbers
            .get(path)
            .copied()
            .ok_or_else(|| Error::invalid(format!("{path} is not a block device")))
    };
    let rates = |list: &[crate::model::ThrottleDevice]| {
        list.iter()
            .map(|d| {
                numbers(&d.path).map(|(major, minor)| spec::ThrottleDevice { major, minor, rate: d.rate })
            })
            .collect::<Result<Vec<_>, _>>()
    };
    let weights = host
        .blkio_weight_device
        .iter()
        .map(|d| {
            numbers(&d.path).map(|(major, minor)| spec::WeightDevice {
                major,
                minor,
                weight: Some(d.weight),
                leaf_weight: None,
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let block_io = spec::BlockIo {
        weight: (host.blkio_weight > 0).then_some(host.blkio_weight),
        weight_device: weights,
        throttle_read_bps_device: rates(&host.blkio_device_read_bps)?,
        throttle_write_bps_device: rates(&host.blkio_device_write_bps)?,
        throttle_read_iops_device: rates(&host.blkio_device_read_iops)?,
        throttle_write_iops_device: rates(&host.blkio_device_write_iops)?,
        ..spec::BlockIo::default()
    };
    Ok((block_io != spec::BlockIo::default()).then_some(block_io))
}

fn device_rules(input: &Input<'_>) -> Result<Vec<spec::DeviceRule>, Error> {
    let host = &input.record.host_config;
    if host.privileged {
        return Ok(vec![spec::DeviceRule { allow: true, access: Some("rwm".into()), ..Default::default() }]);
    }
    let mut rules = vec![spec::DeviceRule { allow: false, access: Some("rwm".into()), ..Default::default() }];
    let character = |major, minor, access: &str| spec::DeviceRule {
        allow: true,
        kind: Some("c".into()),
        major,
        minor,
        access: Some(access.into()),
    };
    // Nodes may be made (the default set has MKNOD), opened only as listed below (T-DEV-1).
    rules.push(character(None, None, "m"));
    rules.push(spec::DeviceRule { kind: Some("b".into()), ..character(None, None, "m") });
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)] {
        rules.push(character(Some(major), Some(minor), "rwm"));
    }
    rules.push(character(Some(136), None, "rwm"));
    for (device, access) in input.devices {
        rules.push(spec::DeviceRule {
            allow: true,
            kind: Some(device.kind.clone()),
            major: Some(device.major),
            minor: Some(device.minor),
            access: Some(access.clone()),
        });
    }
    for text in &host.device_cgroup_rules {
        rules.push(device_rule(text)?);
    }
    Ok(rules)
}

/// `c 189:* rwm`.
fn device_rule(text: &str) -> Result<spec::DeviceRule, Error> {
    let error = || Error::invalid(format!("invalid device cgroup rule format: '{text}'"));
    let [kind, numbers, access] = text.split(' ').collect::<Vec<_>>()[..] else { return Err(error()) };
    let (major, minor) = numbers.split_once(':').ok_or_else(error)?;
    let number = |n: &str| match n {
        "*" => Ok(None),
        n => n.parse::<u32>().map(|n| Some(i64::from(n))).map_err(|_| error()),
    };
    if !matches!(kind, "a" | "b" | "c") || access.is_empty() || !access.bytes().all(|b| b"rwm".contains(&b)) {
        return Err(error());
    }
    Ok(spec::DeviceRule {
        allow: true,
        kind: Some(kind.into()),
        major: number(major)?,
        minor: number(minor)?,
        access: Some(access.into()),
    })
}
