//! config-linux.md and runtime-linux.md: devices, kernel parameters, seccomp, personality and what else only Linux has.

use crate::case::{Runtime, case, receive, skip};
use crate::tests;
use serde_json::{Value, json};
use std::path::Path;

tests! {
    #[quick] configLinuxDefaultDevices default_devices_are_there;
    configLinuxDefaultDevices ptmx_opens_the_containers_own_terminals;
    configLinuxDevices listed_devices_are_there;
    configLinuxDevices another_file_in_the_devices_place_is_an_error;
    #[quick] runtimeLinuxDevSymbolicLinks links_in_dev;
    #[quick] configLinuxSysctl kernel_parameters_are_set;
    configLinuxSysctl parameters_of_the_host_are_refused;
    #[quick] configLinuxSeccomp calls_are_refused_with_the_errno_asked_for;
    configLinuxSeccomp arguments_are_compared;
    configLinuxSeccomp a_call_can_kill;
    configLinuxSeccomp what_is_not_listed_gets_the_default;
    configLinuxSeccomp unknown_names_of_calls_are_no_error;
    configLinuxSeccomp unknown_words_are_errors;
    containerprocessstate the_agent_gets_listener_and_state;
    configLinuxSeccomp no_agent_is_an_error;
    #[quick] configLinuxPersonality a_32_bit_personality;
    configLinuxMemoryPolicy memory_comes_from_the_nodes_asked_for;
    configLinuxIntelRdt without_resctrl_it_is_an_error;
    configLinuxNetworkDevices an_interface_moves_with_its_addresses;
    configLinuxMountLabel a_label_without_selinux;
    featuresLinux features_list_what_the_specification_knows;
}

fn default_devices_are_there(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    let devices = "null zero full random urandom tty";
    c.prints(
        &format!("cd /dev; stat -c '%F %t:%T %a' {devices}; echo x > null && head -c 3 zero | wc -c; head -c 2 urandom | wc -c; (echo x > full) 2>/dev/null || echo full"),
        "character special file 1:3 666\ncharacter special file 1:5 666\ncharacter special file 1:7 666\n\
         character special file 1:8 666\ncharacter special file 1:9 666\ncharacter special file 5:0 666\n3\n2\nfull",
    );
}

fn ptmx_opens_the_containers_own_terminals(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.prints("exec 5<>/dev/ptmx; ls /dev/pts", "0\nptmx");
}

fn listed_devices_are_there(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.set(
        "/linux/devices",
        json!([
            {"type": "c", "path": "/dev/one", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 5, "gid": 6},
            {"type": "b", "path": "/dev/two", "major": 7, "minor": 11, "fileMode": 0o600},
            {"type": "p", "path": "/dev/three", "fileMode": 0o622},
            {"type": "u", "path": "/other/four", "major": 1, "minor": 3, "fileMode": 0o666}
        ]),
    );
    c.prints(
        "stat -c '%F %t:%T %a %u:%g' /dev/one /dev/two /dev/three /other/four",
        "character special file 1:5 640 5:6\nblock special file 7:b 600 0:0\nfifo 0:0 622 0:0\ncharacter special file 1:3 666 0:0",
    );
}

fn another_file_in_the_devices_place_is_an_error(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    std::fs::create_dir(c.rootfs().join("other")).unwrap();
    std::fs::write(c.rootfs().join("other/taken"), "").unwrap();
    c.set(
        "/linux/devices",
        json!([{"type": "c", "path": "/other/taken", "major": 1, "minor": 5, "fileMode": 0o666}]),
    );
    c.refused();
}

fn links_in_dev(runtime: &Runtime, name: &str) {
    case(runtime, name).prints(
        "for name in fd stdin stdout stderr; do readlink /dev/$name; done",
        "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2",
    );
}

fn kernel_parameters_are_set(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1", "kernel.shmmni": "123"}));
    c.prints("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmni", "1\n123");
}

