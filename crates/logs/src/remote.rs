//! Entries sent to someone else: journald's native protocol, and syslog as RFC 3164 and RFC 5424 have it.
//!
//! Everything is non-blocking. What the other side does not take at once waits in a queue of bounded size; whoever drives
//! the loop waits for the descriptor ([`Remote::wants`]) or for the moment ([`Remote::due`]) and calls [`Remote::pump`].
//! While the other side is there and slow, [`Remote::is_full`] asks for output to wait, so that nothing is lost; while it
//! is not there, or where output must never wait, what does not fit is dropped and counted.

use crate::entry::Stream;
use crate::time::format_rfc3339;
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Bytes that may wait where output may wait too.
const QUEUE: usize = 1 << 20;
/// Pause before the other side is looked for again.
const RETRY: Duration = Duration::from_secs(1);
/// How long the first connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// Longest datagram: what the loopback and a local socket take, with room for the head.
const MAX_DATAGRAM: usize = 60 << 10;

/// Where someone listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A local socket of datagrams.
    UnixDatagram(PathBuf),
    /// A local socket of streams.
    UnixStream(PathBuf),
    Udp(SocketAddr),
    Tcp(SocketAddr),
}

impl Address {
    fn is_stream(&self) -> bool {
        matches!(self, Address::UnixStream(_) | Address::Tcp(_))
    }
}

/// What is spoken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemoteKind {
    /// Fields that go with each entry.
    Journald(Vec<(String, String)>),
    Syslog(Syslog),
}

/// How an entry looks in syslog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Syslog {
    pub format: SyslogFormat,
    /// 0..=23.
    pub facility: u8,
    pub tag: String,
    /// Left out of the local format.
    pub hostname: String,
    /// Process id that is shown.
    pub pid: u32,
}

/// Docker's `syslog-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyslogFormat {
    /// RFC 3164 without a host name, as libc writes to `/dev/log`.
    Local,
    Rfc3164,
    Rfc5424,
    /// RFC 5424 with microseconds.
    Rfc5424Micro,
}

/// The other side.
#[derive(Debug)]
pub struct Remote {
    kind: RemoteKind,
    address: Address,
    socket: Option<OwnedFd>,
    queue: VecDeque<Vec<u8>>,
    queued: usize,
    /// Bytes of the first message that a stream has taken.
    sent: usize,
    limit: usize,
    /// Output never waits.
    non_blocking: bool,
    dropped: u64,
    retry_at: Option<Instant>,
}

impl Remote {
    /// Connects. `buffer_bytes` is for output that never waits, 0 is the default of 1 MiB.
    ///
    /// # Errors
    ///
    /// When nobody listens now.
    pub fn connect(
        kind: RemoteKind,
        address: Address,
        non_blocking: bool,
        buffer_bytes: usize,
    ) -> io::Result<Remote> {
        // The first time it is waited for, so that a mistake in the address is told by the start that fails.
        let socket = open(&address, SocketFlags::empty())?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Remote {
            kind,
            address,
            socket: Some(socket),
            queue: VecDeque::new(),
            queued: 0,
            sent: 0,
            limit: if non_blocking && buffer_bytes > 0 { buffer_bytes } else { QUEUE },
            non_blocking,
            dropped: 0,
            retry_at: None,
        })
    }

    /// Takes an entry. `is_last` is false for a piece of a line that goes on.
    pub(crate) fn push(&mut self, stream: Stream, line: &[u8], is_last: bool, time_ns: u64) {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let message = match &self.kind {
            RemoteKind::Journald(fields) => journald(fields, stream, text, is_last),
            RemoteKind::Syslog(syslog) => {
                let mut message = syslog.message(stream, text, time_ns);
                if self.address.is_stream() {
                    message.push(b'\n');
                } else {
                    message.truncate(MAX_DATAGRAM);
                }
                message
            }
        };
        if self.queued + message.len() > self.limit && (self.non_blocking || self.socket.is_none()) {
            self.dropped += 1;
            return;
        }
        self.queued += message.len();
        self.queue.push_back(message);
        self.pump();
    }

    /// Sends what can be sent now.
    pub fn pump(&mut self) {
        if self.socket.is_none() && self.retry_at.is_none_or(|at| at <= Instant::now()) {
            self.reconnect();
        }
        while let (Some(message), Some(socket)) = (self.queue.front(), &self.socket) {
            match net::send(socket, &message[self.sent..], net::SendFlags::NOSIGNAL) {
                Ok(n) if self.address.is_stream() && self.sent + n < message.len() => self.sent += n,
                Ok(_) => self.take_first(),
                Err(Errno::INTR) => {}
                // A local socket whose queue is full, a stream whose buffer is, or one that is not connected yet.
                Err(Errno::AGAIN | Errno::NOTCONN | Errno::NOBUFS) => {
                    return;
                }
                // The other side may take it in no number of tries.
                Err(Errno::MSGSIZE) => {
                    self.dropped += 1;
                    self.take_first();
                }
                // Of an earlier datagram; this one may arrive.
                Err(Errno::CONNREFUSED) if matches!(self.address, Address::Udp(_)) => {
                    self.dropped += 1;
                    self.take_first();
                }
                Err(_) => {
                    self.socket = None;
                    self.sent = 0;
                    self.retry_at = Some(Instant::now() + RETRY);
                    return;
                }
            }
        }
    }

    fn take_first(&mut self) {
        self.sent = 0;
        if let Some(message) = self.queue.pop_front() {
            self.queued -= message.len();
        }
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
    }

    fn reconnect(&mut self) {
        match open(&self.address, SocketFlags::NONBLOCK) {
            Ok(socket) => {
                self.socket = Some(socket);
                self.retry_at = None;
            }
            Err(_) => self.retry_at = Some(Instant::now() + RETRY),
        }
    }

    /// The descriptor to wait for until it can be written, when something waits.
    pub fn wants(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().filter(|_| !self.queue.is_empty()).map(AsFd::as_fd)
    }

    /// When to call [`Remote::pump`] without a cause from outside.
    pub fn due(&self) -> Option<Instant> {
        self.retry_at.filter(|_| !self.queue.is_empty())
    }

    /// Whether output should wait.
    pub fn is_full(&self) -> bool {
        !self.non_blocking && self.socket.is_some() && self.queued >= self.limit
    }

    /// Whether all is sent, or cannot be.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Entries that were lost.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

