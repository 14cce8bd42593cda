//! Transfers without a client: what it would tell, and what is on disk afterwards.

use super::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

const DIR: u32 = 0o040_000;
const SYMLINK: u32 = 0o120_000;
const FILE: u32 = 0o100_000;

struct Client {
    dir: tempfile::TempDir,
    mirror: Mirror,
    asked: Vec<u32>,
    told: u32,
}

impl Client {
    fn again(dir: tempfile::TempDir) -> Client {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(dir.path(), flags, Mode::empty()).expect("a directory");
        Client { dir, mirror: Mirror::new(root), asked: Vec::new(), told: 0 }
    }

    fn new() -> Client {
        Client::again(tempfile::tempdir().expect("temporary directory"))
    }

    fn tell(&mut self, path: &str, mode: u32, content: &str) -> Result<(), Error> {
        let dir = self.dir.path().metadata().expect("it is there");
        let size = i64::try_from(content.len()).expect("small");
        let (uid, gid) = (dir.uid(), dir.gid());
        self.told(FileStat {
            path: path.into(),
            mode,
            uid,
            gid,
            size,
            modified_ns: 7_000_000_001,
            ..FileStat::default()
        })
    }

    fn told(&mut self, stat: FileStat) -> Result<(), Error> {
        if self.mirror.told(stat)? {
            self.asked.push(self.told);
        }
        self.told += 1;
        Ok(())
    }

    fn link(&mut self, path: &str, mode: u32, link: &str) -> Result<(), Error> {
        self.told(FileStat { path: path.into(), mode, link: link.into(), ..FileStat::default() })
    }

    /// Ends the list, and answers what was asked for with `content` by its place. What was asked.
    fn send(&mut self, content: &[(u32, &str)]) -> Vec<u32> {
        self.mirror.told_all().expect("once");
        let ids = std::mem::take(&mut self.asked);
        for id in &ids {
            let text = content.iter().find(|(of, _)| of == id).map_or("", |(_, text)| text);
            if !text.is_empty() {
                self.mirror.data(*id, text.as_bytes()).expect("asked for");
            }
            self.mirror.data(*id, b"").expect("asked for");
        }
        assert!(self.mirror.is_finished);
        self.mirror.clean();
        ids
    }

    fn text(&self, path: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(path)).expect("a file")
    }
}

fn first() -> tempfile::TempDir {
    let mut client = Client::new();
    client.tell("a", DIR | 0o750, "").expect("good");
    client.tell("a/x", FILE | 0o640, "one").expect("good");
    client.link("a/y", SYMLINK | 0o777, "../../etc/passwd").expect("good");
    client.tell("b", FILE | 0o4755, "two").expect("good");
    client.link("c", FILE | 0o4755, "b").expect("good");
    assert_eq!(client.send(&[(1, "one"), (3, "two")]), [1, 3]);
    client.dir
}

#[test]
fn files_come_with_kind_mode_and_time() {
    let dir = first();
    let meta = |path: &str| dir.path().join(path).symlink_metadata().expect("it is there");
    assert_eq!(meta("a").permissions().mode() & 0o7777, 0o750);
    assert_eq!(
        (meta("a/x").permissions().mode() & 0o7777, meta("a/x").mtime(), meta("a/x").mtime_nsec()),
        (0o640, 7, 1)
    );
    assert_eq!(
        std::fs::read_link(dir.path().join("a/y")).expect("a symlink").to_str(),
        Some("../../etc/passwd")
    );
    assert_eq!(meta("b").permissions().mode() & 0o7777, 0o4755);
    assert_eq!(meta("b").ino(), meta("c").ino());
    assert_eq!(std::fs::read_dir(dir.path()).expect("a directory").count(), 3);
}

#[test]
fn only_what_changed_is_asked_for_and_what_is_gone_goes() {
    let dir = first();
    let inode = dir.path().join("a/x").metadata().expect("it is there").ino();
    std::fs::write(dir.path().join(".brig-partial-9"), "left by a killed daemon").expect("write");
    std::fs::create_dir(dir.path().join("old")).expect("create");
    std::fs::write(dir.path().join("old/file"), "gone").expect("write");
    let mut client = Client::again(dir);
    client.tell("a", DIR | 0o750, "").expect("good");
    client.tell("a/x", FILE | 0o640, "one").expect("good");
    // A file takes a symlink's place, a directory a file's.
    client.tell("a/y", FILE | 0o644, "three").expect("good");
    client.tell("b", DIR | 0o755, "").expect("good");
    client.tell("b/z", FILE | 0o600, "").expect("good");
    assert_eq!(client.send(&[(2, "three")]), [2, 4]);
    assert_eq!(
        (client.text("a/x"), client.text("a/y"), client.text("b/z")),
        ("one".into(), "three".into(), String::new())
    );
    assert_eq!(client.dir.path().join("a/x").metadata().expect("it is there").ino(), inode);
    assert_eq!(std::fs::read_dir(client.dir.path()).expect("a directory").count(), 2);
}

