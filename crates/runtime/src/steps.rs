//! Doing what the plan says, in the child.

use crate::channel::{Channel, Kind};
use crate::child::Failure;
use crate::mounts::{attach, clone_tree, mount_one, new_filesystem};
use crate::plan::{Credentials, Step};
use crate::procfs::Proc;
use crate::site::Site;
use crate::{console, hooks, namespaces, rooted};
use oci::runtime::Device;
use rootdir::RootDir;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount, unmount};
use rustix::process::{DumpableBehavior, Gid, Signal, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets, ThreadNameSpaceType};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use sys::mount_attr::{self as attr, Attributes};
use sys::process::{Inherited, StringList};
use sys::spent::spend;

/// What the steps share.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) channel: Channel,
    /// The host's procfs; gone before the working directory is entered.
    pub(crate) proc: Option<Proc>,
    /// What the container's paths resolve in; gone with the pivot.
    site: Option<Site>,
    pub(crate) env: StringList,
    /// The fifo after it let us go, to tell `start` of a failure; execve closes it.
    pub(crate) gate: Option<OwnedFd>,
    /// A tmpfs that covers a masked directory, to be cloned for the others.
    empty: Option<OwnedFd>,
    /// A read-only bind of the null device that covers masked files, likewise.
    null: Option<OwnedFd>,
    cwd_entered: bool,
    descriptors_closed: bool,
    /// The working directory is the container's root.
    at_root: bool,
    pub(crate) inherited: Inherited,
}

type Done = Result<(), Failure>;

impl World {
    pub(crate) fn new(channel: Channel, proc: Proc, env: StringList, inherited: Inherited) -> World {
        World {
            channel,
            proc: Some(proc),
            site: None,
            env,
            gate: None,
            empty: None,
            null: None,
            cwd_entered: false,
            descriptors_closed: false,
            at_root: false,
            inherited,
        }
    }

    /// Has execve close all descriptors but the standard ones and those that are passed on.
    pub(crate) fn close_descriptors(&mut self, preserve_fds: u32) -> Done {
        if !std::mem::replace(&mut self.descriptors_closed, true) {
            sys::process::close_on_exec_from(3 + preserve_fds)
                .map_err(|e| Failure::new("close descriptors", e))?;
        }
        Ok(())
    }

    fn root(&self) -> Result<&RootDir, Failure> {
        self.site
            .as_ref()
            .map(|site| &site.root)
            .ok_or_else(|| Failure::new("the plan has no root at this step", Errno::NOTDIR))
    }

    fn site(&mut self) -> Result<&mut Site, Failure> {
        self.site.as_mut().ok_or_else(|| Failure::new("the plan has no root at this step", Errno::NOTDIR))
    }
}

