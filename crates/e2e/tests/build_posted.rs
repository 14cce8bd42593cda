//! BuildKit as it is asked for by `POST /build?version=2`, of clients that do not speak its own protocol.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::{BUSYBOX, own};
use serde_json::Value;
use std::process::Command;
use testkit::daemon::Daemon;
use testkit::raw::{Response, send};
use testkit::wait_until;

/// An archive with this Dockerfile, and a file `there`.
fn context(dockerfile: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("Dockerfile"), dockerfile.replace("BASE", BUSYBOX)).unwrap();
    std::fs::write(dir.path().join("there"), "a file").unwrap();
    std::fs::write(dir.path().join("left-out"), "another").unwrap();
    std::fs::write(dir.path().join(".dockerignore"), "left-out").unwrap();
    Command::new("tar").args(["-C", dir.path().to_str().unwrap(), "-c", "."]).output().unwrap().stdout
}

fn post(daemon: &Daemon, query: &str, body: &[u8]) -> Response {
    send(&daemon.socket, "POST", &format!("/v1.43/build?version=2&{query}"), "application/x-tar", body)
        .unwrap()
}

/// The lines of an answer.
fn lines(answer: &Response) -> Vec<Value> {
    answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The image that a build says it made.
fn made(answer: &Response) -> String {
    let lines = lines(answer);
    let last = lines.last().unwrap();
    assert_eq!(last["id"], "moby.image.id", "{last}");
    assert!(
        lines[..lines.len() - 1].iter().all(|l| l["id"] == "moby.buildkit.trace" && l["aux"].is_string())
    );
    last["aux"]["ID"].as_str().unwrap().to_string()
}

#[test]
fn a_context_comes_with_the_request() {
    let Some(daemon) = own() else { return };
    let tar = context("FROM BASE\nARG WHAT=default\nCOPY . /w/\nRUN echo $WHAT > /what\nLABEL l=1\n");
    let answer =
        post(&daemon, "t=posted:1&t=also&buildargs=%7B%22WHAT%22:%22mine%22%7D&memory=134217728", &tar);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let id = made(&answer);
    for name in ["posted:1", "also"] {
        assert_eq!(daemon.get(&format!("/images/{name}/json"))["Id"], id.as_str());
    }
    let shown = daemon.brig(&["run", "--rm", "posted:1", "sh", "-c", "cat /what; ls /w"]).success();
    assert_eq!(shown, "mine\nDockerfile\nthere");
    // Nothing but the id.
    let quiet = post(&daemon, "q=1&t=quiet", &tar);
    assert_eq!(lines(&quiet).len(), 1);
    assert!(quiet.json()["stream"].as_str().unwrap().starts_with("sha256:"));
    // Only the cache.
    let nothing = post(&daemon, "outputs=%5B%7B%22Type%22:%22cacheonly%22%7D%5D", &tar);
    assert!(lines(&nothing).iter().all(|l| l["id"] == "moby.buildkit.trace"), "{}", nothing.text());

    // What fails late says so in the stream.
    let failed = post(&daemon, "", &context("FROM BASE\nRUN exit 7\n"));
    let last = lines(&failed).pop().unwrap();
    let text = "process \"/bin/sh -c exit 7\" did not complete successfully: exit code: 7";
    assert!(last["error"].as_str().unwrap().ends_with(text), "{last}");
    assert_eq!(last["error"], last["errorDetail"]["message"]);
    // What cannot be asked for is refused.
    for (query, status) in [
        ("remote=client-session", 400),
        ("networkmode=bridge", 400),
        ("outputs=%5B%7B%22Type%22:%22local%22%7D%5D", 400),
        ("outputs=%5B%7B%22Type%22:%22a%22%7D,%7B%22Type%22:%22b%22%7D%5D", 400),
        ("session=nobody", 404),
        ("squash=1", 501),
    ] {
        let answer = post(&daemon, query, &tar);
        assert_eq!(answer.status, status, "{query}: {}", answer.text());
    }
    daemon.assert_no_leaks();
}

#[test]
fn a_context_comes_with_a_request_of_its_own() {
    let Some(daemon) = own() else { return };
    let tar = context("FROM BASE\nCOPY there /\n");
    let sent = std::thread::scope(|scope| {
        let sending = scope.spawn(|| post(&daemon, "remote=upload-request&buildid=upload-request:one", &tar));
        let built = post(&daemon, "remote=upload-request&buildid=one&t=uploaded", &[]);
        assert_eq!(built.status, 200, "{}", built.text());
        made(&built);
        sending.join().unwrap()
    });
    assert_eq!((sent.status, sent.text().as_str()), (200, ""));
    assert_eq!(daemon.brig(&["run", "--rm", "uploaded", "cat", "/there"]).success(), "a file");
    daemon.assert_no_leaks();
}

#[test]
fn a_build_is_cancelled_by_its_name() {
    let Some(daemon) = own() else { return };
    // A number that no other sleep has.
    let seconds = 1_000_000 + std::process::id();
    let tar = context(&format!("FROM BASE\nRUN sleep {seconds}\n"));
    let line = format!("sleep\0{seconds}\0");
    let sleeps = || {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        processes.filter_map(|p| std::fs::read(p.path().join("cmdline")).ok()).any(|l| l == line.as_bytes())
    };
    let cancel =
        |query: &str| send(&daemon.socket, "POST", &format!("/build/cancel{query}"), "", &[]).unwrap();
    assert_eq!(cancel("").status, 400);
    // Has ended before, as far as anybody knows.
    assert_eq!(cancel("?id=strange").status, 200);
    std::thread::scope(|scope| {
        let building = scope.spawn(|| post(&daemon, "buildid=long", &tar));
        wait_until("the step runs", sleeps);
        assert_eq!(cancel("?id=long").status, 200);
        let last = lines(&building.join().unwrap()).pop().unwrap();
        assert_eq!(last["error"], "context canceled");
    });
    wait_until("the step is gone", || !sleeps());
    daemon.assert_no_leaks();
}
