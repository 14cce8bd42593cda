//! The power fails at any moment: what the disk has then is mounted, and the store in it opened.
//!
//! The store is on an ext4 in a file, `disk`, behind a loop device, while a child works in it. At moments the child is stopped
//! and `disk` cloned: the file is on a btrfs, whose clone is one state of the file, all that the kernel has written to the
//! device by then and nothing of what it only holds in its cache. That is what is left on a disk without a cache of its own.
//! Each clone is mounted, which replays its journal as after a power loss. What the child had said was done must be there.
//!
//! Sound as far as it goes: a sync that is left out shows, since ext4 keeps what nobody synced in memory for seconds. Not
//! covered: a disk that acknowledges writes, reorders them and loses some, which is between the file system's flushes.

use crate::crash;
use crate::store::{self, Store};
use rustix::fs::OFlags;
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use snapshot::Snapshotter;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Power losses in one run; `BRIG_TEST_POWER_LOSSES` says another number.
const LOSSES: u64 = 6;
const POOL_SIZE: u64 = 700 << 20;
const DISK_SIZE: u64 = 96 << 20;

fn run(program: &str, args: &[&OsStr]) -> bool {
    Command::new(program).args(args).output().is_ok_and(|out| out.status.success())
}

/// A mount that goes with the value.
struct Mounted(PathBuf);

impl Mounted {
    fn new(file: &Path, on: &Path) -> Option<Mounted> {
        std::fs::create_dir_all(on).unwrap();
        let mounted = run("mount", &["-o".as_ref(), "loop".as_ref(), file.as_ref(), on.as_ref()]);
        mounted.then(|| Mounted(on.into()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for mount in mount::list_below(&self.0).unwrap_or_default().iter().rev() {
            rustix::mount::unmount(&mount.target, UnmountFlags::DETACH).unwrap_or_default();
        }
    }
}

fn make(file: &Path, size: u64, program: &str) -> bool {
    std::fs::File::create(file).unwrap().set_len(size).unwrap();
    run(program, &["-q".as_ref(), file.as_ref()])
}

/// What the child has said by a moment.
#[derive(Debug, Default, Clone)]
struct Said {
    there: BTreeSet<u64>,
    gone: BTreeSet<u64>,
}

impl Said {
    fn hear(&mut self, line: &str) {
        let Some((what, number)) = line.split_once(' ') else { return };
        let Ok(number) = number.parse() else { return };
        match what {
            "imported" => drop(self.there.insert(number)),
            "removing" => drop(self.there.remove(&number)),
            "removed" => drop(self.gone.insert(number)),
            _ => {}
        }
    }
}

/// Power losses while a child works on `disk`, mounted on `root`: the clones, and what it had said by each.
fn lose(pool: &Path, root: &Path, images: bool, losses: u64) -> Vec<(PathBuf, Said)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child_that_works_until_killed", "--nocapture"])
        .env("BRIG_TEST_CRASH_DIR", root)
        .env("BRIG_TEST_CRASH_IMAGES", if images { "1" } else { "" })
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = Pid::from_child(&child);
    let mut out = child.stdout.take().unwrap();
    rustix::fs::fcntl_setfl(&out, OFlags::NONBLOCK).unwrap();
    let (mut text, mut heard, mut said) = (Vec::new(), 0, Said::default());
    let mut taken = Vec::new();
    let mut round = 0;
    while taken.len() < usize::try_from(losses).unwrap() {
        round += 1;
        // Not a wait for anything: the moment of the loss, spread over all steps.
        std::thread::sleep(Duration::from_micros(15_000 + round * 9_371 % 170_000));
        kill_process(pid, Signal::STOP).unwrap();
        waitpid(Some(pid), WaitOptions::UNTRACED).unwrap();
        let path = pool.join(format!("disk{round}"));
        let disk = std::fs::File::open(pool.join("disk")).unwrap();
        let clone = std::fs::File::create(&path).unwrap();
        rustix::fs::ioctl_ficlone(&clone, &disk).unwrap();
        // It is stopped: what is in the pipe is all that it has said.
        match out.read_to_end(&mut text) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            other => panic!("the child ended: {other:?}"),
        }
        while let Some(end) = text[heard..].iter().position(|byte| *byte == b'\n') {
            said.hear(&String::from_utf8_lossy(&text[heard..heard + end]));
            heard += end + 1;
        }
        if said.there.is_empty() {
            std::fs::remove_file(&path).unwrap();
        } else {
            taken.push((path, said.clone()));
        }
        kill_process(pid, Signal::CONT).unwrap();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    taken
}

fn check(root: &Path, said: &Said) {
    let store = Store::open_unreconciled(root);
    let done = store.images.reconcile().unwrap();
    assert!(done.dropped.is_empty(), "{done:?} after {said:?}");
    for n in &said.there {
        let image = store.images.get(&format!("x:{n}")).unwrap();
        assert_eq!(image.id, crash::forged(*n).id());
        assert!(store.overlay.layers(&image.chain_id.unwrap()).is_ok());
    }
    for n in &said.gone {
        assert!(store.images.get(&format!("x:{n}")).is_err(), "x:{n} came back");
    }
    store.check();
    let checked = store.images.check(false).unwrap();
    assert_eq!(checked.faults, [], "after {said:?}");
    // And work goes on.
    let next = crash::forged(1_000_000);
    next.store(&store.content);
    store.import(&next.target(), &["next:1"]).unwrap();
    store.check();
}

fn power_is_lost(images: bool) {
    if !store::is_root() {
        return;
    }
    store::IMAGES.store(images, Ordering::SeqCst);
    let losses = std::env::var("BRIG_TEST_POWER_LOSSES").ok().and_then(|n| n.parse().ok()).unwrap_or(LOSSES);
    let dir = tempfile::tempdir().unwrap();
    let (file, pool, root) = (dir.path().join("pool"), dir.path().join("btrfs"), dir.path().join("ext4"));
    let made = make(&file, POOL_SIZE, "mkfs.btrfs").then(|| Mounted::new(&file, &pool)).flatten();
    let Some(_pool) = made else { return println!("skipped: needs mkfs.btrfs, btrfs and loop devices") };
    let disk = pool.join("disk");
    if !make(&disk, DISK_SIZE, "mkfs.ext4") {
        return println!("skipped: needs mkfs.ext4");
    }
    let mounted = Mounted::new(&disk, &root).unwrap();
    let taken = lose(&pool, &root, images, losses);
    drop(mounted);
    for (clone, said) in taken {
        let _mounted = Mounted::new(&clone, &root).unwrap();
        check(&root, &said);
    }
}

/// One after the other: the form of layers is one for the process.
#[test]
fn what_was_acknowledged_survives_a_power_loss() {
    if std::env::var_os("BRIG_TEST_CRASH_DIR").is_none() {
        power_is_lost(false);
        power_is_lost(true);
    }
}
