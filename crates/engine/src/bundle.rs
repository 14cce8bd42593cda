//! A record becomes the runtime's `config.json`. Pure: everything that must be looked up (user, devices, paths of
//! namespaces) comes in through [`Input`], so that the whole of Docker's defaults can be tested without a container.

use crate::error::Error;
use crate::model::HostConfig;
use crate::record::{MountKind, MountPoint, Record};
use crate::user::Credentials;
use oci::runtime as spec;
use std::collections::{BTreeMap, HashMap};

/// Docker's default capabilities, without `CAP_`.
pub const DEFAULT_CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// All capabilities by number, without `CAP_`. Kernel: include/uapi/linux/capability.h.
pub const ALL_CAPABILITIES: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Covered by an empty file or directory: they tell of the host, or change it.
const MASKED_PATHS: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Shown read-only.
const READONLY_PATHS: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Docker's size of /dev/shm, bytes.
const DEFAULT_SHM_SIZE: i64 = 64 << 20;
/// CFS period that `--cpus` is a share of, microseconds.
const CPU_PERIOD: i64 = 100_000;

/// Which namespace of one kind the container gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Choice {
    New,
    Host,
    Join(String),
}

/// Everything that the document depends on.
#[derive(Debug)]
pub(crate) struct Input<'a> {
    pub(crate) record: &'a Record,
    pub(crate) credentials: &'a Credentials,
    pub(crate) rootfs: &'a str,
    pub(crate) hostname: &'a str,
    pub(crate) cgroups_path: &'a str,
    /// Docker's default differs: private on v2, the host's on v1.
    pub(crate) private_cgroup_namespace: bool,
    pub(crate) network: Choice,
    pub(crate) pid: Choice,
    pub(crate) ipc: Choice,
    pub(crate) uts: Choice,
    /// Host path whose content is the other container's /dev/shm, when `ipc` is joined.
    pub(crate) shared_shm: Option<String>,
    /// (host path, container path) of hosts, hostname and resolv.conf.
    pub(crate) etc_files: &'a [(String, &'static str)],
    /// Device nodes that `--device` or `--privileged` asked for, looked up on the host, with their access.
    pub(crate) devices: &'a [(spec::Device, String)],
    /// Throttled and weighted block devices, by host path.
    pub(crate) device_numbers: &'a BTreeMap<String, (i64, i64)>,
    /// What this process may hand on; a privileged container gets all of these.
    pub(crate) available_capabilities: &'a [String],
}

/// Makes the runtime's document.
pub(crate) fn spec(input: &Input<'_>) -> Result<spec::Spec, Error> {
    let record = input.record;
    let host = &record.host_config;
    let security = Security::parse(host)?;
    let capabilities = capabilities(host, input.available_capabilities)?;
    let seccomp =
        (!host.privileged && !security.seccomp_unconfined).then(|| seccomp::docker_default(&capabilities));
    let unmasked = host.privileged || security.systempaths_unconfined;
    let paths = |given: &Option<Vec<String>>, default: &[&str]| match given {
        Some(paths) => paths.clone(),
        None if unmasked => Vec::new(),
        None => default.iter().map(ToString::to_string).collect(),
    };
    Ok(spec::Spec {
        oci_version: spec::OCI_VERSION.into(),
        root: Some(spec::Root { path: input.rootfs.into(), readonly: host.readonly_rootfs }),
        mounts: mounts(input)?,
        process: Some(process(input, &capabilities, &security)?),
        hostname: if input.uts == Choice::New { input.hostname.into() } else { String::new() },
        domainname: if input.uts == Choice::New { record.config.domainname.clone() } else { String::new() },
        annotations: host.annotations.clone(),
        linux: Some(spec::Linux {
            sysctl: sysctls(input)?,
            resources: Some(resources(input)?),
            cgroups_path: Some(input.cgroups_path.into()),
            namespaces: namespaces(input),
            devices: input.devices.iter().map(|(device, _)| device.clone()).collect(),
            seccomp,
            masked_paths: paths(&host.masked_paths, MASKED_PATHS),
            readonly_paths: paths(&host.readonly_paths, READONLY_PATHS),
            ..spec::Linux::default()
        }),
        ..spec::Spec::default()
    })
}