/// A connected socket. With `NONBLOCK` a stream may still be on its way.
fn open(address: &Address, flags: SocketFlags) -> io::Result<OwnedFd> {
    let flags = flags | SocketFlags::CLOEXEC;
    let make = |family, kind| net::socket_with(family, kind, flags, None);
    let done = |socket: OwnedFd, outcome: Result<(), Errno>| match outcome {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(e) => Err(e.into()),
    };
    match address {
        Address::UnixDatagram(path) | Address::UnixStream(path) => {
            let kind = if address.is_stream() { SocketType::STREAM } else { SocketType::DGRAM };
            let socket = make(AddressFamily::UNIX, kind)?;
            let to = SocketAddrUnix::new(path.as_path())?;
            let outcome = net::connect(&socket, &to);
            done(socket, outcome)
        }
        Address::Udp(to) | Address::Tcp(to) => {
            let kind = if address.is_stream() { SocketType::STREAM } else { SocketType::DGRAM };
            let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let socket = make(family, kind)?;
            if !flags.contains(SocketFlags::NONBLOCK) {
                net::sockopt::set_socket_timeout(&socket, net::sockopt::Timeout::Send, Some(CONNECT))?;
            }
            let outcome = net::connect(&socket, to);
            done(socket, outcome)
        }
    }
}

/// An entry of journald's native protocol: `NAME=value` a line; a value with new lines has its length before it.
///
/// Spec: <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>.
fn journald(fields: &[(String, String)], stream: Stream, text: &[u8], is_last: bool) -> Vec<u8> {
    // As Docker: stderr is an error, stdout is for information.
    let priority = if stream == Stream::Stderr { "3" } else { "6" };
    let mut out = Vec::with_capacity(text.len() + 256);
    field(&mut out, "MESSAGE", text);
    field(&mut out, "PRIORITY", priority.as_bytes());
    if !is_last {
        field(&mut out, "CONTAINER_PARTIAL_MESSAGE", b"true");
    }
    for (name, value) in fields {
        field(&mut out, name, value.as_bytes());
    }
    out
}

fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value);
    out.push(b'\n');
}

