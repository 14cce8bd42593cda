//! What an overlay's upper directory says that changed, against a real overlay, and the layer made of it. Needs root.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests are tests")]

use archive::{ChangeKind, Delta, Options, changes, write_changes};
use rootdir::RootDir;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Two lower layers, an upper directory, mounted at `merged`.
struct Stack {
    dir: tempfile::TempDir,
}

impl Stack {
    fn new() -> Option<Stack> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["bottom/d/sub", "bottom/gone", "bottom/over", "top/d", "upper", "work", "merged"] {
            std::fs::create_dir_all(at(name)).unwrap();
        }
        for (name, text) in [
            ("bottom/d/a", "a"),
            ("bottom/d/sub/deep", "deep"),
            ("bottom/gone/x", "x"),
            ("bottom/over/one", "1"),
            ("bottom/over/two", "2"),
            ("bottom/plain", "plain"),
            ("top/d/b", "b"),
        ] {
            std::fs::write(at(name), text).unwrap();
        }
        symlink("plain", at("bottom/link")).unwrap();
        let overlay = mount::Overlay {
            lowers: &[at("top"), at("bottom")],
            upper: &at("upper"),
            work: &at("work"),
            volatile: false,
            read_only: false,
        };
        mount::mount_overlay(&overlay, &at("merged")).unwrap();
        Some(Stack { dir })
    }

    fn merged(&self, name: &str) -> PathBuf {
        self.dir.path().join("merged").join(name)
    }

    fn open(&self, name: &str) -> RootDir {
        RootDir::open(&self.dir.path().join(name)).unwrap()
    }

    fn list(&self, places: &[&str]) -> Vec<String> {
        let (upper, lowers) = (self.open("upper"), [self.open("top"), self.open("bottom")]);
        show(&changes(&Delta::Upper { upper: &upper, lowers: &lowers }, places).unwrap())
    }

    /// The same by comparing whole trees, against an overlay of the lower layers alone.
    fn list_by_trees(&self) -> Vec<String> {
        let below = self.dir.path().join("below");
        for name in ["below", "u2", "w2"] {
            std::fs::create_dir_all(self.dir.path().join(name)).unwrap();
        }
        let at = |name: &str| self.dir.path().join(name);
        let overlay = mount::Overlay {
            lowers: &[at("top"), at("bottom")],
            upper: &at("u2"),
            work: &at("w2"),
            volatile: false,
            read_only: false,
        };
        mount::mount_overlay(&overlay, &below).unwrap();
        let (tree, old) = (self.open("merged"), RootDir::open(&below).unwrap());
        let listed = show(&changes(&Delta::Tree { tree: &tree, below: Some(&old) }, &[]).unwrap());
        drop((tree, old));
        mount::unmount(&below).unwrap();
        listed
    }

    /// Names in the layer, and what the lower layers become with it on top.
    fn layer(&self, places: &[&str]) -> (Vec<u8>, Vec<String>) {
        let (upper, lowers) = (self.open("upper"), [self.open("top"), self.open("bottom")]);
        let mut bytes = Vec::new();
        write_changes(&mut bytes, &Delta::Upper { upper: &upper, lowers: &lowers }, places).unwrap();
        let out = tempfile::tempdir().unwrap();
        let root = RootDir::open(out.path()).unwrap();
        let keep = Options { whiteouts: archive::Whiteouts::Keep, ..Options::default() };
        archive::apply(&bytes[..], &root, &keep).unwrap();
        let mut names = walk(out.path(), out.path());
        names.sort();
        (bytes, names)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        drop(mount::unmount(&self.dir.path().join("merged")));
    }
}

fn walk(base: &Path, dir: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        names.push(entry.path().strip_prefix(base).unwrap().to_str().unwrap().to_string());
        if entry.file_type().unwrap().is_dir() {
            names.extend(walk(base, &entry.path()));
        }
    }
    names
}

fn show(changes: &[archive::Change]) -> Vec<String> {
    let letter = |kind| match kind {
        ChangeKind::Modified => 'C',
        ChangeKind::Added => 'A',
        ChangeKind::Deleted => 'D',
    };
    changes.iter().map(|c| format!("{} {}", letter(c.kind), c.path.display())).collect()
}

