//! A whole image, from reference to stored layers.
//!
//! 1. Resolve the reference; store the index, if it is one, and the manifest chosen for the platform; also those that the
//!    index has about it (attestations).
//! 2. Fetch the config and, side by side, the layers that the sink does not have, and the blobs of what is about it.
//! 3. Tell the sink of each layer once it and the config are stored.
//!
//! What is no container image (a chart, a module, a signature) is fetched too, as it is, and so is all of an index that has
//! nothing to choose by; the sink is told of no layers then.
//!
//! Everything but the writers' threads runs inside the caller's future: dropping it ends all of it.

use crate::client::Tries;
use crate::document::{self, Document};
use crate::error::Received;
use crate::writer::{Alive, Writer};
use crate::{Auth, Client, Error, Progress, Sink};
use bytes::{Bytes, BytesMut};
use errors::{HasKind as _, Kind};
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{self, StreamExt as _};
use oci::image::{ImageConfig, MAX_CONFIG, MAX_LAYERS, Manifest, media_type};
use oci::{Descriptor, Digest, Platform, Reference};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::sleep;

/// Deepest nesting of indexes. One level is common; the specification sets no limit.
const MAX_NESTING: usize = 4;
/// Shortest time between two [`Progress::Downloading`] of one blob.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);
/// A download that got so much further starts counting its failures anew.
const REAL_PROGRESS: u64 = 1 << 20;
/// Most manifests that are fetched besides the one that was chosen: those about it, or all of an index that is one artifact.
const MAX_BESIDE: usize = 1000;

/// What a pull stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// What the tag or digest named: an index or a manifest. Its digest is the image's repository digest.
    pub target: Descriptor,
    /// The manifest chosen for the platform; the same as `target` when that is no index, or one without a choice.
    pub manifest: Descriptor,
    /// Digest of the image config, Docker's image ID; none for an index that is one artifact.
    pub config: Option<Digest>,
}

/// Pulls `reference` for `platform` into `sink`.
///
/// A reference that names a manifest directly is pulled whatever its platform; the config says which one it is.
/// Descriptors' `urls` are ignored: all blobs come from the registry of the reference (CVE-2020-15157).
///
/// Cancel-safe: dropping the future ends all downloads; each blob not yet committed is dropped by its blocking
/// thread as soon as that finishes the call it is in. When the future returns by itself, all of these have ended.
///
/// # Errors
///
/// Those of [`Client::resolve`] and [`Client::blob`]; [`Error::NoPlatform`] with what there is;
/// [`Error::Sink`] when the sink fails or finds a wrong digest. What was stored before the
/// failure stays stored.
pub async fn pull(
    client: &Client,
    reference: &Reference,
    platform: &Platform,
    auth: &Auth,
    sink: Arc<dyn Sink>,
) -> Result<Pulled, Error> {
    let (alive, mut ended) = mpsc::channel(1);
    let result = Pull { client, reference, auth, sink, alive }.run(platform).await;
    // Every sender is gone when the last writer's thread has ended.
    while ended.recv().await.is_some() {}
    result
}

/// Whether `known`, which `reference` named at an earlier pull, is what it names now. One request at most, by `HEAD`,
/// which registries count less than a pull; none for a digest, which names the same thing for ever.
///
/// # Errors
///
/// As [`Client::head`].
pub async fn is_current(
    client: &Client,
    reference: &Reference,
    known: &Digest,
    auth: &Auth,
) -> Result<bool, Error> {
    match reference.digest() {
        Some(digest) => Ok(digest == *known),
        None => Ok(client.head(reference, auth).await?.digest == *known),
    }
}

struct Pull<'a> {
    client: &'a Client,
    reference: &'a Reference,
    auth: &'a Auth,
    sink: Arc<dyn Sink>,
    alive: Alive,
}

/// Something stored.
enum Done {
    Config,
    Layer(Digest),
    /// A blob that is no layer of the image.
    Beside,
}

/// What a reference led to.
struct Chosen {
    /// The manifest for the platform, or an index of which all is wanted.
    descriptor: Descriptor,
    manifest: Option<Manifest>,
    /// Manifests to fetch with all their blobs.
    beside: Vec<Descriptor>,
}