#[test]
fn what_is_hostile_ends_the_transfer() {
    for path in ["", "/etc/x", "..", "../x", "a/../../x", "a//b", "./a", "a/.", "\0", ".brig-partial-1"] {
        assert!(Client::new().tell(path, FILE | 0o644, "x").is_err(), "{path:?}");
    }
    // Below what is no directory, also where a symlink stands.
    let outside = tempfile::tempdir().expect("temporary directory");
    let mut client = Client::new();
    client
        .link("a", SYMLINK | 0o777, outside.path().to_str().expect("text"))
        .expect("a symlink may lead anywhere");
    assert!(client.tell("a/x", FILE | 0o644, "x").is_err());
    // The same when the symlink came last time.
    let dir = Client::new().dir;
    std::os::unix::fs::symlink(outside.path(), dir.path().join("a")).expect("symlink");
    let mut client = Client::again(dir);
    client.tell("a", DIR | 0o755, "").expect("good");
    client.tell("a/x", FILE | 0o644, "x").expect("good");
    client.send(&[(1, "x")]);
    assert_eq!(client.text("a/x"), "x");
    assert_eq!(std::fs::read_dir(outside.path()).expect("a directory").count(), 0);
    // Out of order, twice, a device, a link to nothing that was told, data that nobody asked for.
    let mut client = Client::new();
    client.tell("b", FILE | 0o644, "x").expect("good");
    assert!(client.tell("a", FILE | 0o644, "x").is_err() && client.tell("b", FILE | 0o644, "x").is_err());
    assert!(client.tell("c", 0o020_600, "").is_err());
    assert!(client.link("d", FILE | 0o644, "/etc/shadow").is_err());
    assert!(client.mirror.data(7, b"x").is_err());
}

#[test]
fn names_elsewhere_do_not_make_a_file_another() {
    let dir = first();
    // As a layer that has the file by another name.
    let layer = tempfile::tempdir_in(dir.path().parent().expect("above")).expect("temporary directory");
    std::fs::hard_link(dir.path().join("a/x"), layer.path().join("x")).expect("the same file system");
    let mut client = Client::again(dir);
    client.tell("a", DIR | 0o750, "").expect("good");
    client.tell("a/x", FILE | 0o640, "one").expect("good");
    client.link("a/y", SYMLINK | 0o777, "../../etc/passwd").expect("good");
    // Two files where there was one with two names: the second is asked for.
    client.tell("b", FILE | 0o4755, "two").expect("good");
    client.tell("c", FILE | 0o4755, "owt").expect("good");
    assert_eq!(client.send(&[(4, "owt")]), [4]);
    assert_eq!(
        (client.text("a/x"), client.text("b"), client.text("c")),
        ("one".into(), "two".into(), "owt".into())
    );
    // One that changes is another file, and that of the layer stays as it was.
    let mut client = Client::again(client.dir);
    client.tell("a", DIR | 0o750, "").expect("good");
    client.tell("a/x", FILE | 0o640, "three").expect("good");
    assert_eq!(client.send(&[(1, "three")]), [1]);
    assert_eq!(std::fs::read_to_string(layer.path().join("x")).expect("a file"), "one");
}

#[test]
fn a_directory_that_is_empty_now_is_empty() {
    let mut client = Client::new();
    for (path, mode) in
        [("a", DIR | 0o755), ("a/b", DIR | 0o755), ("a/b/x", FILE | 0o644), ("c", DIR | 0o755)]
    {
        client.tell(path, mode, "").expect("good");
    }
    client.tell("c/y", FILE | 0o644, "").expect("good");
    client.send(&[]);
    let mut client = Client::again(client.dir);
    for path in ["a", "a/b", "c"] {
        client.tell(path, DIR | 0o755, "").expect("good");
    }
    assert!(client.send(&[]).is_empty());
    assert!(client.mirror.received().is_changed);
    assert!(!client.dir.path().join("a/b/x").exists() && !client.dir.path().join("c/y").exists());
    // And nothing is new the next time.
    let mut client = Client::again(client.dir);
    for path in ["a", "a/b", "c"] {
        client.tell(path, DIR | 0o755, "").expect("good");
    }
    client.send(&[]);
    assert!(!client.mirror.received().is_changed);
}
