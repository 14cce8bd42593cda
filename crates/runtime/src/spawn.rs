//! The parent's side of making a process: clone, id maps, cgroup, limits, hooks, and undoing it all on failure.

use crate::channel::{Channel, Kind};
use crate::namespaces::{self, Namespaces};
use crate::plan::{Plan, Step};
use crate::procfs::Proc;
use crate::state::Container;
use crate::trace::say;
use crate::{Error, child, config, console, hooks, idmap, limits, listener, program, rdt};
use oci::runtime::{Hooks, Process, Resources, Spec};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Pid, PidfdFlags, PidfdGetfdFlags, Signal, WaitId, WaitIdOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use sys::process::Cloned;

/// More of them no honest child has.
const MAX_WARNINGS: usize = 100;

/// What the parent does for the child.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    pub(crate) namespaces: Namespaces,
    pub(crate) spec: &'a Spec,
    pub(crate) process: &'a Process,
    pub(crate) cgroup: Option<&'a cgroup::Cgroup>,
    /// Limits to set; none for an exec, which joins what is there.
    pub(crate) resources: Option<Resources>,
    /// The unit that systemd is asked for; for an exec, the one that is there.
    pub(crate) unit: Option<cgroup::Unit>,
    /// prestart and createRuntime.
    pub(crate) hooks: Option<&'a Hooks>,
    pub(crate) hook_state: oci::runtime::State,
    /// It will be in a user namespace of its own.
    pub(crate) in_user_namespace: bool,
    /// Where resctrl is, for a container that wants a group there.
    pub(crate) rdt: Option<PathBuf>,
    /// PID namespace of this process for an exec.
    pub(crate) enter_pid: Option<OwnedFd>,
}

/// A process that is ready and waits at its gate. Killed when dropped before [`Started::keep`].
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) start_time: u64,
    pub(crate) channel: Channel,
    /// Master of a foreground terminal.
    pub(crate) terminal: Option<OwnedFd>,
    pub(crate) warnings: Vec<String>,
    /// The path that will be executed, as the process found it.
    program: String,
    kill: bool,
}

impl Started {
    /// From now on the process lives on its own.
    pub(crate) fn keep(&mut self) {
        self.kill = false;
    }

    /// Opens a parent's gate and waits for execve. An error is the process's own.
    pub(crate) fn go(&mut self, cgroup: Option<&cgroup::Cgroup>) -> Result<(), Error> {
        self.channel.send(Kind::Go, "").map_err(|_| died(&self.pidfd, cgroup))?;
        loop {
            match self.channel.receive().map_err(|e| Error::io("read from the container's process", e))? {
                // The end: its side closed at execve, or it died; which of both its exit status tells.
                None => return Ok(()),
                Some(message) if message.kind == Kind::Failed => {
                    return Err(Error::Child { text: message.text });
                }
                Some(message) if message.kind == Kind::NotExecuted => {
                    let text = format!("exec {}: {}", self.program, child::lower(message.errno()));
                    return Err(Error::Child { text });
                }
                Some(message) if message.kind == Kind::Warning => self.warnings.push(message.text),
                Some(_) => {}
            }
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if self.kill {
            let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
            let _ = reap(&self.pidfd);
        }
    }
}

/// Waits for the end of a child; its code, 128 + signal for a death by signal.
pub(crate) fn reap(pidfd: &OwnedFd) -> Result<i32, Errno> {
    let status = rustix::io::retry_on_intr(|| {
        rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED)
    })?;
    let Some(status) = status else { return Err(Errno::CHILD) };
    Ok(status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal)).unwrap_or(255))
}

