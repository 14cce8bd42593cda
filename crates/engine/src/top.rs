//! `top`: the processes of a container, read from /proc, in the columns of ps(1).

use crate::Engine;
use crate::error::{During, Error, blocking};
use std::sync::Arc;

/// A table: titles, then one row a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Processes {
    pub titles: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

/// Most processes that are shown.
const MAX_ROWS: usize = 65_536;

#[derive(Debug, Default)]
struct Process {
    pid: i32,
    ppid: i32,
    uid: u32,
    tty: i32,
    state: char,
    ticks: u64,
    start_ticks: u64,
    vsize: u64,
    rss_pages: u64,
    pgid: i64,
    sid: i64,
    nice: i64,
    threads: i64,
    comm: String,
    cmdline: String,
}

impl Engine {
    /// Lists the container's processes. `arguments` are ps(1)'s: `-ef` (also when empty), `aux`, or `-o col,col,...`.
    pub async fn top(self: &Arc<Self>, name: &str, arguments: &str) -> Result<Processes, Error> {
        let container = self.container(name)?;
        self.require_running(&container)?;
        let path = self.cgroups_path(&container.record());
        let columns = columns(arguments)?;
        self.publish(&container, "top", &[]);
        blocking(move || {
            let cgroup = cgroup::Cgroup::open(&path).during(|| "open cgroup".into())?;
            let mut pids = cgroup.pids().during(|| "list processes".into())?;
            pids.sort_unstable();
            let system = System::read();
            let rows = pids
                .into_iter()
                .take(MAX_ROWS)
                .filter_map(read)
                .map(|p| columns.iter().map(|(column, _)| system.cell(&p, column)).collect());
            Ok(Processes { titles: columns.iter().map(|(_, t)| t.clone()).collect(), rows: rows.collect() })
        })
        .await
    }
}

/// (name, title) of each column.
fn columns(arguments: &str) -> Result<Vec<(String, String)>, Error> {
    let known = |names: &[(&str, &str)]| names.iter().map(|(n, t)| (n.to_string(), t.to_string())).collect();
    let trimmed = arguments.trim();
    match trimmed {
        "" | "-ef" | "-fe" | "-Af" => {
            return Ok(known(&[
                ("uid-name", "UID"),
                ("pid", "PID"),
                ("ppid", "PPID"),
                ("c", "C"),
                ("stime", "STIME"),
                ("tty", "TTY"),
                ("time", "TIME"),
                ("args", "CMD"),
            ]));
        }
        // Letters without a dash are BSD's; all that name the user's format give its columns.
        bsd if bsd.trim_start_matches('-').bytes().all(|b| b"auxw".contains(&b)) && bsd.contains('u') => {
            return Ok(known(&[
                ("user", "USER"),
                ("pid", "PID"),
                ("%cpu", "%CPU"),
                ("%mem", "%MEM"),
                ("vsz", "VSZ"),
                ("rss", "RSS"),
                ("tty", "TTY"),
                ("stat", "STAT"),
                ("start", "START"),
                ("time", "TIME"),
                ("args", "COMMAND"),
            ]));
        }
        _ => {}
    }
    let list = trimmed
        .split_whitespace()
        .filter(|w| !matches!(*w, "-e" | "-A" | "-eo" | "-o" | "-ww" | "o" | "ax" | "axo"))
        .map(|w| ["-eo", "-o", "-Ao"].iter().find_map(|o| w.strip_prefix(o)).unwrap_or(w))
        .collect::<Vec<_>>()
        .join(",");
    list.split(',')
        .filter(|c| !c.is_empty())
        .map(|column| {
            let name = column.to_ascii_lowercase();
            let title = match name.as_str() {
                "args" | "cmd" | "command" => "COMMAND",
                "stime" | "start" | "start_time" => "STIME",
                "tt" | "tty" | "tname" => "TTY",
                "comm" | "ucmd" => "COMMAND",
                "euser" | "ruser" => "USER",
                "cputime" => "TIME",
                "etime" => "ELAPSED",
                "pcpu" => "%CPU",
                "pmem" => "%MEM",
                "vsize" => "VSZ",
                "rssize" => "RSS",
                "pgrp" => "PGID",
                "pgid" | "sid" | "ni" | "nlwp" | "pid" | "ppid" | "uid" | "user" | "c" | "time" | "vsz"
                | "rss" | "stat" | "s" | "%cpu" | "%mem" => {
                    return Ok((name.clone(), name.to_ascii_uppercase()));
                }
                _ => {
                    return Err(Error::invalid(format!(
                        "unknown ps arguments {trimmed:?}: -ef, aux, or -o with columns"
                    )));
                }
            };
            Ok((name, title.to_string()))
        })
        .collect()
}

