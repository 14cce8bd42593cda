//! One container in memory: its record, the order of verbs on it, and what people wait for.

use crate::error::{During, Error};
use crate::record::{ContainerId, MountKind, Record, Status};
use crate::shim_client::ShimConnection;
use errors::{Kind, Report};
use oci::IdMap;
use shim_api::Streams;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// How long a request waits for others on the same container. Longer than anything but a task that cannot be made.
const VERBS_DEADLINE: Duration = Duration::from_secs(60);

/// What waiters watch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Life {
    /// How often a task of this container has ended since the daemon started.
    pub exits: u64,
    pub running: bool,
    pub exit_code: i32,
    /// Why the last start failed, or empty.
    pub error: String,
    pub removed: bool,
}

/// One container.
#[derive(Debug)]
pub struct Container {
    id: ContainerId,
    record: Mutex<Record>,
    /// Held by start, restart, pause, rename, remove, and by stop while it sends its signal: one at a time, in order.
    pub(crate) verbs: tokio::sync::Mutex<()>,
    /// Held while the record is written or erased, so that the database has the last state and not an older one; true
    /// once it is erased, and never written again.
    pub(crate) erased: Mutex<bool>,
    /// Held while the remains of an ended task are taken down.
    pub(crate) remains: Arc<tokio::sync::Mutex<()>>,
    /// How many look at its root from outside, which must stay mounted meanwhile.
    pub(crate) views: AtomicU32,
    pub(crate) life: watch::Sender<Life>,
    /// Attached before the task exists; served between create and start.
    early: Mutex<Vec<(Streams, oneshot::Sender<ShimConnection>)>>,
    /// Restarts that wait for the task's end, which must then neither remove the container nor apply its policy.
    restarting: AtomicU32,
    /// Bumped to cancel a planned restart.
    pub(crate) restart_plan: watch::Sender<u64>,
    /// Bumped to end whoever watches the container's health.
    pub(crate) health_watch: watch::Sender<u64>,
    /// When the current task started, for the restart policy's back-off.
    pub(crate) started: Mutex<Option<std::time::Instant>>,
    /// Keeps other programs off the published ports.
    pub(crate) reservations: Mutex<Vec<network::ports::Reservation>>,
    /// The task's mount namespace. The last who holds one waits until the kernel has taken its mounts apart, which is tens of
    /// milliseconds on a busy machine: rather a thread of ours than the end of its init, and whoever waits for that.
    pub(crate) mount_namespace: Mutex<Option<OwnedFd>>,
    /// How the ids of its root file system are mapped, where it is mounted; of a running container, those of its user namespace.
    root_ids: Mutex<Option<Arc<IdMap>>>,
    /// Pause before the next automatic restart, milliseconds.
    pub(crate) backoff_ms: Mutex<u64>,
}

impl Container {
    pub(crate) fn new(record: Record) -> Container {
        let life = Life {
            running: record.state.status.is_alive(),
            exit_code: record.state.exit_code,
            ..Life::default()
        };
        Container {
            id: record.id.clone(),
            record: Mutex::new(record),
            verbs: tokio::sync::Mutex::default(),
            erased: Mutex::default(),
            remains: Arc::default(),
            views: AtomicU32::new(0),
            life: watch::Sender::new(life),
            early: Mutex::default(),
            restarting: AtomicU32::new(0),
            restart_plan: watch::Sender::new(0),
            health_watch: watch::Sender::new(0),
            started: Mutex::default(),
            mount_namespace: Mutex::default(),
            root_ids: Mutex::default(),
            backoff_ms: Mutex::default(),
            reservations: Mutex::default(),
        }
    }

