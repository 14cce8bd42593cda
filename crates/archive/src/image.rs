//! Writes a layer's tar stream as an EROFS image, by the same rules as [`crate::apply`]: what is in the image is what
//! would be in the directory, with whiteouts in overlay's form.
//!
//! File content goes straight into the image while the archive is read. In memory is the tree of names, each with the
//! number of its inode; nothing touches a file system but the image, so no name can lead anywhere.

mod tree;

use crate::apply::metadata::is_allowed;
use crate::apply::name::Name;
use crate::apply::whiteout::{Meaning, classify};
use crate::apply::{Applied, MAX_BYTES};
use crate::tar::{Entry, EntryKind, Reader, Timestamp, Xattr};
use crate::{Error, apply};
use erofs::{Attributes, Nid, Node, Writer, Xattrs};
use rootdir::RootDir;
use rustix::io::Errno;
use std::fs::File;
use std::io::Read;
use tree::{Child, DirId, Tree};

/// Each entry of the tree takes about 150 bytes of memory while the image is written. The largest public images have
/// about a million.
const MAX_ENTRIES: u64 = 4_000_000;
/// Longest name of one entry, as in all of Linux's file systems.
const MAX_NAME: usize = 255;

const S_IFREG: u32 = 0o100_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFCHR: u32 = 0o020_000;
const S_IFBLK: u32 = 0o060_000;
const S_IFIFO: u32 = 0o010_000;
const S_IFLNK: u32 = 0o120_000;

/// Writes `tar`, an uncompressed tar stream, as an EROFS image into the empty `image`, and reads `tar` to its end. The
/// same tar gives the same bytes. Nothing is synced; after an error the caller removes the file.
///
/// `root`, an empty directory, is given the attributes of the archive's entry for the root, if it has one.
///
/// # Errors
///
/// As [`crate::apply`], and [`Error::Image`] for what the format or the disk has no room for.
pub fn write_image<R: Read>(tar: R, image: File, root: &RootDir) -> Result<Applied, Error> {
    let mut reader = Reader::new(tar, MAX_BYTES);
    let mut building = Building {
        writer: Writer::new(image),
        tree: Tree::new(root_attributes()),
        root,
        whiteout: None,
        applied: Applied::default(),
    };
    while let Some(entry) = reader.next_entry()? {
        if building.applied.entries >= MAX_ENTRIES {
            return Err(Error::TooLarge { what: "entries", max: MAX_ENTRIES });
        }
        building.applied.entries += 1;
        building.entry(&entry, &mut reader)?;
    }
    building.applied.tar_bytes = reader.received();
    let applied = building.applied;
    building.finish()?;
    Ok(applied)
}

/// What a directory gets that the archive does not list.
fn root_attributes() -> Attributes {
    Attributes { mode: S_IFDIR | 0o755, ..Attributes::default() }
}

struct Building<'a> {
    writer: Writer,
    tree: Tree,
    root: &'a RootDir,
    /// The one inode that all whiteouts are links to.
    whiteout: Option<Nid>,
    applied: Applied,
}

