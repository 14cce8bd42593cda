//! Applies a tar stream below a root directory: by descriptors only, leaf operations never following a symlink.

pub(crate) mod metadata;
pub(crate) mod name;
mod parents;
pub(crate) mod whiteout;

use crate::Error;
use crate::tar::{Entry, EntryKind, Reader, Timestamp};
use name::Name;
use oci::IdMap;
use parents::Parents;
use rootdir::RootDir;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a whiteout entry (`.wh.NAME`, `.wh..wh..opq`) becomes.
///
/// Spec: image-spec, layer.md, "Whiteouts".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whiteouts {
    /// Overlay's own form, for a directory that will be an overlay layer: a character device 0:0, and the extended
    /// attribute `trusted.overlay.opaque=y`.
    Overlay,
    /// What lower layers left there is removed, for a directory that holds a whole tree.
    Remove,
    /// Nothing special: such names are ordinary names. For archives that are no layers (copy, add, import).
    Keep,
}

/// How an archive is applied.
#[derive(Debug, Clone)]
pub struct Options {
    pub whiteouts: Whiteouts,
    /// Refuse character and block devices (whiteouts are not counted among them).
    pub forbid_devices: bool,
    /// Give files the owners that the archive names; else they belong to the caller.
    pub keep_owner: bool,
    /// Whom everything belongs to, whatever the archive names.
    pub owner: Option<(u32, u32)>,
    /// The directory below the root that names are taken from; absolute symlinks still start at the root.
    pub base: PathBuf,
    /// Replaces the first part of names that is the first of these by the second.
    pub rename: Option<(OsString, OsString)>,
    /// Leave the directory that names are taken from as it is, when the archive has an entry for it.
    pub keep_base: bool,
    /// Refuse to put a directory where something else is, and the reverse.
    pub keep_kinds: bool,
    /// The most entries that are applied.
    pub max_entries: u64,
    /// The most bytes that are read from the tar stream, headers and padding included.
    pub max_bytes: u64,
    /// The layers below this one, topmost first. Parents that the archive does not list get owner, mode and time from
    /// there, so that a layer with `tmp/x` alone does not change `/tmp`. What none has is 0755, owned by root.
    pub lowers: Vec<Arc<RootDir>>,
    /// How ids below the root are mapped: those of the archive are those inside. The caller makes files as the mapping's root.
    pub ids: Option<IdMap>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            whiteouts: Whiteouts::Overlay,
            forbid_devices: false,
            keep_owner: true,
            owner: None,
            base: PathBuf::new(),
            rename: None,
            keep_base: false,
            keep_kinds: false,
            max_entries: MAX_ENTRIES,
            max_bytes: MAX_BYTES,
            lowers: Vec::new(),
            ids: None,
        }
    }
}

/// The largest public images have about a million files.
const MAX_ENTRIES: u64 = 10_000_000;

/// No layer on public registries comes near; one MiB of gzip can hold a GiB.
pub(crate) const MAX_BYTES: u64 = 256 << 30;

/// What an archive amounted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// Entries applied, whiteouts included.
    pub entries: u64,
    /// Bytes of file content written.
    pub bytes: u64,
    /// Bytes of the tar stream, to its very end.
    pub tar_bytes: u64,
    /// The archive lists the root: it says who owns it, what its mode is and so on.
    pub has_root: bool,
}

