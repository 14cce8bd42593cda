//! `bench`: brig and its peers in turn, on one machine in one run, as ratios.
//!
//! Three processes, one after the other:
//!
//! ```text
//! cargo xtask bench       builds, makes the image, and at the end removes cgroups and directories
//!   init (unshare)        process 1 of namespaces of its own: pid, mount, network; reaps
//!     inside              starts the engines, measures, writes bench/RESULTS.md
//! ```
//!
//! So the engines' bridges, firewall rules and mounts are not this machine's, and when `init` ends the kernel ends
//! whatever they left running.

mod engines;
mod image;
mod images;
mod loads;
mod memory;
mod network;
mod report;
mod runtimes;
mod sections;
mod times;

use crate::build::{Profile, build};
use crate::packages;
use crate::run::{Doing, Error, Result, no_more, run, take_flag, take_value};
use crate::workspace::target;
use engines::Engine;
use report::{Report, Row};
use rustix::process::{WaitOptions, wait};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Fewer say little about a median.
const RUNS: usize = 20;
/// Containers that run while the whole engine is weighed.
const CONTAINERS: usize = 100;

/// What is asked for, as it goes through the three processes.
#[derive(Debug)]
struct Wishes {
    runs: usize,
    containers: usize,
    /// Peers to leave out, by name.
    without: Vec<String>,
    /// To see that it works: one run, two containers, and the results are not kept.
    smoke: bool,
}

impl Wishes {
    fn take(args: &mut Vec<String>) -> Result<Wishes> {
        let mut number = |name: &str, default: usize| match take_value(args, name)? {
            None => Ok(default),
            Some(text) => text.parse::<usize>().doing(|| format!("{name} {text}")),
        };
        let runs = number("--runs", RUNS)?;
        let containers = number("--containers", CONTAINERS)?;
        let mut without = Vec::new();
        while let Some(name) = take_value(args, "--without")? {
            without.push(name);
        }
        if take_flag(args, "--smoke") {
            return Ok(Wishes { runs: 1, containers: 2, without, smoke: true });
        }
        Ok(Wishes { runs, containers, without, smoke: false })
    }

    fn args(&self) -> Vec<String> {
        let mut out = vec![format!("--runs={}", self.runs), format!("--containers={}", self.containers)];
        out.extend(self.smoke.then(|| "--smoke".into()));
        out.extend(self.without.iter().map(|name| format!("--without={name}")));
        out
    }
}

pub(crate) fn command(args: &[String]) -> Result<()> {
    match args.split_first() {
        Some((first, rest)) if first == "runtime" => return runtimes::command(rest),
        Some((first, rest)) if first == "images" => return images::command(rest),
        Some((first, rest)) if first == "network" => return network::command(rest),
        _ => {}
    }
    // `containers` is what is measured where nothing is said.
    let args = args.strip_prefix(&["containers".to_string()]).unwrap_or(args);
    let mut args = args.to_vec();
    let stage = take_value(&mut args, "--stage")?;
    let work = take_value(&mut args, "--work")?.map(PathBuf::from);
    let no_build = take_flag(&mut args, "--no-build");
    let wishes = Wishes::take(&mut args)?;
    no_more(&args)?;
    match (stage.as_deref(), work) {
        (Some("init"), Some(work)) => init(&stage_words("inside", &work, &wishes)?),
        (Some("inside"), Some(work)) => inside(&work, &wishes),
        _ => outside(&wishes, no_build),
    }
}

/// Without a build, the programs are those of the last one.
fn outside(wishes: &Wishes, no_build: bool) -> Result<()> {
    packages::ensure(packages::BUILD)?;
    packages::ensure(packages::BENCH)?;
    if !rustix::process::geteuid().is_root() {
        return Err(Error::new("the bench starts container engines: run it as root"));
    }
    if no_build {
        eprintln!("warning: measuring the programs of the last build, which may not be those of this commit");
    } else {
        build(Profile::Release)?;
    }
    let work = target().join(format!("bench-{}", std::process::id()));
    std::fs::create_dir_all(&work).doing(|| format!("create {}", work.display()))?;
    let made = image::make(&work);
    let measured = made.and_then(|()| {
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]);
        run(command.arg("--mount-proc").args(stage_words("init", &work, wishes)?))
    });
    engines::remove_cgroups();
    // The namespaces are gone, and with them all mounts below.
    let removed = std::fs::remove_dir_all(&work).doing(|| format!("remove {}", work.display()));
    measured.and(removed)
}

/// This program again, as another stage.
fn stage_words(name: &str, work: &Path, wishes: &Wishes) -> Result<Vec<String>> {
    let own = std::env::current_exe().doing(|| "find our own program".into())?;
    let mut out = vec![own.to_string_lossy().into_owned(), "bench".into()];
    out.push(format!("--stage={name}"));
    out.push(format!("--work={}", work.display()));
    out.extend(wishes.args());
    Ok(out)
}