impl Pull<'_> {
    async fn run(self, platform: &Platform) -> Result<Pulled, Error> {
        self.sink.progress(Progress::Resolving);
        let (target, body) = self.client.resolve(self.reference, self.auth).await?;
        let Chosen { descriptor, manifest, beside } = self.choose(target.clone(), body, platform).await?;
        if let Some(manifest) = &manifest {
            self.check(manifest)?;
        }
        let beside = self.beside(beside).await?;
        match &manifest {
            Some(manifest) if manifest.is_image() => self.fetch_all(manifest, &beside).await?,
            Some(manifest) => {
                let own = manifest.layers.iter().chain([&manifest.config]).chain(&beside);
                self.fetch_raw(&own.collect::<Vec<_>>()).await?;
            }
            None => self.fetch_raw(&beside.iter().collect::<Vec<_>>()).await?,
        }
        Ok(Pulled { target, manifest: descriptor, config: manifest.map(|manifest| manifest.config.digest) })
    }

    /// Goes from what the reference names to the manifest for `platform`, and stores every document on the way.
    async fn choose(&self, target: Descriptor, body: Bytes, platform: &Platform) -> Result<Chosen, Error> {
        let (mut descriptor, mut body) = (target, body);
        let mut beside = Vec::new();
        for _ in 0..MAX_NESTING {
            let name = self.reference.with_digest(descriptor.digest).familiar();
            let document =
                document::read(&descriptor.media_type, &body).map_err(|refusal| refusal.about(&name))?;
            let index = match document {
                Document::Manifest(manifest) => {
                    self.store(&descriptor, &body).await?;
                    return Ok(Chosen { descriptor, manifest: Some(*manifest), beside });
                }
                Document::Index(index) => index,
            };
            if index.is_collection() {
                self.store(&descriptor, &body).await?;
                beside.extend(index.manifests);
                return Ok(Chosen { descriptor, manifest: None, beside });
            }
            let next = document::choose(&index, platform).cloned().ok_or_else(|| Error::NoPlatform {
                wanted: platform.to_string(),
                available: document::platforms(&index),
            })?;
            beside.extend(index.about(&next.digest).cloned());
            self.store(&descriptor, &body).await?;
            body = self.manifest(&next).await?;
            descriptor = next;
        }
        let reason = format!("indexes nested deeper than {MAX_NESTING}");
        Err(Error::Malformed { what: format!("manifest {}", self.reference.familiar()), reason })
    }

    /// Fetches the manifests that belong to what was chosen. Returns the blobs that they name. One that the registry does not
    /// have is left out: a copy of an image may have come without it.
    async fn beside(&self, entries: Vec<Descriptor>) -> Result<Vec<Descriptor>, Error> {
        if entries.len() > MAX_BESIDE {
            let reason =
                format!("{} manifests of one thing; at most {MAX_BESIDE} are fetched", entries.len());
            return Err(Error::Malformed { what: format!("index {}", self.reference.familiar()), reason });
        }
        let mut blobs = Vec::new();
        for entry in entries.iter().filter(|entry| media_type::is_manifest(&entry.media_type)) {
            let body = match self.manifest(entry).await {
                Ok(body) => body,
                Err(Error::ManifestUnknown { .. }) => {
                    tracing::debug!(digest = %entry.digest, "the registry does not have what its index names");
                    continue;
                }
                Err(error) => return Err(error),
            };
            let name = self.reference.with_digest(entry.digest).familiar();
            let read = document::read(&entry.media_type, &body).map_err(|refusal| refusal.about(&name))?;
            if let Document::Manifest(manifest) = read {
                self.check(&manifest)?;
                blobs.push(manifest.config);
                blobs.extend(manifest.layers);
            }
        }
        Ok(blobs)
    }

    /// A manifest that an index names, from the sink where it has it.
    async fn manifest(&self, descriptor: &Descriptor) -> Result<Bytes, Error> {
        let _flight = self.client.flights().enter(&descriptor.digest).await;
        let (sink, digest) = (Arc::clone(&self.sink), descriptor.digest);
        let stored = tokio::task::spawn_blocking(move || sink.document(&digest)).await.ok().flatten();
        match stored.filter(|bytes| bytes.len() as u64 == descriptor.size) {
            Some(bytes) => Ok(bytes.into()),
            None => {
                let body = self.client.manifest(self.reference, descriptor, self.auth).await?;
                // Here, so that whoever waits finds it.
                self.store(descriptor, &body).await?;
                Ok(body)
            }
        }
    }

    /// Refuses what contradicts itself, before anything large is fetched.
    fn check(&self, manifest: &Manifest) -> Result<(), Error> {
        let reference = self.reference.familiar();
        let what = format!("manifest {reference}");
        let config = &manifest.config;
        if manifest.is_image() && config.size > MAX_CONFIG as u64 {
            let what = format!("config {} of {reference}", config.digest);
            return Err(Error::TooLarge { what, limit: MAX_CONFIG as u64 });
        }
        if manifest.is_image() && manifest.layers.len() > MAX_LAYERS {
            let reason = format!("{} layers; at most {MAX_LAYERS} can be used", manifest.layers.len());
            return Err(Error::Malformed { what, reason });
        }
        let mut sizes = HashMap::new();
        for blob in manifest.layers.iter().chain([config]) {
            let size = *sizes.entry(blob.digest).or_insert(blob.size);
            if size != blob.size {
                let reason = format!("blob {} has {size} and {} bytes", blob.digest, blob.size);
                return Err(Error::Malformed { what, reason });
            }
        }
        Ok(())
    }

    /// Fetches blobs that nobody unpacks.
    async fn fetch_raw(&self, blobs: &[&Descriptor]) -> Result<(), Error> {
        let jobs: Vec<BoxFuture<'_, Result<Done, Error>>> =
            self.raw_jobs(blobs).await.into_iter().map(FutureExt::boxed).collect();
        let at_once = self.client.config().max_concurrent_downloads.max(1);
        let mut work = stream::iter(jobs).buffer_unordered(at_once);
        while let Some(done) = work.next().await {
            done?;
        }
        Ok(())
    }

    /// The work to fetch those of `blobs` that are not there, each once.
    async fn raw_jobs<'b>(
        &'b self,
        blobs: &[&'b Descriptor],
    ) -> Vec<impl Future<Output = Result<Done, Error>> + Send + 'b> {
        let mut once: Vec<&Descriptor> = Vec::new();
        for &blob in blobs {
            if once.iter().all(|known| known.digest != blob.digest) {
                once.push(blob);
            }
        }
        let have = self.have(once.iter().map(|blob| blob.digest).collect()).await;
        let missing = once.into_iter().zip(have).filter(|(_, have)| !have);
        missing.map(|(blob, _)| async move { self.layer(blob, false).await.map(|()| Done::Beside) }).collect()
    }

    /// Fetches the config and all layers that are not there, and the blobs `beside`.
    async fn fetch_all(&self, manifest: &Manifest, beside: &[Descriptor]) -> Result<(), Error> {
        let mut layers: Vec<&Descriptor> = Vec::new();
        for layer in &manifest.layers {
            if layers.iter().all(|known| known.digest != layer.digest) {
                layers.push(layer);
            }
        }
        let digests = layers.iter().map(|layer| layer.digest).chain([manifest.config.digest]).collect();
        let mut have = self.have(digests).await;
        let mut config_done = have.pop().unwrap_or(false);
        let mut ready: Vec<Digest> = Vec::new();
        let mut missing: Vec<&Descriptor> = Vec::new();
        for (layer, have) in layers.into_iter().zip(have) {
            if have {
                ready.push(layer.digest);
            } else {
                missing.push(layer);
            }
        }
        for digest in &ready {
            self.sink.progress(Progress::AlreadyExists { digest: *digest });
        }
        for layer in &missing {
            self.sink.progress(Progress::LayerQueued { digest: layer.digest, size: layer.size });
        }

        // Boxed: a stream over unnamed futures that borrow is one whose `Send` rustc cannot show to a caller that spawns.
        let mut jobs: Vec<BoxFuture<'_, Result<Done, Error>>> = Vec::new();
        if !config_done {
            jobs.push(self.job(None, manifest).boxed());
        }
        for layer in missing {
            jobs.push(self.job(Some(layer), manifest).boxed());
        }
        // Of blobs that are both, the image's own way is the one to go.
        let own =
            |digest: Digest| manifest.layers.iter().chain([&manifest.config]).any(|b| b.digest == digest);
        let beside: Vec<&Descriptor> = beside.iter().filter(|blob| !own(blob.digest)).collect();
        jobs.extend(self.raw_jobs(&beside).await.into_iter().map(FutureExt::boxed));
        if config_done {
            self.sink.config_ready(manifest);
        }
        let at_once = self.client.config().max_concurrent_downloads.max(1);
        let mut work = stream::iter(jobs).buffer_unordered(at_once);
        loop {
            if config_done {
                for digest in ready.drain(..) {
                    self.announce(manifest, digest);
                }
            }
            match work.next().await {
                None => return Ok(()),
                Some(Err(error)) => return Err(error),
                Some(Ok(Done::Config)) => {
                    config_done = true;
                    self.sink.config_ready(manifest);
                }
                Some(Ok(Done::Layer(digest))) => ready.push(digest),
                Some(Ok(Done::Beside)) => {}
            }
        }
    }

    /// The layer, or the config for `None`.
    async fn job(&self, layer: Option<&Descriptor>, manifest: &Manifest) -> Result<Done, Error> {
        match layer {
            None => self.config(manifest).await.map(|()| Done::Config),
            Some(layer) => self.layer(layer, true).await.map(|()| Done::Layer(layer.digest)),
        }
    }

    fn announce(&self, manifest: &Manifest, digest: Digest) {
        for (index, layer) in manifest.layers.iter().enumerate() {
            if layer.digest == digest {
                self.sink.layer_ready(manifest, index);
            }
        }
    }

    /// Fetches the config, checks that it fits the manifest, stores it.
    async fn config(&self, manifest: &Manifest) -> Result<(), Error> {
        let descriptor = &manifest.config;
        let _flight = self.client.flights().enter(&descriptor.digest).await;
        if self.have(vec![descriptor.digest]).await == [true] {
            return Ok(());
        }
        let what = format!("config {} of {}", descriptor.digest, self.reference.familiar());
        let mut memory = Memory(BytesMut::new());
        self.download(descriptor, &mut memory, 0, false).await?;
        let body = memory.0.freeze();
        let actual = Digest::of(&body);
        if actual != descriptor.digest {
            return Err(Error::DigestMismatch { what, expected: descriptor.digest, actual });
        }
        let config: ImageConfig = serde_json::from_slice(&body)
            .map_err(|error| Error::Malformed { what: what.clone(), reason: error.to_string() })?;
        let (diff_ids, layers) = (config.rootfs.diff_ids.len(), manifest.layers.len());
        if diff_ids != layers {
            let reason = format!("it lists {diff_ids} layers, its manifest {layers}");
            return Err(Error::Malformed { what, reason });
        }
        self.write_whole(descriptor, &body).await
    }

    /// Fetches a layer, or another blob that people do not see (`visible`), unless someone else does.
    async fn layer(&self, descriptor: &Descriptor, visible: bool) -> Result<(), Error> {
        let digest = descriptor.digest;
        let _flight = self.client.flights().enter(&digest).await;
        if self.have(vec![digest]).await == [true] {
            self.sink.progress(Progress::DownloadComplete { digest });
            return Ok(());
        }
        match self.fetch_layer(descriptor, visible).await {
            // What an earlier try had left was wrong; the sink has thrown it away.
            Err((error, 1..)) if error.kind() == Kind::DataLoss => {
                tracing::warn!(%digest, error = errors::chain(&error), "fetched anew from its first byte");
                self.fetch_layer(descriptor, visible).await.map_err(|(error, _)| error)?;
            }
            result => result.map_err(|(error, _)| error)?,
        }
        self.sink.progress(Progress::DownloadComplete { digest });
        Ok(())
    }

    /// Downloads a layer behind what the sink has of it; how much that was goes with a failure.
    async fn fetch_layer(&self, descriptor: &Descriptor, visible: bool) -> Result<(), (Error, u64)> {
        let mut writer = Writer::start(Arc::clone(&self.sink), descriptor, self.alive.clone());
        let there = writer.begun().await.map_err(|error| (error, 0))?;
        let fetched = async {
            self.download(descriptor, &mut writer, there, visible).await?;
            self.sink.progress(Progress::VerifyingChecksum { digest: descriptor.digest });
            writer.commit().await
        };
        fetched.await.map_err(|error| (error, there))
    }

    /// Downloads a blob, resuming where it broke.
    async fn download(
        &self,
        descriptor: &Descriptor,
        target: &mut impl Target,
        from: u64,
        visible: bool,
    ) -> Result<(), Error> {
        let mut meter = Meter { pull: self, descriptor, visible, at: from, shown: None };
        let (mut failures, mut mark) = (0, from);
        loop {
            let Err(error) = self.attempt(&mut meter, target).await else {
                return Ok(());
            };
            let Some(asked) = error.retry_after(meter.at) else {
                return Err(error);
            };
            if meter.at >= mark + REAL_PROGRESS {
                (failures, mark) = (0, meter.at);
            }
            failures += 1;
            if failures > self.client.config().max_retries || self.client.transport().is_too_long(asked) {
                return Err(error);
            }
            let after = self.client.pause(failures, asked);
            tracing::debug!(digest = %descriptor.digest, at = meter.at, error = errors::chain(&error), "retrying");
            if visible {
                self.sink.progress(Progress::Retrying { digest: descriptor.digest, after });
            }
            sleep(after).await;
        }
    }

    /// One request and its body, from where the meter stands.
    async fn attempt(&self, meter: &mut Meter<'_>, target: &mut impl Target) -> Result<(), Error> {
        let offset = meter.at;
        let open = self.client.open_blob(self.reference, meter.descriptor, offset, self.auth, Tries::One);
        let mut stream = open.await?;
        // Where the registry starts over, what we have already is passed over; the digest covers it.
        let mut skip = if stream.resumed() { 0 } else { offset };
        while let Some(piece) = stream.next().await {
            let piece = piece?;
            let skipped = skip.min(piece.len() as u64);
            skip -= skipped;
            let fresh = piece.get(usize::try_from(skipped).unwrap_or(piece.len())..).unwrap_or_default();
            if !fresh.is_empty() {
                target.write(fresh).await?;
                meter.advance(fresh.len() as u64);
            }
        }
        Ok(())
    }

    /// Stores a document that is in memory, unless it is stored already.
    async fn store(&self, descriptor: &Descriptor, body: &Bytes) -> Result<(), Error> {
        if self.have(vec![descriptor.digest]).await == [true] {
            return Ok(());
        }
        self.write_whole(descriptor, body).await
    }

    async fn write_whole(&self, descriptor: &Descriptor, body: &[u8]) -> Result<(), Error> {
        let mut writer = Writer::start(Arc::clone(&self.sink), descriptor, self.alive.clone());
        // A killed daemon may have left a beginning of it.
        let there = usize::try_from(writer.begun().await?).unwrap_or(body.len()).min(body.len());
        writer.write(&body[there..]).await?;
        writer.commit().await
    }

    /// Which of `digests` the sink has. Asked on a blocking thread.
    async fn have(&self, digests: Vec<Digest>) -> Vec<bool> {
        let (sink, count) = (Arc::clone(&self.sink), digests.len());
        let ask = move || digests.iter().map(|digest| sink.has(digest)).collect();
        // A sink that panics has nothing; fetching again does no harm.
        tokio::task::spawn_blocking(ask).await.unwrap_or_else(|_| vec![false; count])
    }
}

