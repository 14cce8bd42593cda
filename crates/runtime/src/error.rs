use errors::{HasKind, Kind};
use std::io;
use std::path::PathBuf;

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The id cannot be a directory name.
    #[error(
        "invalid container id {id:?}: want letters, digits, `_`, `+`, `-`, `.`, at most 255, not `.` or `..`"
    )]
    InvalidId { id: String },
    /// A container of that name is there.
    #[error("container with given ID already exists: {id}")]
    Exists { id: String },
    /// No container has this name.
    #[error("container does not exist: {id}")]
    NotFound { id: String },
    /// The verb does not fit the state.
    #[error("{}", wrong_state(verb, id, state))]
    WrongState { verb: &'static str, id: String, state: &'static str },
    /// The document asks for what cannot be.
    #[error("config.json: {field}: {reason}")]
    Invalid { field: String, reason: String },
    /// The command line asks for what cannot be.
    #[error("{text}")]
    Argument { text: String },
    /// The document asks for what this build or kernel does not do.
    #[error("{feature} is not supported{why}")]
    Unsupported { feature: String, why: String },
    /// A document is no JSON or has a wrong shape.
    #[error("read {path:?}")]
    Document { path: PathBuf, source: serde_json::Error },
    /// A file or system call.
    #[error("{operation}")]
    Io { operation: String, source: io::Error },
    /// Said by the process that was to become the container.
    #[error("unable to start container process: {text}")]
    Child { text: String },
    /// A hook failed or took too long.
    #[error("error running {stage} hook #{number}: {path}: {reason}")]
    Hook { stage: &'static str, number: usize, path: String, reason: String },
    /// An interface of the host could not be moved into the container.
    #[error("linux.netDevices[{name:?}]")]
    NetDevice { name: String, source: network::Error },
    /// Said by criu.
    #[error("criu {verb}: {status}: {text}")]
    Criu { verb: &'static str, status: String, text: String },
    /// Limits.
    #[error(transparent)]
    Cgroup(#[from] cgroup::Error),
    /// The system call filter.
    #[error(transparent)]
    Seccomp(#[from] seccomp::Error),
    /// The container was killed and does not end.
    #[error("container {id} is still running {waited_ms} ms after SIGKILL")]
    StillRunning { id: String, waited_ms: u64 },
}

/// In runc's words, which engines and tests look for.
fn wrong_state(verb: &str, id: &str, state: &str) -> String {
    match (verb, state) {
        ("start", "stopped") => "cannot start a container that has stopped".into(),
        ("start", "running" | "paused") => "cannot start an already running container".into(),
        ("exec in", "stopped") => "cannot exec in a stopped container".into(),
        ("exec in", "paused") => "cannot exec in a paused container (use --ignore-paused to override)".into(),
        ("delete", _) => format!("cannot delete container {id} that is not stopped: {state}"),
        ("resume", _) => "container not paused".into(),
        ("kill" | "update" | "pause", "stopped") => "container not running".into(),
        ("pause", _) => format!("container not running or created: {state}"),
        ("events", _) => format!("container with id {id} is not running"),
        _ => format!("cannot {verb} container {id} in the {state} state"),
    }
}

/// In these words, so that whoever reads it knows which kernel to look at.
pub(crate) fn lacks(what: &str) -> String {
    format!("this kernel ({}) has no {what}", rustix::system::uname().release().to_string_lossy())
}

impl Error {
    pub(crate) fn io(operation: impl Into<String>, source: impl Into<io::Error>) -> Error {
        Error::Io { operation: operation.into(), source: source.into() }
    }

    pub(crate) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::Invalid { field: field.into(), reason: reason.into() }
    }

    pub(crate) fn argument(text: impl Into<String>) -> Error {
        Error::Argument { text: text.into() }
    }

    /// For what this kernel lacks; `what` ends "this kernel (6.1.0) has no ...".
    pub(crate) fn missing(feature: impl Into<String>, what: &str) -> Error {
        Error::unsupported(feature, &lacks(what))
    }

    pub(crate) fn unsupported(feature: impl Into<String>, why: &str) -> Error {
        let why = if why.is_empty() { String::new() } else { format!(": {why}") };
        Error::Unsupported { feature: feature.into(), why }
    }
}

impl HasKind for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::InvalidId { .. }
            | Error::Invalid { .. }
            | Error::Argument { .. }
            | Error::Document { .. } => Kind::InvalidArgument,
            Error::Exists { .. } => Kind::AlreadyExists,
            Error::NotFound { .. } => Kind::NotFound,
            Error::WrongState { .. } | Error::StillRunning { .. } => Kind::WrongState,
            Error::Unsupported { .. } => Kind::Unsupported,
            Error::Io { source, .. } => errors::io_kind(source),
            Error::Child { .. } | Error::Hook { .. } | Error::Criu { .. } => Kind::Internal,
            Error::NetDevice { source, .. } => source.kind(),
            Error::Cgroup(e) => e.kind(),
            Error::Seccomp(e) => e.kind(),
        }
    }
}
