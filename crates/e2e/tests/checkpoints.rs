//! Checkpoints: made, listed, started from and removed by both command lines, with a script in criu's place that writes
//! down what it is asked for; what criu itself does is not ours to test.

#![allow(clippy::unwrap_used, reason = "a panic is the report")]

use e2e::{BUSYBOX, Client};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use testkit::daemon::{Daemon, Options, program};
use testkit::{is_root, wait_until};

/// As criu: `dump` leaves an image and ends the tree unless it is to go on; `restore` leaves a process that has what it
/// inherits. It fails where the file `fail` lies beside it.
const CRIU: &str = r#"#!/bin/sh
here=$(dirname "$0")
if [ -e "$here/fail" ]; then
    echo "Error (criu/cr-dump.c:1): the script was told to fail" >&2
    exit 1
fi
verb=$1 tree='' images='' leave='' pidfile='' out=''
while [ $# -gt 0 ]; do
    case "$1" in
        --tree) tree=$2 ;;
        --images-dir) images=$2 ;;
        --leave-running) leave=1 ;;
        --pidfile) pidfile=$2 ;;
        fd\[*\]:pipe:*) out=${out:-$(echo "$1" | sed 's/^fd\[\([0-9]*\)\].*/\1/')} ;;
    esac
    shift
done
case "$verb" in
    dump)
        echo pages > "$images/pages-1.img"
        [ -n "$leave" ] || kill -9 "$tree"
        ;;
    restore)
        [ -e "$images/pages-1.img" ] || exit 1
        sleep 1000 </dev/null >/dev/null 2>&1 &
        echo $! > "$pidfile"
        echo "goes on" > "/proc/self/fd/$out"
        ;;
esac
"#;

fn script(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// A daemon whose runtime takes the script for criu; and where the script is.
fn daemon() -> (Daemon, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    script(&dir.path().join("criu"), CRIU);
    let runtime = dir.path().join("runtime");
    let (ours, criu) = (program("brig-runtime"), dir.path().join("criu"));
    script(&runtime, &format!("#!/bin/sh\nexec '{}' --criu '{}' \"$@\"\n", ours.display(), criu.display()));
    let flags = vec![
        "--experimental".into(),
        "--add-runtime".into(),
        format!("scripted={}", runtime.display()),
        "--default-runtime".into(),
        "scripted".into(),
    ];
    let daemon = Daemon::start(Options { flags, ..Options::default() });
    daemon.load_busybox(BUSYBOX);
    (daemon, dir)
}

fn checkpoints(daemon: &Daemon, container: &str) -> Value {
    daemon.get(&format!("/containers/{container}/checkpoints"))
}

#[test]
#[ignore = "by its own: cargo xtask conform api"]
fn a_container_goes_on_from_its_checkpoint() {
    if !is_root() {
        return;
    }
    let (mut daemon, dir) = daemon();
    let elsewhere = dir.path().join("elsewhere");
    for client in [Client::Brig, Client::Docker] {
        let run = |args: &[&str]| client.run(&daemon, args).success();
        // A policy that would start it again, were the end not asked for.
        let more = ["--restart", "always", "--network", "none"];
        run(&[&["run", "-d", "--name", "web"], &more[..], &[BUSYBOX, "sleep", "300"]].concat());
        let first = daemon.state("web")["Pid"].clone();
        assert_eq!(run(&["checkpoint", "create", "--leave-running", "web", "one"]), "one");
        assert_eq!(daemon.state("web")["Pid"], first);
        assert_eq!(run(&["checkpoint", "create", "web", "two"]), "two");
        // No waiting: who has the answer can start it.
        let state = daemon.state("web");
        assert_eq!((&state["Status"], &state["ExitCode"]), (&json!("exited"), &json!(137)), "{state}");
        assert_eq!(run(&["checkpoint", "ls", "web"]), "CHECKPOINT NAME\none\ntwo");

        run(&["start", "--checkpoint", "two", "web"]);
        let state = daemon.state("web");
        assert_eq!(state["Status"], "running");
        assert_ne!(state["Pid"], first);
        wait_until("what it prints is logged", || run(&["logs", "web"]) == "goes on");
        let command = std::fs::read(format!("/proc/{}/cmdline", state["Pid"])).unwrap();
        assert!(command.starts_with(b"sleep\x001000\x00"), "it is what the script left: {command:?}");
        run(&["stop", "-t", "0", "web"]);
        let state = daemon.state("web");
        assert_eq!((&state["Status"], &state["ExitCode"]), (&json!("exited"), &json!(143)), "{state}");

        run(&["checkpoint", "rm", "web", "one"]);
        assert_eq!(checkpoints(&daemon, "web"), json!([{ "Name": "two" }]));
        run(&["start", "web"]);
        let there = elsewhere.to_str().unwrap();
        run(&["checkpoint", "create", "--checkpoint-dir", there, "web", "three"]);
        assert_eq!(run(&["checkpoint", "ls", "--checkpoint-dir", there, "web"]), "CHECKPOINT NAME\nthree");
        assert!(elsewhere.join("three/pages-1.img").is_file());
        run(&["start", "--checkpoint", "three", "--checkpoint-dir", there, "web"]);
        run(&["checkpoint", "rm", "--checkpoint-dir", there, "web", "three"]);
        assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0);
        // Spans before now are cut to seconds by the docker CLI; points in time are not.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let now = format!("{}.{:09}", now.as_secs(), now.subsec_nanos());
        let events = run(&[
            "events",
            "--since",
            "1h",
            "--until",
            &now,
            "-f",
            "event=checkpoint",
            "-f",
            "container=web",
            "--format",
            "{{.Action}}",
        ]);
        assert!(events.lines().count() >= 3, "{events}");
        run(&["rm", "-f", "web"]);
    }
    // The daemon is nothing to a restored container either.
    daemon.brig(&["run", "-d", "--name", "db", BUSYBOX, "sleep", "300"]).success();
    daemon.brig(&["checkpoint", "create", "db", "c1"]).success();
    daemon.brig(&["start", "--checkpoint", "c1", "db"]).success();
    let pid = daemon.state("db")["Pid"].clone();
    daemon.kill9();
    daemon.spawn();
    let state = daemon.state("db");
    assert_eq!((&state["Status"], &state["Pid"]), (&json!("running"), &pid), "{state}");
    daemon.assert_empties();
}

