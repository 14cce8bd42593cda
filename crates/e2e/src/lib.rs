//! What the tests in this crate share: one daemon and one registry a test program, and the session that people type,
//! which runs once by `brig` and once by the docker CLI.
//!
//! Needs root, the programs (`cargo xtask build`), and the packages busybox-static, docker-registry and docker.io (or
//! another docker CLI): `cargo xtask test` sees to all of it.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]
// The largest of the documents that are made wrong.
#![recursion_limit = "256"]

pub mod btrfs;
pub mod builds;
pub mod grpc;
pub mod hostile;
pub mod hosts;
pub mod networks;
pub mod random;
pub mod session;
pub mod steps;

use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use testkit::daemon::{self, Daemon, Finished, Running};
use testkit::images;
use testkit::registry::Registry;

/// Name under which the shared daemon has a busybox image.
pub const BUSYBOX: &str = "busybox:latest";

/// A daemon and a registry that the tests of one program use together. Every test has containers of its own names.
#[derive(Debug)]
pub struct Shared {
    pub daemon: Daemon,
    pub registry: Registry,
}

/// The one that is there; the last test to let go of it ends it. A `static` would never be dropped.
static SHARED: Mutex<Weak<Shared>> = Mutex::new(Weak::new());

/// The shared daemon, or None where the test cannot run.
#[track_caller]
pub fn shared() -> Option<Arc<Shared>> {
    if !testkit::is_root() {
        return None;
    }
    // A test that failed inside leaves nothing half-made here.
    let mut slot = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(shared) = slot.upgrade() {
        return Some(shared);
    }
    let daemon = Daemon::start(daemon::Options::default());
    daemon.load_busybox(BUSYBOX);
    let shared = Arc::new(Shared { daemon, registry: Registry::start() });
    *slot = Arc::downgrade(&shared);
    Some(shared)
}

/// A daemon of the test's own, with [`BUSYBOX`], or None where the test cannot run.
#[track_caller]
pub fn own() -> Option<Daemon> {
    if !testkit::is_root() {
        return None;
    }
    let daemon = Daemon::start(daemon::Options::default());
    daemon.load_busybox(BUSYBOX);
    Some(daemon)
}

/// Who types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    Brig,
    Docker,
}

impl Client {
    /// The command, not started yet.
    pub fn command(self, daemon: &Daemon, args: &[&str]) -> Command {
        match self {
            Client::Brig => daemon.brig_command(args),
            Client::Docker => daemon.docker_command(args),
        }
    }

    /// Runs the command to its end.
    #[track_caller]
    pub fn run(self, daemon: &Daemon, args: &[&str]) -> Finished {
        daemon::finish(self.command(daemon, args), &[])
    }

    /// Starts the command.
    #[track_caller]
    pub fn start(self, daemon: &Daemon, args: &[&str]) -> Running {
        Running::start(self.command(daemon, args))
    }

    /// A name that no other test gives.
    pub fn name(self, name: &str) -> String {
        match self {
            Client::Brig => format!("b-{name}"),
            Client::Docker => format!("d-{name}"),
        }
    }
}

/// A busybox image in the registry, under a repository of the test's own. Its reference.
pub fn push(shared: &Shared, repository: &str) -> String {
    images::push_busybox(&shared.registry, repository, "1");
    shared.registry.reference(repository, "1")
}
