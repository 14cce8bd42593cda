//! The OCI runtime: `config.json` becomes a [plan](plan), the plan becomes a container.
//!
//! ```text
//! config.rs    bundle -> Spec, with everything refused that would otherwise be ignored
//! plan.rs      Spec -> Vec<Step>, complete before the clone; `create` and `exec` are two plans from one builder
//! spawn.rs     the parent: clone3, id maps, cgroup, limits, hooks
//! child.rs     the child: walks the steps; its end is the launcher, which waits at the gate and executes the program
//! seal.rs      where the launcher is not enough to keep this program's file out of reach
//! site.rs      the container's root while mounts are made in it
//! state.rs     what later verbs need, one small JSON file a container
//! ```
//!
//! One thread, no async; the clone checks that. Nothing below a container's root is reached by a path string: all of it
//! goes through descriptors resolved inside the root.

mod channel;
mod child;
mod config;
mod console;
mod copy_up;
mod criu;
mod error;
mod events;
mod examine;
mod exec_cgroup;
mod features;
mod hooks;
#[cfg(test)]
mod hostile;
mod idmap;
mod limits;
mod listener;
mod listing;
mod mount_options;
mod mounts;
mod namespaces;
pub mod plan;
mod procfs;
mod program;
mod rdt;
mod rooted;
mod scheduling;
mod seal;
mod site;
mod spawn;
mod state;
mod steps;
mod trace;
mod update;
mod verbs;

pub use self::state::{ContainerId, Status, Store, timestamp};
pub use criu::{Checkpoint, Criu, Restore, checkpoint, restore};
pub use error::Error;
pub use events::events;
pub use examine::examine;
pub use features::{default_spec, features, rootless_spec};
pub use listing::{Listed, list, state};
pub use rdt::Schemas;
pub use trace::trace_to;
pub use update::update;
pub use verbs::{
    Create, Exec, Exit, KillTarget, Systemd, create, delete, exec, kill, pause, processes, resume, run,
    signal_number, start,
};

/// Whether the caller is outside its user namespace root.
pub fn is_root_outside() -> bool {
    cgroup::dbus::outer_uid() == 0
}

/// Whether the caller is root, here or in its user namespace.
pub fn is_root() -> bool {
    sys::process::ids_at_start().0 == 0
}
