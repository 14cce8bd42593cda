//! What is mounted where: Docker's own mounts, then the user's.

use super::{Choice, Input};
use crate::error::Error;
use crate::record::{MountKind, MountPoint};
use oci::runtime as spec;

/// Docker's size of /dev/shm, bytes.
const DEFAULT_SHM_SIZE: i64 = 64 << 20;

/// Docker's mounts in its order, then the user's by depth, so that `/a` comes before `/a/b`.
pub(super) fn mounts(input: &Input<'_>) -> Result<Vec<spec::Mount>, Error> {
    let host = &input.record.host_config;
    let sys_access = if host.privileged { "rw" } else { "ro" };
    let mut out = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
    ];
    // A sysfs mount shows the network namespace of whoever mounts it and needs to own it; with the host's network the
    // host's own /sys is bound instead.
    if input.network == Choice::Host {
        out.push(mount("/sys", "bind", "/sys", &["rbind", "nosuid", "noexec", "nodev", sys_access]));
    } else {
        out.push(mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", sys_access]));
    }
    out.push(mount("/sys/fs/cgroup", "cgroup", "cgroup", &[sys_access, "nosuid", "noexec", "nodev"]));
    match (&input.ipc, &input.shared_shm) {
        (Choice::Host, _) => {
            out.push(mount("/dev/mqueue", "bind", "/dev/mqueue", &["rbind", "nosuid", "noexec", "nodev"]))
        }
        _ => out.push(mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"])),
    }
    match &input.shared_shm {
        None if host.ipc_mode == "none" => {}
        Some(path) => out.push(mount("/dev/shm", "bind", path, &["rbind", "rprivate"])),
        None => {
            let size = if host.shm_size > 0 { host.shm_size } else { DEFAULT_SHM_SIZE };
            let size = format!("size={size}");
            out.push(mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &size]));
        }
    }
    let mut user: Vec<spec::Mount> = input
        .etc_files
        .iter()
        .filter(|(_, inside)| !input.record.mounts.iter().any(|m| m.destination == *inside))
        .map(|(outside, inside)| mount(inside, "bind", outside, &["rbind", "rprivate", "rw"]))
        .collect();
    // What is ours shows its owners as they are inside; what is the host's does not, as in Docker.
    if input.users.is_some() {
        user.iter_mut().for_each(|m| m.options.push("ridmap".into()));
    }
    for point in &input.record.mounts {
        let mut one = user_mount(point)?;
        if input.users.is_some() && point.kind == MountKind::Volume {
            one.options.push(if point.non_recursive { "idmap" } else { "ridmap" }.into());
        }
        user.push(one);
    }
    for (destination, options) in &host.tmpfs {
        user.push(tmpfs(destination, options)?);
    }
    user.extend(input.edits.mounts.iter().cloned());
    if let Some(program) = input.init {
        user.push(mount(super::INIT_PATH, "bind", program, &["bind", "ro", "rprivate"]));
    }
    // A user's mount over one of Docker's replaces it, as `--tmpfs /dev/shm` or `-v x:/sys/fs/cgroup` expect.
    out.retain(|m| !user.iter().any(|u| u.destination == m.destination));
    user.sort_by_key(|m| m.destination.split('/').filter(|c| !c.is_empty()).count());
    out.extend(user);
    Ok(out)
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> spec::Mount {
    spec::Mount {
        destination: destination.into(),
        kind: Some(kind.into()),
        source: Some(source.into()),
        options: options.iter().map(ToString::to_string).collect(),
        ..spec::Mount::default()
    }
}

fn user_mount(point: &MountPoint) -> Result<spec::Mount, Error> {
    if point.kind == MountKind::Tmpfs {
        return tmpfs(&point.destination, &point.mode);
    }
    let bind = if point.non_recursive { "bind" } else { "rbind" };
    let propagation = if point.propagation.is_empty() { "rprivate" } else { &point.propagation };
    // As Docker does since 25: what is mounted below a read-only bind is read-only as well.
    let access = match (point.read_write, point.non_recursive || point.read_only_top) {
        (true, _) => "rw",
        (false, true) => "ro",
        (false, false) => "rro",
    };
    Ok(mount(&point.destination, "bind", &point.source, &[bind, propagation, access]))
}

fn tmpfs(destination: &str, options: &str) -> Result<spec::Mount, Error> {
    let mut out = vec!["noexec".to_string(), "nosuid".into(), "nodev".into()];
    for option in options.split(',').filter(|o| !o.is_empty()) {
        let key = option.split('=').next().unwrap_or_default();
        let known = matches!(
            key,
            "ro" | "rw"
                | "exec"
                | "noexec"
                | "suid"
                | "nosuid"
                | "dev"
                | "nodev"
                | "size"
                | "mode"
                | "uid"
                | "gid"
                | "nr_inodes"
                | "nr_blocks"
                | "noatime"
                | "relatime"
                | "atime"
                | "strictatime"
                | "nodiratime"
                | "sync"
        );
        if !known {
            return Err(Error::invalid(format!("invalid tmpfs option {option:?}")));
        }
        let opposite = key.strip_prefix("no").map_or_else(|| format!("no{key}"), str::to_string);
        out.retain(|o| *o != opposite && *o != *option);
        out.push(option.to_string());
    }
    Ok(spec::Mount {
        destination: destination.into(),
        kind: Some("tmpfs".into()),
        source: Some("tmpfs".into()),
        options: out,
        ..spec::Mount::default()
    })
}