impl Building<'_> {
    fn entry<R: Read>(&mut self, entry: &Entry, reader: &mut Reader<R>) -> Result<(), Error> {
        let name = Name::parse(&entry.path)?;
        let Some((parent, leaf)) = name.split() else { return self.root_entry(entry) };
        let wrong = |errno: Errno| fail("add", &name, errno);
        match classify(&name)? {
            Meaning::Ordinary => {}
            Meaning::Ignored => return Ok(()),
            Meaning::Whiteout(hidden) => {
                let parent = self.tree.directory(parent, entry.mtime).map_err(wrong)?;
                return self.hide(parent, hidden, &name);
            }
            Meaning::Opaque => {
                let parent = self.tree.directory(parent, entry.mtime).map_err(wrong)?;
                self.tree.get_mut(parent).opaque = true;
                return Ok(());
            }
        }
        if leaf.len() > MAX_NAME {
            return Err(wrong(Errno::NAMETOOLONG));
        }
        let parent = self.tree.directory(parent, entry.mtime).map_err(wrong)?;
        match entry.kind {
            EntryKind::Directory => self.directory(entry, &name, parent, leaf),
            EntryKind::File => {
                let nid = self.file(entry, &name, reader)?;
                self.put(parent, leaf, Child::Leaf { nid, file_type: S_IFREG });
                Ok(())
            }
            EntryKind::Symlink => {
                if entry.link.contains(&0) {
                    return Err(Error::Hostile { path: name.path().into(), what: "its target has a NUL" });
                }
                let attributes = self.attributes(entry, S_IFLNK | 0o777, &name)?;
                let node = Node::Symlink(&entry.link);
                let nid = self.writer.node(&attributes, node).map_err(|e| broken(&name, e))?;
                self.put(parent, leaf, Child::Symlink { nid, target: entry.link.clone().into() });
                Ok(())
            }
            EntryKind::Hardlink => self.hardlink(entry, &name, parent, leaf),
            EntryKind::CharDevice | EntryKind::BlockDevice | EntryKind::Fifo => {
                self.node(entry, &name, parent, leaf)
            }
        }
    }

    fn root_entry(&mut self, entry: &Entry) -> Result<(), Error> {
        if entry.kind != EntryKind::Directory {
            return Err(Error::Hostile { path: "/".into(), what: "it would replace the root itself" });
        }
        self.describe(Tree::ROOT, entry, &Name::default())?;
        self.applied.has_root = true;
        apply::set_root(self.root, entry)
    }

    fn directory(&mut self, entry: &Entry, name: &Name, parent: DirId, leaf: &[u8]) -> Result<(), Error> {
        let (id, opaque) = match self.tree.get(parent).children.get(leaf) {
            Some(Child::Directory(id)) => (Some(*id), false),
            // It was whited out before: what lower layers have in it must not show through.
            Some(Child::Whiteout { .. }) => (None, true),
            _ => (None, false),
        };
        let id = match id {
            Some(id) => id,
            None => {
                let id = self.tree.add(parent, root_attributes());
                self.tree.get_mut(id).opaque = opaque;
                self.put(parent, leaf, Child::Directory(id));
                id
            }
        };
        self.describe(id, entry, name)
    }

    /// Gives a directory what its entry says; attributes that an earlier entry gave it stay.
    fn describe(&mut self, id: DirId, entry: &Entry, name: &Name) -> Result<(), Error> {
        let pairs = storable(entry, S_IFDIR, name)?;
        let directory = self.tree.get_mut(id);
        directory.attributes.mode = S_IFDIR | entry.mode & 0o7777;
        (directory.attributes.uid, directory.attributes.gid) = (entry.uid, entry.gid);
        directory.attributes.mtime = time(entry.mtime);
        for (key, value) in pairs {
            directory.xattrs.retain(|(known, _)| known != key);
            directory.xattrs.push((key.clone(), value.clone()));
        }
        Ok(())
    }

    fn file<R: Read>(&mut self, entry: &Entry, name: &Name, reader: &mut Reader<R>) -> Result<Nid, Error> {
        let attributes = self.attributes(entry, S_IFREG | entry.mode & 0o7777, name)?;
        self.writer.begin_file(attributes, entry.size).map_err(|e| broken(name, e))?;
        // One segment of everything, where the file has no holes.
        let whole = [(0, entry.size)];
        let mut segments = entry.sparse.as_deref().unwrap_or(&whole).iter().filter(|(_, length)| *length > 0);
        let (mut at, mut left) = (0, 0);
        while let Some(mut piece) = reader.content()? {
            while !piece.is_empty() {
                if left == 0 {
                    // The reader checked that segments and content are of one length.
                    let Some(&(offset, length)) = segments.next() else { break };
                    self.writer.hole(offset - at).map_err(|e| broken(name, e))?;
                    (at, left) = (offset, length);
                }
                let n = usize::try_from(left).map_or(piece.len(), |left| left.min(piece.len()));
                let (now, later) = piece.split_at(n);
                self.writer.content(now).map_err(|e| broken(name, e))?;
                let n = u64::try_from(n).expect("usize fits in u64 on Linux");
                (at, left) = (at + n, left - n);
                self.applied.bytes += n;
                piece = later;
            }
        }
        self.writer.hole(entry.size - at).map_err(|e| broken(name, e))?;
        self.writer.end_file().map_err(|e| broken(name, e))
    }

    fn hardlink(&mut self, entry: &Entry, name: &Name, parent: DirId, leaf: &[u8]) -> Result<(), Error> {
        let target = Name::parse(&entry.link)?;
        let Some((target_parent, target_leaf)) = target.split() else {
            return Err(Error::Hostile { path: name.path().into(), what: "hard link to the root" });
        };
        let missing = || fail("link", &target, Errno::NOENT);
        let from = self
            .tree
            .find(target_parent)
            .map_err(|e| fail("link", &target, e))?
            .and_then(|dir| self.tree.get(dir).children.get(target_leaf))
            .ok_or_else(missing)?;
        let Some(nid) = from.nid() else {
            return Err(Error::Hostile { path: name.path().into(), what: "hard link to a directory" });
        };
        if self.tree.get(parent).children.get(leaf).and_then(Child::nid) == Some(nid) {
            return Ok(());
        }
        let child = from.clone();
        self.tree.link(nid);
        self.put(parent, leaf, child);
        Ok(())
    }

    fn node(&mut self, entry: &Entry, name: &Name, parent: DirId, leaf: &[u8]) -> Result<(), Error> {
        let (file_type, node) = match entry.kind {
            EntryKind::CharDevice => (S_IFCHR, Node::Device(entry.device.0, entry.device.1)),
            EntryKind::BlockDevice => (S_IFBLK, Node::Device(entry.device.0, entry.device.1)),
            _ => (S_IFIFO, Node::Fifo),
        };
        let attributes = self.attributes(entry, file_type | entry.mode & 0o7777, name)?;
        let nid = self.writer.node(&attributes, node).map_err(|e| broken(name, e))?;
        // To overlay this is a whiteout, whoever made it.
        let is_whiteout = entry.kind == EntryKind::CharDevice && entry.device == (0, 0);
        let child = if is_whiteout { Child::Whiteout { nid } } else { Child::Leaf { nid, file_type } };
        self.put(parent, leaf, child);
        Ok(())
    }

    /// Hides `hidden` of the lower layers, not of this one.
    fn hide(&mut self, parent: DirId, hidden: &[u8], name: &Name) -> Result<(), Error> {
        match self.tree.get(parent).children.get(hidden) {
            // This layer has put something there: a file hides what is below anyway, a directory must be opaque for it.
            Some(Child::Directory(id)) => {
                let id = *id;
                self.tree.get_mut(id).opaque = true;
                return Ok(());
            }
            Some(_) => return Ok(()),
            None => {}
        }
        let nid = match self.whiteout {
            Some(nid) => {
                self.tree.link(nid);
                nid
            }
            None => {
                let attributes = Attributes { mode: S_IFCHR, ..Attributes::default() };
                let made = self.writer.node(&attributes, Node::Device(0, 0));
                *self.whiteout.insert(made.map_err(|e| broken(name, e))?)
            }
        };
        self.put(parent, hidden, Child::Whiteout { nid });
        Ok(())
    }

    /// Makes `child` the entry `leaf`, in place of what is there.
    fn put(&mut self, parent: DirId, leaf: &[u8], child: Child) {
        self.tree.put(parent, leaf, child);
    }

    fn attributes(&self, entry: &Entry, mode: u32, name: &Name) -> Result<Attributes, Error> {
        let mut xattrs = Xattrs::default();
        let pairs = storable(entry, mode & 0o170_000, name)?;
        for (at, (key, value)) in pairs.iter().enumerate() {
            // The last of one name holds, as with calls.
            if !pairs[at + 1..].iter().any(|(later, _)| later == key) {
                xattrs.push(key, value).map_err(|e| broken(name, e))?;
            }
        }
        Ok(Attributes { mode, uid: entry.uid, gid: entry.gid, mtime: time(entry.mtime), xattrs })
    }

    fn finish(self) -> Result<(), Error> {
        let Building { mut writer, tree, .. } = self;
        let image = |source| Error::Image { path: "/".into(), source };
        tree.write(&mut writer).map_err(image)?;
        writer.finish().map(drop).map_err(image)
    }
}

