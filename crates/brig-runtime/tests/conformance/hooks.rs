//! config.md: hooks.

use crate::case::{Case, Runtime, case};
use crate::tests;
use serde_json::{Value, json};

tests! {
    #[quick] configHooks hooks_are_called_in_order;
    #[quick] configHooks the_state_comes_on_stdin;
    configHooks arguments_and_environment_are_exact;
    configHooks a_relative_path_is_an_error;
    configHooks a_hook_that_takes_too_long_is_ended;
    configHooksPrestart prestart_sees_the_runtimes_namespaces;
    configHooksCreateRuntime a_failing_create_runtime_hook_ends_the_container;
    configHooksCreateContainer create_container_hooks_are_in_the_containers_namespaces;
    configHooksStartContainer start_container_hooks_run_in_the_container_before_its_program;
    configHooksStartContainer a_failing_start_container_hook_stops_the_program;
    configHooksPoststart poststart_hooks_run_before_start_returns;
    configHooksPoststart a_failing_poststart_hook_is_an_error;
    configHooksPoststop poststop_hooks_run_when_the_container_is_gone;
    configHooksPoststop a_failing_poststop_hook_does_not_keep_the_rest;
    runtimeLifecycle a_failed_create_runs_poststop;
}

const STAGES: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// A shell on the host.
fn hook(script: &str) -> Value {
    json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin:/usr/sbin:/sbin"]})
}

/// What a hook appended to the file `name` of the bundle.
fn written(c: &Case<'_>, name: &str) -> String {
    std::fs::read_to_string(c.path().join(name)).unwrap_or_default()
}

/// A file of the bundle, for a script.
fn file(c: &Case<'_>, name: &str) -> String {
    c.path().join(name).to_str().unwrap().to_owned()
}

fn hooks_are_called_in_order(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    let record = file(&c, "record");
    let hooks: serde_json::Map<String, Value> = STAGES
        .iter()
        .filter(|stage| **stage != "startContainer")
        .map(|stage| {
            let one = |n: u32| hook(&format!("echo {stage}{n} >> {record}"));
            ((*stage).to_owned(), json!([one(1), one(2)]))
        })
        .collect();
    c.set("/hooks", hooks.into());
    c.script("sleep 100").create();
    let created =
        "prestart1\nprestart2\ncreateRuntime1\ncreateRuntime2\ncreateContainer1\ncreateContainer2\n";
    assert_eq!(written(&c, "record"), created);
    c.start();
    assert_eq!(written(&c, "record"), format!("{created}poststart1\npoststart2\n"));
    c.ok(&["kill", &c.id, "KILL"]);
    c.wait_for("stopped");
    c.ok(&["delete", &c.id]);
    assert_eq!(written(&c, "record"), format!("{created}poststart1\npoststart2\npoststop1\npoststop2\n"));
}

fn the_state_comes_on_stdin(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.set("/annotations", json!({"key": "value"}));
    for stage in ["createRuntime", "createContainer", "poststart", "poststop"] {
        let at = file(&c, stage);
        c.spec["hooks"][stage] = json!([hook(&format!("cat > {at}"))]);
    }
    c.script("sleep 100").create().start();
    let pid: Value = c.state()["pid"].clone();
    c.ok(&["kill", &c.id, "KILL"]);
    c.wait_for("stopped");
    c.ok(&["delete", &c.id]);
    for (stage, statuses) in [
        ("createRuntime", &["creating", "created"][..]),
        ("createContainer", &["creating", "created"]),
        ("poststart", &["running"]),
        ("poststop", &["stopped"]),
    ] {
        let text = written(&c, stage);
        let state: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{stage}: {e}: {text}"));
        assert_eq!(state["id"], c.id.as_str(), "{stage}");
        assert!(statuses.contains(&state["status"].as_str().unwrap_or_default()), "{stage}: {text}");
        assert_eq!(state["bundle"], c.path().to_str().unwrap(), "{stage}");
        assert_eq!(state["annotations"]["key"], "value", "{stage}");
        assert!(state["ociVersion"].is_string(), "{stage}");
        if stage == "createRuntime" || stage == "poststart" {
            assert_eq!(state["pid"], pid, "{stage}");
        }
    }
}

fn arguments_and_environment_are_exact(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    let record = file(&c, "record");
    let script = format!("echo \"$0|$1|$A|$HOME\" > {record}");
    c.spec["hooks"]["createRuntime"] =
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script, "zero", "one two"], "env": ["A=b=c"]}]);
    c.prints("true", "");
    assert_eq!(written(&c, "record"), "zero|one two|b=c|\n");
}

fn a_relative_path_is_an_error(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.spec["hooks"]["createRuntime"] = json!([{"path": "sh"}]);
    c.refused();
}

fn a_hook_that_takes_too_long_is_ended(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    let mut slow = hook("exec sleep 15");
    slow["timeout"] = 1.into();
    c.spec["hooks"]["createRuntime"] = json!([slow]);
    let before = std::time::Instant::now();
    c.refused();
    assert!(before.elapsed() < std::time::Duration::from_secs(14), "it waited for the hook's end");
}

