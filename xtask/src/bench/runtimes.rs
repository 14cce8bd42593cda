//! `bench runtime`: brig-runtime, crun and runc in turn, by hand and without any engine, and the floor below them.
//!
//! All in a private mount namespace. Where a v2 hierarchy with controllers is mounted beside v1 it is hidden there, since crun
//! refuses that mixture; so everyone sees the same.

use super::report::machine;
use super::times::median;
use crate::build::{Profile, build_static, check_sizes};
use crate::packages;
use crate::run::{Doing, Error, Result, no_more, output, run, take_flag, take_value};
use crate::workspace::{root, target};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const RUNS: usize = 40;
const WARM_UP: usize = 3;
/// Where this part begins in the page of results, which it shares with the engines'.
const HEADING: &str = "# Runtimes: measured by `cargo xtask bench runtime`";

#[derive(Debug)]
struct Runtime {
    name: &'static str,
    program: PathBuf,
    state: PathBuf,
}

pub(super) fn command(args: &[String]) -> Result<()> {
    let mut args = args.to_vec();
    let inside = take_value(&mut args, "--inside")?.map(PathBuf::from);
    let runs = match take_value(&mut args, "--runs")? {
        None => RUNS,
        Some(text) => text.parse().doing(|| format!("--runs {text}"))?,
    };
    // Another crun than Debian's, such as one that was built by hand.
    let crun = take_value(&mut args, "--crun")?.unwrap_or_else(|| "crun".into());
    // It runs in the bundle.
    let crun = match std::path::absolute(&crun) {
        Ok(path) if crun.contains('/') => path.display().to_string(),
        _ => crun,
    };
    let no_build = take_flag(&mut args, "--no-build");
    let smoke = take_flag(&mut args, "--smoke");
    no_more(&args)?;
    if let Some(work) = inside {
        return measure(&work, runs, smoke, &crun);
    }
    packages::ensure(packages::RUNTIMES)?;
    if !rustix::process::geteuid().is_root() {
        return Err(Error::new("the bench makes containers: run it as root"));
    }
    if !no_build {
        build_static(Profile::Release)?;
    }
    let work = target().join(format!("bench-runtime-{}", std::process::id()));
    let measured = prepare(&work).and_then(|()| {
        let own = std::env::current_exe().doing(|| "find our own program".into())?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private"]).arg(own).args(["bench", "runtime"]);
        command.arg(format!("--inside={}", work.display())).arg(format!("--runs={runs}"));
        command.arg(format!("--crun={crun}"));
        run(command.args(smoke.then_some("--smoke")))
    });
    let removed = std::fs::remove_dir_all(&work).doing(|| format!("remove {}", work.display()));
    // Last, so that the figures are there.
    measured.and(removed).and_then(|()| check_sizes())
}

/// The bundle, and the floor.
fn prepare(work: &Path) -> Result<()> {
    let at = |path: &Path| format!("write {}", path.display());
    let rootfs = work.join("bundle/rootfs");
    for name in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
        std::fs::create_dir_all(rootfs.join(name)).doing(|| at(&rootfs))?;
    }
    std::fs::copy("/bin/busybox", rootfs.join("bin/busybox")).doing(|| at(&rootfs))?;
    for applet in ["true", "sleep"] {
        std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(applet)).doing(|| at(&rootfs))?;
    }
    let mut rustc = Command::new("rustc");
    rustc.args(["-O", "--edition=2024", "-Ctarget-feature=+crt-static", "-Crelocation-model=static"]);
    rustc.args(["-Cpanic=abort", "-Cstrip=symbols"]).arg(root().join("bench/runtime/floor.rs"));
    run(rustc.arg("-o").arg(work.join("floor")))
}

fn configure(work: &Path, args: &[&str], seccomp: bool) -> Result<()> {
    let read = |name: &str| {
        let path = root().join("bench/runtime").join(name);
        std::fs::read_to_string(&path).doing(|| format!("read {}", path.display()))
    };
    let words: Vec<String> = args.iter().map(|arg| format!("{arg:?}")).collect();
    let profile = if seccomp { format!(",\n\"seccomp\": {}", read("seccomp.json")?) } else { String::new() };
    let text = read("config.json")?
        .replace("@ARGS@", &words.join(", "))
        .replace("@CGROUP@", "/brig-bench-runtime/one")
        .replace("@SECCOMP@", &profile);
    let path = work.join("bundle/config.json");
    std::fs::write(&path, text).doing(|| format!("write {}", path.display()))
}

impl Runtime {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(&self.state).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn time(&self, args: &[&str], work: &Path) -> Result<Duration> {
        time(self.command(args).current_dir(work.join("bundle")), || {
            format!("{} {}", self.name, args.join(" "))
        })
    }
}

