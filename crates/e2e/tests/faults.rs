//! What once went wrong when several things happened at the same time, or half of one.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::BUSYBOX;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};
use testkit::daemon::{Daemon, Options, program};
use testkit::tar::Entry;
use testkit::{images, leaks, raw, wait_until};

/// What is not held up by anything takes less.
const AT_ONCE: Duration = Duration::from_secs(8);

fn own() -> Option<Daemon> {
    own_with(Options::default())
}

fn own_with(options: Options) -> Option<Daemon> {
    if !testkit::is_root() {
        return None;
    }
    let daemon = Daemon::start(options);
    daemon.load_busybox(BUSYBOX);
    Some(daemon)
}

fn create(daemon: &Daemon, name: &str, command: &[&str], host: Value) -> String {
    let body = json!({"Image": BUSYBOX, "Cmd": command, "HostConfig": host});
    let answer = daemon.request("POST", &format!("/containers/create?name={name}"), &body).expect(201);
    answer.json()["Id"].as_str().unwrap().to_string()
}

fn run(daemon: &Daemon, name: &str, command: &[&str], host: Value) -> String {
    let id = create(daemon, name, command, host);
    post(daemon, &format!("/containers/{id}/start")).expect(204);
    id
}

fn post(daemon: &Daemon, path: &str) -> raw::Response {
    daemon.request("POST", path, &Value::Null)
}

fn remove(daemon: &Daemon, name: &str) -> raw::Response {
    daemon.request("DELETE", &format!("/containers/{name}?force=1&v=1"), &Value::Null)
}

fn shim_of(daemon: &Daemon, id: &str) -> Pid {
    let shims = leaks::processes_of(&daemon.exec_root.join("shims").join(id), Some(daemon.pid()));
    let (pid, _) = shims.iter().find(|(_, line)| line.contains("brig-shim")).expect("its shim runs");
    Pid::from_raw(i32::try_from(*pid).unwrap()).unwrap()
}

/// Sends a request and goes away.
fn and_leave(daemon: &Daemon, path: &str, body: &str) {
    let mut stream = raw::connect(&daemon.socket).unwrap();
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(head.as_bytes()).unwrap();
    // Long enough for it to be read, too short for it to be done.
    std::thread::sleep(Duration::from_millis(2));
}

/// A runtime that takes its time to create containers, as the flag that makes it the daemon's.
fn slow_runtime(directory: &Path) -> Vec<String> {
    let script = directory.join("slow-runtime");
    let runtime = program("brig-runtime");
    let text = format!(
        "#!/bin/sh\ncase \" $* \" in *\" create \"*) sleep 1;; esac\nexec {} \"$@\"\n",
        runtime.display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    vec!["--add-runtime".into(), format!("slow={}", script.display())]
}

#[test]
fn a_daemon_killed_while_a_container_is_made_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let flags = slow_runtime(directory.path());
    let Some(mut daemon) = own_with(Options { flags, ..Options::default() }) else { return };
    let id = create(&daemon, "slow", &["sleep", "300"], json!({"Runtime": "slow"}));
    let socket = daemon.socket.clone();
    let path = format!("/containers/{id}/start");
    let client = std::thread::spawn(move || raw::send(&socket, "POST", &path, "", &[]));
    let shims = daemon.exec_root.join("shims").join(&id);
    wait_until("its shim runs", || !leaks::processes_of(&shims, None).is_empty());
    daemon.kill9();
    drop(client.join());
    daemon.spawn();
    assert_eq!(daemon.state("slow")["Status"], "created");
    assert_eq!(leaks::processes_of(&shims, None), []);
    post(&daemon, "/containers/slow/start").expect(204);
    remove(&daemon, "slow").expect(204);
    daemon.assert_empties();
}

