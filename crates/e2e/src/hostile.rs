//! Requests that no client would send: every route of the API with parameters, bodies and framing that are wrong in
//! some way. The same seed gives the same requests.

use crate::random::Random;
use serde_json::{Map, Value, json};

/// What a handler may do with the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Answers, whatever it is asked.
    Answers,
    /// May have nothing to say for as long as it likes: streams, waits, patient stops.
    MayWait,
}

/// One method of one path.
#[derive(Debug)]
pub struct Route {
    pub method: &'static str,
    /// `{c}`, `{i}`, `{n}`, `{v}`, `{e}` are a container, an image, a network, a volume, an exec.
    pub path: &'static str,
    /// Names of parameters that it reads.
    pub parameters: &'static [&'static str],
    pub body: Body,
    pub kind: Kind,
}

/// What a request of a route carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    None,
    Container,
    Update,
    Exec,
    ExecStart,
    Network,
    Connect,
    Volume,
    Auth,
    Archive,
}

use Body::{Archive, Auth, Connect, Container, Exec, ExecStart, None as Nothing, Update, Volume};
use Kind::{Answers, MayWait};

const fn route(
    method: &'static str,
    path: &'static str,
    parameters: &'static [&'static str],
    body: Body,
    kind: Kind,
) -> Route {
    Route { method, path, parameters, body, kind }
}

const STREAMS: &[&str] = &["stream", "stdin", "stdout", "stderr", "logs", "detachKeys"];
const LOGS: &[&str] = &["follow", "stdout", "stderr", "since", "until", "timestamps", "tail", "details"];
const BUILD: &[&str] = &[
    "dockerfile",
    "t",
    "remote",
    "q",
    "nocache",
    "pull",
    "rm",
    "memory",
    "cpusetcpus",
    "buildargs",
    "shmsize",
    "labels",
    "networkmode",
    "platform",
    "target",
    "outputs",
    "version",
    "cachefrom",
    "extrahosts",
    "ulimits",
    "squash",
];