fn time(command: &mut Command, what: impl Fn() -> String) -> Result<Duration> {
    let begin = Instant::now();
    let status = command.status().doing(&what)?;
    let time = begin.elapsed();
    if status.success() { Ok(time) } else { Err(Error::new(format!("{}: {status}", what()))) }
}

fn measure(work: &Path, runs: usize, smoke: bool, crun: &str) -> Result<()> {
    let unified = Path::new("/sys/fs/cgroup/unified");
    if std::fs::read_to_string(unified.join("cgroup.controllers")).is_ok_and(|text| !text.trim().is_empty()) {
        run(Command::new("umount").arg(unified))?;
    }
    run(Command::new("mount").args(["-t", "tmpfs", "tmpfs", "/run"]))?;
    let measured = measure_all(work, runs, crun);
    // The parent of the containers' cgroups is nobody's.
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        drop(std::fs::remove_dir(hierarchy.path().join("brig-bench-runtime")));
    }
    let text = measured?;
    println!("\n{text}");
    if smoke { Ok(()) } else { super::sections::put(HEADING, &text) }
}

fn measure_all(work: &Path, runs: usize, crun: &str) -> Result<String> {
    let runtime = |name, program: PathBuf| Runtime { name, program, state: work.join(name) };
    let runtimes = [
        runtime("brig", target().join("brig/release/brig-runtime")),
        runtime("crun", crun.into()),
        runtime("runc", "runc".into()),
    ];
    let mut rows: Vec<(String, Vec<Option<f64>>)> = Vec::new();
    let milliseconds = |times: Vec<Duration>| Some(median(times).as_secs_f64() * 1000.0);
    let least = |times: &[Duration]| times.iter().min().map(|t| t.as_secs_f64() * 1000.0);
    for (title, seccomp) in [("`run true`", false), ("`run true`, Docker's seccomp profile", true)] {
        configure(work, &["true"], seccomp)?;
        eprintln!("{title}: {runs} runs each");
        let mut times = vec![Vec::new(); runtimes.len() + 1];
        for round in 0..WARM_UP + runs {
            for (index, times) in times.iter_mut().enumerate() {
                let time = match runtimes.get(index) {
                    Some(runtime) => runtime.time(&["run", "one"], work)?,
                    None => floor(work)?,
                };
                if round >= WARM_UP {
                    times.push(time);
                }
            }
        }
        rows.push((format!("{title}: least"), times.iter().map(|t| least(t)).collect()));
        rows.push((title.into(), times.into_iter().map(milliseconds).collect()));
    }
    configure(work, &["sleep", "1000"], true)?;
    rows.extend(verbs(&runtimes, work, runs)?);
    let others = facts(&runtimes, work)?;
    page(&runtimes, runs, &rows, &others)
}

fn floor(work: &Path) -> Result<Duration> {
    let mut command = Command::new(work.join("floor"));
    command.arg(work.join("bundle/rootfs")).args(["/brig-bench-floor", "/bin/true"]);
    time(&mut command, || "floor".into())
}

/// The verbs of one life, each timed alone.
fn verbs(runtimes: &[Runtime], work: &Path, runs: usize) -> Result<Vec<(String, Vec<Option<f64>>)>> {
    const LIFE: &[(&str, &[&str])] = &[
        ("`create`", &["create", "one"]),
        ("`state`", &["state", "one"]),
        ("`start`", &["start", "one"]),
        ("`exec true`", &["exec", "one", "true"]),
        // What its program ignores.
        ("`kill`", &["kill", "one", "WINCH"]),
        ("`delete --force` of a running container", &["delete", "--force", "one"]),
    ];
    eprintln!("a life, verb by verb: {runs} runs each");
    let mut times = vec![vec![Vec::new(); runtimes.len()]; LIFE.len()];
    for round in 0..WARM_UP + runs {
        for (index, runtime) in runtimes.iter().enumerate() {
            for ((_, args), times) in LIFE.iter().zip(&mut times) {
                let time = runtime.time(args, work)?;
                if round >= WARM_UP {
                    times[index].push(time);
                }
            }
        }
    }
    let row = |((title, _), times): (&(&str, &[&str]), Vec<Vec<Duration>>)| {
        let medians =
            times.into_iter().map(|t| Some(median(t).as_secs_f64() * 1000.0)).chain([None]).collect();
        ((*title).to_owned(), medians)
    };
    Ok(LIFE.iter().zip(times).map(row).collect())
}