#[test]
fn a_start_that_waited_behind_a_removal_does_not_bring_the_container_back() {
    let directory = tempfile::tempdir().unwrap();
    let flags = slow_runtime(directory.path());
    let Some(mut daemon) = own_with(Options { flags, ..Options::default() }) else { return };
    for round in 0..3 {
        let name = format!("back-{round}");
        let id = create(&daemon, &name, &["sleep", "300"], json!({"Runtime": "slow"}));
        std::thread::scope(|scope| {
            scope.spawn(|| post(&daemon, &format!("/containers/{id}/start")));
            std::thread::sleep(Duration::from_millis(100));
            scope.spawn(|| remove(&daemon, &id));
            std::thread::sleep(Duration::from_millis(100));
            scope.spawn(|| post(&daemon, &format!("/containers/{id}/restart?t=0")));
            scope.spawn(|| post(&daemon, &format!("/containers/{id}/rename?name=other-{round}")));
        });
        assert_eq!(daemon.container_ids(), Vec::<String>::new());
    }
    daemon.kill9();
    daemon.spawn();
    assert_eq!(daemon.container_ids(), Vec::<String>::new());
    daemon.assert_empties();
}

#[test]
fn a_stopped_shim_holds_up_its_own_container_and_no_other() {
    let Some(mut daemon) = own() else { return };
    let stuck = run(&daemon, "stuck", &["sleep", "300"], json!({}));
    run(&daemon, "other", &["sleep", "300"], json!({}));
    let shim = shim_of(&daemon, &stuck);
    kill_process(shim, Signal::STOP).unwrap();
    std::thread::scope(|scope| {
        let refused = scope.spawn(|| post(&daemon, "/containers/stuck/kill"));
        std::thread::sleep(Duration::from_millis(100));
        let begin = Instant::now();
        daemon.get("/containers/json");
        daemon.get("/containers/stuck/json");
        daemon.get("/info");
        post(&daemon, "/containers/other/restart?t=0").expect(204);
        assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
        let refused = refused.join().unwrap().expect(503);
        assert!(refused.message().contains("container stuck"), "{}", refused.text());
    });
    // A daemon that starts now must not take the silence for a death.
    daemon.kill9();
    daemon.spawn();
    assert_eq!(daemon.state("stuck")["Running"], true);
    kill_process(shim, Signal::CONT).unwrap();
    let exec = json!({"Cmd": ["true"]});
    let exec = daemon.request("POST", "/containers/stuck/exec", &exec).expect(201).json();
    daemon
        .request("POST", &format!("/exec/{}/start", exec["Id"].as_str().unwrap()), &json!({"Detach": true}))
        .expect(200);
    post(&daemon, "/containers/stuck/stop?t=0").expect(204);
    assert_eq!(daemon.state("stuck")["ExitCode"], 137);
    // And one that stays stopped does not keep its container from being removed.
    post(&daemon, "/containers/stuck/start").expect(204);
    kill_process(shim_of(&daemon, &stuck), Signal::STOP).unwrap();
    remove(&daemon, "stuck").expect(204);
    remove(&daemon, "other").expect(204);
    daemon.assert_empties();
}

#[test]
fn a_patient_stop_keeps_nobody_else_out() {
    let Some(daemon) = own() else { return };
    // Its first process has no handler for the signal and so, as process 1, never gets it.
    run(&daemon, "patient", &["sleep", "300"], json!({}));
    std::thread::scope(|scope| {
        let stop = scope.spawn(|| post(&daemon, "/containers/patient/stop?t=600"));
        std::thread::sleep(Duration::from_millis(200));
        let begin = Instant::now();
        remove(&daemon, "patient").expect(204);
        stop.join().unwrap().expect(204);
        assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
    });
    daemon.assert_empties();
}

#[test]
fn a_paused_container_can_be_killed_and_removed() {
    let Some(daemon) = own() else { return };
    for verb in ["kill", "stop?t=0", "restart?t=0"] {
        run(&daemon, "paused", &["sleep", "300"], json!({}));
        post(&daemon, "/containers/paused/pause").expect(204);
        let begin = Instant::now();
        post(&daemon, &format!("/containers/paused/{verb}")).expect(204);
        assert!(begin.elapsed() < AT_ONCE, "{verb}: {:?}", begin.elapsed());
        remove(&daemon, "paused").expect(204);
    }
    run(&daemon, "paused", &["sleep", "300"], json!({}));
    post(&daemon, "/containers/paused/pause").expect(204);
    remove(&daemon, "paused").expect(204);
    daemon.assert_empties();
}

