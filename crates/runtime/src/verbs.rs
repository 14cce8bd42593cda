//! The verbs of the command line: each one function, from the store to the kernel and back.

use crate::channel::{Channel, Kind};
use crate::namespaces::{self, Namespaces};
use crate::plan::{self, Gate, Joining, Request};
use crate::procfs::Proc;
use crate::seal::{self, Circumstances};
use crate::spawn::{Job, Started, reap, spawn};
use crate::state::{Container, ContainerId, State, Status, Store, init, outcome};
use crate::trace::say;
use crate::{Error, config, console, exec_cgroup, hooks, rdt, scheduling};
use cgroup::Cgroup;
use oci::runtime::{Hooks, Process, Spec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long SIGKILL may take. A process in an uninterruptible sleep on a dead disk takes longer, and is reported.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// Options of `create` and `run`.
#[derive(Debug, Clone, Default)]
pub struct Create {
    pub bundle: PathBuf,
    /// In place of `config.json` there.
    pub config: Option<PathBuf>,
    pub console_socket: Option<PathBuf>,
    pub pid_file: Option<PathBuf>,
    /// Hears of the process by its descriptor.
    pub pidfd_socket: Option<PathBuf>,
    pub preserve_fds: u32,
    /// How many of those, the first, are sockets that systemd opened for the container: it is told as systemd tells.
    pub listen_fds: u32,
    pub no_pivot: bool,
    pub no_new_keyring: bool,
    /// Asks this systemd for the cgroup; `linux.cgroupsPath` is `SLICE:PREFIX:NAME` then.
    pub systemd: Option<Systemd>,
    /// Of a user without privilege, who may go without a cgroup. Not said: of whoever is not root of the host.
    pub rootless: Option<bool>,
}

/// Which systemd, by the socket of the bus that it is on.
#[derive(Debug, Clone)]
pub enum Systemd {
    System(String),
    /// A user's own.
    User(String),
}

/// Options of `exec`. With `process` the others that describe a process are ignored.
#[derive(Debug, Clone, Default)]
pub struct Exec {
    pub process: Option<Process>,
    pub args: Vec<String>,
    pub cwd: Option<String>,
    pub env: Vec<String>,
    /// `UID[:GID]`, numbers.
    pub user: Option<String>,
    pub additional_gids: Vec<u32>,
    pub caps: Vec<String>,
    pub no_new_privileges: bool,
    pub selinux_label: Option<String>,
    pub apparmor_profile: Option<String>,
    pub tty: bool,
    pub detach: bool,
    pub console_socket: Option<PathBuf>,
    pub pid_file: Option<PathBuf>,
    /// Hears of the process by its descriptor.
    pub pidfd_socket: Option<PathBuf>,
    pub preserve_fds: u32,
    /// `[CONTROLLER[,CONTROLLER...]:]PATH` below the container's cgroup, there already.
    pub cgroup: Vec<String>,
    /// Also in a paused container; the process waits until it is resumed.
    pub ignore_paused: bool,
}

/// What a verb that starts a process says.
#[derive(Debug, Default)]
pub struct Exit {
    /// Of the process if it was waited for: 0..255, 128 + signal for a death by signal.
    pub code: i32,
    pub warnings: Vec<String>,
}

/// Whom a signal goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KillTarget {
    Init,
    All,
}

/// Makes a container whose init waits for [`start`]. Nothing stays after an error.
pub fn create(store: &Store, id: &ContainerId, options: &Create) -> Result<Vec<String>, Error> {
    let mut made = make(store, id, options, true, true)?;
    made.started.keep();
    Ok(std::mem::take(&mut made.started.warnings))
}

