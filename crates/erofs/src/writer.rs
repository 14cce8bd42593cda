//! The writer: where things go.

use crate::directory::{Blocks, DirEntry, Layout};
use crate::format::{BLOCK, BLOCK_U64, Content, INODE, NLINK_AT, ROOT_AT, SLOT, inode, superblock};
use crate::{Error, Xattrs};
use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt;
use sys::writeback::Writeback;

/// Blocks of metadata that lie together. Room that is left in one of them is used by a later inode, so a chunk is filled
/// well; while it is being filled it is in memory.
const CHUNK_BLOCKS: usize = 64;
/// File content is written in pieces of this size.
const DATA_BUFFER: usize = 1 << 20;
/// Holes up to this length are written as zeros.
const SMALL_HOLE: u64 = 64 << 10;

/// Number of an inode in an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Nid(pub(crate) u64);

impl Nid {
    fn at(offset: u64) -> Nid {
        Nid(offset / SLOT)
    }

    fn offset(self) -> u64 {
        self.0 * SLOT
    }
}

/// What all inodes have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Type and permissions, as `st_mode`.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970, and nanoseconds.
    pub mtime: (i64, u32),
    pub xattrs: Xattrs,
}

/// What has no content to be streamed.
#[derive(Debug, Clone, Copy)]
pub enum Node<'a> {
    /// Target, at most 4095 bytes.
    Symlink(&'a [u8]),
    /// Major and minor number, of at most 12 and 20 bits.
    Device(u32, u32),
    Fifo,
}

/// Where a directory will be.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    offset: u64,
    block: u32,
    layout: Layout,
    is_inline: bool,
}

impl Place {
    /// The directory's number.
    pub fn nid(&self) -> Nid {
        Nid::at(self.offset)
    }
}

/// Writes an image into a file.
#[derive(Debug)]
pub struct Writer {
    file: File,
    writeback: Writeback,
    /// Content not yet written, and where it goes.
    data: Vec<u8>,
    data_at: u64,
    chunk: Option<Chunk>,
    /// The first block: superblock and root.
    first: Box<[u8; BLOCK]>,
    current: Option<Current>,
    inodes: u64,
    /// Behind the last byte that anything has been given.
    end: u64,
}

/// Blocks of metadata being filled.
#[derive(Debug)]
struct Chunk {
    start: u64,
    /// Bytes used of each block.
    used: Vec<usize>,
    bytes: Vec<u8>,
}

/// A file being written.
#[derive(Debug)]
struct Current {
    attributes: Attributes,
    size: u64,
    block: u32,
    /// Bytes that still go into blocks.
    in_blocks: u64,
    /// Whether what is behind these goes behind the inode.
    is_inline: bool,
    tail: Vec<u8>,
    left: u64,
}

impl Writer {
    /// Begins an image in `file`, which is empty and open for writing.
    pub fn new(file: File) -> Writer {
        Writer {
            file,
            writeback: Writeback::default(),
            data: Vec::with_capacity(DATA_BUFFER),
            data_at: BLOCK_U64,
            chunk: None,
            first: Box::new([0; BLOCK]),
            current: None,
            inodes: 0,
            end: BLOCK_U64,
        }
    }