/// Applies `tar`, an uncompressed tar stream, below `root`, and reads `tar` to its end, trailing bytes included, so
/// that a hashing reader around it sees all of it.
///
/// Names are taken from the root, absolute or not; symlinks in the directories above an entry are followed inside the
/// root. A later entry replaces an earlier one of the same name; a directory on a directory merges. Nothing is synced.
/// After an error, what was applied so far stays: the caller removes it.
///
/// Owners and device nodes need root (`CAP_CHOWN`, `CAP_MKNOD`), overlay's opaque mark `CAP_SYS_ADMIN`. Uses `/proc`.
///
/// # Errors
///
/// [`Error::Hostile`] for names that climb out of the root and the like, [`Error::Malformed`], [`Error::Truncated`],
/// [`Error::TooLarge`] when the options' or the format's maximums are passed, [`Error::Entry`] for what the kernel refused.
pub fn apply<R: Read>(tar: R, root: &RootDir, options: &Options) -> Result<Applied, Error> {
    let mut reader = Reader::new(tar, options.max_bytes);
    let mut applier = Applier::new(root, options)?;
    while let Some(mut entry) = reader.next_entry()? {
        if applier.applied.entries >= options.max_entries {
            return Err(Error::TooLarge { what: "entries", max: options.max_entries });
        }
        applier.applied.entries += 1;
        if let Some(owner) = options.owner {
            (entry.uid, entry.gid) = owner;
        }
        if let Some(ids) = &options.ids {
            let outside = ids.outside_uid(entry.uid).zip(ids.outside_gid(entry.gid));
            (entry.uid, entry.gid) = outside.ok_or_else(|| Error::Unmapped {
                path: OsStr::from_bytes(&entry.path).into(),
                uid: entry.uid,
                gid: entry.gid,
            })?;
        }
        applier.entry(&entry, &mut reader)?;
    }
    applier.set_directory_times()?;
    applier.applied.tar_bytes = reader.received();
    Ok(applier.applied)
}

/// Gives `root` what its entry in an archive says.
pub(crate) fn set_root(root: &RootDir, entry: &Entry) -> Result<(), Error> {
    let options = Options::default();
    let mut applier = Applier::new(root, &options)?;
    applier.root_entry(entry)?;
    applier.set_directory_times()
}

/// Device, inode of a directory, and a name in it.
type Place = (u64, u64, Vec<u8>);

struct Applier<'a> {
    root: &'a RootDir,
    options: &'a Options,
    /// Where names are taken from.
    base: Name,
    parents: Parents<'a>,
    metadata: metadata::Setter,
    /// Directories' times, set last because each entry made inside changes them.
    times: BTreeMap<Vec<u8>, Timestamp>,
    /// What this archive made, for [`Whiteouts::Remove`]: whiteouts are not for entries of their own layer.
    made: HashSet<Place>,
    applied: Applied,
}

