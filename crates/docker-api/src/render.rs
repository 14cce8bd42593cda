//! Docker's JSON for records.

use crate::units::{human_duration, seconds_since, unix_seconds};
use engine::{Engine, HealthStatus, MountPoint, Network, Record, Status};
use image::{HistoryEntry, Image, Sizes as ImageSizes};
use oci::image::ImageConfig;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Bytes of a container.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) writable: u64,
    pub(crate) total: u64,
}

/// One entry of `GET /containers/json`, written straight from the record: lists are long and asked for often.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Summary<'a> {
    id: &'a str,
    names: Vec<String>,
    image: &'a str,
    #[serde(rename = "ImageID")]
    image_id: &'a oci::Digest,
    command: String,
    created: i64,
    ports: Vec<Value>,
    labels: &'a BTreeMap<String, String>,
    state: &'a str,
    status: String,
    host_config: SummaryHost<'a>,
    network_settings: SummaryNetworks<'a>,
    mounts: Vec<Value>,
    health: SummaryHealth<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_rw: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_root_fs: Option<u64>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct SummaryHost<'a> {
    network_mode: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<&'a BTreeMap<String, String>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct SummaryNetworks<'a> {
    networks: &'a BTreeMap<String, engine::model::EndpointSettings>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct SummaryHealth<'a> {
    status: &'a str,
    failing_streak: u32,
}

/// One entry of `GET /containers/json`; `links` are the names that others have for it.
pub(crate) fn summary<'a>(record: &'a Record, sizes: Option<Sizes>, links: &[String]) -> Summary<'a> {
    Summary {
        id: record.id.as_str(),
        names: std::iter::once(format!("/{}", record.name)).chain(links.iter().cloned()).collect(),
        image: &record.config.image,
        image_id: &record.image_id,
        command: command(&record.args),
        created: unix_seconds(&record.created),
        ports: ports(record),
        labels: &record.config.labels,
        state: record.state.status.as_str(),
        status: status(record),
        host_config: SummaryHost {
            network_mode: &record.host_config.network_mode,
            annotations: Some(&record.host_config.annotations).filter(|all| !all.is_empty()),
        },
        network_settings: SummaryNetworks { networks: &record.networks },
        mounts: record.mounts.iter().map(mount).collect(),
        health: SummaryHealth {
            status: health(record),
            failing_streak: record.state.health.as_ref().map_or(0, |h| h.failing_streak),
        },
        size_rw: sizes.map(|s| s.writable),
        size_root_fs: sizes.map(|s| s.total),
    }
}

/// Docker joins the words and quotes those with spaces.
fn command(args: &[String]) -> String {
    let quote = |word: &String| if word.contains(' ') { format!("'{word}'") } else { word.clone() };
    args.iter().map(quote).collect::<Vec<_>>().join(" ")
}

/// `Up 5 minutes`, `Exited (0) 2 hours ago`.
fn status(record: &Record) -> String {
    let state = &record.state;
    let up = || human_duration(seconds_since(&state.started_at));
    let down = || human_duration(seconds_since(&state.finished_at));
    match state.status {
        Status::Running => match state.health.as_ref().map(|h| h.status) {
            None => format!("Up {}", up()),
            Some(HealthStatus::Starting) => format!("Up {} (health: starting)", up()),
            Some(health) => format!("Up {} ({})", up(), health.as_str()),
        },
        Status::Paused => format!("Up {} (Paused)", up()),
        Status::Restarting => format!("Restarting ({}) {} ago", state.exit_code, down()),
        Status::Removing => "Removal In Progress".into(),
        Status::Dead => "Dead".into(),
        Status::Created => "Created".into(),
        Status::Exited => format!("Exited ({}) {} ago", state.exit_code, down()),
    }
}

fn mount(point: &MountPoint) -> Value {
    let mut out = json!({
        "Type": point.kind.as_str(),
        "Source": point.source,
        "Destination": point.destination,
        "Mode": point.mode.split(',').filter(|m| *m != "create").collect::<Vec<_>>().join(","),
        "RW": point.read_write,
        "Propagation": if point.kind == engine::MountKind::Bind && point.propagation.is_empty() { "rprivate" } else { &point.propagation },
    });
    match point.kind {
        engine::MountKind::Volume => {
            out["Name"] = point.name.clone().into();
            out["Driver"] =
                if point.driver.is_empty() { "local".into() } else { point.driver.clone().into() };
        }
        engine::MountKind::Image => out["Name"] = point.name.clone().into(),
        engine::MountKind::Bind | engine::MountKind::Tmpfs => {}
    }
    out
}

