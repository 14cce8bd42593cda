//! `start`: a record becomes a running task.
//!
//! ```text
//! addresses                       (in memory)
//! network namespace, veth    ||   mount, hosts, resolv.conf, config.json      (two blocking threads)
//! spawn shim -> created
//! early attaches, Start      ->   running
//! record, event, supervisor
//! ```
//! Whatever fails, everything made so far is taken down again by the same road that an ended task takes.

use crate::bundle::{self, Choice};
use crate::container::Container;
use crate::error::{During, Error, IoDuring, blocking};
use crate::record::{MountKind, MountPoint, Record, Status, now};
use crate::shim_client::{ShimConnection, unexpected};
use crate::userns::{self, Users};
use crate::{Engine, cdi, devices, links, log_drivers, shim_alive, shm, user};
use errors::{HasKind, Kind, Report};
use oci::IdMap;
use rootdir::RootDir;
use rustix::fs::{Mode, OFlags};
use shim_api::{Ready, Request, Response};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// Longest `/etc/passwd` and `/etc/group` that we read from a container.
const MAX_PASSWD: usize = 1 << 20;
/// How long the shim may take to say that the container is created.
const CREATE_DEADLINE: Duration = Duration::from_secs(120);
/// Longest line of [`Ready`]: a chain of errors, not a log.
const MAX_READY: u64 = 64 << 10;
/// Docker's exit codes for a command that could not be started.
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;
const NOT_STARTED: i32 = 128;

/// The runtime that comes with the engine. Others may have more to end than init.
const BUILT_IN_RUNTIME: &str = "brig";

impl Engine {
    /// Starts a container that has no task.
    ///
    /// # Errors
    ///
    /// NotModified when it runs already; otherwise what made it impossible. The container then has an exit code and
    /// the reason in its state, and goes if it is to be removed automatically.
    pub async fn start(self: &Arc<Self>, name: &str) -> Result<(), Error> {
        self.start_from(name, None).await
    }

    /// The same, from the images of a checkpoint where one is given.
    pub(crate) async fn start_from(
        self: &Arc<Self>,
        name: &str,
        images: Option<PathBuf>,
    ) -> Result<(), Error> {
        let container = self.container(name)?;
        let _verb = container.take_verbs().await?;
        match container.status() {
            Status::Running => {
                return Err(Error::NotModified { message: "container is already running".into() });
            }
            Status::Paused => {
                return Err(Error::conflict("cannot start a paused container, try unpause instead"));
            }
            Status::Removing | Status::Dead => {
                return Err(Error::marked_for_removal());
            }
            Status::Created | Status::Exited | Status::Restarting => {}
        }
        // A person's start ends a planned restart and starts the count anew.
        container.restart_plan.send_modify(|n| *n += 1);
        *container.backoff_ms.lock().expect("no holder panics") = 0;
        container.lock().state.restart_count = 0;
        self.launch_from(&container, images).await
    }

    /// Starts the task. The caller holds the container's verbs.
    pub(crate) async fn launch(self: &Arc<Self>, container: &Arc<Container>) -> Result<(), Error> {
        self.launch_from(container, None).await
    }

    async fn launch_from(
        self: &Arc<Self>,
        container: &Arc<Container>,
        images: Option<PathBuf>,
    ) -> Result<(), Error> {
        let remains = container.remains.clone().lock_owned().await;
        let result = self.try_launch(container, images).await;
        if let Err(e) = &result {
            drop(container.take_early());
            self.end_task(container).await;
            container.release_mount_namespace();
            self.take_down(container).await;
            let message = errors::chain(e);
            {
                let mut record = container.lock();
                record.state.status =
                    if record.state.status == Status::Created { Status::Created } else { Status::Exited };
                record.state.exit_code = start_exit_code(&message);
                record.state.error.clone_from(&message);
                record.state.pid = 0;
                record.state.finished_at = now();
            }
            // A full disk must not keep those who wait from hearing of it.
            if let Err(e) = self.save(container).await {
                tracing::error!(container_id = %container.id(), error = %errors::chain(&e), "cannot record a failed start");
            }
            let record = container.record();
            container.life.send_modify(|life| {
                life.exits += 1;
                life.running = false;
                life.exit_code = record.state.exit_code;
                life.error = message;
            });
            drop(remains);
            if record.host_config.auto_remove && !container.is_restarting() {
                self.remove_now(container, true).await?;
            }
        }
        result
    }

