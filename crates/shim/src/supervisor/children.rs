//! Children: calls of the runtime, the processes they make, and what ends.

use super::{Shim, note};
use crate::client::Role;
use crate::oom;
use crate::process::{INIT, Process};
use crate::runtime::{self, Given, Job, Op};
use crate::stdio::{self, ChildEnds, Console, Got, Stdio};
use crate::table::Event;
use errors::{Kind, Report};
use rustix::process::{Pid, PidfdFlags, WaitOptions, WaitStatus, pidfd_open, wait};
use shim_api::{ExecState, Exit, Response, Streams};
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd as _;
use std::time::Instant;

impl Shim {
    pub(super) fn create(&mut self) {
        if let Err(report) = self.try_create() {
            self.outcome = Err(report);
            self.apply(Event::Failed);
        }
    }

    pub(super) fn try_create(&mut self) -> Result<(), Report> {
        let failed = |e: io::Error| Report {
            kind: errors::io_kind(&e),
            links: vec!["make stdio".into(), e.to_string()],
        };
        let mut args = vec!["--bundle".into(), self.config.bundle.clone().into_os_string()];
        let op = self.making();
        if let Some(images) = &self.config.restore {
            args.extend(["--detach".into(), "--image-path".into(), images.clone().into_os_string()]);
            args.extend(["--work-path".into(), self.dir.clone().into_os_string()]);
        }
        let wanted = Streams { stdin: self.config.open_stdin, stdout: true, stderr: true };
        let process = self.prepare(None, self.config.tty, wanted).map_err(failed)?;
        self.launch(op, INIT, process, args, "init.pid", runtime::LOG)
    }

    /// The call that makes this container.
    fn making(&self) -> Op {
        if self.config.restore.is_some() { Op::Restore } else { Op::Create }
    }

    /// Stdio for a new process: a socket for the terminal to come, or pipes.
    pub(crate) fn prepare(
        &mut self,
        exec_id: Option<String>,
        has_terminal: bool,
        wanted: Streams,
    ) -> io::Result<(Process, Option<ChildEnds>)> {
        if has_terminal {
            let console = Console::listen(self.new_key())?;
            return Ok((Process::new(exec_id, Stdio::default(), Some(console)), None));
        }
        let (ours, theirs) = stdio::pipes(wanted)?;
        if let Some(owner) = self.config.stdio_owner {
            theirs.give(owner)?;
        }
        Ok((Process::new(exec_id, ours, None), Some(theirs)))
    }

    /// Calls the runtime to make `process`.
    pub(crate) fn launch(
        &mut self,
        op: Op,
        key: u64,
        (process, ends): (Process, Option<ChildEnds>),
        mut args: Vec<OsString>,
        pid_file: &str,
        log: &str,
    ) -> Result<(), Report> {
        args.extend(["--pid-file".into(), self.dir.join(pid_file).into_os_string()]);
        if let Some(console) = &process.console {
            args.extend(["--console-socket".into(), console.path.clone().into_os_string()]);
        }
        let null = self.runtime.null();
        let given = ends.as_ref().map(|ends| Given {
            stdin: ends.stdin.as_ref().map_or(null, |fd| fd.as_fd()),
            stdout: ends.stdout.as_ref().map_or(null, |fd| fd.as_fd()),
            stderr: ends.stderr.as_ref().map_or(null, |fd| fd.as_fd()),
        });
        let job = self.runtime.call(op, &args, log, given)?;
        self.jobs.push(job);
        self.processes.insert(key, process);
        Ok(())
    }

    /// Calls the runtime on the container.
    pub(super) fn call(&mut self, op: Op) {
        if op == Op::Start && self.config.restore.is_some() {
            // What was restored runs.
            return self.end_call(op, Ok(()));
        }
        let args: &[OsString] = if op == Op::Delete { &["--force".into()] } else { &[] };
        match self.runtime.call(op, args, runtime::LOG, None) {
            Ok(job) => self.jobs.push(job),
            Err(report) => self.end_call(op, Err(report)),
        }
    }