impl<'a> Applier<'a> {
    fn new(root: &'a RootDir, options: &'a Options) -> Result<Applier<'a>, Error> {
        Ok(Applier {
            root,
            options,
            base: Name::parse(options.base.as_os_str().as_bytes())?,
            parents: Parents::new(root, options),
            metadata: metadata::Setter::new(root, options.keep_owner),
            times: BTreeMap::new(),
            made: HashSet::new(),
            applied: Applied::default(),
        })
    }

    fn entry<R: Read>(&mut self, entry: &Entry, reader: &mut Reader<R>) -> Result<(), Error> {
        let own = Name::parse(&entry.path)?;
        if self.options.keep_base && own.bytes().is_empty() && entry.kind == EntryKind::Directory {
            return Ok(());
        }
        let name = self.place(own);
        let Some((parent, leaf)) = name.split() else { return self.root_entry(entry) };
        if self.options.whiteouts != Whiteouts::Keep {
            match whiteout::classify(&name)? {
                whiteout::Meaning::Ordinary => {}
                whiteout::Meaning::Ignored => return Ok(()),
                whiteout::Meaning::Whiteout(hidden) => return self.whiteout(&name, parent, hidden),
                whiteout::Meaning::Opaque => return self.opaque(&name, parent),
            }
        }
        if self.options.keep_kinds {
            self.check_kind(entry, &name, parent, leaf)?;
        }
        match entry.kind {
            EntryKind::Directory => self.directory(entry, &name, parent, leaf)?,
            EntryKind::File => self.file(entry, &name, parent, leaf, reader)?,
            EntryKind::Symlink => self.symlink(entry, &name, parent, leaf)?,
            EntryKind::Hardlink => self.hardlink(entry, &name, parent, leaf)?,
            EntryKind::CharDevice | EntryKind::BlockDevice | EntryKind::Fifo => {
                self.node(entry, &name, parent, leaf)?;
            }
        }
        self.remember(parent, leaf)
    }

    /// Where the options put a name.
    fn place(&self, name: Name) -> Name {
        let name = match &self.options.rename {
            Some((from, to)) => name.renamed(from.as_bytes(), to.as_bytes()),
            None => name,
        };
        name.below(&self.base)
    }

    /// Refuses an entry that would replace a directory by something else, or the reverse.
    fn check_kind(&mut self, entry: &Entry, name: &Name, parent: &[u8], leaf: &[u8]) -> Result<(), Error> {
        let dir = self.parents.get(parent)?.fd();
        let Ok(there) = rustix::fs::statat(dir, leaf, AtFlags::SYMLINK_NOFOLLOW) else { return Ok(()) };
        let is_dir = FileType::from_raw_mode(there.st_mode).is_dir();
        if is_dir == (entry.kind == EntryKind::Directory) {
            return Ok(());
        }
        Err(Error::OtherKind { path: name.path().into(), there_is_dir: is_dir })
    }

    /// The entry `./`: the root's own owner, mode and time.
    fn root_entry(&mut self, entry: &Entry) -> Result<(), Error> {
        if entry.kind != EntryKind::Directory {
            return Err(Error::Hostile { path: "/".into(), what: "it would replace the root itself" });
        }
        let path = Path::new("/");
        let fd = self
            .root
            .open_file(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
            .map_err(|source| Error::Root { path: path.into(), source })?;
        self.metadata.set_open(fd.as_fd(), entry, true).map_err(|(operation, e)| at(operation, path, e))?;
        self.times.insert(Vec::new(), entry.mtime);
        self.applied.has_root = true;
        Ok(())
    }

    fn directory(&mut self, entry: &Entry, name: &Name, parent: &[u8], leaf: &[u8]) -> Result<(), Error> {
        let path = name.path();
        let dir = self.parents.get(parent)?.fd();
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let open = |dir: BorrowedFd<'_>| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(dir, leaf, flags, Mode::empty())
        };
        let (fd, is_new) = match rustix::fs::mkdirat(dir, leaf, mode) {
            Ok(()) => (open(dir), true),
            Err(Errno::EXIST) => match open(dir) {
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    let was_whiteout = whiteout::is_whiteout(dir, leaf);
                    self.displace(name, parent, leaf)?;
                    let dir = self.parents.get(parent)?.fd();
                    rustix::fs::mkdirat(dir, leaf, mode).map_err(|e| at("mkdirat", path, e))?;
                    let fd = open(dir);
                    if let (Ok(fd), true, Whiteouts::Overlay) = (&fd, was_whiteout, self.options.whiteouts) {
                        // It was whited out before: what lower layers have in it must not show through.
                        whiteout::set_opaque(fd.as_fd()).map_err(|e| at("setxattr", path, e))?;
                    }
                    (fd, true)
                }
                other => (other, false),
            },
            Err(e) => return Err(at("mkdirat", path, e)),
        };
        let fd = fd.map_err(|e| at("openat", path, e))?;
        self.metadata
            .set_open(fd.as_fd(), entry, !is_new)
            .map_err(|(operation, e)| at(operation, path, e))?;
        self.times.insert(name.bytes().to_vec(), entry.mtime);
        self.parents.enter(name.bytes(), fd, entry.mode);
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        entry: &Entry,
        name: &Name,
        parent: &[u8],
        leaf: &[u8],
        reader: &mut Reader<R>,
    ) -> Result<(), Error> {
        let path = name.path();
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let fd = self.make(name, parent, leaf, "openat", |dir| {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(dir, leaf, flags, mode)
        })?;
        let mut file = File::from(fd);
        match &entry.sparse {
            None => {
                while let Some(piece) = reader.content()? {
                    file.write_all(piece).map_err(|source| io_at("write", path, source))?;
                    self.applied.bytes += u64::try_from(piece.len()).expect("usize fits in u64 on Linux");
                }
            }
            Some(map) => {
                let written = write_sparse(&file, map, path, reader)?;
                file.set_len(entry.size).map_err(|source| io_at("ftruncate", path, source))?;
                self.applied.bytes += written;
            }
        }
        let inherits_group = self.parents.get(parent)?.inherits_group();
        self.metadata
            .set_open(file.as_fd(), entry, inherits_group)
            .map_err(|(operation, e)| at(operation, path, e))?;
        rustix::fs::futimens(&file, &metadata::times(entry.mtime)).map_err(|e| at("futimens", path, e))
    }

    fn symlink(&mut self, entry: &Entry, name: &Name, parent: &[u8], leaf: &[u8]) -> Result<(), Error> {
        if entry.link.contains(&0) {
            return Err(Error::Hostile { path: name.path().into(), what: "its target has a NUL" });
        }
        self.make(name, parent, leaf, "symlinkat", |dir| rustix::fs::symlinkat(&entry.link[..], dir, leaf))?;
        let dir = self.parents.get(parent)?;
        self.metadata.set_at(dir.fd(), leaf, entry).map_err(|(operation, e)| at(operation, name.path(), e))
    }

    /// Gives what the archive calls `entry.link` one more name. Owner, mode and times are the inode's, which has them.
    fn hardlink(&mut self, entry: &Entry, name: &Name, parent: &[u8], leaf: &[u8]) -> Result<(), Error> {
        let target = self.place(Name::parse(&entry.link)?);
        let Some((target_parent, target_leaf)) = target.split() else {
            return Err(Error::Hostile { path: name.path().into(), what: "hard link to the root" });
        };
        let from = self
            .root
            .open_dir(Path::new(metadata::os(target_parent)))
            .map_err(|source| Error::Root { path: target.path().into(), source })?;
        let stat = rustix::fs::statat(&from, target_leaf, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| at("statat", target.path(), e))?;
        if FileType::from_raw_mode(stat.st_mode).is_dir() {
            return Err(Error::Hostile { path: name.path().into(), what: "hard link to a directory" });
        }
        let dir = self.parents.get(parent)?.fd();
        if let Ok(there) = rustix::fs::statat(dir, leaf, AtFlags::SYMLINK_NOFOLLOW)
            && (there.st_dev, there.st_ino) == (stat.st_dev, stat.st_ino)
        {
            // Replacing it would remove what it links to.
            return Ok(());
        }
        self.make(name, parent, leaf, "linkat", |dir| {
            rustix::fs::linkat(&from, target_leaf, dir, leaf, AtFlags::empty())
        })
    }

    /// A device or FIFO.
    fn node(&mut self, entry: &Entry, name: &Name, parent: &[u8], leaf: &[u8]) -> Result<(), Error> {
        let kind = match entry.kind {
            EntryKind::CharDevice => FileType::CharacterDevice,
            EntryKind::BlockDevice => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        if self.options.forbid_devices && kind != FileType::Fifo {
            return Err(Error::Forbidden { path: name.path().into(), what: "a device node" });
        }
        let device = rustix::fs::makedev(entry.device.0, entry.device.1);
        // No permissions until the owner is right.
        self.make(name, parent, leaf, "mknodat", |dir| {
            rustix::fs::mknodat(dir, leaf, kind, Mode::empty(), device)
        })?;
        let dir = self.parents.get(parent)?;
        self.metadata.set_at(dir.fd(), leaf, entry).map_err(|(operation, e)| at(operation, name.path(), e))
    }

    /// Calls `create` in the parent directory; when something is there already, once more after removing that.
    fn make<T>(
        &mut self,
        name: &Name,
        parent: &[u8],
        leaf: &[u8],
        operation: &'static str,
        create: impl Fn(BorrowedFd<'_>) -> Result<T, Errno>,
    ) -> Result<T, Error> {
        match create(self.parents.get(parent)?.fd()) {
            Err(Errno::EXIST) => {
                self.displace(name, parent, leaf)?;
                create(self.parents.get(parent)?.fd())
            }
            other => other,
        }
        .map_err(|e| at(operation, name.path(), e))
    }

    /// Removes what stands where an entry of another kind is to go.
    fn displace(&mut self, name: &Name, parent: &[u8], leaf: &[u8]) -> Result<(), Error> {
        let dir = self.parents.get(parent)?.fd();
        rootdir::remove_all_at(dir, metadata::os(leaf))
            .map_err(|source| io_at("remove", name.path(), source))?;
        self.forget(name.bytes());
        Ok(())
    }

    /// Forgets what was noted about `path` and what is below it, after it was removed.
    fn forget(&mut self, path: &[u8]) {
        // A directory held open may be gone, or be reached by another way now.
        self.parents.clear();
        self.times.remove(path);
        let below = [path, b"/"].concat();
        let gone: Vec<Vec<u8>> = self
            .times
            .range(below.clone()..)
            .map(|(path, _)| path)
            .take_while(|path| path.starts_with(&below))
            .cloned()
            .collect();
        for path in gone {
            self.times.remove(&path);
        }
    }

    /// Notes that this archive made `leaf`.
    fn remember(&mut self, parent: &[u8], leaf: &[u8]) -> Result<(), Error> {
        if self.options.whiteouts == Whiteouts::Remove {
            for place in self.parents.places(parent, leaf)? {
                self.made.insert(place);
            }
        }
        Ok(())
    }

    fn set_directory_times(&mut self) -> Result<(), Error> {
        for (path, mtime) in std::mem::take(&mut self.times) {
            let name = Name::parse(&path).unwrap_or_default();
            let times = metadata::times(mtime);
            let done = match name.split() {
                None => rustix::fs::utimensat(self.root, ".", &times, AtFlags::SYMLINK_NOFOLLOW),
                Some((parent, leaf)) => {
                    let dir = self.parents.get(parent)?.fd();
                    rustix::fs::utimensat(dir, leaf, &times, AtFlags::SYMLINK_NOFOLLOW)
                }
            };
            done.map_err(|e| at("utimensat", name.path(), e))?;
        }
        Ok(())
    }
}

/// Writes each segment to its place; returns how many bytes.
fn write_sparse<R: Read>(
    file: &File,
    map: &[(u64, u64)],
    path: &Path,
    reader: &mut Reader<R>,
) -> Result<u64, Error> {
    let mut segments = map.iter().copied().filter(|&(_, length)| length > 0);
    let (mut offset, mut left) = (0, 0);
    let mut written = 0;
    while let Some(mut piece) = reader.content()? {
        while !piece.is_empty() {
            if left == 0 {
                // The reader checked that segments and content are of one length.
                let Some(next) = segments.next() else { return Ok(written) };
                (offset, left) = next;
            }
            let n = usize::try_from(left).map_or(piece.len(), |left| left.min(piece.len()));
            let (now, later) = piece.split_at(n);
            file.write_all_at(now, offset).map_err(|source| io_at("pwrite", path, source))?;
            let n = u64::try_from(n).expect("usize fits in u64 on Linux");
            (offset, left, written) = (offset + n, left - n, written + n);
            piece = later;
        }
    }
    Ok(written)
}

fn at(operation: &'static str, path: &Path, errno: Errno) -> Error {
    io_at(operation, path, errno.into())
}

fn io_at(operation: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::Entry { operation, path: path.into(), source }
}
