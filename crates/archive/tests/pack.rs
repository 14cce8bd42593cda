//! `pack` and `diff` on the real file system, and against GNU tar. Needs root and `tar` (Debian: tar, essential).

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests are tests")]

#[path = "support/arena.rs"]
mod arena;
#[path = "support/forge.rs"]
mod forge;

use archive::{Options, PackOptions, Packed, Whiteouts, diff, pack};
use arena::{Arena, is_root, xattr};
use errors::{HasKind, Kind};
use forge::{Forged, dir, file, hardlink, pax, symlink, tar};
use rootdir::RootDir;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

/// A tree with everything that an archive can hold.
fn sample() -> Arena {
    let long = "n".repeat(150);
    let arena = Arena::new();
    let entries = [
        dir("./").mode(0o750),
        dir("d").mode(0o2755).owner(3, 4),
        pax(&[("mtime", b"1234.000000567"), ("SCHILY.xattr.user.note", b"x=y\n")]),
        file("d/f", &[b'c'; 700]).mode(0o4755),
        hardlink("d/h", "d/f"),
        symlink("d/s", "../../etc"),
        hardlink("z", "d/s"),
        pax(&[("mtime", b"-1.25"), ("uid", b"3000000")]),
        file("e", b""),
        Forged::new(b'3', b"null").device(1, 3).mode(0o666),
        Forged::new(b'6', b"p").mode(0o600),
        pax(&[("path", format!("d/{long}").as_bytes()), ("linkpath", long.as_bytes())]),
        symlink("-", "-"),
        file(".wh.x", b""),
    ];
    arena.apply(&tar(&entries), &Options { whiteouts: Whiteouts::Keep, ..Options::default() }).unwrap();
    arena
}

fn packed(arena: &Arena, path: &str, rebase: Option<&str>) -> (Vec<u8>, Packed) {
    let mut bytes = Vec::new();
    let options = PackOptions { rebase: rebase.map(Into::into), ..PackOptions::default() };
    let packed = pack(&mut bytes, &arena.root(), path.as_ref(), &options).unwrap();
    assert_eq!(packed.tar_bytes, bytes.len() as u64);
    (bytes, packed)
}

/// What GNU tar says is in an archive.
fn listed(bytes: &[u8]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tar");
    std::fs::write(&path, bytes).unwrap();
    let output = Command::new("tar").arg("-tf").arg(path).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(Into::into).collect()
}

#[test]
fn a_tree_survives_packing_and_applying() {
    if !is_root() {
        return;
    }
    let original = sample();
    let (bytes, _) = packed(&original, "/", Some("."));
    let copy = Arena::new();
    let keep = Options { whiteouts: Whiteouts::Keep, ..Options::default() };
    copy.apply(&bytes, &keep).unwrap();
    assert_eq!(copy.tree(), original.tree());
    let seen = |arena: &Arena, name: &str| std::fs::symlink_metadata(arena.path().join(name)).unwrap();
    for name in ["", "d", "d/f", "d/s", "e", "null", "p"] {
        let (a, b) = (seen(&original, name), seen(&copy, name));
        assert_eq!((a.mode(), a.uid(), a.gid(), a.rdev()), (b.mode(), b.uid(), b.gid(), b.rdev()), "{name}");
        assert_eq!((a.mtime(), a.mtime_nsec(), a.nlink()), (b.mtime(), b.mtime_nsec(), b.nlink()), "{name}");
    }
    assert_eq!(seen(&copy, "d/f").ino(), seen(&copy, "d/h").ino());
    assert_eq!(xattr(&copy.path().join("d/f"), "user.note").unwrap(), b"x=y\n");
    assert_eq!(packed(&copy, "/", Some(".")).0, bytes, "the same tree gives the same bytes");
}

#[test]
fn names_in_the_archive() {
    if !is_root() {
        return;
    }
    let arena = Arena::new();
    let entries = [dir("a"), file("a/x", b"1"), dir("a/b"), symlink("l", "/a"), file("a-b", b"2")];
    arena.apply(&tar(&entries), &Options::default()).unwrap();
    let check = |path: &str, rebase: Option<&str>, expected: &[&str]| {
        assert_eq!(listed(&packed(&arena, path, rebase).0), expected, "{path}");
    };
    check("/", None, &["a/", "a/b/", "a/x", "a-b", "l"]);
    check("/a", None, &["a/", "a/b/", "a/x"]);
    check("/a", Some("new/name"), &["new/name/", "new/name/b/", "new/name/x"]);
    check("a/x", Some("y"), &["y"]);
    check("l", None, &["l"]);
    check("l/x", None, &["x"]);
    check("/", Some("."), &["./", "./a/", "./a/b/", "./a/x", "./a-b", "./l"]);
    let error = pack(Vec::new(), &arena.root(), "missing".as_ref(), &PackOptions::default()).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
}

