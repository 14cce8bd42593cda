//! Opening the store; finding, reading, verifying and removing blobs.

use crate::{Error, Ingest};
use oci::Digest;
use sha2::Digest as _;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bytes read at a time when hashing.
const BUFFER: usize = 256 << 10;

/// How long a partial blob waits for who goes on with it.
pub const PARTIAL_LIFE: Duration = Duration::from_secs(24 * 3600);

/// Blobs by digest. Cloning gives another handle on the same store.
#[derive(Debug, Clone)]
pub struct ContentStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    blobs: PathBuf,
    ingests: PathBuf,
    partials: PathBuf,
    trash: PathBuf,
    /// Partial blobs that someone writes now.
    resumed: Mutex<HashSet<Digest>>,
    /// Open on `blobs`, for syncing it.
    directory: File,
    next: AtomicU64,
    /// Blobs that have their names and whose directory is not synced yet, at most.
    committing: AtomicUsize,
}

impl ContentStore {
    /// Opens the store in `dir`, making it where it is missing, and removes ingests that were never committed.
    ///
    /// One process at a time; the lock of the data root (crate `metadata`) sees to it.
    pub fn open(dir: &Path) -> Result<ContentStore, Error> {
        let (blobs, ingests, partials) = (dir.join("blobs/sha256"), dir.join("ingest"), dir.join("partial"));
        let trash = dir.join("trash");
        for path in [&blobs, &ingests, &partials, &trash] {
            make_dir(path)?;
        }
        for path in list_dir(&ingests)?.into_iter().chain(list_dir(&trash)?) {
            std::fs::remove_file(&path).map_err(|source| Error::File { what: "remove", path, source })?;
        }
        let directory =
            File::open(&blobs).map_err(|source| Error::File { what: "open", path: blobs.clone(), source })?;
        let resumed = Mutex::default();
        let (next, committing) = (AtomicU64::new(0), AtomicUsize::new(0));
        let inner = Inner { blobs, ingests, partials, trash, resumed, directory, next, committing };
        let store = ContentStore { inner: Arc::new(inner) };
        store.remove_partials(PARTIAL_LIFE)?;
        Ok(store)
    }

    /// Begins a blob. `expected` and `size` (bytes) are what was promised, where something was.
    pub fn ingest(&self, expected: Option<Digest>, size: Option<u64>) -> Result<Ingest, Error> {
        let number = self.inner.next.fetch_add(1, Ordering::Relaxed);
        Ingest::new(self.clone(), self.inner.ingests.join(number.to_string()), expected, size)
    }

    /// Begins the blob `expected` of `size` bytes, or goes on with what an earlier such ingest left, also before a
    /// restart: [`Ingest::written`] says how much that is. One writer at a time: a second one begins anew, beside.
    pub fn resume(&self, expected: Digest, size: u64) -> Result<Ingest, Error> {
        if !self.resumed().insert(expected) {
            return self.ingest(Some(expected), Some(size));
        }
        Ingest::resume(self.clone(), self.inner.partials.join(expected.hex()), expected, size)
    }

    /// Gives up the right to a partial blob.
    pub(crate) fn let_go(&self, digest: &Digest) {
        self.resumed().remove(digest);
    }

    fn resumed(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.inner.resumed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes partial blobs that nobody writes and nobody has written for as long as `age`. Returns their bytes.
    pub fn remove_partials(&self, age: Duration) -> Result<u64, Error> {
        let resumed = self.resumed();
        let mut freed = 0;
        for path in list_dir(&self.inner.partials)? {
            let digest = path.file_name().and_then(|name| format!("sha256:{}", name.to_str()?).parse().ok());
            if digest.is_some_and(|digest: Digest| resumed.contains(&digest)) {
                continue;
            }
            // A clock that was set back makes nothing old.
            let Ok(metadata) = std::fs::symlink_metadata(&path) else { continue };
            let old = metadata.modified().ok().and_then(|at| at.elapsed().ok()).unwrap_or_default();
            if old >= age {
                std::fs::remove_file(&path).map_err(|source| Error::File { what: "remove", path, source })?;
                freed += metadata.len();
            }
        }
        Ok(freed)
    }

    /// Bytes of all partial blobs.
    pub fn partial_bytes(&self) -> Result<u64, Error> {
        let paths = list_dir(&self.inner.partials)?;
        Ok(paths.iter().filter_map(|path| Some(std::fs::symlink_metadata(path).ok()?.len())).sum())
    }

    /// Stores `bytes` as a blob. Returns its digest. One that is there and whole stays as it is.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, Error> {
        let digest = Digest::of(bytes);
        if self.read_bounded(&digest, bytes.len() as u64).is_ok() {
            // Who commits it beside us may have given it its name, and not have put that on disk.
            if self.inner.committing.load(Ordering::SeqCst) > 0 {
                self.sync_blobs().map_err(|source| Error::Blob {
                    what: "sync directory of",
                    digest,
                    source,
                })?;
            }
            return Ok(digest);
        }
        let mut ingest = self.ingest(Some(digest), Some(bytes.len() as u64))?;
        io::Write::write_all(&mut ingest, bytes).map_err(|source| Error::Blob {
            what: "write",
            digest,
            source,
        })?;
        ingest.commit()?;
        Ok(digest)
    }

