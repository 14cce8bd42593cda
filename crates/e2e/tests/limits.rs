//! Limits that the daemon has and gives: open files, and large requests at a time.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::BUSYBOX;
use serde_json::json;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use testkit::daemon::{Daemon, Options};
use testkit::{raw, wait_until};

/// How many large bodies the daemon takes in at a time.
const AT_ONCE: usize = 4;

fn open_files(pid: &str) -> (String, String) {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find(|l| l.starts_with("Max open files")).unwrap();
    let mut words = line.split_whitespace().skip(3).map(str::to_string);
    (words.next().unwrap(), words.next().unwrap())
}

#[test]
fn the_daemon_takes_all_the_descriptors_it_may_and_containers_get_what_it_had() {
    if !testkit::is_root() {
        return;
    }
    let daemon = Daemon::start(Options { first: Some("ulimit -Sn 600"), ..Options::default() });
    daemon.load_busybox(BUSYBOX);
    let (soft, hard) = open_files(&daemon.pid().to_string());
    assert_eq!(soft, hard);
    assert_ne!(soft, "600");
    let shown = |args: &[&str]| {
        let words = [&["run", "--rm", "--network", "none"], args, &[BUSYBOX]].concat();
        daemon.brig(&[&words[..], &["sh", "-c", "ulimit -Sn; ulimit -Hn"]].concat()).success()
    };
    assert_eq!(shown(&[]), format!("600\n{hard}"));
    assert_eq!(shown(&["--ulimit", "nofile=100:200"]), "100\n200");
    // One that is entered later too.
    daemon.brig(&["run", "-d", "--name", "stays", "--network", "none", BUSYBOX, "sleep", "600"]).success();
    assert_eq!(daemon.brig(&["exec", "stays", "sh", "-c", "ulimit -Sn"]).success(), "600");
    daemon.brig(&["rm", "-f", "stays"]).success();
    daemon.assert_no_leaks();
}

/// A request to create a container, of about `size` bytes, whose image is not there.
fn large_request(size: usize) -> Vec<u8> {
    let body = json!({"Image": "none/such", "Labels": {"x": "y".repeat(size)}}).to_string();
    let head = "POST /containers/create HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n";
    format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn status(stream: &mut UnixStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap_or_default().to_string()
}

#[test]
fn large_requests_take_turns_and_small_ones_pass_them() {
    if !testkit::is_root() {
        return;
    }
    let daemon = Daemon::start(Options::default());
    let request = large_request(4 << 20);
    let half = request.len() / 2;
    // More than have a turn at a time, each half sent. What the daemon does not read yet waits in the thread.
    let clients: Vec<_> = (0..12)
        .map(|_| {
            let stream = raw::connect(&daemon.socket).unwrap();
            let (mut writer, first) = (stream.try_clone().unwrap(), request[..half].to_vec());
            (stream, std::thread::spawn(move || drop(writer.write_all(&first))))
        })
        .collect();
    let read = || clients.iter().filter(|(_, writer)| writer.is_finished()).count();
    wait_until("as many are read as may be", || read() == AT_ONCE);
    let small = json!({"Image": "none/such"}).to_string();
    for _ in 0..20 {
        let answer =
            raw::send(&daemon.socket, "POST", "/containers/create", "application/json", small.as_bytes());
        assert_eq!(answer.unwrap().status, 404);
    }
    assert_eq!(read(), AT_ONCE);
    for (stream, writer) in clients {
        stream.shutdown(std::net::Shutdown::Both).unwrap();
        writer.join().unwrap();
    }
    // Nobody keeps a turn that it has no use for.
    for _ in 0..8 {
        let mut stream = raw::connect(&daemon.socket).unwrap();
        stream.write_all(&request).unwrap();
        assert_eq!(status(&mut stream), "404");
    }
}
