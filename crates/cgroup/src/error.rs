use errors::{HasKind, Kind};

/// Why a cgroup operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path leaves the hierarchy, is its root, or has an odd component.
    #[error("cgroup path {path:?} {reason}")]
    InvalidPath { path: String, reason: &'static str },
    /// Someone lives there already.
    #[error("container's cgroup is not empty: {path}")]
    Occupied { path: String },
    /// A process that joined a frozen cgroup would hang.
    #[error("container's cgroup unexpectedly frozen: {path}")]
    Frozen { path: String },
    /// Neither cgroup v1 nor v2 is mounted where this process can see it.
    #[error("no cgroup hierarchy is mounted")]
    NotMounted,
    /// A limit was asked for and nothing here can enforce it.
    #[error("set {limit}: cgroup controller {controller} is not available on this kernel ({kernel})")]
    MissingController { controller: String, limit: String, kernel: String },
    /// A value that cannot be meant.
    #[error("cgroup limit {limit} cannot be {value}: {reason}")]
    InvalidValue { limit: &'static str, value: String, reason: &'static str },
    /// The stopped container's own directory is not there.
    #[error("cgroup {path} does not exist")]
    NotFound { path: String },
    /// Processes are left, or come back faster than they are killed.
    #[error("remove cgroup {path}: still busy after {waited_ms} ms")]
    Busy { path: String, waited_ms: u64 },
    /// A state did not come.
    #[error("{operation} cgroup {path}: not done after {waited_ms} ms")]
    Timeout { operation: &'static str, path: String, waited_ms: u64 },
    /// The kernel refused a file operation.
    #[error("{operation} {file}")]
    File { operation: &'static str, file: String, source: std::io::Error },
    /// The kernel refused a value.
    #[error("write {value:?} to {file}")]
    Write { value: String, file: String, source: std::io::Error },
    /// The kernel refused a device program.
    #[error("device filter of cgroup {path}")]
    DeviceFilter { path: String, source: std::io::Error },
}

impl HasKind for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::InvalidPath { .. } | Error::InvalidValue { .. } => Kind::InvalidArgument,
            Error::Occupied { .. } | Error::Frozen { .. } | Error::Busy { .. } => Kind::WrongState,
            Error::Timeout { .. } => Kind::Unavailable,
            Error::NotMounted | Error::MissingController { .. } => Kind::Unsupported,
            Error::NotFound { .. } => Kind::NotFound,
            Error::File { source, .. } | Error::DeviceFilter { source, .. } => errors::io_kind(source),
            Error::Write { source, .. } => match source.raw_os_error() {
                // EINVAL, ERANGE: the value; EBUSY: less than what is in use already.
                Some(22 | 34) => Kind::InvalidArgument,
                Some(16) => Kind::WrongState,
                _ => errors::io_kind(source),
            },
        }
    }
}

/// Something asked for that was not done, and is not worth failing for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning(pub String);

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
