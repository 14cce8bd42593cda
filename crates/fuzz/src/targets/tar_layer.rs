//! A layer applied below a directory. Nothing outside may change.

use archive::{Options, Whiteouts, apply};
use rootdir::RootDir;
use std::fs;

pub(crate) fn run(data: &[u8]) {
    let outside = tempfile::tempdir().expect("a temporary directory can be made");
    let root = outside.path().join("root");
    fs::create_dir(&root).expect("the directory is new");
    fs::write(outside.path().join("canary"), "untouched").expect("the directory is writable");
    let handle = RootDir::open(&root).expect("it was made a moment ago");
    for whiteouts in [Whiteouts::Overlay, Whiteouts::Remove, Whiteouts::Keep] {
        let options = Options {
            whiteouts,
            forbid_devices: true,
            // Holes cost the test nothing but what is written does.
            max_bytes: 1 << 20,
            ..Options::default()
        };
        match apply(data, &handle, &options) {
            Ok(applied) => assert_eq!(applied.tar_bytes, data.len() as u64, "the stream was not read to its end"),
            Err(e) => assert!(!e.to_string().is_empty()),
        }
    }
    let mut names: Vec<_> = fs::read_dir(outside.path())
        .expect("the directory is still there")
        .map(|e| e.expect("it can be read").file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["canary", "root"], "something was made or removed outside");
    assert_eq!(fs::read(outside.path().join("canary")).expect("the canary lives"), b"untouched");
}
