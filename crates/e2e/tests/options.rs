//! What `create` can ask for, seen from inside the container.

#![allow(clippy::unwrap_used, reason = "a panic is the report")]

use e2e::{BUSYBOX, Client, shared};
use serde_json::json;
use testkit::daemon::{Daemon, Options};
use testkit::{is_root, wait_until};

/// `brig run --rm` with these flags and this script; what it prints.
#[track_caller]
fn sh(daemon: &Daemon, flags: &[&str], script: &str) -> String {
    let mut args = vec!["run", "--rm"];
    args.extend(flags);
    args.extend([BUSYBOX, "sh", "-c", script]);
    daemon.brig(&args).success()
}

#[test]
fn an_init_reaps_forwards_and_passes_the_status_on() {
    let Some(shared) = shared() else { return };
    let daemon = &shared.daemon;
    let script = "cat /proc/1/comm; sh -c 'sleep 0.1 & echo $! > /tmp/orphan'; \
                  until ! test -e /proc/$(cat /tmp/orphan); do sleep 0.05; done; echo reaped; echo $$";
    let out = sh(daemon, &["--init"], script);
    assert_eq!(out.lines().take(2).collect::<Vec<_>>(), ["docker-init", "reaped"], "{out}");
    assert_ne!(out.lines().last(), Some("1"));
    for client in [Client::Brig, Client::Docker] {
        let run = |command: &[&str], code| {
            let mut args = vec!["run", "--rm", "--init", BUSYBOX];
            args.extend(command);
            client.run(daemon, &args).expect(code)
        };
        run(&["sh", "-c", "exit 7"], 7);
        run(&["sh", "-c", "kill -9 $$"], 137);
        let missing = run(&["no-such-program"], 127);
        assert!(missing.stderr.contains("exec no-such-program failed"), "{missing:?}");
        run(&["/etc/not-a-program"], 126);
    }
    let args = [
        "run",
        "-d",
        "--init",
        "--name",
        "signals",
        BUSYBOX,
        "sh",
        "-c",
        "trap 'echo got; exit 5' USR1; echo ready; while :; do sleep 0.05; done",
    ];
    daemon.docker(&args).success();
    wait_until("it is ready", || daemon.brig(&["logs", "signals"]).success() == "ready");
    daemon.brig(&["kill", "-s", "USR1", "signals"]).success();
    assert_eq!(daemon.brig(&["wait", "signals"]).success(), "5");
    assert_eq!(daemon.brig(&["logs", "signals"]).success(), "ready\ngot");
    daemon.brig(&["rm", "signals"]).success();
    // On a terminal the program is in the foreground.
    let tty = daemon
        .brig(&[
            "run",
            "--rm",
            "--init",
            "-t",
            BUSYBOX,
            "sh",
            "-c",
            "ps -o pid,pgid,stat,comm | grep 'sh$' | head -1; echo done",
        ])
        .success();
    assert!(tty.contains("done"), "{tty}");
    // Read-only for those inside.
    let write = sh(daemon, &["--init"], "echo x > /sbin/docker-init; echo $?");
    assert_eq!(write, "1");
}

#[test]
fn security_options() {
    let Some(shared) = shared() else { return };
    let daemon = &shared.daemon;
    let scratch = daemon.scratch();
    let profile = scratch.join("profile.json");
    let text = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        {"names": ["unlink", "unlinkat"], "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_CHOWN"]}}]});
    std::fs::write(&profile, text.to_string()).unwrap();
    let option = format!("seccomp={}", profile.display());
    for client in [Client::Brig, Client::Docker] {
        let args = [
            "run",
            "--rm",
            "--security-opt",
            &option,
            BUSYBOX,
            "sh",
            "-c",
            "mkdir /x 2>/dev/null; echo $?; touch /y; rm /y && echo removed; grep Seccomp: /proc/self/status",
        ];
        let out = client.run(daemon, &args).success();
        assert_eq!(out.lines().collect::<Vec<_>>(), ["1", "removed", "Seccomp:\t2"], "{out}");
    }
    assert!(
        sh(daemon, &["--security-opt", "seccomp=unconfined"], "grep Seccomp: /proc/self/status")
            .ends_with('0')
    );
    assert!(
        sh(daemon, &["--security-opt", "no-new-privileges"], "grep NoNewPrivs /proc/self/status")
            .ends_with('1')
    );
    assert_eq!(
        sh(
            daemon,
            &["--security-opt", "systempaths=unconfined"],
            "grep -c ' /proc/' /proc/self/mounts; true"
        ),
        "0"
    );
    sh(daemon, &["--security-opt", "label=disable", "--security-opt", "apparmor=unconfined"], "true");
    let refused = |option: &str, words: &str| {
        let answer = json!({"Image": BUSYBOX, "HostConfig": {"SecurityOpt": [option]}});
        let answer = daemon.request("POST", "/containers/create", &answer);
        assert!(answer.status >= 400 && answer.status != 500, "{option}: {}", answer.status);
        assert!(answer.message().contains(words), "{option}: {}", answer.message());
    };
    refused("seccomp={}", "Decoding seccomp profile failed");
    refused("seccomp={\"defaultAction\":\"SCMP_ACT_DANCE\"}", "seccomp profile: ");
    refused("label=type:x", "SELinux");
    refused("nonsense=1", "invalid --security-opt");
    if !std::path::Path::new("/sys/module/apparmor").exists() {
        refused("apparmor=docker-default", "does not enforce AppArmor");
    }
}

