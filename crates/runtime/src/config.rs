//! Reading `config.json`, and refusing what would otherwise be ignored.

use crate::Error;
use crate::mount_options;
use crate::namespaces::{self, Namespaces};
use crate::procfs::Proc;
use oci::runtime::{IoPriority, Personality, Process, Spec};
use rustix::fs::{Mode, OFlags};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// The document of a bundle, its bytes, and the absolute bundle.
pub(crate) fn read_bundle(bundle: &Path, name: Option<&Path>) -> Result<(Spec, Vec<u8>, PathBuf), Error> {
    let bundle =
        std::path::absolute(bundle).map_err(|e| Error::io(format!("find bundle {}", bundle.display()), e))?;
    let path = bundle.join(name.unwrap_or(Path::new("config.json")));
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = rustix::fs::open(&path, flags, Mode::empty()).map_err(|e| match e {
        // In runc's words.
        rustix::io::Errno::NOENT => {
            Error::argument(format!("JSON specification file {} not found", path.display()))
        }
        e => Error::io(format!("open {}", path.display()), e),
    })?;
    let bytes = crate::state::read_bounded(fd, &path)?;
    let spec = oci::runtime::from_json(&bytes).map_err(|e| Error::Document { path, source: e })?;
    Ok((spec, bytes, bundle))
}

/// Tells the program of the sockets that it gets. Only the process of the create gets them, so only it is told: the document
/// that is kept for later verbs says nothing.
///
/// Docs: sd_listen_fds(3).
pub(crate) fn pass_sockets(spec: &mut Spec, count: u32) {
    if let Some(process) = spec.process.as_mut().filter(|_| count > 0) {
        process.env.extend([format!("LISTEN_FDS={count}"), "LISTEN_PID=1".to_owned()]);
    }
}

/// Refuses what cannot be or is not supported. What is left, the plan does.
pub(crate) fn check(spec: &Spec, namespaces: &Namespaces, proc: &Proc) -> Result<(), Error> {
    if !is_version_1(&spec.oci_version) {
        return Err(Error::invalid("ociVersion", format!("{:?} is not a version 1.x.y", spec.oci_version)));
    }
    let process = spec.process.as_ref().ok_or_else(|| Error::invalid("process", "is missing"))?;
    check_process(process)?;
    crate::hooks::check(spec.hooks.as_ref())?;
    if spec.annotations.contains_key("") {
        return Err(Error::invalid("annotations", "has an empty key"));
    }
    let has = |kind| namespaces.makes(kind) || namespaces.joins(kind);
    if !spec.hostname.is_empty() && !has(namespaces::UTS) {
        return Err(Error::invalid("hostname", "needs a uts namespace"));
    }
    if !spec.domainname.is_empty() && !has(namespaces::UTS) {
        return Err(Error::invalid("domainname", "needs a uts namespace"));
    }
    for (field, name) in [("hostname", &spec.hostname), ("domainname", &spec.domainname)] {
        if name.len() > 64 || name.bytes().any(|b| b < b' ') {
            return Err(Error::invalid(field, "is longer than 64 bytes or has control characters"));
        }
    }
    let Some(linux) = &spec.linux else { return Ok(()) };
    if !namespaces.makes(namespaces::MOUNT) {
        let asks = !spec.mounts.is_empty()
            || !linux.masked_paths.is_empty()
            || !linux.readonly_paths.is_empty()
            || !linux.devices.is_empty()
            || process.terminal
            || spec.root.as_ref().is_some_and(|root| root.readonly);
        if asks {
            return Err(Error::invalid(
                "linux.namespaces",
                "mounts, devices, a terminal, masked and read-only paths need a new mount namespace",
            ));
        }
    }
    let mappings = [("uidMappings", &linux.uid_mappings), ("gidMappings", &linux.gid_mappings)];
    for (field, list) in mappings.map(|(field, list)| (format!("linux.{field}"), list)) {
        if namespaces.makes(namespaces::USER) && list.is_empty() {
            return Err(Error::invalid(field, "is empty, and the user namespace is new"));
        }
        if !has(namespaces::USER) && !list.is_empty() {
            return Err(Error::invalid(field, "needs a user namespace"));
        }
        crate::idmap::check(&field, list)?;
    }
    if !linux.time_offsets.is_empty() && !namespaces.makes(namespaces::TIME) {
        return Err(Error::invalid("linux.timeOffsets", "needs a new time namespace"));
    }
    if !linux.net_devices.is_empty() && !has(namespaces::NETWORK) {
        return Err(Error::invalid("linux.netDevices", "needs a network namespace"));
    }
    if let Some(policy) = &linux.memory_policy {
        crate::scheduling::memory_policy(policy)?;
    }
    if let Some(rdt) = &linux.intel_rdt {
        crate::rdt::check(rdt)?;
    }
    if let Some(profile) = &linux.seccomp {
        crate::listener::check(profile)?;
    }
    linux.devices.iter().try_for_each(check_device)?;
    crate::mounts::label(spec)?;
    for name in linux.sysctl.keys() {
        if sysctl_path(name) == "kernel/domainname" && !spec.domainname.is_empty() {
            let field = format!("linux.sysctl[{name:?}]");
            return Err(Error::invalid(field, "conflicts with the field domainname"));
        }
        check_sysctl(name, |kind| namespaces.owns(kind, proc))?;
    }
    root_propagation(spec).map(|_| ())
}

