//! A registry that lies, leads in circles or sends too much: each pull ends with an error that says what of which image is wrong, other
//! images stay as they are, nothing is left behind, and once the registry behaves the same pull completes.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::BUSYBOX;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use testkit::daemon::{Daemon, Options};
use testkit::http::{Answer, Request, Served, Server};
use testkit::tar::{self, Entry};
use testkit::wait_until;

/// What the registry does with a request and with the answer that would be right.
type Twist = fn(&Request, Answer, &Names) -> Answer;

/// What the image is made of.
struct Names {
    layer: String,
    config: String,
    address: String,
}

fn is(request: &Request, digest: &str) -> bool {
    request.path.ends_with(digest)
}

fn is_manifest(request: &Request) -> bool {
    request.path.contains("/manifests/")
}

fn flipped(mut answer: Answer) -> Answer {
    if let Some(last) = answer.body.last_mut() {
        *last ^= 1;
    }
    answer
}

fn manifest(body: impl Into<Vec<u8>>) -> Answer {
    Answer::new(200, body).with("Content-Type", "application/vnd.oci.image.manifest.v1+json")
}

/// What is done, and what the error says besides the name of the image: of these words all, `LAYER` being the layer's digest.
const TWISTS: &[(&str, Twist, &[&str])] = &[
    (
        "a layer with a flipped bit",
        |request, answer, names| if is(request, &names.layer) { flipped(answer) } else { answer },
        &["LAYER"],
    ),
    (
        "half a layer",
        |request, answer, names| {
            let half = answer.body.len() / 2;
            if is(request, &names.layer) { Answer::new(200, &answer.body[..half]) } else { answer }
        },
        &["LAYER", "bytes"],
    ),
    (
        "a layer that goes on and on",
        |request, answer, names| match is(request, &names.layer) {
            true => Answer::new(200, answer.body.repeat(50)),
            false => answer,
        },
        &["LAYER", "bytes"],
    ),
    (
        "a config with a flipped bit",
        |request, answer, names| if is(request, &names.config) { flipped(answer) } else { answer },
        &["CONFIG"],
    ),
    (
        "a manifest with a flipped bit",
        |request, answer, _| match is_manifest(request) && request.method == "GET" {
            true => flipped(answer),
            false => answer,
        },
        &["manifest", "sha256:"],
    ),
    (
        "blobs that lead in a circle",
        |request, answer, names| match is(request, &names.layer) {
            true => Answer::new(307, "").with("Location", request.path.clone()),
            false => answer,
        },
        &["redirect"],
    ),
    (
        "manifests that lead in a circle",
        |request, answer, _| match is_manifest(request) {
            true => Answer::new(307, "").with("Location", request.path.clone()),
            false => answer,
        },
        &["redirect"],
    ),
    (
        "a manifest of six megabytes",
        |request, answer, _| if is_manifest(request) { manifest(vec![b' '; 6 << 20]) } else { answer },
        &["manifest", "larger than"],
    ),
    (
        "ten thousand layers",
        |request, answer, _| {
            if !is_manifest(request) {
                return answer;
            }
            let mut document: Value = serde_json::from_slice(&answer.body).unwrap();
            let layer = document["layers"][0].clone();
            document["layers"] = std::iter::repeat_n(layer, 10_000).collect();
            manifest(document.to_string())
        },
        &["10000 layers"],
    ),
    (
        "a token server that wants a token",
        |_, _, names| {
            let challenge = format!("Bearer realm=\"http://{}/token\",service=\"x\"", names.address);
            Answer::new(401, "").with("WWW-Authenticate", challenge)
        },
        &["denied"],
    ),
];

#[test]
fn whatever_a_registry_does_the_store_stays_sound() {
    if !testkit::is_root() {
        return;
    }
    let daemon = Daemon::start(Options::default());
    daemon.load_busybox(BUSYBOX);
    for (n, (what, twist, words)) in TWISTS.iter().enumerate() {
        // Another image each time: nothing of it is here.
        let layer = tar::gzip(&tar::archive(&[Entry::file("file", 0o644, what.repeat(2_000 + n))]));
        let served = Served::image("1", std::slice::from_ref(&layer), &json!({"Labels": {"what": what}}));
        let layer = oci::Digest::of(&layer).to_string();
        let document = served.answer(&Request { path: "/manifests/1".into(), ..Request::default() });
        let document: Value = serde_json::from_slice(&document.body).unwrap();
        let config = document["config"]["digest"].as_str().unwrap().to_string();
        let left = Arc::new(AtomicUsize::new(1));
        let (still, twist, parts) = (left.clone(), *twist, (layer.clone(), config.clone()));
        let registry = Server::start(move |request, own| {
            let names = Names { layer: parts.0.clone(), config: parts.1.clone(), address: own.to_string() };
            match still.load(Ordering::SeqCst) {
                0 => served.answer(request),
                _ => twist(request, served.answer(request), &names),
            }
        });
        let reference = format!("{}/hostile:1", registry.address);
        let failed = daemon.brig(&["pull", &reference]).expect(1).stderr;
        for word in words.iter().map(|word| match *word {
            "LAYER" => layer.as_str(),
            "CONFIG" => config.as_str(),
            other => other,
        }) {
            assert!(failed.contains(word), "{what}: {failed:?} has no {word:?}");
        }
        assert!(failed.contains("hostile"), "{what}: {failed:?} does not name the image");
        daemon.request("GET", &format!("/images/{reference}/json"), &Value::Null).expect(404);
        // What a failed pull has brought goes behind its back.
        wait_until(&format!("nothing is left of {what}"), || {
            daemon.get("/brig/check")["Faults"] == json!([])
        });
        assert_eq!(daemon.get("/brig/df")["Unaccounted"], json!([]), "{what}");

        left.store(0, Ordering::SeqCst);
        daemon.brig(&["pull", &reference]).success();
        let labels = daemon.get(&format!("/images/{reference}/json"))["Config"]["Labels"].clone();
        assert_eq!(labels["what"], *what);
        daemon.brig(&["rmi", &reference]).success();
    }
    assert_eq!(
        daemon.brig(&["run", "--rm", "--network", "none", BUSYBOX, "echo", "sound"]).success(),
        "sound"
    );
    daemon.assert_empties();
}
