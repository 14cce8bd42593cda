//! Who asked: whether a client is still there while it is sent nothing.
//!
//! A write tells that a client has gone; a stream that is silent for hours never writes. So the body of every answer that
//! is still being made looks after its connection whenever it has nothing to send, and ends with an error once the client
//! has left. The server drops it then, and whoever fills it hears of that by its channel.

use crate::reply::Reply;
use crate::wire::Wire;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use http_body_util::combinators::BoxBody;
use hyper::body::{Body, Frame, SizeHint};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UnixStream;

/// A machine that went away without a word is noticed after this long, and three questions this far apart.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The connection that a request came by.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    socket: Arc<OwnedFd>,
    /// On TCP a client that has closed its end altogether looks like one that has said all it has to say.
    is_tcp: bool,
}

impl Peer {
    pub(crate) fn of(wire: &Wire) -> io::Result<Peer> {
        let socket = wire.as_fd().try_clone_to_owned()?;
        let is_tcp = !matches!(wire, Wire::Unix(_));
        if is_tcp {
            keep_alive(socket.as_fd())?;
        }
        Ok(Peer { socket: Arc::new(socket), is_tcp })
    }

    /// Returns once the client has left. One that shuts down its own direction on a local socket still listens; on TCP it has
    /// left, as for Docker.
    pub(crate) async fn left(&self) {
        if self.is_tcp { read_closed(self.socket.as_fd()).await } else { hung_up(self.socket.as_fd()).await }
    }
}

fn keep_alive(socket: BorrowedFd<'_>) -> io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEP_ALIVE)?;
    sockopt::set_tcp_keepintvl(socket, KEEP_ALIVE)?;
    sockopt::set_tcp_keepcnt(socket, 3)?;
    Ok(())
}

/// Returns once both directions of `socket` are closed.
pub(crate) async fn hung_up(socket: BorrowedFd<'_>) {
    // Not for reading: a client that has shut down its direction would be reported again and again.
    watch(socket, Interest::WRITABLE, PollFlags::empty()).await;
}

async fn read_closed(socket: BorrowedFd<'_>) {
    watch(socket, Interest::READABLE, PollFlags::RDHUP).await;
}

/// Waits for hang-up, error, or `wanted`. On a descriptor of its own, so that nobody else's readiness is disturbed.
async fn watch(socket: BorrowedFd<'_>, interest: Interest, wanted: PollFlags) {
    // Nothing is read or written here, so it does not matter which kind of socket the type says.
    let registered = socket
        .try_clone_to_owned()
        .and_then(|fd| UnixStream::from_std(std::os::unix::net::UnixStream::from(fd)));
    let registered = match registered {
        Ok(registered) => registered,
        Err(error) => {
            tracing::warn!(%error, "look after a client");
            return std::future::pending().await;
        }
    };
    loop {
        if registered.ready(interest).await.is_err() {
            return;
        }
        // Forgets this readiness before the look: what comes after it wakes again.
        let forget: io::Result<()> = registered.try_io(interest, || Err(io::ErrorKind::WouldBlock.into()));
        drop(forget);
        let mut poll = [PollFd::new(&registered, wanted)];
        // Asked for nothing, the kernel tells of hang-ups and errors only.
        let known = rustix::event::poll(&mut poll, Some(&Timespec::default()));
        if known.is_err() || !poll[0].revents().is_empty() {
            return;
        }
    }
}

/// `reply` with a body that ends when the client leaves. A body that is there already is left alone.
pub(crate) fn watched(reply: Reply, peer: Option<Peer>) -> Reply {
    let Some(peer) = peer else { return reply };
    if reply.body().size_hint().exact().is_some() {
        return reply;
    }
    reply.map(|inner| Watched { inner, peer, left: None }.boxed())
}

type Left = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

struct Watched {
    inner: BoxBody<Bytes, io::Error>,
    peer: Peer,
    /// Made when there is nothing to send for the first time.
    left: Option<Left>,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Poll::Ready(piece) = Pin::new(&mut self.inner).poll_frame(context) {
            return Poll::Ready(piece);
        }
        let this = &mut *self;
        let left = this.left.get_or_insert_with(|| {
            let peer = this.peer.clone();
            Box::pin(async move { peer.left().await })
        });
        match left.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into()))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::{TcpListener, TcpStream};

    async fn tcp() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (theirs, ours) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (theirs.unwrap(), ours.unwrap().0)
    }

    fn is_pending<F: Future>(future: Pin<&mut F>) -> bool {
        future.poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending()
    }

    #[tokio::test]
    async fn a_local_client_that_says_no_more_still_listens() {
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        let peer = Peer::of(&Wire::Unix(ours)).unwrap();
        let mut left = Box::pin(peer.left());
        theirs.write_all(b"more").await.unwrap();
        theirs.shutdown().await.unwrap();
        for _ in 0..20 {
            tokio::task::yield_now().await;
            assert!(is_pending(left.as_mut()));
        }
        drop(theirs);
        left.await;
    }

    #[tokio::test]
    async fn a_client_on_tcp_that_says_no_more_has_left() {
        let (mut theirs, ours) = tcp().await;
        let peer = Peer::of(&Wire::Tcp(ours)).unwrap();
        let mut left = Box::pin(peer.left());
        theirs.write_all(b"more").await.unwrap();
        for _ in 0..20 {
            tokio::task::yield_now().await;
            assert!(is_pending(left.as_mut()));
        }
        drop(theirs);
        left.await;
    }
}
