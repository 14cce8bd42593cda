//! Device nodes of the host, as `--device` and `--privileged` name them.

use crate::error::{Error, IoDuring};
use crate::model::HostConfig;
use oci::runtime::{self as spec, Device};
use rustix::fs::FileType;
use std::collections::BTreeMap;
use std::path::Path;

/// Deepest directory below /dev that is searched, and most nodes taken: a host has hundreds.
const MAX_DEPTH: usize = 8;
const MAX_NODES: usize = 8192;
/// Made or mounted by the runtime itself, never copied from the host.
const SKIPPED: &[&str] = &["pts", "shm", "fd", "mqueue", "console", ".lxc", ".lxd-mounts", ".udev", "ptmx"];

/// The nodes that the container gets besides the default ones, each with its access (`rwm`).
pub(crate) fn collect(host: &HostConfig) -> Result<Vec<(Device, String)>, Error> {
    let mut out = Vec::new();
    if host.privileged {
        walk(Path::new("/dev"), 0, &mut out);
    }
    for mapping in &host.devices {
        let access = if mapping.cgroup_permissions.is_empty() { "rwm" } else { &mapping.cgroup_permissions };
        if !access.bytes().all(|b| b"rwm".contains(&b)) {
            return Err(Error::invalid(format!("invalid device mode: {access}")));
        }
        let inside = if mapping.path_in_container.is_empty() {
            &mapping.path_on_host
        } else {
            &mapping.path_in_container
        };
        let path = Path::new(&mapping.path_on_host);
        let stat = rustix::fs::stat(path).io_during(|| {
            format!("error gathering device information while adding custom device {}", path.display())
        })?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let mut below = Vec::new();
            walk(path, 0, &mut below);
            for (mut device, _) in below {
                device.path = device.path.replacen(&mapping.path_on_host, inside, 1);
                out.push((device, access.to_string()));
            }
            continue;
        }
        match node(&stat, inside) {
            Some(device) => out.push((device, access.to_string())),
            None => return Err(Error::invalid(format!("{} is not a device node", path.display()))),
        }
    }
    // The last mention of a path wins.
    let mut seen = std::collections::HashSet::new();
    out.reverse();
    out.retain(|(device, _)| seen.insert(device.path.clone()));
    out.reverse();
    Ok(out)
}

/// The mounts that show nodes of the host under other names to a container that may make none itself. A runtime binds what has
/// the same name inside as outside without being told.
pub(crate) fn renamed(host: &HostConfig, devices: &[(Device, String)]) -> Vec<spec::Mount> {
    let under_own_name =
        |device: &Device| node_at(&device.path, &device.path).is_ok_and(|n| is_same(&n, device));
    let mut out = Vec::new();
    for (device, _) in devices.iter().filter(|(device, _)| !under_own_name(device)) {
        let source = host.devices.iter().rev().find_map(|mapping| {
            let below = Path::new(&device.path).strip_prefix(&mapping.path_in_container).ok()?;
            let source = match below.as_os_str().is_empty() {
                true => mapping.path_on_host.clone(),
                false => Path::new(&mapping.path_on_host).join(below).to_string_lossy().into_owned(),
            };
            node_at(&source, &source).is_ok_and(|n| is_same(&n, device)).then_some(source)
        });
        out.extend(source.map(|source| spec::Mount {
            destination: device.path.clone(),
            kind: Some("bind".into()),
            source: Some(source),
            options: ["bind", "rprivate", "nosuid", "noexec", "dev"].map(str::to_string).into(),
            ..spec::Mount::default()
        }));
    }
    out
}

fn is_same(one: &Device, other: &Device) -> bool {
    (&one.kind, one.major, one.minor) == (&other.kind, other.major, other.minor)
}

/// The node at `path` of the host, to be shown as `inside`.
pub(crate) fn node_at(path: &str, inside: &str) -> Result<Device, Error> {
    let stat = rustix::fs::stat(path)
        .io_during(|| format!("error gathering device information while adding custom device {path}"))?;
    node(&stat, inside).ok_or_else(|| Error::invalid(format!("{path} is not a device node")))
}

/// Numbers of the block devices that limits name.
pub(crate) fn numbers(host: &HostConfig) -> BTreeMap<String, (i64, i64)> {
    let throttles = [
        &host.blkio_device_read_bps,
        &host.blkio_device_write_bps,
        &host.blkio_device_read_iops,
        &host.blkio_device_write_iops,
    ];
    let paths = throttles
        .into_iter()
        .flatten()
        .map(|d| &d.path)
        .chain(host.blkio_weight_device.iter().map(|d| &d.path));
    paths
        .filter_map(|path| {
            let stat = rustix::fs::stat(path.as_str()).ok()?;
            let device = node(&stat, path)?;
            (device.kind == "b").then(|| (path.clone(), (device.major, device.minor)))
        })
        .collect()
}

fn walk(dir: &Path, depth: usize, out: &mut Vec<(Device, String)>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if out.len() >= MAX_NODES || (depth == 0 && SKIPPED.iter().any(|s| name == *s)) {
            continue;
        }
        let path = entry.path();
        // Symlinks are not followed: what they name is found under its own name, if it is in /dev at all.
        let Ok(stat) = rustix::fs::lstat(&path) else { continue };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if depth < MAX_DEPTH => walk(&path, depth + 1, out),
            FileType::BlockDevice | FileType::CharacterDevice => {
                if let Some(text) = path.to_str()
                    && let Some(device) = node(&stat, text)
                {
                    out.push((device, "rwm".into()));
                }
            }
            _ => {}
        }
    }
}

fn node(stat: &rustix::fs::Stat, path: &str) -> Option<Device> {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::BlockDevice => "b",
        FileType::CharacterDevice => "c",
        _ => return None,
    };
    Some(Device {
        kind: kind.into(),
        path: path.into(),
        major: i64::from(rustix::fs::major(stat.st_rdev)),
        minor: i64::from(rustix::fs::minor(stat.st_rdev)),
        file_mode: Some(stat.st_mode & 0o7777),
        uid: Some(stat.st_uid),
        gid: Some(stat.st_gid),
    })
}