#[test]
#[ignore = "by its own: cargo xtask conform api"]
fn what_cannot_be_is_said() {
    if !is_root() {
        return;
    }
    let (mut daemon, dir) = daemon();
    let refused = |daemon: &Daemon, method: &str, path: &str, body: &Value, status: u16, words: &str| {
        let answer = daemon.request(method, path, body);
        assert!(
            answer.status == status && answer.text().contains(words),
            "{method} {path}: {} {}",
            answer.status,
            answer.text()
        );
    };
    daemon.brig(&["create", "--name", "web", "--network", "none", BUSYBOX, "sleep", "300"]).success();
    let all = "/containers/web/checkpoints";
    let named = |name: &str| json!({ "CheckpointID": name, "Exit": true });
    refused(&daemon, "POST", all, &named("one"), 409, "is not running");
    refused(&daemon, "GET", "/containers/nobody/checkpoints", &Value::Null, 404, "No such container: nobody");
    refused(
        &daemon,
        "DELETE",
        "/containers/web/checkpoints/none",
        &Value::Null,
        404,
        "checkpoint none does not exist for container web",
    );
    refused(
        &daemon,
        "POST",
        "/containers/web/start?checkpoint=none",
        &Value::Null,
        400,
        "checkpoint none does not exist",
    );
    daemon.brig(&["start", "web"]).success();
    refused(&daemon, "POST", all, &named("../x"), 400, "Invalid checkpoint ID (../x)");
    refused(
        &daemon,
        "POST",
        all,
        &json!({ "CheckpointID": "one", "CheckpointDir": "here" }),
        400,
        "absolute",
    );
    // A dump that fails leaves the container as it was, and nothing else.
    let fail = dir.path().join("fail");
    std::fs::write(&fail, "").unwrap();
    refused(
        &daemon,
        "POST",
        all,
        &named("one"),
        500,
        "Error (criu/cr-dump.c:1): the script was told to fail",
    );
    assert_eq!(daemon.state("web")["Status"], "running");
    assert_eq!(checkpoints(&daemon, "web"), json!([]));
    std::fs::remove_file(&fail).unwrap();
    refused(&daemon, "POST", all, &named("one"), 201, "");
    // What a killed daemon leaves is nobody's checkpoint, and in nobody's way.
    let id = daemon.get("/containers/web/json")["Id"].as_str().unwrap().to_string();
    let parent: PathBuf = daemon.data_root.join("containers").join(id).join("checkpoints");
    std::fs::create_dir(parent.join(".two")).unwrap();
    assert_eq!(checkpoints(&daemon, "web"), json!([{ "Name": "one" }]));
    // A restore that fails says why; the container can be started without it.
    std::fs::write(&fail, "").unwrap();
    refused(
        &daemon,
        "POST",
        "/containers/web/start?checkpoint=one",
        &Value::Null,
        500,
        "the script was told to fail",
    );
    assert_eq!(daemon.state("web")["Running"], false);
    std::fs::remove_file(&fail).unwrap();
    daemon.brig(&["start", "web"]).success();
    refused(
        &daemon,
        "POST",
        all,
        &named("one"),
        409,
        "checkpoint with name one already exists for container web",
    );
    refused(&daemon, "POST", all, &named("two"), 201, "");
    daemon.remove_all();
    daemon.assert_no_leaks();

    // Docker keeps them from those who did not ask for what is experimental.
    daemon.brig(&["create", "--name", "web", "--network", "none", BUSYBOX, "true"]).success();
    daemon.stop();
    daemon.spawn_with(&[]);
    assert_eq!(daemon.get("/info")["ExperimentalBuild"], false);
    refused(&daemon, "GET", all, &Value::Null, 501, "experimental feature is disabled");
    refused(
        &daemon,
        "POST",
        "/containers/web/start?checkpoint=one",
        &Value::Null,
        400,
        "only supported in experimental mode",
    );
    let told = daemon.docker(&["checkpoint", "ls", "web"]).expect(1).stderr;
    assert!(told.contains("experimental"), "{told}");
}
