//! Checkpoint and restore: what a container is, told to the `criu` program in its own words.
//!
//! By criu's command line, not by its RPC (`criu swrk`): the line is documented, the same for ten years, and wants no
//! encoder of protobuf in a program of two megabytes. Hooks that belong to the moment when the namespaces are there run when
//! criu's [action script](script) says so. A terminal is left out of the images, as what others own, and the restored process
//! gets a new one in its place, a pty of the host's.
//!
//! Docs: criu(8); <https://criu.org/External_bind_mounts>, <https://criu.org/Inheriting_FDs_on_restore>,
//! <https://criu.org/Tty_layer>.

mod script;

use crate::console::{self, Pty};
use crate::mounts::is_bind;
use crate::namespaces::{self, Namespaces};
use crate::procfs::Proc;
use crate::state::{Container, ContainerId, State, Status, Store};
use crate::verbs::{
    Exit, console_sink, dispose, make_cgroup, oci_state, open_cgroup, poststart, undo, wait_in_foreground,
    write_pid_file,
};
use crate::{Error, config, hooks, rooted};
use cgroup::Cgroup;
use oci::runtime::Spec;
use rootdir::RootDir;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::FdFlags;
use rustix::process::{Pid, PidfdFlags};
use std::ffi::{CString, OsString};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use sys::mount_attr::{self, Attributes};

/// Where the process's standard streams led, beside criu's images; as runc writes it.
const DESCRIPTORS: &str = "descriptors.json";
/// criu writes the new process's id here, in the container's directory.
pub(crate) const PID_FILE: &str = "criu.pid";
/// Of criu's log, what is looked through for the reason.
const MAX_LOG: u64 = 4 << 20;

/// What checkpoint and restore have in common.
#[derive(Debug, Clone, Default)]
pub struct Criu {
    /// The program; `criu` of `PATH` where none is named.
    pub program: Option<PathBuf>,
    pub image_path: PathBuf,
    /// For criu's log; the images' directory where none is named.
    pub work_path: Option<PathBuf>,
    /// `full`, `strict`, `soft` or `ignore`.
    pub manage_cgroups: String,
    /// The network namespace is left empty: what is in it someone else makes.
    pub empty_network: bool,
    /// Pages stay where they are until they are asked for, over the network.
    pub lazy_pages: bool,
    /// criu's flags without value: `--tcp-established` and so on.
    pub flags: Vec<&'static str>,
}

/// Options of `checkpoint`.
#[derive(Debug, Clone, Default)]
pub struct Checkpoint {
    pub criu: Criu,
    /// Images of an earlier `pre_dump`, relative to the new ones.
    pub parent_path: Option<PathBuf>,
    pub leave_running: bool,
    /// Only memory, and the container runs on.
    pub pre_dump: bool,
    /// Where the pages go, if not into files.
    pub page_server: Option<(String, u16)>,
    /// A descriptor of the caller's on which criu says that it is ready.
    pub status_fd: Option<i32>,
}

/// Options of `restore`.
#[derive(Debug, Clone, Default)]
pub struct Restore {
    pub criu: Criu,
    pub bundle: PathBuf,
    pub detach: bool,
    pub console_socket: Option<PathBuf>,
    pub pid_file: Option<PathBuf>,
    pub lsm_profile: Option<String>,
    pub lsm_mount_context: Option<String>,
    pub rootless: Option<bool>,
    /// The host's root is the initial ramdisk, which pivot_root(2) refuses.
    pub no_pivot: bool,
}

