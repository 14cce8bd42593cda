//! Flags to the body of `POST /containers/create`. Pure: what the client's machine has to say comes in through
//! [`ClientSide`].
//!
//! Spec: Docker Engine API, `ContainerCreate`.

use super::environment;
use super::mounts::{self, Volume};
use super::options::Options;
use super::ports::Ports;
use crate::error::{Error, Result};
use crate::units;
use serde_json::{Map, Value, json};

/// Finds a variable by its name.
pub(crate) type Lookup = Box<dyn Fn(&str) -> Option<String>>;

/// What the client's machine contributes.
pub(crate) struct ClientSide {
    /// A variable of the client's environment.
    pub(crate) lookup: Lookup,
    /// A path of the client, made absolute.
    pub(crate) absolute: Box<dyn Fn(&str) -> String>,
}

impl std::fmt::Debug for ClientSide {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientSide")
    }
}

/// Which streams of the container the client is connected to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Attach {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
}

/// A container to be created.
#[derive(Debug)]
pub(crate) struct Spec {
    pub(crate) image: String,
    pub(crate) attach: Attach,
    /// The request's body.
    pub(crate) body: Map<String, Value>,
}

impl Spec {
    /// The body's `HostConfig`.
    pub(crate) fn host_config(&mut self) -> &mut Map<String, Value> {
        match self.body.entry("HostConfig").or_insert_with(|| json!({})) {
            Value::Object(map) => map,
            _ => unreachable!("HostConfig is only ever written as an object"),
        }
    }

    /// Writes `attach` into the body.
    pub(crate) fn write_attach(&mut self) {
        let Attach { stdin, stdout, stderr } = self.attach;
        let once = stdin && self.body.get("OpenStdin") == Some(&json!(true));
        self.body.insert("AttachStdin".into(), json!(stdin));
        self.body.insert("AttachStdout".into(), json!(stdout));
        self.body.insert("AttachStderr".into(), json!(stderr));
        self.body.insert("StdinOnce".into(), json!(once));
    }
}

/// Builds the request.
///
/// # Errors
///
/// [`Error::Usage`] for what cannot be right, [`Error::File`] for files that
/// cannot be read.
pub(crate) fn build(options: &Options, client: &ClientSide) -> Result<Spec> {
    check(options)?;
    let (image, command) = options.words.split_first().ok_or_else(|| Error::Usage("no image".into()))?;
    let ports = ports(options)?;
    let (binds, anonymous) = volumes(options, client)?;
    let mut body = config(options, client, image, command)?;
    body.insert("ExposedPorts".into(), Value::Object(ports.exposed));
    body.insert("Volumes".into(), Value::Object(anonymous));
    let mut host = host_config(options, client)?;
    host.insert("PortBindings".into(), Value::Object(ports.bindings));
    host.insert("Binds".into(), json!(binds));
    let (mode, endpoints) = networks(options)?;
    host.insert("NetworkMode".into(), json!(mode));
    body.insert("HostConfig".into(), Value::Object(host));
    body.insert("NetworkingConfig".into(), json!({"EndpointsConfig": endpoints}));
    let mut spec = Spec { image: image.clone(), attach: attach(options)?, body };
    spec.write_attach();
    Ok(spec)
}

fn check(options: &Options) -> Result<()> {
    let usage = |text: &str| Err(Error::Usage(text.into()));
    if options.rm && !matches!(options.restart.as_str(), "no" | "") {
        return usage("conflicting options: cannot specify both --restart and --rm");
    }
    let health = options.health_cmd.is_some()
        || options.health_interval.is_some()
        || options.health_timeout.is_some()
        || options.health_start_period.is_some()
        || options.health_start_interval.is_some()
        || options.health_retries != 0;
    if options.no_healthcheck && health {
        return usage("--no-healthcheck conflicts with --health-* options");
    }
    if !(-1..=100).contains(&options.memory_swappiness) {
        return Err(Error::Usage(format!(
            "invalid value: {}. Valid memory swappiness range is 0-100",
            options.memory_swappiness
        )));
    }
    let mode = |value: &str, valid: &[&str]| value.is_empty() || valid.contains(&value);
    if !mode(&options.uts, &["host"]) {
        return usage("--uts: invalid UTS mode");
    }
    if !mode(&options.userns, &["host"]) {
        return usage("--userns: invalid USER mode");
    }
    if !mode(&options.cgroupns, &["host", "private"]) {
        return usage("--cgroupns: invalid CGROUP mode");
    }
    if !(mode(&options.pid, &["host"]) || options.pid.starts_with("container:")) {
        return usage("--pid: invalid PID mode");
    }
    Ok(())
}