    async fn try_launch(
        self: &Arc<Self>,
        container: &Arc<Container>,
        images: Option<PathBuf>,
    ) -> Result<(), Error> {
        let record = container.record();
        let id = record.id.as_str();
        let doing = || format!("start container {}", record.name);
        let joined = self.joined(&record).during(doing)?;
        let users = match self.is_remapped() {
            false => None,
            true => {
                let (engine, record) = (self.clone(), record.clone());
                blocking(move || engine.users_for(&record)).await.during(doing)?.map(Arc::new)
            }
        };
        if images.is_some() && users.is_some() {
            return Err(Error::unsupported("a checkpoint of a container that has a user namespace"));
        }
        let shim_dir = self.config.shim_dir(id);

        let endpoints = if self.networks.has_shared(&record) {
            let (engine, record) = (self.clone(), record.clone());
            blocking(move || engine.networks.allocate(&record)).await?
        } else {
            self.networks.allocate(&record)?
        };
        container.lock().networks.clone_from(&endpoints);
        let ports = crate::ports::reserve(self, container, self.networks.families(&endpoints))?;
        container.lock().ports.clone_from(&ports);
        if !ports.is_empty() {
            // Rules in the kernel outlive us; whoever comes next must know of them.
            self.save(container).await?;
        }
        if self.config.runtime_root().join(id).exists() {
            // A runtime was killed, or went on after its shim was.
            self.runtime_delete(container).await;
        }
        let network = {
            let engine = self.clone();
            let record = Record { ports, networks: endpoints.clone(), ..record.clone() };
            let (endpoints, users) = (endpoints.clone(), users.clone());
            blocking(move || {
                let namespace = users.as_ref().and_then(|users| users.network.as_ref());
                engine.networks.connect(&engine.config, &record, &endpoints, namespace)
            })
        };
        let files = {
            let (engine, container, users) = (self.clone(), container.clone(), users.clone());
            let record = Record { networks: endpoints, ..record.clone() };
            blocking(move || engine.prepare_files(&container, &record, &joined, users.as_deref(), images))
        };
        let (network, files) = tokio::join!(network, files);
        network.during(doing)?;
        files.during(doing)?;

        let pid = self.spawn_shim(&shim_dir).await.during(doing)?;
        // The runtime has joined it.
        drop(users);
        container.hold_mount_namespace(pid);
        for (streams, sender) in container.take_early() {
            // One that went away meanwhile needs nothing.
            if !sender.is_closed() {
                drop(sender.send(ShimConnection::attach(&shim_dir, streams).await?));
            }
        }
        let mut connection = ShimConnection::connect(&shim_dir).await?;
        match connection.request(&Request::Start).await.during(doing)? {
            Response::Started { .. } => {}
            other => return Err(unexpected(&other)),
        }
        // A process that ends at once takes its shim along; supervision then finds what the shim left.
        if let Err(e) = connection.subscribe().await {
            tracing::debug!(container_id = id, error = %errors::chain(&e), "the task ended before it was listened to");
        }
        {
            let mut record = container.lock();
            let state = &mut record.state;
            state.status = Status::Running;
            state.pid = pid;
            state.exit_code = 0;
            state.error.clear();
            state.oom_killed = false;
            state.manually_stopped = false;
            state.started_at = now();
            state.finished_at = crate::NEVER.into();
            record.state.health = crate::health::at_start(&record.config);
        }
        *container.started.lock().expect("no holder panics") = Some(std::time::Instant::now());
        self.save(container).await?;
        container.life.send_modify(|life| {
            life.running = true;
            life.error.clear();
        });
        self.publish_networks(container, "connect");
        self.publish_mounts(&container.record(), "mount");
        self.publish(container, "start", &[]);
        self.relink(container).await;
        self.watch_health(container);
        self.supervise(container.clone(), Some(connection));
        Ok(())
    }

