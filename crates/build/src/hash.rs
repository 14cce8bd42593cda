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
        let file = pick.open().io_during(doing)?;
        hasher.file(file).io_during(doing)?;
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
            FileType::RegularFile => {
                let file = entry.open().io_during(doing)?;
                self.file(file).io_during(doing)
            }
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

    fn file(&mut self, mut file: File) -> std::io::Result<()> {
        for (name, value) in attributes(&file)? {
            self.piece(&name);
            self.piece(&value);
        }
        let stamp = match self.known {
            Some(_) => Some(Stamp::of(&rustix::fs::fstat(&file)?)),
            None => None,
        };
        if let (Some(known), Some(stamp)) = (self.known, &stamp)
            && let Some(digest) = known.get(stamp)
        {
            self.sha.update(digest);
            return Ok(());
        }
        let mut inner = sha2::Sha256::new();
        loop {
            match file.read(&mut self.buffer)? {
                0 => break,
                n => inner.update(&self.buffer[..n]),
            }
        }
        let digest: [u8; 32] = inner.finalize().into();
        if let (Some(known), Some(stamp)) = (self.known, stamp) {
            known.put(stamp, digest);
        }
        self.sha.update(digest);
        Ok(())
    }

    /// With its length, so that pieces cannot run into each other.
    fn piece(&mut self, bytes: &[u8]) {
        self.sha.update((bytes.len() as u64).to_le_bytes());
        self.sha.update(bytes);
    }
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
        if name != b"security.capability" && !name.starts_with(b"user.") {
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