/// The attributes of an entry that its file takes; those that it cannot have are left out, as in [`crate::apply`].
fn storable<'e>(entry: &'e Entry, file_type: u32, name: &Name) -> Result<Vec<&'e Xattr>, Error> {
    let fits = |key: &[u8]| {
        let is_plain = matches!(file_type, S_IFREG | S_IFDIR);
        let is_allowed_here = is_plain || !key.starts_with(b"user.");
        let has_acl = file_type != S_IFLNK && (file_type == S_IFDIR || key != b"system.posix_acl_default");
        let is_possible = is_allowed_here && (has_acl || !key.starts_with(b"system."));
        is_allowed(key) && is_possible && Xattrs::is_storable(key)
    };
    // An ACL of another version is one that file systems do not take.
    let is_known = |key: &[u8], value: &[u8]| !key.starts_with(b"system.") || !is_foreign_acl(value);
    let pairs: Vec<_> =
        entry.xattrs.iter().filter(|(key, value)| fits(key) && is_known(key, value)).collect();
    match pairs.iter().find(|(key, value)| key.starts_with(b"system.") && !is_acl(value)) {
        Some(_) => Err(fail("setxattr", name, Errno::INVAL)),
        None => Ok(pairs),
    }
}

/// Whether the kernel can read this ACL: with one that it cannot, it would refuse every access to the file.
fn is_acl(value: &[u8]) -> bool {
    let Some((version, entries)) = value.split_first_chunk::<4>() else { return false };
    let valid = |entry: &[u8]| {
        matches!(u16::from_le_bytes([entry[0], entry[1]]), 1 | 2 | 4 | 8 | 16 | 32)
            && u16::from_le_bytes([entry[2], entry[3]]) <= 7
    };
    u32::from_le_bytes(*version) == 2 && entries.len().is_multiple_of(8) && entries.chunks(8).all(valid)
}

fn is_foreign_acl(value: &[u8]) -> bool {
    value.first_chunk::<4>().is_some_and(|version| u32::from_le_bytes(*version) != 2)
}

fn time(mtime: Timestamp) -> (i64, u32) {
    (mtime.seconds, mtime.nanoseconds)
}

fn fail(operation: &'static str, name: &Name, errno: Errno) -> Error {
    Error::Entry { operation, path: name.path().into(), source: errno.into() }
}

fn broken(name: &Name, source: erofs::Error) -> Error {
    Error::Image { path: name.path().into(), source }
}
