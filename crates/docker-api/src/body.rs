//! Long bodies: archives that are read while they arrive, and archives that are sent while they are written. Both join
//! async bodies to blocking code by a short channel, so that memory stays bounded whoever is slow.

use crate::reply::{Failure, Reply, of_body};
use crate::request::Call;
use bytes::Bytes;
use engine::Error;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame};
use std::io::{Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;

/// Pieces of a body read ahead.
const PIECES: usize = 16;
/// How long the rest of a body that was refused is read and thrown away.
const DRAIN: Duration = Duration::from_secs(10);
/// Bytes gathered before they are sent.
const SEND_BYTES: usize = 64 << 10;

/// Hands the request's body to `work` as a blocking reader. When `work` fails early, what the client still sends is
/// read and dropped for a while: one that still sends does not read the reason.
pub(crate) async fn read_by<T, E, F>(call: Call, work: impl FnOnce(BodyReader) -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, E>>,
    E: Into<Failure>,
{
    let (sender, reader) = reader();
    let mut body = call.request.into_body();
    let feed = tokio::spawn(async move {
        while let Some(piece) = body.frame().await {
            let piece = match piece {
                Ok(frame) => match frame.into_data() {
                    Ok(bytes) => Ok(bytes),
                    Err(_) => continue,
                },
                Err(e) => Err(std::io::Error::other(e)),
            };
            if sender.send(piece).await.is_err() {
                while let Some(Ok(_)) = body.frame().await {}
                return;
            }
        }
    });
    let abort = feed.abort_handle();
    let done = work(reader).await;
    if done.is_err() {
        drop(tokio::time::timeout(DRAIN, feed).await);
    }
    abort.abort();
    done.map_err(Into::into)
}

/// A channel of pieces, and what reads them in a row on a thread that may block. A sender that is dropped ends them as if
/// they were whole: who gives up sends an error first.
pub(crate) fn reader() -> (mpsc::Sender<std::io::Result<Bytes>>, BodyReader) {
    let (sender, receiver) = mpsc::channel(PIECES);
    (sender, BodyReader { receiver, current: Bytes::new() })
}

/// A request body as a blocking reader, for threads that may block.
#[derive(Debug)]
pub(crate) struct BodyReader {
    receiver: mpsc::Receiver<std::io::Result<Bytes>>,
    current: Bytes,
}

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
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

/// A reply, and the blocking writer of its body. Writing fails with `BrokenPipe` once the client has gone. A writer that
/// is dropped without [`BodyWriter::finish`] breaks the connection, so that half an archive does not pass for a whole.
pub(crate) fn writer(content_type: &'static str) -> (BodyWriter, Reply) {
    let (sender, receiver) = mpsc::channel(PIECES);
    let reply = of_body(content_type, WrittenBody(receiver));
    (BodyWriter { sender, gathered: Vec::new(), finished: false }, reply)
}

/// Answers with what `write` writes, on a thread that may block; broken off when it fails.
pub(crate) fn written<F>(content_type: &'static str, write: F) -> Reply
where
    F: FnOnce(&mut BodyWriter) -> Result<(), Error> + Send + 'static,
{
    let (mut writer, reply) = writer(content_type);
    drop(tokio::task::spawn_blocking(move || match write(&mut writer) {
        // A client that has gone is no failure of ours.
        Ok(()) => drop(writer.finish()),
        Err(_) if writer.sender.is_closed() => {}
        Err(e) => tracing::error!(error = %errors::chain(&e), "an answer was cut short"),
    }));
    reply
}

/// A response body as a blocking writer, for threads that may block.
#[derive(Debug)]
pub(crate) struct BodyWriter {
    sender: mpsc::Sender<std::io::Result<Bytes>>,
    gathered: Vec<u8>,
    finished: bool,
}

impl BodyWriter {
    /// Sends what is left: the body is whole.
    pub(crate) fn finish(mut self) -> std::io::Result<()> {
        self.flush()?;
        self.finished = true;
        Ok(())
    }
}

impl Write for BodyWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= SEND_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::take(&mut self.gathered));
        self.sender.blocking_send(Ok(piece)).map_err(|_| std::io::ErrorKind::BrokenPipe.into())
    }
}

impl Drop for BodyWriter {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        // Waited for apart: this may run where blocking is not allowed, and the channel may be full.
        let sender = self.sender.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            drop(runtime.spawn(async move {
                drop(sender.send(Err(std::io::Error::other("the rest could not be made"))).await);
            }));
        }
    }
}

struct WrittenBody(mpsc::Receiver<std::io::Result<Bytes>>);

impl Body for WrittenBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|bytes| bytes.map(Frame::data)))
    }
}
