//! Writable roots that belong to no container: where a build runs its steps, copies its files and makes its layers.
//!
//! ```text
//! open ─ mount ─> run, or write below root() ─> close: unmounted ─> layer, or nothing
//! ```
//!
//! A workspace has an id of the form of a container's and no record. So whatever a killed daemon leaves of one (snapshot,
//! mount, network namespace, cgroup, runtime state, directories) is a stray that `recover.rs` removes; dropping it does
//! the same at once. The runtime runs in the foreground, without a shim: a step does not outlive who wanted it.

use crate::bundle::{self, Choice};
use crate::error::{During, Error, IoDuring, blocking};
use crate::launch::credentials;
use crate::model::{Config, HostConfig, NetworkingConfig};
use crate::record::{ContainerId, MountKind, MountPoint, RECORD_VERSION, Record, State, now};
use crate::userns::{self, Users};
use crate::{Engine, launch, task};
use archive::Compression;
use errors::{Kind, Report};
use image::Lease;
use oci::Digest;
use rootdir::RootDir;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::process::{Pid, PidfdFlags};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::mpsc;

/// How long a runtime that was killed may take to be gone.
const END_OF_RUNTIME: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };
/// How often a step that is to end is deleted, and the pause between two tries.
const DELETIONS: u32 = 20;
const DELETE_PAUSE: Duration = Duration::from_millis(50);

/// Places that the engine mounts on in every root, parents before children; what a step finds missing is taken away
/// again behind it.
const PLACES: &[(&str, bool)] = &[
    ("proc", true),
    ("dev", true),
    ("sys", true),
    ("etc", true),
    ("etc/hosts", false),
    ("etc/hostname", false),
    ("etc/resolv.conf", false),
];

/// What a step has written is either made a layer, and synced as one, or thrown away.
const AS_STEP: snapshot::MountOptions = snapshot::MountOptions { volatile: true, read_only: false };

/// Longest error text that a runtime may leave in its log.
const MAX_LOG: u64 = 64 << 10;

/// One piece of a step's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepOutput {
    pub is_stderr: bool,
    pub bytes: Vec<u8>,
}

/// A command to run in a workspace.
#[derive(Debug, Clone, Default)]
pub struct Step {
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub working_dir: String,
    /// `user[:group]`, looked up inside.
    pub user: String,
    pub hostname: String,
    pub mounts: Vec<StepMount>,
    /// All capabilities and devices.
    pub is_privileged: bool,
    /// Limits, hosts, cgroup parent and devices by CDI; the rest of it is not looked at.
    pub host_config: HostConfig,
}

/// Something to see inside.
#[derive(Debug, Clone)]
pub enum StepMount {
    Bind {
        source: PathBuf,
        target: String,
        read_write: bool,
        /// Where steps have user namespaces: owners of the source are as on disk, not yet as the step is to see them.
        is_plain: bool,
    },
    /// Bytes, 0 for no limit.
    Tmpfs { target: String, size: u64 },
}

impl StepMount {
    fn target(&self) -> &str {
        match self {
            StepMount::Bind { target, .. } | StepMount::Tmpfs { target, .. } => target,
        }
    }
}

/// What a step made.
#[derive(Debug, Clone)]
pub struct StepLayer {
    pub layer: image::NewLayer,
    pub chain_id: Digest,
}

/// The network of steps, which several may use one after the other or together.
#[derive(Debug)]
pub struct StepNetwork {
    engine: Arc<Engine>,
    record: Record,
    choice: Choice,
    /// The user namespace that it belongs to, and its steps with it.
    users: Option<Arc<Users>>,
}

/// A writable root, mounted.
#[derive(Debug)]
pub struct Workspace {
    engine: Arc<Engine>,
    id: ContainerId,
    rootfs: PathBuf,
    root: Option<RootDir>,
    /// What it lies on.
    parent: Option<Digest>,
    binds: Vec<PathBuf>,
    files: usize,
    runs: bool,
    /// The runtime's process, while the step runs.
    runtime: Mutex<Option<OwnedFd>>,
    has_snapshot: bool,
}

