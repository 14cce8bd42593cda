//! Contexts that stay: what a client sent once, so that next time it sends only what has changed.
//!
//! ```text
//! <data-root>/build-cache/context-<hex>/files/    as the client's directory was, times included
//!                                      known      digests of files by inode and times of change
//!                                      boot       the kernel's boot id at that time
//! ```
//!
//! Nothing here is synced: after another boot than the noted one it is thrown away.
//!
//! One build at a time has a kept context; one that comes while it is taken begins with an empty one of its own. Files are
//! written under another name and renamed, so that what a killed daemon leaves is whole or missing. `known` is only
//! believed for a file whose inode, size and times (also that of the inode's own change) are what they were.

use crate::cache::now_ms;
use crate::error::{During, Error, IoDuring};
use engine::{Engine, Scratch};
use metadata::BuildCacheRow;
use oci::Digest;
use rootdir::RootDir;
use rustix::fs::Stat;
use std::collections::{HashMap, HashSet};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// How keys of these begin in the table of the cache.
pub(crate) const PREFIX: &str = "context:";
/// Their kind in the list of the cache.
pub(crate) const KIND: &str = "source.local";
/// First bytes of a file with digests; with the version of its form.
const MAGIC: &[u8; 8] = b"brigkh\0\x02";
/// Bytes of one entry: device, inode, size, times of the content and the inode, digest.
const ENTRY: usize = 7 * 8 + 32;
/// Files whose digests are remembered.
const MAX_KNOWN: usize = 1_000_000;

/// The directory of a key below that of the cache.
pub(crate) fn directory(key: &str) -> String {
    format!("context-{}", key.strip_prefix(PREFIX).unwrap_or(key))
}

/// Contexts that a build has at the moment.
fn taken() -> &'static Mutex<HashSet<PathBuf>> {
    static TAKEN: OnceLock<Mutex<HashSet<PathBuf>>> = OnceLock::new();
    TAKEN.get_or_init(Mutex::default)
}

/// Takes one for itself, unless somebody has it.
fn take(home: &Path) -> Option<Taken> {
    let is_free = taken().lock().unwrap_or_else(PoisonError::into_inner).insert(home.to_path_buf());
    is_free.then(|| Taken(home.to_path_buf()))
}

/// A context that is taken, until it is dropped.
#[derive(Debug)]
struct Taken(PathBuf);

impl Drop for Taken {
    fn drop(&mut self) {
        taken().lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

/// A context to receive files into.
#[derive(Debug)]
pub struct Kept {
    files: PathBuf,
    root: RootDir,
    known: Arc<Known>,
    /// What keeps it: a place among those that stay, or a directory that is removed.
    _home: Place,
}

#[derive(Debug)]
#[expect(dead_code, reason = "kept for what happens when they are dropped")]
enum Place {
    Stays(Taken),
    Goes(Scratch),
}

impl Kept {
    /// Opens the context of `key`, whatever text that is, or an empty one if another build has it. `description` is for
    /// the list of the cache. Blocking.
    pub fn open(engine: &Engine, key: &str, description: &str) -> Result<Kept, Error> {
        let doing = || format!("open the kept context of {description}");
        let name = Digest::of(key.as_bytes()).hex();
        let home = engine.build_cache_dir().join(directory(&name));
        let (place, home) = match take(&home) {
            Some(taken) => {
                let row = BuildCacheRow {
                    key: format!("{PREFIX}{name}"),
                    kind: KIND.into(),
                    parent: None,
                    chain_id: None,
                    blob: None,
                    body: "{}".into(),
                    description: description.to_string(),
                    size_bytes: 0,
                    created_ms: now_ms(),
                    used_ms: now_ms(),
                    uses: 1,
                };
                engine.database().write(|tx| tx.put_build_cache(&row)).during(doing)?;
                (Place::Stays(taken), home)
            }
            None => {
                let scratch = engine.make_scratch().during(doing)?;
                let path = scratch.path().to_path_buf();
                (Place::Goes(scratch), path)
            }
        };
        let files = home.join("files");
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&home).io_during(doing)?;
        let boot = std::fs::read("/proc/sys/kernel/random/boot_id").io_during(doing)?;
        if std::fs::read(home.join("boot")).ok().as_ref() != Some(&boot) {
            for path in [&files, &home.join("known")] {
                let removed =
                    if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
                match removed {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).io_during(doing),
                    _ => {}
                }
            }
            std::fs::write(home.join("boot"), &boot).io_during(doing)?;
        }
        match std::fs::DirBuilder::new().mode(0o755).create(&files) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(e).io_during(doing),
            _ => {}
        }
        let root = RootDir::open(&files).during(doing)?;
        let known = Arc::new(Known::read(home.join("known")));
        Ok(Kept { files, root, known, _home: place })
    }

    /// Where its files are.
    pub fn files(&self) -> &Path {
        &self.files
    }

    pub(crate) fn root(&self) -> &RootDir {
        &self.root
    }

    pub(crate) fn known(&self) -> &Arc<Known> {
        &self.known
    }
}

