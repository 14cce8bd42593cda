//! Collecting what nobody needs, and bringing disk and record together at start-up.

use crate::{Collected, Error, ImageId, Images, Import, Reconciled, ignore};
use errors::Kind;
use metadata::ImageRow;
use oci::{Digest, Platform};
use std::collections::HashSet;

impl Images {
    /// Removes blobs and layers that no image, no writable snapshot and no lease needs. Works on a full disk.
    ///
    /// The files of layers go when the snapshotter's trash is emptied, those of blobs when the content store's is.
    pub fn collect_garbage(&self) -> Result<Collected, Error> {
        // While this is held no lease can begin to keep something that was found unneeded.
        let leases = self.leases.lock();
        let (mut layers, mut blobs) = (leases.layers(), leases.blobs());
        self.db.read(|tx| -> Result<(), Error> {
            layers.extend(tx.list_images()?.into_iter().filter_map(|row| row.chain_id));
            blobs.extend(tx.list_image_blobs()?);
            for row in tx.list_build_cache()? {
                layers.extend(row.chain_id);
                blobs.extend(row.blob);
            }
            Ok(())
        })?;
        let mut collected = Collected::default();
        for row in self.snapshotter.remove_unused_layers(&layers)? {
            collected.layers.push(row.chain_id);
            collected.bytes += row.size_bytes;
        }
        for digest in self.content.list()? {
            if blobs.contains(&digest) {
                continue;
            }
            let size = self.content.size(&digest).unwrap_or(0);
            if self.content.discard(&digest)? {
                collected.blobs.push(digest);
                collected.bytes += size;
            }
        }
        collected.bytes += self.content.remove_partials(content::PARTIAL_LIFE)?;
        drop(leases);
        Ok(collected)
    }

    /// Removes and deletes what work that failed has brought: it may have failed because the disk is full. The failure of the
    /// work matters more than one of this.
    pub fn clear_leftovers(&self) {
        let done = self.collect_garbage().map(drop);
        let done = done.and(self.snapshotter.empty_trash().map(drop).map_err(Error::from));
        let done = done.and(self.content.empty_trash().map_err(Error::from));
        if let Err(e) = done {
            tracing::warn!(error = errors::chain(&e), "leftovers stay until the next collection");
        }
    }

    /// Brings disk and record together. For start-up, before anything else: work in progress is taken for leftovers.
    ///
    /// An image that lost a layer is repaired from its blobs; one that cannot be is dropped, as is one whose config
    /// or manifest is gone. Layers, blobs and directories without owner are removed. What was never unpacked under this
    /// storage driver stays so until someone needs it, see [`Images::ensure_unpacked`].
    pub fn reconcile(&self) -> Result<Reconciled, Error> {
        let mut done = Reconciled { snapshots: self.snapshotter.reconcile()?, ..Reconciled::default() };
        for row in self.db.read(|tx| tx.list_images())? {
            let id = ImageId(row.id);
            match self.repair(&row, &done.snapshots.lost_layers) {
                Ok(false) => {}
                Ok(true) => done.repaired.push(id),
                // It may be whole tomorrow, or under the driver that it came from.
                Err(e) if !is_loss(&e) || self.is_elsewhere(&row)? => {
                    tracing::warn!(image_id = %id, error = errors::chain(&e), "image stays without its layers");
                }
                Err(e) => {
                    tracing::warn!(image_id = %id, error = errors::chain(&e), "image dropped: it lost content");
                    self.db.delete_durable(|tx| tx.delete_image(&id.0))?;
                    done.dropped.push(id);
                }
            }
        }
        done.collected = self.collect_garbage()?;
        Ok(done)
    }

    /// Whether another driver has the image, and its documents are here.
    fn is_elsewhere(&self, row: &ImageRow) -> Result<bool, Error> {
        let Some(chain_id) = &row.chain_id else { return Ok(false) };
        let has_documents = [&row.id, &row.manifest.digest].into_iter().all(|d| self.content.contains(d));
        Ok(has_documents && self.others.find(chain_id)?.is_some())
    }

