//! The store as a whole: format, transactions, records, crashes, a full disk.
#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use errors::{HasKind, Kind};
use metadata::{Database, Error, ImageRow, LayerRow, RecordKind, ReferenceRow, SnapshotRow};
use oci::{Descriptor, Digest};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

fn digest(byte: char) -> Digest {
    format!("sha256:{}", byte.to_string().repeat(64)).parse().unwrap()
}

fn image(id: Digest) -> ImageRow {
    let descriptor = Descriptor::new("application/vnd.oci.image.manifest.v1+json", digest('b'), 7);
    ImageRow {
        id,
        manifest: descriptor.clone(),
        target: descriptor,
        chain_id: Some(digest('c')),
        size_bytes: 42,
        created: "2024-01-02T03:04:05Z".into(),
        added_ms: 1_700_000_000_000,
        tagged_ms: None,
    }
}

/// The file that version 1 wrote, for as long as version 1 is read.
#[test]
fn the_sample_of_version_1_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let raw = rusqlite::Connection::open(dir.path().join("brig.db")).unwrap();
    raw.execute_batch(include_str!("samples/v1.sql")).unwrap();
    drop(raw);
    let db = Database::open(dir.path()).unwrap();
    db.read(|tx| -> Result<(), Error> {
        assert_eq!(tx.list_images()?, [image(digest('a'))]);
        assert_eq!(tx.references_of(&digest('a'))?.len(), 2);
        assert_eq!(tx.reference("docker.io/library/x", ":1")?, Some(digest('a')));
        assert_eq!(tx.list_image_blobs()?, [digest('b')]);
        let layer = tx.layer(&digest('c'))?.unwrap();
        assert_eq!((layer.number, layer.parent, layer.size_bytes, layer.durable), (3, None, 42, true));
        let snapshot = SnapshotRow { key: "c1".into(), number: 4, parent: Some(digest('c')) };
        assert_eq!(tx.list_snapshots()?, [snapshot]);
        Ok(())
    })
    .unwrap();
    let record = db.get_record_by_name(RecordKind::Volume, "data").unwrap().unwrap();
    assert_eq!((record.id.as_str(), record.body.as_str()), ("v", "{\"a\":1}"));
}

#[test]
fn newer_and_foreign_files_are_refused_untouched() {
    let dir = tempfile::tempdir().unwrap();
    drop(Database::open(dir.path()).unwrap());
    let raw = rusqlite::Connection::open(dir.path().join("brig.db")).unwrap();
    raw.pragma_update(None, "user_version", 1000).unwrap();
    let error = Database::open(dir.path()).unwrap_err();
    assert!(matches!(error, Error::Newer { found: 1000, .. }), "{error}");
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.hint().is_some());
    raw.pragma_update(None, "application_id", 7).unwrap();
    assert!(matches!(Database::open(dir.path()).unwrap_err(), Error::Foreign { .. }));
    drop(raw);
    std::fs::write(dir.path().join("brig.db"), "not a database, but long enough to have a header".repeat(10))
        .unwrap();
    for name in ["brig.db-wal", "brig.db-shm"] {
        drop(std::fs::remove_file(dir.path().join(name)));
    }
    assert_eq!(Database::open(dir.path()).unwrap_err().kind(), Kind::DataLoss);
}

#[test]
fn a_data_root_is_open_once() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path()).unwrap();
    assert!(matches!(Database::open(dir.path()).unwrap_err(), Error::InUse { .. }));
    drop(db);
    Database::open(dir.path()).unwrap();
}

#[test]
fn a_write_that_fails_changes_nothing_and_reads_see_one_state() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path()).unwrap();
    let failed: Result<(), Error> = db.write(|tx| {
        tx.put_image(&image(digest('a')), &[digest('b')])?;
        assert_eq!(tx.list_images()?.len(), 1, "a write sees itself");
        Err(Error::NameTaken { kind: RecordKind::Volume, name: String::new(), id: String::new() })
    });
    assert!(failed.is_err());
    db.read(|tx| -> Result<(), Error> {
        assert!(tx.list_images()?.is_empty());
        db.write(|tx| tx.put_image(&image(digest('a')), &[digest('b')]))?;
        assert!(tx.list_images()?.is_empty(), "a read goes on seeing what it saw");
        Ok(())
    })
    .unwrap();
    assert_eq!(db.read(|tx| tx.list_images()).unwrap().len(), 1);
}

#[test]
fn deleting_an_image_takes_its_names_and_its_hold_on_blobs() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path()).unwrap();
    let name = |image_id| ReferenceRow { repository: "h/r".into(), label: ":t".into(), image_id };
    db.write(|tx| -> Result<(), Error> {
        tx.put_image(&image(digest('a')), &[digest('b'), digest('c')])?;
        tx.put_image(&image(digest('d')), &[digest('b')])?;
        tx.put_reference(&name(digest('a')), 1)?;
        tx.put_reference(&name(digest('d')), 2)?;
        assert_eq!(tx.references_of(&digest('a'))?, []);
        assert_eq!(tx.image(&digest('d'))?.unwrap().tagged_ms, Some(2));
        assert!(tx.delete_image(&digest('d'))?);
        assert!(!tx.delete_image(&digest('d'))?);
        assert_eq!(tx.reference("h/r", ":t")?, None);
        assert_eq!(tx.list_image_blobs()?, [digest('b'), digest('c')]);
        assert_eq!(tx.image_ids_by_prefix("aaa")?, [digest('a')]);
        assert_eq!(tx.image_ids_by_prefix("ab")?, []);
        Ok(())
    })
    .unwrap();
    // A name for an image that is not there is refused.
    assert!(db.write(|tx| tx.put_reference(&name(digest('f')), 1)).is_err());
}