/// Removes the context `id` if no build has it. Whether it did. Blocking.
pub(crate) fn remove(engine: &Engine, id: &str) -> Result<bool, Error> {
    let doing = || format!("remove the kept context {id}");
    let home = engine.build_cache_dir().join(directory(id));
    let Some(_taken) = take(&home) else { return Ok(false) };
    engine.database().delete(|tx| tx.delete_build_cache(&format!("{PREFIX}{id}"))).during(doing)?;
    match std::fs::remove_dir_all(&home) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).io_during(doing),
        _ => Ok(true),
    }
}

/// By what a file is known again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Stamp([u64; 7]);

impl Stamp {
    pub(crate) fn of(stat: &Stat) -> Stamp {
        let number = |n: i64| u64::from_le_bytes(n.to_le_bytes());
        Stamp([
            stat.st_dev,
            stat.st_ino,
            number(stat.st_size),
            number(stat.st_mtime),
            stat.st_mtime_nsec,
            number(stat.st_ctime),
            stat.st_ctime_nsec,
        ])
    }
}

/// Digests of files: of their copied attributes and their bytes. Both change the time of the inode's own change.
#[derive(Debug)]
pub(crate) struct Known {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    digests: HashMap<Stamp, [u8; 32]>,
    /// Those that were asked for or put: the others are of files that are gone.
    used: HashSet<Stamp>,
    is_changed: bool,
}

impl Known {
    fn read(path: PathBuf) -> Known {
        let mut digests = HashMap::new();
        let bytes = std::fs::read(&path).unwrap_or_default();
        if let Some(entries) = bytes.strip_prefix(MAGIC) {
            for entry in entries.chunks_exact(ENTRY).take(MAX_KNOWN) {
                let (numbers, digest) = entry.split_at(7 * 8);
                let mut stamp = [0; 7];
                for (to, from) in stamp.iter_mut().zip(numbers.chunks_exact(8)) {
                    *to = u64::from_le_bytes(from.try_into().expect("eight bytes each"));
                }
                digests.insert(Stamp(stamp), digest.try_into().expect("32 bytes are left"));
            }
        }
        let state = State { digests, ..State::default() };
        Known { path, state: Mutex::new(state) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, stamp: &Stamp) -> Option<[u8; 32]> {
        let mut state = self.lock();
        let digest = *state.digests.get(stamp)?;
        state.used.insert(*stamp);
        Some(digest)
    }

    pub(crate) fn put(&self, stamp: Stamp, digest: [u8; 32]) {
        let mut state = self.lock();
        if state.used.len() < MAX_KNOWN {
            state.digests.insert(stamp, digest);
            state.used.insert(stamp);
            state.is_changed = true;
        }
    }
}

impl Drop for Known {
    /// Writes what is new. What cannot be written is computed again next time.
    fn drop(&mut self) {
        let state = self.lock();
        if !state.is_changed {
            return;
        }
        let mut bytes = Vec::with_capacity(MAGIC.len() + state.used.len() * ENTRY);
        bytes.extend_from_slice(MAGIC);
        for stamp in &state.used {
            let Some(digest) = state.digests.get(stamp) else { continue };
            stamp.0.iter().for_each(|n| bytes.extend_from_slice(&n.to_le_bytes()));
            bytes.extend_from_slice(digest);
        }
        let temporary = self.path.with_extension("new");
        let written =
            std::fs::write(&temporary, bytes).and_then(|()| std::fs::rename(&temporary, &self.path));
        if let Err(error) = written {
            tracing::debug!(%error, path = %self.path.display(), "digests of a context are not kept");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_survive_and_those_of_gone_files_do_not() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("known");
        let known = Known::read(path.clone());
        let (a, b) = (Stamp([1; 7]), Stamp([2; 7]));
        known.put(a, [7; 32]);
        known.put(b, [8; 32]);
        drop(known);
        let known = Known::read(path.clone());
        assert_eq!(known.get(&a), Some([7; 32]));
        known.put(Stamp([3; 7]), [9; 32]);
        drop(known);
        let known = Known::read(path.clone());
        assert_eq!((known.get(&a), known.get(&b)), (Some([7; 32]), None));
        drop(known);
        // What is cut or strange is no digest.
        std::fs::write(&path, b"brigkh\0\x02abc").expect("write");
        assert_eq!(Known::read(path.clone()).get(&a), None);
        std::fs::write(&path, b"brigkh\0\x01").expect("write");
        assert_eq!(Known::read(path).get(&a), None);
    }
}
