//! Blobs from elsewhere into the content store.

use super::format::Layer;
use crate::error::{During, Error, IoDuring};
use crate::request::Answer;
use bytes::Bytes;
use engine::{Engine, blocking};
use image::Lease;
use oci::{Descriptor, Digest, Reference};
use registry_client::Auth;
use std::io::Read;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Pieces of a blob that wait to be written.
const PIECES: usize = 16;

/// A place of a client's where blobs are kept.
pub trait BlobStore: std::fmt::Debug + Send + Sync {
    /// Puts the blob `digest`, of at most `max` bytes, into the engine's content store by an [`Arriving`].
    fn bring<'a>(&'a self, engine: &'a Arc<Engine>, digest: Digest, max: u64) -> Answer<'a, ()>;
    /// Takes a blob of the engine's content store.
    fn take<'a>(&'a self, engine: &'a Arc<Engine>, blob: &'a Descriptor) -> Answer<'a, ()>;
    /// It has all of a cache with this manifest now.
    fn finish<'a>(&'a self, manifest: &'a Descriptor) -> Answer<'a, ()>;
}

/// Puts a blob of `size` bytes, or of at most `max` where that is not known, into the content store, which checks that it
/// is what was promised. Blocking.
///
/// # Errors
///
/// A sentence; nothing of the blob stays then.
pub fn receive_blob(
    engine: &Engine,
    digest: Digest,
    size: Option<u64>,
    max: u64,
    mut reader: impl Read,
) -> Result<(), String> {
    let failed = |e: content::Error| errors::chain(&e);
    let mut ingest = engine.content().ingest(Some(digest), size).map_err(failed)?;
    let read = ingest.fill(reader.by_ref().take(max.saturating_add(1)));
    if read.map_err(|e| format!("receive blob {digest}: {e}"))? > max {
        return Err(format!("blob {digest} is larger than {max} bytes"));
    }
    ingest.commit().map(drop).map_err(failed)
}

/// A blob that arrives in pieces.
#[derive(Debug)]
pub struct Arriving {
    pieces: mpsc::Sender<Bytes>,
    writing: tokio::task::JoinHandle<Result<(), String>>,
}

impl Arriving {
    /// Begins one; see [`receive_blob`].
    pub fn start(engine: &Arc<Engine>, digest: Digest, size: Option<u64>, max: u64) -> Arriving {
        let (pieces, receiver) = mpsc::channel::<Bytes>(PIECES);
        let (engine, pieces_) = (engine.clone(), Pieces { receiver, current: Bytes::new() });
        let writing = tokio::task::spawn_blocking(move || receive_blob(&engine, digest, size, max, pieces_));
        Arriving { pieces, writing }
    }

    /// The next piece. False when no more is wanted: [`Arriving::finish`] says why.
    pub async fn write(&self, piece: Bytes) -> bool {
        self.pieces.send(piece).await.is_ok()
    }

    /// All is there: checks it and puts it in its place.
    ///
    /// # Errors
    ///
    /// When it is not what was promised, or cannot be written.
    pub async fn finish(self) -> Result<(), String> {
        drop(self.pieces);
        self.writing.await.unwrap_or_else(|e| Err(e.to_string()))
    }
}

/// Pieces as a reader, for a thread that may block.
struct Pieces {
    receiver: mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.current = piece,
                None => return Ok(0),
            }
        }
        let n = buffer.len().min(self.current.len());
        buffer[..n].copy_from_slice(&self.current.split_to(n));
        Ok(n)
    }
}

/// Where the blobs of an imported cache are.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    Registry {
        reference: Reference,
        auth: Auth,
    },
    Store(Arc<dyn BlobStore>),
    /// In the content store.
    Here,
}

impl Origin {
    /// Has the blob in the content store, where `lease` keeps it.
    pub(crate) async fn bring(
        &self,
        engine: &Arc<Engine>,
        lease: &Arc<Lease>,
        blob: &Descriptor,
    ) -> Result<(), Error> {
        let doing = || format!("fetch blob {}", blob.digest);
        // Kept before it is looked for, so that it is not collected in between.
        lease.keep_blob(&blob.digest);
        let (here, digest) = (engine.clone(), blob.digest);
        if blocking(move || here.content().contains(&digest)).await {
            return Ok(());
        }
        match self {
            Origin::Here => Err(Error::invalid(format!("blob {} is missing", blob.digest))),
            Origin::Store(store) => store.bring(engine, blob.digest, blob.size).await.map_err(Error::invalid),
            Origin::Registry { reference, auth } => {
                let mut stream = engine.registry().blob(reference, blob, 0, auth).await.during(doing)?;
                let arriving = Arriving::start(engine, blob.digest, Some(blob.size), blob.size);
                let mut failure = None;
                while let Some(piece) = stream.next().await {
                    match piece {
                        Ok(piece) => {
                            if !arriving.write(piece).await {
                                break;
                            }
                        }
                        Err(e) => {
                            failure = Some(e);
                            break;
                        }
                    }
                }
                match failure {
                    // Dropped without its end, it leaves nothing.
                    Some(e) => Err(e).during(doing),
                    None => arriving.finish().await.map_err(Error::invalid),
                }
            }
        }
    }
}

impl Origin {
    /// Has the layer's own blob in the content store; one that was compressed for the way is put back.
    pub(crate) async fn bring_layer(
        &self,
        engine: &Arc<Engine>,
        lease: &Arc<Lease>,
        layer: &Layer,
    ) -> Result<(), Error> {
        let Some(blob) = &layer.blob else { return Ok(()) };
        let own = layer.described();
        if own.digest == blob.digest {
            return self.bring(engine, lease, blob).await;
        }
        let plain_digest = own.digest;
        let doing = move || format!("put layer {plain_digest} back");
        lease.keep_blob(&own.digest);
        let (here, digest) = (engine.clone(), own.digest);
        if blocking(move || here.content().contains(&digest)).await {
            return Ok(());
        }
        self.bring(engine, lease, blob).await?;
        let (engine, digest) = (engine.clone(), blob.digest);
        blocking(move || {
            let file = engine.content().open_blob(&digest).during(doing)?;
            let mut plain = archive::decompress(file).during(doing)?;
            let mut ingest = engine.content().ingest(Some(own.digest), Some(own.size)).during(doing)?;
            // More than was promised is refused by the ingest.
            ingest.fill(&mut plain).io_during(doing)?;
            ingest.commit().map(drop).during(doing)
        })
        .await
    }
}