/// Writes the container's processes into images and ends it, unless it shall run on.
///
/// Gives what failed of what may fail: poststop hooks.
pub fn checkpoint(store: &Store, id: &ContainerId, options: &Checkpoint) -> Result<Vec<String>, Error> {
    let container = store.lock(id)?;
    let state = container.read()?;
    let proc = Proc::open()?;
    let (status, pidfd) = container.status(&state, &proc)?;
    if !matches!(status, Status::Running | Status::Paused) {
        let state = status.as_str();
        return Err(Error::argument(format!("Container cannot be checkpointed in {state} state")));
    }
    let spec = container.read_config()?;
    make_directory(&options.criu.image_path)?;
    let mut call = Call::new(if options.pre_dump { "pre-dump" } else { "dump" }, &options.criu)?;
    call.pair("--tree", state.pid.to_string());
    if options.leave_running {
        call.arg("--leave-running");
    }
    if let Some(parent) = &options.parent_path {
        if parent.is_absolute() {
            return Err(Error::argument("--parent-path must be relative"));
        }
        let path = options.criu.image_path.join(parent);
        if !path.is_dir() {
            return Err(Error::argument(format!("invalid --parent-path: no directory {}", path.display())));
        }
        call.pair("--prev-images-dir", parent);
    }
    if options.pre_dump || options.parent_path.is_some() {
        call.arg("--track-mem");
    }
    if let Some((host, port)) = &options.page_server {
        // With lazy pages criu is the one who is asked, and this is where.
        if !options.criu.lazy_pages {
            call.arg("--page-server");
        }
        call.pair("--address", host).pair("--port", port.to_string());
    }
    if let Some(number) = options.status_fd {
        call.inherit(
            sys::process::borrow_inherited(number).and_then(|fd| Ok(rustix::io::dup(fd)?)),
            "--status-fd",
            "",
        )?;
    }
    let cgroup = open_cgroup(&state)?;
    if let Some(directory) = cgroup.as_ref().and_then(freezer) {
        call.pair("--freeze-cgroup", directory);
    }
    for (kind, name) in EXTERNAL_NAMESPACES.iter().filter(|(kind, _)| joins(&spec, *kind)) {
        let inode = proc.namespace(&state.pid.to_string(), kind.link).and_then(rustix::fs::fstat);
        let inode = inode.map_err(|e| Error::io(format!("look at the {} namespace", kind.name), e))?.st_ino;
        call.pair("--external", format!("{}[{inode}]:{name}", kind.link));
    }
    if !options.pre_dump {
        for (inside, _) in external_mounts(&spec, &state.bundle, cgroup.as_ref()) {
            call.pair("--external", format!("mnt[{inside}]:{inside}"));
        }
        for path in masked_files(&spec, &state)? {
            call.pair("--external", format!("mnt[{path}]:/dev/null"));
        }
        let links: Vec<String> = (0..3).map(|number| stream(&state, number)).collect();
        for link in terminals(&links) {
            call.pair("--external", link);
        }
        if spec.process.as_ref().is_some_and(|process| process.terminal) {
            call.pair("--external", format!("mnt[{CONSOLE}]:{CONSOLE}"));
        }
        let text = serde_json::to_vec(&links).unwrap_or_default();
        let path = options.criu.image_path.join(DESCRIPTORS);
        std::fs::write(&path, text).map_err(|e| Error::io(format!("write {}", path.display()), e))?;
    }
    call.run(None)?;
    if options.leave_running || options.pre_dump {
        return Ok(Vec::new());
    }
    dispose(&container, &state, status, pidfd, None)
}