impl Engine {
    /// Mounts a new writable root on the layer `parent` and those below, or on nothing. Blocking.
    pub fn open_workspace(self: &Arc<Self>, parent: Option<&Digest>) -> Result<Workspace, Error> {
        self.open_workspace_by(parent, |key, rootfs, options| {
            self.snapshots.mount(key, rootfs, options).during(|| "mount the root of a build step".into())
        })
    }

    /// The same, with owners as steps are to see them: for what they are to see of other layers. Blocking.
    pub fn open_shown_workspace(self: &Arc<Self>, parent: Option<&Digest>) -> Result<Workspace, Error> {
        self.open_workspace_by(parent, |key, rootfs, options| self.mount_for_all(key, rootfs, options))
    }

    fn open_workspace_by(
        self: &Arc<Self>,
        parent: Option<&Digest>,
        mount: impl FnOnce(&str, &Path, &snapshot::MountOptions) -> Result<(), Error>,
    ) -> Result<Workspace, Error> {
        let id = ContainerId::random();
        let rootfs = self.config.rootfs(id.as_str());
        let mut workspace = Workspace {
            engine: self.clone(),
            id,
            rootfs: rootfs.clone(),
            root: None,
            parent: parent.copied(),
            binds: Vec::new(),
            files: 0,
            runs: false,
            runtime: Mutex::default(),
            has_snapshot: false,
        };
        self.snapshots
            .prepare(workspace.id.as_str(), parent)
            .during(|| "prepare a snapshot for a build step".into())?;
        workspace.has_snapshot = true;
        std::fs::create_dir_all(&rootfs).io_during(|| format!("create {}", rootfs.display()))?;
        mount(workspace.id.as_str(), &rootfs, &AS_STEP)?;
        workspace.root = Some(RootDir::open(&rootfs).during(|| "open the root of a build step".into())?);
        Ok(workspace)
    }

    /// Makes a network for steps: `default`, `bridge`, `none`, `host`, `container:NAME`, or a network's name. Blocking.
    pub fn open_step_network(self: &Arc<Self>, mode: &str) -> Result<StepNetwork, Error> {
        let mode = if matches!(mode, "" | "default") { "bridge" } else { mode };
        let host_config = HostConfig { network_mode: mode.into(), ..HostConfig::default() };
        let mut record = blank_record(Config::default(), host_config);
        record.networks =
            self.networks.plan(&record.host_config, &NetworkingConfig::default(), &record.config)?;
        let choice = match mode.split_once(':') {
            None if mode == "host" => Choice::Host,
            Some(("container", other)) => {
                let state = self.container(other)?.record().state;
                if !state.status.is_alive() {
                    return Err(Error::conflict(format!(
                        "cannot join network of a non running container: {other}"
                    )));
                }
                Choice::Join(format!("/proc/{}/ns/net", state.pid))
            }
            _ => Choice::Join(self.config.netns(record.id.as_str()).to_string_lossy().into_owned()),
        };
        record.networks = self.networks.allocate(&record)?;
        let users = self.users_for_steps(&record.host_config)?;
        let network = StepNetwork { engine: self.clone(), record, choice, users };
        let namespace = network.users.as_ref().and_then(|users| users.network.as_ref());
        // Dropping it takes back whatever was set up when this fails.
        self.networks.connect(&self.config, &network.record, &network.record.networks, namespace)?;
        Ok(network)
    }

    /// Makes an empty directory for work in progress, mode 0700, gone when it is dropped or when a daemon starts.
    pub fn make_scratch(&self) -> Result<Scratch, Error> {
        let path = self.config.data_root.join("tmp").join(format!("build-{}", crate::record::random_hex()));
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .io_during(|| format!("create {}", path.display()))?;
        Ok(Scratch { path })
    }

