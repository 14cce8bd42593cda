//! Why a command failed, in the words that Docker users know, and with which exit code.

use errors::{HasKind, Kind};
use std::io;
use std::path::PathBuf;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The daemon answered with an error status.
    #[error("Error response from daemon: {message}")]
    Api { status: u16, message: String },
    /// Nobody listens on the daemon's address.
    #[error("{}", connect_text(address, cause))]
    Connect { address: String, cause: io::Error },
    /// `brigd` was to be started and could not.
    #[error("start brigd: {reason}")]
    StartDaemon { reason: String },
    /// The connection broke or spoke something that is not HTTP.
    #[error("talk to the daemon: {during}")]
    Transport { during: &'static str, source: Box<dyn std::error::Error + Send + Sync> },
    /// The daemon's answer is not the JSON that the API promises.
    #[error("read the daemon's answer to {what}")]
    Decode { what: String, source: serde_json::Error },
    /// The command line asks for something that cannot be right.
    #[error("{0}")]
    Usage(String),
    /// An address, a transport or a command that this build does not speak.
    #[error("{0}")]
    Unsupported(String),
    /// A format string is wrong, or does not fit what it is applied to.
    #[error(transparent)]
    Template(#[from] gotemplate::Error),
    /// A file named by the user.
    #[error("{doing} {path:?}")]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    /// The terminal or one of the standard streams.
    #[error("{doing}")]
    Stream { doing: &'static str, source: io::Error },
    /// The daemon reported a failure within a stream, for example during a pull.
    #[error("{0}")]
    Reported(String),
    /// An object that the command line names does not exist.
    #[error("{0}")]
    Missing(String),
    /// Text for the user, already complete, with the exit code; `None` prints nothing.
    #[error("{}", message.as_deref().unwrap_or("exit"))]
    Exit { code: u8, message: Option<String> },
}

impl Error {
    /// A failure to talk, from any library's error.
    pub(crate) fn transport(
        during: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Error {
        Error::Transport { during, source: source.into() }
    }

    /// Whether the daemon said that the object does not exist.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Error::Api { status: 404, .. })
    }
}

impl HasKind for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Api { status, .. } => match status {
                400 => Kind::InvalidArgument,
                401 => Kind::Unauthenticated,
                403 => Kind::Denied,
                404 => Kind::NotFound,
                409 => Kind::WrongState,
                501 => Kind::Unsupported,
                503 => Kind::Unavailable,
                507 => Kind::Exhausted,
                _ => Kind::Internal,
            },
            Error::Connect { .. } | Error::StartDaemon { .. } | Error::Transport { .. } => Kind::Unavailable,
            Error::Decode { .. } => Kind::DataLoss,
            Error::Usage(_) | Error::Template(_) => Kind::InvalidArgument,
            Error::Unsupported(_) => Kind::Unsupported,
            Error::File { source, .. } | Error::Stream { source, .. } => errors::io_kind(source),
            Error::Reported(_) | Error::Exit { .. } => Kind::Internal,
            Error::Missing(_) => Kind::NotFound,
        }
    }
}

/// Docker's words where nobody is there; the cause where something else is wrong, such as permissions.
fn connect_text(address: &str, cause: &io::Error) -> String {
    match cause.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            format!("Cannot connect to the brig daemon at {address}. Is the brig daemon running?")
        }
        io::ErrorKind::PermissionDenied => {
            format!("permission denied while trying to connect to the brig daemon socket at {address}")
        }
        _ => format!("connect to the brig daemon at {address}: {cause}"),
    }
}

/// What commands return.
pub(crate) type Result<T> = std::result::Result<T, Error>;
