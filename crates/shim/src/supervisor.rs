//! The loop: waits for a cause, hands it to the table, performs what the table says.

use crate::client::{Client, Role};
use crate::process::{INIT, Process};
use crate::runtime::{self, Given, Job, Op, Runtime};
use crate::stdio::{self, ChildEnds, Console, Got, Stdio};
use crate::table::{Action, Event, Phase, step};
use crate::{Error, Limits, oom};
use errors::{Kind, Report};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net;
use rustix::process::{Pid, PidfdFlags, WaitOptions, WaitStatus, pidfd_open, wait};
use shim_api::{
    CONFIG_FILE, Config, EXIT_FILE, ExecState, Exit, FrameKind, Log, Ready, Response, SOCKET_FILE, Streams,
    VERSION,
};
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest `shim.json`: labels and arguments are in it, images and environments are not.
const MAX_CONFIG: u64 = 1 << 20;
/// Bytes read at a time, from anyone. At most `shim_api::MAX_STDIO`.
const SCRATCH: usize = 32 << 10;
/// Bytes read of a stream that others hold open, once its process is gone: what a pipe may hold at most by default.
const MAX_REST: usize = 1 << 20;
const SIGHUP: i32 = 1;
const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;
const SIGCHLD: i32 = 17;

/// One container and all that concerns it.
#[derive(Debug)]
pub(crate) struct Shim {
    pub(crate) dir: PathBuf,
    pub(crate) config: Config,
    pub(crate) limits: Limits,
    pub(crate) runtime: Runtime,
    pub(crate) phase: Phase,
    pub(crate) processes: BTreeMap<u64, Process>,
    /// Ended execs, oldest first.
    pub(crate) finished: VecDeque<ExecState>,
    pub(crate) clients: BTreeMap<u64, Client>,
    pub(crate) jobs: Vec<Job>,
    /// Init's exit, once it is published.
    pub(crate) exit: Option<Exit>,
    /// Who asked for the runtime call on the container, and for which.
    pub(crate) asker: Option<(u64, Asked)>,
    listener: OwnedFd,
    signals: OwnedFd,
    next_key: u64,
    /// How the last runtime call on the container ended.
    outcome: Result<(), Report>,
    /// Exits of children that are nobody's yet: a process may end before its pid file is read.
    strays: Vec<(i32, Exit)>,
    log: Option<logs::Writer>,
    is_log_failing: bool,
    oom_counter: Option<PathBuf>,
    ready: Option<File>,
    flush_until: Option<Instant>,
    /// Code was mapped that the loop does not need: set-up, JSON, starting programs.
    is_fat: bool,
    scratch: Vec<u8>,
}

/// What a client waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Start,
    Pause,
    Resume,
    Shutdown,
}

/// Whom a wake-up concerns.
#[derive(Debug, Clone, Copy)]
enum Cause {
    Signal,
    Connection,
    Client(u64),
    Output(u64, usize),
    Stdin(u64),
}

pub(crate) fn run(dir: &Path, env: Vec<OsString>, limits: Limits) -> Result<(), Error> {
    let mut ready = take_stdout()?;
    let mut shim = match Shim::set_up(dir, env, limits) {
        Ok(shim) => shim,
        Err(error) => {
            let report = Report::of(&error);
            write_ready(&mut ready, &Ready::Failed(report));
            return Err(error);
        }
    };
    shim.ready = Some(ready);
    shim.create();
    while shim.phase != Phase::Gone {
        shim.turn()?;
    }
    match (&shim.exit, shim.outcome) {
        (None, Err(source)) => Err(Error::Create { id: shim.config.container_id, source }),
        _ => Ok(()),
    }
}

/// The ready pipe as our own descriptor; 1 becomes `/dev/null`.
fn take_stdout() -> Result<File, Error> {
    let what = "take stdout";
    let failed = |source: rustix::io::Errno| Error::Setup { what, source: source.into() };
    let ready = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3).map_err(failed)?;
    let null =
        File::options().write(true).open("/dev/null").map_err(|source| Error::Setup { what, source })?;
    rustix::stdio::dup2_stdout(&null).map_err(failed)?;
    Ok(ready.into())
}

