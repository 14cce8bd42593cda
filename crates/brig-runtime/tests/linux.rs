//! Fields of `config.json` that only Linux has, by the built program on the real kernel. Needs root and Debian's
//! packages busybox-static and iproute2.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test says why it fails or is skipped")]

#[path = "support/bundle.rs"]
mod bundle;

use bundle::{bundle, receive_with_text, runtime_program};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

#[test]
fn a_seccomp_agent_gets_the_listener() {
    let Some(mut b) = bundle("notify") else { return };
    let socket = b.path().join("agent.sock");
    let agent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let id = b.id.clone();
    // sendmsg too: then the listener cannot be sent by the process itself.
    for (names, no_new_privileges) in [(json!(["mkdir"]), true), (json!(["mkdir", "sendmsg"]), false)] {
        b.spec["process"]["noNewPrivileges"] = no_new_privileges.into();
        b.spec["process"]["capabilities"]["bounding"] = json!(["CAP_SYS_ADMIN"]);
        b.spec["annotations"] = json!({"key": "value"});
        b.spec["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": socket.to_str().unwrap(), "listenerMetadata": "meta",
            "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
            "syscalls": [{"names": names, "action": "SCMP_ACT_NOTIFY"}]
        });
        b.script("mkdir /tmp/x; echo $?");
        let mut running = b.command(&["create", &id]).stdout(std::process::Stdio::null()).spawn().unwrap();
        let (connection, _) = agent.accept().unwrap();
        let (text, listener) = receive_with_text(&connection);
        assert!(running.wait().unwrap().success());
        let state: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&state["fds"], &state["metadata"]), (&json!(["seccompFd"]), &json!("meta")));
        assert_eq!(state["pid"], b.state()["pid"]);
        assert_eq!(state["state"]["pid"], state["pid"]);
        assert_eq!(
            (&state["state"]["id"], &state["state"]["status"], &state["state"]["annotations"]["key"]),
            (&json!(id), &json!("creating"), &json!("value"))
        );
        let link =
            std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&listener)));
        assert!(link.unwrap().to_str().unwrap().contains("seccomp notify"));
        // Without an agent the call fails with ENOSYS.
        drop(listener);
        b.ok(&["start", &id]);
        b.wait_status("stopped");
        b.ok(&["delete", &id]);
    }
    // An exec has its own.
    b.args(&["sleep", "100"]);
    let mut running = b.command(&["run", "-d", &id]).stdout(std::process::Stdio::null()).spawn().unwrap();
    let first = receive_with_text(&agent.accept().unwrap().0);
    assert!(running.wait().unwrap().success());
    let mut exec = b.command(&["exec", &id, "true"]).spawn().unwrap();
    let (text, second) = receive_with_text(&agent.accept().unwrap().0);
    let state: Value = serde_json::from_str(&text).unwrap();
    assert_ne!(state["pid"], state["state"]["pid"]);
    assert_eq!(state["state"]["status"], "running");
    drop((first, second));
    assert!(exec.wait().unwrap().success());
}