/// How far a download is, and who wants to know.
struct Meter<'a> {
    pull: &'a Pull<'a>,
    descriptor: &'a Descriptor,
    visible: bool,
    at: u64,
    shown: Option<Instant>,
}

impl Meter<'_> {
    fn advance(&mut self, bytes: u64) {
        self.at += bytes;
        let total = self.descriptor.size;
        let due = self.shown.is_none_or(|shown| shown.elapsed() >= PROGRESS_EVERY) || self.at == total;
        if self.visible && due {
            self.shown = Some(Instant::now());
            let digest = self.descriptor.digest;
            self.pull.sink.progress(Progress::Downloading { digest, current: self.at, total });
        }
    }
}

/// Where a download goes.
trait Target {
    async fn write(&mut self, bytes: &[u8]) -> Result<(), Error>;
}

impl Target for Writer {
    async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        Writer::write(self, bytes).await
    }
}

/// For configs. The stream is bounded by the descriptor, which was checked.
struct Memory(BytesMut);

impl Target for Memory {
    async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

impl Error {
    /// Whether a download that stands at byte `at` may go on after this: `None` for never, else how long the
    /// registry asks to wait.
    fn retry_after(&self, at: u64) -> Option<Option<Duration>> {
        match self {
            Error::Network { .. } | Error::Timeout { .. } => Some(None),
            // A certificate does not become valid by waiting.
            Error::Connect { source, .. } if source.kind() != std::io::ErrorKind::InvalidData => Some(None),
            // A body without length that ends early is a broken connection too.
            Error::SizeMismatch { expected, actual: Received::Exactly(came), .. }
                if came < expected && *came == at =>
            {
                Some(None)
            }
            Error::Registry { source, .. } if source.is_temporary() => Some(source.retry_after()),
            _ => None,
        }
    }
}
