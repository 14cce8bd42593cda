//! config.md: version, root, process, host name.

use crate::case::{Runtime, case, receive, skip};
use crate::tests;
use serde_json::{Value, json};

tests! {
    configSpecificationVersion versions_of_another_major_are_refused;
    #[quick] configRoot a_read_only_root_cannot_be_written;
    configRoot the_path_is_absolute_or_relative_to_the_bundle;
    #[quick] configProcess arguments_and_environment_are_exact;
    configProcess the_program_is_looked_for_in_path;
    configProcess the_working_directory_is_entered;
    configProcess a_relative_working_directory_is_refused;
    configProcess no_arguments_are_refused;
    configProcess a_program_that_is_not_there_is_an_error;
    #[quick] configProcess a_terminal_is_on_the_standard_streams;
    configProcess a_console_size_without_terminal_is_ignored;
    #[quick] configPOSIXProcess limits_are_as_configured;
    configPOSIXProcess unknown_limits_are_refused;
    configPOSIXProcess a_limit_named_twice_is_refused;
    #[quick] configLinuxProcess each_capability_set_is_as_configured;
    configLinuxProcess ambient_and_inheritable_capabilities;
    configLinuxProcess no_capabilities_means_none;
    configLinuxProcess unknown_capabilities_are_no_failure;
    configLinuxProcess no_new_privileges;
    configLinuxProcess the_oom_score_is_set;
    configLinuxProcess the_oom_score_is_left_alone;
    configLinuxProcess io_priority;
    configLinuxProcess scheduler;
    #[quick] configPOSIXUser ids_and_groups;
    configPOSIXUser umask;
    configHostname host_name;
    configDomainname domain_name;
    configExtensibility unknown_properties_are_ignored;
    configValidValues invalid_values_are_errors;
    configAnnotations unknown_annotations_are_no_error;
    configAnnotations an_empty_key_is_an_error;
    runtimeLinuxFileDescriptors only_the_standard_streams_are_open;
}

fn versions_of_another_major_are_refused(runtime: &Runtime, name: &str) {
    case(runtime, name).set("/ociVersion", "99.0.0".into()).refused();
}

fn a_read_only_root_cannot_be_written(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.set("/root/readonly", true.into());
    c.prints(
        "touch /x /etc/x 2>/dev/null || echo refused; touch /dev/shm/x && echo but tmpfs",
        "refused\nbut tmpfs",
    );
    c.set("/root/readonly", false.into()).prints("touch /x && echo done", "done");
    assert!(c.rootfs().join("x").exists());
}

fn the_path_is_absolute_or_relative_to_the_bundle(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.prints("echo relative", "relative");
    let path = c.rootfs().to_str().unwrap().to_owned();
    c.set("/root/path", path.into()).prints("echo absolute", "absolute");
}

fn arguments_and_environment_are_exact(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.set("/process/env", json!(["PATH=/bin", "A=b c=d", "EMPTY=", "HOME=/h"]));
    c.set("/process/args", json!(["printf", "[%s]", "a b", "", "$PATH", "*"]));
    assert_eq!(c.run().out, "[a b][][$PATH][*]");
    c.set("/process/args", json!(["env"]));
    let ran = c.run();
    let mut lines: Vec<_> = ran.out.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["A=b c=d", "EMPTY=", "HOME=/h", "PATH=/bin"]);
}

fn the_program_is_looked_for_in_path(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    std::fs::create_dir(c.rootfs().join("other")).unwrap();
    std::os::unix::fs::symlink("/bin/busybox", c.rootfs().join("other/echo")).unwrap();
    c.set("/process/env", json!(["PATH=/nowhere:/other"]));
    c.set("/process/args", json!(["echo", "found"]));
    assert_eq!(c.run().out, "found\n");
}

fn the_working_directory_is_entered(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.set("/process/cwd", "/etc".into()).prints("pwd", "/etc");
}

fn a_relative_working_directory_is_refused(runtime: &Runtime, name: &str) {
    case(runtime, name).set("/process/cwd", "etc".into()).refused();
}

fn no_arguments_are_refused(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.set("/process/args", json!([]));
    if c.call(&["create", &c.id]).code == 0 {
        c.error(&["start", &c.id]);
    }
}

fn a_program_that_is_not_there_is_an_error(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.set("/process/args", json!(["/no/such/program"]));
    assert_ne!(c.run().code, 0);
    c.gone();
}