/// Does one step. Those that end the list ([`Step::Find`], [`Step::Gate`], [`Step::Launch`], [`Step::Fork`]) are the caller's.
pub(crate) fn perform(step: Step, world: &mut World) -> Done {
    match step {
        Step::Tie => tie(),
        Step::JoinCgroup(files) => files.iter().try_for_each(|file| {
            let joined = join_cgroup(file);
            let joined = joined.map_err(|e| Failure::new(format!("write 0 to {}", file.display()), e))?;
            spend(joined);
            Ok(())
        }),
        Step::Await => world.wait_for_go(),
        Step::Join(mut list) => {
            let enter = |kind: namespaces::Kind, fd: &OwnedFd| namespaces::enter(kind, fd);
            list.retain(|(kind, fd)| *kind == namespaces::USER || enter(*kind, fd).is_err());
            list.reverse();
            list.into_iter().try_for_each(|(kind, fd)| {
                enter(kind, &fd).map_err(|e| Failure::new(format!("join {} namespace", kind.name), e))
            })
        }
        Step::JoinProcess { pidfd, namespaces } => {
            let bits = ThreadNameSpaceType::from_bits_retain(namespaces);
            let joined = rustix::thread::move_into_thread_name_spaces(pidfd.as_fd(), bits);
            joined.map_err(|e| Failure::new("join the container's namespaces", e))
        }
        Step::ChangeRoot(root) => change_root(root).map_err(|e| Failure::new("chroot to the rootfs", e)),
        Step::BecomeRoot => become_root().map_err(|e| Failure::new("become root of the user namespace", e)),
        Step::Loopback => sys::netns::loopback_up().map(spend).map_err(|e| Failure::new("set lo up", e)),
        Step::NewSession => rustix::process::setsid().map(|_| ()).map_err(|e| Failure::new("setsid", e)),
        Step::Keyring(name) => keyring(&name),
        Step::CgroupNamespace => sys::process::unshare(namespaces::CGROUP.bit)
            .map_err(|e| Failure::new("make cgroup namespace", e)),
        Step::Propagate(bits) => propagate(bits),
        Step::AttachRoot { path, private_parent } => {
            let root = attach_root(&path, private_parent)
                .map_err(|e| Failure::new(format!("attach rootfs {}", path.display()), e))?;
            world.site = Some(Site::new(RootDir::from_fd(root)));
            Ok(())
        }
        Step::RootHere => {
            let root = RootDir::open(Path::new("/")).map_err(|_| Failure::new("open /", Errno::NOENT))?;
            world.site = Some(Site::new(root));
            Ok(())
        }
        Step::Mount(mount) => mount_one(*mount, world.site()?),
        Step::Device { device, bind } => make_device(&device, bind, world.site()?)
            .map_err(|e| Failure::new(format!("make device {}", device.path), e)),
        Step::DeviceLinks { ptmx } => {
            device_links(world.site()?, ptmx).map_err(|e| Failure::new("make links in /dev", e))
        }
        Step::Terminal { size, owner, console, sink } => terminal(world, size, owner, console, sink),
        Step::RuntimeHooks => {
            world.channel.send(Kind::Hooks, "").map_err(|e| Failure::new("talk to the runtime", e))?;
            world.wait_for_go()
        }
        Step::ContainerHooks { hooks, state } => run_hooks("createContainer", &hooks, state, None),
        Step::StartHooks { hooks, state } => run_hooks("startContainer", &hooks, state, Some(&world.env)),
        Step::Sysctl { name, path, value } => {
            let proc = world
                .proc
                .as_ref()
                .ok_or_else(|| Failure::new("the plan has no /proc here", Errno::NOENT))?;
            proc.write(&format!("sys/{path}"), &value)
                .map_err(|e| Failure::new(format!("set sysctl {name} to {value:?}"), e))
        }
        Step::HostName(name) => rustix::system::sethostname(name.as_bytes())
            .map_err(|e| Failure::new(format!("set hostname {name:?}"), e)),
        Step::DomainName(name) => rustix::system::setdomainname(name.as_bytes())
            .map_err(|e| Failure::new(format!("set domainname {name:?}"), e)),
        Step::ReadOnly(path) => read_only(world.site()?, &path)
            .map_err(|e| Failure::new(format!("make {} read-only", path.display()), e)),
        Step::Mask(path) => {
            mask(world, &path).map_err(|e| Failure::new(format!("mask {}", path.display()), e))
        }
        Step::Directory(path) => {
            // What cannot be made is reported by entering it.
            drop(world.site()?.ensure_directory(&path));
            Ok(())
        }
        Step::RootReadOnly => attr::set(world.root()?, false, &Attributes::new(attr::RDONLY, 0))
            .map_err(|e| Failure::new("make the rootfs read-only", e)),
        Step::PivotRoot { propagation } => {
            pivot_root(world.root()?, propagation).map_err(|e| Failure::new("pivot_root", e))?;
            world.leave_root();
            world.at_root = true;
            Ok(())
        }
        Step::MoveRoot { rootfs } => {
            hide_kernel_mounts(world, &rootfs)
                .map_err(|e| Failure::new("hide the host's /proc and /sys", e))?;
            move_root(world.root()?).map_err(|e| Failure::new("move the rootfs to /", e))?;
            world.leave_root();
            Ok(())
        }
        Step::Scheduler(attributes) => sys::scheduling::set_scheduler(&attributes)
            .map_err(|e| Failure::new(format!("set scheduler (policy {})", attributes.policy), e)),
        Step::Affinity(set) => {
            rustix::thread::sched_setaffinity(None, &set).map_err(|e| Failure::new("set execCPUAffinity", e))
        }
        Step::EveryProcessor => {
            let mut set = rustix::thread::CpuSet::new();
            (0..rustix::thread::CpuSet::MAX_CPU).for_each(|number| set.set(number));
            // A kernel or a filter that does not let us leaves it as it was.
            let _ = rustix::thread::sched_setaffinity(None, &set);
            Ok(())
        }
        Step::MemoryPolicy { mode, nodes } => sys::scheduling::set_memory_policy(mode, &nodes)
            .map_err(|e| Failure::new("set linux.memoryPolicy", e)),
        Step::IoPriority { class, level } => {
            sys::process::set_io_priority(class, level).map_err(|e| Failure::new("set I/O priority", e))
        }
        Step::Personality(domain) => {
            sys::process::set_personality(domain).map_err(|e| Failure::new("set personality", e))
        }
        Step::Label { file, value } => {
            let proc = world
                .proc
                .as_ref()
                .ok_or_else(|| Failure::new("the plan has no /proc here", Errno::NOENT))?;
            proc.write(file, &value).map_err(|e| Failure::new(format!("set label {value:?}"), e))
        }
        Step::Home { uid } => {
            let home = crate::child::home(uid);
            world.env.push(home);
            Ok(())
        }
        Step::OwnStdio { uid } => {
            own_stdio(uid);
            Ok(())
        }
        Step::WorkingDirectory { path, last } => working_directory(world, &path, last),
        Step::Rlimits(list) => crate::limits::set(None, &list, |text| world.warn(&text))
            .map_err(|(what, e)| Failure::new(what, e)),
        Step::NoNewPrivileges => {
            rustix::thread::set_no_new_privs(true).map_err(|e| Failure::new("set no_new_privs", e))
        }
        Step::Seccomp(filter) => match sys::seccomp::load(&filter.instructions, filter.flags) {
            Ok(None) => Ok(()),
            Ok(Some(listener)) => hand_over(&world.channel, listener, filter.notifies_sendmsg)
                .map_err(|e| Failure::new("hand over the seccomp listener", e)),
            Err(e) if Errno::from_io_error(&e) == Some(Errno::BUSY) => Err(Failure::text(
                "load seccomp filter: another filter of this process has a listener already",
            )),
            Err(e) => Err(Failure::new("load seccomp filter", e)),
        },
        Step::Umask(mask) => {
            rustix::process::umask(Mode::from_raw_mode(mask & 0o777));
            Ok(())
        }
        Step::Become(credentials) => become_user(&credentials, world),
        Step::Fork { .. } | Step::Find | Step::Gate(_) | Step::Launch { .. } => {
            Err(Failure::new("a step in the wrong place", Errno::INVAL))
        }
    }
}

