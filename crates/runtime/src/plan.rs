//! What the child does between clone and exec, decided before the clone.
//!
//! [`create`] and [`exec`] are two lists from the same parts. Neither looks anything up in the container: what depends on
//! files there (does a masked path exist? where is the program?) is a step of its own.

use crate::exec_cgroup::tasks;
use crate::idmap::IdNamespaces;
use crate::limits::capability_set;
use crate::mounts::{MountStep, Surroundings, What, is_bind, mount_step};
use crate::namespaces::{self, Kind, Namespaces};
use crate::procfs::Proc;
use crate::rooted::clean;
use crate::{Error, config, mounts, scheduling};
use oci::runtime::{Device, Hook, Process, Spec};
use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitySet, CpuSet};
use std::ffi::CString;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use sys::mount_attr as attr;
use sys::process::{Inherited, StringList};
use sys::scheduling::SchedulingAttributes;

/// One thing the child does. The order in the list is the order of doing.
#[derive(Debug)]
pub(crate) enum Step {
    /// Dies with the runtime, and lets nobody look inside. First: nothing of a half-made container stays.
    Tie,
    /// Puts itself into the cgroup's v1 directories (v2's is part of the clone), before anything else, while the host's paths
    /// and privileges are there. By `tasks` and `0`, not by the parent and `cgroup.procs`: a single thread that moves itself
    /// is the one case in which the kernel does not take the lock that waits for an RCU grace period, milliseconds.
    JoinCgroup(Vec<PathBuf>),
    /// Waits until the parent wrote the id maps and put this process into its cgroup.
    Await,
    /// Joins namespaces by descriptor, a user namespace last: before that the host's privileges are needed. Those that only the
    /// user namespace gives privilege over follow it.
    Join(Vec<(Kind, OwnedFd)>),
    /// Joins those of a running process, all at once.
    JoinProcess {
        pidfd: OwnedFd,
        namespaces: u32,
    },
    /// Clones again into new namespaces and leaves the rest to that process: those must belong to a joined user namespace.
    Fork {
        namespaces: u32,
    },
    /// Makes an open directory the root: for containers made without pivot_root.
    ChangeRoot(OwnedFd),
    /// Becomes uid and gid 0 of the user namespace. After its maps are written, before anything is made in it; but after
    /// `AttachRoot`: until then the process has the caller's ids, to whom the way to the rootfs is open.
    BecomeRoot,
    /// Sets `lo` of a new network namespace up, as other runtimes do.
    Loopback,
    /// setsid(2), so that no signal of the caller's terminal comes here and a terminal of its own can be taken.
    NewSession,
    /// A session keyring of its own, so that the keys of who called the runtime stay out of reach.
    Keyring(CString),
    /// New cgroup namespace. After `Await`: its root is the cgroup at this moment.
    CgroupNamespace,
    /// Stops mounts made here from reaching the host. Before all mounts.
    Propagate(u64),
    /// Clones the rootfs tree, attaches it over itself and makes it what later paths resolve in.
    AttachRoot {
        path: PathBuf,
        private_parent: bool,
    },
    /// Takes `/` as it is for what later paths resolve in.
    RootHere,
    /// One entry of `mounts`.
    Mount(Box<MountStep>),
    /// One device node: made, or bound from the host where a user namespace forbids mknod.
    Device {
        device: Device,
        bind: bool,
    },
    /// `/dev/fd`, `/dev/stdin`, `/dev/stdout`, `/dev/stderr`, `/dev/ptmx`. After `/dev` and `/dev/pts`.
    DeviceLinks {
        ptmx: bool,
    },
    /// A pty of the container's own devpts; its master goes to `sink`, or to the parent. After `/dev/pts`, before the root
    /// becomes read-only.
    Terminal {
        size: Option<(u16, u16)>,
        owner: u32,
        console: bool,
        sink: Option<OwnedFd>,
    },
    /// The parent runs prestart and createRuntime hooks: namespaces and mounts are there, the host is still visible.
    RuntimeHooks,
    /// createContainer hooks: inside, before `PivotRoot`.
    ContainerHooks {
        hooks: Vec<Hook>,
        state: oci::runtime::State,
    },
    /// One kernel parameter, relative to `/proc/sys`.
    Sysctl {
        name: String,
        path: String,
        value: String,
    },
    HostName(String),
    DomainName(String),
    /// Makes a path read-only if it is there. After all mounts, or one could cover it.
    ReadOnly(PathBuf),
    /// Hides a path if it is there. After devices: files are hidden under the null device made there.
    Mask(PathBuf),
    /// Makes the working directory if it is missing. Before `RootReadOnly`.
    Directory(PathBuf),
    RootReadOnly,
    /// Makes the rootfs `/` and lets go of the host's root. No host path works from here on.
    PivotRoot {
        propagation: Option<(u64, bool)>,
    },
    /// The same without pivot_root(2), for an initial ramdisk.
    MoveRoot {
        rootfs: PathBuf,
    },
    /// How it is scheduled. After it is in its cgroup, which decides about real time, and before privilege goes.
    Scheduler(SchedulingAttributes),
    /// The processors it may run on, after it joined the cgroup.
    Affinity(Box<CpuSet>),
    /// Undoes what the caller's own affinity is: how many processors there are is the cgroup's to say. After `Await`.
    EveryProcessor,
    /// Where its memory lies.
    MemoryPolicy {
        mode: u32,
        nodes: Vec<u64>,
    },
    IoPriority {
        class: u32,
        level: u32,
    },
    Personality(u32),
    /// Label for execve, at this file of procfs.
    Label {
        file: &'static str,
        value: String,
    },
    /// Sets `HOME` from the container's passwd file. After the root is the container's.
    Home {
        uid: u32,
    },
    /// Gives stdin, stdout and stderr to the user, so that `/dev/stderr` can be opened again; those that are the null device
    /// become the container's. After the root is the container's.
    OwnStdio {
        uid: u32,
    },
    /// chdir(2), and getcwd(2) to see that it is below the root (CVE-2024-21626). Once as root, once as the user.
    WorkingDirectory {
        path: PathBuf,
        last: bool,
    },
    /// Resource limits. After all that opens files; the parent sets them for a user namespace.
    Rlimits(Vec<oci::runtime::Rlimit>),
    NoNewPrivileges,
    Seccomp(Box<Filter>),
    Umask(u32),
    /// Drops to the container's user and capabilities. After every step that needs privilege.
    Become(Box<Credentials>),
    /// Finds the program in the container, as its user.
    Find,
    /// Tells the parent that all is ready, unties, and waits to be let go. Where this program is sealed.
    Gate(Gate),
    /// The same and all that follows, done by the launcher: loads a filter, waits, becomes the program.
    Launch {
        gate: Gate,
        filter: Option<Box<Filter>>,
    },
    /// startContainer hooks, after start.
    StartHooks {
        hooks: Vec<Hook>,
        state: oci::runtime::State,
    },
}