/// Makes a container of images and lets it run from where it was. Without `detach` waits for its end and removes it.
pub fn restore(store: &Store, id: &ContainerId, options: &Restore) -> Result<Exit, Error> {
    let (spec, bytes, bundle) = config::read_bundle(&options.bundle, None)?;
    let proc = Proc::open()?;
    let namespaces = Namespaces::open(spec.linux.as_ref().map_or(&[][..], |linux| &linux.namespaces))?;
    config::check(&spec, &namespaces, &proc)?;
    if !namespaces.makes(namespaces::MOUNT) {
        return Err(Error::unsupported("restore without a mount namespace", ""));
    }
    let process = spec.process.as_ref().ok_or_else(|| Error::invalid("process", "is missing"))?;
    let sink = console_sink(process, options.console_socket.as_deref(), options.detach)?;
    if !options.criu.image_path.is_dir() {
        let path = options.criu.image_path.display();
        return Err(Error::argument(format!("--image-path {path} is not a directory")));
    }
    let mut state = State::new(id, bundle.clone(), config::rootfs(&spec, &bundle)?);
    state.cgroup = config::cgroup_path(&spec, id.as_str());
    state.namespaces = namespaces.new | namespaces.joined.iter().fold(0, |bits, (kind, _)| bits | kind.bit);
    state.annotations.clone_from(&spec.annotations);
    let container = store.create(id)?;
    let (mut cgroup, mut master) = (None, None);
    let restored = container
        .write_config(&bytes)
        .and_then(|()| container.write_first(&state))
        .and_then(|()| {
            cgroup = make_cgroup(&mut state, &spec, options.rootless)?;
            Ok(())
        })
        .and_then(|()| {
            if process.terminal {
                master = Some(terminal(&spec, &namespaces, process.user.uid)?);
            }
            let slave = master.as_ref();
            bring_back(&spec, options, namespaces, cgroup.as_ref(), &container, &mut state, &proc, slave)
        })
        .and_then(|pidfd| match (&sink, &master) {
            (Some(sink), Some((pty, _))) => {
                let sent = console::send_master(sink.as_fd(), pty.master.as_fd());
                // Nobody would ever read what it says.
                sent.inspect_err(|_| drop(sys::process::send_signal(&pidfd, 9)))
                    .map(|()| pidfd)
                    .map_err(|e| Error::io("send the terminal", e))
            }
            _ => Ok(pidfd),
        });
    let pidfd = match restored {
        Ok(pidfd) => pidfd,
        Err(e) => {
            undo(cgroup.as_ref(), &container, &state);
            return Err(e);
        }
    };
    let mut warnings = not_run(&spec);
    match cgroup.map(|cgroup| cgroup.apply(&config::resources(&spec))).transpose() {
        Ok(more) => warnings.extend(more.into_iter().flatten().map(|warning| warning.to_string())),
        // A container without its limits is none that was asked for.
        Err(e) => {
            drop(dispose(&container, &state, Status::Running, Some(pidfd), None));
            return Err(e.into());
        }
    }
    if let Some(hooks) = &spec.hooks {
        // As of a start, it is ended, and stays, stopped.
        poststart(hooks, &state).inspect_err(|_| drop(sys::process::send_signal(&pidfd, 9)))?;
    }
    if options.detach {
        return Ok(Exit { code: 0, warnings });
    }
    drop(container);
    let master = master.map(|(pty, _)| pty.master);
    let code = wait_in_foreground(master.as_ref(), &pidfd)?;
    match crate::delete(store, id, true) {
        Ok(more) => Ok(Exit { code, warnings: [warnings, more].concat() }),
        Err(Error::NotFound { .. }) => Ok(Exit { code, warnings }),
        Err(e) => Err(e),
    }
}

/// Hooks that criu has no moment for. What they did to the container is in the images; a caller is told all the same.
fn not_run(spec: &Spec) -> Vec<String> {
    let hooks = spec.hooks.clone().unwrap_or_default();
    let stages = [("createContainer", hooks.create_container), ("startContainer", hooks.start_container)];
    let given = stages.into_iter().filter(|(_, list)| !list.is_empty());
    given.map(|(stage, _)| format!("{stage} hooks are not run on restore")).collect()
}

/// A new terminal, of the container's user.
fn terminal(spec: &Spec, namespaces: &Namespaces, uid: u32) -> Result<(Pty, CString), Error> {
    let at = |e: rustix::io::Errno| Error::io("make a terminal", e);
    let (pty, name) = console::open_host_pty().map_err(at)?;
    if let Some(uid) = config::host_uid(spec, namespaces, uid) {
        rustix::fs::fchown(&pty.slave, Some(rustix::fs::Uid::from_raw(uid)), None).map_err(at)?;
    }
    console::keep_line_ends(&pty.master);
    Ok((pty, name))
}

