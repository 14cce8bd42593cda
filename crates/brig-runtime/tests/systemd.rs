//! `--systemd-cgroup`, with a stand-in for systemd. Needs root and Debian's packages busybox-static and dbus-daemon.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests say why they are skipped"
)]

#[path = "../../cgroup/tests/support/bus.rs"]
mod bus;
#[path = "support/bundle.rs"]
mod support;

use bus::{Bus, systemd};
use support::bundle;

#[test]
fn a_container_is_a_scope() {
    let Some(mut b) = bundle("systemd") else { return };
    let Some(bus) = Bus::start() else { return };
    let heard = systemd(&bus, "done", 6);
    let address = format!("unix:path={}", bus.socket);
    let slice = format!("brigtest{}.slice", std::process::id());
    b.spec["linux"]["cgroupsPath"] = format!("{slice}:brig:{}", b.id).into();
    b.args(&["sleep", "100"]);
    let id = b.id.clone();
    let call = |args: &[&str]| {
        let out = std::fs::File::create(b.path().join("out")).unwrap();
        let mut command = b.command(&[&["--systemd-cgroup"], args].concat());
        command.env("DBUS_SYSTEM_BUS_ADDRESS", &address).stdout(out.try_clone().unwrap()).stderr(out);
        let status = command.status().unwrap();
        assert!(status.success(), "{args:?}: {}", std::fs::read_to_string(b.path().join("out")).unwrap());
    };
    call(&["run", "-d", &id]);
    let pid = b.state()["pid"].to_string();
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let unit = format!("brig-{id}.scope");
    assert!(groups.lines().any(|line| line.ends_with(&format!("/{slice}/{unit}"))), "{groups}");
    call(&["update", "--pids-limit", "9", &id]);
    call(&["delete", "--force", &id]);
    let calls: Vec<_> = heard.iter().collect();
    let want =
        ["Subscribe", "StartTransientUnit", "SetUnitProperties", "Subscribe", "StopUnit", "ResetFailedUnit"];
    assert_eq!(calls.iter().map(|(member, _)| member.as_str()).collect::<Vec<_>>(), want);
    assert!(
        calls.iter().filter(|(member, _)| member != "Subscribe").all(|(_, name)| *name == unit),
        "{calls:?}"
    );
    // The slice is systemd's to remove.
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap() {
        let path = hierarchy.unwrap().path().join(&slice);
        assert!(!path.join(&unit).exists());
        drop(std::fs::remove_dir(path));
    }
    drop(std::fs::remove_dir(format!("/sys/fs/cgroup/{slice}")));
}

#[test]
fn without_a_bus_nothing_stays() {
    let Some(mut b) = bundle("systemd-none") else { return };
    b.args(&["true"]);
    let call = |b: &support::Bundle| {
        let mut command = b.command(&["--systemd-cgroup", "run", &b.id]);
        let output = command.env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere/bus").output().unwrap();
        assert!(!output.status.success());
        assert_eq!(b.ok(&["list", "-q"]), "", "something stayed");
        String::from_utf8(output.stderr).unwrap()
    };
    let text = call(&b);
    assert!(text.contains("cgroupsPath") || text.contains("SLICE:PREFIX:NAME"), "{text}");
    let slice = format!("brigtestnone{}.slice", std::process::id());
    b.spec["linux"]["cgroupsPath"] = format!("{slice}:brig:{}", b.id).into();
    let text = call(&b);
    assert!(text.contains("start systemd unit brig-") && text.contains("No such file"), "{text}");
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap() {
        drop(std::fs::remove_dir(hierarchy.unwrap().path().join(&slice)));
    }
    drop(std::fs::remove_dir(format!("/sys/fs/cgroup/{slice}")));
}
