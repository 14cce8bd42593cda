//! What networks can be beside a bridge with one subnet of IPv4: gateway modes, IPv6 alone, configurations, addresses of the
//! link, drivers that this kernel may lack, and what containers may claim.
#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::networks::{refused, sleeper};
use serde_json::{Value, json};
use std::process::Command;
use testkit::daemon::Daemon;

fn inspect(daemon: &Daemon, container: &str) -> Value {
    daemon.get(&format!("/containers/{container}/json"))["NetworkSettings"].clone()
}

const MODE4: &str = "com.docker.network.bridge.gateway_mode_ipv4";
const MODE6: &str = "com.docker.network.bridge.gateway_mode_ipv6";

#[test]
fn gateway_modes() {
    let Some(daemon) = e2e::own() else { return };
    let option = |key: &str, value: &str| format!("{key}={value}");
    let routed = option(MODE6, "routed");
    daemon.docker(&["network", "create", "--ipv6", "-o", &routed, "mixed"]).success();
    sleeper(&daemon, "server", &["--network", "mixed", "-p", "127.0.0.1::80", "-p", "[::]:8080:80/tcp"]);
    let ports = inspect(&daemon, "server")["Ports"]["80/tcp"].clone();
    let of =
        |ip: &str| ports.as_array().unwrap().iter().find(|p| p["HostIp"] == ip).unwrap()["HostPort"].clone();
    assert_ne!(of("127.0.0.1"), "");
    assert_eq!(of("::"), "", "there is no port of the host's: {ports}");
    let listed = daemon.get("/containers/json")[0]["Ports"].clone();
    assert!(
        listed.as_array().unwrap().iter().any(|p| p["IP"] == "::" && p["PublicPort"].is_null()),
        "{listed}"
    );
    let rules = || {
        let table = network::firewall::table_of(&daemon.bridge);
        let out = Command::new("nft").args(["list", "set", "inet", &table, "direct6"]).output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let address =
        inspect(&daemon, "server")["Networks"]["mixed"]["GlobalIPv6Address"].as_str().unwrap().to_string();
    assert!(rules().contains(&format!("{address} . tcp . 80")), "{}", rules());
    daemon.brig(&["stop", "-t", "0", "server"]).success();
    testkit::wait_until("the port is taken back", || !rules().contains("tcp"));

    let isolated = option(MODE4, "isolated");
    refused(
        &daemon,
        &["network", "create", "-o", &isolated, "x"],
        "gateway mode 'isolated' can only be used for an internal network",
    );
    refused(&daemon, &["network", "create", "-o", &option(MODE4, "bat"), "x"], "unknown gateway mode bat");
    let id = daemon
        .docker(&["network", "create", "--internal", "--subnet", "10.221.0.0/24", "-o", &isolated, "alone"])
        .success();
    let bridge = format!("br-{}", &id[..12]);
    let own = Command::new("ip").args(["-4", "addr", "show", &bridge]).output().unwrap();
    assert!(!String::from_utf8_lossy(&own.stdout).contains("inet"), "the bridge has no address");
    sleeper(&daemon, "one", &["--network", "alone"]);
    sleeper(&daemon, "two", &["--network", "alone"]);
    let first = inspect(&daemon, "one")["Networks"]["alone"].clone();
    assert_eq!(
        (&first["IPAddress"], &first["Gateway"]),
        (&json!("10.221.0.1"), &json!("")),
        "nobody is a gateway"
    );
    daemon.brig(&["exec", "two", "ping", "-c", "1", "-W", "5", "10.221.0.1"]).success();
    daemon.remove_all();
    daemon.docker(&["network", "rm", "alone", "mixed"]).success();
    daemon.assert_empties();
}

#[test]
fn ipv6_alone() {
    let Some(daemon) = e2e::own() else { return };
    refused(&daemon, &["network", "create", "--ipv4=false", "x"], "IPv4 or IPv6 must be enabled");
    daemon
        .docker(&["network", "create", "--ipv4=false", "--ipv6", "--subnet", "fd00:db8:77::/64", "six"])
        .success();
    let network = daemon.get("/networks/six");
    assert_eq!((&network["EnableIPv4"], &network["EnableIPv6"]), (&json!(false), &json!(true)));
    assert_eq!(network["IPAM"]["Config"].as_array().unwrap().len(), 1);
    sleeper(&daemon, "one", &["--network", "six", "-p", "8080"]);
    sleeper(&daemon, "two", &["--network", "six", "--ip6", "fd00:db8:77::77"]);
    let one = inspect(&daemon, "one")["Networks"]["six"].clone();
    assert_eq!((&one["IPAddress"], &one["Gateway"]), (&json!(""), &json!("")));
    assert_eq!(one["IPv6Gateway"], "fd00:db8:77::1");
    assert!(one["MacAddress"].as_str().unwrap().starts_with("02:42:"), "{one}");
    daemon.brig(&["exec", "one", "ping", "-6", "-c", "1", "-W", "5", "two"]).success();
    let addresses = daemon.brig(&["exec", "one", "ip", "-4", "addr", "show", "eth0"]).success();
    assert!(!addresses.contains("inet "), "{addresses}");
    daemon.remove_all();
    daemon.brig(&["network", "rm", "six"]).success();
    daemon.assert_empties();
}

#[test]
fn configurations() {
    let Some(daemon) = e2e::own() else { return };
    let create = ["network", "create"];
    let mut line = create.to_vec();
    line.extend(["--config-only", "--subnet", "10.222.0.0/24", "--label", "a=b"]);
    line.extend(["-o", "com.docker.network.driver.mtu=1400", "conf"]);
    daemon.docker(&line).success();
    let conf = daemon.get("/networks/conf");
    assert_eq!((&conf["ConfigOnly"], &conf["Driver"]), (&json!(true), &json!("null")));
    refused(
        &daemon,
        &["network", "create", "--config-from", "nothing", "x"],
        "configuration network \"nothing\" does not exist",
    );
    refused(
        &daemon,
        &["network", "create", "--config-from", "bridge", "x"],
        "configuration network \"bridge\" does not exist",
    );
    refused(&daemon, &["run", "--network", "conf", "busybox", "true"], "configuration-only network");
    daemon.brig(&["network", "create", "--config-from", "conf", "real"]).success();
    let real = daemon.get("/networks/real");
    assert_eq!(real["ConfigFrom"]["Network"], "conf");
    assert_eq!(real["IPAM"]["Config"][0]["Subnet"], "10.222.0.0/24");
    assert_eq!(real["Options"]["com.docker.network.driver.mtu"], "1400");
    assert_eq!(real["Labels"]["a"], "b");
    refused(&daemon, &["network", "rm", "conf"], "configuration network \"conf\" is in use");
    refused(&daemon, &["network", "create", "--config-from", "conf", "again"], "Pool overlaps");
    daemon.docker(&["network", "rm", "real", "conf"]).success();
    refused(&daemon, &["network", "create", "--config-only", "--internal", "x"], "Network operator fields");
    refused(
        &daemon,
        &["network", "create", "--ingress", "x"],
        "Ingress network can only be global scope network",
    );
    refused(&daemon, &["network", "create", "--scope", "swarm", "x"], "This node is not a swarm manager");
    refused(
        &daemon,
        &["network", "create", "--subnet", "10.222.1.0/24", "--subnet", "10.222.2.0/24", "x"],
        "bridge driver doesn't support multiple subnets",
    );
    daemon.docker(&["network", "create", "--attachable", "--scope", "local", "plain"]).success();
    assert_eq!(daemon.get("/networks/plain")["Attachable"], true);
    daemon.brig(&["network", "rm", "plain"]).success();
    daemon.assert_empties();
}

#[test]
fn addresses_of_the_link() {
    let Some(daemon) = e2e::own() else { return };
    daemon.brig(&["network", "create", "--ipv6", "n"]).success();
    let links = ["--link-local-ip", "169.254.7.8", "--link-local-ip", "fe80::7:8"];
    sleeper(&daemon, "one", &[&["--network", "n"][..], &links].concat());
    sleeper(&daemon, "two", &["--network", "n"]);
    let asked = inspect(&daemon, "one")["Networks"]["n"]["IPAMConfig"]["LinkLocalIPs"].clone();
    assert_eq!(asked, json!(["169.254.7.8", "fe80::7:8"]));
    let shown = daemon.brig(&["exec", "one", "ip", "addr", "show", "eth0"]).success();
    assert!(shown.contains("169.254.7.8/16") && shown.contains("fe80::7:8/64"), "{shown}");
    daemon.docker(&["network", "disconnect", "n", "two"]).success();
    daemon.docker(&["network", "connect", "--link-local-ip", "169.254.7.9", "n", "two"]).success();
    daemon.brig(&["exec", "two", "ping", "-c", "1", "-W", "5", "169.254.7.8"]).success();
    refused(
        &daemon,
        &["run", "--network", "n", "--link-local-ip", "0.0.0.0", "busybox", "true"],
        "invalid link-local IP address: 0.0.0.0",
    );
    daemon.remove_all();
    daemon.brig(&["network", "rm", "n"]).success();
    daemon.assert_empties();
}

/// ipvlan where the kernel has it; where not, what it is that the kernel lacks, before anything is made.
#[test]
fn ipvlan() {
    let Some(daemon) = e2e::own() else { return };
    let parent = format!("iv{}", std::process::id());
    let ip = |args: &str| Command::new("ip").args(args.split(' ')).status().unwrap().success();
    assert!(ip(&format!("link add {parent} type veth peer name {parent}p")));
    assert!(ip(&format!("link set {parent} up")) && ip(&format!("link set {parent}p up")));
    let option = format!("parent={parent}");
    refused(
        &daemon,
        &["network", "create", "-d", "ipvlan", "-o", "ipvlan_mode=l4", "i"],
        "requested ipvlan mode 'l4' is not valid, 'l2' mode is the ipvlan driver default",
    );
    for (n, mode) in ["l2", "l3", "l3s"].iter().enumerate() {
        let (mode, subnet) = (format!("ipvlan_mode={mode}"), format!("10.223.{n}.0/24"));
        let made = daemon.docker(&[
            "network", "create", "-d", "ipvlan", "--subnet", &subnet, "-o", &option, "-o", &mode, "i",
        ]);
        if made.code != Some(0) {
            assert!(made.stderr.contains("has no ipvlan interfaces (CONFIG_IPVLAN)"), "{}", made.stderr);
            assert_eq!(daemon.request("GET", "/networks/i", &Value::Null).status, 404);
            continue;
        }
        refused(
            &daemon,
            &["run", "--network", "i", "--mac-address", "02:00:00:00:00:01", "busybox", "true"],
            "ipvlan interfaces do not support custom mac address assignment",
        );
        sleeper(&daemon, "one", &["--network", "i"]);
        sleeper(&daemon, "two", &["--network", "i", "--ip", &format!("10.223.{n}.77")]);
        daemon.brig(&["exec", "one", "ping", "-c", "1", "-W", "5", "two"]).success();
        let route = daemon.brig(&["exec", "one", "ip", "route", "show", "default"]).success();
        assert_eq!(route.contains("via"), mode.ends_with("l2"), "{mode}: {route}");
        assert!(route.contains("dev eth0"), "{route}");
        daemon.docker(&["network", "disconnect", "i", "two"]).success();
        assert!(!daemon.brig(&["exec", "two", "ip", "addr"]).success().contains("eth0"));
        daemon.docker(&["network", "connect", "i", "two"]).success();
        daemon.brig(&["exec", "one", "ping", "-c", "1", "-W", "5", "two"]).success();
        daemon.remove_all();
        daemon.docker(&["network", "rm", "i"]).success();
    }
    assert!(ip(&format!("link delete {parent}")));
    daemon.assert_empties();
}

/// T-NET-1: who may not configure its interfaces has no address but its own, unless its network says so; also after the
/// daemon was away and somebody took the rules.
#[test]
fn containers_are_guarded() {
    let Some(mut daemon) = e2e::own() else { return };
    daemon.brig(&["network", "create", "-o", "brig.network.allow_spoofing=true", "open"]).success();
    sleeper(&daemon, "plain", &[]);
    sleeper(&daemon, "admin", &["--cap-add", "net_admin"]);
    sleeper(&daemon, "free", &["--network", "open"]);
    let table = network::firewall::table_of(&daemon.bridge);
    let nft = |args: &[&str]| {
        let out = Command::new("nft").args(args).output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let guarded = |daemon: &Daemon, container: &str| {
        let networks = inspect(daemon, container)["Networks"].clone();
        let endpoint = networks.as_object().unwrap().values().next().unwrap()["EndpointID"].clone();
        let chain = format!("chain veth{} ", &endpoint.as_str().unwrap()[..7]);
        nft(&["list", "table", "netdev", &table]).contains(&chain)
    };
    assert!(guarded(&daemon, "plain") && !guarded(&daemon, "admin") && !guarded(&daemon, "free"));
    daemon.kill9();
    nft(&["delete", "table", "netdev", &table]);
    assert_eq!(nft(&["list", "table", "netdev", &table]), "");
    daemon.spawn();
    assert!(guarded(&daemon, "plain") && !guarded(&daemon, "admin") && !guarded(&daemon, "free"));
    daemon.remove_all();
    testkit::wait_until("the rules go with the interfaces", || {
        !nft(&["list", "table", "netdev", &table]).contains("chain")
    });
    daemon.brig(&["network", "rm", "open"]).success();
    daemon.assert_empties();
}
