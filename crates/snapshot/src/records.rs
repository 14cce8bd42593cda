//! What all drivers do with the records of layers and snapshots.

use crate::Error;
use crate::snapshotter::{Audit, Reconciled};
use metadata::{Database, LayerRow, SnapshotRow, WriteTx};
use oci::Digest;
use oci::image::MAX_LAYERS;
use std::collections::{HashMap, HashSet};

/// The record of the writable snapshot `key`.
pub(crate) fn snapshot(db: &Database, key: &str) -> Result<SnapshotRow, Error> {
    let row = db.read(|tx| tx.snapshot(key))?;
    row.ok_or_else(|| Error::NotFound { key: key.into() })
}

/// The records of a layer and of those below it, topmost first.
pub(crate) fn chain(db: &Database, chain_id: &Digest) -> Result<Vec<LayerRow>, Error> {
    chain_of(db, db.driver(), chain_id)
}

/// As [`chain`], of another driver.
pub(crate) fn chain_of(
    db: &Database,
    driver: &'static str,
    chain_id: &Digest,
) -> Result<Vec<LayerRow>, Error> {
    db.read_of(driver, |tx| {
        let mut rows: Vec<LayerRow> = Vec::new();
        let mut next = Some(*chain_id);
        while let Some(link) = next {
            if rows.len() == MAX_LAYERS {
                return Err(Error::TooDeep { chain_id: *chain_id, max: MAX_LAYERS });
            }
            let row = tx.layer(&link)?.ok_or(Error::LayerNotFound { chain_id: link })?;
            next = row.parent;
            rows.push(row);
        }
        Ok(rows)
    })
}

/// Adds the record of a writable snapshot on a layer that is there.
pub(crate) fn insert_snapshot(db: &Database, row: &SnapshotRow) -> Result<(), Error> {
    db.write(|tx| {
        if let Some(chain_id) = &row.parent {
            tx.layer(chain_id)?.ok_or(Error::LayerNotFound { chain_id: *chain_id })?;
        }
        let is_new = tx.insert_snapshot(row)?;
        if is_new { Ok(()) } else { Err(Error::AlreadyExists { key: row.key.clone() }) }
    })
}

/// Removes the record of a writable snapshot and returns it.
pub(crate) fn delete_snapshot(db: &Database, key: &str) -> Result<Option<SnapshotRow>, Error> {
    db.delete(|tx| {
        let row = tx.snapshot(key)?;
        tx.delete_snapshot(key)?;
        Ok(row)
    })
}

/// Compares the records with the numbers of the directories that are there.
pub(crate) fn audit(db: &Database, on_disk: &HashSet<u64>) -> Result<Audit, Error> {
    db.read(|tx| {
        let mut audit = Audit::default();
        let mut orphans = on_disk.clone();
        for row in tx.list_layers()? {
            if !orphans.remove(&row.number) {
                audit.lost_layers.push(row.chain_id);
            }
        }
        for row in tx.list_snapshots()? {
            if !orphans.remove(&row.number) {
                audit.lost_snapshots.push(row.key);
            }
        }
        audit.orphans = orphans.into_iter().collect();
        audit.orphans.sort_unstable();
        Ok(audit)
    })
}

/// The highest number that any record has.
pub(crate) fn highest(db: &Database) -> Result<u64, Error> {
    db.read(|tx| {
        let layers = tx.list_layers()?.into_iter().map(|l| l.number).max();
        let snapshots = tx.list_snapshots()?.into_iter().map(|s| s.number).max();
        Ok(layers.max(snapshots).unwrap_or(0))
    })
}

/// Deletes the records of layers that neither `roots` nor a writable snapshot needs. Returns them, upper ones first.
pub(crate) fn delete_unused(tx: &WriteTx<'_>, roots: &[Digest]) -> Result<Vec<LayerRow>, Error> {
    let mut unused: HashMap<Digest, LayerRow> =
        tx.list_layers()?.into_iter().map(|row| (row.chain_id, row)).collect();
    let parents = tx.list_snapshots()?.into_iter().filter_map(|row| row.parent);
    for root in parents.chain(roots.iter().copied()) {
        let mut next = Some(root);
        // A link that is no longer in the map was reached before, and with it everything below.
        while let Some(row) = next.and_then(|link| unused.remove(&link)) {
            next = row.parent;
        }
    }
    let mut removed: Vec<LayerRow> = unused.into_values().collect();
    removed.sort_unstable_by_key(|row| std::cmp::Reverse(row.number));
    for row in &removed {
        tx.delete_layer(&row.chain_id)?;
    }
    Ok(removed)
}

/// Deletes the records whose directory is not among `on_disk`, and those of layers that never became durable.
pub(crate) fn delete_lost(tx: &WriteTx<'_>, on_disk: &HashSet<u64>) -> Result<Reconciled, Error> {
    let mut done = Reconciled::default();
    for row in tx.list_layers()? {
        if !row.durable || !on_disk.contains(&row.number) {
            tx.delete_layer(&row.chain_id)?;
            done.lost_layers.push(row.chain_id);
        }
    }
    for row in tx.list_snapshots()? {
        if !on_disk.contains(&row.number) {
            tx.delete_snapshot(&row.key)?;
            done.lost_snapshots.push(row.key);
        }
    }
    Ok(done)
}

/// The numbers of all records.
pub(crate) fn numbers(db: &Database) -> Result<HashSet<u64>, Error> {
    db.read(|tx| -> Result<_, Error> {
        let layers = tx.list_layers()?.into_iter().map(|l| l.number);
        Ok(layers.chain(tx.list_snapshots()?.into_iter().map(|s| s.number)).collect())
    })
}
