//! Namespaces made ahead, so that a container's start does not wait for a program to make them. As sandboxes made ahead they are
//! made behind everybody's back, after a start; a daemon that starts no containers has none.

use oci::IdMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How many there are at most.
const MOST: usize = 3;
/// The container that was just started comes first.
const PAUSE: Duration = Duration::from_millis(10);

/// User namespaces, each with a network namespace of its own.
#[derive(Debug, Default)]
pub(super) struct Ready {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    made: Vec<(OwnedFd, Option<OwnedFd>)>,
    /// A thread makes more.
    is_making: bool,
}

impl Ready {
    /// One of them, if there is any; more are made behind the caller.
    pub(super) fn take(
        self: &Arc<Self>,
        shim: &Path,
        map: &Arc<IdMap>,
    ) -> Option<(OwnedFd, Option<OwnedFd>)> {
        let mut state = self.state.lock().expect("no holder panics");
        let taken = state.made.pop();
        if !state.is_making {
            let (own, shim, map) = (self.clone(), shim.to_path_buf(), map.clone());
            state.is_making = crate::behind::spawn("user-namespaces", move || own.fill(&shim, &map));
        }
        taken
    }

    fn fill(&self, shim: &Path, map: &IdMap) {
        std::thread::sleep(PAUSE);
        loop {
            let made = super::make(shim, Some(map), None, true);
            let mut state = self.state.lock().expect("no holder panics");
            match made {
                Ok(made) => state.made.push(made),
                Err(e) => {
                    tracing::debug!(error = %errors::chain(&e), "no user namespace made ahead");
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
