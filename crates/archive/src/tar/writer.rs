//! Writes entries: ustar headers, with PAX records for what they cannot hold.

use super::{BLOCK, Entry, EntryKind};
use crate::Error;
use std::io::Write;

/// What the 11 octal digits of size and time hold.
const MAX_OCTAL_11: u64 = 0o77_777_777_777;

/// What the 7 octal digits of an owner hold.
const MAX_OCTAL_7: u32 = 0o7_777_777;

/// Name of the header that carries an entry's PAX records; readers that know PAX do not look at it.
const PAX_NAME: &[u8] = b"PaxHeaders.0/entry";

/// A writer of tar streams. The same entries give the same bytes.
#[derive(Debug)]
pub(crate) struct Writer<W> {
    out: W,
    written: u64,
    /// Content that the current entry still owes.
    owed: u64,
    padding: usize,
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(out: W) -> Writer<W> {
        Writer { out, written: 0, owed: 0, padding: 0 }
    }

    /// Writes the headers of `entry`. For files, `entry.size` bytes of [`Writer::content`] must follow.
    pub(crate) fn entry(&mut self, entry: &Entry) -> Result<(), Error> {
        let records = pax_records(entry);
        if !records.is_empty() {
            let header = Fields {
                name: PAX_NAME,
                mode: 0o644,
                size: len(records.len()),
                typeflag: b'x',
                ..Fields::default()
            };
            self.put(&block(&header))?;
            self.put(&records)?;
            self.pad(records.len() % BLOCK)?;
        }
        let size = if entry.kind == EntryKind::File { entry.size } else { 0 };
        let fits = |time: i64| u64::try_from(time).ok().filter(|&time| time <= MAX_OCTAL_11);
        self.put(&block(&Fields {
            name: &entry.path,
            mode: entry.mode,
            uid: if entry.uid <= MAX_OCTAL_7 { entry.uid } else { 0 },
            gid: if entry.gid <= MAX_OCTAL_7 { entry.gid } else { 0 },
            size: if size <= MAX_OCTAL_11 { size } else { 0 },
            mtime: fits(entry.mtime.seconds).unwrap_or(0),
            typeflag: typeflag(entry.kind),
            link: &entry.link,
            device: entry.device,
        }))?;
        self.owed = size;
        self.padding = usize::try_from(size % len(BLOCK)).expect("less than a block");
        if size == 0 {
            self.padding = 0;
        }
        Ok(())
    }

    /// Writes a piece of the current entry's content.
    pub(crate) fn content(&mut self, piece: &[u8]) -> Result<(), Error> {
        assert!(len(piece.len()) <= self.owed, "more content than the header says");
        self.put(piece)?;
        self.owed -= len(piece.len());
        if self.owed == 0 {
            let tail = std::mem::take(&mut self.padding);
            self.pad(tail)?;
        }
        Ok(())
    }

    /// Writes the end of the archive; returns how many bytes it has.
    pub(crate) fn finish(mut self) -> Result<u64, Error> {
        self.put(&[0; 2 * BLOCK])?;
        self.out.flush().map_err(|source| Error::Write { source })?;
        Ok(self.written)
    }

    fn pad(&mut self, tail: usize) -> Result<(), Error> {
        if tail == 0 { Ok(()) } else { self.put(&[0; BLOCK][tail..]) }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.written += len(bytes.len());
        self.out.write_all(bytes).map_err(|source| Error::Write { source })
    }
}

/// What a header block holds.
#[derive(Default)]
struct Fields<'e> {
    name: &'e [u8],
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: u64,
    typeflag: u8,
    link: &'e [u8],
    device: (u32, u32),
}

fn block(fields: &Fields<'_>) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    put_text(&mut block[0..100], fields.name);
    put_octal(&mut block[100..108], fields.mode.into());
    put_octal(&mut block[108..116], fields.uid.into());
    put_octal(&mut block[116..124], fields.gid.into());
    put_octal(&mut block[124..136], fields.size);
    put_octal(&mut block[136..148], fields.mtime);
    block[156] = fields.typeflag;
    put_text(&mut block[157..257], fields.link);
    block[257..265].copy_from_slice(b"ustar\x0000");
    put_octal(&mut block[329..337], fields.device.0.into());
    put_octal(&mut block[337..345], fields.device.1.into());
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|&byte| u64::from(byte)).sum();
    put_octal(&mut block[148..155], sum);
    block
}

/// As much of `text` as fits; PAX has the rest.
fn put_text(field: &mut [u8], text: &[u8]) {
    let n = text.len().min(field.len());
    field[..n].copy_from_slice(&text[..n]);
}

/// Octal digits, leading zeros, one NUL behind.
fn put_octal(field: &mut [u8], mut value: u64) {
    let Some((_, digits)) = field.split_last_mut() else { return };
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(value & 7).expect("three bits");
        value >>= 3;
    }
}

fn typeflag(kind: EntryKind) -> u8 {
    match kind {
        EntryKind::File => b'0',
        EntryKind::Hardlink => b'1',
        EntryKind::Symlink => b'2',
        EntryKind::CharDevice => b'3',
        EntryKind::BlockDevice => b'4',
        EntryKind::Directory => b'5',
        EntryKind::Fifo => b'6',
    }
}

