//! How long commands take, as the one who types them sees it: from the start of the client to its end.

use super::engines::Engine;
use super::image;
use crate::run::{Doing, Error, Result};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Runs before those that count: caches, and networks that are made when first used.
const WARM_UP: usize = 2;

/// For what a removal leaves to do behind the client's back.
const SETTLE: Duration = Duration::from_millis(700);

/// Name of the container that [`Row::before`] starts.
const STANDING: &str = "standing";

/// A line of the table.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: &'static str,
    /// What one run types, command by command.
    commands: &'static [&'static [&'static str]],
    /// Whether a container [`STANDING`] must run meanwhile.
    standing: bool,
}

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "`run --rm busybox true`, bridge",
        commands: &[&["run", "--rm", image::NAME, "true"]],
        standing: false,
    },
    Row {
        name: "`run --rm busybox true`, host network",
        commands: &[&["run", "--rm", "--network", "host", image::NAME, "true"]],
        standing: false,
    },
    Row {
        name: "`run --rm busybox true`, no network",
        commands: &[&["run", "--rm", "--network", "none", image::NAME, "true"]],
        standing: false,
    },
    Row { name: "`exec true`", commands: &[&["exec", STANDING, "true"]], standing: true },
    Row {
        name: "`run -d`, then `rm -f`",
        commands: &[&["run", "-d", "--name", "short", image::NAME, "sleep", "1000"], &["rm", "-f", "short"]],
        standing: false,
    },
];

/// Runs the row on all engines in turn, `runs` times. The median of each, in the engines' order.
pub(super) fn in_turn(engines: &[Engine], row: &Row, runs: usize) -> Result<Vec<Duration>> {
    if row.standing {
        for engine in engines {
            engine.check(&["run", "-d", "--name", STANDING, image::NAME, "sleep", "100000"])?;
        }
    }
    let mut times = vec![Vec::with_capacity(runs); engines.len()];
    for run in 0..WARM_UP + runs {
        for (engine, times) in engines.iter().zip(&mut times) {
            let time = row.commands.iter().map(|args| time(engine, args)).sum::<Result<Duration>>()?;
            if run >= WARM_UP {
                times.push(time);
            }
        }
    }
    if row.standing {
        for engine in engines {
            engine.check(&["rm", "-f", STANDING])?;
        }
    }
    Ok(times.into_iter().map(median).collect())
}

fn time(engine: &Engine, args: &[&str]) -> Result<Duration> {
    let mut command = engine.command(args);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let begin = Instant::now();
    let output = command.output().doing(|| format!("start the client of {}", engine.name()))?;
    let time = begin.elapsed();
    if output.status.success() {
        return Ok(time);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(Error::new(format!("{} {}: {}: {stderr}", engine.name(), args.join(" "), output.status)))
}

/// The middle one, or the mean of the two in the middle.
pub(super) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    match times.len() {
        0 => Duration::ZERO,
        n if n % 2 == 1 => times[n / 2],
        n => (times[n / 2 - 1] + times[n / 2]) / 2,
    }
}

pub(super) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Waits until nothing is on its way to the disk.
pub(super) fn settle() {
    std::thread::sleep(SETTLE);
    rustix::fs::sync();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        let check = |millis: &[u64], expected: u64| {
            let times = millis.iter().map(|n| Duration::from_millis(*n)).collect();
            assert_eq!(median(times), Duration::from_millis(expected));
        };
        check(&[3, 1, 2], 2);
        check(&[4, 1, 2, 100], 3);
        check(&[], 0);
    }
}
