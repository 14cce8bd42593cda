//! Measures how long a layer takes from its blob to the disk, against the floor: the same bytes decompressed on one
//! core, hashed and written as one file on another.
//!
//! ```text
//! cargo run --release -p image --example unpack -- BLOB DIR [erofs|overlay|floor]...
//! ```
//!
//! Prints milliseconds, and the megabytes by which the process grew at most.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a tool for people at a terminal")]

use content::ContentStore;
use image::{Images, ignore};
use metadata::Database;
use oci::{Descriptor, Digest};
use snapshot::{LayerForm, Overlay, Snapshotter};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(blob), Some(dir)) = (arguments.next(), arguments.next()) else {
        println!("want: BLOB DIR [erofs|overlay|floor]...");
        return;
    };
    let (blob, dir) = (Path::new(&blob), Path::new(&dir));
    let diff_id = diff_id(blob);
    for what in arguments {
        let what = what.to_string_lossy().into_owned();
        let scratch = dir.join(&what);
        std::fs::create_dir_all(&scratch).unwrap();
        let before = peak_kib();
        let milliseconds = match what.as_str() {
            "floor" => floor(blob, &scratch),
            "erofs" => unpack(blob, &scratch, diff_id, LayerForm::Image),
            _ => unpack(blob, &scratch, diff_id, LayerForm::Directory),
        };
        println!("{what}: {milliseconds} ms, grew {} MiB", (peak_kib() - before) / 1024);
        std::fs::remove_dir_all(&scratch).unwrap();
        rustix::fs::sync();
    }
}

fn diff_id(blob: &Path) -> Digest {
    let mut tar = archive::Hashing::new(archive::decompress(File::open(blob).unwrap()).unwrap());
    io::copy(&mut tar, &mut io::sink()).unwrap();
    tar.finish().0
}

/// On disk at the end, as a pull is.
fn floor(blob: &Path, scratch: &Path) -> u128 {
    let begin = Instant::now();
    let plain = archive::decompress(File::open(blob).unwrap()).unwrap();
    let mut out = File::create(scratch.join("plain")).unwrap();
    archive::read_ahead(plain, |plain| {
        let mut plain = archive::Hashing::new(plain);
        let mut buffer = vec![0; 256 << 10];
        loop {
            match plain.read(&mut buffer).unwrap() {
                0 => break,
                n => out.write_all(&buffer[..n]).unwrap(),
            }
        }
    });
    print!("({} ms before the sync) ", begin.elapsed().as_millis());
    out.sync_all().unwrap();
    begin.elapsed().as_millis()
}

fn unpack(blob: &Path, scratch: &Path, diff_id: Digest, form: LayerForm) -> u128 {
    let db = Arc::new(Database::open(scratch).unwrap());
    let content = ContentStore::open(&scratch.join("content")).unwrap();
    let mut ingest = content.ingest(None, None).unwrap();
    io::copy(&mut File::open(blob).unwrap(), &mut ingest).unwrap();
    let (digest, size) = ingest.commit().unwrap();
    let overlay = Overlay::open_with(scratch, &scratch.join("mounts"), form, Arc::clone(&db)).unwrap();
    let snapshotter: Arc<dyn Snapshotter> = Arc::new(overlay);
    let images = Images::open(scratch, db, content, Arc::clone(&snapshotter)).unwrap();
    let layer = Descriptor::new("application/vnd.oci.image.layer.v1.tar", digest, size);
    let begin = Instant::now();
    images.unpack_layer(&images.lease(), &layer, &diff_id, None, &ignore).unwrap();
    print!("({} ms before the sync) ", begin.elapsed().as_millis());
    snapshotter.sync().unwrap();
    begin.elapsed().as_millis()
}

/// The most memory that this process ever had.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
