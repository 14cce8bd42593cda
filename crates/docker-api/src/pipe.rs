//! Bodies for code that blocks: a request's body as a reader, an answer's as a writer.

use crate::reply::{Cut, Reply, fallible_stream};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::io::{self, Read, Write};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Pieces of a request's body read ahead.
const AHEAD: usize = 16;
/// How long the rest of an archive that was refused is read and thrown away.
const DRAIN: Duration = Duration::from_secs(10);
/// Pieces in which an answer is sent.
const PIECE: usize = 256 << 10;

/// A request's body on its way to a [`BodyReader`].
#[derive(Debug)]
pub(crate) struct Feed(JoinHandle<()>);

impl Feed {
    /// Starts to read `body`.
    pub(crate) fn start(mut body: Incoming) -> (Feed, BodyReader) {
        let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(AHEAD);
        let feed = tokio::spawn(async move {
            while let Some(piece) = body.frame().await {
                let piece = match piece {
                    Ok(frame) => match frame.into_data() {
                        Ok(bytes) => Ok(bytes),
                        Err(_) => continue,
                    },
                    Err(e) => Err(io::Error::other(e)),
                };
                if sender.send(piece).await.is_err() {
                    // Refused already. A client that still sends does not read the reason.
                    while let Some(Ok(_)) = body.frame().await {}
                    return;
                }
            }
        });
        (Feed(feed), BodyReader { receiver, current: Bytes::new() })
    }

    /// After the reader has ended; `refused`: what is still to come is read and thrown away, for a while.
    pub(crate) async fn end(mut self, refused: bool) {
        if refused {
            drop(tokio::time::timeout(DRAIN, &mut self.0).await);
        }
        self.0.abort();
    }
}

/// A request's body as a blocking reader.
#[derive(Debug)]
pub(crate) struct BodyReader {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.current = piece?,
                None => return Ok(0),
            }
        }
        let n = buffer.len().min(self.current.len());
        buffer[..n].copy_from_slice(&self.current.split_to(n));
        Ok(n)
    }
}

/// Answers with what `write` writes, on a thread that may block. When it fails, the connection is cut.
pub(crate) fn written<F, E>(content_type: &'static str, write: F) -> Reply
where
    F: FnOnce(&mut BodyWriter) -> Result<(), E> + Send + 'static,
    E: std::error::Error,
{
    let (sender, reply) = fallible_stream(content_type);
    tokio::task::spawn_blocking(move || {
        let mut writer = BodyWriter { sender, piece: BytesMut::new() };
        let done = write(&mut writer).map_err(|e| errors::chain(&e));
        match done.and_then(|()| writer.flush().map_err(|e| e.to_string())) {
            Ok(()) => {}
            // Nobody listens any more: no failure of ours.
            Err(_) if writer.sender.is_closed() => {}
            Err(error) => {
                tracing::error!(error, "an answer was cut short");
                drop(writer.sender.blocking_send(Err(Cut(error))));
            }
        }
    });
    reply
}

/// An answer's body as a blocking writer.
#[derive(Debug)]
pub(crate) struct BodyWriter {
    sender: mpsc::Sender<Result<Bytes, Cut>>,
    piece: BytesMut,
}

impl Write for BodyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(PIECE - self.piece.len());
        if self.piece.capacity() == 0 {
            self.piece.reserve(PIECE);
        }
        self.piece.extend_from_slice(&bytes[..n]);
        if self.piece.len() == PIECE {
            self.flush()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::take(&mut self.piece).freeze();
        self.sender.blocking_send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
