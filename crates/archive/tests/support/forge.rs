//! Writes tar archives that no decent program would: any header, verbatim.

/// A header to be spoilt, and what follows it.
#[derive(Clone)]
pub(crate) struct Forged {
    pub(crate) block: [u8; 512],
    pub(crate) content: Vec<u8>,
    /// Recompute the checksum when the archive is put together.
    pub(crate) sums: bool,
}

impl std::fmt::Debug for Forged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
        let head = &self.content[..self.content.len().min(60)];
        let link = text(&self.block[157..257]);
        write!(
            f,
            "{:?} {:?} -> {link:?} {:?}",
            char::from(self.block[156]),
            text(&self.block[..100]),
            text(head)
        )
    }
}

impl Forged {
    pub(crate) fn new(typeflag: u8, name: &[u8]) -> Forged {
        let mut block = [0; 512];
        block[..name.len()].copy_from_slice(name);
        block[100..108].copy_from_slice(b"0000644\0");
        block[108..116].copy_from_slice(b"0000000\0");
        block[116..124].copy_from_slice(b"0000000\0");
        block[124..136].copy_from_slice(b"00000000000\0");
        block[136..148].copy_from_slice(b"00000000100\0");
        block[156] = typeflag;
        block[257..265].copy_from_slice(b"ustar\x0000");
        Forged { block, content: Vec::new(), sums: true }
    }

    pub(crate) fn link(mut self, target: &[u8]) -> Forged {
        self.block[157..157 + target.len()].copy_from_slice(target);
        self
    }

    pub(crate) fn mode(mut self, mode: u32) -> Forged {
        self.block[100..108].copy_from_slice(format!("{mode:07o}\0").as_bytes());
        self
    }

    pub(crate) fn owner(mut self, uid: u32, gid: u32) -> Forged {
        self.block[108..116].copy_from_slice(format!("{uid:07o}\0").as_bytes());
        self.block[116..124].copy_from_slice(format!("{gid:07o}\0").as_bytes());
        self
    }

    pub(crate) fn device(mut self, major: u32, minor: u32) -> Forged {
        self.block[329..337].copy_from_slice(format!("{major:07o}\0").as_bytes());
        self.block[337..345].copy_from_slice(format!("{minor:07o}\0").as_bytes());
        self
    }

    /// Content, and its size in the header.
    pub(crate) fn content(self, content: &[u8]) -> Forged {
        let mut forged = self.size(content.len());
        forged.content = content.to_vec();
        forged
    }

    /// A size that need not be the content's.
    pub(crate) fn size(mut self, size: usize) -> Forged {
        self.block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut block = self.block;
        if self.sums {
            sum(&mut block);
        }
        let mut bytes = block.to_vec();
        bytes.extend_from_slice(&self.content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }
}

/// Puts the right checksum into a header block.
pub(crate) fn sum(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block[..512].iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

pub(crate) fn file(name: &str, content: &[u8]) -> Forged {
    Forged::new(b'0', name.as_bytes()).content(content)
}

pub(crate) fn dir(name: &str) -> Forged {
    Forged::new(b'5', name.as_bytes()).mode(0o755)
}

pub(crate) fn symlink(name: &str, target: &str) -> Forged {
    Forged::new(b'2', name.as_bytes()).mode(0o777).link(target.as_bytes())
}

pub(crate) fn hardlink(name: &str, target: &str) -> Forged {
    Forged::new(b'1', name.as_bytes()).link(target.as_bytes())
}

/// An extended header with these records.
pub(crate) fn pax(records: &[(&str, &[u8])]) -> Forged {
    let mut content = Vec::new();
    for (key, value) in records {
        let body = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
        let mut length = body.len() + 1;
        while body.len() + length.to_string().len() != length {
            length = body.len() + length.to_string().len();
        }
        content.extend_from_slice(length.to_string().as_bytes());
        content.extend_from_slice(&body);
    }
    Forged::new(b'x', b"PaxHeaders").content(&content)
}

/// An archive of these, with its end marker.
pub(crate) fn tar(entries: &[Forged]) -> Vec<u8> {
    let mut bytes: Vec<u8> = entries.iter().flat_map(Forged::bytes).collect();
    bytes.extend_from_slice(&[0; 1024]);
    bytes
}