#[expect(
    clippy::too_many_arguments,
    reason = "the second half of `restore`, apart so that one place can undo it"
)]
fn bring_back(
    spec: &Spec,
    options: &Restore,
    namespaces: Namespaces,
    cgroup: Option<&Cgroup>,
    container: &Container,
    state: &mut State,
    proc: &Proc,
    terminal: Option<&(Pty, CString)>,
) -> Result<OwnedFd, Error> {
    let images = &options.criu.image_path;
    let mut call = Call::new("restore", &options.criu)?;
    let outside = Outside::here()?;
    mount_root(spec, state, options.no_pivot)?;
    let pid_file = container.path_of(PID_FILE);
    call.arg("--restore-detached").arg("--restore-sibling");
    call.pair("--root", &state.rootfs).pair("--pidfile", &pid_file);
    for (inside, source) in external_mounts(spec, &state.bundle, cgroup) {
        call.pair("--external", format!("mnt[{inside}]:{}", source.display()));
    }
    if spec.linux.as_ref().is_some_and(|linux| !linux.masked_paths.is_empty()) {
        call.pair("--external", "mnt[/dev/null]:/dev/null");
    }
    for (kind, fd) in namespaces.joined {
        let name = EXTERNAL_NAMESPACES.iter().find(|(external, _)| *external == kind);
        let (_, name) = name.ok_or_else(|| {
            Error::unsupported(format!("restore into a given {} namespace", kind.name), "criu makes it anew")
        })?;
        call.inherit(Ok(fd), "--inherit-fd", name)?;
    }
    let path = images.join(DESCRIPTORS);
    let links = std::fs::read(&path).map_err(|e| Error::io(format!("read {}", path.display()), e))?;
    let links: Vec<String> =
        serde_json::from_slice(&links).map_err(|source| Error::Document { path, source })?;
    if let Some((pty, name)) = terminal {
        let old = terminals(&links);
        if old.is_empty() {
            return Err(Error::argument("the images are of a container without a terminal"));
        }
        for link in old {
            let slave = pty.slave.as_fd().try_clone_to_owned();
            call.inherit(slave, "--inherit-fd", link)?;
        }
        call.pair("--external", format!("mnt[{CONSOLE}]:{}", name.to_string_lossy()));
    }
    // Copies: criu's own standard streams are not the container's.
    for (number, link) in (0..3).zip(links).filter(|(_, link)| link.starts_with("pipe:[")) {
        let copy =
            sys::process::borrow_inherited(number).and_then(|fd| Ok(rustix::io::fcntl_dupfd_cloexec(fd, 3)?));
        call.inherit(copy, "--inherit-fd", &link)?;
    }
    for (flag, value) in
        [("--lsm-profile", &options.lsm_profile), ("--lsm-mount-context", &options.lsm_mount_context)]
    {
        if let Some(value) = value {
            call.pair(flag, value);
        }
    }
    if let Some(path) = cgroup.map(Cgroup::path).filter(|_| options.criu.manage_cgroups != "ignore") {
        call.pair("--cgroup-root", path);
    }
    let hooks = spec.hooks.clone().unwrap_or_default();
    let mut early = |pid: i32| {
        // criu has begun, and hooks belong where the runtime was called: what they mount stays.
        outside.enter()?;
        let state = oci_state(&State { pid, ..state.clone() }, "creating");
        hooks::run("prestart", &hooks.prestart, &state, None)?;
        hooks::run("createRuntime", &hooks.create_runtime, &state, None)
    };
    let has_early = !hooks.prestart.is_empty() || !hooks.create_runtime.is_empty();
    let ran = call.run(has_early.then_some(&mut early)).and_then(|()| outside.enter());
    let text = std::fs::read_to_string(&pid_file);
    container.remove_file(PID_FILE)?;
    ran?;
    let text = text.map_err(|e| Error::io("read the id that criu wrote", e))?;
    let pid = text.trim().parse().ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| Error::Child { text: format!("criu wrote {text:?} for its id") })?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())
        .map_err(|e| Error::io("open the restored process", e))?;
    state.pid = pid.as_raw_pid();
    let started = proc.stat(state.pid);
    state.start_time = started.map_err(|e| Error::io(format!("read state of process {pid}"), e))?.1;
    let kept = container.write(state).and_then(|()| write_pid_file(options.pid_file.as_deref(), state.pid));
    if kept.is_err() {
        // Nobody would find it again.
        drop(sys::process::send_signal(&pidfd, 9));
    }
    kept.map(|()| pidfd)
}