    /// Opens a blob for reading.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, Error> {
        File::open(self.blob_path(digest)).map_err(|source| self.failed("open", digest, source))
    }

    /// Whether there is such a blob.
    pub fn contains(&self, digest: &Digest) -> bool {
        self.size(digest).is_ok()
    }

    /// Size of a blob in bytes.
    pub fn size(&self, digest: &Digest) -> Result<u64, Error> {
        std::fs::symlink_metadata(self.blob_path(digest))
            .map(|m| m.len())
            .map_err(|source| self.failed("stat", digest, source))
    }

    /// Reads a whole blob of at most `max` bytes and verifies it.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`] before anything is read; [`Error::DigestMismatch`] when the disk returns other bytes than
    /// were stored.
    pub fn read_bounded(&self, digest: &Digest, max: u64) -> Result<Vec<u8>, Error> {
        let size = self.size(digest)?;
        if size > max {
            return Err(Error::TooLarge { digest: *digest, size, max });
        }
        let mut bytes = Vec::new();
        self.open_blob(digest)?
            .take(max)
            .read_to_end(&mut bytes)
            .map_err(|source| self.failed("read", digest, source))?;
        match Digest::of(&bytes) {
            actual if actual == *digest => Ok(bytes),
            actual => Err(Error::DigestMismatch { expected: *digest, actual }),
        }
    }

    /// Removes a blob. Says whether there was one.
    pub fn remove(&self, digest: &Digest) -> Result<bool, Error> {
        match std::fs::remove_file(self.blob_path(digest)) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(self.failed("remove", digest, source)),
        }
    }

    /// Takes a blob away at once and leaves the work of deleting it, which grows with its size, to
    /// [`ContentStore::empty_trash`] or the next start. Says whether there was one.
    pub fn discard(&self, digest: &Digest) -> Result<bool, Error> {
        let number = self.inner.next.fetch_add(1, Ordering::Relaxed);
        match std::fs::rename(self.blob_path(digest), self.inner.trash.join(number.to_string())) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            // A full disk may have no room for the name.
            Err(_) => self.remove(digest),
        }
    }

    /// Deletes what was discarded.
    pub fn empty_trash(&self) -> Result<(), Error> {
        for path in list_dir(&self.inner.trash)? {
            match std::fs::remove_file(&path) {
                // Someone else empties it too.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(|source| Error::File { what: "remove", path, source })?,
            }
        }
        Ok(())
    }

    /// The digests of all blobs, sorted. Files that are not named by a digest are not ours and are left out.
    pub fn list(&self) -> Result<Vec<Digest>, Error> {
        let mut digests: Vec<Digest> = list_dir(&self.inner.blobs)?
            .iter()
            .filter_map(|path| format!("sha256:{}", path.file_name()?.to_str()?).parse().ok())
            .collect();
        digests.sort_unstable();
        Ok(digests)
    }

    /// Reads a blob and compares it with its digest.
    pub fn verify(&self, digest: &Digest) -> Result<(), Error> {
        let mut file = self.open_blob(digest)?;
        let mut hasher = sha2::Sha256::new();
        let mut buffer = vec![0; BUFFER];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => hasher.update(&buffer[..count]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.failed("read", digest, source)),
            }
        }
        match Digest::from_sha256(hasher.finalize().into()) {
            actual if actual == *digest => Ok(()),
            actual => Err(Error::DigestMismatch { expected: *digest, actual }),
        }
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.inner.blobs.join(digest.hex())
    }

    /// Gives a synced file the name of a blob, and puts that on disk.
    pub(crate) fn name_blob(&self, path: &Path, digest: &Digest) -> Result<(), Error> {
        let failed = |what| move |source| Error::Blob { what, digest: *digest, source };
        self.inner.committing.fetch_add(1, Ordering::SeqCst);
        let named = std::fs::rename(path, self.blob_path(digest))
            .map_err(failed("commit"))
            .and_then(|()| self.sync_blobs().map_err(failed("sync directory of")));
        self.inner.committing.fetch_sub(1, Ordering::SeqCst);
        named
    }

    fn sync_blobs(&self) -> io::Result<()> {
        self.inner.directory.sync_all()
    }

    fn failed(&self, what: &'static str, digest: &Digest, source: io::Error) -> Error {
        match source.kind() {
            io::ErrorKind::NotFound => Error::NotFound { digest: *digest },
            _ => Error::Blob { what, digest: *digest, source },
        }
    }
}

fn make_dir(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| Error::File {
        what: "create directory",
        path: path.into(),
        source,
    })
}

fn list_dir(path: &Path) -> Result<Vec<PathBuf>, Error> {
    std::fs::read_dir(path)
        .and_then(|entries| entries.map(|entry| entry.map(|e| e.path())).collect())
        .map_err(|source| Error::File { what: "list", path: path.into(), source })
}