/// Where the child waits.
#[derive(Debug)]
pub(crate) enum Gate {
    /// `start` writes a byte.
    Fifo(OwnedFd),
    /// The parent says go.
    Parent,
}

/// A compiled system call filter.
#[derive(Debug)]
pub(crate) struct Filter {
    pub(crate) instructions: Vec<sys::seccomp::Instruction>,
    pub(crate) flags: u32,
    /// sendmsg(2) will be answered by the agent, who has no listener before something was sent.
    pub(crate) notifies_sendmsg: bool,
}

/// Who the process is.
#[derive(Debug)]
pub(crate) struct Credentials {
    pub(crate) uid: Uid,
    pub(crate) gid: Gid,
    pub(crate) groups: Vec<Gid>,
    pub(crate) bounding: CapabilitySet,
    pub(crate) effective: CapabilitySet,
    pub(crate) permitted: CapabilitySet,
    pub(crate) inheritable: CapabilitySet,
    pub(crate) ambient: CapabilitySet,
    /// setgroups(2) is denied in this user namespace and no group was asked for.
    pub(crate) keep_groups: bool,
    /// It is root of the host before and after.
    pub(crate) stays_root: bool,
    /// Of its own or joined.
    pub(crate) in_user_namespace: bool,
}

/// Everything the child needs.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    pub(crate) args: StringList,
    pub(crate) env: StringList,
    /// Descriptors kept: 0, 1, 2 and this many after.
    pub(crate) preserve_fds: u32,
    /// What to tell the user once.
    pub(crate) warnings: Vec<String>,
    /// What the child has from this process.
    pub(crate) inherited: Inherited,
}