#[test]
fn times_after_the_latest_are_told_as_it() {
    if !is_root() {
        return;
    }
    let packed = |seconds: [u64; 2], latest_s: Option<i64>| {
        let arena = Arena::new();
        arena
            .apply(&tar(&[dir("d"), file("d/old", b"1"), file("d/new", b"2")]), &Options::default())
            .unwrap();
        for (name, seconds) in [("d/old", seconds[0]), ("d/new", seconds[1]), ("d", seconds[1])] {
            let time = std::time::UNIX_EPOCH + std::time::Duration::new(seconds, 5);
            std::fs::File::open(arena.path().join(name)).unwrap().set_modified(time).unwrap();
        }
        let mut bytes = Vec::new();
        let options = PackOptions { latest_s, ..PackOptions::default() };
        pack(&mut bytes, &arena.root(), "/".as_ref(), &options).unwrap();
        bytes
    };
    assert_eq!(packed([100, 5000], Some(1000)), packed([100, 6000], Some(1000)));
    assert_ne!(packed([100, 5000], None), packed([100, 6000], None));
    // What is earlier stays.
    assert_ne!(packed([100, 5000], Some(1000)), packed([200, 5000], Some(1000)));
}

#[test]
fn sockets_are_left_out_and_mounts_not_entered() {
    if !is_root() {
        return;
    }
    let arena = Arena::new();
    arena.apply(&tar(&[dir("d"), file("d/x", b"1")]), &Options::default()).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(arena.path().join("d/sock")).unwrap();
    let (bytes, packed) = packed(&arena, "d", None);
    assert_eq!((listed(&bytes), packed.sockets), (vec!["d/".into(), "d/x".to_string()], 1));
    drop(socket);
    // /proc is a mount of every machine that tests run on.
    let root = RootDir::open(Path::new("/")).unwrap();
    let mut bytes = Vec::new();
    pack(&mut bytes, &root, "proc".as_ref(), &PackOptions::default()).unwrap();
    assert_eq!(listed(&bytes), ["proc/"]);
}

/// GNU tar writes the tree in each of its formats; we make the same of it as it was.
#[test]
fn gnu_tar_archives_apply() {
    if !is_root() {
        return;
    }
    let original = sample();
    let sparse = std::fs::File::create(original.path().join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"middle", 1 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"late", 3 << 20).unwrap();
    sparse.set_len(5 << 20).unwrap();
    let sparse_forms = [
        &["--format=gnu", "--sparse"][..],
        &["--format=posix", "--sparse", "--sparse-version=1.0"],
        &["--format=posix", "--sparse", "--sparse-version=0.1"],
        &["--format=posix", "--sparse", "--sparse-version=0.0"],
        &["--format=posix", "--xattrs"],
        &["--format=gnu"],
    ];
    for form in sparse_forms {
        let output = Command::new("tar")
            .args(form)
            .args(["--numeric-owner", "-cf", "-", "-C"])
            .arg(original.path())
            .arg(".")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let copy = Arena::new();
        let keep = Options { whiteouts: Whiteouts::Keep, ..Options::default() };
        copy.apply(&output.stdout, &keep).map_err(|e| errors::chain(&e)).unwrap();
        assert!(copy.tree() == original.tree(), "{form:?}");
        let seen = std::fs::metadata(copy.path().join("sparse")).unwrap();
        if form.contains(&"--sparse") {
            assert!(seen.blocks() * 512 < 1 << 20, "{form:?}: the holes are filled");
        }
    }
}

#[test]
fn an_upper_directory_is_a_layer() {
    if !is_root() {
        return;
    }
    let layer = tar(&[
        dir("d"),
        file("d/.wh..wh..opq", b""),
        file("d/new", b"1"),
        file(".wh.gone", b""),
        dir("e"),
        file("e/.wh.gone", b""),
    ]);
    let upper = Arena::new();
    upper.apply(&layer, &Options::default()).unwrap();
    let mut bytes = Vec::new();
    diff(&mut bytes, &upper.root()).unwrap();
    assert_eq!(listed(&bytes), ["d/", "d/.wh..wh..opq", "d/new", "e/", "e/.wh.gone", ".wh.gone"]);
    let again = Arena::new();
    again.apply(&bytes, &Options::default()).unwrap();
    assert_eq!(again.tree(), upper.tree());
    // Such a name would hide something in the next unpacking.
    std::fs::write(upper.path().join("e/.wh.trick"), "").unwrap();
    let error = diff(Vec::new(), &upper.root()).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
}

