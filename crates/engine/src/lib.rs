//! The engine: containers, images, tasks, execs, networks and events, without a word of HTTP.
//!
//! The road of `run` through this crate: [`create`](Engine::create) makes the record and the writable snapshot,
//! [`start`](Engine::start) (in `launch.rs`) mounts it, sets up the network, writes the bundle (`bundle.rs`) and spawns
//! the shim; `task.rs` listens to the shim and takes down what is left when the task ends; `recover.rs` makes disk,
//! kernel and database agree when a daemon starts.
//!
//! The engine keeps nothing that it cannot rebuild from the database and from the shims.

mod age;
mod ahead;
mod attach;
mod behind;
mod bundle;
mod cdi;
mod changes;
mod check;
mod checkpoints;
mod clamp;
mod collection;
mod commit;
mod config;
mod container;
mod copy;
mod create;
mod devices;
mod disk_report;
mod error;
mod events;
mod exec;
mod go_mode;
mod health;
mod image_archives;
mod images;
mod instructions;
mod launch;
mod life;
mod limits;
mod links;
mod log_drivers;
mod logs;
pub mod model;
mod modes;
mod names;
mod networks;
mod ports;
mod push;
mod rates;
mod record;
mod recover;
mod remove;
mod shim_alive;
mod shim_client;
mod shm;
mod stats;
mod storage;
mod system;
mod task;
mod top;
mod update;
mod user;
mod userns;
mod view;
mod volumes;
mod workspace;

pub use archive::{Change, ChangeKind};
pub use attach::{AttachedOutput, Attachment, PendingAttachment};
pub use bundle::DEFAULT_CAPABILITIES;
pub use cdi::DIRECTORIES as CDI_SPEC_DIRS;
pub use checkpoints::CheckpointRequest;
pub use commit::{CommitRequest, PLACES};
pub use config::Config;
pub use container::{Container, Life};
pub use copy::{Extract, Packing, PathStat};
pub use create::{CreateRequest, Created};
pub use disk_report::{DiskPart, DiskReport};
pub use error::{Error, blocking};
pub use etcd::Tls as StoreTls;
pub use events::{Event, Events};
pub use exec::{Exec, ExecConfig, ExecStatus};
pub use go_mode::{go_mode, unix_mode};
pub use health::{ACTION_LABEL, Counts, Health, HealthStatus, Probe};
pub use image_archives::{ImportRequest, Pruned as PrunedImages, SavedImages};
pub use images::PullEvent;
pub use life::{Armed, Signal, WaitCondition};
pub use log_drivers::{DRIVERS as LOG_DRIVERS, check_default as check_log_driver};
pub use logs::{LogEntry, LogOptions, LogStream};
pub use networks::{
    ClusterConfig, ConfigReference, IpamRequest, Network, NetworkPool, NetworkRequest, PoolRequest,
    RemoteEndpoint,
};
pub use ports::PublishedPort;
pub use push::PushEvent;
pub use record::{ContainerId, MountKind, MountPoint, NEVER, Record, State, Status};
pub use shim_api::Streams;
pub use shim_client::{Output, ShimReader, ShimWriter};
pub use stats::{BlkioEntry, CgroupStats, Interface, Sample};
pub use storage::STORAGE_DRIVERS;
pub use system::{DiskUsage, Info, NETWORK_DRIVERS};
pub use top::Processes;
pub use update::UpdateRequest;
pub use volumes::{NewVolume, PrunedVolumes, ShownVolume, Volume};
pub use workspace::{
    Scratch, Step, StepLayer, StepMount, StepNetwork, StepOutput, Workspace, device_request,
};

