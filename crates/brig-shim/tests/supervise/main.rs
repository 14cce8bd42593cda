//! brig-shim against real containers, with runc as the runtime. Needs root, and from Debian runc and busybox-static.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "all of it is a test; clippy knows only functions marked so"
)]

mod container;
mod held_up;

use container::{ALL, Container, NONE, OUTPUT, Wish, can_run, exec_request, wait_for};
use errors::Kind;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use shim_api::{EXIT_FILE, Event, FrameKind, Ready, Request, Response, Status, Streams, frame};
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

#[test]
fn output_reaches_the_log_and_those_attached() {
    if !can_run() {
        return;
    }
    let begin = Instant::now();
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
    assert!(
        begin.elapsed() < Duration::from_secs(9),
        "it left because all was done, not because time was up"
    );
    assert!(exit.at.ends_with('Z') && exit.at.len() >= 20, "{}", exit.at);
    let mut logged = container.logged();
    logged.sort_by_key(|(stream, _)| stream.as_str());
    let logged: Vec<_> = logged.iter().map(|(s, l)| (s.as_str(), l.as_str())).collect();
    assert_eq!(logged, [("stderr", "err\n"), ("stdout", "out\n"), ("stdout", "end")]);
}

#[test]
fn a_terminal_echoes_resizes_and_ends() {
    if !can_run() {
        return;
    }
    let script =
        "stty size; while read line; do [ $line = size ] && stty size; echo got $line; done; echo bye";
    let wish = Wish { tty: true, open_stdin: true, ..Wish::sh(script) };
    let mut container = Container::create(&wish);
    let mut client = container.attach(ALL);
    let resize = Request::Resize { exec_id: None, height: 33, width: 111 };
    assert_eq!(container.ask(&resize), Response::Ok);
    container.start();
    client.read_until("33 111\r\n");
    client.stdin(b"hello\n");
    let heard = client.read_until("got hello\r\n");
    assert!(heard.contains("hello\r\ngot hello"), "{heard:?} has the echo");
    let resize = Request::Resize { exec_id: None, height: 5, width: 6 };
    assert_eq!(container.ask(&resize), Response::Ok);
    client.stdin(b"size\n");
    client.read_until("5 6\r\n");
    // The end of a terminal's input is a character; half a line is handed over first.
    client.stdin(b"half");
    client.close_stdin();
    let heard = client.hear();
    assert!(heard.out().contains("bye\r\n"), "{:?}", heard.out());
    assert_eq!((heard.code(), heard.stderr.len()), (0, 0));
    assert_eq!(container.exit().code, 0);
    assert!(container.logged_text().contains("got hello\r\n"));
}

#[test]
fn a_terminal_that_is_closed_and_opened_again_is_still_heard() {
    if !can_run() {
        return;
    }
    let script = "exec </dev/null >/dev/null 2>&1; sleep 0.2; exec 3<>/dev/console; echo again >&3";
    let mut container = Container::create(&Wish { tty: true, ..Wish::sh(script) });
    let mut client = container.attach(OUTPUT);
    container.start();
    assert_eq!(client.hear().out(), "again\r\n");
    assert_eq!(container.exit().code, 0);
}

#[test]
fn stdin_goes_through_whole_and_ends() {
    if !can_run() {
        return;
    }
    let mut container = Container::create(&Wish { open_stdin: true, ..Wish::sh("cat; echo; echo over") });
    let mut client = container.attach(ALL);
    container.start();
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let mut writer = container::Connection { stream: client.stream.try_clone().unwrap() };
    let sent = bytes.clone();
    let sender = std::thread::spawn(move || {
        writer.stdin(&sent);
        writer.close_stdin();
    });
    let heard = client.hear();
    sender.join().unwrap();
    let (body, end) = heard.stdout.split_at(bytes.len());
    assert!(body == bytes, "what came back is what was sent");
    assert_eq!((end, heard.code()), (b"\nover\n".as_slice(), 0));
    assert_eq!(container.exit().code, 0);
}