#[test]
fn requests_of_clients_that_left_are_done_to_the_end() {
    let Some(daemon) = own() else { return };
    let body = json!({"Image": BUSYBOX, "Cmd": ["sleep", "300"]}).to_string();
    for round in 0..10 {
        let name = format!("left-{round}");
        and_leave(&daemon, &format!("/containers/create?name={name}"), &body);
        let known = || daemon.request("GET", &format!("/containers/{name}/json"), &Value::Null).status == 200;
        wait_until("the container is there", known);
        and_leave(&daemon, &format!("/containers/{name}/rename?name=new-{round}"), "");
        wait_until("it has its new name", || !known());
        and_leave(&daemon, &format!("/containers/new-{round}/start"), "");
        daemon.wait_status(&format!("new-{round}"), "running");
        and_leave(&daemon, &format!("/containers/new-{round}/pause"), "");
        daemon.wait_status(&format!("new-{round}"), "paused");
        // Both names are free or taken, as they should be.
        create(&daemon, &name, &["true"], json!({}));
        daemon.remove_all();
    }
    daemon.assert_empties();
}

#[test]
fn failed_creates_leave_no_volumes() {
    let Some(daemon) = own() else { return };
    create(&daemon, "taken", &["true"], json!({}));
    let anonymous = json!({"/a": {}, "/b": {}});
    let body = json!({"Image": BUSYBOX, "Cmd": ["true"], "Volumes": anonymous});
    daemon.request("POST", "/containers/create?name=taken", &body).expect(409);
    let missing = json!([{"Type": "bind", "Source": "/nonexistent", "Target": "/z"}]);
    let body = json!({"Image": BUSYBOX, "Volumes": anonymous, "HostConfig": {"Mounts": missing}});
    daemon.request("POST", "/containers/create?name=other", &body).expect(400);
    assert_eq!(daemon.get("/volumes")["Volumes"], json!([]));
    // The name of the one that failed is free.
    create(&daemon, "other", &["true"], json!({}));
    daemon.remove_all();
    daemon.assert_empties();
}

#[test]
fn anonymous_volumes_outlive_the_container_where_it_was_asked_for_only() {
    let Some(mut daemon) = own() else { return };
    let body = json!({"Image": BUSYBOX, "Cmd": ["true"], "Volumes": {"/a": {}}});
    for name in ["kept", "gone"] {
        daemon.request("POST", &format!("/containers/create?name={name}"), &body).expect(201);
    }
    daemon.request("DELETE", "/containers/kept", &Value::Null).expect(204);
    daemon.request("DELETE", "/containers/gone?v=1", &Value::Null).expect(204);
    daemon.kill9();
    daemon.spawn();
    let volumes = daemon.get("/volumes");
    assert_eq!(volumes["Volumes"].as_array().map(Vec::len), Some(1), "{volumes}");
}

#[test]
fn a_volume_that_was_being_filled_is_filled_again() {
    let Some(mut daemon) = own() else { return };
    create(&daemon, "filled", &["sh", "-c", "ls /data | wc -l"], json!({"Binds": ["data:/data"]}));
    let body = json!({"Image": BUSYBOX, "Cmd": ["ls", "/etc"], "HostConfig": {"Binds": ["etc:/etc"]}});
    daemon.request("POST", "/containers/create?name=etc", &body).expect(201);
    daemon.kill9();
    // What a daemon that was killed in the middle of the copy leaves.
    let volume = daemon.data_root.join("volumes/etc");
    std::fs::write(volume.join("filling"), "").unwrap();
    std::fs::write(volume.join("_data/group"), "torn").unwrap();
    daemon.spawn();
    post(&daemon, "/containers/etc/start").expect(204);
    daemon.wait_status("etc", "exited");
    assert!(std::fs::read_to_string(volume.join("_data/passwd")).unwrap().contains("root"));
    assert!(std::fs::read_to_string(volume.join("_data/group")).unwrap().contains("root"));
    assert!(!volume.join("filling").exists());
}

