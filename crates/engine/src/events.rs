//! What happened, for those who listen and for those who ask later.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::broadcast;

/// Events kept for `since`. Docker keeps 256; a busy CI host makes more in a minute.
const HISTORY: usize = 1024;
/// Events a slow listener may fall behind before it loses some.
const BACKLOG: usize = 1024;

/// One thing that happened to one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `container`, `image`, `network`, `volume`, `daemon`.
    pub kind: &'static str,
    /// `create`, `start`, `die`, ...
    pub action: String,
    /// Id, or name for images and volumes.
    pub actor: String,
    pub attributes: BTreeMap<String, String>,
    /// Nanoseconds since 1970.
    pub time_nanos: i64,
}

/// The log of events.
#[derive(Debug)]
pub struct Events {
    /// Published since the daemon started.
    published: AtomicU64,
    history: Mutex<VecDeque<Event>>,
    sender: broadcast::Sender<Event>,
}

impl Default for Events {
    fn default() -> Events {
        Events {
            published: AtomicU64::new(0),
            history: Mutex::default(),
            sender: broadcast::channel(BACKLOG).0,
        }
    }
}

impl Events {
    /// Records an event that happens now.
    pub fn publish(
        &self,
        kind: &'static str,
        action: impl Into<String>,
        actor: impl Into<String>,
        attributes: BTreeMap<String, String>,
    ) {
        let time_nanos = i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX);
        let event = Event { kind, action: action.into(), actor: actor.into(), attributes, time_nanos };
        self.published.fetch_add(1, Ordering::Relaxed);
        let mut history = self.history.lock().expect("no holder panics");
        if history.len() == HISTORY {
            history.pop_front();
        }
        history.push_back(event.clone());
        // Sent under the lock, so that `subscribe` sees each event once: in the history or on the channel.
        // An error only says that nobody listens.
        drop(self.sender.send(event));
    }

    /// The events kept so far, and every later one.
    pub fn subscribe(&self) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let history = self.history.lock().expect("no holder panics");
        (history.iter().cloned().collect(), self.sender.subscribe())
    }

    /// How many were published since the daemon started.
    pub fn published(&self) -> u64 {
        self.published.load(Ordering::Relaxed)
    }

    /// How many listen now.
    pub fn listeners(&self) -> usize {
        self.sender.receiver_count()
    }
}
