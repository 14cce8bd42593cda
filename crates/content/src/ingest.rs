//! A blob on its way in.

use crate::{ContentStore, Error};
use oci::Digest;
use sha2::Digest as _;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

/// A blob being written. Dropping it without [`Ingest::commit`] removes what was written.
///
/// Writing more bytes than were promised fails at once, so a peer cannot fill the disk with one blob.
#[derive(Debug)]
pub struct Ingest {
    store: ContentStore,
    file: File,
    path: PathBuf,
    hasher: sha2::Sha256,
    written: u64,
    expected: Option<Digest>,
    size: Option<u64>,
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
        Ok(Ingest { store, file, path, hasher: sha2::Sha256::new(), written: 0, expected, size })
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written
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
            return Err(Error::DigestMismatch { expected, actual });
        }
        keep(&actual);
        let failed = |what| move |source| Error::Blob { what, digest: actual, source };
        self.file.sync_data().map_err(failed("sync"))?;
        std::fs::rename(&self.path, self.store.blob_path(&actual)).map_err(failed("commit"))?;
        self.store.sync_blobs().map_err(failed("sync directory of"))?;
        Ok((actual, self.written))
    }
}

impl Write for Ingest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.size.map_or(u64::MAX, |size| size - self.written);
        if bytes.len() as u64 > room {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "blob is larger than promised"));
        }
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        // After a commit the name is gone and this finds nothing. What fails here is removed at the next start.
        drop(std::fs::remove_file(&self.path));
    }
}