    /// Whether a device spec of this machine has the CDI device `name`; why not. Blocking.
    pub fn find_device(&self, name: &str) -> Result<(), Error> {
        let host_config =
            HostConfig { device_requests: Some(vec![device_request(name)]), ..HostConfig::default() };
        crate::cdi::resolve(&host_config, &self.config.cdi_spec_dirs).map(drop)
    }

    /// Where cache mounts of builds are kept.
    pub fn build_cache_dir(&self) -> PathBuf {
        self.config.data_root.join("build-cache")
    }

    /// The store's records, for those who keep some of their own.
    pub fn database(&self) -> &Arc<metadata::Database> {
        &self.db
    }

    /// The content store.
    pub fn content(&self) -> &content::ContentStore {
        &self.content
    }

    /// The snapshotter.
    pub fn snapshots(&self) -> &Arc<dyn snapshot::Snapshotter> {
        &self.snapshots
    }
}

/// The request for one CDI device as a container's has it.
pub fn device_request(name: &str) -> serde_json::Value {
    serde_json::json!({ "Driver": "cdi", "DeviceIDs": [name] })
}

/// A directory for work in progress.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.path);
        // A context may have a million files: nobody waits for them. Without a thread the next start removes it.
        let _soon = crate::behind::spawn("scratch", move || {
            if let Err(e) = snapshot::remove_tree(&path) {
                tracing::warn!(path = %path.display(), error = %errors::chain(&e), "scratch directory not removed");
            }
        });
    }
}

impl Drop for StepNetwork {
    fn drop(&mut self) {
        if let Err(e) = self.engine.networks.disconnect(&self.engine.config, &self.record) {
            tracing::warn!(error = %errors::chain(&e), "network of a build step not released");
        }
    }
}

impl Workspace {
    /// Its name, of the form of a container's id.
    pub fn id(&self) -> &str {
        self.id.as_str()
    }

    /// The root, to write below.
    pub fn root(&self) -> &RootDir {
        self.root.as_ref().expect("a workspace is mounted until it is closed")
    }

    /// Looks up `user[:group]` in the root's own files: uid, gid.
    pub fn lookup_user(&self, user: &str) -> Result<(u32, u32), Error> {
        credentials(self.root(), user, &[]).map(|c| (c.uid, c.gid))
    }

    /// Looks up the group `name` in the root's own files.
    pub fn lookup_group(&self, name: &str) -> Result<u32, Error> {
        credentials(self.root(), &format!("0:{name}"), &[]).map(|c| c.gid)
    }

    /// Binds what is open as `source` to a place of this workspace's own, and returns that: a path which nobody who runs
    /// in a container can exchange.
    pub fn pin(&mut self, source: &OwnedFd) -> Result<PathBuf, Error> {
        let place = self.engine.config.rootfs(&format!("{}.{}", self.id, self.binds.len()));
        let doing = || format!("bind a source of a mount to {}", place.display());
        let stat = rustix::fs::fstat(source).io_during(doing)?;
        if FileType::from_raw_mode(stat.st_mode).is_dir() {
            std::fs::create_dir(&place).io_during(doing)?;
        } else {
            std::fs::write(&place, b"").io_during(doing)?;
        }
        self.binds.push(place.clone());
        mount::bind_open(source.as_fd(), &place).during(doing)?;
        Ok(place)
    }

