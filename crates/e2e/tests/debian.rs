//! A whole distribution through a real registry: made by debootstrap, pushed, pulled, run by both clients.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::Client;
use serde_json::json;
use testkit::daemon::{Daemon, Options};
use testkit::images;
use testkit::registry::Registry;

#[test]
fn debian_runs_as_it_was_made() {
    if !testkit::is_root() {
        return;
    }
    let daemon = Daemon::start(Options::default());
    let registry = Registry::start();
    let base = std::fs::read(images::debian_layer()).unwrap();
    let above = testkit::tar::archive(&[
        testkit::tar::Entry::file("etc/motd", 0o644, b"from the upper layer\n"),
        testkit::tar::Entry::file("etc/.wh.issue", 0o644, Vec::new()),
    ]);
    registry.push_image("debian", "bookworm", &[base, above], json!({ "Cmd": ["bash"] }));
    let reference = registry.reference("debian", "bookworm");
    let run = |client: Client, script: &str| {
        client.run(&daemon, &["run", "--rm", &reference, "bash", "-c", script]).success()
    };

    Client::Brig.run(&daemon, &["pull", &reference]).success();
    for client in [Client::Brig, Client::Docker] {
        assert!(run(client, "cat /etc/debian_version").starts_with("12."));
        assert_eq!(
            run(client, "cat /etc/motd; test -e /etc/issue || echo gone"),
            "from the upper layer\ngone"
        );
    }
    // Owners, modes, links and times as debootstrap made them.
    let facts = run(
        Client::Brig,
        "stat -c '%a %u:%g' /usr/bin/passwd /tmp /etc/shadow; readlink /bin; stat -c %h /usr/bin/perl; \
         [ /usr/bin/perl -ef /usr/bin/perl5.36.0 ] && echo same; [ $(stat -c %Y /usr/bin/dpkg) -lt $(date +%s) ] && echo old",
    );
    assert_eq!(facts, "4755 0:0\n1777 0:0\n640 0:42\nusr/bin\n2\nsame\nold");
    // What the distribution's own tools do: users, packages' database, many processes.
    let user = run(
        Client::Brig,
        "useradd -m ann && su ann -c 'id -un; pwd' && dpkg --verify base-files && echo whole",
    );
    assert!(user.starts_with("ann") && user.ends_with("whole"), "{user}");
    Client::Docker.run(&daemon, &["rmi", &reference]).success();
    daemon.assert_empties();
}
