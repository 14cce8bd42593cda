//! A process of the container: init, or an exec.

use crate::stdio::{Console, Stdio};
use shim_api::{Exit, Streams};
use std::os::fd::OwnedFd;
use std::time::Instant;

/// Key of init among the processes.
pub(crate) const INIT: u64 = 0;

/// Init or an exec.
#[derive(Debug)]
pub(crate) struct Process {
    /// None for init.
    pub(crate) exec_id: Option<String>,
    /// 0 while the runtime makes it.
    pub(crate) pid: i32,
    /// None before it is known and after it has exited.
    pub(crate) pidfd: Option<OwnedFd>,
    pub(crate) stdio: Stdio,
    /// While the runtime makes it and it is to have a terminal.
    pub(crate) console: Option<Console>,
    pub(crate) exit: Option<Exit>,
    /// Kills for memory in the container before this began.
    pub(crate) kills_before: u64,
    /// When to stop waiting for the end of its output; set when it has exited.
    pub(crate) drain_until: Option<Instant>,
    /// The client whose going closes stdin.
    pub(crate) stdin_owner: Option<u64>,
    /// The client that asked for it, and the streams it wants.
    pub(crate) asker: Option<u64>,
    pub(crate) wanted: Streams,
}

impl Process {
    /// A process that the runtime is about to make.
    pub(crate) fn new(exec_id: Option<String>, stdio: Stdio, console: Option<Console>) -> Process {
        Process {
            exec_id,
            pid: 0,
            pidfd: None,
            stdio,
            console,
            exit: None,
            kills_before: 0,
            drain_until: None,
            stdin_owner: None,
            asker: None,
            wanted: Streams::default(),
        }
    }

    /// Whether the runtime is done making it.
    pub(crate) fn is_made(&self) -> bool {
        self.pid != 0
    }

    /// Whether all its output is read.
    pub(crate) fn is_drained(&self) -> bool {
        self.stdio.output.iter().all(Option::is_none)
    }
}