/// The checks that a process of `exec` needs too.
pub(crate) fn check_process(process: &Process) -> Result<(), Error> {
    if process.args.is_empty() {
        return Err(Error::invalid("process.args", "is empty"));
    }
    if !process.cwd.starts_with('/') {
        return Err(Error::invalid("process.cwd", format!("{:?} is not an absolute path", process.cwd)));
    }
    if let Some(scheduler) = &process.scheduler {
        crate::scheduling::scheduler(scheduler)?;
    }
    if let Some(affinity) = &process.exec_cpu_affinity {
        crate::scheduling::processors("initial", &affinity.initial)?;
        crate::scheduling::processors("final", &affinity.last)?;
    }
    if process.oom_score_adj.is_some_and(|adjustment| !(-1000..=1000).contains(&adjustment)) {
        return Err(Error::invalid("process.oomScoreAdj", "is not between -1000 and 1000"));
    }
    for (index, limit) in process.rlimits.iter().enumerate() {
        if process.rlimits[..index].iter().any(|other| other.kind == limit.kind) {
            return Err(Error::invalid("process.rlimits", format!("{} appears twice", limit.kind)));
        }
        if limit.soft > limit.hard {
            return Err(Error::invalid("process.rlimits", format!("{}: soft is above hard", limit.kind)));
        }
        if crate::limits::resource(&limit.kind).is_none() {
            return Err(Error::invalid("process.rlimits", format!("unknown limit {:?}", limit.kind)));
        }
    }
    label(process).map(|_| ())
}

/// Semantic versioning 2.0.0, major version 1.
fn is_version_1(text: &str) -> bool {
    let (version, build) = text.split_once('+').map_or((text, None), |(v, b)| (v, Some(b)));
    let (numbers, pre) = version.split_once('-').map_or((version, None), |(v, p)| (v, Some(p)));
    let number = |n: &str| n.parse::<u32>().is_ok() && n.bytes().all(|b| b.is_ascii_digit());
    let word = |w: &str| !w.is_empty() && w.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let words = |list: Option<&str>| list.is_none_or(|list| list.split('.').all(word));
    let mut parts = numbers.split('.');
    parts.next() == Some("1") && parts.clone().count() == 2 && parts.all(number) && words(pre) && words(build)
}

fn check_device(device: &oci::runtime::Device) -> Result<(), Error> {
    let refuse = |reason: &str| Err(Error::invalid(format!("linux.devices[{:?}]", device.path), reason));
    // What the kernel's 32 bits hold: 12 for the major, 20 for the minor number.
    let fits = (0..1 << 12).contains(&device.major) && (0..1 << 20).contains(&device.minor);
    match device.kind.as_str() {
        "c" | "u" | "b" if !fits => refuse("has no device number"),
        "c" | "u" | "b" | "p" if device.path.starts_with('/') => Ok(()),
        "c" | "u" | "b" | "p" => refuse("is not an absolute path"),
        other => refuse(&format!("unknown type {other:?}")),
    }
}

/// Propagation of the container's root, if asked for.
pub(crate) fn root_propagation(spec: &Spec) -> Result<Option<(u64, bool)>, Error> {
    match spec.linux.as_ref().and_then(|linux| linux.rootfs_propagation.as_deref()) {
        None | Some("") => Ok(None),
        Some(word) => mount_options::propagation(word)
            .map(Some)
            .ok_or_else(|| Error::invalid("linux.rootfsPropagation", format!("unknown word {word:?}"))),
    }
}

/// The rootfs: absolute, or relative to the bundle.
pub(crate) fn rootfs(spec: &Spec, bundle: &Path) -> Result<PathBuf, Error> {
    let root = spec.root.as_ref().filter(|root| !root.path.is_empty());
    Ok(bundle.join(&root.ok_or_else(|| Error::invalid("root", "is missing"))?.path))
}

