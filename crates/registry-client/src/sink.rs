//! What a pull needs from its caller: somewhere to put blobs, and an ear for progress.
//!
//! ```text
//! pull thread                         blocking thread, one per blob
//!   has(digest)? ------------------->   (asked there too)
//!                                       begin(descriptor) -> Blob, with what an earlier pull left of it
//!   bytes arrive, progress() ------->   Blob::write, in order, large pieces
//!   all there    ------------------->   Blob::commit, checks the digest
//!   layer_ready() once the config and this layer are committed
//!   dropped or failed before that -->   Blob is dropped uncommitted: the sink discards it
//! ```

use errors::Report;
use oci::image::Manifest;
use oci::{Descriptor, Digest};
use std::io;
use std::time::Duration;

/// Where a pull puts what it fetches. [`Sink::has`], [`Sink::begin`] and all of [`Blob`] may block: they are called
/// on blocking threads. The rest is called on async threads and must return quickly.
pub trait Sink: Send + Sync + 'static {
    /// Whether the blob is already stored and whole.
    fn has(&self, digest: &Digest) -> bool;

    /// An index or a manifest that is stored, so that it need not be fetched; its digest has been checked.
    fn document(&self, _digest: &Digest) -> Option<Vec<u8>> {
        None
    }

    /// Starts to store a blob: an index, a manifest, a config or a layer. Its media type and exact size are in
    /// `descriptor`.
    ///
    /// # Errors
    ///
    /// End the pull as [`Error::Sink`](crate::Error::Sink), which keeps their kind.
    fn begin(&self, descriptor: &Descriptor) -> Result<Box<dyn Blob>, Report>;

    /// Hears what happens. Events of different blobs interleave.
    fn progress(&self, event: Progress);

    /// The config of `manifest` is stored, and fits it: from here on layers can be unpacked while they arrive. Called
    /// once, before any [`Sink::layer_ready`].
    fn config_ready(&self, _manifest: &Manifest) {}

    /// Layer `index` of `manifest` is stored, be it fetched or already there. Called once for each index, in any
    /// order, and only after index, manifest and config are stored.
    fn layer_ready(&self, manifest: &Manifest, index: usize);
}

/// A blob being written. Dropping it without [`Blob::commit`] discards it, or keeps it for a later [`Sink::begin`].
pub trait Blob: Send {
    /// Bytes that an earlier try has left: only what comes behind them is fetched.
    fn written(&self) -> u64 {
        0
    }

    /// Appends all of `bytes`.
    ///
    /// # Errors
    ///
    /// End the pull as [`Error::Sink`](crate::Error::Sink).
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Checks the digest over all that was written and makes the blob visible.
    ///
    /// # Errors
    ///
    /// End the pull as [`Error::Sink`](crate::Error::Sink); a wrong digest is of kind `DataLoss` and names both
    /// digests.
    fn commit(self: Box<Self>) -> Result<(), Report>;
}

/// A step of a pull. Docker's words for it are in quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The registry is being asked what the reference names.
    Resolving,
    /// A layer was found that has to be fetched: "Pulling fs layer", then "Waiting".
    LayerQueued { digest: Digest, size: u64 },
    /// `current` of `total` bytes are here: "Downloading". At most ten times a second for each blob.
    Downloading { digest: Digest, current: u64, total: u64 },
    /// The connection broke or the registry is busy: "Retrying in".
    Retrying { digest: Digest, after: Duration },
    /// All bytes are here: "Verifying Checksum".
    VerifyingChecksum { digest: Digest },
    /// The blob is stored: "Download complete".
    DownloadComplete { digest: Digest },
    /// The blob was stored before: "Already exists".
    AlreadyExists { digest: Digest },
}