/// Where the runtime was called: the mount namespace, the root and the working directory.
struct Outside {
    namespace: OwnedFd,
    root: OwnedFd,
    directory: OwnedFd,
}

impl Outside {
    fn here() -> Result<Outside, Error> {
        let open = |path: &str, flags| rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty());
        let all = || {
            Ok(Outside {
                namespace: open("/proc/self/ns/mnt", OFlags::RDONLY)?,
                root: open("/", OFlags::PATH)?,
                directory: open(".", OFlags::PATH)?,
            })
        };
        all().map_err(|e: rustix::io::Errno| Error::io("open the mount namespace", e))
    }

    /// Back there; again does no harm.
    fn enter(&self) -> Result<(), Error> {
        let at = |e: rustix::io::Errno| Error::io("return to the mount namespace", e);
        namespaces::enter(namespaces::MOUNT, &self.namespace).map_err(at)?;
        // setns(2) gives the namespace's own root, which is another where the caller had changed it.
        rustix::process::fchdir(&self.root).map_err(at)?;
        rustix::process::chroot(".").map_err(at)?;
        rustix::process::fchdir(&self.directory).map_err(at)
    }
}

/// Makes the rootfs a mount, which criu wants, in a mount namespace of our own that criu inherits and we leave; and what is missing of
/// the places where file systems of the host go.
fn mount_root(spec: &Spec, state: &State, no_pivot: bool) -> Result<(), Error> {
    let path = &state.rootfs;
    let at = |e: std::io::Error| Error::io(format!("mount {}", path.display()), e);
    let root = RootDir::from_fd(config::open_root(path)?);
    let mut covered: Vec<PathBuf> = Vec::new();
    for mount in &spec.mounts {
        let place = rooted::clean(&mount.destination);
        // Below another mount it is in that one, which criu fills.
        if !covered.iter().any(|other| place.starts_with(other)) {
            let source = state.bundle.join(mount.source.as_deref().unwrap_or_default());
            let file = is_bind(mount) && !source.is_dir();
            let made = if file {
                rooted::ensure_file(&root, &place)
            } else {
                rooted::ensure_directory(&root, &place)
            };
            made.map_err(|e| Error::io(format!("make {}", mount.destination), e))?;
        }
        covered.push(place);
    }
    sys::process::unshare(namespaces::MOUNT.bit).map_err(at)?;
    mount_attr::set_everywhere(&Attributes::propagation(mount_attr::SLAVE)).map_err(at)?;
    if no_pivot {
        cover_root().map_err(at)?;
    }
    let tree = crate::mounts::clone_tree(CWD, path, true).map_err(|e| at(e.into()))?;
    let target = config::open_root(path)?;
    crate::mounts::attach(&tree, &target).map_err(|e| at(e.into()))
}

/// Puts a clone of all mounts over the root. criu changes the root by pivot_root(2), which refuses one that is mounted on
/// nothing, as the initial ramdisk is; the clone is mounted on it.
fn cover_root() -> std::io::Result<()> {
    let here = std::env::current_dir()?;
    let all = RootDir::from_fd(crate::mounts::clone_tree(CWD, Path::new("/"), true)?);
    crate::steps::move_root(&all)?;
    std::env::set_current_dir(here)
}

/// Namespaces that criu takes as they are, and what they are called between dump and restore.
const EXTERNAL_NAMESPACES: &[(namespaces::Kind, &str)] =
    &[(namespaces::NETWORK, "extRootNetNS"), (namespaces::PID, "extRootPidNS")];

fn joins(spec: &Spec, kind: namespaces::Kind) -> bool {
    let list = spec.linux.as_ref().map_or(&[][..], |linux| &linux.namespaces);
    list.iter().any(|one| one.kind == kind.name && one.path.as_deref().is_some_and(|path| !path.is_empty()))
}