/// Makes and starts a container. Without `detach` waits for its end, passes on terminal and signals, and removes it unless
/// `keep`.
pub fn run(
    store: &Store,
    id: &ContainerId,
    options: &Create,
    detach: bool,
    keep: bool,
) -> Result<Exit, Error> {
    let mut made = make(store, id, options, false, detach)?;
    let hooks = made.spec.hooks.take().unwrap_or_default();
    let result = made.started.go(made.cgroup.as_ref()).and_then(|()| poststart(&hooks, &made.state));
    if let Err(e) = result {
        drop(made.started);
        undo(made.cgroup.as_ref(), &made.container, &made.state);
        return Err(e);
    }
    made.started.keep();
    let mut warnings = std::mem::take(&mut made.started.warnings);
    if detach {
        return Ok(Exit { code: 0, warnings });
    }
    let Made { started, container, state, .. } = made;
    // Other verbs must be able to work on it while it runs.
    let container = container.unlock()?;
    let code = wait_in_foreground(started.terminal.as_ref(), &started.pidfd)?;
    if !keep {
        match container.lock() {
            // As it was made: what later verbs change is limits.
            Ok(container) => {
                warnings.extend(dispose(&container, &state, Status::Stopped, None, Some(hooks))?);
                container.spend();
            }
            // Somebody deleted it; what has its name now is theirs.
            Err(Error::NotFound { .. }) => {}
            Err(e) => return Err(e),
        }
    }
    // Its descriptors go with this process.
    std::mem::forget(started);
    Ok(Exit { code, warnings })
}

/// Lets the created init go.
pub fn start(store: &Store, id: &ContainerId) -> Result<(), Error> {
    let container = store.lock(id)?;
    let state = container.read()?;
    let proc = Proc::open()?;
    let (status, _) = container.status(&state, &proc)?;
    let wrong = || Error::WrongState { verb: "start", id: state.id.clone(), state: status.as_str() };
    if status != Status::Created {
        return Err(wrong());
    }
    let answer = container.open_gate()?.ok_or_else(|| Error::WrongState {
        verb: "start",
        id: state.id.clone(),
        state: Status::Stopped.as_str(),
    })?;
    say(|| format!("let process {} go", state.pid));
    if let Some(words) = outcome(&answer)? {
        return Err(not_started(&words, &container.read_config()?));
    }
    poststart(&container.later_hooks(&state)?, &state).inspect_err(|_| {
        // It is ended, and stays, stopped, as runc's does: engines ask for the delete, which destroys it.
        if let Ok(Some(pidfd)) = init(&state, &proc) {
            drop(sys::process::send_signal(&pidfd, 9));
            drop(wait_for_end(&pidfd, &state));
        }
    })
}

/// Why the program was not executed, from what its process wrote.
fn not_started(words: &[u8], spec: &Spec) -> Error {
    let text = match words.split_first() {
        Some((&kind, rest)) if kind == Kind::Failed as u8 => String::from_utf8_lossy(rest).into_owned(),
        Some((&kind, &[errno])) if kind == Kind::NotExecuted as u8 => {
            let program = spec.process.as_ref().and_then(|process| process.args.first());
            let errno = Errno::from_raw_os_error(errno.into());
            format!("exec {}: {}", program.map_or("", String::as_str), crate::child::lower(errno))
        }
        // Our own byte, which nobody took.
        _ => "it ended before it was started".into(),
    };
    Error::Child { text }
}

/// Sends signal `number`.
pub fn kill(store: &Store, id: &ContainerId, number: i32, target: KillTarget) -> Result<(), Error> {
    let state = store.read(id)?;
    let proc = Proc::open()?;
    let pidfd = init(&state, &proc)?;
    let at = |pid: i32, e: std::io::Error| Error::io(format!("send signal {number} to process {pid}"), e);
    let shares_pids = state.namespaces & namespaces::PID.bit == 0;
    // The kernel ends what is in a PID namespace with its init; without one, the others would stay.
    let everyone = target == KillTarget::All || number == 9 && shares_pids;
    say(|| format!("signal {number} to {}", if everyone { "every process" } else { "the first process" }));
    if everyone && let Some(cgroup) = open_cgroup(&state)? {
        if number == 9 {
            return Ok(cgroup.kill()?);
        }
        for pid in cgroup.pids()? {
            let Some(raw) = rustix::process::Pid::from_raw(pid) else { continue };
            match rustix::process::pidfd_open(raw, rustix::process::PidfdFlags::empty()) {
                Ok(fd) => match sys::process::send_signal(fd, number) {
                    Err(e) if e.raw_os_error() != Some(Errno::SRCH.raw_os_error()) => return Err(at(pid, e)),
                    _ => {}
                },
                Err(_) => continue,
            }
        }
        return Ok(());
    }
    let gone = || Error::WrongState { verb: "kill", id: state.id.clone(), state: "stopped" };
    match sys::process::send_signal(pidfd.ok_or_else(gone)?, number) {
        Err(e) if e.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => Err(gone()),
        other => other.map_err(|e| at(state.pid, e)),
    }
}