/// What a plan is made from besides the document.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) rootfs: PathBuf,
    pub(crate) bundle: &'a Path,
    pub(crate) cgroup: Option<&'a cgroup::Cgroup>,
    pub(crate) proc: &'a Proc,
    pub(crate) gate: Gate,
    pub(crate) console: Option<OwnedFd>,
    pub(crate) preserve_fds: u32,
    pub(crate) no_pivot: bool,
    /// Whether the process ends in the launcher; else this program must be sealed.
    pub(crate) launcher: bool,
    pub(crate) keyring: Option<CString>,
    /// For hooks; its pid is filled in by the child.
    pub(crate) state: oci::runtime::State,
}

/// Steps of a new container. Takes from `namespaces` what the child has to join itself.
pub(crate) fn create(request: Request<'_>, namespaces: &mut Namespaces) -> Result<Plan, Error> {
    let spec = request.spec;
    let process = spec.process.as_ref().ok_or_else(|| Error::invalid("process", "is missing"))?;
    let linux = spec.linux.as_ref();
    let user_new = namespaces.makes(namespaces::USER);
    let user = user_new || namespaces.joins(namespaces::USER);
    let mount_new = namespaces.makes(namespaces::MOUNT);
    let mut plan = Builder::new(process, request.preserve_fds, request.proc)?;
    plan.join_cgroup(tasks(request.cgroup.map(cgroup::Cgroup::mounts).unwrap_or_default()));
    let mut around = Surroundings {
        bundle: request.bundle,
        cgroup: request.cgroup,
        user: None,
        namespaces: IdNamespaces {
            proc: request.proc,
            container: linux.filter(|_| user_new).map(|l| (&l.uid_mappings[..], &l.gid_mappings[..])),
            joined: None,
            made: Vec::new(),
        },
        label: mounts::label(spec)?,
    };
    let joined = namespaces.joined.iter().find(|(kind, _)| *kind == namespaces::USER);
    let joined = joined.map(|(_, fd)| fd.as_fd().try_clone_to_owned()).transpose();
    let joined = joined.map_err(|e| Error::io("duplicate a descriptor", e))?;
    around.namespaces.joined = joined.as_ref().map(|fd| fd.as_fd());
    plan.warnings_of(namespaces);
    plan.enter(namespaces);
    let shared = config::root_propagation(spec)?.is_some_and(|(bit, _)| bit == attr::SHARED);
    if mount_new {
        plan.add(Step::Propagate(if shared { attr::SHARED } else { attr::SLAVE }));
        plan.add(Step::AttachRoot { path: request.rootfs.clone(), private_parent: shared });
    }
    if user_new {
        plan.add(Step::Await);
    }
    if user {
        plan.add(Step::BecomeRoot);
    }
    plan.add(Step::NewSession);
    if namespaces.makes(namespaces::NETWORK) {
        plan.add(Step::Loopback);
    }
    if let Some(name) = request.keyring {
        plan.add(Step::Keyring(name));
    }
    let mut cgroup_namespace = namespaces.makes(namespaces::CGROUP);
    if mount_new {
        around.user = user.then_some(shared);
        let mut read_only_dev = None;
        for mount in &spec.mounts {
            if mount.kind.as_deref() == Some("cgroup") {
                plan.wait_for_cgroup(&mut cgroup_namespace);
            }
            let mut step = mount_step(mount, &mut around)?;
            if step.destination == Path::new("/dev") && matches!(step.what, What::New { .. }) {
                read_only_dev = step.take_read_only().or(read_only_dev);
            }
            plan.add(Step::Mount(Box::new(step)));
        }
        plan.wait_for_cgroup(&mut cgroup_namespace);
        plan.devices(spec, user, process, request.console);
        // Not before all that is in it is there.
        plan.plan.steps.extend(read_only_dev.map(|step| Step::Mount(Box::new(step))));
    } else {
        plan.wait_for_cgroup(&mut cgroup_namespace);
        plan.add(Step::RootHere);
    }
    plan.add(Step::EveryProcessor);
    if !spec.hostname.is_empty() {
        plan.add(Step::HostName(spec.hostname.clone()));
    }
    if !spec.domainname.is_empty() {
        plan.add(Step::DomainName(spec.domainname.clone()));
    }
    let hooks = spec.hooks.clone().unwrap_or_default();
    if !hooks.prestart.is_empty() || !hooks.create_runtime.is_empty() {
        plan.add(Step::RuntimeHooks);
    }
    if !hooks.create_container.is_empty() {
        plan.add(Step::ContainerHooks { hooks: hooks.create_container, state: request.state.clone() });
    }
    for (name, value) in linux.iter().flat_map(|linux| &linux.sysctl) {
        plan.add(Step::Sysctl { name: name.clone(), path: config::sysctl_path(name), value: value.clone() });
    }
    if mount_new {
        plan.hide(spec, &process.cwd);
        plan.add(match request.no_pivot {
            true => Step::MoveRoot { rootfs: request.rootfs.clone() },
            false => Step::PivotRoot { propagation: config::root_propagation(spec)? },
        });
    } else {
        plan.add(Step::ChangeRoot(config::open_root(&request.rootfs)?));
    }
    plan.finish(
        process,
        spec,
        Ending {
            gate: request.gate,
            launcher: request.launcher,
            start_hooks: hooks.start_container,
            state: request.state,
        },
        user,
    )?;
    Ok(plan.plan)
}

