//! Writable snapshots.

use crate::{each, mkdir, names, write};
use errors::{HasKind, Kind};
use oci::Digest;
use snapshot::MountOptions;

#[test]
fn changes_stay_apart_and_outlive_mounts_and_restarts() {
    each(|bench| {
        let a = bench.layer("a", None, |root| write(root, "file", "a"));
        for key in ["c1", "c2"] {
            bench.driver.prepare(key, Some(&a)).unwrap();
            // A volatile mount leaves a marker behind that a plain mount refuses; both kinds must go after both.
            for volatile in [true, true, false, true] {
                bench.mounted(key, MountOptions { volatile, read_only: false }, |root| {
                    std::fs::write(root.join("file"), key).unwrap();
                });
            }
        }
        bench.restart();
        assert!(bench.driver.reconcile().unwrap().is_clean());
        for key in ["c1", "c2"] {
            bench.mounted(key, MountOptions::default(), |root| {
                assert_eq!(std::fs::read_to_string(root.join("file")).unwrap(), key);
            });
            assert_eq!(names(&bench.driver.upper(key).unwrap()), ["file"]);
        }
        bench.on(Some(a), |root| assert_eq!(std::fs::read_to_string(root.join("file")).unwrap(), "a"));
        let keys: Vec<String> = bench.driver.list().unwrap().into_iter().map(|s| s.key).collect();
        assert_eq!(keys, ["c1", "c2"]);
    });
}

#[test]
fn a_removed_file_and_a_replaced_directory_stay_so() {
    each(|bench| {
        let a = bench.layer("a", None, |root| {
            write(root, "file", "a");
            mkdir(root, "dir");
            write(root, "dir/old", "a");
        });
        bench.driver.prepare("c", Some(&a)).unwrap();
        bench.mounted("c", MountOptions::default(), |root| {
            std::fs::remove_file(root.join("file")).unwrap();
            std::fs::remove_dir_all(root.join("dir")).unwrap();
            std::fs::create_dir(root.join("dir")).unwrap();
            std::fs::write(root.join("dir/new"), "c").unwrap();
        });
        bench.mounted("c", MountOptions::default(), |root| {
            assert_eq!(names(root), ["dir"]);
            assert_eq!(names(&root.join("dir")), ["new"]);
        });
    });
}

#[test]
fn a_read_only_mount_refuses_writes() {
    each(|bench| {
        bench.driver.prepare("c", None).unwrap();
        bench.mounted("c", MountOptions { volatile: false, read_only: true }, |root| {
            let error = std::fs::write(root.join("x"), "").unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        });
    });
}

#[test]
fn keys_and_parents_are_checked() {
    each(|bench| {
        let missing = Digest::of(b"missing");
        let driver = &bench.driver;
        driver.prepare("c", None).unwrap();
        assert_eq!(driver.prepare("c", None).unwrap_err().kind(), Kind::AlreadyExists);
        assert_eq!(driver.prepare("d", Some(&missing)).unwrap_err().kind(), Kind::NotFound);
        for kind in [
            driver.mount("d", &bench.dir, &MountOptions::default()).unwrap_err().kind(),
            driver.upper("d").unwrap_err().kind(),
            driver.usage("d").unwrap_err().kind(),
            driver.layers(&missing).unwrap_err().kind(),
        ] {
            assert_eq!(kind, Kind::NotFound);
        }
        assert!(!driver.remove("d").unwrap());
        assert!(driver.remove("c").unwrap());
        // A key is free again at once, though its files may still be in the trash.
        driver.prepare("c", None).unwrap();
        bench.mounted("c", MountOptions::default(), |root| assert!(names(root).is_empty()));
    });
}

#[test]
fn usage_counts_what_changed_and_hard_links_once() {
    each(|bench| {
        let a = bench.layer("a", None, |root| write(root, "big", &"x".repeat(100_000)));
        bench.driver.prepare("c", Some(&a)).unwrap();
        assert_eq!(bench.driver.usage("c").unwrap().inodes, 0);
        bench.mounted("c", MountOptions::default(), |root| {
            std::fs::write(root.join("x"), vec![1; 1000]).unwrap();
            std::fs::hard_link(root.join("x"), root.join("y")).unwrap();
            std::fs::create_dir(root.join("d")).unwrap();
            std::fs::write(root.join("d/z"), vec![1; 20]).unwrap();
            let usage = bench.driver.usage("c").unwrap();
            assert_eq!((usage.size_bytes, usage.inodes), (1020, 3));
            assert!(usage.disk_bytes >= 1020);
        });
    });
}

#[test]
fn a_target_that_is_not_there_is_a_clear_error() {
    each(|bench| {
        bench.driver.prepare("c", None).unwrap();
        let error =
            bench.driver.mount("c", &bench.dir.join("nowhere"), &MountOptions::default()).unwrap_err();
        let text = errors::chain(&error);
        assert!(text.starts_with("mount snapshot c: "), "{text}");
        assert!(text.contains("move_mount"), "{text}");
        assert_eq!(error.kind(), Kind::NotFound);
    });
}

/// The message names the cause: the kernel only says EINVAL.
#[test]
fn an_upper_on_overlay_is_explained() {
    each(|bench| {
        bench.driver.prepare("outer", None).unwrap();
        bench.mounted("outer", MountOptions { volatile: true, read_only: false }, |root| {
            let dir = |name: &str| {
                let path = root.join(name);
                std::fs::create_dir(&path).unwrap();
                path
            };
            let (lower, upper, work, target) = (dir("l"), dir("u"), dir("w"), dir("t"));
            let lowers = [lower];
            let overlay = mount::Overlay {
                lowers: &lowers,
                upper: &upper,
                work: &work,
                volatile: false,
                read_only: false,
            };
            match mount::mount_overlay(&overlay, &target) {
                Ok(()) => mount::detach(&target).unwrap(),
                Err(e) => assert!(e.hint().is_some_and(|hint| hint.contains("itself on overlay")), "{e:?}"),
            }
        });
    });
}

/// Either the limit holds or it is refused.
#[test]
fn a_limit_holds_or_is_refused() {
    each(|bench| {
        let a = bench.layer("a", None, |root| write(root, "big", &"x".repeat(3_000_000)));
        bench.driver.prepare("c", Some(&a)).unwrap();
        let limited = bench.driver.limit("c", 2 << 20);
        if bench.driver.driver() != "btrfs" {
            assert_eq!(limited.unwrap_err().kind(), Kind::Unsupported);
            return;
        }
        limited.unwrap();
        bench.mounted("c", MountOptions::default(), |root| {
            std::fs::write(root.join("small"), vec![1; 500_000]).unwrap();
            let much = std::fs::write(root.join("much"), vec![1; 8 << 20]);
            let much = much.and_then(|()| std::fs::File::open(root.join("much"))?.sync_all());
            assert_eq!(much.unwrap_err().kind(), std::io::ErrorKind::QuotaExceeded);
        });
    });
}
