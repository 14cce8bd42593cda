//! What cannot be, with Docker's status and words: networks, addresses and ports that are taken, used up or wrong.
#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::networks::sleeper;
use serde_json::{Value, json};
use std::net::TcpListener;
use testkit::daemon::Daemon;

#[track_caller]
fn refused(daemon: &Daemon, (method, path): (&str, &str), body: &Value, status: u16, words: &str) {
    let answer = daemon.request(method, path, body);
    assert_eq!(answer.status, status, "{method} {path} {body}: {}", answer.text());
    assert!(answer.message().contains(words), "{method} {path} {body}: {}", answer.text());
}

fn pool(fields: Value) -> Value {
    json!({ "Config": [fields] })
}

#[test]
fn networks_that_cannot_be() {
    let Some(daemon) = e2e::own() else { return };
    let check = |fields: Value, status: u16, words: &str| {
        let mut body = json!({ "Name": "x" });
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        refused(&daemon, ("POST", "/networks/create"), &body, status, words);
    };
    let made = json!({ "Name": "made", "IPAM": pool(json!({ "Subnet": "10.231.0.0/24" })) });
    daemon.request("POST", "/networks/create", &made).expect(201);
    check(json!({ "Name": "made" }), 409, "network with name made already exists");
    let overlap = "invalid pool request: Pool overlaps with other one on this address space";
    for subnet in ["10.231.0.0/24", "10.231.0.128/25", "10.231.0.0/16", "10.0.0.0/8"] {
        check(json!({ "IPAM": pool(json!({ "Subnet": subnet })) }), 403, overlap);
    }
    for (fields, words) in [
        (json!({ "Subnet": "10.232.0.0/33" }), "invalid subnet 10.232.0.0/33: invalid CIDR block notation"),
        (json!({ "Subnet": "10.232.0.9/24" }), "invalid subnet 10.232.0.9/24: it should be 10.232.0.0/24"),
        (json!({ "Subnet": "10.232.0.0/24", "Gateway": "10.233.0.1" }), "doesn't contain this address"),
        (json!({ "Subnet": "10.232.0.0/24", "Gateway": "x" }), "invalid gateway x: invalid address"),
        (json!({ "Subnet": "10.232.0.0/24", "Gateway": "fd00::1" }), "parent subnet is an IPv4 block"),
        (
            json!({ "Subnet": "10.232.0.0/24", "IPRange": "10.232.0.0/16" }),
            "CIDR block is bigger than its parent",
        ),
        (json!({ "Subnet": "10.232.0.0/24", "IPRange": "10.233.0.0/25" }), "doesn't contain ip-range"),
        (
            json!({ "Subnet": "10.232.0.0/24", "AuxiliaryAddresses": { "a": "10.233.0.1" } }),
            "invalid auxiliary address a: parent subnet 10.232.0.0/24 doesn't contain this address",
        ),
    ] {
        check(json!({ "IPAM": pool(fields) }), 400, words);
    }
    for (mtu, words) in [
        ("-1", "invalid MTU number: -1"),
        ("x", "failed to parse com.docker.network.driver.mtu value: x"),
        ("67", "an MTU is between 68 and"),
        ("70000", "an MTU is between 68 and"),
    ] {
        check(json!({ "Options": { "com.docker.network.driver.mtu": mtu } }), 400, words);
    }
    check(json!({ "Driver": "weave" }), 404, "plugin \"weave\" not found");
    check(json!({ "Driver": "host" }), 403, "only one instance of \"host\" network is allowed");
    check(json!({ "Name": "bridge" }), 403, "operation is not permitted on predefined bridge network");
    check(json!({ "Name": "" }), 400, "invalid name: name is empty");
    refused(&daemon, ("DELETE", "/networks/bridge"), &Value::Null, 403, "is a pre-defined network");
    refused(&daemon, ("DELETE", "/networks/nothing"), &Value::Null, 404, "network nothing not found");
    refused(&daemon, ("GET", "/networks/nothing"), &Value::Null, 404, "network nothing not found");
    refused(&daemon, ("GET", "/networks/made?scope=swarm"), &Value::Null, 404, "not found");
    daemon.request("DELETE", "/networks/made", &Value::Null).expect(204);
    assert_eq!(daemon.get("/networks").as_array().unwrap().len(), 3, "nothing was made on the way");
}

