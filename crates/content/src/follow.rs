//! Reading a blob while it is still being written.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// How far a blob is.
#[derive(Debug, Default)]
pub(crate) struct Tide {
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Debug, Default, Clone, Copy)]
struct State {
    written: u64,
    outcome: Outcome,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    #[default]
    Open,
    Committed,
    GivenUp,
}

impl Tide {
    pub(crate) fn rise(&self, written: u64) {
        self.lock().written = written;
        self.moved.notify_all();
    }

    /// What comes first stays: a blob that is committed is not given up when its writer is dropped.
    pub(crate) fn end(&self, is_committed: bool) {
        let mut state = self.lock();
        if state.outcome == Outcome::Open {
            state.outcome = if is_committed { Outcome::Committed } else { Outcome::GivenUp };
        }
        drop(state);
        self.moved.notify_all();
    }

    fn wait(&self, until: impl Fn(&State) -> bool) -> State {
        let mut state = self.lock();
        while !until(&state) {
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        *state
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads what is written to an [`Ingest`](crate::Ingest), from its first byte, and waits where there is no more yet.
///
/// What is read has *not* been verified. Whoever makes something of it must not let it be seen before
/// [`Watch::committed`] says yes.
#[derive(Debug)]
pub struct Follower {
    tide: Arc<Tide>,
    file: File,
    at: u64,
    size: u64,
}

/// Hears what becomes of a blob.
#[derive(Debug, Clone)]
pub struct Watch {
    tide: Arc<Tide>,
}

impl Follower {
    pub(crate) fn new(tide: Arc<Tide>, file: File, size: u64) -> Follower {
        Follower { tide, file, at: 0, size }
    }

    /// What tells whether the blob was verified.
    pub fn watch(&self) -> Watch {
        Watch { tide: Arc::clone(&self.tide) }
    }
}

impl Watch {
    /// Whether the blob is committed by now.
    pub fn is_committed(&self) -> bool {
        self.tide.lock().outcome == Outcome::Committed
    }

    /// Waits until the blob is committed, or given up.
    pub fn committed(&self) -> bool {
        self.tide.wait(|state| state.outcome != Outcome::Open).outcome == Outcome::Committed
    }
}

impl Read for Follower {
    /// Ends at the size that was promised; fails when the blob is given up before.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.size || buffer.is_empty() {
            return Ok(0);
        }
        let at = self.at;
        let state = self.tide.wait(|state| state.written > at || state.outcome != Outcome::Open);
        let there = usize::try_from(state.written - at.min(state.written)).unwrap_or(usize::MAX);
        if there == 0 {
            return Err(io::Error::other("the blob is no longer being written"));
        }
        let length = buffer.len().min(there);
        let count = self.file.read_at(&mut buffer[..length], at)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += count as u64;
        Ok(count)
    }
}