/// Another process in a container that is there.
#[derive(Debug)]
pub(crate) struct Joining<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) process: &'a Process,
    pub(crate) proc: &'a Proc,
    pub(crate) init: OwnedFd,
    /// By which it joins the v1 directories of its cgroup.
    pub(crate) tasks: Vec<PathBuf>,
    /// Bits that the container has of its own.
    pub(crate) namespaces: u32,
    pub(crate) root: Option<OwnedFd>,
    pub(crate) console: Option<OwnedFd>,
    pub(crate) preserve_fds: u32,
    pub(crate) launcher: bool,
    pub(crate) state: oci::runtime::State,
}

/// Without privilege the parent cannot enter a PID namespace that belongs to another user namespace. Then the child enters
/// both, and clones once more. The bits that make it so; none with privilege.
pub(crate) fn joins_itself() -> u32 {
    if crate::is_root() { u32::MAX } else { namespaces::USER.bit | namespaces::PID.bit }
}

/// Steps of a process that joins. The parent has entered the PID namespace, which counts for its children.
pub(crate) fn exec(joining: Joining<'_>) -> Result<Plan, Error> {
    let process = joining.process;
    let user = joining.namespaces & namespaces::USER.bit != 0;
    let mut plan = Builder::new(process, joining.preserve_fds, joining.proc)?;
    plan.join_cgroup(joining.tasks);
    plan.add(Step::Tie);
    if joining.namespaces & joins_itself() == joins_itself() {
        plan.add(Step::JoinProcess { pidfd: joining.init, namespaces: joining.namespaces });
        plan.add(Step::Fork { namespaces: 0 });
        plan.add(Step::Tie);
        plan.add(Step::Await);
    } else {
        let namespaces = joining.namespaces & !namespaces::PID.bit;
        plan.add(Step::Await);
        if namespaces != 0 {
            plan.add(Step::JoinProcess { pidfd: joining.init, namespaces });
        }
    }
    if let Some(root) = joining.root {
        plan.add(Step::ChangeRoot(root));
    }
    if user {
        plan.add(Step::BecomeRoot);
    }
    plan.add(Step::NewSession);
    plan.add(Step::RootHere);
    if process.terminal {
        plan.terminal(process, false, joining.console);
    }
    match process.exec_cpu_affinity.as_ref() {
        None => plan.add(Step::EveryProcessor),
        Some(affinity) => {
            if let Some(set) = scheduling::processors("final", &affinity.last)? {
                plan.add(Step::Affinity(Box::new(set)));
            }
        }
    }
    let ending = Ending {
        gate: Gate::Parent,
        launcher: joining.launcher,
        start_hooks: Vec::new(),
        state: joining.state,
    };
    plan.finish(process, joining.spec, ending, user)?;
    Ok(plan.plan)
}