/// Removes a stopped or merely created container; with `force` kills a running one first. Also cleans up after a runtime
/// that was killed while it made one.
///
/// Gives what failed of what may fail: poststop hooks.
pub fn delete(store: &Store, id: &ContainerId, force: bool) -> Result<Vec<String>, Error> {
    let container = match store.lock(id) {
        Err(Error::NotFound { .. }) if force => return Ok(Vec::new()),
        other => other?,
    };
    let state = match container.read() {
        // Killed before the first state was written: there is nothing but the directory.
        Err(Error::NotFound { .. } | Error::Document { .. }) if force => {
            container.remove()?;
            return Ok(Vec::new());
        }
        other => other?,
    };
    let proc = Proc::open()?;
    let (status, pidfd) = container.status(&state, &proc)?;
    if !force && matches!(status, Status::Running | Status::Paused | Status::Creating) {
        return Err(Error::WrongState { verb: "delete", id: state.id, state: status.as_str() });
    }
    proc.spend();
    dispose(&container, &state, status, pidfd, None)
}

/// Ends what is left of a container and removes everything that was made for it. `hooks` of the document, if they are known.
pub(crate) fn dispose(
    container: &Container,
    state: &State,
    status: Status,
    pidfd: Option<OwnedFd>,
    hooks: Option<Hooks>,
) -> Result<Vec<String>, Error> {
    let cgroup = open_cgroup(state)?;
    if let Some(pidfd) = pidfd {
        match sys::process::send_signal(&pidfd, 9) {
            Err(e) if e.raw_os_error() != Some(Errno::SRCH.raw_os_error()) => {
                return Err(Error::io(format!("kill process {}", state.pid), e));
            }
            _ => {}
        }
        if let Some(cgroup) = cgroup.as_ref().filter(|_| status == Status::Paused) {
            cgroup.thaw()?;
        }
        wait_for_end(&pidfd, state)?;
    }
    let mut stopped = Ok(());
    // Mostly nothing is left in it. A unit is systemd's, which is to be told first.
    let left = |cgroup: &Cgroup| state.scope.is_some() || !cgroup.remove_empty();
    if let Some(cgroup) = cgroup.filter(left).filter(Cgroup::exists) {
        if !cgroup.pids()?.is_empty() {
            cgroup.kill()?;
        }
        stopped = state.unit().map_or(Ok(()), |unit| unit.stop());
        cgroup.remove()?;
    }
    rdt::leave(&state.rdt)?;
    let hooks = hooks.or_else(|| container.later_hooks(state).ok()).unwrap_or_default();
    container.remove()?;
    say(|| format!("container {} is removed", state.id));
    // The container is gone whatever they say.
    let warnings = hooks::run_all("poststop", &hooks.poststop, &oci_state(state, "stopped"));
    // All that could be removed is; that systemd could not be told is worth knowing.
    stopped?;
    Ok(warnings)
}

