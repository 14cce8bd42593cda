//! Health checks: what is run, what is said about it, and what follows.

#![allow(clippy::unwrap_used, reason = "a panic is the report")]

use e2e::BUSYBOX;
use serde_json::{Value, json};
use testkit::daemon::{Daemon, Options};
use testkit::{images, is_root, wait_until};

fn health(daemon: &Daemon, name: &str) -> Value {
    daemon.state(name)["Health"].clone()
}

#[track_caller]
fn wait_health(daemon: &Daemon, name: &str, status: &str) {
    wait_until(&format!("{name} is {status}"), || health(daemon, name)["Status"] == status);
}

#[test]
fn checks_are_run_and_told() {
    if !is_root() {
        return;
    }
    let mut daemon = Daemon::start(Options::default());
    daemon.load_busybox(BUSYBOX);
    let run = |daemon: &Daemon, args: &[&str]| daemon.brig(args).success();
    let begin = run(&daemon, &["version", "--format", "{{.Server.Version}}"]);
    assert!(!begin.is_empty());

    // Healthy as long as the file is there.
    let check = [
        "--health-cmd",
        "echo looked; test -e /tmp/ok",
        "--health-interval",
        "100ms",
        "--health-retries",
        "2",
    ];
    let mut args = vec!["run", "-d", "--name", "web"];
    args.extend(check);
    args.extend([BUSYBOX, "sh", "-c", "touch /tmp/ok; sleep 300"]);
    run(&daemon, &args);
    wait_health(&daemon, "web", "healthy");
    let log = health(&daemon, "web")["Log"][0].clone();
    assert_eq!((log["ExitCode"].clone(), log["Output"].clone()), (json!(0), json!("looked\n")), "{log}");
    assert!(daemon.docker(&["ps"]).success().contains("(healthy)"));
    assert_eq!(run(&daemon, &["ps", "-q", "--filter", "health=healthy"]).lines().count(), 1);
    assert_eq!(run(&daemon, &["ps", "-q", "--filter", "health=none"]), "");
    // They are nobody's execs.
    assert_eq!(daemon.get("/containers/web/json")["ExecIDs"], Value::Null);

    // A daemon that comes back goes on, with what was known.
    daemon.kill9();
    daemon.spawn();
    assert_eq!(health(&daemon, "web")["Status"], "healthy");
    run(&daemon, &["exec", "web", "rm", "/tmp/ok"]);
    wait_health(&daemon, "web", "unhealthy");
    assert!(health(&daemon, "web")["FailingStreak"].as_u64().unwrap() >= 2);
    assert!(run(&daemon, &["ps"]).contains("(unhealthy)"));
    wait_until("five runs are kept", || health(&daemon, "web")["Log"].as_array().unwrap().len() == 5);
    let events = run(
        &daemon,
        &[
            "events",
            "--since",
            "1h",
            "--until",
            "0s",
            "--filter",
            "event=health_status",
            "--format",
            "{{.Action}}",
        ],
    );
    // Also what the daemon before this one saw.
    assert_eq!(events, "health_status: healthy\nhealth_status: unhealthy");

    // Not looked at while paused.
    run(&daemon, &["pause", "web"]);
    let before = health(&daemon, "web")["Log"].clone();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(health(&daemon, "web")["Log"], before);
    run(&daemon, &["unpause", "web"]);
    run(&daemon, &["exec", "web", "touch", "/tmp/ok"]);
    wait_health(&daemon, "web", "healthy");
    run(&daemon, &["rm", "-f", "web"]);

    // Too slow, and not there at all.
    let slow = [
        "--health-cmd",
        "sleep 60",
        "--health-interval",
        "50ms",
        "--health-timeout",
        "200ms",
        "--health-retries",
        "1",
    ];
    let mut args = vec!["run", "-d", "--name", "slow"];
    args.extend(slow);
    args.extend([BUSYBOX, "sleep", "300"]);
    daemon.docker(&args).success();
    wait_health(&daemon, "slow", "unhealthy");
    let log = health(&daemon, "slow")["Log"][0].clone();
    assert_eq!(
        (log["ExitCode"].clone(), log["Output"].clone()),
        (json!(-1), json!("Health check exceeded timeout (200ms)"))
    );
    run(&daemon, &["stop", "-t", "0", "slow"]);
    let left = testkit::leaks::processes_of(&daemon.exec_root, None);
    assert!(!left.iter().any(|(_, command)| command.contains("sleep 60")), "{left:?}");
    run(&daemon, &["rm", "slow"]);
    daemon.assert_empties();
}