    /// Ends a task whose start failed half way, whatever state it is in.
    async fn end_task(&self, container: &Container) {
        let dir = self.config.shim_dir(container.id().as_str());
        if !dir.join(shim_api::SOCKET_FILE).exists() {
            return;
        }
        // A shim whose container was never started leaves by Shutdown; for any other the runtime kills what runs, and
        // the shim leaves when it sees that.
        shim_alive::shut_down(&dir).await;
        self.runtime_delete(container).await;
        shim_alive::kill(&dir, shim_alive::LEAVE_DEADLINE).await;
    }

    /// Spawns the shim and waits for its one line.
    async fn spawn_shim(&self, dir: &Path) -> Result<i32, Error> {
        let doing = || format!("run {}", self.config.shim.display());
        let log = std::fs::File::create(dir.join(shim_alive::LOG_FILE)).io_during(doing)?;
        shim_alive::mark(&log).io_during(doing)?;
        let mut child = tokio::process::Command::new(&self.config.shim)
            .arg(dir)
            .current_dir("/")
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .io_during(doing)?;
        let stdout = child.stdout.take().expect("stdout was asked to be piped");
        let mut line = Vec::new();
        let read = tokio::time::timeout(CREATE_DEADLINE, stdout.take(MAX_READY).read_to_end(&mut line)).await;
        // Dropping the handle leaves reaping to tokio; the shim lives on.
        drop(child);
        let fail = |kind, text: String| Err(Report::new(kind, text)).during(doing);
        match read {
            Err(_) => {
                return fail(Kind::Unavailable, format!("no answer within {} s", CREATE_DEADLINE.as_secs()));
            }
            Ok(Err(e)) => return Err(e).io_during(doing),
            Ok(Ok(_)) => {}
        }
        match serde_json::from_slice::<Ready>(&line) {
            Ok(Ready::Created { pid }) => Ok(pid),
            Ok(Ready::Failed(report)) => Err(Error::Failed {
                doing: "create task".into(),
                kind: report.kind(),
                source: Box::new(report),
            }),
            Err(_) => {
                let log = std::fs::read_to_string(dir.join(shim_alive::LOG_FILE)).unwrap_or_default();
                fail(
                    Kind::Internal,
                    format!(
                        "the shim ended without a word {}",
                        log.trim().chars().take(2000).collect::<String>()
                    ),
                )
            }
        }
    }

    /// Namespaces of other containers or of the host that this one joins.
    fn joined(&self, record: &Record) -> Result<Joined, Error> {
        let host = &record.host_config;
        let choose = |mode: &str, kind: &str, file: &str| -> Result<Choice, Error> {
            match mode.split_once(':') {
                None if mode == "host" => Ok(Choice::Host),
                None if matches!(mode, "" | "private" | "shareable" | "none") => Ok(Choice::New),
                Some(("container", other)) => {
                    let pid = self.running_pid(other, kind)?;
                    Ok(Choice::Join(format!("/proc/{pid}/ns/{file}")))
                }
                _ => Err(Error::invalid(format!("invalid {kind} mode: {mode}"))),
            }
        };
        if let Some(("container", other)) = host.ipc_mode.split_once(':') {
            let donor = self.container(other)?.record();
            if donor.state.status.is_alive()
                && matches!(donor.host_config.ipc_mode.as_str(), "private" | "none")
            {
                return Err(Error::invalid(format!(
                    "can't join IPC of container {}: non-shareable IPC (hint: use IpcMode:shareable for the donor \
                     container)",
                    donor.id
                )));
            }
        }
        let ipc = choose(&host.ipc_mode, "IPC", "ipc")?;
        let shared_shm = match host.ipc_mode.split_once(':') {
            Some(("container", other)) => {
                let donor = self.container(other)?;
                if !donor.status().is_alive() {
                    return Err(Error::conflict(format!(
                        "cannot join IPC of a non running container: {other}"
                    )));
                }
                Some(shm::path(self, donor.id().as_str()).to_string_lossy().into_owned())
            }
            None if shm::is_shareable(record) => {
                Some(shm::path(self, record.id.as_str()).to_string_lossy().into_owned())
            }
            _ if ipc == Choice::Host => Some("/dev/shm".into()),
            _ => None,
        };
        let cgroupns = match host.cgroupns_mode.as_str() {
            "host" => false,
            "private" => true,
            "" => self.cgroup_mode == cgroup::Mode::V2,
            other => return Err(Error::invalid(format!("invalid cgroup namespace mode: {other}"))),
        };
        Ok(Joined {
            pid: choose(&host.pid_mode, "PID", "pid")?,
            ipc,
            uts: choose(&host.uts_mode, "UTS", "uts")?,
            shared_shm,
            private_cgroup_namespace: cgroupns && !(host.privileged && host.cgroupns_mode.is_empty()),
            network: self.network_choice(record)?,
        })
    }

