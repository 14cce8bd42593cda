//! What many containers, long logs and large files cost: the measures that take more than one command.

use super::engines::Engine;
use super::image;
use super::report::{Report, Row};
use super::times::median;
use crate::run::{Doing, Error, Result, run};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Requests for one median.
const REQUESTS: usize = 50;
/// Copies of a large file for one median: plain cp varies by half from one to the next.
const COPIES: usize = 5;
/// How long idle containers are watched.
const IDLE: Duration = Duration::from_secs(10);

/// How much of it; small to see that it works.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) parallel: usize,
    pub(super) listed: usize,
    pub(super) lines: usize,
    pub(super) file_mib: usize,
}

impl Sizes {
    pub(super) fn of(containers: usize, smoke: bool) -> Sizes {
        match smoke {
            true => Sizes { parallel: 2, listed: 4, lines: 1000, file_mib: 1 },
            false => {
                Sizes { parallel: containers, listed: 10 * containers, lines: 1_000_000, file_mib: 1024 }
            }
        }
    }
}

/// The measures that want `many0`, `many1`, ... running.
pub(super) fn of_running(engines: &[Engine], sizes: Sizes, report: &mut Report) -> Result<()> {
    eprintln!("watching idle containers");
    let before: Vec<u64> = engines.iter().map(switches).collect();
    std::thread::sleep(IDLE);
    let after = engines.iter().map(switches);
    let counts = after.zip(before).map(|(after, before)| after.saturating_sub(before)).collect();
    let name =
        format!("wake-ups of daemons and supervisors in {} s, {} containers", IDLE.as_secs(), sizes.parallel);
    report.rows.push(Row::Count { name, counts });
    list(engines, "/containers/json", &format!("`GET /containers/json`, {} running", sizes.parallel), report)
}

/// The measures that make containers of their own.
pub(super) fn of_own(engines: &[Engine], sizes: Sizes, work: &Path, report: &mut Report) -> Result<()> {
    start_in_parallel(engines, sizes.parallel, report)?;
    eprintln!("making {} containers each", sizes.listed);
    let with_api: Vec<&Engine> = engines.iter().filter(|e| has_api(e)).collect();
    for engine in &with_api {
        for n in 0..sizes.listed {
            let body = format!("{{\"Image\":\"{}\",\"Cmd\":[\"true\"]}}", image::NAME);
            let path = format!("/containers/create?name=listed{n}");
            ask(engine, &format!("POST {path}"), &body)?;
        }
    }
    list(
        engines,
        "/containers/json?all=1",
        &format!("`GET /containers/json?all=1`, {} made", sizes.listed),
        report,
    )?;
    for engine in &with_api {
        for n in 0..sizes.listed {
            ask(engine, &format!("DELETE /containers/listed{n}"), "")?;
        }
    }
    lines(engines, sizes.lines, report)?;
    copy(engines, sizes.file_mib, work, report)
}

/// Whether the engine has a daemon that answers HTTP here.
fn has_api(engine: &Engine) -> bool {
    !engine.daemons().is_empty()
}

/// Starts of so many containers, each by a client of its own, all at once.
fn start_in_parallel(engines: &[Engine], count: usize, report: &mut Report) -> Result<()> {
    eprintln!("starting {count} containers at once");
    let mut medians = Vec::new();
    for engine in engines {
        let names: Vec<String> = (0..count).map(|n| format!("parallel{n}")).collect();
        for name in &names {
            engine.check(&["create", "--name", name, image::NAME, "sleep", "1000000"])?;
        }
        let begin = Instant::now();
        let started: Result<()> = std::thread::scope(|scope| {
            let start = |name| move || engine.check(&["start", name]);
            let threads: Vec<_> = names.iter().map(|name| scope.spawn(start(name))).collect();
            threads.into_iter().try_for_each(|t| t.join().map_err(|_| Error::new("a client panicked"))?)
        });
        started?;
        medians.push(begin.elapsed());
        for name in &names {
            engine.check(&["rm", "-f", name])?;
        }
    }
    report.rows.push(Row::Time { name: format!("`start` of {count} at once, all of them (1 run)"), medians });
    Ok(())
}

/// The median time of a list over the socket.
fn list(engines: &[Engine], path: &str, name: &str, report: &mut Report) -> Result<()> {
    eprintln!("{name}: {REQUESTS} requests each");
    let mut times = vec![Vec::new(); engines.len()];
    for _ in 0..REQUESTS {
        for (engine, times) in engines.iter().zip(&mut times).filter(|(engine, _)| has_api(engine)) {
            let begin = Instant::now();
            ask(engine, &format!("GET {path}"), "")?;
            times.push(begin.elapsed());
        }
    }
    let medians = times.into_iter().map(median).collect();
    report.rows.push(Row::Time { name: format!("{name} (median of {REQUESTS})"), medians });
    Ok(())
}