/// File systems of the host inside: where, and which.
fn external_mounts(spec: &Spec, bundle: &Path, cgroup: Option<&Cgroup>) -> Vec<(String, PathBuf)> {
    let mut out = Vec::new();
    for mount in &spec.mounts {
        let inside = rooted::clean(&mount.destination);
        if is_bind(mount) {
            out.push((
                inside.display().to_string(),
                bundle.join(mount.source.as_deref().unwrap_or_default()),
            ));
        } else if mount.kind.as_deref() == Some("cgroup") {
            // The one directory of v2 is a file system that criu knows itself.
            let v1 = cgroup.into_iter().flat_map(Cgroup::mounts).filter(|one| !one.name.is_empty());
            out.extend(v1.map(|one| (inside.join(one.name).display().to_string(), one.source)));
        }
    }
    out
}

/// Masked paths that are files: the null device lies over them, bound from outside.
fn masked_files<'a>(spec: &'a Spec, state: &State) -> Result<Vec<&'a str>, Error> {
    let Some(linux) = &spec.linux else { return Ok(Vec::new()) };
    let root = RootDir::from_fd(config::open_root(Path::new(&format!("/proc/{}/root", state.pid)))?);
    let is_file = |path: &&String| {
        let kind = rooted::find(&root, &rooted::clean(path)).and_then(rooted::file_type);
        kind.is_ok_and(|kind| kind != FileType::Directory)
    };
    Ok(linux.masked_paths.iter().filter(is_file).map(String::as_str).collect())
}

/// Where the terminal is shown inside.
const CONSOLE: &str = "/dev/console";

/// Those of the links that are terminals, each once.
fn terminals(links: &[String]) -> std::collections::BTreeSet<&str> {
    links.iter().map(String::as_str).filter(|link| link.starts_with("tty[")).collect()
}

/// Where a standard stream of the process leads; nothing where it has none. A terminal is named as criu names it.
fn stream(state: &State, number: u32) -> String {
    const FIRST_PTY: u32 = 136;
    const LAST_PTY: u32 = 143;
    let path = format!("/proc/{}/fd/{number}", state.pid);
    if let Ok(stat) = rustix::fs::stat(&path)
        && FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && (FIRST_PTY..=LAST_PTY).contains(&rustix::fs::major(stat.st_rdev))
    {
        return format!("tty[{:x}:{:x}]", stat.st_rdev, stat.st_dev);
    }
    let link = std::fs::read_link(path);
    link.map(|path| path.display().to_string()).unwrap_or_default()
}

/// The directory by which criu stops the processes.
fn freezer(cgroup: &Cgroup) -> Option<PathBuf> {
    let mounts = cgroup.mounts();
    let v1 = mounts.iter().find(|one| one.name.split(',').any(|name| name == "freezer"));
    v1.or_else(|| mounts.iter().find(|one| one.v2)).map(|one| one.source.clone())
}

fn make_directory(path: &Path) -> Result<(), Error> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(e) => Err(Error::io(format!("make {}", path.display()), e)),
    }
}

/// One run of criu.
struct Call {
    verb: &'static str,
    command: Command,
    log: PathBuf,
    /// Open in criu too.
    inherited: Vec<OwnedFd>,
}

impl Call {
    fn new(verb: &'static str, options: &Criu) -> Result<Call, Error> {
        let program = options.program.as_deref().unwrap_or(Path::new("criu"));
        let work = options.work_path.as_ref().unwrap_or(&options.image_path);
        make_directory(work)?;
        // criu changes its directory.
        let whole = |path: &Path| {
            std::path::absolute(path).map_err(|e| Error::io(format!("find {}", path.display()), e))
        };
        let name = format!("{verb}.log");
        let mut call = Call {
            verb,
            command: Command::new(program),
            log: whole(work)?.join(&name),
            inherited: Vec::new(),
        };
        call.arg(verb).pair("--images-dir", whole(&options.image_path)?).pair("--work-dir", whole(work)?);
        call.pair("--log-file", name).arg("-v4").arg(&format!("--manage-cgroups={}", options.manage_cgroups));
        if options.empty_network {
            call.pair("--empty-ns", "net");
        }
        if options.lazy_pages {
            call.arg("--lazy-pages");
        }
        options.flags.iter().for_each(|flag| {
            call.arg(flag);
        });
        Ok(call)
    }