/// Every route of the API that this engine has.
pub const ROUTES: &[Route] = &[
    route("GET", "/_ping", &[], Nothing, Answers),
    route("HEAD", "/_ping", &[], Nothing, Answers),
    route("GET", "/version", &[], Nothing, Answers),
    route("GET", "/info", &[], Nothing, Answers),
    route("GET", "/events", &["since", "until", "filters"], Nothing, MayWait),
    route("POST", "/auth", &[], Auth, MayWait),
    route("GET", "/system/df", &["type"], Nothing, Answers),
    route("GET", "/brig/check", &["repair"], Nothing, Answers),
    route("GET", "/brig/df", &[], Nothing, Answers),
    route("GET", "/images/json", &["all", "filters", "digests", "shared-size"], Nothing, Answers),
    route(
        "POST",
        "/images/create",
        &["fromImage", "fromSrc", "repo", "tag", "platform", "changes", "message"],
        Archive,
        MayWait,
    ),
    route("POST", "/images/load", &["quiet", "platform"], Archive, MayWait),
    route("GET", "/images/get", &["names", "platform"], Nothing, Answers),
    route("GET", "/images/search", &["term", "limit", "filters"], Nothing, MayWait),
    route("POST", "/images/prune", &["filters"], Nothing, Answers),
    route("GET", "/images/{i}/json", &["platform", "manifests"], Nothing, Answers),
    route("GET", "/images/{i}/history", &["platform"], Nothing, Answers),
    route("POST", "/images/{i}/tag", &["repo", "tag"], Nothing, Answers),
    route("POST", "/images/{i}/push", &["tag", "platform"], Auth, MayWait),
    route("GET", "/images/{i}/get", &["platform"], Nothing, Answers),
    route("DELETE", "/images/{i}", &["noprune", "platforms"], Nothing, Answers),
    route(
        "POST",
        "/commit",
        &["container", "repo", "tag", "comment", "author", "pause", "changes"],
        Container,
        Answers,
    ),
    route("GET", "/distribution/{i}/json", &[], Nothing, MayWait),
    route("GET", "/containers/json", &["all", "limit", "size", "filters"], Nothing, Answers),
    route("POST", "/containers/create", &["name", "platform"], Container, Answers),
    route("POST", "/containers/create", &["name", "platform"], Container, Answers),
    route("POST", "/containers/create", &["name", "platform"], Container, Answers),
    route("POST", "/containers/prune", &["filters"], Nothing, Answers),
    route("DELETE", "/containers/{c}", &["v", "force", "link"], Nothing, Answers),
    route("GET", "/containers/{c}/json", &["size"], Nothing, Answers),
    route("POST", "/containers/{c}/start", &["detachKeys"], Nothing, Answers),
    route("POST", "/containers/{c}/start", &["checkpoint"], Container, Answers),
    route("POST", "/containers/{c}/stop", &["t", "signal"], Nothing, MayWait),
    route("POST", "/containers/{c}/restart", &["t", "signal"], Nothing, MayWait),
    route("POST", "/containers/{c}/kill", &["signal"], Nothing, Answers),
    route("POST", "/containers/{c}/pause", &[], Nothing, Answers),
    route("POST", "/containers/{c}/unpause", &[], Nothing, Answers),
    route("POST", "/containers/{c}/rename", &["name"], Nothing, Answers),
    route("POST", "/containers/{c}/resize", &["h", "w"], Nothing, Answers),
    route("GET", "/containers/{c}/top", &["ps_args"], Nothing, Answers),
    route("POST", "/containers/{c}/wait", &["condition"], Nothing, MayWait),
    route("GET", "/containers/{c}/logs", LOGS, Nothing, MayWait),
    route("POST", "/containers/{c}/attach", STREAMS, Archive, MayWait),
    route("GET", "/containers/{c}/attach/ws", STREAMS, Nothing, MayWait),
    route("GET", "/containers/{c}/changes", &[], Nothing, Answers),
    route("GET", "/containers/{c}/stats", &["stream", "one-shot"], Nothing, MayWait),
    route("POST", "/containers/{c}/update", &[], Update, Answers),
    route("POST", "/containers/{c}/exec", &[], Exec, Answers),
    route("GET", "/containers/{c}/export", &[], Nothing, Answers),
    route("GET", "/containers/{c}/archive", &["path"], Nothing, Answers),
    route("HEAD", "/containers/{c}/archive", &["path"], Nothing, Answers),
    route(
        "PUT",
        "/containers/{c}/archive",
        &["path", "noOverwriteDirNonDir", "copyUIDGID"],
        Archive,
        Answers,
    ),
    route("GET", "/containers/{c}/checkpoints", &["dir"], Nothing, Answers),
    route("POST", "/containers/{c}/checkpoints", &[], Exec, Answers),
    route("POST", "/build", BUILD, Archive, MayWait),
    route("POST", "/build/prune", &["filters", "all", "keep-storage"], Nothing, Answers),
    route("POST", "/session", &[], Nothing, MayWait),
    route("POST", "/grpc", &[], Nothing, MayWait),
    route("POST", "/exec/{e}/start", &[], ExecStart, MayWait),
    route("POST", "/exec/{e}/resize", &["h", "w"], Nothing, Answers),
    route("GET", "/exec/{e}/json", &[], Nothing, Answers),
    route("GET", "/networks", &["filters"], Nothing, Answers),
    route("POST", "/networks/create", &[], Body::Network, Answers),
    route("POST", "/networks/prune", &["filters"], Nothing, Answers),
    route("GET", "/networks/{n}", &["verbose", "scope"], Nothing, Answers),
    route("DELETE", "/networks/{n}", &[], Nothing, Answers),
    route("POST", "/networks/{n}/connect", &[], Connect, Answers),
    route("POST", "/networks/{n}/disconnect", &[], Connect, Answers),
    route("GET", "/volumes", &["filters"], Nothing, Answers),
    route("POST", "/volumes/create", &[], Volume, Answers),
    route("POST", "/volumes/prune", &["filters"], Nothing, Answers),
    route("GET", "/volumes/{v}", &[], Nothing, Answers),
    route("PUT", "/volumes/{v}", &["version"], Volume, Answers),
    route("DELETE", "/volumes/{v}", &["force"], Nothing, Answers),
    route("GET", "/brig/volumes/{v}/archive", &[], Nothing, Answers),
    route("PUT", "/brig/volumes/{v}/archive", &[], Archive, Answers),
    route("POST", "/swarm/init", &[], Nothing, Answers),
    route("GET", "/services", &["filters"], Nothing, Answers),
    route("GET", "/plugins", &["filters"], Nothing, Answers),
    route("POST", "/plugins/pull", &["remote"], Archive, Answers),
    route("GET", "/no/such/page", &["a"], Nothing, Answers),
];

