//! What clients ask.

use crate::client::Role;
use crate::process::INIT;
use crate::runtime::Op;
use crate::supervisor::{Asked, Shim, exec_file};
use crate::table::{Event, Phase, step};
use errors::{HasKind, Kind, Report};
use rustix::fs::{Mode, OFlags};
use shim_api::{ExecState, FrameKind, Request, Response, State, Status, Streams, VERSION};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;

/// Longest exec id: it is part of a file name.
const MAX_EXEC_ID: usize = 128;
/// Highest signal number.
const MAX_SIGNAL: i32 = 64;

impl Shim {
    /// One frame from a client.
    pub(crate) fn take_frame(&mut self, client: u64, kind: FrameKind, payload: &[u8]) {
        let Some(role) = self.clients.get(&client).map(|c| c.role) else { return };
        match (kind, role) {
            (FrameKind::Control, Role::Asking) => self.take_request(client, payload),
            (FrameKind::Stdin, Role::Attached { process, streams }) if streams.stdin => {
                if let Some(sink) = self.processes.get_mut(&process).and_then(|p| p.stdio.stdin.as_mut()) {
                    sink.push(payload);
                }
                self.pump_stdin(process);
            }
            (FrameKind::CloseStdin, Role::Attached { process, streams }) if streams.stdin => {
                if let Some(process) = self.processes.get_mut(&process) {
                    process.stdio.close_stdin();
                }
                self.pump_stdin(process);
            }
            // Nothing else has a meaning here; what follows would have none either.
            _ => self.cut(client),
        }
    }

    fn cut(&mut self, client: u64) {
        if let Some(client) = self.clients.get_mut(&client) {
            client.is_dead = true;
        }
    }

    fn take_request(&mut self, key: u64, payload: &[u8]) {
        let request = serde_json::from_slice::<Request>(payload);
        if request.is_err() && serde_json::from_slice::<serde::de::IgnoredAny>(payload).is_err() {
            return self.cut(key);
        }
        let Some(client) = self.clients.get_mut(&key) else { return };
        match (request, client.is_greeted) {
            // Whatever the client's version: it hears ours and knows what it may ask.
            (Ok(Request::Hello { .. }), _) => {
                client.is_greeted = true;
                let container_id = self.config.container_id.clone();
                client.respond(&Response::Hello { version: VERSION, container_id });
            }
            (_, false) => {
                client.respond(&Response::Failed(Report::new(
                    Kind::InvalidArgument,
                    "a connection starts with hello",
                )));
                client.is_closing = true;
            }
            (Ok(request), true) => {
                if let Some(response) =
                    self.do_request(key, request).unwrap_or_else(|r| Some(Response::Failed(r)))
                {
                    self.answer(key, &response);
                }
            }
            // Valid JSON, so from a later daemon.
            (Err(_), true) => {
                client.respond(&Response::Failed(Report::new(Kind::Unsupported, "unknown request")))
            }
        }
    }

    /// The response, or None when it comes later, was given, or is none but events.
    fn do_request(&mut self, client: u64, request: Request) -> Result<Option<Response>, Report> {
        match request {
            Request::Hello { .. } => Ok(None),
            Request::Start => self.ask(client, Asked::Start, Event::AskStart),
            Request::Pause => self.ask(client, Asked::Pause, Event::AskPause),
            Request::Resume => self.ask(client, Asked::Resume, Event::AskResume),
            Request::Shutdown => self.ask(client, Asked::Shutdown, Event::AskShutdown),
            Request::Attach { streams } => self.attach(client, streams),
            Request::Exec { exec_id, process, streams } => {
                self.exec(client, exec_id, process, streams).map(|()| None)
            }
            Request::Kill { exec_id, signal } => {
                self.kill(exec_id.as_deref(), signal).map(|()| Some(Response::Ok))
            }
            Request::Resize { exec_id, height, width } => {
                self.resize(exec_id.as_deref(), height, width).map(|()| Some(Response::Ok))
            }
            Request::State => Ok(Some(Response::State(self.state()))),
            Request::Subscribe => {
                self.subscribe(client);
                Ok(None)
            }
        }
    }

