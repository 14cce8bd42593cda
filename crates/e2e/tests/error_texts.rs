//! What the daemon answers to mistakes: status and words of `error_texts.txt`, which dockerd 26.1.5 (Debian 13's) wrote. Clients and scripts
//! match on them.
//!
//! `cargo xtask conform api` asks dockerd again (`BRIG_TEST_DOCKERD` names another one than Debian's) and compares; with
//! `BRIG_RECORD_ERRORS=FILE` what it says is written there.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]
#![allow(clippy::print_stdout, reason = "read by who runs the tests")]

use e2e::BUSYBOX;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use testkit::daemon::Daemon;
use testkit::{raw, wait_until};

/// For each `METHOD PATH BODY`, and `STATUS MESSAGE`; where we answer otherwise, `ours (WHY): STATUS MESSAGE`. An empty line
/// between them.
const RECORDED: &str = include_str!("error_texts.txt");

/// An engine behind a socket, with one of everything in it.
struct Engine<'a> {
    socket: &'a Path,
    exec: String,
}

impl Engine<'_> {
    fn new(socket: &Path) -> Engine<'_> {
        let mut engine = Engine { socket, exec: String::new() };
        let sleep =
            json!({"Image": BUSYBOX, "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none"}});
        let with = |key: &str, value: Value| {
            let mut body = sleep.clone();
            match body.pointer_mut(key) {
                Some(place) => *place = value,
                None => body["HostConfig"][key] = value,
            }
            body
        };
        engine.ok("POST", "/volumes/create", &json!({"Name": "vol"}));
        engine.ok("POST", "/networks/create", &json!({"Name": "net"}));
        let net = with("/HostConfig/NetworkMode", "net".into());
        for (name, body, starts) in [
            ("runs", with("Binds", json!(["vol:/v"])), true),
            ("joined", net, true),
            ("made", sleep.clone(), false),
            ("paused", sleep.clone(), true),
            ("ended", with("/Cmd", json!(["true"])), true),
            ("nocmd", with("/Cmd", json!(["nosuchprogram"])), false),
            ("nofile", with("/Cmd", json!(["/no/such/file"])), false),
            ("notexec", with("/Cmd", json!(["/etc/passwd"])), false),
            ("isdir", with("/Cmd", json!(["/etc"])), false),
            (
                "nouser",
                {
                    let mut body = sleep.clone();
                    body["User"] = "nobodyatall".into();
                    body
                },
                false,
            ),
            (
                "nogroup",
                {
                    let mut body = sleep.clone();
                    body["User"] = "0:nogroupatall".into();
                    body
                },
                false,
            ),
            (
                "nodevice",
                with("Devices", json!([{"PathOnHost": "/dev/nosuch", "PathInContainer": "/dev/x"}])),
                false,
            ),
        ] {
            engine.ok("POST", &format!("/containers/create?name={name}"), &body);
            if starts {
                engine.ok("POST", &format!("/containers/{name}/start"), &Value::Null);
            }
        }
        engine.ok("POST", "/containers/ended/wait", &Value::Null);
        engine.ok("POST", "/containers/paused/pause", &Value::Null);
        let exec =
            engine.ok("POST", "/containers/runs/exec", &json!({"Cmd": ["true"], "AttachStdout": true}));
        engine.exec = exec["Id"].as_str().unwrap().to_string();
        engine.ok("POST", &format!("/exec/{}/start", engine.exec), &json!({}));
        engine
    }

    fn ok(&self, method: &str, path: &str, body: &Value) -> Value {
        let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let answer = raw::send(self.socket, method, path, "application/json", &bytes).unwrap();
        assert!(answer.status < 300, "{method} {path}: {} {}", answer.status, answer.text());
        serde_json::from_slice(&answer.body).unwrap_or(Value::Null)
    }

    /// Status and message for a line `METHOD PATH BODY`.
    fn ask(&self, line: &str) -> String {
        let mut words = line.splitn(3, ' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let path = path.replace("EXEC", &self.exec);
        let path: String = path
            .chars()
            .map(|c| if "{}[]\"".contains(c) { format!("%{:02X}", u32::from(c)) } else { c.into() })
            .collect();
        let (kind, body) = match words.next() {
            Some("JSON") => ("application/json", "{"),
            Some("TEXT") => ("text/plain", "{}"),
            Some(body) => ("application/json", body),
            None if method == "PUT" => ("application/x-tar", ""),
            None => ("application/json", ""),
        };
        let answer = raw::send(self.socket, method, &path, kind, body.as_bytes())
            .unwrap_or_else(|e| panic!("{line}: {e}"));
        let said = serde_json::from_slice::<Value>(&answer.body).unwrap_or(Value::Null);
        let message = said["message"].as_str().map_or(String::new(), |text| normal(text, &self.exec));
        format!("{} {message}", answer.status).trim_end().to_string()
    }
}

/// Ids are written `ID`, the number of processors `N`; a line end is one of the text.
fn normal(text: &str, exec: &str) -> String {
    let processors = std::thread::available_parallelism().unwrap();
    let text = text.replace(exec, "EXEC").replace('\n', "\\n");
    let text = text.replace(
        &format!("to {processors}.00, as there are only {processors} "),
        "to N.00, as there are only N ",
    );
    let mut out = String::new();
    let mut hex = String::new();
    for c in text.chars().chain(['\0']) {
        if matches!(c, '0'..='9' | 'a'..='f') {
            hex.push(c);
            continue;
        }
        let is_id = hex.len() == 64 || hex.len() == 12;
        out += if is_id { "ID" } else { &hex };
        hex.clear();
        out.push(c);
    }
    out.trim_end_matches('\0').to_string()
}

