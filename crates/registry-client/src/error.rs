//! Why a registry operation failed. Where clients match on words, the words are Docker's.

use errors::{HasKind, Kind, Report};
use oci::Digest;
use std::fmt;
use std::io;
use std::time::Duration;

/// Why a registry operation failed. Print with [`errors::chain`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The [`Config`](crate::Config) cannot be used.
    #[error("registry configuration: {what}: {reason}")]
    Config { what: String, reason: String },
    /// The registry does not show this repository to this caller; it does not tell whether it exists.
    #[error("pull access denied for {name}, repository does not exist or may require 'docker login'")]
    AccessDenied { name: String, anonymous: bool, source: Answer },
    /// The registry does not let this caller write there.
    #[error("push access denied for {name}, repository does not exist or may require 'docker login'")]
    PushDenied { name: String, anonymous: bool, source: Answer },
    /// No manifest has this tag or digest.
    #[error("manifest for {reference} not found")]
    ManifestUnknown { reference: String, source: Answer },
    /// The registry does not know the repository.
    #[error("repository {name} not found")]
    RepositoryUnknown { name: String, source: Answer },
    /// The registry does not have a blob that its manifest names.
    #[error("blob {digest} of {name} not found")]
    BlobUnknown { name: String, digest: Digest, source: Answer },
    /// The registry or its token server refused the credentials.
    #[error("login to {host}")]
    Login { host: String, source: Answer },
    /// The registry wants credentials and there are none that fit.
    #[error("login to {host}: {reason}")]
    NoCredentials { host: String, reason: &'static str },
    /// The registry asks for authentication in a way that we do not follow. Nothing secret was sent.
    #[error("authentication challenge of {host} refused: {reason}")]
    ChallengeRefused { host: String, reason: String },
    /// The registry redirects in a way that we do not follow.
    #[error("redirect of {host} refused: {reason}")]
    RedirectRefused { host: String, reason: String },
    /// The registry answered with another error.
    #[error("{what}")]
    Registry { what: String, source: Answer },
    /// No connection: name lookup, TCP or TLS. The source names the host.
    #[error("{what}")]
    Connect { what: String, source: io::Error },
    /// The connection broke.
    #[error("{what}")]
    Network { what: String, source: io::Error },
    /// The peer is silent.
    #[error("{what}: no answer within {after:?}")]
    Timeout { what: String, after: Duration },
    /// The bytes that arrived do not hash to the digest promised.
    #[error("{what}: expected digest {expected}, but received {actual}")]
    DigestMismatch { what: String, expected: Digest, actual: Digest },
    /// More or fewer bytes than promised.
    #[error("{what}: expected {expected} bytes, but received {actual}")]
    SizeMismatch { what: String, expected: u64, actual: Received },
    /// Larger than anything of its kind may be.
    #[error("{what} is larger than {limit} bytes")]
    TooLarge { what: String, limit: u64 },
    /// Not the document, header or answer it should be.
    #[error("{what}: {reason}")]
    Malformed { what: String, reason: String },
    /// A manifest of Docker's first format, whose layers have no digests to check.
    #[error(
        "{reference} is a Docker image manifest of version 2, schema 1, which is not supported: push the image \
             again in the schema 2 or OCI format"
    )]
    Schema1 { reference: String },
    /// The index has nothing for the platform. `available` is a comma-separated list.
    #[error("no matching manifest for {wanted} in the manifest list entries: there is {available}")]
    NoPlatform { wanted: String, available: String },
    /// The manifest is of something else than an image: a chart, a signature, a module.
    #[error("{reference} is not a container image: unsupported media type {media_type}")]
    NotAnImage { reference: String, media_type: String },
    /// The caller's store failed, or found a wrong digest.
    #[error("store blob {digest}")]
    Sink { digest: Digest, source: Report },
    /// The caller's store could not give a blob that is to be pushed.
    #[error("read blob {digest}")]
    Source { digest: Digest, source: Report },
}

/// How many bytes came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// The body ended there.
    Exactly(u64),
    /// The body went on.
    MoreThan(u64),
}

impl fmt::Display for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Received::Exactly(n) => write!(f, "{n}"),
            Received::MoreThan(n) => write!(f, "more than {n}"),
        }
    }
}

/// What a registry or a token server said when it refused: prints as `code: message`, as Docker does, or as the
/// status line where the body says nothing.
///
/// Spec: distribution-spec, "Error Codes".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// For example `MANIFEST_UNKNOWN`; empty when the body had no such thing.
    pub code: String,
    /// Printable text, at most a few hundred characters; may be empty.
    pub message: String,
    /// How many seconds the registry asks to be left alone.
    pub retry_after_s: Option<u32>,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code.as_str(), self.message.as_str()) {
            ("", "") => write!(f, "unexpected status code {}", self.status),
            ("", message) => write!(f, "unexpected status code {}: {message}", self.status),
            (code, message) => write!(f, "{}: {message}", code.to_ascii_lowercase().replace('_', " ")),
        }
    }
}

impl std::error::Error for Answer {}

impl HasKind for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Config { .. } => Kind::InvalidArgument,
            // Docker answers 404 here: it cannot know whether the repository is missing or private.
            Error::AccessDenied { anonymous: true, .. } => Kind::NotFound,
            Error::AccessDenied { anonymous: false, .. } | Error::PushDenied { anonymous: false, .. } => {
                Kind::Denied
            }
            Error::PushDenied { anonymous: true, .. } => Kind::Unauthenticated,
            Error::ManifestUnknown { .. }
            | Error::RepositoryUnknown { .. }
            | Error::BlobUnknown { .. }
            | Error::NoPlatform { .. } => Kind::NotFound,
            Error::Login { .. } | Error::NoCredentials { .. } => Kind::Unauthenticated,
            Error::ChallengeRefused { .. } | Error::RedirectRefused { .. } => Kind::Hostile,
            Error::Registry { source, .. } => match source.status {
                401 => Kind::Unauthenticated,
                403 => Kind::Denied,
                404 => Kind::NotFound,
                405 | 406 | 415 | 501 => Kind::Unsupported,
                429 | 500..=599 => Kind::Unavailable,
                _ => Kind::Internal,
            },
            Error::Connect { .. } | Error::Network { .. } | Error::Timeout { .. } => Kind::Unavailable,
            Error::DigestMismatch { .. } | Error::SizeMismatch { .. } | Error::Malformed { .. } => {
                Kind::DataLoss
            }
            Error::TooLarge { .. } | Error::Schema1 { .. } | Error::NotAnImage { .. } => Kind::Unsupported,
            Error::Sink { source, .. } | Error::Source { source, .. } => source.kind,
        }
    }
}
