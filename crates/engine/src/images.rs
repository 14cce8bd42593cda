//! Images through the engine: pull, load, remove, with progress and events. The store itself is crate `image`.

use crate::Engine;
use crate::error::{During, Error, blocking};
use errors::{HasKind, Kind};
use image::{Image, ImageId, Import, Lease, Loaded, Remove, Removed, User};
use oci::image::{Manifest, media_type};
use oci::{Descriptor, Digest, Platform, Reference};
use registry_client::{Auth, Blob, Progress, Sink};
use std::collections::{BTreeMap, HashSet};
use std::io::{Read, Write};
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;

/// How long threads of a pull that was given up may go on before they see it.
const LEASE_LINGERS: std::time::Duration = std::time::Duration::from_millis(500);

/// What happens during a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PullEvent {
    /// A step of the transfer, by blob.
    Transfer(Progress),
    /// Unpacking of the layer whose blob is `layer`.
    Extract(image::Progress),
    /// What the name led to.
    Done { digest: Digest, newer: bool },
}

impl Engine {
    /// Finds an image by reference, id or unique beginning of an id.
    pub async fn image(self: &Arc<Self>, name: &str) -> Result<Image, Error> {
        let (images, name) = (self.images.clone(), name.to_string());
        blocking(move || images.get(&name)).await.during(|| "find image".into())
    }

    /// As [`Engine::image`], for a platform.
    pub async fn image_for(self: &Arc<Self>, name: &str, platform: &Platform) -> Result<Image, Error> {
        let (images, name, platform) = (self.images.clone(), name.to_string(), platform.clone());
        blocking(move || images.get_for(&name, &platform)).await.during(|| "find image".into())
    }

    /// The client for registries.
    pub fn registry(&self) -> &registry_client::Client {
        &self.registry
    }

    /// Pulls `reference` for `platform`. Events go to `progress`; a full or closed channel never holds up the pull.
    ///
    /// Dropping the future ends the pull; layers that are there already stay for the next one until a collection.
    pub async fn pull(
        self: &Arc<Self>,
        reference: &Reference,
        platform: &Platform,
        auth: &Auth,
        progress: mpsc::Sender<PullEvent>,
    ) -> Result<Image, Error> {
        let (images, name, wanted) = (self.images.clone(), reference.to_string(), platform.clone());
        let before = blocking(move || {
            let image = images.get_for(&name, &wanted).ok()?;
            let is_whole = images.is_whole(&image.id).unwrap_or(false);
            Some((image, is_whole))
        })
        .await;
        // Of one that has lost something, that is fetched again.
        if let Some((image, true)) = &before
            && self.is_current(reference, image, auth).await?
        {
            let digest = image.target.digest;
            drop(progress.send(PullEvent::Done { digest, newer: false }).await);
            self.image_event("pull", &reference.familiar(), &image.id);
            return Ok(image.clone());
        }
        let before = before.map(|(image, _)| (image.id, image.target.digest));
        let lease = Arc::new(self.images.lease());
        let sink = Arc::new(PullSink {
            engine: self.clone(),
            lease: lease.clone(),
            progress: progress.clone(),
            layers: Mutex::default(),
            manifest: Mutex::default(),
            begun: Mutex::default(),
        });
        let doing = || format!("pull {}", reference.familiar());
        let leftovers = CollectOnDrop { engine: self.clone(), armed: true };
        let pulled =
            registry_client::pull(&self.registry, reference, platform, auth, sink).await.during(doing)?;
        let references = match reference.digest() {
            Some(_) => vec![reference.with_digest(pulled.target.digest)],
            None => vec![reference.clone(), reference.with_digest(pulled.target.digest)],
        };
        let (engine, platform, sender) = (self.clone(), platform.clone(), progress.clone());
        let target = pulled.target.clone();
        let image = blocking(move || {
            let send = |p: &image::Progress| drop(sender.try_send(PullEvent::Extract(*p)));
            engine.images.import(&Import {
                target: &target,
                platform: &platform,
                references: &references,
                lease: Some(&lease),
                progress: &send,
            })
        })
        .await
        .during(doing)?;
        leftovers.disarm();
        let newer = before != Some((image.id, pulled.target.digest));
        drop(progress.send(PullEvent::Done { digest: pulled.target.digest, newer }).await);
        self.image_event("pull", &reference.familiar(), &image.id);
        Ok(image)
    }

