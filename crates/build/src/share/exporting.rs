//! Giving a build's cache away.

use super::format::{self, CONFIG_TYPE, Record, docker_type};
use super::settings::{CacheTarget, CacheTo};
use crate::error::{During, Error};
use crate::event::Event;
use crate::request::Request;
use crate::solve::Solved;
use engine::{Engine, blocking};
use image::Lease;
use oci::image::{Index, Manifest, media_type};
use oci::{Descriptor, Digest};
use registry_client::{Auth, Outgoing, PushProgress, Shipment};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;
use tokio::sync::mpsc;

/// A cache that was given away.
#[derive(Debug, Clone)]
pub struct Exported {
    /// Its manifest, or the index in its place.
    pub manifest: Descriptor,
    /// Layers that are with it.
    pub layers: usize,
}

/// Gives the cache of `all` (the results of one build, by platform) to `to`. `None` when there is nothing in it, or it is
/// in the images already.
///
/// # Errors
///
/// When something is missing, or its receiver refuses it.
pub async fn export_cache(
    all: &[&Solved],
    to: &CacheTo,
    credentials: &Auth,
) -> Result<Option<Exported>, Error> {
    let (Some(target), Some(first)) = (&to.place, all.first()) else { return Ok(None) };
    let (engine, lease) = (first.engine.clone(), first.lease.clone());
    let mut records: Vec<Record> =
        all.iter().flat_map(|solved| solved.trail.records.iter().cloned()).collect();
    let wanted: HashSet<Digest> = if to.is_max {
        records.iter().filter_map(|r| Some(r.layer.as_ref()?.described().digest)).collect()
    } else {
        all.iter().flat_map(|solved| solved.layers.iter().map(|layer| layer.digest)).collect()
    };
    for solved in all {
        solved.lent.blobs(&engine, &lease, &wanted).await?;
    }
    let chains: HashMap<Digest, Digest> =
        all.iter().flat_map(|solved| solved.trail.chains.iter().map(|(b, c)| (*b, *c))).collect();
    let (engine_, lease_, to_) = (engine.clone(), lease.clone(), to.clone());
    let composed = blocking(move || {
        let mut packed = HashMap::new();
        for record in &mut records {
            let Some(layer) = &mut record.layer else { continue };
            let own = layer.described();
            lease_.keep_blob(&own.digest);
            layer.plain_bytes = None;
            // Of what is not here, only what it would be is said.
            if !(wanted.contains(&own.digest) && has_blob(&engine_, &lease_, &chains, &own)?) {
                layer.blob = None;
                continue;
            }
            let blob = match packed.get(&own.digest) {
                Some(blob) => Descriptor::clone(blob),
                None => {
                    let blob = pack(&engine_, &lease_, &own, &to_)?;
                    packed.insert(own.digest, blob.clone());
                    blob
                }
            };
            layer.plain_bytes =
                (blob.digest != own.digest && own.digest == layer.diff_id).then_some(own.size);
            layer.blob = Some(blob);
        }
        Ok::<_, Error>(format::compose(&records))
    })
    .await?;
    if composed.blobs.is_empty() {
        return Ok(None);
    }
    let layers = composed.blobs.len();
    let config = Descriptor::new(CONFIG_TYPE, Digest::of(&composed.config), composed.config.len() as u64);
    let blobs = composed.blobs.clone();
    let (media_type, document) = document(to, &config, composed.blobs);
    let manifest = Descriptor::new(media_type, Digest::of(&document), document.len() as u64);
    let (engine_, lease_, kept) = (engine.clone(), lease.clone(), [config.digest, manifest.digest]);
    let (config_bytes, manifest_bytes) = (composed.config, document.clone());
    blocking(move || {
        kept.iter().for_each(|digest| lease_.keep_blob(digest));
        engine_.content().put(&config_bytes)?;
        engine_.content().put(&manifest_bytes)
    })
    .await
    .during(|| "keep the cache's documents".into())?;
    match target {
        CacheTarget::Registry(reference) => {
            let outgoing =
                |descriptor: Descriptor| Outgoing { descriptor, visible: false, sources: Vec::new() };
            let shipment = Shipment {
                blobs: blobs.into_iter().chain([config]).map(outgoing).collect(),
                documents: vec![(manifest.clone(), document.into())],
            };
            let source = Arc::new(Blobs(engine.clone()));
            registry_client::push(engine.registry(), reference, credentials, &shipment, source)
                .await
                .during(|| format!("push the cache {}", reference.familiar()))?;
        }
        CacheTarget::Store { name, store } => {
            for blob in blobs.iter().chain([&config, &manifest]) {
                let failed = |e| Error::invalid(format!("write the cache to {name}: {e}"));
                store.take(&engine, blob).await.map_err(failed)?;
            }
        }
    }
    Ok(Some(Exported { manifest, layers }))
}

/// As [`export_cache`], with the credentials of a request; and lets its client know. In words what was done.
async fn give(all: &[&Solved], to: &CacheTo, asked: &Request) -> Result<String, Error> {
    let credentials = match &to.place {
        Some(CacheTarget::Registry(reference)) => asked.credentials(reference.host()).await?,
        _ => Auth::Anonymous,
    };
    let Some(given) = export_cache(all, to, &credentials).await? else {
        return Ok(format!("{}: nothing to export", to.doing()));
    };
    if let Some(CacheTarget::Store { store, .. }) = &to.place {
        store.finish(&given.manifest).await.map_err(Error::invalid)?;
    }
    let layers = if given.layers == 1 { "layer" } else { "layers" };
    Ok(format!("{}: {}, {} {layers}", to.doing(), given.manifest.digest, given.layers))
}

