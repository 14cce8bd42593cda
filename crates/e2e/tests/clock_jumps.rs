//! The machine's clock is set, an hour back and a day ahead, as the daemon sees it: what is due by time passed goes on, and what
//! is asked by points in time is answered. Only the daemon's reading of the clock is changed (by libfaketime), not the clock.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]
#![allow(clippy::print_stdout, reason = "read by who runs the tests")]

use e2e::BUSYBOX;
use serde_json::{Value, json};
use std::path::Path;
use testkit::daemon::{Daemon, Options};
use testkit::{is_root, wait_until};

const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

fn start(daemon: &Daemon, name: &str, mut body: Value) {
    body["Image"] = BUSYBOX.into();
    body["HostConfig"]["NetworkMode"] = "none".into();
    daemon.request("POST", &format!("/containers/create?name={name}"), &body).expect(201);
    daemon.request("POST", &format!("/containers/{name}/start"), &Value::Null).expect(204);
}

#[test]
#[ignore = "wants libfaketime: cargo xtask conform stress"]
fn clock_jumps() {
    if !is_root() {
        return;
    }
    if !Path::new(LIBRARY).exists() {
        println!("skipped: there is no {LIBRARY}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let offset = dir.path().join("offset");
    let set = |text: &str| {
        // In one step: the daemon reads it at any time.
        std::fs::write(dir.path().join("next"), text).unwrap();
        std::fs::rename(dir.path().join("next"), &offset).unwrap();
    };
    set("+0");
    let environment = vec![
        ("LD_PRELOAD", LIBRARY.into()),
        ("FAKETIME_TIMESTAMP_FILE", offset.to_str().unwrap().into()),
        ("FAKETIME_NO_CACHE", "1".into()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
    ];
    let daemon = Daemon::start(Options { environment, ..Options::default() });
    daemon.load_busybox(BUSYBOX);
    let second = 1_000_000_000_u64;
    let check = json!({"Test": ["CMD-SHELL", "echo x >> /checks"], "Interval": second / 2});
    start(&daemon, "checked", json!({"Cmd": ["sleep", "1000"], "Healthcheck": check}));
    let always = json!({"RestartPolicy": {"Name": "always"}});
    start(&daemon, "restarts", json!({"Cmd": ["sh", "-c", "exit 1"], "HostConfig": always}));
    let checks = || {
        daemon
            .brig(&["exec", "checked", "sh", "-c", "cat /checks | wc -l"])
            .stdout
            .trim()
            .parse()
            .unwrap_or(0)
    };
    let restarts = || daemon.get("/containers/restarts/json")["RestartCount"].as_u64().unwrap();
    let now = || -> i64 {
        let text = daemon.get("/info")["SystemTime"].as_str().unwrap().to_string();
        text.parse::<jiff::Timestamp>().unwrap().as_second()
    };
    let real = || jiff::Timestamp::now().as_second();
    for (what, text, seconds) in [("back", "-3600", -3600), ("ahead", "+86400", 86400), ("right", "+0", 0)] {
        let (had, began): (u64, u64) = (checks(), restarts());
        set(text);
        wait_until("the daemon sees it", || (now() - real() - seconds).abs() < 60);
        wait_until("health is looked at as before", || checks() >= had + 3);
        assert_eq!(daemon.get("/containers/checked/json")["State"]["Health"]["Status"], "healthy", "{what}");
        // The pause doubles from 100 ms on, and is none of an hour or a day.
        wait_until("it is started again as before", || restarts() > began);
        // What is made now is found by now's times.
        let since = now() - 1;
        start(&daemon, what, json!({"Cmd": ["echo", "said"]}));
        daemon.request("POST", &format!("/containers/{what}/wait"), &Value::Null).expect(200);
        let filters = format!("%7B%22container%22:%5B%22{what}%22%5D,%22event%22:%5B%22die%22%5D%7D");
        let path = format!("/events?since={since}&until={}&filters={filters}", now() + 1);
        let events = daemon.request("GET", &path, &Value::Null).text();
        assert_eq!(events.lines().count(), 1, "{what}: {events}");
        // Nothing is as old as the clock says it is not.
        let status =
            daemon.brig(&["ps", "-a", "--filter", &format!("name={what}"), "--format", "{{.Status}}"]);
        assert!(status.success().starts_with("Exited (0)"), "{what}");
        let filters = "%7B%22until%22:%5B%225m%22%5D%7D";
        daemon.request("POST", &format!("/containers/prune?filters={filters}"), &Value::Null).expect(200);
        // A minute is not five, whenever it was made; an hour back it was not made yet.
        assert_eq!(daemon.get(&format!("/containers/{what}/json"))["State"]["ExitCode"], 0, "{what}");
    }
    assert!(!daemon.whole_log().contains("panicked at"), "{}", daemon.log());
    for name in ["checked", "restarts", "back", "ahead", "right"] {
        let gone = daemon.request("DELETE", &format!("/containers/{name}?force=1"), &Value::Null);
        // By the prune, when the clock was ahead.
        assert!(matches!(gone.status, 204 | 404), "{}", gone.text());
    }
    daemon.assert_no_leaks();
}
