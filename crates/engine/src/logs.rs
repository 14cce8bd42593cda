//! A container's log, read back.

use crate::error::{During, Error};
use crate::{Engine, Status};
use logs::{Options, Reader, Woken};
use std::os::fd::AsFd;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Pieces read ahead of a slow client, and about how long one is.
const READ_AHEAD: usize = 1;
const PIECE: usize = 64 << 10;

/// What a client wants to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    pub stdout: bool,
    pub stderr: bool,
    /// Nanoseconds since 1970.
    pub since: Option<u64>,
    pub until: Option<u64>,
    /// Last entries only.
    pub tail: Option<u64>,
    pub follow: bool,
}

/// One entry.
pub use logs::{Entry as LogEntry, Stream as LogStream};

impl Engine {
    /// Reads the log; with `follow` until the task ends. `write` puts each entry behind what is to be told; that comes in pieces
    /// of some length, and at once where there are no more entries. Dropping the receiver ends the reading.
    pub fn logs(
        self: &Arc<Self>,
        name: &str,
        options: LogOptions,
        mut write: impl FnMut(&LogEntry, &mut Vec<u8>) + Send + 'static,
    ) -> Result<mpsc::Receiver<Result<Vec<u8>, Error>>, Error> {
        let container = self.container(name)?;
        let Some((path, format)) = crate::log_drivers::readable(&self.config, &container.lock()) else {
            return Err(Error::invalid("configured logging driver does not support reading"));
        };
        let (sender, receiver) = mpsc::channel(READ_AHEAD);
        // The reader waits on this pipe beside the file; closing our end ends a follow.
        let (stop_read, stop_write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(std::io::Error::from)
            .map_err(|e| Error::Failed {
                doing: "make a pipe".into(),
                kind: errors::io_kind(&e),
                source: Box::new(e),
            })?;
        if options.follow {
            let mut life = container.life.subscribe();
            let closed = sender.clone();
            tokio::spawn(async move {
                tokio::select! {
                    _ = life.wait_for(|l| !l.running || l.removed) => {}
                    () = closed.closed() => {}
                }
                drop(stop_write);
            });
        } else {
            drop(stop_write);
        }
        let follow = options.follow
            && matches!(container.status(), Status::Running | Status::Paused | Status::Restarting);
        // A thread of its own: one that follows stays for as long as its client, and many would leave none for others.
        let is_read = crate::behind::spawn("logs", move || {
            let doing = || format!("read log {}", path.display());
            let mut piece = Vec::new();
            let mut read = || -> Result<(), Error> {
                let options_below = Options {
                    since_ns: options.since,
                    until_ns: options.until,
                    tail: options.tail,
                    follow,
                    format,
                };
                let mut reader = Reader::open(&path, options_below).during(doing)?;
                let mut last_round = !follow;
                loop {
                    while let Some(entry) = reader.next_ref().during(doing)? {
                        let wanted = match entry.stream {
                            logs::Stream::Stdout => options.stdout,
                            logs::Stream::Stderr => options.stderr,
                        };
                        if wanted {
                            write(entry, &mut piece);
                        }
                        if piece.len() >= PIECE {
                            let full = std::mem::replace(&mut piece, Vec::with_capacity(PIECE + PIECE / 4));
                            if sender.blocking_send(Ok(full)).is_err() {
                                return Ok(());
                            }
                        }
                    }
                    if !piece.is_empty() && sender.blocking_send(Ok(std::mem::take(&mut piece))).is_err() {
                        return Ok(());
                    }
                    if last_round {
                        return Ok(());
                    }
                    // What was written before the task's end is still to be read after the stop.
                    last_round = reader.wait(stop_read.as_fd()).during(doing)? != Woken::Changed;
                    if sender.is_closed() {
                        return Ok(());
                    }
                }
            };
            if let Err(e) = read() {
                // Nobody to tell when the client has gone. What was read before comes first.
                if !piece.is_empty() {
                    drop(sender.blocking_send(Ok(piece)));
                }
                drop(sender.blocking_send(Err(e)));
            }
        });
        if !is_read {
            return Err(Error::Exhausted { message: "no thread to be had that reads the log".into() });
        }
        Ok(receiver)
    }
}