impl World {
    fn warn(&self, text: &str) {
        // A warning that is lost must not stop the container.
        self.channel.send(Kind::Warning, text).unwrap_or_default();
    }

    fn wait_for_go(&self) -> Done {
        match self.channel.wait_for_go() {
            Ok(true) => Ok(()),
            Ok(false) => Err(Failure::new("wait for the runtime", Errno::PIPE)),
            Err(e) => Err(Failure::new("wait for the runtime", e)),
        }
    }

    fn leave_root(&mut self) {
        self.empty.take().into_iter().chain(self.null.take()).for_each(spend);
        self.site.take().into_iter().for_each(Site::leave);
    }
}

fn join_cgroup(tasks: &Path) -> Result<OwnedFd, Errno> {
    let fd = rustix::fs::open(tasks, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::retry_on_intr(|| rustix::io::write(&fd, b"0"))?;
    Ok(fd)
}

fn tie() -> Done {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|e| Failure::new("tie to the runtime", e))?;
    // It hides already: that it inherited. Except from an unprivileged runtime, who could not write the id maps of a process
    // that hides; then it hides after that.
    rustix::process::umask(Mode::empty());
    Ok(())
}

/// Nobody in the container may ptrace us or read our descriptors before execve (CVE-2016-9962).
fn hide() {
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// Gives the parent the listener, and does not go on before it has it.
fn hand_over(channel: &Channel, listener: OwnedFd, by_number: bool) -> std::io::Result<()> {
    if by_number {
        channel.send(Kind::Listener, &listener.as_raw_fd().to_string())?;
    } else {
        channel.send_fd(Kind::Listener, listener.as_fd())?;
    }
    // Kept until the parent had time to fetch it; closed by execve at the latest.
    if channel.wait_for_go()? { Ok(()) } else { Err(Errno::PIPE.into()) }
}

fn become_root() -> Result<(), Errno> {
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
    // The kernel forgets the tie when ids change.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    hide();
    Ok(())
}

fn keyring(name: &std::ffi::CStr) -> Done {
    match sys::keyring::join_session(name) {
        // A kernel or an outer seccomp filter without keys has nothing to protect.
        Err(e) if matches!(Errno::from_io_error(&e), Some(Errno::NOSYS | Errno::PERM)) => Ok(()),
        other => other.map_err(|e| Failure::new("join session keyring", e)),
    }
}

fn propagate(bits: u64) -> Done {
    attr::set_everywhere(&Attributes::propagation(bits)).map_err(|e| Failure::new("set propagation of /", e))
}

fn attach_root(path: &Path, private_parent: bool) -> std::io::Result<OwnedFd> {
    if private_parent {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        make_parent_private(&rustix::fs::open(path, flags, Mode::empty())?)?;
    }
    let tree = clone_tree(CWD, path, true)?;
    // The way to the rootfs is the host's.
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    move_mount(&tree, "", CWD, path, flags)?;
    if private_parent {
        // Only the binds below keep the host as their peer, not the root itself.
        attr::set(&tree, false, &Attributes::propagation(attr::PRIVATE))?;
    }
    Ok(tree)
}

/// The mount that `directory` is on, found by walking up to its root, becomes private: what is attached below a shared
/// mount would appear on the host, and pivot_root(2) refuses it.
fn make_parent_private(directory: &OwnedFd) -> std::io::Result<()> {
    let mut here = rustix::io::fcntl_dupfd_cloexec(directory, 3)?;
    for _ in 0..256 {
        match attr::set(&here, false, &Attributes::propagation(attr::PRIVATE)) {
            Err(e) if Errno::from_io_error(&e) == Some(Errno::INVAL) => {}
            other => return other,
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        here = rustix::fs::openat(&here, "..", flags, Mode::empty())?;
    }
    Err(Errno::LOOP.into())
}

fn make_device(device: &Device, bind: bool, site: &mut Site) -> Result<(), Errno> {
    let path = rooted::clean(&device.path);
    let (kind, number) = match device.kind.as_str() {
        "c" | "u" => (FileType::CharacterDevice, true),
        "b" => (FileType::BlockDevice, true),
        "p" => (FileType::Fifo, false),
        _ => return Err(Errno::INVAL),
    };
    let major = u32::try_from(device.major).unwrap_or(0);
    let minor = u32::try_from(device.minor).unwrap_or(0);
    let (directory, name) = site.parent(&path)?;
    if bind {
        // The host's node, whose numbers are checked: a user namespace may not make one.
        let tree = clone_tree(CWD, &path, false)?;
        if !rooted::is_device(&tree, kind, major, minor)? {
            return Err(Errno::NODEV);
        }
        // Nothing is executed from a device, whatever mode the host's has.
        attr::set(&tree, false, &Attributes::new(attr::NOSUID | attr::NOEXEC, 0))
            .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
        let target = rooted::ensure_file(&site.root, &path)?;
        return attach(&tree, &target);
    }
    let mode = Mode::from_raw_mode(device.file_mode.unwrap_or(0o666) & 0o7777);
    let number = if number { rustix::fs::makedev(major, minor) } else { 0 };
    match rustix::fs::mknodat(directory, name, kind, mode, number) {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            // Fine if it is what we would make; anything else the image put there is not trusted.
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let there = rustix::fs::openat(directory, name, flags, Mode::empty())?;
            if !rooted::is_device(&there, kind, major, minor)? {
                return Err(Errno::EXIST);
            }
        }
        Err(e) => return Err(e),
    }
    if device.uid.is_some() || device.gid.is_some() {
        let uid = Uid::from_raw(device.uid.unwrap_or(0));
        let gid = Gid::from_raw(device.gid.unwrap_or(0));
        rustix::fs::chownat(directory, name, Some(uid), Some(gid), rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

fn device_links(site: &mut Site, ptmx: bool) -> Result<(), Errno> {
    let (directory, _) = site.parent(Path::new("/dev/fd"))?;
    let links = [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ];
    for (name, to) in links {
        match rustix::fs::symlinkat(to, directory, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e),
        }
    }
    if !ptmx {
        return Ok(());
    }
    match rustix::fs::symlinkat("pts/ptmx", directory, "ptmx") {
        Err(Errno::EXIST) => {
            rustix::fs::unlinkat(directory, "ptmx", rustix::fs::AtFlags::empty())?;
            rustix::fs::symlinkat("pts/ptmx", directory, "ptmx")
        }
        other => other,
    }
}

fn terminal(
    world: &World,
    size: Option<(u16, u16)>,
    owner: u32,
    console: bool,
    sink: Option<OwnedFd>,
) -> Done {
    let at = |e: Errno| Failure::new("set up the terminal", e);
    let root = world.root()?;
    let pty = console::open_pty(root).map_err(|e| Failure::new("open a terminal at /dev/pts", e))?;
    if let Some((rows, columns)) = size {
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&pty.master, size).map_err(at)?;
    }
    rustix::fs::fchown(&pty.slave, Some(Uid::from_raw(owner)), None).map_err(at)?;
    if console {
        console::mount_console(root, pty.slave.as_fd()).map_err(|e| Failure::new("mount /dev/console", e))?;
    }
    let sent = match sink {
        Some(sink) => console::send_master(sink.as_fd(), pty.master.as_fd()),
        None => world.channel.send_fd(Kind::Terminal, pty.master.as_fd()),
    };
    sent.map_err(|e| Failure::new("hand over the terminal", e))?;
    console::take_terminal(&pty.slave).map_err(at)
}

fn run_hooks(
    stage: &'static str,
    list: &[oci::runtime::Hook],
    mut state: oci::runtime::State,
    inside: Option<&StringList>,
) -> Done {
    state.pid = rustix::process::getpid().as_raw_pid();
    hooks::run(stage, list, &state, inside).map_err(|e| Failure::text(e.to_string()))
}

/// What is not there need not be protected.
fn absent(e: Errno) -> bool {
    matches!(e, Errno::NOENT | Errno::NOTDIR)
}

fn read_only(site: &mut Site, path: &Path) -> std::io::Result<()> {
    let attributes = Attributes::new(attr::RDONLY, 0);
    if let Some((directory, name)) = site.kernel_name(path) {
        let name = CString::new(name.as_bytes())?;
        let tree = match attr::clone_with(directory, &name, true, &attributes) {
            Err(e) if e.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => return Ok(()),
            other => other?,
        };
        move_mount(&tree, "", directory, &name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        spend(tree);
        return Ok(());
    }
    let target = match rooted::find(&site.root, path) {
        Err(e) if absent(e) => return Ok(()),
        other => other?,
    };
    let tree = attr::clone_with(&target, c"", true, &attributes)?;
    attach(&tree, &target)?;
    spend(target);
    spend(tree);
    Ok(())
}

/// Files of procfs that documents mask. Only a guess what to try first: the kernel says where it is wrong.
const FILES: &[&str] = &[
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/sysrq-trigger",
    "/proc/timer_list",
    "/proc/timer_stats",
];

fn mask(world: &mut World, path: &Path) -> std::io::Result<()> {
    let root = &world.site.as_ref().ok_or(Errno::NOTDIR)?.root;
    let guess_file = FILES.iter().any(|file| path == Path::new(file));
    // Else whether it is a directory shows in opening it as one.
    let flags = if guess_file { OFlags::PATH } else { OFlags::PATH | OFlags::DIRECTORY };
    let (target, directory) = match rooted::open(root, path, flags) {
        Ok(target) => (target, !guess_file),
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR) if !guess_file => match rooted::find(root, path) {
            Ok(target) => (target, false),
            Err(e) if absent(e) => return Ok(()),
            Err(e) => return Err(e.into()),
        },
        Err(e) if absent(e) => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    match cover(world, &target, directory) {
        // A file is not put over a directory.
        Err(e) if guess_file && matches!(Errno::from_io_error(&e), Some(Errno::INVAL | Errno::NOTDIR)) => {
            cover(world, &target, true)?;
        }
        other => other?,
    }
    spend(target);
    Ok(())
}

/// Hides what is open as `target` under an empty directory, or under the null device.
fn cover(world: &mut World, target: &OwnedFd, directory: bool) -> std::io::Result<()> {
    let root = &world.site.as_ref().ok_or(Errno::NOTDIR)?.root;
    let first = if directory { &mut world.empty } else { &mut world.null };
    let tree = match &*first {
        // With the attributes of the first one.
        Some(first) => clone_tree(first, Path::new(""), false)?,
        None if directory => {
            let set = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;
            new_filesystem("tmpfs", "tmpfs", &["nr_blocks=1".to_owned()], set).map_err(|(_, e)| e)?
        }
        None => {
            let device = null_device(root)?;
            // Read-only, so that its mode and owner cannot be changed through the mask; writing to the device still works.
            let tree = attr::clone_with(&device, c"", false, &Attributes::new(attr::RDONLY, 0))?;
            spend(device);
            tree
        }
    };
    attach(&tree, target)?;
    match first {
        Some(_) => spend(tree),
        None => *first = Some(tree),
    }
    Ok(())
}

/// The container's null device, verified on its descriptor (CVE-2025-31133), or the host's if there is none.
fn null_device(root: &RootDir) -> Result<OwnedFd, Errno> {
    let is_null = |fd: &OwnedFd| rooted::is_device(fd, FileType::CharacterDevice, 1, 3);
    if let Ok(fd) = rooted::find_no_follow(root, Path::new("/dev/null"))
        && is_null(&fd)?
    {
        return Ok(fd);
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let host = rustix::fs::open("/dev/null", flags, Mode::empty())?;
    if is_null(&host)? { Ok(host) } else { Err(Errno::NODEV) }
}

fn pivot_root(root: &RootDir, propagation: Option<(u64, bool)>) -> std::io::Result<()> {
    let shared = propagation.is_some_and(|(bits, _)| bits == attr::SHARED);
    let old = shared
        .then(|| rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()))
        .transpose()?;
    rustix::process::fchdir(root)?;
    rustix::process::pivot_root(".", ".")?;
    // The old root now lies over the new one, at the same place, and `.` means what lies on top.
    if let Some(old) = old {
        rustix::process::fchdir(&old)?;
        // Or unmounting it here would unmount on the host.
        attr::set(&old, true, &Attributes::propagation(attr::SLAVE))?;
    }
    unmount(".", UnmountFlags::DETACH)?;
    if shared {
        // Else it is the new root already, where pivot_root(2) left us.
        rustix::process::chdir("/")?;
    }
    match propagation {
        Some((bits, recursive)) => attr::set(root, recursive, &Attributes::propagation(bits)),
        None => Ok(()),
    }
}

/// Takes the host's procfs and sysfs away, which stay below the new root when it is not pivoted: while one is in sight that
/// nothing covers, the kernel lets a user namespace in the container mount another, without our masks.
fn hide_kernel_mounts(world: &mut World, rootfs: &Path) -> std::io::Result<()> {
    let table = world.proc.as_ref().ok_or(Errno::NOENT)?.read("self/mountinfo")?;
    for line in table.lines() {
        let mut fields = line.split(' ').skip(3);
        let (Some("/"), Some(point)) = (fields.next(), fields.next()) else { continue };
        let kind = line.split_once(" - ").and_then(|(_, rest)| rest.split(' ').next());
        if !matches!(kind, Some("proc" | "sysfs")) || Path::new(point).starts_with(rootfs) {
            continue;
        }
        let point = unescape(point);
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        // Covered by another mount, or gone with one.
        let Ok(there) = rustix::fs::open(&point, flags, Mode::empty()) else { continue };
        attr::set(&there, true, &Attributes::propagation(attr::SLAVE)).or_else(|e| {
            match e.raw_os_error() {
                // No mount of its own: what is seen at the path is another.
                Some(code) if code == Errno::INVAL.raw_os_error() => Ok(()),
                _ => Err(e),
            }
        })?;
        if unmount(&point, UnmountFlags::DETACH).is_err() {
            // The mount is not ours to take away: it came with a user namespace's.
            let cover = new_filesystem("tmpfs", "tmpfs", &[], attr::RDONLY);
            attach(&cover.map_err(|(_, e)| e)?, &there)?;
        }
    }
    Ok(())
}

/// A path as mountinfo has it, where some characters are octal.
fn unescape(path: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(path.to_owned(), |p, (from, to)| p.replace(from, to))
}

pub(crate) fn move_root(root: &RootDir) -> Result<(), Errno> {
    rustix::process::fchdir(root)?;
    move_mount(root, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    rustix::process::chroot(".")?;
    rustix::process::chdir("/")
}

fn change_root(root: OwnedFd) -> Result<(), Errno> {
    rustix::process::fchdir(&root)?;
    rustix::process::chroot(".")?;
    rustix::process::chdir("/")
}

/// Best effort, as in other runtimes: a socket or a file on a read-only mount keeps its owner. The null device is shared, and
/// becomes the container's own: of the host's, a checkpoint could not tell where to find it again.
fn own_stdio(uid: u32) {
    let mut own = None;
    for fd in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
        let Ok(stat) = rustix::fs::fstat(fd) else { continue };
        if is_null_device(&stat) {
            if let Some(null) = own.get_or_insert_with(null_device_here) {
                let _ = match fd.as_raw_fd() {
                    0 => rustix::stdio::dup2_stdin(null),
                    1 => rustix::stdio::dup2_stdout(null),
                    _ => rustix::stdio::dup2_stderr(null),
                };
            }
        } else if stat.st_uid != uid {
            let _ = rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), None);
        }
    }
    own.flatten().into_iter().for_each(spend);
}

fn is_null_device(stat: &rustix::fs::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == rustix::fs::makedev(1, 3)
}

/// The null device below our root, which is the container's by now, if there is one.
fn null_device_here() -> Option<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
    let null = rustix::fs::open("/dev/null", flags, Mode::empty()).ok()?;
    rustix::fs::fstat(&null).is_ok_and(|stat| is_null_device(&stat)).then_some(null)
}