    /// A runtime call has ended.
    pub(super) fn end_job(&mut self, job: Job, status: WaitStatus) {
        self.slim_soon();
        match job.op {
            op @ (Op::Create | Op::Restore) => {
                let outcome = self.end_making(INIT, "init.pid", job, status);
                self.end_call(op, outcome);
            }
            Op::Exec(key) => {
                let Some(process) = self.processes.get(&key) else { return };
                let pid_file = exec_file(process, "pid");
                let outcome = self.end_making(key, &pid_file, job, status);
                self.end_exec_call(key, outcome);
            }
            op if status.exit_status() == Some(0) => self.end_call(op, Ok(())),
            op => self.end_call(op, Err(job.failure(b"", &describe(status)))),
        }
    }

    /// A call that makes a process has ended.
    pub(super) fn end_making(
        &mut self,
        key: u64,
        pid_file: &str,
        job: Job,
        status: WaitStatus,
    ) -> Result<(), Report> {
        let outcome = if status.exit_status() == Some(0) {
            self.adopt(key, pid_file)
        } else {
            let stderr = self.early_stderr(key);
            Err(job.failure(&stderr, &describe(status)))
        };
        drop(std::fs::remove_file(pid_file));
        outcome
    }

    pub(super) fn end_call(&mut self, op: Op, outcome: Result<(), Report>) {
        let event = if outcome.is_ok() { Event::Done } else { Event::Failed };
        match (&outcome, op) {
            // How the creation failed is what counts, not how the cleaning did.
            (Err(report), Op::Delete) => note(&report.to_string()),
            (Ok(()), Op::Delete) => {}
            _ => self.outcome = outcome,
        }
        self.apply(event);
    }

    /// What the runtime wrote where the container was to write.
    pub(super) fn early_stderr(&mut self, key: u64) -> Vec<u8> {
        let Some(fd) = self.processes.get(&key).and_then(|p| p.stdio.output[1].as_ref()) else {
            return Vec::new();
        };
        let mut text = vec![0; super::SCRATCH];
        match stdio::read(fd.as_fd(), &mut text) {
            Got::Bytes(n) => text[..n].to_vec(),
            Got::Nothing | Got::End => Vec::new(),
        }
    }

    /// Takes the process that the runtime has made: its terminal, its pid.
    pub(super) fn adopt(&mut self, key: u64, pid_file: &str) -> Result<(), Report> {
        let failed = |what: &str, e: &dyn std::error::Error| Report {
            kind: Kind::Internal,
            links: vec![what.to_owned(), errors::chain(e)],
        };
        let text =
            std::fs::read_to_string(pid_file).map_err(|e| failed("read the runtime's pid file", &e))?;
        let pid: i32 = text.trim().parse().map_err(|e| failed("understand the runtime's pid file", &e))?;
        let process =
            self.processes.get_mut(&key).ok_or_else(|| Report::new(Kind::Internal, "no such process"))?;
        if let Some(console) = process.console.take() {
            let master = console.receive().map_err(|e| failed("receive the terminal", &e))?;
            process.stdio = Stdio::of_terminal(master).map_err(|e| failed("set up the terminal", &e))?;
        }
        let is_over = self.strays.iter().any(|(stray, _)| *stray == pid);
        if !is_over {
            let known = Pid::from_raw(pid).filter(|_| pid > 0);
            let known =
                known.ok_or_else(|| Report::new(Kind::Internal, format!("the runtime made pid {pid}")))?;
            let pidfd = pidfd_open(known, PidfdFlags::empty()).map_err(|e| failed("pidfd_open", &e))?;
            process.pidfd = Some(pidfd);
        }
        process.pid = pid;
        if key == INIT {
            if !self.config.open_stdin {
                process.stdio.stdin = None;
            }
            self.oom_counter = oom::counter_of(pid);
        } else {
            process.kills_before = self.oom_counter.as_deref().map_or(0, oom::kills);
        }
        Ok(())
    }