/// Makes the process. `container` is the lock, which the child must not inherit.
pub(crate) fn spawn(
    plan: Plan,
    mut job: Job<'_>,
    (ours, theirs): (Channel, Channel),
    proc: Proc,
    container: &mut Option<Container>,
) -> Result<(Started, Proc), Error> {
    let forks = plan.steps.iter().any(|step| matches!(step, Step::Fork { .. }));
    let mut warnings = plan.warnings.clone();
    if crate::is_root() {
        // The child inherits it, so there is no moment at which a process of a joined PID namespace could look into it.
        let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
    let back = enter(&mut job, &proc)?;
    let mut new = job.namespaces.new & !namespaces::CGROUP.bit & !namespaces::TIME.bit;
    if forks {
        new = 0;
    }
    // A user may not move a process from outside what systemd gave the user; systemd may.
    let users = job.unit.as_ref().is_some_and(|unit| unit.manager.is_some());
    let into = job.cgroup.filter(|_| !users).and_then(cgroup::Cgroup::v2_directory);
    let cloned = sys::process::clone3(new.into(), false, into);
    let (pid, pidfd) = match cloned {
        Ok(Cloned::Child) => {
            drop((ours, back, job));
            container.take().into_iter().for_each(Container::spend);
            child::run(plan, theirs, proc)
        }
        Ok(Cloned::Parent { pid, pidfd }) => (pid, pidfd),
        Err(e) => {
            let missing = namespaces::missing(job.namespaces.new, &proc);
            let failed = missing.unwrap_or_else(|| Error::io("clone the container's first process", e));
            return leave(back).and(Err(failed));
        }
    };
    drop(plan);
    drop(theirs);
    let mut started = Started {
        pid,
        pidfd,
        start_time: 0,
        channel: ours,
        terminal: None,
        warnings: Vec::new(),
        program: String::new(),
        kill: true,
    };
    say(|| format!("cloned process {pid}, namespaces {new:#x}"));
    leave(back)?;
    if forks {
        follow_fork(&mut started, job.cgroup)?;
    }
    prepare(&started, &job, &proc, &mut warnings)?;
    // If it failed meanwhile its message is waiting and says more than this error.
    started.channel.send(Kind::Go, "").unwrap_or_default();
    await_ready(&mut started, &job)?;
    started.start_time =
        proc.stat(started.pid).map_err(|e| Error::io(format!("read state of process {}", started.pid), e))?.1;
    warnings.append(&mut started.warnings);
    started.warnings = warnings;
    Ok((started, proc))
}

/// Enters what is joined, for the child to inherit, and gives the way back. A user namespace is never entered here: there
/// is no way back from one, so its joining is a step of the child.
fn enter(job: &mut Job<'_>, proc: &Proc) -> Result<Vec<(namespaces::Kind, OwnedFd)>, Error> {
    let mut back = Vec::new();
    let own = |kind: namespaces::Kind| {
        proc.namespace("self", kind.link)
            .map_err(|e| Error::io(format!("open own {} namespace", kind.name), e))
    };
    for (kind, fd) in &job.namespaces.joined {
        back.push((*kind, own(*kind)?));
        if let Err(e) = namespaces::enter(*kind, fd) {
            return leave(back).and(Err(Error::io(format!("join {} namespace", kind.name), e)));
        }
    }
    if let Some(fd) = job.enter_pid.take() {
        namespaces::enter(namespaces::PID, fd)
            .map_err(|e| Error::io("join the container's pid namespace", e))?;
    }
    if job.namespaces.makes(namespaces::TIME) {
        back.push((namespaces::TIME, own(namespaces::TIME)?));
        let made = sys::process::unshare(namespaces::TIME.bit)
            .map_err(|e| Error::io("make time namespace", e))
            .and_then(|()| write_time_offsets(job.spec, proc));
        if let Err(e) = made {
            return leave(back).and(Err(e));
        }
    }
    Ok(back)
}

fn leave(back: Vec<(namespaces::Kind, OwnedFd)>) -> Result<(), Error> {
    back.into_iter().try_for_each(|(kind, fd)| {
        namespaces::enter(kind, fd)
            .map_err(|e| Error::io(format!("return to own {} namespace", kind.name), e))
    })
}

/// Must be there before the first process is in the namespace.
fn write_time_offsets(spec: &Spec, proc: &Proc) -> Result<(), Error> {
    use std::fmt::Write as _;
    let mut text = String::new();
    for (clock, offset) in spec.linux.iter().flat_map(|linux| &linux.time_offsets) {
        let _ = writeln!(text, "{clock} {} {}", offset.secs, offset.nanosecs);
    }
    if text.is_empty() {
        return Ok(());
    }
    proc.write("self/timens_offsets", &text)
        .map_err(|e| Error::io(format!("set linux.timeOffsets {text:?}"), e))
}

/// The first process cloned another and is done.
fn follow_fork(started: &mut Started, cgroup: Option<&cgroup::Cgroup>) -> Result<(), Error> {
    let message = started.channel.receive().ok().flatten();
    match message {
        Some(message) if message.kind == Kind::Process => {
            let pid: i32 = message.text.parse().unwrap_or(0);
            let raw = Pid::from_raw(pid).ok_or_else(|| fate(started, cgroup))?;
            let pidfd = rustix::process::pidfd_open(raw, PidfdFlags::empty())
                .map_err(|e| Error::io(format!("open process {pid}"), e))?;
            let first = std::mem::replace(&mut started.pidfd, pidfd);
            started.pid = pid;
            reap(&first).map(|_| ()).map_err(|e| Error::io("wait for the first process", e))
        }
        Some(message) if message.kind == Kind::Failed => Err(Error::Child { text: message.text }),
        _ => Err(fate(started, cgroup)),
    }
}

fn prepare(started: &Started, job: &Job<'_>, proc: &Proc, warnings: &mut Vec<String>) -> Result<(), Error> {
    let pid = started.pid;
    if job.namespaces.makes(namespaces::USER) {
        let linux = job.spec.linux.as_ref();
        let maps = linux.map(|linux| (&linux.uid_mappings[..], &linux.gid_mappings[..]));
        let (uids, gids) = maps.unwrap_or_default();
        idmap::write_maps(pid, uids, gids, proc)?;
    }
    if job.in_user_namespace {
        // The process itself could raise none there.
        limits::set(Pid::from_raw(pid), &job.process.rlimits, |text| warnings.push(text))
            .map_err(|(what, e)| Error::io(what, e))?;
    }
    match (&job.unit, &job.resources) {
        (Some(unit), Some(resources)) => unit.start(pid, resources, cgroup::mode()? == cgroup::Mode::V2)?,
        (Some(unit), None) if unit.manager.is_some() => unit.attach(pid)?,
        _ => {}
    }
    if let (Some(cgroup), Some(resources)) = (job.cgroup, &job.resources) {
        warnings.extend(cgroup.apply(resources)?.into_iter().map(|warning| warning.to_string()));
        if let Some(uid) = config::cgroup_owner(job.spec, job.process, &job.namespaces) {
            cgroup.delegate(uid)?;
        }
    }
    let linux = job.spec.linux.as_ref();
    if let (Some(root), Some(rdt)) = (&job.rdt, linux.and_then(|linux| linux.intel_rdt.as_ref())) {
        rdt::enter(root, rdt, &job.hook_state.id, pid)?;
    }
    if let Some(devices) =
        linux.map(|linux| &linux.net_devices).filter(|d| job.resources.is_some() && !d.is_empty())
    {
        let namespace = proc
            .namespace(&pid.to_string(), "net")
            .map_err(|e| Error::io("open the container's network namespace", e))?;
        for (name, device) in devices {
            let inside = if device.name.is_empty() { name } else { &device.name };
            network::give(name, inside, namespace.as_fd())
                .map_err(|source| Error::NetDevice { name: name.clone(), source })?;
        }
    }
    if let Some(adjustment) = job.process.oom_score_adj {
        match proc.write(&format!("{pid}/oom_score_adj"), &adjustment.to_string()) {
            Ok(()) => {}
            Err(Errno::ACCESS | Errno::PERM) => {
                warnings.push(format!("oomScoreAdj {adjustment} needs CAP_SYS_RESOURCE and is not set"));
            }
            Err(e) => return Err(Error::io(format!("set oomScoreAdj {adjustment}"), e)),
        }
    }
    Ok(())
}

fn await_ready(started: &mut Started, job: &Job<'_>) -> Result<(), Error> {
    // Each of these comes once at most; a process that says otherwise is not what we started.
    let mut hooks_ran = false;
    loop {
        let message =
            started.channel.receive().map_err(|e| Error::io("read from the container's process", e))?;
        let Some(message) = message else { return Err(fate(started, job.cgroup)) };
        match message.kind {
            Kind::Ready => {
                say(|| format!("process {} is set up and waits", started.pid));
                started.program = message.text;
                return Ok(());
            }
            Kind::FilterRefused => {
                let text = format!("load seccomp filter: {}", std::io::Error::from(message.errno()));
                return Err(Error::Child { text });
            }
            Kind::Failed => return Err(Error::Child { text: message.text }),
            Kind::Doubt if !program::has_other_formats() => return Err(Error::Child { text: message.text }),
            Kind::Doubt => {
                started.channel.send(Kind::Go, "").map_err(|_| fate(started, job.cgroup))?;
            }
            Kind::Warning if started.warnings.len() < MAX_WARNINGS => started.warnings.push(message.text),
            Kind::Terminal if started.terminal.is_none() => {
                message.fd.as_ref().inspect(|master| console::keep_line_ends(master));
                started.terminal = message.fd;
            }
            Kind::Hooks if !std::mem::replace(&mut hooks_ran, true) => {
                let mut state = job.hook_state.clone();
                state.pid = started.pid;
                if let Some(list) = job.hooks {
                    hooks::run("prestart", &list.prestart, &state, None)?;
                    hooks::run("createRuntime", &list.create_runtime, &state, None)?;
                }
                started.channel.send(Kind::Go, "").map_err(|_| fate(started, job.cgroup))?;
            }
            Kind::Listener => {
                let listener = match message.fd {
                    Some(fd) => fd,
                    None => fetch(started, &message.text)?,
                };
                let profile = job.spec.linux.as_ref().and_then(|linux| linux.seccomp.as_ref());
                let mut state = job.hook_state.clone();
                if state.pid == 0 {
                    state.pid = started.pid;
                }
                if let Some(profile) = profile {
                    listener::hand_over(profile, started.pid, &state, listener)?;
                }
                started.channel.send(Kind::Go, "").map_err(|_| fate(started, job.cgroup))?;
            }
            kind => return Err(Error::Child { text: format!("unexpected message {kind:?}") }),
        }
    }
}

/// The descriptor that the process has under this number.
fn fetch(started: &Started, number: &str) -> Result<OwnedFd, Error> {
    let number = number.parse().map_err(|_| Error::Child { text: "a descriptor without number".into() })?;
    rustix::process::pidfd_getfd(&started.pidfd, number, PidfdGetfdFlags::empty())
        .map_err(|e| Error::io("fetch the seccomp listener", e))
}

fn fate(started: &Started, cgroup: Option<&cgroup::Cgroup>) -> Error {
    died(&started.pidfd, cgroup)
}

/// It died without a word.
fn died(pidfd: &OwnedFd, cgroup: Option<&cgroup::Cgroup>) -> Error {
    let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
    let memory = match cgroup {
        Some(cgroup) if cgroup.oom_kills() > 0 => "; the memory limit is too low to start it",
        _ => "",
    };
    Error::Child { text: format!("it ended while it was set up{memory}") }
}