/// Runs another process in a container.
pub fn exec(store: &Store, id: &ContainerId, options: &Exec) -> Result<Exit, Error> {
    check_preserved(options.preserve_fds)?;
    let channel = Channel::pair()?;
    let container = store.lock(id)?;
    let state = container.read()?;
    let proc = Proc::open()?;
    let (status, pidfd) = container.status(&state, &proc)?;
    let init = match (status, pidfd) {
        (Status::Running | Status::Created, Some(init)) => init,
        (Status::Paused, Some(init)) if options.ignore_paused => init,
        _ => return Err(Error::WrongState { verb: "exec in", id: state.id, state: status.as_str() }),
    };
    if options.process.is_none() && options.args.is_empty() {
        return Err(Error::argument("exec args cannot be empty"));
    }
    let spec = container.read_config()?;
    // An exec changes nothing in the directory, and may last.
    drop(container);
    let process = exec_process(&spec, options)?;
    config::check_process(&process)?;
    let watched = state.namespaces & namespaces::PID.bit == 0 || seal::has_ptrace(&spec);
    let sealed = seal::is_needed(&Circumstances { spec: &spec, process: &process, watched, starts: false })?;
    if sealed {
        seal::ensure_sealed()?;
    }
    let console = console_sink(&process, options.console_socket.as_deref(), options.detach)?;
    let (cgroup, tasks) = exec_cgroup::place(&state, &options.cgroup)?;
    let own = differing(&state, &proc)?;
    let itself = own & plan::joins_itself() == plan::joins_itself();
    let enter_pid = (own & namespaces::PID.bit != 0 && !itself)
        .then(|| proc.namespace(&state.pid.to_string(), "pid"))
        .transpose()
        .map_err(|e| Error::io("open the container's pid namespace", e))?;
    let root = state
        .no_pivot
        .then(|| config::open_root(Path::new(&format!("/proc/{}/root", state.pid))))
        .transpose()?;
    say(|| format!("exec in process {}'s namespaces {own:#x}, by way of {tasks:?}", state.pid));
    let plan = plan::exec(Joining {
        spec: &spec,
        process: &process,
        proc: &proc,
        init,
        tasks,
        namespaces: own,
        root,
        console,
        preserve_fds: options.preserve_fds,
        launcher: !sealed,
        state: oci_state(&state, "running"),
    })?;
    let job = Job {
        namespaces: Namespaces::default(),
        spec: &spec,
        process: &process,
        cgroup: cgroup.as_ref(),
        resources: None,
        unit: state.unit(),
        hooks: None,
        hook_state: oci_state(&state, "running"),
        in_user_namespace: own & namespaces::USER.bit != 0,
        rdt: None,
        enter_pid,
    };
    let affinity = process.exec_cpu_affinity.as_ref();
    if let Some(set) = affinity.map(|a| scheduling::processors("initial", &a.initial)).transpose()?.flatten()
    {
        rustix::thread::sched_setaffinity(None, &set).map_err(|e| Error::io("set execCPUAffinity", e))?;
    }
    let (mut started, _) = spawn(plan, job, channel, proc, &mut None)?;
    write_pid_file(options.pid_file.as_deref(), started.pid)?;
    send_pidfd(options.pidfd_socket.as_deref(), &started)?;
    started.go(cgroup.as_ref())?;
    started.keep();
    let warnings = std::mem::take(&mut started.warnings);
    let code =
        if options.detach { 0 } else { wait_in_foreground(started.terminal.as_ref(), &started.pidfd)? };
    Ok(Exit { code, warnings })
}

/// Freezes all processes.
pub fn pause(store: &Store, id: &ContainerId) -> Result<(), Error> {
    freezer(store, id, "pause", &[Status::Running, Status::Created], Cgroup::freeze)
}

/// Thaws them.
pub fn resume(store: &Store, id: &ContainerId) -> Result<(), Error> {
    freezer(store, id, "resume", &[Status::Paused], Cgroup::thaw)
}

/// All processes, as the host numbers them.
pub fn processes(store: &Store, id: &ContainerId) -> Result<Vec<i32>, Error> {
    match open_cgroup(&store.read(id)?)? {
        Some(cgroup) => Ok(cgroup.pids()?),
        None => Err(Error::unsupported("ps of a container without cgroup", "")),
    }
}

/// The number of a signal given by name (`KILL`, `SIGKILL`, `RTMIN+3`) or number; 0 only asks whether it could be sent.
pub fn signal_number(text: &str) -> Option<i32> {
    if text == "0" { Some(0) } else { oci::signal::number(text) }
}

struct Made {
    container: Container,
    started: Started,
    cgroup: Option<Cgroup>,
    spec: Spec,
    state: State,
}

