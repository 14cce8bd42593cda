//! A request's body as a blocking reader, for archives of any length.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::io::Read;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How long the rest of an archive that was refused is read and thrown away.
const DRAIN: Duration = Duration::from_secs(10);
/// Pieces read ahead of whoever unpacks.
const PIECES: usize = 16;

/// The reading end.
pub(crate) struct BodyReader {
    receiver: mpsc::Receiver<std::io::Result<Bytes>>,
    current: Bytes,
}

/// The task that reads the socket.
pub(crate) struct Feed(JoinHandle<()>);

/// Starts reading `body`.
pub(crate) fn reader(mut body: Incoming) -> (BodyReader, Feed) {
    let (sender, receiver) = mpsc::channel(PIECES);
    let task = tokio::spawn(async move {
        while let Some(piece) = body.frame().await {
            let piece = match piece {
                Ok(frame) => match frame.into_data() {
                    Ok(bytes) => Ok(bytes),
                    Err(_) => continue,
                },
                Err(e) => Err(std::io::Error::other(e)),
            };
            if sender.send(piece).await.is_err() {
                // Refused already. A client that still sends does not read the reason.
                while let Some(Ok(_)) = body.frame().await {}
                return;
            }
        }
    });
    (BodyReader { receiver, current: Bytes::new() }, Feed(task))
}

impl Feed {
    /// Lets a client that was refused send to the end, for some time, so that it reads why.
    pub(crate) async fn drain(mut self) {
        drop(tokio::time::timeout(DRAIN, &mut self.0).await);
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.0.abort();
    }
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