/// Published and exposed ports of a running container, as a list.
fn ports(record: &Record) -> Vec<Value> {
    if !record.state.status.is_alive() {
        return Vec::new();
    }
    let published = record.ports.iter().map(|p| {
        let mut out =
            json!({ "IP": p.host_ip.to_string(), "PrivatePort": p.container_port, "Type": p.protocol });
        if p.host_port != 0 {
            out["PublicPort"] = p.host_port.into();
        }
        out
    });
    let exposed = record.config.exposed_ports.keys().filter_map(|port| {
        let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        let number: u16 = number.parse().ok()?;
        let taken = record.ports.iter().any(|p| p.container_port == number && p.protocol == protocol);
        (!taken).then(|| json!({ "PrivatePort": number, "Type": protocol }))
    });
    published.chain(exposed).collect()
}

/// The same by container port, null where a port is exposed only.
fn port_map(record: &Record) -> Value {
    let mut out = Map::new();
    if !record.state.status.is_alive() {
        return Value::Object(out);
    }
    for port in record.config.exposed_ports.keys() {
        out.insert(port.clone(), Value::Null);
    }
    for p in &record.ports {
        // None of the host's, where the network is routed.
        let port = if p.host_port == 0 { String::new() } else { p.host_port.to_string() };
        let binding = json!({ "HostIp": p.host_ip.to_string(), "HostPort": port });
        let entry = out.entry(format!("{}/{}", p.container_port, p.protocol)).or_insert(Value::Null);
        match entry {
            Value::Array(list) => list.push(binding),
            other => *other = json!([binding]),
        }
    }
    Value::Object(out)
}

/// `GET /containers/{id}/json`.
pub(crate) fn inspect(engine: &Engine, record: &Record, execs: &[String], sizes: Option<Sizes>) -> Value {
    let id = record.id.as_str();
    let config = engine.config();
    let dir = config.data_root.join("containers").join(id);
    let file = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let state = &record.state;
    let (path, args) = record.args.split_first().map_or(("", &[][..]), |(p, a)| (p.as_str(), a));
    let log_path = match record.host_config.log_config.kind.as_str() {
        "json-file" => config.log_path(id).to_string_lossy().into_owned(),
        _ => String::new(),
    };
    let mut out = json!({
        "Id": id,
        "Created": record.created,
        "Path": path,
        "Args": args,
        "State": {
            "Status": state.status.as_str(),
            "Running": matches!(state.status, Status::Running | Status::Paused | Status::Restarting),
            "Paused": state.status == Status::Paused,
            "Restarting": state.status == Status::Restarting,
            "OOMKilled": state.oom_killed,
            "Dead": state.status == Status::Dead,
            "Pid": state.pid,
            "ExitCode": state.exit_code,
            "Error": state.error,
            "StartedAt": state.started_at,
            "FinishedAt": state.finished_at,
        },
        "Image": record.image_id,
        "ResolvConfPath": file("resolv.conf"),
        "HostnamePath": file("hostname"),
        "HostsPath": file("hosts"),
        "LogPath": log_path,
        "Name": format!("/{}", record.name),
        "RestartCount": state.restart_count,
        "Driver": engine.storage_driver(),
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": if execs.is_empty() { Value::Null } else { json!(execs) },
        "HostConfig": record.host_config,
        // What people look for in it: where the container's root is mounted while it runs.
        "GraphDriver": {
            "Name": engine.storage_driver(),
            "Data": { "MergedDir": config.exec_root.join("rootfs").join(id) },
        },
        "Storage": { "RootFS": { "Snapshot": { "Name": engine.storage_driver() } } },
        "Mounts": record.mounts.iter().map(mount).collect::<Vec<_>>(),
        "Config": record.config,
        "NetworkSettings": network_settings(engine, record),
    });
    if let Some(health) = &state.health {
        let probe = |p: &engine::Probe| json!({ "Start": p.start, "End": p.end, "ExitCode": p.exit_code, "Output": p.output });
        out["State"]["Health"] = json!({
            "Status": health.status.as_str(),
            "FailingStreak": health.failing_streak,
            "Log": health.log.iter().map(probe).collect::<Vec<_>>(),
        });
    }
    if let Some(sizes) = sizes {
        out["SizeRw"] = sizes.writable.into();
        out["SizeRootFs"] = sizes.total.into();
    }
    out
}

/// Docker's word for a container's health, `none` for one without a check.
pub(crate) fn health(record: &Record) -> &'static str {
    record.state.health.as_ref().map_or("none", |h| h.status.as_str())
}

