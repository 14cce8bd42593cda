//! Contexts that stay: what a client sent once, so that next time it sends only what has changed.
//!
//! ```text
//! <data-root>/build-cache/context-<hex>/files/    as the client's directory was, times included
//!                                      known      digests of files by inode and times of change
//!                                      picks      what sources of steps came to; missing while files change
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
    picks: Arc<Picks>,
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
            for path in [&files, &home.join("known"), &home.join("picks")] {
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
        let known = Arc::new(Known::new(home.join("known")));
        let picks = Arc::new(Picks::take(home.join("picks")));
        Ok(Kept { files, root, known, picks, _home: place })
    }

    /// All files were received; whether any of them is not as it was.
    pub fn settle(&self, is_changed: bool) {
        self.picks.settle(is_changed);
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

    pub(crate) fn picks(&self) -> &Arc<Picks> {
        &self.picks
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
    /// Read when it is first asked.
    state: Mutex<Option<State>>,
}

#[derive(Debug, Default)]
struct State {
    digests: HashMap<Stamp, [u8; 32]>,
    /// Those that were asked for or put: the others are of files that are gone.
    used: HashSet<Stamp>,
    is_changed: bool,
}

fn read_known(path: &Path) -> State {
    let bytes = std::fs::read(path).unwrap_or_default();
    let Some(entries) = bytes.strip_prefix(MAGIC) else { return State::default() };
    let entries = entries.chunks_exact(ENTRY).take(MAX_KNOWN);
    let mut state = State {
        digests: HashMap::with_capacity(entries.len()),
        used: HashSet::with_capacity(entries.len()),
        is_changed: false,
    };
    for entry in entries {
        let (numbers, digest) = entry.split_at(7 * 8);
        let mut stamp = [0; 7];
        for (to, from) in stamp.iter_mut().zip(numbers.chunks_exact(8)) {
            *to = u64::from_le_bytes(from.try_into().expect("eight bytes each"));
        }
        state.digests.insert(Stamp(stamp), digest.try_into().expect("32 bytes are left"));
    }
    state
}

impl Known {
    fn new(path: PathBuf) -> Known {
        Known { path, state: Mutex::default() }
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        work(state.get_or_insert_with(|| read_known(&self.path)))
    }

    pub(crate) fn get(&self, stamp: &Stamp) -> Option<[u8; 32]> {
        self.with(|state| {
            let digest = *state.digests.get(stamp)?;
            state.used.insert(*stamp);
            Some(digest)
        })
    }

    pub(crate) fn put(&self, stamp: Stamp, digest: [u8; 32]) {
        self.with(|state| {
            if state.used.len() < MAX_KNOWN {
                state.digests.insert(stamp, digest);
                state.used.insert(stamp);
                state.is_changed = true;
            }
        });
    }
}

impl Known {
    /// A file that is known has another stamp now, by what has changed neither its attributes nor its bytes.
    pub(crate) fn renew(&self, before: &Stamp, now: Stamp) {
        self.with(|state| {
            let Some(digest) = state.digests.remove(before) else { return };
            state.used.remove(before);
            state.digests.insert(now, digest);
            state.used.insert(now);
            state.is_changed = true;
        });
    }
}

impl Drop for Known {
    /// Writes what is new. What cannot be written is computed again next time.
    fn drop(&mut self) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(state) = state.filter(|state| state.is_changed) else { return };
        let mut bytes = Vec::with_capacity(MAGIC.len() + state.used.len() * ENTRY);
        bytes.extend_from_slice(MAGIC);
        for stamp in &state.used {
            let Some(digest) = state.digests.get(stamp) else { continue };
            stamp.0.iter().for_each(|n| bytes.extend_from_slice(&n.to_le_bytes()));
            bytes.extend_from_slice(digest);
        }
        replace(&self.path, &bytes);
    }
}

/// Writes a file beside others that are only there to be quicker.
fn replace(path: &Path, bytes: &[u8]) {
    let temporary = path.with_extension("new");
    let written = std::fs::write(&temporary, bytes).and_then(|()| std::fs::rename(&temporary, path));
    if let Err(error) = written {
        tracing::debug!(%error, path = %path.display(), "digests of a context are not kept");
    }
}

/// First bytes of the file with picks.
const PICKS_MAGIC: &str = "brig picks 1\n";
/// Most sources of steps that are remembered, and bytes of the file.
const MAX_PICKS: usize = 10_000;
const MAX_PICKS_FILE: u64 = 64 << 20;

