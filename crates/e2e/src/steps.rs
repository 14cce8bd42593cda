//! Ending a program between two of its system calls: each that changes what others see is a step, and the program can be
//! killed before any of them.

use rustix::process::{Pid, Signal, kill_process};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use sys::ptrace::{self, Stop};
use testkit::leaks;

/// Whose steps are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    Daemon,
    Shim,
    Runtime,
}

impl Victim {
    fn program(self) -> &'static str {
        match self {
            Victim::Daemon => "brigd",
            Victim::Shim => "brig-shim",
            Victim::Runtime => "brig-runtime",
        }
    }
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// The steps that the victim made, and as the last one that which it was kept from.
    pub steps: Vec<&'static str>,
    pub is_killed: bool,
}

/// Somebody who watches a daemon, and all that it starts, until told to stop.
#[derive(Debug)]
pub struct Follower {
    thread: JoinHandle<Seen>,
    is_over: Arc<AtomicBool>,
}

impl Follower {
    /// Follows the daemon, and its shims in `shims`. Kills the victim before step number `at`, counted from 0.
    pub fn start(daemon: u32, shims: &Path, victim: Victim, at: Option<usize>) -> Follower {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut roots: Vec<u32> = vec![daemon];
        if victim != Victim::Daemon {
            roots.extend(leaks::processes_of(shims, Some(daemon)).into_iter().map(|(pid, _)| pid));
        }
        let ready = Arc::new(std::sync::Barrier::new(2));
        let thread = std::thread::spawn({
            let (is_over, ready) = (is_over.clone(), ready.clone());
            move || {
                let mut follow = Follow { victim, at, programs: BTreeMap::new(), seen: Seen::default() };
                for root in roots {
                    follow.seize(root, victim != Victim::Daemon);
                }
                ready.wait();
                follow.run(&is_over);
                // What is still followed goes on by itself when this thread ends.
                follow.seen
            }
        });
        ready.wait();
        Follower { thread, is_over }
    }

    /// Stops watching. `wake` makes the daemon do something, if it is still there.
    pub fn stop(self, wake: impl FnOnce()) -> Seen {
        self.is_over.store(true, Ordering::SeqCst);
        wake();
        self.thread.join().expect("the follower does not panic")
    }
}

struct Follow {
    victim: Victim,
    at: Option<usize>,
    /// Of each thread: its process if that is one of the victim's, as far as is known.
    programs: BTreeMap<i32, Option<i32>>,
    seen: Seen,
}

impl Follow {
    fn seize(&self, process: u32, children: bool) {
        let mut known = BTreeSet::new();
        // Threads that come while we look are seen in the next round.
        loop {
            let entries = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
            let threads: Vec<i32> = entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
            let new: Vec<i32> = threads.into_iter().filter(|t| known.insert(*t)).collect();
            if new.is_empty() {
                return;
            }
            for thread in new.into_iter().filter_map(Pid::from_raw) {
                // Gone, or followed since its maker is.
                if ptrace::seize(thread, children).is_ok() {
                    drop(ptrace::interrupt(thread));
                }
            }
        }
    }

    fn run(&mut self, is_over: &AtomicBool) {
        while let Ok(Some((thread, stop))) = ptrace::wait() {
            if is_over.load(Ordering::SeqCst) {
                return;
            }
            let mut signal = 0;
            match stop {
                Stop::Ended => {
                    self.programs.remove(&thread.as_raw_nonzero().get());
                    continue;
                }
                Stop::SystemCall => {
                    if self.is_killing(thread) {
                        return;
                    }
                }
                Stop::Executed => drop(self.programs.remove(&thread.as_raw_nonzero().get())),
                Stop::Signal(number) => signal = number,
                Stop::Made(_) | Stop::Paused => {}
            }
            // One that was killed meanwhile says so by itself.
            drop(ptrace::resume(thread, signal));
        }
    }

    /// Counts the step that the thread is about to make, if it is one, and kills its process if that is the one.
    fn is_killing(&mut self, thread: Pid) -> bool {
        let Ok(Some(entry)) = ptrace::entry(thread) else { return false };
        let Some(name) = entry.change() else { return false };
        let raw = thread.as_raw_nonzero().get();
        let victim = self.victim.program();
        let process = *self.programs.entry(raw).or_insert_with(|| process_of(raw, victim));
        let Some(process) = process else { return false };
        if matches!(name, "write" | "writev") && is_noise(process, entry.arguments[0]) {
            return false;
        }
        self.seen.steps.push(name);
        if self.at != Some(self.seen.steps.len() - 1) {
            return false;
        }
        self.seen.is_killed = true;
        let process = Pid::from_raw(process).expect("it runs");
        // It cannot have gone: its thread is stopped.
        kill_process(process, Signal::KILL).is_ok()
    }
}

/// The process of a thread if it runs this program.
fn process_of(thread: i32, program: &str) -> Option<i32> {
    let executable = std::fs::read_link(format!("/proc/{thread}/exe")).ok()?;
    // A program that is sealed in memory has its name behind `memfd:`.
    if !executable.to_string_lossy().contains(program) {
        return None;
    }
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

/// Threads that wake each other, and what goes to a log.
fn is_noise(process: i32, descriptor: u64) -> bool {
    let target = std::fs::read_link(format!("/proc/{process}/fd/{descriptor}")).unwrap_or_default();
    let target = target.to_string_lossy();
    target.contains("[eventfd]") || target.ends_with("brigd.log")
}
