//! An archive of `docker save` or an OCI layout, loaded into a store of its own.

use content::ContentStore;
use image::Images;
use metadata::Database;
use oci::Platform;
use snapshot::{Overlay, Snapshotter};
use std::sync::Arc;

pub(crate) fn run(data: &[u8]) {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let root = directory.path();
    let db = Arc::new(Database::open(root).expect("the directory is new"));
    let content = ContentStore::open(&root.join("content")).expect("the directory is new");
    let overlay: Arc<dyn Snapshotter> =
        Arc::new(Overlay::open(&root.join("overlay"), Arc::clone(&db)).expect("the directory is new"));
    let images = Images::open(root, db, content.clone(), overlay).expect("the directory is new");
    let loaded = images.load(data, Some(&Platform::host()), &image::ignore);
    let found = images.list().expect("the database answers").len();
    match loaded {
        Ok(loaded) => assert!(found <= loaded.len()),
        Err(e) => assert!(!e.to_string().is_empty()),
    }
    let _swept = images.collect_garbage();
    for digest in content.list().expect("the store answers") {
        content.verify(&digest).expect("a blob has the digest of its name");
    }
}
