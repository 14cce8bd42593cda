//! One header block: fields by offset, numbers, checksum.

use super::BLOCK;

/// The fields of a header block, as bytes and numbers, not yet judged.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) name: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: i64,
    pub(super) gid: i64,
    pub(super) size: i64,
    pub(super) mtime: i64,
    pub(super) typeflag: u8,
    pub(super) link: Vec<u8>,
    pub(super) device: (i64, i64),
}

/// Why a block is no header.
pub(super) type Broken = String;

const NAME: std::ops::Range<usize> = 0..100;
const MODE: std::ops::Range<usize> = 100..108;
const UID: std::ops::Range<usize> = 108..116;
const GID: std::ops::Range<usize> = 116..124;
const SIZE: std::ops::Range<usize> = 124..136;
const MTIME: std::ops::Range<usize> = 136..148;
const CHECKSUM: std::ops::Range<usize> = 148..156;
const TYPEFLAG: usize = 156;
const LINK: std::ops::Range<usize> = 157..257;
const MAGIC: std::ops::Range<usize> = 257..265;
const DEVICE_MAJOR: std::ops::Range<usize> = 329..337;
const DEVICE_MINOR: std::ops::Range<usize> = 337..345;
const PREFIX: std::ops::Range<usize> = 345..500;
/// star keeps times where ustar has the end of its prefix, and says so here.
const STAR_PREFIX: std::ops::Range<usize> = 345..476;
const STAR_TRAILER: std::ops::Range<usize> = 508..512;

/// Which fields after the magic mean something.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    V7,
    Gnu,
    Ustar,
    Star,
}

/// Reads a block that is not all zero.
pub(super) fn parse(block: &[u8; BLOCK]) -> Result<Header, Broken> {
    verify_checksum(block)?;
    let layout = layout(block);
    let mut name = text(&block[NAME]).to_vec();
    let prefix = match layout {
        Layout::Ustar => text(&block[PREFIX]),
        Layout::Star => text(&block[STAR_PREFIX]),
        Layout::V7 | Layout::Gnu => b"",
    };
    if !prefix.is_empty() {
        name = [prefix, b"/", &name].concat();
    }
    let typeflag = block[TYPEFLAG];
    let is_device = layout != Layout::V7 && matches!(typeflag, b'3' | b'4');
    let device = if is_device {
        (number("device major", &block[DEVICE_MAJOR])?, number("device minor", &block[DEVICE_MINOR])?)
    } else {
        (0, 0)
    };
    let mode = number("mode", &block[MODE])?;
    Ok(Header {
        name,
        // Some writers add the file type bits of stat(2); negative modes do not exist.
        mode: u32::try_from(mode & 0o7777).map_err(|_| "mode out of range")?,
        uid: number("uid", &block[UID])?,
        gid: number("gid", &block[GID])?,
        size: number("size", &block[SIZE])?,
        mtime: number("mtime", &block[MTIME])?,
        typeflag,
        link: text(&block[LINK]).to_vec(),
        device,
    })
}

fn layout(block: &[u8; BLOCK]) -> Layout {
    match &block[MAGIC] {
        b"ustar  \0" => Layout::Gnu,
        [b'u', b's', b't', b'a', b'r', 0, ..] if &block[STAR_TRAILER] == b"tar\0" => Layout::Star,
        [b'u', b's', b't', b'a', b'r', 0, ..] => Layout::Ustar,
        _ => Layout::V7,
    }
}

/// The sum of all bytes, the checksum's own taken as spaces. Some old writers summed signed bytes.
fn verify_checksum(block: &[u8; BLOCK]) -> Result<(), Broken> {
    let stated = number("checksum", &block[CHECKSUM])?;
    let mut unsigned = 0i64;
    let mut signed = 0i64;
    for (at, &byte) in block.iter().enumerate() {
        let byte = if CHECKSUM.contains(&at) { b' ' } else { byte };
        unsigned += i64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    if stated == unsigned || stated == signed {
        Ok(())
    } else {
        Err(format!("header checksum is {stated}, its bytes sum to {unsigned}"))
    }
}

/// A field up to its first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    &field[..end]
}

/// A number: octal digits between spaces and NULs, or, with the first bit set, big-endian two's complement (GNU).
/// An empty field is 0.
pub(super) fn number(what: &str, field: &[u8]) -> Result<i64, Broken> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => base256(what, field),
        _ => octal(what, field),
    }
}

fn octal(what: &str, field: &[u8]) -> Result<i64, Broken> {
    let blank = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !blank(byte)).unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(blank).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(end);
    if !rest.iter().all(blank) {
        return Err(format!("{what} is not a number"));
    }
    // A field has 12 bytes at most: 36 bits.
    digits.iter().try_fold(0i64, |value, &digit| match digit {
        b'0'..=b'7' => Ok(value << 3 | i64::from(digit - b'0')),
        _ => Err(format!("{what} is not an octal number")),
    })
}

fn base256(what: &str, field: &[u8]) -> Result<i64, Broken> {
    // The first bit marks the form, the second is the sign.
    let negative = field.first().is_some_and(|first| first & 0x40 != 0);
    let mut value: i128 = if negative { -1 } else { 0 };
    for (at, &byte) in field.iter().enumerate() {
        let byte = if at == 0 && !negative { byte & 0x7f } else { byte };
        // A field has 12 bytes at most: 96 bits.
        value = value << 8 | i128::from(byte);
    }
    i64::try_from(value).map_err(|_| format!("{what} is out of range"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let check = |field: &[u8], expected: Option<i64>| {
            assert_eq!(number("n", field).ok(), expected, "{field:?}");
        };
        check(b"0000644\0", Some(0o644));
        check(b"   644 \0", Some(0o644));
        check(b"644\0\0\0\0\0", Some(0o644));
        check(b"\0\0\0\0\0\0\0\0", Some(0));
        check(b"77777777777\0", Some(0o77777777777));
        check(b"777777777777", Some(0o777777777777));
        check(b"0000689\0", None);
        check(b"644\x00644\0", None);
        check(b"-644\0\0\0\0", None);
        check(b"\x80\0\0\0\0\0\0\0\0\0\x01\0", Some(256));
        check(b"\x80\0\0\x02\0\0\0\0", Some(2 << 32));
        check(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2));
        check(b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None);
        check(b"\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xfe", None);
    }

    #[test]
    fn zero_checksum_is_no_checksum() {
        let mut block = [0u8; BLOCK];
        block[0] = b'a';
        assert!(parse(&block).is_err());
    }
}
