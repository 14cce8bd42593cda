//! Where the documents and blobs of an archive are taken from: a directory, or what came through a tar stream.
//!
//! A stream is read once. What is small stays in memory; what is not goes into the content store while it is hashed, and
//! where the storage driver takes layers in any order it is unpacked beside, by whatever thread is free: an archive
//! says only at its end which of its files are layers and of what.

use crate::unpack::{Hashed, apply_plain};
use crate::{Error, Images, Lease};
use archive::{Compression, Member};
use content::Ingest;
use oci::Digest;
use rootdir::RootDir;
use rustix::fs::{FileType, Mode, OFlags};
use snapshot::LayerDir;
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::thread::ScopedJoinHandle;

/// Files up to this size stay in memory, all of them together up to [`MAX_SMALL`].
const SMALL: u64 = 64 << 10;
const MAX_SMALL: u64 = 16 << 20;
/// Bytes of a file that tell what it is: a tar has its mark in the first block.
const HEAD: usize = 512;
/// Files that are unpacked at once, while the next one arrives.
const UNPACKING: usize = 3;
/// Links that are followed from one to the next.
const MAX_LINKS: usize = 8;

/// What an archive holds.
pub(super) enum Source<'a> {
    Directory(&'a RootDir),
    Stream(HashMap<PathBuf, Kept>),
}

/// What was kept of a member.
pub(super) enum Kept {
    Small(Vec<u8>),
    Blob {
        digest: Digest,
        size: u64,
        compression: Result<Compression, String>,
    },
    Link(PathBuf),
    Other,
    /// On its way into the content store, by the number of its kind.
    Arriving(usize),
}

/// A file of the archive that was a layer of some image.
struct Unpacked {
    dir: LayerDir,
    /// None where it is the digest of the file.
    diff_id: Option<Digest>,
    size_bytes: u64,
}

/// A file that has come as a whole, and who unpacks it.
struct Arrived<'scope> {
    path: PathBuf,
    number: usize,
    head: Vec<u8>,
    ingest: Ingest,
    work: Option<ScopedJoinHandle<'scope, Option<Unpacked>>>,
}

/// A blob that is being unpacked.
type Unpacking<'scope> = (Digest, ScopedJoinHandle<'scope, Option<Unpacked>>);

impl Source<'_> {
    /// The whole of a document; an error where it has more than `max` bytes.
    pub(super) fn read(&self, images: &Images, path: &Path, max: usize) -> Result<Vec<u8>, Error> {
        let failed = |source| Error::ArchiveFile { path: path.into(), source };
        let mut bytes = Vec::new();
        self.open(images, path)?.take(max as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() > max {
            return Err(Error::Archive { reason: format!("{path:?} has more than {max} bytes") });
        }
        Ok(bytes)
    }

    /// Whether there is such a file.
    pub(super) fn has(&self, path: &Path) -> bool {
        match self {
            Source::Directory(root) => open_file(root, path).is_ok(),
            Source::Stream(members) => matches!(find(members, path), Ok(Kept::Small(_) | Kept::Blob { .. })),
        }
    }

    /// Sees to it that the file is a blob in the content store. Returns what that is called, its size and its compression.
    pub(super) fn take(
        &self,
        images: &Images,
        lease: &Lease,
        path: &Path,
        expected: Option<(Digest, u64)>,
    ) -> Result<(Digest, u64, Compression), Error> {
        let failed = |source| Error::ArchiveFile { path: path.into(), source };
        if let Source::Stream(members) = self
            && let Kept::Blob { digest, size, compression } = find(members, path)?
        {
            if let Some((expected, expected_size)) = expected {
                if *digest != expected {
                    return Err(content::Error::DigestMismatch { expected, actual: *digest }.into());
                }
                if *size != expected_size {
                    let (expected, actual) = (expected_size, *size);
                    return Err(content::Error::SizeMismatch { expected, actual }.into());
                }
            }
            return match compression {
                Ok(compression) => Ok((*digest, *size, *compression)),
                Err(what) => {
                    let source = archive::Error::Unsupported { what: what.clone() };
                    Err(Error::Unpack { layer: *digest, source })
                }
            };
        }
        let mut from = self.open(images, path)?;
        let mut head = Vec::new();
        from.by_ref().take(HEAD as u64).read_to_end(&mut head).map_err(failed)?;
        let compression =
            Compression::of(&head).map_err(|source| Error::Unpack { layer: Digest::of(&head), source })?;
        let mut ingest = images.content.ingest(expected.map(|(d, _)| d), expected.map(|(_, size)| size))?;
        ingest.fill(io::Cursor::new(head).chain(from)).map_err(failed)?;
        let (digest, size) = ingest.commit_kept(|digest| lease.keep_blob(digest))?;
        Ok((digest, size, compression))
    }

    fn open(&self, images: &Images, path: &Path) -> Result<Box<dyn Read + '_>, Error> {
        match self {
            Source::Directory(root) => Ok(Box::new(open_file(root, path)?)),
            Source::Stream(members) => match find(members, path)? {
                Kept::Small(bytes) => Ok(Box::new(&bytes[..])),
                Kept::Blob { digest, .. } => Ok(Box::new(images.content.open_blob(digest)?)),
                Kept::Link(_) | Kept::Other | Kept::Arriving(_) => {
                    Err(Error::Archive { reason: format!("{path:?} is not a regular file") })
                }
            },
        }
    }
}

