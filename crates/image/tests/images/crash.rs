//! Death at any moment: a child works and says what is done, the parent kills it, opens the store and looks.

use crate::forge::Forged;
use crate::store::{Store, is_root};
use snapshot::Snapshotter;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const ROUNDS: u64 = 40;

/// Images share their lowest layer, so removal has to be careful.
pub(crate) fn forged(n: u64) -> Forged {
    let shared = crate::forge::Tar::new().file("shared", &[1; 5000]).finish();
    let own = |part: u64| {
        crate::forge::Tar::new().file(&format!("own{part}"), &n.to_le_bytes().repeat(500)).finish()
    };
    Forged::new(&[shared, own(0), own(1)])
}

/// Not a test of its own: the child of the next one.
#[test]
fn child_that_works_until_killed() {
    let Some(dir) = std::env::var_os("BRIG_TEST_CRASH_DIR") else { return };
    let images = std::env::var_os("BRIG_TEST_CRASH_IMAGES").is_some_and(|value| !value.is_empty());
    crate::store::IMAGES.store(images, std::sync::atomic::Ordering::SeqCst);
    let store = Store::open(Path::new(&dir));
    let mut say = {
        let mut out = std::io::stdout();
        move |text: String| {
            writeln!(out, "{text}").unwrap();
            out.flush().unwrap();
        }
    };
    let first = store.images.list().unwrap().iter().filter_map(|i| i.tags.first()?.tag()?.parse().ok()).max();
    for n in first.map_or(0, |n: u64| n + 1).. {
        let forged = forged(n);
        if n % 2 == 0 {
            let lease = store.images.lease();
            for blob in forged.blobs() {
                lease.keep_blob(&oci::Digest::of(&blob));
            }
            forged.store(&store.content);
            store.import(&forged.target(), &[&format!("x:{n}")]).unwrap();
        } else {
            let tar = forged.docker_archive(&[&format!("x:{n}")]).finish();
            store.images.load(&tar[..], Some(&oci::Platform::host()), &image::ignore).unwrap();
        }
        say(format!("imported {n}"));
        let image = store.images.get(&format!("x:{n}")).unwrap();
        store.overlay.prepare(&format!("c{n}"), image.chain_id.as_ref()).unwrap();
        say(format!("prepared {n}"));
        if n >= 3 {
            say(format!("removing {}", n - 3));
            crate::store::remove(&store, &format!("x:{}", n - 3), false, &[]).unwrap();
            say(format!("removed {}", n - 3));
            store.overlay.remove(&format!("c{}", n - 3)).unwrap();
            store.images.collect_garbage().unwrap();
            store.overlay.empty_trash().unwrap();
        }
    }
}

#[test]
fn a_kill_at_any_moment_is_repaired() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut must_be_there = BTreeSet::new();
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::child_that_works_until_killed", "--nocapture"])
            .env("BRIG_TEST_CRASH_DIR", dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        // Not a wait for anything: the moment of death, spread over all steps.
        std::thread::sleep(Duration::from_micros(20_000 + round * 9_371 % 130_000));
        child.kill().unwrap();
        child.wait().unwrap();
        let mut gone = BTreeSet::new();
        for line in out.lines().map_while(Result::ok) {
            let Some((what, number)) = line.split_once(' ') else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match what {
                "imported" => {
                    must_be_there.insert(number);
                }
                "removing" => {
                    must_be_there.remove(&number);
                }
                "removed" => {
                    gone.insert(number);
                }
                _ => {}
            }
        }
        let store = Store::open_unreconciled(dir.path());
        let done = store.images.reconcile().unwrap();
        assert!(done.dropped.is_empty() && done.repaired.is_empty(), "round {round}: {done:?}");
        for n in &must_be_there {
            let image = store.images.get(&format!("x:{n}")).unwrap();
            assert_eq!(image.id, forged(*n).id());
        }
        for n in gone {
            assert!(store.images.get(&format!("x:{n}")).is_err());
        }
        assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
        store.check();
        // Every directory is a layer's or a snapshot's.
        let layers = store.db.read(|tx| tx.list_layers()).unwrap().len();
        assert_eq!(store.counts().0, layers + store.overlay.list().unwrap().len());
    }
    assert!(!must_be_there.is_empty(), "the child never got anywhere");
}
