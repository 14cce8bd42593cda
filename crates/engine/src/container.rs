//! One container in memory: its record, the order of verbs on it, and what people wait for.

use crate::record::{ContainerId, Record, Status};
use crate::shim_client::ShimConnection;
use shim_api::Streams;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::{oneshot, watch};

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
    /// Held by start, stop, kill -9, restart, remove: one at a time, in order.
    pub(crate) verbs: tokio::sync::Mutex<()>,
    /// Held while the remains of an ended task are taken down.
    pub(crate) remains: Arc<tokio::sync::Mutex<()>>,
    pub(crate) life: watch::Sender<Life>,
    /// Attached before the task exists; served between create and start.
    early: Mutex<Vec<(Streams, oneshot::Sender<ShimConnection>)>>,
    /// A restart is under way: the end of the task must neither remove the container nor apply its policy.
    pub(crate) restarting: AtomicBool,
    /// Bumped to cancel a planned restart.
    pub(crate) restart_plan: watch::Sender<u64>,
    /// When the current task started, for the restart policy's back-off.
    pub(crate) started: Mutex<Option<std::time::Instant>>,
    /// Keeps other programs off the published ports.
    pub(crate) reservations: Mutex<Vec<network::ports::Reservation>>,
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
            remains: Arc::default(),
            life: watch::Sender::new(life),
            early: Mutex::default(),
            restarting: AtomicBool::new(false),
            restart_plan: watch::Sender::new(0),
            started: Mutex::default(),
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

    /// Where it is in its life.
    pub fn status(&self) -> Status {
        self.lock().state.status
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

    /// Whether a restart is under way.
    pub(crate) fn is_restarting(&self) -> bool {
        self.restarting.load(Ordering::SeqCst)
    }
}