    /// Its id.
    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// Its record, locked. Never held across an await.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Record> {
        self.record.lock().expect("no holder panics")
    }

    /// A copy of its record.
    pub fn record(&self) -> Record {
        self.lock().clone()
    }

    /// What `look` makes of its record, which is not copied for it. `look` must not wait for anything.
    pub fn read<T>(&self, look: impl FnOnce(&Record) -> T) -> T {
        look(&self.lock())
    }

    /// Where it is in its life.
    pub fn status(&self) -> Status {
        self.lock().state.status
    }

    /// What waiters watch.
    pub fn life(&self) -> watch::Receiver<Life> {
        self.life.subscribe()
    }

    /// Holds the mount namespace of the task whose init is `pid`, where nothing but the container is mounted in it, nor can be:
    /// what others have is free when they hear of the end.
    pub(crate) fn hold_mount_namespace(&self, pid: i32) {
        let has_others = self.read(|record| {
            let host = &record.host_config;
            let mounts_itself = host.privileged
                || host.cap_add.iter().any(|cap| {
                    let cap = cap.to_ascii_uppercase();
                    matches!(cap.strip_prefix("CAP_").unwrap_or(&cap), "ALL" | "SYS_ADMIN")
                });
            // A device may bring mounts, of those who describe it.
            let may_be_given = host.device_requests.iter().flatten().next().is_some();
            mounts_itself || may_be_given || record.mounts.iter().any(|m| m.kind != MountKind::Tmpfs)
        });
        // Without it the end takes its time.
        let namespace =
            if has_others { None } else { std::fs::File::open(format!("/proc/{pid}/ns/mnt")).ok() };
        *self.mount_namespace.lock().expect("no holder panics") = namespace.map(OwnedFd::from);
    }

    /// Lets go of it, on a thread that nobody waits for.
    pub(crate) fn release_mount_namespace(&self) {
        let held = self.mount_namespace.lock().expect("no holder panics").take();
        if let Some(namespace) = held {
            // Without a thread it is let go here.
            let _is_behind = crate::behind::spawn("unmount", move || drop(namespace));
        }
    }

    /// How the ids of its root are mapped, while that is mounted; None for not at all.
    pub(crate) fn root_ids(&self) -> Option<Arc<IdMap>> {
        self.root_ids.lock().expect("no holder panics").clone()
    }

    /// Says how its root is mounted.
    pub(crate) fn set_root_ids(&self, map: Option<Arc<IdMap>>) {
        *self.root_ids.lock().expect("no holder panics") = map;
    }

    /// Whether somebody looks at its root from outside.
    pub(crate) fn has_views(&self) -> bool {
        self.views.load(Ordering::SeqCst) > 0
    }

    /// How long its task has run, by a clock that nobody sets.
    pub(crate) fn ran(&self) -> Duration {
        self.started.lock().expect("no holder panics").map_or(Duration::ZERO, |at| at.elapsed())
    }

    /// Registers someone who wants streams from the first byte of the next task.
    pub(crate) fn attach_early(&self, streams: Streams) -> oneshot::Receiver<ShimConnection> {
        let (sender, receiver) = oneshot::channel();
        let mut early = self.early.lock().expect("no holder panics");
        early.retain(|(_, s)| !s.is_closed());
        early.push((streams, sender));
        receiver
    }

    /// Takes those who registered. Dropping them tells them that nothing comes.
    pub(crate) fn take_early(&self) -> Vec<(Streams, oneshot::Sender<ShimConnection>)> {
        std::mem::take(&mut *self.early.lock().expect("no holder panics"))
    }

    /// Whether someone waits for the task's end in order to start the next one.
    pub(crate) fn is_restarting(&self) -> bool {
        self.restarting.load(Ordering::SeqCst) > 0
    }

    /// Says that the task's end is part of a restart, until the guard is dropped.
    pub(crate) fn restart_under_way(&self) -> RestartUnderWay<'_> {
        self.restarting.fetch_add(1, Ordering::SeqCst);
        RestartUnderWay(self)
    }

    /// Waits until the verbs are free. The one that had them may have removed the container meanwhile.
    ///
    /// # Errors
    ///
    /// NotFound when it is gone, Unavailable when another request on it does not end.
    pub(crate) async fn take_verbs(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, Error> {
        let Ok(guard) = tokio::time::timeout(VERBS_DEADLINE, self.verbs.lock()).await else {
            let report = Report::new(Kind::Unavailable, "another request on it has not ended");
            return Err(report).during(|| {
                format!("wait {} s for container {}", VERBS_DEADLINE.as_secs(), self.lock().name)
            });
        };
        if self.life.borrow().removed {
            return Err(Error::NoSuchContainer { name: self.lock().name.clone() });
        }
        Ok(guard)
    }
}

/// See [`Container::restart_under_way`].
#[derive(Debug)]
pub(crate) struct RestartUnderWay<'a>(&'a Container);

impl Drop for RestartUnderWay<'_> {
    fn drop(&mut self) {
        self.0.restarting.fetch_sub(1, Ordering::SeqCst);
    }
}