fn network_settings(engine: &Engine, record: &Record) -> Value {
    let alive = record.state.status.is_alive();
    let has_own = !record.host_config.network_mode.starts_with("container:")
        && record.host_config.network_mode != "host";
    let key = if alive && has_own {
        engine.config().exec_root.join("netns").join(record.id.as_str()).to_string_lossy().into_owned()
    } else {
        String::new()
    };
    let bridge = record.networks.get("bridge").cloned().unwrap_or_default();
    let mut networks = record.networks.clone();
    for (name, settings) in networks.iter_mut().filter(|(_, s)| s.mac_address.is_empty()) {
        // While it does not run, the address that it is to have.
        settings.mac_address = record.wanted_macs.get(name).cloned().unwrap_or_default();
    }
    json!({
        "Bridge": "",
        "SandboxID": if alive { record.id.as_str() } else { "" },
        "SandboxKey": key,
        "Ports": port_map(record),
        "HairpinMode": false,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": null,
        "SecondaryIPv6Addresses": null,
        "EndpointID": bridge.endpoint_id,
        "Gateway": bridge.gateway,
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "IPAddress": bridge.ip_address,
        "IPPrefixLen": bridge.ip_prefix_len,
        "IPv6Gateway": "",
        "MacAddress": bridge.mac_address,
        "Networks": networks,
    })
}

/// One entry of `GET /images/json`.
pub(crate) fn image_summary(
    image: &Image,
    sizes: Option<&ImageSizes>,
    containers: i64,
    labels: &Value,
) -> Value {
    json!({
        "Id": image.id.to_string(),
        "ParentId": "",
        "RepoTags": image.tags.iter().map(oci::Reference::familiar).collect::<Vec<_>>(),
        "RepoDigests": image.digests.iter().map(oci::Reference::familiar).collect::<Vec<_>>(),
        "Created": unix_seconds(&image.created),
        "Size": image.size_bytes,
        "SharedSize": sizes.map_or(-1, |s| i64::try_from(s.shared_bytes).unwrap_or(i64::MAX)),
        "VirtualSize": image.size_bytes,
        "Labels": labels,
        "Containers": containers,
    })
}

/// `GET /images/{name}/json`.
pub(crate) fn image_inspect(image: &Image, config: &ImageConfig, driver: &str) -> Value {
    let run = config.config.clone().unwrap_or_default();
    let last_tag = image.tagged_ms.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    // One of several platforms of an index has the names of the index.
    let beside: Vec<oci::Reference> = if image.is_beside() { image.platform_of.clone() } else { Vec::new() };
    let names = |own: &[oci::Reference], digests: bool| -> Vec<String> {
        let beside = beside.iter().filter(|r| r.digest().is_some() == digests);
        own.iter().chain(beside).map(oci::Reference::familiar).collect()
    };
    let comment = config.history.last().and_then(|h| h.comment.clone()).unwrap_or_default();
    let mut out = json!({
        "Id": image.id.to_string(),
        "RepoTags": names(&image.tags, false),
        "RepoDigests": names(&image.digests, true),
        "Parent": "",
        "Comment": comment,
        "Created": image.created,
        "DockerVersion": "",
        "Author": config.author.clone().unwrap_or_default(),
        "Config": image_run_config(&run),
        "Architecture": config.architecture,
        "Os": config.os,
        "Size": image.size_bytes,
        "VirtualSize": image.size_bytes,
        "GraphDriver": { "Name": driver, "Data": {} },
        "RootFS": { "Type": "layers", "Layers": config.rootfs.diff_ids },
        "Metadata": { "LastTagTime": last_tag.map_or_else(|| engine::NEVER.to_string(), |t| t.to_string()) },
        "Descriptor": image.target,
    });
    if let Some(variant) = &config.variant {
        out["Variant"] = variant.clone().into();
    }
    out
}

/// The image's defaults with the members that clients read always there.
fn image_run_config(run: &oci::image::RunConfig) -> Value {
    let mut map = match serde_json::to_value(run) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    };
    for (key, value) in [
        ("User", json!("")),
        ("WorkingDir", json!("")),
        ("Env", Value::Null),
        ("Cmd", Value::Null),
        ("Entrypoint", Value::Null),
        ("Volumes", Value::Null),
        ("Labels", Value::Null),
        ("OnBuild", Value::Null),
    ] {
        map.entry(key).or_insert(value);
    }
    Value::Object(map)
}