#[test]
fn addresses_are_not_given_out_twice_after_a_crash() {
    let Some(mut daemon) = own() else { return };
    let address = |daemon: &Daemon, name: &str| {
        let networks = daemon.get(&format!("/containers/{name}/json"))["NetworkSettings"]["Networks"].clone();
        networks["bridge"]["IPAddress"].as_str().unwrap().to_string()
    };
    run(&daemon, "first", &["sleep", "300"], json!({}));
    let old = address(&daemon, "first");
    post(&daemon, "/containers/first/stop?t=0").expect(204);
    daemon.kill9();
    daemon.spawn();
    // Takes the address that the record of the stopped one still had.
    run(&daemon, "second", &["sleep", "300"], json!({}));
    assert_eq!(address(&daemon, "second"), old);
    // A start that fails before it has an address gives none back.
    let body = json!({"Image": BUSYBOX, "Cmd": ["true"]});
    daemon.request("POST", "/containers/create?name=spare", &body).expect(201);
    post(&daemon, "/containers/first/start").expect(204);
    run(&daemon, "third", &["sleep", "300"], json!({}));
    let mut all = ["first", "second", "third"].map(|n| address(&daemon, n));
    all.sort();
    assert!(all[0] != all[1] && all[1] != all[2], "{all:?}");
    daemon.remove_all();
    daemon.assert_empties();
}

#[test]
fn a_second_daemon_on_the_same_store_is_refused_before_it_touches_anything() {
    let Some(daemon) = own() else { return };
    let id = run(&daemon, "guarded", &["sleep", "300"], json!({}));
    let other = tempfile::tempdir().unwrap();
    let output = std::process::Command::new(program("brigd"))
        .arg("--data-root")
        .arg(&daemon.data_root)
        .arg("--exec-root")
        .arg(&daemon.exec_root)
        .arg("--pidfile")
        .arg(other.path().join("pid"))
        .arg("--host")
        .arg(format!("unix://{}/sock", other.path().display()))
        .args(["--config-file", "/dev/null", "--bridge", &daemon.bridge])
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("another daemon"), "{said}");
    assert_eq!(daemon.state(&id)["Running"], true);
    remove(&daemon, &id).expect(204);
    daemon.assert_empties();
}

#[test]
fn places_to_mount_on_may_be_links_to_nothing_and_stay_inside() {
    let Some(daemon) = own() else { return };
    let canary = daemon.scratch().join("canary");
    std::fs::create_dir(&canary).unwrap();
    std::fs::write(canary.join("hosts"), "canary").unwrap();
    let outside = canary.to_str().unwrap();
    let layer = testkit::tar::archive(&[
        Entry::symlink("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf"),
        Entry::symlink("etc/hosts", &format!("{outside}/hosts")),
        Entry::symlink("etc/hostname", &format!("../../../../..{outside}/hostname")),
        Entry::symlink("data", &format!("{outside}/data")),
    ]);
    let config = json!({"Cmd": ["sh"], "Env": ["PATH=/bin"], "Volumes": {"/data": {}}});
    daemon
        .load(&images::docker_archive("links:latest", &[images::busybox_layer(), &layer], &config))
        .expect(200);
    let command = "grep -q localhost /etc/hosts && test -s /etc/resolv.conf && touch /data/x";
    let body = json!({"Image": "links", "Cmd": ["sh", "-c", command]});
    let id = daemon.request("POST", "/containers/create", &body).expect(201).json();
    let id = id["Id"].as_str().unwrap();
    post(&daemon, &format!("/containers/{id}/start")).expect(204);
    daemon.wait_status(id, "exited");
    assert_eq!(daemon.state(id)["ExitCode"], 0);
    let left: Vec<_> = std::fs::read_dir(&canary).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["hosts"]);
    assert_eq!(std::fs::read_to_string(canary.join("hosts")).unwrap(), "canary");
    remove(&daemon, id).expect(204);
    daemon.assert_empties();
}