#[test]
fn stdin_once_ends_with_its_client() {
    if !can_run() {
        return;
    }
    let wish = Wish { open_stdin: true, stdin_once: true, ..Wish::sh("cat; echo over") };
    let mut container = Container::create(&wish);
    let mut watcher = container.attach(OUTPUT);
    let mut client = container.attach(ALL);
    container.start();
    client.stdin(b"bytes\n");
    drop(client);
    assert_eq!(watcher.hear().out(), "bytes\nover\n");
    assert_eq!(container.exit().code, 0);
}

#[test]
fn stdin_stays_open_for_the_next_client() {
    if !can_run() {
        return;
    }
    let mut container = Container::run(&Wish { open_stdin: true, ..Wish::sh("cat") });
    let mut watcher = container.attach(OUTPUT);
    for text in ["one\n", "two\n"] {
        let mut client = container.attach(ALL);
        client.stdin(text.as_bytes());
        assert_eq!(client.read_until(text), text);
        drop(client);
        watcher.read_until(text);
    }
    container.attach(ALL).close_stdin();
    assert_eq!(watcher.hear().code(), 0);
    assert_eq!(container.exit().code, 0);
}

#[test]
fn without_stdin_there_is_none() {
    if !can_run() {
        return;
    }
    let mut container = Container::create(&Wish::sh("cat; echo over"));
    let mut client = container.attach(ALL);
    client.stdin(b"ignored");
    container.start();
    assert_eq!(client.hear().out(), "over\n");
    assert_eq!(container.exit().code, 0);
}

#[test]
fn execs_with_and_without_terminal() {
    if !can_run() {
        return;
    }
    let mut container = Container::run(&Wish::sh("sleep 1000"));
    let mut events = container.connect();
    events.send(&Request::Subscribe);

    let (mut client, response) = container.exec("plain", false, "cat; echo err >&2; exit 5", ALL);
    let Response::Started { pid } = response else { panic!("{response:?}") };
    client.stdin(b"through");
    client.close_stdin();
    let heard = client.hear();
    assert_eq!(
        (heard.out().as_str(), heard.stderr.as_slice(), heard.code()),
        ("through", b"err\n".as_slice(), 5)
    );

    let (mut client, response) =
        container.exec("tty", true, "stty size; read a; echo got $a; kill -9 $$", ALL);
    assert!(matches!(response, Response::Started { .. }), "{response:?}");
    let resize = Request::Resize { exec_id: Some("tty".into()), height: 7, width: 8 };
    assert_eq!(container.ask(&resize), Response::Ok);
    client.stdin(b"word\n");
    let heard = client.hear();
    assert!(heard.out().ends_with("got word\r\n"), "{:?}", heard.out());
    assert_eq!(heard.code(), 137);

    // With no stream the connection goes on with requests.
    let mut client = container.connect();
    let response = client.ask(&exec_request("silent", false, &["/bin/sh", "-c", "echo x; exit 3"], NONE));
    assert!(matches!(response, Response::Started { .. }), "{response:?}");
    let silent = wait_for("the silent exec ends", || {
        let Response::State(state) = client.ask(&Request::State) else { panic!("state") };
        assert_eq!(state.status, Status::Running);
        state.execs.into_iter().find(|e| e.exec_id == "silent" && e.exit.is_some())
    });
    assert_eq!(silent.exit.unwrap().code, 3);

    let told: Vec<_> = (0..3)
        .map(|_| match events.response() {
            Response::Event(Event::Exited { exec_id, exit }) => (exec_id.unwrap(), exit.code),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, [("plain".into(), 5), ("tty".into(), 137), ("silent".into(), 3)]);
    let known = container.state().execs;
    assert_eq!(known.len(), 3);
    assert_eq!((known[0].pid, known[0].exit.as_ref().unwrap().pid), (pid, pid));
    // A later subscriber hears what is past.
    let mut late = container.connect();
    late.send(&Request::Subscribe);
    assert!(
        matches!(late.response(), Response::Event(Event::Exited { exec_id: Some(id), .. }) if id == "plain")
    );

    let again = container.exec("plain", false, "true", NONE).1;
    assert!(matches!(&again, Response::Failed(r) if r.kind == Kind::AlreadyExists), "{again:?}");
    assert_eq!(container.kill(None, 9), Response::Ok);
    assert!(
        matches!(events.response(), Response::Event(Event::Exited { exec_id: None, exit }) if exit.code == 137)
    );
    assert!(events.is_cut());
    assert_eq!(container.exit().code, 137);
    let left: Vec<_> = std::fs::read_dir(container.dir()).unwrap().map(|e| e.unwrap().file_name()).collect();
    let left: Vec<_> = left.iter().map(|n| n.to_str().unwrap()).filter(|n| !n.starts_with("shim.")).collect();
    assert!(left.iter().all(|n| ["exit.json", "runtime.log"].contains(n)), "{left:?}");
}

#[test]
fn execs_that_exit_at_once_are_not_lost() {
    if !can_run() {
        return;
    }
    let mut container = Container::run(&Wish::sh("sleep 1000"));
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let container = &container;
            scope.spawn(move || {
                for n in 0..8 {
                    let (mut client, response) =
                        container.exec(&format!("{thread}-{n}"), false, "echo hi; exit 4", OUTPUT);
                    assert!(matches!(response, Response::Started { .. }), "{response:?}");
                    let heard = client.hear();
                    assert_eq!((heard.out().as_str(), heard.code()), ("hi\n", 4));
                }
            });
        }
    });
    assert_eq!(container.state().execs.len(), 24);
    assert_eq!(container.kill(None, 9), Response::Ok);
    assert_eq!(container.exit().code, 137);
}