fn make(store: &Store, id: &ContainerId, options: &Create, fifo: bool, detach: bool) -> Result<Made, Error> {
    check_preserved(options.preserve_fds)?;
    let channel = Channel::pair()?;
    let (mut spec, bytes, bundle) = config::read_bundle(&options.bundle, options.config.as_deref())?;
    config::pass_sockets(&mut spec, options.listen_fds);
    let process = spec.process.as_ref().ok_or_else(|| Error::invalid("process", "is missing"))?;
    let proc = Proc::open()?;
    let namespaces = Namespaces::open(spec.linux.as_ref().map_or(&[][..], |linux| &linux.namespaces))?;
    config::check(&spec, &namespaces, &proc)?;
    let watched = !namespaces.makes(namespaces::PID);
    let sealed = seal::is_needed(&Circumstances { spec: &spec, process, watched, starts: true })?;
    say(|| {
        let (new, joined) = (namespaces.new, namespaces.joined.len());
        format!(
            "bundle {}: new namespaces {new:#x}, {joined} joined; init is {}",
            bundle.display(),
            ["the launcher", "this program, sealed"][usize::from(sealed)]
        )
    });
    if sealed {
        // Starts over if it is not; nothing is made yet.
        seal::ensure_sealed()?;
    }
    let console = console_sink(process, options.console_socket.as_deref(), detach)?;
    let rootfs = config::rootfs(&spec, &bundle)?;
    let mut state = State::new(id, bundle, rootfs);
    state.cgroup = match &options.systemd {
        None => config::cgroup_path(&spec, id.as_str()),
        Some(systemd) => {
            let path = spec.linux.as_ref().and_then(|linux| linux.cgroups_path.as_deref());
            let path = path.unwrap_or_default();
            let unit = match systemd {
                Systemd::System(bus) => cgroup::Unit::parse(path, id.as_str(), bus)?,
                Systemd::User(_) if cgroup::mode()? != cgroup::Mode::V2 => {
                    return Err(Error::unsupported(
                        "--systemd-cgroup without root",
                        "it needs cgroup v2 alone",
                    ));
                }
                Systemd::User(bus) => cgroup::Unit::parse_user(path, id.as_str(), bus)?,
            };
            let path = unit.path()?;
            state.scope = Some(unit.into());
            Some(path)
        }
    };
    state.namespaces = namespaces.new | namespaces.joined.iter().fold(0, |bits, (kind, _)| bits | kind.bit);
    state.no_pivot = options.no_pivot || !namespaces.makes(namespaces::MOUNT);
    state.annotations.clone_from(&spec.annotations);
    let later = |hooks: &Hooks| !hooks.poststart.is_empty() || !hooks.poststop.is_empty();
    state.later_hooks = Some(spec.hooks.as_ref().is_some_and(later));
    let rdt = spec.linux.as_ref().and_then(|linux| linux.intel_rdt.as_ref());
    let resctrl = rdt.map(|_| rdt::root(&proc)).transpose()?;
    if let (Some(root), Some(rdt)) = (&resctrl, rdt) {
        state.rdt = rdt::will_make(root, rdt, id.as_str());
    }
    let container = store.create(id)?;
    say(|| format!("container {}: cgroup {:?}, rootfs {}", state.id, state.cgroup, state.rootfs.display()));
    let prepared = (|| {
        container.write_config(&bytes)?;
        container.write_first(&state)?;
        let cgroup = make_cgroup(&mut state, &spec, options.rootless)?;
        Ok((cgroup, fifo.then(|| container.make_fifo()).transpose()?))
    })();
    let (cgroup, fifo) = match prepared {
        Ok(prepared) => prepared,
        Err(e) => {
            undo(None, &container, &state);
            return Err(e);
        }
    };
    let mut container = Some(container);
    let result = populate(
        &spec,
        options,
        &mut state,
        namespaces,
        channel,
        proc,
        cgroup.as_ref(),
        fifo,
        console,
        !sealed,
        resctrl,
        &mut container,
    );
    // The child takes it, this process never.
    let container = container.ok_or_else(|| Error::NotFound { id: id.as_str().to_owned() })?;
    match result {
        Ok(started) => Ok(Made { container, started, cgroup, spec, state }),
        Err(e) => {
            undo(cgroup.as_ref(), &container, &state);
            // As after a delete: whatever they say, the first error is the one to tell.
            let poststop = spec.hooks.unwrap_or_default().poststop;
            drop(hooks::run_all("poststop", &poststop, &oci_state(&state, "stopped")));
            Err(e)
        }
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "the second half of `make`, apart so that one place can undo it"
)]
fn populate(
    spec: &Spec,
    options: &Create,
    state: &mut State,
    mut namespaces: Namespaces,
    channel: (Channel, Channel),
    proc: Proc,
    cgroup: Option<&Cgroup>,
    fifo: Option<OwnedFd>,
    console: Option<OwnedFd>,
    launcher: bool,
    rdt: Option<PathBuf>,
    container: &mut Option<Container>,
) -> Result<Started, Error> {
    let process = spec.process.as_ref().ok_or_else(|| Error::invalid("process", "is missing"))?;
    let hook_state = oci_state(state, "created");
    let request = Request {
        spec,
        rootfs: state.rootfs.clone(),
        bundle: &state.bundle,
        cgroup,
        proc: &proc,
        gate: fifo.map_or(Gate::Parent, Gate::Fifo),
        console,
        preserve_fds: options.preserve_fds,
        no_pivot: options.no_pivot,
        launcher,
        keyring: (!options.no_new_keyring)
            .then(|| CString::new(format!("_ses.{}", state.id)).unwrap_or_default()),
        state: hook_state.clone(),
    };
    let plan = plan::create(request, &mut namespaces)?;
    say(|| format!("the first process has {} steps to go", plan.steps.len()));
    let job = Job {
        namespaces,
        spec,
        process,
        cgroup,
        resources: Some(config::resources(spec)),
        unit: state.unit(),
        hooks: spec.hooks.as_ref(),
        hook_state: oci_state(state, "creating"),
        in_user_namespace: state.namespaces & namespaces::USER.bit != 0,
        rdt,
        enter_pid: None,
    };
    let (started, proc) = spawn(plan, job, channel, proc, container)?;
    state.pid = started.pid;
    state.start_time = started.start_time;
    if let Some(container) = container {
        container.write(state)?;
    }
    write_pid_file(options.pid_file.as_deref(), started.pid)?;
    send_pidfd(options.pidfd_socket.as_deref(), &started)?;
    proc.spend();
    Ok(started)
}

