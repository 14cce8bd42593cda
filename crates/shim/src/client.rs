//! One connection: bytes in to frames, frames out to bytes, and what the connection is for.

use crate::Limits;
use rustix::io::Errno;
use shim_api::frame::{self, HEADER, Header};
use shim_api::{Event, FrameKind, Response, Streams};
use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::time::Instant;

/// A connection.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) fd: OwnedFd,
    pub(crate) role: Role,
    /// Said Hello.
    pub(crate) is_greeted: bool,
    /// A request runs; what comes behind it is not looked at before it is answered.
    pub(crate) is_waiting: bool,
    /// Close once everything is sent.
    pub(crate) is_closing: bool,
    /// Gone, to be removed.
    pub(crate) is_dead: bool,
    /// Came to a process that ran already: it looks on, and nobody waits long for it.
    pub(crate) is_watcher: bool,
    input: Vec<u8>,
    output: VecDeque<u8>,
    /// When the other side last took something, or when there was nothing to take.
    progress: Instant,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Requests and responses.
    Asking,
    /// Stdio of the process with this key.
    Attached { process: u64, streams: Streams },
    /// Events.
    Subscribed,
}

impl Client {
    pub(crate) fn new(fd: OwnedFd) -> Client {
        Client {
            fd,
            role: Role::Asking,
            is_greeted: false,
            is_waiting: false,
            is_closing: false,
            is_dead: false,
            is_watcher: false,
            input: Vec::new(),
            output: VecDeque::new(),
            progress: Instant::now(),
        }
    }

    /// Whether this client gets output of this kind from `process`.
    pub(crate) fn hears(&self, process: u64, kind: FrameKind) -> bool {
        let Role::Attached { process: of, streams } = self.role else { return false };
        let is_wanted = match kind {
            FrameKind::Stdout => streams.stdout,
            FrameKind::Stderr => streams.stderr,
            FrameKind::Control | FrameKind::Stdin | FrameKind::CloseStdin => false,
        };
        of == process && is_wanted && !self.is_closing && !self.is_dead
    }

    /// Whether to read from the socket: not while a whole frame waits to be taken.
    pub(crate) fn wants_input(&self) -> bool {
        !self.is_waiting && !self.is_closing && !self.is_dead && !matches!(self.has_frame(), Ok(Some(_)))
    }

    /// The header of the whole frame at the begin of the input.
    fn has_frame(&self) -> Result<Option<Header>, frame::Error> {
        let Some(header) = self.input.first_chunk::<HEADER>() else { return Ok(None) };
        let header = frame::decode_header(*header)?;
        Ok((self.input.len() >= HEADER + header.length).then_some(header))
    }

    /// The kind of the next frame, if it is whole.
    pub(crate) fn peek(&self) -> Result<Option<FrameKind>, frame::Error> {
        Ok(self.has_frame()?.map(|header| header.kind))
    }

    /// Takes the next frame, if it is whole.
    pub(crate) fn take_frame(&mut self) -> Result<Option<(FrameKind, Vec<u8>)>, frame::Error> {
        let Some(header) = self.has_frame()? else { return Ok(None) };
        let end = HEADER + header.length;
        let payload = self.input[HEADER..end].to_vec();
        self.input.drain(..end);
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        Ok(Some((header.kind, payload)))
    }

    /// Takes bytes that came in.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// Bytes that the other side has not taken.
    pub(crate) fn backlog(&self) -> usize {
        self.output.len()
    }

    /// When the other side last took something.
    pub(crate) fn progress(&self) -> Instant {
        self.progress
    }

    /// When the other side is cut off, if it holds something up by taking nothing: a stream, or the end of this.
    pub(crate) fn stuck_at(&self, limits: Limits) -> Option<Instant> {
        let holds_up = self.backlog() >= limits.client_buffer || self.is_closing && self.backlog() > 0;
        let stall = if self.is_watcher { limits.watcher_stall } else { limits.stall };
        holds_up.then_some(self.progress + stall)
    }

