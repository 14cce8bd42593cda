use errors::{HasKind, Kind};

/// Why a profile cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not an action of the specification.
    #[error("seccomp action {0:?} is unknown")]
    UnknownAction(String),
    /// Only some actions answer with an error number.
    #[error("seccomp action {0:?} has no errno to return")]
    NoErrno(String),
    /// Not a comparison of the specification.
    #[error("seccomp operator {0:?} is unknown")]
    UnknownOperator(String),
    /// Not an architecture of the specification, or one that this build has no system call table for.
    #[error("seccomp architecture {0:?} is unknown")]
    UnknownArchitecture(String),
    /// Not a flag of the specification.
    #[error("seccomp flag {0:?} is unknown")]
    UnknownFlag(String),
    /// System calls have arguments 0 to 5.
    #[error("seccomp argument index {0} is above 5")]
    ArgumentIndex(u32),
    /// Such an action would stop the very call that hands over the listener, or cannot be answered.
    #[error("seccomp action SCMP_ACT_NOTIFY is not possible {0}")]
    Notify(&'static str),
    /// The kernel takes no longer program.
    #[error("seccomp profile needs {0} instructions, the kernel takes 4096")]
    TooLong(usize),
    /// More than any real profile: protects the compiler.
    #[error("seccomp profile has {count} {what}, the most is {most}")]
    TooMany { what: &'static str, count: usize, most: usize },
}

impl HasKind for Error {
    fn kind(&self) -> Kind {
        Kind::InvalidArgument
    }
}
