//! Where output goes: each log driver, its options, and what `logs` reads back.

#![allow(clippy::unwrap_used, reason = "a panic is the report")]

use e2e::{BUSYBOX, Client, shared};
use serde_json::json;
use std::io::Read as _;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;
use testkit::daemon::Daemon;
use testkit::wait_until;

/// Runs a script to its end with these log flags, under this name.
#[track_caller]
fn run(daemon: &Daemon, name: &str, flags: &[&str], script: &str) {
    let mut args = vec!["run", "--name", name];
    args.extend(flags);
    args.extend([BUSYBOX, "sh", "-c", script]);
    daemon.brig(&args).success();
}

/// The same, in the background.
#[track_caller]
fn run_detached(daemon: &Daemon, name: &str, flags: &[&str], script: &str) {
    let mut args = vec!["run", "-d", "--name", name];
    args.extend(flags);
    args.extend([BUSYBOX, "sh", "-c", script]);
    daemon.brig(&args).success();
}

fn remove(daemon: &Daemon, name: &str) {
    daemon.brig(&["rm", "-f", name]).success();
}

#[test]
fn local_keeps_and_compresses() {
    let Some(shared) = shared() else { return };
    let daemon = &shared.daemon;
    let name = "log-local";
    let flags = ["--log-driver", "local", "--log-opt", "max-size=20k", "--log-opt", "max-file=4"];
    let script = "echo first >&2; for i in $(seq 6000); do echo \"line $i\"; done; trap : TERM; sleep 300 & wait; \
                  printf 'no end'";
    run_detached(daemon, name, &flags, script);
    let id = daemon.get(&format!("/containers/{name}/json"))["Id"].as_str().unwrap().to_string();
    let dir = daemon.data_root.join("containers").join(id);
    let names = || -> Vec<String> {
        let names = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|n| n.contains("local1.log")).collect()
    };
    wait_until("what was put aside is compressed", || {
        let names = names();
        names.len() == 4 && names.iter().filter(|n| n.ends_with(".gz")).count() == 3
    });
    wait_until("all is written", || daemon.docker(&["logs", "--tail", "1", name]).success() == "line 6000");
    daemon.brig(&["kill", "-s", "TERM", name]).success();
    daemon.brig(&["wait", name]).success();
    for client in [Client::Brig, Client::Docker] {
        let all = client.run(daemon, &["logs", name]).success();
        let lines: Vec<&str> = all.lines().collect();
        assert_eq!(lines[lines.len() - 2..], ["line 6000", "no end"]);
        let begin: u32 = lines[0].strip_prefix("line ").unwrap().parse().unwrap();
        // All that is left, without a gap.
        assert!(begin > 1 && lines.len() == 6001 - begin as usize + 1, "{begin} {}", lines.len());
        assert_eq!(
            client.run(daemon, &["logs", "--tail", "3", name]).success(),
            "line 5999\nline 6000\nno end"
        );
        assert_eq!(
            client.run(daemon, &["logs", "--tail", "4000", name]).success().lines().count(),
            4000.min(lines.len())
        );
        let stamped = client.run(daemon, &["logs", "-t", "--tail", "1", name]).success();
        assert!(stamped.contains("T") && stamped.ends_with("Z no end"), "{stamped}");
    }
    remove(daemon, name);

    // Following.
    let script = "for i in 1 2 3; do echo $i; sleep 0.1; done";
    daemon
        .docker(&["run", "-d", "--name", name, "--log-driver", "local", BUSYBOX, "sh", "-c", script])
        .success();
    assert_eq!(daemon.docker(&["logs", "-f", name]).success(), "1\n2\n3");
    remove(daemon, name);
}

#[test]
fn json_file_compresses_and_tags() {
    let Some(shared) = shared() else { return };
    let daemon = &shared.daemon;
    let name = "log-json";
    let flags = [
        "--log-opt",
        "max-size=20k",
        "--log-opt",
        "max-file=3",
        "--log-opt",
        "compress=true",
        "--log-opt",
        "tag={{.Name}}/x",
        "--log-opt",
        "env=WHO",
        "-e",
        "WHO=me",
        "--log-opt",
        "mode=non-blocking",
    ];
    // In two parts: while a file is compressed nothing is put aside, so one part may end in one file put aside.
    let script = "for i in $(seq 1000); do echo $i; done; until [ -e /go ]; do sleep 0.1; done; \
                  for i in $(seq 1001 2000); do echo $i; done; sleep 300";
    run_detached(daemon, name, &flags, script);
    let path = daemon.get(&format!("/containers/{name}/json"))["LogPath"].as_str().unwrap().to_string();
    let is_compressed = |n: u32| {
        std::path::Path::new(&format!("{path}.{n}.gz")).exists()
            && !std::path::Path::new(&format!("{path}.{n}")).exists()
    };
    wait_until("half is written", || daemon.docker(&["logs", "--tail", "1", name]).success() == "1000");
    wait_until("one put aside is compressed", || is_compressed(1));
    daemon.docker(&["exec", name, "touch", "/go"]).success();
    wait_until("all is written", || daemon.docker(&["logs", "--tail", "1", name]).success() == "2000");
    let all = daemon.docker(&["logs", "--details", name]).success();
    let last = all.lines().last().unwrap();
    assert!(last.contains("WHO=me") && last.contains("tag=log-json/x") && last.ends_with(" 2000"), "{last}");
    wait_until("both put aside are compressed", || is_compressed(1) && is_compressed(2));
    let lines: Vec<u32> =
        daemon.brig(&["logs", name]).success().lines().map(|l| l.parse().unwrap()).collect();
    assert!(lines.windows(2).all(|two| two[0] + 1 == two[1]) && lines.last() == Some(&2000));
    remove(daemon, name);
}

