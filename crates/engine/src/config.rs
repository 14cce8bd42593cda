//! What the daemon's flags and configuration file decide.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Everything the engine is told from outside.
#[derive(Debug, Clone)]
pub struct Config {
    /// Images, snapshots, records, logs. Must survive a reboot.
    pub data_root: PathBuf,
    /// Sockets, mounts, what runs. Must not survive a reboot.
    pub exec_root: PathBuf,
    /// One of [`crate::STORAGE_DRIVERS`]; the best that works when nothing is asked for.
    pub storage_driver: Option<String>,
    /// Absolute path below each cgroup hierarchy's root.
    pub cgroup_parent: String,
    /// Name of the default bridge.
    pub bridge: String,
    /// Interface MTU of bridge and containers.
    pub mtu: u32,
    /// The store of networks that several hosts share.
    pub cluster: Option<crate::ClusterConfig>,
    /// The shim program.
    pub shim: PathBuf,
    /// The program that answers containers for names.
    pub name_server: PathBuf,
    /// Runtime programs by name; holds `default_runtime`.
    pub runtimes: BTreeMap<String, PathBuf>,
    pub default_runtime: String,
    /// Log driver of containers that name none.
    pub log_driver: String,
    /// Its options, where containers do not give them.
    pub log_opts: BTreeMap<String, String>,
    /// Where vendors' device specs are, in rising order of precedence.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// Containers that do not say whether they want an init get one.
    pub default_init: bool,
    /// Open files, soft and hard limit, of containers that say nothing: what the daemon had before it raised its own. None
    /// where it did not.
    pub open_files: Option<(u64, u64)>,
    /// Whose subordinate ids containers run with, as `--userns-remap` takes it; None for the host's own.
    pub userns_remap: Option<String>,
    /// Where `passwd`, `group`, `subuid` and `subgid` are.
    pub subid_dir: PathBuf,
    /// Seconds between stop signal and SIGKILL for containers that say nothing.
    pub stop_timeout_s: u32,
    pub registry: registry_client::Config,
    /// Debug was asked for; shown by `info`.
    pub debug: bool,
    /// `KEY=VALUE` that the administrator says of this daemon; shown by `info`.
    pub labels: Vec<String>,
    /// What Docker calls experimental is there: checkpoints.
    pub experimental: bool,
}

impl Config {
    /// Directory of the shim and bundle of container `id`.
    pub(crate) fn shim_dir(&self, id: &str) -> PathBuf {
        self.exec_root.join("shims").join(id)
    }

    /// Where the root file system of container `id` is mounted.
    pub(crate) fn rootfs(&self, id: &str) -> PathBuf {
        self.exec_root.join("rootfs").join(id)
    }

    /// The network namespace of container `id`.
    pub(crate) fn netns(&self, id: &str) -> PathBuf {
        self.exec_root.join("netns").join(id)
    }

    /// The runtime's `--root`.
    pub(crate) fn runtime_root(&self) -> PathBuf {
        self.exec_root.join("runtime")
    }

    /// Files of container `id` that outlive its task.
    pub(crate) fn container_dir(&self, id: &str) -> PathBuf {
        self.data_root.join("containers").join(id)
    }

    /// The log of container `id`.
    pub fn log_path(&self, id: &str) -> PathBuf {
        self.container_dir(id).join(format!("{id}-json.log"))
    }

    /// Directories that must exist, with their modes.
    pub(crate) fn directories(&self) -> Vec<(PathBuf, u32)> {
        let below =
            |root: &Path, names: &[&str]| names.iter().map(|n| (root.join(n), 0o700)).collect::<Vec<_>>();
        let mut out = vec![(self.data_root.clone(), 0o710), (self.exec_root.clone(), 0o711)];
        out.extend(below(&self.data_root, &["containers", "volumes", "tmp"]));
        out.extend(below(&self.exec_root, &["dns", "shims", "rootfs", "mounts", "netns", "runtime", "shm"]));
        out
    }
}
