//! `commit` and `diff`: what a container changed, as a list and as an image.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::{BUSYBOX, own};
use serde_json::{Value, json};
use testkit::daemon::Daemon;

const SCRIPT: &str = "echo hi > /root/file; mkdir -p /srv/d; rm /etc/not-a-program; chmod 700 /home";

#[test]
fn changes_become_an_image_for_both_clients() {
    let Some(daemon) = own() else { return };
    daemon.brig(&["run", "--name", "one", "-v", "/data", BUSYBOX, "sh", "-c", SCRIPT]).success();
    let expected = "A /data\nC /etc\nD /etc/not-a-program\nC /home\nC /root\nA /root/file\nA /srv\nA /srv/d";
    assert_eq!(daemon.brig(&["diff", "one"]).success(), expected);
    assert_eq!(daemon.docker(&["diff", "one"]).success(), expected);

    let changes = ["-c", "ENV A=1 B=\"two words\"", "-c", "CMD [\"cat\", \"/root/file\"]", "-c", "LABEL k=v"];
    let flags = [&["commit", "-a", "Me <m@x>", "-m", "why"], &changes[..], &["one", "made:1"]].concat();
    let id = daemon.brig(&flags).success();
    assert!(id.starts_with("sha256:") && id.len() == 71, "{id}");
    let image = daemon.get("/images/made:1/json");
    assert_eq!((&image["Author"], &image["Comment"]), (&json!("Me <m@x>"), &json!("why")));
    assert_eq!(image["Config"]["Labels"], json!({"k": "v"}));
    assert_eq!(image["Config"]["Volumes"], json!({"/data": {}}));
    let env: Vec<&str> =
        image["Config"]["Env"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(
        env.contains(&"A=1") && env.contains(&"B=two words") && env.iter().any(|e| e.starts_with("PATH="))
    );
    assert_eq!(image["RootFS"]["Layers"].as_array().unwrap().len(), 2);
    assert_eq!(daemon.brig(&["run", "--rm", "made:1"]).success(), "hi");
    daemon
        .brig(&["run", "--rm", "made:1", "sh", "-c", "test ! -e /etc/not-a-program -a -d /srv/d"])
        .success();
    let history =
        daemon.docker(&["history", "--no-trunc", "--format", "{{.Comment}}|{{.CreatedBy}}", "made:1"]);
    assert!(history.success().starts_with(&format!("why|sh -c {SCRIPT}")));

    // The same changes once more give the same layer.
    daemon.docker(&["commit", "one", "made:2"]).success();
    assert_eq!(daemon.get("/images/made:2/json")["RootFS"], image["RootFS"]);
    // And the image of an untouched container has no layer of its own.
    daemon.brig(&["create", "--name", "still", BUSYBOX]).success();
    daemon.brig(&["commit", "still", "still:1"]).success();
    let layers = |name: &str| daemon.get(&format!("/images/{name}/json"))["RootFS"]["Layers"].clone();
    assert_eq!(layers("still:1"), layers(BUSYBOX));
    daemon.brig(&["rm", "one", "still"]).success();
    daemon.assert_no_leaks();
}

#[test]
fn a_running_container_is_paused_meanwhile_and_goes_on() {
    let Some(daemon) = own() else { return };
    let script = "echo a > /f; while :; do sleep 1; done";
    daemon.brig(&["run", "-d", "--name", "one", BUSYBOX, "sh", "-c", script]).success();
    testkit::wait_until("the file", || daemon.brig(&["exec", "one", "cat", "/f"]).code == Some(0));
    let id = daemon.brig(&["commit", "one"]).success();
    daemon.wait_status("one", "running");
    assert_eq!(daemon.brig(&["run", "--rm", &id, "cat", "/f"]).success(), "a");
    daemon.brig(&["commit", "--pause=false", "one"]).success();
    daemon.brig(&["pause", "one"]).success();
    daemon.brig(&["commit", "one"]).success();
    daemon.wait_status("one", "paused");
    daemon.brig(&["rm", "-f", "one"]).success();
    daemon.assert_no_leaks();
}

#[test]
fn what_cannot_be_is_refused_in_dockers_words() {
    let Some(daemon) = own() else { return };
    daemon.brig(&["create", "--name", "one", BUSYBOX]).success();
    let post = |query: &str, body: &Value| daemon.request("POST", &format!("/commit?{query}"), body);
    assert_eq!(post("container=none", &Value::Null).expect(404).message(), "No such container: none");
    let answer = post("container=one&changes=RUN%20x", &Value::Null).expect(400);
    assert_eq!(answer.message(), "RUN is not a valid change command");
    post("container=one&repo=UPPER", &Value::Null).expect(400);
    post("container=one&repo=a&tag=..", &Value::Null).expect(400);
    post("container=one", &json!({"Env": "x"})).expect(400);
    let id =
        post("container=one&repo=b&tag=t", &json!({"Cmd": ["x"], "Labels": {"a": "b"}})).expect(201).json();
    let image = daemon.get("/images/b:t/json");
    assert_eq!((&image["Id"], &image["Config"]["Cmd"]), (&id["Id"], &json!(["x"])));
    daemon.brig(&["rm", "one"]).success();
}

#[test]
fn a_daemon_killed_in_a_commit_leaves_nothing_paused() {
    let Some(mut daemon) = own() else { return };
    let script = "head -c 200000000 /dev/zero > /big; touch /done; while :; do sleep 1; done";
    daemon.brig(&["run", "-d", "--name", "one", BUSYBOX, "sh", "-c", script]).success();
    testkit::wait_until("the big file", || {
        daemon.brig(&["exec", "one", "test", "-e", "/done"]).code == Some(0)
    });
    let before = daemon.get("/images/json").as_array().unwrap().len();
    let commit = testkit::daemon::Running::start(daemon.brig_command(&["commit", "one", "made:1"]));
    daemon.wait_status("one", "paused");
    daemon.kill9();
    drop(commit.finish());
    daemon.spawn();
    daemon.wait_status("one", "running");
    assert_eq!(daemon.get("/images/json").as_array().unwrap().len(), before);
    daemon.brig(&["commit", "one", "made:1"]).success();
    daemon.brig(&["rm", "-f", "one"]).success();
    daemon.brig(&["rmi", "made:1", BUSYBOX]).success();
    daemon.assert_empties();
}

/// The container's layers outlive its image; the blobs that they came as do not.
#[test]
fn a_container_whose_image_was_removed_is_committed() {
    let Some(mut daemon) = own() else { return };
    let script = "echo text > /made; mkdir -p /srv/d; chmod 700 /home";
    daemon.brig(&["run", "--name", "one", "-e", "A=b", BUSYBOX, "sh", "-c", script]).success();
    daemon.brig(&["rmi", "-f", BUSYBOX]).success();
    assert_eq!(daemon.get("/images/json?all=1"), json!([]));
    daemon.brig(&["commit", "-c", "CMD [\"cat\", \"/made\"]", "one", "made:1"]).success();
    let before = daemon.get("/images/made:1/json");
    assert_eq!(before["RootFS"]["Layers"].as_array().unwrap().len(), 2);
    daemon.brig(&["rm", "one"]).success();
    assert_eq!(daemon.brig(&["run", "--rm", "made:1"]).success(), "text");
    assert_eq!(daemon.brig(&["run", "--rm", "made:1", "sh", "-c", "echo $A"]).success(), "b");

    // Layers that were made here pack to the blobs that they had.
    let save =
        |daemon: &Daemon| daemon.request("GET", "/images/get?names=made:1", &Value::Null).expect(200).body;
    let whole = save(&daemon);
    let blobs = daemon.data_root.join("content/blobs/sha256");
    let large: Vec<std::path::PathBuf> = std::fs::read_dir(&blobs)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.metadata().unwrap().len() > 100_000 || is_tar(&entry.path()))
        .map(|entry| entry.path())
        .collect();
    assert_eq!(large.len(), 2);
    large.iter().for_each(|path| std::fs::remove_file(path).unwrap());
    assert!(save(&daemon) == whole);
    daemon.restart();
    assert!(save(&daemon) == whole);
    daemon.assert_empties();
}

