//! What every crate agrees on about failure: a [`Kind`] that doors map to status and exit codes, a printer for
//! the chain of causes, and [`Report`], a failure that can cross a process boundary without losing a link.

use serde::{Deserialize, Serialize};
use std::error::Error as StdError;
use std::fmt::Write as _;

/// The class of a failure. Doors (HTTP, command line, gRPC) map it in one `match` without `_`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The object named does not exist.
    NotFound,
    /// The name or address is taken.
    AlreadyExists,
    /// The request cannot be right whatever the state.
    InvalidArgument,
    /// The request would be right in another state.
    WrongState,
    /// The caller may not.
    Denied,
    /// The caller is not known.
    Unauthenticated,
    /// This build, kernel or peer cannot.
    Unsupported,
    /// A peer does not answer; a later try may work.
    Unavailable,
    /// Out of disk, memory, addresses, descriptors.
    Exhausted,
    /// Given up because someone asked to.
    Cancelled,
    /// Stored or received bytes are not what they were promised to be.
    DataLoss,
    /// What only an attack explains.
    Hostile,
    /// Our own fault, or a kernel error nobody foresaw.
    Internal,
}

/// A failure with a class.
pub trait HasKind: StdError {
    /// The class of this failure.
    fn kind(&self) -> Kind;
}

/// The class an I/O error has when nothing better is known.
pub fn io_kind(error: &std::io::Error) -> Kind {
    use std::io::ErrorKind as E;
    match error.kind() {
        E::NotFound => Kind::NotFound,
        E::AlreadyExists => Kind::AlreadyExists,
        E::PermissionDenied => Kind::Denied,
        E::StorageFull | E::QuotaExceeded | E::OutOfMemory => Kind::Exhausted,
        E::Unsupported => Kind::Unsupported,
        E::TimedOut | E::ConnectionRefused | E::ConnectionReset | E::ConnectionAborted => Kind::Unavailable,
        E::UnexpectedEof | E::InvalidData => Kind::DataLoss,
        _ => Kind::Internal,
    }
}

/// The messages of `error` and of all its sources, outermost first, joined by `": "`.
pub fn chain(error: &dyn StdError) -> String {
    let mut out = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        // Writing to a String cannot fail.
        write!(out, ": {cause}").expect("writing to a String");
        next = cause.source();
    }
    out
}

/// A failure flattened for a pipe, a socket or a file: its class and its whole chain, outermost first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub kind: Kind,
    pub links: Vec<String>,
}

impl Report {
    /// Flattens `error`.
    pub fn of(error: &dyn HasKind) -> Report {
        let mut links = vec![error.to_string()];
        let mut next = error.source();
        while let Some(cause) = next {
            links.push(cause.to_string());
            next = cause.source();
        }
        Report { kind: error.kind(), links }
    }

    /// A report with one link.
    pub fn new(kind: Kind, message: impl Into<String>) -> Report {
        Report { kind, links: vec![message.into()] }
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.links.join(": "))
    }
}

impl StdError for Report {}

impl HasKind for Report {
    fn kind(&self) -> Kind {
        self.kind
    }
}
