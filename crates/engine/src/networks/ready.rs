//! Sandboxes made ahead, so that a container's start does not wait for the kernel to make one. They are made behind
//! everybody's back, after a start has used one up or has found none; a daemon that starts no containers has none.

use network::ReadySandbox;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How many there are at most. Each is a namespace of the kernel's, some hundred KiB.
const MOST: usize = 3;
/// The container that was just started comes first.
const PAUSE: Duration = Duration::from_millis(10);

/// Those that are there.
#[derive(Debug, Default)]
pub(super) struct Ready {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    made: Vec<ReadySandbox>,
    /// A thread makes more.
    is_making: bool,
}

impl Ready {
    /// One of them, if there is any; more are made behind the caller.
    pub(super) fn take(self: &Arc<Self>) -> Option<ReadySandbox> {
        let mut state = self.state.lock().expect("no holder panics");
        let taken = state.made.pop();
        if !state.is_making {
            let own = self.clone();
            state.is_making = crate::behind::spawn("sandboxes", move || own.fill());
        }
        taken
    }

    /// Lets go of all: one was no good, and others have lain as long.
    pub(super) fn forget(&self) {
        let made = std::mem::take(&mut self.state.lock().expect("no holder panics").made);
        // Closing them takes a moment, without the lock.
        drop(made);
    }

    fn fill(&self) {
        std::thread::sleep(PAUSE);
        loop {
            // Named anew when it is used. The kernel takes 15 characters.
            let name = format!("veth{}", &crate::record::random_hex()[..7]);
            let made = ReadySandbox::make(&name);
            let mut state = self.state.lock().expect("no holder panics");
            match made {
                Ok(made) => state.made.push(made),
                Err(e) => {
                    tracing::debug!(error = %errors::chain(&e), "no sandbox made ahead");
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