    fn network_choice(&self, record: &Record) -> Result<Choice, Error> {
        match record.host_config.network_mode.split_once(':') {
            None if record.host_config.network_mode == "host" => Ok(Choice::Host),
            Some(("container", other)) => {
                let pid = self.running_pid(other, "network")?;
                Ok(Choice::Join(format!("/proc/{pid}/ns/net")))
            }
            _ => Ok(Choice::Join(self.config.netns(record.id.as_str()).to_string_lossy().into_owned())),
        }
    }

    fn running_pid(&self, name: &str, kind: &str) -> Result<i32, Error> {
        let container = self.container(name)?;
        let state = container.record().state;
        if !state.status.is_alive() {
            return Err(Error::conflict(format!(
                "cannot join {kind} namespace of a non running container: {name}"
            )));
        }
        Ok(state.pid)
    }

    /// Mounts the root file system and writes everything that shim and runtime read. Blocking.
    fn prepare_files(
        &self,
        container: &Container,
        record: &Record,
        joined: &Joined,
        users: Option<&Users>,
        images: Option<PathBuf>,
    ) -> Result<(), Error> {
        let id = record.id.as_str();
        let rootfs = self.config.rootfs(id);
        let shim_dir = self.config.shim_dir(id);
        // Left by a task that ended while nobody listened.
        drop(std::fs::remove_dir_all(&shim_dir));
        for dir in [&rootfs, &shim_dir] {
            std::fs::create_dir_all(dir).io_during(|| format!("create {}", dir.display()))?;
        }
        // Nothing of a container that goes when it ends must survive a power loss, so its unmount need not sync.
        let options = snapshot::MountOptions {
            volatile: record.host_config.auto_remove,
            ..snapshot::MountOptions::default()
        };
        self.mount_root(container, users, &options)?;
        let ids = users.map(|users| &*users.map);
        if shm::is_shareable(record) {
            shm::mount(self, record, ids.and_then(IdMap::root))?;
        }
        let root = RootDir::open(&rootfs).during(|| "open root file system".into())?;
        let credentials = credentials(&root, &record.config.user, &record.host_config.group_add)?;
        userns::check_credentials(ids, &credentials)?;
        if !record.config.working_dir.is_empty() {
            let _as_root = userns::as_root(ids)?;
            root.create_dir_all(Path::new(&record.config.working_dir), Mode::from_raw_mode(0o755))
                .during(|| format!("create working directory {}", record.config.working_dir))?;
        }
        self.check_propagation(record)?;
        self.stage_mounts(record, users)?;
        self.copy_up(record, &root, ids)?;
        let link_environment = self.link_environment(record)?;
        let etc_files = self.write_etc(record)?;
        {
            let _as_root = userns::as_root(ids)?;
            make_places(record, &root, &etc_files);
        }
        let mut shown = std::borrow::Cow::Borrowed(record);
        let foreign = |m: &MountPoint| m.kind == MountKind::Volume && !self.maps_owners(m);
        if users.is_some() && record.mounts.iter().any(foreign) {
            let mounts = &mut shown.to_mut().mounts;
            mounts.iter_mut().filter(|m| foreign(m)).for_each(|m| m.kind = MountKind::Bind);
        }
        let mut edits = cdi::resolve(&record.host_config, &self.config.cdi_spec_dirs)?;
        let mut devices = devices::collect(&record.host_config)?;
        devices.extend(edits.devices.iter().cloned());
        if users.is_some() {
            edits.mounts.extend(devices::renamed(&record.host_config, &devices));
        }
        let shim = self.config.shim.to_string_lossy();
        // Where processes of others are visible, process 1 is theirs.
        let init = record.host_config.init.unwrap_or(self.config.default_init) && joined.pid == Choice::New;
        let device_numbers = devices::numbers(&record.host_config);
        let rootfs_text = rootfs.to_string_lossy();
        let cgroups_path = self.cgroups_path(record);
        let mut spec = bundle::spec(&bundle::Input {
            record: &shown,
            credentials: &credentials,
            rootfs: &rootfs_text,
            hostname: &record.config.hostname,
            cgroups_path: &cgroups_path,
            private_cgroup_namespace: joined.private_cgroup_namespace,
            network: joined.network.clone(),
            pid: joined.pid.clone(),
            ipc: joined.ipc.clone(),
            uts: joined.uts.clone(),
            users: users.map(|users| (users.path(), &*users.map)),
            shared_shm: joined.shared_shm.clone(),
            etc_files: &etc_files,
            devices: &devices,
            device_numbers: &device_numbers,
            edits: &edits,
            init: init.then_some(&*shim),
            available_capabilities: &self.capabilities,
            open_files: self.config.open_files,
        })?;
        if let Some(process) = spec.process.as_mut() {
            links::add_environment(&mut process.env, link_environment);
        }
        write_json(&shim_dir.join("config.json"), &spec)?;
        // Hooks find what the task had as it was.
        let tells_early = joined.pid == Choice::New
            && record.host_config.runtime == BUILT_IN_RUNTIME
            && edits.hooks.poststop.is_empty();
        let stdio_owner = ids.and_then(IdMap::root);
        let shim = shim_api::Config {
            restore: images,
            tells_early,
            stdio_owner,
            ..self.shim_config(record, &shim_dir)?
        };
        write_json(&shim_dir.join(shim_api::CONFIG_FILE), &shim)
    }