#[test]
fn addresses_that_cannot_be_had() {
    let Some(daemon) = e2e::own() else { return };
    // The gateway's address, and one more.
    let made = json!({ "Name": "n", "IPAM": pool(json!({ "Subnet": "10.234.0.0/30" })) });
    let id = daemon.request("POST", "/networks/create", &made).expect(201).json()["Id"].clone();
    sleeper(&daemon, "first", &["--network", "n"]);
    let create = |name: &str, endpoint: Value| {
        let body = json!({ "Image": "busybox", "Cmd": ["sleep", "600"], "HostConfig": { "NetworkMode": "n" },
            "NetworkingConfig": { "EndpointsConfig": { "n": endpoint } } });
        daemon.request("POST", &format!("/containers/create?name={name}"), &body)
    };
    create("second", Value::Null).expect(201);
    let exhausted =
        format!("no available IPv4 addresses on this network's address pools: n ({})", id.as_str().unwrap());
    refused(&daemon, ("POST", "/containers/second/start"), &Value::Null, 500, &exhausted);
    create("same", json!({ "IPAMConfig": { "IPv4Address": "10.234.0.2" } })).expect(201);
    refused(&daemon, ("POST", "/containers/same/start"), &Value::Null, 403, "Address already in use");
    let outside = create("outside", json!({ "IPAMConfig": { "IPv4Address": "10.235.0.2" } }));
    assert_eq!(outside.status, 400, "{}", outside.text());
    assert!(outside.message().contains("no configured subnet contains IP address 10.235.0.2"));
    let gateway = create("gateway", json!({ "IPAMConfig": { "IPv4Address": "10.234.0.1" } }));
    gateway.expect(201);
    refused(&daemon, ("POST", "/containers/gateway/start"), &Value::Null, 403, "Address already in use");
    let connect = json!({ "Container": "first" });
    refused(&daemon, ("POST", "/networks/n/connect"), &connect, 403, "already exists in network n");
    refused(&daemon, ("POST", "/networks/nothing/connect"), &connect, 404, "network nothing not found");
    let nobody = json!({ "Container": "nobody" });
    refused(&daemon, ("POST", "/networks/n/connect"), &nobody, 404, "No such container: nobody");
    refused(&daemon, ("DELETE", "/networks/n"), &Value::Null, 403, "has active endpoints (name:\"first\"");
    // What failed holds nothing.
    daemon.docker(&["rm", "-f", "first"]).success();
    daemon.docker(&["start", "second"]).success();
    daemon.remove_all();
    daemon.docker(&["network", "rm", "n"]).success();
    daemon.assert_no_leaks();
}

#[test]
fn ports_that_are_taken() {
    let Some(daemon) = e2e::own() else { return };
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let create = |name: &str, host_port: String| {
        let body = json!({ "Image": "busybox", "Cmd": ["sleep", "600"], "ExposedPorts": { "80/tcp": {} },
            "HostConfig": { "PortBindings": { "80/tcp": [{ "HostIp": "127.0.0.1", "HostPort": host_port }] } } });
        daemon.request("POST", &format!("/containers/create?name={name}"), &body)
    };
    // By a process of the host's.
    create("one", port.to_string()).expect(201);
    let start = ("POST", "/containers/one/start");
    refused(
        &daemon,
        start,
        &Value::Null,
        500,
        "failed to set up container networking: driver failed programming external connectivity on endpoint one (",
    );
    let said = format!("failed to bind host port 127.0.0.1:{port}/tcp: address already in use");
    refused(&daemon, start, &Value::Null, 500, &said);
    assert_eq!(daemon.state("one")["Status"], "created");
    drop(taken);
    daemon.docker(&["start", "one"]).success();
    // By another container, of the same network or not, until that ends.
    create("two", port.to_string()).expect(201);
    let said = format!("Bind for 127.0.0.1:{port} failed: port is already allocated");
    refused(&daemon, ("POST", "/containers/two/start"), &Value::Null, 500, &said);
    daemon.docker(&["rm", "-f", "one"]).success();
    daemon.docker(&["start", "two"]).success();
    let wrong = create("wrong", "70000".into());
    assert_eq!(wrong.status, 400, "{}", wrong.text());
    assert!(wrong.message().contains("invalid port specification: \"70000\""), "{}", wrong.text());
    daemon.assert_empties();
}

