//! The default profile in force.

use crate::oracle::build;
use std::collections::HashMap;
use std::process::Command;

#[test]
fn the_kernel_takes_the_default_profile() {
    let Some(probe) = build("probe", &[]) else { return };
    let program = seccomp::compile(&seccomp::docker_default(&[])).unwrap();
    let file = probe.with_extension("bpf");
    let mut bytes = Vec::new();
    for i in &program.instructions {
        bytes.extend(i.code.to_ne_bytes());
        bytes.extend([i.jt, i.jf]);
        bytes.extend(i.k.to_ne_bytes());
    }
    std::fs::write(&file, bytes).unwrap();
    let output = Command::new(&probe).arg(&file).arg(program.flags.to_string()).output().unwrap();
    std::fs::remove_file(&file).unwrap();
    std::fs::remove_file(&probe).unwrap();
    print!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}", output.status);
    let text = String::from_utf8(output.stdout).unwrap();
    let results: HashMap<&str, i32> =
        text.lines().filter_map(|l| l.split_once(' ')).map(|(n, e)| (n, e.parse().unwrap())).collect();
    let check = |errno: i32, names: &[&str]| {
        for name in names {
            assert_eq!(results.get(name), Some(&errno), "{name}");
        }
    };
    check(0, &["install", "read", "getpid", "uname", "socket_unix", "socket_inet", "personality_query"]);
    check(
        1,
        &[
            "mount",
            "umount2",
            "pivot_root",
            "unshare",
            "setns",
            "clone_newuser",
            "keyctl",
            "add_key",
            "bpf",
            "perf_event_open",
            "userfaultfd",
            "io_uring_setup",
            "open_by_handle_at",
            "finit_module",
            "reboot",
            "settimeofday",
            "socket_alg",
            "socket_alg_high",
            "socket_vsock",
            "personality_odd",
        ],
    );
    check(38, &["clone3", "unheard_of"]);
    if cfg!(target_arch = "x86_64") && results.get("i386_getpid") != Some(&38) {
        check(0, &["i386_getpid"]);
        check(1, &["i386_keyctl"]);
    }
}