    /// Writes a file beside the root, for a mount of the step alone, and returns its path. The owner is one of the step's.
    pub fn put_file(&mut self, bytes: &[u8], mode: u32, uid: u32, gid: u32) -> Result<PathBuf, Error> {
        let dir = self.engine.config.shim_dir(self.id.as_str());
        let path = dir.join(format!("file-{}", self.files));
        let doing = || format!("write {}", path.display());
        std::fs::create_dir_all(&dir).io_during(doing)?;
        self.files += 1;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600)).io_during(doing)?;
        let mut file = std::fs::File::from(fd);
        std::io::Write::write_all(&mut file, bytes).io_during(doing)?;
        let (uid, gid) = self.engine.outside(uid, gid)?;
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        rustix::fs::fchown(&file, Some(uid), Some(gid)).io_during(doing)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)).io_during(doing)?;
        Ok(path)
    }

    /// Runs a command to its end; its exit code. Dropping the future leaves it to [`Workspace`]'s drop to end it.
    pub async fn run(
        &mut self,
        step: Step,
        network: &StepNetwork,
        output: mpsc::Sender<StepOutput>,
    ) -> Result<i32, Error> {
        let engine = self.engine.clone();
        let users = network.users.clone();
        if users.is_some() && step.is_privileged {
            return Err(Error::invalid("privileged mode is incompatible with user namespaces"));
        }
        let mut record = blank_record(
            Config {
                hostname: step.hostname.clone(),
                user: step.user.clone(),
                env: step.env.clone(),
                working_dir: step.working_dir.clone(),
                ..Config::default()
            },
            HostConfig {
                network_mode: network.record.host_config.network_mode.clone(),
                privileged: step.is_privileged,
                runtime: engine.config.default_runtime.clone(),
                ..step.host_config.clone()
            },
        );
        record.id = self.id.clone();
        record.args.clone_from(&step.args);
        record.networks.clone_from(&network.record.networks);
        record.mounts = step.mounts.iter().map(mount_point).collect();
        let owner = users.as_ref().and_then(|users| users.map.root());
        self.runs = true;
        let (root, choice) = (self.root().try_clone().during(|| "open root".into())?, network.choice.clone());
        let (engine_, record_) = (engine.clone(), record.clone());
        let users_ = users.clone();
        let made = blocking(move || engine_.prepare_step(&record_, choice, &root, users_.as_deref())).await?;
        if users.is_some() {
            self.mount_again(users.clone()).await?;
        }
        let code = self.run_bundle(&record, owner, output).await;
        if users.is_some() {
            self.mount_again(None).await?;
        }
        let root = self.root().try_clone().during(|| "open root".into())?;
        blocking(move || made.take_away(&root)).await;
        self.runs = false;
        code
    }

    /// Mounts the root anew: as a step in `users` is to see it, which nobody else may look at meanwhile, or as it was.
    async fn mount_again(&mut self, users: Option<Arc<Users>>) -> Result<(), Error> {
        self.root = None;
        let (engine, id, rootfs) = (self.engine.clone(), self.id.clone(), self.rootfs.clone());
        self.root = blocking(move || {
            let doing = || "mount the root of a build step".to_string();
            engine.snapshots.unmount(&rootfs).during(doing)?;
            engine.mount_for(id.as_str(), &rootfs, &AS_STEP, users.as_deref())?;
            match users {
                Some(_) => Ok(None),
                None => RootDir::open(&rootfs).map(Some).during(doing),
            }
        })
        .await?;
        Ok(())
    }

    /// `owner`, where there is one, is whom its output's pipes belong to.
    async fn run_bundle(
        &self,
        record: &Record,
        owner: Option<(u32, u32)>,
        output: mpsc::Sender<StepOutput>,
    ) -> Result<i32, Error> {
        let config = &self.engine.config;
        let dir = config.shim_dir(self.id.as_str());
        let log = dir.join("runtime.log");
        let runtime = config.runtimes.get(&record.host_config.runtime).ok_or_else(|| {
            Error::invalid(format!("unknown or invalid runtime name: {}", record.host_config.runtime))
        })?;
        let doing = || format!("run {}", runtime.display());
        let ((stdout, out), (stderr, err)) = (output_pipe(owner)?, output_pipe(owner)?);
        let mut child = tokio::process::Command::new(runtime)
            .arg("--root")
            .arg(config.runtime_root())
            .arg("--log")
            .arg(&log)
            .args(["--log-format", "json", "run", "--bundle"])
            .arg(&dir)
            .arg(self.id.as_str())
            .current_dir("/")
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .kill_on_drop(true)
            .spawn()
            .io_during(doing)?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        // Not waited for yet, so the number is still its own.
        *self.runtime.lock().expect("no holder panics") =
            pid.and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
        let log_ = log.clone();
        let errors = output.clone();
        let (status, (), ()) = tokio::join!(
            child.wait(),
            relay(stdout, false, output, None),
            // What the runtime itself says of a failure is told as one.
            relay(stderr, true, errors, Some(log_)),
        );
        let status = status.io_during(doing)?;
        if let Some(message) = failure(&log) {
            return Err(Report::new(Kind::InvalidArgument, message)).during(|| "run a build step".into());
        }
        // A runtime that was killed took the step with it or leaves it to be deleted.
        Ok(status.code().unwrap_or(137))
    }

    /// Unmounts the root and hands over the snapshot's key, so that its changes can become a layer. The snapshot stays
    /// until the workspace is dropped. Blocking.
    pub fn close(&mut self) -> Result<&str, Error> {
        if self.root.take().is_none() {
            return Ok(self.id.as_str());
        }
        self.take_down_step();
        self.engine.snapshots.unmount(&self.rootfs).during(|| "unmount the root of a build step".into())?;
        drop(std::fs::remove_dir(&self.rootfs));
        Ok(self.id.as_str())
    }

    /// Unmounts the root and opens what becomes the layer: what was changed alone, in overlay's form. Only directories that
    /// were made in this workspace may be written to. Blocking.
    pub fn open_changes(&mut self) -> Result<RootDir, Error> {
        let doing = || "open the changes of a build step".to_string();
        let key = self.close()?.to_string();
        let upper = self.engine.snapshots.upper(&key).during(doing)?;
        RootDir::open(&upper).during(doing)
    }

    /// Makes a layer of what was changed, on `parent`; `None` when nothing was. The changes become the layer where they
    /// are: they are read once, for the digest, and no archive of them is written before someone needs it. With `clamp_s`, times of files after it (seconds since
    /// 1970) are set to it. Blocking.
    pub fn commit(
        mut self,
        lease: &Lease,
        parent: Option<&Digest>,
        clamp_s: Option<i64>,
    ) -> Result<Option<StepLayer>, Error> {
        let doing = || "commit a build step".to_string();
        let key = self.close()?.to_string();
        if let Some(seconds) = clamp_s {
            let upper = self.engine.snapshots.upper(&key).during(doing)?;
            let upper = RootDir::open(&upper).during(doing)?;
            if self.engine.snapshots.is_overlay_form() {
                crate::clamp::clamp(&upper, seconds).io_during(doing)?;
            } else {
                // What it began with keeps its times, or all of it would be new.
                let changes = self.engine.images.changes(&key, &[]).during(doing)?;
                crate::clamp::clamp_changes(&upper, &changes, seconds).io_during(doing)?;
            }
        }
        if self.parent.as_ref() != parent && !self.engine.snapshots.is_overlay_form() {
            return self.lay_on(lease, &key, parent);
        }
        let made = self.engine.images.describe_snapshot(lease, &key).during(doing)?;
        let Some(layer) = made else { return Ok(None) };
        let chain_id = Digest::chain(parent.copied(), layer.diff_id);
        lease.keep_layer(&chain_id);
        let new = snapshot::NewLayer {
            chain_id,
            parent: parent.copied(),
            diff_id: layer.diff_id,
            size_bytes: layer.packed.bytes,
        };
        self.engine.snapshots.commit(&key, &new).during(doing)?;
        self.has_snapshot = false;
        Ok(Some(StepLayer { layer, chain_id }))
    }

    /// Of a driver whose layers are whole trees: unpacks on `parent` what was made on something else.
    fn lay_on(&self, lease: &Lease, key: &str, parent: Option<&Digest>) -> Result<Option<StepLayer>, Error> {
        let doing = || "commit a build step".to_string();
        let images = &self.engine.images;
        let made = images.commit_snapshot(lease, key, &[], Compression::None).during(doing)?;
        let Some(layer) = made else { return Ok(None) };
        let chain_id = images
            .unpack_layer(lease, &layer.descriptor, &layer.diff_id, parent, &image::ignore)
            .during(doing)?;
        Ok(Some(StepLayer { layer, chain_id }))
    }

    /// Ends what still runs and removes what was made around it.
    fn take_down_step(&mut self) {
        let config = &self.engine.config;
        if self.runs {
            // The runtime was killed with the future that waited for it. Until it is gone it may still be making what is
            // to be deleted.
            if let Some(process) = self.runtime.lock().expect("no holder panics").take() {
                let mut poll = [PollFd::new(&process, PollFlags::IN)];
                let _in_vain = rustix::event::poll(&mut poll, Some(&END_OF_RUNTIME));
            }
            self.delete_step();
            self.runs = false;
        }
        for place in self.binds.drain(..) {
            if let Err(e) = mount::detach(&place) {
                tracing::debug!(place = %place.display(), error = %errors::chain(&e), "place of a mount");
            }
            drop(std::fs::remove_dir(&place));
            drop(std::fs::remove_file(&place));
        }
        drop(std::fs::remove_dir_all(config.shim_dir(self.id.as_str())));
        drop(std::fs::remove_dir_all(config.container_dir(self.id.as_str())));
    }
}

