//! A full disk: work fails with its cause, and what is there can be removed.
//!
//! On a tmpfs of a few MiB, and on an ext4 of that size in a loop device where `mkfs.ext4` is there (Debian: e2fsprogs).

use crate::forge::{Forged, Tar};
use crate::store::{Store, is_root, remove};
use errors::{HasKind, Kind};
use metadata::RecordKind;
use oci::{Digest, Platform};
use rustix::mount::{MountFlags, UnmountFlags};
use snapshot::{MountOptions, Snapshotter};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

const SIZE: usize = 14 << 20;

/// A small file system of its own.
struct Small {
    dir: tempfile::TempDir,
}

impl Small {
    fn root(&self) -> PathBuf {
        self.dir.path().join("fs")
    }

    fn tmpfs() -> Small {
        let small = Small { dir: tempfile::tempdir().unwrap() };
        std::fs::create_dir(small.root()).unwrap();
        let options = std::ffi::CString::new(format!("size={SIZE}")).unwrap();
        rustix::mount::mount("tmpfs", small.root(), "tmpfs", MountFlags::empty(), options.as_c_str())
            .unwrap();
        small
    }

    fn ext4() -> Option<Small> {
        let small = Small { dir: tempfile::tempdir().unwrap() };
        std::fs::create_dir(small.root()).unwrap();
        let file = small.dir.path().join("disk");
        std::fs::File::create(&file).unwrap().set_len(SIZE as u64).unwrap();
        let run = |program: &str, args: &[&std::ffi::OsStr]| {
            Command::new(program).args(args).output().is_ok_and(|out| out.status.success())
        };
        let made = run("mkfs.ext4", &["-q".as_ref(), "-N".as_ref(), "20000".as_ref(), file.as_ref()])
            && run("mount", &["-o".as_ref(), "loop".as_ref(), file.as_ref(), small.root().as_ref()]);
        if !made {
            println!("skipped: no mkfs.ext4 or no loop device");
        }
        made.then_some(small)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // A test that failed may have left an overlay on it.
        for mount in mount::list_below(&self.root()).unwrap().iter().rev() {
            rustix::mount::unmount(&mount.target, UnmountFlags::DETACH).unwrap_or_default();
        }
    }
}

/// Takes every free byte. Dropping it is not enough: the file stays.
fn fill(root: &Path) -> PathBuf {
    let path = root.join("filler");
    let mut file = std::fs::File::create(&path).unwrap();
    for size in [1 << 20, 4096, 1] {
        while file.write_all(&vec![7; size]).is_ok() {}
    }
    drop(file.sync_all());
    path
}

fn check(root: &Path) {
    let store = Store::open(root);
    let small = Forged::small("small", 3);
    small.store(&store.content);
    let image = store.import(&small.target(), &["small:1"]).unwrap();
    store.overlay.prepare("c1", image.chain_id.as_ref()).unwrap();
    for n in 0..50 {
        let id = n.to_string();
        store.db.put_record(RecordKind::Container, &id, &id, &"x".repeat(2000)).unwrap();
    }
    let before = store.images.list().unwrap();

    // An image too large for the disk, as a load and as an import.
    let large = Forged::new(&[Tar::new().file("zeros", &vec![0; SIZE]).finish()]);
    large.store(&store.content);
    let error = store.import(&large.target(), &["large:1"]).unwrap_err();
    assert_eq!(error.kind(), Kind::Exhausted, "{}", errors::chain(&error));
    assert_eq!(store.images.collect_garbage().unwrap().blobs.len(), 3);
    assert!(store.overlay.empty_trash().unwrap() > 0);
    let tar = |name: &str, content: &[u8]| Tar::new().file(name, content).finish();
    // The third is not compressed.
    let plain = Forged::new(&[tar("a", b""), tar("b", b""), tar("large", &vec![1; SIZE])]);
    let archive = plain.docker_archive(&["plain:1"]).finish();
    let error = store.images.load(&archive[..], Some(&Platform::host()), &image::ignore).unwrap_err();
    assert_eq!(error.kind(), Kind::Exhausted, "{}", errors::chain(&error));
    assert_eq!(store.images.list().unwrap(), before);

    // A container writes until nothing is left.
    let target = root.join("mnt");
    std::fs::create_dir(&target).unwrap();
    store.overlay.mount("c1", &target, &MountOptions { volatile: true, read_only: false }).unwrap();
    fill(&target);
    store.overlay.unmount(&target).unwrap();
    let filler = fill(root);
    let error = store.content.put(&[1; 100_000]).unwrap_err();
    assert_eq!(error.kind(), Kind::Exhausted, "{}", errors::chain(&error));
    // Some writes may still find room in blocks that the log has already.
    let full = (100..400).find_map(|n| {
        let id = n.to_string();
        store.db.put_record(RecordKind::Container, &id, &id, &"x".repeat(20_000)).err()
    });
    let full = full.expect("the disk is full");
    assert_eq!(full.kind(), Kind::Exhausted, "{}", errors::chain(&full));
    drop(store);

    // The next daemon starts on the full disk; everything can be removed.
    let store = Store::open(root);
    assert_eq!(store.images.list().unwrap(), before);
    for n in 0..50 {
        assert!(store.db.delete_record(RecordKind::Container, &n.to_string()).unwrap());
    }
    assert!(store.overlay.remove("c1").unwrap());
    remove(&store, "small:1", false, &[]).unwrap();
    assert_eq!(store.counts(), (0, 0, 0));
    // Three layers, the snapshot, and what the failed load had unpacked.
    assert!(store.overlay.empty_trash().unwrap() >= 4);
    std::fs::remove_file(filler).unwrap();
    store.db.checkpoint().unwrap();
    assert!(root.join("reserve").exists(), "the reserve is taken again");
    small.store(&store.content);
    store.import(&small.target(), &["small:1"]).unwrap();
    assert!(store.content.contains(&Digest::of(&small.manifest_bytes())));
    store.check();
}

#[test]
fn a_full_tmpfs_is_an_error_and_can_be_emptied() {
    if is_root() {
        check(&Small::tmpfs().root());
    }
}

#[test]
fn a_full_ext4_is_an_error_and_can_be_emptied() {
    if is_root()
        && let Some(small) = Small::ext4()
    {
        check(&small.root());
    }
}