/// As many levels as a path can have, and more than a process may have descriptors.
#[test]
fn deep_trees() {
    if !is_root() {
        return;
    }
    let deep = vec!["d"; 2000].join("/");
    let arena = Arena::new();
    let entries = [pax(&[("path", deep.as_bytes())]), dir("-"), file("d/x", b"1")];
    arena.apply(&tar(&entries), &Options::default()).unwrap();
    let (bytes, packed) = packed(&arena, "/", None);
    assert_eq!(packed.entries, 2001);
    let copy = Arena::new();
    copy.apply(&bytes, &Options::default()).unwrap();
    assert_eq!(std::fs::read(copy.path().join("d/x")).unwrap(), b"1");
    copy.root().remove_all("d".as_ref()).unwrap();
    arena.root().remove_all("d".as_ref()).unwrap();
}

/// Cuts a file short once so much of the archive has been written.
struct Cutting<'a> {
    archive: Vec<u8>,
    file: &'a Path,
    after: usize,
}

impl std::io::Write for Cutting<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.archive.extend_from_slice(bytes);
        if self.archive.len() >= self.after {
            std::fs::File::options().write(true).open(self.file)?.set_len(10)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A file that becomes shorter while it is read is an error where nobody should be writing, and else filled up.
#[test]
fn what_becomes_shorter_is_filled_up() {
    let arena = Arena::new();
    let big = vec![b'x'; 1 << 20];
    arena.apply(&tar(&[file("big", &big), file("last", b"whole")]), &Options::default()).unwrap();
    let path = arena.path().join("big");
    for is_live in [true, false] {
        std::fs::write(&path, &big).unwrap();
        let mut out = Cutting { archive: Vec::new(), file: &path, after: 300 << 10 };
        let options = PackOptions { is_live, ..PackOptions::default() };
        let done = pack(&mut out, &arena.root(), Path::new("."), &options);
        if !is_live {
            let error = errors::chain(&done.unwrap_err());
            assert!(error.contains("it changed while it was read"), "{error}");
            continue;
        }
        assert_eq!((done.as_ref().unwrap().cut, done.unwrap().entries), (1, 2));
        let back = Arena::new();
        back.apply(&out.archive, &Options::default()).unwrap();
        let filled = std::fs::read(back.path().join("big")).unwrap();
        let begin = filled.iter().take_while(|b| **b == b'x').count();
        assert!(filled.len() == 1 << 20 && begin >= 200 << 10 && filled[begin..].iter().all(|b| *b == 0));
        assert_eq!(std::fs::read(back.path().join("last")).unwrap(), b"whole");
    }
}

/// Files that others replace all the time are written as one or the other.
#[test]
fn what_is_replaced_is_written_as_it_is_now() {
    let arena = Arena::new();
    arena.apply(&tar(&[file("r", &[b'a'; 700])]), &Options::default()).unwrap();
    let dir = arena.path().to_path_buf();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let relaxed = std::sync::atomic::Ordering::Relaxed;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in (0..900).cycle().take_while(|_| !stop.load(relaxed)) {
                // Outside of what is packed until it is in place.
                let new = dir.with_extension("new");
                std::fs::write(&new, vec![b'b'; n]).unwrap();
                std::fs::rename(&new, dir.join("r")).unwrap();
            }
        });
        let options = PackOptions { is_live: true, ..PackOptions::default() };
        for _ in 0..100 {
            let mut bytes = Vec::new();
            let done = pack(&mut bytes, &arena.root(), Path::new("."), &options);
            let is_whole = done.as_ref().is_ok_and(|done| done.cut == 0) && listed_whole(&bytes);
            if !is_whole {
                // Or the other thread would go on for ever.
                stop.store(true, relaxed);
                panic!("{done:?}");
            }
        }
        stop.store(true, relaxed);
    });
}

/// Whether an archive can be read to its end.
fn listed_whole(bytes: &[u8]) -> bool {
    Arena::new().apply(bytes, &Options::default()).is_ok()
}