fn is_tar(path: &std::path::Path) -> bool {
    std::fs::read(path).unwrap().get(257..262) == Some(b"ustar")
}

/// What others packed cannot be packed the same way: it is said which layer is missing, and a repair or a pull fetches it.
#[test]
fn a_blob_that_is_gone_and_cannot_be_made_again_is_named() {
    let Some(daemon) = own() else { return };
    let registry = testkit::registry::Registry::start();
    let pushed = testkit::images::push_busybox(&registry, "b", "1");
    let reference = registry.reference("b", "1");
    daemon.brig(&["pull", &reference]).success();
    let layer = pushed.manifest.layers[0].digest;
    let blob = daemon.data_root.join("content/blobs/sha256").join(layer.hex());
    std::fs::remove_file(&blob).unwrap();
    let save = daemon.request("GET", &format!("/images/get?names={reference}"), &Value::Null);
    assert!(save.status >= 400 && save.text().contains(&layer.to_string()), "{}", save.text());
    let push = daemon.brig(&["push", &reference]).expect(1);
    assert!(push.stderr.contains(&layer.to_string()), "{push:?}");
    daemon.brig(&["run", "--rm", &reference, "true"]).success();
    let whole =
        || daemon.request("GET", &format!("/images/get?names={reference}"), &Value::Null).expect(200).body;
    daemon.brig(&["system", "check", "--repair"]).success();
    let saved = whole();
    std::fs::remove_file(&blob).unwrap();
    let said = daemon.brig(&["pull", &reference]).success();
    assert!(said.contains("Image is up to date"), "{said}");
    assert!(whole() == saved);
    daemon.assert_empties();
}
