//! A layer written as an EROFS image and mounted is the layer applied to a directory. `fsck.erofs` finds nothing to say.
//!
//! Needs root, a kernel that mounts EROFS from files, and erofs-utils.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests are tests")]

#[path = "support/arena.rs"]
mod arena;
#[path = "support/forge.rs"]
mod forge;

use archive::{Error, Options};
use arena::{Arena, is_root, xattr};
use forge::{Forged, dir, file, hardlink, pax, symlink, tar};
use proptest::prelude::*;
use rootdir::RootDir;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// An image in a directory of its own, mounted when it could be written.
struct Image {
    dir: tempfile::TempDir,
    is_mounted: bool,
}

impl Image {
    fn write(tar: &[u8]) -> Result<Image, Error> {
        let dir = tempfile::tempdir().unwrap();
        for name in ["root", "mnt"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let image = Image { dir, is_mounted: false };
        let root = RootDir::open(&image.path("root")).unwrap();
        archive::write_image(tar, File::create_new(image.path("image")).unwrap(), &root)?;
        Ok(image)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn mount(&mut self) -> PathBuf {
        mount::mount_erofs(&self.path("image"), &self.path("mnt")).map_err(|e| errors::chain(&e)).unwrap();
        self.is_mounted = true;
        self.path("mnt")
    }

    /// Debian's checker, and our own reading of its words: it extracts every file to nowhere.
    fn fsck(&self) {
        let output = std::process::Command::new("fsck.erofs")
            .args(["-d3", "--extract"])
            .arg(self.path("image"))
            .output();
        let output = output.unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(output.status.success() && text.contains("No errors found"), "{}: {text}", output.status);
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if self.is_mounted {
            mount::unmount(&self.path("mnt")).unwrap();
        }
    }
}

/// All that one can see of a tree: by path, everything `stat` says but the inode's number, with content and attributes.
/// Hard links are told by the first name of the inode.
type Seen = BTreeMap<PathBuf, String>;

fn look(base: &Path) -> Seen {
    let mut seen = Seen::new();
    let mut first = HashMap::new();
    walk(base, Path::new(""), &mut seen, &mut first);
    seen
}

fn walk(base: &Path, below: &Path, seen: &mut Seen, first: &mut HashMap<u64, PathBuf>) {
    let mut names: Vec<_> = std::fs::read_dir(base.join(below)).unwrap().map(|e| e.unwrap()).collect();
    names.sort_by_key(std::fs::DirEntry::file_name);
    for entry in names {
        let path = below.join(entry.file_name());
        let full = base.join(&path);
        let stat = std::fs::symlink_metadata(&full).unwrap();
        let kind = stat.mode() & 0o170_000;
        assert_eq!(entry.file_type().unwrap(), stat.file_type(), "d_type of {path:?}");
        let content = match kind {
            0o100_000 => format!("{:x?}", oci::Digest::of(&std::fs::read(&full).unwrap())),
            0o120_000 => format!("{:?}", std::fs::read_link(&full).unwrap()),
            _ => String::new(),
        };
        let size = if kind == 0o040_000 { 0 } else { stat.size() };
        let same = match kind {
            0o040_000 => path.clone(),
            _ => first.entry(stat.ino()).or_insert_with(|| path.clone()).clone(),
        };
        // Directories that no entry lists have the time at which they were made.
        let time = (stat.mtime(), stat.mtime_nsec());
        let time = if kind == 0o040_000 && time.0 > 1_600_000_000 { (64, 0) } else { time };
        if kind == 0o020_000 && stat.rdev() == 0 {
            // A whiteout: in an image all are one inode.
            seen.insert(path, "whiteout".into());
            continue;
        }
        let line = format!(
            "{:o} {}:{} {size} {time:?} dev {:x} links {} as {same:?} {:?} {content}",
            stat.mode(),
            stat.uid(),
            stat.gid(),
            stat.rdev(),
            stat.nlink(),
            attributes(&full),
        );
        seen.insert(path.clone(), line);
        if kind == 0o040_000 {
            walk(base, &path, seen, first);
        }
    }
}

fn attributes(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut list = vec![0; 65536];
    let n = rustix::fs::llistxattr(path, &mut list[..]).unwrap();
    let names = list[..n].split(|b| *b == 0).filter(|name| !name.is_empty());
    names
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .map(|name| (name.clone(), xattr(path, &name).unwrap()))
        .collect()
}

/// Applies `tar` both ways and compares what came of it.
fn compare(tar: &[u8]) {
    let arena = Arena::new();
    let applied = arena.apply(tar, &Options::default());
    let written = Image::write(tar);
    match (applied, written) {
        (Ok(_), Ok(mut image)) => {
            image.fsck();
            let again = Image::write(tar).unwrap();
            assert!(
                std::fs::read(image.path("image")).unwrap() == std::fs::read(again.path("image")).unwrap(),
                "the same tar gave another image"
            );
            let mounted = image.mount();
            pretty_eq(&look(&arena.path()), &look(&mounted));
        }
        (Err(_), Err(_)) => {}
        (applied, written) => panic!(
            "one refused: directory {:?}, image {:?}; in the directory:\n{}",
            applied.map_err(|e| errors::chain(&e)),
            written.map(drop).map_err(|e| errors::chain(&e)),
            arena.tree(),
        ),
    }
}

#[track_caller]
fn pretty_eq(expected: &Seen, actual: &Seen) {
    for (path, line) in expected {
        assert_eq!(Some(line), actual.get(path), "{path:?}");
    }
    assert_eq!(expected.len(), actual.len(), "{:?}", actual.keys().find(|k| !expected.contains_key(*k)));
}

#[test]
fn what_a_layer_can_hold() {
    if !is_root() {
        return;
    }
    let long = "l".repeat(255);
    // The owner may write; user 1000 and all others may read.
    let entry =
        |tag: u8, permissions: u8, id: u32| [&[tag, 0, permissions, 0], &id.to_le_bytes()[..]].concat();
    let none = u32::MAX;
    let acl = [
        vec![2, 0, 0, 0],
        entry(1, 6, none),
        entry(2, 4, 1000),
        entry(4, 4, none),
        entry(16, 4, none),
        entry(32, 4, none),
    ]
    .concat();
    let entries = [
        dir("./").mode(0o1777).owner(5, 6),
        dir("empty"),
        file("empty/../zero", b""),
        file("small", b"tweet").mode(0o6711).owner(1000, 65_537),
        pax(&[
            ("uid", b"4000000000"),
            ("gid", b"3000000000"),
            ("mtime", b"-5.25"),
            ("SCHILY.xattr.user.a", b"1\x002"),
            (
                "SCHILY.xattr.security.capability",
                b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
            ),
        ]),
        file("attributes", &[7; 5000]),
        pax(&[
            ("mtime", b"1600000000.123456789"),
            ("SCHILY.xattr.user.long", &[b'v'; 2000]),
            ("SCHILY.xattr.user.other", &[b'w'; 1500]),
        ]),
        file("long-attributes", &[1; 4096 * 3 + 900]),
        pax(&[("SCHILY.xattr.system.posix_acl_access", &acl)]),
        file("acl", b"x").mode(0o644),
        file("block", &[2; 4096]),
        file("almost", &[3; 4096 - 64]),
        file("more", &[4; 4096 - 63]),
        file("big", &(0..3_000_000u32).map(|n| (n % 251) as u8).collect::<Vec<_>>()),
        hardlink("deep/er/link", "big"),
        hardlink("again", "deep/er/link"),
        symlink("short", "/etc/passwd"),
        pax(&[("linkpath", "t/".repeat(2047).as_bytes())]),
        symlink("long-symlink", ""),
        pax(&[("path", long.as_bytes())]),
        file("", b"long name"),
        Forged::new(b'3', b"null").mode(0o666).device(1, 3),
        Forged::new(b'4', b"disk").mode(0o660).device(4095, 1_048_575),
        Forged::new(b'6', b"fifo").mode(0o600),
        dir("sticky").mode(0o3775).owner(7, 8),
        dir("!first"),
        dir("~last"),
        file(".hidden", b""),
        file("..double", b""),
        file(".wh.gone", b""),
        file("opaque/.wh..wh..opq", b""),
        file("replaced", b"old"),
        dir("replaced"),
        file("replaced/in", b"new"),
        symlink("way", "deep/er"),
        file("way/through", b"here"),
        symlink("up", "../../deep"),
        file("up/top", b"there"),
        hardlink("null2", "null"),
        file("over", b"first"),
        hardlink("kept", "over"),
        file("over", b"second"),
        file("back/.wh.x", b""),
        dir("back/x"),
        file("y/z", b""),
        file(".wh.y", b""),
    ];
    compare(&tar(&entries));
}

#[test]
fn directories_of_many_blocks() {
    if !is_root() {
        return;
    }
    let mut entries: Vec<Forged> = (0..20_000).map(|n| file(&format!("many/{n:07}-name"), b"")).collect();
    entries.extend((0..300).map(|n| dir(&format!("dirs/{}", "d".repeat(n % 90) + &n.to_string()))));
    entries.extend((0..400).map(|n| file(&format!("tails/{n}"), &vec![7; n * 37 % 9000])));
    compare(&tar(&entries));
}

#[test]
fn sparse_files_keep_their_holes() {
    if !is_root() {
        return;
    }
    let sparse = |real: &[u8], map: &[u8], content: &[u8]| {
        [
            pax(&[
                ("GNU.sparse.major", b"0"),
                ("GNU.sparse.minor", b"1"),
                ("GNU.sparse.size", real),
                ("GNU.sparse.map", map),
            ]),
            file("sparse", content),
        ]
    };
    compare(&tar(&sparse(b"3000000", b"4096,5,2000000,3", b"helloyou")));
    compare(&tar(&sparse(b"3000000", b"0,5,2999997,3", b"helloyou")));
    compare(&tar(&sparse(b"5000", b"0,0,5000,0", b"")));
    let huge = tar(&sparse(b"1099511627776", b"1099511627771,5", b"hello"));
    let mut image = Image::write(&huge).unwrap();
    let on_disk = std::fs::metadata(image.path("image")).unwrap().blocks() * 512;
    assert!(on_disk < 1 << 20, "{on_disk}");
    let mounted = File::open(image.mount().join("sparse")).unwrap();
    let mut end = [0; 6];
    std::os::unix::fs::FileExt::read_exact_at(&mounted, &mut end, (1 << 40) - 6).unwrap();
    assert_eq!(&end, b"\0hello");
    drop(mounted);
    // More blocks than an image can number.
    assert!(Image::write(&tar(&sparse(b"17592186044416", b"0,5", b"hello"))).is_err());
}

#[test]
fn what_is_refused_in_a_directory_is_refused_in_an_image() {
    if !is_root() {
        return;
    }
    let overlong = "n".repeat(256);
    let cases: &[&[Forged]] = &[
        &[file("../x", b"")],
        &[file("./", b"")],
        &[file("a/.wh..", b"")],
        &[symlink("a", "b"), symlink("b", "a"), file("a/x", b"")],
        &[file("a", b""), file("a/x", b"")],
        &[hardlink("a", "nowhere")],
        &[dir("d"), hardlink("a", "d")],
        &[hardlink("a", "/")],
        &[pax(&[("path", overlong.as_bytes())]), file("", b"")],
        &[pax(&[("SCHILY.xattr.system.posix_acl_access", b"\x02\0\0\0 odd")]), file("a", b"")],
    ];
    for entries in cases {
        assert!(Image::write(&tar(entries)).is_err());
        compare(&tar(entries));
    }
}

/// Names that meet often.
fn path() -> impl Strategy<Value = String> {
    proptest::collection::vec(prop_oneof!["[a-d]", "\\PC{1,12}", Just("..".to_owned())], 1..4)
        .prop_map(|parts| parts.join("/").replace('\0', ""))
}

fn entries() -> impl Strategy<Value = Vec<Forged>> {
    let mode = || 0u32..0o10000;
    let owner = || (0u32..2_000_000, 0u32..2_000_000);
    let named = |forged: Forged, path: &str| vec![pax(&[("path", path.as_bytes())]), forged];
    let one = prop_oneof![
        3 => (path(), mode(), owner()).prop_map(move |(p, m, o)| named(dir("d").mode(m).owner(o.0, o.1), &p)),
        6 => (path(), mode(), owner(), proptest::collection::vec(any::<u8>(), 0..40), 0usize..700).prop_map(
            move |(p, m, o, bytes, times)| named(file("f", &bytes.repeat(times)).mode(m).owner(o.0, o.1), &p)
        ),
        2 => (path(), path()).prop_map(move |(p, t)| named(symlink("s", &t.chars().filter(char::is_ascii).take(99).collect::<String>()), &p)),
        2 => (path(), "[a-d](/[a-d])?").prop_map(move |(p, t)| named(hardlink("h", &t), &p)),
        1 => (path(), 0u32..4096, 0u32..1000).prop_map(move |(p, a, b)| named(Forged::new(b'3', b"c").device(a, b), &p)),
        2 => ("([a-d]/)?", "[a-d]").prop_map(|(p, n)| vec![file(&format!("{p}.wh.{n}"), b"")]),
        1 => "[a-d](/[a-d])?".prop_map(|p| vec![file(&format!("{p}/.wh..wh..opq"), b"")]),
    ];
    proptest::collection::vec(one, 0..40).prop_map(|all| all.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_layers(entries in entries()) {
        if is_root() {
            compare(&tar(&entries));
        }
    }
}

#[test]
fn the_root_gets_what_its_entry_says() {
    if !is_root() {
        return;
    }
    let mut image =
        Image::write(&tar(&[pax(&[("SCHILY.xattr.user.a", b"1")]), dir("./").mode(0o1750).owner(5, 6)]))
            .unwrap();
    let template = std::fs::metadata(image.path("root")).unwrap();
    assert_eq!(
        (template.mode() & 0o7777, template.uid(), template.gid(), template.mtime()),
        (0o1750, 5, 6, 64)
    );
    let mounted = image.mount();
    let root = std::fs::metadata(&mounted).unwrap();
    assert_eq!((root.mode() & 0o7777, root.uid(), root.gid(), root.mtime()), (0o1750, 5, 6, 64));
    for path in [mounted, image.path("root")] {
        assert_eq!(xattr(&path, "user.a").unwrap(), b"1");
    }
}
