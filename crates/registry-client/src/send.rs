//! Bodies of requests: nothing, bytes in memory, or a blob read by a blocking thread while it is sent.

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::fmt;
use std::io::{self, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use tokio::sync::mpsc;

/// Size of the pieces of a blob.
const PIECE: usize = 256 << 10;
/// Pieces read ahead of the network.
const QUEUE: usize = 2;

/// What a request carries. A request that is repeated, by a challenge or a redirect, opens it again.
#[derive(Clone, Default)]
pub(crate) enum Payload {
    #[default]
    Empty,
    Bytes(Bytes),
    /// Makes the body anew each time.
    Stream(Arc<dyn Fn() -> SendBody + Send + Sync>),
}

impl Payload {
    pub(crate) fn open(&self) -> SendBody {
        match self {
            Payload::Empty => SendBody::whole(Bytes::new()),
            Payload::Bytes(bytes) => SendBody::whole(bytes.clone()),
            Payload::Stream(make) => make(),
        }
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Payload::Empty => f.write_str("Empty"),
            Payload::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Payload::Stream(_) => f.write_str("Stream"),
        }
    }
}

/// A body of known length.
#[derive(Debug)]
pub(crate) struct SendBody {
    inner: Inner,
    left: u64,
    /// Bytes that the connection has taken, for whoever watches whether it moves.
    sent: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Inner {
    Whole(Bytes),
    Pieces(mpsc::Receiver<io::Result<Bytes>>),
}

impl SendBody {
    pub(crate) fn whole(bytes: Bytes) -> SendBody {
        let left = bytes.len() as u64;
        SendBody { inner: Inner::Whole(bytes), left, sent: Arc::default() }
    }

    /// Exactly `length` bytes of what `open` gives, read on a thread of its own. `sent` counts on from where it is.
    pub(crate) fn read(
        open: impl FnOnce() -> io::Result<Box<dyn Read + Send>> + Send + 'static,
        length: u64,
        sent: Arc<AtomicU64>,
    ) -> SendBody {
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::task::spawn_blocking(move || {
            let mut left = length;
            let mut source = match open() {
                Ok(source) => source,
                // When nobody listens any more, nobody wants to know.
                Err(error) => return drop(sender.blocking_send(Err(error))),
            };
            let (back, used) = std::sync::mpsc::channel();
            while left > 0 {
                let size = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
                let mut piece = used.try_recv().unwrap_or_else(|_| vec![0; PIECE]);
                piece.resize(size, 0);
                let result = source.read_exact(&mut piece);
                let result = result.map(|()| Bytes::from_owner(Piece { bytes: piece, back: back.clone() }));
                let failed = result.is_err();
                left -= size as u64;
                if sender.blocking_send(result).is_err() || failed {
                    return;
                }
            }
        });
        SendBody { inner: Inner::Pieces(receiver), left: length, sent }
    }

    /// The count of bytes taken so far.
    pub(crate) fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.sent)
    }

    /// Bytes still to come.
    pub(crate) fn length(&self) -> u64 {
        self.left
    }
}

/// A piece of a blob, which goes back to its reader once it is sent: fresh memory for each costs as much as reading it.
struct Piece {
    bytes: Vec<u8>,
    back: std::sync::mpsc::Sender<Vec<u8>>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        // A reader that is done needs none.
        drop(self.back.send(std::mem::take(&mut self.bytes)));
    }
}

impl Body for SendBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        if this.left == 0 {
            return Poll::Ready(None);
        }
        let piece = match &mut this.inner {
            Inner::Whole(bytes) => Ok(std::mem::take(bytes)),
            Inner::Pieces(queue) => ready!(queue.poll_recv(context))
                .unwrap_or_else(|| Err(io::Error::from(io::ErrorKind::UnexpectedEof))),
        };
        Poll::Ready(Some(piece.map(|bytes| {
            this.left = this.left.saturating_sub(bytes.len() as u64);
            this.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            Frame::data(bytes)
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