fn read(pid: i32) -> Option<Process> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut process = parse_stat(&stat)?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let uids = status.lines().find_map(|l| l.strip_prefix("Uid:"))?;
    process.uid = uids.split_whitespace().nth(1)?.parse().ok()?;
    let cmdline = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<_> =
        cmdline.split(|b| *b == 0).filter(|w| !w.is_empty()).map(String::from_utf8_lossy).collect();
    process.cmdline = if words.is_empty() { format!("[{}]", process.comm) } else { words.join(" ") };
    Some(process)
}

/// Kernel: proc_pid_stat(5). The name may hold spaces and parentheses; the last parenthesis ends it.
fn parse_stat(text: &str) -> Option<Process> {
    let (head, tail) = text.rsplit_once(')')?;
    let (pid, comm) = head.split_once('(')?;
    let fields: Vec<&str> = tail.split_whitespace().collect();
    let number = |i: usize| fields.get(i).and_then(|f| f.parse::<u64>().ok());
    let signed = |i: usize| fields.get(i).and_then(|f| f.parse::<i64>().ok()).unwrap_or(0);
    Some(Process {
        pid: pid.trim().parse().ok()?,
        comm: comm.to_string(),
        state: fields.first()?.chars().next()?,
        ppid: fields.get(1)?.parse().ok()?,
        tty: fields.get(4)?.parse().ok()?,
        ticks: number(11)? + number(12)?,
        start_ticks: number(19)?,
        vsize: number(20)?,
        rss_pages: number(21)?,
        pgid: signed(2),
        sid: signed(3),
        nice: signed(16),
        threads: signed(17),
        ..Process::default()
    })
}

#[derive(Debug)]
struct System {
    ticks_per_second: u64,
    page_size: u64,
    memory: u64,
    /// Seconds since 1970 at which the machine started.
    boot: i64,
    now: i64,
    passwd: String,
}

impl System {
    fn read() -> System {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let boot = text("/proc/stat")
            .lines()
            .find_map(|l| l.strip_prefix("btime ")?.trim().parse().ok())
            .unwrap_or(0);
        let memory = text("/proc/meminfo")
            .lines()
            .find_map(|l| l.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<u64>().ok())
            .unwrap_or(1);
        System {
            ticks_per_second: rustix::param::clock_ticks_per_second().max(1),
            page_size: rustix::param::page_size() as u64,
            memory: memory.max(1) * 1024,
            boot,
            now: jiff::Timestamp::now().as_second(),
            passwd: text("/etc/passwd"),
        }
    }

