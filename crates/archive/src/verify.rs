//! Compares an unpacked layer, in overlay's form, with the tar that it was made of.

use crate::Error;
use crate::apply::name::Name;
use crate::apply::whiteout::{Meaning, classify};
use crate::changes::{is_opaque, open_as};
use crate::tar::{Entry, EntryKind, Reader};
use crate::whiteout::is_overlay_whiteout;
use rootdir::RootDir;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use sha2::Digest as _;
use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Differences told; more of one layer help nobody.
const MAX_DIFFERENCES: usize = 20;
/// Bytes of a file read at a time.
const BUFFER: usize = 256 * 1024;

/// What a path of the layer should be.
#[derive(Debug)]
struct Expected {
    kind: Kind,
    mode: u32,
    owner: (u32, u32),
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// Size and hash of the content; no hash where the tar has it with holes.
    File(u64, Option<[u8; 32]>),
    Directory,
    Symlink(Vec<u8>),
    /// Another name of this path.
    Hardlink(Vec<u8>),
    Device(FileType, (u32, u32)),
    Fifo,
    Whiteout,
}

/// Reads `tar`, an uncompressed layer, to its end and lists how the tree below `root` differs from what applying it makes, at
/// most twenty times. Times are not compared.
///
/// # Errors
///
/// Those of [`crate::apply`] for a broken tar.
pub fn verify<R: Read>(tar: R, root: &RootDir) -> Result<Vec<String>, Error> {
    let (expected, opaque) = read(tar)?;
    let mut seen = HashSet::new();
    let mut differences = Vec::new();
    for (path, one) in &expected {
        if let Err(what) = compare(root, path, one, &mut seen) {
            differences.push(format!("{}: {what}", Path::new(OsStr::from_bytes(path)).display()));
        }
    }
    for path in &opaque {
        let path = Path::new(OsStr::from_bytes(path));
        let opened = root.open_file(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty());
        if !opened.is_ok_and(|fd| is_opaque(&fd, path).unwrap_or(false)) {
            differences.push(format!("{}: does not hide what lies below", path.display()));
        }
    }
    extra(root, &seen, &mut differences);
    differences.truncate(MAX_DIFFERENCES);
    Ok(differences)
}

type Layer = (BTreeMap<Vec<u8>, Expected>, Vec<Vec<u8>>);

fn read<R: Read>(tar: R) -> Result<Layer, Error> {
    let mut reader = Reader::new(tar, u64::MAX);
    let mut expected: BTreeMap<Vec<u8>, Expected> = BTreeMap::new();
    let mut opaque = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let name = Name::parse(&entry.path)?;
        let Some((parent, _)) = name.split() else { continue };
        match classify(&name)? {
            Meaning::Ordinary => {}
            Meaning::Ignored => continue,
            Meaning::Opaque => {
                opaque.push(parent.to_vec());
                continue;
            }
            Meaning::Whiteout(hidden) => {
                let path = if parent.is_empty() { hidden.to_vec() } else { [parent, b"/", hidden].concat() };
                // Not for entries of its own layer.
                let whiteout = Expected { kind: Kind::Whiteout, mode: 0, owner: (0, 0) };
                expected.entry(path).or_insert(whiteout);
                continue;
            }
        }
        let kind = kind(&entry, &mut reader)?;
        if kind != Kind::Directory {
            let below = [name.bytes(), b"/"].concat();
            let gone: Vec<Vec<u8>> = expected
                .range(below.clone()..)
                .map(|(path, _)| path)
                .take_while(|path| path.starts_with(&below))
                .cloned()
                .collect();
            for path in gone {
                expected.remove(&path);
            }
        }
        let one = Expected { kind, mode: entry.mode, owner: (entry.uid, entry.gid) };
        expected.insert(name.bytes().to_vec(), one);
    }
    Ok((expected, opaque))
}

fn kind<R: Read>(entry: &Entry, reader: &mut Reader<R>) -> Result<Kind, Error> {
    Ok(match entry.kind {
        EntryKind::File if entry.sparse.is_some() => Kind::File(entry.size, None),
        EntryKind::File => {
            let mut hash = sha2::Sha256::new();
            while let Some(piece) = reader.content()? {
                hash.update(piece);
            }
            Kind::File(entry.size, Some(hash.finalize().into()))
        }
        EntryKind::Directory => Kind::Directory,
        EntryKind::Symlink => Kind::Symlink(entry.link.clone()),
        EntryKind::Hardlink => Kind::Hardlink(Name::parse(&entry.link)?.bytes().to_vec()),
        EntryKind::CharDevice => Kind::Device(FileType::CharacterDevice, entry.device),
        EntryKind::BlockDevice => Kind::Device(FileType::BlockDevice, entry.device),
        EntryKind::Fifo => Kind::Fifo,
    })
}

