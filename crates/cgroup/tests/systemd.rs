//! The systemd driver against a bus and a stand-in for systemd.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

#[path = "support/bus.rs"]
mod support;

use cgroup::Unit;
use oci::runtime::{Cpu, Memory, Pids, Resources};
use support::{Bus, systemd};

fn unit(bus: &Bus) -> Unit {
    Unit::parse("a-b.slice:p:x", "", &bus.socket).unwrap()
}

#[test]
fn a_scope_is_made_changed_and_stopped() {
    let Some(bus) = Bus::start() else { return };
    let heard = systemd(&bus, "done", 6);
    let limits = Resources {
        memory: Some(Memory { limit: Some(1 << 20), swap: Some(-1), ..Memory::default() }),
        cpu: Some(Cpu { shares: Some(512), quota: Some(50_000), ..Cpu::default() }),
        pids: Some(Pids { limit: 9 }),
        ..Resources::default()
    };
    unit(&bus).start(4711, &limits, true).unwrap();
    unit(&bus).update(&limits, false).unwrap();
    unit(&bus).stop().unwrap();
    let calls: Vec<_> = heard.iter().collect();
    let want =
        ["Subscribe", "StartTransientUnit", "SetUnitProperties", "Subscribe", "StopUnit", "ResetFailedUnit"];
    assert_eq!(calls.iter().map(|(member, _)| member.as_str()).collect::<Vec<_>>(), want);
    assert!(calls.iter().filter(|(m, _)| m != "Subscribe").all(|(_, unit)| unit == "p-x.scope"), "{calls:?}");
}

#[test]
fn a_users_own_systemd() {
    let Some(bus) = Bus::start() else { return };
    let heard = systemd(&bus, "done", 3);
    let unit = Unit::parse_user("", "x", &bus.socket).unwrap();
    assert_eq!(unit.path().unwrap(), "/user.slice/user@7.service/user.slice/brig-x.scope");
    unit.attach(4711).unwrap();
    let own = Unit::parse_user("a.slice:p:x", "x", &bus.socket).unwrap();
    assert_eq!(own.path().unwrap(), "/user.slice/user@7.service/a.slice/p-x.scope");
    let calls: Vec<_> = heard.iter().collect();
    let got: Vec<_> = calls.iter().map(|(member, first)| (member.as_str(), first.as_str())).collect();
    let manager = "org.freedesktop.systemd1.Manager";
    assert_eq!(got, [("Get", manager), ("AttachProcessesToUnit", "brig-x.scope"), ("Get", manager)]);
    let error = Unit::parse_user("", "x", "/nowhere/bus").unwrap_err();
    assert!(errors::chain(&error).to_string().contains("user's systemd at /nowhere/bus"), "{error:?}");
}

#[test]
fn a_job_that_fails_is_an_error() {
    let Some(bus) = Bus::start() else { return };
    let heard = systemd(&bus, "failed", 2);
    let error = unit(&bus).start(1, &Resources::default(), true).unwrap_err();
    assert!(errors::chain(&error).to_string().contains("failed"), "{error:?}");
    assert_eq!(heard.iter().count(), 2);
}

#[test]
fn nobody_there_is_an_error() {
    let Some(bus) = Bus::start() else { return };
    let error = unit(&bus).update(&Resources::default(), true).unwrap_err();
    assert!(errors::chain(&error).to_string().contains("ServiceUnknown"), "{error:?}");
    assert!(Unit { bus: "/nowhere/bus".into(), ..unit(&bus) }.stop().is_err());
}
