//! `kill -9` of the daemon, and of a shim: no container is harmed, nothing acknowledged is lost, nothing is left.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::random::Random;
use e2e::{BUSYBOX, Client};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use testkit::daemon::{Daemon, Options};
use testkit::registry::Registry;
use testkit::{images, leaks, raw, tar, wait_until};

const BRIG: Client = Client::Brig;

/// A daemon of the test's own. One at a time: they would wait for each other's disk writes.
fn own() -> Option<(Daemon, MutexGuard<'static, ()>)> {
    static TURN: Mutex<()> = Mutex::new(());
    if !testkit::is_root() {
        return None;
    }
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let daemon = Daemon::start(Options::default());
    daemon.load_busybox(BUSYBOX);
    Some((daemon, turn))
}

fn is_alive(pid: &Value) -> bool {
    let pid = pid.as_u64().unwrap();
    // A zombie's directory is there too; its command line is empty.
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

/// A directory of the host at `/go` in containers, through which a test tells them to go on.
struct Gate {
    directory: std::path::PathBuf,
}

impl Gate {
    fn new(daemon: &Daemon) -> Gate {
        let directory = daemon.scratch().join("gate");
        std::fs::create_dir_all(&directory).unwrap();
        Gate { directory }
    }

    fn volume(&self) -> String {
        format!("{}:/gate", self.directory.display())
    }

    fn open(&self) {
        std::fs::write(self.directory.join("open"), "").unwrap();
    }
}

const WAIT_AT_GATE: &str = "while [ ! -e /gate/open ]; do sleep 0.05; done";

#[test]
fn containers_outlive_the_daemon() {
    let Some((mut daemon, _turn)) = own() else { return };
    let gate = Gate::new(&daemon);
    let run = |daemon: &Daemon, name: &str, more: &[&str], script: &str| {
        let mut args = vec!["run", "-d", "--name", name];
        args.extend_from_slice(more);
        args.extend_from_slice(&[BUSYBOX, "sh", "-c", script]);
        BRIG.run(daemon, &args).success()
    };
    let count = "trap 'exit 0' TERM; i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done";
    run(&daemon, "counts", &[], count);
    run(&daemon, "ends", &["-v", &gate.volume()], &format!("{WAIT_AT_GATE}; echo bye; exit 5"));
    run(&daemon, "goes", &["--rm", "-v", &gate.volume()], WAIT_AT_GATE);
    let again = format!("[ -e /gate/open ] && sleep 300; {WAIT_AT_GATE}");
    run(&daemon, "returns", &["--restart", "always", "-v", &gate.volume()], &again);
    let attached = BRIG.start(&daemon, &["attach", "--no-stdin", "counts"]);
    attached.wait_stdout("\n");
    let pids: Vec<Value> = ["counts", "ends", "goes"].map(|n| daemon.state(n)["Pid"].clone()).to_vec();

    daemon.kill9();
    drop(attached.finish());
    assert!(pids.iter().all(is_alive), "a container died with the daemon");
    gate.open();
    wait_until("both ended without a daemon", || !is_alive(&pids[1]) && !is_alive(&pids[2]));
    assert!(is_alive(&pids[0]));
    daemon.spawn();

    assert_eq!(daemon.state("counts")["Pid"], pids[0]);
    assert_eq!(daemon.state("counts")["Status"], "running");
    let ended = daemon.state("ends");
    assert_eq!((&ended["Status"], &ended["ExitCode"]), (&json!("exited"), &json!(5)), "{ended}");
    assert!(ended["FinishedAt"].as_str().unwrap().starts_with("20"), "{ended}");
    assert_eq!(BRIG.run(&daemon, &["logs", "ends"]).success(), "bye");
    wait_until("the one to be removed is gone", || {
        daemon.request("GET", "/containers/goes/json", &Value::Null).status == 404
    });
    daemon.wait_status("returns", "running");

    // Nothing is missing from the log, and it goes on.
    let follow = BRIG.start(&daemon, &["logs", "-f", "counts"]);
    let seen = |text: &str| text.lines().count();
    let before = seen(&BRIG.run(&daemon, &["logs", "counts"]).success());
    wait_until("the log goes on", || seen(&follow.stdout()) > before + 5);
    assert_eq!(BRIG.run(&daemon, &["exec", "counts", "echo", "hi"]).success(), "hi");
    BRIG.run(&daemon, &["stop", "counts"]).success();
    let followed = follow.finish().expect(0);
    let lines: Vec<usize> = followed.stdout.lines().map(|l| l.parse().unwrap()).collect();
    assert_eq!(lines, (1..=lines.len()).collect::<Vec<_>>());
    assert_eq!(daemon.state("counts")["ExitCode"], 0);
    daemon.assert_empties();
}

#[test]
fn an_orderly_restart_harms_nothing_either() {
    let Some((mut daemon, _turn)) = own() else { return };
    BRIG.run(&daemon, &["run", "-d", "--name", "stays", BUSYBOX, "sleep", "300"]).success();
    let pid = daemon.state("stays")["Pid"].clone();
    assert!(daemon.stop().is_some_and(|status| status.success()));
    assert!(is_alive(&pid));
    daemon.spawn();
    assert_eq!(daemon.state("stays")["Pid"], pid);
    daemon.assert_empties();
}

#[test]
fn what_was_acknowledged_is_there() {
    let Some((mut daemon, _turn)) = own() else { return };
    for round in 0..5 {
        let kept = format!("kept{round}");
        let removed = format!("removed{round}");
        BRIG.run(&daemon, &["create", "--name", &removed, BUSYBOX]).success();
        BRIG.run(&daemon, &["create", "--name", &kept, BUSYBOX, "echo", "hi"]).success();
        BRIG.run(&daemon, &["rm", &removed]).success();
        let tag = format!("tagged:{round}");
        BRIG.run(&daemon, &["tag", BUSYBOX, &tag]).success();
        daemon.kill9();
        daemon.spawn();
        assert_eq!(daemon.state(&kept)["Status"], "created");
        assert_eq!(daemon.request("GET", &format!("/containers/{removed}/json"), &Value::Null).status, 404);
        daemon.request("GET", &format!("/images/{tag}/json"), &Value::Null).expect(200);
        assert_eq!(BRIG.run(&daemon, &["start", "-a", &kept]).success(), "hi");
    }
    daemon.assert_empties();
}

#[test]
fn a_killed_shim() {
    let Some((daemon, _turn)) = own() else { return };
    BRIG.run(&daemon, &["run", "-d", "--name", "orphan", BUSYBOX, "sleep", "300"]).success();
    BRIG.run(&daemon, &["run", "-d", "--name", "other", BUSYBOX, "sleep", "300"]).success();
    let id = daemon.get("/containers/orphan/json")["Id"].as_str().unwrap().to_string();
    let shims = leaks::processes_of(&daemon.exec_root.join("shims").join(&id), Some(daemon.pid()));
    let [(shim, _)] = shims.as_slice() else { panic!("not one shim: {shims:?}") };
    let shim = rustix::process::Pid::from_raw(i32::try_from(*shim).unwrap()).unwrap();
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
    wait_until("its container is not said to run", || daemon.state("orphan")["Running"] == false);
    assert_eq!(daemon.state("other")["Running"], true);
    BRIG.run(&daemon, &["rm", "orphan"]).success();
    daemon.assert_empties();
}

/// An image of four layers, of which one is large enough for a kill to hit.
fn push_layers(registry: &Registry) -> String {
    let mut layers = vec![tar::gzip(images::busybox_layer())];
    let mut random = Random::seeded(7);
    for n in 0..3 {
        let body: Vec<u8> = (0..400_000).map(|_| random.below(256).to_le_bytes()[0]).collect();
        let entry = tar::Entry::file(&format!("file{n}"), 0o644, body);
        layers.push(tar::gzip(&tar::archive(&[entry])));
    }
    registry.push_image("layers", "1", &layers, images::busybox_config());
    registry.reference("layers", "1")
}

fn pull_path(reference: &str) -> String {
    let (name, tag) = reference.rsplit_once(':').unwrap();
    format!("/images/create?fromImage={name}&tag={tag}")
}

#[test]
fn killed_while_pulling() {
    let Some((mut daemon, _turn)) = own() else { return };
    let registry = Registry::start();
    let reference = push_layers(&registry);
    let begin = Instant::now();
    daemon.request("POST", &pull_path(&reference), &Value::Null).expect(200);
    let whole = begin.elapsed();
    for part in 0..8 {
        daemon.request("DELETE", &format!("/images/{reference}?force=1"), &Value::Null).expect(200);
        let socket = daemon.socket.clone();
        let path = pull_path(&reference);
        let puller = std::thread::spawn(move || drop(raw::send(&socket, "POST", &path, "", &[])));
        std::thread::sleep(whole * part / 8);
        daemon.kill9();
        puller.join().unwrap();
        daemon.spawn();
        daemon.assert_no_leaks();
        let done = daemon.request("POST", &pull_path(&reference), &Value::Null).expect(200);
        assert!(!done.text().contains("errorDetail"), "{}", done.text());
        let sizes = "stat -c %s /file0 /file1 /file2 | sort -u";
        assert_eq!(BRIG.run(&daemon, &["run", "--rm", &reference, "sh", "-c", sizes]).success(), "400000");
    }
    daemon.assert_empties();
}

/// What clients do while the daemon dies under them, again and again until told to stop. Every failure is expected.
fn work(socket: &std::path::Path, worker: u64, seed: u64, reference: &str, stop: &AtomicBool) {
    let mut random = Random::seeded(seed ^ (worker << 32));
    let ask = |method: &str, path: &str, body: &str| {
        raw::send(socket, method, path, "application/json", body.as_bytes()).ok()
    };
    while !stop.load(Ordering::Relaxed) {
        let name = format!("w{worker}-{}", random.below(3));
        match random.below(10) {
            0..=2 => {
                let network = ["bridge", "none", "host"][usize::try_from(random.below(3)).unwrap()];
                let command = ["sleep 300", "exit 3", "echo hi"][usize::try_from(random.below(3)).unwrap()];
                let body = json!({
                    "Image": BUSYBOX, "Cmd": ["sh", "-c", command],
                    "HostConfig": {"NetworkMode": network, "AutoRemove": random.below(4) == 0},
                });
                ask("POST", &format!("/containers/create?name={name}"), &body.to_string());
            }
            3..=5 => drop(ask("POST", &format!("/containers/{name}/start"), "")),
            6 => drop(ask("DELETE", &format!("/containers/{name}?force=1"), "")),
            7 => drop(ask("POST", &format!("/containers/{name}/kill"), "")),
            8 => drop(ask("POST", &pull_path(reference), "")),
            _ => drop(ask("DELETE", &format!("/images/{reference}?force=1"), "")),
        }
        // With the daemon away every request fails at once; the processor is for others.
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The state that a daemon says its containers have is the one they are in.
fn check_states(daemon: &Daemon) {
    for id in daemon.container_ids() {
        let answer = daemon.request("GET", &format!("/containers/{id}/json"), &Value::Null);
        if answer.status == 404 {
            // Removed by itself when it ended.
            continue;
        }
        let state = answer.expect(200).json()["State"].clone();
        let status = state["Status"].as_str().unwrap();
        assert!(matches!(status, "created" | "running" | "exited"), "{state}");
        if status == "running" && !is_alive(&state["Pid"]) {
            // It may just have ended.
            wait_until("a running container has a process", || {
                let answer = daemon.request("GET", &format!("/containers/{id}/json"), &Value::Null);
                answer.status == 404 || answer.json()["State"]["Running"] == false
            });
        }
    }
}

#[test]
fn killed_at_any_moment() {
    const ROUNDS: u32 = 20;
    let Some((mut daemon, _turn)) = own() else { return };
    let registry = Registry::start();
    let reference = push_layers(&registry);
    let mut random = Random::new();
    for round in 0..ROUNDS {
        let stop = AtomicBool::new(false);
        let socket = daemon.socket.clone();
        let seed = random.below(u64::MAX);
        std::thread::scope(|scope| {
            for worker in 0..3 {
                let (socket, reference, stop) = (&socket, &reference, &stop);
                scope.spawn(move || work(socket, worker, seed, reference, stop));
            }
            std::thread::sleep(Duration::from_millis(20 + random.below(400)));
            daemon.kill9();
            stop.store(true, Ordering::Relaxed);
        });
        if round % 4 == 3 {
            // Killed while it repairs, too.
            daemon.spawn_only();
            std::thread::sleep(Duration::from_millis(random.below(60)));
            daemon.kill9();
        }
        daemon.spawn();
        check_states(&daemon);
    }
    assert_eq!(BRIG.run(&daemon, &["run", "--rm", BUSYBOX, "echo", "hi"]).success(), "hi");
    daemon.assert_empties();
}
