//! Files that were put aside, made small; and made readable again.

use crate::Error;
use crate::writer::compressed;
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Most bytes that a compressed file may unpack to: a file is put aside at its size, and more than this was not.
const MAX_UNPACKED: u64 = 64 << 30;

/// Compresses the file at `path`, which nobody writes to any more, to `path.gz`, and takes it away. Takes long: for a
/// process of its own. The file keeps its name and its content until all is done.
///
/// # Errors
///
/// [`Error::Compress`]; the file is as before.
pub fn compress(path: &Path) -> Result<(), Error> {
    let target = compressed(path);
    let mut temporary = target.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let pack = || -> io::Result<()> {
        let mut from = File::open(path)?;
        let to = File::options().write(true).create(true).truncate(true).open(&temporary)?;
        to.set_permissions(from.metadata()?.permissions())?;
        let mut encoder = GzEncoder::new(to, Compression::fast());
        io::copy(&mut from, &mut encoder)?;
        encoder.finish()?.flush()?;
        let (ours, now) = (from.metadata()?, std::fs::metadata(path)?);
        if (ours.dev(), ours.ino()) != (now.dev(), now.ino()) {
            // A writer that did not know of us has moved the names.
            return Err(io::ErrorKind::NotFound.into());
        }
        std::fs::rename(&temporary, &target)?;
        std::fs::remove_file(path)
    };
    pack().map_err(|source| {
        drop(std::fs::remove_file(&temporary));
        Error::Compress { path: path.to_owned(), source }
    })
}

/// The content of a compressed file, in a file without a name, on the file system of `beside`: it may be large.
pub(crate) fn unpack(packed: &File, beside: &Path) -> io::Result<File> {
    let mut packed = packed.try_clone()?;
    packed.rewind()?;
    let directory = beside.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let fd = match rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR) {
        Ok(fd) => fd,
        // Not every file system has files without a name.
        Err(_) => rustix::fs::memfd_create("container-log", rustix::fs::MemfdFlags::CLOEXEC)?,
    };
    let mut file = File::from(fd);
    io::copy(&mut MultiGzDecoder::new(packed).take(MAX_UNPACKED), &mut file)?;
    Ok(file)
}
