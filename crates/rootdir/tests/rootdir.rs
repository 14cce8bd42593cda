//! Paths below a root whose owner is hostile. Removal of directories without permissions, and mounts, need root.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests are tests")]

use errors::{HasKind, Kind};
use rootdir::{Error, RootDir};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

struct Arena {
    dir: tempfile::TempDir,
}

impl Arena {
    fn new() -> Arena {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        std::fs::create_dir(dir.path().join("out")).unwrap();
        std::fs::write(dir.path().join("out/secret"), "tweet").unwrap();
        Arena { dir }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join("root").join(path)
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    fn root(&self) -> RootDir {
        RootDir::open(&self.at("")).unwrap()
    }

    /// Nothing outside the root has changed.
    fn assert_out_is_untouched(&self) {
        let names: Vec<_> = std::fs::read_dir(self.out()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["secret"]);
        assert_eq!(std::fs::read_to_string(self.out().join("secret")).unwrap(), "tweet");
    }
}

fn mode(bits: u32) -> Mode {
    Mode::from_raw_mode(bits)
}

#[test]
fn links_lead_inside() {
    let arena = Arena::new();
    symlink(arena.out(), arena.at("abs")).unwrap();
    symlink("../out", arena.at("rel")).unwrap();
    let root = arena.root();
    for path in ["abs/secret", "rel/secret", "../out/secret", "/../../out/secret"] {
        let error = root.read_bounded(path.as_ref(), 10).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound, "{path}");
    }
    assert!(root.write_file_atomic("rel/secret".as_ref(), b"evil", mode(0o644)).is_err());
    // Directories are made where the links point, inside.
    root.create_dir_all("rel/sub".as_ref(), mode(0o700)).unwrap();
    assert_eq!(std::fs::metadata(arena.at("out/sub")).unwrap().mode() & 0o7777, 0o700);
    root.create_dir_all("abs/sub".as_ref(), mode(0o755)).unwrap();
    assert!(arena.at("").join(arena.out().strip_prefix("/").unwrap()).join("sub").is_dir());
    arena.assert_out_is_untouched();
}

#[test]
fn directories_are_made_with_their_mode() {
    let arena = Arena::new();
    let root = arena.root();
    root.create_dir_all("a/b/../c".as_ref(), mode(0o1777)).unwrap();
    for path in ["a", "a/b", "a/c"] {
        assert_eq!(std::fs::metadata(arena.at(path)).unwrap().mode() & 0o7777, 0o1777, "{path}");
    }
    root.create_dir_all("a".as_ref(), mode(0o700)).unwrap();
    assert_eq!(std::fs::metadata(arena.at("a")).unwrap().mode() & 0o7777, 0o1777);
    std::fs::write(arena.at("file"), "").unwrap();
    let error = root.create_dir_all("file/x".as_ref(), mode(0o700)).unwrap_err();
    assert!(error.is_errno(Errno::NOTDIR));
    symlink("loop", arena.at("loop")).unwrap();
    assert!(root.create_dir_all("loop/x".as_ref(), mode(0o700)).unwrap_err().is_errno(Errno::LOOP));
    // A dangling chain that grows with each step ends too.
    symlink("grow/x", arena.at("grow")).unwrap();
    assert!(root.create_dir_all("grow/y".as_ref(), mode(0o700)).is_err());
}

#[test]
fn files_are_new_or_whole() {
    let arena = Arena::new();
    let root = arena.root();
    let mut file = root.create_file("f".as_ref(), mode(0o666)).unwrap();
    file.write_all(b"one").unwrap();
    assert_eq!(std::fs::metadata(arena.at("f")).unwrap().mode() & 0o7777, 0o666);
    symlink(arena.out().join("new"), arena.at("l")).unwrap();
    for path in ["f", "l"] {
        let error = root.create_file(path.as_ref(), mode(0o600)).unwrap_err();
        assert_eq!(error.kind(), Kind::AlreadyExists, "{path}");
    }
    root.write_file_atomic("f".as_ref(), b"two", mode(0o600)).unwrap();
    root.write_file_atomic("l".as_ref(), b"three", mode(0o640)).unwrap();
    assert_eq!(std::fs::read(arena.at("f")).unwrap(), b"two");
    let seen = std::fs::symlink_metadata(arena.at("l")).unwrap();
    assert!(seen.is_file() && seen.mode() & 0o7777 == 0o640);
    assert_eq!(root.list(".".as_ref()).unwrap(), ["f", "l"], "no temporary files are left");
    assert!(matches!(root.create_file("..".as_ref(), mode(0o600)), Err(Error::NoName { .. })));
    assert!(matches!(root.create_file("".as_ref(), mode(0o600)), Err(Error::NoName { .. })));
    arena.assert_out_is_untouched();
}