/// The member of that name, behind links.
fn find<'m>(members: &'m HashMap<PathBuf, Kept>, path: &Path) -> Result<&'m Kept, Error> {
    let missing = || Error::ArchiveFile { path: path.into(), source: rustix::io::Errno::NOENT.into() };
    let mut next = archive::clean_name(path).ok_or_else(missing)?;
    for _ in 0..MAX_LINKS {
        match members.get(&next).ok_or_else(missing)? {
            Kept::Link(to) => next.clone_from(to),
            found => return Ok(found),
        }
    }
    Err(Error::ArchiveFile { path: path.into(), source: rustix::io::Errno::LOOP.into() })
}

/// Opens a regular file of the archive. Reading anything else could wait for ever.
fn open_file(root: &RootDir, path: &Path) -> Result<File, Error> {
    let failed = |source| Error::ArchiveFile { path: path.into(), source };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = root.open_file(path, flags, Mode::empty()).map_err(|e| match e {
        rootdir::Error::Open { source, .. } => failed(source),
        other => failed(io::Error::other(other)),
    })?;
    let stat = rustix::fs::fstat(&fd).map_err(|e| failed(e.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::Archive { reason: format!("{path:?} is not a regular file") });
    }
    Ok(fd.into())
}

/// Takes in a tar stream, plain or compressed.
pub(super) fn receive<R: Read + Send>(
    images: &Images,
    lease: &Lease,
    tar: R,
) -> Result<Source<'static>, Error> {
    let failed = |source| Error::ReadArchive { source };
    let plain = archive::decompress(tar).map_err(failed)?;
    archive::read_ahead(plain, |plain| receive_plain(images, lease, plain)).map(Source::Stream)
}

/// What is wrong with the archive itself keeps its own words.
enum Failure {
    Archive(archive::Error),
    Ours(Error),
}

impl From<archive::Error> for Failure {
    fn from(e: archive::Error) -> Failure {
        Failure::Archive(e)
    }
}

impl From<Error> for Failure {
    fn from(e: Error) -> Failure {
        Failure::Ours(e)
    }
}

impl From<content::Error> for Failure {
    fn from(e: content::Error) -> Failure {
        Failure::Ours(e.into())
    }
}