struct Ending {
    gate: Gate,
    launcher: bool,
    start_hooks: Vec<Hook>,
    state: oci::runtime::State,
}

struct Builder {
    plan: Plan,
}

/// Where a name is set several times the last time counts, and where it counts for nothing, in `HOME=`, it is left out.
fn last_of_each(env: &[String]) -> Vec<String> {
    let mut names = std::collections::BTreeSet::new();
    let name = |entry: &&String| entry.split('=').next().unwrap_or_default().to_owned();
    let mut kept: Vec<String> = env.iter().rev().filter(|entry| names.insert(name(entry))).cloned().collect();
    kept.retain(|entry| entry != "HOME=");
    kept.reverse();
    kept
}

impl Builder {
    fn new(process: &Process, preserve_fds: u32, proc: &Proc) -> Result<Builder, Error> {
        let strings = |field: &str, list: &[String]| {
            let list = list.iter().map(|s| CString::new(s.as_str()));
            let list = list.collect::<Result<Vec<_>, _>>();
            list.map(StringList::new).map_err(|_| Error::invalid(field, "has a NUL byte"))
        };
        if process.args.is_empty() {
            return Err(Error::invalid("process.args", "is empty"));
        }
        let args = strings("process.args", &process.args)?;
        let env = strings("process.env", &last_of_each(&process.env))?;
        let inherited = proc.read("self/status").map_or(Inherited::UNKNOWN, |text| Inherited::parse(&text));
        let (steps, warnings) = (Vec::with_capacity(64), Vec::new());
        Ok(Builder { plan: Plan { steps, args, env, preserve_fds, warnings, inherited } })
    }

    fn add(&mut self, step: Step) {
        self.plan.steps.push(step);
    }

    fn warnings_of(&mut self, namespaces: &Namespaces) {
        if !namespaces.makes(namespaces::MOUNT) && !namespaces.joins(namespaces::MOUNT) {
            self.plan.warnings.push("the container shares the host's mount namespace".into());
        }
    }

    fn join_cgroup(&mut self, tasks: Vec<PathBuf>) {
        if !tasks.is_empty() {
            self.add(Step::JoinCgroup(tasks));
        }
    }

    /// Joins what the parent could not enter for us.
    fn enter(&mut self, namespaces: &mut Namespaces) {
        if namespaces.joins(namespaces::USER) {
            // The user namespace last, while that of the host gives privilege over those that are not its own; before it the
            // mount namespace, after which no path is the host's.
            let mut joined = std::mem::take(&mut namespaces.joined);
            joined.sort_by_key(|(kind, _)| (*kind == namespaces::USER, *kind == namespaces::MOUNT));
            self.add(Step::Join(joined));
            self.add(Step::Fork { namespaces: namespaces.new & !namespaces::CGROUP.bit });
            self.add(Step::Tie);
            return;
        }
        self.add(Step::Tie);
        if let Some(index) = namespaces.joined.iter().position(|(kind, _)| *kind == namespaces::MOUNT) {
            let mount = namespaces.joined.remove(index);
            self.add(Step::Join(vec![mount]));
        }
    }

