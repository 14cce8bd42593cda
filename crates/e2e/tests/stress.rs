//! Many of everything at once, and afterwards nothing is left: no process, mount, cgroup, namespace, interface, rule, file,
//! row, descriptor or memory. Short in `test`; `cargo xtask conform stress` makes it long (`BRIG_CONFORM_STRESS=1`).

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]
#![allow(clippy::print_stdout, reason = "read by who runs the tests")]

use e2e::BUSYBOX;
use e2e::random::Random;
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use testkit::daemon::Daemon;
use testkit::{leaks, raw, wait_until};

fn is_long() -> bool {
    std::env::var_os("BRIG_CONFORM_STRESS").is_some()
}

/// What a daemon has of everything.
#[derive(Debug, PartialEq, Eq)]
struct Has {
    descriptors: usize,
    rules: usize,
    interfaces: usize,
}

fn has(daemon: &Daemon) -> Has {
    let table = network::firewall::table_of(&daemon.bridge);
    let rules = Command::new("nft").args(["list", "table", "inet", &table]).output().unwrap();
    let ours =
        network::list_endpoints().unwrap().into_iter().filter(|e| e.bridge.as_ref() == Some(&daemon.bridge));
    Has {
        descriptors: descriptors(daemon),
        rules: String::from_utf8_lossy(&rules.stdout).lines().count(),
        interfaces: ours.count(),
    }
}

/// Open descriptors, but for those of the database: a few readers of it are kept, made when they are needed.
fn descriptors(daemon: &Daemon) -> usize {
    let database = daemon.data_root.join("brig.db").display().to_string();
    let entries = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().flatten();
    let targets = entries.filter_map(|e| std::fs::read_link(e.path()).ok());
    targets.filter(|target| !target.to_string_lossy().starts_with(&database)).count()
}

/// A number of `/proc/PID/status`, in KiB.
fn status_kib(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
    line.trim_start_matches(':').split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or_default()
}

/// Rows of containers and volumes in the database of a daemon that has left.
fn rows(data_root: &Path) -> usize {
    let database = metadata::Database::open(data_root).unwrap();
    let kinds = [metadata::RecordKind::Container, metadata::RecordKind::Volume];
    kinds.iter().map(|kind| database.list_records(*kind).unwrap().len()).sum()
}