impl Workspace {
    /// Has the runtime end what runs and forget it. One that was killed may leave what only a second look finds.
    fn delete_step(&self) {
        let config = &self.engine.config;
        let Some(runtime) = config.runtimes.get(&config.default_runtime) else { return };
        for _ in 0..DELETIONS {
            let deleted = std::process::Command::new(runtime)
                .arg("--root")
                .arg(config.runtime_root())
                .args(["delete", "--force", self.id.as_str()])
                .stdin(Stdio::null())
                .output();
            match deleted {
                Ok(output) if output.status.success() => return,
                Ok(output) => {
                    let stderr = String::from_utf8_lossy(&output.stderr);
                    tracing::debug!(
                        step = self.id.as_str(),
                        stderr = stderr.trim(),
                        "build step not ended yet"
                    );
                }
                Err(error) => {
                    tracing::warn!(step = self.id.as_str(), %error, "cannot run the runtime to end a build step");
                }
            }
            std::thread::sleep(DELETE_PAUSE);
        }
        tracing::warn!(step = self.id.as_str(), "a build step was not ended");
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        self.root = None;
        self.take_down_step();
        task::unmount(&self.engine, self.id.as_str());
        if !self.has_snapshot {
            return;
        }
        match self.engine.snapshots.remove(self.id.as_str()) {
            Ok(true) => self.engine.tidy_behind(),
            Ok(false) => {}
            Err(e) => {
                tracing::warn!(step = self.id.as_str(), error = %errors::chain(&e), "snapshot of a build step not removed");
            }
        }
    }
}