    /// Unpacks the layers of an image that are gone. Says whether there were any.
    fn repair(&self, row: &ImageRow, lost: &[Digest]) -> Result<bool, Error> {
        for digest in [&row.id, &row.manifest.digest] {
            self.content.size(digest)?;
        }
        if self.has_layers(row.chain_id)? || !self.had_layers(&ImageId(row.id), lost)? {
            return Ok(false);
        }
        self.unpack_again(row)?;
        Ok(true)
    }

    /// Unpacks the layers of an image that the storage driver does not have, as after a change of driver.
    ///
    /// # Errors
    ///
    /// [`Error::Artifact`] for what is no container image; as [`Images::import`]; the image stays, whatever comes of it.
    pub fn ensure_unpacked(&self, id: &ImageId) -> Result<(), Error> {
        let row = self.db.read(|tx| tx.image(&id.0))?;
        let row = row.ok_or_else(|| Error::NoSuchImage { name: id.to_string() })?;
        self.image(id)?.check_is_image()?;
        if self.has_layers(row.chain_id)? {
            return Ok(());
        }
        self.unpack_again(&row).map_err(|e| Error::ChangeDriver {
            name: self.name_of(id),
            driver: self.snapshotter.driver(),
            source: Box::new(match e {
                Error::Content(content::Error::NotFound { digest }) => Error::BlobLost { digest },
                e => e,
            }),
        })
    }

    /// What people call an image.
    fn name_of(&self, id: &ImageId) -> String {
        let image = self.image(id).ok();
        let name = image.and_then(|image| Some(image.tags.first().or(image.digests.first())?.familiar()));
        name.unwrap_or_else(|| id.to_string())
    }

    /// Whether the image is, or was until now, unpacked under this driver. One that another driver has can share layers with
    /// what is.
    pub(crate) fn had_layers(&self, id: &ImageId, lost: &[Digest]) -> Result<bool, Error> {
        let mut has_some = false;
        let chain = crate::chain_ids(&*self.config(id)?);
        if chain.iter().any(|chain_id| lost.contains(chain_id)) {
            return Ok(true);
        }
        for chain_id in chain {
            if self.snapshotter.layer(&chain_id)?.is_some() {
                has_some = true;
            } else if self.others.find(&chain_id)?.is_some() {
                return Ok(false);
            }
        }
        Ok(has_some)
    }

    fn unpack_again(&self, row: &ImageRow) -> Result<(), Error> {
        let platform = Platform::host();
        let import = Import {
            target: &row.manifest,
            platform: &platform,
            references: &[],
            lease: None,
            progress: &ignore,
        };
        self.import_made(&import)?;
        // The record of the import says again what was imported at first.
        self.db.write_durable(|tx| tx.put_image(row, &[]))?;
        Ok(())
    }

    fn has_layers(&self, top: Option<Digest>) -> Result<bool, Error> {
        let mut seen = HashSet::new();
        let mut next = top;
        while let Some(chain_id) = next.filter(|chain_id| seen.insert(*chain_id)) {
            let Some(row) = self.snapshotter.layer(&chain_id)? else { return Ok(false) };
            next = row.parent;
        }
        Ok(true)
    }
}

/// Whether something is gone or damaged, and not only out of reach now.
fn is_loss(error: &Error) -> bool {
    match errors::HasKind::kind(error) {
        Kind::NotFound | Kind::DataLoss | Kind::InvalidArgument | Kind::Unsupported | Kind::Hostile => true,
        Kind::AlreadyExists
        | Kind::WrongState
        | Kind::Denied
        | Kind::Unauthenticated
        | Kind::Unavailable
        | Kind::Exhausted
        | Kind::Cancelled
        | Kind::Internal => false,
    }
}
