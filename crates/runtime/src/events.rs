//! `events`: numbers of a container, once or again and again, and word of processes killed for want of memory. As runc
//! prints them: one JSON document a line.

use crate::Error;
use crate::procfs::Proc;
use crate::state::{ContainerId, Store, init};
use crate::verbs::open_cgroup;
use cgroup::{BlkioEntry, Cgroup};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant};

/// Calls `print` with one event after the other: with `once` only the numbers, else numbers each `interval` and kills as
/// they come, until the container ends.
pub fn events(
    store: &Store,
    id: &ContainerId,
    once: bool,
    interval: Duration,
    mut print: impl FnMut(&str),
) -> Result<(), Error> {
    let state = store.read(id)?;
    let Some(process) = init(&state, &Proc::open()?)? else {
        return Err(Error::WrongState { verb: "events", id: state.id, state: "stopped" });
    };
    let cgroup = open_cgroup(&state)?.filter(Cgroup::exists);
    let cgroup = cgroup.ok_or_else(|| Error::unsupported("events of a container without cgroup", ""))?;
    let event = |kind: &str, data: Option<Value>| {
        // Written by hand, since readers of lines look for the type at its beginning.
        let data = data.map(|data| format!(",\"data\":{data}")).unwrap_or_default();
        format!("{{\"type\":\"{kind}\",\"id\":\"{}\"{data}}}", id.as_str())
    };
    if once {
        print(&event("stats", Some(numbers(&cgroup)?)));
        return Ok(());
    }
    let mut kills = cgroup.oom_events()?;
    let mut next = Instant::now() + interval;
    loop {
        let left = next.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| Error::io("wait", Errno::INVAL))?;
        let mut polled = [PollFd::new(&process, PollFlags::IN), PollFd::new(&kills, kills.flags())];
        match poll(&mut polled, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(Error::io("wait for events", e)),
        }
        let ended = !polled[0].revents().is_empty();
        let killed = !polled[1].revents().is_empty();
        if killed {
            (0..kills.take()).for_each(|_| print(&event("oom", None)));
        }
        if ended {
            return Ok(());
        }
        if Instant::now() >= next {
            next += interval;
            // It may be going right now; the end comes next.
            if let Ok(numbers) = numbers(&cgroup) {
                print(&event("stats", Some(numbers)));
            }
        }
    }
}

/// runc's `types.Stats`.
fn numbers(cgroup: &Cgroup) -> Result<Value, Error> {
    let stats = cgroup.stats()?;
    let mut usage = some([("total", stats.cpu.total_ns)]);
    if !stats.cpu.per_cpu_ns.is_empty() {
        usage.insert("percpu".into(), json!(stats.cpu.per_cpu_ns));
    }
    usage.insert("kernel".into(), json!(stats.cpu.system_ns));
    usage.insert("user".into(), json!(stats.cpu.user_ns));
    let throttling = some([
        ("periods", stats.cpu.periods),
        ("throttledPeriods", stats.cpu.throttled_periods),
        ("throttledTime", stats.cpu.throttled_ns),
    ]);
    let pids = some([("current", stats.pids.current), ("limit", stats.pids.limit.unwrap_or(0))]);
    let mut blkio = Map::new();
    for (name, entries) in [
        ("ioServiceBytesRecursive", &stats.blkio.service_bytes),
        ("ioServicedRecursive", &stats.blkio.serviced),
    ] {
        if !entries.is_empty() {
            blkio.insert(name.into(), entries.iter().map(block).collect());
        }
    }
    Ok(json!({
        "cpu": { "usage": usage, "throttling": throttling },
        "cpuset": cpuset(cgroup),
        "memory": memory(cgroup, &stats.memory),
        "pids": pids,
        "blkio": blkio,
        "hugetlb": huge_pages(cgroup),
        "intel_rdt": {},
        "network_interfaces": null,
    }))
}

/// Those that are not zero, as runc leaves out zeros.
fn some<const N: usize>(pairs: [(&str, u64); N]) -> Map<String, Value> {
    pairs.into_iter().filter(|(_, n)| *n != 0).map(|(key, n)| (key.to_owned(), json!(n))).collect()
}

fn block(entry: &BlkioEntry) -> Value {
    let mut out = some([("major", entry.major), ("minor", entry.minor), ("value", entry.value)]);
    // v1 capitalises, and so do those who read it.
    let mut op = entry.op.clone();
    op[..1].make_ascii_uppercase();
    out.insert("op".into(), op.into());
    out.into()
}

fn number(cgroup: &Cgroup, controller: &str, name: &str) -> u64 {
    match cgroup.control(controller, name).as_deref() {
        Some("max") => u64::MAX,
        Some(text) => text.parse().unwrap_or(0),
        None => 0,
    }
}