#[test]
fn records_have_one_name_each() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path()).unwrap();
    let kind = RecordKind::Container;
    db.put_record(kind, "1", "web", "{}").unwrap();
    db.put_record(kind, "2", "db", "{}").unwrap();
    let error = db.put_record(kind, "2", "web", "{}").unwrap_err();
    assert_eq!(error.to_string(), "container name \"web\" is already in use by 1");
    assert_eq!(error.kind(), Kind::AlreadyExists);
    db.put_record(kind, "1", "front", "{\"x\":1}").unwrap();
    db.put_record(kind, "2", "web", "{}").unwrap();
    db.put_record(RecordKind::Network, "2", "web", "{}").unwrap();
    let all = db.list_records(kind).unwrap();
    let all: Vec<_> = all.iter().map(|r| (r.id.as_str(), r.name.as_str(), r.body.as_str())).collect();
    assert_eq!(all, [("1", "front", "{\"x\":1}"), ("2", "web", "{}")]);
    assert!(db.delete_record(kind, "1").unwrap());
    assert!(!db.delete_record(kind, "1").unwrap());
    assert_eq!(db.get_record(kind, "1").unwrap(), None);
}

#[test]
fn many_threads_read_and_write() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let db = &db;
            scope.spawn(move || {
                for n in 0..50 {
                    let id = format!("{thread}-{n}");
                    db.put_record(RecordKind::Container, &id, &id, "{}").unwrap();
                    assert!(db.get_record(RecordKind::Container, &id).unwrap().is_some());
                    db.list_records(RecordKind::Container).unwrap();
                }
            });
        }
    });
    assert_eq!(db.list_records(RecordKind::Container).unwrap().len(), 400);
    db.checkpoint().unwrap();
}

#[test]
fn layers_and_snapshots_are_inserted_once() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path()).unwrap();
    let layer = LayerRow {
        chain_id: digest('a'),
        number: 1,
        parent: None,
        diff_id: digest('a'),
        size_bytes: 5,
        durable: false,
    };
    db.write(|tx| -> Result<(), Error> {
        assert!(tx.insert_layer(&layer)?);
        assert!(!tx.insert_layer(&LayerRow { number: 2, ..layer.clone() })?);
        assert_eq!(tx.layer(&layer.chain_id)?.as_ref(), Some(&layer));
        assert!(tx.set_layer_durable(&layer.chain_id)?);
        assert!(!tx.set_layer_durable(&digest('b'))?);
        let snapshot = SnapshotRow { key: "k".into(), number: 3, parent: None };
        assert!(tx.insert_snapshot(&snapshot)?);
        assert!(!tx.insert_snapshot(&snapshot)?);
        assert!(tx.delete_snapshot("k")? && tx.delete_layer(&layer.chain_id)?);
        Ok(())
    })
    .unwrap();
}

/// Not a test of its own: the child of the next one.
#[test]
fn child_that_writes_until_killed() {
    let Some(dir) = std::env::var_os("BRIG_TEST_CRASH_DIR") else { return };
    let db = Database::open(Path::new(&dir)).unwrap();
    let mut out = std::io::stdout();
    for n in 0.. {
        let id = n.to_string();
        // Two records that must come or not come together.
        let write = |tx: &metadata::WriteTx<'_>| {
            tx.put_record(RecordKind::Container, &id, &id, "{}")?;
            tx.put_record(RecordKind::Network, &id, &id, "{}")
        };
        if n % 5 == 0 { db.write_durable(write) } else { db.write(write) }.unwrap();
        writeln!(out, "acknowledged {n}").unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn what_was_acknowledged_survives_kill_at_any_moment() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..15 {
        let mut acknowledged = None;
        let path = dir.path().join(round.to_string());
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_writes_until_killed", "--nocapture"])
            .env("BRIG_TEST_CRASH_DIR", &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let number = |line: String| line.strip_prefix("acknowledged ").and_then(|n| n.parse::<usize>().ok());
        for _ in 0..round * 7 + 5 {
            acknowledged = lines.next().and_then(|line| number(line.unwrap())).or(acknowledged);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines.map_while(Result::ok) {
            acknowledged = number(line).or(acknowledged);
        }
        let db = Database::open(&path).unwrap();
        let containers = db.list_records(RecordKind::Container).unwrap().len();
        assert_eq!(containers, db.list_records(RecordKind::Network).unwrap().len());
        assert!(containers > acknowledged.unwrap(), "{containers} of {acknowledged:?}");
    }
}
