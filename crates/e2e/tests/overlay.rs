//! Networks over several hosts. A host is a network namespace with a brigd in it; all of them hang on one bridge, with an
//! etcd beside.
#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use testkit::daemon::{Daemon, Options};
use testkit::wait_until;

const STORE: &str = "10.99.0.254:2379";

/// The network between the hosts, and the store.
struct Underlay {
    directory: tempfile::TempDir,
    etcd: Option<Child>,
}

impl Underlay {
    fn new() -> Option<Underlay> {
        if !testkit::is_root() {
            return None;
        }
        let directory = tempfile::Builder::new().prefix("brig-overlay-").tempdir().unwrap();
        let mut underlay = Underlay { directory, etcd: None };
        network::create_sandbox(&underlay.namespace(0)).unwrap();
        underlay.ip(0, "link add ub type bridge");
        underlay.ip(0, "addr add 10.99.0.254/24 dev ub");
        underlay.ip(0, "link set ub up");
        underlay.start_store();
        Some(underlay)
    }

    /// Host 0 is the one in the middle.
    fn namespace(&self, host: u32) -> PathBuf {
        self.directory.path().join(format!("host{host}"))
    }

    #[track_caller]
    fn ip(&self, host: u32, args: &str) {
        let mut command = inside(&self.namespace(host), "ip");
        assert!(command.args(args.split(' ')).status().unwrap().success(), "ip {args}");
    }

    fn start_store(&mut self) {
        let url = format!("http://{STORE}");
        let mut command = inside(&self.namespace(0), "etcd");
        command.arg("--data-dir").arg(self.directory.path().join("etcd"));
        command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
        command.args(["--listen-peer-urls", "http://127.0.0.1:2380"]);
        let log = std::fs::File::create(self.directory.path().join("etcd.log")).unwrap();
        self.etcd = Some(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
        wait_until("the store answers", || self.with_store(|store| store.range("/").is_ok()));
    }

    fn kill_store(&mut self) {
        if let Some(mut etcd) = self.etcd.take() {
            etcd.kill().unwrap();
            etcd.wait().unwrap();
        }
    }

    /// A host with a daemon that shares networks.
    #[track_caller]
    fn host(&self, number: u32, ttl: &str) -> Daemon {
        let path = self.namespace(number);
        network::create_sandbox(&path).unwrap();
        self.ip(0, &format!("link add p{number} type veth peer name under netns {}", path.display()));
        self.ip(0, &format!("link set p{number} master ub up"));
        self.ip(number, &format!("addr add 10.99.0.{number}/24 dev under"));
        self.ip(number, "link set under up");
        let store = format!("etcd://{STORE}/test");
        let flags = ["--cluster-store", &store, "--cluster-advertise", "under", "--cluster-ttl", ttl];
        let daemon = Daemon::start(Options {
            flags: flags.map(str::to_string).to_vec(),
            netns: Some(path),
            ..Options::default()
        });
        daemon.load_busybox("busybox");
        daemon
    }

    /// The keys below a part of the store, asked from where it is.
    fn keys(&self, part: &str) -> Vec<etcd::KeyValue> {
        self.with_store(|store| store.range(&format!("/test/{part}")).unwrap().1)
    }

    fn with_store<T: Send>(&self, work: impl FnOnce(&etcd::Client) -> T + Send) -> T {
        let namespace = std::fs::File::open(self.namespace(0)).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let kind = rustix::thread::LinkNameSpaceType::Network;
                rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), Some(kind))
                    .unwrap();
                work(&etcd::Client::new(&[STORE], etcd::Tls::default()).unwrap())
            });
            thread.join().unwrap()
        })
    }
}

impl Drop for Underlay {
    fn drop(&mut self) {
        self.kill_store();
        for number in 0..4 {
            drop(network::remove_sandbox(&self.namespace(number)));
        }
    }
}

fn inside(namespace: &Path, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", namespace.display())).arg("--").arg(program).stdin(Stdio::null());
    command
}

#[track_caller]
fn sleeper(daemon: &Daemon, name: &str, flags: &[&str]) {
    let mut line = vec!["run", "-d", "--name", name];
    line.extend(flags);
    line.extend(["busybox", "sleep", "600"]);
    daemon.docker(&line).success();
}

fn pings(daemon: &Daemon, from: &str, to: &str) -> bool {
    daemon.brig(&["exec", from, "ping", "-c", "1", "-W", "1", to]).code == Some(0)
}

#[track_caller]
fn wait_ping(daemon: &Daemon, from: &str, to: &str) {
    wait_until(&format!("{from} reaches {to}"), || pings(daemon, from, to));
}