/// The process of `docker exec`: the container's own, changed by what the client asked.
pub(crate) fn exec_process(
    container: &spec::Process,
    request: &crate::exec::ExecConfig,
    credentials: Option<&Credentials>,
    available_capabilities: &[String],
) -> spec::Process {
    let mut process = container.clone();
    process.args = request.cmd.clone();
    process.terminal = request.tty;
    process.console_size = request.console_size.map(|(height, width)| spec::ConsoleSize { height, width });
    merge_env(&mut process.env, &request.env);
    if !request.working_dir.is_empty() {
        process.cwd.clone_from(&request.working_dir);
    }
    if request.tty && !process.env.iter().any(|e| e.starts_with("TERM=")) {
        process.env.push("TERM=xterm".into());
    }
    let mut bounding = process.capabilities.as_ref().map(|c| c.bounding.clone()).unwrap_or_default();
    if request.privileged {
        bounding = available_capabilities.to_vec();
    }
    if let Some(c) = credentials {
        process.user = user(c);
        set_home(&mut process.env, &c.home, request.env.iter().any(|e| e.starts_with("HOME=")));
    }
    process.capabilities = Some(capability_sets(bounding, process.user.uid));
    process
}

fn process(input: &Input<'_>, capabilities: &[String], security: &Security) -> Result<spec::Process, Error> {
    let record = input.record;
    let config = &record.config;
    let host = &record.host_config;
    let mut env = vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_string()];
    env.push(format!("HOSTNAME={}", input.hostname));
    if config.tty {
        env.push("TERM=xterm".into());
    }
    merge_env(&mut env, &config.env);
    let home_given = env.iter().any(|e| e.starts_with("HOME="));
    set_home(&mut env, &input.credentials.home, home_given);
    let [height, width] = host.console_size;
    Ok(spec::Process {
        terminal: config.tty,
        console_size: (config.tty && height > 0 && width > 0).then_some(spec::ConsoleSize { height, width }),
        user: user(input.credentials),
        args: record.args.clone(),
        env,
        cwd: if config.working_dir.is_empty() { "/".into() } else { config.working_dir.clone() },
        capabilities: Some(capability_sets(capabilities.to_vec(), input.credentials.uid)),
        rlimits: rlimits(host)?,
        no_new_privileges: security.no_new_privileges,
        apparmor_profile: security.apparmor.clone(),
        oom_score_adj: Some(host.oom_score_adj),
        ..spec::Process::default()
    })
}

fn user(credentials: &Credentials) -> spec::User {
    spec::User {
        uid: credentials.uid,
        gid: credentials.gid,
        umask: None,
        additional_gids: credentials.additional_gids.clone(),
    }
}

/// Non-root processes get only a bounding set, as execve(2) would leave them; inheritable stays empty always
/// (CVE-2022-24769).
fn capability_sets(names: Vec<String>, uid: u32) -> spec::Capabilities {
    if uid != 0 {
        return spec::Capabilities { bounding: names, ..spec::Capabilities::default() };
    }
    spec::Capabilities {
        bounding: names.clone(),
        effective: names.clone(),
        permitted: names,
        ..spec::Capabilities::default()
    }
}

