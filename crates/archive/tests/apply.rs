//! `apply` on the real file system, with good archives and bad ones. Needs root.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests are tests")]

#[path = "support/arena.rs"]
mod arena;
#[path = "support/forge.rs"]
mod forge;

use archive::{Options, Whiteouts};
use arena::{Arena, is_root, xattr};
use errors::{HasKind, Kind};
use forge::{Forged, dir, file, hardlink, pax, symlink, tar};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

fn keep() -> Options {
    Options { whiteouts: Whiteouts::Keep, ..Options::default() }
}

fn remove() -> Options {
    Options { whiteouts: Whiteouts::Remove, ..Options::default() }
}

/// Applies these and compares the tree.
#[track_caller]
fn check(options: &Options, entries: &[Forged], expected: &[&str]) {
    let arena = Arena::new();
    let applied = arena.apply(&tar(entries), options).map_err(|e| errors::chain(&e));
    assert!(applied.is_ok(), "{applied:?}");
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    assert_eq!(arena.tree(), expected.join("\n"));
}

/// Applies these, which fails so.
#[track_caller]
fn refuse(options: &Options, entries: &[Forged], expected: Kind) {
    refuse_bytes(options, &tar(entries), expected);
}

#[track_caller]
fn refuse_bytes(options: &Options, bytes: &[u8], expected: Kind) {
    match Arena::new().apply(bytes, options) {
        Err(error) => assert_eq!(error.kind(), expected, "{}", errors::chain(&error)),
        Ok(applied) => panic!("applied: {applied:?}"),
    }
}

#[test]
fn names_stay_in_the_root() {
    if !is_root() {
        return;
    }
    let o = Options::default();
    check(&o, &[file("/abs/a", b"1")], &["abs dir 755", "abs/a file 644 1"]);
    check(&o, &[file("./a/../b", b"1")], &["b file 644 1"]);
    check(&o, &[file("a//./b", b"1")], &["a dir 755", "a/b file 644 1"]);
    check(&o, &[file("back\\slash", b"1")], &["back\\slash file 644 1"]);
    check(&o, &[file("...", b"1")], &["... file 644 1"]);
    check(&o, &[dir("./")], &[]);
    check(&o, &[dir("/")], &[]);
    for name in ["..", "../canary/secret", "a/../../canary/x", "/../canary/x", "./../x", "a/b/../../../x"] {
        refuse(&o, &[file(name, b"evil")], Kind::Hostile);
        refuse(&o, &[dir(name)], Kind::Hostile);
        refuse(&o, &[symlink(name, "/")], Kind::Hostile);
        refuse(&o, &[file("ok", b""), hardlink(name, "ok")], Kind::Hostile);
    }
    // The root itself is no place for anything else.
    refuse(&o, &[symlink(".", "/etc")], Kind::Hostile);
    refuse(&o, &[symlink("./", "/etc")], Kind::Hostile);
    refuse(&o, &[file("a/..", b"")], Kind::Hostile);
    refuse(&o, &[Forged::new(b'0', b"")], Kind::DataLoss);
    refuse(&o, &[pax(&[("path", b"a\0b")]), file("a", b"")], Kind::DataLoss);
}

#[test]
fn symlinks_above_an_entry_lead_inside() {
    if !is_root() {
        return;
    }
    let o = Options::default();
    check(
        &o,
        &[dir("run"), symlink("var/run", "/run"), file("var/run/x", b"1")],
        &["run dir 755", "run/x file 644 1", "var dir 755", "var/run link /run"],
    );
    check(
        &o,
        &[symlink("lib", "usr/lib"), file("lib/x", b"1"), file("lib/y", b"2")],
        &[
            "lib link usr/lib",
            "usr dir 755",
            "usr/lib dir 755",
            "usr/lib/x file 644 1",
            "usr/lib/y file 644 2",
        ],
    );
    check(&o, &[symlink("up", "../../../.."), file("up/x", b"1")], &["up link ../../../..", "x file 644 1"]);
    // A link to the canary by its real name leads to that name inside the root.
    let arena = Arena::new();
    let canary = arena.canary();
    let canary = canary.to_str().unwrap();
    let entries = [symlink("l", canary), file("l/secret", b"evil"), dir("l/sub"), symlink("l/link", "/evil")];
    arena.apply(&tar(&entries), &o).unwrap();
    let inside = arena.path().join(canary.trim_start_matches('/'));
    assert_eq!(std::fs::read(inside.join("secret")).unwrap(), b"evil");
    refuse(&o, &[symlink("a", "b"), symlink("b", "a"), file("a/x", b"")], Kind::Internal);
    refuse(&o, &[file("a", b""), file("a/x", b"")], Kind::Internal);
}

