//! A container's log in the json-file format.

use logs::{Options, Reader};

pub(crate) fn run(data: &[u8]) {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let path = directory.path().join("log.json");
    std::fs::write(&path, data).expect("the directory is writable");
    let count = |tail| {
        let mut reader = Reader::open(&path, Options { tail, ..Options::default() }).ok()?;
        let mut count = 0usize;
        while let Ok(Some(_)) = reader.next() {
            count += 1;
        }
        Some(count)
    };
    let all = count(None).expect("a plain file can be opened");
    assert!(count(Some(2)).is_some_and(|tail| tail <= all.max(2)));
}