/// Makes the cgroup. A user who may not is left without one if the document asks for none, neither by its path nor by a
/// limit; as with runc.
pub(crate) fn make_cgroup(
    state: &mut State,
    spec: &Spec,
    rootless: Option<bool>,
) -> Result<Option<Cgroup>, Error> {
    let Some(path) = state.cgroup.as_deref() else { return Ok(None) };
    let rootless = || rootless.unwrap_or_else(|| !cgroup::dbus::is_root_of_host());
    match Cgroup::create(path) {
        Err(e) if errors::HasKind::kind(&e) == errors::Kind::Denied && rootless() => {
            let linux = spec.linux.as_ref();
            let asked =
                linux.and_then(|linux| linux.cgroups_path.as_ref()).is_some_and(|path| !path.is_empty());
            let limits = linux.and_then(|linux| linux.resources.clone()).unwrap_or_default();
            let limits = oci::runtime::Resources { devices: Vec::new(), ..limits };
            if asked {
                return Err(Error::Io {
                    operation: "unable to apply cgroup configuration: permission denied".into(),
                    source: std::io::Error::other(errors::chain(&e).to_string()),
                });
            }
            if limits != oci::runtime::Resources::default() {
                return Err(Error::Io {
                    operation:
                        "rootless needs no limits + no cgrouppath when no permission is granted for cgroups"
                            .into(),
                    source: std::io::Error::other(errors::chain(&e).to_string()),
                });
            }
            state.cgroup = None;
            Ok(None)
        }
        other => Ok(Some(other?)),
    }
}

/// Takes back what was made. What cannot be taken back `delete --force` finds later.
pub(crate) fn undo(cgroup: Option<&Cgroup>, container: &Container, state: &State) {
    // Mostly it is not there yet; and the first error is the one to tell.
    drop(state.unit().map(|unit| unit.stop()));
    if let Ok(state) = container.read() {
        drop(rdt::leave(&state.rdt));
    }
    let removed = cgroup.map_or(Ok(()), |cgroup| {
        if cgroup.pids().is_ok_and(|pids| !pids.is_empty()) {
            drop(cgroup.kill());
        }
        cgroup.remove()
    });
    if removed.is_ok() {
        drop(container.remove());
    }
}

pub(crate) fn poststart(list: &Hooks, state: &State) -> Result<(), Error> {
    hooks::run("poststart", &list.poststart, &oci_state(state, "running"), None)
}

pub(crate) fn open_cgroup(state: &State) -> Result<Option<Cgroup>, Error> {
    Ok(state.cgroup.as_deref().map(Cgroup::open).transpose()?)
}

