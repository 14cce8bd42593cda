//! A blob on its way in.

use crate::follow::{Follower, Tide};
use crate::{ContentStore, Error};
use oci::Digest;
use sha2::Digest as _;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;
use sys::writeback::Writeback;

/// Bytes read at a time.
const BUFFER: usize = 256 << 10;

/// A blob being written. Dropping it without [`Ingest::commit`] removes what was written, but for one that
/// [`ContentStore::resume`] began: that one can be gone on with.
///
/// Writing more bytes than were promised fails at once, so a peer cannot fill the disk with one blob.
#[derive(Debug)]
pub struct Ingest {
    store: ContentStore,
    file: File,
    path: PathBuf,
    hasher: sha2::Sha256,
    written: u64,
    writeback: Writeback,
    expected: Option<Digest>,
    size: Option<u64>,
    /// Kept when dropped, for the next who resumes it.
    partial: Option<Partial>,
    /// For those who read along.
    tide: Arc<Tide>,
}

/// The right to write the partial file of one blob.
#[derive(Debug)]
pub(crate) struct Partial {
    digest: Digest,
    /// What is there is of use to nobody.
    spoilt: bool,
}

impl Ingest {
    pub(crate) fn new(
        store: ContentStore,
        path: PathBuf,
        expected: Option<Digest>,
        size: Option<u64>,
    ) -> Result<Ingest, Error> {
        use std::os::unix::fs::OpenOptionsExt;
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| Error::File { what: "create", path: path.clone(), source })?;
        Ok(Ingest {
            store,
            file,
            path,
            hasher: sha2::Sha256::new(),
            written: 0,
            writeback: Writeback::default(),
            expected,
            size,
            partial: None,
            tide: Arc::default(),
        })
    }

    /// Goes on with the file at `path`, making it where it is missing. The caller has the right to it.
    pub(crate) fn resume(
        store: ContentStore,
        path: PathBuf,
        expected: Digest,
        size: u64,
    ) -> Result<Ingest, Error> {
        use std::os::unix::fs::OpenOptionsExt;
        let partial = Some(Partial { digest: expected, spoilt: false });
        let open = File::options().read(true).append(true).create(true).mode(0o600).open(&path);
        let file = match open {
            Ok(file) => file,
            Err(source) => {
                store.let_go(&expected);
                return Err(Error::File { what: "open", path, source });
            }
        };
        let (expected, size) = (Some(expected), Some(size));
        let mut ingest = Ingest {
            store,
            file,
            path,
            hasher: sha2::Sha256::new(),
            written: 0,
            writeback: Writeback::default(),
            expected,
            size,
            partial,
            tide: Arc::default(),
        };
        ingest.take_up().map_err(|source| Error::File {
            what: "read what there is of",
            path: ingest.path.clone(),
            source,
        })?;
        Ok(ingest)
    }

    /// Hashes what is there. More than was promised is no beginning of it.
    fn take_up(&mut self) -> io::Result<()> {
        let there = self.file.metadata()?.len();
        if self.size.is_some_and(|size| there > size) {
            return self.file.set_len(0);
        }
        let mut buffer = vec![0; BUFFER];
        loop {
            match self.file.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    self.hasher.update(&buffer[..count]);
                    self.written += count as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Writes all that `from` has, in pieces that are worth a system call and waking those who follow. Returns how much.
    pub fn fill(&mut self, mut from: impl Read) -> io::Result<u64> {
        let (mut buffer, before) = (vec![0; BUFFER], self.written);
        loop {
            match from.read(&mut buffer) {
                Ok(0) => return Ok(self.written - before),
                Ok(count) => self.write_all(&buffer[..count])?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// A reader of what has been and will be written. Only for a blob whose size was promised.
    pub fn follow(&self) -> Result<Follower, Error> {
        let failed = |source| Error::File { what: "follow", path: self.path.clone(), source };
        let size = self.size.ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        let file = File::open(&self.path).map_err(failed)?;
        self.tide.rise(self.written);
        Ok(Follower::new(Arc::clone(&self.tide), file, size))
    }

    /// Verifies the bytes, puts them on disk and gives them their name. Returns digest and size.
    ///
    /// A blob of that digest which is there already is replaced by the same bytes.
    ///
    /// # Errors
    ///
    /// [`Error::SizeMismatch`] and [`Error::DigestMismatch`] when the bytes are not those promised. Nothing stays.
    pub fn commit(self) -> Result<(Digest, u64), Error> {
        self.commit_kept(|_| {})
    }

    /// As [`Ingest::commit`]; calls `keep` with the digest before the blob can be seen, for those who do not know it
    /// beforehand and must tell a collector.
    pub fn commit_kept(mut self, keep: impl FnOnce(&Digest)) -> Result<(Digest, u64), Error> {
        if let Some(expected) = self.size.filter(|size| *size != self.written) {
            return Err(Error::SizeMismatch { expected, actual: self.written });
        }
        let actual = Digest::from_sha256(std::mem::take(&mut self.hasher).finalize().into());
        if let Some(expected) = self.expected.filter(|expected| *expected != actual) {
            self.spoil();
            return Err(Error::DigestMismatch { expected, actual });
        }
        keep(&actual);
        let failed = |what| move |source| Error::Blob { what, digest: actual, source };
        self.file.sync_data().map_err(failed("sync"))?;
        self.store.name_blob(&self.path, &actual)?;
        self.tide.end(true);
        Ok((actual, self.written))
    }
}

impl Ingest {
    fn spoil(&mut self) {
        if let Some(partial) = &mut self.partial {
            partial.spoilt = true;
        }
    }
}

impl Write for Ingest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.size.map_or(u64::MAX, |size| size - self.written);
        if bytes.len() as u64 > room {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "blob is larger than promised"));
        }
        let written = match self.file.write(bytes) {
            Ok(written) => written,
            Err(e) => {
                // What fills the disk must not stay there.
                if errors::io_kind(&e) == errors::Kind::Exhausted {
                    self.spoil();
                }
                return Err(e);
            }
        };
        self.hasher.update(&bytes[..written]);
        self.written += written as u64;
        self.writeback.written(self.file.as_fd(), self.written);
        self.tide.rise(self.written);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        self.tide.end(false);
        if let Some(partial) = &self.partial {
            if partial.spoilt || self.written == 0 {
                drop(std::fs::remove_file(&self.path));
            }
            self.store.let_go(&partial.digest);
            return;
        }
        // After a commit the name is gone and this finds nothing. What fails here is removed at the next start.
        drop(std::fs::remove_file(&self.path));
    }
}
