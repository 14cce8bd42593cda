//! Connections: accepted, read, and their stdin handed to processes.

use super::Shim;
use crate::client::{Client, Role};
use crate::process::INIT;
use crate::stdio::{self, Got};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net;
use shim_api::FrameKind;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

/// How long to leave connections alone that cannot be accepted.
const DEAF: Duration = Duration::from_secs(1);

impl Shim {
    pub(super) fn accept(&mut self) {
        let flags = net::SocketFlags::CLOEXEC | net::SocketFlags::NONBLOCK;
        let fd = match net::accept_with(&self.listener, flags) {
            Ok(fd) => fd,
            Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                // The connection stays pending, and poll would report it without end.
                self.deaf_until = Some(Instant::now() + DEAF);
                return;
            }
            Err(_) => return,
        };
        let us = rustix::process::geteuid();
        let is_allowed =
            net::sockopt::socket_peercred(&fd).is_ok_and(|peer| peer.uid.is_root() || peer.uid == us);
        if is_allowed && self.clients.len() < self.limits.clients {
            let key = self.new_key();
            self.clients.insert(key, Client::new(fd));
            self.slim_soon();
        }
    }

    pub(super) fn serve(&mut self, key: u64, flags: PollFlags) {
        let mut scratch = self.take_scratch();
        if let Some(client) = self.clients.get_mut(&key) {
            if client.backlog() > 0 {
                client.pump();
            }
            if client.wants_input() && flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                match stdio::read(client.fd.as_fd(), &mut scratch) {
                    Got::Bytes(n) => client.feed(&scratch[..n]),
                    Got::Nothing => {}
                    Got::End => client.is_dead = true,
                }
            }
        }
        self.scratch = scratch;
        self.take_frames(key);
    }

    /// Does what the frames that came in say, as far as it can be done now.
    pub(super) fn take_frames(&mut self, key: u64) {
        loop {
            let is_full = self.is_stdin_full(key);
            let Some(client) = self.clients.get_mut(&key) else { return };
            if client.is_waiting || client.is_closing || client.is_dead {
                return;
            }
            if is_full && client.peek() == Ok(Some(FrameKind::Stdin)) {
                return;
            }
            match client.take_frame() {
                Ok(Some((kind, payload))) => self.take_frame(key, kind, &payload),
                Ok(None) => return,
                Err(_) => client.is_dead = true,
            }
        }
    }

    pub(super) fn is_stdin_full(&self, client: u64) -> bool {
        let Some(Role::Attached { process, .. }) = self.clients.get(&client).map(|c| c.role) else {
            return false;
        };
        let sink = self.processes.get(&process).and_then(|p| p.stdio.stdin.as_ref());
        sink.is_some_and(|sink| sink.queue.len() >= self.limits.stdin_queue)
    }

    pub(super) fn forget_client(&mut self, key: u64) {
        self.clients.remove(&key);
        for (&process_key, process) in &mut self.processes {
            if process.stdin_owner != Some(key) {
                continue;
            }
            process.stdin_owner = None;
            // A terminal has no end, and whoever attaches next goes on typing.
            let ends = process_key != INIT || self.config.stdin_once;
            if ends && process.stdio.terminal.is_none() {
                process.stdio.close_stdin();
                process.stdio.pump_stdin();
            }
        }
    }

    pub(crate) fn pump_stdin(&mut self, key: u64) {
        if let Some(process) = self.processes.get_mut(&key) {
            process.stdio.pump_stdin();
        }
    }
}
