//! runtime.md: states and operations.

use crate::case::{Runtime, case};
use crate::tests;
use serde_json::json;
use std::path::Path;

tests! {
    #[quick] runtimeState created_state_has_the_required_properties;
    #[quick] runtimeState status_follows_the_lifecycle;
    runtimeState without_annotations_the_property_is_absent_or_empty;
    runtimeState the_pid_is_the_container_process;
    runtimeQueryState state_needs_an_id;
    #[quick] runtimeQueryState state_of_an_unknown_container_is_an_error;
    #[quick] runtimeCreate the_program_is_not_run_by_create;
    runtimeCreate create_needs_an_id;
    #[quick] runtimeCreate an_id_in_use_is_refused_and_its_container_untouched;
    runtimeCreate ids_that_are_no_names_are_refused;
    runtimeCreate a_bundle_without_config_is_refused;
    runtimeCreate a_bundle_without_rootfs_is_refused;
    #[quick] runtimeCreate changes_of_config_after_create_have_no_effect;
    runtimeErrors a_failed_create_leaves_nothing_and_the_id_free;
    runtimeStart start_needs_an_id;
    runtimeStart start_of_an_unknown_container_is_an_error;
    #[quick] runtimeStart only_a_created_container_can_be_started;
    runtimeStart a_container_without_process_cannot_be_started;
    runtimeKill kill_needs_an_id;
    #[quick] runtimeKill a_signal_reaches_the_process;
    runtimeKill a_created_container_can_be_killed;
    runtimeKill a_stopped_container_cannot_be_killed;
    runtimeDelete delete_needs_an_id;
    #[quick] runtimeDelete a_running_container_is_not_deleted;
    runtimeDelete a_created_container_is_not_deleted;
    #[quick] runtimeDelete a_deleted_container_is_gone_and_its_id_free;
    runtimeDelete what_the_container_did_not_make_stays;
    runtimeScopeContainer several_containers_live_side_by_side;
}

fn created_state_has_the_required_properties(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.set("/annotations", json!({"org.example.key": "value", "empty": ""}));
    c.script("sleep 100").create();
    let state = c.state();
    assert!(state["ociVersion"].as_str().is_some_and(|v| v.starts_with("1.")), "{state}");
    assert_eq!(state["id"], c.id.as_str());
    assert_eq!(state["status"], "created");
    assert!(state["pid"].as_i64().is_some_and(|pid| pid > 0), "{state}");
    assert_eq!(state["bundle"], c.path().to_str().unwrap());
    assert_eq!(state["annotations"]["org.example.key"], "value");
    assert_eq!(state["annotations"]["empty"], "");
}

fn status_follows_the_lifecycle(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    let shared = c.shared();
    c.script("until [ -e /host/end ]; do sleep 0.02; done").create();
    assert_eq!(c.status(), "created");
    c.start();
    assert_eq!(c.status(), "running");
    std::fs::write(shared.join("end"), "").unwrap();
    c.wait_for("stopped");
}

fn without_annotations_the_property_is_absent_or_empty(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.script("sleep 100").create();
    let state = c.state();
    let annotations = &state["annotations"];
    assert!(annotations.is_null() || annotations.as_object().is_some_and(|a| a.is_empty()), "{state}");
}

fn the_pid_is_the_container_process(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.script("exec sleep 98765").create().start();
    let cmdline = || std::fs::read(format!("/proc/{}/cmdline", c.pid())).unwrap();
    c.wait("sleeping", || cmdline() == b"sleep\x0098765\0");
}

fn state_needs_an_id(runtime: &Runtime, name: &str) {
    case(runtime, name).error(&["state"]);
}

fn state_of_an_unknown_container_is_an_error(runtime: &Runtime, name: &str) {
    case(runtime, name).error(&["state", "nobody"]);
}

fn the_program_is_not_run_by_create(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    let shared = c.shared();
    c.script("touch /host/ran; sleep 100").create();
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(!shared.join("ran").exists());
    c.start().wait("run", || shared.join("ran").exists());
}

fn create_needs_an_id(runtime: &Runtime, name: &str) {
    case(runtime, name).error(&["create"]);
}

fn an_id_in_use_is_refused_and_its_container_untouched(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.script("sleep 100").create().start();
    let pid = c.pid();
    c.error(&["create", &c.id]);
    assert_eq!((c.status().as_str(), c.pid()), ("running", pid));
}

fn ids_that_are_no_names_are_refused(runtime: &Runtime, name: &str) {
    let c = case(runtime, name);
    for id in ["", "a/b", "../x", ".."] {
        c.error(&["create", id]);
    }
    let left = std::fs::read_dir(c.path().join("state")).map(|d| d.count()).unwrap_or(0);
    assert_eq!(left, 0, "something is in the state directory");
    assert!(!c.path().join("x").exists());
}

fn a_bundle_without_config_is_refused(runtime: &Runtime, name: &str) {
    let c = case(runtime, name);
    std::fs::create_dir(c.path().join("empty")).unwrap();
    c.error(&["create", "--bundle", "empty", &c.id]);
    c.error(&["create", "--bundle", "missing", &c.id]);
    c.gone();
}

