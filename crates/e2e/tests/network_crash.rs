//! kill -9 of the daemon at every moment of what changes networks, and many of everything. Short in `test`; with
//! `BRIG_CONFORM_NETWORK_STRESS=1`, as `cargo xtask conform network-stress` sets it, long.
#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;
use testkit::daemon::Daemon;
use testkit::{raw, wait_until};

fn is_long() -> bool {
    std::env::var_os("BRIG_CONFORM_NETWORK_STRESS").is_some()
}

fn stage() -> Option<Daemon> {
    if !testkit::is_root() {
        return None;
    }
    let daemon = Daemon::start(Default::default());
    daemon.load_busybox("busybox");
    Some(daemon)
}

/// One request, from a thread of its own that does not mind how it ends.
fn fire(daemon: &Daemon, method: &'static str, path: &str, body: &Value) -> std::thread::JoinHandle<()> {
    let (socket, path, body) = (daemon.socket.clone(), path.to_string(), body.to_string());
    std::thread::spawn(move || {
        drop(raw::send(&socket, method, &path, "application/json", body.as_bytes()));
    })
}

/// What is in the kernel and belongs to no network and no running container of the daemon's.
fn strays(daemon: &Daemon) -> Vec<String> {
    let engine = std::fs::read_to_string(daemon.data_root.join("engine-id")).unwrap();
    let networks = daemon.get("/networks");
    let networks: BTreeSet<String> =
        networks.as_array().unwrap().iter().map(|n| n["Id"].as_str().unwrap().to_string()).collect();
    let mut out = Vec::new();
    let mut bridges = BTreeSet::from([daemon.bridge.clone()]);
    for bridge in network::list_bridges().unwrap() {
        if let Some((id, owner)) = bridge.owner.split_once(':')
            && owner == engine.trim()
        {
            if networks.contains(id) {
                bridges.insert(bridge.name);
            } else {
                out.push(format!("bridge {}", bridge.name));
            }
        }
    }
    let mut expected = BTreeSet::new();
    let mut running = BTreeSet::new();
    for id in daemon.container_ids() {
        let seen = daemon.get(&format!("/containers/{id}/json"));
        if seen["State"]["Running"] != true {
            continue;
        }
        for (_, endpoint) in seen["NetworkSettings"]["Networks"].as_object().unwrap() {
            let id = endpoint["EndpointID"].as_str().unwrap();
            expected.insert(format!("veth{}", &id[..id.len().min(7)]));
        }
        running.insert(id);
    }
    for endpoint in network::list_endpoints().unwrap() {
        let ours = endpoint.bridge.as_ref().is_some_and(|b| bridges.contains(b));
        if ours && !expected.contains(&endpoint.host_interface) {
            out.push(format!("interface {}", endpoint.host_interface));
        }
    }
    for directory in ["netns", "rootfs"] {
        for entry in std::fs::read_dir(daemon.exec_root.join(directory)).unwrap().flatten() {
            let id = entry.file_name().to_string_lossy().into_owned();
            if !running.contains(&id) {
                out.push(format!("{directory} {id}"));
            }
        }
    }
    let table = network::firewall::table_of(&daemon.bridge);
    let rules = Command::new("nft").args(["list", "table", "inet", &table]).output().unwrap();
    for line in String::from_utf8_lossy(&rules.stdout).lines() {
        if let Some(name) = line.trim().strip_prefix("chain to-").and_then(|l| l.strip_suffix(" {"))
            && !bridges.contains(name)
        {
            out.push(format!("rules of {name}"));
        }
    }
    out
}

#[track_caller]
fn assert_no_strays(daemon: &Daemon, after: &str) {
    // The kernel takes interfaces of a namespace away on its own time.
    let mut last = Vec::new();
    wait_until(&format!("nothing is left after {after}: {:?}", strays(daemon)), || {
        last = strays(daemon);
        last.is_empty()
    });
}