pub(crate) fn oci_state(state: &State, status: &str) -> oci::runtime::State {
    oci::runtime::State {
        oci_version: oci::runtime::OCI_VERSION.into(),
        id: state.id.clone(),
        status: status.into(),
        pid: state.pid,
        bundle: state.bundle.display().to_string(),
        annotations: state.annotations.clone(),
    }
}

fn freezer(
    store: &Store,
    id: &ContainerId,
    verb: &'static str,
    from: &[Status],
    change: impl Fn(&Cgroup) -> Result<(), cgroup::Error>,
) -> Result<(), Error> {
    let container = store.lock(id)?;
    let state = container.read()?;
    let (status, _) = container.status(&state, &Proc::open()?)?;
    if !from.contains(&status) {
        return Err(Error::WrongState { verb, id: state.id, state: status.as_str() });
    }
    let cgroup =
        open_cgroup(&state)?.ok_or_else(|| Error::unsupported(format!("{verb} without cgroup"), ""))?;
    Ok(change(&cgroup)?)
}

/// Descriptors to be passed on must be there: what is opened in their place would be passed on instead.
fn check_preserved(count: u32) -> Result<(), Error> {
    for number in 3..3 + count {
        let number = i32::try_from(number).unwrap_or(i32::MAX);
        sys::process::borrow_inherited(number)
            .map_err(|e| Error::io(format!("unable to stat preserved-fd {} (of {count})", number - 3), e))?;
    }
    Ok(())
}

fn send_pidfd(socket: Option<&Path>, started: &Started) -> Result<(), Error> {
    let Some(path) = socket else { return Ok(()) };
    let socket = console::connect(path)?;
    crate::channel::send_parts(
        socket.as_fd(),
        &[std::io::IoSlice::new(b"pidfd")],
        Some(started.pidfd.as_fd()),
    )
    .map(|_| ())
    .map_err(|e| Error::io(format!("send the process's descriptor to {}", path.display()), e))
}

/// Connects the console socket, or refuses what cannot work.
pub(crate) fn console_sink(
    process: &Process,
    socket: Option<&Path>,
    detach: bool,
) -> Result<Option<OwnedFd>, Error> {
    match socket {
        Some(_) if !process.terminal => {
            Err(Error::invalid("process.terminal", "is false, but --console-socket is given"))
        }
        Some(path) => console::connect(path).map(Some),
        None if process.terminal && detach => {
            Err(Error::invalid("process.terminal", "needs --console-socket when the runtime does not stay"))
        }
        None => Ok(None),
    }
}

/// Namespaces that the container has and we are not in. Joining one's own user namespace is an error.
fn differing(state: &State, proc: &Proc) -> Result<u32, Error> {
    let mut bits = 0;
    for kind in namespaces::ALL.iter().filter(|kind| state.namespaces & kind.bit != 0) {
        let inode = |pid: &str| {
            proc.namespace(pid, kind.link)
                .and_then(rustix::fs::fstat)
                .map(|stat| stat.st_ino)
                .map_err(|e| Error::io(format!("open {} namespace of process {pid}", kind.name), e))
        };
        if inode(&state.pid.to_string())? != inode("self")? {
            bits |= kind.bit;
        }
    }
    Ok(bits)
}

fn exec_process(spec: &Spec, options: &Exec) -> Result<Process, Error> {
    let own = spec.process.clone().unwrap_or_default();
    if let Some(given) = &options.process {
        let mut process = given.clone();
        if process.cwd.is_empty() {
            process.cwd = "/".into();
        }
        // Never more than the container: an absent set means the container's.
        process.capabilities = process.capabilities.or(own.capabilities);
        return Ok(process);
    }
    let mut process =
        Process { args: options.args.clone(), terminal: options.tty, console_size: None, ..own };
    process.env.extend(options.env.iter().cloned());
    if let Some(cwd) = &options.cwd {
        process.cwd.clone_from(cwd);
    }
    if let Some(user) = &options.user {
        let (uid, gid) = parse_user(user)?;
        process.user.uid = uid;
        process.user.gid = gid.unwrap_or(process.user.gid);
    }
    process.user.additional_gids.extend(&options.additional_gids);
    process.no_new_privileges |= options.no_new_privileges;
    let over = |given: &Option<String>| given.clone().filter(|text| !text.is_empty());
    process.selinux_label = over(&options.selinux_label).or(process.selinux_label);
    process.apparmor_profile = over(&options.apparmor_profile).or(process.apparmor_profile);
    if !options.caps.is_empty() {
        let caps = process.capabilities.get_or_insert_default();
        // None can be ambient that is not inheritable, and what is inherited is the document's to say.
        let ambient = (!caps.inheritable.is_empty()).then_some(&mut caps.ambient);
        for set in [&mut caps.bounding, &mut caps.effective, &mut caps.permitted].into_iter().chain(ambient) {
            set.extend(options.caps.iter().cloned());
        }
    }
    Ok(process)
}