    /// Before the first step that needs to be in the cgroup. Mounts before it run while the parent writes limits.
    fn wait_for_cgroup(&mut self, make_namespace: &mut bool) {
        if !self.plan.steps.iter().any(|step| matches!(step, Step::Await)) {
            self.add(Step::Await);
        }
        if std::mem::take(make_namespace) {
            self.add(Step::CgroupNamespace);
        }
    }

    fn devices(&mut self, spec: &Spec, bind: bool, process: &Process, console: Option<OwnedFd>) {
        // A /dev from the host has what it has; making nodes there would make them on the host.
        let foreign =
            spec.mounts.iter().any(|mount| clean(&mount.destination) == Path::new("/dev") && is_bind(mount));
        if !foreign {
            let listed = spec.linux.iter().flat_map(|linux| &linux.devices);
            for &(path, minor, major) in DEFAULT_DEVICES {
                if !listed.clone().any(|device| clean(&device.path) == Path::new(path)) {
                    let device = default_device(path, major, minor);
                    self.add(Step::Device { device, bind });
                }
            }
            for device in listed {
                // A fifo is no device: anybody may make one.
                self.add(Step::Device { device: device.clone(), bind: bind && device.kind != "p" });
            }
            let ptmx = spec.mounts.iter().any(|mount| mount.kind.as_deref() == Some("devpts"));
            self.add(Step::DeviceLinks { ptmx });
        }
        if process.terminal {
            self.terminal(process, true, console);
        }
    }

    fn terminal(&mut self, process: &Process, console: bool, sink: Option<OwnedFd>) {
        let size = process.console_size.as_ref().map(|size| (size.height, size.width));
        self.add(Step::Terminal { size, owner: process.user.uid, console, sink });
    }

    fn hide(&mut self, spec: &Spec, cwd: &str) {
        if let Some(linux) = &spec.linux {
            for path in &linux.readonly_paths {
                self.add(Step::ReadOnly(clean(path)));
            }
            for (number, path) in linux.masked_paths.iter().enumerate() {
                if !linux.masked_paths[..number].contains(path) {
                    self.add(Step::Mask(clean(path)));
                }
            }
        }
        let cwd = clean(cwd);
        if cwd != Path::new("/") {
            self.add(Step::Directory(cwd));
        }
        if spec.root.as_ref().is_some_and(|root| root.readonly) {
            self.add(Step::RootReadOnly);
        }
    }