fn a_terminal_is_on_the_standard_streams(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.set("/process/terminal", true.into());
    c.set("/process/consoleSize", json!({"height": 33, "width": 77}));
    let socket = c.path().join("console.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    c.script("for n in 0 1 2; do test -t $n && echo tty$n; done; test -c /dev/console && echo console");
    c.ok(&["create", "--console-socket", socket.to_str().unwrap(), &c.id]);
    let (_, master) = receive(&listener.accept().unwrap().0);
    let size = rustix::termios::tcgetwinsize(&master).unwrap();
    assert_eq!((size.ws_row, size.ws_col), (33, 77));
    c.start();
    let (mut text, mut bytes) = (Vec::new(), [0u8; 512]);
    // EIO is the end: the other side has closed.
    while let Ok(count @ 1..) = rustix::io::read(&master, &mut bytes) {
        text.extend_from_slice(&bytes[..count]);
    }
    let text = String::from_utf8_lossy(&text).replace('\r', "");
    assert_eq!(text, "tty0\ntty1\ntty2\nconsole\n");
}

fn a_console_size_without_terminal_is_ignored(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.set("/process/terminal", false.into());
    c.set("/process/consoleSize", json!({"height": 33, "width": 77}))
        .prints("test -t 1 || echo none", "none");
}

fn limits_are_as_configured(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    let limit = |kind: &str, soft: u64, hard: u64| json!({"type": kind, "soft": soft, "hard": hard});
    c.set(
        "/process/rlimits",
        json!([
            limit("RLIMIT_NOFILE", 66, 77),
            limit("RLIMIT_CORE", 0, 0),
            limit("RLIMIT_NPROC", 55, 66),
            limit("RLIMIT_STACK", 1 << 20, 2 << 20),
            limit("RLIMIT_AS", 1 << 30, 1 << 31),
            limit("RLIMIT_CPU", 1000, 2000),
            limit("RLIMIT_FSIZE", 1 << 20, 1 << 21),
            limit("RLIMIT_DATA", 1 << 28, 1 << 29)
        ]),
    );
    let limits = c.output("cat /proc/self/limits");
    for (label, soft, hard) in [
        ("Max open files", 66, 77u64),
        ("Max core file size", 0, 0),
        ("Max processes", 55, 66),
        ("Max stack size", 1 << 20, 2 << 20),
        ("Max address space", 1u64 << 30, 1u64 << 31),
        ("Max cpu time", 1000, 2000),
        ("Max file size", 1 << 20, 1 << 21),
        ("Max data size", 1 << 28, 1 << 29),
    ] {
        let line = limits.lines().find(|l| l.starts_with(label)).unwrap_or_else(|| panic!("no {label}"));
        let values: Vec<_> = line[label.len()..].split_whitespace().take(2).collect();
        assert_eq!(values, [soft.to_string(), hard.to_string()], "{label}");
    }
}

fn unknown_limits_are_refused(runtime: &Runtime, name: &str) {
    case(runtime, name)
        .set("/process/rlimits", json!([{"type": "RLIMIT_NOPE", "soft": 1, "hard": 1}]))
        .refused();
}

fn a_limit_named_twice_is_refused(runtime: &Runtime, name: &str) {
    let limit = json!({"type": "RLIMIT_NOFILE", "soft": 64, "hard": 64});
    case(runtime, name).set("/process/rlimits", json!([limit, limit])).refused();
}

/// The capability sets of `/proc/self/status` that a script prints.
const SETS: &str = "awk '/^Cap/ { print $1, $2 }' /proc/self/status";

fn each_capability_set_is_as_configured(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.set(
        "/process/capabilities",
        json!({"bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID"], "permitted": ["CAP_CHOWN", "CAP_KILL"],
            "effective": ["CAP_CHOWN"]}),
    );
    // What a program of root gets is the bounding set; it is another's that shows the sets as they were given.
    c.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    let none = "0000000000000000";
    c.prints(
        SETS,
        &format!("CapInh: {none}\nCapPrm: {none}\nCapEff: {none}\nCapBnd: 00000000000000a1\nCapAmb: {none}"),
    );
    c.set("/process/user", json!({"uid": 0, "gid": 0}));
    let sets = c.output(SETS);
    assert!(sets.contains("CapBnd: 00000000000000a1") && sets.contains(&format!("CapInh: {none}")), "{sets}");
}

fn ambient_and_inheritable_capabilities(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    let two = json!(["CAP_CHOWN", "CAP_KILL"]);
    c.set(
        "/process/capabilities",
        json!({"bounding": two, "permitted": two, "effective": two, "inheritable": two, "ambient": ["CAP_KILL"]}),
    );
    c.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    let kill = "0000000000000020";
    c.prints(
        SETS,
        &format!("CapInh: 0000000000000021\nCapPrm: {kill}\nCapEff: {kill}\nCapBnd: 0000000000000021\nCapAmb: {kill}"),
    );
}

fn no_capabilities_means_none(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.set("/process/capabilities", json!({}));
    let sets = c.output(SETS);
    assert!(sets.lines().all(|line| line.ends_with(" 0000000000000000")), "{sets}");
}