/// `KEY=value` replaces, `KEY` alone removes.
pub(crate) fn merge_env(env: &mut Vec<String>, changes: &[String]) {
    fn key_of(entry: &str) -> &str {
        entry.split('=').next().unwrap_or_default()
    }
    // A client may send tens of thousands: the work must not grow with their square.
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut out: Vec<Option<String>> = Vec::new();
    for entry in std::mem::take(env) {
        places.entry(key_of(&entry).to_string()).or_insert(out.len());
        out.push(Some(entry));
    }
    for change in changes {
        let key = key_of(change);
        let is_set = change.contains('=');
        match places.get(key) {
            Some(place) => {
                out[*place] = is_set.then(|| change.clone());
                if !is_set {
                    places.remove(key);
                }
            }
            None if is_set => {
                places.insert(key.to_string(), out.len());
                out.push(Some(change.clone()));
            }
            None => {}
        }
    }
    env.extend(out.into_iter().flatten());
}

fn set_home(env: &mut Vec<String>, home: &str, given: bool) {
    if !given {
        env.retain(|e| !e.starts_with("HOME="));
        env.push(format!("HOME={home}"));
    }
}

/// The bounding set, names with `CAP_`.
pub(crate) fn capabilities(host: &HostConfig, available: &[String]) -> Result<Vec<String>, Error> {
    let normal = |name: &String| -> Result<String, Error> {
        let upper = name.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if bare == "ALL" || ALL_CAPABILITIES.contains(&bare) {
            return Ok(format!("CAP_{bare}"));
        }
        Err(Error::invalid(format!("invalid capability: unknown capability: {name:?}")))
    };
    let add = host.cap_add.iter().map(normal).collect::<Result<Vec<_>, _>>()?;
    let drop = host.cap_drop.iter().map(normal).collect::<Result<Vec<_>, _>>()?;
    if host.privileged {
        return Ok(available.to_vec());
    }
    let all = |list: &[String]| list.iter().any(|c| c == "CAP_ALL");
    let mut set: Vec<String> = if all(&add) {
        available.to_vec()
    } else if all(&drop) {
        Vec::new()
    } else {
        DEFAULT_CAPABILITIES.iter().map(|c| format!("CAP_{c}")).collect()
    };
    if !all(&drop) {
        set.retain(|c| !drop.contains(c));
    }
    for name in add.into_iter().filter(|c| c != "CAP_ALL") {
        if !set.contains(&name) {
            set.push(name);
        }
    }
    // What the daemon itself lacks it cannot hand on; the default set shrinks with it instead of failing.
    let asked = |c: &String| host.cap_add.iter().filter_map(|n| normal(n).ok()).any(|n| n == *c);
    set.retain(|c| available.contains(c) || asked(c));
    Ok(set)
}

/// `--security-opt`, read.
#[derive(Debug, Default)]
pub(crate) struct Security {
    no_new_privileges: bool,
    seccomp_unconfined: bool,
    systempaths_unconfined: bool,
    apparmor: Option<String>,
}

impl Security {
    /// Reads the options; one that cannot be honoured is an error, never ignored (T-LABEL-1).
    pub(crate) fn parse(host: &HostConfig) -> Result<Security, Error> {
        let mut security = Security::default();
        for option in &host.security_opt {
            let (key, value) = match option.split_once(['=', ':']) {
                Some((key, value)) => (key, value),
                None => (option.as_str(), ""),
            };
            match (key, value) {
                ("no-new-privileges", "" | "true") => security.no_new_privileges = true,
                ("no-new-privileges", "false") => security.no_new_privileges = false,
                ("seccomp", "unconfined") => security.seccomp_unconfined = true,
                ("seccomp", "builtin") => security.seccomp_unconfined = false,
                ("seccomp", _) => return Err(Error::unsupported("a seccomp profile of the user's own")),
                ("systempaths", "unconfined") => security.systempaths_unconfined = true,
                ("apparmor", "unconfined") | ("label", "disable") => {}
                ("apparmor", profile) if !profile.is_empty() => security.apparmor = Some(profile.into()),
                ("label", _) => return Err(Error::unsupported("an SELinux label")),
                _ => return Err(Error::invalid(format!("invalid --security-opt 2: {option:?}"))),
            }
        }
        Ok(security)
    }
}

