//! Bridges that are to be deleted. The kernel waits for every processor when an interface goes, some 20 to 40 ms with all
//! other changes of interfaces waiting, and once for any number that go together: so they go together, when nobody has removed a
//! network for a moment.
//!
//! A bridge that waits has neither addresses nor rules. A daemon killed meanwhile leaves it without a record, and the next
//! start removes it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Nobody has removed a network for so long.
const CALM: Duration = Duration::from_millis(100);
/// The first of them waits no longer.
const PATIENCE: Duration = Duration::from_secs(1);

/// What waits.
#[derive(Debug, Default)]
pub(super) struct Retired {
    waiting: Mutex<Option<Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    first: Instant,
    last: Instant,
}

impl Retired {
    /// One more waits. A thread deletes it, with those that come meanwhile.
    pub(super) fn add(self: &Arc<Self>) {
        let now = Instant::now();
        let mut waiting = self.waiting.lock().expect("no holder panics");
        if let Some(waiting) = waiting.as_mut() {
            waiting.last = now;
            return;
        }
        let own = self.clone();
        // Without a thread they are removed at the next start.
        if crate::behind::spawn("bridges", move || own.delete_when_calm()) {
            *waiting = Some(Waiting { first: now, last: now });
        }
    }

    /// Deletes what waits, for a daemon that leaves. Blocking.
    pub(super) fn delete_now(&self) {
        let waited = self.waiting.lock().expect("no holder panics").take();
        if waited.is_some()
            && let Err(e) = network::delete_doomed()
        {
            tracing::warn!(error = %errors::chain(&e), "bridges not removed");
        }
    }

    fn delete_when_calm(&self) {
        loop {
            let left = match &*self.waiting.lock().expect("no holder panics") {
                Some(w) => {
                    CALM.saturating_sub(w.last.elapsed()).min(PATIENCE.saturating_sub(w.first.elapsed()))
                }
                None => return,
            };
            if left.is_zero() {
                return self.delete_now();
            }
            std::thread::sleep(left);
        }
    }
}
