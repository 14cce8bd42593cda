//! kill -9 of the daemon at every moment of what changes images: a rerun completes, a check finds nothing, nothing is left.
//! Short in `test`; with `BRIG_CONFORM_IMAGE_STRESS=1`, as `cargo xtask conform image-stress` sets it, long.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::BUSYBOX;
use serde_json::{Value, json};
use std::time::Duration;
use testkit::daemon::{Daemon, Options};
use testkit::http::Server;
use testkit::tar::{self, Entry};
use testkit::{http, images, raw};

fn is_long() -> bool {
    std::env::var_os("BRIG_CONFORM_IMAGE_STRESS").is_some()
}

/// How many moments of each verb, and how far apart.
fn steps() -> (u32, Duration) {
    if is_long() { (80, Duration::from_micros(500)) } else { (6, Duration::from_millis(4)) }
}

/// What is there while nothing goes on: names of images, by the tags that this test gives.
fn tags(daemon: &Daemon) -> Vec<String> {
    let list = daemon.get("/images/json?all=1");
    let tags =
        list.as_array().unwrap().iter().flat_map(|image| image["RepoTags"].as_array().unwrap().clone());
    let mut tags: Vec<String> = tags.map(|tag| tag.as_str().unwrap().to_string()).collect();
    tags.sort();
    tags
}

struct Verb {
    name: &'static str,
    method: &'static str,
    path: String,
    kind: &'static str,
    body: Vec<u8>,
    /// Tags that are there before, besides busybox; made anew for each step.
    before: &'static [&'static str],
    after: &'static [&'static str],
}

fn verbs(registry: &Server) -> Vec<Verb> {
    let root = tar::gzip(&tar::archive(&[Entry::file("file", 0o644, vec![7; 3_000_000])]));
    let archive =
        images::docker_archive("loaded:1", &[images::busybox_layer(), &root_of("load")], &json!({}));
    let verb = |name, method, path: &str, body: &[u8], before, after| Verb {
        name,
        method,
        path: path.into(),
        kind: "application/x-tar",
        body: body.to_vec(),
        before,
        after,
    };
    vec![
        verb("commit", "POST", "/commit?container=one&repo=made&tag=1", b"", &[], &["made:1"]),
        verb("import", "POST", "/images/create?fromSrc=-&repo=made&tag=1", &root, &[], &["made:1"]),
        verb(
            "import of a URL",
            "POST",
            &format!("/images/create?fromSrc=http://{}/root&repo=made&tag=1", registry.address),
            b"",
            &[],
            &["made:1"],
        ),
        verb("load", "POST", "/images/load?quiet=1", &archive, &[], &["loaded:1"]),
        verb("tag", "POST", "/images/busybox/tag?repo=made&tag=1", b"", &[], &["made:1"]),
        verb("rmi", "DELETE", "/images/made:1", b"", &["made:1"], &[]),
        verb(
            "prune",
            "POST",
            "/images/prune?filters=%7B%22dangling%22%3A%5B%22false%22%5D%7D",
            b"",
            &["made:1", "made:2"],
            &[],
        ),
    ]
}

/// A layer of its own for each name.
fn root_of(name: &str) -> Vec<u8> {
    tar::archive(&[Entry::file(name, 0o644, name.repeat(200_000))])
}

#[test]
fn killed_at_every_step() {
    if !testkit::is_root() {
        return;
    }
    let root = tar::gzip(&root_of("fetched"));
    let registry = Server::start(move |_, _| http::Answer::new(200, root.clone()));
    let mut daemon = Daemon::start(Options::default());
    daemon.load_busybox(BUSYBOX);
    // Keeps busybox from being pruned, and has something to commit.
    let script = "head -c 5000000 /dev/urandom > /much; for n in $(seq 200); do echo $n > /few$n; done";
    daemon.brig(&["run", "--name", "one", "--network", "none", BUSYBOX, "sh", "-c", script]).success();
    let (steps, pace) = steps();
    for verb in verbs(&registry) {
        let expected = |these: &[&str]| {
            let mut all: Vec<String> = these.iter().chain(&[BUSYBOX]).map(ToString::to_string).collect();
            all.sort();
            all
        };
        let mut was_cut = false;
        for step in 0..steps {
            for tag in verb.before.iter().filter(|tag| !tags(&daemon).contains(&tag.to_string())) {
                daemon.load(&images::docker_archive(tag, &[&root_of(tag)], &json!({}))).expect(200);
            }
            assert_eq!(tags(&daemon), expected(verb.before), "{}", verb.name);
            let (socket, method, path, kind, body) =
                (daemon.socket.clone(), verb.method, verb.path.clone(), verb.kind, verb.body.clone());
            let asked = std::thread::spawn(move || raw::send(&socket, method, &path, kind, &body));
            // Not a wait for anything: the moment of death, a little later each time.
            std::thread::sleep(pace * step);
            daemon.kill9();
            let answer = asked.join().unwrap();
            daemon.spawn();
            let now = tags(&daemon);
            let what = format!("{}, step {step}", verb.name);
            // What is streamed has its status before it is done.
            let says = if verb.name == "import of a URL" { "sha256:" } else { "" };
            let done = |answer: raw::Response| {
                let text = answer.text();
                answer.status < 300 && !text.contains("errorDetail") && text.contains(says)
            };
            if answer.is_ok_and(done) {
                assert_eq!(now, expected(verb.after), "{what}: what was acknowledged is lost");
            } else {
                was_cut = true;
                let between =
                    |tag: &String| expected(verb.before).contains(tag) || expected(verb.after).contains(tag);
                assert!(now.iter().all(between) && now.contains(&BUSYBOX.to_string()), "{what}: {now:?}");
            }
            let checked = daemon.request("GET", "/brig/check", &Value::Null).expect(200).json();
            assert_eq!(checked["Faults"], json!([]), "{what}");
            let report = daemon.get("/brig/df");
            assert_eq!(report["Unaccounted"], json!([]), "{what}: {report}");
            // Done again it is done, whatever it had come to.
            let again = raw::send(&daemon.socket, verb.method, &verb.path, verb.kind, &verb.body).unwrap();
            let gone = verb.method == "DELETE" && again.status == 404;
            assert!(again.status < 300 || gone, "{what}: {}", again.text());
            assert_eq!(tags(&daemon), expected(verb.after), "{what}, done again");
            for tag in verb.after {
                drop(daemon.request("DELETE", &format!("/images/{tag}?force=1"), &Value::Null).expect(200));
            }
        }
        // On a machine that is slow enough, all of a short verb fits between two looks at the clock.
        assert!(was_cut || !is_long(), "no kill came in the middle of {}", verb.name);
    }
    daemon.assert_empties();
}
