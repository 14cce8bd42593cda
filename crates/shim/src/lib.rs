//! One container's supervisor: it makes the container by the runtime, carries its output to the log and to those
//! attached, reaps, keeps exit statuses, and serves the daemon over a socket (`shim_api`). It outlives the daemon.
//!
//! One thread, one `poll` loop ([`supervisor`]), no timer unless something is due. What may happen when is a pure table
//! ([`table`]); the loop performs what the table says. Memory counts, since there is one shim a container: buffers are
//! bounded and given back, and one scratch buffer serves all reads.
//!
//! # Bounds
//!
//! | what | bound | then |
//! |---|---|---|
//! | output waiting for one attached client | [`Limits::client_buffer`] | the stream is not read; the container waits |
//! | such a client takes nothing | [`Limits::stall`]; [`Limits::watcher_stall`] where it came after the start | the client is cut off, the container goes on |
//! | stdin waiting for a process | [`Limits::stdin_queue`] | the client is not read |
//! | output of an exec that has exited, held open by others | [`Limits::exec_drain`] | read what is there, end |
//! | clients that do not take the last frames | [`Limits::flush`] | leave |
//!
//! # Files below the shim's directory
//!
//! `shim.json` (read), `shim.sock`, `init.pid`, `runtime.log` (of the last runtime call), while an exec starts
//! `exec-<id>.json`, `.pid` and `.log`, while a terminal is handed over `console-<n>.sock`; at the end `exit.json`.

mod client;
pub mod init;
mod log;
pub mod namespaces;
mod oom;
mod process;
mod requests;
mod runtime;
mod stdio;
mod supervisor;
mod table;

use errors::{HasKind, Kind};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a shim puts up with; see the crate's documentation.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes.
    pub client_buffer: usize,
    pub stall: Duration,
    pub watcher_stall: Duration,
    /// Bytes.
    pub stdin_queue: usize,
    pub exec_drain: Duration,
    pub flush: Duration,
    /// Connections at a time; more are closed at once.
    pub clients: usize,
    /// Ended execs that `State` still lists.
    pub finished_execs: usize,
}

impl Default for Limits {
    /// 256 KiB for clients. 5 minutes for the one that a process was started for, whose output it is: the reader of a pipe may
    /// take its time, and a person may stop a terminal for a while. 2 s for those who attached to what ran already: whoever only
    /// looks on must not stop it. 64 KiB of stdin (as a pipe holds), 2 s for an exec (as Docker), 10 s at the end.
    fn default() -> Limits {
        Limits {
            client_buffer: 256 << 10,
            stall: Duration::from_secs(300),
            watcher_stall: Duration::from_secs(2),
            stdin_queue: 64 << 10,
            exec_drain: Duration::from_secs(2),
            flush: Duration::from_secs(10),
            clients: 256,
            finished_execs: 64,
        }
    }
}

/// Why a shim could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `shim.json` is missing or not one.
    #[error("read {path:?}")]
    Config { path: PathBuf, source: io::Error },
    /// `shim.json` was written by a later version.
    #[error("{path:?} has version {version}, this shim knows {}", shim_api::VERSION)]
    Version { path: PathBuf, version: u32 },
    /// A call on the way to a working shim.
    #[error("{what}")]
    Setup { what: &'static str, source: io::Error },
    /// Signals cannot be taken.
    #[error("take signals")]
    Signals(#[source] sys::signalfd::Error),
    /// The container's log cannot be written.
    #[error("open the container's log")]
    Log(#[source] logs::Error),
    /// The loop cannot wait.
    #[error("poll")]
    Poll(#[source] io::Error),
    /// The container could not be made. The daemon has been told.
    #[error("create container {id}")]
    Create { id: String, source: errors::Report },
}

impl HasKind for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Config { source, .. } | Error::Setup { source, .. } | Error::Poll(source) => {
                errors::io_kind(source)
            }
            Error::Version { .. } => Kind::Unsupported,
            Error::Signals(source) => source.kind(),
            Error::Log(source) => source.kind(),
            Error::Create { source, .. } => source.kind,
        }
    }
}

/// Compresses a log file that was put aside, when `words` are the arguments with which a shim starts itself for it.
/// None when they are not.
///
/// # Errors
///
/// [`Error::Log`].
pub fn compress(words: &[OsString]) -> Option<Result<(), Error>> {
    match words {
        [word, path] if word == log::COMPRESS => Some(logs::compress(Path::new(path)).map_err(Error::Log)),
        _ => None,
    }
}

/// Supervises the container that `dir/shim.json` describes, from its creation to its end. Returns when it has ended
/// and all is told.
///
/// Takes the whole process: changes its directory to `dir`, makes it a session leader and a child subreaper, blocks
/// signals, waits for all children. Must be called on the only thread. Writes the ready line to stdout and closes it;
/// stderr becomes the log of the shim itself. `env` is the environment of the runtime, `NAME=value`.
///
/// # Errors
///
/// [`Error`]; the daemon has read the same on stdout, unless the container ran already.
pub fn run(dir: &Path, env: Vec<OsString>, limits: Limits) -> Result<(), Error> {
    supervisor::run(dir, env, limits)
}