#[test]
fn reading_has_a_limit_and_wants_regular_files() {
    let arena = Arena::new();
    let root = arena.root();
    std::fs::write(arena.at("f"), "12345").unwrap();
    assert_eq!(root.read_to_string_bounded("f".as_ref(), 5).unwrap(), "12345");
    assert!(matches!(root.read_bounded("f".as_ref(), 4), Err(Error::TooLarge { max: 4, .. })));
    std::fs::write(arena.at("b"), [0xff]).unwrap();
    assert!(matches!(root.read_to_string_bounded("b".as_ref(), 4), Err(Error::NotText { .. })));
    // Nobody writes to this FIFO: opening it would wait for ever.
    rustix::fs::mknodat(&root, "p", rustix::fs::FileType::Fifo, mode(0o666), 0).unwrap();
    for path in ["p", "."] {
        let error = root.read_bounded(path.as_ref(), 4).unwrap_err();
        assert!(matches!(error, Error::WrongType { .. }), "{path}");
    }
    symlink("f", arena.at("l")).unwrap();
    assert_eq!(root.read_link("l".as_ref()).unwrap(), Path::new("f"));
    assert_eq!(root.metadata("l".as_ref()).unwrap().st_size, 5);
    assert_eq!(root.symlink_metadata("l".as_ref()).unwrap().st_size, 1);
    symlink("nowhere", arena.at("dangling")).unwrap();
    assert!(!root.exists("dangling".as_ref()).unwrap());
    assert!(!root.exists("f/x".as_ref()).unwrap());
    assert!(root.exists("l".as_ref()).unwrap());
}

#[test]
fn mount_points() {
    let arena = Arena::new();
    let root = arena.root();
    root.mkdirs_for_mountpoint("a/b".as_ref(), true).unwrap();
    root.mkdirs_for_mountpoint("a/c/file".as_ref(), false).unwrap();
    assert!(arena.at("a/b").is_dir());
    assert_eq!(std::fs::metadata(arena.at("a/c/file")).unwrap().mode() & 0o7777, 0o755);
    // Again, and with what is there already.
    root.mkdirs_for_mountpoint("a/b".as_ref(), true).unwrap();
    root.mkdirs_for_mountpoint("a/c/file".as_ref(), false).unwrap();
    for (path, is_dir) in [("a/b", false), ("a/c/file", true)] {
        let error = root.mkdirs_for_mountpoint(path.as_ref(), is_dir).unwrap_err();
        assert!(matches!(error, Error::WrongType { .. }), "{path}");
    }
    // /etc/resolv.conf in images is often a link to somewhere that does not exist.
    symlink("/run/resolve/stub", arena.at("dangling")).unwrap();
    root.mkdirs_for_mountpoint("dangling".as_ref(), false).unwrap();
    assert!(arena.at("run/resolve/stub").is_file());
    symlink(arena.out().join("secret"), arena.at("out-abs")).unwrap();
    symlink("../out/new", arena.at("out-rel")).unwrap();
    root.mkdirs_for_mountpoint("out-abs".as_ref(), false).unwrap();
    root.mkdirs_for_mountpoint("out-rel".as_ref(), true).unwrap();
    assert!(arena.at("out/new").is_dir());
    symlink("/proc/self/root", arena.at("magic")).unwrap();
    root.mkdirs_for_mountpoint("magic/x".as_ref(), true).unwrap();
    assert!(arena.at("proc/self/root/x").is_dir());
    symlink("b", arena.at("loop-a")).unwrap();
    arena.assert_out_is_untouched();
}

