//! A whole image, from reference to stored layers.

use crate::{Auth, Client, Error, Sink};
use oci::{Descriptor, Digest, Platform, Reference};
use std::sync::Arc;

/// What a pull stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// What the tag or digest named: an index or a manifest. Its digest is the image's repository digest.
    pub target: Descriptor,
    /// The manifest chosen for the platform; the same as `target` when that is no index.
    pub manifest: Descriptor,
    /// Digest of the image config, Docker's image ID.
    pub config: Digest,
}

/// Pulls `reference` for `platform` into `sink`.
///
/// Cancel-safe: dropping the future ends all downloads; blobs not yet committed are dropped by their blocking
/// threads as soon as these finish the call they are in.
pub async fn pull(
    client: &Client,
    reference: &Reference,
    platform: &Platform,
    auth: &Auth,
    sink: Arc<dyn Sink>,
) -> Result<Pulled, Error> {
    sink.progress(crate::Progress::Resolving);
    let (target, _) = client.resolve(reference, auth).await?;
    Err(Error::NoPlatform { wanted: platform.to_string(), available: target.media_type })
}
