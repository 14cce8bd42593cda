//! What the table has to be told to others: to the daemon that started us, to clients, on disk.

use super::{Asked, Shim, note, write_ready};
use crate::client::Role;
use crate::process::INIT;
use crate::runtime;
use crate::table::Phase;
use errors::{Kind, Report};
use shim_api::{EXIT_FILE, Exit, Ready, Response, SOCKET_FILE};
use std::io;
use std::os::fd::AsFd as _;
use std::time::Instant;

impl Shim {
    pub(super) fn announce(&mut self) {
        let pid = self.processes.get(&INIT).map_or(0, |p| p.pid);
        if let Some(mut ready) = self.ready.take() {
            write_ready(&mut ready, &Ready::Created { pid });
        }
    }

    pub(super) fn report_failure(&mut self) {
        let report =
            self.outcome.clone().err().unwrap_or_else(|| Report::new(Kind::Internal, "create failed"));
        self.processes.clear();
        drop(std::fs::remove_file(runtime::LOG));
        drop(std::fs::remove_file(SOCKET_FILE));
        if let Some(mut ready) = self.ready.take() {
            write_ready(&mut ready, &Ready::Failed(report));
        }
    }

    pub(super) fn answer_asker(&mut self) {
        let Some((client, asked)) = self.asker.take() else { return };
        let response = match (&self.outcome, asked) {
            (Err(report), _) => Response::Failed(report.clone()),
            (Ok(()), Asked::Start) => {
                Response::Started { pid: self.processes.get(&INIT).map_or(0, |p| p.pid) }
            }
            (Ok(()), Asked::Pause | Asked::Resume | Asked::Shutdown) => Response::Ok,
        };
        self.answer(client, &response);
    }

    /// Answers a client that waits.
    pub(crate) fn answer(&mut self, client: u64, response: &Response) {
        if let Some(client) = self.clients.get_mut(&client) {
            client.is_waiting = false;
            client.respond(response);
        }
    }

    pub(super) fn kill_init(&mut self) {
        const SIGKILL: i32 = 9;
        let pidfd = self.processes.get(&INIT).and_then(|p| p.pidfd.as_ref());
        if let Some(Err(error)) = pidfd.map(|fd| sys::signalfd::send(fd.as_fd(), SIGKILL)) {
            note(&format!("end init: {}", errors::chain(&error)));
        }
    }

    pub(super) fn begin_draining(&mut self) {
        self.drain(INIT);
        self.due = Some(Instant::now() + self.limits.exec_drain);
    }

    /// Tells init's exit while the runtime's `delete` runs, where that changes nothing about it and no exec's exit has to be
    /// told before.
    pub(super) fn tell_early(&mut self) {
        if self.phase == Phase::Deleting
            && self.config.tells_early
            && self.processes.keys().all(|&key| key == INIT)
        {
            self.drain(INIT);
            self.tell_end();
        }
    }

    /// Writes init's exit down and tells it, once.
    fn tell_end(&mut self) {
        let exit = self.processes.get(&INIT).and_then(|init| init.exit.clone());
        let Some(exit) = exit.filter(|_| self.exit.is_none()) else { return };
        if let Err(error) = write_exit(&exit) {
            note(&format!("write {EXIT_FILE}: {error}"));
        }
        self.tell_exit(INIT, None, &exit);
        self.exit = Some(exit);
    }

    pub(super) fn publish(&mut self) {
        self.tell_end();
        self.processes.remove(&INIT);
        for client in self.clients.values_mut().filter(|c| c.role == Role::Subscribed) {
            client.is_closing = true;
        }
        if let Some((client, _)) = self.asker.take() {
            self.answer(client, &Response::Ok);
        }
        self.due = Some(Instant::now() + self.limits.flush);
    }

    pub(super) fn leave(&mut self) {
        drop(std::fs::remove_file(SOCKET_FILE));
    }

    /// Tells subscribers and those attached to the process with this key, whose connections thereby end.
    pub(super) fn tell_exit(&mut self, key: u64, exec_id: Option<&str>, exit: &Exit) {
        let event = shim_api::Event::Exited { exec_id: exec_id.map(str::to_owned), exit: exit.clone() };
        for client in self.clients.values_mut() {
            match client.role {
                Role::Subscribed => client.tell(&event),
                Role::Attached { process, .. } if process == key => {
                    client.tell(&event);
                    client.is_closing = true;
                }
                Role::Attached { .. } | Role::Asking => {}
            }
        }
    }
}

/// Not synced: the record must outlive the shim, not the machine, and lies on a tmpfs.
fn write_exit(exit: &Exit) -> io::Result<()> {
    let temporary = format!("{EXIT_FILE}.tmp");
    std::fs::write(&temporary, serde_json::to_vec(exit)?)?;
    std::fs::rename(&temporary, EXIT_FILE)
}