    /// What both kinds of process do at the end.
    fn finish(&mut self, process: &Process, spec: &Spec, ending: Ending, user: bool) -> Result<(), Error> {
        if let Some(scheduler) = &process.scheduler {
            self.add(Step::Scheduler(scheduling::scheduler(scheduler)?));
        }
        if let Some(policy) = spec.linux.as_ref().and_then(|linux| linux.memory_policy.as_ref()) {
            let (mode, nodes) = scheduling::memory_policy(policy)?;
            self.add(Step::MemoryPolicy { mode, nodes });
        }
        if let Some(priority) = &process.io_priority {
            let (class, level) = config::io_priority(priority)?;
            self.add(Step::IoPriority { class, level });
        }
        if let Some(personality) = spec.linux.as_ref().and_then(|linux| linux.personality.as_ref()) {
            self.add(Step::Personality(config::personality(personality)?));
        }
        if let Some((file, value)) = config::label(process)? {
            self.add(Step::Label { file, value });
        }
        let user_ids = &process.user;
        if !self.plan.env.strings().iter().any(|entry| entry.to_bytes().starts_with(b"HOME=")) {
            self.add(Step::Home { uid: user_ids.uid });
        }
        if !process.terminal {
            self.add(Step::OwnStdio { uid: user_ids.uid });
        }
        self.add(Step::WorkingDirectory { path: PathBuf::from(&process.cwd), last: false });
        if !user && !process.rlimits.is_empty() {
            self.add(Step::Rlimits(process.rlimits.clone()));
        }
        let filter = spec.linux.as_ref().and_then(|linux| linux.seccomp.as_ref()).map(filter).transpose()?;
        let early = !process.no_new_privileges;
        let mut filter = filter.flatten().map(Box::new);
        if process.no_new_privileges {
            self.add(Step::NoNewPrivileges);
        }
        if early && let Some(filter) = filter.take() {
            // Without no_new_privs loading needs CAP_SYS_ADMIN, which goes next.
            self.add(Step::Seccomp(filter));
        }
        self.add(Step::Umask(user_ids.umask.unwrap_or(0o022)));
        let credentials = self.credentials(process, user)?;
        self.add(Step::Become(Box::new(credentials)));
        self.add(Step::WorkingDirectory { path: PathBuf::from(&process.cwd), last: true });
        self.add(Step::Find);
        // As late as possible, so that the profile has to allow little of ours; but before the gate, so that a refused one
        // is an error of create.
        if ending.launcher {
            self.add(Step::Launch { gate: ending.gate, filter });
            return Ok(());
        }
        if let Some(filter) = filter {
            self.add(Step::Seccomp(filter));
        }
        self.add(Step::Gate(ending.gate));
        if !ending.start_hooks.is_empty() {
            self.add(Step::StartHooks { hooks: ending.start_hooks, state: ending.state });
        }
        Ok(())
    }

    fn credentials(&mut self, process: &Process, user: bool) -> Result<Credentials, Error> {
        let caps = process.capabilities.clone().unwrap_or_default();
        // What this process lacks it cannot give. In a new user namespace it lacks nothing.
        let mine = match self.plan.inherited {
            Inherited::UNKNOWN => {
                rustix::thread::capabilities(None)
                    .map_err(|e| Error::io("read own capabilities", e))?
                    .permitted
            }
            inherited => CapabilitySet::from_bits_retain(inherited.permitted),
        };
        let mut missing = CapabilitySet::empty();
        let mut unknown = std::collections::BTreeSet::new();
        let mut set = |names: &[String]| {
            let wanted = capability_set(names, &mut unknown);
            if user {
                return wanted;
            }
            missing |= wanted - mine;
            wanted & mine
        };
        let ids = &process.user;
        let credentials = Credentials {
            uid: Uid::from_raw(ids.uid),
            gid: Gid::from_raw(ids.gid),
            groups: ids.additional_gids.iter().map(|&gid| Gid::from_raw(gid)).collect(),
            bounding: set(&caps.bounding),
            effective: set(&caps.effective),
            permitted: set(&caps.permitted),
            inheritable: set(&caps.inheritable),
            ambient: set(&caps.ambient),
            keep_groups: user && !crate::is_root() && ids.additional_gids.is_empty(),
            stays_root: !user && (ids.uid, ids.gid) == (0, 0) && sys::process::ids_at_start() == (0, 0),
            in_user_namespace: user,
        };
        // The specification asks for warnings, not errors, of both.
        if !unknown.is_empty() {
            let names: Vec<_> = unknown.into_iter().collect();
            self.plan.warnings.push(format!("unknown capabilities are left out: {}", names.join(", ")));
        }
        if !missing.is_empty() {
            self.plan.warnings.push(format!(
                "capabilities {:#x} are not held by the runtime itself and left out",
                missing.bits()
            ));
        }
        if ids.uid == u32::MAX || ids.gid == u32::MAX || ids.additional_gids.contains(&u32::MAX) {
            return Err(Error::invalid("process.user", "4294967295 is no id"));
        }
        Ok(credentials)
    }
}

/// Path, minor, major. Spec: config-linux.md, "Default Devices".
const DEFAULT_DEVICES: &[(&str, i64, i64)] = &[
    ("/dev/null", 3, 1),
    ("/dev/zero", 5, 1),
    ("/dev/full", 7, 1),
    ("/dev/random", 8, 1),
    ("/dev/urandom", 9, 1),
    ("/dev/tty", 0, 5),
];

