//! The content store: what goes in comes out, or does not go in.
#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use content::{ContentStore, Error};
use errors::{HasKind, Kind};
use oci::Digest;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

fn store() -> (tempfile::TempDir, ContentStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = ContentStore::open(dir.path()).unwrap();
    (dir, store)
}

fn ingests(dir: &Path) -> usize {
    std::fs::read_dir(dir.join("ingest")).unwrap().count()
}

#[test]
fn a_blob_goes_in_and_comes_out() {
    let (dir, store) = store();
    let digest = Digest::of(b"hello world");
    let mut ingest = store.ingest(Some(digest), Some(11)).unwrap();
    ingest.write_all(b"hello ").unwrap();
    assert!(!store.contains(&digest));
    ingest.write_all(b"world").unwrap();
    assert_eq!(ingest.commit().unwrap(), (digest, 11));
    let mut text = String::new();
    store.open_blob(&digest).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello world");
    assert_eq!((store.size(&digest).unwrap(), store.list().unwrap()), (11, vec![digest]));
    assert_eq!(store.read_bounded(&digest, 11).unwrap(), b"hello world");
    assert!(matches!(store.read_bounded(&digest, 10), Err(Error::TooLarge { size: 11, max: 10, .. })));
    assert_eq!(ingests(dir.path()), 0);
    store.put(b"hello world").unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir.path().join("blobs")), 0o700);
    assert_eq!(mode(&dir.path().join("blobs/sha256").join(digest.hex())), 0o600);
    assert!(store.remove(&digest).unwrap());
    assert!(!store.remove(&digest).unwrap());
    assert_eq!(store.open_blob(&digest).unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn what_was_not_promised_stays_out() {
    let (dir, store) = store();
    let promise = |digest: Option<Digest>, size, bytes: &[u8]| {
        let mut ingest = store.ingest(digest, size).unwrap();
        ingest.write_all(bytes).map_err(|e| e.kind()).map(|()| ingest.commit())
    };
    let wrong = promise(Some(Digest::of(b"a")), Some(1), b"b").unwrap().unwrap_err();
    assert!(matches!(wrong, Error::DigestMismatch { .. }));
    assert_eq!(wrong.kind(), Kind::DataLoss);
    let short = promise(Some(Digest::of(b"ab")), Some(2), b"a").unwrap().unwrap_err();
    assert!(matches!(short, Error::SizeMismatch { expected: 2, actual: 1 }));
    assert_eq!(promise(None, Some(2), b"abc").unwrap_err(), std::io::ErrorKind::InvalidData);
    let mut dropped = store.ingest(None, None).unwrap();
    dropped.write_all(b"x").unwrap();
    drop(dropped);
    assert_eq!((store.list().unwrap().len(), ingests(dir.path())), (0, 0));
}

#[test]
fn bytes_that_changed_on_disk_are_noticed() {
    let (dir, store) = store();
    let digest = store.put(b"good").unwrap();
    store.verify(&digest).unwrap();
    std::fs::write(dir.path().join("blobs/sha256").join(digest.hex()), b"evil").unwrap();
    assert!(matches!(store.verify(&digest), Err(Error::DigestMismatch { .. })));
    assert!(matches!(store.read_bounded(&digest, 100), Err(Error::DigestMismatch { .. })));
}

#[test]
fn many_threads_bring_the_same_blob() {
    let (dir, store) = store();
    let bytes = vec![7; 100_000];
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| store.put(&bytes).unwrap());
        }
    });
    assert_eq!(store.list().unwrap(), [Digest::of(&bytes)]);
    store.verify(&Digest::of(&bytes)).unwrap();
    assert_eq!(ingests(dir.path()), 0);
}