fn rlimits(host: &HostConfig) -> Result<Vec<spec::Rlimit>, Error> {
    const NAMES: &[&str] = &[
        "as",
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    host.ulimits
        .iter()
        .map(|limit| {
            let name = limit.name.to_ascii_lowercase();
            if !NAMES.contains(&name.as_str()) {
                return Err(Error::invalid(format!("invalid ulimit type: {}", limit.name)));
            }
            // -1 is unlimited, which is the largest u64 to the kernel.
            let value = |n: i64| u64::try_from(n).unwrap_or(u64::MAX);
            if value(limit.soft) > value(limit.hard) {
                return Err(Error::invalid(format!(
                    "ulimit soft limit must be less than or equal to hard limit: {} > {}",
                    limit.soft, limit.hard
                )));
            }
            Ok(spec::Rlimit {
                kind: format!("RLIMIT_{}", name.to_ascii_uppercase()),
                hard: value(limit.hard),
                soft: value(limit.soft),
            })
        })
        .collect()
}

fn namespaces(input: &Input<'_>) -> Vec<spec::Namespace> {
    let mut out = vec![spec::Namespace { kind: "mount".into(), path: None }];
    for (kind, choice) in
        [("network", &input.network), ("uts", &input.uts), ("pid", &input.pid), ("ipc", &input.ipc)]
    {
        match choice {
            Choice::New => out.push(spec::Namespace { kind: kind.into(), path: None }),
            Choice::Join(path) => out.push(spec::Namespace { kind: kind.into(), path: Some(path.clone()) }),
            Choice::Host => {}
        }
    }
    if input.private_cgroup_namespace {
        out.push(spec::Namespace { kind: "cgroup".into(), path: None });
    }
    out
}

fn sysctls(input: &Input<'_>) -> Result<BTreeMap<String, String>, Error> {
    let mut out = BTreeMap::new();
    // Docker's own: ping and low ports without privilege, where the network namespace is the container's.
    if matches!(input.network, Choice::New | Choice::Join(_))
        && !input.record.host_config.network_mode.starts_with("container:")
    {
        out.insert("net.ipv4.ip_unprivileged_port_start".to_string(), "0".to_string());
        out.insert("net.ipv4.ping_group_range".to_string(), "0 2147483647".to_string());
    }
    for (key, value) in &input.record.host_config.sysctls {
        let plain = |s: &str| !s.bytes().any(|b| b.is_ascii_control());
        let name_ok =
            key.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b)) && !key.contains("..");
        if !name_ok || !plain(value) {
            return Err(Error::invalid(format!("invalid sysctl {key:?}")));
        }
        let needs = if key.starts_with("net.") {
            (&input.network, "network")
        } else if key == "kernel.hostname" || key == "kernel.domainname" {
            return Err(Error::invalid(format!("sysctl {key:?} is set by --hostname and --domainname")));
        } else if key.starts_with("fs.mqueue.")
            || key.starts_with("kernel.msg")
            || key.starts_with("kernel.shm")
            || key == "kernel.sem"
        {
            (&input.ipc, "ipc")
        } else {
            return Err(Error::invalid(format!("sysctl {key:?} is not in a separate kernel namespace")));
        };
        if *needs.0 == Choice::Host {
            return Err(Error::invalid(format!("sysctl {key:?} not allowed in host {} namespace", needs.1)));
        }
        out.insert(key.clone(), value.clone());
    }
    Ok(out)
}