fn address(daemon: &Daemon, container: &str, network: &str) -> String {
    let seen = daemon.get(&format!("/containers/{container}/json"));
    seen["NetworkSettings"]["Networks"][network]["IPAddress"].as_str().unwrap().to_string()
}

fn has_network(daemon: &Daemon, name: &str) -> bool {
    daemon.request("GET", &format!("/networks/{name}"), &Value::Null).status == 200
}

/// A network that one host makes is there on the other, containers find and reach each other by name, and neither a daemon
/// nor the store is needed for those that talk.
#[test]
fn containers_of_two_hosts_talk() {
    let Some(mut underlay) = Underlay::new() else { return };
    let (mut one, two) = (underlay.host(1, "600"), underlay.host(2, "600"));
    let id = one.docker(&["network", "create", "-d", "overlay", "--attachable", "shared"]).success();
    wait_until("the other host has the network", || has_network(&two, "shared"));
    let seen = two.get("/networks/shared");
    assert_eq!(
        (&seen["Id"], &seen["Driver"], &seen["Scope"]),
        (&id.clone().into(), &"overlay".into(), &"global".into())
    );
    assert_eq!(
        two.docker(&["network", "ls", "-q", "--no-trunc", "--filter", "driver=overlay"]).success(),
        id
    );

    sleeper(&one, "left", &["--network", "shared", "--network-alias", "west", "--hostname", "leftmost"]);
    sleeper(&two, "right", &["--network", "shared"]);
    let (left, right) = (address(&one, "left", "shared"), address(&two, "right", "shared"));
    assert_ne!(left, right);
    wait_ping(&one, "left", "right");
    wait_ping(&two, "right", "left");
    wait_ping(&two, "right", "west");
    wait_ping(&two, "right", "leftmost");
    let link = two.brig(&["exec", "right", "ip", "link", "show", "eth0"]).success();
    assert!(link.contains("mtu 1450"), "{link}");
    // More than one packet of the network between.
    let large = two.brig(&["exec", "right", "ping", "-c", "1", "-W", "5", "-s", "8000", "left"]);
    assert_eq!(large.code, Some(0), "{large:?}");
    let pointer = two.brig(&["exec", "right", "nslookup", &left]).success();
    assert!(pointer.contains("left.shared"), "{pointer}");
    let endpoints = two.get("/networks/shared")["Containers"].clone();
    let names: Vec<&str> =
        endpoints.as_object().unwrap().values().map(|e| e["Name"].as_str().unwrap()).collect();
    assert!(names.contains(&"left") && names.contains(&"right"), "{names:?}");
    // Out of the network, and not into it.
    assert!(pings(&two, "right", "10.99.0.254"));

    two.remove_all();
    let refused = two.docker(&["network", "rm", "shared"]).expect(1);
    assert!(refused.stderr.contains("has active endpoints (name:\"left\""), "{}", refused.stderr);
    let taken =
        two.docker(&["run", "--rm", "--network", "shared", "--ip", &left, "busybox", "true"]).expect(125);
    assert!(taken.stderr.contains("Address already in use"), "{}", taken.stderr);
    sleeper(&two, "right", &["--network", "shared", "--ip", &right]);

    // Without a daemon, and without a store.
    one.kill9();
    wait_ping(&two, "right", "left");
    underlay.kill_store();
    wait_ping(&two, "right", &left);
    let offline = two.docker(&["run", "--rm", "--network", "shared", "busybox", "true"]);
    assert!(offline.code == Some(125) && offline.stderr.contains("ask etcd at"), "{offline:?}");
    two.docker(&["run", "--rm", "busybox", "true"]).success();
    one.spawn();
    wait_ping(&one, "left", &right);
    // The address goes back when the store does.
    one.docker(&["rm", "-f", "left"]).success();
    underlay.start_store();
    wait_until("what ended meanwhile is taken back", || underlay.keys("endpoints/").len() == 1);
    wait_until("the store is used again", || {
        one.docker(&["run", "--rm", "--network", "shared", "busybox", "true"]).code == Some(0)
    });

    two.remove_all();
    wait_until("nobody is on it", || one.docker(&["network", "rm", "shared"]).code == Some(0));
    wait_until("it is gone everywhere", || !has_network(&two, "shared"));
    assert!(underlay.keys("networks/").is_empty() && underlay.keys("names/").is_empty());
    one.remove_all();
    for host in 1..3 {
        let links = inside(&underlay.namespace(host), "ip").args(["-o", "link"]).output().unwrap();
        let links = String::from_utf8(links.stdout).unwrap();
        assert!(!links.contains("vx-"), "{links}");
    }
}

