//! The built program on the real kernel. Needs root and Debian's package busybox-static.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test says why it fails or is skipped")]

#[path = "support/bundle.rs"]
mod bundle;

use bundle::{bundle, receive_fd, runtime_program};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

#[test]
fn life_of_a_container() {
    let Some(mut b) = bundle("life") else { return };
    let id = b.id.clone();
    b.args(&["sleep", "100"]);
    b.ok(&["create", "--pid-file", "pid", &id]);
    let state = b.state();
    assert_eq!(state["status"], "created");
    assert_eq!(std::fs::read_to_string(b.path().join("pid")).unwrap(), state["pid"].to_string());
    assert!(!b.call(&["create", &id]).status.success());
    b.ok(&["start", &id]);
    b.wait_status("running");
    assert!(!b.call(&["start", &id]).status.success());
    assert!(!b.call(&["delete", &id]).status.success());
    assert_eq!(b.ok(&["list", "-q"]).trim(), id);
    assert!(b.ok(&["ps", &id]).contains(&state["pid"].to_string()));
    b.ok(&["pause", &id]);
    assert_eq!(b.state()["status"], "paused");
    b.ok(&["resume", &id]);
    assert_eq!(b.ok(&["exec", &id, "echo", "hello"]).trim(), "hello");
    assert_eq!(b.call(&["exec", &id, "sh", "-c", "exit 5"]).status.code(), Some(5));
    b.ok(&["kill", &id, "KILL"]);
    b.wait_status("stopped");
    b.ok(&["delete", &id]);
    let gone = b.call(&["state", &id]);
    assert!(String::from_utf8_lossy(&gone.stderr).contains("does not exist"));
    b.ok(&["delete", "--force", &id]);
}