#[test]
fn seccomp_profiles_that_cannot_be() {
    let Some(mut b) = bundle("notifybad") else { return };
    b.args(&["true"]);
    let mut check = |profile: Value, want: &str| {
        b.spec["linux"]["seccomp"] = profile;
        b.refused(want);
    };
    let notify = json!([{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]);
    check(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": notify}), "listenerPath");
    check(
        json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/no/such.sock", "syscalls": notify}),
        "failed to connect with seccomp agent at /no/such.sock",
    );
    check(json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"}), "listenerMetadata");
    check(json!({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 5}), "has no errno");
    check(json!({"defaultAction": "SCMP_ACT_NOTIFY"}), "SCMP_ACT_NOTIFY is not possible");
    check(json!({"defaultAction": "SCMP_ACT_WHAT"}), "unknown");
}

#[test]
fn scheduler_affinity_and_memory_policy() {
    let Some(mut b) = bundle("sched") else { return };
    let id = b.id.clone();
    b.spec["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 5});
    b.spec["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_IDLE", "priority": 4});
    b.spec["linux"]["memoryPolicy"] =
        json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]});
    b.check(
        "grep -c 'bind.*:0' /proc/self/numa_maps | tr -d '0-9'; awk '{print $41, $19}' /proc/self/stat",
        "\n3 5",
    );
    let (_, maps) = b.run("head -n 1 /proc/self/numa_maps");
    assert!(maps.contains("bind=static:0"), "{maps}");
    b.spec["process"]["execCPUAffinity"] = json!({"initial": "0", "final": "0"});
    b.args(&["sleep", "100"]);
    b.ok(&["run", "-d", &id]);
    assert_eq!(
        b.ok(&["exec", &id, "grep", "Cpus_allowed_list", "/proc/self/status"]).trim(),
        "Cpus_allowed_list:\t0"
    );
    b.ok(&["delete", "--force", &id]);
    b.args(&["true"]);
    b.spec["process"]["execCPUAffinity"] = json!({"initial": "x"});
    b.refused("execCPUAffinity.initial");
    b.spec["process"]["execCPUAffinity"] = json!({});
    b.spec["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND"});
    b.refused("set linux.memoryPolicy");
    b.spec["linux"]["memoryPolicy"] = json!({"mode": "MPOL_X"});
    b.refused("invalid memory policy mode");
}

