//! What the daemon holds of a container that runs, and lets go of when it has ended; and what it holds of itself at rest.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::{BUSYBOX, own};
use serde_json::{Value, json};
use testkit::daemon::{Daemon, Options};
use testkit::wait_until;

/// How many mount namespaces the daemon has open.
fn held(daemon: &Daemon) -> usize {
    let entries = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().flatten();
    let links = entries.filter_map(|e| std::fs::read_link(e.path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("mnt:[")).count()
}

fn start(daemon: &Daemon, name: &str, host_config: Value) {
    let body = json!({"Image": BUSYBOX, "Cmd": ["sleep", "1000"], "HostConfig": host_config});
    daemon.request("POST", &format!("/containers/create?name={name}"), &body).expect(201);
    daemon.request("POST", &format!("/containers/{name}/start"), &Value::Null).expect(204);
}

#[test]
fn mount_namespaces_are_held_until_the_end() {
    let Some(daemon) = own() else { return };
    start(&daemon, "own", json!({"NetworkMode": "none"}));
    start(&daemon, "removed", json!({"NetworkMode": "none", "AutoRemove": true, "Tmpfs": {"/t": ""}}));
    assert_eq!(held(&daemon), 2);
    // What others have mounted is free once they hear of the end.
    start(&daemon, "bound", json!({"NetworkMode": "none", "Binds": ["/tmp:/tmp"]}));
    assert_eq!(held(&daemon), 2);
    // And what the container may have mounted by itself.
    start(&daemon, "privileged", json!({"NetworkMode": "none", "Privileged": true}));
    start(&daemon, "capable", json!({"NetworkMode": "none", "CapAdd": ["cap_sys_admin"]}));
    assert_eq!(held(&daemon), 2);
    for name in ["own", "removed", "bound", "privileged", "capable"] {
        daemon.request("POST", &format!("/containers/{name}/kill"), &Value::Null).expect(204);
    }
    wait_until("they are let go", || held(&daemon) == 0);
    // Again, and by a start that fails.
    daemon.request("POST", "/containers/own/start", &Value::Null).expect(204);
    assert_eq!(held(&daemon), 1);
    daemon.request("DELETE", "/containers/own?force=1", &Value::Null).expect(204);
    let body = json!({"Image": BUSYBOX, "Cmd": ["/no/such/program"]});
    daemon.request("POST", "/containers/create?name=fails", &body).expect(201);
    assert_eq!(daemon.request("POST", "/containers/fails/start", &Value::Null).status, 400);
    wait_until("nothing is held", || held(&daemon) == 0);
    daemon.assert_empties();
}

#[test]
fn a_daemon_without_requests_gives_its_memory_back() {
    let Some(daemon) = own() else { return };
    let resident = || -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("RssFile:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    start(&daemon, "runs", json!({}));
    daemon.request("GET", "/containers/json", &Value::Null).expect(200);
    let busy = resident();
    wait_until("it rests", || resident() < busy / 2);
    // And is there again.
    assert_eq!(daemon.brig(&["exec", "runs", "echo", "there"]).success(), "there");
    daemon.brig(&["rm", "-f", "runs"]).success();
    wait_until("it rests again", || resident() < busy / 2);
    assert_eq!(daemon.brig(&["ps", "-aq"]).success(), "");
    daemon.assert_empties();
}

/// The runtime, whose first `delete` waits until there is a file `go` in `dir`.
fn hesitant(dir: &std::path::Path, runtime: &std::path::Path) -> std::path::PathBuf {
    let (dir, runtime) = (dir.to_str().unwrap(), runtime.to_str().unwrap());
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *delete*) mkdir {dir}/first 2>/dev/null && while ! [ -e {dir}/go ]; do sleep 0.05; done;; \
         esac\nexec {runtime} \"$@\"\n"
    );
    // By another program: a fork of another thread would hold it open for writing.
    let mut sh = std::process::Command::new("sh");
    let path = format!("{dir}/runtime");
    let made =
        sh.args(["-c", "printf %s \"$0\" > \"$1\" && chmod 755 \"$1\"", &script, &path]).status().unwrap();
    assert!(made.success());
    path.into()
}

#[test]
fn an_end_that_was_told_early_is_told_once() {
    if !testkit::is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let runtime = hesitant(dir.path(), &testkit::daemon::program("brig-runtime"));
    let flags = vec!["--add-runtime".into(), format!("brig={}", runtime.display())];
    let mut daemon = Daemon::start(Options { flags, ..Options::default() });
    daemon.load_busybox(BUSYBOX);
    daemon
        .brig(&["run", "-d", "--network", "none", "--name", "ended", BUSYBOX, "sh", "-c", "exit 3"])
        .success();
    assert_eq!(daemon.brig(&["wait", "ended"]).success(), "3");
    wait_until("it is being deleted", || dir.path().join("first").exists());
    assert_eq!(daemon.state("ended")["Status"], "exited");
    daemon.kill9();
    daemon.spawn();
    assert_eq!(daemon.state("ended")["Status"], "exited", "{}", daemon.log());
    wait_until("what it left is gone", || {
        assert_eq!(daemon.state("ended")["Status"], "exited");
        std::fs::read_dir(daemon.exec_root.join("shims")).is_ok_and(|mut d| d.next().is_none())
    });
    let args = ["events", "--since", "1h", "--until", "0s", "-f", "event=die", "--format", "{{.Action}}"];
    assert_eq!(daemon.brig(&args).success(), "die");
    // And can be started again.
    daemon.brig(&["start", "ended"]).success();
    assert_eq!(daemon.brig(&["wait", "ended"]).success(), "3");
    std::fs::write(dir.path().join("go"), "").unwrap();
    daemon.assert_empties();
}