#[test]
fn what_is_shared_with_others() {
    let Some(shared) = shared() else { return };
    let daemon = &shared.daemon;
    let run = |args: &[&str]| daemon.brig(args).success();
    let donor = |name: &str, ipc: &str| {
        run(&[
            "run",
            "-d",
            "--name",
            name,
            "--ipc",
            ipc,
            BUSYBOX,
            "sh",
            "-c",
            "echo there > /dev/shm/x; sleep 300",
        ]);
    };
    donor("ipc-shareable", "shareable");
    wait_until("the file is there", || {
        sh(daemon, &["--ipc", "container:ipc-shareable"], "cat /dev/shm/x; true") == "there"
    });
    assert_eq!(
        sh(daemon, &["--ipc", "container:ipc-shareable"], "readlink /proc/self/ns/ipc"),
        run(&["exec", "ipc-shareable", "readlink", "/proc/self/ns/ipc"])
    );
    donor("ipc-private", "private");
    let closed =
        daemon.docker(&["run", "--rm", "--ipc", "container:ipc-private", BUSYBOX, "true"]).expect(125);
    assert!(closed.stderr.contains("non-shareable IPC"), "{closed:?}");
    assert_eq!(sh(daemon, &["--ipc", "none"], "grep -c ' /dev/shm ' /proc/mounts; true"), "0");
    assert_eq!(
        sh(daemon, &["--pid", "container:ipc-private"], "cat /proc/1/cmdline | tr '\\0' ' '; true")
            .split(' ')
            .next(),
        Some("sleep")
    );
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    assert_eq!(sh(daemon, &["--uts", "host"], "hostname"), host);
    let both = daemon.docker(&["run", "--rm", "--uts", "host", "-h", "x", BUSYBOX, "true"]).expect(125);
    assert!(both.stderr.contains("conflicting options: hostname and the UTS mode"), "{both:?}");
    let parent = format!("/{}/more.slice", daemon.cgroup_parent);
    let at = sh(daemon, &["--cgroup-parent", &parent, "--cgroupns", "host"], "cat /proc/self/cgroup");
    assert!(at.contains("/more.slice/"), "{at}");
    run(&["rm", "-f", "ipc-shareable", "ipc-private"]);
}

#[test]
fn what_a_kernel_or_another_system_lacks() {
    let Some(shared) = shared() else { return };
    let daemon = &shared.daemon;
    let create = |host: serde_json::Value| {
        daemon.request("POST", "/containers/create", &json!({"Image": BUSYBOX, "HostConfig": host}))
    };
    let answer = create(json!({"KernelMemory": 50_000_000})).expect(201).json();
    assert!(answer["Warnings"][0].as_str().unwrap().contains("kernel memory"), "{answer}");
    daemon.brig(&["rm", answer["Id"].as_str().unwrap()]).success();
    assert!(create(json!({"CpuCount": 2})).expect(400).message().contains("CpuCount"));
    assert!(create(json!({"IpcMode": "wild"})).expect(400).message().contains("invalid IPC mode"));
    let gpus = daemon.docker(&["run", "--rm", "--gpus", "all", BUSYBOX, "true"]).expect(125);
    assert!(gpus.stderr.contains("unresolvable CDI devices nvidia.com/gpu=all"), "{gpus:?}");
}

#[test]
fn devices_of_a_vendor() {
    if !is_root() {
        return;
    }
    let specs = tempfile::tempdir().unwrap();
    let file = specs.path().join("shared");
    std::fs::write(&file, "from the host").unwrap();
    let spec = json!({"cdiVersion": "0.6.0", "kind": "example.com/thing", "devices": [{"name": "one", "containerEdits": {
        "env": ["THING=1"], "additionalGids": [77],
        "deviceNodes": [{"path": "/dev/thing", "hostPath": "/dev/zero"}],
        "mounts": [{"hostPath": file, "containerPath": "/thing", "options": ["ro", "nosuid"]}]}}]});
    std::fs::write(specs.path().join("example.json"), spec.to_string()).unwrap();
    let flags = vec!["--cdi-spec-dir".into(), specs.path().display().to_string()];
    let daemon = Daemon::start(Options { flags, ..Options::default() });
    daemon.load_busybox(BUSYBOX);
    for client in [Client::Brig, Client::Docker] {
        let script = "echo $THING; cat /thing; echo; head -c 4 /dev/thing | od -An -tx1; id -G; touch /thing || echo ro";
        let args = ["run", "--rm", "--device", "example.com/thing=one", BUSYBOX, "sh", "-c", script];
        let out = client.run(&daemon, &args).success();
        let lines: Vec<&str> = out.lines().map(str::trim).collect();
        assert_eq!(lines[..3], ["1", "from the host", "00 00 00 00"], "{out}");
        assert!(lines[3].split(' ').any(|g| g == "77") && lines[4] == "ro", "{out}");
    }
    let gone =
        daemon.docker(&["run", "--rm", "--device", "example.com/thing=two", BUSYBOX, "true"]).expect(125);
    assert!(gone.stderr.contains("unresolvable CDI devices example.com/thing=two"), "{gone:?}");
    daemon.assert_empties();
}
