//! What builds remember: the result of each step by what it depends on, and the directories of cache mounts.
//!
//! A row keeps its layer and blob from being collected (crate `image`), until it is pruned.

use crate::{Database, Error, ReadTx, WriteTx};
use oci::Digest;
use rusqlite::{OptionalExtension, Row, params};

/// One thing remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildCacheRow {
    /// Digest of all that the step depends on; of its name for a cache mount.
    pub key: String,
    /// Docker's word: `regular`, `exec.cachemount`.
    pub kind: String,
    /// Key of the step before, where there is one.
    pub parent: Option<String>,
    /// Topmost layer after the step; none when there is no layer at all.
    pub chain_id: Option<Digest>,
    /// Blob of the layer that the step made; none when it changed no file.
    pub blob: Option<Digest>,
    /// JSON of the builder's.
    pub body: String,
    pub description: String,
    pub size_bytes: u64,
    pub created_ms: i64,
    pub used_ms: i64,
    pub uses: u64,
}

const COLUMNS: &str =
    "key, kind, parent, chain_id, blob, body, description, size_bytes, created_ms, used_ms, uses";

impl Database {
    /// What is remembered under `key`.
    pub fn build_cache(&self, key: &str) -> Result<Option<BuildCacheRow>, Error> {
        self.read(|tx| {
            tx.tx
                .prepare_cached(&format!("SELECT {COLUMNS} FROM build_cache WHERE key = ?1"))
                .and_then(|mut s| s.query_row([key], row).optional())
                .map_err(|source| Error::Query { what: "get build cache", source })
        })
    }

    /// Notes that what is remembered under `key` was of use.
    pub fn touch_build_cache(&self, key: &str, now_ms: i64) -> Result<(), Error> {
        self.write(|tx| {
            tx.tx
                .prepare_cached("UPDATE build_cache SET used_ms = ?2, uses = uses + 1 WHERE key = ?1")
                .and_then(|mut s| s.execute(params![key, now_ms]))
                .map(|_| ())
                .map_err(|source| Error::Query { what: "touch build cache", source })
        })
    }
}

impl ReadTx<'_> {
    /// All that builds remember, what was used last first.
    pub fn list_build_cache(&self) -> Result<Vec<BuildCacheRow>, Error> {
        self.tx
            .prepare_cached(&format!("SELECT {COLUMNS} FROM build_cache ORDER BY used_ms DESC, key"))
            .and_then(|mut s| s.query_map([], row)?.collect())
            .map_err(|source| Error::Query { what: "list build cache", source })
    }
}

impl WriteTx<'_> {
    /// Remembers; what was there under the key is replaced.
    pub fn put_build_cache(&self, r: &BuildCacheRow) -> Result<(), Error> {
        self.tx
            .prepare_cached(&format!(
                "INSERT OR REPLACE INTO build_cache ({COLUMNS})
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)"
            ))
            .and_then(|mut s| {
                s.execute(params![
                    r.key,
                    r.kind,
                    r.parent,
                    r.chain_id.map(|d| d.to_string()),
                    r.blob.map(|d| d.to_string()),
                    r.body,
                    r.description,
                    r.size_bytes,
                    r.created_ms,
                    r.used_ms,
                    r.uses
                ])
            })
            .map(|_| ())
            .map_err(|source| Error::Query { what: "put build cache", source })
    }

    /// Forgets. Says whether there was something.
    pub fn delete_build_cache(&self, key: &str) -> Result<bool, Error> {
        self.tx
            .prepare_cached("DELETE FROM build_cache WHERE key = ?1")
            .and_then(|mut s| s.execute([key]))
            .map(|changed| changed > 0)
            .map_err(|source| Error::Query { what: "delete build cache", source })
    }
}

fn row(row: &Row<'_>) -> rusqlite::Result<BuildCacheRow> {
    Ok(BuildCacheRow {
        key: row.get(0)?,
        kind: row.get(1)?,
        parent: row.get(2)?,
        chain_id: crate::images::digest_option(row, 3)?,
        blob: crate::images::digest_option(row, 4)?,
        body: row.get(5)?,
        description: row.get(6)?,
        size_bytes: row.get(7)?,
        created_ms: row.get(8)?,
        used_ms: row.get(9)?,
        uses: row.get(10)?,
    })
}
