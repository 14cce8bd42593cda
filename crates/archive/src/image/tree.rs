//! The names of an image being written.

use super::S_IFDIR;
use crate::tar::{Timestamp, Xattr};
use erofs::{Attributes, DirEntry, Error, Layout, Nid, Place, Writer};
use rustix::io::Errno;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

/// Symlinks that are followed on the way to one directory, as in the kernel.
const MAX_FOLLOWS: usize = 40;
const S_IFCHR: u32 = 0o020_000;
const S_IFLNK: u32 = 0o120_000;

/// A directory, by its place in the list of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DirId(usize);

/// What a name stands for.
#[derive(Debug, Clone)]
pub(super) enum Child {
    Directory(DirId),
    Symlink { nid: Nid, target: Box<[u8]> },
    Whiteout { nid: Nid },
    Leaf { nid: Nid, file_type: u32 },
}

#[derive(Debug)]
pub(super) struct Directory {
    parent: DirId,
    pub(super) attributes: Attributes,
    pub(super) xattrs: Vec<Xattr>,
    /// Nothing of lower layers shows in it.
    pub(super) opaque: bool,
    pub(super) children: BTreeMap<Box<[u8]>, Child>,
}

#[derive(Debug)]
pub(super) struct Tree {
    directories: Vec<Directory>,
    /// Names of those inodes that have, or had, several.
    links: HashMap<Nid, u32>,
    /// The directory that was looked for last: entries of one follow one another.
    last: Option<(Vec<u8>, DirId)>,
}

impl Child {
    /// The inode, of all but directories.
    pub(super) fn nid(&self) -> Option<Nid> {
        match self {
            Child::Directory(_) => None,
            Child::Symlink { nid, .. } | Child::Whiteout { nid } | Child::Leaf { nid, .. } => Some(*nid),
        }
    }

    fn file_type(&self) -> u32 {
        match self {
            Child::Directory(_) => S_IFDIR,
            Child::Symlink { .. } => S_IFLNK,
            Child::Whiteout { .. } => S_IFCHR,
            Child::Leaf { file_type, .. } => *file_type,
        }
    }
}

impl Tree {
    pub(super) const ROOT: DirId = DirId(0);

    pub(super) fn new(attributes: Attributes) -> Tree {
        let mut tree = Tree { directories: Vec::new(), links: HashMap::new(), last: None };
        tree.add(Tree::ROOT, attributes);
        tree
    }

    pub(super) fn get(&self, id: DirId) -> &Directory {
        &self.directories[id.0]
    }

    pub(super) fn get_mut(&mut self, id: DirId) -> &mut Directory {
        &mut self.directories[id.0]
    }

    /// Adds a directory that no name leads to yet.
    pub(super) fn add(&mut self, parent: DirId, attributes: Attributes) -> DirId {
        let id = DirId(self.directories.len());
        self.directories.push(Directory {
            parent,
            attributes,
            xattrs: Vec::new(),
            opaque: false,
            children: BTreeMap::new(),
        });
        id
    }

    /// The directory `path`, made where it is missing, with the time `mtime`.
    pub(super) fn directory(&mut self, path: &[u8], mtime: Timestamp) -> Result<DirId, Errno> {
        if let Some((_, id)) = self.last.as_ref().filter(|(last, _)| last == path) {
            return Ok(*id);
        }
        let id = self.walk(path, Some(mtime))?.ok_or(Errno::NOENT)?;
        self.last = Some((path.to_vec(), id));
        Ok(id)
    }

    /// The directory `path`, if it is there.
    pub(super) fn find(&mut self, path: &[u8]) -> Result<Option<DirId>, Errno> {
        self.walk(path, None)
    }

    fn walk(&mut self, path: &[u8], make: Option<Timestamp>) -> Result<Option<DirId>, Errno> {
        let parts = |path: &[u8]| path.rsplit(|b| *b == b'/').map(<[u8]>::to_vec).collect::<Vec<_>>();
        let mut current = Tree::ROOT;
        let mut todo = parts(path);
        let mut follows = 0;
        while let Some(part) = todo.pop() {
            match &part[..] {
                b"" | b"." => continue,
                b".." => {
                    current = self.get(current).parent;
                    continue;
                }
                _ => {}
            }
            match self.get(current).children.get(&part[..]) {
                Some(Child::Directory(id)) => current = *id,
                Some(Child::Symlink { target, .. }) => {
                    follows += 1;
                    if follows > MAX_FOLLOWS {
                        return Err(Errno::LOOP);
                    }
                    if target.starts_with(b"/") {
                        current = Tree::ROOT;
                    }
                    todo.extend(parts(target));
                }
                Some(_) => return Err(Errno::NOTDIR),
                None => {
                    let Some(mtime) = make else { return Ok(None) };
                    if part.len() > super::MAX_NAME {
                        return Err(Errno::NAMETOOLONG);
                    }
                    current = self.make(current, part, mtime);
                }
            }
        }
        Ok(Some(current))
    }

