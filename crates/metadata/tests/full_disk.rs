//! A disk that fills up while the database is in use, with blocks smaller than pages: whatever fails, it fails as an error.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use metadata::{Database, RecordKind};
use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

const SIZE: u64 = 14 << 20;

/// An ext4 in a file.
struct Small {
    dir: tempfile::TempDir,
}

impl Small {
    fn new(block_size: &str) -> Option<Small> {
        let small = Small { dir: tempfile::tempdir().unwrap() };
        let disk = small.dir.path().join("disk");
        std::fs::create_dir(small.root()).unwrap();
        std::fs::File::create(&disk).unwrap().set_len(SIZE).unwrap();
        let run = |program: &str, args: &[&OsStr]| {
            Command::new(program).args(args).output().is_ok_and(|out| out.status.success())
        };
        let made = run("mkfs.ext4", &["-q".as_ref(), "-b".as_ref(), block_size.as_ref(), disk.as_ref()])
            && run("mount", &["-o".as_ref(), "loop".as_ref(), disk.as_ref(), small.root().as_ref()]);
        // Without root or a loop device there is nothing to be tried.
        made.then_some(small)
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("fs")
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        rustix::mount::unmount(self.root(), rustix::mount::UnmountFlags::DETACH).unwrap_or_default();
    }
}

fn fill(root: &Path) {
    let mut file = std::fs::File::create(root.join("filler")).unwrap();
    for size in [1 << 20, 4096, 1024, 1] {
        while file.write_all(&vec![7; size]).is_ok() {}
    }
    drop(file.sync_all());
}

#[test]
fn a_full_disk_is_an_error_and_not_a_signal() {
    for block_size in ["1024", "4096"] {
        let Some(small) = Small::new(block_size) else { return };
        let data = small.root().join("data");
        let db = Database::open(&data).unwrap();
        assert!(!data.join("brig.db-shm").exists(), "nothing of the database is mapped from the disk");
        fill(&small.root());
        let text = "x".repeat(3000);
        let failed = (0..2000).find_map(|n| {
            db.read(|tx| tx.list_layers()).unwrap();
            db.put_record(RecordKind::Container, &n.to_string(), &n.to_string(), &text).err()
        });
        assert!(failed.is_some(), "nothing ever failed");
        std::fs::remove_file(small.root().join("filler")).unwrap();
        db.put_record(RecordKind::Container, "last", "last", &text).unwrap();
        drop(db);
        let db = Database::open(&data).unwrap();
        assert!(db.list_records(RecordKind::Container).unwrap().iter().any(|row| row.id == "last"));
    }
}

/// With an index of the log in a mapped file this ended with SIGBUS where the disk had room for one block of each of its
/// pages, and not for all.
#[test]
fn a_database_is_opened_whatever_room_there_is() {
    let Some(small) = Small::new("1024") else { return };
    let data = small.root().join("data");
    drop(Database::open(&data).unwrap());
    fill(&small.root());
    let filler = small.root().join("filler");
    let full = std::fs::metadata(&filler).unwrap().len();
    for room in 0..64 {
        let file = std::fs::File::options().write(true).open(&filler).unwrap();
        file.set_len(full - room * 1024).unwrap();
        rustix::fs::syncfs(&file).unwrap();
        // Some do not open, for want of room; none ends the process.
        if let Ok(db) = Database::open(&data) {
            drop(db.put_record(RecordKind::Container, "one", "one", "x"));
        }
    }
}
