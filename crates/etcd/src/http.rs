//! One request on a connection of its own, for callers that block.

use crate::tls::Trust;
use crate::{Error, Result};
use bytes::{Buf as _, Bytes};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;

/// How long a server may take to take the connection.
const CONNECT: Duration = Duration::from_secs(2);
/// How long it may be silent. Watches have a deadline of their own.
const SILENCE: Duration = Duration::from_secs(5);
/// A server that has been silent for the first is asked this often, so many times: 25 seconds in all.
const ALIVE_AFTER: Duration = Duration::from_secs(10);
const ALIVE_EVERY: Duration = Duration::from_secs(5);
const ALIVE_TIMES: u32 = 3;
/// Largest answer: 100,000 endpoints of some hundred bytes.
const MAX_ANSWER: u64 = 64 << 20;

/// A server.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// `host:port`.
    address: String,
    host: String,
    tls: Option<Arc<Trust>>,
}

/// The body of an answer.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) address: String,
    /// Drives the connection while somebody reads.
    runtime: Runtime,
    incoming: Incoming,
    /// What came and was not read yet.
    piece: Bytes,
    patience: Duration,
}

impl Endpoint {
    /// `host:port`, `http://host:port`, or `https://host:port`, for which `tls` says whom to trust.
    pub(crate) fn parse(text: &str, tls: &Arc<Trust>) -> Result<Endpoint> {
        let bad = || Error::Address { address: text.into() };
        let (address, is_tls) = match text.split_once("://") {
            None => (text, false),
            Some(("http", address)) => (address, false),
            Some(("https", address)) => (address, true),
            Some(_) => return Err(bad()),
        };
        let address = address.strip_suffix('/').unwrap_or(address);
        let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() || port.parse::<u16>().is_err() || address.contains(['/', ' ', '@', '\r', '\n']) {
            return Err(bad());
        }
        Ok(Endpoint { address: address.into(), host: host.into(), tls: is_tls.then(|| tls.clone()) })
    }

    /// Sends a request and reads the head of the answer.
    pub(crate) fn post(&self, path: &str, body: &str) -> Result<Body> {
        let address = &self.address;
        let unavailable = |source| Error::Unavailable { address: address.clone(), source };
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(unavailable)?;
        let (status, incoming) = runtime.block_on(self.send(path, body)).map_err(unavailable)?;
        let mut body =
            Body { address: address.clone(), runtime, incoming, piece: Bytes::new(), patience: SILENCE };
        if status == StatusCode::OK {
            return Ok(body);
        }
        let text = String::from_utf8_lossy(&body.read_to_end()?).into_owned();
        let message = serde_json::from_str::<serde_json::Value>(&text).ok();
        let message = message.and_then(|v| v["message"].as_str().map(str::to_string)).unwrap_or(text);
        if status.is_server_error() {
            // No leader, or none that answered it: another server may know better.
            return Err(unavailable(io::Error::other(message)));
        }
        Err(Error::Refused { address: address.clone(), message })
    }

    async fn send(&self, path: &str, body: &str) -> io::Result<(StatusCode, Incoming)> {
        let stream = in_time(CONNECT, TcpStream::connect(&self.address)).await?;
        stream.set_nodelay(true)?;
        notice_silence(&stream)?;
        match &self.tls {
            None => self.exchange(stream, path, body).await,
            Some(tls) => {
                let (config, name) = tls.for_host(&self.host)?;
                let stream = in_time(CONNECT, TlsConnector::from(config).connect(name, stream)).await?;
                self.exchange(stream, path, body).await
            }
        }
    }

    async fn exchange<S>(&self, stream: S, path: &str, body: &str) -> io::Result<(StatusCode, Incoming)>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        // Errors of the connection reach whoever waits for the answer.
        tokio::spawn(async move { drop(connection.await) });
        let request = Request::post(path)
            .header(HOST, &self.address)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
            .map_err(io::Error::other)?;
        let send = async { sender.send_request(request).await.map_err(io::Error::other) };
        let answer = in_time(SILENCE, send).await?;
        Ok((answer.status(), answer.into_body()))
    }
}

