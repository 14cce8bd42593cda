//! `bench`: brig and its peers in turn, on one machine in one run, as ratios. The processes of one: `bench/stages.rs`.

mod builds;
mod engines;
mod image;
mod images;
mod loads;
mod memory;
mod network;
mod peak;
mod report;
mod runtimes;
mod sections;
mod stages;
mod table;
mod times;

use crate::run::{Doing, Result, no_more, take_flag, take_value};
use crate::workspace::target;
use engines::Engine;
use report::{Report, Row};
use std::path::{Path, PathBuf};

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
        Some((first, rest)) if first == "build" => return builds::command(rest),
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
        (Some("init"), Some(work)) => stages::init(&stage_words("inside", &work, &wishes)?),
        (Some("inside"), Some(work)) => inside(&work, &wishes),
        _ => outside(&wishes, no_build),
    }
}

fn outside(wishes: &Wishes, no_build: bool) -> Result<()> {
    stages::outside("bench", &[], no_build, image::make, |work| stage_words("init", work, wishes))
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

fn inside(work: &Path, wishes: &Wishes) -> Result<()> {
    stages::own_namespace()?;
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