#[test]
fn exit_codes_and_missing_programs() {
    let Some(mut b) = bundle("codes") else { return };
    assert_eq!(b.run("exit 7").0, 7);
    assert_eq!(b.run("kill -9 $$; sleep 1").0, 0, "pid 1 cannot kill itself");
    b.args(&["nope"]);
    b.refused(r#"exec: "nope": executable file not found in $PATH"#);
    b.args(&["/nope"]);
    b.refused("no such file or directory");
    b.args(&["/etc"]);
    b.refused("is a directory");
    std::fs::write(b.rootfs().join("bin/data"), "x").unwrap();
    b.args(&["/bin/data"]);
    b.refused("permission denied");
    // The error is create's, not start's.
    b.args(&["nope"]);
    let output = b.call(&["--log", "log.json", "--log-format", "json", "create", &b.id]);
    assert!(!output.status.success());
    let log = std::fs::read_to_string(b.path().join("log.json")).unwrap();
    let entry: serde_json::Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!(entry["level"], "error");
    assert!(entry["msg"].as_str().unwrap().contains("executable file not found in $PATH"));
}

#[test]
fn namespaces_and_identity() {
    let Some(mut b) = bundle("ns") else { return };
    b.check("hostname; echo $$; pwd", "brig\n1\n/");
    b.check("ls /sys/class/net; cat /sys/class/net/lo/flags", "lo\n0x9");
    for name in ["pid", "net", "ipc", "uts", "mnt", "cgroup"] {
        let host = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        let (_, inside) = b.run(&format!("stat -c %N /proc/self/ns/{name}"));
        assert!(!inside.contains(host.to_str().unwrap()), "{name} is shared");
    }
    b.spec["process"]["user"] =
        serde_json::json!({"uid": 1000, "gid": 100, "additionalGids": [7], "umask": 0o77});
    b.check("id -u; id -g; id -G; umask", "1000\n100\n100 7\n0077");
    let (_, status) = b.run("grep -E '^(Cap(Inh|Prm|Eff|Amb)|NoNewPrivs)' /proc/self/status");
    assert_eq!(
        status.replace('\t', " ").trim(),
        "CapInh: 0000000000000000\nCapPrm: 0000000000000000\nCapEff: 0000000000000000\nCapAmb: 0000000000000000\nNoNewPrivs: 1"
    );
}

#[test]
fn user_namespace_and_time_namespace() {
    let Some(mut b) = bundle("userns") else { return };
    std::fs::set_permissions(b.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::chown(b.rootfs(), Some(100_000), Some(100_000)).unwrap();
    let namespaces = b.spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.push(serde_json::json!({"type": "user"}));
    namespaces.push(serde_json::json!({"type": "time"}));
    let map = serde_json::json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    b.spec["linux"]["uidMappings"] = map.clone();
    b.spec["linux"]["gidMappings"] = map;
    b.spec["linux"]["timeOffsets"] = serde_json::json!({"boottime": {"secs": 100_000_000, "nanosecs": 0}});
    b.check("id -u; head -c 40 /proc/self/uid_map | tr -s ' '", "0\n 0 100000 65536");
    let (_, uptime) = b.run("cat /proc/uptime");
    assert!(uptime.split('.').next().unwrap().parse::<u64>().unwrap() > 100_000_000, "{uptime}");
    b.check("echo x > /dev/null && echo ok", "ok");
    b.args(&["sleep", "100"]);
    let id = b.id.clone();
    b.ok(&["run", "-d", &id]);
    assert_eq!(b.ok(&["exec", &id, "id", "-u"]).trim(), "0");
}

/// Each mount has a device number of its own, by which one knows whose a file is.
#[test]
fn streams_of_the_null_device_are_of_the_containers_own() {
    let Some(mut b) = bundle("null") else { return };
    b.script("for f in /proc/self/fd/0 /dev/null /proc/self/fd/2; do stat -L -c '%d %t:%T' $f; done");
    let mut run = b.command(&["run", &b.id.clone()]);
    let output = run.stdin(Stdio::null()).stderr(Stdio::null()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(matches!(lines[..], [stdin, own, stderr] if stdin == own && own == stderr), "{text}");
    assert!(lines[0].ends_with(" 1:3"), "{text}");
}

#[test]
fn joined_namespaces() {
    let Some(mut first) = bundle("join1") else { return };
    let Some(mut second) = bundle("join2") else { return };
    first.args(&["sleep", "100"]);
    first.ok(&["run", "-d", &first.id]);
    let pid = first.state()["pid"].to_string();
    let paths: Vec<_> = [("pid", "pid"), ("network", "net"), ("ipc", "ipc"), ("uts", "uts")]
        .iter()
        .map(|(kind, link)| serde_json::json!({"type": kind, "path": format!("/proc/{pid}/ns/{link}")}))
        .chain([serde_json::json!({"type": "mount"})])
        .collect();
    second.spec["linux"]["namespaces"] = paths.into();
    second.spec["hostname"] = "".into();
    let (code, text) = second.run("cat /proc/1/cmdline | tr '\\0' ' '; hostname");
    assert_eq!((code, text.trim()), (0, "sleep 100 brig"));
}

/// A network namespace that belongs to the host's user namespace, joined together with a user namespace of another container's.
#[test]
fn joined_user_namespace_that_does_not_own_the_network() {
    let Some(mut first) = bundle("owner1") else { return };
    let Some(mut second) = bundle("owner2") else { return };
    for b in [&first, &second] {
        std::fs::set_permissions(b.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::chown(b.rootfs(), Some(100_000), Some(100_000)).unwrap();
    }
    let map = serde_json::json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    first.spec["linux"]["uidMappings"] = map.clone();
    first.spec["linux"]["gidMappings"] = map;
    first.spec["linux"]["namespaces"].as_array_mut().unwrap().push(serde_json::json!({"type": "user"}));
    first.args(&["sleep", "100"]);
    first.ok(&["run", "-d", &first.id]);
    // Its network namespace is the host's user namespace's.
    let mut other = std::process::Command::new("unshare").args(["--net", "sleep", "100"]).spawn().unwrap();
    let users = format!("/proc/{}/ns/user", first.state()["pid"]);
    let network = format!("/proc/{}/ns/net", other.id());
    let host = std::fs::read_link("/proc/self/ns/net").unwrap();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while std::fs::read_link(&network).unwrap() == host {
        assert!(std::time::Instant::now() < until, "unshare(1) never unshared");
    }
    let want = [&users, &network].map(|path| std::fs::read_link(path).unwrap().display().to_string());
    second.spec["linux"]["namespaces"] = serde_json::json!([
        {"type": "pid"}, {"type": "network", "path": network}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
        {"type": "user", "path": users},
    ]);
    // It may not mount a sysfs of a network namespace that is not its own.
    second.spec["mounts"].as_array_mut().unwrap().retain(|mount| mount["type"] != "sysfs");
    second.spec["linux"]["maskedPaths"] = serde_json::json!([]);
    let inside = "stat -c %N /proc/self/ns/user /proc/self/ns/net";
    let (code, text) = second.run(inside);
    second.args(&["sleep", "100"]);
    second.ok(&["run", "-d", &second.id]);
    let exec = second.ok(&["exec", &second.id, "sh", "-c", inside]);
    other.kill().unwrap();
    other.wait().unwrap();
    for text in [&text, &exec] {
        assert!(code == 0 && want.iter().all(|one| text.contains(one.as_str())), "want {want:?}: {text}");
    }
}

#[test]
fn masks_and_read_only() {
    let Some(mut b) = bundle("masks") else { return };
    b.check("cat /proc/keys /proc/timer_list; ls /sys/firmware", "");
    for path in ["/proc/sys/kernel/hostname", "/x", "/sys/x"] {
        let (code, text) = b.run(&format!("echo x > {path}"));
        assert!(code != 0 && text.contains("Read-only file system"), "{path}: {code} {text}");
    }
    let (code, text) =
        b.run("ls -ld /dev/fd /dev/ptmx && echo x > /dev/null && head -c 1 /dev/urandom > /dev/null");
    assert_eq!(code, 0, "{text}");
}

#[test]
fn seccomp_is_in_force() {
    let Some(mut b) = bundle("seccomp") else { return };
    b.spec["linux"]["seccomp"] = serde_json::json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["sethostname", "mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]
    });
    b.check("grep Seccomp: /proc/self/status | tr '\\t' ' '", "Seccomp: 2");
    b.spec["process"]["noNewPrivileges"] = false.into();
    b.check("grep Seccomp: /proc/self/status | tr '\\t' ' '", "Seccomp: 2");
}

#[test]
fn limits_are_in_force() {
    let Some(mut b) = bundle("limits") else { return };
    b.spec["linux"]["resources"] = serde_json::json!({"pids": {"limit": 3}, "memory": {"limit": 33_554_432}});
    let (code, text) = b.run("sleep 1 & sleep 1 & sleep 1 & sleep 1 & wait");
    assert!(code != 0 && text.contains("fork"), "{code} {text}");
    // The limits are the container's from its first breath: a small one is enough to start.
    b.spec["linux"]["resources"] = serde_json::json!({"memory": {"limit": 262_144}});
    b.args(&["true"]);
    let output = b.call(&["run", &b.id]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn limits_are_updated() {
    let Some(mut b) = bundle("update") else { return };
    b.spec["linux"]["resources"] =
        serde_json::json!({"pids": {"limit": 20}, "memory": {"limit": 33_554_432}});
    b.args(&["sleep", "100"]);
    let id = b.id.clone();
    b.ok(&["run", "-d", &id]);
    let inside = format!("brigtest/{id}");
    let read = |controller: &str, file: &str| {
        let text = std::fs::read_to_string(format!("/sys/fs/cgroup/{controller}/{inside}/{file}"));
        text.unwrap().trim().to_owned()
    };
    let memory = || read("memory", "memory.limit_in_bytes");
    b.ok(&["update", "--memory", "64M", "--pids-limit", "10", "--cpu-share", "77", &id]);
    assert_eq!(
        (memory(), read("pids", "pids.max"), read("cpu", "cpu.shares")),
        ("67108864".into(), "10".into(), "77".into())
    );
    b.ok(&["update", &id, "--cpu-quota=50000", "--cpu-period", "100000"]);
    assert_eq!(
        (read("cpu", "cpu.cfs_quota_us"), read("cpu", "cpu.cfs_period_us")),
        ("50000".into(), "100000".into())
    );
    std::fs::write(
        b.path().join("limits.json"),
        r#"{"memory": {"limit": 50331648}, "blockIO": {"weight": 0}}"#,
    )
    .unwrap();
    b.ok(&["update", "-r", "limits.json", &id]);
    assert_eq!(memory(), "50331648");
    // What the kernel refuses is named, and what went before it is taken back.
    let refused = b.call(&["update", "--memory", "40M", "--cpuset-cpus", "9999", &id]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && text.contains("cpuset.cpus"), "{text}");
    assert_eq!(memory(), "50331648");
    for (flags, want) in [
        (["--memory", "x"], "invalid value for memory"),
        (["--what", "1"], "flag provided but not defined: -what"),
        (["--l3-cache-schema", "L3:0=f"], "l3 cache schema is not enabled"),
    ] {
        let output = b.call(&["update", flags[0], flags[1], &id]);
        assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains(want), "{want}");
    }
    b.ok(&["kill", &id, "KILL"]);
    b.wait_status("stopped");
    assert!(!b.call(&["update", "--memory", "64M", &id]).status.success());
}

#[test]
fn working_directory_cannot_leave() {
    let Some(mut b) = bundle("cwd") else { return };
    let canary = std::fs::File::open("/etc").unwrap();
    // Without close-on-exec, as a careless caller would leave it.
    let leaked = rustix::io::dup(&canary).unwrap();
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    for number in 0..32 {
        for tail in ["", "/..", "/../../../etc"] {
            b.spec["process"]["cwd"] = format!("/proc/self/fd/{number}{tail}").into();
            b.args(&["cat", "passwd"]);
            let output = b.call(&["run", &b.id]);
            assert!(output.stdout.is_empty(), "fd {number}{tail} led out");
        }
    }
    b.spec["process"]["cwd"] = "relative".into();
    b.refused("not an absolute path");
    b.spec["process"]["cwd"] = "/made/by/us".into();
    b.check("pwd; ls /proc/self/fd | head -c 5 | tr '\\n' ' '", "/made/by/us\n0 1 2");
}

#[test]
fn links_in_the_image_do_not_lead_out() {
    for (index, link) in ["proc", "dev", "sys", "mnt", "dev/null", "dev/pts"].into_iter().enumerate() {
        for (variant, to) in ["absolute", "/../../../../canary", "loop"].into_iter().enumerate() {
            let Some(mut b) = bundle(&format!("links{index}-{variant}")) else { return };
            let canary = b.path().join("canary");
            std::fs::create_dir(&canary).unwrap();
            let mounts = b.spec["mounts"].as_array_mut().unwrap();
            mounts.push(serde_json::json!({"destination": "/mnt/a", "type": "bind", "source": "/tmp", "options": ["rbind", "ro"]}));
            if link.starts_with("dev/") {
                mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
                std::fs::create_dir(b.rootfs().join("dev")).unwrap();
            }
            let target = match to {
                "absolute" => canary.clone(),
                "loop" => PathBuf::from(format!("/{link}")),
                other => PathBuf::from(other),
            };
            symlink(&target, b.rootfs().join(link)).unwrap();
            b.spec["root"]["readonly"] = false.into();
            b.args(&["true"]);
            let output = b.call(&["run", &b.id]);
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                output.status.success() || text.starts_with("brig-runtime: run failed: "),
                "{link} {to}: {text}"
            );
            assert_eq!(std::fs::read_dir(&canary).unwrap().count(), 0, "{link} {to} led out");
            let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
            assert!(!mounts.contains(b.path().to_str().unwrap()), "{link} {to}: a mount leaked");
        }
    }
}

#[test]
fn mounts_over_proc_are_refused() {
    let Some(mut b) = bundle("overproc") else { return };
    for destination in ["/proc/self/attr", "/proc/sys", "/proc", "/../proc/sys"] {
        b.spec["mounts"]
            .as_array_mut()
            .unwrap()
            .push(serde_json::json!({"destination": destination, "type": "tmpfs", "source": "tmpfs"}));
        b.args(&["true"]);
        b.refused("/proc");
        b.spec["mounts"].as_array_mut().unwrap().pop();
    }
}

#[test]
fn bind_options() {
    let Some(mut b) = bundle("bind") else { return };
    std::fs::create_dir(b.path().join("shared")).unwrap();
    std::fs::write(b.path().join("file"), "content").unwrap();
    let mounts = b.spec["mounts"].as_array_mut().unwrap();
    mounts.push(serde_json::json!({"destination": "/a/b", "type": "bind", "source": "shared", "options": ["rbind", "rprivate"]}));
    mounts.push(serde_json::json!({"destination": "/etc/file", "type": "bind", "source": "file", "options": ["bind", "ro"]}));
    mounts.push(serde_json::json!({"destination": "/cg", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid"]}));
    b.check("echo hi > /a/b/x; cat /etc/file", "content");
    assert_eq!(std::fs::read_to_string(b.path().join("shared/x")).unwrap().trim(), "hi");
    assert_ne!(b.run("echo no > /etc/file").0, 0);
    let (code, text) = b.run("cat /cg/*/cgroup.procs | grep -c '^1$'; touch /cg/x");
    assert!(code != 0 && text.contains("Read-only"), "{text}");
}

#[test]
fn what_is_not_supported_is_named() {
    let Some(mut b) = bundle("unsupported") else { return };
    b.args(&["true"]);
    let keep = b.spec.clone();
    let mut check = |pointer: &str, value: serde_json::Value, want: &str| {
        b.spec = keep.clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        b.spec.pointer_mut(parent).unwrap()[key] = value;
        b.refused(want);
    };
    check(
        "/linux/sysctl",
        serde_json::json!({"kernel.core_pattern": "|/x"}),
        "not in a separate kernel namespace",
    );
    check("/linux/namespaces", serde_json::json!([{"type": "what"}]), "unknown type");
    if !Path::new("/sys/module/apparmor").exists() {
        check("/process/apparmorProfile", "docker-default".into(), "AppArmor");
    }
}

#[test]
fn sysctls_rlimits_and_hooks() {
    let Some(mut b) = bundle("misc") else { return };
    b.spec["linux"]["sysctl"] = serde_json::json!({"kernel.shmmni": "123", "net.ipv4.ip_forward": "1"});
    b.spec["process"]["rlimits"] = serde_json::json!([{"type": "RLIMIT_NOFILE", "hard": 77, "soft": 66}]);
    let record = b.path().join("hooks");
    let hook = |name: &str| {
        let script = format!("echo {name} $(pwd) $(env | grep -c LD_) >> {}", record.display());
        serde_json::json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}])
    };
    b.spec["hooks"] = serde_json::json!({
        "prestart": hook("prestart"), "createRuntime": hook("createRuntime"),
        "poststart": hook("poststart"), "poststop": hook("poststop")
    });
    b.check(
        "cat /proc/sys/kernel/shmmni /proc/sys/net/ipv4/ip_forward; ulimit -Sn; ulimit -Hn",
        "123\n1\n66\n77",
    );
    let stages = ["prestart", "createRuntime", "poststart", "poststop"];
    let want: String = stages.iter().map(|stage| format!("{stage} {} 0\n", b.path().display())).collect();
    assert_eq!(std::fs::read_to_string(record).unwrap(), want);
    b.spec["hooks"] = serde_json::json!({"poststop": [{"path": "/bin/false"}]});
    let (code, text) = b.run("true");
    assert!(
        code == 0 && text.contains("warning: error running poststop hook #0: /bin/false: exit status 1"),
        "{text}"
    );
}

#[test]
fn exec_has_no_more_than_the_container() {
    let Some(mut b) = bundle("exec") else { return };
    b.args(&["sleep", "100"]);
    let id = b.id.clone();
    b.ok(&["run", "-d", &id]);
    let status = b.ok(&["exec", &id, "grep", "-E", "^Cap(Inh|Prm|Eff|Bnd|Amb)", "/proc/self/status"]);
    assert_eq!(status.matches("0000000020000420").count(), 3, "{status}");
    assert_eq!(
        b.ok(&[
            "exec",
            "-u",
            "5:6",
            "-e",
            "A=b",
            "--cwd",
            "/tmp",
            &id,
            "sh",
            "-c",
            "id -u; id -g; echo $A; pwd"
        ]),
        "5\n6\nb\n/tmp\n"
    );
    let missing = b.call(&["exec", &id, "nope"]);
    assert!(String::from_utf8_lossy(&missing.stderr).contains("executable file not found in $PATH"));
    for number in 0..16 {
        let cwd = format!("/proc/self/fd/{number}/../../../../etc");
        assert!(b.call(&["exec", "--cwd", &cwd, &id, "cat", "passwd"]).stdout.is_empty(), "{cwd} led out");
    }
    // The process that joins is seen inside only as a sealed copy, and then as the program itself.
    let exe = b.ok(&["exec", &id, "stat", "-c", "%N", "/proc/self/exe"]);
    assert!(exe.contains("busybox"), "{exe}");
}

#[test]
fn own_program_cannot_be_run_from_inside() {
    let Some(mut b) = bundle("exe") else { return };
    // What CVE-2019-5736 did: the entry point is the runtime itself.
    symlink("/proc/self/exe", b.rootfs().join("bin/evil")).unwrap();
    std::fs::write(b.rootfs().join("bin/script"), "#!/proc/self/exe\n").unwrap();
    std::fs::set_permissions(b.rootfs().join("bin/script"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = runtime_program();
    let program = Path::new(&program);
    let before = (std::fs::metadata(program).unwrap().modified().unwrap(), std::fs::read(program).unwrap());
    for entry in ["/bin/evil", "/bin/script"] {
        b.args(&[entry, "--version"]);
        b.call(&["run", &b.id]);
    }
    let after = (std::fs::metadata(program).unwrap().modified().unwrap(), std::fs::read(program).unwrap());
    assert!(before == after);
}

#[test]
fn concurrent_verbs_on_one_id() {
    let Some(mut b) = bundle("race") else { return };
    b.args(&["sleep", "100"]);
    let id = b.id.clone();
    for _ in 0..5 {
        let children: Vec<_> = (0..4)
            .map(|_| b.command(&["create", &id]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
            .collect();
        let won = children.into_iter().map(|mut c| c.wait().unwrap()).filter(|s| s.success()).count();
        assert_eq!(won, 1);
        let mut verbs: Vec<_> =
            [&["start"][..], &["delete", "--force"], &["delete", "--force"], &["state"], &["kill"]]
                .iter()
                .map(|verb| {
                    let args: Vec<_> = verb.iter().copied().chain([id.as_str()]).collect();
                    b.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
                })
                .collect();
        verbs.iter_mut().for_each(|c| assert!(c.wait().is_ok()));
        assert_eq!(b.ok(&["list", "-q"]), "");
    }
}

#[test]
fn a_killed_create_can_be_deleted() {
    let Some(mut b) = bundle("killed") else { return };
    b.args(&["sleep", "100"]);
    let id = b.id.clone();
    for microseconds in (0..8000).step_by(250) {
        let mut child =
            b.command(&["create", &id]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_micros(microseconds));
        child.kill().unwrap();
        child.wait().unwrap();
        b.ok(&["delete", "--force", &id]);
        assert_eq!(b.ok(&["list", "-q"]), "");
        assert!(!Path::new("/sys/fs/cgroup/pids/brigtest").join(&id).exists());
    }
}

#[test]
fn terminal_over_a_console_socket() {
    let Some(mut b) = bundle("tty") else { return };
    b.spec["process"]["terminal"] = true.into();
    b.spec["process"]["consoleSize"] = serde_json::json!({"height": 33, "width": 77});
    b.script("stty size 2>/dev/null || echo; ls -l /dev/console; test -t 0 && echo tty-ok");
    b.refused_without_socket();
    let socket = b.path().join("console.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let id = b.id.clone();
    b.ok(&["create", "--console-socket", socket.to_str().unwrap(), &id]);
    let (connection, _) = listener.accept().unwrap();
    let master = receive_fd(&connection);
    let size = rustix::termios::tcgetwinsize(&master).unwrap();
    assert_eq!((size.ws_row, size.ws_col), (33, 77));
    b.ok(&["start", &id]);
    let mut text = Vec::new();
    let mut bytes = [0u8; 512];
    // EIO is the end: the other side has closed.
    while let Ok(count @ 1..) = rustix::io::read(&master, &mut bytes) {
        text.extend_from_slice(&bytes[..count]);
    }
    let text = String::from_utf8_lossy(&text);
    assert!(text.contains("tty-ok") && text.contains("/dev/console"), "{text}");
    b.wait_status("stopped");
}