    /// Whether `image`, which `reference` names here, is what it names at the registry. When it is, its digest is noted
    /// for this repository.
    async fn is_current(
        self: &Arc<Self>,
        reference: &Reference,
        image: &Image,
        auth: &Auth,
    ) -> Result<bool, Error> {
        let doing = || format!("pull {}", reference.familiar());
        match registry_client::is_current(&self.registry, reference, &image.target.digest, auth).await {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            // Nobody answers; asking again would only take twice as long.
            Err(e) if e.kind() == Kind::Unavailable => return Err(e).during(doing),
            // The pull finds it too, and the words for it.
            Err(_) => return Ok(false),
        }
        let pinned = reference.with_digest(image.target.digest);
        if !image.digests.contains(&pinned) && !image.platform_of.contains(&pinned) {
            let (images, id) = (self.images.clone(), image.id);
            blocking(move || images.note_digest(&id, &pinned)).await.during(doing)?;
        }
        Ok(true)
    }

    /// Loads the images of an archive that `input` brings: for `platform`, or all that there are where none is named.
    pub async fn load<R: Read + Send + 'static>(
        self: &Arc<Self>,
        input: R,
        platform: Option<Platform>,
    ) -> Result<Vec<Loaded>, Error> {
        let images = self.images.clone();
        let loaded = blocking(move || images.load(input, platform.as_ref(), &image::ignore))
            .await
            .during(|| "load images".into())?;
        for one in &loaded {
            let name = one.references.first().map_or_else(|| one.image.id.to_string(), Reference::familiar);
            self.image_event("load", &name, &one.image.id);
        }
        self.tidy_later();
        Ok(loaded)
    }

    /// Points `reference` at the image named `source`.
    pub async fn tag(self: &Arc<Self>, source: &str, reference: &Reference) -> Result<(), Error> {
        let (images, name, to) = (self.images.clone(), source.to_string(), reference.clone());
        blocking(move || images.tag(&name, &to)).await.during(|| "tag image".into())?;
        if let Ok(image) = self.image(source).await {
            self.image_event("tag", &reference.familiar(), &image.id);
        }
        Ok(())
    }

    /// Removes a reference, and with the last one the image and what only it needed.
    pub async fn remove_image(
        self: &Arc<Self>,
        name: &str,
        force: bool,
        no_prune: bool,
    ) -> Result<Vec<Removed>, Error> {
        let image = self.image(name).await?;
        self.remove_found(image, name, force, no_prune).await
    }

    /// Removes one of several platforms that a name leads to; the name stays for the others, and goes with the last.
    pub async fn remove_platform(
        self: &Arc<Self>,
        name: &str,
        platform: &Platform,
        force: bool,
    ) -> Result<Vec<Removed>, Error> {
        let image = self.image_for(name, platform).await?;
        let (engine, owned, id) = (self.clone(), name.to_string(), image.id);
        let removed = blocking(move || {
            let users = |id: &ImageId| engine.users_of(id);
            engine.images.remove_platform(&owned, &id, &Remove { force, no_prune: false, users: &users })
        })
        .await
        .during(|| "remove image".into())?;
        self.after_removal(&image.id, &removed).await;
        Ok(removed)
    }

    async fn remove_found(
        self: &Arc<Self>,
        image: Image,
        name: &str,
        force: bool,
        no_prune: bool,
    ) -> Result<Vec<Removed>, Error> {
        let (engine, owned) = (self.clone(), name.to_string());
        let removed = blocking(move || {
            let users = |id: &ImageId| engine.users_of(id);
            engine.images.remove(&owned, &Remove { force, no_prune, users: &users })
        })
        .await
        .during(|| "remove image".into())?;
        self.after_removal(&image.id, &removed).await;
        Ok(removed)
    }

    async fn after_removal(self: &Arc<Self>, id: &ImageId, removed: &[Removed]) {
        if self.db.is_reserve_spent() {
            // The disk was full: what this frees must first of all pay for the next deletion.
            let engine = self.clone();
            blocking(move || {
                engine.empty_trash();
                engine.db.restore_reserve();
            })
            .await;
        }
        self.tidy_later();
        for one in removed {
            let (action, what) = match one {
                Removed::Untagged(name) => ("untag", name),
                Removed::Deleted(id) => ("delete", id),
            };
            self.image_event(action, what, id);
        }
    }

    pub(crate) fn users_of(&self, id: &ImageId) -> Vec<User> {
        let using = self.list_containers().into_iter().filter(|c| c.lock().uses_image(&id.0));
        using.map(|c| User { container_id: c.id().to_string(), running: c.status().is_alive() }).collect()
    }

    /// How many containers use each image.
    pub fn image_uses(&self, id: &Digest) -> usize {
        self.list_containers().iter().filter(|c| c.lock().uses_image(id)).count()
    }

    /// The ids of the containers that use an image.
    pub fn containers_of(&self, id: &Digest) -> Vec<String> {
        let using = self.list_containers().into_iter().filter(|c| c.lock().uses_image(id));
        using.map(|c| c.id().to_string()).collect()
    }

    /// Tells of something that happened to an image.
    pub fn image_event(&self, action: &str, name: &str, id: &ImageId) {
        let attributes = BTreeMap::from([("name".to_string(), name.to_string())]);
        self.events.publish("image", action, id.to_string(), attributes);
    }
}