/// The objects that requests name.
#[derive(Debug, Clone, Default)]
pub struct Names {
    pub containers: Vec<String>,
    pub images: Vec<String>,
    pub networks: Vec<String>,
    pub volumes: Vec<String>,
    pub execs: Vec<String>,
}

/// Texts that are wrong somewhere, and some that are right.
const TEXTS: &[&str] = &[
    "",
    " ",
    "0",
    "1",
    "-1",
    "2",
    "true",
    "null",
    "18446744073709551616",
    "-9223372036854775809",
    "1e999",
    "0x10",
    "NaN",
    "\0",
    "a\0b",
    "\n",
    "..",
    "../../x",
    "/",
    "//",
    "/.",
    "%",
    "%00",
    "%s%n",
    "host",
    "container:",
    "container:none",
    "service:x",
    "SIGKILL",
    "SIGNOTHING",
    "65536",
    "80/tcp",
    "1-65535",
    "65535-1/sctp",
    "10.213.0.0/16",
    "10.213.0.0/33",
    "fd00:213::/64",
    "300.1.1.1",
    "::",
    "02:42:ac:11:00:02",
    "zz:zz",
    "2026-01-01T00:00:00Z",
    "99999999999999999999h",
    "ctrl-p,ctrl-q",
    "ctrl-",
    "on-failure",
    "no-new-privileges",
    "seccomp={",
    "seccomp=unconfined",
    "linux/amd64",
    "linux/amd64/v9/x",
    "sha256:0000000000000000000000000000000000000000000000000000000000000000",
    "127.0.0.1:1/x:1",
    "UPPER/case:tag",
    "a:b:c",
    "{}",
    "[]",
    "{\"label\":[\"a=b\"]}",
    "{\"label\":{\"a\":false}}",
    "{\"name\":[\"[\"]}",
    "{\"until\":[\"x\"]}",
    "{\"since\":[\"fuzz1\"],\"before\":[\"fuzz2\"]}",
    "{\"status\":[\"flying\"]}",
    "{\"reference\":[\"*[\"]}",
    "\u{feff}",
    "ünïcode\u{202e}",
    "name",
];

/// One request, ready to be sent.
#[derive(Debug)]
pub struct Hostile {
    /// What it is, for people.
    pub what: String,
    pub bytes: Vec<u8>,
    pub kind: Kind,
    /// The framing is wrong too: the connection may just be closed.
    pub is_broken: bool,
    pub method: &'static str,
}

