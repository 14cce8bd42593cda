//! `GET /info`.

use crate::reply::{Outcome, ok};
use crate::serve::Api;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// What an entry of `InsecureRegistryCIDRs` can be besides what the administrator lists.
const LOOPBACK: [&str; 2] = ["127.0.0.0/8", "::1/128"];

/// `GET /info`.
pub(crate) async fn info(api: &Arc<Api>) -> Outcome {
    let info = api.engine.info().await?;
    let config = api.engine.config();
    let runtimes: Map<String, Value> =
        config.runtimes.iter().map(|(name, path)| (name.clone(), json!({ "path": path }))).collect();
    let mut security = vec!["name=seccomp,profile=builtin"];
    if info.has_apparmor {
        security.insert(0, "name=apparmor");
    }
    if info.is_remapped {
        security.push("name=userns");
    }
    if info.cgroup_version == "2" {
        // Where the default mode of cgroup namespaces is private.
        security.push("name=cgroupns");
    }
    let devices: Vec<Value> =
        info.cdi_devices.iter().map(|id| json!({ "Source": "cdi", "ID": id })).collect();
    let limits = info.limits;
    ok(&json!({
        "ID": info.id,
        "Containers": info.containers,
        "ContainersRunning": info.running,
        "ContainersPaused": info.paused,
        "ContainersStopped": info.containers - info.running - info.paused,
        "Images": info.images,
        "Driver": info.storage_driver,
        "DriverStatus": [["Backing Filesystem", info.backing_filesystem]],
        "Plugins": {
            "Volume": info.volume_drivers,
            "Network": engine::NETWORK_DRIVERS,
            "Authorization": null,
            "Log": engine::LOG_DRIVERS,
        },
        "MemoryLimit": limits.memory,
        "SwapLimit": limits.swap,
        "CpuCfsPeriod": limits.cpu_quota,
        "CpuCfsQuota": limits.cpu_quota,
        "CPUShares": limits.cpu_shares,
        "CPUSet": limits.cpuset,
        "PidsLimit": limits.pids,
        "IPv4Forwarding": info.ipv4_forwarding,
        // Of older clients, who warn where they are false: our rules are nftables' and see bridged packets by
        // themselves.
        "BridgeNfIptables": true,
        "BridgeNfIp6tables": true,
        "Debug": config.debug,
        "NFd": info.open_fds,
        "OomKillDisable": info.cgroup_version == "1",
        "NGoroutines": info.threads,
        "SystemTime": jiff::Timestamp::now().to_string(),
        "LoggingDriver": config.log_driver,
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": info.cgroup_version,
        "NEventsListener": info.event_listeners,
        "KernelVersion": info.kernel,
        "OperatingSystem": info.operating_system,
        "OSVersion": info.os_version,
        "OSType": "linux",
        "Architecture": std::env::consts::ARCH,
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": registries(&config.registry),
        "NCPU": info.cpus,
        "MemTotal": info.memory_bytes,
        "GenericResources": null,
        "DockerRootDir": config.data_root,
        "HttpProxy": registry_client::ProxyConfig::without_password(&config.registry.proxy.http),
        "HttpsProxy": registry_client::ProxyConfig::without_password(&config.registry.proxy.https),
        "NoProxy": config.registry.proxy.no_proxy,
        "Name": info.hostname,
        "Labels": config.labels,
        "ExperimentalBuild": config.experimental,
        "ServerVersion": api.version,
        "Runtimes": runtimes,
        "DefaultRuntime": config.default_runtime,
        "Swarm": { "NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": false, "Error": "", "RemoteManagers": null },
        "LiveRestoreEnabled": true,
        "Isolation": "",
        "InitBinary": "docker-init",
        // There is no containerd, and runtime and init are parts of brig.
        "ContainerdCommit": { "ID": "" },
        "RuncCommit": { "ID": "" },
        "InitCommit": { "ID": "" },
        "ProductLicense": "",
        "FirewallBackend": { "Driver": "nftables" },
        "CDISpecDirs": config.cdi_spec_dirs,
        "DiscoveredDevices": devices,
        "SecurityOptions": security,
        "Warnings": null,
    }))
}

/// The registries that are spoken to otherwise than others.
fn registries(config: &registry_client::Config) -> Value {
    let index = |name: &str, is_secure: bool, mirrors: &[String], is_official: bool| json!({ "Name": name, "Mirrors": mirrors, "Secure": is_secure, "Official": is_official });
    let mut cidrs: Vec<String> = LOOPBACK.map(String::from).to_vec();
    let mut indexes = Map::new();
    indexes.insert("docker.io".into(), index("docker.io", true, &config.mirrors, true));
    for entry in &config.insecure {
        if entry.contains('/') {
            cidrs.push(entry.clone());
        } else {
            indexes.insert(entry.clone(), index(entry, false, &[], false));
        }
    }
    json!({ "InsecureRegistryCIDRs": cidrs, "IndexConfigs": indexes, "Mirrors": config.mirrors })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_by_kind() {
        let config = registry_client::Config {
            insecure: vec!["10.0.0.0/8".into(), "reg.example.com:5000".into()],
            mirrors: vec!["http://m".into()],
            ..registry_client::Config::default()
        };
        let shown = registries(&config);
        assert_eq!(shown["InsecureRegistryCIDRs"], json!(["127.0.0.0/8", "::1/128", "10.0.0.0/8"]));
        assert_eq!(shown["IndexConfigs"]["docker.io"]["Mirrors"], json!(["http://m"]));
        assert_eq!(shown["IndexConfigs"]["reg.example.com:5000"]["Secure"], false);
    }
}
