//! What runc's own suite asks of a runtime beyond the specification, kept here in our words. Needs root and Debian's package
//! busybox-static.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test says why it fails or is skipped")]

#[path = "support/bundle.rs"]
mod support;

use serde_json::json;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use support::bundle;

#[test]
fn the_last_setting_of_a_variable_counts() {
    let Some(mut b) = bundle("env") else { return };
    std::fs::write(b.rootfs().join("etc/passwd"), "x:x:7:7::/home/x:/bin/sh\n").unwrap();
    b.spec["process"]["env"] = json!(["PATH=/bin", "A=1", "HOME=", "A=2", "B=", "A=3"]);
    b.spec["process"]["user"] = json!({"uid": 7, "gid": 7});
    b.args(&["busybox", "env"]);
    let said = String::from_utf8(b.call(&["run", &b.id]).stdout).unwrap();
    assert_eq!(said, "PATH=/bin\nB=\nA=3\nHOME=/home/x\n");
    b.spec["process"]["env"] = json!(["PATH=/bin", "HOME=", "HOME=/own"]);
    b.check("echo $HOME", "/own");
}

#[test]
fn the_callers_affinity_is_not_the_containers() {
    let Some(mut b) = bundle("affinity") else { return };
    let everywhere = rustix::thread::sched_getaffinity(None).unwrap();
    if everywhere.count() < 2 {
        eprintln!("skipped: needs two processors");
        return;
    }
    let first = (0..1024).find(|&n| everywhere.is_set(n)).unwrap();
    let mut one = rustix::thread::CpuSet::new();
    one.set(first);
    b.args(&["grep", "Cpus_allowed_list", "/proc/self/status"]);
    let run = |b: &support::Bundle| {
        let output = b.command(&["run", &b.id]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let free = run(&b);
    // Of this thread, and so of what it starts; the other tests have threads of their own.
    rustix::thread::sched_setaffinity(None, &one).unwrap();
    let bound = run(&b);
    assert!(free.contains("Cpus_allowed_list") && free == bound, "{free:?} {bound:?}");
}

#[test]
fn a_filter_may_forbid_what_the_start_uses() {
    let Some(mut b) = bundle("filter") else { return };
    b.spec["process"]["noNewPrivileges"] = false.into();
    let names = ["close_range", "openat2", "open_tree", "move_mount", "mount_setattr", "faccessat2"];
    b.spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": 38}],
    });
    b.check("echo started", "started");
}