/// System calls of a whole `run`, and peak memory of a `create`.
fn facts(runtimes: &[Runtime], work: &Path) -> Result<Vec<(String, Vec<Option<f64>>)>> {
    let bundle = work.join("bundle");
    configure(work, &["true"], true)?;
    let mut calls = Vec::new();
    for runtime in runtimes {
        let counts = work.join("counts");
        let mut strace = Command::new("strace");
        strace.args(["-c", "-f", "-o"]).arg(&counts).arg(&runtime.program).arg("--root").arg(&runtime.state);
        run(strace.args(["run", "one"]).current_dir(&bundle).stdin(Stdio::null()))?;
        calls.push(total(&counts)?);
    }
    let counts = work.join("counts");
    let mut strace = Command::new("strace");
    strace.args(["-c", "-f", "-o"]).arg(&counts).arg(work.join("floor")).arg(bundle.join("rootfs"));
    run(strace.args(["/brig-bench-floor", "/bin/true"]))?;
    calls.push(total(&counts)?);
    let mut memory = Vec::new();
    for runtime in runtimes {
        let peak = work.join("peak");
        let mut time = Command::new("time");
        time.args(["-f", "%M", "-o"]).arg(&peak).arg(&runtime.program).arg("--root").arg(&runtime.state);
        time.args(["create", "one"]).current_dir(&bundle).stdin(Stdio::null()).stdout(Stdio::null());
        run(time.stderr(Stdio::null()))?;
        let text = std::fs::read_to_string(&peak).doing(|| "read the peak".into())?;
        memory.push(text.trim().parse().ok());
        run(&mut runtime.command(&["delete", "--force", "one"]))?;
    }
    memory.push(None);
    #[expect(clippy::cast_precision_loss, reason = "megabytes, printed in KiB")]
    let size = |runtime: &Runtime| {
        let path = output(Command::new("which").arg(&runtime.program)).ok()?;
        std::fs::metadata(path.trim()).ok().map(|m| m.len() as f64 / 1024.0)
    };
    let sizes = runtimes.iter().map(size).chain([None]).collect();
    Ok(vec![
        ("system calls of one `run true`, the container's own too".into(), calls),
        ("peak resident memory of `create`, KiB".into(), memory),
        ("size of the program, KiB".into(), sizes),
    ])
}

/// The sum of strace's table: the fourth number of its last line.
fn total(counts: &Path) -> Result<Option<f64>> {
    let text = std::fs::read_to_string(counts).doing(|| format!("read {}", counts.display()))?;
    let words: Vec<&str> = text.lines().last().unwrap_or_default().split_whitespace().collect();
    Ok(words.get(3).and_then(|n| n.parse().ok()))
}

fn page(
    runtimes: &[Runtime],
    runs: usize,
    rows: &[(String, Vec<Option<f64>>)],
    others: &[(String, Vec<Option<f64>>)],
) -> Result<String> {
    let mut out = format!("{HEADING}\n\n");
    let mut facts = machine()?;
    facts.push(format!(
        "load while measuring: {}",
        output(Command::new("cut").args(["-d ", "-f1-3", "/proc/loadavg"]))?
    ));
    for runtime in &runtimes[1..] {
        let version = output(Command::new(&runtime.program).arg("--version"))?;
        facts.push(version.lines().next().unwrap_or_default().to_owned());
    }
    for fact in facts {
        writeln!(out, "- {fact}").expect("writing to a String");
    }
    out += "\nIn turn (A B C A B C ...) in one mount namespace, cgroup v1. The floor (bench/runtime/floor.rs) makes the same \
            container with nothing decided or checked; it loads no seccomp filter.\n";
    writeln!(out, "\n## Time: median of {runs}, in milliseconds\n").expect("writing to a String");
    table(&mut out, rows, 2);
    out += "\n## Costs\n\n";
    table(&mut out, others, 0);
    Ok(out)
}

fn table(out: &mut String, rows: &[(String, Vec<Option<f64>>)], decimals: usize) {
    *out += "| what | brig | crun | runc | floor | brig / crun | brig / floor |\n|---|---:|---:|---:|---:|---:|---:|\n";
    for (title, values) in rows {
        let number = |value: Option<f64>| value.map_or(" - |".to_owned(), |v| format!(" {v:.decimals$} |"));
        let numbers: String = values.iter().map(|v| number(*v)).collect();
        let ratio = |other: usize| match (values[0], values[other]) {
            (Some(own), Some(other)) if other > 0.0 => format!(" {:.2} |", own / other),
            _ => " - |".to_owned(),
        };
        writeln!(out, "| {title} |{numbers}{}{}", ratio(1), ratio(3)).expect("writing to a String");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row() {
        let mut out = String::new();
        table(&mut out, &[("run".into(), vec![Some(2.0), Some(4.0), Some(8.0), None])], 1);
        assert!(out.contains("| run | 2.0 | 4.0 | 8.0 | - | 0.50 | - |"), "{out}");
    }
}
