//! Things made ahead, so that a container's start does not wait for them. They are made behind everybody's back, after a
//! start has used one up or has found none; a daemon that starts no containers has none.

use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How many there are at most. Each has a namespace of the kernel's, some hundred KiB.
const MOST: usize = 3;
/// The container that was just started comes first.
const PAUSE: Duration = Duration::from_millis(10);

/// Those that are there.
#[derive(Debug)]
pub(crate) struct Ahead<T> {
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    made: Vec<T>,
    /// A thread makes more.
    is_making: bool,
}

impl<T> Default for Ahead<T> {
    fn default() -> Ahead<T> {
        Ahead { state: Mutex::new(State { made: Vec::new(), is_making: false }) }
    }
}

impl<T: Send + 'static> Ahead<T> {
    /// One of them, if there is any; more are made by `make` behind the caller, on a thread of that name.
    pub(crate) fn take<E: std::error::Error + 'static>(
        self: &Arc<Self>,
        thread: &'static str,
        make: impl Fn() -> Result<T, E> + Send + 'static,
    ) -> Option<T> {
        let mut state = self.state.lock().expect("no holder panics");
        let taken = state.made.pop();
        if !state.is_making {
            let own = self.clone();
            state.is_making = crate::behind::spawn(thread, move || own.fill(thread, make));
        }
        taken
    }

    /// Lets go of all: one was no good, and others have lain as long.
    pub(crate) fn forget(&self) {
        let made = std::mem::take(&mut self.state.lock().expect("no holder panics").made);
        // Closing them takes a moment, without the lock.
        drop(made);
    }

    fn fill<E: std::error::Error + 'static>(&self, thread: &str, make: impl Fn() -> Result<T, E>) {
        std::thread::sleep(PAUSE);
        loop {
            let made = make();
            let mut state = self.state.lock().expect("no holder panics");
            match made {
                Ok(made) => state.made.push(made),
                Err(e) => {
                    tracing::debug!(error = %errors::chain(&e), "no {thread} made ahead");
                    state.is_making = false;
                    return;
                }
            }
            if state.made.len() >= MOST {
                state.is_making = false;
                return;
            }
        }
    }
}
