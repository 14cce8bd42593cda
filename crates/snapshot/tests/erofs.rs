//! What the driver `erofs` does beyond the contract: layers mounted once, found again, and taken away when idle.
//!
//! Needs root, and a kernel that mounts EROFS images from files.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "the helpers of tests fail as tests do")]

use metadata::Database;
use oci::Digest;
use rootdir::RootDir;
use snapshot::{LayerForm, MountOptions, NewLayer, Overlay, Snapshotter};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

struct Store {
    dir: tempfile::TempDir,
    driver: Option<Overlay>,
}

impl Store {
    fn new() -> Option<Store> {
        let dir = tempfile::tempdir().unwrap();
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return None;
        }
        if let Err(e) = Overlay::can_mount_images(dir.path()) {
            println!("skipped: {}", errors::chain(&e));
            return None;
        }
        let mut store = Store { dir, driver: None };
        store.open(LayerForm::Image);
        Some(store)
    }

    /// As a new process would. The old one's mounts stay.
    fn open(&mut self, form: LayerForm) -> &Overlay {
        self.driver = None;
        let db = Arc::new(Database::open(self.dir.path()).unwrap());
        self.driver.insert(Overlay::open_with(self.dir.path(), &self.path("mounts"), form, db).unwrap())
    }

    fn driver(&self) -> &Overlay {
        self.driver.as_ref().unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A layer with one file of its name.
    fn layer(&self, name: &str, parent: Option<Digest>) -> Digest {
        self.layer_of(name, parent, |root| std::fs::write(root.join(name), name).unwrap())
    }

    fn layer_of(&self, name: &str, parent: Option<Digest>, fill: impl FnOnce(&Path)) -> Digest {
        let files = tempfile::tempdir().unwrap();
        fill(files.path());
        let root = RootDir::open(files.path()).unwrap();
        let mut tar = Vec::new();
        let options = archive::PackOptions { rebase: Some(".".into()), ..Default::default() };
        archive::pack(&mut tar, &root, Path::new("/"), &options).unwrap();
        let dir = self.driver().prepare_layer(parent.as_ref()).unwrap();
        dir.apply(&tar[..]).unwrap();
        let diff_id = Digest::of(name.as_bytes());
        let chain_id = Digest::chain(parent, diff_id);
        self.driver().commit_layer(dir, &NewLayer { chain_id, parent, diff_id, size_bytes: 1 }).unwrap();
        chain_id
    }

    fn mount(&self, key: &str, parent: &Digest) -> PathBuf {
        self.driver().prepare(key, Some(parent)).unwrap();
        let target = self.path(key);
        std::fs::create_dir(&target).unwrap();
        self.driver().mount(key, &target, &MountOptions::default()).unwrap();
        target
    }

    fn mounted_layers(&self) -> usize {
        mount::list_below(&self.path("mounts")).unwrap().len()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        for mount in mount::list_below(self.dir.path()).unwrap().iter().rev() {
            mount::detach(&mount.target).unwrap();
        }
    }
}

const NOW: Duration = Duration::ZERO;

#[test]
fn a_layer_is_mounted_once_and_while_it_is_used() {
    let Some(mut store) = Store::new() else { return };
    let a = store.layer("a", None);
    let b = store.layer("b", Some(a));
    assert_eq!(store.mounted_layers(), 0, "mounted before anyone needs it");
    let first = store.mount("c1", &b);
    let second = store.mount("c2", &a);
    assert_eq!(store.mounted_layers(), 2);
    // The same inode of the same file system: one page cache.
    let file = |root: &Path| std::fs::metadata(root.join("a")).unwrap().ino();
    assert_eq!(file(&first), file(&second));
    store.driver().unmount_idle(NOW);
    assert_eq!(store.mounted_layers(), 2);

    // The next process finds what is mounted and what of it is used.
    store.open(LayerForm::Image);
    let third = store.mount("c3", &b);
    assert_eq!(store.mounted_layers(), 2);
    store.driver().unmount(&first).unwrap();
    store.driver().unmount(&third).unwrap();
    assert!(!store.driver().unmount_idle(NOW), "nothing idle is left");
    assert_eq!(store.mounted_layers(), 1);
    assert_eq!(std::fs::read_to_string(second.join("a")).unwrap(), "a");
    store.driver().unmount(&second).unwrap();
    assert!(store.driver().unmount_idle(Duration::from_secs(3600)), "idle, and not for long enough");
    store.driver().unmount_idle(NOW);
    assert_eq!(store.mounted_layers(), 0);
    assert_eq!(std::fs::read_dir(store.path("mounts")).unwrap().count(), 0);
    let again = store.path("c1");
    store.driver().mount("c1", &again, &MountOptions::default()).unwrap();
    assert_eq!(std::fs::read_to_string(again.join("b")).unwrap(), "b");
}

