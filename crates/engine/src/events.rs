//! What happened, for those who listen and for those who ask later.
//!
//! The history outlives the daemon, not the machine's run: `<exec-root>/events.1` has one event a line, as JSON. A daemon that is
//! killed while it writes leaves a torn last line, which is nobody's. The file is written anew with what is kept when it has
//! twice as many.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::broadcast;

/// Events kept for `since`. Docker keeps 256; a busy CI host makes more in a minute.
const HISTORY: usize = 1024;
/// Events a slow listener may fall behind before it loses some.
const BACKLOG: usize = 1024;

/// Name of the file with the history, its version included.
const FILE: &str = "events.1";
/// Longest event that is written down: one has the labels of its container.
const MAX_LINE: usize = 64 << 10;
/// What is read of a file, which this daemon's predecessor kept below it.
const MAX_FILE: u64 = 2 * (HISTORY * MAX_LINE) as u64;
/// Kinds of objects.
const KINDS: [&str; 6] = ["container", "image", "network", "volume", "daemon", "builder"];

/// One thing that happened to one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
    history: Mutex<History>,
    sender: broadcast::Sender<Event>,
}

/// What is remembered, and where it is written down.
#[derive(Debug, Default)]
struct History {
    kept: VecDeque<Event>,
    /// None where nothing is written down, or no more.
    file: Option<File>,
    path: PathBuf,
    lines: usize,
}

/// An event as it is read.
#[derive(Deserialize)]
struct Written {
    kind: String,
    action: String,
    actor: String,
    attributes: BTreeMap<String, String>,
    time_nanos: i64,
}

impl Written {
    fn event(self) -> Option<Event> {
        let Written { kind, action, actor, attributes, time_nanos } = self;
        let kind = KINDS.into_iter().find(|known| *known == kind)?;
        Some(Event { kind, action, actor, attributes, time_nanos })
    }
}

impl History {
    fn open(directory: &Path) -> History {
        let path = directory.join(FILE);
        let mut history = History { path, ..History::default() };
        if let Ok(file) = File::open(&history.path) {
            let lines = BufReader::new(file.take(MAX_FILE)).split(b'\n').map_while(Result::ok);
            for event in lines.filter_map(|l| serde_json::from_slice::<Written>(&l).ok()?.event()) {
                history.keep(event);
            }
        }
        history.rewrite();
        history
    }

    fn keep(&mut self, event: Event) {
        if self.kept.len() == HISTORY {
            self.kept.pop_front();
        }
        self.kept.push_back(event);
    }

    /// Makes the file anew of what is kept.
    fn rewrite(&mut self) {
        let aside = self.path.with_extension("new");
        let text: Vec<u8> = self.kept.iter().filter_map(line).flatten().collect();
        let written = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&aside)
            .and_then(|file| file.set_len(0).map(|()| file))
            .and_then(|mut file| file.write_all(&text).map(|()| file))
            .and_then(|file| std::fs::rename(&aside, &self.path).map(|()| file));
        self.lines = self.kept.len();
        match written {
            Ok(file) => self.file = Some(file),
            Err(error) => self.give_up(&error),
        }
    }

    /// History is a convenience: a full disk keeps nobody from working.
    fn give_up(&mut self, error: &std::io::Error) {
        tracing::warn!(path = %self.path.display(), %error, "events are not written down any more");
        self.file = None;
    }

    fn add(&mut self, event: Event) {
        if let (Some(file), Some(line)) = (&mut self.file, line(&event)) {
            // One write: what a killed daemon leaves is whole lines and perhaps the beginning of one.
            match file.write_all(&line) {
                Ok(()) => self.lines += 1,
                Err(error) => self.give_up(&error),
            }
        }
        self.keep(event);
        if self.lines >= 2 * HISTORY && self.file.is_some() {
            self.rewrite();
        }
    }
}

fn line(event: &Event) -> Option<Vec<u8>> {
    let mut line = serde_json::to_vec(event).ok()?;
    line.push(b'\n');
    (line.len() <= MAX_LINE).then_some(line)
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
    /// With the history that the last daemon left in `directory`.
    pub(crate) fn open(directory: &Path) -> Events {
        Events { history: Mutex::new(History::open(directory)), ..Events::default() }
    }

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
        history.add(event.clone());
        // Sent under the lock, so that `subscribe` sees each event once: in the history or on the channel.
        // An error only says that nobody listens.
        drop(self.sender.send(event));
    }

    /// The events kept so far, and every later one.
    pub fn subscribe(&self) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let history = self.history.lock().expect("no holder panics");
        (history.kept.iter().cloned().collect(), self.sender.subscribe())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(events: &Events, n: usize) {
        events.publish("container", format!("a{n}"), "c", [("name".to_string(), "n".to_string())].into());
    }

    #[test]
    fn the_history_outlives_a_daemon_and_stays_bounded() {
        let directory = tempfile::tempdir().expect("a directory");
        let events = Events::open(directory.path());
        (0..3 * HISTORY).for_each(|n| publish(&events, n));
        let (before, _) = events.subscribe();
        drop(events);
        let path = directory.path().join(FILE);
        let lines = std::fs::read_to_string(&path).expect("the file").lines().count();
        assert!((HISTORY..2 * HISTORY).contains(&lines), "{lines}");
        // The beginning of a line, from a daemon that was killed while it wrote.
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).expect("the file");
        file.write_all(b"{\"kind\":\"container\",\"act").expect("a torn line");
        let events = Events::open(directory.path());
        assert_eq!(events.subscribe().0, before);
        publish(&events, 7);
        drop(events);
        let (after, _) = Events::open(directory.path()).subscribe();
        assert_eq!((after.len(), after[HISTORY - 1].action.as_str()), (HISTORY, "a7"));
        assert_eq!(after[..HISTORY - 1], before[1..]);
    }

    #[test]
    fn a_file_of_something_else_is_no_history() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join(FILE), [0xff; 100]).expect("a file");
        let events = Events::open(directory.path());
        assert!(events.subscribe().0.is_empty());
    }
}
