//! What the structures look like in bytes. All numbers are little-endian.

use crate::writer::Attributes;

/// Bytes in a block.
pub(crate) const BLOCK: usize = 4096;
pub(crate) const BLOCK_U64: u64 = 4096;
/// `log2` of it.
const BLOCK_BITS: u8 = 12;
/// Bytes in a slot; an inode's number counts them.
pub(crate) const SLOT: u64 = 32;
/// Bytes in an extended inode.
pub(crate) const INODE: usize = 64;
/// Where the superblock is.
pub(crate) const SUPERBLOCK_AT: usize = 1024;
/// Where the root's inode is: behind the superblock. Its number has 16 bits in the superblock.
pub(crate) const ROOT_AT: u64 = 1152;

const MAGIC: u32 = 0xe0f5_e1e2;
/// The superblock has a checksum.
const COMPAT_CHECKSUM: u32 = 1;
/// Times of inodes are times of modification.
const COMPAT_MTIME: u32 = 2;

/// How an inode's content is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// Whole blocks from this one on.
    Plain { block: u32 },
    /// Whole blocks from this one on, the rest behind the inode.
    Inline { block: u32 },
    /// A device number, or nothing.
    Device { number: u32 },
}

/// `struct erofs_inode_extended`.
pub(crate) fn inode(
    attributes: &Attributes,
    content: Content,
    size: u64,
    nlink: u32,
    nid: u64,
) -> [u8; INODE] {
    let (layout, word) = match content {
        Content::Plain { block } => (0u16, block),
        Content::Inline { block } => (2, block),
        Content::Device { number } => (0, number),
    };
    let mut out = [0; INODE];
    out[0..2].copy_from_slice(&(1 | layout << 1).to_le_bytes());
    out[2..4].copy_from_slice(&attributes.xattrs.count().to_le_bytes());
    // The type and twelve bits of permissions.
    out[4..6].copy_from_slice(&u16::try_from(attributes.mode & 0xffff).unwrap_or(0).to_le_bytes());
    out[8..16].copy_from_slice(&size.to_le_bytes());
    out[16..20].copy_from_slice(&word.to_le_bytes());
    // Only for `stat` of 32-bit programs.
    out[20..24].copy_from_slice(&u32::try_from(nid & 0xffff_ffff).unwrap_or(0).to_le_bytes());
    out[24..28].copy_from_slice(&attributes.uid.to_le_bytes());
    out[28..32].copy_from_slice(&attributes.gid.to_le_bytes());
    out[32..40].copy_from_slice(&attributes.mtime.0.to_le_bytes());
    out[40..44].copy_from_slice(&attributes.mtime.1.to_le_bytes());
    out[NLINK_AT..NLINK_AT + 4].copy_from_slice(&nlink.to_le_bytes());
    out
}

/// Where in an inode the number of links is.
pub(crate) const NLINK_AT: usize = 44;

/// `struct erofs_super_block`, with the first block from there on, whose checksum it has.
pub(crate) fn superblock(first: &mut [u8; BLOCK], inodes: u64, blocks: u32) {
    let sb = &mut first[SUPERBLOCK_AT..];
    sb[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    sb[4..8].fill(0);
    sb[8..12].copy_from_slice(&(COMPAT_CHECKSUM | COMPAT_MTIME).to_le_bytes());
    sb[12] = BLOCK_BITS;
    let root = u16::try_from(ROOT_AT / SLOT).expect("a small constant");
    sb[14..16].copy_from_slice(&root.to_le_bytes());
    sb[16..24].copy_from_slice(&inodes.to_le_bytes());
    // Times of compact inodes, which we do not write: 24..36. Identity and name, which nobody needs: 48..80.
    sb[36..40].copy_from_slice(&blocks.to_le_bytes());
    let sum = crc32c(!0, sb);
    sb[4..8].copy_from_slice(&sum.to_le_bytes());
}

/// CRC-32C as the kernel's `crc32c`: nothing is inverted.
fn crc32c(mut crc: u32, bytes: &[u8]) -> u32 {
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_is_castagnoli() {
        // RFC 3720, B.4, which inverts at the end.
        assert_eq!(!crc32c(!0, &[0; 32]), 0x8a91_36aa);
        assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283);
    }
}
