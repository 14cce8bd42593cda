//! The runtime killed at any moment of any verb, and at any of its system calls: `delete --force` finds all that it left.
//!
//! Needs root and Debian's packages busybox-static and strace. Prints its seed; `BRIG_TEST_SEED=...` repeats it.
//! `BRIG_KILL_EVERY=1` kills at every system call, which takes minutes (`cargo xtask conform runtime-kill`).
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test says why it fails or is skipped")]

#[path = "support/bundle.rs"]
mod bundle;

use bundle::{Bundle, bundle};
use serde_json::json;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A sequence of numbers that is the same for the same seed (xorshift).
struct Random(u64);

impl Random {
    fn new() -> Random {
        let given = std::env::var("BRIG_TEST_SEED").ok().and_then(|text| text.parse().ok());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let seed = given.unwrap_or(u64::from(now.subsec_nanos()) | 1);
        eprintln!("BRIG_TEST_SEED={seed}");
        Random(seed)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// Starts the verb and kills the runtime, and no other process, after `time`.
fn kill_after(b: &Bundle, args: &[&str], time: Duration) {
    let mut child = b.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(time);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Processes of the runtime for this container, which name it on their command line.
fn processes(id: &str) -> Vec<String> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(id) && line.contains("brig-runtime"))
        .collect()
}

fn nothing_is_left(b: &Bundle) {
    b.ok(&["delete", "--force", &b.id]);
    assert_eq!(b.ok(&["list", "-q"]), "");
    let until = std::time::Instant::now() + Duration::from_secs(10);
    // Whom the kernel ends with the runtime needs a moment.
    while !processes(&b.id).is_empty() {
        assert!(std::time::Instant::now() < until, "still there: {:?}", processes(&b.id));
        std::thread::sleep(Duration::from_millis(2));
    }
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let group = hierarchy.path().join("brigtest").join(&b.id);
        assert!(!group.exists(), "{} is left", group.display());
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(b.path().to_str().unwrap()), "a mount is left");
    assert!(!Path::new(b.path()).join("state").join(&b.id).exists());
}

