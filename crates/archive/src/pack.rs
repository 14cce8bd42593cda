//! Writes a directory tree as a tar stream: as it is (export, copy), or an overlay upper directory as a layer.
//!
//! The tree may belong to a running container that changes it meanwhile and puts symlinks where directories were. Each
//! directory is opened below a handle, following nothing; a file is opened only once it is known to be a regular one, and the
//! descriptor is compared with what was looked at.

use crate::changes::{Change, ChangeKind, split, stat_in};
use crate::tar::{Entry, EntryKind, MAX_PATH, Timestamp, Writer, Xattr};
use crate::{Error, whiteout};
use oci::IdMap;
use oci::id_map::OVERFLOW_ID;
use rootdir::RootDir;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{CStr, OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Which names and what of a tree go into the archive.
#[derive(Debug, Clone, Default)]
pub struct PackOptions {
    /// The name that the packed thing has in the archive, in place of its own: what `cp` calls its destination.
    pub rebase: Option<PathBuf>,
    /// Go into file systems mounted below. Else a mount point is an empty directory.
    pub cross_mounts: bool,
    /// Seconds since 1970: times after it are told as it.
    pub latest_s: Option<i64>,
    /// Somebody may be writing to the tree, and that is no reason to fail: what has become shorter since its length was written
    /// is filled up with zeros, as tar(1) does, and what was replaced is written as it is now. [`Packed::cut`] tells.
    pub is_live: bool,
    /// How ids of the files are mapped: they are told as those inside.
    pub ids: Option<IdMap>,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Packed {
    pub entries: u64,
    /// Bytes of file content.
    pub bytes: u64,
    /// Bytes of the tar stream.
    pub tar_bytes: u64,
    /// Sockets, which tar cannot hold, left out.
    pub sockets: u64,
    /// Files that became shorter while they were read, filled up with zeros.
    pub cut: u64,
}

/// Whether a name (relative, and whether it is a directory) goes in.
type Keep<'k> = &'k dyn Fn(&Path, bool) -> bool;

/// Room for a piece of a file.
const BUFFER: usize = 256 * 1024;

/// Writes what is at `path` below `root`, and all below it, as a tar stream, sorted by name.
///
/// Symlinks in the directories above `path` are followed inside the root; `path` itself and what is below are not
/// followed. The names in the archive start with the last name of `path`, or [`PackOptions::rebase`]. For the root
/// itself, without `rebase`, its children are written and no entry for the root.
///
/// Kept: owners, modes, times to the nanosecond, hard links, devices, `user.` attributes and file capabilities.
///
/// # Errors
///
/// [`Error::Root`] when there is nothing at `path`, [`Error::Entry`] when a file changed while it was read (unless the tree
/// [is live](PackOptions::is_live)),
/// [`Error::Write`] when `out` refuses bytes.
pub fn pack<W: Write>(out: W, root: &RootDir, path: &Path, options: &PackOptions) -> Result<Packed, Error> {
    let fail = |source| Error::Root { path: path.into(), source };
    let mut packer = Packer::new(out, Form::Tree, options.cross_mounts);
    packer.latest_s = options.latest_s;
    packer.is_live = options.is_live;
    packer.ids.clone_from(&options.ids);
    let is_root = !path.components().any(|part| matches!(part, std::path::Component::Normal(_)));
    let rebase = options.rebase.as_deref().map(|name| name.as_os_str().as_bytes().to_vec());
    if is_root {
        let base = root.open_dir(Path::new(".")).map_err(fail)?;
        let name = rebase.unwrap_or_default();
        if !name.is_empty() {
            let stat = rustix::fs::fstat(&base).map_err(|e| at("fstat", path, e))?;
            packer.one(base.as_fd(), OsStr::new("."), &name, &stat)?;
        }
        packer.tree(base.as_fd(), PathBuf::from("."), name)?;
    } else {
        let (base, leaf) = root.open_parent(path).map_err(fail)?;
        let stat =
            rustix::fs::statat(&base, leaf, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| at("statat", path, e))?;
        let name = rebase.unwrap_or_else(|| leaf.as_bytes().to_vec());
        if packer.one(base.as_fd(), leaf, &name, &stat)? {
            packer.tree(base.as_fd(), PathBuf::from(leaf), name)?;
        }
    }
    packer.finish()
}

/// Writes all below `root` that `keep` (relative name, whether it is a directory) wants, as [`pack`] does. What is below a
/// directory that is not kept is not asked for.
///
/// # Errors
///
/// As [`pack`].
pub fn pack_kept<W: Write>(out: W, root: &RootDir, keep: Keep<'_>) -> Result<Packed, Error> {
    let path = Path::new(".");
    let base = root.open_dir(path).map_err(|source| Error::Root { path: path.into(), source })?;
    let mut packer = Packer::new(out, Form::Tree, true);
    packer.keep = Some(keep);
    packer.tree(base.as_fd(), path.into(), Vec::new())?;
    packer.finish()
}

/// Writes `upper`, the upper directory of an overlay, as a layer: overlay's whiteouts become `.wh.` entries.
///
/// The overlay should not be in use, and must have been mounted without `redirect_dir` and `metacopy`.
///
/// # Errors
///
/// [`Error::Unsupported`] for directories renamed by reference and files without their content, and for names that
/// start with `.wh.`, which a layer cannot hold. Otherwise as [`pack`].
pub fn diff<W: Write>(out: W, upper: &RootDir) -> Result<Packed, Error> {
    let path = Path::new(".");
    let base = upper.open_dir(path).map_err(|source| Error::Root { path: path.into(), source })?;
    let mut packer = Packer::new(out, Form::Layer, false);
    packer.tree(base.as_fd(), path.into(), Vec::new())?;
    packer.finish()
}

/// Writes `changes` to `tree`, each found below it but for those deleted, as a layer.
pub(crate) fn write_layer<W: Write>(out: W, tree: &RootDir, changes: &[Change]) -> Result<Packed, Error> {
    let root = Path::new(".");
    let base = tree.open_dir(root).map_err(|source| Error::Root { path: root.into(), source })?;
    let mut packer = Packer::new(out, Form::Layer, false);
    let mut parent: Option<(PathBuf, OwnedFd)> = None;
    for change in changes {
        let (above, leaf) = split(&change.path);
        if parent.as_ref().is_none_or(|(path, _)| path != above) {
            let path = if above.as_os_str().is_empty() { root } else { above };
            // Gone meanwhile: what is in it is gone too.
            let Some(fd) = packer.open_directory(base.as_fd(), path)? else { continue };
            parent = Some((above.into(), fd));
        }
        let Some((_, dir)) = &parent else { continue };
        let name = change.path.as_os_str().as_bytes();
        let stat = match stat_in(dir, leaf) {
            Ok(stat) => Some(stat),
            Err(Errno::NOENT) => None,
            Err(e) => return Err(at("statat", &change.path, e)),
        };
        match (change.kind, stat) {
            (ChangeKind::Deleted, _) => packer.whiteout(leaf, name)?,
            (_, Some(stat)) => drop(packer.one(dir.as_fd(), leaf, name, &stat)?),
            (_, None) => {}
        }
    }
    packer.finish()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Tree,
    Layer,
}

struct Packer<'k, W> {
    /// Says which names go in.
    keep: Option<Keep<'k>>,
    writer: Writer<W>,
    form: Form,
    cross_mounts: bool,
    latest_s: Option<i64>,
    is_live: bool,
    ids: Option<IdMap>,
    /// First name of each file that has several.
    links: HashMap<(u64, u64), Vec<u8>>,
    packed: Packed,
}

/// A directory whose children are being written.
struct Frame {
    /// From the base.
    path: PathBuf,
    /// In the archive; empty for the root.
    name: Vec<u8>,
    children: std::vec::IntoIter<OsString>,
}

impl<'k, W: Write> Packer<'k, W> {
    fn new(out: W, form: Form, cross_mounts: bool) -> Packer<'k, W> {
        let writer = Writer::new(out);
        let (links, packed) = (HashMap::new(), Packed::default());
        Packer {
            keep: None,
            writer,
            form,
            cross_mounts,
            latest_s: None,
            is_live: false,
            ids: None,
            links,
            packed,
        }
    }

    fn finish(mut self) -> Result<Packed, Error> {
        self.packed.tar_bytes = self.writer.finish()?;
        Ok(self.packed)
    }

    /// Writes the children of the directory `path` of `base`. One descriptor is open at a time, whatever the depth.
    fn tree(&mut self, base: BorrowedFd<'_>, path: PathBuf, name: Vec<u8>) -> Result<(), Error> {
        let Some(mut here) = self.open_directory(base, &path)? else { return Ok(()) };
        let children = self.children(here.as_fd(), &path)?;
        let mut frames = vec![Frame { path, name, children }];
        while let Some(frame) = frames.last_mut() {
            let Some(child) = frame.children.next() else {
                frames.pop();
                if let Some(above) = frames.last() {
                    // Gone or replaced meanwhile: what is left of its children is gone too.
                    match self.open_directory(base, &above.path)? {
                        Some(fd) => here = fd,
                        None => frames.truncate(frames.len().saturating_sub(1)),
                    }
                }
                continue;
            };
            let path = frame.path.join(&child);
            let name = join(&frame.name, child.as_bytes());
            let stat = match rustix::fs::statat(&here, &child, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(at("statat", &path, e)),
            };
            let is_dir = FileType::from_raw_mode(stat.st_mode).is_dir();
            if self.keep.is_some_and(|keep| !keep(Path::new(OsStr::from_bytes(&name)), is_dir)) {
                continue;
            }
            if !self.one(here.as_fd(), &child, &name, &stat)? {
                continue;
            }
            if let Some(fd) = self.open_directory(base, &path)? {
                let children = self.children(fd.as_fd(), &path)?;
                here = fd;
                frames.push(Frame { path, name, children });
            }
        }
        Ok(())
    }

    fn children(&self, dir: BorrowedFd<'_>, path: &Path) -> Result<std::vec::IntoIter<OsString>, Error> {
        match sorted(dir, path) {
            // Removed since it was opened.
            Err(Error::Entry { source, .. })
                if self.is_live && source.kind() == std::io::ErrorKind::NotFound =>
            {
                Ok(Vec::new().into_iter())
            }
            children => children.map(Vec::into_iter),
        }
    }

    /// Opens a directory on the way; `None` when it is a mount point that is not entered, or is gone.
    fn open_directory(&self, base: BorrowedFd<'_>, path: &Path) -> Result<Option<OwnedFd>, Error> {
        let mut resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        if !self.cross_mounts {
            resolve |= ResolveFlags::NO_XDEV;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat2(base, path, flags, Mode::empty(), resolve) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::XDEV | Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(e) => Err(at("openat2", path, e)),
        }
    }

    /// Tells owners as they are inside.
    fn show_inside(&self, entry: &mut Entry) {
        if let Some(ids) = &self.ids {
            entry.uid = ids.inside_uid(entry.uid).unwrap_or(OVERFLOW_ID);
            entry.gid = ids.inside_gid(entry.gid).unwrap_or(OVERFLOW_ID);
        }
    }

    /// Writes the entry of `leaf` in `dir`. Whether it is a directory, whose children follow.
    fn one(&mut self, dir: BorrowedFd<'_>, leaf: &OsStr, name: &[u8], stat: &Stat) -> Result<bool, Error> {
        if name.len() >= MAX_PATH {
            return Err(Error::TooLarge { what: "bytes in a name", max: len(MAX_PATH) });
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        if self.form == Form::Layer {
            if whiteout::is_overlay_whiteout(stat) {
                return self.whiteout(leaf, name).map(|()| false);
            }
            if leaf.as_bytes().starts_with(whiteout::PREFIX) {
                return Err(Error::Unsupported { what: format!("name {leaf:?} in a layer") });
            }
        }
        let path = Path::new(OsStr::from_bytes(name));
        let mut entry = entry(name, stat);
        self.show_inside(&mut entry);
        match kind {
            FileType::Directory => return self.directory(dir, leaf, entry),
            FileType::RegularFile => {}
            FileType::Symlink => {
                let text = match rustix::fs::readlinkat(dir, leaf, Vec::new()) {
                    Ok(text) => text,
                    // Gone, or something else by now.
                    Err(Errno::NOENT | Errno::INVAL) if self.is_live => return Ok(false),
                    Err(e) => return Err(at("readlinkat", path, e)),
                };
                (entry.kind, entry.link) = (EntryKind::Symlink, text.into_bytes());
            }
            FileType::CharacterDevice => entry.kind = EntryKind::CharDevice,
            FileType::BlockDevice => entry.kind = EntryKind::BlockDevice,
            FileType::Fifo => entry.kind = EntryKind::Fifo,
            _ => {
                self.packed.sockets += 1;
                return Ok(false);
            }
        }
        if stat.st_nlink > 1 {
            match self.links.entry((stat.st_dev, stat.st_ino)) {
                std::collections::hash_map::Entry::Occupied(first) => {
                    (entry.kind, entry.link, entry.size) = (EntryKind::Hardlink, first.get().clone(), 0);
                    return self.put(&entry).map(|()| false);
                }
                std::collections::hash_map::Entry::Vacant(place) => {
                    place.insert(name.to_vec());
                }
            }
        }
        if kind == FileType::RegularFile { self.file(dir, leaf, entry, stat) } else { self.put(&entry) }
            .map(|()| false)
    }

    fn directory(&mut self, dir: BorrowedFd<'_>, leaf: &OsStr, mut entry: Entry) -> Result<bool, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let path = PathBuf::from(OsStr::from_bytes(&entry.path));
        let fd = match rustix::fs::openat(dir, leaf, flags, Mode::empty()) {
            Ok(fd) => fd,
            // Replaced since it was looked at.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(false),
            Err(e) => return Err(at("openat", &path, e)),
        };
        let found = xattrs(fd.as_fd(), &path)?;
        let is_opaque = self.form == Form::Layer && self.judge_overlay(&found)?;
        entry.xattrs = kept(found);
        let name = entry.path.clone();
        if !entry.path.ends_with(b"/") {
            entry.path.push(b'/');
        }
        self.put(&entry)?;
        if is_opaque {
            let marker = join(&name, whiteout::OPAQUE);
            self.put(&empty_file(&marker, entry.mtime))?;
        }
        Ok(true)
    }

    fn file(
        &mut self,
        dir: BorrowedFd<'_>,
        leaf: &OsStr,
        mut entry: Entry,
        stat: &Stat,
    ) -> Result<(), Error> {
        let path = PathBuf::from(OsStr::from_bytes(&entry.path));
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let mut file = match rustix::fs::openat(dir, leaf, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            // Gone, or replaced by a link or a socket: it is not in the archive, and other names of it cannot lead to it.
            Err(e) if e == Errno::NOENT || self.is_live && matches!(e, Errno::LOOP | Errno::NXIO) => {
                self.links.remove(&(stat.st_dev, stat.st_ino));
                return Ok(());
            }
            Err(e) => return Err(at("openat", &path, e)),
        };
        let opened = rustix::fs::fstat(&file).map_err(|e| at("fstat", &path, e))?;
        if (opened.st_dev, opened.st_ino) != (stat.st_dev, stat.st_ino) {
            if !self.is_live {
                return Err(changed(&path));
            }
            // Another name of the one that was here would lead to this one.
            self.links.remove(&(stat.st_dev, stat.st_ino));
            if !FileType::from_raw_mode(opened.st_mode).is_file() {
                return Ok(());
            }
            entry = Entry { path: entry.path, ..self::entry(&[], &opened) };
            self.show_inside(&mut entry);
        }
        let found = xattrs(file.as_fd(), &path)?;
        if self.form == Form::Layer {
            self.judge_overlay(&found)?;
        }
        entry.xattrs = kept(found);
        entry.size = u64::try_from(opened.st_size).unwrap_or(0);
        let (mut left, mut is_cut) = (entry.size, false);
        self.put(&entry)?;
        let mut buffer = vec![0; usize::try_from(left).map_or(BUFFER, |left| left.min(BUFFER))];
        while left > 0 {
            let read = if is_cut { Ok(0) } else { file.read(&mut buffer) };
            let n = read.map_err(|source| Error::Entry { operation: "read", path: path.clone(), source })?;
            let n = match n {
                0 if !self.is_live => return Err(changed(&path)),
                0 => {
                    self.packed.cut += u64::from(!is_cut);
                    is_cut = true;
                    buffer.fill(0);
                    buffer.len()
                }
                n => n,
            };
            // What was appended since is not in the header.
            let n = usize::try_from(left).map_or(n, |left| left.min(n));
            self.writer.content(&buffer[..n])?;
            left -= len(n);
            self.packed.bytes += len(n);
        }
        Ok(())
    }

    /// Writes overlay's whiteout as the layer format has it. Without a time: that of overlay's own is when it was made, and
    /// what is unpacked again has none.
    fn whiteout(&mut self, leaf: &OsStr, name: &[u8]) -> Result<(), Error> {
        let parent = &name[..name.len() - leaf.len()];
        let marker = [parent, whiteout::PREFIX, leaf.as_bytes()].concat();
        self.put(&empty_file(&marker, Timestamp::default()))
    }

    /// Whether overlay's own attributes make a directory opaque.
    fn judge_overlay(&self, xattrs: &[Xattr]) -> Result<bool, Error> {
        let mut is_opaque = false;
        for (name, value) in xattrs {
            match &name[..] {
                b"trusted.overlay.opaque" => is_opaque = value == b"y",
                b"trusted.overlay.redirect" | b"trusted.overlay.metacopy" => {
                    let name = String::from_utf8_lossy(name);
                    return Err(Error::Unsupported { what: format!("an upper directory with {name}") });
                }
                _ => {}
            }
        }
        Ok(is_opaque)
    }

    fn put(&mut self, entry: &Entry) -> Result<(), Error> {
        self.packed.entries += 1;
        match self.latest_s {
            Some(seconds) if entry.mtime.seconds >= seconds => {
                let mtime = Timestamp { seconds, nanoseconds: 0 };
                self.writer.entry(&Entry { mtime, ..entry.clone() })
            }
            _ => self.writer.entry(entry),
        }
    }
}

fn entry(name: &[u8], stat: &Stat) -> Entry {
    Entry {
        path: name.to_vec(),
        link: Vec::new(),
        kind: if FileType::from_raw_mode(stat.st_mode).is_dir() {
            EntryKind::Directory
        } else {
            EntryKind::File
        },
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: mtime(stat),
        size: 0,
        device: (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)),
        xattrs: Vec::new(),
        sparse: None,
    }
}