impl Syslog {
    fn message(&self, stream: Stream, text: &[u8], time_ns: u64) -> Vec<u8> {
        let severity = if stream == Stream::Stderr { 3 } else { 6 };
        let priority = u16::from(self.facility) * 8 + severity;
        let (tag, host, pid) = (&self.tag, &self.hostname, self.pid);
        let utc = format_rfc3339(time_ns);
        let seconds = utc.get(..19).unwrap_or_default();
        let head = match self.format {
            SyslogFormat::Local => format!("<{priority}>{} {tag}[{pid}]: ", stamp(&utc)),
            SyslogFormat::Rfc3164 => format!("<{priority}>{} {host} {tag}[{pid}]: ", stamp(&utc)),
            SyslogFormat::Rfc5424 => format!("<{priority}>1 {seconds}Z {host} {tag} {pid} {tag} - "),
            SyslogFormat::Rfc5424Micro => {
                let micros = time_ns / 1000 % 1_000_000;
                format!("<{priority}>1 {seconds}.{micros:06}Z {host} {tag} {pid} {tag} - ")
            }
        };
        let mut out = head.into_bytes();
        out.extend_from_slice(text);
        out
    }
}

/// `Jan  2 15:04:05` of `2006-01-02T15:04:05...`. In UTC, as a container's supervisor knows no time zone.
fn stamp(utc: &str) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let number = |range| utc.get(range).and_then(|t: &str| t.parse::<usize>().ok()).unwrap_or(1);
    let month = MONTHS.get(number(5..7).saturating_sub(1)).unwrap_or(&"Jan");
    format!("{month} {:>2} {}", number(8..10), utc.get(11..19).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    fn syslog(format: SyslogFormat) -> Syslog {
        Syslog { format, facility: 3, tag: "web".into(), hostname: "h".into(), pid: 7 }
    }

    #[test]
    fn messages_of_each_format() {
        // 2006-01-02T15:04:05.123456Z
        let time = 1_136_214_245_123_456_000;
        let check = |format, want: &str| {
            let got = syslog(format).message(Stream::Stdout, b"hi", time);
            assert_eq!(String::from_utf8(got).unwrap(), want);
        };
        check(SyslogFormat::Local, "<30>Jan  2 15:04:05 web[7]: hi");
        check(SyslogFormat::Rfc3164, "<30>Jan  2 15:04:05 h web[7]: hi");
        check(SyslogFormat::Rfc5424, "<30>1 2006-01-02T15:04:05Z h web 7 web - hi");
        check(SyslogFormat::Rfc5424Micro, "<30>1 2006-01-02T15:04:05.123456Z h web 7 web - hi");
    }

    #[test]
    fn journald_values_with_new_lines_have_a_length() {
        let fields = [("CONTAINER_NAME".to_string(), "web".to_string())];
        let plain = journald(&fields, Stream::Stderr, b"a=b", true);
        assert_eq!(plain, b"MESSAGE=a=b\nPRIORITY=3\nCONTAINER_NAME=web\n");
        let lines = journald(&[], Stream::Stdout, b"a\nb", false);
        assert_eq!(lines, b"MESSAGE\n\x03\0\0\0\0\0\0\0a\nb\nPRIORITY=6\nCONTAINER_PARTIAL_MESSAGE=true\n");
    }

    #[test]
    fn what_nobody_takes_waits_or_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let listener = UnixDatagram::bind(&path).unwrap();
        let kind = || RemoteKind::Syslog(syslog(SyslogFormat::Local));
        let address = Address::UnixDatagram(path.clone());
        let mut slow = Remote::connect(kind(), address.clone(), false, 0).unwrap();
        let mut hasty = Remote::connect(kind(), address.clone(), true, 100_000).unwrap();
        let line = [b'x'; 1000];
        for _ in 0..2000 {
            if !slow.is_full() {
                slow.push(Stream::Stdout, &line, true, 1);
            }
            hasty.push(Stream::Stdout, &line, true, 1);
        }
        assert!(slow.is_full() && slow.dropped() == 0 && slow.wants().is_some());
        assert!(hasty.dropped() > 0 && !hasty.is_full() && hasty.queued <= 100_000);
        let mut buffer = [0; 2000];
        listener.set_nonblocking(true).unwrap();
        let mut taken = 0;
        while !slow.is_empty() {
            while listener.recv(&mut buffer).is_ok() {
                taken += 1;
            }
            slow.pump();
        }
        assert!(taken > 0);
        // Gone and back again.
        drop(listener);
        std::fs::remove_file(&path).unwrap();
        slow.push(Stream::Stdout, b"lost or kept\n", true, 1);
        assert!(slow.due().is_some() && !slow.is_full());
        assert!(Remote::connect(kind(), address, false, 0).is_err());
        let listener = UnixDatagram::bind(&path).unwrap();
        slow.retry_at = None;
        slow.pump();
        assert_eq!((slow.is_empty(), listener.recv(&mut buffer).is_ok()), (true, true));
    }
}
