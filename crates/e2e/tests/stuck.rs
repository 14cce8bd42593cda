//! A container whose process cannot be killed, because it waits in the kernel or is frozen: who asks for it hears so in time,
//! and nobody else notices.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::{BUSYBOX, own};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use testkit::daemon::Daemon;
use testkit::{raw, wait_until};

/// What is not held up by anything takes less.
const AT_ONCE: Duration = Duration::from_secs(8);
/// What waits for a task that cannot be killed gives up by then.
const AT_LAST: Duration = Duration::from_secs(40);

/// A file system that can be frozen: whoever writes to it then waits where no signal reaches.
struct FreezingDisk {
    directory: tempfile::TempDir,
    is_frozen: bool,
}

fn run(program: &str, args: &[&str]) {
    let done = Command::new(program).args(args).output().unwrap();
    assert!(done.status.success(), "{program} {args:?}: {done:?}");
}

impl FreezingDisk {
    fn new() -> FreezingDisk {
        let directory = tempfile::Builder::new().prefix("brig-test-freezing-").tempdir().unwrap();
        let image = directory.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        let disk = FreezingDisk { directory, is_frozen: false };
        std::fs::create_dir(disk.path()).unwrap();
        run("mkfs.ext4", &["-q", image.to_str().unwrap()]);
        run("mount", &["-o", "loop", image.to_str().unwrap(), disk.path().to_str().unwrap()]);
        disk
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("mounted")
    }

    fn freeze(&mut self) {
        run("fsfreeze", &["-f", self.path().to_str().unwrap()]);
        self.is_frozen = true;
    }

    fn thaw(&mut self) {
        if std::mem::take(&mut self.is_frozen) {
            run("fsfreeze", &["-u", self.path().to_str().unwrap()]);
        }
    }
}

impl Drop for FreezingDisk {
    fn drop(&mut self) {
        self.thaw();
        let _ignored = rustix::mount::unmount(self.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

fn start(daemon: &Daemon, name: &str, command: &str, binds: &[String]) {
    let body = json!({
        "Image": BUSYBOX, "Cmd": ["sh", "-c", command], "StopTimeout": 0,
        "HostConfig": {"NetworkMode": "none", "Binds": binds},
    });
    daemon.request("POST", &format!("/containers/create?name={name}"), &body).expect(201);
    daemon.request("POST", &format!("/containers/{name}/start"), &Value::Null).expect(204);
}

fn timed(daemon: &Daemon, method: &str, path: &str) -> (raw::Response, Duration) {
    let begin = Instant::now();
    let answer = daemon.request(method, path, &Value::Null);
    (answer, begin.elapsed())
}

/// All that others do, while somebody waits for what cannot be killed.
fn others_are_served(daemon: &Daemon, stuck: &str, round: u32) {
    let at_once = |method: &str, path: &str, expected: u16| {
        let (answer, took) = timed(daemon, method, path);
        assert_eq!(answer.status, expected, "{method} {path}: {}", answer.text());
        assert!(took < AT_ONCE, "{method} {path} took {took:?}");
    };
    for path in [
        "/containers/json?all=1".to_string(),
        format!("/containers/{stuck}/json"),
        format!("/containers/{stuck}/stats?stream=0&one-shot=1"),
        format!("/containers/{stuck}/logs?stdout=1"),
        format!("/containers/{stuck}/top"),
        "/containers/other/stats?stream=0&one-shot=1".to_string(),
        "/events?since=1&until=2".to_string(),
        "/info".to_string(),
        "/images/json".to_string(),
    ] {
        at_once("GET", &path, 200);
    }
    let name = format!("new{round}");
    start(daemon, &name, "sleep 600", &[]);
    at_once("POST", &format!("/containers/{name}/stop"), 204);
    at_once("DELETE", &format!("/containers/{name}"), 204);
}

fn state_of(pid: u64) -> String {
    let stat =
        std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).unwrap_or_default();
    stat.rsplit(") ").next().unwrap_or_default().chars().take(1).collect()
}

#[test]
#[ignore = "long: cargo xtask conform stress"]
fn a_process_that_waits_in_the_kernel() {
    if !testkit::is_root() {
        return;
    }
    let mut disk = FreezingDisk::new();
    let Some(daemon) = own() else { return };
    start(&daemon, "other", "sleep 600", &[]);
    let bind = format!("{}:/disk", disk.path().display());
    start(&daemon, "stuck", "while :; do echo x >/disk/file; done", &[bind]);
    wait_until("it writes", || disk.path().join("file").exists());
    disk.freeze();
    let pid = daemon.state("stuck")["Pid"].as_u64().unwrap();
    wait_until("it waits in the kernel", || state_of(pid) == "D");
    std::thread::scope(|scope| {
        let daemon = &daemon;
        let asked: Vec<_> = [
            ("POST", "/containers/stuck/stop"),
            ("POST", "/containers/stuck/kill"),
            ("DELETE", "/containers/stuck?force=1"),
        ]
        .map(|(method, path)| scope.spawn(move || (path, timed(daemon, method, path))))
        .into();
        for round in 0..2 {
            others_are_served(daemon, "stuck", round);
        }
        for asked in asked {
            let (path, (answer, took)) = asked.join().unwrap();
            assert!(took < AT_LAST, "{path} took {took:?}");
            // A kill has done what it can; the others say that it was not enough.
            let is_told = answer.status >= 400 && answer.message().contains("did not end");
            assert!(path.ends_with("/kill") || is_told, "{path}: {}", answer.text());
        }
    });
    assert_eq!(daemon.state("stuck")["Running"], true);
    disk.thaw();
    daemon.wait_status("stuck", "exited");
    daemon.assert_empties();
}

/// The cgroup directory through which the container can be frozen behind the daemon's back, and what to write to which file.
fn freezer_of(pid: u64) -> Option<(std::path::PathBuf, &'static str, &'static str)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (_, names, path) = (parts.next()?, parts.next()?, parts.next()?);
        let path = path.trim_start_matches('/');
        if names.split(',').any(|n| n == "freezer") {
            let directory = Path::new("/sys/fs/cgroup/freezer").join(path);
            return Some((directory.join("freezer.state"), "FROZEN", "THAWED"));
        }
    }
    let path = text.lines().find_map(|l| l.strip_prefix("0::/"))?;
    Some((Path::new("/sys/fs/cgroup").join(path).join("cgroup.freeze"), "1", "0"))
}

#[test]
#[ignore = "long: cargo xtask conform stress"]
fn a_container_that_somebody_else_froze() {
    let Some(daemon) = own() else { return };
    start(&daemon, "other", "sleep 600", &[]);
    start(&daemon, "stuck", "while :; do :; done", &[]);
    let pid = daemon.state("stuck")["Pid"].as_u64().unwrap();
    let (file, freeze, _) = freezer_of(pid).expect("its cgroup");
    std::fs::write(&file, freeze).unwrap();
    std::thread::scope(|scope| {
        let daemon = &daemon;
        let asked = scope.spawn(move || timed(daemon, "DELETE", "/containers/stuck?force=1"));
        others_are_served(daemon, "other", 0);
        // Whoever froze it: `rm -f` ends it.
        let (answer, took) = asked.join().unwrap();
        assert_eq!(answer.status, 204, "{}", answer.text());
        assert!(took < AT_LAST, "{took:?}");
    });
    daemon.assert_empties();
}