/// Each verb is killed after a little longer each time, until it was done before the kill.
#[test]
fn killed_at_every_step() {
    let Some(mut daemon) = stage() else { return };
    // Two addresses: one that leaks is missed at once.
    let subnet = json!({ "Config": [{ "Subnet": "10.213.7.0/29" }] });
    daemon.request("POST", "/networks/create", &json!({ "Name": "base", "IPAM": subnet })).expect(201);
    daemon.docker(&["run", "-d", "--name", "stay", "busybox", "sleep", "600"]).success();
    daemon
        .docker(&[
            "create",
            "--name",
            "come",
            "--network",
            "base",
            "-p",
            "127.0.0.1::80",
            "busybox",
            "sleep",
            "600",
        ])
        .success();
    let (steps, pace) = if is_long() { (40, 1_000) } else { (3, 12_000) };
    let connect = json!({ "Container": "stay" });
    let verbs: [(&'static str, &str, Value); 5] = [
        ("POST", "/networks/create", json!({ "Name": "made" })),
        ("POST", "/networks/base/connect", connect.clone()),
        ("POST", "/networks/base/disconnect", connect),
        ("POST", "/containers/come/start", Value::Null),
        ("DELETE", "/networks/made", Value::Null),
    ];
    for (method, path, body) in &verbs {
        for step in 0..steps {
            // What the verb needs, whatever the last one left.
            if *method == "DELETE" {
                drop(daemon.request("POST", "/networks/create", &json!({ "Name": "made" })));
            } else if path.ends_with("create") {
                drop(daemon.request("DELETE", "/networks/made", &Value::Null));
            } else if path.ends_with("/connect") {
                drop(daemon.request(
                    "POST",
                    "/networks/base/disconnect",
                    &json!({ "Container": "stay", "Force": true }),
                ));
            } else if path.ends_with("/disconnect") {
                drop(daemon.request("POST", "/networks/base/connect", body));
            } else {
                drop(daemon.request("POST", "/containers/come/kill", &Value::Null));
                wait_until("it has ended", || daemon.state("come")["Running"] != true);
            }
            let asked = fire(&daemon, method, path, body);
            std::thread::sleep(Duration::from_micros(pace * step));
            daemon.kill9();
            asked.join().unwrap();
            daemon.spawn();
            assert_no_strays(&daemon, &format!("{method} {path}, step {step}"));
            assert_eq!(daemon.state("stay")["Status"], "running");
        }
    }
    // All six addresses but the gateway's are free.
    daemon.remove_all();
    for n in 0..5 {
        daemon
            .docker(&[
                "run",
                "-d",
                "--name",
                &format!("a{n}"),
                "--network",
                "base",
                "busybox",
                "sleep",
                "600",
            ])
            .success();
    }
    daemon.remove_all();
    daemon.assert_no_leaks();
    assert_no_strays(&daemon, "all of it");
}

/// 200 networks, 1,000 endpoints, 500 published ports; all of it survives the daemon, and all of it goes.
#[test]
#[ignore = "minutes: cargo xtask conform network-stress"]
fn many_of_everything() {
    let Some(mut daemon) = stage() else { return };
    let name = |n: u32| format!("many{n}");
    for n in 0..200 {
        let subnet = json!({ "Config": [{ "Subnet": format!("10.214.{n}.0/24") }] });
        daemon.request("POST", "/networks/create", &json!({ "Name": name(n), "IPAM": subnet })).expect(201);
    }
    daemon
        .docker(&[
            "run",
            "-d",
            "--name",
            "ports",
            "-p",
            "127.0.0.1:30000-30499:30000-30499",
            "busybox",
            "sleep",
            "600",
        ])
        .success();
    // 40 containers on 25 networks each.
    for c in 0..40 {
        let container = format!("c{c}");
        daemon
            .docker(&[
                "run",
                "-d",
                "--name",
                &container,
                "--network",
                &name(c * 5),
                "busybox",
                "sleep",
                "600",
            ])
            .success();
        for n in 1..25 {
            let network = name((c * 5 + n) % 200);
            daemon
                .request("POST", &format!("/networks/{network}/connect"), &json!({ "Container": container }))
                .expect(200);
        }
    }
    assert_no_strays(&daemon, "making all of it");
    daemon.kill9();
    daemon.spawn();
    assert_no_strays(&daemon, "a restart");
    let bridges: BTreeSet<String> = network::list_bridges().unwrap().into_iter().map(|b| b.name).collect();
    let ours = network::list_endpoints()
        .unwrap()
        .into_iter()
        .filter(|e| e.bridge.as_ref().is_some_and(|b| bridges.contains(b)));
    assert!(ours.count() >= 1001);
    daemon.remove_all();
    for n in 0..200 {
        daemon.request("DELETE", &format!("/networks/{}", name(n)), &Value::Null).expect(204);
    }
    wait_until("all bridges are gone", || {
        let engine = std::fs::read_to_string(daemon.data_root.join("engine-id")).unwrap();
        !network::list_bridges().unwrap().iter().any(|b| b.owner.ends_with(engine.trim()))
    });
    daemon.assert_no_leaks();
}