struct Case {
    request: &'static str,
    recorded: &'static str,
    ours: Option<&'static str>,
}

fn cases() -> Vec<Case> {
    let text = RECORDED.split_once("\n\n").expect("a headline").1;
    let case = |block: &'static str| {
        let mut lines = block.trim_end().lines();
        let request = lines.next().unwrap();
        let recorded = lines.next().unwrap();
        let ours = lines.next().map(|line| {
            let (why, answer) = line.strip_prefix("ours (").and_then(|l| l.split_once("): ")).unwrap();
            assert!(why.len() > 5 && answer != recorded, "{request}");
            answer
        });
        Case { request, recorded, ours }
    };
    text.split("\n\n").filter(|block| !block.trim().is_empty()).map(case).collect()
}

/// What is answered otherwise than it is expected.
fn differences(engine: &Engine<'_>, expected: impl Fn(&Case) -> &'static str) -> String {
    let mut differences = String::new();
    for case in cases() {
        let (said, expected) = (engine.ask(case.request), expected(&case));
        if said != expected {
            writeln!(differences, "{}\n  expected: {expected}\n  answered: {said}", case.request).unwrap();
        }
    }
    differences
}

#[test]
fn mistakes_are_answered_with_dockers_words() {
    if !testkit::is_root() {
        return;
    }
    let daemon = Daemon::start(Default::default());
    daemon.load_busybox(BUSYBOX);
    let engine = Engine::new(&daemon.socket);
    let differences = differences(&engine, |case| case.ours.unwrap_or(case.recorded));
    assert!(differences.is_empty(), "\n{differences}");
    daemon.brig(&["unpause", "paused"]).success();
}

/// dockerd on directories of its own; gone when dropped, and its containers.
struct Dockerd {
    process: Child,
    home: tempfile::TempDir,
}

impl Dockerd {
    fn start() -> Dockerd {
        let home = tempfile::Builder::new().prefix("brig-test-dockerd-").tempdir().unwrap();
        let path = |name: &str| home.path().join(name);
        std::fs::write(path("daemon.json"), "{}").unwrap();
        let program = std::env::var_os("BRIG_TEST_DOCKERD").unwrap_or_else(|| "dockerd".into());
        let process = Command::new(program)
            .args(["--cgroup-parent", "/brig-test-dockerd", "--storage-driver", "overlay2"])
            // What it would change of the host's network it would leave so.
            .args(["--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "-H"])
            .arg(format!("unix://{}", path("docker.sock").display()))
            .arg("--config-file")
            .arg(path("daemon.json"))
            .arg("--pidfile")
            .arg(path("pid"))
            .arg("--data-root")
            .arg(path("data"))
            .arg("--exec-root")
            .arg(path("exec"))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(path("log")).unwrap())
            .spawn()
            .unwrap();
        let dockerd = Dockerd { process, home };
        wait_until("dockerd answers", || {
            raw::send(&dockerd.socket(), "GET", "/_ping", "", &[]).is_ok_and(|a| a.status == 200)
        });
        dockerd
    }

    fn socket(&self) -> PathBuf {
        self.home.path().join("docker.sock")
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        let socket = self.socket();
        let all = raw::send(&socket, "GET", "/containers/json?all=1", "", &[]).ok();
        let all: Vec<Value> = all.and_then(|a| serde_json::from_slice(&a.body).ok()).unwrap_or_default();
        for id in all.iter().filter_map(|c| c["Id"].as_str()) {
            drop(raw::send(&socket, "DELETE", &format!("/containers/{id}?force=1&v=1"), "", &[]));
        }
        drop(raw::send(&socket, "POST", "/networks/prune", "", &[]));
        let pid = rustix::process::Pid::from_child(&self.process);
        // Fails only for one that is gone.
        let _gone = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        drop(self.process.wait());
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let below = mounts
            .lines()
            .filter_map(|l| l.split(' ').nth(1))
            .filter(|m| Path::new(m).starts_with(self.home.path()));
        for mount in below.collect::<Vec<_>>().into_iter().rev() {
            // What is still mounted makes the deletion fail, which deletes nothing of it.
            let _busy = rustix::mount::unmount(mount, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

#[test]
#[ignore = "by its own: cargo xtask conform api"]
fn dockerd_says_what_is_recorded() {
    if !testkit::is_root() {
        return;
    }
    let dockerd = Dockerd::start();
    let archive = testkit::images::busybox_archive(BUSYBOX);
    let loaded = raw::send(&dockerd.socket(), "POST", "/images/load", "application/x-tar", &archive).unwrap();
    assert_eq!(loaded.status, 200, "{}", loaded.text());
    let socket = dockerd.socket();
    let engine = Engine::new(&socket);
    if let Some(file) = std::env::var_os("BRIG_RECORD_ERRORS") {
        let mut text = String::new();
        for case in cases() {
            writeln!(text, "{}\n{}\n", case.request, engine.ask(case.request)).unwrap();
        }
        std::fs::write(&file, text).unwrap();
        println!("written: {}", file.display());
        return;
    }
    let differences = differences(&engine, |case| case.recorded);
    assert!(differences.is_empty(), "\n{differences}");
}
