//! Reads entries off a stream, one after another, in a buffer of fixed size.

use super::header::{self, Header};
use super::pax::{self, Pax};
use super::{BLOCK, Entry, EntryKind, MAX_PATH, Timestamp};
use crate::Error;
use std::io::Read;

/// Bytes asked of the stream at once, and the largest piece of content handed out.
const BUFFER: usize = 256 * 1024;

/// A strict reader of tar streams.
#[derive(Debug)]
pub(crate) struct Reader<R> {
    input: R,
    buffer: Vec<u8>,
    /// What of `buffer` is read from `input` and not yet consumed.
    unread: std::ops::Range<usize>,
    /// Bytes consumed.
    offset: u64,
    /// Bytes read from `input`.
    received: u64,
    max_bytes: u64,
    /// Content of the current entry that is still in the stream, and the padding behind it.
    content: u64,
    padding: u64,
    globals: Pax,
}

/// Extended headers that stand before an entry.
#[derive(Default)]
struct Extensions {
    pax: Option<Pax>,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl<R: Read> Reader<R> {
    /// Reads from `input`, at most `max_bytes`.
    pub(crate) fn new(input: R, max_bytes: u64) -> Reader<R> {
        Reader {
            input,
            buffer: vec![0; BUFFER],
            unread: 0..0,
            offset: 0,
            received: 0,
            max_bytes,
            content: 0,
            padding: 0,
            globals: Pax::default(),
        }
    }

    /// Bytes read from the stream. After the last entry that is all of them.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// The next entry; what is left of the last one's content is skipped. `None` at the end of the archive: the stream
    /// has then been read to its end, whatever follows the archive in it.
    ///
    /// A stream that stops between two entries ends there: many writers leave the end marker out.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, Error> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_content()?;
            let at = self.offset;
            let Some(block) = self.block()? else {
                return extensions
                    .is_empty()
                    .then_some(None)
                    .ok_or(truncated("after an extended header", at));
            };
            if is_zero(&block) {
                if !extensions.is_empty() {
                    return Err(malformed(at, "archive ends after an extended header"));
                }
                self.end_marker()?;
                return Ok(None);
            }
            let header = header::parse(&block).map_err(|what| malformed(at, what))?;
            let size = u64::try_from(header.size).map_err(|_| malformed(at, "size is negative"))?;
            match header.typeflag {
                b'x' => {
                    let pax = self.extended_header(size, at)?;
                    refuse_second(extensions.pax.replace(pax).is_some(), at)?;
                }
                b'g' => {
                    let pax = self.extended_header(size, at)?;
                    self.set_globals(pax, at)?;
                }
                b'L' => {
                    let path = self.long_name(size, at)?;
                    refuse_second(extensions.path.replace(path).is_some(), at)?;
                }
                b'K' => {
                    let link = self.long_name(size, at)?;
                    refuse_second(extensions.link.replace(link).is_some(), at)?;
                }
                _ => return self.entry(header, size, extensions, &block, at).map(Some),
            }
        }
    }

    /// A piece of the current entry's content, or `None` when all of it has been given.
    pub(crate) fn content(&mut self) -> Result<Option<&[u8]>, Error> {
        if self.content == 0 {
            return Ok(None);
        }
        if self.unread.is_empty() && !self.receive()? {
            return Err(truncated("inside the content of a file", self.offset));
        }
        let available = self.unread.len();
        let n = usize::try_from(self.content).map_or(available, |content| content.min(available));
        let start = self.consume(n);
        self.content -= len(n);
        Ok(Some(&self.buffer[start..start + n]))
    }

    /// As [`Reader::content`], into `buffer`; 0 when all of it has been given.
    pub(crate) fn read_content(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        if self.content == 0 || buffer.is_empty() {
            return Ok(0);
        }
        if self.unread.is_empty() && !self.receive()? {
            return Err(truncated("inside the content of a file", self.offset));
        }
        let room = self.unread.len().min(buffer.len());
        let n = usize::try_from(self.content).map_or(room, |content| content.min(room));
        let start = self.consume(n);
        self.content -= len(n);
        buffer[..n].copy_from_slice(&self.buffer[start..start + n]);
        Ok(n)
    }

    /// Joins a header and what extends it.
    fn entry(
        &mut self,
        header: Header,
        header_size: u64,
        extensions: Extensions,
        block: &[u8; BLOCK],
        at: u64,
    ) -> Result<Entry, Error> {
        let broken = |what: &str| malformed(at, what);
        let kind = kind(&header, at)?;
        let pax = extensions.pax.unwrap_or_default();
        let path = agreed(pax.path, extensions.path, header.name).ok_or(broken("two names for one entry"))?;
        let mut path = pax.sparse.name.clone().unwrap_or(path);
        let link =
            agreed(pax.link, extensions.link, header.link).ok_or(broken("two targets for one link"))?;
        if path.is_empty() {
            return Err(broken("entry without a name"));
        }
        if matches!(kind, EntryKind::Symlink | EntryKind::Hardlink) && link.is_empty() {
            return Err(broken("link without a target"));
        }
        let id = |header: i64, pax: Option<u32>, global: Option<u32>| match pax.or(global) {
            // To chown(2) this one means "leave as it is".
            Some(u32::MAX) => Err(broken("owner out of range")),
            Some(id) => Ok(id),
            None => {
                u32::try_from(header).ok().filter(|&id| id != u32::MAX).ok_or(broken("owner out of range"))
            }
        };
        let (uid, gid) =
            (id(header.uid, pax.uid, self.globals.uid)?, id(header.gid, pax.gid, self.globals.gid)?);
        let number = |n: i64| u32::try_from(n).map_err(|_| broken("device number out of range"));
        let device = (number(header.device.0)?, number(header.device.1)?);
        let mtime =
            pax.mtime.or(self.globals.mtime).unwrap_or(Timestamp { seconds: header.mtime, nanoseconds: 0 });
        let stored = pax.size.unwrap_or(header_size);
        let has_content = kind == EntryKind::File;
        if !has_content && (stored != 0 && kind != EntryKind::Hardlink || pax.size.unwrap_or(0) != 0) {
            // Some readers skip such content, others take it for headers.
            return Err(broken("content behind something that is no file"));
        }
        if header.typeflag != 0 && has_content && path.ends_with(b"/") {
            return Err(broken("regular file whose name ends in a slash"));
        }
        while path.len() > 1 && path.ends_with(b"/") {
            path.pop();
        }
        self.content = if has_content { stored } else { 0 };
        self.padding = padding(self.content);
        let mut entry = Entry {
            path,
            link: if matches!(kind, EntryKind::Symlink | EntryKind::Hardlink) { link } else { Vec::new() },
            kind,
            mode: header.mode,
            uid,
            gid,
            mtime,
            size: self.content,
            device,
            xattrs: pax.xattrs,
            sparse: None,
        };
        if header.typeflag == b'S' {
            self.old_gnu_sparse(&mut entry, block, at)?;
        } else if pax.sparse.is_present() {
            self.pax_sparse(&mut entry, &pax.sparse, at)?;
        }
        Ok(entry)
    }

    /// Takes in a global header. Only owner and time make sense for all files; a global name or size would make every
    /// reader see something else.
    fn set_globals(&mut self, pax: Pax, at: u64) -> Result<(), Error> {
        if pax.path.is_some()
            || pax.link.is_some()
            || pax.size.is_some()
            || pax.sparse.is_present()
            || !pax.xattrs.is_empty()
        {
            return Err(malformed(at, "global header names what only one entry can have"));
        }
        let known = &self.globals;
        self.globals = Pax {
            uid: pax.uid.or(known.uid),
            gid: pax.gid.or(known.gid),
            mtime: pax.mtime.or(known.mtime),
            ..Pax::default()
        };
        Ok(())
    }

    fn extended_header(&mut self, size: u64, at: u64) -> Result<Pax, Error> {
        if size > pax::MAX_PAX {
            return Err(Error::TooLarge { what: "bytes in an extended header", max: pax::MAX_PAX });
        }
        let bytes = self.extension(size)?;
        pax::parse(&bytes).map_err(|what| malformed(at, what))
    }

    fn long_name(&mut self, size: u64, at: u64) -> Result<Vec<u8>, Error> {
        let max = len(MAX_PATH);
        // The NUL at the end is counted.
        if size > max + 1 {
            return Err(Error::TooLarge { what: "bytes in a name", max });
        }
        let bytes = self.extension(size)?;
        let name = header::text(&bytes);
        if name.is_empty() || name.len() > MAX_PATH {
            return Err(malformed(at, "long name is empty or too long"));
        }
        Ok(name.to_vec())
    }

    /// The content of an extended header, whose size has been judged.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, Error> {
        self.content = size;
        self.padding = padding(size);
        let mut bytes = Vec::new();
        while let Some(piece) = self.content()? {
            bytes.extend_from_slice(piece);
        }
        Ok(bytes)
    }

    /// Four segments are in the header, 21 in each block that follows.
    fn old_gnu_sparse(&mut self, entry: &mut Entry, block: &[u8; BLOCK], at: u64) -> Result<(), Error> {
        let field = |what, bytes: &[u8]| {
            header::number(what, bytes)
                .and_then(|n| u64::try_from(n).map_err(|_| format!("{what} is negative")))
                .map_err(|what| malformed(at, what))
        };
        let real_size = field("sparse size", &block[483..495])?;
        let mut map = Vec::new();
        let mut take = |bytes: &[u8]| -> Result<(), Error> {
            for pair in bytes.chunks_exact(24) {
                // An unused slot is empty.
                if pair.iter().all(|&byte| byte == 0) {
                    continue;
                }
                if map.len() >= pax::MAX_SEGMENTS {
                    return Err(Error::TooLarge { what: "sparse segments", max: len(pax::MAX_SEGMENTS) });
                }
                let (offset, length) = pair.split_at(12);
                map.push((field("sparse offset", offset)?, field("sparse length", length)?));
            }
            Ok(())
        };
        take(&block[386..482])?;
        let mut extended = block[482] != 0;
        while extended {
            let block = self.block()?.ok_or(truncated("inside a sparse map", self.offset))?;
            take(&block[..504])?;
            extended = block[504] != 0;
        }
        self.set_sparse(entry, map, real_size, at)
    }

    fn pax_sparse(&mut self, entry: &mut Entry, sparse: &pax::Sparse, at: u64) -> Result<(), Error> {
        let broken = || malformed(at, "sparse headers do not fit together");
        if entry.kind != EntryKind::File {
            return Err(broken());
        }
        let real_size = sparse.real_size.ok_or_else(broken)?;
        let map = match (sparse.version, &sparse.map) {
            ((Some(1), Some(0)), None) => self.sparse_map_in_content(at)?,
            ((None, None) | (Some(0), Some(0 | 1)), Some(map)) if map.len().is_multiple_of(2) => {
                map.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
            }
            _ => return Err(broken()),
        };
        if sparse.blocks.is_some_and(|blocks| blocks != len(map.len())) {
            return Err(broken());
        }
        self.set_sparse(entry, map, real_size, at)
    }

    /// Version 1.0: decimal lines, first how many segments, then offset and length of each, padded to a block.
    fn sparse_map_in_content(&mut self, at: u64) -> Result<Vec<(u64, u64)>, Error> {
        let broken = || malformed(at, "sparse map is malformed");
        let mut wanted: Option<u64> = None;
        let mut numbers: Vec<u64> = Vec::new();
        let mut digits = Vec::new();
        loop {
            if self.content < len(BLOCK) {
                return Err(broken());
            }
            let block = self.block()?.ok_or(truncated("inside a sparse map", self.offset))?;
            self.content -= len(BLOCK);
            for &byte in &block {
                if wanted.is_some_and(|wanted| len(numbers.len()) == wanted) {
                    break;
                }
                if byte != b'\n' {
                    digits.push(byte);
                    if digits.len() > 20 {
                        return Err(broken());
                    }
                    continue;
                }
                let number = pax::decimal("sparse map", &digits).ok().flatten().ok_or_else(broken)?;
                digits.clear();
                match wanted {
                    Some(_) => numbers.push(number),
                    None if number > len(pax::MAX_SEGMENTS) => {
                        return Err(Error::TooLarge { what: "sparse segments", max: len(pax::MAX_SEGMENTS) });
                    }
                    None => wanted = Some(2 * number),
                }
            }
            if wanted.is_some_and(|wanted| len(numbers.len()) == wanted) {
                return Ok(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect());
            }
        }
    }

    /// Judges a sparse map: ascending, inside the file, and as long as the content in the stream.
    fn set_sparse(
        &self,
        entry: &mut Entry,
        map: Vec<(u64, u64)>,
        real_size: u64,
        at: u64,
    ) -> Result<(), Error> {
        let mut end = 0u64;
        let mut total = 0u64;
        for &(offset, length) in &map {
            let next = offset.checked_add(length).filter(|&next| offset >= end && next <= real_size);
            end = next.ok_or(malformed(at, "sparse segments overlap or pass the end"))?;
            total += length;
        }
        if total != self.content {
            return Err(malformed(at, "sparse segments are not as long as the content"));
        }
        entry.size = real_size;
        entry.sparse = Some(map);
        Ok(())
    }

    /// The second zero block, and all bytes behind it.
    fn end_marker(&mut self) -> Result<(), Error> {
        let at = self.offset;
        if let Some(block) = self.block()?
            && !is_zero(&block)
        {
            return Err(malformed(at, "one zero block alone"));
        }
        self.unread = 0..0;
        while self.receive()? {
            self.unread = 0..0;
        }
        Ok(())
    }

    fn skip_content(&mut self) -> Result<(), Error> {
        while self.content()?.is_some() {}
        self.content = std::mem::take(&mut self.padding);
        while self.content()?.is_some() {}
        Ok(())
    }

    /// One block, or `None` when the stream ends before it.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, Error> {
        while self.unread.len() < BLOCK {
            if !self.receive()? {
                return match self.unread.len() {
                    0 => Ok(None),
                    _ => Err(truncated("inside a header", self.offset)),
                };
            }
        }
        let start = self.consume(BLOCK);
        let mut block = [0; BLOCK];
        block.copy_from_slice(&self.buffer[start..start + BLOCK]);
        Ok(Some(block))
    }

    /// Takes `n` unread bytes; returns where they are.
    fn consume(&mut self, n: usize) -> usize {
        let start = self.unread.start;
        self.unread.start += n;
        self.offset += len(n);
        start
    }

    /// Reads more of the stream behind what is unread. `false` at its end.
    fn receive(&mut self) -> Result<bool, Error> {
        self.buffer.copy_within(self.unread.clone(), 0);
        self.unread = 0..self.unread.len();
        let mut any = false;
        // Some streams give a few bytes at a time; each piece of content costs a write.
        while self.unread.end < BUFFER / 2 {
            match self.input.read(&mut self.buffer[self.unread.end..]) {
                Ok(0) => break,
                Ok(n) => {
                    any = true;
                    self.unread.end += n;
                    self.received += len(n);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::Read { source }),
            }
            if self.received > self.max_bytes {
                return Err(Error::TooLarge { what: "bytes", max: self.max_bytes });
            }
        }
        Ok(any)
    }
}

