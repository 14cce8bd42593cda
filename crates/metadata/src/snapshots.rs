//! Layers (committed, by chain ID) and writable snapshots (by key), each in a directory named by a number. Every storage
//! driver has its own; seen are those of the driver that [`crate::Database::set_driver`] named.

use crate::images::{digest, digest_option};
use crate::{Error, ReadTx, WriteTx};
use oci::Digest;
use rusqlite::{OptionalExtension, Row, params};

/// A committed layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerRow {
    pub chain_id: Digest,
    /// Name of its directory.
    pub number: u64,
    /// Chain ID of the layer below. Not a foreign key: layers of one image are unpacked in parallel and committed in
    /// any order, and a layer that was lost and unpacked again fits where it was.
    pub parent: Option<Digest>,
    pub diff_id: Digest,
    /// Sum of the sizes of its files.
    pub size_bytes: u64,
    /// Whether its files have been synced. A layer that is not was part of work that did not finish.
    pub durable: bool,
}

/// A writable snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRow {
    pub key: String,
    /// Name of its directory.
    pub number: u64,
    /// Chain ID of the topmost layer below it.
    pub parent: Option<Digest>,
}

const LAYER: &str = "SELECT chain_id, number, parent, diff_id, size_bytes, durable FROM layers";

impl ReadTx<'_> {
    /// The layer with this chain ID.
    pub fn layer(&self, chain_id: &Digest) -> Result<Option<LayerRow>, Error> {
        self.tx
            .prepare_cached(&format!("{LAYER} WHERE driver = ?1 AND chain_id = ?2"))
            .and_then(|mut s| s.query_row([self.driver, &chain_id.to_string()], layer).optional())
            .map_err(|source| Error::Query { what: "get layer", source })
    }

    /// All layers, by chain ID.
    pub fn list_layers(&self) -> Result<Vec<LayerRow>, Error> {
        self.tx
            .prepare_cached(&format!("{LAYER} WHERE driver = ?1 ORDER BY chain_id"))
            .and_then(|mut s| s.query_map([self.driver], layer)?.collect())
            .map_err(|source| Error::Query { what: "list layers", source })
    }

    /// The writable snapshot with this key.
    pub fn snapshot(&self, key: &str) -> Result<Option<SnapshotRow>, Error> {
        self.tx
            .prepare_cached("SELECT key, number, parent FROM snapshots WHERE driver = ?1 AND key = ?2")
            .and_then(|mut s| s.query_row([self.driver, key], snapshot).optional())
            .map_err(|source| Error::Query { what: "get snapshot", source })
    }

    /// All writable snapshots, by key.
    pub fn list_snapshots(&self) -> Result<Vec<SnapshotRow>, Error> {
        self.tx
            .prepare_cached("SELECT key, number, parent FROM snapshots WHERE driver = ?1 ORDER BY key")
            .and_then(|mut s| s.query_map([self.driver], snapshot)?.collect())
            .map_err(|source| Error::Query { what: "list snapshots", source })
    }
}

impl WriteTx<'_> {
    /// Adds a layer. Says whether it was new; an existing one is left as it is.
    pub fn insert_layer(&self, row: &LayerRow) -> Result<bool, Error> {
        self.tx
            .prepare_cached(
                "INSERT INTO layers (driver, chain_id, number, parent, diff_id, size_bytes, durable)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (driver, chain_id) DO NOTHING",
            )
            .and_then(|mut s| {
                s.execute(params![
                    self.driver,
                    row.chain_id.to_string(),
                    row.number,
                    row.parent.map(|p| p.to_string()),
                    row.diff_id.to_string(),
                    row.size_bytes,
                    row.durable
                ])
            })
            .map(|changed| changed > 0)
            .map_err(|source| Error::Query { what: "insert layer", source })
    }

    /// Notes that a layer's files have been synced. Says whether there is such a layer.
    pub fn set_layer_durable(&self, chain_id: &Digest) -> Result<bool, Error> {
        self.tx
            .prepare_cached("UPDATE layers SET durable = 1 WHERE driver = ?1 AND chain_id = ?2")
            .and_then(|mut s| s.execute([self.driver, &chain_id.to_string()]))
            .map(|changed| changed > 0)
            .map_err(|source| Error::Query { what: "mark layer durable", source })
    }

    /// Removes a layer. Says whether there was one.
    pub fn delete_layer(&self, chain_id: &Digest) -> Result<bool, Error> {
        self.tx
            .prepare_cached("DELETE FROM layers WHERE driver = ?1 AND chain_id = ?2")
            .and_then(|mut s| s.execute([self.driver, &chain_id.to_string()]))
            .map(|changed| changed > 0)
            .map_err(|source| Error::Query { what: "delete layer", source })
    }

    /// Adds a writable snapshot. Says whether it was new; an existing one is left as it is.
    pub fn insert_snapshot(&self, row: &SnapshotRow) -> Result<bool, Error> {
        self.tx
            .prepare_cached(
                "INSERT INTO snapshots (driver, key, number, parent) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (driver, key) DO NOTHING",
            )
            .and_then(|mut s| {
                s.execute(params![self.driver, row.key, row.number, row.parent.map(|p| p.to_string())])
            })
            .map(|changed| changed > 0)
            .map_err(|source| Error::Query { what: "insert snapshot", source })
    }

    /// Removes a writable snapshot. Says whether there was one.
    pub fn delete_snapshot(&self, key: &str) -> Result<bool, Error> {
        self.tx
            .prepare_cached("DELETE FROM snapshots WHERE driver = ?1 AND key = ?2")
            .and_then(|mut s| s.execute([self.driver, key]))
            .map(|changed| changed > 0)
            .map_err(|source| Error::Query { what: "delete snapshot", source })
    }
}

fn layer(row: &Row<'_>) -> rusqlite::Result<LayerRow> {
    Ok(LayerRow {
        chain_id: digest(row, 0)?,
        number: row.get(1)?,
        parent: digest_option(row, 2)?,
        diff_id: digest(row, 3)?,
        size_bytes: row.get(4)?,
        durable: row.get(5)?,
    })
}

fn snapshot(row: &Row<'_>) -> rusqlite::Result<SnapshotRow> {
    Ok(SnapshotRow { key: row.get(0)?, number: row.get(1)?, parent: digest_option(row, 2)? })
}