/// What the sources of steps came to, by all that chooses files: for as long as nothing in the context changes.
///
/// The file is taken away before anything can change, and written when nothing can any more.
#[derive(Debug)]
pub(crate) struct Picks {
    path: PathBuf,
    state: Mutex<PickState>,
}

#[derive(Debug, Default)]
struct PickState {
    /// Of the files as they were; believed once it is known that they still are so.
    all: HashMap<Digest, String>,
    is_settled: bool,
}

impl Picks {
    fn take(path: PathBuf) -> Picks {
        let mut all = HashMap::new();
        let mut text = String::new();
        let read = std::fs::File::open(&path).and_then(|file| {
            std::io::Read::read_to_string(&mut std::io::Read::take(file, MAX_PICKS_FILE), &mut text)
        });
        if read.is_ok() && std::fs::remove_file(&path).is_ok() {
            for line in text.strip_prefix(PICKS_MAGIC).unwrap_or_default().lines().take(MAX_PICKS) {
                let Some((key, value)) = line.split_once(' ') else { continue };
                if let Ok(key) = key.parse() {
                    all.insert(key, value.to_string());
                }
            }
        }
        Picks { path, state: Mutex::new(PickState { all, is_settled: false }) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, PickState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(&self, is_changed: bool) {
        let mut state = self.lock();
        state.is_settled = true;
        if is_changed {
            state.all.clear();
        }
    }

    pub(crate) fn get(&self, key: &Digest) -> Option<String> {
        let state = self.lock();
        state.all.get(key).filter(|_| state.is_settled).cloned()
    }

    /// `value` is one line.
    pub(crate) fn put(&self, key: Digest, value: String) {
        let mut state = self.lock();
        if state.is_settled && state.all.len() < MAX_PICKS && !value.contains('\n') {
            state.all.insert(key, value);
        }
    }
}

impl Drop for Picks {
    fn drop(&mut self) {
        let state = std::mem::take(&mut *self.lock());
        if !state.is_settled || state.all.is_empty() {
            return;
        }
        let mut text = PICKS_MAGIC.to_string();
        for (key, value) in state.all {
            text += &format!("{key} {value}\n");
        }
        replace(&self.path, text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_are_believed_while_nothing_changes() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("picks");
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let picks = Picks::take(path.clone());
        picks.put(a, "early".into());
        picks.settle(true);
        picks.put(a, "[\"x\"]".into());
        drop(picks);
        let picks = Picks::take(path.clone());
        assert!(!path.exists(), "who is killed now leaves nothing to believe");
        assert_eq!(picks.get(&a), None, "not known yet");
        picks.settle(false);
        assert_eq!(picks.get(&a).as_deref(), Some("[\"x\"]"));
        picks.put(b, "2".into());
        drop(picks);
        let picks = Picks::take(path.clone());
        picks.settle(true);
        assert_eq!((picks.get(&a), picks.get(&b)), (None, None));
        drop(picks);
        assert!(!path.exists());
        // One that ends in the middle of a transfer says nothing.
        let picks = Picks::take(path.clone());
        picks.settle(true);
        picks.put(a, "1".into());
        drop(picks);
        drop(Picks::take(path.clone()));
        assert!(!path.exists());
        std::fs::write(&path, "other\n").expect("write");
        drop(Picks::take(path));
    }

    #[test]
    fn digests_survive_and_those_of_gone_files_do_not() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("known");
        let known = Known::new(path.clone());
        let (a, b) = (Stamp([1; 7]), Stamp([2; 7]));
        known.put(a, [7; 32]);
        known.put(b, [8; 32]);
        drop(known);
        let known = Known::new(path.clone());
        assert_eq!(known.get(&a), Some([7; 32]));
        known.put(Stamp([3; 7]), [9; 32]);
        drop(known);
        let known = Known::new(path.clone());
        assert_eq!((known.get(&a), known.get(&b)), (Some([7; 32]), None));
        drop(known);
        // What is cut or strange is no digest.
        std::fs::write(&path, b"brigkh\0\x02abc").expect("write");
        assert_eq!(Known::new(path.clone()).get(&a), None);
        std::fs::write(&path, b"brigkh\0\x01").expect("write");
        assert_eq!(Known::new(path).get(&a), None);
    }
}