fn default_device(path: &str, major: i64, minor: i64) -> Device {
    Device { kind: "c".into(), path: path.into(), major, minor, file_mode: Some(0o666), uid: None, gid: None }
}

fn filter(profile: &oci::runtime::Seccomp) -> Result<Option<Filter>, Error> {
    const NEW_LISTENER: u32 = 1 << 3;
    const TSYNC: u32 = 1;
    let program = seccomp::compile(profile)?;
    let notifies = |rule: &oci::runtime::SyscallRule| {
        rule.action == "SCMP_ACT_NOTIFY" && rule.names.iter().any(|name| name == "sendmsg")
    };
    let convert =
        |i: &seccomp::Instruction| sys::seccomp::Instruction { code: i.code, jt: i.jt, jf: i.jf, k: i.k };
    let flags = if program.notify { program.flags | NEW_LISTENER } else { program.flags };
    // In runc's words, for whom the first is none: there is one thread.
    crate::trace::say(|| format!("seccomp filter flags: {}", flags & !TSYNC));
    Ok(Some(Filter {
        instructions: program.instructions.iter().map(convert).collect(),
        flags,
        notifies_sendmsg: profile.syscalls.iter().any(notifies),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(spec: &Spec, list: &[&str]) -> Vec<String> {
        let list: Vec<_> =
            list.iter().map(|n| oci::runtime::Namespace { kind: (*n).into(), path: None }).collect();
        let mut namespaces = Namespaces::open(&list).unwrap();
        let request = Request {
            spec,
            rootfs: "/r".into(),
            bundle: "/b".as_ref(),
            cgroup: None,
            proc: &Proc::open().unwrap(),
            gate: Gate::Parent,
            console: None,
            preserve_fds: 0,
            no_pivot: false,
            launcher: false,
            keyring: None,
            state: oci::runtime::State::default(),
        };
        let plan = create(request, &mut namespaces).unwrap();
        plan.steps
            .iter()
            .map(|step| format!("{step:?}").split([' ', '(', '{']).next().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn order_of_a_default_container() {
        let mut spec = crate::default_spec();
        spec.mounts.retain(|mount| mount.kind.as_deref() != Some("cgroup"));
        let names = names(&spec, &["pid", "mount", "uts", "ipc", "network", "cgroup"]);
        let at =
            |name: &str| names.iter().position(|n| n == name).unwrap_or_else(|| panic!("{name}: {names:?}"));
        let last = |name: &str| names.iter().rposition(|n| n == name).unwrap();
        assert_eq!(at("Tie"), 0);
        assert!(at("Propagate") < at("AttachRoot") && at("AttachRoot") < at("Mount"));
        assert!(at("Await") < at("CgroupNamespace"));
        assert!(last("Mount") < at("Device") && last("Device") < at("Mask"));
        assert!(last("Mask") < at("PivotRoot") && at("RootReadOnly") < at("PivotRoot"));
        assert!(at("PivotRoot") < at("Become") && at("Become") < at("Find"));
        assert_eq!(last("Gate"), names.len() - 1);
    }

    #[test]
    fn no_new_privs_moves_the_filter_to_the_end() {
        let mut spec = crate::default_spec();
        spec.mounts.retain(|mount| mount.kind.as_deref() != Some("cgroup"));
        let linux = spec.linux.as_mut().unwrap();
        linux.seccomp =
            Some(oci::runtime::Seccomp { default_action: "SCMP_ACT_ALLOW".into(), ..Default::default() });
        for (no_new_privileges, after) in [(true, true), (false, false)] {
            spec.process.as_mut().unwrap().no_new_privileges = no_new_privileges;
            let names = names(&spec, &["mount"]);
            let at = |name: &str| names.iter().position(|n| n == name).unwrap();
            assert_eq!(at("Seccomp") > at("Become"), after);
        }
    }
}
