//! User-defined networks, as docker's client and ours use them.
#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::networks::{endpoint, pings, sleeper};
use serde_json::json;

#[test]
fn a_network_from_create_to_rm() {
    let Some(daemon) = e2e::own() else { return };
    let id = daemon
        .docker(&[
            "network",
            "create",
            "--subnet",
            "10.209.0.0/24",
            "--ip-range",
            "10.209.0.128/25",
            "--gateway",
            "10.209.0.9",
            "--aux-address",
            "router=10.209.0.128",
            "--label",
            "a=b",
            "-o",
            "com.docker.network.driver.mtu=1400",
            "n1",
        ])
        .success();
    let network = daemon.get("/networks/n1");
    assert_eq!(network["Id"], id.as_str());
    // An empty object where the client sent one, as docker's does.
    assert_eq!(network["IPAM"]["Options"], json!({}));
    assert_eq!(daemon.get("/networks/bridge")["IPAM"]["Options"], json!(null));
    assert_eq!(network["IPAM"]["Config"][0]["Gateway"], "10.209.0.9");
    assert_eq!(network["IPAM"]["Config"][0]["AuxiliaryAddresses"]["router"], "10.209.0.128");
    assert_eq!(network["Labels"]["a"], "b");
    let bridge = format!("/sys/class/net/br-{}", &id[..12]);
    assert_eq!(std::fs::read_to_string(format!("{bridge}/mtu")).unwrap().trim(), "1400");

    sleeper(&daemon, "one", &["--network", "n1"]);
    sleeper(&daemon, "two", &["--network", "n1", "--ip", "10.209.0.7", "--mac-address", "02:00:00:00:00:07"]);
    assert_eq!(endpoint(&daemon, "one", "n1")["IPAddress"], "10.209.0.129");
    assert_eq!(endpoint(&daemon, "one", "n1")["Gateway"], "10.209.0.9");
    assert_eq!(endpoint(&daemon, "two", "n1")["MacAddress"], "02:00:00:00:00:07");
    assert!(pings(&daemon, "one", "10.209.0.7"));
    let links = daemon.brig(&["exec", "two", "ip", "link", "show", "eth0"]).success();
    assert!(links.contains("02:00:00:00:00:07") && links.contains("mtu 1400"), "{links}");
    let attached = daemon.get("/networks/n1")["Containers"].clone();
    assert_eq!(attached.as_object().unwrap().len(), 2);

    let refused = |args: &[&str], part: &str| {
        let done = daemon.docker(args).expect(if args[0] == "run" { 125 } else { 1 });
        assert!(done.stderr.contains(part), "{args:?}: {}", done.stderr);
    };
    refused(&["network", "create", "n1"], "network with name n1 already exists");
    refused(
        &["network", "create", "--subnet", "10.209.0.0/16", "n2"],
        "Pool overlaps with other one on this address space",
    );
    refused(&["network", "create", "bridge"], "operation is not permitted on predefined bridge network");
    refused(&["network", "rm", "bridge"], "bridge is a pre-defined network and cannot be removed");
    refused(&["network", "rm", "n1"], "network n1 has active endpoints (name:\"");
    refused(&["run", "--network", "n1", "--ip", "10.209.0.7", "busybox", "true"], "Address already in use");
    refused(
        &["run", "--network", "n1", "--ip", "10.210.0.7", "busybox", "true"],
        "no configured subnet contains IP address",
    );
    refused(&["run", "--ip", "172.17.0.7", "busybox", "true"], "user-defined networks only");
    refused(&["run", "--network", "nowhere", "busybox", "true"], "network nowhere not found");
    assert_eq!(daemon.brig(&["network", "prune", "-f"]).success(), "");

    daemon.remove_all();
    assert_eq!(daemon.docker(&["network", "prune", "-f"]).success(), "Deleted Networks:\nn1");
    testkit::wait_until("the bridge is gone", || !std::path::Path::new(&bridge).exists());
    daemon.assert_empties();
}