fn lines(engines: &[Engine], count: usize, report: &mut Report) -> Result<()> {
    eprintln!("logs of {count} lines");
    let text = format!("seq 1 {count}");
    let mut written = Vec::new();
    let mut read = Vec::new();
    for engine in engines {
        let begin = Instant::now();
        engine.check(&["run", "-d", "--name", "lines", image::NAME, "sh", "-c", &text])?;
        engine.check(&["wait", "lines"])?;
        written.push(begin.elapsed());
        let begin = Instant::now();
        let mut logs = engine.command(&["logs", "lines"]);
        let output = logs.stdout(Stdio::piped()).output().doing(|| "read logs".into())?;
        read.push(begin.elapsed());
        let found = output.stdout.iter().filter(|byte| **byte == b'\n').count();
        if found != count {
            return Err(Error::new(format!("{}: {found} lines of {count}", engine.name())));
        }
        engine.check(&["rm", "-f", "lines"])?;
    }
    report.rows.push(Row::Time { name: format!("{count} lines written (1 run)"), medians: written });
    report.rows.push(Row::Time { name: format!("{count} lines read by `logs` (1 run)"), medians: read });
    Ok(())
}

/// How long `work` takes when nothing waits to be written back.
fn timed(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    run(&mut Command::new("sync"))?;
    let begin = Instant::now();
    work()?;
    Ok(begin.elapsed())
}

fn copy(engines: &[Engine], mib: usize, work: &Path, report: &mut Report) -> Result<()> {
    eprintln!("cp of {mib} MiB");
    let (from, to) = (work.join("copied"), work.join("copied-back"));
    let (from_text, to_text) = (from.display().to_string(), to.display().to_string());
    let of = format!("of={from_text}");
    run(Command::new("dd").args(["if=/dev/urandom", &of, "bs=1M", &format!("count={mib}"), "status=none"]))?;
    let begin_all =
        |engine: &Engine| engine.check(&["run", "-d", "--name", "copied", image::NAME, "sleep", "1000000"]);
    engines.iter().try_for_each(begin_all)?;
    let mut times: [Vec<Vec<Duration>>; 3] = std::array::from_fn(|_| vec![Vec::new(); engines.len()]);
    for _ in 0..COPIES {
        for (n, engine) in engines.iter().enumerate() {
            // In turn with plain cp, each with nothing else to write back, and to a file that is not there.
            let into = timed(|| engine.check(&["cp", &from_text, "copied:/big"]))?;
            let out = timed(|| engine.check(&["cp", "copied:/big", &to_text]))?;
            std::fs::remove_file(&to).doing(|| format!("remove {to_text}"))?;
            let plain = timed(|| run(Command::new("cp").args(["--reflink=never", &from_text, &to_text])))?;
            std::fs::remove_file(&to).doing(|| format!("remove {to_text}"))?;
            engine.check(&["exec", "copied", "busybox", "rm", "/big"])?;
            for (times, time) in times.iter_mut().zip([into, out, plain]) {
                times[n].push(time);
            }
        }
    }
    for engine in engines {
        engine.check(&["rm", "-f", "copied"])?;
    }
    std::fs::remove_file(&from).doing(|| format!("remove {from_text}"))?;
    let what = ["`cp` of {} into a container", "`cp` of {} out of it", "plain `cp` of {} beside"];
    for (what, times) in what.into_iter().zip(times) {
        let name = format!("{} (median of {COPIES})", what.replace("{}", &format!("{mib} MiB")));
        report.rows.push(Row::Time { name, medians: times.into_iter().map(median).collect() });
    }
    Ok(())
}

/// A request that must work; the answer is read to its end.
fn ask(engine: &Engine, line: &str, body: &str) -> Result<()> {
    let failed = || format!("{line} of {}", engine.name());
    let mut stream = UnixStream::connect(engine.socket()).doing(failed)?;
    let text = format!(
        "{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes()).doing(failed)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).doing(failed)?;
    if answer.starts_with(b"HTTP/1.1 2") {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&answer).into_owned();
    Err(Error::new(format!("{}: {said}", failed())))
}

/// How often threads of the engine's own programs were given a processor after they had waited for something.
fn switches(engine: &Engine) -> u64 {
    let names: Vec<&str> = engine.daemons().iter().chain(engine.supervisors()).copied().collect();
    let mut sum = 0;
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(program) = std::fs::read_link(process.path().join("exe")) else { continue };
        let name = program.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if !names.contains(&name.as_str()) {
            continue;
        }
        for thread in std::fs::read_dir(process.path().join("task")).into_iter().flatten().flatten() {
            let text = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
            let line = text.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
            sum += line.and_then(|n| n.trim().parse::<u64>().ok()).unwrap_or(0);
        }
    }
    sum
}