use crate::error::{During, IoDuring};
use collection::Collection;
use content::ContentStore;
use image::Images;
use metadata::Database;
use networks::Networks;
use snapshot::Snapshotter;
use std::collections::HashMap;
use std::os::unix::fs::DirBuilderExt;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// The engine. Methods are called from async code; what blocks runs on blocking threads.
#[derive(Debug)]
pub struct Engine {
    config: Config,
    db: Arc<Database>,
    content: ContentStore,
    snapshots: Arc<dyn Snapshotter>,
    images: Arc<Images>,
    registry: registry_client::Client,
    containers: Collection,
    networks: Networks,
    /// What containers get a user namespace from, where they do.
    remap: Option<userns::Remap>,
    volumes: volumes::Volumes,
    events: Events,
    /// Health checks run, and those that failed.
    probes: [AtomicU64; 2],
    execs: Mutex<HashMap<String, Arc<Exec>>>,
    /// Capabilities of this process, which are all it can hand on. Names with `CAP_`.
    capabilities: Vec<String>,
    cgroup_mode: cgroup::Mode,
    /// Recovery is over: tasks may be started.
    recovered: tokio::sync::watch::Sender<bool>,
    /// A tidying thread is about to start.
    tidying: Arc<AtomicBool>,
    last_checkpoint: Arc<Mutex<Option<Instant>>>,
    /// This host's name for `info`, stable over restarts.
    id: String,
}

/// Before the firewall is listened to again after that has failed.
const WATCH_PAUSE: std::time::Duration = std::time::Duration::from_secs(1);

impl Engine {
    /// Opens the store, makes disk, kernel and database agree, and adopts what runs.
    ///
    /// # Errors
    ///
    /// Anything that makes serving impossible; what can be left for later is logged instead.
    pub async fn open(config: Config) -> Result<Arc<Engine>, Error> {
        let engine = error::blocking(move || Engine::open_store(config)).await?;
        let engine = Arc::new(engine);
        engine.recover().await?;
        engine.watch_rules();
        engine.follow_cluster();
        Ok(engine)
    }

    /// Makes the rules anew when another program deletes them, on kernels where it can.
    fn watch_rules(self: &Arc<Self>) {
        match network::firewall::claim() {
            Ok(true) => return,
            Ok(false) => {}
            Err(e) => tracing::warn!(error = %errors::chain(&e), "no table for rules"),
        }
        let watch = match network::watch() {
            Ok(watch) => watch,
            Err(e) => return tracing::warn!(error = %errors::chain(&e), "rules are not watched"),
        };
        let engine = Arc::downgrade(self);
        // Without one the rules are made anew when the daemon starts, as on kernels that cannot say.
        let _watched = behind::spawn("rules", move || {
            let mut watch = watch;
            loop {
                match watch.wait_for_loss() {
                    Ok(()) => tracing::warn!("another program deleted the firewall's table; making it anew"),
                    Err(e) => {
                        tracing::warn!(error = %errors::chain(&e), "what becomes of the firewall's table is not heard; beginning anew");
                        std::thread::sleep(WATCH_PAUSE);
                        // It may be gone meanwhile.
                        watch = network::watch().unwrap_or(watch);
                    }
                }
                let Some(engine) = engine.upgrade() else { return };
                let containers = engine.list_containers();
                let alive = containers.iter().map(|c| c.record()).filter(|r| r.state.status.is_alive());
                let alive: Vec<Record> = alive.collect();
                engine.networks.restore_rules(&alive);
            }
        });
    }

