//! Removing, and what is found after a crash.

use crate::{Bench, each, names, write};
use rustix::fs::{AtFlags, CWD, IFlags, Mode, OFlags};
use snapshot::MountOptions;
use std::path::Path;

#[test]
fn layers_go_when_neither_root_nor_snapshot_needs_them() {
    each(|bench| {
        let a = bench.layer("a", None, |root| write(root, "a", ""));
        let b = bench.layer("b", Some(a), |root| write(root, "b", ""));
        let c = bench.layer("c", Some(a), |root| write(root, "c", ""));
        bench.driver.prepare("c1", Some(&c)).unwrap();
        let gone = |roots: &[_]| -> Vec<_> {
            bench.driver.remove_unused_layers(roots).unwrap().into_iter().map(|row| row.chain_id).collect()
        };
        assert_eq!(gone(&[b]), []);
        assert_eq!(gone(&[]), [b]);
        bench.mounted("c1", MountOptions::default(), |root| assert_eq!(names(root), ["a", "c"]));
        bench.driver.remove("c1").unwrap();
        assert_eq!(gone(&[]), [c, a], "upper ones first");
        assert_eq!(bench.driver.empty_trash().unwrap(), 4);
    });
}

/// What a driver remembers of a layer goes with it: one that comes back is in another directory.
#[test]
fn a_layer_that_went_and_came_back_is_the_new_one() {
    each(|bench| {
        for (n, text) in ["first", "second", "third"].iter().enumerate() {
            let below = bench.layer("below", None, |root| write(root, "below", text));
            let above = bench.layer("above", Some(below), |root| write(root, "above", text));
            for _ in 0..2 {
                bench.on(Some(above), |root| {
                    for name in ["below", "above"] {
                        assert_eq!(std::fs::read_to_string(root.join(name)).unwrap(), *text);
                    }
                });
            }
            match n {
                1 => assert!(
                    bench.driver.forget_layer(&above).unwrap() && bench.driver.forget_layer(&below).unwrap()
                ),
                _ => assert_eq!(bench.driver.remove_unused_layers(&[]).unwrap().len(), 2),
            }
        }
    });
}

#[test]
fn reconcile_finds_both_kinds_of_disagreement_once() {
    each(|bench| {
        let kept = bench.layer("kept", None, |root| write(root, "a", ""));
        let lost = bench.layer("lost", None, |root| write(root, "a", ""));
        for key in ["kept", "lost"] {
            bench.driver.prepare(key, Some(&kept)).unwrap();
        }
        let dir_of = |path: &Path| path.parent().unwrap().to_path_buf();
        std::fs::remove_dir_all(bench.place_of(&lost)).unwrap();
        std::fs::remove_dir_all(dir_of(&bench.driver.upper("lost").unwrap())).unwrap();
        // Work that was under way when the process died: its directory must not be given out again.
        std::mem::forget(bench.driver.prepare_layer(None).unwrap());
        bench.restart();
        let fresh = bench.driver.prepare_layer(None).unwrap();
        drop(fresh);
        let done = bench.driver.reconcile().unwrap();
        assert_eq!(
            (done.lost_layers, done.lost_snapshots, done.orphans),
            (vec![lost], vec!["lost".into()], 1)
        );
        assert!(bench.driver.reconcile().unwrap().is_clean());
        bench.mounted("kept", MountOptions::default(), |root| assert_eq!(names(root), ["a"]));
    });
}

/// The upper directory of a snapshot whose container did this.
fn hostile(bench: &Bench, make: impl FnOnce(&Path)) {
    bench.driver.prepare("hostile", None).unwrap();
    make(&bench.driver.upper("hostile").unwrap());
    bench.driver.usage("hostile").unwrap();
    bench.driver.remove("hostile").unwrap();
    assert_eq!(bench.driver.empty_trash().unwrap(), 1);
    assert_eq!(bench.driver.empty_trash().unwrap(), 0);
}

#[test]
fn trees_deeper_than_any_path_are_measured_and_removed() {
    each(|bench| {
        hostile(bench, |upper| {
            let mut dir =
                rustix::fs::open(upper, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
            for _ in 0..5_000 {
                rustix::fs::mkdirat(&dir, "d", Mode::from_raw_mode(0o700)).unwrap();
                dir = rustix::fs::openat(&dir, "d", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                    .unwrap();
            }
        });
    });
}

#[test]
fn symlinks_are_not_followed_and_immutable_files_go() {
    each(|bench| {
        let outside = bench.dir.join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("precious"), "x").unwrap();
        hostile(bench, |upper| {
            std::os::unix::fs::symlink(&outside, upper.join("link")).unwrap();
            std::fs::create_dir(upper.join("d")).unwrap();
            std::fs::write(upper.join("d/stubborn"), "x").unwrap();
            rustix::fs::chmodat(CWD, upper.join("d"), Mode::empty(), AtFlags::empty()).unwrap();
            for path in [upper.join("d/stubborn"), upper.join("d")] {
                let fd = std::fs::File::open(path).unwrap();
                let flags = rustix::fs::ioctl_getflags(&fd).unwrap();
                rustix::fs::ioctl_setflags(&fd, flags | IFlags::IMMUTABLE).unwrap();
            }
        });
        assert_eq!(names(&outside), ["precious"]);
    });
}

#[test]
fn a_mount_in_the_trash_is_not_entered() {
    each(|bench| {
        bench.driver.prepare("c", None).unwrap();
        bench.driver.prepare("other", None).unwrap();
        let inner = bench.driver.upper("c").unwrap().join("inner");
        std::fs::create_dir(&inner).unwrap();
        // A file system of another device; a bind of the same would be found busy by rmdir, after its content.
        bench.driver.mount("other", &inner, &MountOptions::default()).unwrap();
        std::fs::write(inner.join("file"), "x").unwrap();
        bench.driver.remove("c").unwrap();
        let emptied = bench.driver.empty_trash();
        assert_eq!(names(&bench.driver.upper("other").unwrap()), ["file"]);
        let mounts = mount::list_below(&bench.dir).unwrap();
        if bench.driver.driver() == "btrfs" {
            // The kernel takes the mount away with the subvolume.
            assert_eq!((emptied.unwrap(), mounts.len()), (1, 0));
            return;
        }
        assert!(emptied.is_err());
        assert_eq!(mounts.len(), 1);
        mount::unmount(&mounts[0].target).unwrap();
        assert_eq!(bench.driver.empty_trash().unwrap(), 1);
    });
}
