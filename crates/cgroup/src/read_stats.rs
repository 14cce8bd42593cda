//! Statistics read from the control files. A file that is not there counts nothing.

use crate::stats::{BlkioEntry, BlkioStats, CpuStats, MemoryStats, PidsStats, Stats};
use crate::{Cgroup, Error, file};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

/// v1 `cpuacct.stat` counts in `USER_HZ`, which is 100 on every architecture we build for.
const NS_PER_TICK: u64 = 10_000_000;

/// What v1 shows for "no limit": the largest multiple of the page size, whatever that is.
const V1_UNLIMITED: u64 = 0x7fff_ffff_ffff_0000;

impl Cgroup {
    /// What the container used and may use.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is no such cgroup (any more).
    pub fn stats(&self) -> Result<Stats, Error> {
        if !self.exists() {
            return Err(Error::NotFound { path: self.path.clone() });
        }
        Ok(Stats { cpu: self.cpu()?, memory: self.memory()?, pids: self.pid_counts()?, blkio: self.blkio()? })
    }

    /// The text of one file of `controller`, if both are there.
    pub fn control(&self, controller: &str, name: &str) -> Option<String> {
        let text = self.reader(controller)?.text(name).ok()?;
        Some(text.trim_ascii().to_owned()).filter(|text| !text.is_empty())
    }

    /// Whether `controller` is of cgroup v2 here.
    pub fn is_v2(&self, controller: &str) -> bool {
        self.controller(controller).is_some_and(|(hierarchy, _)| hierarchy.v2)
    }

    /// How often the kernel killed a process here for want of memory; 0 if that cannot be told.
    pub fn oom_kills(&self) -> u64 {
        let Some(reader) = self.reader("memory") else { return 0 };
        let name = if reader.v2 { "memory.events" } else { "memory.oom_control" };
        reader.pairs(name).ok().and_then(|pairs| pairs.get("oom_kill").copied()).unwrap_or(0)
    }

    fn cpu(&self) -> Result<CpuStats, Error> {
        let mut cpu = CpuStats::default();
        if let Some(reader) = self.reader("cpuacct") {
            cpu.total_ns = reader.number("cpuacct.usage")?.unwrap_or(0);
            let ticks = reader.pairs("cpuacct.stat")?;
            let ns = |key| ticks.get(key).map_or(0, |t: &u64| t.saturating_mul(NS_PER_TICK));
            (cpu.user_ns, cpu.system_ns) = (ns("user"), ns("system"));
            let per_cpu = reader.text("cpuacct.usage_percpu")?;
            cpu.per_cpu_ns = per_cpu.split_ascii_whitespace().filter_map(|n| n.parse().ok()).collect();
        }
        // On v2 each directory has cpu.stat, whether the controller is enabled or not.
        let Some(reader) = self.reader("cpu").or_else(|| self.v2_reader()) else { return Ok(cpu) };
        let pairs = reader.pairs("cpu.stat")?;
        let get = |key: &str| pairs.get(key).copied().unwrap_or(0);
        cpu.periods = get("nr_periods");
        cpu.throttled_periods = get("nr_throttled");
        if reader.v2 {
            let ns = |key| get(key).saturating_mul(1000);
            cpu.throttled_ns = ns("throttled_usec");
            if self.layout.index_of("cpuacct").is_none() {
                (cpu.total_ns, cpu.user_ns, cpu.system_ns) =
                    (ns("usage_usec"), ns("user_usec"), ns("system_usec"));
            }
        } else {
            cpu.throttled_ns = get("throttled_time");
        }
        Ok(cpu)
    }

    fn memory(&self) -> Result<MemoryStats, Error> {
        let Some(reader) = self.reader("memory") else { return Ok(MemoryStats::default()) };
        let stat = reader.pairs("memory.stat")?;
        if reader.v2 {
            let events = reader.pairs("memory.events")?;
            return Ok(MemoryStats {
                usage: reader.number("memory.current")?.unwrap_or(0),
                limit: reader.number("memory.max")?,
                max_usage: reader.number("memory.peak")?.unwrap_or(0),
                failcnt: events.get("max").copied().unwrap_or(0),
                swap_usage: reader.number("memory.swap.current")?.unwrap_or(0),
                swap_limit: reader.number("memory.swap.max")?,
                stat,
            });
        }
        let limit = |number: Option<u64>| number.filter(|&n| n < V1_UNLIMITED);
        let (usage, most) =
            (reader.number("memory.usage_in_bytes")?.unwrap_or(0), reader.number("memory.limit_in_bytes")?);
        // v1 counts memory and swap together.
        let sum = reader.number("memory.memsw.usage_in_bytes")?.unwrap_or(usage);
        let sum_limit = limit(reader.number("memory.memsw.limit_in_bytes")?);
        Ok(MemoryStats {
            usage,
            limit: limit(most),
            max_usage: reader.number("memory.max_usage_in_bytes")?.unwrap_or(0),
            failcnt: reader.number("memory.failcnt")?.unwrap_or(0),
            swap_usage: sum.saturating_sub(usage),
            swap_limit: sum_limit.map(|sum| sum.saturating_sub(limit(most).unwrap_or(0))),
            stat,
        })
    }