/// The same container with all that takes steps of its own.
fn full(b: &Bundle) -> serde_json::Value {
    std::os::unix::fs::chown(b.rootfs(), Some(100_000), Some(100_000)).unwrap();
    let mut full = b.spec.clone();
    full["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .extend([json!({"type": "user"}), json!({"type": "time"})]);
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    full["linux"]["uidMappings"] = map.clone();
    full["linux"]["gidMappings"] = map;
    full["linux"]["resources"] = json!({"memory": {"limit": 67_108_864}, "pids": {"limit": 10}});
    full["mounts"].as_array_mut().unwrap().push(
        json!({"destination": "/m", "type": "bind", "source": "/etc", "options": ["rbind", "ro", "idmap"]}),
    );
    full["hooks"] = json!({"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "0.003"]}]});
    full
}

/// strace(1) on the verb, and on no other process.
fn strace(b: &Bundle, options: &[&str], args: &[&str]) -> std::process::ExitStatus {
    let verb = b.command(args);
    let mut strace = Command::new("strace");
    strace.args(["-qq", "-o"]).arg(b.path().join("strace")).args(options).arg("--");
    strace.arg(verb.get_program()).args(verb.get_args()).current_dir(b.path());
    let strace = strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    strace.status().expect("package strace is installed")
}

/// The system calls of the verb: names, and the how-manieth of its name each is.
fn calls(b: &Bundle, args: &[&str]) -> Vec<(String, usize)> {
    assert!(strace(b, &[], args).success(), "{args:?}");
    let text = std::fs::read_to_string(b.path().join("strace")).unwrap();
    let mut seen = std::collections::BTreeMap::<String, usize>::new();
    let names = text.lines().filter_map(|line| line.split_once('(')).map(|(name, _)| name);
    let known = |name: &&str| name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    let mut calls = Vec::new();
    for name in names.filter(known) {
        let count = seen.entry(name.to_owned()).or_default();
        *count += 1;
        calls.push((name.to_owned(), *count));
    }
    // Nothing of ours runs before the first execve returns.
    calls.retain(|(name, count)| name != "execve" || *count > 1);
    calls
}

/// Kills the verb at its system calls, at some of them or at all; each time after `before` and followed by `after`.
fn at_its_system_calls(b: &Bundle, args: &[&str], before: impl Fn(), after: impl Fn()) {
    let given = std::env::var("BRIG_KILL_EVERY").ok().and_then(|text| text.parse().ok());
    let every: usize = given.unwrap_or(13);
    before();
    let calls = calls(b, args);
    nothing_is_left(b);
    assert!(calls.len() > every, "{args:?}: {calls:?}");
    let first = usize::try_from(Random::new().below(every as u64)).unwrap();
    let (mut tried, mut killed) = (0, 0);
    for (name, count) in calls.iter().skip(first).step_by(every) {
        before();
        let status = strace(b, &["-e", &format!("inject={name}:signal=KILL:when={count}")], args);
        tried += 1;
        killed += usize::from(!status.success());
        after();
        nothing_is_left(b);
    }
    // Not each time the same calls are made, but mostly.
    assert!(killed * 4 >= tried * 3, "{args:?}: killed {killed} of {tried}");
    eprintln!("{args:?}: killed at {killed} of {} calls", calls.len());
}

#[test]
fn at_system_calls_of_create_and_run() {
    let Some(mut b) = bundle("killcalls") else { return };
    let id = b.id.clone();
    let nothing = || ();
    b.args(&["sleep", "1000"]);
    at_its_system_calls(&b, &["create", &id], nothing, nothing);
    at_its_system_calls(&b, &["run", "--detach", &id], nothing, nothing);
    b.spec = full(&b);
    at_its_system_calls(&b, &["create", &id], nothing, nothing);
    b.args(&["true"]);
    at_its_system_calls(&b, &["run", &id], nothing, nothing);
}

#[test]
fn at_system_calls_of_the_other_verbs() {
    let Some(mut b) = bundle("killcalls2") else { return };
    let id = b.id.clone();
    let nothing = || ();
    b.args(&["sleep", "1000"]);
    let create = || drop(b.ok(&["create", &id]));
    let run = || drop(b.ok(&["run", "--detach", &id]));
    let runs = || assert_eq!(b.state()["status"], "running");
    at_its_system_calls(&b, &["start", &id], create, nothing);
    at_its_system_calls(&b, &["delete", "--force", &id], run, nothing);
    at_its_system_calls(&b, &["exec", &id, "true"], run, runs);
    at_its_system_calls(&b, &["update", "--pids-limit", "7", &id], run, runs);
    at_its_system_calls(&b, &["pause", &id], run, nothing);
    at_its_system_calls(&b, &["kill", &id, "KILL"], run, nothing);
}

#[test]
fn at_any_moment_of_create_and_run() {
    let Some(mut b) = bundle("killrun") else { return };
    let mut random = Random::new();
    let id = b.id.clone();
    b.args(&["sleep", "1000"]);
    let plain = b.spec.clone();
    let full = full(&b);
    for round in 0..60 {
        b.spec = if round % 2 == 0 { plain.clone() } else { full.clone() };
        let time = Duration::from_micros(random.below(25_000));
        match random.below(3) {
            0 => kill_after(&b, &["create", &id], time),
            1 => kill_after(&b, &["run", "--detach", &id], time),
            _ => kill_after(&b, &["run", &id], time),
        }
        nothing_is_left(&b);
    }
}

#[test]
fn at_any_moment_of_the_other_verbs() {
    let Some(mut b) = bundle("killverbs") else { return };
    let mut random = Random::new();
    let id = b.id.clone();
    b.args(&["sleep", "1000"]);
    for _ in 0..40 {
        b.ok(&["create", &id]);
        let time = Duration::from_micros(random.below(6000));
        match random.below(5) {
            0 => kill_after(&b, &["start", &id], time),
            1 => kill_after(&b, &["delete", "--force", &id], time),
            2 => {
                b.ok(&["start", &id]);
                kill_after(&b, &["exec", &id, "true"], time);
                assert_eq!(b.state()["status"], "running");
            }
            3 => {
                b.ok(&["start", &id]);
                kill_after(&b, &["pause", &id], time);
            }
            _ => kill_after(&b, &["update", "--pids-limit", "7", &id], time),
        }
        nothing_is_left(&b);
    }
}