fn cpuset(cgroup: &Cgroup) -> Value {
    let list = |name| cgroup.control("cpuset", name).map(|text| numbers_of(&text)).filter(|l| !l.is_empty());
    let mut out = Map::new();
    for (key, name) in [("cpus", "cpuset.cpus"), ("mems", "cpuset.mems")] {
        if let Some(list) = list(name) {
            out.insert(key.into(), json!(list));
        }
    }
    for key in [
        "cpu_exclusive",
        "mem_hardwall",
        "mem_exclusive",
        "memory_migrate",
        "memory_spread_page",
        "memory_spread_slab",
        "memory_pressure",
        "sched_load_balance",
    ] {
        out.insert(key.into(), json!(number(cgroup, "cpuset", &format!("cpuset.{key}"))));
    }
    let level = cgroup.control("cpuset", "cpuset.sched_relax_domain_level");
    let level: i64 = level.and_then(|text| text.parse().ok()).unwrap_or(0);
    out.insert("sched_relax_domain_level".into(), json!(level));
    out.into()
}

/// `0-2,7` as 0, 1, 2, 7.
fn numbers_of(text: &str) -> Vec<u16> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse::<u16>().ok()?..=last.trim().parse::<u16>().ok()?)
    };
    text.split(',').filter_map(range).flatten().collect()
}

fn memory(cgroup: &Cgroup, stats: &cgroup::MemoryStats) -> Value {
    let v2 = cgroup.is_v2("memory");
    let entry = |prefix: &str| -> Value {
        let (limit, usage, max, failed) = if v2 {
            ("max", "current", "peak", "")
        } else {
            ("limit_in_bytes", "usage_in_bytes", "max_usage_in_bytes", "failcnt")
        };
        let get = |name: &str| number(cgroup, "memory", &format!("memory.{prefix}{name}"));
        let mut out = some([("usage", get(usage)), ("max", get(max))]);
        out.insert("limit".into(), json!(get(limit)));
        out.insert("failcnt".into(), json!(if failed.is_empty() { 0 } else { get(failed) }));
        out.into()
    };
    let (swap, kernel, tcp) = if v2 { ("swap.", "", "") } else { ("memsw.", "kmem.", "kmem.tcp.") };
    let nothing = || json!({ "limit": 0, "failcnt": 0 });
    let cache = stats.stat.get(if v2 { "file" } else { "cache" }).copied().unwrap_or(0);
    let mut out = some([("cache", cache)]);
    out.insert("usage".into(), entry(""));
    out.insert("swap".into(), entry(swap));
    out.insert("kernel".into(), if kernel.is_empty() { nothing() } else { entry(kernel) });
    out.insert("kernelTCP".into(), if tcp.is_empty() { nothing() } else { entry(tcp) });
    out.insert("raw".into(), json!(stats.stat));
    out.into()
}

fn huge_pages(cgroup: &Cgroup) -> Value {
    let Ok(sizes) = std::fs::read_dir("/sys/kernel/mm/hugepages") else { return json!({}) };
    let mut out = Map::new();
    for size in sizes.flatten() {
        let name = size.file_name().into_string().unwrap_or_default();
        let kilobytes = name.strip_prefix("hugepages-").and_then(|rest| rest.strip_suffix("kB"));
        let Some(kilobytes) = kilobytes.and_then(|text| text.parse::<u64>().ok()) else { continue };
        let size = match kilobytes {
            n if n >= 1 << 20 => format!("{}GB", n >> 20),
            n if n >= 1 << 10 => format!("{}MB", n >> 10),
            n => format!("{n}KB"),
        };
        let get = |name: &str| number(cgroup, "hugetlb", &format!("hugetlb.{size}.{name}"));
        let mut entry = match cgroup.is_v2("hugetlb") {
            true => some([("usage", get("current"))]),
            false => some([("usage", get("usage_in_bytes")), ("max", get("max_usage_in_bytes"))]),
        };
        entry.insert("failcnt".into(), json!(get("failcnt")));
        out.insert(size, entry.into());
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors() {
        assert_eq!(numbers_of("0-2,7"), [0, 1, 2, 7]);
        assert_eq!(numbers_of("3"), [3]);
        assert!(numbers_of("").is_empty());
    }

    #[test]
    fn zeros_are_left_out() {
        assert_eq!(Value::from(some([("a", 0), ("b", 2)])), json!({"b": 2}));
        let entry = BlkioEntry { major: 8, minor: 0, op: "read".into(), value: 5 };
        assert_eq!(block(&entry), json!({"major": 8, "op": "Read", "value": 5}));
    }
}