#[test]
fn execs_that_init_takes_along_are_told_before_it() {
    if !can_run() {
        return;
    }
    for has_pid_namespace in [true, false] {
        let mut container = Container::run(&Wish { has_pid_namespace, ..Wish::sh("sleep 1000") });
        let mut events = container.connect();
        events.send(&Request::Subscribe);
        let mut clients: Vec<_> = (0..3)
            .map(|n| container.exec(&format!("e{n}"), n == 1, "echo ready; sleep 1000", OUTPUT).0)
            .collect();
        for client in &mut clients {
            client.read_until("ready");
        }
        assert_eq!(container.kill(None, 9), Response::Ok);
        let mut told = Vec::new();
        while told.last() != Some(&None) {
            let Response::Event(Event::Exited { exec_id, exit }) = events.response() else {
                panic!("no event")
            };
            assert_eq!(exit.code, 137);
            told.push(exec_id);
        }
        assert_eq!(told.len(), 4, "{told:?}");
        assert!(clients.iter_mut().all(|client| client.hear().code() == 137));
        assert_eq!(container.exit().code, 137);
    }
}

#[test]
fn an_exec_ends_though_its_child_holds_the_pipe() {
    if !can_run() {
        return;
    }
    let mut container = Container::run(&Wish::sh("sleep 1000"));
    let start = Instant::now();
    let (mut client, _) = container.exec("e", false, "sleep 999 & echo done", OUTPUT);
    let heard = client.hear();
    assert_eq!((heard.out().as_str(), heard.code()), ("done\n", 0));
    assert!(start.elapsed() < Duration::from_secs(20), "it was not waited for the child");
    assert_eq!(container.kill(None, 15), Response::Ok);
    assert_eq!(container.kill(None, 9), Response::Ok);
    assert_eq!(container.exit().code, 137);
}