fn empty_file(name: &[u8], mtime: Timestamp) -> Entry {
    Entry {
        path: name.to_vec(),
        link: Vec::new(),
        kind: EntryKind::File,
        mode: 0,
        uid: 0,
        gid: 0,
        mtime,
        size: 0,
        device: (0, 0),
        xattrs: Vec::new(),
        sparse: None,
    }
}

fn mtime(stat: &Stat) -> Timestamp {
    let nanoseconds = u32::try_from(stat.st_mtime_nsec).expect("the kernel keeps nanoseconds below 10^9");
    Timestamp { seconds: stat.st_mtime, nanoseconds }
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match directory {
        b"" => name.to_vec(),
        [.., b'/'] => [directory, name].concat(),
        _ => [directory, b"/", name].concat(),
    }
}

pub(crate) fn sorted(dir: BorrowedFd<'_>, path: &Path) -> Result<Vec<OsString>, Error> {
    rootdir::list_at(dir).map_err(|source| Error::Entry { operation: "list", path: path.into(), source })
}

/// Most bytes of the names of attributes, and of one value: `XATTR_LIST_MAX`, `XATTR_SIZE_MAX`.
const MAX_XATTR: usize = 65_536;

/// All extended attributes, sorted by name. A file system without any has none.
pub(crate) fn xattrs(fd: BorrowedFd<'_>, path: &Path) -> Result<Vec<Xattr>, Error> {
    let by_number = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let mut names = [0u8; 4096];
    let mut more = Vec::new();
    let names: &[u8] = match rustix::fs::listxattr(&by_number, &mut names[..]) {
        Ok(n) => &names[..n],
        Err(Errno::OPNOTSUPP) => &[],
        Err(Errno::RANGE) => {
            more.resize(MAX_XATTR, 0);
            let n = rustix::fs::listxattr(&by_number, &mut more[..]).map_err(|e| at("listxattr", path, e))?;
            &more[..n]
        }
        Err(e) => return Err(at("listxattr", path, e)),
    };
    let mut found = Vec::new();
    for name in names.split_inclusive(|&byte| byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        let mut value = vec![0u8; MAX_XATTR];
        match rustix::fs::getxattr(&by_number, name, &mut value[..]) {
            Ok(n) => value.truncate(n),
            // Removed since it was listed, or not for us to read.
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM) => continue,
            Err(e) => return Err(at("getxattr", path, e)),
        }
        found.push((name.to_bytes().to_vec(), value));
    }
    found.sort_unstable();
    Ok(found)
}

/// Of the attributes those that belong in an archive: others are the host's, or the file system's own.
pub(crate) fn kept(mut xattrs: Vec<Xattr>) -> Vec<Xattr> {
    xattrs.retain(|(name, _)| {
        let is_ours = name == b"security.capability" || name.starts_with(b"user.");
        // PAX ends a key at the first `=`.
        is_ours && !name.starts_with(b"user.overlay.") && !name.contains(&b'=')
    });
    xattrs
}

fn changed(path: &Path) -> Error {
    let source = std::io::Error::other("it changed while it was read");
    Error::Entry { operation: "read", path: path.into(), source }
}

pub(crate) fn at(operation: &'static str, path: &Path, errno: Errno) -> Error {
    Error::Entry { operation, path: path.into(), source: errno.into() }
}

fn len(n: usize) -> u64 {
    u64::try_from(n).expect("usize fits in u64 on Linux")
}