/// Collects what a pull that failed or was dropped has brought. Its lease may live a little longer in threads that end
/// by themselves; what it still keeps then, the next collection takes.
struct CollectOnDrop {
    engine: Arc<Engine>,
    armed: bool,
}

impl CollectOnDrop {
    fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for CollectOnDrop {
    fn drop(&mut self) {
        if self.armed {
            let engine = self.engine.clone();
            // Without one the next collection takes what is left.
            let _soon = crate::behind::spawn("collect", move || {
                std::thread::sleep(LEASE_LINGERS);
                engine.images.clear_leftovers();
            });
        }
    }
}

/// Stores what a pull brings and unpacks layers as they arrive.
#[derive(Debug)]
struct PullSink {
    engine: Arc<Engine>,
    lease: Arc<Lease>,
    progress: mpsc::Sender<PullEvent>,
    /// Blobs of the layers, by digest: only their steps are for people to see.
    layers: Mutex<HashSet<Digest>>,
    /// Set once its config is stored.
    manifest: Mutex<Option<Arc<Manifest>>>,
    /// Blobs that began to arrive before that.
    begun: Mutex<Vec<(Digest, content::Follower)>>,
}

impl Sink for PullSink {
    fn has(&self, digest: &Digest) -> bool {
        self.lease.keep_blob(digest);
        self.engine.content.contains(digest)
    }

    fn document(&self, digest: &Digest) -> Option<Vec<u8>> {
        self.engine.content.read_bounded(digest, oci::image::MAX_MANIFEST as u64).ok()
    }

    fn begin(&self, descriptor: &Descriptor) -> Result<Box<dyn Blob>, errors::Report> {
        self.lease.keep_blob(&descriptor.digest);
        let document =
            media_type::is_index(&descriptor.media_type) || media_type::is_manifest(&descriptor.media_type);
        if !document && !descriptor.media_type.contains("config") {
            self.layers.lock().expect("no holder panics").insert(descriptor.digest);
        }
        let content = &self.engine.content;
        let small = document || descriptor.media_type.contains("config");
        let ingest = match small {
            true => content.ingest(Some(descriptor.digest), Some(descriptor.size)),
            // A large blob is not fetched twice because a daemon ended in between.
            false => content.resume(descriptor.digest, descriptor.size),
        };
        match ingest {
            Ok(ingest) => {
                if !document {
                    self.arriving(descriptor.digest, &ingest);
                }
                Ok(Box::new(PullBlob(Some(ingest))))
            }
            Err(e) => Err(errors::Report::of(&e)),
        }
    }

    fn progress(&self, event: Progress) {
        drop(self.progress.try_send(PullEvent::Transfer(event)));
    }