    fn cell(&self, p: &Process, column: &str) -> String {
        let seconds = p.ticks / self.ticks_per_second;
        let started = self.boot + i64::try_from(p.start_ticks / self.ticks_per_second).unwrap_or(0);
        let lived = u64::try_from(self.now - started).unwrap_or(0).max(1);
        match column {
            "pid" => p.pid.to_string(),
            "ppid" => p.ppid.to_string(),
            "uid" => p.uid.to_string(),
            "user" | "euser" | "ruser" | "uid-name" => self.user(p.uid),
            "pgid" | "pgrp" => p.pgid.to_string(),
            "sid" => p.sid.to_string(),
            "ni" => p.nice.to_string(),
            "nlwp" => p.threads.to_string(),
            "etime" => elapsed(lived),
            "c" => (seconds * 100 / lived).min(99).to_string(),
            "%cpu" | "pcpu" => format!("{:.1}", percent(seconds, lived)),
            "%mem" | "pmem" => format!("{:.1}", percent(p.rss_pages * self.page_size, self.memory)),
            "vsz" | "vsize" => (p.vsize / 1024).to_string(),
            "rss" | "rssize" => (p.rss_pages * self.page_size / 1024).to_string(),
            "tty" | "tt" | "tname" => tty(p.tty),
            "stat" | "s" => p.state.to_string(),
            "time" | "cputime" => {
                format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
            }
            "stime" | "start" | "start_time" => start(started, self.now),
            "comm" | "ucmd" => p.comm.clone(),
            _ => p.cmdline.clone(),
        }
    }

    fn user(&self, uid: u32) -> String {
        self.passwd
            .lines()
            .find_map(|line| {
                let mut fields = line.split(':');
                let (name, _, id) = (fields.next()?, fields.next()?, fields.next()?);
                (id.parse() == Ok(uid)).then(|| name.to_string())
            })
            .unwrap_or_else(|| uid.to_string())
    }
}

/// `[[DD-]hh:]mm:ss`, as ps.
fn elapsed(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let rest = format!("{:02}:{:02}", seconds / 60 % 60, seconds % 60);
    match (days, hours) {
        (0, 0) => rest,
        (0, hours) => format!("{hours:02}:{rest}"),
        (days, hours) => format!("{days}-{hours:02}:{rest}"),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a percentage with one digit")]
fn percent(part: u64, whole: u64) -> f64 {
    part as f64 * 100.0 / whole as f64
}

/// Kernel: tty_nr of proc_pid_stat(5): major in bits 8..20, minor in the rest.
fn tty(number: i32) -> String {
    let (major, minor) = (number >> 8 & 0xfff, (number & 0xff) | (number >> 12 & 0xf_ff00));
    match major {
        0 => "?".into(),
        136..=143 => format!("pts/{}", minor + (major - 136) * 256),
        4 => format!("tty{minor}"),
        _ => "?".into(),
    }
}

fn start(started: i64, now: i64) -> String {
    let Ok(time) = jiff::Timestamp::from_second(started) else { return "?".into() };
    let local = time.to_zoned(jiff::tz::TimeZone::system());
    let format = if now - started < 24 * 3600 { "%H:%M" } else { "%b%d" };
    local.strftime(format).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_is_one_field() {
        let line = "12 (a) b) S 1 12 12 34816 12 4194304 1 2 3 4 150 50 0 0 20 0 1 0 500 4096000 25 1 2";
        let p = parse_stat(line).unwrap();
        assert_eq!((p.pid, p.ppid, p.comm.as_str(), p.ticks, p.start_ticks), (12, 1, "a) b", 200, 500));
        assert_eq!(tty(p.tty), "pts/0");
    }

    #[test]
    fn columns_of_ps() {
        assert_eq!(columns("").unwrap().len(), 8);
        assert_eq!(columns("aux").unwrap().len(), 11);
        let own: Vec<String> = columns("-eo pid,comm").unwrap().into_iter().map(|c| c.1).collect();
        assert_eq!(own, ["PID", "COMMAND"]);
        let own: Vec<String> = columns("-eopid,user,etime").unwrap().into_iter().map(|c| c.1).collect();
        assert_eq!(own, ["PID", "USER", "ELAPSED"]);
        assert_eq!(columns("waux").unwrap().len(), 11);
        assert_eq!(
            (elapsed(59), elapsed(3600), elapsed(90_061)),
            ("00:59".into(), "01:00:00".into(), "1-01:01:01".into())
        );
        assert!(columns("--evil").is_err());
    }
}
