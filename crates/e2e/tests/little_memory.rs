//! A daemon in a cgroup with little memory beyond what it has at rest, with a hundred containers: large requests, and many
//! slow clients at once.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]
#![allow(clippy::print_stdout, reason = "read by who runs the tests")]

use e2e::{BUSYBOX, own};
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use testkit::daemon::Daemon;
use testkit::raw;

const CONTAINERS: usize = 100;
/// What there is above what is used at rest.
const ROOM: u64 = 40 << 20;
/// Several times of it.
const LARGE: usize = 160 << 20;

/// A memory cgroup of version 1, which ends with its test.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> Option<Cgroup> {
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
        let hierarchy = mounts.lines().find_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (place, kind, options) = (words.next()?, words.next()?, words.next()?);
            (kind == "cgroup" && options.split(',').any(|o| o == "memory")).then(|| PathBuf::from(place))
        })?;
        let path = hierarchy.join(format!("brig-test-little-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Some(Cgroup(path))
    }

    fn take(&self, pid: u32) {
        std::fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    fn number(&self, file: &str) -> u64 {
        std::fs::read_to_string(self.0.join(file)).unwrap().trim().parse().unwrap()
    }

    fn kills(&self) -> u64 {
        let text = std::fs::read_to_string(self.0.join("memory.oom_control")).unwrap();
        text.lines().find_map(|l| l.strip_prefix("oom_kill ")).unwrap().parse().unwrap()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // What a failed test left runs on above it.
        let above = self.0.parent().unwrap().join("cgroup.procs");
        for pid in std::fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default().lines() {
            drop(std::fs::write(&above, pid));
        }
        drop(std::fs::remove_dir(&self.0));
    }
}

fn start(daemon: &Daemon, name: &str, command: &[&str]) {
    let body = json!({"Image": BUSYBOX, "Cmd": command, "HostConfig": {"NetworkMode": "none"}});
    daemon.request("POST", &format!("/containers/create?name={name}"), &body).expect(201);
    daemon.request("POST", &format!("/containers/{name}/start"), &Value::Null).expect(204);
}

/// An archive with one file of noise.
fn archive() -> Vec<u8> {
    let mut header = vec![0u8; 512];
    header[..5].copy_from_slice(b"large");
    header[100..107].copy_from_slice(b"0000644");
    header[124..135].copy_from_slice(format!("{LARGE:011o}").as_bytes());
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut state = 1u64;
    header.reserve(LARGE + 1024);
    while header.len() < LARGE + 512 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        header.extend_from_slice(&state.to_le_bytes());
    }
    header.resize(LARGE + 1536, 0);
    header
}

/// Asks for a log, and reads only when told to.
fn follow(socket: &Path) -> std::os::unix::net::UnixStream {
    let mut stream = raw::connect(socket).unwrap();
    write!(stream, "GET /containers/talks/logs?stdout=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    stream
}

#[test]
#[ignore = "long: cargo xtask conform stress"]
fn little_memory() {
    let Some(daemon) = own() else { return };
    let Some(cgroup) = Cgroup::new() else {
        println!("skipped: there is no memory hierarchy of version 1");
        return;
    };
    cgroup.take(daemon.pid());
    let brigd = daemon.pid();
    for n in 0..CONTAINERS {
        start(&daemon, &format!("c{n}"), &["sleep", "1000"]);
    }
    let said = 48 << 20;
    start(
        &daemon,
        "talks",
        &["sh", "-c", &format!("yes 0123456789012345678901234567890123456789 | head -c {said}")],
    );
    daemon.request("POST", "/containers/talks/wait", &Value::Null).expect(200);
    let used = cgroup.number("memory.usage_in_bytes");
    let limit = (used + ROOM).to_string();
    std::fs::write(cgroup.0.join("memory.limit_in_bytes"), limit).unwrap();
    let check = |doing: &str| {
        let most = cgroup.number("memory.max_usage_in_bytes") >> 20;
        println!("{doing}: {} MiB used, {most} at most", cgroup.number("memory.usage_in_bytes") >> 20);
        assert_eq!((cgroup.kills(), daemon.pid()), (0, brigd), "{doing}: {}", daemon.log());
    };
    check("a hundred containers");

    let tar = archive();
    let send = |method: &str, path: &str| {
        let answer = raw::send(&daemon.socket, method, path, "application/x-tar", &tar).unwrap();
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    };
    send("POST", "/images/create?fromSrc=-&repo=large");
    check("import");
    send("PUT", "/containers/c1/archive?path=/");
    check("archive in");
    let mut all = Vec::new();
    let mut stream = raw::connect(&daemon.socket).unwrap();
    write!(stream, "GET /containers/c1/archive?path=/large HTTP/1.0\r\n\r\n").unwrap();
    stream.read_to_end(&mut all).unwrap();
    assert!(all.len() > LARGE);
    check("archive out");
    // Slow clients by the dozen, each with much to come.
    let mut followers: Vec<_> = (0..30).map(|_| follow(&daemon.socket)).collect();
    for follower in &mut followers {
        follower.read_exact(&mut [0; 4096]).unwrap();
    }
    check("thirty who read a log slowly");
    let mut read: Vec<usize> = Vec::new();
    for mut follower in followers {
        read.push(std::io::copy(&mut follower, &mut std::io::sink()).unwrap().try_into().unwrap());
    }
    // Each line has a head of eight bytes, and the stream its chunks.
    assert!(read.iter().all(|n| *n > said), "{read:?}");
    check("thirty logs");
    let listed = daemon.get("/containers/json");
    assert_eq!(listed.as_array().unwrap().len(), CONTAINERS);
    for container in daemon.get("/containers/json?all=1").as_array().unwrap() {
        let id = container["Id"].as_str().unwrap();
        daemon.request("DELETE", &format!("/containers/{id}?force=1&v=1"), &Value::Null).expect(204);
    }
    check("the end");
    daemon.assert_no_leaks();
}