    fn config_ready(&self, manifest: &Manifest) {
        *self.manifest.lock().expect("no holder panics") = Some(Arc::new(manifest.clone()));
        let begun = std::mem::take(&mut *self.begun.lock().expect("no holder panics"));
        for (digest, blob) in begun {
            self.unpack_arriving(manifest, digest, blob);
        }
    }

    fn layer_ready(&self, manifest: &Manifest, index: usize) {
        let Some(work) = LayerWork::new(self, manifest, index) else { return };
        // A failure here is found again, and reported, by the import that follows.
        tokio::task::spawn_blocking(move || {
            let send = |p: &image::Progress| drop(work.progress.try_send(PullEvent::Extract(*p)));
            let Some((diff_id, parent)) = work.place() else { return };
            let images = &work.engine.images;
            if let Err(e) = images.unpack_layer(&work.lease, &work.layer, &diff_id, parent.as_ref(), &send) {
                tracing::debug!(layer = %work.layer.digest, error = %errors::chain(&e), "early unpack");
            }
        });
    }
}

impl PullSink {
    /// Unpacks a layer while it arrives, as soon as the config says what it is to become.
    fn arriving(&self, digest: Digest, ingest: &content::Ingest) {
        let Ok(blob) = ingest.follow() else { return };
        // Held over the look at the manifest: `config_ready` sets it first and then takes what has begun.
        let mut begun = self.begun.lock().expect("no holder panics");
        match self.manifest.lock().expect("no holder panics").clone() {
            Some(manifest) => self.unpack_arriving(&manifest, digest, blob),
            None => begun.push((digest, blob)),
        }
    }

    fn unpack_arriving(&self, manifest: &Manifest, digest: Digest, blob: content::Follower) {
        let Some(index) = manifest.layers.iter().position(|layer| layer.digest == digest) else { return };
        let Some(work) = LayerWork::new(self, manifest, index) else { return };
        // A failure here is found again, and reported, by those who have the whole layer.
        tokio::task::spawn_blocking(move || {
            let send = |p: &image::Progress| drop(work.progress.try_send(PullEvent::Extract(*p)));
            let Some((diff_id, parent)) = work.place() else { return };
            let images = &work.engine.images;
            let parent = parent.as_ref();
            if let Err(e) = images.unpack_arriving(&work.lease, &work.layer, &diff_id, parent, blob, &send) {
                tracing::debug!(layer = %work.layer.digest, error = %errors::chain(&e), "unpack on arrival");
            }
        });
    }
}

/// What is needed to unpack one layer of a manifest.
struct LayerWork {
    engine: Arc<Engine>,
    lease: Arc<Lease>,
    progress: mpsc::Sender<PullEvent>,
    layer: Descriptor,
    config: Digest,
    index: usize,
}

impl LayerWork {
    fn new(sink: &PullSink, manifest: &Manifest, index: usize) -> Option<LayerWork> {
        Some(LayerWork {
            engine: sink.engine.clone(),
            lease: sink.lease.clone(),
            progress: sink.progress.clone(),
            layer: manifest.layers.get(index)?.clone(),
            config: manifest.config.digest,
            index,
        })
    }

    /// What the layer is to become, and the chain ID of the one below. Reads the config.
    fn place(&self) -> Option<(Digest, Option<Digest>)> {
        let bytes = self.engine.content.read_bounded(&self.config, oci::image::MAX_CONFIG as u64).ok()?;
        let config = image::parse_config(&bytes, &self.config).ok()?;
        let diff_id = *config.rootfs.diff_ids.get(self.index)?;
        let chains = image::chain_ids(&config);
        Some((diff_id, self.index.checked_sub(1).and_then(|i| chains.get(i)).copied()))
    }
}

struct PullBlob(Option<content::Ingest>);

impl Blob for PullBlob {
    fn written(&self) -> u64 {
        self.0.as_ref().map_or(0, content::Ingest::written)
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match &mut self.0 {
            Some(ingest) => ingest.write_all(bytes),
            None => Ok(()),
        }
    }

    fn commit(mut self: Box<Self>) -> Result<(), errors::Report> {
        match self.0.take().map(content::Ingest::commit) {
            Some(Err(e)) => Err(errors::Report::of(&e)),
            _ => Ok(()),
        }
    }
}