    /// Makes a directory that the archive does not list.
    fn make(&mut self, parent: DirId, name: Vec<u8>, mtime: Timestamp) -> DirId {
        let mut attributes =
            Attributes { mtime: (mtime.seconds, mtime.nanoseconds), ..super::root_attributes() };
        let above = &self.get(parent).attributes;
        if above.mode & 0o2000 != 0 {
            attributes.mode |= 0o2000;
            attributes.gid = above.gid;
        }
        let id = self.add(parent, attributes);
        self.get_mut(parent).children.insert(name.into(), Child::Directory(id));
        id
    }

    /// Notes that the inode has one more name.
    pub(super) fn link(&mut self, nid: Nid) {
        *self.links.entry(nid).or_insert(1) += 1;
    }

    pub(super) fn put(&mut self, parent: DirId, name: &[u8], child: Child) {
        let Some(old) = self.get_mut(parent).children.insert(name.into(), child) else { return };
        // What the path leads to is another now.
        self.last = None;
        let mut gone = vec![old];
        while let Some(child) = gone.pop() {
            match child {
                Child::Directory(id) => {
                    gone.extend(std::mem::take(&mut self.get_mut(id).children).into_values());
                }
                other => {
                    if let Some(links) = other.nid().and_then(|nid| self.links.get_mut(&nid)) {
                        *links -= 1;
                    }
                }
            }
        }
    }

    /// Writes all directories, and how many names each file has in the end.
    pub(super) fn write(mut self, writer: &mut Writer) -> Result<(), Error> {
        for directory in &mut self.directories {
            for (name, value) in &directory.xattrs {
                directory.attributes.xattrs.push(name, value)?;
            }
            if directory.opaque {
                directory.attributes.xattrs.push(b"trusted.overlay.opaque", b"y")?;
            }
            directory.xattrs = Vec::new();
        }
        let order = self.reachable();
        let mut places: Vec<Option<Place>> = vec![None; self.directories.len()];
        for id in &order {
            let directory = self.get(*id);
            let mut layout = Layout::default();
            names(directory).for_each(|(name, _)| layout.add(name));
            let place = match *id {
                Tree::ROOT => writer.place_root(&directory.attributes, layout)?,
                _ => writer.place_directory(&directory.attributes, layout)?,
            };
            places[id.0] = Some(place);
        }
        for id in &order {
            let directory = self.get(*id);
            let nid_of = |id: DirId| places[id.0].as_ref().map(Place::nid).ok_or(misplaced());
            let (own, above) = (nid_of(*id)?, nid_of(directory.parent)?);
            let mut nlink = 2;
            let mut entries = Vec::with_capacity(directory.children.len() + 2);
            for (name, child) in names(directory) {
                let (nid, file_type) = match child {
                    Some(Child::Directory(id)) => {
                        nlink += 1;
                        (nid_of(*id)?, S_IFDIR)
                    }
                    Some(other) => (other.nid().ok_or(misplaced())?, other.file_type()),
                    None if name == b"." => (own, S_IFDIR),
                    None => (above, S_IFDIR),
                };
                entries.push(DirEntry { name, nid, file_type });
            }
            let place = places[id.0].as_ref().ok_or(misplaced())?;
            writer.write_directory(place, &directory.attributes, nlink, entries.into_iter())?;
        }
        let mut links: Vec<_> = self.links.into_iter().collect();
        links.sort_unstable();
        links.into_iter().try_for_each(|(nid, links)| writer.set_links(nid, links))
    }

    /// The directories that names lead to, each before those in it.
    fn reachable(&self) -> Vec<DirId> {
        let mut order = vec![Tree::ROOT];
        let mut at = 0;
        while at < order.len() {
            let children = self.get(order[at]).children.values();
            let below: Vec<DirId> = children
                .filter_map(|child| match child {
                    Child::Directory(id) => Some(*id),
                    _ => None,
                })
                .collect();
            order.extend(below);
            at += 1;
        }
        order
    }
}

/// The names in a directory in the order of their bytes, with those that every directory has.
fn names(directory: &Directory) -> impl Iterator<Item = (&[u8], Option<&Child>)> {
    const DOTS: [&[u8]; 2] = [b".", b".."];
    let range = |from: Bound<&[u8]>, to: Bound<&[u8]>| directory.children.range::<[u8], _>((from, to));
    let before = range(Bound::Unbounded, Bound::Excluded(DOTS[0]));
    let between = range(Bound::Excluded(DOTS[0]), Bound::Excluded(DOTS[1]));
    let after = range(Bound::Excluded(DOTS[1]), Bound::Unbounded);
    let some = |(name, child)| (Box::as_ref(name), Some(child));
    before
        .map(some)
        .chain([(DOTS[0], None)])
        .chain(between.map(some))
        .chain([(DOTS[1], None)])
        .chain(after.map(some))
}

fn misplaced() -> Error {
    std::io::Error::other("a directory has no place").into()
}