impl Engine {
    /// Writes everything that the runtime reads. Blocking.
    fn prepare_step(
        &self,
        record: &Record,
        network: Choice,
        root: &RootDir,
        users: Option<&Users>,
    ) -> Result<Made, Error> {
        let id = record.id.as_str();
        let dir = self.config.shim_dir(id);
        std::fs::create_dir_all(&dir).io_during(|| format!("create {}", dir.display()))?;
        let etc = self.config.container_dir(id);
        std::fs::create_dir_all(&etc).io_during(|| format!("create {}", etc.display()))?;
        let credentials = credentials(root, &record.config.user, &[])?;
        userns::check_credentials(users.map(|users| &*users.map), &credentials)?;
        let mut etc_files = Vec::new();
        for (name, text) in self.networks.etc_files(record)? {
            let path = etc.join(name);
            std::fs::write(&path, text).io_during(|| format!("write {}", path.display()))?;
            etc_files.push((path.to_string_lossy().into_owned(), etc_place(name)));
        }
        let edits = crate::cdi::resolve(&record.host_config, &self.config.cdi_spec_dirs)?;
        let mounts = record.mounts.iter().map(|m| m.destination.as_str());
        let made = Made::look(root, mounts.chain(edits.mounts.iter().map(|m| m.destination.as_str())))?;
        launch::make_places(record, root, &etc_files);
        let mut devices = crate::devices::collect(&record.host_config)?;
        devices.extend(edits.devices.iter().cloned());
        let rootfs = self.config.rootfs(id);
        let spec = bundle::spec(&bundle::Input {
            record,
            credentials: &credentials,
            rootfs: &rootfs.to_string_lossy(),
            hostname: &record.config.hostname,
            cgroups_path: &self.cgroups_path(record),
            private_cgroup_namespace: self.cgroup_mode == cgroup::Mode::V2,
            network,
            pid: Choice::New,
            ipc: Choice::New,
            uts: Choice::New,
            users: users.map(|users| (users.path(), &*users.map)),
            shared_shm: None,
            etc_files: &etc_files,
            devices: &devices,
            edits: &edits,
            init: None,
            device_numbers: &BTreeMap::new(),
            available_capabilities: &self.capabilities,
            open_files: self.config.open_files,
        })?;
        launch::write_json(&dir.join("config.json"), &spec)?;
        Ok(made)
    }
}