/// Every field of docker's `network inspect`, of a network and of an endpoint.
#[test]
fn inspect_has_dockers_fields() {
    let Some(daemon) = e2e::own() else { return };
    let options = ["-o", "com.docker.network.bridge.enable_icc=false", "--label", "a=b", "--attachable"];
    let subnets = ["--ipv6", "--subnet", "10.236.0.0/24", "--subnet", "fd00:236::/64"];
    // The docker CLI mixes the order of subnets.
    daemon.brig(&[&["network", "create"], &options[..], &subnets, &["n"]].concat()).success();
    sleeper(
        &daemon,
        "one",
        &["--network", "n", "--network-alias", "other", "--mac-address", "02:00:00:00:00:07"],
    );
    let network = daemon.get("/networks/n");
    let plain = |field: &str| network[field].clone();
    assert_eq!(
        [
            plain("Name"),
            plain("Driver"),
            plain("Scope"),
            plain("ConfigFrom"),
            plain("Labels"),
            plain("Options")
        ],
        [
            json!("n"),
            json!("bridge"),
            json!("local"),
            json!({ "Network": "" }),
            json!({ "a": "b" }),
            json!({ "com.docker.network.bridge.enable_icc": "false" })
        ]
    );
    for (field, value) in [
        ("EnableIPv4", true),
        ("EnableIPv6", true),
        ("Internal", false),
        ("Attachable", true),
        ("Ingress", false),
        ("ConfigOnly", false),
    ] {
        assert_eq!(network[field], value, "{field}");
    }
    assert_eq!(
        network["IPAM"],
        json!({ "Driver": "default", "Options": {}, "Config": [
            { "Subnet": "10.236.0.0/24", "Gateway": "10.236.0.1" },
            { "Subnet": "fd00:236::/64", "Gateway": "fd00:236::1" },
        ] })
    );
    let (_, member) = network["Containers"].as_object().unwrap().iter().next().unwrap();
    let endpoint = e2e::networks::endpoint(&daemon, "one", "n");
    assert_eq!(
        *member,
        json!({ "Name": "one", "EndpointID": endpoint["EndpointID"], "MacAddress": "02:00:00:00:00:07",
            "IPv4Address": "10.236.0.2/24", "IPv6Address": "fd00:236::2/64" })
    );
    for (field, value) in [
        ("NetworkID", network["Id"].clone()),
        ("Gateway", json!("10.236.0.1")),
        ("IPAddress", json!("10.236.0.2")),
        ("IPPrefixLen", json!(24)),
        ("IPv6Gateway", json!("fd00:236::1")),
        ("GlobalIPv6Address", json!("fd00:236::2")),
        ("GlobalIPv6PrefixLen", json!(64)),
        ("MacAddress", json!("02:00:00:00:00:07")),
        ("Aliases", json!(["other"])),
        ("Links", Value::Null),
        ("DriverOpts", Value::Null),
    ] {
        assert_eq!(endpoint[field], value, "{field}");
    }
    let names = endpoint["DNSNames"].as_array().unwrap();
    assert!(names.contains(&json!("one")) && names.contains(&json!("other")), "{names:?}");
    daemon.remove_all();
    daemon.docker(&["network", "rm", "n"]).success();
}