/// The life of one container, as one of many clients asks for it.
fn live(daemon: &Daemon, number: u32, random: &mut Random) {
    let ask = |method: &str, path: &str, body: &Value| daemon.request(method, path, body);
    let name = format!("s{number}");
    let network = *random.of(&["bridge", "bridge", "none", "host"]);
    let ends = random.one_in(2);
    let auto_remove = random.one_in(4);
    let mut host = json!({"NetworkMode": network, "AutoRemove": auto_remove});
    if network == "bridge" && random.one_in(2) {
        host["PortBindings"] = json!({"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "0"}]});
    }
    let command = if ends { "echo hi" } else { "exec sleep 600" };
    let body = json!({
        "Image": BUSYBOX, "Cmd": ["sh", "-c", command], "StopTimeout": 0, "Volumes": {"/v": {}}, "HostConfig": host,
        "ExposedPorts": {"80/tcp": {}},
    });
    ask("POST", &format!("/containers/create?name={name}"), &body).expect(201);
    let started = ask("POST", &format!("/containers/{name}/start"), &Value::Null);
    assert_eq!(started.status, 204, "{}", started.text());
    if !ends {
        match random.below(4) {
            0 => drop(ask("POST", &format!("/containers/{name}/stop"), &Value::Null)),
            1 => drop(ask("POST", &format!("/containers/{name}/kill"), &Value::Null)),
            2 => {
                ask("POST", &format!("/containers/{name}/pause"), &Value::Null).expect(204);
                drop(ask("GET", &format!("/containers/{name}/stats?stream=0&one-shot=1"), &Value::Null));
            }
            _ => drop(ask("GET", &format!("/containers/{name}/top"), &Value::Null)),
        }
    } else if !auto_remove {
        ask("POST", &format!("/containers/{name}/wait"), &Value::Null).expect(200);
        let logs = ask("GET", &format!("/containers/{name}/logs?stdout=1"), &Value::Null).expect(200);
        assert!(logs.text().contains("hi"), "{logs:?}");
    }
    let gone = ask("DELETE", &format!("/containers/{name}?force=1&v=1"), &Value::Null);
    assert!(matches!(gone.status, 204 | 404 | 409), "{}", gone.text());
}

#[test]
#[ignore = "long: cargo xtask conform stress"]
fn many_containers_of_many_clients_leave_nothing() {
    if !testkit::is_root() {
        return;
    }
    let mut daemon = Daemon::start(Default::default());
    daemon.load_busybox(BUSYBOX);
    // What is made once and kept is made now.
    live(&daemon, 0, &mut Random::seeded(1));
    daemon.remove_all();
    daemon.assert_no_leaks();
    let before = has(&daemon);
    let resident = status_kib(daemon.pid(), "VmRSS");
    let (containers, clients) = if is_long() { (1_000, 50) } else { (48, 12) };
    let next = AtomicU32::new(1);
    std::thread::scope(|scope| {
        for client in 0..clients {
            let (next, daemon) = (&next, &daemon);
            scope.spawn(move || {
                let mut random = Random::seeded(client * 7919 + 13);
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number > containers {
                        break;
                    }
                    live(daemon, number, &mut random);
                }
            });
        }
    });
    wait_until("those that remove themselves are gone", || daemon.container_ids().is_empty());
    daemon.assert_no_leaks();
    wait_until(&format!("all is as before: {before:?}, {:?}", has(&daemon)), || has(&daemon) == before);
    assert_eq!(daemon.get("/volumes")["Volumes"], json!([]));
    let after = status_kib(daemon.pid(), "VmRSS");
    println!(
        "{containers} containers by {clients} clients: resident {resident} KiB before, {after} KiB after"
    );
    if is_long() {
        // What the allocator keeps of 50 requests at once is not a leak; what grows with a thousand containers would be.
        assert!(after < resident + (16 << 10), "{resident} KiB before, {after} KiB after");
    }
    daemon.stop();
    assert_eq!(rows(&daemon.data_root), 0);
    daemon.spawn();
    daemon.assert_empties();
}

/// Bytes that the processes of a container have written, to whatever.
fn written(daemon: &Daemon, name: &str) -> u64 {
    let pid = daemon.state(name)["Pid"].as_u64().unwrap();
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    io.lines().find_map(|l| l.strip_prefix("wchar: ")).and_then(|n| n.parse().ok()).unwrap_or_default()
}

fn size_of(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).unwrap().flatten();
    entries.filter_map(|e| e.metadata().ok()).filter(|m| m.is_file()).map(|m| m.len()).sum()
}

#[test]
#[ignore = "long: cargo xtask conform stress"]
fn a_log_at_full_speed_keeps_to_its_limits() {
    if !testkit::is_root() {
        return;
    }
    let daemon = Daemon::start(Default::default());
    daemon.load_busybox(BUSYBOX);
    let amount: u64 = if is_long() { 8 << 30 } else { 48 << 20 };
    for (driver, options) in [
        ("json-file", json!({"max-size": "1m", "max-file": "3"})),
        ("json-file", json!({"max-size": "1m", "max-file": "3", "compress": "true"})),
        ("local", json!({"max-size": "1m", "max-file": "3"})),
    ] {
        // Long lines: as many bytes as the machine gives.
        let line = "y".repeat(8000);
        let body = json!({
            "Image": BUSYBOX, "Cmd": ["yes", line],
            "HostConfig": {"NetworkMode": "none", "LogConfig": {"Type": driver, "Config": options}},
        });
        let made = daemon.request("POST", "/containers/create?name=loud", &body).expect(201).json();
        let id = made["Id"].as_str().unwrap();
        daemon.request("POST", "/containers/loud/start", &Value::Null).expect(204);
        let shims = leaks::processes_of(&daemon.exec_root.join("shims").join(id), Some(daemon.pid()));
        let shim = shims.iter().find(|(_, line)| line.contains("brig-shim")).unwrap().0;
        let directory = daemon.data_root.join("containers").join(id);
        let (mut most, mut resident) = (0, 0);
        wait_until("it has written enough", || {
            most = most.max(size_of(&directory));
            resident = resident.max(status_kib(shim, "VmRSS"));
            written(&daemon, "loud") >= amount
        });
        println!("{driver} {options}: at most {most} bytes of log, {resident} KiB of shim");
        // Three files, one more while it is put aside, and an entry that began before the end of the last.
        assert!(most < 4 * (1 << 20) + (256 << 10), "{driver} {options}: {most} bytes");
        assert!(resident < 12 << 10, "{driver} {options}: {resident} KiB");
        // Whoever reads gets lines, and the end.
        let tail = daemon.request("GET", "/containers/loud/logs?stdout=1&tail=3", &Value::Null).expect(200);
        assert!(tail.text().contains(&"y".repeat(1000)));
        daemon.request("DELETE", "/containers/loud?force=1", &Value::Null).expect(204);
        daemon.assert_no_leaks();
    }
    daemon.assert_empties();
}