fn resources(input: &Input<'_>) -> Result<spec::Resources, Error> {
    let host = &input.record.host_config;
    let positive = |n: i64| (n > 0).then_some(n);
    let unsigned = |n: i64| u64::try_from(n).ok().filter(|n| *n > 0);
    let swap = match (host.memory, host.memory_swap) {
        (_, -1) => Some(-1),
        (memory, 0) if memory > 0 => Some(memory.saturating_mul(2)),
        (_, 0) => None,
        (_, swap) => Some(swap),
    };
    let memory = spec::Memory {
        limit: positive(host.memory),
        reservation: positive(host.memory_reservation),
        swap,
        swappiness: host.memory_swappiness.and_then(|n| u64::try_from(n).ok()),
        disable_oom_killer: host.oom_kill_disable.filter(|on| *on),
        ..spec::Memory::default()
    };
    let (quota, period) = if host.nano_cpus > 0 {
        (Some(host.nano_cpus / (1_000_000_000 / CPU_PERIOD)), u64::try_from(CPU_PERIOD).ok())
    } else {
        (Some(host.cpu_quota).filter(|q| *q != 0), unsigned(host.cpu_period))
    };
    let text = |s: &String| (!s.is_empty()).then(|| s.clone());
    let cpu = spec::Cpu {
        shares: unsigned(host.cpu_shares),
        quota,
        period,
        realtime_runtime: positive(host.cpu_realtime_runtime),
        realtime_period: unsigned(host.cpu_realtime_period),
        cpus: text(&host.cpuset_cpus),
        mems: text(&host.cpuset_mems),
        ..spec::Cpu::default()
    };
    Ok(spec::Resources {
        devices: device_rules(input)?,
        memory: (memory != spec::Memory::default()).then_some(memory),
        cpu: (cpu != spec::Cpu::default()).then_some(cpu),
        pids: host.pids_limit.filter(|n| *n > 0).map(|limit| spec::Pids { limit }),
        block_io: block_io(input)?,
        ..spec::Resources::default()
    })
}