pub(crate) fn open_root(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(|e| Error::io(format!("open rootfs {}", path.display()), e))
}

/// A sysctl's path below `/proc/sys`: the first separator decides which of `.` and `/` separates, as in sysctl(8).
pub(crate) fn sysctl_path(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'.' => name
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_owned(),
    }
}

/// Only parameters that belong to a namespace of the container's own may be set: the others are the host's.
fn check_sysctl(name: &str, owns: impl Fn(namespaces::Kind) -> bool) -> Result<(), Error> {
    let refuse = |reason: &str| Err(Error::invalid(format!("linux.sysctl[{name:?}]"), reason));
    let path = sysctl_path(name);
    let odd = |b: u8| !(b.is_ascii_alphanumeric() || b"._-/:@".contains(&b));
    if path.split('/').any(|part| part.is_empty() || part == "." || part == "..") || path.bytes().any(odd) {
        return refuse("is not a parameter's name");
    }
    const IPC: &[&str] = &[
        "kernel/msgmax",
        "kernel/msgmnb",
        "kernel/msgmni",
        "kernel/sem",
        "kernel/shmall",
        "kernel/shmmax",
        "kernel/shmmni",
        "kernel/shm_rmid_forced",
    ];
    let kind = match path.as_str() {
        ipc if IPC.contains(&ipc) || ipc.starts_with("fs/mqueue/") => namespaces::IPC,
        net if net.starts_with("net/") => namespaces::NETWORK,
        "kernel/domainname" => namespaces::UTS,
        "kernel/hostname" => return refuse("conflicts with the field hostname"),
        _ => return refuse("is not in a separate kernel namespace"),
    };
    if owns(kind) {
        Ok(())
    } else {
        refuse(&format!("needs a {} namespace of the container's own", kind.name))
    }
}

/// Class and level of `ioPriority`.
pub(crate) fn io_priority(priority: &IoPriority) -> Result<(u32, u32), Error> {
    let class = match priority.class.as_str() {
        "IOPRIO_CLASS_RT" => 1,
        "IOPRIO_CLASS_BE" => 2,
        "IOPRIO_CLASS_IDLE" => 3,
        other => return Err(Error::invalid("process.ioPriority.class", format!("unknown class {other:?}"))),
    };
    match u32::try_from(priority.priority) {
        Ok(level @ 0..=7) => Ok((class, level)),
        _ => Err(Error::invalid("process.ioPriority.priority", "is not between 0 and 7")),
    }
}

/// `PER_*` of personality(2).
pub(crate) fn personality(personality: &Personality) -> Result<u32, Error> {
    if !personality.flags.is_empty() {
        return Err(Error::unsupported("linux.personality.flags", "the specification names none"));
    }
    match personality.domain.as_str() {
        "LINUX" => Ok(0),
        "LINUX32" => Ok(8),
        other => Err(Error::invalid("linux.personality.domain", format!("unknown domain {other:?}"))),
    }
}

/// Whether SELinux is active: its file system is only there then.
pub(crate) fn has_selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// Where the label for execve goes and what is written, or an error where the kernel would not enforce it.
pub(crate) fn label(process: &Process) -> Result<Option<(&'static str, String)>, Error> {
    let given = |label: &Option<String>| label.clone().filter(|label| !label.is_empty());
    if let Some(label) = given(&process.selinux_label) {
        if !has_selinux() {
            return Err(Error::missing("process.selinuxLabel", "active SELinux"));
        }
        return Ok(Some(("self/attr/exec", label)));
    }
    if let Some(profile) = given(&process.apparmor_profile) {
        let enabled = std::fs::read("/sys/module/apparmor/parameters/enabled");
        if !enabled.is_ok_and(|text| text.first() == Some(&b'Y')) {
            if profile == "unconfined" {
                return Ok(None);
            }
            let feature = format!("process.apparmorProfile {profile:?}");
            return Err(Error::missing(feature, "active AppArmor"));
        }
        let file = if Path::new("/proc/self/attr/apparmor/exec").exists() {
            "self/attr/apparmor/exec"
        } else {
            "self/attr/exec"
        };
        return Ok(Some((file, format!("exec {profile}"))));
    }
    Ok(None)
}

/// The limits to apply: the document's, with the device rules of [`device_rules`].
pub(crate) fn resources(spec: &Spec) -> oci::runtime::Resources {
    let mut resources = spec.linux.as_ref().and_then(|linux| linux.resources.clone()).unwrap_or_default();
    resources.devices = device_rules(resources.devices);
    resources
}