#[test]
fn failed_execs_say_why() {
    if !can_run() {
        return;
    }
    let container = Container::run(&Wish::sh("sleep 1000"));
    for (args, kind) in [
        (["/no/such"].as_slice(), Kind::NotFound),
        (&["nothing-of-that-name"], Kind::NotFound),
        (&["/tmp"], Kind::Denied),
    ] {
        for tty in [false, true] {
            let response = container.ask(&exec_request("bad", tty, args, OUTPUT));
            let Response::Failed(report) = response else { panic!("{response:?}") };
            assert_eq!(report.kind, kind, "{report}");
            assert_eq!(report.links[0], "runtime exec");
        }
    }
    let response = container.ask(&exec_request("../up", false, &["/bin/true"], NONE));
    assert!(matches!(&response, Response::Failed(r) if r.kind == Kind::InvalidArgument), "{response:?}");
    // The connection goes on after a failure.
    let mut client = container.connect();
    assert!(matches!(client.ask(&exec_request("bad", false, &["/no"], ALL)), Response::Failed(_)));
    assert!(matches!(client.ask(&Request::State), Response::State(state) if state.execs.is_empty()));
}

#[test]
fn a_failed_create_leaves_nothing() {
    if !can_run() {
        return;
    }
    for tty in [false, true] {
        let wish = Wish { args: vec!["/no/such".into()], tty, ..Wish::sh("") };
        let mut container = Container::try_create(&wish);
        let Ready::Failed(report) = &container.ready else { panic!("{:?}", container.ready) };
        assert_eq!(report.kind, Kind::NotFound, "{report}");
        assert!(report.to_string().contains("/no/such"), "{report}");
        assert!(!wait_for("the shim leaves", || container.shim.try_wait().unwrap()).success());
        let left: Vec<_> =
            std::fs::read_dir(container.dir()).unwrap().map(|e| e.unwrap().file_name()).collect();
        let left: Vec<_> = left.iter().filter(|n| *n != "shim.json" && *n != "shim.log").collect();
        assert_eq!(left.len(), 0, "{left:?}");
        let runtime_root = container.base.path().join("runc");
        assert_eq!(std::fs::read_dir(runtime_root).map_or(0, Iterator::count), 0);
        assert_eq!(container.logged(), []);
    }
}

#[test]
fn a_broken_configuration_is_told() {
    if !can_run() {
        return;
    }
    let wish = Wish { log_path: Some("/no/such/directory/log".into()), ..Wish::sh("true") };
    let container = Container::try_create(&wish);
    assert!(matches!(&container.ready, Ready::Failed(r) if r.to_string().contains("/no/such/directory/log")));
}

#[test]
fn shutdown_and_kill_end_what_never_started() {
    if !can_run() {
        return;
    }
    let mut container = Container::create(&Wish::sh("true"));
    let mut client = container.attach(OUTPUT);
    assert_eq!(container.state().status, Status::Created);
    assert_eq!(container.ask(&Request::Shutdown), Response::Ok);
    assert_eq!(client.hear().code(), 137);
    assert_eq!(container.exit().code, 137);

    let mut container = Container::create(&Wish::sh("true"));
    assert_eq!(container.kill(None, 9), Response::Ok);
    assert_eq!(container.exit().code, 137);
    assert_eq!(std::fs::read_dir(container.base.path().join("runc")).unwrap().count(), 0);
}

#[test]
fn signals_and_what_they_leave() {
    if !can_run() {
        return;
    }
    let script = "trap 'echo usr1' USR1; trap 'echo rt; exit 9' 37; echo ready; while :; do sleep 0.05; done";
    let container = Container::create(&Wish::sh(script));
    let mut client = container.attach(OUTPUT);
    container.start();
    client.read_until("ready\n");
    assert_eq!(container.kill(None, 10), Response::Ok);
    client.read_until("usr1\n");
    for signal in [0, -9, 65] {
        let response = container.kill(None, signal);
        assert!(matches!(&response, Response::Failed(r) if r.kind == Kind::InvalidArgument), "{response:?}");
    }
    let response = container.kill(Some("none"), 9);
    assert!(matches!(&response, Response::Failed(r) if r.kind == Kind::NotFound), "{response:?}");
    // A real-time signal, as systemd in a container is stopped with.
    assert_eq!(container.kill(None, 37), Response::Ok);
    assert_eq!(client.hear().code(), 9);
    // The shim itself heeds none but SIGKILL.
    let mut container = Container::run(&Wish::sh("sleep 1000"));
    let shim = Pid::from_child(&container.shim);
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::PIPE] {
        kill_process(shim, signal).unwrap();
    }
    assert_eq!(container.state().status, Status::Running);
    // Init of a pid namespace has no default action for SIGTERM; that the runtime left it unblocked shows in this:
    let status = std::fs::read_to_string(format!("/proc/{}/status", container.state().pid)).unwrap();
    assert!(status.contains("SigBlk:\t0000000000000000"), "{status}");
    assert_eq!(container.kill(None, 9), Response::Ok);
    assert_eq!(container.exit().code, 137);
}

