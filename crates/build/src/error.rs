//! Why a build failed. The words are Docker's where its clients look for them.

use errors::{HasKind, Kind};

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The Dockerfile is wrong.
    #[error("{error}")]
    Dockerfile { error: dockerfile::Error, name: String, source_text: String },
    /// The request or the Dockerfile asks for what cannot be.
    #[error("{message}")]
    Invalid { message: String },
    /// Something this version cannot do.
    #[error("{what} is not supported by this version of brig")]
    Unsupported { what: String },
    /// A command ended with another code than 0.
    #[error("The command '{command}' returned a non-zero code: {code}")]
    Command { command: String, code: i32 },
    /// A shared cache that a step relied on does not have what it said.
    #[error("{message}")]
    Lost { message: String },
    /// What this waits for failed, which is told there.
    #[error("another stage failed")]
    Elsewhere,
    /// This was being done.
    #[error("{doing}")]
    Failed { doing: String, kind: Kind, source: Box<dyn std::error::Error + Send + Sync> },
}

impl Error {
    /// A request that cannot be right.
    pub fn invalid(message: impl Into<String>) -> Error {
        Error::Invalid { message: message.into() }
    }

    /// Something this version cannot do.
    pub fn unsupported(what: impl Into<String>) -> Error {
        Error::Unsupported { what: what.into() }
    }

    /// The whole story for a person: the chain, or the lines of the Dockerfile with the wrong piece underlined.
    pub fn report(&self) -> String {
        match self {
            Error::Dockerfile { error, name, source_text } => error.report(name, source_text),
            other => errors::chain(other),
        }
    }

    /// What a client is told in one line.
    pub fn text(&self) -> String {
        match self {
            Error::Failed { doing, source, .. } if doing.is_empty() => errors::chain(source.as_ref()),
            other => errors::chain(other),
        }
    }

    /// The code that Docker puts into `errorDetail`: that of the command, else 1.
    pub fn code(&self) -> i32 {
        match self {
            Error::Command { code, .. } => *code,
            _ => 1,
        }
    }
}

impl HasKind for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Dockerfile { .. } | Error::Invalid { .. } | Error::Command { .. } => Kind::InvalidArgument,
            Error::Unsupported { .. } => Kind::Unsupported,
            Error::Lost { .. } => Kind::Unavailable,
            Error::Elsewhere => Kind::Cancelled,
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