    fn arg(&mut self, arg: &str) -> &mut Call {
        self.command.arg(arg);
        self
    }

    fn pair(&mut self, flag: &str, value: impl Into<OsString>) -> &mut Call {
        self.command.arg(flag).arg(value.into());
        self
    }

    /// Hands over a descriptor, as `flag NUMBER` or `flag fd[NUMBER]:NAME`.
    fn inherit(&mut self, fd: std::io::Result<OwnedFd>, flag: &str, name: &str) -> Result<(), Error> {
        let fd = fd
            .and_then(|fd| Ok(rustix::io::fcntl_setfd(&fd, FdFlags::empty()).map(|()| fd)?))
            .map_err(|e| Error::io(format!("hand criu the descriptor of {flag}"), e))?;
        let number = fd.as_raw_fd();
        self.inherited.push(fd);
        let value = if name.is_empty() { number.to_string() } else { format!("fd[{number}]:{name}") };
        self.pair(flag, value);
        Ok(())
    }

    /// Runs it to its end. A failure is told in the words of its log, or before it has one of its stderr. `early` is called
    /// with the first process's id when its namespaces are there.
    fn run(mut self, early: Option<script::Early<'_>>) -> Result<(), Error> {
        let restores = self.verb == "restore";
        self.command.stderr(Stdio::piped());
        if !restores {
            self.command.stdin(Stdio::null()).stdout(Stdio::null());
        }
        let questions =
            early.map(|early| script::Questions::new(early).map_err(|e| Error::io("make a pipe", e)));
        let mut questions = questions.transpose()?;
        if let Some(questions) = &questions {
            self.pair("--action-script", questions.script());
        }
        drop(std::fs::remove_file(&self.log));
        let wait = |child: std::process::Child| match &mut questions {
            Some(questions) => questions.wait(child),
            None => child.wait_with_output(),
        };
        let output = self.command.spawn().and_then(wait).map_err(|e| {
            let hint = if e.kind() == std::io::ErrorKind::NotFound { ": it is not installed" } else { "" };
            Error::io(format!("run {}{hint}", self.command.get_program().display()), e)
        })?;
        if let Some(failure) = questions.and_then(script::Questions::failure) {
            return Err(failure);
        }
        if output.status.success() {
            return Ok(());
        }
        let log = std::fs::File::open(&self.log).and_then(|file| {
            let mut text = Vec::new();
            std::io::Read::read_to_end(&mut std::io::Read::take(file, MAX_LOG), &mut text).map(|_| text)
        });
        let text = [log.unwrap_or_default(), output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        // The first is the cause, what follows are its consequences.
        let line = text.lines().find(|line| line.contains("Error")).or_else(|| text.lines().last());
        let line = line.map_or("it says nothing", str::trim).to_owned();
        let log =
            if self.log.exists() { format!("; its log is {}", self.log.display()) } else { String::new() };
        Err(Error::Criu { verb: self.verb, status: output.status.to_string(), text: format!("{line}{log}") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_comes_to_lie_on_itself() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        // Of a thread, whose mount namespace and directory are its own then.
        let moved = std::thread::spawn(|| {
            let root = || {
                let table = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
                let mut lines = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
                let line = lines.find(|fields| fields[4] == "/").unwrap();
                (line[0].to_owned(), line[1].to_owned())
            };
            let here = std::env::current_dir().unwrap();
            sys::process::unshare(namespaces::MOUNT.bit).unwrap();
            mount_attr::set_everywhere(&Attributes::propagation(mount_attr::SLAVE)).unwrap();
            let (before, _) = root();
            cover_root().unwrap();
            assert_eq!(std::env::current_dir().unwrap(), here);
            (before, root())
        });
        let (before, (id, parent)) = moved.join().unwrap();
        assert!(parent == before && id != before, "{id} is on {parent}, not on {before}");
    }
}
