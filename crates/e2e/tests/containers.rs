//! Lives of containers: why a program does not start, waits between restarts, lists, and many clients at once.

#![allow(clippy::unwrap_used, reason = "a panic is the report")]

use e2e::{BUSYBOX, shared};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use testkit::daemon::{Daemon, Options};
use testkit::{is_root, wait_until};

/// (name, content, exit code by brig, words).
const PROGRAMS: &[(&str, &[u8], i32, &str)] = &[
    ("crlf", b"#!/bin/sh\r\necho\r\n", 127, "CR LF"),
    ("interpreter", b"#!/no/such/shell\n", 127, "its interpreter \"/no/such/shell\" does not exist"),
    ("text", b"echo hello\n", 126, "exec format error: it is neither a program nor a script"),
    ("empty", b"", 126, "exec format error: the file is empty"),
    (
        "foreign",
        b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xf7\0\x01\0\0\0",
        126,
        "it is a program for machine number 247",
    ),
];

#[test]
fn why_a_program_does_not_start() {
    let Some(shared) = shared() else { return };
    let daemon = &shared.daemon;
    let dir = tempfile::tempdir().unwrap();
    // The kernel may have been taught formats; then it is asked.
    let is_taught = std::path::Path::new("/proc/sys/fs/binfmt_misc/status").exists();
    for (name, content, code, words) in PROGRAMS.iter().filter(|p| !(is_taught && p.2 == 126)) {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        let volume = format!("{}:/t", dir.path().display());
        let program = format!("/t/{name}");
        let done = daemon.brig(&["run", "--rm", "-v", &volume, BUSYBOX, &program]).expect(*code);
        assert!(done.stderr.contains(words), "{done:?}");
        let done = daemon.docker(&["run", "--rm", "-v", &volume, BUSYBOX, &program]);
        assert!(done.stderr.contains(words), "{done:?}");
        let created =
            daemon.brig(&["create", "--name", "bad-program", "-v", &volume, BUSYBOX, &program]).success();
        let answer = daemon.request("POST", &format!("/containers/{created}/start"), &Value::Null);
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert_eq!(daemon.state(&created)["ExitCode"], *code);
        daemon.brig(&["rm", "bad-program"]).success();
    }
    let loader = dir.path().join("dynamic");
    std::fs::copy("/bin/ls", &loader).unwrap();
    let volume = format!("{}:/dynamic", loader.display());
    let done = daemon.brig(&["run", "--rm", "-v", &volume, BUSYBOX, "/dynamic"]).expect(127);
    assert!(done.stderr.contains("its loader \"/lib"), "{done:?}");
    daemon.brig(&["run", "-d", "--name", "bad-exec", "-v", &volume, BUSYBOX, "sleep", "300"]).success();
    let done = daemon.docker(&["exec", "bad-exec", "/dynamic"]).expect(127);
    assert!(
        done.stderr.contains("its loader \"/lib") || done.stdout.contains("its loader \"/lib"),
        "{done:?}"
    );
    daemon.brig(&["rm", "-f", "bad-exec"]).success();
}

#[test]
fn between_two_tries_a_container_counts_as_running() {
    let Some(shared) = shared() else { return };
    let daemon = &shared.daemon;
    let name = "again-and-again";
    daemon
        .brig(&["run", "-d", "--name", name, "--restart", "always", BUSYBOX, "sh", "-c", "exit 3"])
        .success();
    wait_until("the pause is long enough to be seen", || {
        let container = daemon.get(&format!("/containers/{name}/json"));
        container["State"]["Restarting"] == true && container["RestartCount"].as_u64() >= Some(3)
    });
    let before = daemon.get(&format!("/containers/{name}/json"))["RestartCount"].as_u64().unwrap();
    assert_eq!(daemon.docker(&["wait", name]).success(), "3");
    let after = daemon.get(&format!("/containers/{name}/json"))["RestartCount"].as_u64().unwrap();
    assert!(after > before, "{before} {after}");
    let stopping = daemon.docker_command(&["wait", name]);
    let waiter = testkit::daemon::Running::start(stopping);
    wait_until("it pauses", || daemon.state(name)["Restarting"] == true);
    daemon.brig(&["stop", name]).success();
    assert_eq!(waiter.finish().success(), "3");
    assert_eq!(daemon.state(name)["Status"], "exited");
    daemon.brig(&["rm", name]).success();
}