    /// Where the container's cgroups are, below each hierarchy's root.
    pub(crate) fn cgroups_path(&self, record: &Record) -> String {
        let parent = &record.host_config.cgroup_parent;
        let parent = if parent.is_empty() { &self.config.cgroup_parent } else { parent };
        format!("/{}/{}", parent.trim_matches('/'), record.id)
    }

    fn shim_config(&self, record: &Record, shim_dir: &Path) -> Result<shim_api::Config, Error> {
        let config = &record.config;
        let log = log_drivers::of(&self.config, record)?;
        let runtime = &record.host_config.runtime;
        Ok(shim_api::Config {
            version: shim_api::VERSION,
            container_id: record.id.to_string(),
            bundle: shim_dir.to_path_buf(),
            runtime: self
                .config
                .runtimes
                .get(runtime)
                .cloned()
                .ok_or_else(|| Error::invalid(format!("unknown or invalid runtime name: {runtime}")))?,
            runtime_root: self.config.runtime_root(),
            runtime_args: Vec::new(),
            tty: config.tty,
            open_stdin: config.open_stdin,
            stdin_once: config.stdin_once,
            log,
            restore: None,
            tells_early: false,
            stdio_owner: None,
        })
    }

    /// Writes hosts, hostname and resolv.conf; (host path, path inside).
    fn write_etc(&self, record: &Record) -> Result<Vec<(String, &'static str)>, Error> {
        let dir = match record.host_config.network_mode.split_once(':') {
            // Who shares another's network shares its names.
            Some(("container", other)) => self.config.container_dir(self.container(other)?.id().as_str()),
            _ => {
                let dir = self.config.container_dir(record.id.as_str());
                for (name, mut text) in self.networks.etc_files(record)? {
                    if name == "hosts" {
                        text += &self.link_hosts(record);
                    }
                    let path = dir.join(name);
                    std::fs::write(&path, text).io_during(|| format!("write {}", path.display()))?;
                }
                dir
            }
        };
        let text = |name: &str| dir.join(name).to_string_lossy().into_owned();
        Ok(vec![
            (text("resolv.conf"), "/etc/resolv.conf"),
            (text("hostname"), "/etc/hostname"),
            (text("hosts"), "/etc/hosts"),
        ])
    }

