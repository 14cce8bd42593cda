//! This daemon over the shims of another build: an older one of the same version, which knows fewer members, and a newer version.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::BUSYBOX;
use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{Sender, channel};
use testkit::daemon::{Daemon, Options};

/// What shims of version 1 understood when it was written down.
const REQUESTS: &[(&str, &[&str])] = &[
    ("hello", &["version"]),
    ("start", &[]),
    ("attach", &["streams"]),
    ("exec", &["exec_id", "process", "streams"]),
    ("kill", &["exec_id", "signal"]),
    ("resize", &["exec_id", "height", "width"]),
    ("pause", &[]),
    ("resume", &[]),
    ("state", &[]),
    ("subscribe", &[]),
    ("shutdown", &[]),
];

fn frame(from: &mut impl Read) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    from.read_exact(&mut head).ok()?;
    let mut payload = vec![0; u32::from_be_bytes(head[..4].try_into().unwrap()) as usize];
    from.read_exact(&mut payload).ok()?;
    Some((head[4], payload))
}

fn send(to: &mut impl Write, kind: u8, payload: &[u8]) -> bool {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes().to_vec();
    bytes.push(kind);
    bytes.extend_from_slice(payload);
    to.write_all(&bytes).is_ok()
}

/// The request's name when an old shim knows all of it; else what it would stumble over.
fn known(request: &Value) -> Result<String, String> {
    let (name, members) = match request {
        Value::String(name) => (name.clone(), Vec::new()),
        Value::Object(one) if one.len() == 1 => {
            let (name, members) = one.iter().next().unwrap();
            (name.clone(), members.as_object().into_iter().flat_map(|m| m.keys().cloned()).collect())
        }
        _ => return Err(format!("no request: {request}")),
    };
    let Some((_, fields)) = REQUESTS.iter().find(|(known, _)| *known == name) else {
        return Err(format!("an old shim has no {name}"));
    };
    match members.iter().find(|m| !fields.contains(&m.as_str())) {
        Some(more) => Err(format!("an old shim has no {more} in {name}")),
        None => Ok(name),
    }
}

/// Takes out what later builds added: an old shim does not say it.
fn aged(mut answer: Value, version: u32) -> Value {
    if let Some(exit) = answer.pointer_mut("/event/exited/exit").and_then(Value::as_object_mut) {
        exit.remove("oom_killed");
    }
    if let Some(said) = answer.pointer_mut("/hello/version") {
        *said = version.into();
    }
    answer
}

/// Stands before the shim in `dir`, as one of another build. Tells what it was asked.
fn stand_in(dir: &std::path::Path, version: u32, asked: &Sender<Result<String, String>>) {
    let (socket, real) = (dir.join("shim.sock"), dir.join("real.sock"));
    std::fs::rename(&socket, &real).unwrap();
    // Paths of sockets are short; that of a test's directory may not be.
    let handle = std::fs::File::open(dir).unwrap();
    let near = |name: &str| {
        format!("/proc/{}/fd/{}/{name}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&handle))
    };
    let listener = UnixListener::bind(near("shim.sock")).unwrap();
    let (real, asked) = (near("real.sock"), asked.clone());
    std::thread::spawn(move || {
        let _handle = handle;
        for daemon in listener.incoming() {
            let (Ok(mut daemon), Ok(mut shim)) = (daemon, UnixStream::connect(&real)) else { return };
            let (mut from_daemon, mut from_shim) = (daemon.try_clone().unwrap(), shim.try_clone().unwrap());
            let asked = asked.clone();
            std::thread::spawn(move || {
                while let Some((kind, payload)) = frame(&mut from_daemon) {
                    if kind == 0 {
                        drop(asked.send(known(&serde_json::from_slice(&payload).unwrap())));
                    } else if kind > 4 {
                        drop(asked.send(Err(format!("an old shim has no frames of kind {kind}"))));
                    }
                    if !send(&mut shim, kind, &payload) {
                        break;
                    }
                }
                drop(shim.shutdown(std::net::Shutdown::Both));
            });
            std::thread::spawn(move || {
                while let Some((kind, payload)) = frame(&mut from_shim) {
                    let payload = match kind {
                        0 => {
                            aged(serde_json::from_slice(&payload).unwrap(), version).to_string().into_bytes()
                        }
                        _ => payload,
                    };
                    if !send(&mut daemon, kind, &payload) {
                        break;
                    }
                }
                drop(daemon.shutdown(std::net::Shutdown::Both));
            });
        }
    });
}

fn own() -> Option<Daemon> {
    if !testkit::is_root() {
        return None;
    }
    let daemon = Daemon::start(Options::default());
    daemon.load_busybox(BUSYBOX);
    Some(daemon)
}

#[test]
fn this_daemon_over_an_older_shim() {
    let Some(mut daemon) = own() else { return };
    let id =
        daemon.brig(&["run", "-d", "-i", "--name", "old", BUSYBOX, "sh", "-c", "read x; exit $x"]).success();
    daemon.kill9();
    let (asked, questions) = channel();
    stand_in(&daemon.exec_root.join("shims").join(&id), 1, &asked);
    daemon.spawn();
    assert_eq!(daemon.state("old")["Status"], "running");
    assert_eq!(daemon.brig(&["exec", "old", "echo", "hi"]).success(), "hi");
    daemon.brig(&["exec", "old", "sh", "-c", "exit 7"]).expect(7);
    daemon.brig(&["pause", "old"]).success();
    daemon.brig(&["unpause", "old"]).success();
    let resize = daemon.request("POST", "/containers/old/resize?h=24&w=80", &Value::Null);
    assert!(resize.status == 200 || resize.message().contains("terminal"), "{resize:?}");
    let attached = testkit::daemon::finish(daemon.brig_command(&["attach", "old"]), b"5\n");
    attached.expect(5);
    daemon.wait_status("old", "exited");
    assert_eq!(daemon.state("old")["ExitCode"], 5);
    drop(asked);
    let questions: Vec<String> = questions.try_iter().map(|q| q.unwrap()).collect();
    for verb in ["hello", "subscribe", "exec", "pause", "resume", "attach"] {
        assert!(questions.iter().any(|q| q == verb), "{verb} was not asked: {questions:?}");
    }
    daemon.remove_all();
    daemon.assert_empties();
}

#[test]
fn a_shim_of_a_newer_version_is_left_alone_and_named() {
    let Some(mut daemon) = own() else { return };
    let id = daemon.brig(&["run", "-d", "--name", "newer", BUSYBOX, "sleep", "1000"]).success();
    let pid = daemon.state("newer")["Pid"].as_u64().unwrap();
    daemon.kill9();
    let dir = daemon.exec_root.join("shims").join(&id);
    let (asked, _questions) = channel();
    stand_in(&dir, 99, &asked);
    daemon.spawn();
    // It is no daemon of this build that can speak to it; its container runs on.
    let refused = daemon.brig(&["exec", "newer", "true"]);
    assert_ne!(refused.code, Some(0));
    assert!(refused.stderr.contains("version 99"), "{refused:?}");
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    // The build that made it comes back.
    daemon.kill9();
    std::fs::remove_file(dir.join("shim.sock")).unwrap();
    std::fs::rename(dir.join("real.sock"), dir.join("shim.sock")).unwrap();
    daemon.spawn();
    assert_eq!(daemon.brig(&["exec", "newer", "echo", "hi"]).success(), "hi");
    daemon.remove_all();
    daemon.assert_empties();
}
