//! Attaching by web socket, and events that outlive the daemon.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::BUSYBOX;
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use testkit::daemon::{Daemon, Options};
use testkit::{raw, wait_until};

fn own() -> Option<Daemon> {
    if !testkit::is_root() {
        return None;
    }
    let daemon = Daemon::start(Options::default());
    daemon.load_busybox(BUSYBOX);
    Some(daemon)
}

fn run(daemon: &Daemon, name: &str, command: &[&str]) {
    let body = json!({"Image": BUSYBOX, "Cmd": command, "OpenStdin": true, "StdinOnce": true});
    daemon.request("POST", &format!("/containers/create?name={name}"), &body).expect(201);
    daemon.request("POST", &format!("/containers/{name}/start"), &Value::Null).expect(204);
}

fn open(daemon: &Daemon, path: &str) -> UnixStream {
    let mut stream = raw::connect(&daemon.socket).unwrap();
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        seen.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&seen).to_lowercase();
    assert!(
        head.starts_with("http/1.1 101 ")
            && head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="),
        "{head}"
    );
    stream
}

fn send(stream: &mut UnixStream, code: u8, payload: &[u8]) {
    let mut bytes = vec![0x80 | code, 0x80 | u8::try_from(payload.len()).unwrap(), 9, 8, 7, 6];
    bytes.extend(payload.iter().zip([9, 8, 7, 6].iter().cycle()).map(|(b, k)| b ^ k));
    stream.write_all(&bytes).unwrap();
}

/// The next frame: its kind and what it holds.
fn receive(stream: &mut UnixStream) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    stream.read_exact(&mut head).unwrap();
    let length = match head[1] {
        126 => {
            let mut more = [0; 2];
            stream.read_exact(&mut more).unwrap();
            usize::from(u16::from_be_bytes(more))
        }
        short => usize::from(short),
    };
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).unwrap();
    (head[0], payload)
}

/// Data up to so many bytes; frames may come in pieces.
fn data(stream: &mut UnixStream, length: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while out.len() < length {
        let (code, payload) = receive(stream);
        assert_eq!(code, 0x82);
        out.extend(payload);
    }
    out
}

#[test]
fn a_web_socket_is_attached_both_ways() {
    let Some(daemon) = own() else { return };
    run(&daemon, "cat", &["sh", "-c", "echo before; exec cat"]);
    wait_until("the log", || daemon.brig(&["logs", "cat"]).stdout == "before\n");
    let path = "/containers/cat/attach/ws?stream=1&stdin=1&stdout=1&stderr=1&logs=1";
    let mut stream = open(&daemon, path);
    assert_eq!(data(&mut stream, 7), b"before\n");
    send(&mut stream, 2, b"hello\n");
    assert_eq!(data(&mut stream, 6), b"hello\n");
    send(&mut stream, 9, b"are you there");
    assert_eq!(receive(&mut stream), (0x8a, b"are you there".to_vec()));
    // The client closes: the input of a container that reads once ends, and so does the container.
    send(&mut stream, 8, b"");
    assert_eq!(receive(&mut stream), (0x88, 1000u16.to_be_bytes().to_vec()));
    drop(stream);
    daemon.wait_status("cat", "exited");

    // The container ends: so does the socket.
    run(&daemon, "ends", &["sh", "-c", "read x; echo got $x; exit 3"]);
    let mut stream = open(&daemon, "/containers/ends/attach/ws?stream=1&stdin=1&stdout=1");
    send(&mut stream, 1, b"text\n");
    assert_eq!(data(&mut stream, 9), b"got text\n");
    assert_eq!(receive(&mut stream).0, 0x88);
    drop(stream);

    // A client that is gone leaves nothing.
    run(&daemon, "silent", &["sleep", "1000"]);
    let open_files = || std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count();
    daemon.get("/info");
    let before = open_files();
    let stream = open(&daemon, "/containers/silent/attach/ws?stream=1&stdout=1");
    wait_until("the connection", || open_files() > before);
    drop(stream);
    wait_until("the end of the connection", || open_files() <= before);

    // Not for others.
    daemon.request("GET", "/containers/silent/attach/ws?stream=1", &Value::Null).expect(400);
    daemon.remove_all();
    daemon.assert_empties();
}

#[test]
fn events_outlive_the_daemon() {
    let Some(mut daemon) = own() else { return };
    daemon.brig(&["run", "--name", "early", BUSYBOX, "true"]).success();
    daemon.wait_status("early", "exited");
    let list = |daemon: &Daemon| {
        let format = "{{.TimeNano}} {{.Type}} {{.Action}} {{.Actor.ID}}";
        let flags =
            ["events", "--since", "1", "--until", "0s", "--filter", "container=early", "--format", format];
        daemon.docker(&flags).success()
    };
    wait_until("the last of its events", || list(&daemon).lines().any(|l| l.contains(" container die ")));
    let before = list(&daemon);
    daemon.kill9();
    daemon.spawn();
    assert_eq!(list(&daemon), before);
    daemon.brig(&["rm", "early"]).success();
    wait_until("its last event", || list(&daemon).contains(" container destroy "));
    assert!(list(&daemon).starts_with(&before));
    daemon.assert_empties();
}
