//! Writes an archive of files that are made here: documents and blobs, not a tree on disk.

use crate::Error;
use crate::tar::{Entry, EntryKind, Timestamp, Writer};
use std::io::{Read, Write};

/// Bytes of a file read at a time.
const BUFFER: usize = 256 * 1024;

/// A tar stream of directories and regular files. Owner, mode and time are always the same, so that the same files give the
/// same bytes.
#[derive(Debug)]
pub struct Files<W> {
    writer: Writer<W>,
}

impl<W: Write> Files<W> {
    /// Begins an archive.
    pub fn new(out: W) -> Files<W> {
        Files { writer: Writer::new(out) }
    }

    /// Writes a directory; `name` without a slash at its end.
    pub fn directory(&mut self, name: &str) -> Result<(), Error> {
        self.writer.entry(&entry(&format!("{name}/"), EntryKind::Directory, 0o755, 0))
    }

    /// Writes a small file.
    pub fn bytes(&mut self, name: &str, content: &[u8]) -> Result<(), Error> {
        self.writer.entry(&entry(name, EntryKind::File, 0o644, content.len() as u64))?;
        if content.is_empty() { Ok(()) } else { self.writer.content(content) }
    }

    /// Writes a file of exactly `size` bytes, which `content` gives.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`] when `content` ends before.
    pub fn file(&mut self, name: &str, size: u64, content: &mut impl Read) -> Result<(), Error> {
        self.writer.entry(&entry(name, EntryKind::File, 0o644, size))?;
        let mut buffer = vec![0; usize::try_from(size).map_or(BUFFER, |size| size.min(BUFFER))];
        let mut left = size;
        while left > 0 {
            let room = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            match content.read(&mut buffer[..room]) {
                Ok(0) => return Err(Error::Truncated { wanted: "inside a file", offset: size - left }),
                Ok(n) => {
                    self.writer.content(&buffer[..n])?;
                    left -= n as u64;
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::Read { source }),
            }
        }
        Ok(())
    }

    /// Writes the end; returns how many bytes the archive has.
    pub fn finish(self) -> Result<u64, Error> {
        self.writer.finish()
    }
}

fn entry(name: &str, kind: EntryKind, mode: u32, size: u64) -> Entry {
    Entry {
        path: name.as_bytes().to_vec(),
        link: Vec::new(),
        kind,
        mode,
        uid: 0,
        gid: 0,
        mtime: Timestamp::default(),
        size,
        device: (0, 0),
        xattrs: Vec::new(),
        sparse: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_short_is_an_error() {
        let mut files = Files::new(Vec::new());
        files.directory("d").unwrap();
        files.bytes("d/a", b"").unwrap();
        files.file("d/b", 3, &mut &b"123"[..]).unwrap();
        let short = files.file("d/c", 4, &mut &b"12"[..]);
        assert!(matches!(short, Err(Error::Truncated { offset: 2, .. })));
    }
}
