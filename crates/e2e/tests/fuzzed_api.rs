//! Every route with parameters, bodies and framing that no client would send: always an answer with a cause, never a
//! daemon that is down, and nothing left. Short and from a fixed seed in `test`; `cargo xtask conform stress` makes it long
//! (`BRIG_CONFORM_STRESS=1`), and `BRIG_TEST_SEED` another.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]
#![allow(clippy::print_stdout, reason = "read by who runs the tests")]

use e2e::BUSYBOX;
use e2e::hostile::{self, Hostile, Kind, Names};
use e2e::random::Random;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::time::{Duration, Instant};
use testkit::daemon::{Daemon, Options};
use testkit::raw;

const SHORT: u32 = 700;
const LONG: u32 = 60_000;
/// A route that answers does so in this time, whatever else the machine does.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one that may wait is listened to.
const GLANCE: Duration = Duration::from_millis(30);
/// How often what the requests made is thrown away.
const ROUND: u32 = 250;

fn is_long() -> bool {
    std::env::var_os("BRIG_CONFORM_STRESS").is_some()
}

/// A host of its own as far as networks go: nothing leaves it, and what is made of addresses harms nobody.
struct Stage {
    daemon: Daemon,
    names: Names,
    _directory: tempfile::TempDir,
}

impl Stage {
    fn new() -> Option<Stage> {
        if !testkit::is_root() {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let netns = directory.path().join("net");
        network::create_sandbox(&netns).unwrap();
        let daemon = Daemon::start(Options { netns: Some(netns), ..Options::default() });
        daemon.load_busybox(BUSYBOX);
        let mut stage = Stage { daemon, names: Names::default(), _directory: directory };
        stage.fill();
        Some(stage)
    }

    /// What requests can name. Some of it is there already, unless a request has removed it.
    fn fill(&mut self) {
        let daemon = &self.daemon;
        let ask = |method: &str, path: &str, body: Value| daemon.request(method, path, &body);
        daemon.load_busybox(BUSYBOX);
        ask(
            "POST",
            "/networks/create",
            json!({"Name": "fuzznet", "IPAM": {"Config": [{"Subnet": "10.213.7.0/24"}]}}),
        );
        ask("POST", "/volumes/create", json!({"Name": "fuzzvol"}));
        let mut execs = Vec::new();
        for (name, command, starts) in
            [("fuzz1", "600", true), ("fuzz2", "600", true), ("fuzz3", "0", true), ("fuzz4", "1", false)]
        {
            let body = json!({"Image": BUSYBOX, "Cmd": ["sleep", command], "StopTimeout": 0});
            ask("POST", &format!("/containers/create?name={name}"), body);
            if starts {
                ask("POST", &format!("/containers/{name}/start"), Value::Null);
            }
            let exec = ask(
                "POST",
                &format!("/containers/{name}/exec"),
                json!({"Cmd": ["true"], "AttachStdout": true}),
            );
            if exec.status == 201 {
                execs.push(exec.json()["Id"].as_str().unwrap().to_string());
            }
        }
        let text = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        self.names = Names {
            containers: text(&["fuzz1", "fuzz1", "fuzz2", "fuzz3", "fuzz4"]),
            images: text(&[BUSYBOX, BUSYBOX, "scratch", "127.0.0.1:1/none:1"]),
            networks: text(&["fuzznet", "bridge", "none", "fuzznet1"]),
            volumes: text(&["fuzzvol", "fuzzvol1", "fuzzvol2"]),
            execs,
        };
    }

    fn sweep(&mut self) {
        let daemon = &self.daemon;
        daemon.remove_all();
        for path in [
            "/networks/prune",
            "/volumes/prune?filters=%7B%22all%22%3A%5B%22true%22%5D%7D",
            "/build/prune?all=1",
        ] {
            daemon.request("POST", path, &Value::Null).expect(200);
        }
    }

    fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.daemon.pid())).unwrap().count()
    }
}

