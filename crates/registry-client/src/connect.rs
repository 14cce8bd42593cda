//! Connections: name lookup, TCP, TLS by the rules of the host.

use crate::policy::Policy;
use crate::proxy::{self, Proxies};
use crate::tls::Tls;
use crate::url::{Scheme, Url};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

/// Longest try of one of several addresses of a name, so that one dead address does not use up the whole time.
const ONE_ADDRESS: Duration = Duration::from_secs(10);
/// Longest TLS handshake with a host that may well not speak TLS.
const PROBE: Duration = Duration::from_secs(5);

/// Opens connections for hyper's client.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    pub(crate) tls: Arc<Tls>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) proxies: Arc<Proxies>,
    pub(crate) timeout: Duration,
}

impl Connector {
    /// Finds out whether an insecure host speaks TLS. It does when a handshake succeeds; where one fails, plain
    /// HTTP is all that is left, and the policy allows it.
    pub(crate) async fn probe(&self, secure: &Url) -> io::Result<Scheme> {
        let tcp = match within(self.timeout, self.tcp(secure)).await {
            Ok(tcp) => tcp,
            // Without a port of its own, plain HTTP lives on another one.
            Err(_) if secure.authority.port().is_none() => return Ok(Scheme::Http),
            // Proxies like to make tunnels to port 443 only.
            Err(error)
                if error.kind() == io::ErrorKind::ConnectionRefused
                    && self.proxies.choose(secure).is_some() =>
            {
                return Ok(Scheme::Http);
            }
            Err(error) => return Err(error),
        };
        match within(self.timeout.min(PROBE), self.tls(secure, tcp)).await {
            Ok(_) => Ok(Scheme::Https),
            Err(error) => {
                tracing::debug!(host = %secure.authority, %error, "no TLS, trying plain HTTP");
                Ok(Scheme::Http)
            }
        }
    }

    async fn open(self, uri: http::Uri) -> io::Result<TokioIo<Stream>> {
        let url = Url::parse(&uri.to_string())
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not an http or https URL"))?;
        let stream = within(self.timeout, async {
            let tcp = self.tcp(&url).await?;
            match url.scheme {
                Scheme::Http if self.proxies.choose(&url).is_some() => Ok(Stream::Proxied(tcp)),
                Scheme::Http => Ok(Stream::Plain(tcp)),
                Scheme::Https => Ok(Stream::Tls(Box::new(self.tls(&url, tcp).await?))),
            }
        });
        stream.await.map(TokioIo::new)
    }

    /// A connection to the host of `url`, or to the proxy that plain requests to it go to.
    async fn tcp(&self, url: &Url) -> io::Result<TcpStream> {
        match self.proxies.choose(url) {
            None => tcp(url).await,
            Some(proxy) => {
                let stream = tcp(&proxy.url)
                    .await
                    .map_err(|error| io::Error::new(error.kind(), format!("proxy {}: {error}", proxy.url)))?;
                match url.scheme {
                    Scheme::Http => Ok(stream),
                    Scheme::Https => proxy::tunnel(stream, proxy, url).await,
                }
            }
        }
    }

    async fn tls(&self, url: &Url, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let (tls, policy, authority) =
            (Arc::clone(&self.tls), Arc::clone(&self.policy), url.authority.clone());
        let config = tokio::task::spawn_blocking(move || tls.for_host(&authority, &policy));
        let config = config.await.map_err(io::Error::other)??;
        let name = ServerName::try_from(url.authority.host().to_string()).map_err(io::Error::other)?;
        let result = TlsConnector::from(config).connect(name, tcp).await;
        result.map_err(|error| {
            io::Error::new(error.kind(), format!("TLS handshake with {}: {error}", url.authority))
        })
    }
}

impl tower_service::Service<http::Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Stream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: http::Uri) -> Self::Future {
        Box::pin(self.clone().open(uri))
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {limit:?}"))),
    }
}

async fn tcp(url: &Url) -> io::Result<TcpStream> {
    let host = url.authority.host();
    let named =
        |what: String| move |error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"));
    let addresses =
        tokio::net::lookup_host((host, url.port())).await.map_err(named(format!("look up {host}")))?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("look up {host}: no address"));
    for address in addresses {
        match within(ONE_ADDRESS, TcpStream::connect(address)).await {
            Ok(stream) => {
                // Requests are small and answered one by one: waiting to fill a segment only delays them.
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = named(format!("connect to {address}"))(error),
        }
    }
    Err(last)
}

/// A connection with or without TLS.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    /// To a proxy that is asked for whole URLs.
    Proxied(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new().proxy(matches!(self, Stream::Proxied(_)))
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) | Stream::Proxied(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) | Stream::Proxied(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) | Stream::Proxied(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) | Stream::Proxied(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) | Stream::Proxied(stream) => {
                Pin::new(stream).poll_write_vectored(cx, buffers)
            }
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, buffers),
        }
    }

    /// Without this every piece of an upload would be copied once more, to lie behind the one before.
    fn is_write_vectored(&self) -> bool {
        true
    }
}