/// Addresses are taken by transactions, and what a dead host held is free after its time, once.
#[test]
fn no_address_is_had_twice() {
    let Some(underlay) = Underlay::new() else { return };
    let (mut one, two) = (underlay.host(1, "2"), underlay.host(2, "600"));
    one.brig(&["network", "create", "-d", "overlay", "--subnet", "10.77.0.0/24", "n"]).success();
    wait_until("the other host has the network", || has_network(&two, "n"));
    let start = |daemon: &Daemon, host: &str| {
        (0..3).for_each(|n| sleeper(daemon, &format!("{host}{n}"), &["--network", "n"]));
    };
    std::thread::scope(|scope| {
        scope.spawn(|| start(&one, "a"));
        start(&two, "b");
    });
    let of = |daemon: &Daemon, host: &str| {
        (0..3).map(|n| address(daemon, &format!("{host}{n}"), "n")).collect::<Vec<_>>()
    };
    let mut all = of(&one, "a");
    all.extend(of(&two, "b"));
    let different: std::collections::BTreeSet<&String> = all.iter().collect();
    assert_eq!(different.len(), 6, "{all:?}");
    let first = all[0].clone();

    // A key of a container that never came to be, as of a daemon killed on the way.
    one.kill9();
    wait_until("the lease ran out", || underlay.keys("endpoints/").len() == 3);
    wait_until("the other host knows", || {
        two.get("/networks/n")["Containers"].as_object().unwrap().len() == 3
    });
    sleeper(&two, "heir", &["--network", "n", "--ip", &first]);
    one.spawn();
    // Who came back later than its lease gives way.
    wait_until("the first gives its address up", || address_or_none(&one, "a0").is_none());
    wait_ping(&one, "a1", "heir");
    wait_ping(&two, "b0", &all[1]);
    assert_eq!(one.state("a0")["Status"], "running");

    one.kill9();
    let engine = std::fs::read_to_string(one.data_root.join("engine-id")).unwrap();
    let network = two.get("/networks/n")["Id"].as_str().unwrap().to_string();
    let key = format!("/test/endpoints/{network}/10.77.0.200");
    let value = serde_json::json!({ "node": engine.trim(), "host": "10.99.0.1", "mac": "02:42:0a:4d:00:c8",
        "container": "c", "name": "stray", "endpoint": "e", "names": [], "addresses": ["10.77.0.200"] });
    let put = etcd::Op::Put { key, value: value.to_string(), lease: 0 };
    assert!(underlay.with_store(|store| store.transact(&[], &[put]).unwrap()));
    one.spawn();
    wait_until("nobody's key is removed", || {
        !underlay.keys("endpoints/").iter().any(|kv| kv.key.ends_with(".200"))
    });
    one.remove_all();
    two.remove_all();
    wait_until("all is given back", || underlay.keys("endpoints/").is_empty());
    two.docker(&["network", "rm", "n"]).success();
}

fn address_or_none(daemon: &Daemon, container: &str) -> Option<String> {
    let seen = daemon.get(&format!("/containers/{container}/json"));
    seen["NetworkSettings"]["Networks"]["n"]["IPAddress"].as_str().map(str::to_string)
}

#[test]
fn what_cannot_be_is_refused() {
    if !testkit::is_root() {
        return;
    }
    let Some(underlay) = Underlay::new() else { return };
    let (alone, one) = (Daemon::start(Options::default()), underlay.host(1, "600"));
    let refused = |daemon: &Daemon, args: &[&str], words: &str| {
        let mut line = vec!["network", "create"];
        line.extend(args);
        let done = daemon.docker(&line).expect(1);
        assert!(done.stderr.contains(words), "{args:?}: {}", done.stderr);
    };
    refused(&alone, &["-d", "overlay", "x"], "--cluster-store");
    refused(&one, &["-d", "overlay", "--opt", "encrypted", "x"], "an encrypted overlay network");
    refused(
        &one,
        &["-d", "overlay", "--opt", "com.docker.network.bridge.name=b", "x"],
        "com.docker.network.bridge.name",
    );
    refused(
        &one,
        &["-d", "overlay", "--opt", "com.docker.network.driver.overlay.vxlanid_list=0", "x"],
        "vxlan id",
    );
    refused(&one, &["-d", "overlay", "--scope", "swarm", "x"], "This node is not a swarm manager");
    let number = "com.docker.network.driver.overlay.vxlanid_list=300";
    one.docker(&["network", "create", "-d", "overlay", "--opt", number, "--subnet", "10.78.0.0/24", "x"])
        .success();
    refused(&one, &["-d", "overlay", "--opt", number, "y"], "vxlan id 300 is already in use");
    refused(&one, &["-d", "overlay", "--subnet", "10.78.0.0/16", "y"], "Pool overlaps");
    refused(&one, &["-d", "overlay", "x"], "network with name x already exists");
    one.docker(&["network", "rm", "x"]).success();
    assert!(underlay.keys("vnis/").is_empty());
}