/// The records for what the header of `entry` cannot say, in a fixed order.
fn pax_records(entry: &Entry) -> Vec<u8> {
    let mut records = Vec::new();
    if entry.path.len() > 100 {
        record(&mut records, b"path", &entry.path);
    }
    if entry.link.len() > 100 {
        record(&mut records, b"linkpath", &entry.link);
    }
    if entry.kind == EntryKind::File && entry.size > MAX_OCTAL_11 {
        record(&mut records, b"size", entry.size.to_string().as_bytes());
    }
    if entry.uid > MAX_OCTAL_7 {
        record(&mut records, b"uid", entry.uid.to_string().as_bytes());
    }
    if entry.gid > MAX_OCTAL_7 {
        record(&mut records, b"gid", entry.gid.to_string().as_bytes());
    }
    let seconds = u64::try_from(entry.mtime.seconds);
    if entry.mtime.nanoseconds != 0 || seconds.is_err() || seconds.is_ok_and(|s| s > MAX_OCTAL_11) {
        record(&mut records, b"mtime", time_text(entry).as_bytes());
    }
    for (name, value) in &entry.xattrs {
        record(&mut records, &[b"SCHILY.xattr.", &name[..]].concat(), value);
    }
    records
}

fn time_text(entry: &Entry) -> String {
    let (seconds, nanoseconds) = (entry.mtime.seconds, entry.mtime.nanoseconds);
    let text = match (seconds < 0, nanoseconds) {
        (_, 0) => return seconds.to_string(),
        (false, _) => format!("{seconds}.{nanoseconds:09}"),
        // Nanoseconds count forward, the decimal number backward.
        (true, _) => format!("-{}.{:09}", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanoseconds),
    };
    text.trim_end_matches('0').to_owned()
}

/// Appends `LENGTH KEY=VALUE\n`, where the length counts its own digits.
fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let body = key.len() + value.len() + 3;
    let mut length = body + 1;
    while body + length.to_string().len() != length {
        length = body + length.to_string().len();
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn len(n: usize) -> u64 {
    u64::try_from(n).expect("usize fits in u64 on Linux")
}

#[cfg(test)]
mod tests {
    use super::super::{Reader, Timestamp};
    use super::*;

    fn entry(path: &[u8]) -> Entry {
        Entry {
            path: path.to_vec(),
            link: Vec::new(),
            kind: EntryKind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            size: 0,
            device: (0, 0),
            xattrs: Vec::new(),
            sparse: None,
        }
    }

    /// Writes and reads again.
    fn check(expected: &Entry, content: &[u8]) {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes);
        writer.entry(expected).unwrap();
        if !content.is_empty() {
            writer.content(content).unwrap();
        }
        let written = writer.finish().unwrap();
        assert_eq!(written, len(bytes.len()));
        assert_eq!(bytes.len() % BLOCK, 0);
        let mut reader = Reader::new(&bytes[..], u64::MAX);
        assert_eq!(reader.next_entry().unwrap().as_ref(), Some(expected));
        let mut read = Vec::new();
        while let Some(piece) = reader.content().unwrap() {
            read.extend_from_slice(piece);
        }
        assert_eq!(read, content);
        assert_eq!(reader.next_entry().unwrap(), None);
    }

    #[test]
    fn what_is_written_is_read() {
        check(&entry(b"a"), b"");
        check(&Entry { size: 5, ..entry(b"a") }, b"hello");
        check(&Entry { size: 512, ..entry(&[b'n'; 100]) }, &[1; 512]);
        check(&Entry { size: 1025, ..entry(&[b'n'; 101]) }, &[2; 1025]);
        check(&entry(&b"d/".repeat(2000)[..3999]), b"");
        check(&Entry { uid: 2_097_152, gid: u32::MAX - 1, ..entry(b"a") }, b"");
        for (seconds, nanoseconds) in
            [(1, 5), (-1, 0), (-2, 750_000_000), (-1, 999_999_999), (1 << 40, 0), (10, 100_000_000)]
        {
            check(&Entry { mtime: Timestamp { seconds, nanoseconds }, ..entry(b"a") }, b"");
        }
        let long = vec![b't'; 4000];
        check(&Entry { kind: EntryKind::Symlink, link: long.clone(), ..entry(b"s") }, b"");
        check(&Entry { kind: EntryKind::Hardlink, link: long, ..entry(b"h") }, b"");
        check(&Entry { kind: EntryKind::CharDevice, device: (4095, 1_048_575), ..entry(b"c") }, b"");
        check(&Entry { kind: EntryKind::Directory, mode: 0o7777, ..entry(b"d") }, b"");
        let xattrs = vec![(b"security.capability".to_vec(), vec![0, 10, 61]), (b"user.a".to_vec(), vec![])];
        check(&Entry { xattrs, ..entry(b"x") }, b"");
    }

    #[test]
    fn record_lengths_count_themselves() {
        for n in [1, 80, 90, 91, 92, 93, 94, 95, 990, 991, 992, 993, 9990] {
            let mut out = Vec::new();
            record(&mut out, b"k", &vec![b'v'; n]);
            let digits = out.split(|&byte| byte == b' ').next().unwrap();
            assert_eq!(std::str::from_utf8(digits).unwrap().parse::<usize>().unwrap(), out.len());
        }
    }
}