#[test]
fn what_is_held_open_stays_mounted() {
    let Some(store) = Store::new() else { return };
    let a = store.layer("a", None);
    let layers = store.driver().layers(&a).unwrap();
    store.driver().unmount_idle(NOW);
    assert_eq!(std::fs::read_to_string(layers.paths[0].join("a")).unwrap(), "a");
    drop(layers);
    store.driver().unmount_idle(NOW);
    assert_eq!(store.mounted_layers(), 0);
}

#[test]
fn a_removed_layer_takes_its_mount_along() {
    let Some(store) = Store::new() else { return };
    let a = store.layer("a", None);
    drop(store.driver().layers(&a).unwrap());
    assert_eq!(store.mounted_layers(), 1);
    assert_eq!(store.driver().remove_unused_layers(&[]).unwrap().len(), 1);
    assert_eq!(store.mounted_layers(), 0);
    assert_eq!(store.driver().empty_trash().unwrap(), 1);
}

#[test]
fn a_mount_whose_layer_is_gone_is_taken_away_at_start() {
    let Some(mut store) = Store::new() else { return };
    let a = store.layer("a", None);
    drop(store.driver().layers(&a).unwrap());
    assert_eq!(store.mounted_layers(), 1);
    // Never made durable: the next process drops it.
    store.open(LayerForm::Image);
    assert_eq!(store.driver().reconcile().unwrap().lost_layers, [a]);
    assert_eq!(store.mounted_layers(), 0);
    assert!(store.driver().reconcile().unwrap().is_clean());
}

#[test]
fn directories_and_images_make_one_stack() {
    let Some(mut store) = Store::new() else { return };
    let a = store.layer("a", None);
    store.open(LayerForm::Directory);
    let b = store.layer("b", Some(a));
    store.open(LayerForm::Image);
    let c = store.layer("c", Some(b));
    for form in [LayerForm::Directory, LayerForm::Image] {
        let key = format!("{form:?}");
        store.open(form);
        let root = store.mount(&key, &c);
        for name in ["a", "b", "c"] {
            assert_eq!(std::fs::read_to_string(root.join(name)).unwrap(), name);
        }
    }
    assert_eq!(store.mounted_layers(), 2);
}

#[test]
fn where_images_cannot_be_mounted_they_count_as_lost() {
    let Some(mut store) = Store::new() else { return };
    let a = store.layer("a", None);
    store.open(LayerForm::Directory);
    let b = store.layer("b", Some(a));
    let db = store.driver.take();
    drop(db);
    let db = Arc::new(Database::open(store.dir.path()).unwrap());
    db.write(|tx| tx.set_layer_durable(&a).and_then(|_| tx.set_layer_durable(&b))).unwrap();
    let mounts = store.path("mounts");
    let driver = Overlay::open_with(store.dir.path(), &mounts, LayerForm::Directory, db).unwrap();
    let done = driver.without_images().reconcile().unwrap();
    assert_eq!((done.lost_layers, done.orphans), (vec![a], 1));
}

#[test]
fn the_root_is_as_the_topmost_layer_that_lists_it_says() {
    for form in [LayerForm::Image, LayerForm::Directory] {
        let Some(mut store) = Store::new() else { return };
        store.open(form);
        let set = |root: &Path, mode, owner| {
            std::os::unix::fs::chown(root, Some(owner), Some(owner + 1)).unwrap();
            std::fs::set_permissions(root, std::fs::Permissions::from_mode(mode)).unwrap();
            rustix::fs::setxattr(
                root,
                "user.by",
                format!("{owner}").as_bytes(),
                rustix::fs::XattrFlags::empty(),
            )
            .unwrap();
        };
        let a = store.layer_of("a", None, |root| set(root, 0o711, 1));
        let b = store.layer_of("b", Some(a), |root| set(root, 0o1750, 2));
        // A layer that says nothing of the root.
        let dir = store.driver().prepare_layer(Some(&b)).unwrap();
        dir.apply(std::io::empty()).unwrap();
        let diff_id = Digest::of(b"c");
        let c = Digest::chain(Some(b), diff_id);
        let new = NewLayer { chain_id: c, parent: Some(b), diff_id, size_bytes: 0 };
        store.driver().commit_layer(dir, &new).unwrap();
        for (key, parent, mode, owner) in [("ca", &a, 0o711, 1), ("cb", &b, 0o1750, 2), ("cc", &c, 0o1750, 2)]
        {
            let root = store.mount(key, parent);
            let seen = std::fs::metadata(&root).unwrap();
            assert_eq!(
                (seen.mode() & 0o7777, seen.uid(), seen.gid()),
                (mode, owner, owner + 1),
                "{form:?} {key}"
            );
            let mut value = [0; 8];
            let n = rustix::fs::getxattr(&root, "user.by", &mut value[..]).unwrap();
            assert_eq!(&value[..n], format!("{owner}").as_bytes());
        }
    }
}