/// What stood at the places that are mounted on, before the engine made what is missing.
struct Made {
    /// Missing before, the deepest last.
    missing: Vec<PathBuf>,
    /// Times of directories in which something is made, to be put back.
    times: Vec<(PathBuf, rustix::fs::Timestamps)>,
}

impl Made {
    fn look<'a>(root: &RootDir, mounts: impl Iterator<Item = &'a str>) -> Result<Made, Error> {
        let mut made = Made { missing: Vec::new(), times: Vec::new() };
        let own = PLACES.iter().map(|(place, _)| PathBuf::from(place));
        let targets = mounts.map(|target| PathBuf::from(target.trim_start_matches('/')));
        for place in own.chain(targets) {
            let mut path = PathBuf::new();
            let mut above = PathBuf::from(".");
            for part in place.components() {
                path.push(part);
                if made.missing.contains(&path) {
                    above.clone_from(&path);
                    continue;
                }
                match root.open_file(&path, OFlags::PATH, Mode::empty()) {
                    Ok(_) => {}
                    Err(_) => {
                        if !made.missing.contains(&above) {
                            made.remember(root, &above);
                        }
                        made.missing.push(path.clone());
                    }
                }
                above.clone_from(&path);
            }
        }
        Ok(made)
    }

    fn remember(&mut self, root: &RootDir, dir: &Path) {
        if self.times.iter().any(|(known, _)| known == dir) {
            return;
        }
        let Ok(fd) = root.open_dir(dir) else { return };
        let Ok(stat) = rustix::fs::fstat(&fd) else { return };
        let at = |seconds, nanoseconds| rustix::fs::Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
        let times = rustix::fs::Timestamps {
            last_access: at(stat.st_atime, i64::try_from(stat.st_atime_nsec).unwrap_or(0)),
            last_modification: at(stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0)),
        };
        self.times.push((dir.to_path_buf(), times));
    }

    /// Removes what was made and has stayed empty, and puts the times of directories back where nothing else is new.
    fn take_away(mut self, root: &RootDir) {
        while let Some(path) = self.missing.pop() {
            let Ok((parent, name)) = root.open_parent(&path) else { continue };
            let Ok(stat) = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let kind = FileType::from_raw_mode(stat.st_mode);
            let flags = match kind {
                FileType::Directory => AtFlags::REMOVEDIR,
                FileType::RegularFile if stat.st_size == 0 => AtFlags::empty(),
                _ => continue,
            };
            // Not empty: the step put something there, which stays.
            let _stays = rustix::fs::unlinkat(&parent, name, flags);
        }
        for (dir, times) in self.times {
            let Ok(fd) = root.open_file(&dir, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) else {
                continue;
            };
            let _best_effort = rustix::fs::futimens(&fd, &times);
        }
    }
}

