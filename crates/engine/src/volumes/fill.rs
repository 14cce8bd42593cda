//! Copy-up: what the image has at a volume's place goes into the volume, once.

use crate::error::{During, Error, IoDuring};
use crate::record::MountPoint;
use oci::IdMap;
use oci::id_map::OVERFLOW_ID;
use rootdir::RootDir;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// Stands beside `_data` while a volume is being filled: what is there then is not all of it.
const FILLING: &str = "filling";

/// Copies what the image has at the volume's place into the volume, once.
///
/// The ids of the image's files show as `ids` maps them; those of the volume's do not.
pub(crate) fn copy_up(root: &RootDir, point: &MountPoint, ids: Option<&IdMap>) -> Result<(), Error> {
    let doing = || format!("copy image content of {} into volume {}", point.destination, point.name);
    let target = Path::new(&point.source);
    let marker = target.with_file_name(FILLING);
    let unfinished = marker.exists();
    if !unfinished && std::fs::read_dir(target).io_during(doing)?.next().is_some() {
        return Ok(());
    }
    // Of two containers that start at once the second waits for the first, and then finds the volume filled.
    let file = match std::fs::File::options().write(true).create(!unfinished).truncate(false).open(&marker) {
        Ok(file) => file,
        Err(e) if unfinished && e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e).io_during(doing),
    };
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).io_during(doing)?;
    if !marker.exists() {
        return Ok(());
    }
    // A copy that was cut off is done again over what it left.
    fill(root, point, target, ids)?;
    std::fs::remove_file(&marker).io_during(doing)
}

fn fill(root: &RootDir, point: &MountPoint, target: &Path, ids: Option<&IdMap>) -> Result<(), Error> {
    let doing = || format!("copy image content of {} into volume {}", point.destination, point.name);
    let source = match root.subroot(Path::new(&point.destination)) {
        Ok(source) => source,
        Err(e) if matches!(errors::HasKind::kind(&e), errors::Kind::NotFound) => return Ok(()),
        Err(e) => return Err(e).during(doing),
    };
    let handle = RootDir::open(target).during(doing)?;
    copy_tree(&source, &handle, ids).during(doing)?;
    let stat = rustix::fs::fstat(&source).io_during(doing)?;
    let own = std::fs::metadata(target).io_during(doing)?;
    let (uid, gid) = match ids {
        Some(ids) => (
            ids.inside_uid(stat.st_uid).unwrap_or(OVERFLOW_ID),
            ids.inside_gid(stat.st_gid).unwrap_or(OVERFLOW_ID),
        ),
        None => (stat.st_uid, stat.st_gid),
    };
    if own.uid() != uid || own.gid() != gid {
        std::os::unix::fs::chown(target, Some(uid), Some(gid)).io_during(doing)?;
    }
    std::fs::set_permissions(target, std::fs::Permissions::from_mode(stat.st_mode & 0o7777)).io_during(doing)
}

/// Copies all below `source` into `target`, owners, modes, times and links kept: packed on one thread, applied on another.
fn copy_tree(source: &RootDir, target: &RootDir, ids: Option<&IdMap>) -> Result<(), archive::Error> {
    let (reader, writer) = std::io::pipe().map_err(|source| archive::Error::Read { source })?;
    std::thread::scope(|scope| {
        let packer = scope.spawn(move || {
            let options = archive::PackOptions { ids: ids.cloned(), ..archive::PackOptions::default() };
            archive::pack(writer, source, Path::new("."), &options)
        });
        let options =
            archive::Options { whiteouts: archive::Whiteouts::Remove, ..archive::Options::default() };
        let applied = archive::apply(reader, target, &options);
        // A packer that failed leaves a truncated stream: its error is the cause, the other only the consequence.
        match packer.join() {
            Ok(packed) => packed.map(drop)?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        applied.map(drop)
    })
}