#[test]
fn nothing_follows_the_last_name() {
    if !is_root() {
        return;
    }
    let o = Options::default();
    let arena = Arena::new();
    let secret = arena.canary().join("secret");
    let secret = secret.to_str().unwrap();
    let canary = arena.canary();
    let canary = canary.to_str().unwrap();
    // The symlink is made by hand too, pointing out of the root for real.
    let entries = [
        symlink("f", secret),
        file("f", b"evil").mode(0o777).owner(1, 1),
        symlink("d", canary),
        dir("d").mode(0o777).owner(1, 1),
        symlink("h", "../canary/secret"),
        hardlink("i", "h"),
        pax(&[("SCHILY.xattr.user.evil", b"1"), ("mtime", b"5.5")]),
        symlink("i", "../canary/secret").owner(7, 7),
        symlink("n", "../canary/secret"),
        Forged::new(b'6', b"n").mode(0o777),
    ];
    arena.apply(&tar(&entries), &o).unwrap();
    assert_eq!(
        arena.tree(),
        "d dir 777\nf file 777 evil\nh link ../canary/secret\ni link ../canary/secret\nn fifo 777"
    );
    assert_eq!(std::fs::symlink_metadata(arena.path().join("i")).unwrap().uid(), 7);
}

#[test]
fn hard_links() {
    if !is_root() {
        return;
    }
    let o = Options::default();
    for target in ["a", "/a", "./x/../a", "//a"] {
        let entries = [file("a", b"1").mode(0o4755), hardlink("d/b", target)];
        check(&o, &entries, &["a file 4755 1", "d dir 755", "d/b file 4755 1"]);
    }
    check(&o, &[file("a", b"1"), hardlink("a", "a")], &["a file 644 1"]);
    check(&o, &[file("a", b"1"), file("b", b"2"), hardlink("b", "a")], &["a file 644 1", "b file 644 1"]);
    check(
        &o,
        &[symlink("s", "/etc/shadow"), hardlink("t", "s")],
        &["s link /etc/shadow", "t link /etc/shadow"],
    );
    check(
        &o,
        &[dir("real"), file("real/a", b"1"), symlink("alias", "/real"), hardlink("b", "alias/a")],
        &["alias link /real", "b file 644 1", "real dir 755", "real/a file 644 1"],
    );
    refuse(&o, &[hardlink("a", "../canary/secret")], Kind::Hostile);
    refuse(&o, &[symlink("up", ".."), hardlink("a", "up/canary/secret")], Kind::NotFound);
    refuse(&o, &[hardlink("a", "missing")], Kind::NotFound);
    refuse(&o, &[hardlink("a", "/proc/self/exe")], Kind::NotFound);
    refuse(&o, &[dir("d"), hardlink("a", "d")], Kind::Hostile);
    refuse(&o, &[hardlink("a", "/")], Kind::Hostile);
    refuse(&o, &[Forged::new(b'1', b"a")], Kind::DataLoss);
}