fn working_directory(world: &mut World, path: &Path, last: bool) -> Done {
    // Nothing of the host may be reachable as /proc/self/fd/N from here on.
    world.leave_root();
    world.proc.take().into_iter().for_each(Proc::spend);
    sys::spent::close();
    if world.at_root && path == Path::new("/") {
        world.cwd_entered = true;
        return Ok(());
    }
    if !world.cwd_entered {
        let failure = |e: Errno| {
            let text = crate::child::lower(e);
            Failure::text(format!("chdir to cwd ({path:?}) set in config.json failed: {text}"))
        };
        match rustix::process::chdir(path) {
            Ok(()) => world.cwd_entered = true,
            // The user may enter what root may not (a user's directory on NFS), so ask again then.
            Err(Errno::ACCESS | Errno::PERM) if !last => return Ok(()),
            Err(e) => return Err(failure(e)),
        }
    } else if last {
        return Ok(());
    }
    if path == Path::new("/") {
        // Which is our root whatever that is.
        return Ok(());
    }
    // The kernel says "(unreachable)" of a directory that is not below our root.
    match rustix::process::getcwd(Vec::new()) {
        Ok(cwd) if cwd.as_bytes().first() == Some(&b'/') => Ok(()),
        _ => Err(Failure::text(
            "current working directory is outside of container mount namespace root -- possible container breakout detected",
        )),
    }
}