#[test]
fn network_devices() {
    let Some(mut b) = bundle("netdev") else { return };
    // A host of the test's own, so that nothing is seen or left here.
    let ip = |line: &str| format!("ip {line} || exit 9\n");
    let directory = b.path().to_owned();
    let host = |steps: &str, then: &str| {
        let script = [&ip("link set lo up"), steps, then].concat();
        let output = Command::new("unshare")
            .args(["-n", "sh", "-c", &script])
            .current_dir(&directory)
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    };
    let pair = [
        ip("link add brigtest0 type veth peer name brigtest1"),
        ip("addr add 10.77.0.5/24 dev brigtest0"),
        ip("addr add fd77::5/64 dev brigtest0 nodad"),
        ip("link set brigtest0 mtu 1400"),
    ]
    .concat();
    let run = |b: &bundle::Bundle| {
        let command = b.command(&["run", &b.id]);
        let args: Vec<_> = command.get_args().map(|a| a.to_str().unwrap().to_owned()).collect();
        format!("{} {}\n", command.get_program().to_str().unwrap(), args.join(" "))
    };
    let mut spec = b.spec.clone();
    spec["linux"]["netDevices"] = json!({"brigtest0": {"name": "inside"}});
    std::fs::write(
        b.rootfs().join("bin/show"),
        "#!/bin/sh\nip -o addr show; cat /sys/class/net/$1/mtu; ls /sys/class/net\n",
    )
    .unwrap();
    std::fs::set_permissions(
        b.rootfs().join("bin/show"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    spec["process"]["args"] = json!(["show", "inside"]);
    b.spec = spec.clone();
    let (code, text) = host(&pair, &run(&b));
    assert_eq!(code, Some(0), "{text}");
    for want in ["inside", "10.77.0.5/24", "fd77::5/64", "1400", "inside\nlo"] {
        assert!(text.contains(want), "{want}: {text}");
    }
    for (devices, want) in [
        (json!({"brigtest0": {"name": "lo"}}), "interface lo exists"),
        (json!({"nope0": {}}), "interface nope0 not found"),
        (json!({"brigtest0": {"name": "a/b"}}), "not an interface name"),
        (json!({"lo": {"name": "other"}}), "move interface lo"),
    ] {
        spec["linux"]["netDevices"] = devices;
        b.spec = spec.clone();
        let (code, text) = host(&pair, &run(&b));
        assert!(code == Some(1) && text.contains(want), "{want}: {code:?} {text}");
    }
    // A pattern: the kernel finds the number.
    spec["linux"]["netDevices"] = json!({"brigtest0": {"name": "net%d"}});
    spec["process"]["args"] = json!(["ls", "/sys/class/net"]);
    b.spec = spec.clone();
    let (_, text) = host(&pair, &run(&b));
    assert_eq!(text, "lo\nnet0\n");
    let namespaces = b.spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|n| n["type"] != "network");
    b.args(&["true"]);
    b.refused("needs a network namespace");
}

#[test]
fn what_the_kernel_lacks_is_named() {
    let Some(mut b) = bundle("lacks") else { return };
    b.args(&["true"]);
    let keep = b.spec.clone();
    let mut check = |pointer: &str, value: Value, want: &str| {
        b.spec = keep.clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        b.spec.pointer_mut(parent).unwrap()[key] = value;
        b.refused(want);
    };
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let lacks = |what: &str| format!("this kernel ({}) has no {what}", release.trim());
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    if !mounts.contains(" resctrl ") {
        let there = Path::new("/sys/fs/resctrl").exists();
        let want = lacks("resctrl file system on this processor");
        let want = if there { "no resctrl file system is mounted" } else { &want };
        check("/linux/intelRdt", json!({"closID": "x"}), want);
    }
    check("/linux/intelRdt", json!({"closID": "../x"}), "is not one name");
    if Path::new("/sys/fs/cgroup/memory").exists() {
        let unified = json!({"unified": {"memory.min": "4096"}});
        check("/linux/resources", unified, "invalid configuration: the controller is on cgroup v1");
    }
    if !Path::new("/sys/fs/selinux/enforce").exists() {
        check("/linux/mountLabel", "system_u:object_r:x:s0".into(), &lacks("active SELinux"));
        check("/process/selinuxLabel", "system_u:object_r:x:s0".into(), &lacks("active SELinux"));
    }
    check("/mounts", json!([{"destination": "/x", "type": "nosuchfs"}]), &lacks("file system nosuchfs"));
    check(
        "/process/rlimits",
        json!([{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]),
        "appears twice",
    );
    check("/process/oomScoreAdj", 1001.into(), "oomScoreAdj");
    check("/hooks", json!({"poststop": [{"path": "relative"}]}), "is not absolute");
    check("/hooks", json!({"poststop": [{"path": "/x", "timeout": 0}]}), "timeout");
    check("/linux/devices", json!([{"type": "x", "path": "/dev/x"}]), "unknown type");
    check(
        "/linux/devices",
        json!([{"type": "c", "path": "/dev/x", "major": -1, "minor": 0}]),
        "no device number",
    );
    check("/ociVersion", "1.0".into(), "ociVersion");
}

#[test]
fn unknown_capabilities_are_warned_of() {
    let Some(mut b) = bundle("caps") else { return };
    b.spec["process"]["capabilities"]["bounding"] = json!(["CAP_NOPE", "CAP_KILL"]);
    b.script("echo ran");
    let output = b.call(&["run", &b.id]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ran\n");
    assert!(
        String::from_utf8_lossy(&output.stderr)
            .contains("warning: unknown capabilities are left out: CAP_NOPE")
    );
}

#[test]
fn features_are_what_is_known() {
    let output = Command::new(runtime_program()).arg("features").output().unwrap();
    let features: Value = serde_json::from_slice(&output.stdout).unwrap();
    let has = |pointer: &str, name: &str| {
        let list = features.pointer(pointer).and_then(Value::as_array).unwrap_or_else(|| panic!("{pointer}"));
        assert!(list.contains(&name.into()), "{pointer} {name}");
    };
    has("/mountOptions", "rro");
    has("/mountOptions", "ridmap");
    has("/linux/seccomp/actions", "SCMP_ACT_NOTIFY");
    has("/linux/seccomp/archs", "SCMP_ARCH_RISCV64");
    has("/linux/seccomp/supportedFlags", "SECCOMP_FILTER_FLAG_SPEC_ALLOW");
    has("/linux/memoryPolicy/modes", "MPOL_WEIGHTED_INTERLEAVE");
    assert_eq!(features.pointer("/linux/netDevices/enabled"), Some(&true.into()));
}
