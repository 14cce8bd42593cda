//! A daemon that runs out of descriptors, of processes, of room for what it runs with, or of its disk: it says what is missing,
//! nothing half-made is left, what runs goes on, and all is well again once there is enough.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]
#![allow(clippy::print_stdout, reason = "read by who runs the tests")]

use e2e::{BUSYBOX, own};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use testkit::daemon::{Daemon, Options};
use testkit::{raw, wait_until};

fn is_long() -> bool {
    std::env::var_os("BRIG_CONFORM_STRESS").is_some()
}

fn pid(daemon: &Daemon) -> Pid {
    Pid::from_raw(i32::try_from(daemon.pid()).unwrap()).unwrap()
}

/// The limit with which it can open so many more.
fn limit_with_free(daemon: &Daemon, free: u64) -> u64 {
    let entries = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().flatten();
    let used: BTreeSet<u64> = entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    // The limit is for the numbers, of which the lowest that is free is taken.
    let numbers = (0..).filter(|number| !used.contains(number));
    numbers.take(usize::try_from(free).unwrap()).last().map_or(0, |last| last + 1)
}

fn limit_descriptors(daemon: &Daemon, soft: Option<u64>) {
    let before = rustix::process::getrlimit(Resource::Nofile);
    // The hard limit stays, so that the soft one can be raised again.
    let hard = std::fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
    let hard = hard.lines().find(|l| l.starts_with("Max open files")).unwrap();
    let maximum: Option<u64> = hard.split_whitespace().nth(4).unwrap().parse().ok();
    let limit = Rlimit { current: soft.or(maximum).or(before.current), maximum };
    prlimit(Some(pid(daemon)), Resource::Nofile, limit).unwrap();
}

