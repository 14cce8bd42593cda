//! Directories: blocks, each with its entries in front and their names behind, sorted by name over all.

use crate::format::BLOCK;
use crate::writer::Nid;

/// Bytes in an entry without its name.
const DIRENT: usize = 12;

/// One entry of a directory.
#[derive(Debug, Clone, Copy)]
pub struct DirEntry<'a> {
    /// At most 255 bytes.
    pub name: &'a [u8],
    pub nid: Nid,
    /// The `S_IFMT` bits of its mode.
    pub file_type: u32,
}

/// How much room a directory's entries take, found before their numbers are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Layout {
    full_blocks: u64,
    /// Bytes used of the block behind these.
    last: usize,
}

impl Layout {
    /// Takes in the next name, in the order of their bytes, `.` and `..` among them.
    pub fn add(&mut self, name: &[u8]) {
        let need = DIRENT + name.len();
        if self.last + need > BLOCK {
            self.full_blocks += 1;
            self.last = 0;
        }
        self.last += need;
    }

    pub(crate) fn full_blocks(&self) -> u64 {
        self.full_blocks
    }

    pub(crate) fn last(&self) -> usize {
        self.last
    }
}

/// Makes the blocks of a directory, one after another.
#[derive(Debug)]
pub(crate) struct Blocks<'a> {
    pending: Vec<DirEntry<'a>>,
    used: usize,
}

impl<'a> Blocks<'a> {
    pub(crate) fn new() -> Blocks<'a> {
        Blocks { pending: Vec::new(), used: 0 }
    }

    /// Takes the next entry. Returns a block when the entry did not fit in it any more.
    pub(crate) fn add(&mut self, entry: DirEntry<'a>) -> Option<Vec<u8>> {
        let need = DIRENT + entry.name.len();
        let full = (self.used + need > BLOCK).then(|| {
            let mut block = self.take();
            block.resize(BLOCK, 0);
            block
        });
        self.used += need;
        self.pending.push(entry);
        full
    }

    /// What is left, as long as it is.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        let mut out = Vec::with_capacity(BLOCK);
        let mut name_at = self.pending.len() * DIRENT;
        for entry in &self.pending {
            out.extend_from_slice(&entry.nid.0.to_le_bytes());
            out.extend_from_slice(&u16::try_from(name_at).expect("inside a block").to_le_bytes());
            out.push(file_type(entry.file_type));
            out.push(0);
            name_at += entry.name.len();
        }
        for entry in self.pending.drain(..) {
            out.extend_from_slice(entry.name);
        }
        self.used = 0;
        out
    }
}

/// `EROFS_FT_*`.
fn file_type(mode: u32) -> u8 {
    match mode & 0o170_000 {
        0o100_000 => 1,
        0o040_000 => 2,
        0o020_000 => 3,
        0o060_000 => 4,
        0o010_000 => 5,
        0o140_000 => 6,
        0o120_000 => 7,
        _ => 0,
    }
}