fn unknown_capabilities_are_no_failure(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.spec["process"]["capabilities"]["bounding"].as_array_mut().unwrap().push("CAP_NOT_YET_INVENTED".into());
    c.prints("echo ran", "ran");
}

fn no_new_privileges(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    let line = "awk '/^NoNewPrivs/ { print $2 }' /proc/self/status";
    c.set("/process/noNewPrivileges", true.into()).prints(line, "1");
    c.set("/process/noNewPrivileges", false.into()).prints(line, "0");
}

fn the_oom_score_is_set(runtime: &Runtime, name: &str) {
    case(runtime, name).set("/process/oomScoreAdj", 321.into()).prints("cat /proc/self/oom_score_adj", "321");
}

fn the_oom_score_is_left_alone(runtime: &Runtime, name: &str) {
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    case(runtime, name).prints("cat /proc/self/oom_score_adj", own.trim());
}

fn io_priority(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.set("/process/ioPriority", json!({"class": "IOPRIO_CLASS_NOPE", "priority": 1}));
    if c.run().code == 0 {
        skip("it does not know ioPriority");
    }
    std::os::unix::fs::symlink("busybox", c.rootfs().join("bin/ionice")).unwrap();
    c.set("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 6}))
        .prints("ionice", "best-effort: prio 6");
}

fn scheduler(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.set("/process/scheduler", json!({"policy": "SCHED_NOPE"}));
    if c.run().code == 0 {
        skip("it does not know scheduler");
    }
    c.set("/process/scheduler", json!({"policy": "SCHED_BATCH", "nice": 7}));
    c.prints("awk '{ print $41, $19 }' /proc/self/stat", "3 7");
}

fn ids_and_groups(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.set("/process/user", json!({"uid": 1234, "gid": 56, "additionalGids": [7, 8]}));
    c.prints(
        "id -u; id -g; id -G; awk '/^[UG]id/' /proc/self/status | tr '\\t' ' '",
        "1234\n56\n56 7 8\nUid: 1234 1234 1234 1234\nGid: 56 56 56 56",
    );
    c.set("/process/user", json!({"uid": 0, "gid": 0}))
        .prints("awk '/^Groups/ { print NF }' /proc/self/status", "1");
}

fn umask(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.set("/process/user/umask", 0o027.into()).prints("umask; touch /x; stat -c %a /x", "0027\n640");
}

fn host_name(runtime: &Runtime, name: &str) {
    case(runtime, name).set("/hostname", "mrsdalloway".into()).prints("hostname", "mrsdalloway");
}

fn domain_name(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.set("/domainname", "foobarbaz.test".into());
    let seen = c.output("cat /proc/sys/kernel/domainname");
    let own = std::fs::read_to_string("/proc/sys/kernel/domainname").unwrap();
    if seen == own.trim() {
        skip("it does not know domainname");
    }
    assert_eq!(seen, "foobarbaz.test");
}

fn unknown_properties_are_ignored(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    for pointer in ["/unknown", "/process/unknown", "/linux/unknown", "/root/unknown"] {
        c.set(pointer, json!({"some": ["thing"]}));
    }
    c.prints("echo ran", "ran");
}

fn invalid_values_are_errors(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    let good = c.spec.clone();
    for (pointer, value) in [
        ("/process/args", json!("true")),
        ("/process/user/uid", json!("root")),
        ("/process/user/uid", json!(-1)),
        ("/root/readonly", json!("yes")),
        ("/mounts", json!({"destination": "/x"})),
        ("/linux/namespaces", json!([{"type": 5}])),
        ("/linux/rootfsPropagation", json!("sideways")),
        ("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_WHATEVER"})),
    ] {
        c.spec = good.clone();
        c.set(pointer, value);
        let value: &Value = c.spec.pointer(pointer).unwrap();
        let shown = format!("{pointer} {value}");
        let ran = c.run();
        assert_ne!(ran.code, 0, "{shown} was accepted");
    }
}

fn unknown_annotations_are_no_error(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.set("/annotations", json!({"org.opencontainers.unknown": "x", "com.example": ""}))
        .prints("echo ran", "ran");
}

fn only_the_standard_streams_are_open(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    // One more of the caller's, without close-on-exec.
    let leak = std::fs::File::open("/etc").unwrap();
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
    c.set("/process/args", json!(["ls", "/proc/self/fd"]));
    // 3 is the directory that ls reads.
    assert_eq!(c.run().out, "0\n1\n2\n3\n");
    drop(leak);
}

fn an_empty_key_is_an_error(runtime: &Runtime, name: &str) {
    case(runtime, name).set("/annotations", json!({"": "value"})).refused();
}
