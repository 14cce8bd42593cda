//! Layers under a mount.

use crate::{each, mkdir, names, write};
use errors::{HasKind, Kind};
use oci::Digest;
use rustix::fs::{AtFlags, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use snapshot::NewLayer;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

#[test]
fn upper_layers_hide_lower_ones() {
    each(|bench| {
        let a = bench.layer("a", None, |root| {
            mkdir(root, "d");
            write(root, "d/x", "a");
            write(root, "d/y", "a");
        });
        let b = bench.layer("b", Some(a), |root| {
            mkdir(root, "d");
            write(root, "d/x", "b");
        });
        bench.on(Some(b), |root| {
            assert_eq!(std::fs::read_to_string(root.join("d/x")).unwrap(), "b");
            assert_eq!(std::fs::read_to_string(root.join("d/y")).unwrap(), "a");
        });
        bench.on(Some(a), |root| assert_eq!(std::fs::read_to_string(root.join("d/x")).unwrap(), "a"));
        bench.on(None, |root| assert!(names(root).is_empty()));
        let layers = bench.driver.layers(&b).unwrap();
        assert_eq!(std::fs::read_to_string(layers.paths[0].join("d/x")).unwrap(), "b", "topmost first");
    });
}

#[test]
fn whiteouts_and_opaque_directories_hide_what_is_below() {
    each(|bench| {
        let a = bench.layer("a", None, |root| {
            for dir in ["gone", "emptied"] {
                mkdir(root, dir);
                write(root, &format!("{dir}/x"), "a");
            }
            write(root, "file", "a");
        });
        let b = bench.layer("b", Some(a), |root| {
            for name in ["gone", "file"] {
                rustix::fs::mknodat(root, name, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
            }
            mkdir(root, "emptied");
            write(root, "emptied/y", "b");
            let dir =
                root.open_file(Path::new("emptied"), rustix::fs::OFlags::DIRECTORY, Mode::empty()).unwrap();
            rustix::fs::fsetxattr(&dir, c"trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
        });
        bench.on(Some(b), |root| {
            assert_eq!(names(root), ["emptied"]);
            assert_eq!(names(&root.join("emptied")), ["y"]);
        });
    });
}

#[test]
fn links_owners_modes_times_attributes_and_devices_are_kept() {
    each(|bench| {
        let a = bench.layer("a", None, |root| {
            write(root, "file", "a");
            rustix::fs::linkat(root, "file", root, "link", AtFlags::empty()).unwrap();
            rustix::fs::symlinkat("/nowhere", root, "symlink").unwrap();
            rustix::fs::mknodat(
                root,
                "null",
                FileType::CharacterDevice,
                Mode::from_raw_mode(0o666),
                rustix::fs::makedev(1, 3),
            )
            .unwrap();
            rustix::fs::mknodat(root, "fifo", FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
            let (uid, gid) = (Uid::from_raw(1000), Gid::from_raw(3_000_000_000));
            rustix::fs::chownat(root, "file", Some(uid), Some(gid), AtFlags::empty()).unwrap();
            let fd = root.open_file(Path::new("file"), rustix::fs::OFlags::RDONLY, Mode::empty()).unwrap();
            rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o6751)).unwrap();
            rustix::fs::fsetxattr(&fd, c"user.colour", b"blue\0green", XattrFlags::empty()).unwrap();
            let time = Timespec { tv_sec: 1_000_000_000, tv_nsec: 123_456_789 };
            rustix::fs::futimens(&fd, &Timestamps { last_access: time, last_modification: time }).unwrap();
        });
        bench.on(Some(a), |root| {
            let file = std::fs::symlink_metadata(root.join("file")).unwrap();
            assert_eq!((file.uid(), file.gid(), file.nlink()), (1000, 3_000_000_000, 2));
            assert_eq!(file.permissions().mode() & 0o7777, 0o6751);
            assert_eq!((file.mtime(), file.mtime_nsec()), (1_000_000_000, 123_456_789));
            assert_eq!(file.ino(), std::fs::symlink_metadata(root.join("link")).unwrap().ino());
            assert_eq!(std::fs::read_link(root.join("symlink")).unwrap(), Path::new("/nowhere"));
            let null = std::fs::symlink_metadata(root.join("null")).unwrap();
            assert!(null.file_type().is_char_device());
            assert_eq!(null.rdev(), rustix::fs::makedev(1, 3));
            assert!(std::fs::symlink_metadata(root.join("fifo")).unwrap().file_type().is_fifo());
            let mut value = [0; 32];
            let length = rustix::fs::getxattr(root.join("file"), c"user.colour", &mut value[..]).unwrap();
            assert_eq!(&value[..length], b"blue\0green");
        });
    });
}

#[test]
fn one_to_many_layers_mount() {
    each(|bench| {
        let mut top = None;
        // Whole trees are copied from layer to layer.
        let most = if bench.driver.needs_parent() { 20 } else { 150 };
        for n in 1..=most {
            let name = format!("f{n}");
            top = Some(bench.layer(&name, top, |root| write(root, &name, "")));
            if [1, 2, 10, 130, 150].contains(&n) {
                bench.on(top, |root| assert_eq!(names(root).len(), n));
            }
        }
    });
}

#[test]
fn layers_are_committed_in_any_order_and_once() {
    each(|bench| {
        if bench.driver.needs_parent() {
            return;
        }
        let (diff_a, diff_b) = (Digest::of(b"a"), Digest::of(b"b"));
        let a = Digest::chain(None, diff_a);
        let b = Digest::chain(Some(a), diff_b);
        let commit = |chain_id, parent, diff_id, content: &str| {
            let dir = bench.prepare_layer(parent, |root| write(root, "who", content));
            bench.driver.commit_layer(dir, &NewLayer { chain_id, parent, diff_id, size_bytes: 0 }).unwrap()
        };
        assert!(commit(b, Some(a), diff_b, "b"));
        assert_eq!(bench.driver.layers(&b).unwrap_err().kind(), Kind::NotFound);
        assert!(commit(a, None, diff_a, "a"));
        assert!(!commit(b, Some(a), diff_b, "other"), "the second of two is dropped");
        bench.on(Some(b), |root| assert_eq!(std::fs::read_to_string(root.join("who")).unwrap(), "b"));
        // Neither was made durable: a restart forgets them.
        assert_eq!(bench.driver.reconcile().unwrap().lost_layers.len(), 2);
        assert_eq!(bench.driver.layer(&a).unwrap(), None);
    });
}

#[test]
fn a_layer_that_is_dropped_leaves_nothing() {
    each(|bench| {
        drop(bench.prepare_layer(None, |root| write(root, "x", "")));
        assert_eq!(bench.driver.empty_trash().unwrap(), 1);
    });
}