/// Makes, starts and removes a container. How far it came, and why not further.
fn try_run(daemon: &Daemon) -> Result<(), String> {
    let config = json!({
        "Image": BUSYBOX, "Cmd": ["sleep", "600"], "Volumes": {"/v": {}},
        "HostConfig": {"PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "0"}]}},
    });
    let steps = [
        ("POST", "/containers/create?name=tried", config, 201),
        ("POST", "/containers/tried/start", Value::Null, 204),
        ("DELETE", "/containers/tried?force=1&v=1", Value::Null, 204),
    ];
    for (method, path, body, expected) in steps {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let answer = raw::send(&daemon.socket, method, path, "application/json", &body);
        let answer = answer.map_err(|e| format!("{path}: {e}"))?;
        if answer.status != expected {
            assert!(answer.status >= 400 && !answer.message().is_empty(), "{path}: {answer:?}");
            return Err(format!("{path}: {} {}", answer.status, answer.message()));
        }
    }
    Ok(())
}

/// Tries with a little more each time; the causes that were named. Afterwards all is well.
fn with_more_and_more(
    daemon: &Daemon,
    amounts: impl Iterator<Item = u64>,
    limit: impl Fn(Option<u64>),
) -> Vec<String> {
    let start = json!({"Image": BUSYBOX, "Cmd": ["sleep", "600"], "HostConfig": {"NetworkMode": "none"}});
    daemon.request("POST", "/containers/create?name=stays", &start).expect(201);
    daemon.request("POST", "/containers/stays/start", &Value::Null).expect(204);
    let stays = daemon.state("stays")["Pid"].clone();
    // What is opened once and kept is opened now.
    try_run(daemon).unwrap();
    let brigd = daemon.pid();
    let mut causes = BTreeMap::new();
    let mut worked = 0;
    for amount in amounts {
        limit(Some(amount));
        let tried = try_run(daemon);
        limit(None);
        match tried {
            Ok(()) => worked += 1,
            Err(cause) => *causes.entry(cause).or_insert(0) += 1,
        }
        // Whatever was left half-made can be removed, and leaves nothing.
        let gone = daemon.request("DELETE", "/containers/tried?force=1&v=1", &Value::Null);
        assert!(matches!(gone.status, 204 | 404), "{}", gone.text());
        wait_until(&format!("no volume is left with {amount} more"), || {
            daemon.get("/volumes")["Volumes"] == json!([])
        });
        assert_eq!(daemon.pid(), brigd);
        assert_eq!(daemon.state("stays")["Pid"], stays);
    }
    for (cause, times) in &causes {
        println!("{times} x {cause}");
    }
    println!("{worked} times it was enough");
    try_run(daemon).unwrap();
    assert!(!daemon.whole_log().contains("panicked at"), "{}", daemon.log());
    daemon.assert_empties();
    causes.into_keys().collect()
}

#[test]
#[ignore = "long: cargo xtask conform stress"]
fn few_descriptors() {
    let Some(daemon) = own() else { return };
    let most = if is_long() { 60 } else { 24 };
    let step = if is_long() { 1 } else { 5 };
    let causes = with_more_and_more(&daemon, (1..most).step_by(step), |amount| {
        limit_descriptors(&daemon, amount.map(|more| limit_with_free(&daemon, more)));
    });
    assert!(
        causes.iter().any(|c| c.contains("Too many open files")
            || c.contains("timed out")
            || c.contains("unavailable")),
        "{causes:?}"
    );
}

#[test]
#[ignore = "long: cargo xtask conform stress"]
fn more_clients_than_descriptors() {
    let Some(daemon) = own() else { return };
    limit_descriptors(&daemon, Some(limit_with_free(&daemon, 20)));
    let idle: Vec<_> = (0..100).map(|_| raw::connect(&daemon.socket).unwrap()).collect();
    // None of them can be taken any more: the kernel keeps them waiting.
    wait_until("it has run out", || daemon.whole_log().contains("Too many open files"));
    drop(idle);
    wait_until("it answers again", || {
        raw::send(&daemon.socket, "GET", "/_ping", "", &[]).is_ok_and(|a| a.status == 200)
    });
    limit_descriptors(&daemon, None);
    try_run(&daemon).unwrap();
    daemon.assert_empties();
}

/// A cgroup that limits processes, of the test's own; gone when dropped.
struct Processes(PathBuf);

impl Processes {
    fn new() -> Option<Processes> {
        let name = format!("brig-test-few-{}", std::process::id());
        for base in ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"] {
            let path = Path::new(base).join(&name);
            if std::fs::create_dir(&path).is_ok() {
                let processes = Processes(path);
                if processes.0.join("pids.max").exists() {
                    return Some(processes);
                }
            }
        }
        println!("skipped: no cgroup that limits processes");
        None
    }

    fn now(&self) -> u64 {
        std::fs::read_to_string(self.0.join("pids.current")).unwrap().trim().parse().unwrap()
    }

    fn set(&self, most: Option<u64>) {
        let text = most.map_or("max".to_string(), |n| n.to_string());
        std::fs::write(self.0.join("pids.max"), text).unwrap();
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        // Busy until its processes are reaped.
        for _ in 0..500 {
            match std::fs::remove_dir(&self.0) {
                Err(e) if e.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => {
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
                _ => return,
            }
        }
    }
}

#[test]
#[ignore = "long: cargo xtask conform stress"]
fn few_processes() {
    if !testkit::is_root() {
        return;
    }
    let Some(processes) = Processes::new() else { return };
    // Dropped before the cgroup is.
    let Some(daemon) = own() else { return };
    std::fs::write(processes.0.join("cgroup.procs"), daemon.pid().to_string()).unwrap();
    let most = if is_long() { 12 } else { 6 };
    let causes = with_more_and_more(&daemon, (0..most).step_by(if is_long() { 1 } else { 2 }), |amount| {
        processes.set(amount.map(|more| processes.now() + more));
    });
    assert!(causes.iter().any(|c| c.contains("Resource temporarily unavailable")), "{causes:?}");
    drop(daemon);
}

#[test]
#[ignore = "long: cargo xtask conform stress"]
fn no_room_for_what_it_runs_with() {
    let Some(mut daemon) = own() else { return };
    daemon.stop();
    let size = std::ffi::CString::new("size=4m,mode=711").unwrap();
    let exec_root = daemon.exec_root.clone();
    rustix::mount::mount("tmpfs", &exec_root, "tmpfs", MountFlags::empty(), Some(size.as_c_str())).unwrap();
    daemon.spawn();
    try_run(&daemon).unwrap();
    let fill = daemon.exec_root.join("fill");
    // To the last block: what is written next finds none.
    drop(std::fs::write(&fill, vec![1; 8 << 20]));
    let cause = try_run(&daemon).unwrap_err();
    assert!(cause.contains("No space left on device"), "{cause}");
    daemon.request("GET", "/containers/json?all=1", &Value::Null).expect(200);
    std::fs::remove_file(&fill).unwrap();
    let gone = daemon.request("DELETE", "/containers/tried?force=1&v=1", &Value::Null);
    assert!(matches!(gone.status, 204 | 404), "{}", gone.text());
    try_run(&daemon).unwrap();
    let mut left = daemon.leaks();
    wait_until("nothing is left", || {
        left = daemon
            .leaks()
            .into_iter()
            .filter(|l| !l.ends_with(&format!("mount {}", exec_root.display())))
            .collect();
        left.is_empty()
    });
    daemon.stop();
    rustix::mount::unmount(&exec_root, UnmountFlags::DETACH).unwrap();
}

/// A file system on a device whose blocks are not all there: it breaks once it is written to, as a disk that dies does.
struct BreakingDisk {
    below: tempfile::TempDir,
    mounted: tempfile::TempDir,
}

impl BreakingDisk {
    fn new() -> BreakingDisk {
        let below = tempfile::Builder::new().prefix("brig-test-below-").tempdir().unwrap();
        let mounted = tempfile::Builder::new().prefix("brig-test-breaking-").tempdir().unwrap();
        let size = std::ffi::CString::new("size=24m").unwrap();
        rustix::mount::mount("tmpfs", below.path(), "tmpfs", MountFlags::empty(), Some(size.as_c_str()))
            .unwrap();
        let image = below.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(96 << 20).unwrap();
        let run = |program: &str, args: &[&str]| {
            let done = Command::new(program).args(args).output().unwrap();
            assert!(done.status.success(), "{program} {args:?}: {done:?}");
        };
        let (image, at) = (image.to_str().unwrap(), mounted.path().to_str().unwrap());
        run("mkfs.ext4", &["-q", "-E", "lazy_itable_init=1", "-O", "^metadata_csum", image]);
        run("mount", &["-o", "loop,errors=remount-ro", image, at]);
        BreakingDisk { below, mounted }
    }

    fn path(&self) -> &Path {
        self.mounted.path()
    }

    /// Writes until the device has no more blocks to give, and sees that this has been noticed.
    fn break_down(&self) {
        let file = std::fs::File::create(self.path().join("large")).unwrap();
        let mut file = &file;
        for _ in 0..64 {
            if std::io::Write::write_all(&mut file, &[7; 1 << 20]).is_err() {
                break;
            }
        }
        assert!(file.sync_all().is_err(), "it is broken");
    }
}

impl Drop for BreakingDisk {
    fn drop(&mut self) {
        let _ignored = rustix::mount::unmount(self.path(), UnmountFlags::DETACH);
        let _ignored = rustix::mount::unmount(self.below.path(), UnmountFlags::DETACH);
    }
}

#[test]
#[ignore = "long: cargo xtask conform stress"]
fn a_disk_that_breaks() {
    if !testkit::is_root() {
        return;
    }
    let disk = BreakingDisk::new();
    let daemon = Daemon::start(Options { data_root: Some(disk.path().join("data")), ..Options::default() });
    daemon.load_busybox(BUSYBOX);
    let config = json!({"Image": BUSYBOX, "Cmd": ["sleep", "600"], "HostConfig": {"NetworkMode": "none"}});
    daemon.request("POST", "/containers/create?name=stays", &config).expect(201);
    daemon.request("POST", "/containers/stays/start", &Value::Null).expect(204);
    let brigd = daemon.pid();
    disk.break_down();
    for round in 0..3 {
        // What is known is told, whatever the disk does.
        assert_eq!(daemon.get("/containers/json").as_array().unwrap().len(), 1, "round {round}");
        assert_eq!(daemon.state("stays")["Running"], true);
        daemon.request("GET", "/info", &Value::Null).expect(200);
        let made = daemon.request("POST", &format!("/containers/create?name=new{round}"), &config);
        assert!(made.status == 201 || (made.status == 500 && !made.message().is_empty()), "{made:?}");
        let logs = daemon.request("GET", "/containers/stays/logs?stdout=1", &Value::Null);
        assert!(matches!(logs.status, 200 | 500), "{logs:?}");
    }
    // What runs can be ended.
    let killed = daemon.request("POST", "/containers/stays/kill", &Value::Null);
    assert_eq!(killed.status, 204, "{}", killed.text());
    daemon.wait_status("stays", "exited");
    assert_eq!(daemon.pid(), brigd);
    assert!(!daemon.whole_log().contains("panicked at"), "{}", daemon.log());
}