/// One entry of `GET /images/{name}/history`.
pub(crate) fn history(entry: &HistoryEntry) -> Value {
    let tags: Vec<String> = entry.tags.iter().map(oci::Reference::familiar).collect();
    json!({
        "Id": entry.id.map_or_else(|| "<missing>".to_string(), |i| i.to_string()),
        "Created": unix_seconds(&entry.created),
        "CreatedBy": entry.created_by,
        "Tags": if tags.is_empty() { Value::Null } else { json!(tags) },
        "Size": entry.size_bytes,
        "Comment": entry.comment,
    })
}

/// `GET /networks/{name}`; the list has it without containers, here and elsewhere.
pub(crate) fn network(engine: &Engine, network: &Network, containers: Option<&[Record]>) -> Value {
    let pools: Vec<Value> = network
        .pools
        .iter()
        .map(|pool| {
            let mut out = json!({ "Subnet": pool.subnet });
            if let Some(range) = &pool.ip_range {
                out["IPRange"] = range.clone().into();
            }
            if let Some(gateway) = pool.gateway {
                out["Gateway"] = gateway.to_string().into();
            }
            if !pool.aux.is_empty() {
                out["AuxiliaryAddresses"] = json!(pool.aux);
            }
            out
        })
        .collect();
    let cidr = |address: &str, prefix: u8| match address {
        "" => String::new(),
        address => format!("{address}/{prefix}"),
    };
    let mut attached = Map::new();
    for record in containers.unwrap_or_default() {
        if let (true, Some(settings)) = (record.state.status.is_alive(), record.networks.get(&network.name)) {
            attached.insert(
                record.id.to_string(),
                json!({
                    "Name": record.name,
                    "EndpointID": settings.endpoint_id,
                    "MacAddress": settings.mac_address,
                    "IPv4Address": cidr(&settings.ip_address, settings.ip_prefix_len),
                    "IPv6Address": cidr(&settings.global_ipv6_address, settings.global_ipv6_prefix_len),
                }),
            );
        }
    }
    for remote in containers.map(|_| engine.remote_endpoints(network)).unwrap_or_default() {
        let prefix = |address| network.prefix_of(address).unwrap_or_default();
        // As Docker shows endpoints of other hosts.
        let shown = attached.entry(format!("ep-{}", remote.endpoint)).or_insert_with(|| {
            json!({ "Name": remote.name, "EndpointID": remote.endpoint, "MacAddress": remote.mac,
                "IPv4Address": "", "IPv6Address": "" })
        });
        for address in &remote.addresses {
            let field = if address.is_ipv6() { "IPv6Address" } else { "IPv4Address" };
            shown[field] = cidr(&address.to_string(), prefix(*address)).into();
        }
    }
    let mut options = network.options.clone();
    if let (false, Some(bridge)) = (network.is_user_defined(), engine.network_bridge(network)) {
        for (key, value) in [
            ("bridge.default_bridge", "true"),
            ("bridge.enable_icc", "true"),
            ("bridge.enable_ip_masquerade", "true"),
            ("bridge.host_binding_ipv4", "0.0.0.0"),
            ("bridge.name", &bridge),
            ("driver.mtu", &engine.config().mtu.to_string()),
        ] {
            options.insert(format!("com.docker.network.{key}"), value.to_string());
        }
    }
    json!({
        "Name": network.name,
        "Id": network.id,
        "Created": network.created,
        "Scope": network.scope(),
        "Driver": network.driver,
        "EnableIPv4": !network.no_ipv4,
        "EnableIPv6": network.ipv6,
        "IPAM": {
            "Driver": "default",
            "Options": network.ipam_options,
            "Config": if pools.is_empty() { Value::Null } else { pools.into() },
        },
        "Internal": network.internal,
        "Attachable": network.attachable,
        "Ingress": false,
        "ConfigFrom": { "Network": network.config_from.as_deref().unwrap_or_default() },
        "ConfigOnly": network.config_only,
        "Containers": attached,
        "Options": options,
        "Labels": network.labels,
    })
}

/// RFC 3339 with all nine digits, as Docker stamps log lines.
pub(crate) fn fixed_nanos(time_ns: u64) -> String {
    let time = jiff::Timestamp::from_nanosecond(i128::from(time_ns)).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%S.%9fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_times_have_nine_digits() {
        assert_eq!(fixed_nanos(1_500_000_000), "1970-01-01T00:00:01.500000000Z");
    }

    #[test]
    fn commands_quote_words_with_spaces() {
        let own = |w: &[&str]| w.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(command(&own(&["sh", "-c", "echo hi"])), "sh -c 'echo hi'");
    }
}
