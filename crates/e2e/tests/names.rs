//! The name server of containers on networks of one's own.
#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::networks::sleeper;
use rustix::process::{Pid, Signal, kill_process};
use std::path::Path;
use testkit::daemon::Daemon;
use testkit::wait_until;

fn stage() -> Option<Daemon> {
    if !testkit::is_root() {
        return None;
    }
    let daemon = Daemon::start(Default::default());
    daemon.load_busybox("busybox");
    for name in ["front", "back"] {
        daemon.brig(&["network", "create", name]).success();
    }
    Some(daemon)
}

fn address(daemon: &Daemon, container: &str, network: &str) -> String {
    let inspected = daemon.get(&format!("/containers/{container}/json"));
    inspected["NetworkSettings"]["Networks"][network]["IPAddress"].as_str().unwrap().to_string()
}

/// What the container's resolver says of a name: its addresses.
fn looks_up(daemon: &Daemon, from: &str, name: &str) -> Vec<String> {
    let done = daemon.brig(&["exec", from, "nslookup", "-type=a", name]);
    let answers = done.stdout.lines().skip_while(|l| !l.is_empty());
    let mut out: Vec<String> = answers
        .filter_map(|l| l.strip_prefix("Address")?.split(": ").nth(1))
        .map(|a| a.trim().to_string())
        .collect();
    out.sort();
    out
}

fn server_of(daemon: &Daemon) -> Option<Pid> {
    let directory = daemon.exec_root.join("dns");
    let (pid, _) = testkit::leaks::processes_of(&directory, None).into_iter().next()?;
    Pid::from_raw(i32::try_from(pid).ok()?)
}

#[test]
fn names_aliases_links_and_their_networks() {
    let Some(daemon) = stage() else { return };
    sleeper(&daemon, "web", &["--network", "front", "--network-alias", "www", "--network-alias", "pool"]);
    sleeper(&daemon, "web2", &["--network", "front", "--network-alias", "pool", "-h", "second"]);
    sleeper(&daemon, "db", &["--network", "back"]);
    let (web, web2, db) =
        (address(&daemon, "web", "front"), address(&daemon, "web2", "front"), address(&daemon, "db", "back"));
    let id = daemon.get("/containers/web/json")["Id"].as_str().unwrap()[..12].to_string();
    let resolv = daemon.brig(&["exec", "web", "cat", "/etc/resolv.conf"]).success();
    assert!(resolv.contains("nameserver 127.0.0.11") && resolv.contains("ndots:0"), "{resolv}");
    for name in ["web", "WEB", "www", "web.front", &id] {
        assert_eq!(looks_up(&daemon, "web2", name), std::slice::from_ref(&web), "{name}");
    }
    assert_eq!(looks_up(&daemon, "web", "second"), std::slice::from_ref(&web2), "a host name");
    assert_eq!(looks_up(&daemon, "web", "pool"), [web.clone(), web2.clone()], "several");
    assert_eq!(looks_up(&daemon, "web", "db"), Vec::<String>::new(), "another network's");
    let pointer = daemon.brig(&["exec", "web", "nslookup", &web2]).success();
    assert!(pointer.contains("web2.front"), "{pointer}");

    // Connected, it knows and is known; an alias of its own is for it alone.
    daemon.docker(&["network", "connect", "--link", "db:mysql", "--alias", "w", "back", "web"]).success();
    assert_eq!(looks_up(&daemon, "web", "mysql"), std::slice::from_ref(&db));
    assert_eq!(looks_up(&daemon, "db", "mysql"), Vec::<String>::new());
    assert_eq!(looks_up(&daemon, "db", "w"), [address(&daemon, "web", "back")]);
    daemon.docker(&["rename", "db", "store"]).success();
    assert_eq!(looks_up(&daemon, "web", "store"), [db]);
    assert_eq!(looks_up(&daemon, "web", "db"), Vec::<String>::new());
    daemon.docker(&["network", "disconnect", "back", "web"]).success();
    assert_eq!(looks_up(&daemon, "store", "w"), Vec::<String>::new());
    daemon.docker(&["rm", "-f", "web2"]).success();
    wait_until("the name goes with the container", || {
        looks_up(&daemon, "web", "pool") == std::slice::from_ref(&web)
    });
    daemon.remove_all();
    wait_until("the server leaves with the last container", || server_of(&daemon).is_none());
    daemon.assert_empties();
}

