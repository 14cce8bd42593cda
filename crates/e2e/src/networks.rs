//! What tests of networks do again and again.

use serde_json::Value;
use testkit::daemon::Daemon;
use testkit::wait_until;

/// Starts a container that sleeps.
#[track_caller]
pub fn sleeper(daemon: &Daemon, name: &str, flags: &[&str]) {
    let mut line = vec!["run", "-d", "--name", name];
    line.extend(flags);
    line.extend(["busybox", "sleep", "600"]);
    daemon.docker(&line).success();
}

/// The docker CLI fails, and says this.
#[track_caller]
pub fn refused(daemon: &Daemon, line: &[&str], part: &str) {
    let done = daemon.docker(line);
    assert!(done.code != Some(0) && done.stderr.contains(part), "{line:?}: {:?} {}", done.code, done.stderr);
}

/// A container's endpoint on a network; null for none.
pub fn endpoint(daemon: &Daemon, container: &str, network: &str) -> Value {
    daemon.get(&format!("/containers/{container}/json"))["NetworkSettings"]["Networks"][network].clone()
}

/// Whether one container reaches an address or a name, at once.
pub fn pings(daemon: &Daemon, from: &str, to: &str) -> bool {
    daemon.brig(&["exec", from, "ping", "-c", "1", "-W", "1", to]).code == Some(0)
}

/// Waits until it does.
#[track_caller]
pub fn wait_ping(daemon: &Daemon, from: &str, to: &str) {
    wait_until(&format!("{from} reaches {to}"), || pings(daemon, from, to));
}
