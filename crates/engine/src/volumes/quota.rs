//! Volumes of a size: option `size` of the local driver. Their directories are projects with a quota on ext4 and XFS, and
//! subvolumes with a limit on Btrfs; on other file systems there is no such volume.

use super::Volume;
use crate::Engine;
use crate::error::{During, Error, IoDuring};
use crate::storage::parse_size;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

/// The option.
pub(super) const SIZE: &str = "size";

/// The bytes that a volume of these options may take; None for as many as there are.
pub(super) fn wanted(options: &BTreeMap<String, String>) -> Result<Option<u64>, Error> {
    let Some(text) = options.get(SIZE) else { return Ok(None) };
    let bytes = parse_size(text).ok_or_else(|| Error::invalid(format!("invalid size: '{text}'")))?;
    Ok(Some(bytes).filter(|bytes| *bytes > 0))
}

impl Engine {
    /// Refuses a size where the file system of the volumes limits nothing.
    pub(super) fn check_quota(&self, options: &BTreeMap<String, String>) -> Result<(), Error> {
        let volumes = self.config.data_root.join("volumes");
        if wanted(options)?.is_none() || self.volumes.quotas.has_limits(&volumes) {
            return Ok(());
        }
        Err(Error::invalid(
            "quota size requested but no quota support: volumes have sizes on Btrfs, and on ext4 and XFS mounted with \
             prjquota; a tmpfs volume takes its size as o=size=",
        ))
    }

    /// Makes `_data` of a new volume in `directory`, which exists, of the size that it is to have. The caller holds the
    /// claims, so that nobody else looks for a project at the same time.
    pub(super) fn make_data(&self, volume: &Volume, directory: &Path) -> Result<(), Error> {
        let doing = || format!("create volume {}", volume.name);
        match wanted(&volume.options)? {
            None => std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(directory.join("_data"))
                .io_during(doing),
            Some(bytes) => {
                let volumes = self.config.data_root.join("volumes");
                let number = number_of(&volume.name);
                self.volumes.quotas.make_limited(&volumes, number, (directory, c"_data"), bytes).during(doing)
            }
        }
    }

    /// Gives back what limits the volume in `directory`, which goes away.
    pub(super) fn release_quota(&self, directory: &Path) {
        self.volumes.quotas.release(&directory.join("_data"));
    }
}

/// Where to begin to look for a project: another place for each name.
fn number_of(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}