    fn open_store(config: Config) -> Result<Engine, Error> {
        for (path, mode) in config.directories() {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(mode)
                .create(&path)
                .io_during(|| format!("create {}", path.display()))?;
        }
        let open = || format!("open the store in {}", config.data_root.display());
        let db = Arc::new(Database::open(&config.data_root).during(open)?);
        let content = ContentStore::open(&config.data_root.join("content")).during(open)?;
        let snapshots = storage::open(&config, &db)?;
        let remap = userns::Remap::open(&config, snapshots.is_overlay_form())?;
        let images = Arc::new(
            Images::open(&config.data_root, db.clone(), content.clone(), snapshots.clone()).during(open)?,
        );
        let registry =
            registry_client::Client::new(config.registry.clone()).during(|| "set up TLS".into())?;
        let networks = Networks::open(&config, &db)?;
        let cgroup_mode = cgroup::mode().during(|| "look at the cgroup hierarchies".into())?;
        Ok(Engine {
            id: system::engine_id(&config.data_root)?,
            capabilities: system::own_capabilities()?,
            containers: Collection::default(),
            events: Events::open(&config.exec_root),
            probes: Default::default(),
            recovered: tokio::sync::watch::Sender::new(false),
            tidying: Arc::default(),
            last_checkpoint: Arc::default(),
            execs: Mutex::default(),
            config,
            db,
            content,
            snapshots,
            images,
            registry,
            networks,
            remap,
            volumes: volumes::Volumes::default(),
            cgroup_mode,
        })
    }

    /// What the engine was told.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The images.
    pub fn images(&self) -> &Arc<Images> {
        &self.images
    }

    /// The events.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// The container that `name` means: id, unique beginning of an id, or name.
    pub fn container(&self, name: &str) -> Result<Arc<Container>, Error> {
        self.containers.find(name)
    }

    /// All containers, newest first.
    pub fn list_containers(&self) -> Vec<Arc<Container>> {
        self.containers.list()
    }

    /// Writes the container's record as it is now, unless it has been erased.
    async fn save(&self, container: &Arc<Container>) -> Result<(), Error> {
        let (db, container) = (self.db.clone(), container.clone());
        error::blocking(move || {
            let erased = container.erased.lock().expect("no holder panics");
            // Taken with the lock held: of two writes the later one has the later state.
            if *erased { Ok(()) } else { put_freeing(&db, &container.record()) }
        })
        .await
    }

    /// As [`Engine::save`] for what must not wait for a record: a full disk keeps nobody from ending what fills it.
    async fn save_if_possible(&self, container: &Arc<Container>) {
        if let Err(e) = self.save(container).await {
            tracing::error!(container_id = %container.id(), error = %errors::chain(&e), "a change of state is not recorded");
        }
    }

    /// Tells of the networks that the container's task joins or leaves.
    fn publish_networks(&self, container: &Container, action: &str) {
        let names: Vec<String> = container.lock().networks.keys().cloned().collect();
        for entry in names.iter().filter_map(|name| self.networks.find(name).ok()) {
            let network = &entry.record;
            let attributes = [
                ("container".to_string(), container.id().to_string()),
                ("name".to_string(), network.name.clone()),
                ("type".to_string(), network.driver.clone()),
            ];
            self.events.publish("network", action, network.id.as_str(), attributes.into());
        }
    }

    fn publish(&self, container: &Container, action: &str, more: &[(&str, String)]) {
        let mut attributes = container.lock().config.labels.clone();
        {
            let record = container.lock();
            attributes.insert("name".into(), record.name.clone());
            attributes.insert("image".into(), record.config.image.clone());
        }
        attributes.extend(more.iter().map(|(k, v)| (k.to_string(), v.clone())));
        self.events.publish("container", action, container.id().as_str(), attributes);
    }
}

/// As [`put`] for a record that exists: on a full disk the reserve is used, so that an exit is never forgotten.
fn put_freeing(db: &Database, record: &Record) -> Result<(), Error> {
    let doing = || format!("save container {}", record.name);
    let body = body(record).io_during(doing)?;
    db.delete(|tx| tx.put_record(metadata::RecordKind::Container, record.id.as_str(), &record.name, &body))
        .during(doing)
}

fn body(record: &Record) -> Result<String, std::io::Error> {
    serde_json::to_string(record).map_err(std::io::Error::from)
}

fn put(db: &Database, record: &Record) -> Result<(), Error> {
    let doing = || format!("save container {}", record.name);
    let body = body(record).io_during(doing)?;
    db.put_record(metadata::RecordKind::Container, record.id.as_str(), &record.name, &body).during(doing)
}