#[test]
fn syslog_by_every_road() {
    let Some(shared) = shared() else { return };
    let daemon = &shared.daemon;
    let name = "log-syslog";
    let socket = daemon.scratch().join("syslog.sock");
    let local = UnixDatagram::bind(&socket).unwrap();
    local.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut buffer = [0; 4096];
    let address = format!("syslog-address=unixgram://{}", socket.display());
    run(
        daemon,
        name,
        &["--log-driver", "syslog", "--log-opt", &address, "--log-opt", "tag={{.Name}}"],
        "echo out; echo err >&2",
    );
    let mut got: Vec<String> = (0..2)
        .map(|_| {
            let n = local.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..n]).into_owned()
        })
        .collect();
    got.sort();
    assert!(
        got[0].starts_with("<27>") && got[0].contains(" log-syslog[") && got[0].ends_with("]: err"),
        "{got:?}"
    );
    assert!(got[1].starts_with("<30>") && got[1].ends_with("]: out"), "{got:?}");
    // Kept here too.
    let logs = daemon.docker(&["logs", name]);
    assert_eq!((logs.stdout.as_str(), logs.stderr.as_str()), ("out\n", "err\n"));
    remove(daemon, name);

    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let address = format!("syslog-address=udp://{}", udp.local_addr().unwrap());
    let flags = [
        "--log-driver",
        "syslog",
        "--log-opt",
        &address,
        "--log-opt",
        "syslog-format=rfc5424micro",
        "--log-opt",
        "syslog-facility=local0",
        "--log-opt",
        "cache-disabled=true",
    ];
    run(daemon, name, &flags, "echo over udp");
    let n = udp.recv(&mut buffer).unwrap();
    let got = String::from_utf8_lossy(&buffer[..n]).into_owned();
    assert!(got.starts_with("<134>1 2") && got.ends_with(" - over udp"), "{got}");
    let unread = daemon.brig(&["logs", name]).expect(1);
    assert!(unread.stderr.contains("configured logging driver does not support reading"), "{unread:?}");
    remove(daemon, name);

    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("syslog-address=tcp://{}", tcp.local_addr().unwrap());
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        tcp.accept().unwrap().0.read_to_string(&mut text).unwrap();
        text
    });
    let flags = ["--log-driver", "syslog", "--log-opt", &address, "--log-opt", "syslog-format=rfc3164"];
    run(daemon, name, &flags, "for i in $(seq 1000); do echo $i; done");
    let text = reader.join().unwrap();
    assert_eq!(text.lines().count(), 1000);
    assert!(text.ends_with("]: 1000\n"), "{}", &text[text.len() - 200..]);
    remove(daemon, name);

    let nobody = daemon
        .docker(&[
            "run",
            "--rm",
            "--log-driver",
            "syslog",
            "--log-opt",
            "syslog-address=tcp://127.0.0.1:1",
            BUSYBOX,
            "true",
        ])
        .expect(125);
    assert!(
        nobody.stderr.contains("failed to initialize logging driver") && nobody.stderr.contains("refused"),
        "{nobody:?}"
    );
}

#[test]
fn what_is_refused_and_none() {
    let Some(shared) = shared() else { return };
    let daemon = &shared.daemon;
    let refused = |kind: &str, options: serde_json::Value, words: &str| {
        let body = json!({"Image": BUSYBOX, "HostConfig": {"LogConfig": {"Type": kind, "Config": options}}});
        let answer = daemon.request("POST", "/containers/create", &body);
        assert!(
            matches!(answer.status, 400 | 501) && answer.message().contains(words),
            "{}",
            answer.message()
        );
    };
    refused("gelf", json!({}), "no log driver named 'gelf' is registered");
    refused("local", json!({"tag": "x"}), "unknown log opt 'tag' for local log driver");
    refused("json-file", json!({"compress": "true"}), "compress cannot be true");
    run(daemon, "log-none", &["--log-driver", "none"], "echo nothing");
    daemon.docker(&["logs", "log-none"]).expect(1);
    remove(daemon, "log-none");
    let drivers = daemon.docker(&["info", "--format", "{{json .Plugins.Log}}"]).success();
    assert!(drivers.contains("journald") && drivers.contains("local"), "{drivers}");
}
