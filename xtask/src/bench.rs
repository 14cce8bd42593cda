//! `bench`: brig and its peers in turn, on one machine in one run, as ratios. The processes of one: `bench/stages.rs`.

mod args;
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

use crate::run::{Result, no_more};
use crate::workspace::target;
use args::{Args, number};
use engines::Engine;
use report::{Report, Row};
use std::path::Path;

/// Fewer say little about a median.
const RUNS: usize = 20;
/// Containers that run while the whole engine is weighed.
const CONTAINERS: usize = 100;

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
    let mut rest = args.to_vec();
    let args = Args::take(&mut rest, RUNS)?;
    let containers = number(&mut rest, "--containers", if args.smoke { 2 } else { CONTAINERS })?;
    no_more(&rest)?;
    let words = |stage: &str, work: &Path| -> Result<Vec<String>> {
        let mut words = args.words("containers", stage, work)?;
        words.push(format!("--containers={containers}"));
        Ok(words)
    };
    match (args.stage.as_deref(), &args.work) {
        (Some("init"), Some(work)) => stages::init(&words("inside", work)?),
        (Some("inside"), Some(work)) => inside(work, &args, containers),
        _ => stages::outside("bench", &[], args.no_build, image::make, |work| words("init", work)),
    }
}

fn inside(work: &Path, args: &Args, containers: usize) -> Result<()> {
    stages::own_namespace()?;
    let programs = target().join("brig/release");
    let mut engines = engines::all(&programs, work);
    engines.retain(|engine| args.has(engine.name()));
    let mut report = Report::new(&engines, args.runs)?;
    let result = measure(&mut engines, work, args, containers, &mut report);
    for engine in &mut engines {
        engine.stop();
    }
    result?;
    let text = report.markdown();
    println!("\n{text}");
    if args.smoke {
        return Ok(());
    }
    sections::put(report::HEADING, &text)
}

fn measure(
    engines: &mut [Engine],
    work: &Path,
    args: &Args,
    containers: usize,
    report: &mut Report,
) -> Result<()> {
    for engine in engines.iter_mut() {
        engine.start()?;
        engine.check(&["load", "-i", &image::archive(work).to_string_lossy()])?;
    }
    // What loading needed is given back; a daemon that was just asked is not idle.
    std::thread::sleep(memory::SETTLE);
    report.memory("daemon, idle", engines.iter().map(|e| memory::of(e.daemons())).collect());

    for row in times::ROWS {
        eprintln!("{}: {} runs each", row.name, args.runs);
        let medians = times::in_turn(engines, row, args.runs)?;
        report.rows.push(Row::Time { name: row.name.to_string(), medians });
    }

    start_containers(engines, 0..1)?;
    std::thread::sleep(memory::SETTLE);
    report
        .memory("supervisor of one container", engines.iter().map(|e| memory::of(e.supervisors())).collect());
    eprintln!("starting {} containers each", containers);
    start_containers(engines, 1..containers)?;
    std::thread::sleep(memory::SETTLE);
    let everything = |e: &Engine| {
        memory::of(e.daemons().iter().chain(e.supervisors()).copied().collect::<Vec<_>>().as_slice())
    };
    report.memory_of_many(containers, engines.iter().map(everything).collect());
    let sizes = loads::Sizes::of(containers, args.smoke);
    loads::of_running(engines, sizes, report)?;
    for engine in engines.iter() {
        for n in 0..containers {
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