#[test]
fn pause_and_resume() {
    if !can_run() {
        return;
    }
    let mut container = Container::run(&Wish::sh("sleep 1000"));
    assert!(matches!(container.ask(&Request::Resume), Response::Failed(r) if r.kind == Kind::WrongState));
    assert_eq!(container.ask(&Request::Pause), Response::Ok);
    assert_eq!(container.state().status, Status::Paused);
    let response = container.exec("e", false, "true", NONE).1;
    assert!(matches!(&response, Response::Failed(r) if r.kind == Kind::WrongState), "{response:?}");
    assert_eq!(container.ask(&Request::Resume), Response::Ok);
    assert_eq!(container.state().status, Status::Running);
    assert!(matches!(container.ask(&Request::Start), Response::Failed(r) if r.kind == Kind::WrongState));
    assert_eq!(container.kill(None, 9), Response::Ok);
    assert_eq!(container.exit().code, 137);
}

#[test]
fn a_slow_client_loses_nothing_and_is_no_drag_once_gone() {
    if !can_run() {
        return;
    }
    let mut container =
        Container::create(&Wish::sh("yes 0123456789abcdef | head -c 8000000; echo; echo last"));
    let mut slow = container.attach(OUTPUT);
    slow.take_little();
    let stuck = container.attach(OUTPUT);
    let mut quick = container.attach(OUTPUT);
    container.start();
    std::thread::sleep(Duration::from_millis(300));
    // The one that takes nothing holds everyone back, within bounds.
    assert_eq!(container.state().status, Status::Running);
    assert!(std::fs::metadata(container.log_path()).unwrap().len() < 4_000_000);
    drop(stuck);
    let quick = std::thread::spawn(move || quick.hear());
    let mut heard = Vec::new();
    while let Ok(Some((kind, bytes))) = frame::read(&mut slow.stream) {
        if kind == FrameKind::Stdout {
            heard.extend(bytes);
        }
        if heard.len() < 400_000 {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    assert_eq!(heard.len(), 8_000_006);
    assert!(quick.join().unwrap().stdout == heard);
    assert_eq!(container.exit().code, 0);
}

#[test]
fn many_lines_rotate_and_none_is_lost() {
    if !can_run() {
        return;
    }
    let wish = Wish { max_size_bytes: 500_000, max_files: 100, ..Wish::sh("seq 1 100000") };
    let mut container = Container::run(&wish);
    assert_eq!(container.exit().code, 0);
    assert!(container.base.path().join("log.10").exists());
    let lines = container.logged();
    assert_eq!(lines.len(), 100_000);
    assert!((1..).zip(&lines).all(|(n, (_, line))| *line == format!("{n}\n")));
}

#[test]
fn output_after_inits_exit_is_kept() {
    if !can_run() {
        return;
    }
    // In the host's pid namespace a child outlives init, holds the pipe, and is killed by `delete`.
    let script = "setsid sh -c 'trap \"\" HUP; sleep 0.05; echo late; sleep 1000' & echo early";
    let wish = Wish { has_pid_namespace: false, ..Wish::sh(script) };
    let mut container = Container::create(&wish);
    let mut client = container.attach(OUTPUT);
    container.start();
    let heard = client.hear();
    assert!(heard.out().starts_with("early\n"), "{:?}", heard.out());
    assert_eq!(container.exit().code, 0);

    // What fills the pipe at the end is read to the end.
    let mut container = Container::create(&Wish::sh("yes | head -c 60000"));
    let mut client = container.attach(OUTPUT);
    container.start();
    assert_eq!(client.hear().stdout.len(), 60_000);
    container.exit();
    assert_eq!(container.logged_text().len(), 60_000);
}

#[test]
fn orphans_are_reaped() {
    if !can_run() {
        return;
    }
    // In the host's pid namespace orphans come to the shim.
    let script = "for i in 1 2 3 4 5; do (setsid sleep 0.1 &) ; done; echo ready; sleep 1000";
    let mut container = Container::create(&Wish { has_pid_namespace: false, ..Wish::sh(script) });
    let mut client = container.attach(OUTPUT);
    container.start();
    client.read_until("ready\n");
    let shim = container.shim.id();
    let children = || std::fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).unwrap();
    wait_for("only init is left", || (children().split_whitespace().count() == 1).then_some(()));
    assert_eq!(container.kill(None, 9), Response::Ok);
    assert_eq!(container.exit().code, 137);
}

#[test]
fn a_kill_for_memory_is_recorded() {
    if !can_run() {
        return;
    }
    let wish = Wish {
        memory_bytes: Some(16 << 20),
        ..Wish::sh("x=$(yes | head -c 100000000); echo $x | head -c 1")
    };
    let mut container = Container::run(&wish);
    let exit = container.exit();
    assert!(exit.oom_killed, "{exit:?}");
}

#[test]
fn garbage_ends_its_own_connection_only() {
    if !can_run() {
        return;
    }
    let mut container = Container::run(&Wish { open_stdin: true, ..Wish::sh("cat") });
    let garbage: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\n\r\n",
        &[0, 0, 0, 2, 0, b'{', b'{'],
        &[0, 0, 0, 0, 9],
        &[0xff; 64],
        &[0, 0, 0, 1, 1, b'x'],
        &[0, 0, 0, 7, 0, b'"', b's', b't', b'a', b'r', b't', b'"'],
    ];
    for bytes in garbage {
        let mut client = container.connect_raw();
        client.stream.write_all(bytes).unwrap();
        wait_for("the shim closes", || match frame::read(&mut client.stream) {
            Ok(Some((FrameKind::Control, answer))) => {
                assert!(String::from_utf8_lossy(&answer).contains("failed"));
                None
            }
            _ => Some(()),
        });
    }
    // After hello, and while attached.
    let mut client = container.connect();
    client.stream.write_all(&[0, 0, 0, 3, 0, b'[', b'1', b']']).unwrap();
    assert!(matches!(client.response(), Response::Failed(r) if r.kind == Kind::Unsupported));
    assert!(matches!(client.ask(&Request::State), Response::State(_)));
    client.stream.write_all(&[0, 0, 0, 1, 2, b'x']).unwrap();
    assert!(client.is_cut());
    let mut client = container.attach(ALL);
    client.send(&Request::State);
    assert!(client.is_cut());
    // Half a frame, then gone.
    let mut client = container.connect();
    client.stream.write_all(&[0, 0, 1]).unwrap();
    drop(client);
    // Another version is told ours.
    let mut client = container.connect_raw();
    let hello = client.ask(&Request::Hello { version: 99 });
    assert!(matches!(hello, Response::Hello { version: shim_api::VERSION, .. }));
    assert!(matches!(client.ask(&Request::State), Response::State(_)));
    assert_eq!(container.kill(None, 9), Response::Ok);
    assert_eq!(container.exit().code, 137);
}

