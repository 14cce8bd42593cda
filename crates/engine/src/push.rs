//! Images to registries. What goes over the wire, and how often, is crate `registry-client`.

use crate::Engine;
use crate::error::{During, Error, blocking};
use image::{Image, Outgoing};
use oci::image::media_type;
use oci::{Descriptor, Digest, Platform, Reference};
use registry_client::{Auth, PushProgress, Shipment, Source};
use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;
use tokio::sync::mpsc;

/// What happens during a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushEvent {
    /// The push begins; the repository's full name.
    Begun { repository: String },
    /// A step of the transfer, by blob.
    Transfer(PushProgress),
    /// Not all platforms of the index are here, nor at the registry: this one's manifest goes in its place.
    Instead { index: Box<Descriptor>, manifest: Box<Descriptor> },
    /// The registry has the tag.
    Done { tag: String, digest: Digest, size: u64 },
}

impl Engine {
    /// Pushes what `reference` names, or all tags of its repository where it names none. `platform` picks one manifest
    /// of an index. Events go to `progress`; a full or closed channel never holds up the push.
    ///
    /// Dropping the future ends the push. What was sent stays at the registry, and the next push finds it.
    pub async fn push(
        self: &Arc<Self>,
        reference: &Reference,
        platform: Option<&Platform>,
        auth: &Auth,
        progress: mpsc::Sender<PushEvent>,
    ) -> Result<(), Error> {
        let repository = reference.familiar_name();
        if reference.digest().is_some() {
            return Err(Error::invalid("cannot push a digest reference"));
        }
        drop(progress.send(PushEvent::Begun { repository: reference.name() }).await);
        let images = self.images.clone();
        let list = blocking(move || images.list()).await.during(|| "list images".into())?;
        let mut found: Vec<(Reference, Image)> = Vec::new();
        for image in list {
            let here = image.tags.iter().filter(|tag| tag.name() == reference.name());
            found.extend(here.map(|tag| (tag.clone(), image.clone())).collect::<Vec<_>>());
        }
        if found.is_empty() {
            let message = format!("An image does not exist locally with the tag: {repository}");
            return Err(Error::NoSuchTag { message });
        }
        if reference.tag().is_some() {
            found.retain(|(tag, _)| tag == reference);
            if found.is_empty() {
                let message = format!("tag does not exist: {}", reference.familiar());
                return Err(Error::NoSuchTag { message });
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        for (tag, image) in found {
            self.push_tag(&tag, &image, platform, auth, &progress).await?;
        }
        Ok(())
    }

    async fn push_tag(
        self: &Arc<Self>,
        tag: &Reference,
        image: &Image,
        platform: Option<&Platform>,
        auth: &Auth,
        progress: &mpsc::Sender<PushEvent>,
    ) -> Result<(), Error> {
        let doing = || format!("push {}", tag.familiar());
        let lease = Arc::new(self.images.lease());
        // One of several platforms may be another image than the one that the tag means.
        let chosen = match platform {
            Some(platform) => Some(self.image_for(&tag.to_string(), platform).await?),
            None => None,
        };
        let image = chosen.as_ref().unwrap_or(image);
        let whole = platform.is_none() && media_type::is_index(&image.target.media_type);
        let mut target = if whole { &image.target } else { &image.manifest };
        let mut outgoing = self.gather(target, &lease).await.during(doing)?;
        if whole && !self.registry_has(tag, &outgoing.absent, auth).await.during(doing)? {
            let (index, manifest) = (Box::new(image.target.clone()), Box::new(image.manifest.clone()));
            drop(progress.send(PushEvent::Instead { index, manifest }).await);
            target = &image.manifest;
            outgoing = self.gather(target, &lease).await.during(doing)?;
        }
        let shipment = self.shipment(tag, outgoing).await.during(doing)?;
        let source = Arc::new(PushSource { engine: self.clone(), progress: progress.clone() });
        registry_client::push(&self.registry, tag, auth, &shipment, source).await.during(doing)?;
        drop(lease);
        let (images, id, pinned) = (self.images.clone(), image.id, tag.with_digest(target.digest));
        blocking(move || images.note_digest(&id, &pinned)).await.during(doing)?;
        let done = PushEvent::Done {
            tag: tag.tag().unwrap_or_default().to_string(),
            digest: target.digest,
            size: target.size,
        };
        drop(progress.send(done).await);
        self.image_event("push", &tag.familiar(), &image.id);
        Ok(())
    }

    async fn gather(&self, target: &Descriptor, lease: &Arc<image::Lease>) -> Result<Outgoing, image::Error> {
        let (images, target, lease) = (self.images.clone(), target.clone(), lease.clone());
        blocking(move || images.outgoing(&target, &lease)).await
    }

    /// Whether the registry has all of `manifests` in the repository of `tag`.
    async fn registry_has(
        &self,
        tag: &Reference,
        manifests: &[Descriptor],
        auth: &Auth,
    ) -> Result<bool, registry_client::Error> {
        for manifest in manifests {
            if !self.registry.has_manifest(tag, &manifest.digest, auth).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn shipment(&self, tag: &Reference, outgoing: Outgoing) -> Result<Shipment, image::Error> {
        let (images, host) = (self.images.clone(), tag.host().to_string());
        let digests: Vec<Digest> = outgoing.blobs.iter().map(|blob| blob.descriptor.digest).collect();
        let mut homes = blocking(move || images.homes(&host, &digests)).await?;
        let blobs = outgoing.blobs.into_iter().map(|blob| registry_client::Outgoing {
            sources: homes.remove(&blob.descriptor.digest).unwrap_or_default(),
            descriptor: blob.descriptor,
            visible: blob.is_layer,
        });
        let documents = outgoing.documents.into_iter().map(|(descriptor, body)| (descriptor, body.into()));
        Ok(Shipment { blobs: blobs.collect(), documents: documents.collect() })
    }
}

/// Gives a push the blobs of the content store.
struct PushSource {
    engine: Arc<Engine>,
    progress: mpsc::Sender<PushEvent>,
}

impl Source for PushSource {
    fn open(&self, digest: &Digest, offset: u64) -> Result<Box<dyn Read + Send>, errors::Report> {
        let mut file = self.engine.content.open_blob(digest).map_err(|e| errors::Report::of(&e))?;
        file.seek(SeekFrom::Start(offset))
            .map_err(|e| errors::Report::new(errors::io_kind(&e), format!("seek in blob: {e}")))?;
        Ok(Box::new(file))
    }

    fn progress(&self, event: PushProgress) {
        drop(self.progress.try_send(PushEvent::Transfer(event)));
    }
}