fn write_ready(to: &mut File, ready: &Ready) {
    let mut line = serde_json::to_vec(ready).unwrap_or_default();
    line.push(b'\n');
    if let Err(error) = to.write_all(&line) {
        note(&format!("tell the daemon: {error}"));
    }
}

fn read_config(path: PathBuf) -> Result<Config, Error> {
    let read = || -> io::Result<Config> {
        let mut text = Vec::new();
        File::open(&path)?.take(MAX_CONFIG).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    };
    let config = read().map_err(|source| Error::Config { path: path.clone(), source })?;
    if config.version > VERSION {
        return Err(Error::Version { path, version: config.version });
    }
    Ok(config)
}

fn open_log(log: &Log) -> Result<Option<logs::Writer>, logs::Error> {
    match log {
        Log::None => Ok(None),
        Log::JsonFile { path, max_size_bytes, max_files, attrs } => {
            let rotation = logs::Rotation { max_size_bytes: *max_size_bytes, max_files: *max_files };
            logs::Writer::open(path, rotation, attrs).map(Some)
        }
    }
}

/// One line into the shim's own log.
pub(crate) fn note(text: &str) {
    let line = format!("{} {text}\n", logs::format_rfc3339(logs::now_ns()));
    // There is nobody to tell that this failed.
    let _ = rustix::io::write(rustix::stdio::stderr(), line.as_bytes());
}

impl Shim {
    fn set_up(dir: &Path, env: Vec<OsString>, limits: Limits) -> Result<Shim, Error> {
        let failed = |what| move |source: io::Error| Error::Setup { what, source };
        let dir = std::path::absolute(dir).map_err(failed("make the directory absolute"))?;
        let config = read_config(dir.join(CONFIG_FILE))?;
        // From here on names are relative: a socket's path may have 108 bytes, our directory's may have more.
        std::env::set_current_dir(&dir).map_err(failed("chdir"))?;
        // Fails when the daemon made us one already.
        let _ = rustix::process::setsid();
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(|e| failed("prctl(PR_SET_CHILD_SUBREAPER)")(e.into()))?;
        let signals = sys::signalfd::block(&[SIGCHLD, SIGTERM, SIGINT, SIGHUP]).map_err(Error::Signals)?;
        let log = open_log(&config.log).map_err(Error::Log)?;
        let runtime = Runtime::new(&config, &dir, env).map_err(failed("prepare the runtime"))?;
        let listener = stdio::listen(SOCKET_FILE).map_err(failed("listen on shim.sock"))?;
        Ok(Shim {
            dir,
            config,
            limits,
            runtime,
            phase: Phase::Creating,
            processes: BTreeMap::new(),
            finished: VecDeque::new(),
            clients: BTreeMap::new(),
            jobs: Vec::new(),
            exit: None,
            asker: None,
            listener,
            signals,
            next_key: INIT + 1,
            outcome: Ok(()),
            strays: Vec::new(),
            log,
            is_log_failing: false,
            oom_counter: None,
            ready: None,
            flush_until: None,
            is_fat: true,
            scratch: vec![0; SCRATCH],
        })
    }

    pub(crate) fn new_key(&mut self) -> u64 {
        self.next_key += 1;
        self.next_key
    }

    // The table.

