//! The documents that need no container: what this runtime can, and a spec to begin with.

use oci::runtime::ALL_CAPABILITIES;
use oci::runtime::{Capabilities, Linux, Mount, Namespace, Process, Resources, Root, Spec};
use serde_json::{Value, json};

/// What `features` prints: what this program knows, whatever the kernel has; only `supportedFlags`
/// depends on it.
///
/// Spec: runtime-spec, features.md and features-linux.md.
pub fn features() -> Value {
    let capabilities: Vec<String> = ALL_CAPABILITIES.iter().map(|name| format!("CAP_{name}")).collect();
    let flags: Vec<&str> = seccomp::FLAGS.iter().map(|(name, _)| *name).collect();
    let supported = |bit: u32| sys::seccomp::has_flag(bit);
    let supported: Vec<&str> =
        seccomp::FLAGS.iter().filter(|(_, bit)| supported(*bit)).map(|(name, _)| *name).collect();
    let names = |table: &[(&'static str, u32)]| table.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": oci::runtime::OCI_VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": crate::mount_options::names(),
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": capabilities,
            "cgroup": { "v1": true, "v2": true, "systemd": true, "systemdUser": false, "rdma": true },
            "seccomp": {
                "enabled": true,
                "actions": seccomp::ACTIONS,
                "operators": seccomp::OPERATORS,
                "archs": seccomp::architectures(),
                "knownFlags": flags,
                "supportedFlags": supported
            },
            "apparmor": { "enabled": true },
            "selinux": { "enabled": true },
            "intelRdt": { "enabled": true, "schemata": true, "monitoring": true },
            "memoryPolicy": {
                "modes": names(crate::scheduling::MODES),
                "flags": names(crate::scheduling::MODE_FLAGS)
            },
            "mountExtensions": { "idmap": { "enabled": true } },
            "netDevices": { "enabled": true }
        }
    })
}

/// What `spec` writes: a shell in a container with everything of its own.
pub fn default_spec() -> Spec {
    let words = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| Mount {
        destination: destination.into(),
        kind: Some(kind.into()),
        source: Some(source.into()),
        options: words(options),
        ..Mount::default()
    };
    let caps = words(&["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    // On v1 a cgroup namespace hides from programs where their cgroup is.
    let v2 = rustix::fs::access("/sys/fs/cgroup/cgroup.controllers", rustix::fs::Access::EXISTS).is_ok();
    let namespaces = ["pid", "network", "ipc", "uts", "mount", "cgroup"];
    let namespaces = &namespaces[..namespaces.len() - usize::from(!v2)];
    Spec {
        oci_version: oci::runtime::OCI_VERSION.into(),
        process: Some(Process {
            terminal: true,
            args: words(&["sh"]),
            env: words(&["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"]),
            cwd: "/".into(),
            capabilities: Some(Capabilities {
                bounding: caps.clone(),
                effective: caps.clone(),
                permitted: caps,
                ..Capabilities::default()
            }),
            rlimits: vec![oci::runtime::Rlimit { kind: "RLIMIT_NOFILE".into(), hard: 1024, soft: 1024 }],
            no_new_privileges: true,
            ..Process::default()
        }),
        root: Some(Root { path: "rootfs".into(), readonly: true }),
        hostname: "brig".into(),
        mounts: vec![
            mount("/proc", "proc", "proc", &[]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount(
                "/dev/pts",
                "devpts",
                "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            ),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ],
        linux: Some(Linux {
            resources: Some(Resources::default()),
            namespaces: namespaces.iter().map(|&kind| Namespace { kind: kind.into(), path: None }).collect(),
            masked_paths: words(&[
                "/proc/acpi",
                "/proc/asound",
                "/proc/interrupts",
                "/proc/kcore",
                "/proc/keys",
                "/proc/latency_stats",
                "/proc/timer_list",
                "/proc/timer_stats",
                "/proc/sched_debug",
                "/sys/firmware",
                "/sys/devices/virtual/powercap",
                "/proc/scsi",
            ]),
            readonly_paths: words(&[
                "/proc/bus",
                "/proc/fs",
                "/proc/irq",
                "/proc/sys",
                "/proc/sysrq-trigger",
            ]),
            ..Linux::default()
        }),
        ..Spec::default()
    }
}

/// What `spec --rootless` writes: the same for a user without privileges, who becomes root inside.
pub fn rootless_spec() -> Spec {
    let mut spec = default_spec();
    let own = |id: u32| vec![oci::runtime::IdMapping { container_id: 0, host_id: id, size: 1 }];
    let bind: Vec<String> =
        ["rbind", "nosuid", "noexec", "nodev", "ro"].iter().map(|s| (*s).to_owned()).collect();
    // It comes with what is bound to /sys.
    spec.mounts.retain(|mount| mount.kind.as_deref() != Some("cgroup"));
    for mount in &mut spec.mounts {
        if mount.kind.as_deref() == Some("sysfs") {
            // The host's network namespace is not the user namespace's, so a sysfs of one's own is denied.
            mount.kind = Some("none".into());
            mount.source = Some("/sys".into());
            mount.options.clone_from(&bind);
        }
        mount.options.retain(|option| !option.starts_with("gid=") && !option.starts_with("uid="));
    }
    if let Some(linux) = &mut spec.linux {
        linux.namespaces.retain(|namespace| namespace.kind != "network");
        linux.namespaces.push(Namespace { kind: "user".into(), path: None });
        linux.uid_mappings = own(rustix::process::geteuid().as_raw());
        linux.gid_mappings = own(rustix::process::getegid().as_raw());
        linux.resources = None;
    }
    spec
}
