//! Container output: on disk in Docker's json-file format or in one of our own, written and rotated by the shim, read and
//! followed by the engine; and sent to journald or syslog besides. No threads, no async.
//!
//! # Format
//!
//! One JSON object a line, keys in this order, `attrs` only when there are any:
//!
//! ```text
//! {"log":"hello\n","stream":"stdout","attrs":{"tag":"x"},"time":"2026-01-02T03:04:05.678901234Z"}
//! ```
//!
//! A line of output longer than [`MAX_PIECE`] is kept as several entries; all but the last lack the final `\n` and
//! carry the time of the first. Bytes that are no UTF-8 become U+FFFD, one for each. Times are UTC and, but for the
//! pieces of one line, strictly increasing.
//!
//! # Rotation
//!
//! `path` is being written; `path.1` is the one before it, up to `path.N-1`. A file that has reached its size is
//! renamed, never truncated, and never written again. A reader that holds it open therefore loses nothing: it reads
//! to the end, sees by the inode that `path` is another file, and goes on with the next newer one.
//!
//! A line without `\n` at the end of a file was torn by a crash or a full disk. Readers pass over it; the next writer
//! cuts it off.

mod entry;
mod gzip;
mod reader;
mod remote;
mod time;
mod writer;

pub use entry::{Entry, Format, Stream};
pub use gzip::compress;
pub use reader::{Options, Reader, Woken};
pub use remote::{Address, Remote, RemoteKind, Syslog, SyslogFormat};
pub use time::{format_rfc3339, now_ns, parse_rfc3339};
pub use writer::{Rotation, Target, Writer};

use errors::{HasKind, Kind};
use std::io;
use std::path::PathBuf;

/// Most bytes of one line of output in one entry, as Docker splits them.
pub const MAX_PIECE: usize = 16 << 10;

/// A log that could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be opened or made.
    #[error("open log {path:?}")]
    Open { path: PathBuf, source: io::Error },
    /// Entries were dropped; later ones may get through.
    #[error("write log {path:?}")]
    Write { path: PathBuf, source: io::Error },
    /// The file grows past its size.
    #[error("rotate log {path:?}")]
    Rotate { path: PathBuf, source: io::Error },
    /// The file could not be read.
    #[error("read log {path:?}")]
    Read { path: PathBuf, source: io::Error },
    /// A file that was put aside stays as it is.
    #[error("compress log {path:?}")]
    Compress { path: PathBuf, source: io::Error },
    /// Waiting for more failed.
    #[error("wait for log {path:?}")]
    Wait { path: PathBuf, source: io::Error },
}

impl HasKind for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Open { source, .. }
            | Error::Write { source, .. }
            | Error::Rotate { source, .. }
            | Error::Read { source, .. }
            | Error::Compress { source, .. }
            | Error::Wait { source, .. } => errors::io_kind(source),
        }
    }
}
