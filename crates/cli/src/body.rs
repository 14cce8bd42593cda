//! Request bodies that are sent as they are read.

use crate::http::Body;
use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::AsyncReadExt;
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

/// A file's bytes, read ahead a little.
pub(crate) fn file_chunks(mut file: tokio::fs::File) -> mpsc::Receiver<io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(2);
    drop(tokio::spawn(async move {
        loop {
            let mut buffer = bytes::BytesMut::with_capacity(256 << 10);
            let chunk = match file.read_buf(&mut buffer).await {
                Ok(0) => return,
                Ok(_) => Ok(buffer.freeze()),
                Err(e) => Err(e),
            };
            let last = chunk.is_err();
            if sender.send(chunk).await.is_err() || last {
                return;
            }
        }
    }));
    receiver
}