#[test]
fn later_entries_replace_earlier_ones() {
    if !is_root() {
        return;
    }
    let o = Options::default();
    check(&o, &[file("a", b"1"), file("a", b"2")], &["a file 644 2"]);
    check(&o, &[dir("a"), dir("a").mode(0o700)], &["a dir 700"]);
    check(&o, &[dir("a"), file("a/x", b"1"), file("a", b"2")], &["a file 644 2"]);
    check(&o, &[file("a", b"2"), dir("a"), file("a/x", b"1")], &["a dir 755", "a/x file 644 1"]);
    check(&o, &[dir("a"), file("a/x", b"1"), symlink("a", "b")], &["a link b"]);
    check(
        &o,
        &[symlink("a", "b"), dir("a"), symlink("a", "c"), dir("a"), file("a/x", b"")],
        &["a dir 755", "a/x file 644 "],
    );
    check(&o, &[dir("a"), file("a/x", b"1"), dir("a").mode(0o711)], &["a dir 711", "a/x file 644 1"]);
    // The directory that was current is gone; its name means the new one.
    check(
        &o,
        &[dir("a"), dir("b"), file("a/x", b"1"), symlink("a", "b"), file("a/y", b"2")],
        &["a link b", "b dir 755", "b/y file 644 2"],
    );
}

#[test]
fn deep_paths() {
    if !is_root() {
        return;
    }
    let deep = vec!["d"; 300].join("/");
    let entries = [
        pax(&[("path", format!("{deep}/x").as_bytes())]),
        file("-", b"1"),
        pax(&[("path", format!("{deep}/y").as_bytes())]),
        file("-", b"2"),
        file("d/z", b"3"),
    ];
    let arena = Arena::new();
    arena.apply(&tar(&entries), &Options::default()).unwrap();
    assert_eq!(std::fs::read(arena.path().join(&deep).join("y")).unwrap(), b"2");
    let longest = vec!["d"; 2048].join("/");
    arena.apply(&tar(&[pax(&[("path", longest.as_bytes())]), dir("-")]), &Options::default()).unwrap();
    arena.root().remove_all("d".as_ref()).unwrap();
    assert_eq!(arena.tree(), "");
    let too_long = vec!["dd"; 1366].join("/");
    refuse(&Options::default(), &[pax(&[("path", too_long.as_bytes())]), dir("-")], Kind::DataLoss);
    let long_name = Forged::new(b'L', b"././@LongLink").content(&[b'a'; 5000]);
    refuse(&Options::default(), &[long_name, file("-", b"")], Kind::Exhausted);
}

#[test]
fn devices_and_fifos() {
    if !is_root() {
        return;
    }
    let null = Forged::new(b'3', b"null").device(1, 3).mode(0o666);
    let disk = Forged::new(b'4', b"sda").device(8, 0).mode(0o660);
    let fifo = Forged::new(b'6', b"p").mode(0o622);
    let o = Options::default();
    check(&o, &[null.clone(), disk.clone(), fifo.clone()], &["null char 1:3", "p fifo 622", "sda block 8:0"]);
    let forbid = Options { forbid_devices: true, ..Options::default() };
    refuse(&forbid, &[null], Kind::Denied);
    refuse(&forbid, &[disk], Kind::Denied);
    check(&forbid, &[fifo], &["p fifo 622"]);
    refuse(&o, &[Forged::new(b'Z', b"what")], Kind::Unsupported);
}

#[test]
fn whiteouts_as_overlay_has_them() {
    if !is_root() {
        return;
    }
    let o = Options::default();
    check(&o, &[file(".wh.a", b"")], &["a char 0:0"]);
    check(&o, &[file("d/.wh.a", b""), file("d/.wh.a", b"")], &["d dir 755", "d/a char 0:0"]);
    check(&o, &[dir("d"), file("d/.wh..wh..opq", b"")], &["d dir 755 opaque"]);
    check(&o, &[file("d/x", b"1"), file("d/.wh..wh..opq", b"")], &["d dir 755 opaque", "d/x file 644 1"]);
    // A name both whited out and made in one layer is made; a directory hides what lower layers have in it.
    check(&o, &[file(".wh.a", b""), file("a", b"1")], &["a file 644 1"]);
    check(&o, &[file("a", b"1"), file(".wh.a", b"")], &["a file 644 1"]);
    check(&o, &[file(".wh.a", b""), dir("a")], &["a dir 755 opaque"]);
    check(&o, &[dir("a"), file(".wh.a", b"")], &["a dir 755 opaque"]);
    // What AUFS left in old images.
    check(&o, &[dir(".wh..wh.plnk"), file(".wh..wh.plnk/1.2", b"x"), file(".wh..wh.aufs", b"")], &[]);
    for name in
        [".wh.", ".wh..", ".wh...", ".wh.../x", ".wh./x", "d/.wh.", "d/.wh...", ".wh.a/b", ".wh.a/.wh.b"]
    {
        refuse(&o, &[file(name, b"")], Kind::Hostile);
        refuse(&remove(), &[file(name, b"")], Kind::Hostile);
    }
    // An opaque mark through a symlink marks what it leads to inside.
    check(
        &o,
        &[dir("d"), symlink("l", "/d"), file("l/.wh..wh..opq", b"")],
        &["d dir 755 opaque", "l link /d"],
    );
    check(&keep(), &[file(".wh.a", b"1")], &[".wh.a file 644 1"]);
    // Overlay's own marks are not for images to make.
    let entries = [
        pax(&[
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ]),
        dir("d"),
    ];
    check(&o, &entries, &["d dir 755"]);
}