fn look(root: &RootDir, path: &[u8]) -> Result<(OwnedFd, Stat, Vec<u8>), String> {
    let path = Path::new(OsStr::from_bytes(path));
    let (parent, leaf) = root.open_parent(path).map_err(|e| errors::chain(&e))?;
    let stat = rustix::fs::statat(&parent, leaf, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| std::io::Error::from(e).to_string())?;
    Ok((parent, stat, leaf.as_bytes().to_vec()))
}

fn compare(
    root: &RootDir,
    path: &[u8],
    expected: &Expected,
    seen: &mut HashSet<(u64, u64)>,
) -> Result<(), String> {
    let (parent, stat, leaf) = look(root, path)?;
    seen.insert((stat.st_dev, stat.st_ino));
    let found = FileType::from_raw_mode(stat.st_mode);
    let wrong = |what: &str| Err(format!("is not the {what} that it was"));
    match &expected.kind {
        Kind::Whiteout if is_overlay_whiteout(&stat) => return Ok(()),
        Kind::Whiteout => return wrong("whiteout"),
        Kind::Hardlink(target) => {
            let (_, other, _) = look(root, target)?;
            let same = (stat.st_dev, stat.st_ino) == (other.st_dev, other.st_ino);
            return if same { Ok(()) } else { wrong("hard link") };
        }
        Kind::File(size, hash) => {
            if !found.is_file() {
                return wrong("file");
            }
            if u64::try_from(stat.st_size) != Ok(*size) {
                return Err(format!("has {} bytes, not {size}", stat.st_size));
            }
            if let Some(hash) = hash
                && content(&parent, &leaf)? != *hash
            {
                return Err("its content has changed".into());
            }
        }
        Kind::Directory if !found.is_dir() => return wrong("directory"),
        Kind::Symlink(target) => {
            let read = rustix::fs::readlinkat(&parent, OsStr::from_bytes(&leaf), Vec::new());
            if !read.is_ok_and(|read| read.as_bytes() == &target[..]) {
                return wrong("symlink");
            }
        }
        Kind::Device(kind, (major, minor))
            if found != *kind || stat.st_rdev != rustix::fs::makedev(*major, *minor) =>
        {
            return wrong("device");
        }
        Kind::Fifo if found != FileType::Fifo => return wrong("fifo"),
        _ => {}
    }
    if (stat.st_uid, stat.st_gid) != expected.owner {
        return Err(format!(
            "belongs to {}:{}, not {}:{}",
            stat.st_uid, stat.st_gid, expected.owner.0, expected.owner.1
        ));
    }
    if !found.is_symlink() && stat.st_mode & 0o7777 != expected.mode {
        return Err(format!("has mode {:o}, not {:o}", stat.st_mode & 0o7777, expected.mode));
    }
    Ok(())
}

fn content(parent: &OwnedFd, leaf: &[u8]) -> Result<[u8; 32], String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = rustix::fs::openat(parent, OsStr::from_bytes(leaf), flags, Mode::empty());
    let mut file = File::from(open.map_err(|e| std::io::Error::from(e).to_string())?);
    let mut hash = sha2::Sha256::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hash.finalize().into()),
            Ok(n) => hash.update(&buffer[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(format!("cannot be read: {e}")),
        }
    }
}

/// Files that the layer does not have. Directories may be there for what is in them; empty files and sockets for what was
/// mounted on them or spoke through them when the layer was a container's.
fn extra(root: &RootDir, seen: &HashSet<(u64, u64)>, differences: &mut Vec<String>) {
    let mut todo = vec![PathBuf::new()];
    while let Some(path) = todo.pop() {
        if differences.len() >= MAX_DIFFERENCES {
            return;
        }
        let listed = open_as(root, &path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW)
            .map_err(std::io::Error::from)
            .and_then(|fd| rootdir::list_at(fd.as_fd()).map(|names| (fd, names)));
        let (fd, names) = match listed {
            Ok(listed) => listed,
            Err(e) => {
                differences.push(format!("{}: cannot be listed: {e}", path.display()));
                continue;
            }
        };
        for name in names {
            let Ok(stat) = rustix::fs::statat(&fd, &name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let child = path.join(&name);
            if FileType::from_raw_mode(stat.st_mode).is_dir() {
                todo.push(child);
                continue;
            }
            let kind = FileType::from_raw_mode(stat.st_mode);
            let is_harmless = kind == FileType::Socket || (kind.is_file() && stat.st_size == 0);
            if !is_harmless && !seen.contains(&(stat.st_dev, stat.st_ino)) {
                differences.push(format!("{}: was not there", child.display()));
            }
        }
    }
}