#[test]
fn what_no_kernel_takes_is_refused_at_create() {
    let Some(daemon) = own() else { return };
    for host in [
        json!({"CgroupParent": "../../x"}),
        json!({"CgroupParent": "a\0b"}),
        json!({"CpusetCpus": "8000"}),
        json!({"CpusetCpus": "../x"}),
        json!({"CpuPeriod": 1}),
        json!({"CpuQuota": 1}),
        json!({"NanoCpus": i64::MAX}),
        json!({"Memory": 64 << 20, "MemorySwap": -5}),
        json!({"MemorySwappiness": 1000}),
        json!({"OomScoreAdj": 5000}),
        json!({"Tmpfs": {"/proc": ""}}),
        json!({"Tmpfs": {"relative": ""}}),
        json!({"Binds": ["x:/a"], "Tmpfs": {"/a/": ""}}),
        json!({"Mounts": [{"Type": "bind", "Source": "/tmp", "Target": "/a", "BindOptions": {"Propagation": "x"}}]}),
    ] {
        let body = json!({"Image": BUSYBOX, "Cmd": ["true"], "HostConfig": host});
        let answer = daemon.request("POST", "/containers/create", &body);
        assert_eq!(answer.status, 400, "{host}: {}", answer.text());
    }
    daemon.assert_empties();
}

#[test]
fn what_only_the_runtime_refuses_is_the_clients_mistake_too() {
    let Some(daemon) = own() else { return };
    for (config, host) in [
        (json!({"Cmd": ["/nonexistent"]}), json!({})),
        (json!({"Cmd": ["/etc/not-a-program"]}), json!({})),
        (json!({"Cmd": ["/etc"]}), json!({})),
        (json!({"Cmd": ["true"], "WorkingDir": "/etc/passwd"}), json!({})),
        (json!({"Cmd": ["true"], "WorkingDir": format!("/{}", "a".repeat(300))}), json!({})),
        (json!({"Cmd": ["true"]}), json!({"Sysctls": {"net.ipv4.ip_forward": "bogus"}})),
        (
            json!({"Cmd": ["true"]}),
            json!({"Devices": [{"PathOnHost": "/nonexistent", "PathInContainer": "/x"}]}),
        ),
    ] {
        let mut body = config.clone();
        body["Image"] = BUSYBOX.into();
        body["HostConfig"] = host.clone();
        let created = daemon.request("POST", "/containers/create?name=refused", &body).expect(201).json();
        let id = created["Id"].as_str().unwrap();
        let answer = post(&daemon, &format!("/containers/{id}/start"));
        assert_eq!(answer.status, 400, "{config} {host}: {}", answer.text());
        remove(&daemon, id).expect(204);
    }
    daemon.assert_empties();
}

#[test]
fn requests_that_cost_much_are_answered_and_others_meanwhile() {
    let Some(daemon) = own() else { return };
    let begin = Instant::now();
    let pattern = format!("%7B%22reference%22%3A%5B%22{}x%22%5D%7D", "*b".repeat(60));
    daemon.request("GET", &format!("/images/json?filters={pattern}"), &Value::Null).expect(200);
    let hours = "9".repeat(38);
    daemon.request("GET", &format!("/events?since={hours}h&until=1"), &Value::Null).expect(400);
    let env: Vec<String> = (0..50_000).map(|n| format!("V{n}=x")).collect();
    let body = json!({"Image": BUSYBOX, "Cmd": ["true"], "Env": env});
    daemon.request("POST", "/containers/create", &body).expect(201);
    assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
    daemon.remove_all();
    daemon.assert_empties();
}
