//! Flags of `update`, as runc's.

use super::{Command, Parsed, container_id};
use lexopt::prelude::*;
use oci::runtime::{Cpu, Memory, Resources};
use std::io::Read as _;

/// Limits are a few hundred bytes.
const MAX_DOCUMENT: u64 = 1 << 20;

pub(super) fn update(parser: &mut lexopt::Parser) -> Parsed<Command> {
    let mut id = None;
    let mut document = None;
    let mut flags = Resources::default();
    let mut schemas = runtime::Schemas::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Short('r') | Long("resources") => document = Some(parser.value()?.string()?),
            Long("l3-cache-schema") => schemas.l3_cache = parser.value()?.string()?,
            Long("mem-bw-schema") => schemas.mem_bw = parser.value()?.string()?,
            Long(name) if LIMITS.contains(&name) => {
                let name = name.to_owned();
                flag(&mut flags, &name, &parser.value()?.string()?)?;
            }
            Value(value) if id.is_none() => id = Some(container_id(value)?),
            other => return Err(other.unexpected()),
        }
    }
    let id = id.ok_or_else(super::missing)?;
    // As with runc, a document leaves no word to the flags.
    let mut resources = document.map(|path| read(&path)).transpose()?.unwrap_or(flags);
    if let Some(memory) = &mut resources.memory {
        without_limit(memory);
    }
    Ok(Command::Update { id, resources: Box::new(resources), schemas })
}

/// All flags that set a limit. Those of kernel memory are obsolete, as in runc, and still taken.
const LIMITS: &[&str] = &[
    "blkio-weight",
    "cpu-period",
    "cpu-quota",
    "cpu-burst",
    "cpu-share",
    "cpu-rt-period",
    "cpu-rt-runtime",
    "cpu-idle",
    "cpuset-cpus",
    "cpuset-mems",
    "kernel-memory",
    "kernel-memory-tcp",
    "memory",
    "memory-reservation",
    "memory-swap",
    "pids-limit",
];

/// Sets one of [`LIMITS`]; an empty value sets nothing.
fn flag(limits: &mut Resources, name: &str, value: &str) -> Parsed<()> {
    let bad = |why: &str| lexopt::Error::from(format!("invalid value for {name}: {value:?}: {why}"));
    let unsigned = || value.parse::<u64>().map(Some).map_err(|e| bad(&e.to_string()));
    let signed = || value.parse::<i64>().map(Some).map_err(|e| bad(&e.to_string()));
    let bytes = || parse_bytes(value).map(Some).ok_or_else(|| bad("it is no size"));
    if value.is_empty() {
        return Ok(());
    }
    match name {
        "blkio-weight" => {
            let weight: u16 = value.parse().map_err(|_| bad("it is not between 10 and 1000"))?;
            limits.block_io.get_or_insert_default().weight = Some(weight).filter(|&w| w != 0);
        }
        "cpu-period" => cpu(limits).period = unsigned()?,
        "cpu-quota" => cpu(limits).quota = signed()?,
        "cpu-burst" => cpu(limits).burst = unsigned()?,
        "cpu-share" => cpu(limits).shares = unsigned()?,
        "cpu-rt-period" => cpu(limits).realtime_period = unsigned()?,
        "cpu-rt-runtime" => cpu(limits).realtime_runtime = signed()?,
        "cpu-idle" => cpu(limits).idle = signed()?,
        "cpuset-cpus" => cpu(limits).cpus = Some(value.to_owned()),
        "cpuset-mems" => cpu(limits).mems = Some(value.to_owned()),
        "kernel-memory" => memory(limits).kernel = bytes()?,
        "kernel-memory-tcp" => memory(limits).kernel_tcp = bytes()?,
        "memory" => memory(limits).limit = bytes()?,
        "memory-reservation" => memory(limits).reservation = bytes()?,
        "memory-swap" => memory(limits).swap = bytes()?,
        _ => {
            let limit = signed()?.unwrap_or(0);
            limits.pids = Some(oci::runtime::Pids { limit });
        }
    }
    Ok(())
}

fn cpu(limits: &mut Resources) -> &mut Cpu {
    limits.cpu.get_or_insert_default()
}

fn memory(limits: &mut Resources) -> &mut Memory {
    limits.memory.get_or_insert_default()
}

/// No limit of memory means none of swap: the kernel keeps the sum at or above the limit.
fn without_limit(memory: &mut Memory) {
    if memory.limit == Some(-1) && memory.swap.is_none() {
        memory.swap = Some(-1);
    }
}

fn read(path: &str) -> Parsed<Resources> {
    let mut bytes = Vec::new();
    let result = if path == "-" {
        std::io::stdin().take(MAX_DOCUMENT).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(MAX_DOCUMENT).read_to_end(&mut bytes))
    };
    result.map_err(|e| format!("read resources {path}: {e}"))?;
    oci::runtime::from_json(&bytes).map_err(|e| format!("read resources {path}: {e}").into())
}

/// Bytes as docker's tools write them: a number, maybe with a fraction, and `b`, `k`, `m`, `g`, `t`, `p`, by 1024; -1 is
/// no limit.
#[expect(clippy::cast_possible_truncation, reason = "checked to be below 2^63")]
#[expect(clippy::cast_precision_loss, reason = "a bound")]
fn parse_bytes(text: &str) -> Option<i64> {
    if text == "-1" {
        return Some(-1);
    }
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start_matches(' ').to_ascii_lowercase();
    let unit = unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit);
    let power = match unit {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    if let Ok(whole) = number.parse::<i64>() {
        return whole.checked_mul(1 << (10 * power));
    }
    let value = number.parse::<f64>().ok()? * (1u64 << (10 * power)) as f64;
    (value.is_finite() && value < i64::MAX as f64).then_some(value as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let check = |text: &str, want: Option<i64>| assert_eq!(parse_bytes(text), want, "{text:?}");
        check("1024", Some(1024));
        check("32M", Some(32 << 20));
        check("1.5k", Some(1536));
        check("2 GiB", Some(2 << 30));
        check("7kb", Some(7 << 10));
        check("-1", Some(-1));
        for bad in ["", "x", "-2", "1x", "9999999999999999999", "1.2.3", "99999999p"] {
            check(bad, None);
        }
    }

    #[test]
    fn flags_are_runcs() {
        let mut limits = Resources::default();
        let mut set = |name: &str, value: &str| flag(&mut limits, name, value).map_err(|e| e.to_string());
        assert_eq!(set("memory", "32M"), Ok(()));
        assert_eq!(set("memory-swap", "-1"), Ok(()));
        assert_eq!(set("cpu-share", "7"), Ok(()));
        assert_eq!(set("cpuset-cpus", ""), Ok(()));
        assert!(set("cpu-quota", "x").unwrap_err().starts_with("invalid value for cpu-quota"));
        let text = serde_json::to_string(&limits).unwrap();
        assert_eq!(text, r#"{"memory":{"limit":33554432,"swap":-1},"cpu":{"shares":7}}"#);
    }
}
