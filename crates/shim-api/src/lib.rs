//! What daemon and shim say to each other.
//!
//! # Life of a shim
//!
//! The daemon makes the directory `DIR` (`<exec-root>/shims/<container id>`), writes `DIR/shim.json`
//! ([`Config`]), and spawns `brig-shim DIR` with stdin from `/dev/null`, stdout a pipe, stderr `DIR/shim.log`.
//! The shim becomes a session leader and a child subreaper, listens on `DIR/shim.sock`, runs the runtime's
//! `create`, writes one line of JSON ([`Ready`]) to stdout and closes it. The container then waits for
//! [`Request::Start`].
//!
//! ```text
//! daemon                          shim                            runtime
//!   | spawn brig-shim DIR           |                               |
//!   |------------------------------>| create --bundle ... ID        |
//!   |                               |------------------------------>| container created
//!   |<-- Ready::Created{pid} -------|                               |
//!   |== connect, Hello, Attach ====>|                               |
//!   |== connect, Hello, Start =====>| start ID -------------------->| execve
//!   |<-- Response::Started ---------|                               |
//!   |            ...                |<-- SIGCHLD                    |
//!   |                               | drain stdio, delete ID        |
//!   |                               | write DIR/exit.json, rename   |
//!   |<-- Event::Exited -------------| leave when all is flushed     |
//! ```
//!
//! The shim outlives the daemon. It leaves by itself once the container's init has exited, its output is drained
//! into the log and to those attached, the runtime's `delete` is done, and `exit.json` ([`Exit`]) is in place. (Where
//! [`Config::tells_early`] holds, the exit is told, and in `exit.json`, while `delete` runs.) A daemon that finds no shim behind `DIR` reads `exit.json`; when there is none either, the shim was killed.
//!
//! # Frames
//!
//! On the socket (`SOCK_STREAM`) both sides send frames: a `u32` big-endian payload length, one byte of
//! [`FrameKind`], the payload. Control payloads are JSON. A connection starts with the client's
//! [`Request::Hello`]. After an accepted [`Request::Attach`] or [`Request::Exec`] with streams, the connection
//! carries stdio frames until the process's output ends, then [`Event::Exited`], then it is closed. A client that closes
//! it is detached. After [`Request::Subscribe`], which has no response of its own, it carries events and is closed after
//! init's exit. Otherwise it is request, response, in order.
//!
//! # Versions
//!
//! [`VERSION`] is the protocol's. A field may be added with a default; anything else is a new version, and the
//! daemon goes on speaking the old one to old shims, which say theirs in [`Response::Hello`].

pub mod frame;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The protocol spoken by this build.
pub const VERSION: u32 = 1;
/// Longest control frame. A process document with the longest environment a kernel takes (128 KiB a string) fits.
pub const MAX_CONTROL: usize = 4 << 20;
/// Longest stdio frame.
pub const MAX_STDIO: usize = 64 << 10;
/// Name of the configuration below the shim's directory.
pub const CONFIG_FILE: &str = "shim.json";
/// Name of the socket below the shim's directory.
pub const SOCKET_FILE: &str = "shim.sock";
/// Name of the exit record below the shim's directory.
pub const EXIT_FILE: &str = "exit.json";

/// What `shim.json` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    pub version: u32,
    pub container_id: String,
    /// Directory with the runtime's `config.json`.
    pub bundle: PathBuf,
    /// Runtime program, absolute.
    pub runtime: PathBuf,
    /// The runtime's `--root`.
    pub runtime_root: PathBuf,
    /// More global arguments for the runtime.
    #[serde(default)]
    pub runtime_args: Vec<String>,
    /// The init process has a terminal; its config.json has `terminal: true`.
    pub tty: bool,
    /// Stdin is a pipe that stays open; otherwise `/dev/null`.
    pub open_stdin: bool,
    /// Stdin closes when the first attached client that gave stdin is gone.
    pub stdin_once: bool,
    pub log: Log,
    /// The images that the container's processes come back from, by the runtime's `restore` in place of `create`. They run
    /// then before [`Request::Start`], which finds nothing left to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<PathBuf>,
    /// The kernel ends all processes of the container with its init, whose exit is then told before the runtime's `delete` is
    /// done; a subscriber's connection is closed after it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tells_early: bool,
    /// User and group, as they are outside, whom the pipes of the container's processes belong to: root of a container that has
    /// a user namespace could not give them to its user otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdio_owner: Option<(u32, u32)>,
}