/// Has the kernel ask whether the server is still there. Whoever watches only reads: after the network between was cut for
/// longer than the server waits, he would wait for ever.
fn notice_silence(stream: impl AsFd) -> io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, ALIVE_AFTER)?;
    sockopt::set_tcp_keepintvl(&stream, ALIVE_EVERY)?;
    Ok(sockopt::set_tcp_keepcnt(&stream, ALIVE_TIMES)?)
}

async fn in_time<T>(patience: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(patience, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

impl Body {
    /// All of it.
    pub(crate) fn read_to_end(&mut self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        let address = self.address.clone();
        Read::take(self, MAX_ANSWER)
            .read_to_end(&mut out)
            .map_err(|source| Error::Unavailable { address, source })?;
        Ok(out)
    }

    /// How long [`Read::read`] may wait; then it fails with `TimedOut`.
    pub(crate) fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            let (incoming, patience) = (&mut self.incoming, self.patience);
            let frame = self.runtime.block_on(in_time(patience, async {
                incoming.frame().await.transpose().map_err(io::Error::other)
            }))?;
            let Some(frame) = frame else { return Ok(0) };
            // Trailers say nothing that anybody wants.
            self.piece = frame.into_data().unwrap_or_default();
        }
        let count = self.piece.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.piece[..count]);
        self.piece.advance(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    /// A server that sends `answer` to whoever comes.
    fn ask(answer: &'static str) -> Result<String> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let endpoint = Endpoint::parse(&address, &Arc::default()).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = [0; 1024];
            let mut got = Vec::new();
            while !got.ends_with(b"{}") {
                let n = stream.read(&mut buffer).unwrap();
                got.extend_from_slice(&buffer[..n]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let body = endpoint.post("/x", "{}").and_then(|mut b| b.read_to_end());
        server.join().unwrap();
        body.map(|b| String::from_utf8(b).unwrap())
    }

    #[test]
    fn three_ways_to_end() {
        assert_eq!(ask("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap(), "ok");
        assert_eq!(
            ask("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n3;x=y\r\nay!\r\n0\r\n\r\n")
                .unwrap(),
            "okay!"
        );
        assert_eq!(ask("HTTP/1.0 200 OK\r\n\r\nto the end").unwrap(), "to the end");
    }

    #[test]
    fn what_went_wrong() {
        let refused = ask("HTTP/1.1 400 Bad\r\nContent-Length: 17\r\n\r\n{\"message\":\"no!\"}");
        assert!(matches!(refused, Err(Error::Refused { message, .. }) if message == "no!"));
        for cut in
            ["", "HTTP/1.1", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"]
        {
            assert!(matches!(ask(cut), Err(Error::Unavailable { .. })), "{cut:?}");
        }
        assert!(matches!(
            ask("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"),
            Err(Error::Unavailable { .. })
        ));
    }

    #[test]
    fn a_server_that_was_cut_off_is_noticed() {
        use rustix::net::sockopt;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        notice_silence(&stream).unwrap();
        assert!(sockopt::socket_keepalive(&stream).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), ALIVE_AFTER);
        assert_eq!(sockopt::tcp_keepintvl(&stream).unwrap(), ALIVE_EVERY);
        assert_eq!(sockopt::tcp_keepcnt(&stream).unwrap(), ALIVE_TIMES);
    }

    #[test]
    fn addresses() {
        let check = |text: &str, want: Option<(&str, &str, bool)>| {
            let got = Endpoint::parse(text, &Arc::default()).ok();
            let got = got.as_ref().map(|e| (e.address.as_str(), e.host.as_str(), e.tls.is_some()));
            assert_eq!(got, want, "{text}");
        };
        check("a:1", Some(("a:1", "a", false)));
        check("http://a:1/", Some(("a:1", "a", false)));
        check("https://[::1]:2", Some(("[::1]:2", "::1", true)));
        for bad in ["", "a", ":1", "a:x", "ftp://a:1", "a:1/x", "u@a:1", "http://a b:1"] {
            check(bad, None);
        }
    }
}
