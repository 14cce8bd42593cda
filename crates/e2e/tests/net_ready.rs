//! What is made before anybody needs it, and what becomes of it when others get at it.
#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::hosts::inside;
use e2e::networks::{pings, sleeper};
use testkit::daemon::{Daemon, Options};
use testkit::wait_until;

/// Interfaces of sandboxes made ahead are deleted, or set up, by somebody else: containers start all the same.
#[test]
fn sandboxes_made_ahead_may_go_bad() {
    if !testkit::is_root() {
        return;
    }
    // A host of its own, where nobody else has such interfaces.
    let directory = tempfile::tempdir().unwrap();
    let netns = directory.path().join("host");
    network::create_sandbox(&netns).unwrap();
    let daemon = Daemon::start(Options { netns: Some(netns.clone()), ..Options::default() });
    daemon.load_busybox("busybox");
    let ip = |args: &[&str]| {
        let done = inside(&netns, "ip").args(args).output().unwrap();
        assert!(done.status.success(), "{args:?}: {done:?}");
        String::from_utf8(done.stdout).unwrap()
    };
    let ready = || -> Vec<String> {
        let all = ip(&["-o", "link"]);
        let idle = all.lines().filter(|l| l.contains("alias brig:ready"));
        idle.map(|l| l.split([':', '@']).nth(1).unwrap().trim().to_string()).collect()
    };
    daemon.brig(&["network", "create", "n"]).success();
    sleeper(&daemon, "first", &["--network", "n"]);
    for (name, change) in [("deleted", "delete"), ("up", "up")] {
        // None may be there, or those that were found bad last time: one more start, and there are good ones.
        sleeper(&daemon, &format!("before-{name}"), &["--network", "n"]);
        wait_until("some are made", || ready().len() == 3);
        for idle in ready() {
            match change {
                "delete" => ip(&["link", "delete", &idle]),
                _ => ip(&["link", "set", &idle, "up"]),
            };
        }
        sleeper(&daemon, name, &["--network", "n"]);
        assert!(pings(&daemon, name, "first"), "{name}");
    }
    daemon.remove_all();
    daemon.assert_empties();
    drop(daemon);
    network::remove_sandbox(&netns).unwrap();
}

/// The kernel's table of open files is as large as a busy daemon needs from the start: to grow it in a program with threads
/// takes 10 ms, three times for 500 published ports.
#[test]
fn there_is_room_for_descriptors() {
    let Some(daemon) = e2e::own() else { return };
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let size = status.lines().find_map(|l| l.strip_prefix("FDSize:")).unwrap().trim().parse::<u32>().unwrap();
    let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX);
    assert!(u64::from(size) >= hard.min(4096), "{size}");
}