/// Not a test of its own: the child of the next one.
#[test]
fn child_that_ingests_until_killed() {
    let Some(dir) = std::env::var_os("BRIG_TEST_CRASH_DIR") else { return };
    let store = ContentStore::open(Path::new(&dir)).unwrap();
    let mut out = std::io::stdout();
    for n in 0u64.. {
        let digest = store.put(&n.to_le_bytes().repeat(20_000)).unwrap();
        writeln!(out, "acknowledged {digest}").unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn a_kill_leaves_whole_blobs_and_no_ingests() {
    use std::io::BufRead;
    let dir = tempfile::tempdir().unwrap();
    for round in 0..8 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_ingests_until_killed", "--nocapture"])
            .env("BRIG_TEST_CRASH_DIR", dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let digest = |line: String| line.strip_prefix("acknowledged ").and_then(|d| d.parse::<Digest>().ok());
        let mut acknowledged: Vec<Digest> =
            lines.by_ref().take(round + 4).filter_map(|line| digest(line.unwrap())).collect();
        child.kill().unwrap();
        child.wait().unwrap();
        acknowledged.extend(lines.map_while(Result::ok).filter_map(digest));
        let store = ContentStore::open(dir.path()).unwrap();
        assert_eq!(ingests(dir.path()), 0);
        let present = store.list().unwrap();
        for digest in &present {
            store.verify(digest).unwrap();
        }
        assert!(!acknowledged.is_empty());
        assert!(acknowledged.iter().all(|digest| present.contains(digest)));
    }
}

#[test]
fn a_partial_blob_is_gone_on_with() {
    let dir = tempfile::tempdir().unwrap();
    let digest = Digest::of(b"hello world");
    let partials = || std::fs::read_dir(dir.path().join("partial")).unwrap().count();
    {
        let store = ContentStore::open(dir.path()).unwrap();
        let mut first = store.resume(digest, 11).unwrap();
        first.write_all(b"hello").unwrap();
        // A second writer does not touch what the first writes.
        let mut second = store.resume(digest, 11).unwrap();
        assert_eq!(second.written(), 0);
        second.write_all(b"hello world").unwrap();
        assert_eq!(store.remove_partials(std::time::Duration::ZERO).unwrap(), 0, "in use");
        drop(second);
        drop(first);
        assert_eq!((ingests(dir.path()), partials()), (0, 1));
    }
    let store = ContentStore::open(dir.path()).unwrap();
    let mut ingest = store.resume(digest, 11).unwrap();
    assert_eq!(ingest.written(), 5);
    ingest.write_all(b" world").unwrap();
    assert_eq!(ingest.commit().unwrap(), (digest, 11));
    store.verify(&digest).unwrap();
    assert_eq!(partials(), 0);

    // A wrong beginning ends as a wrong digest, and the next begins anew.
    let other = Digest::of(b"other");
    let mut wrong = store.resume(other, 5).unwrap();
    wrong.write_all(b"ot").unwrap();
    drop(wrong);
    std::fs::write(dir.path().join("partial").join(other.hex()), b"XX").unwrap();
    let mut ingest = store.resume(other, 5).unwrap();
    assert_eq!(ingest.written(), 2);
    ingest.write_all(b"her").unwrap();
    assert!(matches!(ingest.commit(), Err(Error::DigestMismatch { .. })));
    assert_eq!(partials(), 0);
    // One that is longer than the whole is no beginning.
    std::fs::write(dir.path().join("partial").join(other.hex()), b"too long").unwrap();
    assert_eq!(store.resume(other, 5).unwrap().written(), 0);
    assert_eq!(partials(), 0, "nothing was written");
    // What nobody wants any more goes.
    drop(store.resume(other, 5).map(|mut ingest| ingest.write_all(b"o")).unwrap());
    assert_eq!((partials(), store.partial_bytes().unwrap()), (1, 1));
    assert_eq!(store.remove_partials(content::PARTIAL_LIFE).unwrap(), 0);
    assert_eq!(store.remove_partials(std::time::Duration::ZERO).unwrap(), 1);
    assert_eq!(partials(), 0);
}

#[test]
fn a_follower_reads_what_is_written_and_hears_how_it_ended() {
    let (_dir, store) = store();
    let bytes = vec![7; 300_000];
    let digest = Digest::of(&bytes);
    let mut ingest = store.ingest(Some(digest), Some(300_000)).unwrap();
    ingest.write_all(&bytes[..1000]).unwrap();
    let mut follower = ingest.follow().unwrap();
    let watch = follower.watch();
    let reading = std::thread::spawn(move || {
        let mut read = Vec::new();
        follower.read_to_end(&mut read).map(|_| read)
    });
    for piece in bytes[1000..].chunks(70_000) {
        ingest.write_all(piece).unwrap();
    }
    // It ends with the last byte, though nobody knows yet whether it is the right one.
    assert!(reading.join().unwrap().unwrap() == bytes);
    assert!(!watch.is_committed());
    ingest.commit().unwrap();
    assert!(watch.is_committed() && watch.committed());

    let mut ingest = store.ingest(Some(digest), Some(300_000)).unwrap();
    ingest.write_all(&bytes[..10]).unwrap();
    let mut follower = ingest.follow().unwrap();
    let watch = follower.watch();
    follower.read_exact(&mut [0; 10]).unwrap();
    let reading = std::thread::spawn(move || follower.read(&mut [0]).map_err(|e| e.to_string()));
    drop(ingest);
    assert!(reading.join().unwrap().unwrap_err().contains("no longer being written"));
    assert!(!watch.committed());

    let mut wrong = store.ingest(Some(Digest::of(b"other")), Some(5)).unwrap();
    wrong.write_all(b"wrong").unwrap();
    let mut follower = wrong.follow().unwrap();
    assert!(wrong.commit().is_err());
    let mut read = Vec::new();
    follower.read_to_end(&mut read).unwrap();
    assert_eq!((read, follower.watch().committed()), (b"wrong".to_vec(), false));
}