/// Docker's rule: without `-a` output and error, with `-i` input too; with `-a` what it names, and input with `-i`.
fn attach(options: &Options) -> Result<Attach> {
    let mut attach = Attach::default();
    for name in &options.attach {
        match name.to_ascii_lowercase().as_str() {
            "stdin" => attach.stdin = true,
            "stdout" => attach.stdout = true,
            "stderr" => attach.stderr = true,
            _ => {
                return Err(Error::Usage(format!(
                    "invalid argument \"{name}\" for \"-a, --attach\" flag: valid streams are STDIN, STDOUT and STDERR"
                )));
            }
        }
    }
    if options.attach.is_empty() {
        attach = Attach { stdin: options.interactive, stdout: true, stderr: true };
    } else if options.interactive && options.tty {
        attach.stdin = true;
    }
    Ok(attach)
}

fn config(
    options: &Options,
    client: &ClientSide,
    image: &str,
    command: &[String],
) -> Result<Map<String, Value>> {
    let env = environment::variables(&options.env_file, &options.env, &client.lookup)?;
    let entrypoint = match options.entrypoint.as_deref() {
        None => Value::Null,
        // The API takes a list of one empty word for "none", as it takes null for "the image's".
        Some(program) => json!([program]),
    };
    let mut labels = environment::labels(&options.label_file, &options.label)?;
    match options.health_action.as_str() {
        "" => {}
        action @ ("none" | "kill" | "restart" | "stop") => {
            labels.insert("brig.health-action".into(), json!(action));
        }
        other => {
            return Err(Error::Usage(format!(
                "invalid argument \"{other}\" for \"--health-action\" flag: want none, kill, restart or stop"
            )));
        }
    }
    let value = json!({
        "Hostname": options.hostname,
        "Domainname": options.domainname,
        "User": options.user,
        "Tty": options.tty,
        "OpenStdin": options.interactive,
        "Env": env,
        "Cmd": if command.is_empty() { Value::Null } else { json!(command) },
        "Image": image,
        "WorkingDir": options.workdir,
        "Entrypoint": entrypoint,
        "Labels": labels,
    });
    let mut map = object(value);
    if !options.stop_signal.is_empty() {
        map.insert("StopSignal".into(), json!(options.stop_signal));
    }
    if let Some(seconds) = options.stop_timeout {
        map.insert("StopTimeout".into(), json!(seconds));
    }
    if !options.mac_address.is_empty() {
        map.insert("MacAddress".into(), json!(options.mac_address));
    }
    if let Some(health) = healthcheck(options)? {
        map.insert("Healthcheck".into(), health);
    }
    Ok(map)
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn healthcheck(options: &Options) -> Result<Option<Value>> {
    if options.no_healthcheck {
        return Ok(Some(json!({"Test": ["NONE"]})));
    }
    let nanos = |flag: &str, text: &Option<String>| match text.as_deref() {
        None => Ok(0),
        Some(text) => match dockerfile::parse_duration_ns(text) {
            Some(nanos) if nanos >= 0 => Ok(nanos),
            Some(_) => Err(Error::Usage(format!("--{flag} cannot be negative"))),
            None => Err(Error::Usage(format!(
                "invalid argument \"{text}\" for \"--{flag}\" flag: invalid duration"
            ))),
        },
    };
    if options.health_retries < 0 {
        return Err(Error::Usage("--health-retries cannot be negative".into()));
    }
    let values = [
        ("Interval", nanos("health-interval", &options.health_interval)?),
        ("Timeout", nanos("health-timeout", &options.health_timeout)?),
        ("StartPeriod", nanos("health-start-period", &options.health_start_period)?),
        ("StartInterval", nanos("health-start-interval", &options.health_start_interval)?),
        ("Retries", options.health_retries),
    ];
    let mut map: Map<String, Value> = values
        .into_iter()
        .filter(|(_, value)| *value != 0)
        .map(|(name, value)| (name.to_string(), json!(value)))
        .collect();
    if let Some(command) = &options.health_cmd {
        map.insert("Test".into(), json!(["CMD-SHELL", command]));
    }
    Ok((!map.is_empty()).then_some(Value::Object(map)))
}

fn ports(options: &Options) -> Result<Ports> {
    let mut ports = Ports::default();
    for text in &options.publish {
        ports.publish(text)?;
    }
    for text in &options.expose {
        ports.expose(text)?;
    }
    Ok(ports)
}

fn volumes(options: &Options, client: &ClientSide) -> Result<(Vec<String>, Map<String, Value>)> {
    let (mut binds, mut anonymous) = (Vec::new(), Map::new());
    for text in &options.volume {
        match mounts::volume(text, &client.absolute)? {
            Volume::Bind(bind) => binds.push(bind),
            Volume::Anonymous(path) => drop(anonymous.insert(path, json!({}))),
        }
    }
    Ok((binds, anonymous))
}

fn host_config(options: &Options, client: &ClientSide) -> Result<Map<String, Value>> {
    let bytes = |text: &Option<String>| text.as_deref().map_or(Ok(0), units::parse_bytes);
    let memory_swap = options.memory_swap.as_deref().map_or(Ok(0), units::parse_bytes_or_unlimited)?;
    let mounts: Vec<Value> =
        options.mount.iter().map(|m| mounts::mount(m, &client.absolute)).collect::<Result<_>>()?;
    let tmpfs: Map<String, Value> =
        options.tmpfs.iter().map(|t| mounts::tmpfs(t)).map(|(path, o)| (path, json!(o))).collect();
    let mut map = object(json!({
        "AutoRemove": options.rm,
        "CapAdd": options.cap_add,
        "CapDrop": options.cap_drop,
        "CgroupParent": options.cgroup_parent,
        "CgroupnsMode": options.cgroupns,
        "ContainerIDFile": options.cidfile.clone().unwrap_or_default(),
        "Dns": options.dns,
        "DnsOptions": options.dns_option,
        "DnsSearch": options.dns_search,
        "ExtraHosts": extra_hosts(&options.add_host)?,
        "GroupAdd": options.group_add,
        "IpcMode": options.ipc,
        "Isolation": options.isolation,
        "Links": options.link,
        "LogConfig": {"Type": options.log_driver, "Config": pairs(&options.log_opt)},
        "OomScoreAdj": options.oom_score_adj,
        "PidMode": options.pid,
        "Privileged": options.privileged,
        "PublishAllPorts": options.publish_all,
        "ReadonlyRootfs": options.read_only,
        "RestartPolicy": restart_policy(&options.restart)?,
        "SecurityOpt": security_options(&options.security_opt)?,
        "ShmSize": bytes(&options.shm_size)?,
        "UTSMode": options.uts,
        "UsernsMode": options.userns,
        "VolumeDriver": options.volume_driver,
        "VolumesFrom": options.volumes_from,
    }));
    for (name, value) in [
        ("Mounts", json!(mounts)),
        ("Tmpfs", Value::Object(tmpfs)),
        ("StorageOpt", pairs(&options.storage_opt)),
        ("Sysctls", pairs(&options.sysctl)),
        ("Annotations", pairs(&options.annotation)),
        ("Runtime", json!(options.runtime)),
    ] {
        let empty = match &value {
            Value::Array(list) => list.is_empty(),
            Value::Object(members) => members.is_empty(),
            other => other == "",
        };
        if !empty {
            map.insert(name.into(), value);
        }
    }
    if options.init {
        map.insert("Init".into(), json!(true));
    }
    map.append(&mut resources(options, bytes(&options.memory)?, memory_swap)?);
    Ok(map)
}

fn resources(options: &Options, memory: i64, memory_swap: i64) -> Result<Map<String, Value>> {
    let bytes = |text: &Option<String>| text.as_deref().map_or(Ok(0), units::parse_bytes);
    let rate = |text: &Option<String>| text.as_deref().map_or(Ok(0), units::parse_rate);
    let mut map = object(json!({
        "BlkioWeight": options.blkio_weight,
        "BlkioWeightDevice": devices_with(&options.blkio_weight_device, "Weight", parse_number)?,
        "BlkioDeviceReadBps": devices_with(&options.device_read_bps, "Rate", units::parse_bytes)?,
        "BlkioDeviceWriteBps": devices_with(&options.device_write_bps, "Rate", units::parse_bytes)?,
        "BlkioDeviceReadIOps": devices_with(&options.device_read_iops, "Rate", parse_number)?,
        "BlkioDeviceWriteIOps": devices_with(&options.device_write_iops, "Rate", parse_number)?,
        "CpuPeriod": options.cpu_period,
        "CpuQuota": options.cpu_quota,
        "CpuRealtimePeriod": options.cpu_rt_period,
        "CpuRealtimeRuntime": options.cpu_rt_runtime,
        "CpuShares": options.cpu_shares,
        "CpusetCpus": options.cpuset_cpus,
        "CpusetMems": options.cpuset_mems,
        "DeviceCgroupRules": options.device_cgroup_rule,
        "Devices": options.device.iter().filter(|d| !is_cdi(d)).map(|d| device(d)).collect::<Result<Vec<_>>>()?,
        "Memory": memory,
        "MemoryReservation": bytes(&options.memory_reservation)?,
        "MemorySwap": memory_swap,
        "NanoCpus": options.cpus.as_deref().map_or(Ok(0), units::parse_cpus)?,
        "NetRateIn": rate(&options.net_rate_in)?,
        "NetRateOut": rate(&options.net_rate_out)?,
        "OomKillDisable": options.oom_kill_disable,
        "PidsLimit": options.pids_limit,
        "Ulimits": options.ulimit.iter().map(|u| ulimit(u)).collect::<Result<Vec<_>>>()?,
    }));
    let cdi: Vec<&String> = options.device.iter().filter(|d| is_cdi(d)).collect();
    let mut requests = Vec::new();
    if !cdi.is_empty() {
        requests.push(json!({"Driver": "cdi", "DeviceIDs": cdi}));
    }
    if let Some(text) = &options.gpus {
        requests.push(gpus(text)?);
    }
    if !requests.is_empty() {
        map.insert("DeviceRequests".into(), json!(requests));
    }
    if options.memory_swappiness >= 0 {
        map.insert("MemorySwappiness".into(), json!(options.memory_swappiness));
    }
    if let Some(text) = &options.kernel_memory {
        map.insert("KernelMemory".into(), json!(units::parse_bytes(text)?));
    }
    Ok(map)
}

fn parse_number(text: &str) -> Result<i64> {
    text.parse().map_err(|_| Error::Usage(format!("invalid number: {text}")))
}

/// `PATH:VALUE` each.
fn devices_with(list: &[String], name: &str, parse: impl Fn(&str) -> Result<i64>) -> Result<Vec<Value>> {
    list.iter()
        .map(|text| {
            let (path, value) = text
                .split_once(':')
                .filter(|(path, _)| path.starts_with("/dev/"))
                .ok_or_else(|| Error::Usage(format!("bad format for device path: {text}")))?;
            Ok(json!({"Path": path, name: parse(value)?}))
        })
        .collect()
}

/// Whether a device is named as `VENDOR/CLASS=NAME` and not by its path.
fn is_cdi(text: &str) -> bool {
    !text.starts_with('/') && text.split_once('=').is_some_and(|(kind, _)| kind.contains('/'))
}

/// `all`, a number, or `KEY=VALUE,...` with `driver`, `count`, `device` and `capabilities`. A list as a value is quoted.
fn gpus(text: &str) -> Result<Value> {
    let bad = |why: &str| Error::Usage(format!("invalid argument \"{text}\" for \"--gpus\" flag: {why}"));
    let count = |value: &str| match value {
        "all" => Ok(-1),
        number => number.parse::<i64>().map_err(|_| bad("count must be an integer")),
    };
    let (mut driver, mut number, mut devices) = (String::new(), None, Vec::new());
    let mut capabilities = vec!["gpu".to_string()];
    for field in quoted_fields(text) {
        match field.split_once('=') {
            None => number = Some(count(&field)?),
            Some(("driver", value)) => driver = value.into(),
            Some(("count", value)) => number = Some(count(value)?),
            Some(("device", value)) => devices = value.split(',').map(str::to_string).collect(),
            Some(("capabilities", value)) => {
                capabilities.extend(value.split(',').filter(|c| *c != "gpu").map(str::to_string));
            }
            Some((key, _)) => return Err(bad(&format!("unexpected key '{key}'"))),
        }
    }
    if number.is_some() && !devices.is_empty() {
        return Err(bad("cannot set both Count and DeviceIDs on device request"));
    }
    let number = number.unwrap_or(if devices.is_empty() { 1 } else { 0 });
    Ok(json!({"Driver": driver, "Count": number, "DeviceIDs": devices, "Capabilities": [capabilities]}))
}

/// The fields between commas; quotes keep commas together.
fn quoted_fields(text: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut is_quoted = false;
    for c in text.chars() {
        match c {
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => fields.push(String::new()),
            c => fields.last_mut().expect("begins with one").push(c),
        }
    }
    fields
}

/// `HOST[:CONTAINER][:rwm]`.
fn device(text: &str) -> Result<Value> {
    let mode = |text: &str| !text.is_empty() && text.bytes().all(|b| b"rwm".contains(&b));
    let (host, container, permissions) = match text.split(':').collect::<Vec<_>>().as_slice() {
        [host] => (*host, *host, "rwm"),
        [host, second] if mode(second) => (*host, *host, *second),
        [host, second] => (*host, *second, "rwm"),
        [host, second, third] if mode(third) => (*host, *second, *third),
        _ => return Err(Error::Usage(format!("invalid device specification: {text}"))),
    };
    if host.is_empty() {
        return Err(Error::Usage(format!("invalid device specification: {text}")));
    }
    Ok(json!({"PathOnHost": host, "PathInContainer": container, "CgroupPermissions": permissions}))
}

/// `NAME=SOFT[:HARD]`.
pub(crate) fn ulimit(text: &str) -> Result<Value> {
    let bad = || Error::Usage(format!("invalid ulimit argument: {text}"));
    let (name, values) = text.split_once('=').ok_or_else(bad)?;
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let (soft, hard): (i64, i64) = (soft.parse().map_err(|_| bad())?, hard.parse().map_err(|_| bad())?);
    if hard != -1 && (soft > hard || soft == -1) {
        return Err(Error::Usage(format!(
            "ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
        )));
    }
    Ok(json!({"Name": name, "Soft": soft, "Hard": hard}))
}

/// `NAME[:COUNT]`.
pub(crate) fn restart_policy(text: &str) -> Result<Value> {
    let (name, count) = match text.split_once(':') {
        None => (text, 0),
        Some((name, count)) => {
            let count = count.parse::<i64>().map_err(|_| {
                Error::Usage("invalid restart policy format: maximum retry count must be an integer".into())
            })?;
            (name, count)
        }
    };
    if name.is_empty() && text.contains(':') {
        return Err(Error::Usage("invalid restart policy format: no policy provided before colon".into()));
    }
    Ok(json!({"Name": name, "MaximumRetryCount": count}))
}

/// A seccomp profile is a file of the client and goes to the daemon as its text.
fn security_options(list: &[String]) -> Result<Vec<String>> {
    list.iter()
        .map(|option| {
            let (key, value) = match option.split_once('=') {
                Some(pair) => pair,
                None if option == "no-new-privileges" => return Ok(option.clone()),
                None => option
                    .split_once(':')
                    .ok_or_else(|| Error::Usage(format!("invalid --security-opt: {option:?}")))?,
            };
            if key != "seccomp" || matches!(value, "unconfined" | "builtin") {
                return Ok(option.clone());
            }
            let profile = std::fs::read(value).map_err(|source| Error::File {
                doing: "open the seccomp profile",
                path: value.into(),
                source,
            })?;
            let document: Value = serde_json::from_slice(&profile).map_err(|e| {
                Error::Usage(format!("compacting json for seccomp profile ({value}) failed: {e}"))
            })?;
            Ok(format!("seccomp={document}"))
        })
        .collect()
}

/// `HOST:IP` or `HOST=IP`; the API takes the first.
fn extra_hosts(list: &[String]) -> Result<Vec<String>> {
    list.iter()
        .map(|text| {
            let bad = || Error::Usage(format!("bad format for add-host: {text:?}"));
            let (name, ip) = text.split_once('=').or_else(|| text.split_once(':')).ok_or_else(bad)?;
            let ip = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip);
            if name.is_empty() {
                return Err(bad());
            }
            if ip != "host-gateway" && ip.parse::<std::net::IpAddr>().is_err() {
                return Err(Error::Usage(format!("invalid IP address in add-host: {ip:?}")));
            }
            Ok(format!("{name}:{ip}"))
        })
        .collect()
}

