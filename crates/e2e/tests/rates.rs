//! Limits of a container's network: at run, by a label, and live.
#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use serde_json::json;
use std::time::{Duration, Instant};
use testkit::daemon::Daemon;

/// What is fetched: at 8 Mbit/s it takes two seconds, at the least, whatever else the machine does.
const BYTES: u64 = 2_000_000;
const LIMIT: &str = "8m";

struct Stage {
    daemon: Daemon,
}

impl Stage {
    fn new() -> Option<Stage> {
        if !testkit::is_root() {
            return None;
        }
        let daemon = Daemon::start(Default::default());
        daemon.load_busybox("busybox");
        daemon.brig(&["network", "create", "n"]).success();
        Some(Stage { daemon })
    }

    /// A container that serves a large file.
    #[track_caller]
    fn server(&self, name: &str, flags: &[&str]) {
        let mut line = vec!["run", "-d", "--name", name, "--network", "n"];
        line.extend(flags);
        let serve = format!("head -c {BYTES} /dev/zero > /big; exec httpd -f -p 80 -h /");
        line.extend(["busybox", "sh", "-c", &serve]);
        self.daemon.brig(&line).success();
        testkit::wait_until("the server listens", || {
            self.daemon.brig(&["exec", name, "sh", "-c", "wget -q -O /dev/null http://127.0.0.1/big"]).code
                == Some(0)
        });
    }

    /// How long `from` takes to fetch the file.
    #[track_caller]
    fn fetch(&self, from: &str, to: &str) -> Duration {
        let url = format!("http://{to}/big");
        let begin = Instant::now();
        self.daemon.brig(&["exec", from, "wget", "-q", "-O", "/dev/null", &url]).success();
        begin.elapsed()
    }

    /// The queue of the host's end of a container's pair.
    #[track_caller]
    fn queue(&self, container: &str) -> String {
        let seen = self.daemon.get(&format!("/containers/{container}/json"));
        let endpoint = seen["NetworkSettings"]["Networks"]["n"]["EndpointID"].as_str().unwrap().to_string();
        let interface = format!("veth{}", &endpoint[..7]);
        let done =
            std::process::Command::new("tc").args(["qdisc", "show", "dev", &interface]).output().unwrap();
        String::from_utf8(done.stdout).unwrap()
    }
}

/// What the bucket holds passes at once; a second is left of the two.
const AT_LEAST: Duration = Duration::from_secs(1);

#[test]
fn both_directions_at_run_and_live() {
    let Some(stage) = Stage::new() else { return };
    let daemon = &stage.daemon;
    stage.server("free", &[]);
    stage.server("slow", &["--net-rate-out", LIMIT]);
    assert!(stage.fetch("free", "slow") > AT_LEAST, "what it sends");
    assert!(!stage.queue("slow").contains("tbf"), "{}", stage.queue("slow"));

    daemon.brig(&["update", "--net-rate-out", "-1", "--net-rate-in", LIMIT, "slow"]).success();
    assert!(stage.fetch("slow", "free") > AT_LEAST, "what it receives");
    assert!(stage.queue("slow").contains("rate 8Mbit"), "{}", stage.queue("slow"));
    let seen = daemon.get("/containers/slow/json");
    assert_eq!(
        (&seen["HostConfig"]["NetRateIn"], &seen["HostConfig"]["NetRateOut"]),
        (&json!(8_000_000), &json!(-1))
    );

    // It holds after a restart of the container, and for networks joined later.
    daemon.brig(&["restart", "-t", "0", "slow"]).success();
    assert!(stage.queue("slow").contains("rate 8Mbit"), "{}", stage.queue("slow"));
    daemon.brig(&["network", "disconnect", "n", "slow"]).success();
    daemon.brig(&["network", "connect", "n", "slow"]).success();
    assert!(stage.queue("slow").contains("rate 8Mbit"), "{}", stage.queue("slow"));
    daemon.brig(&["update", "--net-rate-in", "-1", "slow"]).success();
    assert!(!stage.queue("slow").contains("tbf"), "{}", stage.queue("slow"));
    daemon.remove_all();
    daemon.assert_no_leaks();
}

#[test]
fn by_label_and_what_is_refused() {
    let Some(stage) = Stage::new() else { return };
    let daemon = &stage.daemon;
    daemon
        .docker(&[
            "run",
            "-d",
            "--name",
            "labelled",
            "--network",
            "n",
            "--label",
            "brig.net-rate-in=10mbit",
            "busybox",
            "sleep",
            "600",
        ])
        .success();
    assert!(stage.queue("labelled").contains("rate 10Mbit"), "{}", stage.queue("labelled"));
    let refused = |args: &[&str], words: &str| {
        let done = daemon.brig(args);
        assert!(done.code != Some(0) && done.stderr.contains(words), "{args:?}: {done:?}");
    };
    refused(&["create", "--net-rate-in", "10m", "--network", "host", "busybox"], "conflicting options");
    refused(&["create", "--net-rate-in", "100", "busybox"], "below 16000");
    refused(&["create", "--net-rate-in", "fast", "busybox"], "invalid rate");
    refused(&["create", "--label", "brig.net-rate-out=fast", "busybox"], "invalid label");
    refused(&["update", "--net-rate-in", "100", "labelled"], "below 16000");
    assert!(stage.queue("labelled").contains("rate 10Mbit"), "as it was");
}
