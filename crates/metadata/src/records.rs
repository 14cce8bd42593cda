//! Documents of the engine: containers, networks, volumes. The store knows their id and name, the engine the rest.

use crate::{Database, Error, ReadTx, WriteTx};
use rusqlite::{OptionalExtension, Row, params};
use std::fmt;

/// What a record describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecordKind {
    Container,
    Network,
    Volume,
    /// A volume that is gone, and that its driver is yet to remove.
    DoomedVolume,
}

impl RecordKind {
    fn as_str(self) -> &'static str {
        match self {
            RecordKind::Container => "container",
            RecordKind::Network => "network",
            RecordKind::Volume => "volume",
            RecordKind::DoomedVolume => "doomed-volume",
        }
    }

    /// Whether losing the record to a power failure would lose a user's data: a volume outlives its containers.
    fn is_durable(self) -> bool {
        matches!(self, RecordKind::Volume | RecordKind::DoomedVolume)
    }
}

impl fmt::Display for RecordKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Unique among records of its kind.
    pub id: String,
    /// Unique among records of its kind.
    pub name: String,
    /// JSON.
    pub body: String,
}

impl Database {
    /// Writes a record, in place of the one with this `id` if there is one. Volumes are on disk when it returns, the
    /// others survive the death of the process.
    ///
    /// # Errors
    ///
    /// [`Error::NameTaken`], naming the other id, when another record of this kind has the name.
    pub fn put_record(&self, kind: RecordKind, id: &str, name: &str, body: &str) -> Result<(), Error> {
        let put = |tx: &WriteTx<'_>| tx.put_record(kind, id, name, body);
        if kind.is_durable() { self.write_durable(put) } else { self.write(put) }
    }

    /// The record with this `id`.
    pub fn get_record(&self, kind: RecordKind, id: &str) -> Result<Option<Record>, Error> {
        self.read(|tx| tx.get_record(kind, id))
    }

    /// The record with this `name`.
    pub fn get_record_by_name(&self, kind: RecordKind, name: &str) -> Result<Option<Record>, Error> {
        self.read(|tx| tx.get_record_by_name(kind, name))
    }

    /// All records of a kind, by id.
    pub fn list_records(&self, kind: RecordKind) -> Result<Vec<Record>, Error> {
        self.read(|tx| tx.list_records(kind))
    }

    /// Removes a record; works on a full disk. Says whether there was one.
    pub fn delete_record(&self, kind: RecordKind, id: &str) -> Result<bool, Error> {
        let delete = |tx: &WriteTx<'_>| tx.delete_record(kind, id);
        if kind.is_durable() { self.delete_durable(delete) } else { self.delete(delete) }
    }
}

impl ReadTx<'_> {
    /// See [`Database::get_record`].
    pub fn get_record(&self, kind: RecordKind, id: &str) -> Result<Option<Record>, Error> {
        self.tx
            .prepare_cached("SELECT id, name, body FROM records WHERE kind = ?1 AND id = ?2")
            .and_then(|mut s| s.query_row(params![kind.as_str(), id], record).optional())
            .map_err(|source| Error::Query { what: "get record", source })
    }

    /// See [`Database::get_record_by_name`].
    pub fn get_record_by_name(&self, kind: RecordKind, name: &str) -> Result<Option<Record>, Error> {
        self.tx
            .prepare_cached("SELECT id, name, body FROM records WHERE kind = ?1 AND name = ?2")
            .and_then(|mut s| s.query_row(params![kind.as_str(), name], record).optional())
            .map_err(|source| Error::Query { what: "get record by name", source })
    }

    /// See [`Database::list_records`].
    pub fn list_records(&self, kind: RecordKind) -> Result<Vec<Record>, Error> {
        self.tx
            .prepare_cached("SELECT id, name, body FROM records WHERE kind = ?1 ORDER BY id")
            .and_then(|mut s| s.query_map([kind.as_str()], record)?.collect())
            .map_err(|source| Error::Query { what: "list records", source })
    }
}

impl WriteTx<'_> {
    /// See [`Database::put_record`]; durability is that of the transaction.
    pub fn put_record(&self, kind: RecordKind, id: &str, name: &str, body: &str) -> Result<(), Error> {
        let holder = self.get_record_by_name(kind, name)?;
        if let Some(other) = holder.filter(|other| other.id != id) {
            return Err(Error::NameTaken { kind, name: name.into(), id: other.id });
        }
        self.tx
            .prepare_cached(
                "INSERT INTO records (kind, id, name, body) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (kind, id) DO UPDATE SET name = excluded.name, body = excluded.body",
            )
            .and_then(|mut s| s.execute(params![kind.as_str(), id, name, body]))
            .map(|_| ())
            .map_err(|source| Error::Query { what: "put record", source })
    }

    /// See [`Database::delete_record`].
    pub fn delete_record(&self, kind: RecordKind, id: &str) -> Result<bool, Error> {
        self.tx
            .prepare_cached("DELETE FROM records WHERE kind = ?1 AND id = ?2")
            .and_then(|mut s| s.execute(params![kind.as_str(), id]))
            .map(|changed| changed > 0)
            .map_err(|source| Error::Query { what: "delete record", source })
    }
}

fn record(row: &Row<'_>) -> rusqlite::Result<Record> {
    Ok(Record { id: row.get(0)?, name: row.get(1)?, body: row.get(2)? })
}