    /// Has the table do something that is answered when it is done.
    fn ask(&mut self, client: u64, asked: Asked, event: Event) -> Result<Option<Response>, Report> {
        if step(self.phase, event).is_none() || self.asker.is_some() {
            let id = &self.config.container_id;
            let message = format!("container {id} is {}", describe(self.phase));
            return Err(Report::new(Kind::WrongState, message));
        }
        if let Some(client) = self.clients.get_mut(&client) {
            client.is_waiting = true;
        }
        self.asker = Some((client, asked));
        self.apply(event);
        Ok(None)
    }

    fn attach(&mut self, key: u64, streams: Streams) -> Result<Option<Response>, Report> {
        self.answer(key, &Response::Ok);
        let Some(client) = self.clients.get_mut(&key) else { return Ok(None) };
        client.role = Role::Attached { process: INIT, streams };
        client.is_watcher = self.phase != Phase::Created;
        if let Some(exit) = &self.exit {
            client.tell(&shim_api::Event::Exited { exec_id: None, exit: exit.clone() });
            client.is_closing = true;
        }
        if let Some(init) = self.processes.get_mut(&INIT).filter(|_| streams.stdin) {
            init.stdin_owner.get_or_insert(key);
        }
        Ok(None)
    }

    fn subscribe(&mut self, key: u64) {
        let Some(client) = self.clients.get_mut(&key) else { return };
        client.role = Role::Subscribed;
        let execs = self.finished.iter().map(|e| (Some(e.exec_id.clone()), e.exit.clone()));
        for (exec_id, exit) in execs.chain([(None, self.exit.clone())]) {
            if let Some(exit) = exit {
                client.tell(&shim_api::Event::Exited { exec_id, exit });
            }
        }
        client.is_closing = self.exit.is_some() && self.phase != Phase::Deleting;
    }

    fn exec(
        &mut self,
        client: u64,
        exec_id: String,
        document: oci::runtime::Process,
        streams: Streams,
    ) -> Result<(), Report> {
        if self.phase != Phase::Running {
            let message = format!("container {} is {}", self.config.container_id, describe(self.phase));
            return Err(Report::new(Kind::WrongState, message));
        }
        check_exec_id(&exec_id)?;
        let is_known = self.processes.values().any(|p| p.exec_id.as_ref() == Some(&exec_id))
            || self.finished.iter().any(|e| e.exec_id == exec_id);
        if is_known {
            return Err(Report::new(Kind::AlreadyExists, format!("exec {exec_id} exists")));
        }
        let key = self.new_key();
        let made = self.prepare(Some(exec_id), document.terminal, streams);
        let (mut process, ends) = made.map_err(|e| io_report("make stdio", &e))?;
        process.asker = Some(client);
        process.wanted = streams;
        process.stdin_owner = streams.stdin.then_some(client);
        let file = exec_file(&process, "json");
        let (pid_file, log) = (exec_file(&process, "pid"), exec_file(&process, "log"));
        write_private(&file, &document).map_err(|e| io_report("write the exec's process document", &e))?;
        let args = vec!["--detach".into(), "--process".into(), self.dir.join(&file).into_os_string()];
        let launched = self.launch(Op::Exec(key), key, (process, ends), args, &pid_file, &log);
        if launched.is_err() {
            drop(std::fs::remove_file(&file));
        }
        launched?;
        if let Some(client) = self.clients.get_mut(&client) {
            client.is_waiting = true;
        }
        Ok(())
    }

