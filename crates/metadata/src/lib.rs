//! The transactional store: one SQLite file that holds every record of one data root.
//!
//! ```text
//! DATA_ROOT/
//!   lock              locked (flock) for as long as a Database is open: one process at a time
//!   brig.db           the database, journal mode WAL
//!   brig.db-wal, -shm SQLite's own
//!   reserve           blocks kept aside so that records can be deleted while the disk is full
//! ```
//!
//! One connection writes, behind a mutex; a few others read, each from a consistent snapshot, and wait for nobody.
//! A write is one of three:
//!
//! - [`Database::write`] survives the death of any process. It does not sync: after a power loss it may be gone, but
//!   never half there and never without what was committed before it.
//! - [`Database::write_durable`] has synced when it returns, and with it everything committed earlier.
//! - [`Database::delete`] and [`Database::delete_durable`] may use the reserve when the disk is full.
//!
//! Images, references, layers and snapshots have typed tables, see [`ReadTx`] and [`WriteTx`]. The engine keeps its
//! own objects as documents, see [`RecordKind`]. The layout is described in `docs/formats/database.md`.

mod build_cache;
mod database;
mod error;
mod images;
mod records;
mod reserve;
mod schema;
mod snapshots;

pub use build_cache::BuildCacheRow;
pub use database::{Database, ReadTx, WriteTx};
pub use error::Error;
pub use images::{ImageRow, ReferenceRow};
pub use records::{Record, RecordKind};
pub use snapshots::{LayerRow, SnapshotRow};
