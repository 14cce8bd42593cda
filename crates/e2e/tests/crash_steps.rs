//! kill -9 of daemon, shim and runtime before each system call that changes something, in every verb: whatever was done of it, the
//! next daemon tells the truth about it, every verb works again, and nothing is left. A few steps of each in `test`; all
//! of them by `cargo xtask conform stress` (`BRIG_CONFORM_STRESS=1`).

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]
#![allow(clippy::print_stdout, reason = "read by who runs the tests")]

use e2e::BUSYBOX;
use e2e::steps::{Follower, Seen, Victim};
use serde_json::{Value, json};
use std::io::Read as _;
use std::time::{Duration, Instant};
use testkit::daemon::Daemon;
use testkit::{raw, tar, wait_until};

/// How many steps of a verb are tried when not all are.
const FEW: usize = 2;
/// A verb whose victim was killed is answered within this time, or not at all.
const PATIENCE: Duration = Duration::from_secs(60);

fn is_long() -> bool {
    std::env::var_os("BRIG_CONFORM_STRESS").is_some()
}

/// What a verb finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    Created,
    Running,
    Paused,
    Exited,
}

/// One verb on the container `cc`.
struct Verb {
    name: &'static str,
    before: Before,
    method: &'static str,
    path: &'static str,
    body: Value,
    /// States that `cc` may be in afterwards; `gone` where it may not be there.
    after: &'static [&'static str],
}

fn verb(
    name: &'static str,
    before: Before,
    request: (&'static str, &'static str),
    body: Value,
    after: &'static [&'static str],
) -> Verb {
    Verb { name, before, method: request.0, path: request.1, body, after }
}

