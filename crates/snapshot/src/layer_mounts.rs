//! Mounts of layers that are images: one for each layer however many containers use it, so that they share its page
//! cache; made when first needed, found again by the next process, and taken away once nothing has used it for a while.
//!
//! ```text
//! DIR/<n>       where the image of layer n is mounted
//! ```
//!
//! An overlay holds on to its layers by itself, whatever becomes of the mounts here: taking one away is never wrong, it
//! only costs the sharing with the next container.

use crate::Error;
use crate::snapshotter::Guard;
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a layer stays mounted that nothing uses: the next container often has the same image.
pub(crate) const IDLE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct LayerMounts {
    dir: PathBuf,
    mounted: Mutex<HashMap<u64, Held>>,
}

/// A layer that is mounted.
#[derive(Debug)]
struct Held {
    users: usize,
    since: Instant,
}

/// Keeps layers mounted.
#[derive(Debug)]
pub(crate) struct Hold {
    mounts: Arc<LayerMounts>,
    numbers: Vec<u64>,
}

impl Guard for Hold {}

impl LayerMounts {
    /// Finds what an earlier process left mounted below `dir`.
    pub(crate) fn open(dir: &Path) -> Result<Arc<LayerMounts>, Error> {
        let mut mounted = HashMap::new();
        if dir.exists() {
            let list = mount::list_below(dir).map_err(|source| Error::Unmount { source })?;
            for mount in list {
                let number = mount.target.strip_prefix(dir).ok().and_then(|p| p.to_str()?.parse().ok());
                if let Some(number) = number {
                    mounted.insert(number, Held { users: 0, since: Instant::now() });
                }
            }
        }
        Ok(Arc::new(LayerMounts { dir: dir.into(), mounted: Mutex::new(mounted) }))
    }

    /// Where the image of layer `number` is mounted while a [`Hold`] on it lives.
    pub(crate) fn path(&self, number: u64) -> PathBuf {
        self.dir.join(number.to_string())
    }

    /// Mounts those of `layers` (number, image) that are not mounted, and keeps all mounted.
    pub(crate) fn hold(self: &Arc<LayerMounts>, layers: &[(u64, PathBuf)]) -> Result<Hold, Error> {
        let mut hold = Hold { mounts: Arc::clone(self), numbers: Vec::with_capacity(layers.len()) };
        for (number, image) in layers {
            let mut mounted = self.lock();
            match mounted.get_mut(number) {
                Some(held) => held.users += 1,
                None => {
                    self.mount(*number, image)?;
                    mounted.insert(*number, Held { users: 1, since: Instant::now() });
                }
            }
            drop(mounted);
            hold.numbers.push(*number);
        }
        Ok(hold)
    }

    fn mount(&self, number: u64, image: &Path) -> Result<(), Error> {
        let target = self.path(number);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&target)
            .map_err(|source| Error::File { what: "create directory", path: target.clone(), source })?;
        mount::mount_erofs(image, &target).map_err(|source| Error::MountLayer { number, source })
    }

    /// Unmounts what no [`Hold`] and none of `in_use` needs and has been idle for `idle`. Says whether anything is
    /// left that may become idle.
    pub(crate) fn sweep(&self, in_use: &HashSet<u64>, idle: Duration) -> bool {
        let mut mounted = self.lock();
        mounted.retain(|number, held| {
            if held.users > 0 || in_use.contains(number) {
                held.since = Instant::now();
                return true;
            }
            held.since.elapsed() < idle || !self.unmount(*number)
        });
        mounted.iter().any(|(number, held)| held.users == 0 && !in_use.contains(number))
    }

    /// Unmounts a layer that is being removed.
    pub(crate) fn forget(&self, number: u64) {
        let mut mounted = self.lock();
        if mounted.get(&number).is_some_and(|held| held.users == 0) && self.unmount(number) {
            mounted.remove(&number);
        }
    }

    pub(crate) fn numbers(&self) -> HashSet<u64> {
        self.lock().keys().copied().collect()
    }

    /// Says whether nothing is mounted there any more. What is busy stays, for the next time.
    fn unmount(&self, number: u64) -> bool {
        let target = self.path(number);
        if let Err(e) = mount::unmount(&target) {
            let is_mounted = mount::is_mounted(&target).unwrap_or(true);
            if is_mounted {
                tracing::debug!(number, error = errors::chain(&e), "layer stays mounted");
                return false;
            }
        }
        match std::fs::remove_dir(&target) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                tracing::debug!(number, error = %e, "mount point of layer left behind");
            }
            _ => {}
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Held>> {
        self.mounted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut mounted = self.mounts.lock();
        for number in &self.numbers {
            if let Some(held) = mounted.get_mut(number) {
                held.users -= 1;
                held.since = Instant::now();
            }
        }
    }
}
