//! Running one target for a while.

use crate::{Mutator, Random, Target};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// One input may take no longer.
const MAX_TIME: Duration = Duration::from_secs(20);
/// How often a smaller input is tried for one that fails.
const MINIMISE_RUNS: usize = 4000;

/// What the last panic said, and where.
static PANIC: Mutex<String> = Mutex::new(String::new());
/// When the running input started, in milliseconds of the session; 0 between inputs.
static STARTED_MS: AtomicU64 = AtomicU64::new(0);

/// An input that made the target panic.
#[derive(Debug)]
pub struct Failure {
    pub input: Vec<u8>,
    pub message: String,
}

/// Runs the target on one input.
///
/// # Errors
///
/// What the panic said.
pub fn run_once(target: &Target, data: &[u8]) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| (target.run)(data)))
        .map_err(|_| PANIC.lock().map(|p| p.clone()).unwrap_or_default())
}

/// Inputs, and what they reached so far.
#[derive(Debug)]
pub struct Session {
    target: Target,
    corpus: Vec<Vec<u8>>,
    mutator: Mutator,
    random: Random,
    /// For each branch, in which classes of counts it was run.
    seen: Vec<u8>,
    reached: usize,
    runs: u64,
}

impl Session {
    /// Starts with these inputs. From now on panics are kept instead of printed.
    pub fn new(target: Target, seeds: Vec<Vec<u8>>, random: Random) -> Session {
        std::panic::set_hook(Box::new(|info| {
            if let Ok(mut message) = PANIC.lock() {
                *message = info.to_string();
            }
        }));
        let mut corpus = seeds;
        if corpus.is_empty() {
            corpus.push(Vec::new());
        }
        let mutator = Mutator::new(corpus.iter().map(Vec::as_slice));
        Session { target, corpus, mutator, random, seen: Vec::new(), reached: 0, runs: 0 }
    }

    /// Runs the seeds, then changes of them until the time is over or one fails. `before` sees each input before it runs:
    /// a target that dies by a signal leaves nothing else.
    ///
    /// # Errors
    ///
    /// The input that failed, as small as could be made.
    pub fn run(&mut self, time: Duration, mut before: impl FnMut(&[u8])) -> Result<(), Failure> {
        let start = Instant::now();
        watch(start);
        for index in 0..self.corpus.len() {
            let seed = self.corpus[index].clone();
            self.one(&seed, start, &mut before)?;
        }
        while start.elapsed() < time {
            // The newest are the most promising.
            let back = self.random.below(self.corpus.len());
            let index = if self.random.below(2) == 0 { back } else { self.corpus.len() - 1 - back / 8 };
            let other = self.random.below(self.corpus.len());
            let input = self.mutator.change(&self.corpus[index], &self.corpus[other], &mut self.random);
            if self.one(&input, start, &mut before)? {
                self.corpus.push(input);
            }
        }
        Ok(())
    }

    /// Runs one input; whether it reached something new.
    fn one(&mut self, input: &[u8], start: Instant, before: &mut impl FnMut(&[u8])) -> Result<bool, Failure> {
        before(input);
        self.runs += 1;
        take_counters(|_, _| {});
        STARTED_MS.store(millis(start).max(1), Ordering::Relaxed);
        let result = run_once(&self.target, input);
        STARTED_MS.store(0, Ordering::Relaxed);
        if let Err(message) = result {
            let input = self.smaller(input.to_vec(), &place(&message), before);
            return Err(Failure { input, message });
        }
        let mut new = false;
        let (seen, reached) = (&mut self.seen, &mut self.reached);
        take_counters(|index, count| {
            if seen.len() <= index {
                seen.resize(index + 1, 0);
            }
            *reached += usize::from(seen[index] == 0);
            new |= seen[index] & class(count) == 0;
            seen[index] |= class(count);
        });
        Ok(new)
    }

    /// Leaves out what the panic at `place` does not need.
    fn smaller(&self, mut input: Vec<u8>, panic_place: &str, before: &mut impl FnMut(&[u8])) -> Vec<u8> {
        let mut runs = 0;
        let mut step = input.len().div_ceil(2);
        while step > 0 && runs < MINIMISE_RUNS {
            let mut at = 0;
            while at < input.len() && runs < MINIMISE_RUNS {
                let mut candidate = input.clone();
                candidate.drain(at..(at + step).min(input.len()));
                before(&candidate);
                runs += 1;
                match run_once(&self.target, &candidate) {
                    Err(message) if place(&message) == panic_place => input = candidate,
                    _ => at += step,
                }
            }
            step /= 2;
        }
        input
    }

    /// Inputs kept, branches reached, runs made.
    pub fn figures(&self) -> (usize, usize, u64) {
        (self.corpus.len(), self.reached, self.runs)
    }

    /// The inputs kept, the seeds first.
    pub fn corpus(&self) -> &[Vec<u8>] {
        &self.corpus
    }
}

/// `panicked at FILE:LINE:COLUMN` of a panic's text.
fn place(message: &str) -> String {
    message.lines().next().unwrap_or_default().to_string()
}

/// The class of a count, as one bit: 1, 2, 3, 4-7, 8-15, 16-31, 32-127, more.
fn class(count: u8) -> u8 {
    match count {
        0 => 0,
        1..=3 => 1 << (count - 1),
        4..=7 => 8,
        8..=15 => 16,
        16..=31 => 32,
        32..=127 => 64,
        _ => 128,
    }
}

#[cfg(feature = "coverage")]
fn take_counters(f: impl FnMut(usize, u8)) {
    sys::coverage::take(f);
}

#[cfg(not(feature = "coverage"))]
fn take_counters(_: impl FnMut(usize, u8)) {}

fn millis(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Ends the process when an input takes too long: there is no other way out of a loop.
fn watch(start: Instant) {
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_millis(500));
            let began = STARTED_MS.load(Ordering::Relaxed);
            if began != 0 && u128::from(millis(start) - began.min(millis(start))) > MAX_TIME.as_millis() {
                std::process::abort();
            }
        }
    });
}