fn config() -> Value {
    // No signal but SIGKILL ends it; a stop does not wait.
    json!({
        "Image": BUSYBOX, "Cmd": ["sleep", "600"], "StopTimeout": 0, "OpenStdin": true, "Volumes": {"/anonymous": {}},
        "HostConfig": {"NetworkMode": "base", "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "0"}]}},
    })
}

fn verbs() -> Vec<Verb> {
    use Before::{Created, Exited, Nothing, Paused, Running};
    let c = |verb: &'static str| ("POST", verb);
    vec![
        verb("create", Nothing, c("/containers/create?name=cc"), config(), &["gone", "created"]),
        verb("start", Created, c("/containers/cc/start"), Value::Null, &["created", "running", "exited"]),
        verb("stop", Running, c("/containers/cc/stop"), Value::Null, &["running", "exited"]),
        verb("kill", Running, c("/containers/cc/kill"), Value::Null, &["running", "exited"]),
        verb("pause", Running, c("/containers/cc/pause"), Value::Null, &["running", "paused", "exited"]),
        verb("unpause", Paused, c("/containers/cc/unpause"), Value::Null, &["running", "paused", "exited"]),
        verb("restart", Running, c("/containers/cc/restart"), Value::Null, &["running", "exited"]),
        verb("rename", Running, c("/containers/cc/rename?name=dd"), Value::Null, &["running"]),
        verb(
            "update",
            Running,
            c("/containers/cc/update"),
            json!({"Memory": 64 << 20, "MemorySwap": 128 << 20}),
            &["running"],
        ),
        verb(
            "rm",
            Running,
            ("DELETE", "/containers/cc?force=1&v=1"),
            Value::Null,
            &["gone", "running", "exited"],
        ),
        verb("exec", Running, c("EXEC"), json!({"Detach": true}), &["running", "exited"]),
        verb(
            "attach",
            Running,
            c("/containers/cc/attach?stream=1&stdin=1&stdout=1"),
            Value::Null,
            &["running", "exited"],
        ),
        verb("commit", Running, c("/commit?container=cc&repo=made&tag=1"), json!({}), &["running"]),
        verb("cp", Running, ("PUT", "/containers/cc/archive?path=/tmp"), Value::Null, &["running"]),
        verb("wait", Exited, c("/containers/cc/wait"), Value::Null, &["exited"]),
        verb("prune", Exited, c("/containers/prune"), Value::Null, &["gone", "exited"]),
        verb("connect", Running, c("/networks/other/connect"), json!({"Container": "cc"}), &["running"]),
        verb("disconnect", Running, c("/networks/base/disconnect"), json!({"Container": "cc"}), &["running"]),
        verb("start again", Exited, c("/containers/cc/start"), Value::Null, &["running", "exited"]),
        verb("network create", Nothing, c("/networks/create"), json!({"Name": "made"}), &["gone"]),
        verb("volume create", Nothing, c("/volumes/create"), json!({"Name": "made"}), &["gone"]),
    ]
}

struct Stage {
    daemon: Daemon,
}

impl Stage {
    fn new() -> Option<Stage> {
        if !testkit::is_root() {
            return None;
        }
        let daemon = Daemon::start(Default::default());
        daemon.load_busybox(BUSYBOX);
        for name in ["base", "other"] {
            daemon.request("POST", "/networks/create", &json!({"Name": name})).expect(201);
        }
        Some(Stage { daemon })
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> raw::Response {
        self.daemon.request(method, path, body)
    }

    fn post(&self, path: &str) -> raw::Response {
        self.ask("POST", path, &Value::Null)
    }

    /// Makes what the verb finds, and what its request is.
    fn prepare(&self, verb: &Verb) -> (String, Vec<u8>) {
        let before = verb.before;
        if before != Before::Nothing {
            let mut config = config();
            if before == Before::Exited {
                config["Cmd"] = json!(["true"]);
            }
            self.ask("POST", "/containers/create?name=cc", &config).expect(201);
        }
        if matches!(before, Before::Running | Before::Paused | Before::Exited) {
            self.post("/containers/cc/start").expect(204);
        }
        match before {
            Before::Paused => drop(self.post("/containers/cc/pause").expect(204)),
            Before::Exited => self.daemon.wait_status("cc", "exited"),
            _ => {}
        }
        match verb.path {
            "EXEC" => {
                let exec =
                    self.ask("POST", "/containers/cc/exec", &json!({"Cmd": ["true"]})).expect(201).json();
                (format!("/exec/{}/start", exec["Id"].as_str().unwrap()), verb.body.to_string().into_bytes())
            }
            path if verb.method == "PUT" => {
                let file = tar::Entry::file("copied", 0o644, b"text");
                (path.into(), tar::archive(&[file]))
            }
            path if verb.body.is_null() => (path.into(), Vec::new()),
            path => (path.into(), verb.body.to_string().into_bytes()),
        }
    }

    /// Does the verb with the victim killed before a step, or not at all. What was answered, if anything was.
    fn perform(&mut self, verb: &Verb, victim: Victim, at: Option<usize>) -> (Seen, Option<raw::Response>) {
        let (path, body) = self.prepare(verb);
        let socket = self.daemon.socket.clone();
        let shims = self.daemon.exec_root.join("shims");
        let follower = Follower::start(self.daemon.pid(), &shims, victim, at);
        let answer = if verb.name == "attach" {
            attach(&socket, &path)
        } else {
            raw::send(&socket, verb.method, &path, "application/json", &body).ok()
        };
        let wakes = socket.clone();
        let seen = follower.stop(|| drop(raw::send(&wakes, "GET", "/_ping", "", &[])));
        if victim == Victim::Daemon && seen.is_killed {
            self.daemon.kill9();
            self.daemon.spawn();
        }
        (seen, answer)
    }

    /// All that must be so whatever was done of the verb.
    fn check(&self, verb: &Verb, victim: Victim, answer: Option<&raw::Response>, doing: &str) {
        let name =
            if verb.name == "rename" && self.ask("GET", "/containers/dd/json", &Value::Null).status == 200 {
                self.ask("GET", "/containers/cc/json", &Value::Null).expect(404);
                "dd"
            } else {
                "cc"
            };
        let status = || {
            let seen = self.ask("GET", &format!("/containers/{name}/json"), &Value::Null);
            if seen.status == 404 {
                "gone".to_string()
            } else {
                seen.expect(200).json()["State"]["Status"].as_str().unwrap().to_string()
            }
        };
        let is_fine =
            |status: &str| verb.after.contains(&status) || (victim == Victim::Shim && status == "exited");
        wait_until(&format!("{doing}: {} is not one of {:?}", status(), verb.after), || is_fine(&status()));
        // What was acknowledged has happened.
        if victim == Victim::Daemon && answer.is_some_and(|a| a.status < 300) {
            let after = status();
            match verb.name {
                "create" => assert_eq!(after, "created", "{doing}"),
                "start" | "restart" | "unpause" | "start again" => {
                    assert!(matches!(after.as_str(), "running" | "exited"), "{doing}: {after}");
                }
                "stop" | "kill" => assert_eq!(after, "exited", "{doing}"),
                "pause" => assert_eq!(after, "paused", "{doing}"),
                "rename" => assert_eq!(name, "dd", "{doing}"),
                "rm" | "prune" => assert_eq!(after, "gone", "{doing}"),
                "network create" => drop(self.ask("GET", "/networks/made", &Value::Null).expect(200)),
                "volume create" => drop(self.ask("GET", "/volumes/made", &Value::Null).expect(200)),
                "commit" => drop(self.ask("GET", "/images/made:1/json", &Value::Null).expect(200)),
                "update" => {
                    let seen = self.ask("GET", "/containers/cc/json", &Value::Null).expect(200).json();
                    assert_eq!(seen["HostConfig"]["Memory"], 64 << 20, "{doing}");
                }
                _ => {}
            }
        }
        match status().as_str() {
            "gone" => {
                drop(self.ask("POST", &format!("/containers/create?name={name}"), &config()).expect(201))
            }
            // It still has a program of its own.
            "running" => {
                let exec = json!({"Cmd": ["true"]});
                let exec = self.ask("POST", &format!("/containers/{name}/exec"), &exec);
                if exec.status == 201 {
                    let id = exec.json()["Id"].as_str().unwrap().to_string();
                    let answer = self.ask("POST", &format!("/exec/{id}/start"), &json!({}));
                    // It may end just now, or its shim may be gone.
                    let is_fine = matches!(answer.status, 200 | 409) || victim == Victim::Shim;
                    assert!(is_fine, "{doing}: {}", answer.text());
                }
            }
            _ => {}
        }
        if matches!(status().as_str(), "created" | "exited") {
            let answer = self.post(&format!("/containers/{name}/start"));
            assert_eq!(answer.status, 204, "{doing}: start: {}", answer.text());
        }
        self.clear(verb, name, doing);
    }

    /// Removes what the verb made, and looks for what is left.
    fn clear(&self, verb: &Verb, name: &str, doing: &str) {
        let gone = self.ask("DELETE", &format!("/containers/{name}?force=1&v=1"), &Value::Null);
        assert!(matches!(gone.status, 204 | 404), "{doing}: rm: {}", gone.text());
        for path in ["/images/made:1?force=1", "/networks/made", "/volumes/made"] {
            let gone = self.ask("DELETE", path, &Value::Null);
            assert!(matches!(gone.status, 200 | 204 | 404), "{doing}: {path}: {}", gone.text());
        }
        if verb.name == "prune" {
            // As docker's it leaves volumes.
            self.ask("POST", "/volumes/prune", &Value::Null).expect(200);
        }
        let begin = Instant::now();
        loop {
            let mut left = self.daemon.leaks();
            let volumes = self.daemon.get("/volumes");
            left.extend(
                volumes["Volumes"].as_array().unwrap().iter().map(|v| format!("volume {}", v["Name"])),
            );
            if left.is_empty() {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "{doing} left {left:#?}\n{}", self.daemon.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Attaches, says a word, and leaves.
fn attach(socket: &std::path::Path, path: &str) -> Option<raw::Response> {
    use std::io::Write as _;
    let mut stream = raw::connect(socket).ok()?;
    let head = "HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n";
    write!(stream, "POST {path} {head}").ok()?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).ok()?;
    stream.write_all(b"word\n").ok()?;
    None
}

fn kill_in_every_verb(victim: Victim, only: &[&str]) {
    let Some(mut stage) = Stage::new() else { return };
    let (mut all, mut tried) = (0, 0);
    for verb in verbs().iter().filter(|v| only.is_empty() || only.contains(&v.name)) {
        let (seen, _) = stage.perform(verb, victim, None);
        let count = seen.steps.len();
        stage.check(verb, victim, None, &format!("{} undisturbed", verb.name));
        println!("{victim:?} {}: {count} steps", verb.name);
        all += count;
        let steps: Vec<usize> = if is_long() {
            (0..count + 4).collect()
        } else {
            (1..=FEW.min(count)).map(|n| n * count / (FEW + 1)).collect()
        };
        for at in steps {
            let begin = Instant::now();
            let (seen, answer) = stage.perform(verb, victim, Some(at));
            let last = seen.steps.last().copied().unwrap_or("nothing");
            let doing = format!(
                "{victim:?} killed in {} before step {at} ({last}), killed: {}",
                verb.name, seen.is_killed
            );
            if is_long() {
                println!("{doing}: {:?} after {:?}", answer.as_ref().map(|a| a.status), begin.elapsed());
            }
            assert!(begin.elapsed() < PATIENCE, "{doing}: {:?}", begin.elapsed());
            stage.check(verb, victim, answer.as_ref(), &doing);
            tried += usize::from(seen.is_killed);
        }
    }
    println!("{victim:?}: {tried} kills, {all} steps");
    assert!(tried > 0);
    assert!(!stage.daemon.whole_log().contains("panicked at"), "{}", stage.daemon.log());
    stage.daemon.assert_empties();
}

#[test]
#[ignore = "long: cargo xtask conform stress"]
fn a_daemon_killed_in_every_verb() {
    kill_in_every_verb(Victim::Daemon, &[]);
}

#[test]
#[ignore = "long: cargo xtask conform stress"]
fn a_shim_killed_in_every_verb() {
    kill_in_every_verb(
        Victim::Shim,
        &["start", "stop", "kill", "pause", "unpause", "restart", "rm", "exec", "attach"],
    );
}

#[test]
#[ignore = "long: cargo xtask conform stress"]
fn a_runtime_killed_in_every_verb() {
    kill_in_every_verb(Victim::Runtime, &["start", "stop", "pause", "unpause", "restart", "rm", "exec"]);
}