/// Whether the blob of a layer is in the content store, made of its files where need be.
fn has_blob(
    engine: &Engine,
    lease: &Lease,
    chains: &HashMap<Digest, Digest>,
    own: &Descriptor,
) -> Result<bool, Error> {
    let doing = || format!("pack layer {}", own.digest);
    match engine.content().size(&own.digest) {
        Ok(size) => return Ok(size == own.size),
        Err(content::Error::NotFound { .. }) => {}
        Err(e) => return Err(e).during(doing),
    }
    let Some(chain_id) = chains.get(&own.digest) else { return Ok(false) };
    match engine.images().make_blob(chain_id, own, lease) {
        Ok(()) => Ok(true),
        Err(image::Error::Content(content::Error::NotFound { .. }) | image::Error::OtherDriver { .. }) => {
            Ok(false)
        }
        Err(e) => Err(e).during(doing),
    }
}

/// Makes the caches that a request wants of its results, and tells how that went.
///
/// # Errors
///
/// The first that cannot be made and may not fail.
pub(crate) async fn give_all(
    all: &[&Solved],
    asked: &Request,
    events: &mpsc::Sender<Event>,
) -> Result<(), Error> {
    for to in &asked.cache_to {
        let given = give(all, to, asked).await;
        let (text, error) = match &given {
            Ok(text) => (text.clone(), None),
            Err(e) => (to.doing().into(), Some(e.text())),
        };
        drop(events.send(Event::CacheExport { text, error }).await);
        match given {
            Err(e) if !to.ignore_error => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// The document that names all of a cache.
fn document(to: &CacheTo, config: &Descriptor, mut blobs: Vec<Descriptor>) -> (&'static str, Vec<u8>) {
    if !to.is_oci {
        for blob in &mut blobs {
            blob.media_type = docker_type(&blob.media_type).to_string();
        }
    }
    let (media_type, document) = if to.is_manifest {
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(media_type::OCI_MANIFEST.into()),
            artifact_type: None,
            config: config.clone(),
            layers: blobs,
            annotations: BTreeMap::new(),
        };
        (media_type::OCI_MANIFEST, serde_json::to_vec(&manifest))
    } else {
        let media_type = if to.is_oci { media_type::OCI_INDEX } else { media_type::DOCKER_INDEX };
        blobs.push(config.clone());
        let index = Index {
            schema_version: 2,
            media_type: Some(media_type.into()),
            manifests: blobs,
            annotations: BTreeMap::new(),
        };
        (media_type, serde_json::to_vec(&index))
    };
    (media_type, document.expect("plain strings and numbers"))
}

/// The blob as it goes away: as it is, or compressed as is wanted.
fn pack(engine: &Engine, lease: &Lease, own: &Descriptor, to: &CacheTo) -> Result<Descriptor, Error> {
    let Some(wanted) = to.compression else { return Ok(own.clone()) };
    let is_plain = own.media_type == media_type::OCI_LAYER;
    let media_type = image::layer_type(wanted);
    if own.media_type == media_type || !(is_plain || to.force_compression) {
        return Ok(own.clone());
    }
    let doing = || format!("compress layer {}", own.digest);
    let file = engine.content().open_blob(&own.digest).during(doing)?;
    let mut plain = archive::decompress(file).during(doing)?;
    let ingest = engine.content().ingest(None, None).during(doing)?;
    let mut compressor = archive::compress(ingest, wanted).during(doing)?;
    std::io::copy(&mut plain, &mut compressor)
        .map_err(|source| archive::Error::Write { source })
        .during(doing)?;
    let ingest = compressor.finish().during(doing)?;
    let (digest, size) = ingest.commit_kept(|digest| lease.keep_blob(digest)).during(doing)?;
    Ok(Descriptor::new(media_type, digest, size))
}

/// Gives a push the blobs of the content store.
struct Blobs(Arc<Engine>);

impl registry_client::Source for Blobs {
    fn open(&self, digest: &Digest, offset: u64) -> Result<Box<dyn Read + Send>, errors::Report> {
        let mut file = self.0.content().open_blob(digest).map_err(|e| errors::Report::of(&e))?;
        file.seek(SeekFrom::Start(offset))
            .map_err(|e| errors::Report::new(errors::io_kind(&e), format!("seek in blob: {e}")))?;
        Ok(Box::new(file))
    }

    fn progress(&self, _: PushProgress) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_have_the_types_that_were_asked_for() {
        let nowhere = |_: &str| Err(Error::invalid("none"));
        let to = |pairs: &[(&str, &str)]| {
            let mut all: BTreeMap<String, String> =
                pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
            all.insert("ref".into(), "a.example/b".into());
            CacheTo::parse("registry", &all, &nowhere).expect("good")
        };
        let config = Descriptor::new(CONFIG_TYPE, Digest::of(b"c"), 1);
        let layer = Descriptor::new(media_type::OCI_LAYER_GZIP, Digest::of(b"l"), 1);
        let make = |pairs: &[(&str, &str)]| {
            let (kind, bytes) = document(&to(pairs), &config, vec![layer.clone()]);
            (kind, serde_json::from_slice::<serde_json::Value>(&bytes).expect("JSON"))
        };
        let (kind, text) = make(&[]);
        assert_eq!((kind, &text["config"]["mediaType"]), (media_type::OCI_MANIFEST, &CONFIG_TYPE.into()));
        let (kind, text) = make(&[("image-manifest", "false")]);
        assert_eq!((kind, &text["manifests"][1]["mediaType"]), (media_type::OCI_INDEX, &CONFIG_TYPE.into()));
        let (kind, text) = make(&[("oci-mediatypes", "false")]);
        assert_eq!(kind, media_type::DOCKER_INDEX);
        assert_eq!(text["manifests"][0]["mediaType"], media_type::DOCKER_LAYER_GZIP);
    }
}