#[test]
fn whiteouts_by_removal() {
    if !is_root() {
        return;
    }
    let lower = [
        dir("d"),
        file("d/low", b"1"),
        dir("d/sub"),
        file("d/sub/low", b"2"),
        file("f", b"3"),
        symlink("l", "d"),
    ];
    let check = |layer: &[Forged], expected: &[&str]| {
        let arena = Arena::new();
        arena.apply(&tar(&lower), &remove()).unwrap();
        arena.apply(&tar(layer), &remove()).map_err(|e| errors::chain(&e)).unwrap();
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(arena.tree(), expected.join("\n"));
    };
    let d = ["d dir 755", "d/low file 644 1", "d/sub dir 755", "d/sub/low file 644 2"];
    let (f, l) = ("f file 644 3", "l link d");
    check(&[file(".wh.f", b""), file(".wh.nothing", b"")], &[d[0], d[1], d[2], d[3], l]);
    check(&[file(".wh.d", b"")], &[f, l]);
    check(&[file(".wh.l", b"")], &[d[0], d[1], d[2], d[3], f]);
    check(&[file("l/.wh.low", b"")], &[d[0], d[2], d[3], f, l]);
    check(&[file("d/.wh..wh..opq", b"")], &[d[0], f, l]);
    // An opaque mark is for lower layers, wherever among the entries it stands.
    let new = file("d/sub/new", b"9");
    let kept = [d[0], d[2], "d/sub/new file 644 9", f, l];
    check(&[new.clone(), file("d/.wh..wh..opq", b"")], &kept);
    check(&[file("d/.wh..wh..opq", b""), new.clone()], &kept);
    check(&[dir("d"), dir("d/sub"), new, file("d/.wh..wh..opq", b"")], &kept);
    check(&[file("f", b"new"), file(".wh.f", b"")], &[d[0], d[1], d[2], d[3], "f file 644 new", l]);
    check(&[dir("d"), file("d/new", b"9"), file(".wh.d", b"")], &[d[0], "d/new file 644 9", f, l]);
}

#[test]
fn metadata_is_kept() {
    if !is_root() {
        return;
    }
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let entries = [
        dir("d").mode(0o3775).owner(3, 4),
        pax(&[
            ("mtime", b"1234.000000567"),
            ("uid", b"3000000"),
            ("gid", b"9"),
            ("SCHILY.xattr.security.capability", capability),
            ("SCHILY.xattr.user.note", b"a=b\nc"),
        ]),
        file("d/f", b"1").mode(0o6711),
        file("d/g", b"1").mode(0o666),
        pax(&[("mtime", b"-1.25")]),
        symlink("s", "d").owner(5, 6),
        Forged::new(b'3', b"c").device(1, 3).mode(0o4622).owner(7, 8),
    ];
    let arena = Arena::new();
    arena.apply(&tar(&entries), &Options::default()).unwrap();
    let seen = |name: &str| std::fs::symlink_metadata(arena.path().join(name)).unwrap();
    let d = seen("d");
    assert_eq!((d.mode() & 0o7777, d.uid(), d.gid(), d.mtime()), (0o3775, 3, 4, 0o100));
    let f = seen("d/f");
    assert_eq!((f.mode() & 0o7777, f.uid(), f.gid()), (0o6711, 3_000_000, 9));
    assert_eq!((f.mtime(), f.mtime_nsec()), (1234, 567));
    assert_eq!(xattr(&arena.path().join("d/f"), "security.capability").unwrap(), capability);
    assert_eq!(xattr(&arena.path().join("d/f"), "user.note").unwrap(), b"a=b\nc");
    // The directory's setgid bit does not lend its group.
    let g = seen("d/g");
    assert_eq!((g.mode() & 0o7777, g.uid(), g.gid()), (0o666, 0, 0));
    let s = seen("s");
    assert_eq!((s.uid(), s.gid(), s.mtime(), s.mtime_nsec()), (5, 6, -2, 750_000_000));
    let c = seen("c");
    assert_eq!((c.mode() & 0o7777, c.uid(), c.gid()), (0o4622, 7, 8));
    let mine = Options { keep_owner: false, ..Options::default() };
    let arena = Arena::new();
    arena.apply(&tar(&[file("f", b"").owner(7, 8)]), &mine).unwrap();
    assert_eq!(std::fs::metadata(arena.path().join("f")).unwrap().uid(), 0);
}