/// Process 1: supervisors whose parents end become its children, and it takes their exit statuses.
fn init(words: &[String]) -> Result<()> {
    let mut child = Command::new(&words[0]).args(&words[1..]).spawn().doing(|| "start the bench".into())?;
    let pid = rustix::process::Pid::from_child(&child);
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((ended, status))) if ended == pid => {
                return match status.exit_status() {
                    Some(0) => Ok(()),
                    _ => Err(Error::new("the bench failed")),
                };
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => {
                // Nothing to wait for: then the child is not there either.
                drop(child.kill());
                return Err(Error::new(format!("wait for the bench: {errno}")));
            }
        }
    }
}

/// What is ours alone in the namespaces that we are in now.
fn own_namespace() -> Result<()> {
    // A /run of our own: peers keep locks and sockets in places that no flag of theirs changes.
    for words in [&["ip", "link", "set", "lo", "up"][..], &["mount", "-t", "tmpfs", "tmpfs", "/run"]] {
        run(Command::new(words[0]).args(&words[1..]))?;
    }
    // crun refuses cgroup v1 with controllers in a v2 hierarchy beside it. Only this mount namespace loses that one.
    let unified = Path::new("/sys/fs/cgroup/unified");
    if std::fs::read_to_string(unified.join("cgroup.controllers")).is_ok_and(|text| !text.trim().is_empty()) {
        run(Command::new("umount").arg(unified))?;
    }
    Ok(())
}

fn inside(work: &Path, wishes: &Wishes) -> Result<()> {
    own_namespace()?;
    let programs = target().join("brig/release");
    let mut engines = engines::all(&programs, work);
    engines.retain(|engine| !wishes.without.iter().any(|name| name == engine.name()));
    let mut report = Report::new(&engines, wishes.runs)?;
    let result = measure(&mut engines, work, wishes, &mut report);
    for engine in &mut engines {
        engine.stop();
    }
    result?;
    let text = report.markdown();
    println!("\n{text}");
    if wishes.smoke {
        return Ok(());
    }
    sections::put(report::HEADING, &text)
}

fn measure(engines: &mut [Engine], work: &Path, wishes: &Wishes, report: &mut Report) -> Result<()> {
    for engine in engines.iter_mut() {
        engine.start()?;
        engine.check(&["load", "-i", &image::archive(work).to_string_lossy()])?;
    }
    // What loading needed is given back; a daemon that was just asked is not idle.
    std::thread::sleep(memory::SETTLE);
    report.memory("daemon, idle", engines.iter().map(|e| memory::of(e.daemons())).collect());

    for row in times::ROWS {
        eprintln!("{}: {} runs each", row.name, wishes.runs);
        let medians = times::in_turn(engines, row, wishes.runs)?;
        report.rows.push(Row::Time { name: row.name.to_string(), medians });
    }

    start_containers(engines, 0..1)?;
    std::thread::sleep(memory::SETTLE);
    report
        .memory("supervisor of one container", engines.iter().map(|e| memory::of(e.supervisors())).collect());
    eprintln!("starting {} containers each", wishes.containers);
    start_containers(engines, 1..wishes.containers)?;
    std::thread::sleep(memory::SETTLE);
    let everything = |e: &Engine| {
        memory::of(e.daemons().iter().chain(e.supervisors()).copied().collect::<Vec<_>>().as_slice())
    };
    report.memory_of_many(wishes.containers, engines.iter().map(everything).collect());
    let sizes = loads::Sizes::of(wishes.containers, wishes.smoke);
    loads::of_running(engines, sizes, report)?;
    for engine in engines.iter() {
        for n in 0..wishes.containers {
            engine.check(&["rm", "-f", &format!("many{n}")])?;
        }
    }
    loads::of_own(engines, sizes, work, report)
}

fn start_containers(engines: &[Engine], numbers: std::ops::Range<usize>) -> Result<()> {
    for n in numbers {
        for engine in engines {
            engine.check(&["run", "-d", "--name", &format!("many{n}"), image::NAME, "sleep", "1000000"])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_survive_the_way_through_the_stages() {
        let wishes = Wishes { runs: 3, containers: 4, without: vec!["podman".into()], smoke: false };
        let mut args = wishes.args();
        let again = Wishes::take(&mut args).unwrap();
        assert_eq!((again.runs, again.containers, again.without), (3, 4, vec!["podman".to_string()]));
        assert!(args.is_empty());
        assert!(Wishes::take(&mut vec!["--runs=x".into()]).is_err());
    }
}