/// Nobody notices that the daemon is away, or that the server was killed.
#[test]
fn names_outlive_the_daemon() {
    let Some(mut daemon) = stage() else { return };
    sleeper(&daemon, "one", &["--network", "front"]);
    sleeper(&daemon, "two", &["--network", "front"]);
    let two = address(&daemon, "two", "front");
    let namespace =
        daemon.get("/containers/one/json")["NetworkSettings"]["SandboxKey"].as_str().unwrap().to_string();
    let asks = || {
        let done = std::process::Command::new("nsenter")
            .arg(format!("--net={namespace}"))
            .args(["busybox", "nslookup", "-type=a", "two", "127.0.0.11"])
            .output()
            .unwrap();
        String::from_utf8_lossy(&done.stdout).contains(&two)
    };
    assert!(asks());
    let before = server_of(&daemon).unwrap();
    daemon.kill9();
    assert!(asks(), "without a daemon");
    daemon.spawn();
    assert_eq!(server_of(&daemon), Some(before), "the same process goes on");
    assert_eq!(looks_up(&daemon, "one", "two"), std::slice::from_ref(&two));
    kill_process(before, Signal::KILL).unwrap();
    wait_until("it is started again", || server_of(&daemon).is_some_and(|p| p != before) && asks());
    daemon.stop();
    kill_process(server_of(&daemon).unwrap(), Signal::KILL).unwrap();
    daemon.spawn();
    assert!(asks(), "the daemon that comes starts it");
    daemon.assert_empties();
}

/// T-NET-3 (CVE-2024-29018): a container on internal networks only cannot ask the world; any other can, through the
/// servers it was given.
#[test]
fn internal_networks_do_not_ask_the_world() {
    let Some(daemon) = stage() else { return };
    daemon.brig(&["network", "create", "--internal", "inside"]).success();
    // A server for the world, on the host's end of the bridge: every name has the address 192.0.2.1.
    let gateway = daemon.get("/networks/front")["IPAM"]["Config"][0]["Gateway"].as_str().unwrap().to_string();
    let socket = std::net::UdpSocket::bind((gateway.as_str(), 53)).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let mut answer = buffer[..length].to_vec();
            answer[2] |= 0x80;
            answer[7] = 1;
            answer.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 1]);
            socket.send_to(&answer, from).unwrap();
        }
    });
    sleeper(&daemon, "open", &["--network", "front", "--dns", &gateway]);
    sleeper(&daemon, "shut", &["--network", "inside", "--dns", &gateway]);
    wait_until("the world answers", || looks_up(&daemon, "open", "example.org") == ["192.0.2.1"]);
    let refused = daemon.brig(&["exec", "shut", "nslookup", "-type=a", "example.org"]);
    assert!(refused.code != Some(0) && refused.stdout.contains("NXDOMAIN"), "{refused:?}");
    assert_eq!(looks_up(&daemon, "shut", "shut"), [address(&daemon, "shut", "inside")]);
    daemon.assert_empties();
}

/// The default bridge has no names, as Docker's has none.
#[test]
fn the_default_bridge_has_the_hosts_servers() {
    let Some(daemon) = stage() else { return };
    sleeper(&daemon, "plain", &[]);
    let resolv = daemon.brig(&["exec", "plain", "cat", "/etc/resolv.conf"]).success();
    assert!(!resolv.contains("127.0.0.11"), "{resolv}");
    assert!(!Path::new(&daemon.exec_root).join("dns/sandboxes").exists());
    daemon.docker(&["network", "connect", "front", "plain"]).success();
    let resolv = daemon.brig(&["exec", "plain", "cat", "/etc/resolv.conf"]).success();
    assert!(resolv.contains("127.0.0.11"), "joined a network with names: {resolv}");
    assert_eq!(looks_up(&daemon, "plain", "plain"), [address(&daemon, "plain", "front")]);
    daemon.assert_empties();
}
