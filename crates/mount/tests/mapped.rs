//! Mounts with mapped ids, by both roads. Needs root.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "the helpers of tests fail as tests do")]

use mount::{
    Mapping, Overlay, bind_mapped_root, list_overlays, mount_mapped_overlay, mount_mapped_overlay_attached,
};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const BASE: u32 = 300_000;

/// A user namespace, held by a process that is in it.
struct Users {
    child: Child,
    file: File,
}

impl Users {
    fn new() -> Users {
        let child = Command::new("unshare").args(["--user", "cat"]).stdin(Stdio::piped()).spawn().unwrap();
        let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
        let pid = child.id().to_string();
        let until = Instant::now() + Duration::from_secs(20);
        while of(&pid) == of("self") {
            assert!(Instant::now() < until, "unshare(1) never unshared");
        }
        for map in ["gid_map", "uid_map"] {
            std::fs::write(format!("/proc/{pid}/{map}"), format!("0 {BASE} 65536\n")).unwrap();
        }
        let file = File::open(format!("/proc/{pid}/ns/user")).unwrap();
        Users { child, file }
    }

    fn mapping(&self) -> Mapping<'_> {
        Mapping { namespace: self.file.as_fd(), root: (BASE, BASE) }
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }
}

struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        mount::detach(&self.0).unwrap();
    }
}

fn ids(path: &Path) -> (u32, u32) {
    let found = std::fs::symlink_metadata(path).unwrap();
    (found.uid(), found.gid())
}

fn root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        println!("skipped: needs root");
    }
    is_root
}

fn check(road: fn(&Overlay<'_>, Mapping<'_>, &Path) -> Result<(), mount::Error>, layers: usize) {
    if !root() {
        return;
    }
    let users = Users::new();
    let dir = tempfile::tempdir().unwrap();
    let make = |name: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    };
    let lowers: Vec<PathBuf> = (0..layers).map(|n| make(&format!("l{n}"))).collect();
    std::fs::write(lowers[0].join("of-root"), "x").unwrap();
    let last = lowers.last().unwrap().join("of-user");
    std::fs::write(&last, "x").unwrap();
    chown(&last, Some(1000), Some(1001)).unwrap();
    std::fs::write(lowers[0].join("of-nobody"), "x").unwrap();
    chown(lowers[0].join("of-nobody"), Some(BASE), Some(BASE)).unwrap();
    let (upper, work, target) = (make("u/fs"), make("u/work"), make("t"));
    let overlay = Overlay { lowers: &lowers, upper: &upper, work: &work, volatile: true, read_only: false };
    road(&overlay, users.mapping(), &target).unwrap();
    let _mounted = Mounted(target.clone());
    assert_eq!(ids(&target), (BASE, BASE));
    assert_eq!(ids(&target.join("of-root")), (BASE, BASE));
    assert_eq!(ids(&target.join("of-user")), (BASE + 1000, BASE + 1001));
    assert_eq!(ids(&target.join("of-nobody")), (65534, 65534));
    // What the kernel copies up it makes as who mounted.
    std::fs::set_permissions(target.join("of-user"), std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(ids(&upper.join("of-user")), (1000, 1001));
    chown(target.join("of-root"), Some(BASE + 5), Some(BASE + 6)).unwrap();
    assert_eq!(ids(&upper.join("of-root")), (5, 6));
    // An id that the mapping does not know makes nothing, whatever privilege it has.
    assert!(std::fs::write(target.join("new"), "x").is_err());
    let becoming = sys::fs_ids::FsIds::become_ids(BASE + 7, BASE + 8).unwrap();
    std::fs::write(target.join("new"), "x").unwrap();
    std::fs::create_dir(target.join("newer")).unwrap();
    std::fs::rename(target.join("of-user"), target.join("newer/moved")).unwrap();
    drop(becoming);
    assert_eq!(ids(&upper.join("new")), (7, 8));
    assert_eq!(ids(&upper.join("newer/moved")), (1000, 1001));
    // Who looks for what is in use finds it.
    let shown = list_overlays().unwrap().into_iter().find(|overlay| overlay.target == target).unwrap();
    assert_eq!(shown.upper, Some(upper));
}

#[test]
fn by_descriptors() {
    check(mount_mapped_overlay, 1);
    check(mount_mapped_overlay, 40);
}

#[test]
fn by_attached_layers() {
    check(mount_mapped_overlay_attached, 1);
    check(mount_mapped_overlay_attached, 40);
}

#[test]
fn a_directory_is_bound_with_its_ids_mapped() {
    if !root() {
        return;
    }
    let users = Users::new();
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("s"), dir.path().join("t"));
    std::fs::create_dir(&source).unwrap();
    std::fs::create_dir(&target).unwrap();
    bind_mapped_root(&source, &target, false, users.mapping()).unwrap();
    let _mounted = Mounted(target.clone());
    assert_eq!((ids(&source), ids(&target)), ((0, 0), (BASE, BASE)));
}
