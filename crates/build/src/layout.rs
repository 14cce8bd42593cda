//! Images in a layout on a client's disk, as what a name of a context means.

use crate::error::{During, Error};
use crate::share::BlobStore;
use crate::solve::Solved;
use engine::{Engine, blocking};
use image::Lease;
use oci::image::{MAX_CONFIG, MAX_MANIFEST, media_type};
use oci::{Digest, Platform};
use std::sync::Arc;

/// Indexes within indexes that are followed.
const MAX_DEPTH: usize = 4;

/// Brings what the manifest or index `digest` of `store` means for `platform`: verified and unpacked as what is pulled, and
/// no image here.
///
/// # Errors
///
/// When the client does not have all of it; InvalidArgument for documents that are none.
pub async fn bring_image(
    engine: &Arc<Engine>,
    store: &Arc<dyn BlobStore>,
    digest: Digest,
    platform: &Platform,
) -> Result<Solved, Error> {
    let lease = Arc::new(engine.images().lease());
    let doing = || "read an image of the client's".to_string();
    let mut next = digest;
    let mut found = None;
    for _ in 0..MAX_DEPTH {
        let bytes = bring(engine, store, &lease, next, MAX_MANIFEST as u64).await?;
        let document: serde_json::Value = serde_json::from_slice(&bytes)
            .map_err(|e| Error::invalid(format!("{next} is no manifest: {e}")))?;
        if document["manifests"].is_array() {
            let index = image::parse_index(&bytes, &next, media_type::OCI_INDEX).during(doing)?;
            next = image::choose(&index, platform).during(doing)?.digest;
            continue;
        }
        let kind = document["mediaType"].as_str().unwrap_or(media_type::OCI_MANIFEST);
        found = Some(image::parse_manifest(&bytes, &next, kind).during(doing)?);
        break;
    }
    let manifest = found.ok_or_else(|| Error::invalid(format!("{digest} leads through too many indexes")))?;
    let bytes = bring(engine, store, &lease, manifest.config.digest, MAX_CONFIG as u64).await?;
    let config = image::parse_config(&bytes, &manifest.config.digest).during(doing)?;
    if manifest.layers.len() != config.rootfs.diff_ids.len() {
        return Err(Error::invalid(format!("{next} has other layers than its config")));
    }
    for layer in &manifest.layers {
        fetch(engine, store, &lease, layer.digest, layer.size).await?;
    }
    let (here, held, layers) = (engine.clone(), lease.clone(), manifest.layers.clone());
    let diff_ids = config.rootfs.diff_ids.clone();
    let chain_id = blocking(move || {
        let mut below: Option<Digest> = None;
        for (layer, diff_id) in layers.iter().zip(&diff_ids) {
            let unpacked = here.images().unpack_layer(&held, layer, diff_id, below.as_ref(), &image::ignore);
            below = Some(unpacked.during(|| "unpack an image of the client's".into())?);
        }
        Ok::<_, Error>(below)
    })
    .await?;
    Ok(Solved::of_image(engine.clone(), lease, config, manifest.layers, chain_id))
}

/// Has a blob in the content store.
async fn fetch(
    engine: &Arc<Engine>,
    store: &Arc<dyn BlobStore>,
    lease: &Arc<Lease>,
    digest: Digest,
    max: u64,
) -> Result<(), Error> {
    // Kept before it is looked for, so that it is not collected in between.
    lease.keep_blob(&digest);
    let here = engine.clone();
    if blocking(move || here.content().contains(&digest)).await {
        return Ok(());
    }
    store.bring(engine, digest, max).await.map_err(Error::invalid)
}

/// As [`fetch`], and reads it.
async fn bring(
    engine: &Arc<Engine>,
    store: &Arc<dyn BlobStore>,
    lease: &Arc<Lease>,
    digest: Digest,
    max: u64,
) -> Result<Vec<u8>, Error> {
    fetch(engine, store, lease, digest, max).await?;
    let here = engine.clone();
    let read = blocking(move || here.content().read_bounded(&digest, max)).await;
    read.during(|| format!("read {digest}"))
}