impl Extensions {
    fn is_empty(&self) -> bool {
        self.pax.is_none() && self.path.is_none() && self.link.is_none()
    }
}

fn kind(header: &Header, at: u64) -> Result<EntryKind, Error> {
    Ok(match header.typeflag {
        // V7 had no type for directories.
        0 if header.name.ends_with(b"/") => EntryKind::Directory,
        b'0' | 0 | b'7' | b'S' => EntryKind::File,
        b'1' => EntryKind::Hardlink,
        b'2' => EntryKind::Symlink,
        b'3' => EntryKind::CharDevice,
        b'4' => EntryKind::BlockDevice,
        b'5' => EntryKind::Directory,
        b'6' => EntryKind::Fifo,
        other => {
            let what = format!("tar entry of type {:?} at byte {at}", char::from(other));
            return Err(Error::Unsupported { what });
        }
    })
}

/// The name that all readers would take; `None` when they would differ.
fn agreed(pax: Option<Vec<u8>>, gnu: Option<Vec<u8>>, header: Vec<u8>) -> Option<Vec<u8>> {
    match (pax, gnu) {
        (Some(pax), Some(gnu)) if pax != gnu => None,
        (Some(name), _) | (None, Some(name)) => Some(name),
        (None, None) => Some(header),
    }
}

fn refuse_second(is_second: bool, at: u64) -> Result<(), Error> {
    if is_second { Err(malformed(at, "two extended headers of one type for one entry")) } else { Ok(()) }
}

fn is_zero(block: &[u8; BLOCK]) -> bool {
    block.iter().all(|&byte| byte == 0)
}

/// Bytes that fill up the last block of content.
fn padding(size: u64) -> u64 {
    let block = len(BLOCK);
    (block - size % block) % block
}

fn len(n: usize) -> u64 {
    u64::try_from(n).expect("usize fits in u64 on Linux")
}

fn malformed(offset: u64, what: impl Into<String>) -> Error {
    Error::Malformed { what: what.into(), offset }
}

fn truncated(wanted: &'static str, offset: u64) -> Error {
    Error::Truncated { wanted, offset }
}
