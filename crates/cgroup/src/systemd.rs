//! The systemd driver: the container's cgroup is that of a scope, a unit of systemd's, so that both agree about who owns it.
//! systemd is asked over D-Bus; limits are written into the files as without it, and told to systemd as the unit's
//! properties, so that a reload does not take them back.
//!
//! `linux.cgroupsPath` is then `SLICE:PREFIX:NAME`, such as `user.slice:podman:0123`.
//!
//! API: [org.freedesktop.systemd1](https://www.freedesktop.org/software/systemd/man/latest/org.freedesktop.systemd1.html),
//! `StartTransientUnit`, `SetUnitProperties`, `StopUnit`.

use crate::Error;
use crate::convert::weight_of_shares;
use crate::dbus::{Body, Connection, Target};
use oci::runtime::Resources;
use std::io;

const MANAGER: Target<'static> = Target {
    destination: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
};

/// A unit that holds a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// `PREFIX-NAME.scope`, or a slice.
    pub name: String,
    pub slice: String,
    /// Socket of the bus that systemd is on.
    pub bus: String,
    /// For a user's own systemd: the cgroup that it manages.
    pub manager: Option<String>,
}

impl Unit {
    /// From a `cgroupsPath`, empty for the default; `bus` is the socket of the system bus.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidPath`] for what is not `SLICE:PREFIX:NAME`.
    pub fn parse(path: &str, id: &str, bus: &str) -> Result<Unit, Error> {
        Unit::parse_below(path, id, bus, None)
    }

    /// The same of a user's own systemd, which is asked for its cgroup; `bus` is the socket of that user's bus.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidPath`] for what is not `SLICE:PREFIX:NAME`; [`Error::File`] where nobody answers on the bus.
    pub fn parse_user(path: &str, id: &str, bus: &str) -> Result<Unit, Error> {
        let asked = control_group(bus);
        let manager = asked.map_err(|source| Error::File {
            operation: "ask for the cgroup of",
            file: format!("the user's systemd at {bus}"),
            source,
        })?;
        Unit::parse_below(path, id, bus, Some(manager))
    }

    fn parse_below(path: &str, id: &str, bus: &str, manager: Option<String>) -> Result<Unit, Error> {
        let bus = bus.to_owned();
        let default = if manager.is_some() { "user.slice" } else { "system.slice" };
        let invalid = |reason| Error::InvalidPath { path: path.to_owned(), reason };
        if path.is_empty() {
            return Ok(Unit { name: format!("brig-{id}.scope"), slice: default.into(), bus, manager });
        }
        let mut parts = path.split(':');
        let (Some(slice), Some(prefix), Some(name), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(invalid("is not SLICE:PREFIX:NAME, which --systemd-cgroup wants"));
        };
        let slice = if slice.is_empty() { default } else { slice };
        if !is_unit(slice) || !slice.ends_with(".slice") || slice == ".slice" {
            return Err(invalid("names no slice"));
        }
        if name.is_empty() || !is_unit(name) || !is_unit(prefix) {
            return Err(invalid("has no name of a unit"));
        }
        let name = match prefix {
            _ if name.ends_with(".slice") => name.to_owned(),
            "" => format!("{name}.scope"),
            prefix => format!("{prefix}-{name}.scope"),
        };
        Ok(Unit { name, slice: slice.to_owned(), bus, manager })
    }

    /// Where systemd makes its cgroup: `/a.slice/a-b.slice/NAME` for the slice `a-b.slice`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidPath`] for a slice with an empty part.
    pub fn path(&self) -> Result<String, Error> {
        let own = match self.name.strip_suffix(".slice") {
            Some(_) => expand(&self.name)?,
            None => format!("{}/{}", expand(&self.slice)?, self.name),
        };
        Ok(self.manager.clone().unwrap_or_default() + &own)
    }

    /// Has a user's systemd put process `pid` into the unit: the user may not move it there from outside what is the user's.
    pub fn attach(&self, pid: i32) -> Result<(), Error> {
        let mut body = Body::default();
        body.string(&self.name).string("").array(4, |pids| {
            pids.u32(u32::try_from(pid).unwrap_or(0));
        });
        Connection::open(&self.bus)
            .and_then(|mut bus| bus.call(MANAGER, "AttachProcessesToUnit", "ssau", &body))
            .map(drop)
            .map_err(|e| self.error("put a process into", e))
    }

    /// Asks systemd for the unit with process `pid` in it, and waits until it is there.
    pub fn start(&self, pid: i32, limits: &Resources, v2: bool) -> Result<(), Error> {
        self.try_start(pid, limits, v2).map_err(|e| self.error("start", e))
    }

    /// Tells systemd of new limits.
    pub fn update(&self, limits: &Resources, v2: bool) -> Result<(), Error> {
        self.try_update(limits, v2).map_err(|e| self.error("update", e))
    }

