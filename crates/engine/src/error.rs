//! Why an engine operation failed. Where Docker's clients match on words, the words are Docker's.

use errors::{HasKind, Kind};

/// Why an engine operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No container has this id, id prefix or name.
    #[error("No such container: {name}")]
    NoSuchContainer { name: String },
    /// More than one container's id starts so.
    #[error("multiple IDs found with provided prefix: {prefix}")]
    AmbiguousId { prefix: String },
    /// No exec has this id.
    #[error("No such exec instance: {id}")]
    NoSuchExec { id: String },
    /// No network has this id or name.
    #[error("network {name} not found")]
    NoSuchNetwork { name: String },
    /// No network with this name is a configuration.
    #[error("configuration network \"{name}\" does not exist")]
    NoSuchConfiguration { name: String },
    /// No volume has this name.
    #[error("get {name}: no such volume")]
    NoSuchVolume { name: String },
    /// No volume plugin has this name.
    #[error("error looking up volume plugin {name}: plugin \"{name}\" not found")]
    NoSuchPlugin { name: String },
    /// No image has this tag; Docker has several sentences for it.
    #[error("{message}")]
    NoSuchTag { message: String },
    /// No network driver has this name.
    #[error("plugin \"{name}\" not found")]
    NoSuchDriver { name: String },
    /// What nobody may do.
    #[error("{message}")]
    Denied { message: String },
    /// Nothing is left to give.
    #[error("{message}")]
    Exhausted { message: String },
    /// What nobody is there for.
    #[error("{message}")]
    Unavailable { message: String },
    /// What Docker answers 500 to.
    #[error("{message}")]
    Internal { message: String },
    /// A container has nothing at this path.
    #[error("{what}")]
    NoSuchPath { what: String },
    /// The request cannot be right.
    #[error("{message}")]
    Invalid { message: String },
    /// The request does not fit the state of things.
    #[error("{message}")]
    Conflict { message: String },
    /// There was nothing to do; Docker answers 304.
    #[error("{message}")]
    NotModified { message: String },
    /// This version cannot.
    #[error("{what} is not supported by this version of brig")]
    Unsupported { what: String },
    /// Something below failed while this was being done.
    #[error("{doing}")]
    Failed { doing: String, kind: Kind, source: Box<dyn std::error::Error + Send + Sync> },
}

impl Error {
    /// A request that cannot be right.
    pub fn invalid(message: impl Into<String>) -> Error {
        Error::Invalid { message: message.into() }
    }

    /// What nobody may do.
    pub fn denied(message: impl Into<String>) -> Error {
        Error::Denied { message: message.into() }
    }

    /// A request that does not fit the state.
    pub fn conflict(message: impl Into<String>) -> Error {
        Error::Conflict { message: message.into() }
    }

    /// What nobody is there for.
    pub fn unavailable(message: impl Into<String>) -> Error {
        Error::Unavailable { message: message.into() }
    }

    /// A start of what is about to be gone.
    pub(crate) fn marked_for_removal() -> Error {
        Error::conflict("container is marked for removal and cannot be started")
    }

    /// Something this version cannot do.
    pub fn unsupported(what: impl Into<String>) -> Error {
        Error::Unsupported { what: what.into() }
    }
}

impl HasKind for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::NoSuchContainer { .. }
            | Error::NoSuchExec { .. }
            | Error::NoSuchNetwork { .. }
            | Error::NoSuchConfiguration { .. }
            | Error::NoSuchPlugin { .. }
            | Error::NoSuchDriver { .. }
            | Error::NoSuchTag { .. }
            | Error::NoSuchPath { .. }
            | Error::NoSuchVolume { .. } => Kind::NotFound,
            Error::AmbiguousId { .. } | Error::Invalid { .. } => Kind::InvalidArgument,
            Error::Conflict { .. } | Error::NotModified { .. } => Kind::WrongState,
            Error::Denied { .. } => Kind::Denied,
            Error::Exhausted { .. } => Kind::Exhausted,
            Error::Unavailable { .. } => Kind::Unavailable,
            Error::Internal { .. } => Kind::Internal,
            Error::Unsupported { .. } => Kind::Unsupported,
            Error::Failed { kind, .. } => *kind,
        }
    }
}

/// Says what was being done when something below failed.
pub(crate) trait During<T> {
    /// Wraps the failure; `doing` is lower case, without a full stop.
    fn during(self, doing: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T, E: HasKind + Send + Sync + 'static> During<T> for Result<T, E> {
    fn during(self, doing: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|e| Error::Failed { doing: doing(), kind: e.kind(), source: Box::new(e) })
    }
}

/// The same for plain I/O.
pub(crate) trait IoDuring<T> {
    /// Wraps the failure; `doing` is lower case, without a full stop.
    fn io_during(self, doing: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T, E: Into<std::io::Error>> IoDuring<T> for Result<T, E> {
    fn io_during(self, doing: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|e| {
            let e: std::io::Error = e.into();
            Error::Failed { doing: doing(), kind: errors::io_kind(&e), source: Box::new(e) }
        })
    }
}

/// Runs `work` on a thread that may block.
pub async fn blocking<T, F>(work: F) -> T
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(e) => match e.try_into_panic() {
            // Pass it on, there is no value to give.
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going down, and this task with it.
            Err(_) => std::future::pending().await,
        },
    }
}
