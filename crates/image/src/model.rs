//! What callers see of images.

use crate::Error;
use oci::{Descriptor, Digest, Reference};
use std::fmt;

/// Digest of an image's config; of an artifact that is no image, of its manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageId(pub Digest);

impl ImageId {
    /// The first twelve hexadecimal digits, as Docker shows ids to people.
    pub fn short(&self) -> String {
        self.0.hex().chars().take(12).collect()
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An image, as recorded. What its config says is read by `Images::config`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pub id: ImageId,
    /// What was imported: a manifest, or the index it was chosen from.
    pub target: Descriptor,
    pub manifest: Descriptor,
    /// The topmost layer, for `Snapshotter::prepare`; none when the image has no layers.
    pub chain_id: Option<Digest>,
    /// RFC 3339, as the config says; may be empty.
    pub created: String,
    /// When it was imported, in milliseconds since 1970.
    pub added_ms: i64,
    /// When a reference was last pointed at it, in milliseconds since 1970.
    pub tagged_ms: Option<i64>,
    /// Sum of the sizes of the files in all its layers. What Docker shows as size.
    pub size_bytes: u64,
    /// References with a tag, sorted. `RepoTags`.
    pub tags: Vec<Reference>,
    /// References with a digest, sorted. `RepoDigests`.
    pub digests: Vec<Reference>,
    /// References that lead here when this image's platform is asked for: it is one of several of an index.
    pub platform_of: Vec<Reference>,
}

impl Image {
    /// Whether it is another OCI artifact than a container image: kept, named, saved and pushed like one, but nothing to
    /// start a container from.
    pub fn is_artifact(&self) -> bool {
        self.id.0 == self.manifest.digest
    }

    /// For who wants to make a container, or another image, of it.
    ///
    /// # Errors
    ///
    /// [`Error::Artifact`] for what is no container image.
    pub fn check_is_image(&self) -> Result<(), Error> {
        if !self.is_artifact() {
            return Ok(());
        }
        let kind = self.manifest.artifact_type.clone().unwrap_or_else(|| self.manifest.media_type.clone());
        Err(Error::Artifact { id: self.id, kind })
    }

    /// Whether it is there only for its platform, beside the one that its names mean.
    pub fn is_beside(&self) -> bool {
        self.tags.is_empty() && self.digests.is_empty() && !self.platform_of.is_empty()
    }
}

/// Sizes of one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sizes {
    /// All its layers.
    pub size_bytes: u64,
    /// Those of its layers that other images have too.
    pub shared_bytes: u64,
}

/// One step in the making of an image, as `docker history` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The image itself for the newest step; steps before have no image of their own.
    pub id: Option<ImageId>,
    /// RFC 3339; may be empty.
    pub created: String,
    pub created_by: String,
    pub comment: String,
    /// Size of its layer; 0 for a step that made none.
    pub size_bytes: u64,
    /// Tags of the image, for the newest step.
    pub tags: Vec<Reference>,
}

/// What the store takes on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskUsage {
    pub images: usize,
    /// Sizes of the files of all layers, each layer once.
    pub layers_bytes: u64,
    /// Sizes of all blobs.
    pub blobs_bytes: u64,
}

/// What a collection removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Collected {
    /// Chain IDs of the layers removed, upper ones first.
    pub layers: Vec<Digest>,
    pub blobs: Vec<Digest>,
    /// Sizes of the removed layers' files and of the removed blobs.
    pub bytes: u64,
}

/// What `Images::reconcile` did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reconciled {
    pub snapshots: snapshot::Reconciled,
    /// Images whose lost layers were unpacked again.
    pub repaired: Vec<ImageId>,
    /// Images that could not be repaired; their records are gone.
    pub dropped: Vec<ImageId>,
    pub collected: Collected,
}

impl Reconciled {
    /// Whether there was nothing to do.
    pub fn is_clean(&self) -> bool {
        *self == Reconciled::default()
    }
}

/// How far one layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Digest of the layer's blob.
    pub layer: Digest,
    pub state: State,
}

/// See [`Progress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Bytes of the blob that were read, and its size.
    Extracting { current_bytes: u64, total_bytes: u64 },
    /// The layer is unpacked.
    Done,
    /// The layer was there already.
    Exists,
}

/// Called from the threads that unpack.
pub type OnProgress<'a> = &'a (dyn Fn(&Progress) + Sync);

/// For callers that want no progress.
pub fn ignore(_: &Progress) {}
