//! The contract of `Snapshotter`, run on every driver, on real mounts. A new driver is a line in `drivers`.
//!
//! Needs root, and `mkfs.btrfs`.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "the helpers of tests fail as tests do")]

mod layers;
mod removal;
mod writable;

use metadata::Database;
use oci::Digest;
use rootdir::RootDir;
use rustix::fs::{Mode, OFlags};
use snapshot::{LayerDir, LayerForm, MountOptions, NewLayer, Overlay, Snapshotter, TreeForm, Trees};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

type Open = fn(&Path, Arc<Database>) -> Arc<dyn Snapshotter>;

/// The drivers, and whether they want a Btrfs.
fn drivers() -> Vec<(Open, bool)> {
    let mut drivers: Vec<(Open, bool)> = vec![
        (|dir, db| Arc::new(Overlay::open(dir, db).unwrap()), false),
        (|dir, db| Arc::new(Trees::open(dir, TreeForm::Vfs, db).unwrap()), false),
        (|dir, db| Arc::new(Trees::open(dir, TreeForm::Btrfs, db).unwrap()), true),
    ];
    let scratch = tempfile::tempdir().unwrap();
    match Overlay::can_mount_images(scratch.path()) {
        Ok(()) => drivers.push((
            |dir, db| {
                let mounts = dir.join("mounts");
                Arc::new(Overlay::open_with(dir, &mounts, LayerForm::Image, db).unwrap())
            },
            false,
        )),
        Err(e) => println!("skipped: driver erofs: {}", errors::chain(&e)),
    }
    drivers
}

/// Runs `test` on every driver, each in an empty directory of its own.
fn each(test: impl Fn(&mut Bench)) {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    for (open, wants_btrfs) in drivers() {
        let scratch = tempfile::tempdir().unwrap();
        let btrfs = if wants_btrfs { Some(Btrfs::new(scratch.path())) } else { None };
        let dir = btrfs.as_ref().map_or(scratch.path(), |btrfs| &btrfs.root).join("store");
        std::fs::create_dir(&dir).unwrap();
        let mut bench = Bench::open(&dir, open);
        test(&mut bench);
        assert!(bench.driver.reconcile().unwrap().is_clean());
        drop(bench);
        for mount in mount::list_below(&dir).unwrap().iter().rev() {
            mount::unmount(&mount.target).unwrap();
        }
    }
}

/// A Btrfs in a file.
struct Btrfs {
    root: PathBuf,
}

impl Btrfs {
    fn new(scratch: &Path) -> Btrfs {
        let (image, root) = (scratch.join("btrfs"), scratch.join("mnt"));
        File::create(&image).unwrap().set_len(512 << 20).unwrap();
        std::fs::create_dir(&root).unwrap();
        run(Command::new("mkfs.btrfs").arg("-q").arg(&image));
        run(Command::new("mount").args(["-t", "btrfs", "-o", "loop"]).arg(&image).arg(&root));
        Btrfs { root }
    }
}

impl Drop for Btrfs {
    fn drop(&mut self) {
        for mount in mount::list_below(&self.root).unwrap().iter().rev() {
            mount::detach(&mount.target).unwrap();
        }
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// A driver to test, and a place to mount on.
struct Bench {
    dir: PathBuf,
    open: Open,
    db: Arc<Database>,
    driver: Arc<dyn Snapshotter>,
}

impl Bench {
    fn open(dir: &Path, open: Open) -> Bench {
        let db = Arc::new(Database::open(dir).unwrap());
        let driver = open(&dir.join("driver"), Arc::clone(&db));
        driver.reconcile().unwrap();
        Bench { dir: dir.into(), open, db, driver }
    }

    /// Closes everything and opens it again, without reconciling.
    fn restart(&mut self) {
        // The database of a data root is open once; give this one up first.
        let spare = tempfile::tempdir_in(self.dir.parent().unwrap()).unwrap();
        self.db = Arc::new(Database::open(spare.path()).unwrap());
        self.driver = (self.open)(&spare.path().join("driver"), Arc::clone(&self.db));
        self.db = Arc::new(Database::open(&self.dir).unwrap());
        self.driver = (self.open)(&self.dir.join("driver"), Arc::clone(&self.db));
    }

    /// Commits a layer named after `name`, filled by `fill`, recorded as durable.
    fn layer(&self, name: &str, parent: Option<Digest>, fill: impl FnOnce(&RootDir)) -> Digest {
        let dir = self.prepare_layer(parent, fill);
        let diff_id = Digest::of(name.as_bytes());
        let chain_id = Digest::chain(parent, diff_id);
        let new = NewLayer { chain_id, parent, diff_id, size_bytes: 1 };
        self.driver.commit_layer(dir, &new).unwrap();
        // Said without syncing: no test here cuts the power.
        self.db.write(|tx| tx.set_layer_durable(&chain_id)).unwrap();
        chain_id
    }

    /// A layer to be committed, filled by `fill`: what that leaves in a directory goes through a tar, as all layers do.
    fn prepare_layer(&self, parent: Option<Digest>, fill: impl FnOnce(&RootDir)) -> LayerDir {
        let files = tempfile::tempdir_in(&self.dir).unwrap();
        let root = RootDir::open(files.path()).unwrap();
        fill(&root);
        let mut tar = Vec::new();
        archive::diff(&mut tar, &root).unwrap();
        let dir = self.driver.prepare_layer(parent.as_ref()).unwrap();
        dir.apply(&tar[..]).unwrap();
        dir
    }

    /// The directory of the driver in which a layer is.
    fn place_of(&self, chain_id: &Digest) -> PathBuf {
        let number = self.driver.layer(chain_id).unwrap().unwrap().number;
        self.dir.join(format!("driver/snapshots/{number}"))
    }

    /// Runs `f` on the mounted snapshot `key`.
    fn mounted<T>(&self, key: &str, options: MountOptions, f: impl FnOnce(&Path) -> T) -> T {
        let target = self.dir.join(format!("mnt-{key}"));
        std::fs::create_dir_all(&target).unwrap();
        self.driver.mount(key, &target, &options).unwrap();
        let _guard = Unmount(&target);
        f(&target)
    }

    /// Runs `f` on a snapshot of its own on `parent`.
    fn on<T>(&self, parent: Option<Digest>, f: impl FnOnce(&Path) -> T) -> T {
        self.driver.prepare("on", parent.as_ref()).unwrap();
        let value = self.mounted("on", MountOptions { volatile: true, read_only: false }, f);
        self.driver.remove("on").unwrap();
        value
    }
}

struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        mount::detach(self.0).unwrap();
    }
}

fn write(root: &RootDir, path: &str, content: &str) {
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::TRUNC;
    let fd = root.open_file(Path::new(path), flags, Mode::from_raw_mode(0o644)).unwrap();
    File::from(fd).write_all(content.as_bytes()).unwrap();
}

fn mkdir(root: &RootDir, path: &str) {
    rustix::fs::mkdirat(root, path, Mode::from_raw_mode(0o755)).unwrap();
}

/// The names in a directory, sorted.
fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
