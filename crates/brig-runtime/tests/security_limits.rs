//! Faults that other runtimes and engines had with limits, masks and numbers, one test each, named after them; beside `security.rs`.
//! `docs/security.md` lists them all. Needs root and Debian's packages busybox-static and util-linux.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test says why it fails or is skipped")]

#[path = "support/bundle.rs"]
mod bundle;

use bundle::bundle;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

/// A container in a user namespace was not in its cgroup.
#[test]
fn cve_2025_47291_a_user_namespace_has_its_limits() {
    let Some(mut b) = bundle("usercg") else { return };
    std::os::unix::fs::chown(b.rootfs(), Some(100_000), Some(100_000)).unwrap();
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(b.path(), permissions).unwrap();
    b.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    b.spec["linux"]["uidMappings"] = map.clone();
    b.spec["linux"]["gidMappings"] = map;
    b.spec["linux"]["resources"] = json!({"pids": {"limit": 7}, "memory": {"limit": 33_554_432}});
    b.args(&["sleep", "1000"]);
    let id = b.id.clone();
    b.ok(&["run", "-d", &id]);
    let mut exec = b.command(&["exec", "--pid-file", "exec.pid", "-d", &id, "sleep", "1000"]);
    assert!(exec.status().unwrap().success());
    let exec = std::fs::read_to_string(b.path().join("exec.pid")).unwrap();
    for pid in [b.state()["pid"].to_string(), exec] {
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let own = |line: &str| line.ends_with(&format!("/brigtest/{id}"));
        // A hierarchy of v2 without controllers holds no limits.
        assert!(text.lines().all(|line| own(line) || line.starts_with("0::")), "{text}");
        assert!(text.lines().any(own), "{text}");
    }
    // The shell and six more.
    let refused = b.call(&[
        "exec",
        &id,
        "sh",
        "-c",
        "for i in 1 2 3 4 5 6 7 8; do sleep 50 >/dev/null 2>&1 & done; true",
    ]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("can't fork"), "{text}");
}

/// A huge number in a list of processors was counted up to.
#[test]
fn cve_2018_20699_numbers_are_not_counted_up_to() {
    let Some(mut b) = bundle("huge") else { return };
    b.args(&["true"]);
    let plain = b.spec.clone();
    let first = ["0-4294967295"; 3];
    let more = ["0-99999999999999999999", "1-1-1", "18446744073709551615", "5-2", "1,,2", "-"];
    let set = |spec: &Value, pointer: &str, value: Value| {
        let mut spec = spec.clone();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        spec.pointer_mut(parent).unwrap()[name] = value;
        spec
    };
    let mut specs = Vec::new();
    for (number, text) in first.into_iter().chain(more).enumerate() {
        specs.push(match number % 3 {
            0 => set(&plain, "/linux/resources", json!({"cpu": {"cpus": text}})),
            1 => set(&plain, "/process/execCPUAffinity", json!({"initial": text})),
            _ => set(&plain, "/linux/memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": text})),
        });
    }
    // A million ranges.
    let ranges = vec!["0-1023"; 1_000_000].join(",");
    specs.push(set(&plain, "/process/execCPUAffinity", json!({"final": ranges})));
    for spec in specs {
        b.spec = spec;
        let run = b.command(&["run", &b.id]);
        let mut limited = Command::new("prlimit");
        limited.args(["--as=268435456", "--cpu=10", "--"]).arg(run.get_program()).args(run.get_args());
        let output = limited.current_dir(b.path()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        // An error of its own, neither a death nor a want of memory.
        assert!(
            output.status.code() == Some(1) && !text.contains("memory allocation"),
            "{}: {text}",
            output.status
        );
        assert_eq!(b.ok(&["list", "-q"]), "");
    }
}

/// Shared memory was filled beyond the limit.
#[test]
fn cve_2024_3056_shared_memory_counts() {
    let Some(mut b) = bundle("shm") else { return };
    b.spec["linux"]["resources"] = json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}});
    let (code, text) = b.run("busybox dd if=/dev/zero of=/dev/shm/x bs=1M count=60; echo survived");
    assert!(code == 137 || !text.contains("60+0 records out"), "{code}: {text}");
}

/// Disks and power states could be changed, power and interrupts be watched, by files of procfs and sysfs that were not masked.
#[test]
fn cve_2017_16539_2018_10892_and_side_channels_are_masked() {
    let Some(mut b) = bundle("masked") else { return };
    let masked = [
        "/proc/acpi",
        "/proc/scsi",
        "/proc/kcore",
        "/proc/keys",
        "/proc/timer_list",
        "/proc/interrupts",
        "/sys/firmware",
        "/sys/devices/virtual/powercap",
    ];
    // Nobody has all of them; so that a mask is seen, each that is there is not empty on the host.
    let here: Vec<&str> = masked.into_iter().filter(|path| Path::new(path).exists()).collect();
    assert!(here.contains(&"/proc/interrupts"));
    for path in here {
        b.check(&format!("if [ -d {path} ]; then ls -A {path}; else cat {path}; fi"), "");
    }
    for path in ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/irq/default_smp_affinity"] {
        if Path::new(path).exists() {
            let (_, text) = b.run(&format!("echo x > {path}"));
            assert!(text.contains("Read-only file system"), "{path}: {text}");
        }
    }
}

/// A cgroup above or beside the one that was given.
#[test]
fn cve_2023_6476_a_path_does_not_leave_the_parent() {
    let Some(mut b) = bundle("updots") else { return };
    b.args(&["true"]);
    for path in ["/brigtest/../x", "/..", "..", "/brigtest/./x", "/brigtest//x", "/brigtest/a\nb"] {
        b.spec["linux"]["cgroupsPath"] = path.into();
        let output = b.call(&["run", &b.id]);
        assert_eq!(output.status.code(), Some(1), "{path:?}");
        assert_eq!(b.ok(&["list", "-q"]), "");
    }
}