/// Sends one and listens; None where nothing came, which is for `check` to judge.
fn send(daemon: &Daemon, request: &Hostile) -> io::Result<Option<raw::Response>> {
    let mut stream = raw::connect(&daemon.socket)?;
    let waits = request.kind == Kind::MayWait || request.is_broken;
    stream.set_read_timeout(Some(if waits { GLANCE } else { PATIENCE }))?;
    // A daemon that has seen enough closes before it has read all: what it said is still there.
    let sent = stream.write_all(&request.bytes);
    let (mut answer, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    let begin = Instant::now();
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => answer.extend_from_slice(&buffer[..n]),
            Err(e) if waits && e.kind() == io::ErrorKind::WouldBlock => break,
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset && !answer.is_empty() => break,
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset && (waits || sent.is_err()) => break,
            Err(e) => return Err(e),
        }
        // A stream without an end has been seen to go on.
        if waits && begin.elapsed() > GLANCE * 4 {
            break;
        }
    }
    Ok(raw::parse(&answer).ok())
}

/// What is wrong with an answer, if something is.
fn fault(request: &Hostile, answer: &io::Result<Option<raw::Response>>) -> Option<String> {
    let response = match answer {
        Ok(Some(response)) => response,
        Ok(None) if request.is_broken || request.kind == Kind::MayWait => return None,
        Ok(None) => return Some("no answer".into()),
        Err(e) => return Some(format!("no answer: {e}")),
    };
    let text = response.text();
    if text.contains("panicked") || text.contains("task ") && text.contains("was cancelled") {
        return Some(format!("{}: {text}", response.status));
    }
    if response.status < 400 || request.method == "HEAD" {
        return None;
    }
    // What is no HTTP is refused by hyper, without a body.
    let cause =
        serde_json::from_str::<Value>(&text).ok().and_then(|v| v["message"].as_str().map(str::to_string));
    match cause {
        Some(cause) if !cause.trim().is_empty() => None,
        _ if request.is_broken => None,
        _ => Some(format!("{} without a cause: {text:?}", response.status)),
    }
}

#[test]
#[ignore = "long: cargo xtask conform stress"]
fn no_request_takes_it_down() {
    let Some(mut stage) = Stage::new() else { return };
    let mut random = Random::or_seed(20_261_121);
    let pid = stage.daemon.pid();
    // What is opened once and kept is opened now.
    stage.daemon.get("/info");
    stage.sweep();
    let before = stage.open_files();
    let mut internal: BTreeMap<String, u32> = BTreeMap::new();
    let requests = if is_long() { LONG } else { SHORT };
    for number in 0..requests {
        if number % ROUND == 0 {
            stage.sweep();
            stage.fill();
        }
        let request = hostile::next(&mut random, &stage.names);
        let begin = Instant::now();
        let answer = send(&stage.daemon, &request);
        if let Some(fault) = fault(&request, &answer) {
            panic!("request {number}: {}\n{fault}\n", request.what);
        }
        if let Ok(Some(response)) = &answer
            && response.status == 500
        {
            *internal
                .entry(format!("{} {}", request.what.chars().take(300).collect::<String>(), response.text()))
                .or_default() += 1;
        }
        if begin.elapsed() > Duration::from_secs(5) {
            println!(
                "request {number} took {:?}: {}",
                begin.elapsed(),
                request.what.chars().take(300).collect::<String>()
            );
        }
    }
    for (what, times) in &internal {
        println!("500 x{times}: {what}");
    }
    let daemon = &stage.daemon;
    assert_eq!(daemon.pid(), pid);
    daemon.request("GET", "/_ping", &Value::Null).expect(200);
    assert!(!daemon.whole_log().contains("panicked at"), "{}", daemon.log());
    stage.sweep();
    stage.daemon.load_busybox(BUSYBOX);
    let ran = stage.daemon.brig(&["run", "--rm", "--network", "none", BUSYBOX, "echo", "hi"]);
    assert_eq!(ran.success(), "hi");
    testkit::wait_until("no descriptor is left open", || stage.open_files() <= before + 2);
    stage.daemon.assert_empties();
}
