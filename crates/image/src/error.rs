//! Why an image operation failed.

use crate::ImageId;
use errors::Kind;
use oci::{Digest, Platform};
use std::io;
use std::path::PathBuf;

/// Why an image operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing has this name or id. Docker's words, which clients look for.
    #[error("No such image: {name}")]
    NoSuchImage { name: String },
    /// Several ids start with these digits.
    #[error("image id prefix {prefix:?} is ambiguous")]
    Ambiguous { prefix: String },
    /// The name cannot be one.
    #[error(transparent)]
    Reference(#[from] oci::reference::ParseReferenceError),
    /// A tag is asked for and a digest was given.
    #[error("refusing to create a tag with a digest reference")]
    TagWithDigest,
    /// Removal is in conflict with what uses the image. Docker's words, which clients look for.
    #[error("conflict: {what}")]
    Conflict { what: String },
    /// A manifest, index or config is not what the specification says.
    #[error("invalid {document} {digest}: {reason}")]
    Document { document: &'static str, digest: Digest, reason: String },
    /// There is such an image, for another platform.
    #[error("image with reference {name} was found but does not provide the specified platform ({platform})")]
    OtherPlatform { name: String, platform: Box<Platform> },
    /// The index has no manifest for the platform.
    #[error("no matching manifest for {platform} in the manifest list entries")]
    NoPlatform { platform: Platform },
    /// The artifact is something else than a container image.
    #[error("{digest} is not a container image: its config is of type {media_type:?}")]
    NotAnImage { digest: Digest, media_type: String },
    /// It is kept, but it is no container image.
    #[error(
        "{id} is an OCI artifact of type {kind:?}, not a container image: it can be saved, pushed and removed only"
    )]
    Artifact { id: ImageId, kind: String },
    /// A layer is packed or encrypted in a way that this build does not know.
    #[error("layer {digest} has unsupported type {media_type:?}")]
    LayerType { digest: Digest, media_type: String },
    /// The unpacked layer is not the one that the config names.
    #[error("layer {layer} unpacks to {actual}, not to {expected} as the image's config says")]
    DiffIdMismatch { layer: Digest, expected: Digest, actual: Digest },
    /// A layer could not be unpacked.
    #[error("unpack layer {layer}")]
    Unpack { layer: Digest, source: archive::Error },
    /// The changes of a writable snapshot could not be made a layer.
    #[error("write changes of snapshot {key}")]
    Pack { key: String, source: archive::Error },
    /// The image would have more layers than any may have. Docker's words.
    #[error("max depth exceeded: an image has at most {max} layers")]
    TooManyLayers { max: usize },
    /// The archive to load is not an image archive, or a damaged one.
    #[error("load image archive: {reason}")]
    Archive { reason: String },
    /// The archive to load could not be read.
    #[error("read image archive")]
    ReadArchive { source: archive::Error },
    /// The archive could not be written.
    #[error("write image archive")]
    WriteArchive { source: archive::Error },
    /// A file of the archive to load could not be read.
    #[error("read {path:?} in image archive")]
    ArchiveFile { path: PathBuf, source: io::Error },
    /// The kernel refused an operation on a directory of ours.
    #[error("{what} {path:?}")]
    File { what: &'static str, path: PathBuf, source: io::Error },
    /// The image has lost a layer or a blob.
    #[error("image {id} is damaged")]
    Damaged { id: ImageId, source: Box<Error> },
    /// A blob is not in the store any more, and what its layer was unpacked to does not pack to the same bytes.
    #[error(
        "blob {digest} has been lost and cannot be made again here: pull or load the image again, or run `brig system check --repair`"
    )]
    BlobLost { digest: Digest },
    /// The only copy of a layer is with a storage driver that was used before, and cannot be read there.
    #[error(
        "layer {layer}, made here under storage driver {driver} and not written anywhere else, cannot be read there (start \
         brigd with that driver where it works and save or push the image, or build it again)"
    )]
    OtherDriver { layer: Digest, driver: &'static str, source: Box<Error> },
    /// An image could not be brought to the storage driver in use.
    #[error("unpack image {name} under storage driver {driver}")]
    ChangeDriver { name: String, driver: &'static str, source: Box<Error> },
    /// The content store failed.
    #[error("content store")]
    Content(#[from] content::Error),
    /// The snapshotter failed.
    #[error("snapshotter")]
    Snapshot(#[from] snapshot::Error),
    /// The record store failed.
    #[error("record of images")]
    Metadata(#[from] metadata::Error),
}

impl Error {
    /// What a person can do about it, where there is something.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Error::Snapshot(source) => source.hint(),
            Error::Metadata(source) => source.hint(),
            Error::NoPlatform { .. } => Some("name another platform with --platform"),
            Error::Damaged { .. } => Some("remove the image and pull it again"),
            Error::ChangeDriver { source, .. } => source.hint(),
            _ => None,
        }
    }
}

impl errors::HasKind for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::NoSuchImage { .. } | Error::NoPlatform { .. } | Error::OtherPlatform { .. } => {
                Kind::NotFound
            }
            Error::Ambiguous { .. }
            | Error::TagWithDigest
            | Error::Document { .. }
            | Error::TooManyLayers { .. }
            | Error::Artifact { .. }
            | Error::Archive { .. } => Kind::InvalidArgument,
            Error::Reference(source) => source.kind(),
            Error::Conflict { .. } => Kind::WrongState,
            Error::NotAnImage { .. } | Error::LayerType { .. } => Kind::Unsupported,
            Error::DiffIdMismatch { .. } | Error::Damaged { .. } | Error::BlobLost { .. } => Kind::DataLoss,
            Error::OtherDriver { .. } => Kind::Unavailable,
            Error::ChangeDriver { source, .. } => source.kind(),
            Error::Unpack { source, .. }
            | Error::Pack { source, .. }
            | Error::ReadArchive { source }
            | Error::WriteArchive { source } => source.kind(),
            Error::ArchiveFile { source, .. } | Error::File { source, .. } => errors::io_kind(source),
            Error::Content(source) => source.kind(),
            Error::Snapshot(source) => source.kind(),
            Error::Metadata(source) => source.kind(),
        }
    }
}