    /// Takes the unit away. One that is gone, as a scope is when its last process ends, is no error.
    pub fn stop(&self) -> Result<(), Error> {
        self.try_stop().map_err(|e| self.error("stop", e))
    }

    fn error(&self, operation: &'static str, source: io::Error) -> Error {
        Error::File { operation, file: format!("systemd unit {}", self.name), source }
    }

    fn try_start(&self, pid: i32, limits: &Resources, v2: bool) -> io::Result<()> {
        let mut bus = watching(&self.bus)?;
        let mut body = Body::default();
        body.string(&self.name).string("replace").array(8, |list| {
            property(list, "Description", "s", |b| {
                b.string(&format!("container {}", self.name));
            });
            let parent = if self.name.ends_with(".slice") { "Wants" } else { "Slice" };
            match parent {
                "Slice" => property(list, parent, "s", |b| {
                    b.string(&self.slice);
                }),
                _ => property(list, parent, "as", |b| {
                    b.array(4, |a| {
                        a.string(&self.slice);
                    });
                }),
            }
            if parent == "Slice" {
                property(list, "Delegate", "b", |b| {
                    b.u32(1);
                });
                let pid = u32::try_from(pid).unwrap_or(0);
                property(list, "PIDs", "au", |b| {
                    b.array(4, |a| {
                        a.u32(pid);
                    });
                });
            }
            for name in ["MemoryAccounting", "CPUAccounting", "TasksAccounting"] {
                property(list, name, "b", |b| {
                    b.u32(1);
                });
            }
            property(list, if v2 { "IOAccounting" } else { "BlockIOAccounting" }, "b", |b| {
                b.u32(1);
            });
            property(list, "DefaultDependencies", "b", |b| {
                b.u32(0);
            });
            limit_properties(list, limits, v2);
        });
        // No auxiliary units.
        body.array(8, |_| {});
        match bus.call(MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", &body) {
            Err(e) if e.to_string().contains("UnitExists") => {
                // Of a container whose end systemd has not been told to forget.
                let mut name = Body::default();
                drop(bus.call(MANAGER, "ResetFailedUnit", "s", name.string(&self.name)));
                bus.call(MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", &body)?;
            }
            other => drop(other?),
        }
        match self.wait_job(&mut bus)?.as_str() {
            "done" => Ok(()),
            other => Err(io::Error::other(format!("its job ended as {other:?}"))),
        }
    }

    fn try_update(&self, limits: &Resources, v2: bool) -> io::Result<()> {
        let mut body = Body::default();
        // Of this boot only.
        body.string(&self.name).u32(1).array(8, |list| limit_properties(list, limits, v2));
        Connection::open(&self.bus)?.call(MANAGER, "SetUnitProperties", "sba(sv)", &body).map(drop)
    }

    fn try_stop(&self) -> io::Result<()> {
        let mut bus = watching(&self.bus)?;
        let mut body = Body::default();
        body.string(&self.name).string("replace");
        match bus.call(MANAGER, "StopUnit", "ss", &body) {
            Err(e) if e.to_string().contains("NoSuchUnit") => return Ok(()),
            other => drop(other?),
        }
        self.wait_job(&mut bus)?;
        // Nobody asks for a failed scope again.
        let mut name = Body::default();
        drop(bus.call(MANAGER, "ResetFailedUnit", "s", name.string(&self.name)));
        Ok(())
    }

    /// How the job of this unit ended.
    fn wait_job(&self, bus: &mut Connection) -> io::Result<String> {
        bus.wait_signal("JobRemoved", |message| {
            let mut reader = message.reader();
            let (_id, _job, unit) = (reader.u32()?, reader.string()?, reader.string()?);
            let result = reader.string()?;
            (unit == self.name).then_some(result)
        })
    }
}

/// Where the cgroup of the systemd on this bus is.
fn control_group(socket: &str) -> io::Result<String> {
    let properties = Target { interface: "org.freedesktop.DBus.Properties", ..MANAGER };
    let mut body = Body::default();
    body.string(MANAGER.interface).string("ControlGroup");
    let answer = Connection::open(socket)?.call(properties, "Get", "ss", &body)?;
    let mut reader = answer.reader();
    let path = reader.signature().filter(|kind| kind == "s").and_then(|_| reader.string());
    let path = path.filter(|path| path.starts_with('/')).ok_or_else(|| io::Error::other("it names none"))?;
    Ok(path.trim_end_matches('/').to_owned())
}

/// A connection that hears of the ends of jobs.
fn watching(socket: &str) -> io::Result<Connection> {
    let mut bus = Connection::open(socket)?;
    bus.call_bus(
        "AddMatch",
        "type='signal',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'",
    )?;
    // systemd sends its signals only to who asked. An old one may refuse a second time; the match is what counts.
    drop(bus.call(MANAGER, "Subscribe", "", &Body::default()));
    Ok(bus)
}

fn property(list: &mut Body, name: &str, signature: &str, value: impl FnOnce(&mut Body)) {
    list.align(8).string(name).signature(signature);
    value(list);
}

/// Limits as the unit's properties; what systemd has no property for is in the files alone.
fn limit_properties(list: &mut Body, limits: &Resources, v2: bool) {
    for (name, value) in properties(limits, v2) {
        match value {
            Value::Number(number) => property(list, name, "t", |b| {
                b.u64(number);
            }),
            Value::Set(bytes) => property(list, name, "ay", |b| {
                b.array(1, |b| {
                    b.bytes(&bytes);
                });
            }),
        }
    }
}

/// Of a property.
#[derive(Debug, PartialEq, Eq)]
enum Value {
    /// The largest is no limit.
    Number(u64),
    /// A bit for each.
    Set(Vec<u8>),
}

/// In the order in which they count: what `unified` says is written last.
fn properties(limits: &Resources, v2: bool) -> Vec<(&'static str, Value)> {
    let mut list = Vec::new();
    let mut number = |name, value| list.push((name, Value::Number(value)));
    let bytes = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
    let given = |value: Option<i64>| value.filter(|&v| v != 0);
    if let Some(memory) = &limits.memory {
        if let Some(limit) = given(memory.limit) {
            number(if v2 { "MemoryMax" } else { "MemoryLimit" }, bytes(limit));
        }
        if let (Some(low), true) = (given(memory.reservation), v2) {
            number("MemoryLow", bytes(low));
        }
        match (given(memory.limit).unwrap_or_default(), given(memory.swap)) {
            (_, Some(..0)) if v2 => number("MemorySwapMax", u64::MAX),
            (limit @ 1.., Some(sum)) if v2 => {
                number("MemorySwapMax", bytes(sum.saturating_sub(limit).max(0)))
            }
            _ => {}
        }
    }
    if let Some(cpu) = &limits.cpu {
        if let Some(shares) = cpu.shares.filter(|&s| s != 0) {
            match v2 {
                true => number("CPUWeight", weight_of_shares(shares)),
                false => number("CPUShares", shares),
            }
        }
        let period = cpu.period.filter(|&p| p != 0);
        if given(cpu.quota).is_some() || period.is_some() {
            quota(&mut number, given(cpu.quota).unwrap_or(-1), period, v2);
        }
        if v2 {
            for (name, text) in [("AllowedCPUs", &cpu.cpus), ("AllowedMemoryNodes", &cpu.mems)] {
                list.extend(text.as_deref().and_then(set_of).map(|set| (name, Value::Set(set))));
            }
        }
    }
    if let Some(pids) = &limits.pids {
        list.push(("TasksMax", Value::Number(bytes(pids.limit).max(1))));
    }
    for (key, text) in limits.unified.iter().filter(|_| v2) {
        unified(&mut list, key, text.trim());
    }
    list
}

/// systemd counts in microseconds a second, and keeps hundredths of a processor. Without the period it would take its own,
/// of 100 ms, when it writes the file again.
fn quota(number: &mut impl FnMut(&'static str, u64), quota: i64, period: Option<u64>, v2: bool) {
    if let (Some(period), true) = (period, v2) {
        number("CPUQuotaPeriodUSec", period);
    }
    let per_second = u64::try_from(quota).map_or(u64::MAX, |quota| {
        (quota.saturating_mul(1_000_000) / period.unwrap_or(100_000)).next_multiple_of(10_000)
    });
    number("CPUQuotaPerSecUSec", per_second);
}

/// A file of cgroup v2 as the property that systemd would write into it again.
fn unified(list: &mut Vec<(&'static str, Value)>, key: &str, text: &str) {
    const NUMBERS: &[(&str, &str)] = &[
        ("cpu.weight", "CPUWeight"),
        ("memory.high", "MemoryHigh"),
        ("memory.low", "MemoryLow"),
        ("memory.max", "MemoryMax"),
        ("memory.min", "MemoryMin"),
        ("memory.swap.max", "MemorySwapMax"),
        ("pids.max", "TasksMax"),
    ];
    let value = |text: &str| if text == "max" { Some(u64::MAX) } else { text.parse().ok() };
    if let Some((_, name)) = NUMBERS.iter().find(|(file, _)| *file == key) {
        list.extend(value(text).map(|number| (*name, Value::Number(number))));
        return;
    }
    match key {
        "cpu.max" => {
            let (limit, period) = text.split_once(' ').unwrap_or((text, "100000"));
            if let (Some(limit), Ok(period @ 1..)) = (value(limit), period.parse()) {
                let mut number = |name, value| list.push((name, Value::Number(value)));
                quota(&mut number, i64::try_from(limit).unwrap_or(-1), Some(period), true);
            }
        }
        "cpuset.cpus" => list.extend(set_of(text).map(|set| ("AllowedCPUs", Value::Set(set)))),
        "cpuset.mems" => list.extend(set_of(text).map(|set| ("AllowedMemoryNodes", Value::Set(set)))),
        _ => {}
    }
}

/// Processors or nodes such as `0-3,7`. None for none, and for what the kernel will refuse.
fn set_of(list: &str) -> Option<Vec<u8>> {
    /// More than any kernel is built for.
    const MAX: usize = 8192;
    let mut set = Vec::new();
    for part in list.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok().filter(|&n| n < MAX)?);
        set.resize(set.len().max(last / 8 + 1), 0u8);
        (first..=last).for_each(|bit| set[bit / 8] |= 1 << (bit % 8));
    }
    Some(set)
}

/// `/a.slice/a-b.slice` for `a-b.slice`; nothing for the root, `-.slice`.
fn expand(slice: &str) -> Result<String, Error> {
    let stem = slice.strip_suffix(".slice").unwrap_or(slice);
    if stem == "-" {
        return Ok(String::new());
    }
    let mut out = String::new();
    let mut name = String::new();
    for part in stem.split('-') {
        if part.is_empty() {
            return Err(Error::InvalidPath {
                path: slice.to_owned(),
                reason: "is a slice with an empty part",
            });
        }
        name = if name.is_empty() { part.to_owned() } else { format!("{name}-{part}") };
        out += &format!("/{name}.slice");
    }
    Ok(out)
}

/// The characters that systemd takes in names of units.
fn is_unit(name: &str) -> bool {
    name.len() < 256
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-@\\".contains(&b))
        && name != ".."
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci::runtime::{Cpu, Memory, Pids};

    #[test]
    fn limits_as_properties() {
        let cpu =
            Cpu { quota: Some(30_000), period: Some(200_000), cpus: Some("0-2,9".into()), ..Cpu::default() };
        let unified = [("memory.high", "max"), ("cpu.max", "max 5000"), ("io.weight", "7")];
        let limits = Resources {
            memory: Some(Memory { limit: Some(100), swap: Some(150), ..Memory::default() }),
            cpu: Some(cpu),
            pids: Some(Pids { limit: -1 }),
            unified: unified.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            ..Resources::default()
        };
        let want = [
            ("MemoryMax", 100),
            ("MemorySwapMax", 50),
            ("CPUQuotaPeriodUSec", 200_000),
            ("CPUQuotaPerSecUSec", 150_000),
            ("TasksMax", u64::MAX),
            ("CPUQuotaPeriodUSec", 5000),
            ("CPUQuotaPerSecUSec", u64::MAX),
            ("MemoryHigh", u64::MAX),
        ];
        let mut want: Vec<_> = want.into_iter().map(|(name, n)| (name, Value::Number(n))).collect();
        want.insert(4, ("AllowedCPUs", Value::Set(vec![7, 2])));
        assert_eq!(properties(&limits, true), want);
        for (list, want) in
            [("", None), ("3-", None), ("99999", None), ("0", Some(vec![1])), ("8", Some(vec![0, 1]))]
        {
            assert_eq!(set_of(list), want, "{list}");
        }
    }

    #[test]
    fn paths() {
        let check = |path: &str, want: Option<(&str, &str)>| {
            let unit = Unit::parse(path, "ID", "/bus");
            let got = unit.ok().and_then(|unit| Some((unit.name.clone(), unit.path().ok()?)));
            assert_eq!(got, want.map(|(name, path)| (name.to_owned(), path.to_owned())), "{path:?}");
        };
        check("", Some(("brig-ID.scope", "/system.slice/brig-ID.scope")));
        check("user.slice:podman:x", Some(("podman-x.scope", "/user.slice/podman-x.scope")));
        check("a-b-c.slice:p:x", Some(("p-x.scope", "/a.slice/a-b.slice/a-b-c.slice/p-x.scope")));
        check("-.slice:p:x", Some(("p-x.scope", "/p-x.scope")));
        check(":p:x", Some(("p-x.scope", "/system.slice/p-x.scope")));
        check("a.slice::x", Some(("x.scope", "/a.slice/x.scope")));
        check("a.slice:p:b-c.slice", Some(("b-c.slice", "/b.slice/b-c.slice")));
        for bad in [
            "/a/b",
            "a.slice:p",
            "a.slice:p:x:y",
            "a.slice:p:",
            "a:p:x",
            "../a.slice:p:x",
            "a--b.slice:p:x",
            "a.slice:p:x/y",
        ] {
            check(bad, None);
        }
    }
}