#[test]
fn policies_after_the_daemon_was_away() {
    if !is_root() {
        return;
    }
    let mut daemon = Daemon::start(Options::default());
    daemon.load_busybox(BUSYBOX);
    let run = |name: &str, policy: &str| {
        let args = [
            "run",
            "-d",
            "--name",
            name,
            "--restart",
            policy,
            BUSYBOX,
            "sh",
            "-c",
            "test -e /once && sleep 300; touch /once; sleep 300",
        ];
        daemon.brig(&args).success();
    };
    run("failed", "on-failure");
    run("always", "always");
    run("stopped", "unless-stopped");
    daemon.brig(&["stop", "-t", "0", "stopped"]).success();
    let pids: Vec<i64> = ["failed", "always"].map(|n| daemon.state(n)["Pid"].as_i64().unwrap()).to_vec();
    daemon.kill9();
    for pid in pids {
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    daemon.spawn();
    daemon.wait_status("failed", "running");
    daemon.wait_status("always", "running");
    assert_eq!(daemon.state("stopped")["Status"], "exited");
    daemon.assert_empties();
}

#[test]
fn lists_by_port_and_label_and_prune_by_their_absence() {
    let Some(shared) = shared() else { return };
    let daemon = &shared.daemon;
    let run = |args: &[&str]| daemon.docker(args).success();
    run(&[
        "run",
        "-d",
        "--name",
        "ports",
        "--expose",
        "9000-9002",
        "-p",
        "127.0.0.1::9100",
        "--label",
        "kind=list",
        BUSYBOX,
        "sleep",
        "300",
    ]);
    let port = run(&["port", "ports", "9100"]);
    let port = port.rsplit(':').next().unwrap();
    let listed = |filter: &str| {
        run(&["ps", "--filter", "label=kind=list", "--filter", filter, "--format", "{{.Names}}"])
    };
    assert_eq!(listed(&format!("publish={port}")), "ports");
    assert_eq!(listed(&format!("publish={port}/udp")), "");
    assert_eq!(listed("publish=1-1023"), "");
    assert_eq!(listed("expose=9001"), "ports");
    assert_eq!(listed("expose=8000-9000/tcp"), "ports");
    daemon.docker(&["ps", "--filter", "expose=x"]).expect(1);
    assert!(run(&["top", "ports", "-eopid,user,comm"]).starts_with("PID"));
    assert!(run(&["top", "ports", "waux"]).starts_with("USER"));
    run(&["rm", "-f", "ports"]);

    for (name, label) in [("keep-me", "keep=1"), ("drop-me", "keep=0")] {
        run(&["create", "--name", name, "--label", "kind=prune", "--label", label, BUSYBOX]);
    }
    let gone =
        run(&["container", "prune", "-f", "--filter", "label=kind=prune", "--filter", "label!=keep=1"]);
    assert_eq!(gone.lines().filter(|l| l.len() == 64).count(), 1, "{gone}");
    assert_eq!(run(&["ps", "-a", "--filter", "label=kind=prune", "--format", "{{.Names}}"]), "keep-me");
    run(&["rm", "keep-me"]);
}

#[test]
fn many_clients_at_once_leave_nothing() {
    const CLIENTS: usize = 50;
    const EACH: usize = 4;
    if !is_root() {
        return;
    }
    let daemon = Daemon::start(Options::default());
    daemon.load_busybox(BUSYBOX);
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let daemon = &daemon;
            scope.spawn(move || {
                for number in 0..EACH {
                    let name = format!("many-{client}-{number}");
                    let body = json!({"Image": BUSYBOX, "Cmd": ["sh", "-c", "echo hi; sleep 300"],
                        "HostConfig": {"NetworkMode": if client % 2 == 0 { "bridge" } else { "none" }}});
                    let post = |path: &str, body: &Value| daemon.request("POST", path, body);
                    post(&format!("/containers/create?name={name}"), &body).expect(201);
                    post(&format!("/containers/{name}/start"), &Value::Null).expect(204);
                    match number % 3 {
                        0 => drop(post(&format!("/containers/{name}/kill"), &Value::Null).expect(204)),
                        1 => drop(post(&format!("/containers/{name}/stop?t=0"), &Value::Null).expect(204)),
                        _ => {}
                    }
                    daemon
                        .request("DELETE", &format!("/containers/{name}?force=1&v=1"), &Value::Null)
                        .expect(204);
                }
            });
        }
    });
    assert!(daemon.container_ids().is_empty());
    daemon.assert_empties();
}