    /// Takes every child that has ended: runtime calls, processes of the container, and their orphans.
    pub(super) fn reap(&mut self) {
        let mut taken = [0; 128 * 4];
        while rustix::io::read(&self.signals, &mut taken).is_ok_and(|n| n > 0) {}
        let mut ended_jobs = Vec::new();
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if self.end_compression(pid) {
                continue;
            }
            match self.jobs.iter().position(|job| job.pid == pid) {
                Some(at) => ended_jobs.push((self.jobs.swap_remove(at), status)),
                None => self.strays.push((pid.as_raw_nonzero().get(), self.exit_of(pid, status))),
            }
        }
        // First the calls: they say which pids are ours.
        for (job, status) in ended_jobs {
            self.end_job(job, status);
        }
        let is_launching =
            self.jobs.iter().any(|job| matches!(job.op, Op::Create | Op::Restore | Op::Exec(_)));
        for (pid, exit) in std::mem::take(&mut self.strays) {
            let owner =
                self.processes.iter().find(|(_, p)| p.pid == pid && p.exit.is_none()).map(|(key, _)| *key);
            match owner {
                Some(key) => self.note_exit(key, exit),
                None if is_launching => self.strays.push((pid, exit)),
                // An orphan from inside the container.
                None => {}
            }
        }
    }

    pub(super) fn exit_of(&self, pid: Pid, status: WaitStatus) -> Exit {
        let code = status.exit_status().or(status.terminating_signal().map(|s| 128 + s)).unwrap_or(255);
        Exit {
            pid: pid.as_raw_nonzero().get(),
            code,
            at: logs::format_rfc3339(logs::now_ns()),
            oom_killed: false,
        }
    }

    pub(super) fn note_exit(&mut self, key: u64, mut exit: Exit) {
        let Some(process) = self.processes.get_mut(&key) else { return };
        exit.oom_killed =
            self.oom_counter.as_deref().is_some_and(|file| oom::kills(file) > process.kills_before);
        process.exit = Some(exit);
        process.pidfd = None;
        process.stdio.release();
        if key == INIT {
            self.apply(Event::InitExited);
        } else {
            process.drain_until = Some(Instant::now() + self.limits.exec_drain);
        }
    }

    pub(super) fn end_exec_call(&mut self, key: u64, outcome: Result<(), Report>) {
        let Some(process) = self.processes.get(&key) else { return };
        drop(std::fs::remove_file(exec_file(process, "json")));
        drop(std::fs::remove_file(exec_file(process, "log")));
        let asker = process.asker;
        let response = match outcome {
            Ok(()) => Response::Started { pid: process.pid },
            Err(report) => {
                self.processes.remove(&key);
                Response::Failed(report)
            }
        };
        if let Some(asker) = asker {
            self.answer(asker, &response);
            let role = self.exec_role(key, asker);
            if let (Some(role), Some(client)) = (role, self.clients.get_mut(&asker)) {
                client.role = role;
            }
        }
    }

    pub(super) fn exec_role(&self, key: u64, asker: u64) -> Option<Role> {
        let process = self.processes.get(&key)?;
        let streams = process.wanted;
        (streams.any() && self.clients.contains_key(&asker))
            .then_some(Role::Attached { process: key, streams })
    }

    /// An exec has exited and its output is read.
    pub(super) fn end_exec(&mut self, key: u64) {
        let Some(process) = self.processes.remove(&key) else { return };
        let (Some(exec_id), Some(exit)) = (process.exec_id, process.exit) else { return };
        self.tell_exit(key, Some(&exec_id), &exit);
        while self.finished.len() >= self.limits.finished_execs.max(1) {
            self.finished.pop_front();
        }
        self.finished.push_back(ExecState { exec_id, pid: exit.pid, exit: Some(exit) });
    }
}

/// Name of a file that an exec has below the shim's directory.
pub(crate) fn exec_file(process: &Process, suffix: &str) -> String {
    format!("exec-{}.{suffix}", process.exec_id.as_deref().unwrap_or_default())
}

fn describe(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no status".to_owned(),
    }
}
