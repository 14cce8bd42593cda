//! Two daemons of one machine, each on its own store, that pull and remove the same image at the same time; and several
//! clients of one daemon that do.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use serde_json::Value;
use testkit::daemon::{Daemon, Options};
use testkit::images;
use testkit::registry::Registry;

const ROUNDS: usize = 6;

/// Pulls and removes by turns. A removal may find the image gone, or find it pulled again: nothing else is an answer.
fn pull_and_remove(daemon: &Daemon, reference: &str) {
    for _ in 0..ROUNDS {
        daemon.brig(&["pull", "-q", reference]).success();
        let removed = daemon.brig(&["rmi", "-f", reference]);
        assert!(removed.code == Some(0) || removed.stderr.contains("No such image"), "{removed:?}");
    }
}

#[test]
fn the_same_image_is_pulled_and_removed_by_two_daemons_and_by_many_clients() {
    if !testkit::is_root() {
        return;
    }
    let registry = Registry::start();
    let layers = [
        images::busybox_layer().to_vec(),
        testkit::tar::archive(&[testkit::tar::Entry::file("large", 0o644, vec![7; 1_000_000])]),
    ];
    registry.push_image("both", "1", &layers, images::busybox_config());
    let reference = registry.reference("both", "1");
    let daemons = [Daemon::start(Options::default()), Daemon::start(Options::default())];
    std::thread::scope(|scope| {
        for daemon in &daemons {
            for _ in 0..2 {
                scope.spawn(|| pull_and_remove(daemon, &reference));
            }
        }
    });
    for daemon in &daemons {
        assert_eq!(daemon.get("/brig/check")["Faults"], Value::Array(Vec::new()));
        daemon.brig(&["pull", "-q", &reference]).success();
        assert_eq!(
            daemon.brig(&["run", "--rm", "--network", "none", &reference, "echo", "hi"]).success(),
            "hi"
        );
        daemon.brig(&["rmi", &reference]).success();
        daemon.assert_empties();
    }
}