/// Asks for a stream and never reads it.
fn listen(daemon: &Daemon, path: &str) -> UnixStream {
    let mut stream = raw::connect(&daemon.socket).unwrap();
    let (method, upgrade) = match path {
        path if path.contains("/attach") => ("POST", "Connection: Upgrade\r\nUpgrade: tcp\r\n"),
        _ => ("GET", ""),
    };
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\n{upgrade}Content-Length: 0\r\n\r\n").unwrap();
    stream
}

/// Waits until a stream has begun, without taking anything of what it carries but its first byte.
fn wait_begun(stream: &mut UnixStream) {
    let mut byte = [0];
    stream.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"H");
}

#[test]
#[ignore = "long: cargo xtask conform stress"]
fn followers_by_the_hundred_cost_nothing_once_they_are_gone() {
    if !testkit::is_root() {
        return;
    }
    let daemon = Daemon::start(Default::default());
    daemon.load_busybox(BUSYBOX);
    let body = json!({
        "Image": BUSYBOX, "Cmd": ["sh", "-c", "while :; do echo a line of text; done"],
        "HostConfig": {"NetworkMode": "none", "LogConfig": {"Type": "json-file", "Config": {"max-size": "4m"}}},
    });
    daemon.request("POST", "/containers/create?name=talks", &body).expect(201);
    daemon.request("POST", "/containers/talks/start", &Value::Null).expect(204);
    let quiet = json!({"Image": BUSYBOX, "Cmd": ["sleep", "600"], "HostConfig": {"NetworkMode": "none"}});
    daemon.request("POST", "/containers/create?name=quiet", &quiet).expect(201);
    daemon.request("POST", "/containers/quiet/start", &Value::Null).expect(204);
    let each = if is_long() { 300 } else { 40 };
    let rounds = if is_long() { 10 } else { 2 };
    let (mut before, mut resident) = (0, 0);
    for round in 0..=rounds {
        let mut streams = Vec::new();
        for _ in 0..each {
            for path in [
                "/events",
                "/containers/talks/logs?follow=1&stdout=1",
                "/containers/talks/stats",
                "/containers/quiet/attach?stream=1&stdout=1",
            ] {
                streams.push(listen(&daemon, path));
            }
        }
        // Events say nothing until something happens.
        daemon.request("POST", "/containers/create?name=event", &quiet).expect(201);
        daemon.request("DELETE", "/containers/event", &Value::Null).expect(204);
        for stream in &mut streams {
            wait_begun(stream);
        }
        // Nobody is held up by those that do not read.
        let at = written(&daemon, "talks");
        wait_until("the container goes on", || written(&daemon, "talks") > at + (1 << 20));
        assert_eq!(daemon.state("quiet")["Running"], true);
        drop(streams);
        if round == 0 {
            // What is made once and kept is there now.
            let mut last = usize::MAX;
            wait_until("descriptors are given back", || {
                std::thread::sleep(std::time::Duration::from_millis(100));
                let now = descriptors(&daemon);
                let settled = now == last;
                last = now;
                settled && now < each
            });
            (before, resident) = (last, status_kib(daemon.pid(), "VmRSS"));
        }
        wait_until("descriptors are given back", || descriptors(&daemon) <= before + 4);
    }
    let after = status_kib(daemon.pid(), "VmRSS");
    println!(
        "{rounds} rounds of {} followers: {resident} KiB after the first, {after} KiB after the last",
        4 * each
    );
    if is_long() {
        assert!(
            after < resident + (16 << 10),
            "{resident} KiB after the first round, {after} KiB after the last"
        );
    }
    daemon.assert_empties();
}
