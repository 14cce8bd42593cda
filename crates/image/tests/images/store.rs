//! A store in a directory of its own.

use content::ContentStore;
use image::{Image, Images, Import, OnProgress, ignore};
use metadata::Database;
use oci::{Descriptor, Platform, Reference};
use snapshot::{LayerForm, MountOptions, Overlay, Snapshotter};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the layers of stores that are opened from now on are EROFS images.
pub(crate) static IMAGES: AtomicBool = AtomicBool::new(false);

/// Whether the test may go on; says so when not.
pub(crate) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: needs root");
    }
    root
}

pub(crate) struct Store {
    pub(crate) root: PathBuf,
    pub(crate) db: Arc<Database>,
    pub(crate) content: ContentStore,
    pub(crate) overlay: Arc<Overlay>,
    pub(crate) images: Images,
    /// Removed last.
    dir: Option<tempfile::TempDir>,
}

impl Store {
    pub(crate) fn new() -> Store {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path());
        store.dir = Some(dir);
        store
    }

    /// Opens what is in `root`, as a daemon does at its start, reconciling included.
    pub(crate) fn open(root: &Path) -> Store {
        let store = Store::open_unreconciled(root);
        store.images.reconcile().unwrap();
        store
    }

    pub(crate) fn open_unreconciled(root: &Path) -> Store {
        let db = Arc::new(Database::open(root).unwrap());
        let content = ContentStore::open(&root.join("content")).unwrap();
        let form = if IMAGES.load(Ordering::SeqCst) { LayerForm::Image } else { LayerForm::Directory };
        let (dir, mounts) = (root.join("overlay"), root.join("mounts"));
        let overlay = Arc::new(Overlay::open_with(&dir, &mounts, form, Arc::clone(&db)).unwrap());
        let snapshotter: Arc<dyn Snapshotter> = Arc::clone(&overlay) as _;
        let images = Images::open(root, Arc::clone(&db), content.clone(), snapshotter).unwrap();
        Store { root: root.into(), db, content, overlay, images, dir: None }
    }

    /// Closes the store and opens it again, as a restart does.
    pub(crate) fn restart(self) -> Store {
        let Store { root, dir, db, content, overlay, images } = self;
        drop((images, overlay, content, db));
        let mut store = Store::open(&root);
        store.dir = dir;
        store
    }

    pub(crate) fn import(&self, target: &Descriptor, names: &[&str]) -> Result<Image, image::Error> {
        self.import_with(target, names, &ignore)
    }

    pub(crate) fn import_with(
        &self,
        target: &Descriptor,
        names: &[&str],
        progress: OnProgress<'_>,
    ) -> Result<Image, image::Error> {
        let references: Vec<Reference> = names.iter().map(|name| name.parse().unwrap()).collect();
        let platform = Platform::host();
        self.images.import(&Import {
            target,
            platform: &platform,
            references: &references,
            lease: None,
            progress,
        })
    }

    /// Runs `f` on the root of a container of `image`.
    pub(crate) fn with_mount<T>(&self, image: &Image, f: impl FnOnce(&Path) -> T) -> T {
        let key = format!("test-{}", image.id.short());
        self.overlay.prepare(&key, image.chain_id.as_ref()).unwrap();
        let target = self.root.join("mnt");
        std::fs::create_dir_all(&target).unwrap();
        self.overlay.mount(&key, &target, &MountOptions { volatile: true, read_only: false }).unwrap();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| f(&target)));
        self.overlay.unmount(&target).unwrap();
        self.overlay.remove(&key).unwrap();
        match result {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Checks the invariants of a store at rest: blobs match their digests; nothing is without owner; nothing is
    /// missing; a second reconcile is a no-op.
    pub(crate) fn check(&self) {
        for digest in self.content.list().unwrap() {
            self.content.verify(&digest).unwrap();
        }
        assert!(self.images.reconcile().unwrap().is_clean());
        for image in self.images.list().unwrap() {
            self.images.config(&image.id).unwrap();
            let dirs = image.chain_id.map(|top| self.overlay.layers(&top).unwrap().paths).unwrap_or_default();
            assert!(dirs.iter().all(|dir| dir.is_dir()));
        }
    }

    /// Number of layer and snapshot directories, blobs, and images.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        let dirs = std::fs::read_dir(self.root.join("overlay/snapshots")).unwrap().count();
        (dirs, self.content.list().unwrap().len(), self.images.list().unwrap().len())
    }
}

/// Removes `name` as a client would.
pub(crate) fn remove(
    store: &Store,
    name: &str,
    force: bool,
    users: &[image::User],
) -> Result<Vec<image::Removed>, image::Error> {
    store.images.remove(name, &image::Remove { force, no_prune: false, users: &|_| users.to_vec() })
}
