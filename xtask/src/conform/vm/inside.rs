//! What runs in the machine, as root, from a unit of systemd's: the checks, one after the other, each with a deadline.

use super::{BRIG, brigd, networks, suites, systemd};
use crate::run::{Doing, Error, Result};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Begins the last line.
pub(super) const END: &str = "brig-vm end:";
/// Of one command, unless said otherwise. Half a second of work here is five there.
const DEADLINE: Duration = Duration::from_secs(120);

/// One thing to see.
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) run: fn(&Inside) -> Result<Outcome>,
}

pub(super) enum Outcome {
    Passed,
    /// With numbers or a name.
    Said(String),
}

impl From<()> for Outcome {
    fn from((): ()) -> Outcome {
        Outcome::Passed
    }
}

/// The machine.
pub(super) struct Inside {
    /// Written to by the checks; on the root file system.
    pub(super) home: PathBuf,
}

pub(in crate::conform) fn command() -> Result<()> {
    let filters = std::fs::read_to_string(Path::new(BRIG).join("filters")).unwrap_or_default();
    let inside = Inside { home: "/var/lib/brig-checks".into() };
    std::fs::create_dir_all(&inside.home).doing(|| format!("create {}", inside.home.display()))?;
    inside.machine()?;
    let (mut passed, mut failed) = (0, 0);
    for check in [systemd::CHECKS, brigd::CHECKS, networks::CHECKS, suites::CHECKS].into_iter().flatten() {
        if !filters.trim().is_empty() && !filters.lines().any(|f| check.name.contains(f)) {
            continue;
        }
        let begin = Instant::now();
        let outcome = (check.run)(&inside);
        let seconds = begin.elapsed().as_secs();
        match outcome {
            Ok(Outcome::Passed) => {
                passed += 1;
                eprintln!("ok {} ({seconds} s)", check.name);
            }
            Ok(Outcome::Said(text)) => {
                passed += 1;
                eprintln!("ok {} ({seconds} s): {text}", check.name);
            }
            Err(error) => {
                failed += 1;
                eprintln!("FAIL {} ({seconds} s): {error}", check.name);
            }
        }
    }
    eprintln!("{END} {passed} passed, {failed} failed");
    Ok(())
}

impl Inside {
    /// Says what machine this is, and refuses one that is not what the checks are for.
    fn machine(&self) -> Result<()> {
        let kind = self.ok("stat --file-system --format=%T /sys/fs/cgroup")?;
        if kind != "cgroup2fs" {
            return Err(Error::new(format!("/sys/fs/cgroup is {kind}, not cgroup2fs")));
        }
        let release = self.ok("uname -r")?;
        let systemd = self.ok("systemctl --version")?;
        let systemd = systemd.lines().next().unwrap_or_default();
        let controllers = self.ok("cat /sys/fs/cgroup/cgroup.controllers")?;
        eprintln!("Linux {release}, {systemd}; cgroup v2 with {controllers}");
        // Test programs have the path of the runtime built in.
        let path = std::fs::read_to_string(Path::new(BRIG).join("runtime-path"))
            .doing(|| "read runtime-path".to_owned())?;
        let parent = Path::new(&path).parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(parent).doing(|| format!("create {}", parent.display()))?;
        std::fs::copy(Path::new(BRIG).join("bin/brig-runtime"), &path).doing(|| format!("write {path}"))?;
        Ok(())
    }

    /// What a command prints, which must succeed. Words are divided by spaces; there is no quoting.
    pub(super) fn ok(&self, line: &str) -> Result<String> {
        self.words(&line.split(' ').collect::<Vec<_>>())
    }

    /// The same, for arguments that have spaces.
    pub(super) fn words(&self, words: &[&str]) -> Result<String> {
        let (code, text) = self.call(words, DEADLINE)?;
        match code {
            Some(0) => Ok(text),
            _ => Err(Error::new(format!("`{}` ended with {code:?}: {text}", words.join(" ")))),
        }
    }

    /// How a command ends, none for a signal, and what it prints on both streams. One that is not through in time is an error.
    pub(super) fn call(&self, words: &[&str], deadline: Duration) -> Result<(Option<i32>, String)> {
        let path = self.home.join("output");
        let file = std::fs::File::create(&path).doing(|| format!("create {}", path.display()))?;
        let again = file.try_clone().doing(|| "open the output".to_owned())?;
        let [program, args @ ..] = words else { return Err(Error::new("no command")) };
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(file).stderr(again).process_group(0);
        let mut child = command.spawn().doing(|| format!("start {program}"))?;
        let end = Instant::now() + deadline;
        let read =
            || String::from_utf8_lossy(&std::fs::read(&path).unwrap_or_default()).trim_end().to_owned();
        loop {
            if let Some(status) = child.try_wait().doing(|| format!("wait for {program}"))? {
                return Ok((status.code(), read()));
            }
            if Instant::now() > end {
                let group = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
                if let Some(group) = group {
                    // Fails only for one that has just ended.
                    let _gone = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
                }
                drop(child.wait());
                let line = words.join(" ");
                return Err(Error::new(format!(
                    "`{line}` took more than {} s: {}",
                    deadline.as_secs(),
                    read()
                )));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The command must print, on any stream, `want`.
    pub(super) fn says(&self, line: &str, want: &str) -> Result<()> {
        let text = self.ok(line)?;
        same(line, &text, want)
    }

    /// Waits until a command prints `want`, as what systemd and the kernel do on their own takes its time.
    pub(super) fn until(&self, line: &str, want: &str) -> Result<()> {
        let end = Instant::now() + DEADLINE;
        loop {
            let (_, text) = self.call(&line.split(' ').collect::<Vec<_>>(), DEADLINE)?;
            if text == want {
                return Ok(());
            }
            if Instant::now() > end {
                return same(line, &text, want);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The text of a file, without the line's end.
    pub(super) fn file(&self, path: &str) -> Result<String> {
        let text = std::fs::read_to_string(path).doing(|| format!("read {path}"))?;
        Ok(text.trim_end().to_owned())
    }
}

/// An error unless both are the same.
pub(super) fn same(what: &str, got: &str, want: &str) -> Result<()> {
    if got == want { Ok(()) } else { Err(Error::new(format!("{what}: {got:?}, not {want:?}"))) }
}
