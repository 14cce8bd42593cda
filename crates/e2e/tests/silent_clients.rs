//! Clients that go while they are sent nothing: the daemon keeps no descriptor and no listener of theirs.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::BUSYBOX;
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use testkit::daemon::{Daemon, Options};
use testkit::http::{Served, Server};
use testkit::tar::Entry;
use testkit::{images, raw, wait_until};

fn own() -> Option<Daemon> {
    if !testkit::is_root() {
        return None;
    }
    let daemon = Daemon::start(Options::default());
    daemon.load_busybox(BUSYBOX);
    Some(daemon)
}

fn open_files(daemon: &Daemon) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count()
}

fn ask(daemon: &Daemon, request: &str, body: &[u8]) -> UnixStream {
    let mut stream = raw::connect(&daemon.socket).unwrap();
    let (line, headers) = request.split_once('\n').unwrap_or((request, ""));
    let mut head = format!("{line} HTTP/1.1\r\nHost: x\r\n");
    if !headers.is_empty() {
        head += &format!("{headers}\r\n");
    }
    if !headers.contains("Upgrade") {
        head += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    stream
}

/// Reads up to and including `text`.
fn read_until(stream: &mut UnixStream, text: &str) {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(text.as_bytes()) {
        stream.read_exact(&mut byte).unwrap_or_else(|e| {
            panic!("{e} before {text:?}: {:?}", String::from_utf8_lossy(&seen));
        });
        seen.push(byte[0]);
    }
}

/// Asks, reads up to `begun`, goes, and waits until the daemon has no more open than before.
#[track_caller]
fn comes_and_goes(daemon: &Daemon, request: &str, body: &[u8], begun: &str) {
    // What is opened once and kept is opened now.
    daemon.get("/info");
    let before = open_files(daemon);
    let mut stream = ask(daemon, request, body);
    read_until(&mut stream, begun);
    wait_until("the connection to be counted", || open_files(daemon) > before);
    drop(stream);
    wait_until(&format!("the end of {request}"), || open_files(daemon) <= before);
}

const HEAD: &str = "\r\n\r\n";

#[test]
fn streams_of_a_silent_container_end_with_their_clients() {
    let Some(daemon) = own() else { return };
    let body =
        json!({"Image": BUSYBOX, "Cmd": ["sh", "-c", "echo begun; exec sleep 1000"], "OpenStdin": true});
    daemon.request("POST", "/containers/create?name=silent", &body).expect(201);
    daemon.request("POST", "/containers/create?name=never", &body).expect(201);
    daemon.request("POST", "/containers/silent/start", &Value::Null).expect(204);
    let listeners = || daemon.get("/info")["NEventsListener"].as_u64().unwrap();
    let before = listeners();

    let path = "/containers/silent";
    comes_and_goes(&daemon, &format!("GET {path}/logs?follow=1&stdout=1"), b"", "begun\n");
    comes_and_goes(&daemon, &format!("GET {path}/logs?follow=1&stdout=1&tail=0"), b"", HEAD);
    comes_and_goes(&daemon, &format!("GET {path}/stats"), b"", "cpu_stats");
    comes_and_goes(&daemon, &format!("POST {path}/wait"), b"", HEAD);
    comes_and_goes(&daemon, &format!("POST {path}/wait?condition=removed"), b"", HEAD);
    comes_and_goes(&daemon, "GET /events", b"", HEAD);
    comes_and_goes(&daemon, "GET /events?until=99999999999", b"", HEAD);
    wait_until("no more listeners than before", || listeners() == before);

    let upgrade = "\nConnection: Upgrade\r\nUpgrade: tcp";
    for of in ["silent", "never"] {
        let attach = format!("POST /containers/{of}/attach?stream=1&stdout=1&stdin=1");
        comes_and_goes(&daemon, &attach, b"", HEAD);
        comes_and_goes(&daemon, &format!("{attach}{upgrade}"), b"", HEAD);
        let output = format!("POST /containers/{of}/attach?stream=1&stdout=1");
        comes_and_goes(&daemon, &output, b"", HEAD);
        comes_and_goes(&daemon, &format!("{output}{upgrade}"), b"", HEAD);
    }
    let command = json!({"Cmd": ["sh", "-c", "echo begun; exec sleep 1000"], "AttachStdout": true});
    let exec = daemon.request("POST", &format!("{path}/exec"), &command).expect(201).json();
    let exec = exec["Id"].as_str().unwrap();
    comes_and_goes(&daemon, &format!("POST /exec/{exec}/start"), b"{}", "begun\n");

    // A client that only says no more is not one that has gone.
    let mut stream = ask(&daemon, &format!("GET {path}/logs?follow=1&stdout=1&tail=0"), b"");
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    read_until(&mut stream, HEAD);
    let mut waiting = ask(&daemon, &format!("POST {path}/wait"), b"");
    waiting.shutdown(std::net::Shutdown::Write).unwrap();
    read_until(&mut waiting, HEAD);
    daemon.request("POST", "/containers/silent/kill", &Value::Null).expect(204);
    read_until(&mut waiting, "137");
    stream.read_to_end(&mut Vec::new()).unwrap();
    daemon.remove_all();
    daemon.assert_no_leaks();
}

#[test]
fn a_build_ends_with_its_client() {
    let Some(daemon) = own() else { return };
    let text = format!("FROM {BUSYBOX}\nRUN echo begun; sleep 1000\n");
    let context = testkit::tar::archive(&[Entry::file("Dockerfile", 0o644, text)]);
    comes_and_goes(&daemon, "POST /build", &context, "begun");
    wait_until("the end of its traces", || daemon.leaks().is_empty());
}

/// A registry that has an image and does not give all of it.
fn stalling(part: &'static str) -> Server {
    // None that the daemon has.
    let layer = vec![testkit::tar::archive(&[Entry::file("f", 0o644, part.repeat(1000))])];
    let served = Served::image("1", &layer, &images::busybox_config());
    let blob = format!("/blobs/{}", oci::Digest::of(&layer[0]));
    Server::start(move |request, _| {
        if request.path.contains("/uploads/") {
            loop {
                std::thread::park();
            }
        }
        let mut answer = served.answer(request);
        if (part == "manifest" && request.path.contains("/manifests/"))
            || (part == "layer" && request.path.ends_with(&blob))
        {
            answer.stall = Some(100);
        }
        answer
    })
}

#[test]
fn pulls_and_pushes_end_with_their_clients() {
    let Some(daemon) = own() else { return };
    let pull = |server: &Server| format!("POST /images/create?fromImage={}/a&tag=1", server.address);
    let server = stalling("layer");
    comes_and_goes(&daemon, &pull(&server), b"", "Pulling fs layer");

    // Nothing has been answered yet.
    let server = stalling("manifest");
    let before = open_files(&daemon);
    let stream = ask(&daemon, &pull(&server), b"");
    wait_until("the request", || {
        server.count("GET", "/manifests/") + server.count("HEAD", "/manifests/") > 0
    });
    drop(stream);
    wait_until("the end of a pull without an answer", || open_files(&daemon) <= before);

    let server = stalling("upload");
    let name = format!("{}/b", server.address);
    daemon.request("POST", &format!("/images/{BUSYBOX}/tag?repo={name}&tag=1"), &Value::Null).expect(201);
    let push = format!("POST /images/{name}/push?tag=1\nX-Registry-Auth: e30=");
    comes_and_goes(&daemon, &push, b"", "Preparing");
    daemon.assert_no_leaks();
}
