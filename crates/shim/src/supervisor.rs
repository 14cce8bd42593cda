//! The loop: waits for a cause, hands it to the table, performs what the table says.

mod children;
mod connections;
mod output;
mod telling;

pub(crate) use children::exec_file;

use crate::client::Client;
use crate::process::{INIT, Process};
use crate::runtime::{Job, Op, Runtime};
use crate::stdio;
use crate::table::{Action, Event, Phase, step};
use crate::{Error, Limits};
use errors::Report;
use logs::Remote;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::Pid;
use shim_api::{CONFIG_FILE, Config, ExecState, Exit, Ready, SOCKET_FILE, VERSION};
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest `shim.json`: labels and arguments are in it, images and environments are not.
const MAX_CONFIG: u64 = 1 << 20;
/// Bytes read at a time, from anyone. At most `shim_api::MAX_STDIO`.
const SCRATCH: usize = 32 << 10;
/// How long after the last work of some size memory is given back.
const SLIM_AFTER: Duration = Duration::from_millis(100);
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
    /// Compresses what the log has put aside.
    compressor: Option<Pid>,
    oom_counter: Option<PathBuf>,
    ready: Option<File>,
    /// When to stop waiting for execs, or for clients: in the phases that do.
    due: Option<Instant>,
    /// When to accept connections again, after there were no descriptors left.
    deaf_until: Option<Instant>,
    /// When to give back what the loop does not need: code of set-up, of JSON, of starting programs. Later than what was done is
    /// likely to be followed by more; None where nothing of it has run since.
    slim_at: Option<Instant>,
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
    /// Whoever gets the log can take more.
    Remote,
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
    let failed = |source: Errno| Error::Setup { what, source: source.into() };
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
        let log = crate::log::open(&config.log)?;
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
            compressor: None,
            oom_counter: None,
            ready: None,
            due: None,
            deaf_until: None,
            slim_at: Some(Instant::now() + SLIM_AFTER),
            scratch: Vec::new(),
        })
    }

    pub(crate) fn new_key(&mut self) -> u64 {
        self.next_key += 1;
        self.next_key
    }

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
            Action::RunDelete => {
                self.call(Op::Delete);
                self.tell_early();
            }
            Action::Answer => self.answer_asker(),
            Action::KillInit => self.kill_init(),
            Action::Drain => self.begin_draining(),
            Action::Publish => self.publish(),
            Action::Leave => self.leave(),
        }
    }

    fn turn(&mut self) -> Result<(), Error> {
        self.settle();
        if self.end_waiting(Instant::now()) {
            // What that did has to be settled before there may be nothing left to wait for.
            return Ok(());
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
                Cause::Remote => self.pump_log(),
            }
        }
        Ok(())
    }

    /// What follows from the last turn, and what is due.
    fn settle(&mut self) {
        let now = Instant::now();
        self.deaf_until = self.deaf_until.filter(|at| *at > now);
        if self.due_of_log().is_some_and(|at| at <= now) {
            self.pump_log();
        }
        self.compress_log();
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
            let is_stuck = client.stuck_at(self.limits).is_some_and(|at| at <= now);
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
    }

    /// Goes on from the phases that wait for others, when they are done or had their time; whether it did.
    fn end_waiting(&mut self, now: Instant) -> bool {
        let (is_over, event) = match self.phase {
            Phase::Draining => {
                (self.jobs.is_empty() && self.processes.keys().all(|&key| key == INIT), Event::Drained)
            }
            Phase::Flushing => {
                let is_logged =
                    self.log.as_ref().and_then(logs::Writer::remote_ref).is_none_or(Remote::is_empty);
                (is_logged && self.clients.values().all(|c| c.backlog() == 0), Event::Flushed)
            }
            _ => return false,
        };
        (is_over || self.due_of_phase().is_some_and(|at| at <= now)) && self.apply(event)
    }

    /// When the waiting of this phase ends. A client that goes on taking is waited for.
    fn due_of_phase(&self) -> Option<Instant> {
        let due = self.due?;
        if self.phase != Phase::Flushing {
            return Some(due);
        }
        let taking =
            self.clients.values().filter(|c| c.backlog() > 0).map(|c| c.progress() + self.limits.flush);
        taking.max().map(|at| at.max(due)).or(Some(due))
    }

    /// What reads go into, to be put back.
    pub(crate) fn take_scratch(&mut self) -> Vec<u8> {
        // Made anew after a rest; a page of it costs something once it is read into.
        if self.scratch.is_empty() { vec![0; SCRATCH] } else { std::mem::take(&mut self.scratch) }
    }

    /// Something has run that is not needed for long.
    pub(crate) fn slim_soon(&mut self) {
        self.slim_at = Some(Instant::now() + SLIM_AFTER);
    }

    fn keys_of_clients(&self) -> Vec<u64> {
        self.clients.keys().copied().collect()
    }

    /// The next moment at which something is due without a cause from outside.
    fn next_due(&self) -> Option<Instant> {
        let stalls = self.clients.values().filter_map(|c| c.stuck_at(self.limits));
        let drains = self.processes.values().filter_map(|p| p.drain_until);
        let log = self.due_of_log().into_iter().chain(self.slim_at.filter(|_| self.is_at_rest()));
        stalls.chain(drains).chain(self.due_of_phase()).chain(self.deaf_until).chain(log).min()
    }

    /// Whether nothing is under way that will soon want the code again.
    fn is_at_rest(&self) -> bool {
        self.jobs.is_empty() && matches!(self.phase, Phase::Created | Phase::Running | Phase::Paused)
    }

    fn wait_for_causes(&mut self) -> Result<Vec<(Cause, PollFlags)>, Error> {
        let is_slim_due = self.is_at_rest() && self.slim_at.is_some_and(|at| at <= Instant::now());
        if is_slim_due {
            self.slim_at = None;
            self.scratch = Vec::new();
        }
        let mut causes = vec![Cause::Signal];
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        let mut add = |cause, fd| {
            causes.push(cause);
            fds.push(fd);
        };
        if self.deaf_until.is_none() {
            add(Cause::Connection, PollFd::new(&self.listener, PollFlags::IN));
        }
        if let Some(fd) = self.log.as_ref().and_then(logs::Writer::remote_ref).and_then(Remote::wants) {
            add(Cause::Remote, PollFd::from_borrowed_fd(fd, PollFlags::OUT));
        }
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
        if is_slim_due {
            // Right before the sleep: what runs until then is mapped again.
            sys::footprint::forget_code();
        }
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(Error::Poll(e.into())),
        }
        Ok(causes
            .into_iter()
            .zip(fds.iter().map(PollFd::revents))
            .filter(|(_, flags)| !flags.is_empty())
            .collect())
    }

    /// Whether someone attached, or the log, has not taken what is there already.
    fn is_held_back(&self, key: u64, stream: usize) -> bool {
        let kind = output::KINDS[stream];
        if key == INIT && self.log.as_ref().is_some_and(logs::Writer::is_full) {
            return true;
        }
        self.clients.values().any(|c| c.hears(key, kind) && c.backlog() >= self.limits.client_buffer)
    }
}

fn timespec_of(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        // Never early: a loop that wakes before its time turns for nothing.
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}