fn parse_user(text: &str) -> Result<(u32, Option<u32>), Error> {
    let number = |part: &str| {
        let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let id = part.parse::<u32>().ok().filter(|&id| digits && id != u32::MAX);
        id.ok_or_else(|| Error::invalid("--user", format!("{text:?} is not UID[:GID]")))
    };
    match text.split_once(':') {
        None => Ok((number(text)?, None)),
        Some((uid, gid)) => Ok((number(uid)?, Some(number(gid)?))),
    }
}

/// Written beside and renamed, so that a reader never sees a part.
pub(crate) fn write_pid_file(path: Option<&Path>, pid: i32) -> Result<(), Error> {
    let Some(path) = path else { return Ok(()) };
    let at = |e: std::io::Error| Error::io(format!("write pid file {}", path.display()), e);
    let name = path.file_name().ok_or_else(|| at(Errno::ISDIR.into()))?;
    let temporary = path.with_file_name(format!(".{}.{pid}", name.to_string_lossy()));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let write = || {
        let fd = rustix::fs::open(&temporary, flags, Mode::from_raw_mode(0o644))?;
        rustix::io::write(&fd, pid.to_string().as_bytes())?;
        rustix::fs::rename(&temporary, path)
    };
    write().map_err(|e| at(e.into()))
}

fn wait_for_end(pidfd: &OwnedFd, state: &State) -> Result<(), Error> {
    let until = Instant::now() + KILL_LIMIT;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| Error::io("wait", Errno::INVAL))?;
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => {
                let waited_ms = u64::try_from(KILL_LIMIT.as_millis()).unwrap_or(u64::MAX);
                return Err(Error::StillRunning { id: state.id.clone(), waited_ms });
            }
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(e) => return Err(Error::io("wait for the container's end", e)),
        }
    }
}

pub(crate) fn wait_in_foreground(terminal: Option<&OwnedFd>, pidfd: &OwnedFd) -> Result<i32, Error> {
    let signals = sys::signal::block_forwarded().map_err(|e| Error::io("take signals", e))?;
    let forward = || {
        while let Some(number) = sys::signal::next(&signals) {
            if number != sys::signal::WINCH {
                drop(sys::process::send_signal(pidfd, number));
            }
        }
    };
    console::relay(terminal, pidfd.as_fd(), Some(signals.as_fd()), forward)
        .map_err(|e| Error::io("relay the terminal", e))?;
    sys::spent::spend(signals);
    reap(pidfd).map_err(|e| Error::io("wait for the container", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals() {
        let check = |text: &str, want: Option<i32>| assert_eq!(signal_number(text), want, "{text:?}");
        check("KILL", Some(9));
        check("sigterm", Some(15));
        check("15", Some(15));
        check("SIGSYS", Some(31));
        check("RTMIN+3", Some(37));
        check("SIGRTMAX-1", Some(63));
        check("0", Some(0));
        for bad in ["", "SIG", "65", "-1", "RTMIN+99", "NOPE", "9 "] {
            check(bad, None);
        }
    }

    #[test]
    fn users() {
        let check = |text: &str, want: Option<(u32, Option<u32>)>| {
            assert_eq!(parse_user(text).ok(), want, "{text:?}")
        };
        check("0", Some((0, None)));
        check("1000:100", Some((1000, Some(100))));
        for bad in ["", ":", "1:", ":1", "1:2:3", "-1", "+1", "4294967295", "4294967296", " 1", "root", "٣"]
        {
            check(bad, None);
        }
    }
}