    /// Fills volumes that are new with what the image has at their place.
    fn copy_up(&self, record: &Record, root: &RootDir, ids: Option<&IdMap>) -> Result<(), Error> {
        for point in record.mounts.iter().filter(|m| m.kind == MountKind::Volume && m.copy_up) {
            crate::volumes::copy_up(root, point, ids.filter(|_| self.maps_owners(point)))?;
        }
        Ok(())
    }
}

/// Makes the places to mount on that are symlinks to nothing, as `/etc/resolv.conf` is in images made for systemd:
/// runtimes make what is missing and do not agree on links. What cannot be made here, the runtime reports.
pub(crate) fn make_places(record: &Record, root: &RootDir, etc_files: &[(String, &'static str)]) {
    const OVER_MOUNTED: &[&str] = &["/dev", "/proc", "/sys"];
    let files = etc_files.iter().map(|(_, inside)| (*inside, false));
    let mounts = record
        .mounts
        .iter()
        .map(|m| (m.destination.as_str(), m.kind == MountKind::Tmpfs || Path::new(&m.source).is_dir()));
    for (place, is_dir) in files.chain(mounts) {
        let covers = |above: &str| place != above && Path::new(place).starts_with(above);
        // What lies below another mount is made there, not here.
        if OVER_MOUNTED.iter().any(|above| Path::new(place).starts_with(above))
            || record.mounts.iter().any(|m| covers(&m.destination))
        {
            continue;
        }
        if let Err(e) = root.mkdirs_for_mountpoint(Path::new(place), is_dir) {
            tracing::debug!(container_id = %record.id, place, error = %errors::chain(&e), "place to mount on");
        }
    }
}

/// What a container joins.
#[derive(Debug)]
struct Joined {
    network: Choice,
    pid: Choice,
    ipc: Choice,
    uts: Choice,
    shared_shm: Option<String>,
    private_cgroup_namespace: bool,
}

/// Resolves a user against the files below `root`.
pub(crate) fn credentials(
    root: &RootDir,
    text: &str,
    group_add: &[String],
) -> Result<user::Credentials, Error> {
    // A full name in another encoding than ours is no reason not to start.
    let read = |path: &str| match root.read_bounded(Path::new(path), MAX_PASSWD) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(e) if e.kind() == Kind::NotFound => Ok(String::new()),
        Err(e) => Err(e).during(|| format!("read {path} of the container")),
    };
    user::resolve(text, group_add, &read("/etc/passwd")?, &read("/etc/group")?)
}

/// Docker's exit code for a start that failed with `message`.
fn start_exit_code(message: &str) -> i32 {
    if message.contains("executable file not found") || message.contains("no such file or directory") {
        NOT_FOUND
    } else if message.contains("permission denied")
        || message.contains("exec format error")
        || message.contains("is a directory")
    {
        NOT_EXECUTABLE
    } else {
        NOT_STARTED
    }
}

pub(crate) fn write_json<T: serde::Serialize>(path: &PathBuf, value: &T) -> Result<(), Error> {
    let doing = || format!("write {}", path.display());
    let bytes = serde_json::to_vec(value).map_err(std::io::Error::from).io_during(doing)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600)).io_during(doing)?;
    std::io::Write::write_all(&mut std::fs::File::from(fd), &bytes).io_during(doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_of_failed_starts() {
        assert_eq!(start_exit_code("x: exec: \"y\": executable file not found in $PATH"), 127);
        assert_eq!(start_exit_code("x: permission denied"), 126);
        assert_eq!(start_exit_code("x"), 128);
    }
}
