//! gRPC over one connection that began as something else: serving on it, and calling over it.

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::{Status, Streaming};
use tonic_prost::ProstCodec;

/// Largest message that is taken. Clients send files in pieces of 32 KiB; the largest is a Dockerfile's source.
const MAX_MESSAGE: usize = 16 << 20;
/// How much a side may send before it is told that it was read.
const WINDOW: u32 = 1 << 20;

pub(crate) type Reply<T> = Result<T, Status>;
type Future<T> = Pin<Box<dyn std::future::Future<Output = T> + Send>>;

/// Serves gRPC calls that come over `stream` until the client closes it.
pub(crate) async fn serve<S, F, R>(stream: S, route: F)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    F: Fn(Request<Incoming>) -> R + Clone + Send + 'static,
    R: std::future::Future<Output = Response<Body>> + Send + 'static,
{
    let service = hyper::service::service_fn(move |request| {
        let answer = route(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "build API connection");
    }
}

/// Answers a call of one message with one.
pub(crate) async fn unary<Q, A, F, R>(request: Request<Incoming>, handler: F) -> Response<Body>
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
    F: FnOnce(MetadataMap, Q) -> R + Send,
    R: std::future::Future<Output = Reply<A>> + Send + 'static,
{
    struct One<F>(Option<F>);
    impl<Q, A, F, R> tonic::server::UnaryService<Q> for One<F>
    where
        A: Message + Default + 'static,
        F: FnOnce(MetadataMap, Q) -> R,
        R: std::future::Future<Output = Reply<A>> + Send + 'static,
    {
        type Response = A;
        type Future = Future<Reply<tonic::Response<A>>>;

        fn call(&mut self, request: tonic::Request<Q>) -> Self::Future {
            let (metadata, _, message) = request.into_parts();
            let handler = self.0.take().expect("a call is made once");
            let answer = handler(metadata, message);
            Box::pin(async move { answer.await.map(tonic::Response::new) })
        }
    }
    let mut grpc = tonic::server::Grpc::new(ProstCodec::<A, Q>::default())
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    grpc.unary(One(Some(handler)), request).await
}

/// Messages on their way to a client.
pub(crate) type Outgoing<A> = Pin<Box<dyn futures_util::Stream<Item = Reply<A>> + Send>>;

/// Answers a call of one message with a stream.
pub(crate) async fn streaming<Q, A, F, R>(request: Request<Incoming>, handler: F) -> Response<Body>
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
    F: FnOnce(MetadataMap, Q) -> R + Send,
    R: std::future::Future<Output = Reply<Outgoing<A>>> + Send + 'static,
{
    struct One<F>(Option<F>);
    impl<Q, A, F, R> tonic::server::ServerStreamingService<Q> for One<F>
    where
        A: Message + Default + 'static,
        F: FnOnce(MetadataMap, Q) -> R,
        R: std::future::Future<Output = Reply<Outgoing<A>>> + Send + 'static,
    {
        type Response = A;
        type ResponseStream = Outgoing<A>;
        type Future = Future<Reply<tonic::Response<Outgoing<A>>>>;

        fn call(&mut self, request: tonic::Request<Q>) -> Self::Future {
            let (metadata, _, message) = request.into_parts();
            let handler = self.0.take().expect("a call is made once");
            let answer = handler(metadata, message);
            Box::pin(async move { answer.await.map(tonic::Response::new) })
        }
    }
    let mut grpc = tonic::server::Grpc::new(ProstCodec::<A, Q>::default());
    grpc.server_streaming(One(Some(handler)), request).await
}

/// Says no to a call.
pub(crate) fn refuse(status: Status) -> Response<Body> {
    status.into_http()
}

/// What is received from `receiver`, as a stream.
pub(crate) fn stream_of<T: Send + 'static>(
    receiver: mpsc::Receiver<T>,
) -> impl futures_util::Stream<Item = T> + Send {
    futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|item| (item, receiver))
    })
}

/// The same of a channel without an end.
pub(crate) fn stream_of_unbounded<T: Send + 'static>(
    receiver: mpsc::UnboundedReceiver<T>,
) -> impl futures_util::Stream<Item = T> + Send {
    futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|item| (item, receiver))
    })
}

/// The calling side of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Caller(hyper::client::conn::http2::SendRequest<Body>);

impl Caller {
    /// Shakes hands over `stream`. The future that comes back carries the connection; it ends with it.
    pub(crate) async fn open<S>(
        stream: S,
    ) -> Result<(Caller, impl std::future::Future<Output = ()> + Send), hyper::Error>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .handshake(TokioIo::new(stream))
            .await?;
        let run = async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "build session connection");
            }
        };
        Ok((Caller(sender), run))
    }

    fn grpc(&self) -> tonic::client::Grpc<Caller> {
        tonic::client::Grpc::with_origin(self.clone(), http::Uri::from_static("http://session"))
            .max_decoding_message_size(MAX_MESSAGE)
    }

    /// Calls with one message and gets one.
    pub(crate) async fn unary<Q, A>(&self, path: &'static str, message: Q) -> Reply<A>
    where
        Q: Message + Default + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        self.unary_with(path, message, MetadataMap::new()).await
    }

    /// The same, with metadata.
    pub(crate) async fn unary_with<Q, A>(
        &self,
        path: &'static str,
        message: Q,
        metadata: MetadataMap,
    ) -> Reply<A>
    where
        Q: Message + Default + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let codec = ProstCodec::<Q, A>::default();
        let path = http::uri::PathAndQuery::from_static(path);
        let mut request = tonic::Request::new(message);
        *request.metadata_mut() = metadata;
        Ok(self.grpc().unary(request, path, codec).await?.into_inner())
    }

    /// Calls with a stream and gets one.
    pub(crate) async fn streams<Q, A>(
        &self,
        path: &'static str,
        messages: impl futures_util::Stream<Item = Q> + Send + 'static,
        metadata: MetadataMap,
    ) -> Reply<Streaming<A>>
    where
        Q: Message + Default + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let codec = ProstCodec::<Q, A>::default();
        let path = http::uri::PathAndQuery::from_static(path);
        let mut request = tonic::Request::new(messages);
        *request.metadata_mut() = metadata;
        Ok(self.grpc().streaming(request, path, codec).await?.into_inner())
    }
}

impl tower_service::Service<Request<Body>> for Caller {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Future<Result<Response<Incoming>, hyper::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
