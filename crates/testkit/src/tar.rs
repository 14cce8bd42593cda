//! Tar archives written by hand: ordinary ones for images, and ones that no tar program would write.

use std::path::Path;

const BLOCK: usize = 512;

/// An entry of an archive. `name` and `link` go in as they are.
#[derive(Debug, Clone)]
pub struct Entry {
    pub name: String,
    /// `0` file, `1` hard link, `2` symlink, `3` character device, `4` block device, `5` directory.
    pub kind: u8,
    pub mode: u32,
    pub link: String,
    /// Major and minor number.
    pub device: (u32, u32),
    pub body: Vec<u8>,
}

impl Entry {
    fn new(name: &str, kind: u8, mode: u32) -> Entry {
        Entry { name: name.into(), kind, mode, link: String::new(), device: (0, 0), body: Vec::new() }
    }

    pub fn file(name: &str, mode: u32, body: impl AsRef<[u8]>) -> Entry {
        Entry { body: body.as_ref().to_vec(), ..Entry::new(name, b'0', mode) }
    }

    pub fn directory(name: &str, mode: u32) -> Entry {
        Entry::new(name, b'5', mode)
    }

    pub fn symlink(name: &str, target: &str) -> Entry {
        Entry { link: target.into(), ..Entry::new(name, b'2', 0o777) }
    }

    pub fn hardlink(name: &str, target: &str) -> Entry {
        Entry { link: target.into(), ..Entry::new(name, b'1', 0o644) }
    }

    pub fn character_device(name: &str, major: u32, minor: u32) -> Entry {
        Entry { device: (major, minor), ..Entry::new(name, b'3', 0o666) }
    }
}

/// The archive of `entries`, with its end.
pub fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        append(&mut out, entry);
    }
    out.resize(out.len() + 2 * BLOCK, 0);
    out
}

fn append(out: &mut Vec<u8>, entry: &Entry) {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    assert!(
        entry.name.len() <= 100 && entry.link.len() <= 100,
        "{}: too long for a plain header",
        entry.name
    );
    put(0, entry.name.as_bytes());
    put(100, format!("{:07o}\0", entry.mode).as_bytes());
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", entry.body.len()).as_bytes());
    // 2024-01-01, so that the same tree is the same archive.
    put(136, format!("{:011o}\0", 1_704_067_200).as_bytes());
    put(148, b"        ");
    put(156, &[entry.kind]);
    put(157, entry.link.as_bytes());
    put(257, b"ustar\x0000");
    put(329, format!("{:07o}\0", entry.device.0).as_bytes());
    put(337, format!("{:07o}\0", entry.device.1).as_bytes());
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(&entry.body);
    out.resize(out.len().next_multiple_of(BLOCK), 0);
}

/// `bytes` as gzip.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A file of this machine.
#[track_caller]
pub fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