/// Several networks a container, joined and left while it runs and while it does not; the default route follows.
#[test]
fn connect_and_disconnect() {
    let Some(daemon) = e2e::own() else { return };
    for name in ["a", "b"] {
        daemon.brig(&["network", "create", name]).success();
    }
    daemon.brig(&["network", "create", "--internal", "inside"]).success();
    sleeper(&daemon, "cc", &["--network", "b", "-p", "127.0.0.1::80"]);
    sleeper(&daemon, "dd", &["--network", "a"]);
    let route = || daemon.brig(&["exec", "cc", "ip", "route", "show", "default"]).success();
    let gateway = |network: &str| endpoint(&daemon, "cc", network)["Gateway"].as_str().unwrap().to_string();
    assert!(route().contains(&format!("via {} ", gateway("b"))), "{}", route());
    let d = endpoint(&daemon, "dd", "a")["IPAddress"].as_str().unwrap().to_string();
    assert!(!pings(&daemon, "cc", &d), "bridges are apart");

    daemon.docker(&["network", "connect", "--alias", "x", "a", "cc"]).success();
    assert!(pings(&daemon, "cc", &d));
    assert!(route().contains(&format!("via {} dev eth1", gateway("a"))), "a comes before b: {}", route());
    assert_eq!(endpoint(&daemon, "cc", "a")["Aliases"], json!(["x"]));
    daemon.docker(&["network", "connect", "inside", "cc"]).success();
    assert_eq!(gateway("inside"), "");
    let again = daemon.docker(&["network", "connect", "a", "cc"]).expect(1);
    assert!(again.stderr.contains("endpoint with name cc already exists in network a"), "{}", again.stderr);
    let hosts = daemon.brig(&["exec", "cc", "cat", "/etc/hosts"]).success();
    assert_eq!(hosts.lines().count(), 6 + 3, "{hosts}");

    daemon.docker(&["network", "disconnect", "a", "cc"]).success();
    assert!(route().contains(&format!("via {} dev eth0", gateway("b"))), "{}", route());
    assert!(endpoint(&daemon, "cc", "a").is_null());
    daemon.docker(&["network", "disconnect", "b", "cc"]).success();
    assert!(!route().contains("default"), "an internal network leads nowhere: {}", route());
    let not = daemon.docker(&["network", "disconnect", "b", "cc"]).expect(1);
    assert!(not.stderr.contains("is not connected to the network b"), "{}", not.stderr);

    daemon.brig(&["stop", "-t", "0", "cc"]).success();
    daemon.docker(&["network", "connect", "--gw-priority", "1", "b", "cc"]).success();
    daemon.docker(&["network", "connect", "a", "cc"]).success();
    daemon.brig(&["start", "cc"]).success();
    assert!(route().contains(&format!("via {} ", gateway("b"))), "the priority counts: {}", route());
    assert!(pings(&daemon, "cc", &d));
    let host = daemon.docker(&["network", "connect", "host", "cc"]).expect(1);
    assert!(host.stderr.contains("container sharing network namespace"), "{}", host.stderr);
    daemon.assert_empties();
}

/// Containers and networks outlive the daemon, and what it was killed in the middle of is put in order.
#[test]
fn networks_outlive_the_daemon() {
    let Some(mut daemon) = e2e::own() else { return };
    let id = daemon.brig(&["network", "create", "n"]).success();
    sleeper(&daemon, "cc", &["--network", "n"]);
    sleeper(&daemon, "dd", &["--network", "n"]);
    let bridge = format!("br-{}", &id[..12]);
    let before = endpoint(&daemon, "dd", "n");
    daemon.kill9();
    // As if killed while connecting: an interface that no record knows.
    let run = |args: &str| {
        let done = std::process::Command::new("ip").args(args.split(' ')).status().unwrap();
        assert!(done.success(), "ip {args}");
    };
    run("link add vethdead000 type veth peer name vethdead001");
    let owner = daemon.data_root.join("engine-id");
    let engine = std::fs::read_to_string(owner).unwrap();
    run(&format!("link set vethdead000 alias brig:{} master {bridge}", "c".repeat(64)));
    run("link add br-dead00000000 type bridge");
    run(&format!("link set br-dead00000000 alias brig:network:{}:{engine}", "d".repeat(64)));
    daemon.spawn();
    let exists = |name: &str| std::path::Path::new("/sys/class/net").join(name).exists();
    assert!(!exists("vethdead000") && !exists("br-dead00000000") && exists(&bridge));
    assert_eq!(endpoint(&daemon, "dd", "n"), before);
    assert!(pings(&daemon, "cc", before["IPAddress"].as_str().unwrap()));
    let refused = daemon.brig(&["network", "rm", "n"]).expect(1);
    assert!(refused.stderr.contains("active endpoints"), "{}", refused.stderr);

    // As after a reboot of the host: no container, no bridge.
    daemon.remove_all();
    daemon.stop();
    run(&format!("link delete {bridge}"));
    daemon.spawn();
    assert!(exists(&bridge), "made anew from its record");
    daemon.brig(&["network", "rm", "n"]).success();
    testkit::wait_until("the bridge is gone", || !exists(&bridge));
    daemon.assert_empties();
}