    /// Sends a response; one that is too long cannot happen with what we send.
    pub(crate) fn respond(&mut self, response: &Response) {
        match frame::encode_control(response) {
            Ok(bytes) => self.send(&bytes, &[]),
            Err(_) => self.is_dead = true,
        }
    }

    pub(crate) fn tell(&mut self, event: &Event) {
        self.respond(&Response::Event(event.clone()));
    }

    /// Sends output; `bytes` fit one frame.
    pub(crate) fn send_output(&mut self, kind: FrameKind, bytes: &[u8]) {
        match frame::encode_header(Header { kind, length: bytes.len() }) {
            Ok(header) => self.send(&header, bytes),
            Err(_) => self.is_dead = true,
        }
    }

    /// Writes at once what the socket takes, and queues the rest: a client that keeps up costs no memory.
    fn send(&mut self, head: &[u8], body: &[u8]) {
        if self.is_dead || self.is_closing {
            return;
        }
        let mut sent = 0;
        if self.output.is_empty() {
            self.progress = Instant::now();
            match rustix::io::writev(&self.fd, &[IoSlice::new(head), IoSlice::new(body)]) {
                Ok(n) => sent = n,
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => self.is_dead = true,
            }
        }
        let of_head = sent.min(head.len());
        self.output.extend(&head[of_head..]);
        self.output.extend(&body[sent - of_head..]);
    }

    /// Writes what is queued, as far as the socket takes it.
    pub(crate) fn pump(&mut self) {
        while !self.output.is_empty() && !self.is_dead {
            let (front, back) = self.output.as_slices();
            match rustix::io::writev(&self.fd, &[IoSlice::new(front), IoSlice::new(back)]) {
                Ok(n) => {
                    self.output.drain(..n);
                    self.progress = Instant::now();
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => self.is_dead = true,
            }
        }
        self.output = VecDeque::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (Client, OwnedFd) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        (Client::new(ours), theirs)
    }

    #[test]
    fn only_a_client_that_takes_nothing_is_stuck() {
        let limits = Limits { client_buffer: 100_000, ..Limits::default() };
        let (mut client, theirs) = pair();
        let begin = Instant::now();
        client.send_output(FrameKind::Stdout, &[0; 30_000]);
        assert_eq!((client.backlog(), client.stuck_at(limits)), (0, None));
        while client.backlog() < limits.client_buffer {
            client.send_output(FrameKind::Stdout, &[0; 30_000]);
        }
        let until = client.stuck_at(limits).unwrap();
        assert!(until >= begin + limits.stall);
        client.is_watcher = true;
        assert_eq!(client.stuck_at(limits).unwrap() + limits.stall, until + limits.watcher_stall);
        client.is_watcher = false;
        while rustix::io::read(&theirs, &mut [0; 60_000]).is_ok() {}
        client.pump();
        assert!(client.stuck_at(limits).is_none_or(|at| at > until));
    }

    #[test]
    fn frames_come_in_any_portions() {
        let (mut client, _theirs) = pair();
        let mut bytes = frame::encode_control(&shim_api::Request::Start).unwrap();
        bytes.extend(frame::encode_header(Header { kind: FrameKind::CloseStdin, length: 0 }).unwrap());
        let mut kinds = Vec::new();
        for byte in bytes {
            client.feed(&[byte]);
            while let Some((kind, payload)) = client.take_frame().unwrap() {
                kinds.push((kind, payload.len()));
            }
        }
        assert_eq!(kinds, [(FrameKind::Control, 7), (FrameKind::CloseStdin, 0)]);
    }

    #[test]
    fn a_gone_client_is_dead_not_deadly() {
        let (mut client, theirs) = pair();
        drop(theirs);
        client.respond(&Response::Ok);
        assert!(client.is_dead);
    }
}
