//! Networks over several hosts. A host is a network namespace with a brigd in it; all of them hang on one bridge, with an
//! etcd beside.
#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::hosts::{Underlay, inside};
use e2e::networks::{pings, sleeper, wait_ping};
use serde_json::Value;
use testkit::daemon::{Daemon, Options};
use testkit::wait_until;

fn address(daemon: &Daemon, container: &str, network: &str) -> String {
    let seen = e2e::networks::endpoint(daemon, container, network);
    seen["IPAddress"].as_str().unwrap().to_string()
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
    let seen = e2e::networks::endpoint(daemon, container, "n");
    seen["IPAddress"].as_str().map(str::to_string)
}

#[test]
fn what_cannot_be_is_refused() {
    let Some(underlay) = Underlay::new() else { return };
    let (alone, one) = (Daemon::start(Options::default()), underlay.host(1, "600"));
    let refused = |daemon: &Daemon, args: &[&str], words: &str| {
        e2e::networks::refused(daemon, &[&["network", "create"], args].concat(), words);
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

/// A container's addresses of both families in either of two subnets, found and reached from the other host.
#[test]
fn two_subnets_and_ipv6() {
    let Some(underlay) = Underlay::new() else { return };
    let (one, two) = (underlay.host(1, "600"), underlay.host(2, "600"));
    let subnets = ["--subnet", "10.80.0.0/30", "--subnet", "10.81.0.0/24", "--subnet", "fd00:80::/64"];
    // The docker CLI mixes the order of subnets.
    one.brig(&[&["network", "create", "-d", "overlay", "--ipv6"], &subnets[..], &["wide"]].concat())
        .success();
    wait_until("the other host has the network", || has_network(&two, "wide"));
    let pools = two.get("/networks/wide")["IPAM"]["Config"].clone();
    let gateways: Vec<&str> =
        pools.as_array().unwrap().iter().map(|p| p["Gateway"].as_str().unwrap()).collect();
    assert_eq!(gateways, ["10.80.0.1", "10.81.0.1", "fd00:80::1"]);
    // The first subnet has one address beside the gateway's.
    sleeper(&one, "left", &["--network", "wide"]);
    wait_until("the other host knows it", || {
        two.get("/networks/wide")["Containers"].as_object().unwrap().len() == 1
    });
    sleeper(&two, "right", &["--network", "wide"]);
    sleeper(&two, "asked", &["--network", "wide", "--ip", "10.81.0.77", "--ip6", "fd00:80::77"]);
    assert_eq!(address(&one, "left", "wide"), "10.80.0.2");
    assert_eq!(address(&two, "right", "wide"), "10.81.0.2");
    let seen = e2e::networks::endpoint(&two, "right", "wide");
    assert_eq!((seen["Gateway"].as_str(), seen["IPPrefixLen"].as_i64()), (Some("10.81.0.1"), Some(24)));
    let six = seen["GlobalIPv6Address"].as_str().unwrap().to_string();
    // From one subnet into the other, both ways, by address and by name.
    wait_ping(&one, "left", "10.81.0.2");
    wait_ping(&two, "right", "10.80.0.2");
    wait_ping(&one, "left", "asked");
    wait_ping(&one, "left", &six);
    wait_ping(&one, "left", "fd00:80::77");
    let six =
        e2e::networks::endpoint(&one, "left", "wide")["GlobalIPv6Address"].as_str().unwrap().to_string();
    wait_ping(&two, "asked", &six);
    let named = one.brig(&["exec", "left", "nslookup", "-type=aaaa", "asked"]).success();
    assert!(named.contains("fd00:80::77"), "{named}");
    let taken = ["run", "--rm", "--network", "wide", "--ip6", "fd00:80::77", "busybox", "true"];
    e2e::networks::refused(&one, &taken, "Address already in use");
    let outside = ["run", "--rm", "--network", "wide", "--ip", "10.82.0.7", "busybox", "true"];
    e2e::networks::refused(&one, &outside, "no configured subnet contains IP address 10.82.0.7");
    one.remove_all();
    two.remove_all();
    wait_until("nobody is on it", || one.docker(&["network", "rm", "wide"]).code == Some(0));
}

/// What the kernel of a host is told of who is where: the lines of its two tables for its VXLAN interfaces.
fn told(underlay: &Underlay, host: u32) -> Vec<String> {
    let mut out = Vec::new();
    for line in ["bridge fdb show", "ip -4 neigh show nud permanent", "ip -6 neigh show nud permanent"] {
        let mut words = line.split(' ');
        let mut command = inside(&underlay.namespace(host), words.next().unwrap());
        let shown = command.args(words).output().unwrap();
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        let fits = |l: &&str| l.contains("dev vx-") && (l.contains(" dst ") || l.contains("lladdr 02:42"));
        out.extend(text.lines().filter(fits).map(str::to_string));
    }
    out
}

/// A host whose network was cut for longer than its lease is forgotten by the others, down to their kernels' tables; its
/// containers run on, and are known again when it is back.
#[test]
fn a_host_is_cut_off_and_comes_back() {
    let Some(underlay) = Underlay::new() else { return };
    let (one, two) = (underlay.host(1, "600"), underlay.host(2, "2"));
    one.docker(&["network", "create", "-d", "overlay", "--ipv6", "--subnet", "10.83.0.0/24", "n"]).success();
    wait_until("the other host has the network", || has_network(&two, "n"));
    sleeper(&one, "near", &["--network", "n"]);
    sleeper(&two, "far", &["--network", "n"]);
    let far = address(&two, "far", "n");
    wait_ping(&one, "near", "far");
    wait_until("both families are told", || told(&underlay, 1).len() == 3);
    let before = told(&underlay, 1);

    underlay.ip(0, "link set p2 down");
    wait_until("its endpoints are forgotten", || underlay.keys("endpoints/").len() == 2);
    wait_until("the kernel is told", || told(&underlay, 1).is_empty());
    assert!(!pings(&one, "near", "far"));
    let seen = one.get("/networks/n")["Containers"].clone();
    assert_eq!(seen.as_object().unwrap().len(), 1, "{seen}");
    assert_eq!(two.state("far")["Status"], "running");
    // Made while it was away.
    one.docker(&["network", "create", "-d", "overlay", "--subnet", "10.84.0.0/24", "later"]).success();

    underlay.ip(0, "link set p2 up");
    wait_until("its endpoints are back", || underlay.keys("endpoints/").len() == 4);
    wait_until("the kernel is told", || told(&underlay, 1) == before);
    wait_ping(&one, "near", "far");
    wait_ping(&two, "far", "near");
    assert_eq!(address(&two, "far", "n"), far);
    wait_until("it has what was made meanwhile", || has_network(&two, "later"));
    one.remove_all();
    two.remove_all();
    one.docker(&["network", "rm", "later"]).success();
    wait_until("nobody is on it", || one.docker(&["network", "rm", "n"]).code == Some(0));
}