#[test]
fn the_images_check_and_what_the_client_makes_of_it() {
    if !is_root() {
        return;
    }
    let daemon = Daemon::start(Options::default());
    let mut config = images::busybox_config();
    config["Healthcheck"] = json!({"Test": ["CMD", "true"], "Interval": 100_000_000, "Retries": 9});
    let archive = images::docker_archive("checked:1", &[images::busybox_layer()], &config);
    daemon.load(&archive).expect(200);
    daemon
        .brig(&["run", "-d", "--name", "own", "--health-retries", "4", "checked:1", "sleep", "300"])
        .success();
    let merged = daemon.get("/containers/own/json")["Config"]["Healthcheck"].clone();
    assert_eq!((merged["Test"][0].clone(), merged["Retries"].clone()), (json!("CMD"), json!(4)), "{merged}");
    wait_health(&daemon, "own", "healthy");
    daemon
        .docker(&["run", "-d", "--name", "none", "--no-healthcheck", "checked:1", "sleep", "300"])
        .success();
    assert_eq!(health(&daemon, "none"), Value::Null);
    let bad = json!({"Image": "checked:1", "Healthcheck": {"Test": ["CMD", "true"], "Interval": 5}});
    let answer = daemon.request("POST", "/containers/create", &bad).expect(400);
    assert_eq!(answer.message(), "Interval in Healthcheck cannot be less than 1ms");
    daemon.assert_empties();
}

#[test]
fn an_unhealthy_container_is_acted_upon() {
    if !is_root() {
        return;
    }
    let daemon = Daemon::start(Options::default());
    daemon.load_busybox(BUSYBOX);
    let check =
        ["--health-cmd", "test ! -e /tmp/sick", "--health-interval", "100ms", "--health-retries", "1"];
    let run = |name: &str, more: &[&str]| {
        let mut args = vec!["run", "-d", "--name", name, "--stop-timeout", "0"];
        args.extend(check);
        args.extend(more);
        args.extend([BUSYBOX, "sh", "-c", "rm -f /tmp/sick; sleep 300"]);
        daemon.docker(&args).success();
        wait_health(&daemon, name, "healthy");
        let first = daemon.state(name)["StartedAt"].clone();
        daemon.brig(&["exec", name, "touch", "/tmp/sick"]).success();
        first
    };
    // Docker's client has no flag for it, but labels.
    let first = run("again", &["--label", "brig.health-action=restart"]);
    wait_until("it was restarted", || daemon.state("again")["StartedAt"] != first);
    wait_health(&daemon, "again", "healthy");
    let first = run("policy", &["--label", "brig.health-action=kill", "--restart", "always"]);
    wait_until("its policy started it", || {
        let state = daemon.state("policy");
        state["StartedAt"] != first && state["Running"] == true
    });
    run("stopped", &["--label", "brig.health-action=stop", "--restart", "always"]);
    daemon.wait_status("stopped", "exited");
    let bad = daemon.brig(&["create", "--label", "brig.health-action=explode", BUSYBOX]).expect(125);
    assert!(bad.stderr.contains("want none, kill, restart or stop"), "{bad:?}");
    daemon.brig(&["create", "--health-action", "explode", BUSYBOX]).expect(125);
    daemon.assert_empties();
}