/// Everything denied, then what the document says, then the default devices, which every container has.
pub(crate) fn device_rules(given: Vec<oci::runtime::DeviceRule>) -> Vec<oci::runtime::DeviceRule> {
    let rule = |allow, kind: &str, major: Option<i64>, minor: Option<i64>, access: &str| {
        oci::runtime::DeviceRule { allow, kind: Some(kind.into()), major, minor, access: Some(access.into()) }
    };
    let allow = |major: i64, minor: Option<i64>| rule(true, "c", Some(major), minor, "rwm");
    let mut devices = vec![rule(false, "a", None, None, "rwm")];
    devices.extend(given);
    devices.push(rule(true, "c", None, None, "m"));
    devices.push(rule(true, "b", None, None, "m"));
    // null zero full random urandom, tty, ptmx, pts
    devices.extend([3, 5, 7, 8, 9].map(|minor| allow(1, Some(minor))));
    devices.extend([allow(5, Some(0)), allow(5, Some(2)), allow(136, None)]);
    devices
}

/// To whom on the host the cgroup is to be given: to the process's user, where it sees its own cgroup and may write there.
pub(crate) fn cgroup_owner(spec: &Spec, process: &Process, namespaces: &Namespaces) -> Option<u32> {
    let shown = spec.mounts.iter().any(|mount| {
        mount.source.as_deref() == Some("cgroup")
            && mount.destination == "/sys/fs/cgroup"
            && !mount.options.iter().any(|option| option == "ro")
    });
    let uid = process.user.uid;
    // Root's it is already; and whom a joined user namespace maps the user to is not ours to guess.
    if !shown || !namespaces.makes(namespaces::CGROUP) || namespaces.joins(namespaces::USER) {
        return None;
    }
    host_uid(spec, namespaces, uid).filter(|&uid| uid != 0 || namespaces.makes(namespaces::USER))
}

/// Who the container's `uid` is outside, unless it joins a user namespace.
pub(crate) fn host_uid(spec: &Spec, namespaces: &Namespaces, uid: u32) -> Option<u32> {
    if !namespaces.makes(namespaces::USER) {
        return Some(uid).filter(|_| !namespaces.joins(namespaces::USER));
    }
    let maps = spec.linux.as_ref().map_or(&[][..], |linux| &linux.uid_mappings);
    maps.iter().find_map(|map| {
        let offset = uid.checked_sub(map.container_id).filter(|&offset| offset < map.size)?;
        map.host_id.checked_add(offset)
    })
}

/// Path below the cgroup roots.
pub(crate) fn cgroup_path(spec: &Spec, id: &str) -> Option<String> {
    let linux = spec.linux.as_ref();
    match linux.and_then(|linux| linux.cgroups_path.as_deref()).filter(|path| !path.is_empty()) {
        Some(path) if path.starts_with('/') => Some(path.to_owned()),
        Some(path) => Some(format!("/{path}")),
        None => Some(format!("/{id}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let check = |text: &str, ok: bool| assert_eq!(is_version_1(text), ok, "{text:?}");
        for good in ["1.0.0", "1.3.0", "1.0.2-dev", "1.1.0+dev", "1.2.3-rc.1+x.y"] {
            check(good, true);
        }
        for bad in ["", "1", "1.0", "2.0.0", "1.0.0.0", "1.x.0", "1.0.0-", "1.0.0-a..b", "1.+0.0", "0.2.0"] {
            check(bad, false);
        }
    }

    #[test]
    fn sysctls() {
        let check = |name: &str, ok: bool| assert_eq!(check_sysctl(name, |_| true).is_ok(), ok, "{name:?}");
        for good in
            ["net.ipv4.ip_forward", "net/ipv4/conf/eth0.1/forwarding", "kernel.shmmax", "fs.mqueue.msg_max"]
        {
            check(good, true);
        }
        for bad in [
            "kernel.core_pattern",
            "kernel/core_pattern",
            "net.ipv4.../x",
            "net/../kernel/core_pattern",
            "net//x",
            "net.a\nb",
            "net.a=b",
            "kernel.hostname",
            "vm.overcommit_memory",
            "",
            "net/./x",
        ] {
            check(bad, false);
        }
        assert!(check_sysctl("net.ipv4.ip_forward", |_| false).is_err());
        assert_eq!(sysctl_path("net.ipv4.conf.eth0/1.forwarding"), "net/ipv4/conf/eth0.1/forwarding");
    }
}
