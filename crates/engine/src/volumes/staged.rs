//! Mounts that are made for one container: a part of a volume, an image, a part of an image.
//!
//! They are mounted below the exec root, where the runtime binds them from, because a path inside a volume may change
//! between the look and the mount: here the place is opened below the volume's root and bound by descriptor.

use crate::error::{During, Error, IoDuring};
use crate::record::{ContainerId, MountKind, MountPoint, Record};
use crate::userns::Users;
use crate::{Config, Engine};
use rootdir::RootDir;
use rustix::fs::{Mode, OFlags};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// Ends the name of the place where an image is mounted whole when only a part of it is shown.
const WHOLE: &str = "whole";

impl Config {
    /// Where mount `at` of container `id` is staged.
    pub(crate) fn staged(&self, id: &str, at: usize) -> PathBuf {
        self.exec_root.join("mounts").join(id).join(at.to_string())
    }
}

/// The snapshot that mount `at` of a container shows an image by. Starts with the container's id.
fn snapshot_key(id: &ContainerId, at: usize) -> String {
    format!("{id}.{at}")
}

/// The container that a snapshot belongs to.
pub(crate) fn owner_of_snapshot(key: &str) -> &str {
    key.split('.').next().unwrap_or(key)
}

impl Engine {
    /// Resolves the image of an image mount and makes its snapshot. Blocking.
    pub(super) fn realise_image(
        &self,
        point: &mut MountPoint,
        owner: &ContainerId,
        at: usize,
    ) -> Result<(), Error> {
        let doing = || format!("mount image {}", point.name);
        // Not "not found": clients would take that for the container's own image and pull it.
        let image = self.images.get(&point.name);
        let image = image
            .and_then(|image| image.check_is_image().map(|()| image))
            .map_err(|e| Error::invalid(errors::chain(&e)))?;
        self.snapshots.prepare(&snapshot_key(owner, at), image.chain_id.as_ref()).during(doing)?;
        point.image = Some(image.id.0);
        point.source = self.config.staged(owner.as_str(), at).to_string_lossy().into_owned();
        Ok(())
    }

    /// Removes the snapshots of a container's image mounts, which are not mounted.
    pub(crate) fn remove_image_snapshots(&self, id: &ContainerId, mounts: &[MountPoint]) {
        for (at, _) in mounts.iter().enumerate().filter(|(_, m)| m.kind == MountKind::Image) {
            let key = snapshot_key(id, at);
            if let Err(e) = self.snapshots.remove(&key) {
                tracing::warn!(snapshot_key = key, error = %errors::chain(&e), "snapshot not removed");
            }
        }
    }

    /// Mounts all that must be there before the container's own mounts are made. Blocking.
    pub(crate) fn stage_mounts(&self, record: &Record, users: Option<&Users>) -> Result<(), Error> {
        self.mount_volumes(record)?;
        for (at, point) in record.mounts.iter().enumerate() {
            let target = self.config.staged(record.id.as_str(), at);
            let doing = || format!("mount {} for {}", point.name, point.destination);
            match point.kind {
                MountKind::Volume if !point.subpath.is_empty() => {
                    bind_part(&self.volume_path(&point.name), &point.subpath, &target).during(doing)?;
                }
                MountKind::Image => {
                    let part = !point.subpath.is_empty();
                    let whole = if part { target.with_extension(WHOLE) } else { target.clone() };
                    std::fs::create_dir_all(&whole).io_during(doing)?;
                    let options = snapshot::MountOptions { read_only: true, ..Default::default() };
                    let key = snapshot_key(&record.id, at);
                    if !mount::is_mounted(&whole).during(doing)? {
                        self.mount_for(&key, &whole, &options, users).during(doing)?;
                    }
                    if part {
                        bind_part(&whole, &point.subpath, &target).during(doing)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes away what [`Engine::stage_mounts`] mounted. Blocking.
    pub(crate) fn unstage_mounts(&self, record: &Record) {
        self.unstage(record.id.as_str());
        self.unmount_volumes(record);
    }

    /// Takes away the staged mounts of container `id`.
    pub(crate) fn unstage(&self, id: &str) {
        let directory = self.config.exec_root.join("mounts").join(id);
        let mut names = crate::recover::names_in(&directory);
        if names.is_empty() {
            drop(std::fs::remove_dir(&directory));
            return;
        }
        // A part goes before the whole it was taken of.
        names.sort_by_key(|n| n.ends_with(WHOLE));
        for name in names {
            let place = directory.join(name);
            // Of a directory or file that nothing is mounted on, only the place goes.
            if self.snapshots.unmount(&place).is_err() {
                drop(mount::detach(&place));
            }
            let removed = std::fs::remove_dir(&place).or_else(|_| std::fs::remove_file(&place));
            if let Err(error) = removed {
                tracing::warn!(container_id = id, place = %place.display(), %error, "mount not taken away");
            }
        }
        drop(std::fs::remove_dir(&directory));
    }
}

/// Binds the file or directory `part` below `root` on `target`, which is made.
fn bind_part(root: &Path, part: &str, target: &Path) -> Result<(), Error> {
    if mount::is_mounted(target).during(|| format!("look at {}", target.display()))? {
        return Ok(());
    }
    let doing = || format!("cannot access path {part} of {}", root.display());
    let root = RootDir::open(root).during(doing)?;
    let open =
        root.open_file(Path::new(part), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).during(doing)?;
    let make = || format!("create {}", target.display());
    let parent = target.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(parent).io_during(make)?;
    let stat = rustix::fs::fstat(&open).io_during(doing)?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
        std::fs::create_dir_all(target).io_during(make)?;
    } else {
        std::fs::File::options().create(true).truncate(false).write(true).open(target).io_during(make)?;
    }
    mount::bind_open(open.as_fd(), target).during(doing)
}
