//! A record becomes the runtime's `config.json`. Pure: everything that must be looked up (user, devices, paths of
//! namespaces) comes in through [`Input`], so that the whole of Docker's defaults can be tested without a container.

mod limits;
mod mounts;
mod security;

pub(crate) use limits::limits;
pub use security::DEFAULT_CAPABILITIES;
pub(crate) use security::{Security, capabilities};

use crate::cdi::Edits;
use crate::error::Error;
use crate::record::Record;
use crate::user::Credentials;
use oci::IdMap;
use oci::runtime as spec;
use std::collections::{BTreeMap, HashMap};

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

/// Where a container with an init of its own sees it, as Docker's.
const INIT_PATH: &str = "/sbin/docker-init";

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
    /// The user namespace to join, by its path, and how it maps ids.
    pub(crate) users: Option<(String, &'a IdMap)>,
    /// Host path whose content is the other container's /dev/shm, when `ipc` is joined.
    pub(crate) shared_shm: Option<String>,
    /// (host path, container path) of hosts, hostname and resolv.conf.
    pub(crate) etc_files: &'a [(String, &'static str)],
    /// Device nodes that `--device` or `--privileged` asked for, looked up on the host, with their access.
    pub(crate) devices: &'a [(spec::Device, String)],
    /// Throttled and weighted block devices, by host path.
    pub(crate) device_numbers: &'a BTreeMap<String, (i64, i64)>,
    /// What the devices of a vendor bring besides; its nodes are in `devices` too.
    pub(crate) edits: &'a Edits,
    /// The program that is the container's init, on the host, where one is wanted.
    pub(crate) init: Option<&'a str>,
    /// What this process may hand on; a privileged container gets all of these.
    pub(crate) available_capabilities: &'a [String],
    /// Soft and hard limit where the container says nothing; None leaves what the daemon has.
    pub(crate) open_files: Option<(u64, u64)>,
}

/// Makes the runtime's document.
pub(crate) fn spec(input: &Input<'_>) -> Result<spec::Spec, Error> {
    let record = input.record;
    let host = &record.host_config;
    let security = Security::parse(host)?;
    let capabilities = capabilities(host, input.available_capabilities)?;
    let seccomp = if host.privileged { None } else { security.seccomp(&capabilities)? };
    let unmasked = host.privileged || security.systempaths_unconfined;
    let paths = |given: &Option<Vec<String>>, default: &[&str]| match given {
        Some(paths) => paths.clone(),
        None if unmasked => Vec::new(),
        None => default.iter().map(ToString::to_string).collect(),
    };
    let mounts = mounts::mounts(input)?;
    // What is bound there need not be made.
    let is_bound = |device: &spec::Device| mounts.iter().any(|m| m.destination == device.path);
    let devices = input.devices.iter().map(|(device, _)| device).filter(|d| !is_bound(d)).cloned().collect();
    Ok(spec::Spec {
        oci_version: spec::OCI_VERSION.into(),
        root: Some(spec::Root { path: input.rootfs.into(), readonly: host.readonly_rootfs }),
        mounts,
        process: Some(process(input, &capabilities, &security)?),
        hostname: if input.uts == Choice::New { input.hostname.into() } else { String::new() },
        domainname: if input.uts == Choice::New { record.config.domainname.clone() } else { String::new() },
        annotations: host.annotations.clone(),
        hooks: (input.edits.hooks != spec::Hooks::default()).then(|| input.edits.hooks.clone()),
        linux: Some(spec::Linux {
            sysctl: sysctls(input)?,
            resources: Some(limits::resources(input)?),
            cgroups_path: Some(input.cgroups_path.into()),
            namespaces: namespaces(input),
            devices,
            seccomp,
            masked_paths: paths(&host.masked_paths, MASKED_PATHS),
            readonly_paths: paths(&host.readonly_paths, READONLY_PATHS),
            rootfs_propagation: crate::volumes::root_propagation(&record.mounts),
            ..spec::Linux::default()
        }),
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
    merge_env(&mut env, &input.edits.env);
    merge_env(&mut env, &config.env);
    let home_given = env.iter().any(|e| e.starts_with("HOME="));
    set_home(&mut env, &input.credentials.home, home_given);
    let [height, width] = host.console_size;
    let mut user = user(input.credentials);
    for gid in &input.edits.gids {
        if !user.additional_gids.contains(gid) {
            user.additional_gids.push(*gid);
        }
    }
    let mut args = record.args.clone();
    if input.init.is_some() {
        args.splice(0..0, [INIT_PATH.to_string(), "--".into()]);
    }
    Ok(spec::Process {
        terminal: config.tty,
        console_size: (config.tty && height > 0 && width > 0).then_some(spec::ConsoleSize { height, width }),
        user,
        args,
        env,
        cwd: if config.working_dir.is_empty() { "/".into() } else { config.working_dir.clone() },
        capabilities: Some(capability_sets(capabilities.to_vec(), input.credentials.uid)),
        rlimits: limits::rlimits(host, input.open_files)?,
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
    if let Some((path, _)) = &input.users {
        out.push(spec::Namespace { kind: "user".into(), path: Some(path.clone()) });
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
        // Of the groups that there are: the kernel takes no others.
        let groups =
            input.users.as_ref().map(|(_, map)| map.gids.iter().map(|m| m.container_id + (m.size - 1)));
        let last = groups.and_then(Iterator::max).unwrap_or(u32::MAX).min(2_147_483_647);
        out.insert("net.ipv4.ping_group_range".to_string(), format!("0 {last}"));
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::Config;
    use crate::model::HostConfig;
    use crate::record::{ContainerId, RECORD_VERSION, State};
    use oci::runtime::ALL_CAPABILITIES;

    pub(crate) fn record(host_config: HostConfig, config: Config) -> Record {
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
            wanted_macs: BTreeMap::new(),
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
            users: None,
            shared_shm: None,
            etc_files: &[],
            devices: &[],
            device_numbers: &BTreeMap::new(),
            edits: &Edits::default(),
            init: None,
            available_capabilities: &all,
            open_files: None,
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
