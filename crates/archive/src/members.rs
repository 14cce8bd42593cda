//! The members of an archive, one after another and without a file system: for archives that carry blobs and documents.

use crate::Error;
use crate::apply::name::Name;
use crate::tar::{Entry, EntryKind, Reader};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The most members that are looked at: a thousand images of as many files as the deepest image has.
const MAX_MEMBERS: u64 = 1_000_000;

/// One member of an archive.
pub enum Member<'a> {
    /// Whoever gets it may read all of it, some, or nothing.
    File {
        size: u64,
        content: &'a mut (dyn Read + Send),
    },
    /// A symbolic or hard link, by the name from the root that it leads to.
    Link(PathBuf),
    Directory,
    /// A device, a fifo, or a link that leads nowhere.
    Other,
}

impl std::fmt::Debug for Member<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Member::File { size, .. } => f.debug_struct("File").field("size", size).finish_non_exhaustive(),
            Member::Link(to) => f.debug_tuple("Link").field(to).finish(),
            Member::Directory => f.write_str("Directory"),
            Member::Other => f.write_str("Other"),
        }
    }
}

/// Calls `each` with every member of `tar`, an uncompressed tar stream, and its name from the root. Reads `tar` to its end.
///
/// # Errors
///
/// [`Error::Hostile`] for names that climb out of the root, [`Error::Malformed`], [`Error::Truncated`],
/// [`Error::TooLarge`], [`Error::Unsupported`] for files with holes; what `each` returns.
pub fn members<R: Read + Send, E: From<Error>>(
    tar: R,
    mut each: impl FnMut(&Path, Member<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut reader = Reader::new(tar, crate::apply::MAX_BYTES);
    let mut count = 0;
    while let Some(entry) = reader.next_entry()? {
        count += 1;
        if count > MAX_MEMBERS {
            return Err(Error::TooLarge { what: "entries", max: MAX_MEMBERS }.into());
        }
        let name = Name::parse(&entry.path)?;
        let path: PathBuf = name.path().into();
        match entry.kind {
            EntryKind::File if entry.sparse.is_some() => {
                let what = format!("a file with holes ({}) in an archive of images", path.display());
                return Err(Error::Unsupported { what }.into());
            }
            EntryKind::File => {
                let mut content = Content { reader: &mut reader, failure: None };
                let outcome = each(&path, Member::File { size: entry.size, content: &mut content });
                // What is wrong with the archive says more than what became of reading it.
                if let Some(failure) = content.failure.take() {
                    return Err(failure.into());
                }
                outcome?;
            }
            EntryKind::Directory => each(&path, Member::Directory)?,
            EntryKind::Symlink | EntryKind::Hardlink => match target(&entry, &path) {
                Some(to) => each(&path, Member::Link(to))?,
                None => each(&path, Member::Other)?,
            },
            EntryKind::CharDevice | EntryKind::BlockDevice | EntryKind::Fifo => each(&path, Member::Other)?,
        }
    }
    Ok(())
}

/// A name as [`members`] gives it: from the root, without `.`, `..` and empty parts. None where it climbs out of the root.
pub fn clean_name(path: &Path) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    Name::parse(path.as_os_str().as_bytes()).ok().map(|name| name.path().into())
}

/// Where a link leads, from the root.
fn target(entry: &Entry, path: &Path) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    let above = path.parent().filter(|_| entry.kind == EntryKind::Symlink && !entry.link.starts_with(b"/"));
    let above = above.map(|dir| dir.as_os_str().as_bytes()).unwrap_or_default();
    Name::parse(&[above, b"/", &entry.link].concat()).ok().map(|name| name.path().into())
}

/// What there is left of a member's content.
struct Content<'a, R> {
    reader: &'a mut Reader<R>,
    failure: Option<Error>,
}

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read_content(buffer).map_err(|failure| {
            let text = failure.to_string();
            self.failure = Some(failure);
            io::Error::other(text)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Files;

    #[test]
    fn members_come_by_their_names() {
        let mut tar = Vec::new();
        let mut files = Files::new(&mut tar);
        files.directory("d").unwrap();
        files.bytes("d/a", b"one").unwrap();
        files.bytes("d/../b", &[7; 70_000]).unwrap();
        files.finish().unwrap();
        let mut seen = Vec::new();
        members(&tar[..], |path, member| {
            let text = match member {
                Member::File { size, content } if size < 10 => {
                    let mut text = String::new();
                    content.read_to_string(&mut text).map_err(|source| Error::Read { source })?;
                    text
                }
                // Not read at all: the next one is found all the same.
                Member::File { size, .. } => size.to_string(),
                other => format!("{other:?}"),
            };
            seen.push(format!("{} {text}", path.display()));
            Ok::<_, Error>(())
        })
        .unwrap();
        assert_eq!(seen, ["d Directory", "d/a one", "b 70000"]);
        let cut = members(&tar[..3000], |_, member| {
            if let Member::File { content, .. } = member {
                io::copy(content, &mut io::sink()).map_err(|source| Error::Read { source })?;
            }
            Ok::<_, Error>(())
        });
        assert!(matches!(cut, Err(Error::Truncated { .. })), "{cut:?}");
    }
}
