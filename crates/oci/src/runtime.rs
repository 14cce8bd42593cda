//! `config.json` and `state.json` of the runtime specification, for Linux. Field names are the specification's;
//! unknown fields are ignored, as it asks.
//!
//! Spec: runtime-spec 1.3, config.md, config-linux.md, runtime.md.

mod nulls;

pub use nulls::from_json;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The version that we write.
pub const OCI_VERSION: &str = "1.3.0";

/// All capabilities in the order of the kernel's numbers, without `CAP_`.
///
/// Kernel: include/uapi/linux/capability.h.
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

macro_rules! documents {
    ($($(#[$meta:meta])* struct $name:ident { $($(#[$field_meta:meta])* $field:ident: $kind:ty,)* })*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $kind,)*
        }
    )*};
}

documents! {
    /// The whole of `config.json`.
    struct Spec {
        oci_version: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        root: Option<Root>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        mounts: Vec<Mount>,
        #[serde(skip_serializing_if = "Option::is_none")]
        process: Option<Process>,
        #[serde(skip_serializing_if = "String::is_empty")]
        hostname: String,
        #[serde(skip_serializing_if = "String::is_empty")]
        domainname: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        hooks: Option<Hooks>,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        annotations: BTreeMap<String, String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        linux: Option<Linux>,
    }

    /// The root file system: absolute, or relative to the bundle.
    struct Root {
        path: String,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        readonly: bool,
    }

    /// One mount, in the order given.
    struct Mount {
        destination: String,
        #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
        kind: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        source: Option<String>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        options: Vec<String>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        uid_mappings: Vec<IdMapping>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        gid_mappings: Vec<IdMapping>,
    }

    /// What to execute, as whom, with what.
    struct Process {
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        terminal: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        console_size: Option<ConsoleSize>,
        user: User,
        args: Vec<String>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        env: Vec<String>,
        cwd: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        capabilities: Option<Capabilities>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        rlimits: Vec<Rlimit>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        no_new_privileges: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        apparmor_profile: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        oom_score_adj: Option<i32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        selinux_label: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        io_priority: Option<IoPriority>,
        #[serde(skip_serializing_if = "Option::is_none")]
        scheduler: Option<Scheduler>,
        #[serde(rename = "execCPUAffinity", skip_serializing_if = "Option::is_none")]
        exec_cpu_affinity: Option<ExecCpuAffinity>,
    }

    /// Rows and columns of a terminal.
    struct ConsoleSize { height: u16, width: u16, }

    /// Ids inside the container.
    struct User {
        uid: u32,
        gid: u32,
        #[serde(skip_serializing_if = "Option::is_none")]
        umask: Option<u32>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        additional_gids: Vec<u32>,
    }

    /// The five sets, names with `CAP_`.
    struct Capabilities {
        #[serde(skip_serializing_if = "Vec::is_empty")]
        bounding: Vec<String>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        effective: Vec<String>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        inheritable: Vec<String>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        permitted: Vec<String>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        ambient: Vec<String>,
    }

    /// One resource limit, `RLIMIT_NOFILE` and so on.
    struct Rlimit {
        #[serde(rename = "type")]
        kind: String,
        hard: u64,
        soft: u64,
    }

    /// I/O class and level, ioprio_set(2).
    struct IoPriority { class: String, priority: i32, }

    /// sched_setattr(2).
    struct Scheduler {
        policy: String,
        nice: i32,
        priority: i32,
        flags: Vec<String>,
        runtime: u64,
        deadline: u64,
        period: u64,
    }

    /// CPUs for exec before and after it joins the cgroup.
    struct ExecCpuAffinity {
        #[serde(skip_serializing_if = "String::is_empty")]
        initial: String,
        #[serde(rename = "final", skip_serializing_if = "String::is_empty")]
        last: String,
    }

    /// Programs run at points of the life cycle.
    struct Hooks {
        #[serde(skip_serializing_if = "Vec::is_empty")]
        prestart: Vec<Hook>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        create_runtime: Vec<Hook>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        create_container: Vec<Hook>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        start_container: Vec<Hook>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        poststart: Vec<Hook>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        poststop: Vec<Hook>,
    }

    /// One program; `timeout` in seconds.
    struct Hook {
        path: String,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        args: Vec<String>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        env: Vec<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        timeout: Option<u32>,
    }

    /// What only Linux has.
    struct Linux {
        #[serde(skip_serializing_if = "Vec::is_empty")]
        uid_mappings: Vec<IdMapping>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        gid_mappings: Vec<IdMapping>,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        sysctl: BTreeMap<String, String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        resources: Option<Resources>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cgroups_path: Option<String>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        namespaces: Vec<Namespace>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        devices: Vec<Device>,
        #[serde(skip_serializing_if = "Option::is_none")]
        seccomp: Option<Seccomp>,
        #[serde(skip_serializing_if = "Option::is_none")]
        rootfs_propagation: Option<String>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        masked_paths: Vec<String>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        readonly_paths: Vec<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        mount_label: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        personality: Option<Personality>,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        time_offsets: BTreeMap<String, TimeOffset>,
        #[serde(skip_serializing_if = "Option::is_none")]
        intel_rdt: Option<IntelRdt>,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        net_devices: BTreeMap<String, NetDevice>,
        #[serde(skip_serializing_if = "Option::is_none")]
        memory_policy: Option<MemoryPolicy>,
    }

    /// Cache and memory bandwidth, by a group of resctrl.
    struct IntelRdt {
        #[serde(rename = "closID", skip_serializing_if = "Option::is_none")]
        clos_id: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        l3_cache_schema: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        mem_bw_schema: Option<String>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        schemata: Vec<String>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        enable_monitoring: bool,
    }

    /// An interface of the host to move into the container, there called `name` if that is not empty.
    struct NetDevice {
        #[serde(skip_serializing_if = "String::is_empty")]
        name: String,
    }

    /// set_mempolicy(2).
    struct MemoryPolicy {
        mode: String,
        #[serde(skip_serializing_if = "String::is_empty")]
        nodes: String,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        flags: Vec<String>,
    }

    /// `size` ids from `container_id` inside are those from `host_id` outside.
    struct IdMapping {
        #[serde(rename = "containerID")]
        container_id: u32,
        #[serde(rename = "hostID")]
        host_id: u32,
        size: u32,
    }

    /// A namespace to make, or with a path to join.
    struct Namespace {
        #[serde(rename = "type")]
        kind: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        path: Option<String>,
    }

    /// A device node to make.
    struct Device {
        #[serde(rename = "type")]
        kind: String,
        path: String,
        major: i64,
        minor: i64,
        #[serde(skip_serializing_if = "Option::is_none")]
        file_mode: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        uid: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        gid: Option<u32>,
    }

    /// `LINUX32` or `LINUX`.
    struct Personality { domain: String, #[serde(skip_serializing_if = "Vec::is_empty")] flags: Vec<String>, }

    /// Offset of a clock in a time namespace.
    struct TimeOffset { secs: i64, nanosecs: u32, }

    /// Limits of the cgroup.
    struct Resources {
        #[serde(skip_serializing_if = "Vec::is_empty")]
        devices: Vec<DeviceRule>,
        #[serde(skip_serializing_if = "Option::is_none")]
        memory: Option<Memory>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cpu: Option<Cpu>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pids: Option<Pids>,
        #[serde(rename = "blockIO", skip_serializing_if = "Option::is_none")]
        block_io: Option<BlockIo>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        hugepage_limits: Vec<HugepageLimit>,
        #[serde(skip_serializing_if = "Option::is_none")]
        network: Option<NetworkClass>,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        rdma: BTreeMap<String, Rdma>,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        unified: BTreeMap<String, String>,
    }

    /// Allow or deny a device; `kind` `a`, `b` or `c`, numbers absent for all.
    struct DeviceRule {
        allow: bool,
        #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
        kind: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        major: Option<i64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        minor: Option<i64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        access: Option<String>,
    }

    /// Bytes; -1 is no limit; `swap` is memory plus swap.
    struct Memory {
        #[serde(skip_serializing_if = "Option::is_none")]
        limit: Option<i64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        reservation: Option<i64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        swap: Option<i64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        kernel: Option<i64>,
        #[serde(rename = "kernelTCP", skip_serializing_if = "Option::is_none")]
        kernel_tcp: Option<i64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        swappiness: Option<u64>,
        #[serde(rename = "disableOOMKiller", skip_serializing_if = "Option::is_none")]
        disable_oom_killer: Option<bool>,
        #[serde(skip_serializing_if = "Option::is_none")]
        use_hierarchy: Option<bool>,
        #[serde(skip_serializing_if = "Option::is_none")]
        check_before_update: Option<bool>,
    }

    /// Shares are v1's 2..262144; quota and periods in microseconds.
    struct Cpu {
        #[serde(skip_serializing_if = "Option::is_none")]
        shares: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        quota: Option<i64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        burst: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        period: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        realtime_runtime: Option<i64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        realtime_period: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cpus: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        mems: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        idle: Option<i64>,
    }

    /// Most tasks; 0 or -1 is no limit.
    struct Pids { limit: i64, }

    /// Weights 10..1000 and throttles.
    struct BlockIo {
        #[serde(skip_serializing_if = "Option::is_none")]
        weight: Option<u16>,
        #[serde(skip_serializing_if = "Option::is_none")]
        leaf_weight: Option<u16>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        weight_device: Vec<WeightDevice>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        throttle_read_bps_device: Vec<ThrottleDevice>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        throttle_write_bps_device: Vec<ThrottleDevice>,
        #[serde(rename = "throttleReadIOPSDevice", skip_serializing_if = "Vec::is_empty")]
        throttle_read_iops_device: Vec<ThrottleDevice>,
        #[serde(rename = "throttleWriteIOPSDevice", skip_serializing_if = "Vec::is_empty")]
        throttle_write_iops_device: Vec<ThrottleDevice>,
    }

    /// Weight of one device.
    struct WeightDevice {
        major: i64,
        minor: i64,
        #[serde(skip_serializing_if = "Option::is_none")]
        weight: Option<u16>,
        #[serde(skip_serializing_if = "Option::is_none")]
        leaf_weight: Option<u16>,
    }

    /// Bytes or operations a second on one device.
    struct ThrottleDevice { major: i64, minor: i64, rate: u64, }

    /// Most bytes of one huge page size (`2MB`).
    struct HugepageLimit { page_size: String, limit: u64, }

    /// net_cls and net_prio.
    struct NetworkClass {
        #[serde(rename = "classID", skip_serializing_if = "Option::is_none")]
        class_id: Option<u32>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        priorities: Vec<InterfacePriority>,
    }

    /// Priority of one interface.
    struct InterfacePriority { name: String, priority: u32, }

    /// RDMA limits of one device.
    struct Rdma {
        #[serde(skip_serializing_if = "Option::is_none")]
        hca_handles: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        hca_objects: Option<u32>,
    }

    /// System call filter.
    struct Seccomp {
        default_action: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        default_errno_ret: Option<u32>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        architectures: Vec<String>,
        /// None asked for is not the same as nothing said, for which the runtime chooses.
        #[serde(skip_serializing_if = "Option::is_none")]
        flags: Option<Vec<String>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        listener_path: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        listener_metadata: Option<String>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        syscalls: Vec<SyscallRule>,
    }

    /// One action for some system calls.
    struct SyscallRule {
        names: Vec<String>,
        action: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        errno_ret: Option<u32>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        args: Vec<SyscallArg>,
    }

    /// A condition on one argument, `SCMP_CMP_*`.
    struct SyscallArg {
        index: u32,
        value: u64,
        #[serde(skip_serializing_if = "is_zero")]
        value_two: u64,
        op: String,
    }

    /// What `state` prints.
    struct State {
        oci_version: String,
        id: String,
        status: String,
        pid: i32,
        bundle: String,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        annotations: BTreeMap<String, String>,
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let spec = Spec {
            oci_version: OCI_VERSION.into(),
            process: Some(Process { args: vec!["sh".into()], cwd: "/".into(), ..Process::default() }),
            linux: Some(Linux {
                namespaces: vec![Namespace { kind: "pid".into(), path: None }],
                ..Linux::default()
            }),
            ..Spec::default()
        };
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<Spec>(&text).unwrap(), spec);
        assert!(!text.contains("null"), "{text}");
    }
}
