//! Streams between the connection and code that blocks, which runs on a thread of its own.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::io::{self, Read, Write};
use tokio::sync::mpsc;

/// Pieces on their way.
const AHEAD: usize = 4;
/// Size of a piece that is sent.
const PIECE: usize = 256 << 10;

/// What `write` writes, as pieces for a request's body. A failure of it breaks the request off.
pub(crate) fn upload(
    write: impl FnOnce(&mut dyn Write) -> Result<(), String> + Send + 'static,
) -> mpsc::Receiver<io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    drop(tokio::task::spawn_blocking(move || {
        let mut out = io::BufWriter::with_capacity(PIECE, Sender(sender.clone()));
        let done = write(&mut out).and_then(|()| out.flush().map_err(|e| e.to_string()));
        if let Err(text) = done {
            // Where nobody listens any more, they know why.
            drop(sender.blocking_send(Err(io::Error::other(text))));
        }
    }));
    receiver
}

struct Sender(mpsc::Sender<io::Result<Bytes>>);

impl Write for Sender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Ok(Bytes::copy_from_slice(bytes));
        self.0.blocking_send(piece).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An answer's body as a blocking reader.
#[derive(Debug)]
pub(crate) struct Download {
    receiver: mpsc::Receiver<Result<Bytes, String>>,
    current: Bytes,
    failure: Option<String>,
}

impl Download {
    pub(crate) fn start(mut body: Incoming) -> Download {
        let (sender, receiver) = mpsc::channel(AHEAD);
        drop(tokio::spawn(async move {
            while let Some(frame) = body.frame().await {
                let piece = match frame {
                    Ok(frame) => match frame.into_data() {
                        Ok(bytes) => Ok(bytes),
                        Err(_) => continue,
                    },
                    Err(e) => Err(e.to_string()),
                };
                let last = piece.is_err();
                if sender.send(piece).await.is_err() || last {
                    return;
                }
            }
        }));
        Download { receiver, current: Bytes::new(), failure: None }
    }

    /// What broke the stream, if something did.
    pub(crate) fn failure(self) -> Option<String> {
        self.failure
    }
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                Some(Ok(piece)) => self.current = piece,
                Some(Err(text)) => {
                    self.failure = Some(text.clone());
                    return Err(io::Error::other(text));
                }
                None => return Ok(0),
            }
        }
        let n = buffer.len().min(self.current.len());
        buffer[..n].copy_from_slice(&self.current.split_to(n));
        Ok(n)
    }
}
