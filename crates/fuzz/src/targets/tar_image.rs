//! A layer made an EROFS image: the same tar gives the same bytes.

use rootdir::RootDir;
use std::fs;
use std::io::Read as _;

pub(crate) fn run(data: &[u8]) {
    let first = image(data);
    assert!(first == image(data), "two images of one tar differ");
}

/// The image's bytes, or the error's text.
fn image(data: &[u8]) -> Result<Vec<u8>, String> {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let path = directory.path().join("image");
    let file = fs::File::create(&path).expect("the directory is writable");
    let root = directory.path().join("root");
    fs::create_dir(&root).expect("the directory is new");
    let root = RootDir::open(&root).expect("it was made a moment ago");
    archive::write_image(data, file, &root).map_err(|e| e.to_string())?;
    let mut out = Vec::new();
    // A tar can say that it holds a large file of holes; its begin tells enough.
    let file = fs::File::open(&path).expect("it was written");
    file.take(4 << 20).read_to_end(&mut out).expect("it can be read");
    Ok(out)
}