/// Where output goes besides attached clients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "driver", rename_all = "kebab-case")]
pub enum Log {
    /// Docker's json-file format.
    JsonFile {
        #[serde(flatten)]
        file: LogFile,
        /// `attrs` of each entry (labels, env), empty for none.
        #[serde(default)]
        attrs: BTreeMap<String, String>,
    },
    /// Our own format, smaller and keeping every byte.
    Local {
        #[serde(flatten)]
        file: LogFile,
    },
    /// Sent to someone else, and kept in our own format besides for those who read logs here.
    Remote {
        to: RemoteLog,
        #[serde(default)]
        cache: Option<LogFile>,
        /// Output never waits; what does not fit `buffer_bytes` is dropped.
        #[serde(default)]
        non_blocking: bool,
        /// 0 is the default.
        #[serde(default)]
        buffer_bytes: usize,
    },
    /// Nothing is kept.
    None,
}

/// A file and when it is put aside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogFile {
    pub path: PathBuf,
    /// Rotate at this many bytes; 0 is never.
    pub max_size_bytes: u64,
    /// Files kept, the one being written included; at least 1.
    pub max_files: u32,
    /// Files put aside are compressed.
    #[serde(default)]
    pub compress: bool,
}

/// Who else gets the entries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "protocol", rename_all = "kebab-case")]
pub enum RemoteLog {
    /// journald's native protocol on a local socket; the fields go with each entry.
    Journald { socket: PathBuf, fields: Vec<(String, String)> },
    Syslog {
        address: SyslogAddress,
        format: SyslogFormat,
        /// 0..=23.
        facility: u8,
        tag: String,
        hostname: String,
    },
}

/// Where syslog listens; names are resolved already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SyslogAddress {
    UnixDatagram(PathBuf),
    UnixStream(PathBuf),
    Udp(std::net::SocketAddr),
    Tcp(std::net::SocketAddr),
}

/// How a message looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SyslogFormat {
    /// RFC 3164 without a host name.
    Local,
    Rfc3164,
    Rfc5424,
    /// RFC 5424 with microseconds.
    Rfc5424Micro,
}

/// The one line on the shim's stdout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ready {
    /// The container exists, its init waits, the socket listens.
    Created { pid: i32 },
    /// Nothing is left behind.
    Failed(errors::Report),
}

/// The end of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    pub pid: i32,
    /// 0..255; 128 + signal number for a death by signal, as shells do.
    pub code: i32,
    /// RFC 3339 with nanoseconds, UTC.
    pub at: String,
    /// The kernel killed a process of the container for memory while it ran.
    #[serde(default)]
    pub oom_killed: bool,
}

/// First byte after the length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    Control = 0,
    Stdin = 1,
    Stdout = 2,
    Stderr = 3,
    /// Client to shim: no more stdin. Empty payload. Closes the process's stdin for everyone once what was sent is
    /// through; on a terminal that works by lines it types the end-of-file character.
    CloseStdin = 4,
}

impl FrameKind {
    /// The kind with this byte, if any.
    pub fn from_byte(byte: u8) -> Option<FrameKind> {
        [Self::Control, Self::Stdin, Self::Stdout, Self::Stderr, Self::CloseStdin]
            .get(usize::from(byte))
            .copied()
    }
}

/// Which streams a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Streams {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

impl Streams {
    /// Whether any is wanted.
    pub fn any(self) -> bool {
        self.stdin || self.stdout || self.stderr
    }
}

/// Client to shim.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "one a request; a box would only add an allocation")]
pub enum Request {
    Hello {
        version: u32,
    },
    /// Lets the created init go.
    Start,
    /// Streams of init from now on. Answered by [`Response::Ok`], then stdio frames.
    Attach {
        streams: Streams,
    },
    /// Starts another process. With any stream the connection then carries its stdio, attached before it starts.
    Exec {
        exec_id: String,
        process: oci::runtime::Process,
        streams: Streams,
    },
    /// Sends a signal to init, or to an exec.
    Kill {
        exec_id: Option<String>,
        signal: i32,
    },
    /// Sets the terminal's size.
    Resize {
        exec_id: Option<String>,
        height: u16,
        width: u16,
    },
    /// Freezes or thaws the container by the runtime's `pause` and `resume`.
    Pause,
    Resume,
    State,
    /// Turns the connection into one that carries events, starting with the exits already known. Answered by events only.
    Subscribe,
    /// Ends a container that was created and never started: kill, delete, leave.
    Shutdown,
}

/// Shim to client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    Hello {
        version: u32,
        container_id: String,
    },
    Ok,
    /// Start or Exec succeeded.
    Started {
        pid: i32,
    },
    State(State),
    Event(Event),
    Failed(errors::Report),
}

/// The shim's table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    pub status: Status,
    pub pid: i32,
    pub exit: Option<Exit>,
    pub execs: Vec<ExecState>,
}

/// One exec that the shim knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExecState {
    pub exec_id: String,
    pub pid: i32,
    pub exit: Option<Exit>,
}

/// Where the container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Created,
    Running,
    Paused,
    Stopped,
}

/// What subscribers hear.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// `exec_id` is None for init. Init's comes after its output is drained, `exit.json` is in place and, but for
    /// [`Config::tells_early`], `delete` is done.
    Exited { exec_id: Option<String>, exit: Exit },
}