#[test]
fn removal_follows_nothing() {
    let arena = Arena::new();
    let root = arena.root();
    std::fs::create_dir_all(arena.at("d/e/f")).unwrap();
    std::fs::write(arena.at("d/e/x"), "").unwrap();
    symlink(arena.out(), arena.at("d/e/out")).unwrap();
    symlink("../../../out", arena.at("d/out")).unwrap();
    symlink(arena.out(), arena.at("l")).unwrap();
    root.remove_all("l".as_ref()).unwrap();
    root.remove_all("d".as_ref()).unwrap();
    root.remove_all("d".as_ref()).unwrap();
    root.remove_all("missing/x".as_ref()).unwrap();
    assert_eq!(root.list(".".as_ref()).unwrap(), Vec::<std::ffi::OsString>::new());
    assert!(matches!(root.remove_all("/".as_ref()), Err(Error::NoName { .. })));
    for name in ["", ".", "..", "a/b"] {
        let fd = root.open_dir(".".as_ref()).unwrap();
        assert!(rootdir::remove_all_at(std::os::fd::AsFd::as_fd(&fd), name.as_ref()).is_err(), "{name}");
    }
    arena.assert_out_is_untouched();
}

#[test]
fn removal_of_wide_deep_and_locked_trees() {
    let arena = Arena::new();
    let root = arena.root();
    // More levels than a process may have descriptors, and longer than a path can be.
    let mut here = root.create_dir_all("deep".as_ref(), mode(0o755)).unwrap();
    for _ in 0..3000 {
        rustix::fs::mkdirat(&here, "level", mode(0o755)).unwrap();
        here = rustix::fs::openat(&here, "level", OFlags::PATH, Mode::empty()).unwrap();
        rustix::fs::symlinkat("/", &here, "link").unwrap();
    }
    root.remove_all("deep".as_ref()).unwrap();
    // More subdirectories than one pass remembers.
    let wide = root.create_dir_all("wide".as_ref(), mode(0o755)).unwrap();
    for n in 0..5000 {
        rustix::fs::mkdirat(&wide, format!("{n}"), mode(0o755)).unwrap();
        rustix::fs::mkdirat(&wide, format!("{n}/x"), mode(0o755)).unwrap();
    }
    root.remove_all("wide".as_ref()).unwrap();
    std::fs::create_dir_all(arena.at("locked/inner/x")).unwrap();
    for path in ["locked/inner", "locked"] {
        std::fs::set_permissions(arena.at(path), std::fs::Permissions::from_mode(0o000)).unwrap();
    }
    root.remove_all("locked".as_ref()).unwrap();
    assert_eq!(root.list(".".as_ref()).unwrap(), Vec::<std::ffi::OsString>::new());
}

/// Detaches what was mounted, whatever the test did.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _gone = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn removal_enters_no_mount() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let arena = Arena::new();
    std::fs::create_dir_all(arena.at("d/volume")).unwrap();
    let mount = rustix::mount::mount_bind(arena.out(), arena.at("d/volume"));
    if let Err(e) = mount {
        eprintln!("skipped: cannot mount: {e}");
        return;
    }
    let mounted = Mounted(arena.at("d/volume"));
    assert!(arena.root().remove_all("d".as_ref()).is_err());
    arena.assert_out_is_untouched();
    drop(mounted);
    arena.root().remove_all("d".as_ref()).unwrap();
    arena.assert_out_is_untouched();
}

/// Someone swaps a directory for a symlink to the outside, over and over, while we write through it.
#[test]
fn races_stay_inside() {
    let arena = Arena::new();
    std::fs::create_dir(arena.at("real")).unwrap();
    symlink("../../out", arena.at("evil")).unwrap();
    std::fs::create_dir(arena.at("d")).unwrap();
    let (here, evil, aside) = (arena.at("d"), arena.at("evil"), arena.at("aside"));
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for (from, to) in [(&here, &aside), (&evil, &here), (&here, &evil), (&aside, &here)] {
                    drop(std::fs::rename(from, to));
                }
            }
        });
        let root = arena.root();
        for n in 0..3000 {
            drop(root.create_dir_all(format!("d/n{n}").as_ref(), mode(0o755)));
            drop(root.create_file(format!("d/f{n}").as_ref(), mode(0o755)));
            drop(root.mkdirs_for_mountpoint("d/m/x".as_ref(), n % 2 == 0));
            drop(root.remove_all("d/m".as_ref()));
            drop(root.remove_all("d/secret".as_ref()));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    arena.assert_out_is_untouched();
}