    /// Begins a file of `size` bytes, which must follow by [`Writer::content`] and [`Writer::hole`].
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`] when the image would have more blocks than it can number.
    pub fn begin_file(&mut self, attributes: Attributes, size: u64) -> Result<(), Error> {
        let rest = usize::try_from(size % BLOCK_U64).expect("less than a block");
        let is_inline = rest > 0 && INODE + attributes.xattrs.bytes().len() + rest <= BLOCK;
        let in_blocks = if is_inline { size - rest as u64 } else { size };
        let block = block_number(self.position())?;
        // The last block must have a number too.
        block_number(self.position().checked_add(in_blocks).ok_or(FULL)?)?;
        self.current =
            Some(Current { attributes, size, block, in_blocks, is_inline, tail: Vec::new(), left: size });
        Ok(())
    }

    /// Takes the next bytes of the file that was begun.
    pub fn content(&mut self, mut piece: &[u8]) -> Result<(), Error> {
        let Some(mut current) = self.current.take() else { return Err(misuse("content without a file")) };
        if piece.len() as u64 > current.left {
            return Err(misuse("more content than was announced"));
        }
        current.left -= piece.len() as u64;
        let n = usize::try_from(current.in_blocks).map_or(piece.len(), |n| n.min(piece.len()));
        self.append(&piece[..n])?;
        current.in_blocks -= n as u64;
        piece = &piece[n..];
        current.tail.extend_from_slice(piece);
        self.current = Some(current);
        Ok(())
    }

    /// Says that the next `length` bytes of the file are zeros.
    pub fn hole(&mut self, mut length: u64) -> Result<(), Error> {
        const ZEROS: [u8; BLOCK] = [0; BLOCK];
        if length > SMALL_HOLE
            && let Some(current) = &mut self.current
            && length <= current.left
        {
            let skipped = length.min(current.in_blocks);
            current.in_blocks -= skipped;
            current.left -= skipped;
            length -= skipped;
            self.flush_data()?;
            self.data_at += skipped;
            self.end = self.end.max(self.data_at);
        }
        while length > 0 {
            let n = usize::try_from(length).map_or(BLOCK, |n| n.min(BLOCK));
            self.content(&ZEROS[..n])?;
            length -= n as u64;
        }
        Ok(())
    }

    /// Ends the file that was begun. Returns its number; it has one link.
    pub fn end_file(&mut self) -> Result<Nid, Error> {
        let Some(current) = self.current.take() else { return Err(misuse("no file was begun")) };
        if current.left > 0 {
            return Err(misuse("less content than was announced"));
        }
        self.pad_to_block()?;
        let content = match current.is_inline {
            true => Content::Inline { block: current.block },
            false => Content::Plain { block: current.block },
        };
        self.put_inode(&current.attributes, content, current.size, &current.tail)
    }

    /// Writes something that has no content. Returns its number; it has one link.
    pub fn node(&mut self, attributes: &Attributes, node: Node<'_>) -> Result<Nid, Error> {
        match node {
            Node::Fifo => self.put_inode(attributes, Content::Device { number: 0 }, 0, &[]),
            Node::Device(major, minor) => {
                if major >= 1 << 12 || minor >= 1 << 20 {
                    return Err(Error::TooLarge { what: "a device number" });
                }
                let number = minor & 0xff | major << 8 | (minor & !0xff) << 12;
                self.put_inode(attributes, Content::Device { number }, 0, &[])
            }
            Node::Symlink(target) => {
                if target.len() >= BLOCK {
                    return Err(Error::TooLarge { what: "the target of a symlink" });
                }
                self.begin_file(attributes.clone(), target.len() as u64)?;
                self.content(target)?;
                self.end_file()
            }
        }
    }

    /// Finds a place for the root directory. All that is no directory must have been written.
    pub fn place_root(&mut self, attributes: &Attributes, layout: Layout) -> Result<Place, Error> {
        let room = BLOCK - usize::try_from(ROOT_AT).expect("a small constant");
        let head = INODE + attributes.xattrs.bytes().len();
        if head > room {
            return Err(Error::TooLarge { what: "the root's extended attributes" });
        }
        self.place(attributes, layout, head + layout.last() <= room, Some(ROOT_AT))
    }

    /// Finds a place for a directory, so that others can name it.
    pub fn place_directory(&mut self, attributes: &Attributes, layout: Layout) -> Result<Place, Error> {
        let is_inline = INODE + attributes.xattrs.bytes().len() + layout.last() <= BLOCK;
        self.place(attributes, layout, is_inline, None)
    }

    fn place(
        &mut self,
        attributes: &Attributes,
        layout: Layout,
        is_inline: bool,
        at: Option<u64>,
    ) -> Result<Place, Error> {
        self.pad_to_block()?;
        let blocks = layout.full_blocks() + u64::from(!is_inline);
        let block = block_number(self.position())?;
        if blocks > 0 {
            self.flush_data()?;
            self.data_at += blocks * BLOCK_U64;
            self.end = self.end.max(self.data_at);
            block_number(self.data_at)?;
        }
        let tail = if is_inline { layout.last() } else { 0 };
        let offset = match at {
            Some(offset) => offset,
            None => self.reserve(INODE + attributes.xattrs.bytes().len() + tail)?,
        };
        self.inodes += 1;
        Ok(Place { offset, block, layout, is_inline })
    }

    /// Writes the directory that was given `place`: the same attributes, and the entries that the layout was made of, in
    /// the same order, `.` and `..` among them.
    pub fn write_directory<'a>(
        &mut self,
        place: &Place,
        attributes: &Attributes,
        nlink: u32,
        entries: impl Iterator<Item = DirEntry<'a>>,
    ) -> Result<(), Error> {
        let mut blocks = Blocks::new();
        let mut at = u64::from(place.block) * BLOCK_U64;
        // Large ones go out in large pieces.
        let mut pending = Vec::new();
        for entry in entries {
            if let Some(block) = blocks.add(entry) {
                pending.extend_from_slice(&block);
                if pending.len() >= DATA_BUFFER {
                    self.file.write_all_at(&pending, at)?;
                    at += pending.len() as u64;
                    pending.clear();
                }
            }
        }
        let mut last = blocks.take();
        let layout = place.layout;
        if last.len() != layout.last() {
            return Err(misuse("a directory has other entries than its place was made for"));
        }
        let mut item = Vec::with_capacity(BLOCK);
        let content = match place.is_inline {
            true => Content::Inline { block: place.block },
            false => Content::Plain { block: place.block },
        };
        let size = layout.full_blocks() * BLOCK_U64 + layout.last() as u64;
        item.extend_from_slice(&inode(attributes, content, size, nlink, place.nid().0));
        item.extend_from_slice(attributes.xattrs.bytes());
        if place.is_inline {
            item.append(&mut last);
        } else {
            last.resize(BLOCK, 0);
            pending.append(&mut last);
        }
        self.file.write_all_at(&pending, at)?;
        self.put(place.offset, &item)
    }

    /// Says how many names the inode `nid`, which is no directory, has in the end.
    pub fn set_links(&mut self, nid: Nid, links: u32) -> Result<(), Error> {
        self.put(nid.offset() + NLINK_AT as u64, &links.to_le_bytes())
    }

    /// Writes the superblock. The image is complete then, and not synced. Returns its file and its size in bytes.
    pub fn finish(mut self) -> Result<(File, u64), Error> {
        self.flush_data()?;
        self.flush_chunk()?;
        let size = self.end.next_multiple_of(BLOCK_U64);
        superblock(&mut self.first, self.inodes, block_number(size)?);
        self.file.write_all_at(&self.first[..], 0)?;
        self.file.set_len(size)?;
        Ok((self.file, size))
    }

    /// Where the next byte of content goes.
    fn position(&self) -> u64 {
        self.data_at + self.data.len() as u64
    }

    fn append(&mut self, piece: &[u8]) -> Result<(), Error> {
        if self.data.len() + piece.len() > DATA_BUFFER {
            self.flush_data()?;
        }
        if piece.len() >= DATA_BUFFER / 4 && self.data.is_empty() {
            self.file.write_all_at(piece, self.data_at)?;
            self.data_at += piece.len() as u64;
            self.writeback.written(self.file.as_fd(), self.data_at);
        } else {
            self.data.extend_from_slice(piece);
        }
        self.end = self.end.max(self.position());
        Ok(())
    }

    /// What lies between here and the next block stays zero.
    fn pad_to_block(&mut self) -> Result<(), Error> {
        let position = self.position();
        let gap =
            usize::try_from(position.next_multiple_of(BLOCK_U64) - position).expect("less than a block");
        if gap > 0 {
            if self.data.is_empty() {
                self.data_at += gap as u64;
            } else {
                self.data.resize(self.data.len() + gap, 0);
            }
            self.end = self.end.max(self.position());
        }
        Ok(())
    }

    fn flush_data(&mut self) -> Result<(), Error> {
        self.file.write_all_at(&self.data, self.data_at)?;
        self.data_at += self.data.len() as u64;
        self.writeback.written(self.file.as_fd(), self.data_at);
        self.data.clear();
        Ok(())
    }

    fn put_inode(
        &mut self,
        attributes: &Attributes,
        content: Content,
        size: u64,
        tail: &[u8],
    ) -> Result<Nid, Error> {
        let xattrs = attributes.xattrs.bytes();
        let offset = self.reserve(INODE + xattrs.len() + tail.len())?;
        let nid = Nid::at(offset);
        let head = inode(attributes, content, size, 1, nid.0);
        self.put(offset, &head)?;
        self.put(offset + INODE as u64, xattrs)?;
        self.put(offset + (INODE + xattrs.len()) as u64, tail)?;
        self.inodes += 1;
        Ok(nid)
    }

    /// Finds room for `length` bytes of metadata: inside a block, or, where they are more than one, at the start of one.
    fn reserve(&mut self, length: usize) -> Result<u64, Error> {
        if length > BLOCK {
            self.pad_to_block()?;
            self.flush_data()?;
            let offset = self.data_at;
            self.data_at += (length as u64).next_multiple_of(BLOCK_U64);
            self.end = self.end.max(self.data_at);
            block_number(self.data_at)?;
            return Ok(offset);
        }
        let slot = usize::try_from(SLOT).expect("a small constant");
        let length = length.next_multiple_of(slot);
        let found = self.chunk.as_ref().and_then(|c| c.used.iter().position(|used| used + length <= BLOCK));
        let index = match found {
            Some(index) => index,
            None => {
                self.new_chunk()?;
                0
            }
        };
        let chunk = self.chunk.as_mut().ok_or(misuse("no chunk"))?;
        let offset = chunk.start + (index * BLOCK + chunk.used[index]) as u64;
        chunk.used[index] += length;
        self.end = self.end.max(chunk.start + ((index + 1) * BLOCK) as u64);
        Ok(offset)
    }

    fn new_chunk(&mut self) -> Result<(), Error> {
        self.flush_chunk()?;
        self.pad_to_block()?;
        self.flush_data()?;
        let start = self.data_at;
        self.data_at += (CHUNK_BLOCKS * BLOCK) as u64;
        block_number(self.data_at)?;
        self.chunk = Some(Chunk { start, used: vec![0; CHUNK_BLOCKS], bytes: vec![0; CHUNK_BLOCKS * BLOCK] });
        Ok(())
    }

    /// Writes the blocks of the chunk that anything is in; the others stay a hole.
    fn flush_chunk(&mut self) -> Result<(), Error> {
        if let Some(chunk) = self.chunk.take() {
            let blocks = chunk.used.iter().take_while(|used| **used > 0).count();
            self.file.write_all_at(&chunk.bytes[..blocks * BLOCK], chunk.start)?;
        }
        Ok(())
    }

    /// Writes metadata to a place that was reserved.
    fn put(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let length = bytes.len();
        if offset < BLOCK_U64 {
            let at = usize::try_from(offset).expect("less than a block");
            self.first[at..at + length].copy_from_slice(bytes);
            return Ok(());
        }
        if let Some(chunk) = &mut self.chunk
            && let Some(at) = offset.checked_sub(chunk.start).and_then(|at| usize::try_from(at).ok())
            && at < chunk.bytes.len()
        {
            chunk.bytes[at..at + length].copy_from_slice(bytes);
            return Ok(());
        }
        Ok(self.file.write_all_at(bytes, offset)?)
    }
}

const FULL: Error = Error::TooLarge { what: "more than 16 TiB" };

/// Blocks are numbered with 32 bits.
fn block_number(offset: u64) -> Result<u32, Error> {
    u32::try_from(offset / BLOCK_U64).map_err(|_| FULL)
}

/// A caller that does not keep to the order of calls.
fn misuse(what: &'static str) -> Error {
    std::io::Error::new(std::io::ErrorKind::InvalidInput, what).into()
}