    fn pid_counts(&self) -> Result<PidsStats, Error> {
        let Some(reader) = self.reader("pids") else { return Ok(PidsStats::default()) };
        Ok(PidsStats {
            current: reader.number("pids.current")?.unwrap_or(0),
            limit: reader.number("pids.max")?,
        })
    }

    fn blkio(&self) -> Result<BlkioStats, Error> {
        if let Some(reader) = self.reader("blkio") {
            let both = |name| reader.text(name).map(|text| parse_blkio(&text));
            return Ok(BlkioStats {
                service_bytes: both("blkio.throttle.io_service_bytes_recursive")?,
                serviced: both("blkio.throttle.io_serviced_recursive")?,
            });
        }
        let Some(reader) = self.reader("io") else { return Ok(BlkioStats::default()) };
        Ok(parse_io_stat(&reader.text("io.stat")?))
    }

    fn reader(&self, controller: &str) -> Option<Reader<'_>> {
        let (hierarchy, directory) = self.controller(controller)?;
        Some(Reader { directory, shown: self.shown(hierarchy), v2: hierarchy.v2 })
    }

    fn v2_reader(&self) -> Option<Reader<'_>> {
        let (hierarchy, directory) = self.v2()?;
        Some(Reader { directory, shown: self.shown(hierarchy), v2: true })
    }
}

struct Reader<'a> {
    directory: BorrowedFd<'a>,
    shown: String,
    v2: bool,
}

impl Reader<'_> {
    /// Empty if there is no such file.
    fn text(&self, name: &str) -> Result<String, Error> {
        match file::read_errno(self.directory, name) {
            Ok(text) => Ok(text),
            // OPNOTSUPP: a file of a controller that is compiled in and off.
            Err(Errno::NOENT | Errno::OPNOTSUPP) => Ok(String::new()),
            Err(Errno::NODEV) => Err(Error::NotFound { path: self.shown.clone() }),
            Err(e) => {
                let file = format!("{}/{name}", self.shown);
                Err(Error::File { operation: "read", file, source: e.into() })
            }
        }
    }

    /// `None` for `max`, -1 and what is not there.
    fn number(&self, name: &str) -> Result<Option<u64>, Error> {
        self.text(name).map(|text| text.trim_ascii().parse().ok())
    }

    fn pairs(&self, name: &str) -> Result<BTreeMap<String, u64>, Error> {
        self.text(name).map(|text| parse_pairs(&text))
    }
}

/// Lines of `key number`; others are left out.
fn parse_pairs(text: &str) -> BTreeMap<String, u64> {
    let pair = |line: &str| {
        let (key, value) = line.split_once(' ')?;
        Some((key.to_owned(), value.trim_ascii().parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

fn device(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// v1: lines of `8:0 Read 4096`; the last one, a sum without a device, is left out.
fn parse_blkio(text: &str) -> Vec<BlkioEntry> {
    let entry = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (major, minor) = device(words.next()?)?;
        let op = words.next()?.to_ascii_lowercase();
        Some(BlkioEntry { major, minor, op, value: words.next()?.parse().ok()? })
    };
    text.lines().filter_map(entry).collect()
}

/// v2: lines of `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`.
fn parse_io_stat(text: &str) -> BlkioStats {
    let mut stats = BlkioStats::default();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some((major, minor)) = words.next().and_then(device) else { continue };
        for (key, value) in words.filter_map(|w| w.split_once('=')) {
            let Ok(value) = value.parse() else { continue };
            let (list, op) = match key {
                "rbytes" => (&mut stats.service_bytes, "read"),
                "wbytes" => (&mut stats.service_bytes, "write"),
                "dbytes" => (&mut stats.service_bytes, "discard"),
                "rios" => (&mut stats.serviced, "read"),
                "wios" => (&mut stats.serviced, "write"),
                "dios" => (&mut stats.serviced, "discard"),
                _ => continue,
            };
            list.push(BlkioEntry { major, minor, op: op.to_owned(), value });
        }
    }
    stats
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(op: &str, value: u64) -> BlkioEntry {
        BlkioEntry { major: 8, minor: 16, op: op.into(), value }
    }

    #[test]
    fn blkio_of_v1() {
        let text = "8:16 Read 10\n8:16 Write 20\n8:16 Total 30\nTotal 30\nbad\n";
        assert_eq!(parse_blkio(text), [entry("read", 10), entry("write", 20), entry("total", 30)]);
    }

    #[test]
    fn io_of_v2() {
        let stats = parse_io_stat("8:16 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0 x=y\n7:0 \n");
        assert_eq!(stats.service_bytes, [entry("read", 10), entry("write", 20), entry("discard", 0)]);
        assert_eq!(stats.serviced, [entry("read", 1), entry("write", 2), entry("discard", 0)]);
    }

    #[test]
    fn pairs() {
        let pairs = parse_pairs("cache 1\nrss 2\nodd\nhuge 99999999999999999999\n");
        assert_eq!(pairs.into_iter().collect::<Vec<_>>(), [("cache".into(), 1), ("rss".into(), 2)]);
    }
}