fn pairs(list: &[String]) -> Value {
    let split = |text: &String| {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        (key.to_string(), json!(value))
    };
    Value::Object(list.iter().map(split).collect())
}

/// The network mode, and the endpoints' settings. `--ip`, `--network-alias` and the like belong to the first network.
fn networks(options: &Options) -> Result<(String, Map<String, Value>)> {
    let mut endpoints = Map::new();
    let mut mode = String::new();
    for (at, text) in options.network.iter().enumerate() {
        let (name, mut endpoint) = network(text)?;
        if at == 0 {
            mode.clone_from(&name);
            first_endpoint(options, &mut endpoint)?;
        }
        let alone = matches!(name.as_str(), "host" | "none") || name.starts_with("container:");
        if alone && options.network.len() > 1 {
            return Err(Error::Usage(
                "conflicting options: cannot attach both user-defined and non-user-defined network-modes"
                    .into(),
            ));
        }
        let said = !endpoint.is_empty() || options.network.len() > 1;
        if said && endpoints.insert(name.clone(), Value::Object(endpoint)).is_some() {
            return Err(Error::Usage(format!("network \"{name}\" is specified multiple times")));
        }
    }
    if options.network.is_empty() {
        mode = "default".into();
        let mut endpoint = Map::new();
        first_endpoint(options, &mut endpoint)?;
        if !endpoint.is_empty() {
            endpoints.insert("default".into(), Value::Object(endpoint));
        }
    }
    Ok((mode, endpoints))
}

