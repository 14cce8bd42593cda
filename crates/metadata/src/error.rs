//! Why a store operation failed.

use crate::RecordKind;
use errors::Kind;
use std::path::PathBuf;

/// Why a store operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database file could not be opened or prepared.
    #[error("open database {path:?}")]
    Open { path: PathBuf, source: rusqlite::Error },
    /// The directory of the database, its lock or its reserve could not be made or read.
    #[error("{what} {path:?}")]
    File { what: &'static str, path: PathBuf, source: std::io::Error },
    /// Another process has this data root open.
    #[error("data root {path:?} is in use by another process")]
    InUse { path: PathBuf },
    /// A later version of brig wrote this database.
    #[error(
        "database {path:?} has format version {found}, newer than {known}, the newest this program reads"
    )]
    Newer { path: PathBuf, found: i64, known: i64 },
    /// The file is a SQLite database of some other program.
    #[error("{path:?} is not a brig database")]
    Foreign { path: PathBuf },
    /// SQLite refused a statement or a commit.
    #[error("{what}")]
    Query { what: &'static str, source: rusqlite::Error },
    /// Another record of this kind has the name.
    #[error("{kind} name {name:?} is already in use by {id}")]
    NameTaken { kind: RecordKind, name: String, id: String },
    /// A column holds what this program never writes.
    #[error("database column {column} holds {value:?}")]
    Corrupt { column: &'static str, value: String },
}

impl Error {
    /// What a person can do about it, where there is something.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Error::InUse { .. } => Some("stop the other brigd, or give this one its own --data-root"),
            Error::Newer { .. } => Some("run the version of brig that wrote it, or a later one"),
            _ => None,
        }
    }
}

impl errors::HasKind for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Open { source, .. } | Error::Query { source, .. } => sqlite_kind(source),
            Error::File { source, .. } => errors::io_kind(source),
            Error::InUse { .. } => Kind::WrongState,
            Error::Newer { .. } => Kind::Unsupported,
            Error::Foreign { .. } => Kind::InvalidArgument,
            Error::NameTaken { .. } => Kind::AlreadyExists,
            Error::Corrupt { .. } => Kind::DataLoss,
        }
    }
}

/// SQLite reports a full disk as `SQLITE_FULL`, but as an I/O error where it grows the shared memory file.
fn sqlite_kind(error: &rusqlite::Error) -> Kind {
    use rusqlite::ErrorCode as Code;
    let Some(failure) = error.sqlite_error() else { return Kind::Internal };
    match failure.code {
        Code::DiskFull | Code::OutOfMemory => Kind::Exhausted,
        Code::SystemIoFailure if failure.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE => {
            Kind::Exhausted
        }
        Code::DatabaseCorrupt | Code::NotADatabase => Kind::DataLoss,
        Code::PermissionDenied | Code::ReadOnly => Kind::Denied,
        Code::DatabaseBusy | Code::DatabaseLocked => Kind::Unavailable,
        _ => Kind::Internal,
    }
}