fn become_user(credentials: &Credentials, world: &World) -> Done {
    let at = |what: &'static str| move |e: Errno| Failure::new(what, e);
    // A new user namespace gives all of them.
    let held = if credentials.in_user_namespace { u64::MAX } else { world.inherited.bounding };
    let held = CapabilitySet::from_bits_retain(held);
    for number in 0..64u32 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if credentials.bounding.contains(capability) || !held.contains(capability) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // Beyond the last capability that this kernel knows.
            Err(Errno::INVAL) => break,
            Err(e) => return Err(at("drop from the bounding set")(e)),
        }
    }
    // Root that stays root keeps its capabilities, its tie and its cover.
    if !credentials.stays_root {
        rustix::thread::set_keep_capabilities(true).map_err(at("keep capabilities"))?;
    }
    // Who is the same user already, with the same groups, need not become it.
    let same = !credentials.in_user_namespace
        && credentials.groups.is_empty()
        && world.inherited.only_ids == Some((credentials.uid.as_raw(), credentials.gid.as_raw()));
    if !credentials.keep_groups && !same {
        rustix::thread::set_thread_groups(&credentials.groups).map_err(at("set additional groups"))?;
    }
    let (uid, gid) = (credentials.uid, credentials.gid);
    if !same {
        rustix::thread::set_thread_res_gid(gid, gid, gid)
            .map_err(|e| Failure::new(format!("become group {}", gid.as_raw()), e))?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)
            .map_err(|e| Failure::new(format!("become user {}", uid.as_raw()), e))?;
    }
    if !credentials.stays_root {
        rustix::thread::set_keep_capabilities(false).map_err(at("keep capabilities"))?;
        // Changing ids unties, and makes the process visible again on some settings.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
            .map_err(at("tie to the runtime"))?;
        hide();
    }
    let sets = CapabilitySets {
        effective: credentials.effective,
        permitted: credentials.permitted,
        inheritable: credentials.inheritable,
    };
    rustix::thread::set_capabilities(None, sets).map_err(at("set capabilities"))?;
    if credentials.in_user_namespace || world.inherited.ambient != 0 {
        rustix::thread::clear_ambient_capability_set().map_err(at("clear ambient capabilities"))?;
    }
    for number in 0..64u32 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if credentials.ambient.contains(capability) {
            // One that is not inheritable too cannot be raised; as with other runtimes that is worth a warning only.
            if let Err(e) = rustix::thread::configure_capability_in_ambient_set(capability, true) {
                let name = oci::runtime::ALL_CAPABILITIES.get(number as usize).unwrap_or(&"?");
                world
                    .warn(&format!("can't raise ambient capability CAP_{name}: {}", std::io::Error::from(e)));
            }
        }
    }
    Ok(())
}

/// `HOME=` and the directory.
pub(crate) fn home_entry(directory: &[u8]) -> CString {
    CString::new([b"HOME=", directory].concat()).unwrap_or_else(|_| c"HOME=/".into())
}
