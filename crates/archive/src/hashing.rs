//! A reader that hashes what passes.

use oci::Digest;
use sha2::Digest as _;
use std::io::{Read, Write};

/// Hashes (SHA-256) and counts the bytes that are read or written through it.
#[derive(Debug)]
pub struct Hashing<T> {
    inner: T,
    hasher: sha2::Sha256,
    count: u64,
}

impl<T> Hashing<T> {
    /// Wraps `inner`. Nothing has passed yet.
    pub fn new(inner: T) -> Hashing<T> {
        Hashing { inner, hasher: sha2::Sha256::new(), count: 0 }
    }

    /// The number of bytes that have passed.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The digest and the number of the bytes that passed.
    pub fn finish(self) -> (Digest, u64) {
        (Digest::from_sha256(self.hasher.finalize().into()), self.count)
    }

    /// As [`Hashing::finish`], with the wrapped reader or writer.
    pub fn into_parts(self) -> (T, Digest, u64) {
        (self.inner, Digest::from_sha256(self.hasher.finalize().into()), self.count)
    }

    fn passed(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.count += u64::try_from(bytes.len()).expect("usize fits in u64 on Linux");
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.passed(buf.get(..n).unwrap_or_default());
        Ok(n)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.passed(buf.get(..n).unwrap_or_default());
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}
