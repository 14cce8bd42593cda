//! Reading what shared caches say, before a build begins.

use super::format::{self, CONFIG_TYPE, MAX_CONFIG, Parsed};
use super::lent::Source;
use super::settings::{CacheFrom, CachePlace};
use super::store::Origin;
use crate::error::{During, Error};
use crate::event::Event;
use crate::request::Request;
use base64::Engine as _;
use engine::{Engine, blocking};
use image::Lease;
use oci::image::{Index, MAX_MANIFEST, Manifest, media_type};
use oci::{Descriptor, Digest, Platform, Reference};
use serde::Deserialize;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Indexes within indexes that are followed.
const MAX_DEPTH: usize = 3;

/// What of an image's config matters here.
#[derive(Debug, Deserialize)]
struct OwnCache {
    rootfs: oci::image::RootFs,
    #[serde(rename = "moby.buildkit.cache.v0")]
    cache: Option<String>,
}

/// Reads the caches of the request. One that cannot be read is told of, and no more.
pub(crate) async fn import(
    engine: &Arc<Engine>,
    request: &Request,
    lease: &Arc<Lease>,
    events: &mpsc::Sender<Event>,
) -> Vec<Source> {
    let mut out = Vec::new();
    for from in &request.cache_from {
        let read = read(engine, request, lease, from).await;
        let error = match read {
            Ok((origin, parsed)) => {
                tracing::debug!(
                    name = from.name,
                    records = parsed.records.len(),
                    foreign = parsed.foreign,
                    "cache read"
                );
                out.push(Source { name: from.name.clone(), origin, records: parsed.records });
                None
            }
            Err(e) => Some(e.text()),
        };
        drop(events.send(Event::CacheImport { name: from.name.clone(), error }).await);
    }
    out
}

async fn read(
    engine: &Arc<Engine>,
    request: &Request,
    lease: &Arc<Lease>,
    from: &CacheFrom,
) -> Result<(Origin, Parsed), Error> {
    let platform = request.platform.clone().unwrap_or_else(Platform::host);
    match &from.place {
        CachePlace::Registry(reference) => {
            // What is here under that name need not be an image, nor have a cache.
            if let Ok(Some(parsed)) = of_image_here(engine, lease, reference, &platform).await {
                return Ok((Origin::Here, parsed));
            }
            let auth = request.credentials(reference.host()).await?;
            let doing = || format!("read the cache {}", from.name);
            let (target, bytes) = engine.registry().resolve(reference, &auth).await.during(doing)?;
            let origin = Origin::Registry { reference: reference.clone(), auth };
            let reader = Reader { engine, lease, origin: &origin, platform: &platform };
            let parsed = reader.manifest(&target.media_type, &bytes).await?;
            Ok((origin, parsed))
        }
        CachePlace::Store { store, manifest } => {
            let origin = Origin::Store(store.clone());
            lease.keep_blob(manifest);
            store.bring(engine, *manifest, MAX_MANIFEST as u64).await.map_err(Error::invalid)?;
            let bytes = stored(engine, *manifest, MAX_MANIFEST as u64).await?;
            let reader = Reader { engine, lease, origin: &origin, platform: &platform };
            let parsed = reader.manifest("", &bytes).await?;
            Ok((origin, parsed))
        }
    }
}

async fn stored(engine: &Arc<Engine>, digest: Digest, max: u64) -> Result<Vec<u8>, Error> {
    let engine = engine.clone();
    blocking(move || engine.content().read_bounded(&digest, max)).await.during(|| format!("read {digest}"))
}

/// The cache in the config of an image that is here.
async fn of_image_here(
    engine: &Arc<Engine>,
    lease: &Arc<Lease>,
    reference: &Reference,
    platform: &Platform,
) -> Result<Option<Parsed>, Error> {
    let Ok(image) = engine.image_for(&reference.to_string(), platform).await else { return Ok(None) };
    let (here, lease) = (engine.clone(), lease.clone());
    let read = blocking(move || {
        let id = Digest::clone(&image.id.0);
        lease.keep_blob(&id);
        let config = here.content().read_bounded(&id, oci::image::MAX_CONFIG as u64).during(String::new)?;
        let layers = here.images().manifest(&image.id).during(String::new)?.layers;
        layers.iter().for_each(|layer| lease.keep_blob(&layer.digest));
        Ok::<_, Error>((config, layers))
    })
    .await?;
    own_cache(&read.0, &read.1)
}