fn receive_plain(
    images: &Images,
    lease: &Lease,
    tar: impl Read + Send,
) -> Result<HashMap<PathBuf, Kept>, Error> {
    let mut members = HashMap::new();
    std::thread::scope(|scope| {
        let (arrived, arriving) = sync_channel::<Arrived<'_>>(1);
        // Putting a file on disk waits for the disk; the next one arrives meanwhile.
        let committer = scope.spawn(move || {
            let mut done = Vec::new();
            let mut unpacking: VecDeque<Unpacking<'_>> = VecDeque::new();
            for Arrived { path, number, head, ingest, work } in arriving {
                let (digest, size) = ingest.commit_kept(|digest| lease.keep_blob(digest))?;
                let compression = Compression::of(&head).map_err(|e| match e {
                    archive::Error::Unsupported { what } => what,
                    other => other.to_string(),
                });
                done.push((path, number, Kept::Blob { digest, size, compression }));
                unpacking.extend(work.map(|work| (digest, work)));
                while unpacking.len() > UNPACKING {
                    unpacking.pop_front().into_iter().for_each(|work| finish(lease, work));
                }
            }
            unpacking.into_iter().for_each(|work| finish(lease, work));
            Ok::<_, Error>(done)
        });
        let (mut small, mut next) = (0, 0);
        let received = archive::members(tar, |path, member| -> Result<(), Failure> {
            let broken = |source| Error::ArchiveFile { path: path.into(), source };
            let kept = match member {
                Member::Directory => return Ok(()),
                Member::Link(to) => Kept::Link(to),
                Member::Other => Kept::Other,
                Member::File { size, content } if size <= SMALL && small + size <= MAX_SMALL => {
                    small += size;
                    let mut bytes = Vec::new();
                    content.read_to_end(&mut bytes).map_err(broken)?;
                    Kept::Small(bytes)
                }
                Member::File { size, content } => {
                    let mut ingest = images.content.ingest(None, Some(size))?;
                    let mut head = Vec::new();
                    content.take(HEAD as u64).read_to_end(&mut head).map_err(broken)?;
                    ingest.write_all(&head).map_err(broken)?;
                    let mut work = None;
                    if may_be_layer(&head) && !images.snapshotter.needs_parent() {
                        let blob = ingest.follow()?;
                        work = Some(scope.spawn(move || {
                            let dir = images.snapshotter.prepare_layer(None).ok()?;
                            let (size_bytes, diff_id) = apply_plain(&dir, blob, Hashed::ByIngest).ok()?;
                            Some(Unpacked { dir, diff_id, size_bytes })
                        }));
                    }
                    ingest.fill(content).map_err(broken)?;
                    let number = next;
                    next += 1;
                    // When it fails, the committer has, and says why.
                    drop(arrived.send(Arrived { path: path.into(), number, head, ingest, work }));
                    Kept::Arriving(number)
                }
            };
            members.insert(path.into(), kept);
            Ok(())
        });
        drop(arrived);
        let committed = committer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        received.map_err(|e| match e {
            Failure::Archive(source) => Error::ReadArchive { source },
            Failure::Ours(e) => e,
        })?;
        for (path, number, kept) in committed? {
            // Of two files of one name the last one counts.
            if let Some(place) =
                members.get_mut(&path).filter(|k| matches!(k, Kept::Arriving(n) if *n == number))
            {
                *place = kept;
            }
        }
        Ok(members)
    })
}

/// Keeps what was unpacked for the import that will ask for it.
fn finish(lease: &Lease, (blob, work): Unpacking<'_>) {
    // One that failed was no layer, or will fail again in the import, with words for it.
    if let Ok(Some(unpacked)) = work.join() {
        let diff_id = unpacked.diff_id.unwrap_or(blob);
        lease.keep_unpacked(blob, diff_id, unpacked.dir, unpacked.size_bytes);
    }
}

/// Whether a file that begins so may be a layer.
fn may_be_layer(head: &[u8]) -> bool {
    match Compression::of(head) {
        Ok(Compression::None) => head.get(257..262) == Some(b"ustar"),
        Ok(_) => true,
        Err(_) => false,
    }
}
