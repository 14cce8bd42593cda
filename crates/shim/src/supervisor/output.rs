//! Output: from a process to the log and to those attached.

use super::{Shim, note};
use crate::process::INIT;
use crate::stdio::{self, Got};
use rustix::process::Pid;
use shim_api::FrameKind;
use std::os::fd::AsFd as _;
use std::time::Instant;

/// Bytes read of a stream that others hold open, once its process is gone: what a pipe may hold at most by default.
const MAX_REST: usize = 1 << 20;
/// Of a process's two streams.
const STREAMS: [logs::Stream; 2] = [logs::Stream::Stdout, logs::Stream::Stderr];
/// Of a process's two streams.
pub(super) const KINDS: [FrameKind; 2] = [FrameKind::Stdout, FrameKind::Stderr];

impl Shim {
    /// Reads once from a stream and hands it on.
    pub(super) fn forward(&mut self, key: u64, stream: usize) -> Got {
        let mut scratch = self.take_scratch();
        let fd = self.processes.get(&key).and_then(|p| p.stdio.output[stream].as_ref());
        let got = fd.map_or(Got::Nothing, |fd| stdio::read(fd.as_fd(), &mut scratch));
        match got {
            Got::Bytes(n) => self.hand_on(key, stream, &scratch[..n]),
            Got::Nothing => {}
            Got::End => self.close_output(key, stream),
        }
        self.scratch = scratch;
        got
    }

    pub(super) fn hand_on(&mut self, key: u64, stream: usize, bytes: &[u8]) {
        if key == INIT
            && let Some(log) = &mut self.log
        {
            let outcome = log.write(STREAMS[stream], bytes);
            self.note_log(outcome);
        }
        for client in self.clients.values_mut().filter(|c| c.hears(key, KINDS[stream])) {
            client.send_output(KINDS[stream], bytes);
        }
    }

    pub(super) fn close_output(&mut self, key: u64, stream: usize) {
        if let Some(process) = self.processes.get_mut(&key) {
            process.stdio.output[stream] = None;
        }
        if key == INIT
            && let Some(log) = &mut self.log
        {
            let outcome = log.finish(STREAMS[stream]);
            self.note_log(outcome);
        }
    }

    /// Sends what waits for whoever else gets the log.
    pub(super) fn pump_log(&mut self) {
        if let Some(remote) = self.log.as_mut().and_then(logs::Writer::remote) {
            remote.pump();
        }
    }

    /// When they are to be looked for again.
    pub(super) fn due_of_log(&self) -> Option<Instant> {
        self.log.as_ref().and_then(logs::Writer::remote_ref).and_then(logs::Remote::due)
    }

    /// Has compressed what the log put aside, one file at a time.
    pub(super) fn compress_log(&mut self) {
        let Some(log) = &mut self.log else { return };
        let Some(path) = log.take_rotated() else { return };
        match crate::log::start_compression(&path, self.runtime.null()) {
            Ok(pid) => self.compressor = Some(pid),
            Err(error) => {
                note(&format!("compress {}: {}", path.display(), errors::chain(&error)));
                log.end_compression();
            }
        }
    }

    /// Whether this child is the one that compressed; then the log goes on.
    pub(super) fn end_compression(&mut self, pid: Pid) -> bool {
        if self.compressor != Some(pid) {
            return false;
        }
        self.compressor = None;
        if let Some(log) = &mut self.log {
            log.end_compression();
        }
        true
    }

    /// Notes when the log begins to fail and when it works again, not each failure between.
    pub(super) fn note_log(&mut self, outcome: Result<(), logs::Error>) {
        match (outcome, self.is_log_failing) {
            (Err(error), false) => {
                note(&format!("{}; entries are dropped until it works again", errors::chain(&error)));
                self.is_log_failing = true;
            }
            (Ok(()), true) => {
                let dropped = self.log.as_ref().map_or(0, logs::Writer::dropped);
                note(&format!("the log works again; {dropped} entries were dropped so far"));
                self.is_log_failing = false;
            }
            (Ok(()), false) | (Err(_), true) => {}
        }
    }

    /// Reads what is there of a process's output, whoever still holds it open, and closes it.
    pub(super) fn drain(&mut self, key: u64) {
        for stream in 0..STREAMS.len() {
            let mut rest = MAX_REST;
            while self.processes.get(&key).is_some_and(|p| p.stdio.output[stream].is_some()) {
                match self.forward(key, stream) {
                    Got::Bytes(n) if n < rest => rest -= n,
                    _ => self.close_output(key, stream),
                }
            }
        }
    }
}