fn a_bundle_without_rootfs_is_refused(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.set("/root/path", "missing".into()).refused();
    std::fs::write(c.path().join("file"), "").unwrap();
    c.set("/root/path", "file".into()).refused();
    c.unset("/root").refused();
}

fn changes_of_config_after_create_have_no_effect(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    let shared = c.shared();
    c.script("echo first > /host/out").create();
    c.script("echo second > /host/out").start().wait_for("stopped");
    assert_eq!(std::fs::read_to_string(shared.join("out")).unwrap(), "first\n");
}

fn a_failed_create_leaves_nothing_and_the_id_free(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    let good = c.spec.clone();
    c.mount(json!({"destination": "/x", "type": "bind", "source": "/no/such/source", "options": ["bind"]}));
    c.refused();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(c.path().to_str().unwrap()), "a mount is left");
    c.spec = good;
    c.prints("echo fine", "fine");
}

fn start_needs_an_id(runtime: &Runtime, name: &str) {
    case(runtime, name).error(&["start"]);
}

fn start_of_an_unknown_container_is_an_error(runtime: &Runtime, name: &str) {
    case(runtime, name).error(&["start", "nobody"]);
}

fn only_a_created_container_can_be_started(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    let shared = c.shared();
    c.script("echo x >> /host/out; until [ -e /host/end ]; do sleep 0.02; done").create().start();
    c.error(&["start", &c.id]);
    assert_eq!(c.status(), "running");
    std::fs::write(shared.join("end"), "").unwrap();
    c.wait_for("stopped").error(&["start", &c.id]);
    assert_eq!(c.status(), "stopped");
    assert_eq!(std::fs::read_to_string(shared.join("out")).unwrap(), "x\n");
}

fn a_container_without_process_cannot_be_started(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.spec.as_object_mut().unwrap().remove("process");
    if c.call(&["create", &c.id]).code == 0 {
        c.error(&["start", &c.id]);
    }
}

fn kill_needs_an_id(runtime: &Runtime, name: &str) {
    let c = case(runtime, name);
    c.error(&["kill"]);
    c.error(&["kill", "nobody", "KILL"]);
}

fn a_signal_reaches_the_process(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    let shared = c.shared();
    c.script("trap 'echo usr1 >> /host/out' USR1; trap 'echo term >> /host/out; exit' TERM; touch /host/ready; while :; do sleep 0.02; done");
    c.create().start().wait("ready", || shared.join("ready").exists());
    let out = || std::fs::read_to_string(shared.join("out")).unwrap_or_default();
    c.ok(&["kill", &c.id, "USR1"]);
    c.wait("signalled", || out() == "usr1\n");
    assert_eq!(c.status(), "running");
    c.ok(&["kill", &c.id, "15"]);
    c.wait_for("stopped");
    assert_eq!(out(), "usr1\nterm\n");
}

fn a_created_container_can_be_killed(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    let shared = c.shared();
    c.script("touch /host/ran").create();
    c.ok(&["kill", &c.id, "KILL"]);
    c.wait_for("stopped");
    assert!(!shared.join("ran").exists());
}

fn a_stopped_container_cannot_be_killed(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.script("true").create().start().wait_for("stopped");
    c.error(&["kill", &c.id, "KILL"]);
    assert_eq!(c.status(), "stopped");
}

fn delete_needs_an_id(runtime: &Runtime, name: &str) {
    let c = case(runtime, name);
    c.error(&["delete"]);
    c.error(&["delete", "nobody"]);
}

fn a_running_container_is_not_deleted(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.script("sleep 100").create().start();
    c.error(&["delete", &c.id]);
    assert_eq!(c.status(), "running");
}

fn a_created_container_is_not_deleted(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.script("sleep 100").create();
    c.error(&["delete", &c.id]);
    assert_eq!(c.status(), "created");
}

fn a_deleted_container_is_gone_and_its_id_free(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.script("true").create().start().wait_for("stopped");
    c.ok(&["delete", &c.id]);
    c.gone();
    c.create();
    assert_eq!(c.status(), "created");
}

fn what_the_container_did_not_make_stays(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    let shared = c.shared();
    let group = format!("/conform/{name}-{}", std::process::id());
    let parents: Vec<_> =
        c.cgroups().iter().map(|d| d.parent().unwrap().join(Path::new(&group[9..]))).collect();
    parents.iter().for_each(|d| std::fs::create_dir_all(d).unwrap());
    c.set("/linux/cgroupsPath", format!("{group}/below").into());
    c.script("echo x > /host/file").create().start().wait_for("stopped");
    c.ok(&["delete", &c.id]);
    assert!(shared.join("file").exists() && c.rootfs().join("bin/busybox").exists());
    for parent in &parents {
        assert!(parent.exists(), "{} was removed", parent.display());
        std::fs::remove_dir(parent).unwrap();
    }
}

fn several_containers_live_side_by_side(runtime: &Runtime, name: &str) {
    let (mut one, mut two) = (case(runtime, name), case(runtime, &format!("{name}2")));
    one.script("sleep 100").create().start();
    two.script("sleep 100").create().start();
    assert_ne!(one.pid(), two.pid());
    one.ok(&["kill", &one.id, "KILL"]);
    one.wait_for("stopped");
    assert_eq!(two.status(), "running");
}