/// The cache in an image's config, where there is one.
fn own_cache(config: &[u8], layers: &[Descriptor]) -> Result<Option<Parsed>, Error> {
    let wrong = |what: String| Error::invalid(format!("the image's cache cannot be read: {what}"));
    let own: OwnCache = serde_json::from_slice(config).map_err(|e| wrong(e.to_string()))?;
    let Some(text) = own.cache else { return Ok(None) };
    if own.rootfs.diff_ids.len() != layers.len() {
        return Err(wrong("its config and its manifest do not fit".into()));
    }
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(text)
        .map_err(|_| wrong("it is not base64".into()))?;
    let layers: Vec<(Descriptor, Digest)> = layers.iter().cloned().zip(own.rootfs.diff_ids).collect();
    format::parse_inline(&bytes, &layers).map(Some).map_err(wrong)
}

/// Reads from one place.
struct Reader<'a> {
    engine: &'a Arc<Engine>,
    lease: &'a Arc<Lease>,
    origin: &'a Origin,
    platform: &'a Platform,
}

impl Reader<'_> {
    async fn blob(&self, blob: &Descriptor, max: u64) -> Result<Vec<u8>, Error> {
        if blob.size > max {
            return Err(Error::invalid(format!("blob {} has more than {max} bytes", blob.digest)));
        }
        self.origin.bring(self.engine, self.lease, blob).await?;
        stored(self.engine, blob.digest, max).await
    }

    /// The cache that a manifest or an index is, or that is in the image which it names.
    async fn manifest(&self, media_type: &str, bytes: &[u8]) -> Result<Parsed, Error> {
        let mut bytes = bytes.to_vec();
        let mut media_type = media_type.to_string();
        for _ in 0..MAX_DEPTH {
            let wrong = |e: serde_json::Error| Error::invalid(format!("not a manifest of a cache: {e}"));
            let is_index = match media_type.as_str() {
                "" => {
                    let text: serde_json::Value = serde_json::from_slice(&bytes).map_err(wrong)?;
                    text.get("manifests").is_some()
                }
                known => media_type::is_index(known),
            };
            if !is_index {
                let manifest: Manifest = serde_json::from_slice(&bytes).map_err(wrong)?;
                if manifest.config.media_type == CONFIG_TYPE {
                    return self.document(&manifest.config, &manifest.layers).await;
                }
                let config = self.blob(&manifest.config, oci::image::MAX_CONFIG as u64).await?;
                let own = own_cache(&config, &manifest.layers)?;
                return own.ok_or_else(|| Error::invalid("the image has no cache in its config"));
            }
            let index: Index = serde_json::from_slice(&bytes).map_err(wrong)?;
            if let Some(config) = index.manifests.iter().find(|entry| entry.media_type == CONFIG_TYPE) {
                return self.document(config, &index.manifests).await;
            }
            let chosen = image::choose(&index, self.platform).during(|| "read the cache".into())?;
            media_type.clone_from(&chosen.media_type);
            bytes = match self.origin {
                Origin::Registry { reference, auth } => {
                    let registry = self.engine.registry();
                    let read = registry.manifest(reference, chosen, auth).await;
                    read.during(|| "read the cache".into())?.to_vec()
                }
                _ => self.blob(chosen, MAX_MANIFEST as u64).await?,
            };
        }
        Err(Error::invalid(format!("it leads through more than {MAX_DEPTH} indexes")))
    }

    async fn document(&self, config: &Descriptor, blobs: &[Descriptor]) -> Result<Parsed, Error> {
        let bytes = self.blob(config, MAX_CONFIG).await?;
        format::parse(&bytes, blobs).map_err(Error::invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_without_a_cache_and_one_with_a_strange_one() {
        let read = |config: &str| own_cache(config.as_bytes(), &[]);
        let rootfs = r#""rootfs":{"type":"layers","diff_ids":[]}"#;
        assert!(read(&format!("{{{rootfs}}}")).is_ok_and(|p| p.is_none()));
        let with = |text: &str| format!(r#"{{{rootfs},"moby.buildkit.cache.v0":"{text}"}}"#);
        assert!(read(&with("W10=")).is_ok_and(|p| p.is_some_and(|p| p.records.is_empty())));
        for bad in ["!", "e30=", "AAAA"] {
            assert!(read(&with(bad)).is_err(), "{bad}");
        }
        let more = r#"{"rootfs":{"type":"layers","diff_ids":["sha256:0000000000000000000000000000000000000000000000000000000000000000"]},"moby.buildkit.cache.v0":"W10="}"#;
        assert!(read(more).is_err());
    }
}
