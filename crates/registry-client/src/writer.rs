//! The blocking half of a download: a thread that owns the sink's [`Blob`](crate::Blob) and takes pieces from a
//! bounded channel, so that no async thread waits for a disk and memory stays bounded.

use crate::{Error, Sink};
use bytes::{Bytes, BytesMut};
use errors::{Kind, Report};
use oci::Descriptor;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// Size of the pieces that reach the sink. Small enough to keep a pull's memory low, large enough that a write call
/// and a wake-up per piece do not count.
const PIECE: usize = 256 << 10;
/// Pieces under way per blob, besides the one being filled and the one being written.
const QUEUE: usize = 4;

/// Proof that a writer's thread still lives; the receiver of the channel it came from sees all of them end.
pub(crate) type Alive = mpsc::Sender<()>;

enum Message {
    Piece(Bytes),
    Commit,
}

/// The async end. Dropped without [`Writer::commit`], the blob is discarded.
#[derive(Debug)]
pub(crate) struct Writer {
    descriptor: Descriptor,
    queue: mpsc::Sender<Message>,
    filling: BytesMut,
    begun: Option<oneshot::Receiver<u64>>,
    thread: JoinHandle<Result<(), Report>>,
}

impl Writer {
    /// Starts a thread for the blob.
    pub(crate) fn start(sink: Arc<dyn Sink>, descriptor: &Descriptor, alive: Alive) -> Writer {
        let (queue, pieces) = mpsc::channel(QUEUE);
        let target = descriptor.clone();
        let (tell, begun) = oneshot::channel();
        let thread = tokio::task::spawn_blocking(move || {
            let result = write(&*sink, &target, tell, pieces);
            drop(sink);
            drop(alive);
            result
        });
        Writer { descriptor: descriptor.clone(), queue, filling: BytesMut::new(), begun: Some(begun), thread }
    }

    /// How many bytes the sink has already, from an earlier try. Asked once, before the first write.
    pub(crate) async fn begun(&mut self) -> Result<u64, Error> {
        let Some(begun) = self.begun.take() else { return Ok(0) };
        match begun.await {
            Ok(written) => Ok(written.min(self.descriptor.size)),
            // The thread is gone; its result says why.
            Err(_) => self.finish().await.map(|()| 0),
        }
    }

    /// Appends `bytes`; waits when the sink is slower than the network.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if self.filling.capacity() == 0 {
            self.filling.reserve(PIECE.min(usize::try_from(self.descriptor.size).unwrap_or(PIECE)));
        }
        self.filling.extend_from_slice(bytes);
        if self.filling.len() >= PIECE {
            return self.flush().await;
        }
        Ok(())
    }

    /// Waits until the sink has checked and stored the blob.
    pub(crate) async fn commit(mut self) -> Result<(), Error> {
        if !self.filling.is_empty() {
            self.flush().await?;
        }
        // When the thread is gone, its result says why.
        let _gone = self.queue.send(Message::Commit).await;
        self.finish().await
    }

    async fn flush(&mut self) -> Result<(), Error> {
        let piece = std::mem::take(&mut self.filling).freeze();
        match self.queue.send(Message::Piece(piece)).await {
            Ok(()) => Ok(()),
            Err(_) => self.finish().await,
        }
    }

    async fn finish(&mut self) -> Result<(), Error> {
        let result = match (&mut self.thread).await {
            Ok(result) => result,
            Err(panic) => Err(Report::new(Kind::Internal, format!("writer thread: {panic}"))),
        };
        result.map_err(|source| Error::Sink { digest: self.descriptor.digest, source })
    }
}

fn write(
    sink: &dyn Sink,
    descriptor: &Descriptor,
    begun: oneshot::Sender<u64>,
    mut pieces: mpsc::Receiver<Message>,
) -> Result<(), Report> {
    let mut blob = sink.begin(descriptor)?;
    // Nobody listens where all is in memory already.
    let _unheard = begun.send(blob.written());
    while let Some(message) = pieces.blocking_recv() {
        match message {
            Message::Piece(piece) => blob.write(&piece).map_err(|error| Report {
                kind: errors::io_kind(&error),
                links: vec!["write".into(), error.to_string()],
            })?,
            Message::Commit => return blob.commit(),
        }
    }
    // The pull was given up.
    Err(Report::new(Kind::Cancelled, "the download was given up"))
}
