//! Layers that other families of drivers keep below the same data root: to be read, nothing else.
//!
//! After a change of driver the layers of the one before stay where they are, with their records. Most can be unpacked again from
//! blobs; of one that was made here the files may be all there is. Reading them leaves nothing behind: images are mounted on no
//! directory.

use crate::snapshotter::DeltaForm;
use crate::{Error, records};
use metadata::{Database, LayerRow};
use oci::Digest;
use rootdir::RootDir;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The families, by what their records are under, and where each keeps its directories in a data root.
const FAMILIES: [(&str, &str); 3] = [("overlay", ""), ("btrfs", "btrfs"), ("vfs", "vfs")];

/// What the drivers have that are not in use.
#[derive(Debug)]
pub struct Others {
    data_root: PathBuf,
    db: Arc<Database>,
}

impl Others {
    /// Of `data_root`, besides the driver that `db` was told.
    pub fn new(data_root: &Path, db: Arc<Database>) -> Others {
        Others { data_root: data_root.into(), db }
    }

    /// A family of drivers, not that in use, that has the layer.
    pub fn find(&self, chain_id: &Digest) -> Result<Option<&'static str>, Error> {
        for (family, _) in self.families() {
            let row = self.db.read_of(family, |tx| tx.layer(chain_id))?;
            if row.is_some_and(|row| row.durable) {
                return Ok(Some(family));
            }
        }
        Ok(None)
    }

    /// The other families, and the directory below the data root in which each has its own, by their records' numbers.
    pub fn families(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let own = self.db.driver();
        FAMILIES.into_iter().filter(move |(family, _)| *family != own)
    }

    /// As [`Others::families`], with the family in use first.
    pub fn all_families(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let own = self.db.driver();
        FAMILIES.into_iter().filter(move |(family, _)| *family == own).chain(self.families())
    }

    /// The keys of the writable snapshots that other families have.
    pub fn snapshots(&self) -> Result<HashSet<String>, Error> {
        let mut keys = HashSet::new();
        for (family, _) in self.families() {
            let rows = self.db.read_of(family, |tx| tx.list_snapshots())?;
            keys.extend(rows.into_iter().map(|row| row.key));
        }
        Ok(keys)
    }

    /// Opens the layer `chain_id` of `family`, and what it lies on.
    ///
    /// # Errors
    ///
    /// [`Error::LayerNotFound`]; [`Error::Root`] or [`Error::MountLayer`] where the family cannot be read here any more.
    pub fn open(&self, family: &'static str, chain_id: &Digest) -> Result<DeltaForm, Error> {
        let rows = records::chain_of(&self.db, family, chain_id)?;
        let home = FAMILIES.into_iter().find(|(name, _)| *name == family).map_or("", |(_, dir)| dir);
        let snapshots = self.data_root.join(home).join("snapshots");
        let open = |row: &LayerRow| open_layer(&snapshots, row.number);
        let Some((own, below)) = rows.split_first() else {
            return Err(Error::LayerNotFound { chain_id: *chain_id });
        };
        if family == "overlay" {
            let lowers = below.iter().map(open).collect::<Result<_, _>>()?;
            Ok(DeltaForm::Upper { upper: open(own)?, lowers })
        } else {
            Ok(DeltaForm::Tree { tree: open(own)?, below: below.first().map(open).transpose()? })
        }
    }
}

fn open_layer(snapshots: &Path, number: u64) -> Result<RootDir, Error> {
    let dir = snapshots.join(number.to_string());
    let image = dir.join("layer.erofs");
    if !image.exists() {
        return Ok(RootDir::open(&dir.join("fs"))?);
    }
    let root = mount::open_erofs(&image).map_err(|source| Error::MountLayer { number, source })?;
    Ok(RootDir::from_fd(root))
}