fn etc_place(name: &str) -> &'static str {
    match name {
        "hosts" => "/etc/hosts",
        "hostname" => "/etc/hostname",
        _ => "/etc/resolv.conf",
    }
}

fn mount_point(mount: &StepMount) -> MountPoint {
    let (kind, source, read_write, mode) = match mount {
        StepMount::Bind { source, read_write, is_plain, .. } => {
            // Of volumes the owners are shown as they are inside.
            let kind = if *is_plain { MountKind::Volume } else { MountKind::Bind };
            (kind, source.to_string_lossy().into_owned(), *read_write, String::new())
        }
        StepMount::Tmpfs { size: 0, .. } => (MountKind::Tmpfs, String::new(), true, "exec".into()),
        StepMount::Tmpfs { size, .. } => (MountKind::Tmpfs, String::new(), true, format!("exec,size={size}")),
    };
    MountPoint {
        kind,
        name: String::new(),
        source,
        destination: mount.target().to_string(),
        read_write,
        propagation: "rprivate".into(),
        mode,
        copy_up: false,
        non_recursive: false,
        anonymous: false,
        read_only_top: false,
        driver: String::new(),
        subpath: String::new(),
        image: None,
    }
}

fn blank_record(config: Config, host_config: HostConfig) -> Record {
    Record {
        version: RECORD_VERSION,
        id: ContainerId::random(),
        name: "build".into(),
        created: now(),
        image_id: Digest::of(b""),
        chain_id: None,
        config,
        host_config,
        args: Vec::new(),
        mounts: Vec::new(),
        networks: BTreeMap::new(),
        wanted_macs: BTreeMap::new(),
        ports: Vec::new(),
        state: State::default(),
    }
}

/// A pipe for output, of `owner`, who could not open it anew otherwise.
fn output_pipe(owner: Option<(u32, u32)>) -> Result<(Receiver, Stdio), Error> {
    let doing = || "make a pipe for a step's output".to_string();
    let (reader, writer) = std::io::pipe().io_during(doing)?;
    if let Some((uid, gid)) = owner {
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        rustix::fs::fchown(&writer, Some(uid), Some(gid)).io_during(doing)?;
    }
    let reader = Receiver::from_owned_fd(OwnedFd::from(reader)).io_during(doing)?;
    Ok((reader, Stdio::from(OwnedFd::from(writer))))
}

/// Passes a stream on. With `log`, nothing is passed once the runtime has noted a failure of its own there.
async fn relay(
    mut stream: impl tokio::io::AsyncRead + Unpin,
    is_stderr: bool,
    output: mpsc::Sender<StepOutput>,
    log: Option<PathBuf>,
) {
    let mut buffer = vec![0; 32 << 10];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(n) => {
                let own = buffer[..n].starts_with(b"brig-runtime: ");
                if own && log.as_ref().is_some_and(|log| failure(log).is_some()) {
                    continue;
                }
                // A reader that has gone ends the build elsewhere; the step must not block meanwhile.
                drop(output.send(StepOutput { is_stderr, bytes: buffer[..n].to_vec() }).await);
            }
        }
    }
}

/// The failure that the runtime noted in its log.
fn failure(log: &Path) -> Option<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(log).ok()?.take(MAX_LOG).read_to_string(&mut text).ok()?;
    text.lines().find_map(|line| {
        let entry: serde_json::Value = serde_json::from_str(line).ok()?;
        (entry.get("level")?.as_str()? == "error").then(|| entry.get("msg")?.as_str().map(str::to_string))?
    })
}