#[test]
fn filters_and_events() {
    let Some(daemon) = e2e::own() else { return };
    daemon.docker(&["network", "create", "--label", "k=v", "one"]).success();
    daemon.docker(&["network", "create", "two"]).success();
    let names = |filter: &str| {
        daemon
            .docker(&["network", "ls", "--format", "{{.Name}}", "--filter", filter])
            .success()
            .replace('\n', " ")
    };
    assert_eq!(names("type=custom"), "one two");
    assert_eq!(names("label=k=v"), "one");
    assert_eq!(names("dangling=true"), "one two");
    assert_eq!(names("driver=null"), "none");
    assert!(daemon.docker(&["network", "ls", "--filter", "type=odd"]).code != Some(0));
    daemon.docker(&["network", "rm", "one", "two"]).success();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now = format!("{}.{:09}", now.as_secs(), now.subsec_nanos());
    let events = daemon
        .docker(&[
            "events",
            "--since",
            "0",
            "--until",
            &now,
            "--filter",
            "type=network",
            "--format",
            "{{.Action}} {{.Actor.Attributes.name}}",
        ])
        .success();
    assert_eq!(events, "create one\ncreate two\ndestroy one\ndestroy two");
}

/// Containers beside each other on an interface of the host, without a bridge.
#[test]
fn macvlan() {
    let Some(daemon) = e2e::own() else { return };
    let parent = format!("mv{}", std::process::id());
    let ip = |args: &str| std::process::Command::new("ip").args(args.split(' ')).status().unwrap().success();
    assert!(ip(&format!("link add {parent} type veth peer name {parent}p")));
    assert!(ip(&format!("link set {parent} up")) && ip(&format!("link set {parent}p up")));
    let option = format!("parent={parent}");
    // One that leads nowhere wants an interface that not every kernel has.
    let nowhere = daemon.docker(&["network", "create", "-d", "macvlan", "nowhere"]);
    if nowhere.code == Some(0) {
        daemon.docker(&["network", "rm", "nowhere"]).success();
    } else {
        assert!(nowhere.stderr.contains("CONFIG_DUMMY"), "{}", nowhere.stderr);
    }
    let create = |name: &str, more: &[&str]| {
        let mut words = vec!["network", "create", "-d", "macvlan", "-o", &option];
        words.extend(more);
        words.push(name);
        // The docker CLI mixes the order of subnets.
        daemon.brig(&words)
    };
    // One address in the first subnet, and then the second is used.
    create("m", &["--subnet", "10.208.0.0/24", "--subnet", "10.207.0.0/30", "--subnet", "10.206.0.0/24"])
        .success();
    let alone = create("p", &["-o", "macvlan_mode=passthru"]).expect(1);
    assert!(alone.stderr.contains("is already using parent interface"), "{}", alone.stderr);
    sleeper(&daemon, "far", &["--network", "m", "--ip", "10.207.0.2"]);
    assert_eq!(endpoint(&daemon, "far", "m")["Gateway"], "10.207.0.1");
    assert_eq!(endpoint(&daemon, "far", "m")["IPPrefixLen"], 30);
    let route = daemon.brig(&["exec", "far", "ip", "route", "show", "default"]).success();
    assert!(route.contains("via 10.207.0.1 "), "{route}");
    sleeper(&daemon, "one", &["--network", "m"]);
    sleeper(&daemon, "two", &["--network", "m", "--ip", "10.208.0.77"]);
    assert!(pings(&daemon, "one", "10.208.0.77"));
    let named = daemon.brig(&["exec", "one", "nslookup", "-type=a", "two"]).success();
    assert!(named.contains("10.208.0.77"), "{named}");
    daemon.docker(&["network", "disconnect", "m", "two"]).success();
    assert!(!pings(&daemon, "one", "10.208.0.77"));
    daemon.docker(&["network", "connect", "--ip", "10.208.0.78", "m", "two"]).success();
    assert!(pings(&daemon, "one", "10.208.0.78"));
    daemon.remove_all();
    daemon.docker(&["network", "rm", "m"]).success();
    assert!(ip(&format!("link delete {parent}")));
    daemon.assert_empties();
}
