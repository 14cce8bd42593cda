//! brig-shim against real containers, with runc as the runtime. Needs root, and from Debian runc and busybox-static.

mod container;

use container::{ALL, Container, NONE, OUTPUT, Wish, can_run, exec_request, wait_for};
use errors::Kind;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use shim_api::{EXIT_FILE, Event, FrameKind, Ready, Request, Response, Status, Streams, frame};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

#[test]
fn output_reaches_the_log_and_those_attached() {
    if !can_run() {
        return;
    }
    let mut container = Container::create(&Wish::sh("echo out; echo err >&2; printf end; exit 7"));
    let mut first = container.attach(OUTPUT);
    let mut second = container.attach(Streams { stdout: true, ..NONE });
    container.start();
    let heard = first.hear();
    assert_eq!(
        (heard.out().as_str(), heard.stderr.as_slice(), heard.code()),
        ("out\nend", b"err\n".as_slice(), 7)
    );
    let heard = second.hear();
    assert_eq!((heard.out().as_str(), heard.stderr.len(), heard.code()), ("out\nend", 0, 7));
    let exit = container.exit();
    assert_eq!((exit.code, exit.oom_killed), (7, false));
    assert!(exit.at.ends_with('Z') && exit.at.len() >= 20, "{}", exit.at);
    let mut logged = container.logged();
    logged.sort_by_key(|(stream, _)| stream.as_str());
    let logged: Vec<_> = logged.iter().map(|(s, l)| (s.as_str(), l.as_str())).collect();
    assert_eq!(logged, [("stderr", "err\n"), ("stdout", "out\n"), ("stdout", "end")]);
}