    /// Gives `event` to the table; false when it has no place now.
    pub(crate) fn apply(&mut self, event: Event) -> bool {
        let Some((next, actions)) = step(self.phase, event) else { return false };
        self.phase = next;
        for &action in actions {
            self.perform(action);
        }
        true
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Announce => self.announce(),
            Action::ReportFailure => self.report_failure(),
            Action::RunStart => self.call(Op::Start),
            Action::RunPause => self.call(Op::Pause),
            Action::RunResume => self.call(Op::Resume),
            Action::RunDelete => self.call(Op::Delete),
            Action::Answer => self.answer_asker(),
            Action::KillInit => self.kill_init(),
            Action::Publish => self.publish(),
            Action::Leave => self.leave(),
        }
    }

    // Runtime calls.

    fn create(&mut self) {
        if let Err(report) = self.try_create() {
            self.outcome = Err(report);
            self.apply(Event::Failed);
        }
    }

    fn try_create(&mut self) -> Result<(), Report> {
        let failed = |e: io::Error| Report {
            kind: errors::io_kind(&e),
            links: vec!["make stdio".into(), e.to_string()],
        };
        let args = vec!["--bundle".into(), self.config.bundle.clone().into_os_string()];
        let wanted = Streams { stdin: self.config.open_stdin, stdout: true, stderr: true };
        let process = self.prepare(None, self.config.tty, wanted).map_err(failed)?;
        self.launch(Op::Create, INIT, process, args, "init.pid", runtime::LOG)
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
    fn call(&mut self, op: Op) {
        let args: &[OsString] = if op == Op::Delete { &["--force".into()] } else { &[] };
        match self.runtime.call(op, args, runtime::LOG, None) {
            Ok(job) => self.jobs.push(job),
            Err(report) => self.end_call(op, Err(report)),
        }
    }

    /// A runtime call has ended.
    fn end_job(&mut self, job: Job, status: WaitStatus) {
        self.is_fat = true;
        match job.op {
            Op::Create => {
                let outcome = self.end_making(INIT, "init.pid", job, status);
                self.end_call(Op::Create, outcome);
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
    fn end_making(&mut self, key: u64, pid_file: &str, job: Job, status: WaitStatus) -> Result<(), Report> {
        let outcome = if status.exit_status() == Some(0) {
            self.adopt(key, pid_file)
        } else {
            let stderr = self.early_stderr(key);
            Err(job.failure(&stderr, &describe(status)))
        };
        drop(std::fs::remove_file(pid_file));
        outcome
    }

    fn end_call(&mut self, op: Op, outcome: Result<(), Report>) {
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
    fn early_stderr(&mut self, key: u64) -> Vec<u8> {
        let Some(fd) = self.processes.get(&key).and_then(|p| p.stdio.output[1].as_ref()) else {
            return Vec::new();
        };
        match stdio::read(fd.as_fd(), &mut self.scratch) {
            Got::Bytes(n) => self.scratch[..n].to_vec(),
            Got::Nothing | Got::End => Vec::new(),
        }
    }

    /// Takes the process that the runtime has made: its terminal, its pid.
    fn adopt(&mut self, key: u64, pid_file: &str) -> Result<(), Report> {
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
        }
        Ok(())
    }

    // Actions.

    fn announce(&mut self) {
        let pid = self.processes.get(&INIT).map_or(0, |p| p.pid);
        if let Some(mut ready) = self.ready.take() {
            write_ready(&mut ready, &Ready::Created { pid });
        }
    }

    fn report_failure(&mut self) {
        let report =
            self.outcome.clone().err().unwrap_or_else(|| Report::new(Kind::Internal, "create failed"));
        self.processes.clear();
        drop(std::fs::remove_file(runtime::LOG));
        drop(std::fs::remove_file(SOCKET_FILE));
        if let Some(mut ready) = self.ready.take() {
            write_ready(&mut ready, &Ready::Failed(report));
        }
    }

    fn answer_asker(&mut self) {
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

    fn kill_init(&mut self) {
        const SIGKILL: i32 = 9;
        let pidfd = self.processes.get(&INIT).and_then(|p| p.pidfd.as_ref());
        if let Some(Err(error)) = pidfd.map(|fd| sys::signalfd::send(fd.as_fd(), SIGKILL)) {
            note(&format!("end init: {}", errors::chain(&error)));
        }
    }

    fn publish(&mut self) {
        self.drain(INIT);
        let Some(init) = self.processes.remove(&INIT) else { return };
        if let Some(exit) = init.exit {
            if let Err(error) = write_exit(&exit) {
                note(&format!("write {EXIT_FILE}: {error}"));
            }
            self.tell_exit(INIT, None, &exit);
            self.exit = Some(exit);
        }
        for client in self.clients.values_mut().filter(|c| c.role == Role::Subscribed) {
            client.is_closing = true;
        }
        if let Some((client, _)) = self.asker.take() {
            self.answer(client, &Response::Ok);
        }
        self.flush_until = Some(Instant::now() + self.limits.flush);
    }

    fn leave(&mut self) {
        drop(std::fs::remove_file(SOCKET_FILE));
    }

    /// Tells subscribers and those attached to the process with this key, whose connections thereby end.
    fn tell_exit(&mut self, key: u64, exec_id: Option<&str>, exit: &Exit) {
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

    // Execs.

    fn end_exec_call(&mut self, key: u64, outcome: Result<(), Report>) {
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

    fn exec_role(&self, key: u64, asker: u64) -> Option<Role> {
        let process = self.processes.get(&key)?;
        let streams = process.wanted;
        (streams.any() && self.clients.contains_key(&asker))
            .then_some(Role::Attached { process: key, streams })
    }

    /// An exec has exited and its output is read.
    fn end_exec(&mut self, key: u64) {
        let Some(process) = self.processes.remove(&key) else { return };
        let (Some(exec_id), Some(exit)) = (process.exec_id, process.exit) else { return };
        self.tell_exit(key, Some(&exec_id), &exit);
        while self.finished.len() >= self.limits.finished_execs.max(1) {
            self.finished.pop_front();
        }
        self.finished.push_back(ExecState { exec_id, pid: exit.pid, exit: Some(exit) });
    }

    // One turn of the loop.

    fn turn(&mut self) -> Result<(), Error> {
        self.settle();
        if self.phase == Phase::Gone {
            return Ok(());
        }
        if self.is_fat && self.jobs.is_empty() && matches!(self.phase, Phase::Created | Phase::Running) {
            self.is_fat = false;
            sys::footprint::forget_code();
        }
        for (cause, flags) in self.wait_for_causes()? {
            match cause {
                Cause::Signal => self.reap(),
                Cause::Connection => self.accept(),
                Cause::Client(key) => self.serve(key, flags),
                Cause::Output(key, stream) => {
                    self.forward(key, stream);
                }
                Cause::Stdin(key) => self.pump_stdin(key),
            }
        }
        Ok(())
    }

    /// What follows from the last turn, and what is due.
    fn settle(&mut self) {
        let now = Instant::now();
        for key in self.keys_of_clients() {
            self.take_frames(key);
        }
        let over: Vec<u64> = (self.processes.iter())
            .filter(|(key, p)| **key != INIT && p.exit.is_some())
            .filter(|(_, p)| p.is_drained() || p.drain_until.is_some_and(|at| at <= now))
            .map(|(key, _)| *key)
            .collect();
        for key in over {
            self.drain(key);
            self.end_exec(key);
        }
        // After all that may have been the last a client hears.
        for client in self.clients.values_mut() {
            let is_stuck = client.stuck_since(self.limits).is_some_and(|at| at + self.limits.stall <= now);
            if is_stuck {
                note("a client took nothing for too long: cut off");
            }
            client.is_dead |= is_stuck || client.is_closing && client.backlog() == 0;
        }
        for key in self.keys_of_clients() {
            if self.clients.get(&key).is_some_and(|c| c.is_dead) {
                self.forget_client(key);
            }
        }
        if self.phase == Phase::Flushing {
            let is_quiet = self.processes.is_empty()
                && self.jobs.is_empty()
                && self.clients.values().all(|c| c.backlog() == 0 && !c.is_closing);
            if is_quiet || self.flush_until.is_some_and(|at| at <= now) {
                self.apply(Event::Flushed);
            }
        }
    }

    fn keys_of_clients(&self) -> Vec<u64> {
        self.clients.keys().copied().collect()
    }

    /// The next moment at which something is due without a cause from outside.
    fn next_due(&self) -> Option<Instant> {
        let stalls =
            self.clients.values().filter_map(|c| Some(c.stuck_since(self.limits)? + self.limits.stall));
        let drains = self.processes.values().filter_map(|p| p.drain_until);
        stalls.chain(drains).chain(self.flush_until).min()
    }

    fn wait_for_causes(&self) -> Result<Vec<(Cause, PollFlags)>, Error> {
        let mut causes = vec![Cause::Signal];
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        let mut add = |cause, fd| {
            causes.push(cause);
            fds.push(fd);
        };
        add(Cause::Connection, PollFd::new(&self.listener, PollFlags::IN));
        for (&key, client) in &self.clients {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, client.wants_input());
            flags.set(PollFlags::OUT, client.backlog() > 0);
            // Left out entirely otherwise: poll reports a hang-up nobody asked about, again and again.
            if !flags.is_empty() {
                add(Cause::Client(key), PollFd::new(&client.fd, flags));
            }
        }
        for (&key, process) in self.processes.iter().filter(|(_, p)| p.is_made()) {
            if let Some(sink) = process.stdio.stdin.as_ref().filter(|sink| sink.is_busy()) {
                add(Cause::Stdin(key), PollFd::new(&sink.fd, PollFlags::OUT));
            }
            for (stream, fd) in process.stdio.output.iter().enumerate() {
                if let Some(fd) = fd
                    && !self.is_held_back(key, stream)
                {
                    add(Cause::Output(key, stream), PollFd::new(fd, PollFlags::IN));
                }
            }
        }
        let timeout = self.next_due().map(|at| timespec_of(at.saturating_duration_since(Instant::now())));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Error::Poll(e.into())),
        }
        Ok(causes
            .into_iter()
            .zip(fds.iter().map(PollFd::revents))
            .filter(|(_, flags)| !flags.is_empty())
            .collect())
    }

    /// Whether someone attached has not taken what is there already.
    fn is_held_back(&self, key: u64, stream: usize) -> bool {
        let kind = KINDS[stream];
        self.clients.values().any(|c| c.hears(key, kind) && c.backlog() >= self.limits.client_buffer)
    }

    // Children.

    /// Takes every child that has ended: runtime calls, processes of the container, and their orphans.
    fn reap(&mut self) {
        let mut taken = [0; 128 * 4];
        while rustix::io::read(&self.signals, &mut taken).is_ok_and(|n| n > 0) {}
        let mut ended_jobs = Vec::new();
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            match self.jobs.iter().position(|job| job.pid == pid) {
                Some(at) => ended_jobs.push((self.jobs.swap_remove(at), status)),
                None => self.strays.push((pid.as_raw_nonzero().get(), self.exit_of(pid, status))),
            }
        }
        // First the calls: they say which pids are ours.
        for (job, status) in ended_jobs {
            self.end_job(job, status);
        }
        let is_launching = self.jobs.iter().any(|job| matches!(job.op, Op::Create | Op::Exec(_)));
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

    fn exit_of(&self, pid: Pid, status: WaitStatus) -> Exit {
        let code = status.exit_status().or(status.terminating_signal().map(|s| 128 + s)).unwrap_or(255);
        Exit {
            pid: pid.as_raw_nonzero().get(),
            code,
            at: logs::format_rfc3339(logs::now_ns()),
            oom_killed: false,
        }
    }

    fn note_exit(&mut self, key: u64, mut exit: Exit) {
        const KILLED: i32 = 137;
        let may_be_oom = key == INIT || exit.code == KILLED;
        exit.oom_killed = may_be_oom && self.oom_counter.as_deref().is_some_and(oom::has_killed);
        let Some(process) = self.processes.get_mut(&key) else { return };
        process.exit = Some(exit);
        process.pidfd = None;
        process.stdio.release();
        if key == INIT {
            self.apply(Event::InitExited);
        } else {
            process.drain_until = Some(Instant::now() + self.limits.exec_drain);
        }
    }

    // Output.

    /// Reads once from a stream and hands it on.
    fn forward(&mut self, key: u64, stream: usize) -> Got {
        let mut scratch = std::mem::take(&mut self.scratch);
        let fd = self.processes.get(&key).and_then(|p| p.stdio.output[stream].as_ref());
        let got = fd.map_or(Got::Nothing, |fd| stdio::read(fd.as_fd(), &mut scratch));
        match got {
            Got::Bytes(n) => self.hand_on(key, stream, &scratch[..n]),
            Got::Nothing => {}
            Got::End => self.close_output(key, stream),
        }
        self.scratch = scratch;
        got
    }

    fn hand_on(&mut self, key: u64, stream: usize, bytes: &[u8]) {
        if key == INIT
            && let Some(log) = &mut self.log
        {
            let outcome = log.write(STREAMS[stream], bytes);
            self.note_log(outcome);
        }
        for client in self.clients.values_mut().filter(|c| c.hears(key, KINDS[stream])) {
            client.send_output(KINDS[stream], bytes);
        }
    }

    fn close_output(&mut self, key: u64, stream: usize) {
        if let Some(process) = self.processes.get_mut(&key) {
            process.stdio.output[stream] = None;
        }
        if key == INIT
            && let Some(log) = &mut self.log
        {
            let outcome = log.finish(STREAMS[stream]);
            self.note_log(outcome);
        }
    }

    /// Notes when the log begins to fail and when it works again, not each failure between.
    fn note_log(&mut self, outcome: Result<(), logs::Error>) {
        match (outcome, self.is_log_failing) {
            (Err(error), false) => {
                note(&format!("{}; entries are dropped until it works again", errors::chain(&error)));
                self.is_log_failing = true;
            }
            (Ok(()), true) => {
                let dropped = self.log.as_ref().map_or(0, logs::Writer::dropped);
                note(&format!("the log works again; {dropped} entries were dropped so far"));
                self.is_log_failing = false;
            }
            (Ok(()), false) | (Err(_), true) => {}
        }
    }

    /// Reads what is there of a process's output, whoever still holds it open, and closes it.
    fn drain(&mut self, key: u64) {
        for stream in 0..STREAMS.len() {
            let mut rest = MAX_REST;
            while self.processes.get(&key).is_some_and(|p| p.stdio.output[stream].is_some()) {
                match self.forward(key, stream) {
                    Got::Bytes(n) if n < rest => rest -= n,
                    _ => self.close_output(key, stream),
                }
            }
        }
    }

    // Clients.

    fn accept(&mut self) {
        let flags = net::SocketFlags::CLOEXEC | net::SocketFlags::NONBLOCK;
        let Ok(fd) = net::accept_with(&self.listener, flags) else { return };
        let us = rustix::process::geteuid();
        let is_allowed =
            net::sockopt::socket_peercred(&fd).is_ok_and(|peer| peer.uid.is_root() || peer.uid == us);
        if is_allowed && self.clients.len() < self.limits.clients {
            let key = self.new_key();
            self.clients.insert(key, Client::new(fd));
        }
    }

    fn serve(&mut self, key: u64, flags: PollFlags) {
        let mut scratch = std::mem::take(&mut self.scratch);
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
    fn take_frames(&mut self, key: u64) {
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

    fn is_stdin_full(&self, client: u64) -> bool {
        let Some(Role::Attached { process, .. }) = self.clients.get(&client).map(|c| c.role) else {
            return false;
        };
        let sink = self.processes.get(&process).and_then(|p| p.stdio.stdin.as_ref());
        sink.is_some_and(|sink| sink.queue.len() >= self.limits.stdin_queue)
    }

    fn forget_client(&mut self, key: u64) {
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

const STREAMS: [logs::Stream; 2] = [logs::Stream::Stdout, logs::Stream::Stderr];
const KINDS: [FrameKind; 2] = [FrameKind::Stdout, FrameKind::Stderr];

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

/// Not synced: the record must outlive the shim, not the machine, and lies on a tmpfs.
fn write_exit(exit: &Exit) -> io::Result<()> {
    let temporary = format!("{EXIT_FILE}.tmp");
    std::fs::write(&temporary, serde_json::to_vec(exit)?)?;
    std::fs::rename(&temporary, EXIT_FILE)
}

fn timespec_of(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        // Never early: a loop that wakes before its time turns for nothing.
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}
