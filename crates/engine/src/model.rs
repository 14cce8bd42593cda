//! Docker's documents for a container: `Config` (what the image may also say), `HostConfig` (what only this host
//! knows) and the endpoint settings. They are the shape a client sends, the shape a record keeps and the shape
//! `inspect` shows, so there is one type for the three. `null` is read as the default, as Go does.
//!
//! Spec: Docker Engine API, definitions `ContainerConfig`, `HostConfig`, `Resources`, `EndpointSettings`.

use oci::image::Empty;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

macro_rules! documents {
    ($($(#[$meta:meta])* struct $name:ident { $($(#[$field_meta:meta])* $field:ident: $kind:ty,)* })*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
        #[serde(rename_all = "PascalCase", default)]
        pub struct $name {
            $($(#[$field_meta])* #[serde(deserialize_with = "nullable")] pub $field: $kind,)*
        }
    )*};
}

documents! {
    /// What the container runs. Empty fields are filled from the image when the container is created.
    struct Config {
        hostname: String,
        domainname: String,
        user: String,
        attach_stdin: bool,
        attach_stdout: bool,
        attach_stderr: bool,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        exposed_ports: BTreeMap<String, Empty>,
        tty: bool,
        open_stdin: bool,
        stdin_once: bool,
        env: Vec<String>,
        cmd: Option<Words>,
        #[serde(skip_serializing_if = "Option::is_none")]
        healthcheck: Option<Healthcheck>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        args_escaped: bool,
        image: String,
        volumes: Option<BTreeMap<String, Empty>>,
        working_dir: String,
        entrypoint: Option<Words>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        network_disabled: bool,
        #[serde(skip_serializing_if = "String::is_empty")]
        mac_address: String,
        on_build: Option<Vec<String>>,
        labels: BTreeMap<String, String>,
        #[serde(skip_serializing_if = "String::is_empty")]
        stop_signal: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        stop_timeout: Option<i64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        shell: Option<Vec<String>>,
    }

    /// A check of the container's health; times in nanoseconds.
    struct Healthcheck {
        test: Vec<String>,
        interval: i64,
        timeout: i64,
        retries: i64,
        start_period: i64,
        start_interval: i64,
    }

    /// How the container runs on this host. Sizes in bytes.
    struct HostConfig {
        binds: Vec<String>,
        #[serde(rename = "ContainerIDFile")]
        container_id_file: String,
        log_config: LogConfig,
        network_mode: String,
        port_bindings: BTreeMap<String, Option<Vec<PortBinding>>>,
        restart_policy: RestartPolicy,
        auto_remove: bool,
        volume_driver: String,
        volumes_from: Vec<String>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        mounts: Vec<MountRequest>,
        console_size: [u16; 2],
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        annotations: BTreeMap<String, String>,
        cap_add: Vec<String>,
        cap_drop: Vec<String>,
        cgroupns_mode: String,
        dns: Vec<String>,
        dns_options: Vec<String>,
        dns_search: Vec<String>,
        extra_hosts: Vec<String>,
        group_add: Vec<String>,
        ipc_mode: String,
        cgroup: String,
        links: Vec<String>,
        oom_score_adj: i32,
        pid_mode: String,
        privileged: bool,
        publish_all_ports: bool,
        readonly_rootfs: bool,
        security_opt: Vec<String>,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        storage_opt: BTreeMap<String, String>,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        tmpfs: BTreeMap<String, String>,
        #[serde(rename = "UTSMode")]
        uts_mode: String,
        userns_mode: String,
        shm_size: i64,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        sysctls: BTreeMap<String, String>,
        runtime: String,
        isolation: String,
        masked_paths: Option<Vec<String>>,
        readonly_paths: Option<Vec<String>>,
        cpu_shares: i64,
        memory: i64,
        #[serde(rename = "NanoCpus")]
        nano_cpus: i64,
        cgroup_parent: String,
        blkio_weight: u16,
        blkio_weight_device: Vec<WeightDevice>,
        blkio_device_read_bps: Vec<ThrottleDevice>,
        blkio_device_write_bps: Vec<ThrottleDevice>,
        #[serde(rename = "BlkioDeviceReadIOps")]
        blkio_device_read_iops: Vec<ThrottleDevice>,
        #[serde(rename = "BlkioDeviceWriteIOps")]
        blkio_device_write_iops: Vec<ThrottleDevice>,
        cpu_period: i64,
        cpu_quota: i64,
        cpu_realtime_period: i64,
        cpu_realtime_runtime: i64,
        cpuset_cpus: String,
        cpuset_mems: String,
        devices: Vec<DeviceMapping>,
        device_cgroup_rules: Vec<String>,
        device_requests: Option<Vec<serde_json::Value>>,
        memory_reservation: i64,
        memory_swap: i64,
        #[serde(skip_serializing_if = "is_zero")]
        kernel_memory: i64,
        memory_swappiness: Option<i64>,
        oom_kill_disable: Option<bool>,
        init: Option<bool>,
        pids_limit: Option<i64>,
        ulimits: Vec<Ulimit>,
        cpu_count: i64,
        cpu_percent: i64,
        #[serde(rename = "IOMaximumIOps")]
        io_maximum_iops: u64,
        #[serde(rename = "IOMaximumBandwidth")]
        io_maximum_bandwidth: u64,
        /// Ours: bits a second that each interface may receive and send.
        #[serde(skip_serializing_if = "is_zero")]
        net_rate_in: i64,
        #[serde(skip_serializing_if = "is_zero")]
        net_rate_out: i64,
    }

    /// Where output is kept.
    struct LogConfig {
        #[serde(rename = "Type")]
        kind: String,
        config: BTreeMap<String, String>,
    }

    /// `no`, `always`, `unless-stopped`, `on-failure`.
    struct RestartPolicy {
        name: String,
        maximum_retry_count: u32,
    }

    /// One host side of a published port.
    struct PortBinding {
        host_ip: String,
        host_port: String,
    }

    /// One `--mount`.
    struct MountRequest {
        target: String,
        source: String,
        #[serde(rename = "Type")]
        kind: String,
        read_only: bool,
        consistency: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        bind_options: Option<BindOptions>,
        #[serde(skip_serializing_if = "Option::is_none")]
        volume_options: Option<VolumeOptions>,
        #[serde(skip_serializing_if = "Option::is_none")]
        tmpfs_options: Option<TmpfsOptions>,
        #[serde(skip_serializing_if = "Option::is_none")]
        image_options: Option<ImageOptions>,
    }

    /// Options of a volume mount.
    struct VolumeOptions {
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        no_copy: bool,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        labels: BTreeMap<String, String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        driver_config: Option<DriverConfig>,
        #[serde(skip_serializing_if = "String::is_empty")]
        subpath: String,
    }

    /// Driver of a volume that a mount makes.
    struct DriverConfig {
        name: String,
        options: BTreeMap<String, String>,
    }

    /// Options of an image mount.
    struct ImageOptions {
        subpath: String,
    }

    /// Options of a bind mount.
    struct BindOptions {
        propagation: String,
        non_recursive: bool,
        create_mountpoint: bool,
        read_only_non_recursive: bool,
        read_only_force_recursive: bool,
    }

    /// Options of a tmpfs mount.
    struct TmpfsOptions {
        size_bytes: i64,
        mode: u32,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        options: Vec<Vec<String>>,
    }

    /// A host device shown inside.
    struct DeviceMapping {
        path_on_host: String,
        path_in_container: String,
        cgroup_permissions: String,
    }

    /// A weight for one device.
    struct WeightDevice { path: String, weight: u16, }

    /// A rate for one device, bytes or operations a second.
    struct ThrottleDevice { path: String, rate: u64, }

    /// A resource limit by docker's name (`nofile`).
    struct Ulimit { name: String, hard: i64, soft: i64, }

    /// The part of a create request about networks.
    struct NetworkingConfig {
        endpoints_config: BTreeMap<String, Option<EndpointSettings>>,
    }

    /// One container's place in one network.
    struct EndpointSettings {
        #[serde(rename = "IPAMConfig")]
        ipam_config: Option<EndpointIpam>,
        links: Option<Vec<String>>,
        aliases: Option<Vec<String>>,
        driver_opts: Option<BTreeMap<String, String>>,
        gw_priority: i64,
        #[serde(rename = "NetworkID")]
        network_id: String,
        #[serde(rename = "EndpointID")]
        endpoint_id: String,
        gateway: String,
        #[serde(rename = "IPAddress")]
        ip_address: String,
        mac_address: String,
        #[serde(rename = "IPPrefixLen")]
        ip_prefix_len: u8,
        #[serde(rename = "IPv6Gateway")]
        ipv6_gateway: String,
        #[serde(rename = "GlobalIPv6Address")]
        global_ipv6_address: String,
        #[serde(rename = "GlobalIPv6PrefixLen")]
        global_ipv6_prefix_len: u8,
        #[serde(rename = "DNSNames")]
        dns_names: Option<Vec<String>>,
    }

    /// Addresses that a client asked for.
    struct EndpointIpam {
        #[serde(rename = "IPv4Address")]
        ipv4_address: String,
        #[serde(rename = "IPv6Address")]
        ipv6_address: String,
        #[serde(rename = "LinkLocalIPs")]
        link_local_ips: Vec<String>,
    }
}

/// A command line: a list, or one string that stands for a list of one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub struct Words(pub Vec<String>);

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Words, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a string or a list of strings")]
        enum Either {
            One(String),
            Many(Vec<String>),
        }
        Ok(Words(match Either::deserialize(deserializer)? {
            Either::One(word) => vec![word],
            Either::Many(words) => words,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_and_strings_are_read_as_go_reads_them() {
        let text = r#"{"Image":"x","Env":null,"Cmd":"ls","Entrypoint":["a","b"],"Labels":null,"Unknown":1}"#;
        let config: Config = serde_json::from_str(text).unwrap();
        assert_eq!(config.cmd, Some(Words(vec!["ls".into()])));
        assert_eq!(config.entrypoint, Some(Words(vec!["a".into(), "b".into()])));
        assert!(config.env.is_empty());
    }

    /// A member that nobody reads takes anything: one that is read refuses either a truth value or a text.
    fn reads<T: serde::de::DeserializeOwned>(member: &str) -> bool {
        let takes = |value: &str| serde_json::from_str::<T>(&format!(r#"{{"{member}":{value}}}"#)).is_ok();
        !takes("true") || !takes(r#""x""#)
    }

    #[test]
    fn every_member_of_dockers_documents_is_read() {
        let check = |name: &str, reads: fn(&str) -> bool, members: &str| {
            for member in members.split_whitespace() {
                assert!(reads(member), "{name}.{member}");
            }
            assert!(!reads("Nothing"), "{name}");
        };
        check(
            "HostConfig",
            reads::<HostConfig>,
            "CpuShares Memory CgroupParent BlkioWeight BlkioWeightDevice BlkioDeviceReadBps BlkioDeviceWriteBps \
             BlkioDeviceReadIOps BlkioDeviceWriteIOps CpuPeriod CpuQuota CpuRealtimePeriod CpuRealtimeRuntime CpusetCpus \
             CpusetMems Devices DeviceCgroupRules DeviceRequests MemoryReservation MemorySwap MemorySwappiness NanoCpus \
             OomKillDisable Init PidsLimit Ulimits CpuCount CpuPercent IOMaximumIOps IOMaximumBandwidth Binds \
             ContainerIDFile LogConfig NetworkMode PortBindings RestartPolicy AutoRemove VolumeDriver VolumesFrom Mounts \
             ConsoleSize Annotations CapAdd CapDrop CgroupnsMode Dns DnsOptions DnsSearch ExtraHosts GroupAdd IpcMode Cgroup \
             Links OomScoreAdj PidMode Privileged PublishAllPorts ReadonlyRootfs SecurityOpt StorageOpt Tmpfs UTSMode \
             UsernsMode ShmSize Sysctls Runtime Isolation MaskedPaths ReadonlyPaths KernelMemory",
        );
        check(
            "Config",
            reads::<Config>,
            "Hostname Domainname User AttachStdin AttachStdout AttachStderr ExposedPorts Tty OpenStdin StdinOnce Env Cmd \
             Healthcheck ArgsEscaped Image Volumes WorkingDir Entrypoint NetworkDisabled OnBuild Labels StopSignal \
             StopTimeout Shell MacAddress",
        );
        check(
            "EndpointSettings",
            reads::<EndpointSettings>,
            "IPAMConfig Links MacAddress Aliases DriverOpts GwPriority NetworkID EndpointID Gateway IPAddress IPPrefixLen \
             IPv6Gateway GlobalIPv6Address GlobalIPv6PrefixLen DNSNames",
        );
        check("EndpointIpam", reads::<EndpointIpam>, "IPv4Address IPv6Address LinkLocalIPs");
        check(
            "Mount",
            reads::<MountRequest>,
            "Target Source Type ReadOnly Consistency BindOptions VolumeOptions ImageOptions TmpfsOptions",
        );
        check(
            "BindOptions",
            reads::<BindOptions>,
            "Propagation NonRecursive CreateMountpoint ReadOnlyNonRecursive ReadOnlyForceRecursive",
        );
        check("VolumeOptions", reads::<VolumeOptions>, "NoCopy Labels DriverConfig Subpath");
        check("TmpfsOptions", reads::<TmpfsOptions>, "SizeBytes Mode Options");
        check("Healthcheck", reads::<Healthcheck>, "Test Interval Timeout Retries StartPeriod StartInterval");
    }

    #[test]
    fn wrong_types_are_errors() {
        assert!(serde_json::from_str::<Config>(r#"{"Env":"A=1"}"#).is_err());
        assert!(serde_json::from_str::<HostConfig>(r#"{"Memory":"1g"}"#).is_err());
    }
}