#[test]
fn the_socket_is_for_its_owner_alone() {
    if !can_run() {
        return;
    }
    use std::os::unix::fs::PermissionsExt as _;
    let container = Container::create(&Wish::sh("true"));
    let socket = container.dir().join("shim.sock");
    assert_eq!(std::fs::metadata(socket).unwrap().permissions().mode() & 0o7777, 0o600);
}

#[test]
fn a_killed_client_is_forgotten() {
    if !can_run() {
        return;
    }
    let mut container = Container::run(&Wish { open_stdin: true, ..Wish::sh("cat") });
    // A client in a process of its own, which attaches and is then killed.
    let mut client = container.attach(ALL);
    client.stdin(b"before\n");
    client.read_until("before\n");
    let held: std::os::fd::OwnedFd = client.stream.into();
    let mut holder = std::process::Command::new("/bin/busybox")
        .args(["sleep", "1000"])
        .stdin(std::process::Stdio::from(held))
        .spawn()
        .unwrap();
    let shim = container.shim.id();
    let descriptors = || std::fs::read_dir(format!("/proc/{shim}/fd")).unwrap().count();
    let before = descriptors();
    holder.kill().unwrap();
    holder.wait().unwrap();
    wait_for("the connection is closed", || (descriptors() < before).then_some(()));
    let mut client = container.attach(ALL);
    client.stdin(b"after\n");
    client.read_until("after\n");
    client.close_stdin();
    assert_eq!(client.hear().code(), 0);
    assert_eq!(container.exit().code, 0);
}