/// The next request.
pub fn next(random: &mut Random, names: &Names) -> Hostile {
    let route = random.of(ROUTES);
    let path = path(random, route, names);
    let body = body(random, route.body, names);
    let version = *random.of(&["", "", "", "/v1.24", "/v1.41", "/v1.55", "/v1", "/v9.9", "/vx"]);
    let mut target = format!("{version}{path}");
    let is_broken = random.one_in(12);
    if is_broken {
        let bytes = broken(random, route.method, &target, &body);
        return Hostile {
            what: format!("{} {target}", route.method),
            bytes,
            kind: route.kind,
            is_broken,
            method: route.method,
        };
    }
    if random.one_in(20) {
        target.push_str("/extra");
    }
    let kinds = [
        "application/json",
        "application/json",
        "application/x-tar",
        "text/plain",
        "",
        "a/b; charset=\"",
        "application/json; charset=utf-16",
    ];
    let mut head = format!(
        "{} {target} HTTP/1.1\r\nHost: fuzz\r\nConnection: close\r\nContent-Type: {}\r\n",
        route.method,
        random.of(&kinds)
    );
    if random.one_in(6) {
        head += &format!("X-Registry-Auth: {}\r\n", random.of(&["", "e30=", "!!!", "eyJhIjp7fX0", "W10="]));
    }
    if random.one_in(10) {
        head += &format!("X-Registry-Config: {}\r\n", random.of(&["", "e30=", "!!!", "W10="]));
    }
    let upgrades = matches!(route.path, "/session" | "/grpc") || route.path.ends_with("/ws");
    if upgrades && !random.one_in(3) {
        head += "Upgrade: h2c\r\nSec-WebSocket-Key: AAAA\r\nSec-WebSocket-Version: 13\r\n";
    }
    let mut bytes = head.into_bytes();
    if random.one_in(8) {
        bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
        for piece in body.chunks(1 + random.index(4096)) {
            bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            bytes.extend_from_slice(piece);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
    } else {
        bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
        bytes.extend_from_slice(&body);
    }
    let shown = String::from_utf8_lossy(&body[..body.len().min(600)]).into_owned();
    Hostile {
        what: format!("{} {target} {shown}", route.method),
        bytes,
        kind: route.kind,
        is_broken,
        method: route.method,
    }
}

fn path(random: &mut Random, route: &Route, names: &Names) -> String {
    let mut path = route.path.to_string();
    for (mark, known) in [
        ("{c}", &names.containers),
        ("{i}", &names.images),
        ("{n}", &names.networks),
        ("{v}", &names.volumes),
        ("{e}", &names.execs),
    ] {
        if path.contains(mark) {
            let name = if known.is_empty() || random.one_in(5) {
                encode(random.of::<&str>(TEXTS))
            } else {
                encode(random.of::<String>(known))
            };
            path = path.replace(mark, &name);
        }
    }
    let mut pairs = Vec::new();
    for parameter in route.parameters {
        if random.one_in(2) {
            let mut value = encode(&text(random, names));
            if random.one_in(30) {
                value += *random.of(&["%", "%zz", "%ff%fe", "+", "&", "=", "#", ";"]);
            }
            pairs.push(format!("{parameter}={value}"));
        }
    }
    if random.one_in(25) {
        pairs.push(format!("{}={}", encode(random.of::<&str>(TEXTS)), "x".repeat(random.index(3000))));
    }
    // What it does not read must be skipped.
    if pairs.is_empty() { path } else { format!("{path}?{}", pairs.join("&")) }
}

fn encode(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~:".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn text(random: &mut Random, names: &Names) -> String {
    match random.below(12) {
        0 => "x".repeat(random.index(5000)),
        1 if !names.containers.is_empty() => random.of(&names.containers).clone(),
        2 if !names.images.is_empty() => random.of(&names.images).clone(),
        _ => (*random.of(TEXTS)).to_string(),
    }
}

fn body(random: &mut Random, kind: Body, names: &Names) -> Vec<u8> {
    if kind == Body::None {
        return if random.one_in(10) { b"{\"unexpected\":1}".to_vec() } else { Vec::new() };
    }
    if kind == Body::Archive {
        let mut bytes: Vec<u8> =
            (0..random.index(3000)).map(|_| random.below(256).to_le_bytes()[0]).collect();
        if random.one_in(3) {
            bytes =
                testkit::tar::archive(&[testkit::tar::Entry::file("Dockerfile", 0o644, b"FROM scratch\n")]);
            let length = bytes.len();
            for _ in 0..random.below(4) {
                bytes[random.index(length)] = random.below(256).to_le_bytes()[0];
            }
        }
        return bytes;
    }
    let mut value = seed(kind, random, names);
    for _ in 0..random.below(4) {
        mutate(random, &mut value, names);
    }
    let mut bytes = value.to_string().into_bytes();
    match random.below(14) {
        0 => bytes.truncate(random.index(bytes.len().max(1))),
        1 if !bytes.is_empty() => {
            let at = random.index(bytes.len());
            bytes[at] = random.below(256).to_le_bytes()[0];
        }
        2 => bytes = format!("{}{}{}", "[".repeat(3000), "1", "]".repeat(random.index(3000))).into_bytes(),
        3 => bytes.extend_from_slice(b" trailing"),
        4 => bytes = b"{\"Image\":\"a\",\"Image\":\"b\",\"Cmd\":[\"x\"],\"Cmd\":5}".to_vec(),
        5 => bytes = b"\xff\xfe{\x00}\x00".to_vec(),
        _ => {}
    }
    bytes
}

/// A document that is right, of which the others are made.
fn seed(kind: Body, random: &mut Random, names: &Names) -> Value {
    let container = names.containers.first().cloned().unwrap_or_default();
    match kind {
        Body::None | Body::Archive => Value::Null,
        Body::Container => json!({
            "Image": names.images.first(), "Cmd": [*random.of(&["true", "sleep", "nothing"]), "2"], "Env": ["A=b", "C"],
            "Entrypoint": null, "User": "0:0", "WorkingDir": "/w", "Hostname": "h", "Domainname": "d", "Labels": {"l": "v"},
            "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/v": {}}, "StopSignal": "SIGTERM", "StopTimeout": 0, "Tty": false,
            "OpenStdin": false, "StdinOnce": false, "AttachStdout": true, "OnBuild": [], "Shell": ["sh"],
            "Healthcheck": {"Test": ["CMD", "true"], "Interval": 1_000_000_000, "Timeout": 1_000_000, "Retries": 1,
                "StartPeriod": 0, "StartInterval": 0},
            "HostConfig": {
                "Binds": ["fuzzvol:/data:ro"], "NetworkMode": *random.of(&["bridge", "none", "host", "fuzznet"]),
                "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "0"}]}, "AutoRemove": random.one_in(2),
                "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}, "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}},
                "Mounts": [{"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 4096, "Mode": 448}}],
                "CapAdd": ["NET_ADMIN"], "CapDrop": ["ALL"], "Dns": ["127.0.0.1"], "DnsOptions": ["ndots:1"], "DnsSearch": ["x"],
                "ExtraHosts": ["a:127.0.0.1"], "GroupAdd": ["1"], "IpcMode": "private", "PidMode": "", "UTSMode": "", "UsernsMode": "",
                "CgroupnsMode": "private", "Links": [], "OomScoreAdj": 0, "Privileged": false, "PublishAllPorts": false,
                "ReadonlyRootfs": true, "SecurityOpt": ["no-new-privileges"], "StorageOpt": {}, "Tmpfs": {"/tmp": "size=1m"},
                "ShmSize": 65536, "Sysctls": {"net.ipv4.ip_forward": "0"}, "Runtime": "", "Isolation": "", "ConsoleSize": [24, 80],
                "Memory": 8_388_608, "MemorySwap": 16_777_216, "NanoCpus": 100_000_000, "CpuShares": 2, "CpuQuota": 0, "CpuPeriod": 0,
                "CpusetCpus": "0", "CpusetMems": "0", "PidsLimit": 10, "BlkioWeight": 0,
                "BlkioDeviceReadBps": [{"Path": "/dev/null", "Rate": 1}], "Devices": [{"PathOnHost": "/dev/null",
                "PathInContainer": "/dev/x", "CgroupPermissions": "rwm"}], "DeviceCgroupRules": ["c 1:3 r"], "DeviceRequests": [],
                "Ulimits": [{"Name": "nofile", "Soft": 10, "Hard": 20}], "Init": true, "MaskedPaths": ["/proc/x"],
                "ReadonlyPaths": [], "CgroupParent": "", "VolumesFrom": [], "VolumeDriver": "", "Annotations": {"a": "b"}
            },
            "NetworkingConfig": {"EndpointsConfig": {"fuzznet": {"Aliases": ["x"], "IPAMConfig": {"IPv4Address": "10.213.7.9"},
                "MacAddress": "02:00:00:00:00:01", "DriverOpts": {"a": "b"}, "GwPriority": 1}}}
        }),
        Body::Update => {
            json!({"Memory": 16_777_216, "MemorySwap": 33_554_432, "CpuShares": 10, "NanoCpus": 0, "PidsLimit": 20,
            "RestartPolicy": {"Name": "no"}, "CpusetCpus": "0", "BlkioWeight": 0, "CpuQuota": 0, "CpuPeriod": 0})
        }
        Body::Exec => {
            json!({"Cmd": ["true"], "AttachStdin": false, "AttachStdout": true, "AttachStderr": true, "Tty": false,
            "Env": ["A=b"], "User": "0", "WorkingDir": "/", "Privileged": false, "DetachKeys": "ctrl-a", "ConsoleSize": [1, 1]})
        }
        Body::ExecStart => json!({"Detach": random.one_in(2), "Tty": false, "ConsoleSize": [10, 10]}),
        Body::Network => {
            json!({"Name": format!("fuzznet{}", random.below(6)), "Driver": "bridge", "Internal": false,
            "Attachable": true, "EnableIPv6": false, "CheckDuplicate": true, "Scope": "local", "Labels": {"a": "b"},
            "IPAM": {"Driver": "default", "Config": [{"Subnet": "10.213.9.0/24", "Gateway": "10.213.9.1",
                "IPRange": "10.213.9.0/25", "AuxiliaryAddresses": {"a": "10.213.9.9"}}], "Options": {}},
            "Options": {"com.docker.network.driver.mtu": "1400"}, "ConfigFrom": null, "ConfigOnly": false})
        }
        Body::Connect => {
            json!({"Container": container, "Force": true, "EndpointConfig": {"Aliases": ["y"], "Links": [],
            "IPAMConfig": {"IPv4Address": "10.213.7.20", "IPv6Address": "", "LinkLocalIPs": []}, "MacAddress": "",
            "DriverOpts": {"com.docker.network.endpoint.ifname": "e9"}, "GwPriority": 0}})
        }
        Body::Volume => {
            json!({"Name": format!("fuzzvol{}", random.below(6)), "Driver": "local", "Labels": {"a": "b"},
            "DriverOpts": {"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}, "ClusterVolumeSpec": null})
        }
        Body::Auth => {
            json!({"username": "u", "password": "p", "serveraddress": "127.0.0.1:1", "identitytoken": ""})
        }
    }
}

/// Makes one place of the document wrong.
fn mutate(random: &mut Random, value: &mut Value, names: &Names) {
    let here = random.one_in(4);
    match value {
        Value::Object(map) if !map.is_empty() && !here => {
            let keys: Vec<String> = map.keys().cloned().collect();
            let key = random.of(&keys).clone();
            match random.below(8) {
                0 => drop(map.remove(&key)),
                1 => {
                    let moved = map.remove(&key).unwrap_or_default();
                    map.insert(text(random, names), moved);
                }
                2 => drop(map.insert(key.to_lowercase(), wrong(random, names))),
                _ => mutate(random, map.entry(key).or_insert(Value::Null), names),
            }
        }
        Value::Array(list) if !list.is_empty() && !here => {
            let at = random.index(list.len());
            match random.below(6) {
                0 => drop(list.remove(at)),
                1 => list.extend(vec![list[at].clone(); random.index(200)]),
                2 => list.push(wrong(random, names)),
                _ => mutate(random, &mut list[at], names),
            }
        }
        other => *other = wrong(random, names),
    }
}

fn wrong(random: &mut Random, names: &Names) -> Value {
    match random.below(22) {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(false),
        3 => json!(0),
        4 => json!(-1),
        5 => json!(1.5),
        6 => json!(u64::MAX),
        7 => json!(i64::MIN),
        8 => json!(i64::MAX),
        9 => json!(1e300),
        10 => json!([]),
        11 => json!({}),
        12 => json!([[]]),
        13 => json!([null]),
        14 => json!({"": ""}),
        15 => json!(["", "\0", {}]),
        16 => json!("x".repeat(random.index(200_000))),
        17 => {
            let mut deep = json!(1);
            for _ in 0..random.below(100) {
                deep = json!([deep]);
            }
            deep
        }
        18 => {
            Value::Object((0..random.below(50)).map(|n| (format!("k{n}"), json!("v"))).collect::<Map<_, _>>())
        }
        _ => Value::String(text(random, names)),
    }
}

/// A request whose framing is wrong.
fn broken(random: &mut Random, method: &str, target: &str, body: &[u8]) -> Vec<u8> {
    let head = |extra: &str| {
        format!("{method} {target} HTTP/1.1\r\nHost: f\r\nConnection: close\r\n{extra}").into_bytes()
    };
    let mut out;
    match random.below(16) {
        0 => {
            out = head("Content-Length: 100000\r\n\r\n");
            out.extend_from_slice(&body[..body.len().min(100)]);
        }
        1 => out = head("Content-Length: -1\r\n\r\n"),
        2 => out = head("Content-Length: 99999999999999999999999\r\n\r\n"),
        3 => out = head("Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"),
        4 => out = head("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        5 => out = head("Transfer-Encoding: chunked\r\n\r\nzz\r\nbody\r\n0\r\n\r\n"),
        6 => out = head("Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nbody"),
        7 => out = head("Transfer-Encoding: chunked\r\n\r\n5\r\nab"),
        8 => out = head("Transfer-Encoding: gzip, identity\r\n\r\n"),
        9 => {
            // As many headers as one can send.
            let flood: String = (0..random.below(3000)).map(|n| format!("X-{n}: {n}\r\n")).collect();
            out = head(&format!("{flood}\r\n"));
        }
        10 => out = head(&format!("X-Long: {}\r\n\r\n", "y".repeat(random.index(600_000)))),
        11 => {
            out = head("");
            out.truncate(random.index(out.len()));
        }
        12 => {
            out =
                format!("{method} {target}{} HTTP/1.1\r\nHost: f\r\n\r\n", "/x".repeat(random.index(60_000)))
                    .into_bytes()
        }
        13 => out = format!("{method} {target} HTTP/9.9\r\n\r\n").into_bytes(),
        14 => {
            out = head("\r\n");
            let at = random.index(out.len());
            out[at] = random.below(256).to_le_bytes()[0];
        }
        _ => out = (0..random.index(2000)).map(|_| random.below(256).to_le_bytes()[0]).collect(),
    }
    out
}
