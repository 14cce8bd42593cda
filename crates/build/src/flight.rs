//! Steps on their way: one that is being done, here or by another build, is waited for and not done twice.
//!
//! A step stays here until what it came to is in the database, so that there is no moment at which nobody knows of it. One
//! that fails or is dropped is forgotten; who waited for it does it then.

use crate::cache::Outcome;
use engine::Engine;
use image::Lease;
use oci::Digest;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tokio::sync::watch;

/// What a step came to; its layer stays for as long as this does.
pub(crate) type Came = Option<(Outcome, Arc<Lease>)>;
/// The store, by its address, and the key of the step.
type Name = (usize, Digest);

fn all() -> &'static Mutex<HashMap<Name, watch::Receiver<Came>>> {
    static ALL: OnceLock<Mutex<HashMap<Name, watch::Receiver<Came>>>> = OnceLock::new();
    ALL.get_or_init(Mutex::default)
}

/// Whose turn it is.
#[derive(Debug)]
pub(crate) enum Turn {
    /// The caller's.
    Mine(Flight),
    /// Another's, who tells here what it came to, or drops it.
    Others(watch::Receiver<Came>),
}

/// A step that its owner does.
#[derive(Debug)]
pub(crate) struct Flight {
    name: Name,
    sender: watch::Sender<Came>,
}

/// Begins a step, unless somebody does it already.
pub(crate) fn begin(engine: &Arc<Engine>, key: &Digest) -> Turn {
    let name = (Arc::as_ptr(engine).addr(), *key);
    match all().lock().unwrap_or_else(PoisonError::into_inner).entry(name) {
        Entry::Occupied(other) => Turn::Others(other.get().clone()),
        Entry::Vacant(place) => {
            let (sender, receiver) = watch::channel(None);
            place.insert(receiver);
            Turn::Mine(Flight { name, sender })
        }
    }
}

/// Waits for what another does. None when it came to nothing.
pub(crate) async fn wait(mut receiver: watch::Receiver<Came>) -> Came {
    receiver.wait_for(Option::is_some).await.ok().and_then(|came| came.clone())
}

impl Flight {
    /// Tells those who wait.
    pub(crate) fn came_to(&self, outcome: &Outcome, lease: &Arc<Lease>) {
        self.sender.send_replace(Some((outcome.clone(), lease.clone())));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        all().lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}
