use super::*;

fn record(reference: &str, at: i64) -> HistoryRecord {
    HistoryRecord {
        reference: reference.into(),
        created_at: Some(Timestamp { seconds: at, nanos: 0 }),
        completed_at: Some(Timestamp { seconds: at + 1, nanos: 0 }),
        ..HistoryRecord::default()
    }
}

fn all(history: &History) -> Vec<(i32, String)> {
    let (events, _) = history.list(&HistoryRequest::default()).expect("listed");
    events.into_iter().map(|e| (e.kind, e.record.map(|r| r.reference).unwrap_or_default())).collect()
}

#[test]
fn records_survive_and_what_is_pinned_stays() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let home = dir.path().join("history");
    let history = History::new(home.clone());
    let said = Said { predicate_type: "https://slsa.dev/provenance/v1".into(), bytes: b"{}".to_vec() };
    let descriptor = said.descriptor();
    let mut first = record("first/..", 1);
    first.result =
        Some(crate::wire::HistoryResult { attestations: vec![descriptor.clone()], results: BTreeMap::new() });
    history.begin(first.clone());
    assert_eq!(all(&history), [(HistoryEvent::STARTED, "first/..".to_string())]);
    history.complete(first, &Remains { news: b"news".to_vec(), said: vec![said], ..Remains::default() });
    assert_eq!(all(&history), [(HistoryEvent::COMPLETE, "first/..".to_string())]);
    history.pin("first/..", true).expect("pinned");

    let history = History::new(home.clone());
    assert_eq!(history.news("first/..").expect("read").as_deref(), Some(&b"news"[..]));
    assert_eq!(history.blob(&descriptor.digest).expect("known").0, 2);
    assert_eq!(history.read_blob(&descriptor.digest, 1, 0).expect("read"), b"}");
    for number in 0..=MAX_RECORDS {
        let reference = format!("r{number}");
        history.complete(record(&reference, 10 + i64::try_from(number).expect("small")), &Remains::default());
    }
    let known = all(&history);
    assert_eq!(known.len(), MAX_RECORDS + 1, "the pinned one does not count");
    assert!(known.iter().all(|(_, reference)| reference != "r0"), "the oldest goes");
    assert_eq!(std::fs::read_dir(&home).expect("listed").count(), MAX_RECORDS + 1);
    history.delete("first/..").expect("deleted");
    assert_eq!(history.delete("first/..").expect_err("gone").code(), Code::NotFound);
    assert!(history.blob(&descriptor.digest).is_err());
    assert_eq!(history.news("first/..").expect("no record"), None);
}

#[test]
fn what_is_cut_goes_and_what_is_newer_stays_unread() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let home = dir.path().to_path_buf();
    let history = History::new(home.clone());
    history.complete(record("whole", 1), &Remains::default());
    let make = |name: &str, bytes: &[u8]| {
        std::fs::create_dir_all(home.join(name)).expect("directory");
        std::fs::write(home.join(name).join(RECORD), bytes).expect("written");
    };
    make("new-1", b"");
    make(&"a".repeat(64), b"brigbh\0\x02anything");
    make(&"b".repeat(64), &encode(&record("other", 1)));
    make(&"c".repeat(64), b"bri");
    let history = History::new(home.clone());
    assert_eq!(all(&history), [(HistoryEvent::COMPLETE, "whole".to_string())]);
    let mut left: Vec<String> = std::fs::read_dir(&home)
        .expect("listed")
        .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
        .collect();
    left.sort();
    let mut expected = vec!["a".repeat(64), Digest::of(b"whole").hex()];
    expected.sort();
    assert_eq!(left, expected);
}

/// A record that was written by version 1 of the form.
#[test]
fn old_records_are_read() {
    let sample = include_bytes!("sample-1.record");
    let record = decode(sample).expect("of this version");
    assert_eq!(record.reference, "qwerty");
    assert_eq!(record.frontend_attrs["filename"], "Dockerfile");
    assert_eq!((record.cached_steps, record.total_steps, record.pinned), (1, 3, true));
    assert_eq!(encode(&record), sample);
}

#[test]
fn what_could_not_be_read_again_is_not_written() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let history = History::new(dir.path().to_path_buf());
    let mut long = record("long", 1);
    long.frontend_attrs.insert("build-arg:long".into(), "x".repeat(usize::try_from(MAX_RECORD).unwrap()));
    history.begin(long.clone());
    history.complete(long, &Remains::default());
    assert_eq!(all(&history), []);
    assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 0);
    history.begin(record("broken", 2));
    history.abandon("broken");
    assert_eq!(all(&history), []);
}