#[test]
fn each_change_is_told_once_and_nothing_else() {
    let Some(stack) = Stack::new() else { return };
    assert_eq!(stack.list(&[]), Vec::<String>::new());
    std::fs::write(stack.merged("d/sub/deep"), "other").unwrap();
    std::fs::create_dir(stack.merged("new")).unwrap();
    std::fs::write(stack.merged("new/file"), "1").unwrap();
    std::fs::remove_file(stack.merged("d/a")).unwrap();
    std::fs::remove_dir_all(stack.merged("gone")).unwrap();
    std::fs::remove_file(stack.merged("link")).unwrap();
    std::fs::create_dir(stack.merged("link")).unwrap();
    std::fs::set_permissions(stack.merged("plain"), std::fs::Permissions::from_mode(0o600)).unwrap();
    // Removed and made again: opaque for overlay.
    std::fs::remove_dir_all(stack.merged("over")).unwrap();
    std::fs::create_dir(stack.merged("over")).unwrap();
    std::fs::write(stack.merged("over/two"), "22").unwrap();
    let expected = [
        "C d",
        "D d/a",
        "C d/sub",
        "C d/sub/deep",
        "D gone",
        "C link",
        "A new",
        "A new/file",
        "C over",
        "D over/one",
        "C over/two",
        "C plain",
    ];
    assert_eq!(stack.list(&[]), expected);
    assert_eq!(stack.list_by_trees(), expected);
    let (_, names) = stack.layer(&[]);
    let layer = [
        ".wh.gone",
        "d",
        "d/.wh.a",
        "d/sub",
        "d/sub/deep",
        "link",
        "link/.wh..wh..opq",
        "new",
        "new/file",
        "over",
        "over/.wh..wh..opq",
        "over/two",
        "plain",
    ];
    assert_eq!(names, layer);
}

#[test]
fn what_only_passed_by_is_no_change() {
    let Some(stack) = Stack::new() else { return };
    // Copied up, and taken away again or given back what it had.
    std::fs::write(stack.merged("d/sub/x"), "").unwrap();
    std::fs::remove_file(stack.merged("d/sub/x")).unwrap();
    assert!(stack.dir.path().join("upper/d/sub").is_dir(), "overlay copied it up");
    assert_eq!(stack.list(&[]), Vec::<String>::new());
    assert_eq!(stack.layer(&[]).1, Vec::<String>::new());
}

#[test]
fn places_are_left_out_while_new_and_empty() {
    let Some(stack) = Stack::new() else { return };
    for dir in ["proc", "etc", "dev"] {
        std::fs::create_dir(stack.merged(dir)).unwrap();
    }
    std::fs::write(stack.merged("etc/hosts"), "").unwrap();
    let places = ["proc", "etc", "etc/hosts", "dev", "plain"];
    assert_eq!(stack.list(&places), Vec::<String>::new());
    assert_eq!(stack.layer(&places).1, Vec::<String>::new());
    std::fs::write(stack.merged("etc/hosts"), "127.0.0.1 x").unwrap();
    std::fs::write(stack.merged("plain"), "").unwrap();
    assert_eq!(stack.list(&places), ["A etc", "A etc/hosts", "C plain"]);
}

#[test]
fn the_same_changes_give_the_same_bytes() {
    let Some(one) = Stack::new() else { return };
    std::fs::write(one.merged("b"), "1").unwrap();
    std::fs::write(one.merged("a"), "1").unwrap();
    assert_eq!(one.layer(&[]).0, one.layer(&[]).0);
}

#[test]
fn attributes_count() {
    let Some(stack) = Stack::new() else { return };
    let flags = rustix::fs::XattrFlags::empty();
    let time = std::fs::metadata(stack.merged("plain")).unwrap().modified().unwrap();
    rustix::fs::setxattr(stack.merged("plain"), "user.note", b"x", flags).unwrap();
    assert_eq!(std::fs::metadata(stack.merged("plain")).unwrap().modified().unwrap(), time);
    assert_eq!(stack.list(&[]), ["C plain"]);
}
