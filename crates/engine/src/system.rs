//! What `info`, `version` and `system df` tell.

use crate::error::{During, Error, IoDuring, blocking};
use crate::{Engine, Status};
use oci::runtime::ALL_CAPABILITIES;
use std::path::Path;
use std::sync::Arc;

/// Facts about engine and host.
#[derive(Debug, Clone)]
pub struct Info {
    pub id: String,
    pub containers: usize,
    pub running: usize,
    pub paused: usize,
    pub images: usize,
    pub storage_driver: &'static str,
    pub cgroup_version: &'static str,
    pub kernel: String,
    pub operating_system: String,
    pub os_version: String,
    pub hostname: String,
    pub cpus: usize,
    pub memory_bytes: u64,
    pub open_fds: usize,
    pub threads: usize,
    pub event_listeners: usize,
    pub ipv4_forwarding: bool,
    pub limits: cgroup::Limits,
    /// The kind of file system below the data root, by Docker's name for it.
    pub backing_filesystem: String,
    /// `vendor.com/class=name` of what the CDI specs have.
    pub cdi_devices: Vec<String>,
    /// Ours, and the plugins that volumes are of.
    pub volume_drivers: Vec<String>,
    pub has_apparmor: bool,
    /// Containers get user namespaces.
    pub is_remapped: bool,
}

/// The network drivers, as `info` lists them.
pub const NETWORK_DRIVERS: [&str; 6] = ["bridge", "host", "ipvlan", "macvlan", "null", "overlay"];

/// What takes space.
#[derive(Debug, Clone, Default)]
pub struct DiskUsage {
    /// All layers, each once.
    pub layers_bytes: u64,
    pub blobs_bytes: u64,
}

impl Engine {
    /// Looks around.
    pub async fn info(self: &Arc<Self>) -> Result<Info, Error> {
        let engine = self.clone();
        blocking(move || {
            let containers = engine.list_containers();
            let count = |status| containers.iter().filter(|c| c.status() == status).count();
            let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
            let entries = |path: &str| std::fs::read_dir(path).map_or(0, Iterator::count);
            let uname = rustix::system::uname();
            let mut volume_drivers = vec!["local".to_string()];
            volume_drivers.extend(engine.volume_plugins()?);
            Ok(Info {
                id: engine.id.clone(),
                running: count(Status::Running),
                paused: count(Status::Paused),
                containers: containers.len(),
                images: engine.images.list().during(|| "list images".into())?.len(),
                storage_driver: engine.snapshots.driver(),
                cgroup_version: if engine.cgroup_mode == cgroup::Mode::V2 { "2" } else { "1" },
                kernel: uname.release().to_string_lossy().into_owned(),
                hostname: uname.nodename().to_string_lossy().into_owned(),
                operating_system: os_release(&text("/etc/os-release"), "PRETTY_NAME")
                    .unwrap_or("Linux".into()),
                os_version: os_release(&text("/etc/os-release"), "VERSION_ID").unwrap_or_default(),
                cpus: std::thread::available_parallelism().map_or(1, usize::from),
                memory_bytes: memory(&text("/proc/meminfo")),
                open_fds: entries("/proc/self/fd"),
                threads: entries("/proc/self/task"),
                event_listeners: engine.events.listeners(),
                ipv4_forwarding: text("/proc/sys/net/ipv4/ip_forward").trim() == "1",
                limits: cgroup::limits().during(|| "look at the cgroups".into())?,
                backing_filesystem: filesystem(&engine.config.data_root),
                cdi_devices: crate::cdi::devices(&engine.config.cdi_spec_dirs),
                volume_drivers,
                has_apparmor: crate::modes::has_apparmor(),
                is_remapped: engine.is_remapped(),
            })
        })
        .await
    }

    /// What the store takes on disk.
    pub async fn disk_usage(self: &Arc<Self>) -> Result<DiskUsage, Error> {
        let images = self.images.clone();
        let usage = blocking(move || images.disk_usage()).await.during(|| "measure the store".into())?;
        Ok(DiskUsage { layers_bytes: usage.layers_bytes, blobs_bytes: usage.blobs_bytes })
    }
}

/// Docker's word for the file system at `path`: mostly the kernel's name for it.
///
/// Kernel: statfs(2), `linux/magic.h`.
fn filesystem(path: &Path) -> String {
    let magic = rustix::fs::statfs(path).ok().and_then(|s| u64::try_from(s.f_type).ok()).unwrap_or(0);
    match magic {
        0xef53 => "extfs".into(),
        0x5846_5342 => "xfs".into(),
        0x9123_683e => "btrfs".into(),
        0x794c_7630 => "overlayfs".into(),
        0x0102_1994 => "tmpfs".into(),
        0x2fc1_2fc1 => "zfs".into(),
        0xf2f5_2010 => "f2fs".into(),
        0x6969 => "nfs".into(),
        0xca45_1a4e => "bcachefs".into(),
        0x6573_5546 => "fuse".into(),
        other => format!("<unknown> ({other:#x})"),
    }
}

/// A value of os-release(5).
fn os_release(text: &str, key: &str) -> Option<String> {
    let value = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='))?;
    Some(value.trim_matches('"').to_string())
}

fn memory(text: &str) -> u64 {
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// A name for this engine, made once.
pub(crate) fn engine_id(data_root: &Path) -> Result<String, Error> {
    let path = data_root.join("engine-id");
    let doing = || format!("read or write {}", path.display());
    match std::fs::read_to_string(&path) {
        Ok(id) if id.trim().len() == 36 => return Ok(id.trim().to_string()),
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(e).io_during(doing),
    }
    let hex = crate::record::random_hex();
    let id = format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..32]);
    let tmp = data_root.join("engine-id.tmp");
    std::fs::write(&tmp, &id).io_during(doing)?;
    std::fs::rename(&tmp, &path).io_during(doing)?;
    Ok(id)
}

/// The capabilities that this process can hand on: those in its bounding set. Names with `CAP_`.
///
/// Kernel: proc_pid_status(5), CapBnd.
pub(crate) fn own_capabilities() -> Result<Vec<String>, Error> {
    let doing = || "read /proc/self/status".to_string();
    let text = std::fs::read_to_string("/proc/self/status").io_during(doing)?;
    let mask = text
        .lines()
        .find_map(|l| u64::from_str_radix(l.strip_prefix("CapBnd:")?.trim(), 16).ok())
        .ok_or_else(|| Error::invalid("no CapBnd in /proc/self/status"))?;
    Ok(ALL_CAPABILITIES
        .iter()
        .enumerate()
        .filter(|(bit, _)| mask >> bit & 1 == 1)
        .map(|(_, name)| format!("CAP_{name}"))
        .collect())
}