#[test]
fn places_of_mounts() {
    let Some(mut b) = bundle("places") else { return };
    b.spec["root"]["readonly"] = false.into();
    // A file is made where a dangling link leads, below the root.
    symlink("../run/resolve/stub", b.rootfs().join("etc/resolv.conf")).unwrap();
    std::fs::write(b.path().join("resolv"), "nameserver 192.0.2.1").unwrap();
    // A tmpfs is as open as what it covers, unless it is told.
    let covered = b.rootfs().join("covered");
    std::fs::create_dir(&covered).unwrap();
    std::fs::set_permissions(&covered, std::fs::Permissions::from_mode(0o710)).unwrap();
    let mounts = b.spec["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| mount["destination"] != "/dev/shm" && mount["destination"] != "/dev/mqueue");
    let dev = mounts.iter_mut().find(|mount| mount["destination"] == "/dev").unwrap();
    dev["options"] = json!(["nosuid", "mode=755", "ro"]);
    mounts.extend([
        json!({"destination": "/etc/resolv.conf", "type": "bind", "source": "resolv", "options": ["bind"]}),
        json!({"destination": "/covered", "type": "tmpfs", "source": "tmpfs"}),
        json!({"destination": "/told", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1700"]}),
        json!({"destination": "/new", "type": "tmpfs", "source": "tmpfs"}),
    ]);
    b.check("stat -c %a /covered /told /new | tr '\\n' ' '", "710 1700 1777");
    b.check("cat /etc/resolv.conf", "nameserver 192.0.2.1");
    // Read-only, but not before it is full.
    b.check("touch /dev/new 2>/dev/null; echo $?; echo x > /dev/null && ls /dev/pts", "1\nptmx");
}

#[test]
fn without_pivot_no_bare_proc_is_left() {
    let Some(mut b) = bundle("no-pivot") else { return };
    symlink("busybox", b.rootfs().join("bin/unshare")).unwrap();
    b.args(&["unshare", "-mrpf", "sh", "-c", "mount -t proc none /proc && echo bare"]);
    let caps = ["CAP_SETFCAP", "CAP_SYS_ADMIN"];
    b.spec["process"]["capabilities"] = json!({"bounding": caps, "permitted": caps, "effective": caps});
    let output = b.call(&["run", "--no-pivot", &b.id]);
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(text.contains("permission denied") && !text.contains("bare"), "{text}");
}

#[test]
fn exec_and_its_capabilities() {
    let Some(mut b) = bundle("exec-caps") else { return };
    let id = b.id.clone();
    let caps = ["CAP_CHOWN", "CAP_SYSLOG"];
    b.spec["process"]["capabilities"] = json!({"bounding": caps, "permitted": caps, "inheritable": caps});
    b.args(&["sleep", "100"]);
    b.ok(&["run", "-d", &id]);
    let said = b.ok(&["exec", "-c", "CAP_SYSLOG", &id, "grep", "CapAmb", "/proc/self/status"]);
    assert_eq!(said.trim_end(), "CapAmb:\t0000000400000000");
    // No program's code, so that it is told from one's.
    assert_eq!(b.call(&["exec", &id, "nope"]).status.code(), Some(255));
    assert_eq!(b.call(&["exec", &id, "sh", "-c", "exit 1"]).status.code(), Some(1));
    b.ok(&["pause", &id]);
    assert_eq!(b.call(&["exec", &id, "true"]).status.code(), Some(255));
    b.ok(&["resume", &id]);
}

#[test]
fn kill_ends_everybody_without_a_pid_namespace() {
    let Some(mut b) = bundle("host-pids") else { return };
    b.spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "pid");
    let id = b.id.clone();
    b.script("sleep 1000 & sleep 1000 & wait");
    b.ok(&["run", "-d", &id]);
    let processes = || {
        let text = b.ok(&["ps", "-f", "json", &id]);
        serde_json::from_str::<Vec<i32>>(&text).unwrap()
    };
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while processes().len() < 3 {
        assert!(std::time::Instant::now() < until, "{:?}", processes());
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let all = processes();
    b.ok(&["kill", &id, "KILL"]);
    b.wait_status("stopped");
    let lives = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    };
    while all.iter().any(lives) {
        assert!(std::time::Instant::now() < until, "some of {all:?} live");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

/// Go's encoder writes `null` for a list or map that is empty and not left out.
#[test]
fn null_is_as_good_as_absent() {
    let Some(mut b) = bundle("null") else { return };
    b.spec["annotations"] = json!(null);
    b.spec["hooks"] = json!({"prestart": null, "poststop": null});
    b.spec["process"]["rlimits"] = json!(null);
    b.spec["process"]["user"]["additionalGids"] = json!(null);
    b.spec["linux"]["sysctl"] = json!(null);
    b.spec["linux"]["timeOffsets"] = json!(null);
    b.spec["linux"]["uidMappings"] = json!(null);
    b.spec["linux"]["devices"] = json!(null);
    b.spec["linux"]["resources"] =
        json!({"devices": null, "unified": null, "hugepageLimits": null, "pids": null});
    b.spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": null,
        "syscalls": [{"names": ["keyctl"], "action": "SCMP_ACT_ERRNO", "args": null, "errnoRet": null}]});
    let mounts = b.spec["mounts"].as_array_mut().unwrap();
    mounts.push(json!({"destination": "/n", "type": "tmpfs", "source": "tmpfs", "options": null}));
    b.check("grep -c ' /n ' /proc/mounts", "1");
    // The same of a process for exec, and of limits; and of the document that is kept.
    b.args(&["sleep", "100"]);
    let id = b.id.clone();
    b.ok(&["run", "-d", &id]);
    let process = json!({"args": ["/bin/echo", "inside"], "env": null, "cwd": "/bin", "user": null, "capabilities": null});
    std::fs::write(b.path().join("process.json"), process.to_string()).unwrap();
    assert_eq!(b.ok(&["exec", "-p", "process.json", &id]), "inside\n");
    std::fs::write(b.path().join("limits.json"), r#"{"pids":{"limit":9},"unified":null,"cpu":null}"#)
        .unwrap();
    b.ok(&["update", "-r", "limits.json", &id]);
    assert_eq!(b.state()["status"], "running");
}

#[test]
fn words_of_others() {
    let Some(mut b) = bundle("words") else { return };
    for args in [&["--help"][..], &["exec", "--help"], &["delete", "-h"]] {
        assert!(b.ok(args).contains("USAGE:\n   brig-runtime "), "{args:?}");
    }
    b.script("exit 6");
    assert_eq!(b.call(&["--cgroup-manager", "cgroupfs", "run", &b.id]).status.code(), Some(6));
    b.spec["hooks"] =
        json!({"startContainer": [{"path": "/bin/true"}, {"path": "/bin/cat", "args": ["cat", "/none"]}]});
    b.refused(
        "error running startContainer hook #1: /bin/cat: exit status 1, output: cat: can't open '/none'",
    );
    b.spec["hooks"] = json!({"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "kill -SEGV $$"]}]});
    b.refused("error running startContainer hook #0: /bin/sh: signal: segmentation fault");
    b.spec["process"]["env"] = json!(["PATH=/bin", "OWN=1"]);
    b.spec["hooks"] = json!({"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "test $OWN = 1"]}]});
    b.check("echo hooked", "hooked");
}