fn parameters_of_the_host_are_refused(runtime: &Runtime, name: &str) {
    let before = std::fs::read_to_string("/proc/sys/kernel/panic").unwrap();
    let mut c = case(runtime, name);
    c.set("/linux/sysctl", json!({"kernel.panic": "77"})).refused();
    let after = std::fs::read_to_string("/proc/sys/kernel/panic").unwrap();
    if before != after {
        std::fs::write("/proc/sys/kernel/panic", before.trim()).unwrap();
        panic!("it set a parameter of the host");
    }
    let mut c = case(runtime, &format!("{name}2"));
    c.set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"})).namespace("network", None).refused();
}

/// A profile that allows all but what `rules` say.
fn profile(rules: Value) -> Value {
    json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"], "syscalls": rules})
}

fn calls_are_refused_with_the_errno_asked_for(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.set("/linux/seccomp", profile(json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}])));
    c.set("/process/args", json!(["mkdir", "/tmp/x"]));
    assert!(c.run().err.contains("Operation not permitted"));
    c.set(
        "/linux/seccomp",
        profile(json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}])),
    );
    assert!(c.run().err.contains("No space left"));
    c.prints("awk '/^Seccomp:/ { print $2 }' /proc/self/status", "2");
}

fn arguments_are_compared(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    // kill(1, 0) may not, kill(1, 10) may.
    c.set(
        "/linux/seccomp",
        profile(json!([{"names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95,
            "args": [{"index": 1, "value": 12, "op": "SCMP_CMP_EQ"}]}])),
    );
    c.prints(
        "trap '' USR1 USR2; kill -10 1 && echo sent; kill -12 1 2>/dev/null || echo refused",
        "sent\nrefused",
    );
}