fn block_io(input: &Input<'_>) -> Result<Option<spec::BlockIo>, Error> {
    let host = &input.record.host_config;
    let numbers = |path: &str| {
        input
            .device_numbers
            .get(path)
            .copied()
            .ok_or_else(|| Error::invalid(format!("{path} is not a block device")))
    };
    let rates = |list: &[crate::model::ThrottleDevice]| {
        list.iter()
            .map(|d| {
                numbers(&d.path).map(|(major, minor)| spec::ThrottleDevice { major, minor, rate: d.rate })
            })
            .collect::<Result<Vec<_>, _>>()
    };
    let weights = host
        .blkio_weight_device
        .iter()
        .map(|d| {
            numbers(&d.path).map(|(major, minor)| spec::WeightDevice {
                major,
                minor,
                weight: Some(d.weight),
                leaf_weight: None,
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let block_io = spec::BlockIo {
        weight: (host.blkio_weight > 0).then_some(host.blkio_weight),
        weight_device: weights,
        throttle_read_bps_device: rates(&host.blkio_device_read_bps)?,
        throttle_write_bps_device: rates(&host.blkio_device_write_bps)?,
        throttle_read_iops_device: rates(&host.blkio_device_read_iops)?,
        throttle_write_iops_device: rates(&host.blkio_device_write_iops)?,
        ..spec::BlockIo::default()
    };
    Ok((block_io != spec::BlockIo::default()).then_some(block_io))
}

fn device_rules(input: &Input<'_>) -> Result<Vec<spec::DeviceRule>, Error> {
    let host = &input.record.host_config;
    if host.privileged {
        return Ok(vec![spec::DeviceRule { allow: true, access: Some("rwm".into()), ..Default::default() }]);
    }
    let mut rules = vec![spec::DeviceRule { allow: false, access: Some("rwm".into()), ..Default::default() }];
    let character = |major, minor, access: &str| spec::DeviceRule {
        allow: true,
        kind: Some("c".into()),
        major,
        minor,
        access: Some(access.into()),
    };
    // Nodes may be made (the default set has MKNOD), opened only as listed below (T-DEV-1).
    rules.push(character(None, None, "m"));
    rules.push(spec::DeviceRule { kind: Some("b".into()), ..character(None, None, "m") });
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)] {
        rules.push(character(Some(major), Some(minor), "rwm"));
    }
    rules.push(character(Some(136), None, "rwm"));
    for (device, access) in input.devices {
        rules.push(spec::DeviceRule {
            allow: true,
            kind: Some(device.kind.clone()),
            major: Some(device.major),
            minor: Some(device.minor),
            access: Some(access.clone()),
        });
    }
    for text in &host.device_cgroup_rules {
        rules.push(device_rule(text)?);
    }
    Ok(rules)
}

/// `c 189:* rwm`.
fn device_rule(text: &str) -> Result<spec::DeviceRule, Error> {
    let error = || Error::invalid(format!("invalid device cgroup rule format: '{text}'"));
    let [kind, numbers, access] = text.split(' ').collect::<Vec<_>>()[..] else { return Err(error()) };
    let (major, minor) = numbers.split_once(':').ok_or_else(error)?;
    let number = |n: &str| match n {
        "*" => Ok(None),
        n => n.parse::<u32>().map(|n| Some(i64::from(n))).map_err(|_| error()),
    };
    if !matches!(kind, "a" | "b" | "c") || access.is_empty() || !access.bytes().all(|b| b"rwm".contains(&b)) {
        return Err(error());
    }
    Ok(spec::DeviceRule {
        allow: true,
        kind: Some(kind.into()),
        major: number(major)?,
        minor: number(minor)?,
        access: Some(access.into()),
    })
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

/// Docker's mounts in its order, then the user's by depth, so that `/a` comes before `/a/b`.
fn mounts(input: &Input<'_>) -> Result<Vec<spec::Mount>, Error> {
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
    for point in &input.record.mounts {
        user.push(user_mount(point)?);
    }
    for (destination, options) in &host.tmpfs {
        user.push(tmpfs(destination, options)?);
    }
    // A user's mount over one of Docker's replaces it, as `--tmpfs /dev/shm` or `-v x:/sys/fs/cgroup` expect.
    out.retain(|m| !user.iter().any(|u| u.destination == m.destination));
    user.sort_by_key(|m| m.destination.split('/').filter(|c| !c.is_empty()).count());
    out.extend(user);
    Ok(out)
}

fn user_mount(point: &MountPoint) -> Result<spec::Mount, Error> {
    if point.kind == MountKind::Tmpfs {
        return tmpfs(&point.destination, &point.mode);
    }
    let bind = if point.non_recursive { "bind" } else { "rbind" };
    let propagation = if point.propagation.is_empty() { "rprivate" } else { &point.propagation };
    let access = if point.read_write { "rw" } else { "ro" };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Config;
    use crate::record::{ContainerId, RECORD_VERSION, State};

    fn record(host_config: HostConfig, config: Config) -> Record {
        Record {
            version: RECORD_VERSION,
            id: ContainerId::random(),
            name: "x".into(),
            created: crate::record::now(),
            image_id: oci::Digest::of(b""),
            chain_id: None,
            config,
            host_config,
            args: vec!["true".into()],
            mounts: Vec::new(),
            networks: BTreeMap::new(),
            ports: Vec::new(),
            state: State::default(),
        }
    }

    fn build(record: &Record, uid: u32) -> Result<spec::Spec, Error> {
        let credentials = Credentials { uid, gid: 0, additional_gids: vec![], home: "/h".into() };
        let all: Vec<String> = ALL_CAPABILITIES.iter().map(|c| format!("CAP_{c}")).collect();
        spec(&Input {
            record,
            credentials: &credentials,
            rootfs: "/r",
            hostname: "host",
            cgroups_path: "/brig/x",
            private_cgroup_namespace: true,
            network: Choice::Join("/n".into()),
            pid: Choice::New,
            ipc: Choice::New,
            uts: Choice::New,
            shared_shm: None,
            etc_files: &[],
            devices: &[],
            device_numbers: &BTreeMap::new(),
            available_capabilities: &all,
        })
    }

    #[test]
    fn non_root_users_have_no_effective_capabilities() {
        let record = record(HostConfig::default(), Config::default());
        let get = |uid| build(&record, uid).unwrap().process.unwrap().capabilities.unwrap();
        assert_eq!(get(0).effective.len(), 14);
        assert!(get(1000).effective.is_empty() && get(1000).permitted.is_empty());
        assert!(get(0).inheritable.is_empty() && get(0).ambient.is_empty());
    }

    #[test]
    fn capabilities_are_added_and_dropped() {
        let check = |add: &[&str], drop: &[&str], want: usize| {
            let own = |l: &[&str]| l.iter().map(ToString::to_string).collect();
            let host = HostConfig { cap_add: own(add), cap_drop: own(drop), ..HostConfig::default() };
            let all: Vec<String> = ALL_CAPABILITIES.iter().map(|c| format!("CAP_{c}")).collect();
            assert_eq!(capabilities(&host, &all).map(|c| c.len()).unwrap_or(999), want, "{add:?} {drop:?}");
        };
        check(&[], &[], 14);
        check(&["sys_admin"], &["CAP_MKNOD"], 14);
        check(&["ALL"], &[], 41);
        check(&[], &["all"], 0);
        check(&["NET_ADMIN"], &["ALL"], 1);
        check(&["ALL"], &["NET_RAW"], 40);
        check(&["nonsense"], &[], 999);
    }

    #[test]
    fn environment_is_merged_in_order() {
        let config = Config {
            env: vec!["PATH=/p".into(), "A=1".into(), "A=2".into(), "B".into(), "HOSTNAME".into()],
            tty: true,
            ..Config::default()
        };
        let spec = build(&record(HostConfig::default(), config), 0).unwrap();
        assert_eq!(spec.process.unwrap().env, ["PATH=/p", "TERM=xterm", "A=2", "HOME=/h"]);
    }

    #[test]
    fn memory_swap_defaults_to_twice_memory() {
        let check = |memory, swap, want| {
            let host = HostConfig { memory, memory_swap: swap, ..HostConfig::default() };
            let spec = build(&record(host, Config::default()), 0).unwrap();
            assert_eq!(spec.linux.unwrap().resources.unwrap().memory.and_then(|m| m.swap), want);
        };
        check(1 << 20, 0, Some(2 << 20));
        check(1 << 20, -1, Some(-1));
        check(1 << 20, 1 << 20, Some(1 << 20));
        check(0, 0, None);
    }

    #[test]
    fn cpus_become_a_quota() {
        let host = HostConfig { nano_cpus: 1_500_000_000, ..HostConfig::default() };
        let cpu = build(&record(host, Config::default()), 0)
            .unwrap()
            .linux
            .unwrap()
            .resources
            .unwrap()
            .cpu
            .unwrap();
        assert_eq!((cpu.quota, cpu.period), (Some(150_000), Some(100_000)));
    }

    #[test]
    fn sysctls_outside_the_containers_namespaces_are_refused() {
        for key in
            ["kernel.core_pattern", "net..x", "vm.swappiness", "kernel.hostname", "net.x\n", "../net.x"]
        {
            let host =
                HostConfig { sysctls: [(key.to_string(), "1".to_string())].into(), ..HostConfig::default() };
            assert!(build(&record(host, Config::default()), 0).is_err(), "{key}");
        }
    }

    #[test]
    fn a_users_mount_replaces_dockers() {
        let host = HostConfig {
            tmpfs: [("/dev/shm".to_string(), "exec,size=1m".to_string())].into(),
            ..Default::default()
        };
        let spec = build(&record(host, Config::default()), 0).unwrap();
        let shm: Vec<_> = spec.mounts.iter().filter(|m| m.destination == "/dev/shm").collect();
        assert_eq!(shm.len(), 1);
        assert_eq!(shm[0].options, ["nosuid", "nodev", "exec", "size=1m"]);
    }
}