#[test]
fn a_killed_shim_leaves_no_exit_record() {
    if !can_run() {
        return;
    }
    let mut container = Container::run(&Wish::sh("sleep 1000"));
    let init = Pid::from_raw(container.state().pid).unwrap();
    container.shim.kill().unwrap();
    container.shim.wait().unwrap();
    assert!(!container.dir().join(EXIT_FILE).exists());
    assert!(test_kill_process(init).is_ok(), "the container is not harmed");
}

#[test]
fn an_idle_shim_is_small_and_asleep() {
    if !can_run() {
        return;
    }
    let container = Container::run(&Wish::sh("sleep 1000"));
    let shim = container.shim.id();
    let switches = || {
        let status = std::fs::read_to_string(format!("/proc/{shim}/status")).unwrap();
        status.lines().find(|l| l.starts_with("voluntary_ctxt_switches")).unwrap().to_owned()
    };
    // It has answered, so what is left to do is done in this turn.
    std::thread::sleep(Duration::from_millis(200));
    let before = switches();
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(switches(), before);
    let descriptors: Vec<PathBuf> = std::fs::read_dir(format!("/proc/{shim}/fd"))
        .unwrap()
        .map(|e| std::fs::read_link(e.unwrap().path()).unwrap())
        .collect();
    // 0, 1, 2; null, signals, listener, log, two pipes, init's pidfd.
    assert!(descriptors.len() <= 10, "{descriptors:?}");
}

#[test]
fn a_full_disk_harms_neither_shim_nor_container() {
    if !can_run() {
        return;
    }
    let disk = SmallDisk::mount();
    let script = "seq 1 50000; echo filled; read x; echo after";
    let wish = Wish { open_stdin: true, log_path: Some(disk.0.path().join("log")), ..Wish::sh(script) };
    let mut container = Container::create(&wish);
    let mut client = container.attach(ALL);
    container.start();
    client.read_until("filled\n");
    wait_for("the trouble is noted", || container.shim_log().contains("No space left").then_some(()));
    let text = std::fs::read(disk.0.path().join("log")).unwrap();
    assert!(text.ends_with(b"\n"), "the log ends with a whole line");
    File::options().write(true).open(disk.0.path().join("log")).unwrap().set_len(0).unwrap();
    client.stdin(b"go\n");
    assert_eq!(client.hear().code(), 0);
    assert_eq!(container.exit().code, 0);
    let mut reader = logs::Reader::open(&disk.0.path().join("log"), logs::Options::default()).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().line, b"after\n");
    assert!(container.shim_log().contains("works again"));
}

/// A file system of 256 KiB.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> SmallDisk {
        let dir = tempfile::tempdir().unwrap();
        let data = std::ffi::CString::new("size=256k").unwrap();
        rustix::mount::mount(
            "tmpfs",
            dir.path(),
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            data.as_c_str(),
        )
        .unwrap();
        SmallDisk(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH).ok();
    }
}
