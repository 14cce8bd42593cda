//! The daemon killed at every request of a pull and of a push: the next daemon completes it, and nothing is left over.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::Client;
use std::collections::HashMap;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use testkit::daemon::{Daemon, Options};
use testkit::http::{Answer, Request, Served, Server};
use testkit::{images, tar, wait_until};

/// A registry in memory that can be pushed to.
#[derive(Default)]
struct Store {
    blobs: Mutex<HashMap<String, Vec<u8>>>,
    manifests: Mutex<HashMap<String, Vec<u8>>>,
}

impl Store {
    fn answer(&self, request: &Request) -> Answer {
        let path = request.path.split('?').next().unwrap_or_default();
        let name = path.rsplit('/').next().unwrap_or_default().to_string();
        match request.method.as_str() {
            "HEAD" if path.contains("/blobs/") => match self.blobs.lock().unwrap().get(&name) {
                Some(blob) => Answer::new(200, "").with("Content-Length", blob.len().to_string()),
                None => Answer::new(404, ""),
            },
            "POST" => Answer::new(202, "").with("Location", "/v2/r/blobs/uploads/one"),
            "PUT" if path.contains("/manifests/") => {
                self.manifests.lock().unwrap().insert(name, request.body.clone());
                Answer::new(201, "")
            }
            "PUT" => {
                let digest = oci::Digest::of(&request.body).to_string();
                if !request.path.contains(&digest.replace(':', "%3A")) {
                    return Answer::new(400, "");
                }
                self.blobs.lock().unwrap().insert(digest, request.body.clone());
                Answer::new(201, "")
            }
            _ => Answer::new(404, ""),
        }
    }
}

/// Which request is held, and how many there were. One that is held is never answered.
#[derive(Default)]
struct Hold {
    at: AtomicUsize,
    seen: AtomicUsize,
}

impl Hold {
    fn pass(&self, answer: Answer) -> Answer {
        let number = self.seen.fetch_add(1, Ordering::SeqCst) + 1;
        match number == self.at.load(Ordering::SeqCst) {
            // A head that promises more than comes.
            true => Answer { stall: Some(0), body: vec![0; 1 << 20], ..answer },
            false => answer,
        }
    }

    fn set(&self, at: usize) {
        self.seen.store(0, Ordering::SeqCst);
        self.at.store(at, Ordering::SeqCst);
    }
}

/// Runs `args` until the held request has come, and kills the daemon; all is well when the command needed fewer. Says
/// whether it did.
fn kill_at(daemon: &mut Daemon, hold: &Hold, at: usize, args: &[&str]) -> bool {
    hold.set(at);
    let mut command = daemon.brig_command(args);
    let mut client = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut done = false;
    wait_until("the request is held", || {
        done = client.try_wait().unwrap().is_some_and(|status| status.success());
        done || hold.seen.load(Ordering::SeqCst) >= at
    });
    if hold.seen.load(Ordering::SeqCst) < at {
        return true;
    }
    daemon.kill9();
    client.wait().unwrap();
    hold.set(0);
    daemon.spawn();
    daemon.assert_no_leaks();
    false
}

#[test]
fn killed_at_every_request_of_a_pull() {
    if !testkit::is_root() {
        return;
    }
    let mut daemon = Daemon::start(Options::default());
    let extra = tar::archive(&[tar::Entry::file("extra", 0o644, "here\n")]);
    let layers = [tar::gzip(images::busybox_layer()), extra];
    let image = Served::image("1", &layers, &images::busybox_config());
    let hold = Arc::new(Hold::default());
    let held = hold.clone();
    let registry = Server::start(move |request, _| held.pass(image.answer(request)));
    let reference = format!("{}/r:1", registry.address);
    // Manifest, config, two layers; the last round finds nothing to hold.
    for at in 1.. {
        let whole = kill_at(&mut daemon, &hold, at, &["pull", &reference]);
        if !whole {
            Client::Brig.run(&daemon, &["pull", &reference]).success();
        }
        assert_eq!(
            Client::Brig.run(&daemon, &["run", "--rm", &reference, "cat", "/extra"]).success(),
            "here"
        );
        daemon.assert_empties();
        if whole {
            assert_eq!(at, 5, "every request had its turn");
            break;
        }
    }
}

#[test]
fn killed_at_every_request_of_a_push() {
    if !testkit::is_root() {
        return;
    }
    let mut daemon = Daemon::start(Options::default());
    let (store, hold) = (Arc::new(Store::default()), Arc::new(Hold::default()));
    let registry = Server::start({
        let (store, hold) = (store.clone(), hold.clone());
        move |request, _| hold.pass(store.answer(request))
    });
    let reference = format!("{}/r:1", registry.address);
    daemon.load_busybox(&reference);
    // Two blobs with three requests each, and the manifest.
    for at in 1.. {
        store.blobs.lock().unwrap().clear();
        store.manifests.lock().unwrap().clear();
        let whole = kill_at(&mut daemon, &hold, at, &["push", &reference]);
        if !whole {
            Client::Brig.run(&daemon, &["push", &reference]).success();
        }
        assert_eq!(store.blobs.lock().unwrap().len(), 2);
        let digest = oci::Digest::of(&store.manifests.lock().unwrap()["1"]);
        let image = daemon.get(&format!("/images/{reference}/json"));
        let expected = format!("{}/r@{digest}", registry.address);
        assert!(image["RepoDigests"].as_array().unwrap().iter().any(|d| *d == expected.as_str()), "{image}");
        if whole {
            assert_eq!(at, 8, "every request had its turn");
            break;
        }
    }
    daemon.assert_empties();
}
