//! Digests of files: names, kinds, modes, owners, attributes and bytes; no times.

use crate::error::{Error, IoDuring};
use crate::kept::{Known, Stamp};
use crate::select::{Entry, Filter, Pick, walk};
use oci::Digest;
use rustix::fs::{FileType, Stat};
use sha2::Digest as _;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

const BUFFER: usize = 256 << 10;

/// Digest of what a pick holds. Blocking.
pub(crate) fn of_pick(pick: &Pick, filter: Filter<'_>, known: Option<&Known>) -> Result<Digest, Error> {
    let mut hasher = Hasher { sha: sha2::Sha256::new(), buffer: vec![0; BUFFER], known };
    hasher.stat(&pick.stat);
    if pick.is_dir() {
        walk(pick, filter, &mut |entry| hasher.entry(entry))?;
    } else if FileType::from_raw_mode(pick.stat.st_mode).is_file() {
        let doing = || format!("read {}", pick.path);
        hasher.file(&pick.stat, || pick.open()).io_during(doing)?;
    }
    Ok(Digest::from_sha256(hasher.sha.finalize().into()))
}

/// Digest of a value's JSON, which has its maps in order.
pub(crate) fn of_json(value: &serde_json::Value) -> Digest {
    Digest::of(value.to_string().as_bytes())
}

struct Hasher<'a> {
    sha: sha2::Sha256,
    buffer: Vec<u8>,
    known: Option<&'a Known>,
}

impl Hasher<'_> {
    fn entry(&mut self, entry: &Entry<'_>) -> Result<(), Error> {
        let doing = || format!("read {}", entry.relative.display());
        self.piece(entry.relative.as_os_str().as_bytes());
        self.stat(entry.stat);
        match entry.kind() {
            FileType::RegularFile => self.file(entry.stat, || entry.open()).io_during(doing),
            FileType::Symlink => {
                let text = entry.link().io_during(doing)?;
                self.piece(&text);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn stat(&mut self, stat: &Stat) {
        for number in [stat.st_mode, stat.st_uid, stat.st_gid] {
            self.sha.update(number.to_le_bytes());
        }
        self.sha.update(stat.st_rdev.to_le_bytes());
    }

    /// One that is known to be as it was is not opened.
    fn file(&mut self, stat: &Stat, open: impl FnOnce() -> std::io::Result<File>) -> std::io::Result<()> {
        let known = self.known.and_then(|known| known.get(&Stamp::of(stat)));
        let digest = match known {
            Some(digest) => digest,
            None => {
                let mut file = open()?;
                let stamp = Stamp::of(&rustix::fs::fstat(&file)?);
                let digest = self.content(&mut file)?;
                if let Some(known) = self.known {
                    known.put(stamp, digest);
                }
                digest
            }
        };
        self.sha.update(digest);
        Ok(())
    }

    /// Digest of a file's attributes and bytes.
    fn content(&mut self, file: &mut File) -> std::io::Result<[u8; 32]> {
        let mut sha = sha2::Sha256::new();
        for (name, value) in attributes(&*file)? {
            piece(&mut sha, &name);
            piece(&mut sha, &value);
        }
        // No piece is as long as that.
        sha.update(u64::MAX.to_le_bytes());
        loop {
            match file.read(&mut self.buffer)? {
                0 => return Ok(sha.finalize().into()),
                n => sha.update(&self.buffer[..n]),
            }
        }
    }

    /// With its length, so that pieces cannot run into each other.
    fn piece(&mut self, bytes: &[u8]) {
        piece(&mut self.sha, bytes);
    }
}

fn piece(sha: &mut sha2::Sha256, bytes: &[u8]) {
    sha.update((bytes.len() as u64).to_le_bytes());
    sha.update(bytes);
}

/// Whether an extended attribute of this name is copied.
pub(crate) fn is_copied(name: &[u8]) -> bool {
    name == b"security.capability" || name.starts_with(b"user.")
}

/// The extended attributes that are copied: file capabilities and the user's own, by name.
pub(crate) fn attributes(file: impl AsFd) -> std::io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = vec![0u8; 4096];
    let length = loop {
        match rustix::fs::flistxattr(&file, &mut names) {
            Ok(length) => break length,
            Err(rustix::io::Errno::RANGE) if names.len() < 1 << 20 => names.resize(names.len() * 4, 0),
            Err(rustix::io::Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(e) => return Err(e.into()),
        }
    };
    let mut out = Vec::new();
    for name in names[..length].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        if !is_copied(name) {
            continue;
        }
        let mut value = vec![0u8; 64 << 10];
        match rustix::fs::fgetxattr(&file, name, &mut value) {
            Ok(length) => {
                value.truncate(length);
                out.push((name.to_vec(), value));
            }
            Err(rustix::io::Errno::NODATA) => {}
            Err(e) => return Err(e.into()),
        }
    }
    out.sort();
    Ok(out)
}