#[test]
fn missing_parents_look_as_in_lower_layers() {
    if !is_root() {
        return;
    }
    let lower = Arena::new();
    lower.apply(&tar(&[dir("tmp").mode(0o1777).owner(1, 2), file("x", b"")]), &Options::default()).unwrap();
    let options = Options { lowers: vec![Arc::new(lower.root())], ..Options::default() };
    check(
        &options,
        &[file("tmp/a/b", b"1"), file("x/y", b"2"), file("new/z", b"3")],
        &[
            "tmp dir 1777",
            "tmp/a dir 755",
            "tmp/a/b file 644 1",
            "x dir 755",
            "x/y file 644 2",
            "new dir 755",
            "new/z file 644 3",
        ],
    );
}

#[test]
fn broken_headers_are_refused() {
    if !is_root() {
        return;
    }
    let o = Options::default();
    let mut wrong_sum = file("a", b"");
    wrong_sum.sums = false;
    wrong_sum.block[148..156].copy_from_slice(b"0012345\0");
    refuse(&o, &[wrong_sum], Kind::DataLoss);
    let spoil = |range: std::ops::Range<usize>, bytes: &[u8]| {
        let mut forged = file("a", b"");
        forged.block[range].copy_from_slice(bytes);
        forged
    };
    refuse(&o, &[spoil(124..136, b"0000000009x\0")], Kind::DataLoss);
    refuse(&o, &[spoil(124..136, &[0xff; 12])], Kind::DataLoss);
    refuse(&o, &[spoil(108..116, &[0xff; 8])], Kind::DataLoss);
    refuse(&o, &[spoil(108..116, b"\x80\0\0\0\xff\xff\xff\xff")], Kind::DataLoss);
    // Eight exbibytes, of which nothing comes.
    refuse(&o, &[spoil(124..136, b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff")], Kind::DataLoss);
    refuse(&o, &[file("a", b"").size(0o77777777777)], Kind::DataLoss);
    refuse(&o, &[symlink("a", "b").size(512)], Kind::DataLoss);
    refuse(&o, &[dir("a").size(512)], Kind::DataLoss);
    refuse(&o, &[file("a/", b"1")], Kind::DataLoss);
    refuse(&o, &[pax(&[("uid", b"4294967295")]), file("a", b"")], Kind::DataLoss);
    refuse(&o, &[pax(&[("path", b"b")]), pax(&[("path", b"c")]), file("a", b"")], Kind::DataLoss);
    let long = Forged::new(b'L', b"././@LongLink").content(b"other\0");
    refuse(&o, &[pax(&[("path", b"b")]), long, file("a", b"")], Kind::DataLoss);
    refuse(&o, &[pax(&[("path", b"b")])], Kind::DataLoss);
    refuse(&o, &[Forged::new(b'x', b"p").content(b"30 path=short\n"), file("a", b"")], Kind::DataLoss);
    let mut global = pax(&[("path", b"everywhere")]);
    global.block[156] = b'g';
    refuse(&o, &[global, file("a", b"")], Kind::DataLoss);
    let bytes = [file("a", b"1").bytes(), vec![0; 512], file("b", b"2").bytes(), vec![0; 1024]].concat();
    refuse_bytes(&o, &bytes, Kind::DataLoss);
    refuse_bytes(&o, &[b'x'; 4096], Kind::DataLoss);
}

/// Two readers that disagree on where content ends see two archives (CVE-2025-62518, CVE-2026-33055).
#[test]
fn pax_size_decides_where_content_ends() {
    if !is_root() {
        return;
    }
    let inner = tar(&[file("smuggled", b"evil")]);
    let size = inner.len().to_string();
    for header_size in [0, 512, 1 << 20] {
        let mut outer = file("a", b"").size(header_size);
        outer.content = inner.clone();
        let arena = Arena::new();
        let entries = [pax(&[("size", size.as_bytes())]), outer, file("b", b"2")];
        arena.apply(&tar(&entries), &Options::default()).unwrap();
        assert_eq!(std::fs::read(arena.path().join("a")).unwrap(), inner);
        assert!(!arena.path().join("smuggled").exists());
        assert!(arena.path().join("b").exists());
    }
}

#[test]
fn maximums_hold() {
    if !is_root() {
        return;
    }
    let o = Options::default();
    refuse(&o, &[pax(&[("comment", &vec![b'x'; 2 << 20])]), file("a", b"")], Kind::Exhausted);
    let few = Options { max_entries: 2, ..Options::default() };
    check(&few, &[file("a", b""), file("b", b"")], &["a file 644 ", "b file 644 "]);
    refuse(&few, &[file("a", b""), file("b", b""), file("c", b"")], Kind::Exhausted);
    let small = Options { max_bytes: 1 << 20, ..Options::default() };
    refuse(&small, &[file("a", &vec![0; 2 << 20])], Kind::Exhausted);
    // A bomb behind the end of the archive (CVE-2017-14992).
    let mut padded = tar(&[file("a", b"")]);
    padded.resize(4 << 20, 0);
    refuse_bytes(&small, &padded, Kind::Exhausted);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut gzip, &tar(&[file("a", &vec![0; 16 << 20])])).unwrap();
    let bomb = gzip.finish().unwrap();
    assert!(bomb.len() < 64 << 10);
    let arena = Arena::new();
    let inside = archive::decompress(&bomb[..]).unwrap();
    let error = archive::apply(inside, &arena.root(), &small).unwrap_err();
    assert_eq!(error.kind(), Kind::Exhausted);
    // Sparse maps are held in memory.
    let map = "0,0,".repeat(70_000);
    let entries = [
        pax(&[("GNU.sparse.map", map.trim_end_matches(',').as_bytes()), ("GNU.sparse.size", b"0")]),
        file("a", b""),
    ];
    refuse(&o, &entries, Kind::DataLoss);
    let sparse = |map: &[u8], size: &[u8]| {
        [pax(&[("GNU.sparse.map", map), ("GNU.sparse.size", size)]), file("a", b"1234")]
    };
    refuse(&o, &sparse(b"0,2,1,2", b"10"), Kind::DataLoss);
    refuse(&o, &sparse(b"0,4", b"3"), Kind::DataLoss);
    refuse(&o, &sparse(b"0,5", b"10"), Kind::DataLoss);
    refuse(&o, &sparse(b"18446744073709551615,4", b"18446744073709551615"), Kind::DataLoss);
    check(&o, &sparse(b"0,2,3,2", b"6"), &["a file 644 12\x0034\0"]);
}

#[test]
fn truncation_is_an_error_everywhere() {
    if !is_root() {
        return;
    }
    let whole = tar(&[
        dir("d"),
        pax(&[("mtime", b"1.5"), ("path", b"d/long")]),
        file("x", &[b'c'; 700]),
        Forged::new(b'L', b"././@LongLink").content(b"d/other\0"),
        file("y", b"1"),
    ]);
    let end = whole.len() - 1024;
    // Between two entries, where many writers just stop.
    let boundaries = [0, 512, 3072, end, end + 512];
    for cut in (0..whole.len()).step_by(64).chain([1, 511, 513]) {
        match Arena::new().apply(&whole[..cut], &Options::default()) {
            Err(error) => assert_eq!(error.kind(), Kind::DataLoss, "{cut}: {error}"),
            Ok(_) => assert!(boundaries.contains(&cut), "{cut}"),
        }
    }
}

#[test]
fn all_bytes_are_read() {
    if !is_root() {
        return;
    }
    let mut bytes = tar(&[file("a", b"1")]);
    bytes.extend_from_slice(&[7; 100_003]);
    let mut hashing = archive::Hashing::new(&bytes[..]);
    let arena = Arena::new();
    let applied = archive::apply(&mut hashing, &arena.root(), &Options::default()).unwrap();
    let (digest, count) = hashing.finish();
    assert_eq!(digest, oci::Digest::of(&bytes));
    assert_eq!((count, applied.tar_bytes), (bytes.len() as u64, bytes.len() as u64));
    assert_eq!((applied.entries, applied.bytes), (1, 1));
}

/// Bits and bytes of a valid archive are changed, half the time with the checksum made right again. Nothing may panic,
/// touch the canary, or leave the root.
#[test]
fn mutated_archives_do_no_harm() {
    if !is_root() {
        return;
    }
    let mut sparse = Forged::new(b'S', b"d/sparse").content(b"0123456789");
    sparse.block[257..265].copy_from_slice(b"ustar  \0");
    sparse.block[386..398].copy_from_slice(b"00000000000\0");
    sparse.block[398..410].copy_from_slice(b"00000000012\0");
    sparse.block[483..495].copy_from_slice(b"00000000024\0");
    let valid = tar(&[
        dir("./"),
        dir("d"),
        file("d/f", &[b'c'; 600]),
        symlink("d/s", "/d"),
        hardlink("d/h", "d/f"),
        pax(&[("mtime", b"1.5"), ("path", b"d/s/long"), ("SCHILY.xattr.user.a", b"b")]),
        file("x", b"1"),
        file("d/.wh.gone", b""),
        file("d/.wh..wh..opq", b""),
        Forged::new(b'L', b"././@LongLink").content(b"d/other\0"),
        Forged::new(b'6', b"y"),
        sparse,
        pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.realsize", b"9"),
            ("GNU.sparse.name", b"d/t"),
        ]),
        file("z", &[&b"1\n2\n3\n"[..], &[0; 506], b"abc"].concat()),
    ]);
    let arena = Arena::new();
    arena.apply(&valid, &Options::default()).unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    let texts: [&[u8]; 8] = [b"../", b"/", b"..", b".wh.", b"\xff\xff\xff\xff", b"0", b"77777777777", b"\n"];
    for round in 0..3000 {
        let mut bytes = valid.clone();
        for _ in 0..=random(4) {
            let at = random(bytes.len() - 16);
            match random(4) {
                0 => bytes[at] ^= 1 << random(8),
                1 => bytes[at] = u8::try_from(random(256)).unwrap(),
                2 => {
                    let text = texts[random(texts.len())];
                    bytes[at..at + text.len()].copy_from_slice(text);
                }
                // Another type or another name, where these stand.
                _ => {
                    let block = at / 512 * 512;
                    bytes[block + 156] = b"0123456xgLKS"[random(12)];
                }
            }
            let block = at / 512 * 512;
            if random(2) == 0 && bytes[block + 257..block + 262] == *b"ustar" {
                forge::sum(&mut bytes[block..block + 512]);
            }
        }
        if random(8) == 0 {
            bytes.truncate(random(bytes.len()));
        }
        let options = Options {
            whiteouts: [Whiteouts::Overlay, Whiteouts::Remove, Whiteouts::Keep][round % 3],
            forbid_devices: true,
            max_bytes: 1 << 20,
            ..Options::default()
        };
        if let Err(error) = arena.apply(&bytes, &options) {
            assert!(!errors::chain(&error).is_empty());
        }
        if round % 16 == 0 {
            for name in arena.root().list(".".as_ref()).unwrap() {
                arena.root().remove_all(name.as_ref()).unwrap();
            }
        }
    }
}
