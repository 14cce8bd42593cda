//! Who waits for whom: clients that do not read, and a runtime that takes its time.

use crate::container::{Container, OUTPUT, Wish, can_run, wait_for};
use shim_api::{EXIT_FILE, Event, Request, Response, frame};
use std::process::Command;

/// More than sockets, pipes and the shim keep together.
const MUCH: u64 = 8_000_000;

#[test]
fn who_looks_on_and_never_reads_stops_nothing() {
    if !can_run() {
        return;
    }
    let script = format!(
        "trap 'go=1' USR1; echo ready; until [ $go ]; do sleep 0.01; done; yes 0123456789abcde | head -c {MUCH}; echo last"
    );
    let mut container = Container::run(&Wish::sh(&script));
    wait_for("its trap is set", || container.logged_text().contains("ready").then_some(()));
    let mut stuck = container.attach(OUTPUT);
    let mut reader = container.attach(OUTPUT);
    assert_eq!(container.kill(None, 10), Response::Ok);
    // Well before the patience that the shim has with those for whom a container was started.
    let heard = reader.hear();
    assert_eq!((heard.stdout.len() as u64, heard.code()), (MUCH + 5, 0));
    assert!(container.shim_log().contains("took nothing for too long"), "{}", container.shim_log());
    let mut got = 0;
    while let Ok(Some((_, bytes))) = frame::read(&mut stuck.stream) {
        got += bytes.len() as u64;
    }
    assert!(got < MUCH / 2, "it was cut off: {got}");
    assert_eq!(container.exit().code, 0);
}

#[test]
fn the_exit_is_told_while_the_runtime_still_deletes() {
    if !can_run() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let (slow, gate) = (place.path().join("slow"), place.path().join("gate"));
    let script = format!(
        "#!/bin/sh\ncase \" $* \" in *' delete '*) until [ -e {} ]; do sleep 0.01; done ;; esac\nexec /usr/sbin/runc \"$@\"\n",
        gate.display()
    );
    let source = place.path().join("source");
    std::fs::write(&source, script).unwrap();
    // Not written by this process: what another test starts meanwhile would hold it open, and it could not be executed.
    let installed = Command::new("install").args(["-m", "755"]).args([&source, &slow]).status().unwrap();
    assert!(installed.success());
    let mut container = Container::create(&Wish { runtime: slow, ..Wish::sh("echo out; exit 3") });
    let mut attached = container.attach(OUTPUT);
    let mut early = container.connect();
    early.send(&Request::Subscribe);
    container.start();
    let heard = attached.hear();
    assert_eq!((heard.out().as_str(), heard.code()), ("out\n", 3));
    let told = |response| matches!(response, Response::Event(Event::Exited { exec_id: None, exit }) if exit.code == 3);
    assert!(told(early.response()));
    assert!(container.dir().join(EXIT_FILE).exists());
    // Who asks now hears it too, and neither connection ends before the runtime is done.
    let mut late = container.connect();
    late.send(&Request::Subscribe);
    assert!(told(late.response()));
    assert_eq!(container.state().exit.map(|e| e.code), Some(3));
    assert!(container.base.path().join("runc").join(&container.id).exists());
    std::fs::write(&gate, "").unwrap();
    assert!(early.is_cut() && late.is_cut());
    assert!(!container.base.path().join("runc").join(&container.id).exists());
    assert_eq!(container.exit().code, 3);
}