    fn find(&self, exec_id: Option<&str>) -> Result<&crate::process::Process, Report> {
        let found = self.processes.values().find(|p| p.exec_id.as_deref() == exec_id);
        found.ok_or_else(|| match exec_id {
            None => {
                Report::new(Kind::WrongState, format!("container {} has ended", self.config.container_id))
            }
            Some(id) if self.finished.iter().any(|e| e.exec_id == id) => {
                Report::new(Kind::WrongState, format!("exec {id} has ended"))
            }
            Some(id) => Report::new(Kind::NotFound, format!("exec {id} not found")),
        })
    }

    fn kill(&mut self, exec_id: Option<&str>, signal: i32) -> Result<(), Report> {
        if !(1..=MAX_SIGNAL).contains(&signal) {
            return Err(Report::new(Kind::InvalidArgument, format!("{signal} is no signal")));
        }
        let gone = || Report::new(Kind::WrongState, "the process does not run");
        let pidfd = self.find(exec_id)?.pidfd.as_ref().ok_or_else(gone)?;
        sys::signalfd::send(pidfd.as_fd(), signal).map_err(|e| Report::of(&e as &dyn HasKind))
    }

    fn resize(&mut self, exec_id: Option<&str>, height: u16, width: u16) -> Result<(), Report> {
        let process = self.find(exec_id)?;
        let none = || Report::new(Kind::WrongState, "the process has no terminal");
        let terminal = process.stdio.terminal.as_ref().ok_or_else(none)?;
        terminal.resize(height, width).map_err(|e| io_report("set the terminal's size", &e))
    }

    fn state(&self) -> State {
        let live = self.processes.values().filter(|p| p.is_made()).filter_map(|p| {
            // Its exit is told once its output is.
            Some(ExecState { exec_id: p.exec_id.clone()?, pid: p.pid, exit: None })
        });
        let init_pid = self.processes.get(&INIT).map(|p| p.pid);
        State {
            status: status_of(self.phase),
            pid: init_pid.or(self.exit.as_ref().map(|e| e.pid)).unwrap_or(0),
            exit: self.exit.clone(),
            execs: self.finished.iter().cloned().chain(live).collect(),
        }
    }
}

fn status_of(phase: Phase) -> Status {
    match phase {
        Phase::Creating | Phase::Created | Phase::Starting | Phase::Ending => Status::Created,
        Phase::Running | Phase::Pausing => Status::Running,
        Phase::Paused | Phase::Resuming => Status::Paused,
        Phase::Abandoning
        | Phase::Dying
        | Phase::Deleting
        | Phase::Draining
        | Phase::Flushing
        | Phase::Gone => Status::Stopped,
    }
}

fn describe(phase: Phase) -> &'static str {
    match phase {
        Phase::Creating => "being created",
        Phase::Created => "created, not started",
        Phase::Starting => "starting",
        Phase::Running => "running",
        Phase::Pausing => "being paused",
        Phase::Paused => "paused",
        Phase::Resuming => "being resumed",
        Phase::Ending | Phase::Dying | Phase::Deleting | Phase::Draining | Phase::Abandoning => "ending",
        Phase::Flushing | Phase::Gone => "stopped",
    }
}

/// It becomes part of file names.
fn check_exec_id(id: &str) -> Result<(), Report> {
    let is_good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if id.is_empty() || id.len() > MAX_EXEC_ID || !id.bytes().all(is_good) {
        return Err(Report::new(Kind::InvalidArgument, format!("{id:?} is no exec id")));
    }
    Ok(())
}

fn io_report(what: &str, error: &io::Error) -> Report {
    Report { kind: errors::io_kind(error), links: vec![what.to_owned(), error.to_string()] }
}

/// Environments hold secrets.
fn write_private(path: &str, document: &oci::runtime::Process) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
    file.write_all(&serde_json::to_vec(document)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exec_ids_are_file_names() {
        for id in ["a", "0123456789abcdef", "a-b_c.d"] {
            assert_eq!(check_exec_id(id), Ok(()), "{id}");
        }
        for id in ["", "a/b", "../x", "a b", "a\0", &"x".repeat(129)] {
            assert!(check_exec_id(id).is_err(), "{id:?}");
        }
    }
}