/// The namespaces of a process, as a hook writes them down.
const NAMESPACES: &str = "readlink /proc/self/ns/mnt /proc/self/ns/net /proc/self/ns/uts";

fn prestart_sees_the_runtimes_namespaces(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    let own = std::process::Command::new("sh").args(["-c", NAMESPACES]).output().unwrap();
    let own = String::from_utf8_lossy(&own.stdout).into_owned();
    for stage in ["prestart", "createRuntime", "poststart", "poststop"] {
        let at = file(&c, stage);
        c.spec["hooks"][stage] = json!([hook(&format!("{NAMESPACES} > {at}"))]);
    }
    c.prints("true", "");
    for stage in ["prestart", "createRuntime", "poststart", "poststop"] {
        assert_eq!(written(&c, stage), own, "{stage}");
    }
}

fn a_failing_create_runtime_hook_ends_the_container(runtime: &Runtime, name: &str) {
    for stage in ["prestart", "createRuntime", "createContainer"] {
        let mut c = case(runtime, &format!("{name}-{stage}"));
        let at = file(&c, "second");
        c.spec["hooks"][stage] = json!([hook("exit 3"), hook(&format!("touch {at}"))]);
        c.refused();
        assert!(!c.path().join("second").exists(), "{stage}: the next hook ran");
    }
}

fn create_container_hooks_are_in_the_containers_namespaces(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    let record = file(&c, "record");
    // The host is still to be seen, since it comes before pivot_root.
    c.spec["hooks"]["createContainer"] = json!([hook(&format!("{NAMESPACES} > {record}"))]);
    c.script("sleep 100").create();
    let pid = c.pid();
    let want: String = ["mnt", "net", "uts"]
        .iter()
        .map(|ns| format!("{}\n", std::fs::read_link(format!("/proc/{pid}/ns/{ns}")).unwrap().display()))
        .collect();
    assert_eq!(written(&c, "record"), want);
}

fn start_container_hooks_run_in_the_container_before_its_program(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    let shared = c.shared();
    c.spec["hooks"]["startContainer"] =
        json!([{"path": "/bin/sh", "args": ["sh", "-c", "cat > /host/state; echo hook >> /host/order"]}]);
    c.script("echo program >> /host/order").create();
    assert!(!shared.join("order").exists(), "the hook ran at create");
    c.start().wait_for("stopped");
    assert_eq!(std::fs::read_to_string(shared.join("order")).unwrap(), "hook\nprogram\n");
    let state: Value = serde_json::from_slice(&std::fs::read(shared.join("state")).unwrap()).unwrap();
    assert_eq!(state["id"], c.id.as_str());
}

fn a_failing_start_container_hook_stops_the_program(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    let shared = c.shared();
    c.spec["hooks"]["startContainer"] = json!([{"path": "/bin/sh", "args": ["sh", "-c", "exit 3"]}]);
    c.script("touch /host/ran").create();
    let start = c.call(&["start", &c.id]);
    c.wait("ended", || {
        let state = c.call(&["state", &c.id]);
        state.code != 0 || state.out.contains("stopped")
    });
    assert!(!shared.join("ran").exists(), "the program was run");
    assert_ne!(start.code, 0, "start succeeded");
}

fn poststart_hooks_run_before_start_returns(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    let record = file(&c, "record");
    c.spec["hooks"]["poststart"] = json!([hook(&format!("sleep 0.2; echo ran > {record}"))]);
    c.script("sleep 100").create();
    assert_eq!(written(&c, "record"), "");
    c.start();
    assert_eq!(written(&c, "record"), "ran\n");
}

fn a_failing_poststart_hook_is_an_error(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.spec["hooks"]["poststart"] = json!([hook("exit 3")]);
    c.script("sleep 100").create();
    c.error(&["start", &c.id]);
    c.wait("ended", || {
        let state = c.call(&["state", &c.id]);
        state.code != 0 || state.out.contains("stopped")
    });
}

fn poststop_hooks_run_when_the_container_is_gone(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    let record = file(&c, "record");
    let groups: Vec<_> = c.cgroups().iter().map(|d| d.to_str().unwrap().to_owned()).collect();
    c.spec["hooks"]["poststop"] =
        json!([hook(&format!("ls -d {} 2>/dev/null; echo ran > {record}", groups.join(" ")))]);
    c.script("true").create().start().wait_for("stopped");
    assert_eq!(written(&c, "record"), "");
    c.ok(&["delete", &c.id]);
    assert_eq!(written(&c, "record"), "ran\n");
}

fn a_failing_poststop_hook_does_not_keep_the_rest(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    let record = file(&c, "record");
    c.spec["hooks"]["poststop"] = json!([hook("exit 3"), hook(&format!("echo ran > {record}"))]);
    c.script("true").create().start().wait_for("stopped");
    c.ok(&["delete", &c.id]);
    c.gone();
    assert_eq!(written(&c, "record"), "ran\n");
}

fn a_failed_create_runs_poststop(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    let record = file(&c, "record");
    c.spec["hooks"] =
        json!({"createRuntime": [hook("exit 3")], "poststop": [hook(&format!("echo ran > {record}"))]});
    c.error(&["create", &c.id]);
    assert_eq!(written(&c, "record"), "ran\n");
}
