//! Request bodies that are sent as they are read.

use crate::http::Body;
use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// A body of the pieces that come out of `chunks`; an error among them breaks the request off.
pub(crate) fn streamed(chunks: mpsc::Receiver<io::Result<Bytes>>) -> Body {
    StreamBody::new(Chunks(chunks)).boxed_unsync()
}

struct Chunks(mpsc::Receiver<io::Result<Bytes>>);

impl futures_util::Stream for Chunks {
    type Item = io::Result<Frame<Bytes>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|chunk| chunk.map(|bytes| bytes.map(Frame::data)))
    }
}