fn a_call_can_kill(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.set(
        "/linux/seccomp",
        profile(json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"}])),
    );
    c.prints("mkdir /tmp/x; echo $?; test -e /tmp/x || echo none", "159\nnone");
}

fn what_is_not_listed_gets_the_default(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    let mut allowed: Vec<&str> = ALLOWED.to_vec();
    c.set(
        "/linux/seccomp",
        json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": allowed, "action": "SCMP_ACT_ALLOW"}]}),
    );
    c.prints("mkdir /tmp/x 2>/dev/null || echo refused", "refused");
    allowed.extend(["mkdir", "mkdirat"]);
    c.set("/linux/seccomp/syscalls", json!([{"names": allowed, "action": "SCMP_ACT_ALLOW"}]));
    c.prints("mkdir /tmp/x && echo made", "made");
}

/// What a shell, and any runtime before it, calls.
const ALLOWED: &[&str] = &[
    "access",
    "alarm",
    "arch_prctl",
    "brk",
    "capget",
    "capset",
    "chdir",
    "chmod",
    "chown",
    "clock_gettime",
    "clone",
    "clone3",
    "close",
    "close_range",
    "dup",
    "dup2",
    "dup3",
    "epoll_create1",
    "epoll_ctl",
    "epoll_pwait",
    "epoll_wait",
    "eventfd2",
    "execve",
    "execveat",
    "exit",
    "exit_group",
    "faccessat",
    "faccessat2",
    "fchdir",
    "fchmod",
    "fchown",
    "fchownat",
    "fcntl",
    "fork",
    "fstat",
    "fstatfs",
    "futex",
    "getcwd",
    "getdents",
    "getdents64",
    "getegid",
    "geteuid",
    "getgid",
    "getgroups",
    "getpgrp",
    "getpid",
    "getppid",
    "getrandom",
    "getrlimit",
    "gettid",
    "getuid",
    "ioctl",
    "keyctl",
    "kill",
    "lseek",
    "lstat",
    "madvise",
    "mmap",
    "mprotect",
    "mremap",
    "munmap",
    "nanosleep",
    "newfstatat",
    "open",
    "openat",
    "openat2",
    "pipe",
    "pipe2",
    "poll",
    "ppoll",
    "prctl",
    "pread64",
    "prlimit64",
    "read",
    "readlink",
    "readlinkat",
    "readv",
    "recvfrom",
    "recvmsg",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "rt_sigsuspend",
    "rt_sigtimedwait",
    "sched_getaffinity",
    "sched_yield",
    "seccomp",
    "sendmsg",
    "sendto",
    "set_robust_list",
    "set_tid_address",
    "setgid",
    "setgroups",
    "setpgid",
    "setresgid",
    "setresuid",
    "setrlimit",
    "setsid",
    "setuid",
    "sigaltstack",
    "socket",
    "connect",
    "splice",
    "stat",
    "statfs",
    "statx",
    "sysinfo",
    "tgkill",
    "umask",
    "uname",
    "vfork",
    "wait4",
    "waitid",
    "write",
    "writev",
];

fn unknown_names_of_calls_are_no_error(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    let rules = json!([{"names": ["no_such_call_ever", "mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]);
    c.set("/linux/seccomp", profile(rules)).prints("mkdir /tmp/x 2>/dev/null || echo refused", "refused");
}

fn unknown_words_are_errors(runtime: &Runtime, name: &str) {
    let rule = |action: &str, op: &str| json!([{"names": ["mkdir"], "action": action, "args": [{"index": 0, "value": 1, "op": op}]}]);
    for (index, rules) in [rule("SCMP_ACT_NOPE", "SCMP_CMP_EQ"), rule("SCMP_ACT_ERRNO", "SCMP_CMP_NOPE")]
        .into_iter()
        .enumerate()
    {
        case(runtime, &format!("{name}{index}")).set("/linux/seccomp", profile(rules)).refused();
    }
    let mut architecture = profile(json!([]));
    architecture["architectures"] = json!(["SCMP_ARCH_ABACUS"]);
    case(runtime, &format!("{name}-arch")).set("/linux/seccomp", architecture).refused();
}

fn the_agent_gets_listener_and_state(runtime: &Runtime, name: &str) {
    runtime.needs("/linux/seccomp/actions", "SCMP_ACT_NOTIFY");
    let mut c = case(runtime, name);
    let socket = c.path().join("agent.sock");
    let agent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let mut wanted = profile(json!([{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]));
    wanted["listenerPath"] = socket.to_str().unwrap().into();
    wanted["listenerMetadata"] = "opaque".into();
    c.set("/linux/seccomp", wanted).set("/annotations", json!({"key": "value"}));
    c.script("sleep 100");
    let mut create = c.command(&["create", &c.id]).stdout(std::process::Stdio::null()).spawn().unwrap();
    let (text, listener) = receive(&agent.accept().unwrap().0);
    assert!(create.wait().unwrap().success());
    let state: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&state["fds"], &state["metadata"]), (&json!(["seccompFd"]), &json!("opaque")));
    assert_eq!(state["pid"].to_string(), c.pid());
    assert_eq!(state["state"]["id"], c.id.as_str());
    assert_eq!(state["state"]["annotations"]["key"], "value");
    assert!(state["ociVersion"].is_string() && state["state"]["bundle"].is_string());
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&listener));
    assert!(std::fs::read_link(link).unwrap().to_str().unwrap().contains("seccomp notify"));
}

fn no_agent_is_an_error(runtime: &Runtime, name: &str) {
    runtime.needs("/linux/seccomp/actions", "SCMP_ACT_NOTIFY");
    let mut c = case(runtime, name);
    let mut wanted = profile(json!([{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]));
    wanted["listenerPath"] = "/no/such/agent.sock".into();
    c.set("/linux/seccomp", wanted).refused();
}

fn a_32_bit_personality(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.set("/linux/personality", json!({"domain": "LINUX32"}));
    let seen = c.output("uname -m");
    if seen == "x86_64" && runtime.name() == "runc" {
        skip("it does not know personality");
    }
    assert_eq!(seen, "i686");
    c.set("/linux/personality", json!({"domain": "LINUX"})).prints("uname -m", std::env::consts::ARCH);
    c.set("/linux/personality", json!({"domain": "VMS"})).refused();
}

fn memory_comes_from_the_nodes_asked_for(runtime: &Runtime, name: &str) {
    runtime.needs("/linux/memoryPolicy/modes", "MPOL_BIND");
    let mut c = case(runtime, name);
    c.set(
        "/linux/memoryPolicy",
        json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}),
    );
    c.prints("head -n 1 /proc/self/numa_maps | grep -o 'bind[^ ]*'", "bind=static:0");
    c.set("/linux/memoryPolicy", json!({"mode": "MPOL_NOPE"})).refused();
}

fn without_resctrl_it_is_an_error(runtime: &Runtime, name: &str) {
    if std::fs::read_to_string("/proc/self/mounts").unwrap().contains(" resctrl ") {
        skip("resctrl is mounted here");
    }
    case(runtime, name).set("/linux/intelRdt", json!({"closID": "guaranteed_group"})).refused();
}

fn an_interface_moves_with_its_addresses(runtime: &Runtime, name: &str) {
    runtime.needs("/linux/netDevices/enabled", "netDevices");
    let mut c = case(runtime, name);
    c.set("/linux/netDevices", json!({"conform0": {"name": "inside"}}));
    std::os::unix::fs::symlink("busybox", c.rootfs().join("bin/ip")).unwrap();
    c.script("ip -o -4 addr show inside; cat /sys/class/net/inside/flags");
    let words = c.command(&["run", &c.id]);
    let words: Vec<_> = [words.get_program()].into_iter().chain(words.get_args()).collect();
    let setup = "ip link add conform0 type veth peer name conform1; ip addr add 10.77.0.5/24 dev conform0; exec \"$@\"";
    let output = std::process::Command::new("unshare")
        .args(["-n", "sh", "-ec", setup, "sh"])
        .args(words)
        .current_dir(c.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let flags = text.lines().last().and_then(|l| u32::from_str_radix(l.trim_start_matches("0x"), 16).ok());
    assert!(
        text.contains("10.77.0.5/24") && flags.is_some_and(|f| f & 1 == 1),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn a_label_without_selinux(runtime: &Runtime, name: &str) {
    if Path::new("/sys/fs/selinux/enforce").exists() {
        skip("SELinux is active here");
    }
    // Valid values that cannot be applied are errors (runtime.md, Create).
    case(runtime, name).set("/process/selinuxLabel", "system_u:system_r:container_t:s0".into()).refused();
}

fn features_list_what_the_specification_knows(runtime: &Runtime, _: &str) {
    runtime.needs("/hooks", "createRuntime");
    for (pointer, words) in [
        (
            "/hooks",
            &["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"][..],
        ),
        ("/mountOptions", &["bind", "rbind", "ro", "nosuid", "rprivate"]),
        ("/linux/namespaces", &["cgroup", "ipc", "mount", "network", "pid", "user", "uts"]),
        ("/linux/capabilities", &["CAP_CHOWN", "CAP_SYS_ADMIN"]),
        ("/linux/seccomp/actions", &["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL"]),
        ("/linux/seccomp/operators", &["SCMP_CMP_EQ", "SCMP_CMP_MASKED_EQ"]),
    ] {
        for word in words {
            assert!(runtime.lists(pointer, word), "{pointer} lists no {word}");
        }
    }
    let version = |name: &str| {
        let text = runtime.feature(name).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
        let mut parts = text.splitn(3, '.').map(|part| part.parse::<u32>().ok());
        (parts.next().flatten(), parts.next().flatten())
    };
    let (least, most) = (version("/ociVersionMin"), version("/ociVersionMax"));
    assert!(least.0 == Some(1) && most.0 == Some(1) && least <= most, "{least:?} {most:?}");
}