fn first_endpoint(options: &Options, endpoint: &mut Map<String, Value>) -> Result<()> {
    let mut ipam = object(endpoint.remove("IPAMConfig").unwrap_or_default());
    if !options.ip.is_empty() {
        ipam.insert("IPv4Address".into(), json!(options.ip));
    }
    if !options.ip6.is_empty() {
        ipam.insert("IPv6Address".into(), json!(options.ip6));
    }
    if !options.link_local_ip.is_empty() {
        ipam.insert("LinkLocalIPs".into(), json!(options.link_local_ip));
    }
    if !ipam.is_empty() {
        endpoint.insert("IPAMConfig".into(), Value::Object(ipam));
    }
    if !options.network_alias.is_empty() {
        if endpoint.contains_key("Aliases") {
            return Err(Error::Usage(
                "conflicting options: cannot specify both --network-alias and per-network alias".into(),
            ));
        }
        endpoint.insert("Aliases".into(), json!(options.network_alias));
    }
    if !options.mac_address.is_empty() && !options.network.is_empty() {
        endpoint.insert("MacAddress".into(), json!(options.mac_address));
    }
    Ok(())
}

/// A network's name, or `name=NAME,alias=A,ip=IP,...`.
fn network(text: &str) -> Result<(String, Map<String, Value>)> {
    let mut endpoint = Map::new();
    if !text.contains('=') {
        return Ok((text.to_string(), endpoint));
    }
    let (mut name, mut ipam, mut driver) = (String::new(), Map::new(), Map::new());
    let (mut aliases, mut link_local) = (Vec::new(), Vec::new());
    for field in text.split(',') {
        let bad = || Error::Usage(format!("invalid field {field:?} in network {text:?}"));
        match field.split_once('=').ok_or_else(bad)? {
            ("name", value) => name = value.to_string(),
            ("alias", value) => aliases.push(value.to_string()),
            ("ip", value) => drop(ipam.insert("IPv4Address".into(), json!(value))),
            ("ip6", value) => drop(ipam.insert("IPv6Address".into(), json!(value))),
            ("link-local-ip", value) => link_local.push(value.to_string()),
            ("mac-address", value) => drop(endpoint.insert("MacAddress".into(), json!(value))),
            ("gw-priority", value) => {
                endpoint.insert("GwPriority".into(), json!(parse_number(value)?));
            }
            ("driver-opt", value) => {
                let (key, value) = value.split_once('=').ok_or_else(bad)?;
                driver.insert(key.to_string(), json!(value));
            }
            _ => return Err(bad()),
        }
    }
    if name.is_empty() {
        return Err(Error::Usage(format!("network name missing in {text:?}")));
    }
    if !link_local.is_empty() {
        ipam.insert("LinkLocalIPs".into(), json!(link_local));
    }
    for (key, map) in [("IPAMConfig", ipam), ("DriverOpts", driver)] {
        if !map.is_empty() {
            endpoint.insert(key.into(), Value::Object(map));
        }
    }
    if !aliases.is_empty() {
        endpoint.insert("Aliases".into(), json!(aliases));
    }
    Ok((name, endpoint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args, Command, FromArgMatches};

    fn parse(line: &str) -> Options {
        let command = Options::augment_args(Command::new("run").disable_help_flag(true));
        let words = std::iter::once("run").chain(line.split_whitespace());
        Options::from_arg_matches(&command.try_get_matches_from(words).unwrap()).unwrap()
    }

    fn spec(line: &str) -> Result<Spec> {
        let client = ClientSide {
            lookup: Box::new(|name| (name == "HOME").then(|| "/h".to_string())),
            absolute: Box::new(|path| format!("/cwd/{path}")),
        };
        build(&parse(line), &client)
    }

    fn check(line: &str, pointer: &str, expected: Value) {
        let spec = spec(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        let body = Value::Object(spec.body);
        assert_eq!(body.pointer(pointer).cloned().unwrap_or_default(), expected, "{line} {pointer}");
    }

    #[test]
    fn config_fields() {
        check("busybox", "/Image", json!("busybox"));
        check("busybox", "/Cmd", Value::Null);
        check("busybox sh -c -v --rm", "/Cmd", json!(["sh", "-c", "-v", "--rm"]));
        check("-e A=1 -e HOME x", "/Env", json!(["A=1", "HOME=/h"]));
        check("--entrypoint /bin/sh x", "/Entrypoint", json!(["/bin/sh"]));
        check("-it x", "/StdinOnce", json!(true));
        check("-it x", "/Tty", json!(true));
        check("-a stdout x", "/AttachStderr", json!(false));
        check("-h web -u 1:2 -w /d x", "/Hostname", json!("web"));
        check("--health-cmd true --health-interval 5s x", "/Healthcheck/Interval", json!(5_000_000_000i64));
        check("--no-healthcheck x", "/Healthcheck/Test", json!(["NONE"]));
        check("-v /data x", "/Volumes", json!({"/data": {}}));
        check("--stop-timeout 3 x", "/StopTimeout", json!(3));
    }

    #[test]
    fn host_config_fields() {
        check("--rm x", "/HostConfig/AutoRemove", json!(true));
        check("-m 64m --memory-swap -1 x", "/HostConfig/Memory", json!(64 << 20));
        check("-m 64m --memory-swap -1 x", "/HostConfig/MemorySwap", json!(-1));
        check("--cpus 1.5 x", "/HostConfig/NanoCpus", json!(1_500_000_000i64));
        check("--pids-limit -1 x", "/HostConfig/PidsLimit", json!(-1));
        check(
            "--ulimit nofile=1:2 x",
            "/HostConfig/Ulimits/0",
            json!({"Name": "nofile", "Soft": 1, "Hard": 2}),
        );
        check("--restart on-failure:3 x", "/HostConfig/RestartPolicy/MaximumRetryCount", json!(3));
        check("-v a:/b x", "/HostConfig/Binds", json!(["a:/b"]));
        check("--tmpfs /t:size=1m x", "/HostConfig/Tmpfs", json!({"/t": "size=1m"}));
        check("--device /dev/fuse:r x", "/HostConfig/Devices/0/CgroupPermissions", json!("r"));
        check("--add-host a:host-gateway x", "/HostConfig/ExtraHosts", json!(["a:host-gateway"]));
        check("--add-host a=[::1] x", "/HostConfig/ExtraHosts", json!(["a:::1"]));
        check("--log-opt max-size=1m x", "/HostConfig/LogConfig/Config/max-size", json!("1m"));
        check("--sysctl net.x=1 x", "/HostConfig/Sysctls", json!({"net.x": "1"}));
        check("--init x", "/HostConfig/Init", json!(true));
        check("--device-read-bps /dev/sda:1mb x", "/HostConfig/BlkioDeviceReadBps/0/Rate", json!(1 << 20));
    }

    #[test]
    fn network_fields() {
        check("x", "/HostConfig/NetworkMode", json!("default"));
        check("--net host x", "/HostConfig/NetworkMode", json!("host"));
        let aliases = "/NetworkingConfig/EndpointsConfig/n/Aliases";
        check("--network n --network-alias a --network-alias b x", aliases, json!(["a", "b"]));
        check("--network name=n,alias=a,ip=10.0.0.2 x", aliases, json!(["a"]));
        check(
            "--network n --ip 10.0.0.2 x",
            "/NetworkingConfig/EndpointsConfig/n/IPAMConfig/IPv4Address",
            json!("10.0.0.2"),
        );
    }

    #[test]
    fn mistakes() {
        let error = |line: &str, part: &str| {
            let message = spec(line).unwrap_err().to_string();
            assert!(message.contains(part), "{line}: {message}");
        };
        error("--gpus many x", "count must be an integer");
        error("--gpus count=1,device=0 x", "both Count and DeviceIDs");
        error("--rm --restart always x", "cannot specify both --restart and --rm");
        error("--ulimit nofile=3:2 x", "less than or equal to hard limit");
        error("--add-host a x", "bad format for add-host");
        error("--add-host a:b x", "invalid IP address");
        error("-a nowhere x", "valid streams are STDIN");
        error("--device ::: x", "invalid device specification");
        error("--network host --network n x", "conflicting options");
        error("-m lots x", "invalid size: 'lots'");
        error("--restart on-failure:x x", "maximum retry count must be an integer");
        error("--memory-swappiness 101 x", "0-100");
        error("--pid x y", "invalid PID mode");
    }
}
