//! Attaching: a request after whose answer the connection carries raw bytes both ways.
//!
//! The answer is `101 UPGRADED`, or the old `200` with a body that has neither length nor chunks. hyper takes the
//! second for a body that only flows in, so the exchange of heads is done here.

use crate::error::{Error, Result};
use crate::http::{self, Client, Io, Path};
use bytes::{Buf, Bytes, BytesMut};
use hyper::Method;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

/// Longest head of an answer.
const MAX_HEAD: usize = 64 << 10;
/// Longest error document.
const MAX_ERROR: usize = 1 << 20;
/// Bytes read at once.
const READ_SIZE: usize = 32 << 10;

/// Both directions of a hijacked connection.
#[derive(Debug)]
pub(crate) struct Hijacked {
    pub(crate) reader: Reader,
    pub(crate) writer: Writer,
}

/// What the container writes.
pub(crate) struct Reader {
    rest: BytesMut,
    half: ReadHalf<Box<dyn Io>>,
}

/// What the container reads.
pub(crate) struct Writer {
    half: WriteHalf<Box<dyn Io>>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("rest", &self.rest.len()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

impl Reader {
    /// The next bytes; none at the end. May be dropped while it waits without losing any.
    pub(crate) async fn read(&mut self) -> io::Result<Bytes> {
        if self.rest.is_empty() {
            self.rest.reserve(READ_SIZE);
            self.half.read_buf(&mut self.rest).await?;
        }
        Ok(self.rest.split().freeze())
    }
}

impl Writer {
    /// Sends all of `bytes`.
    pub(crate) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.half.write_all(bytes).await?;
        self.half.flush().await
    }

    /// Ends the container's input; its output goes on.
    pub(crate) async fn close(&mut self) -> io::Result<()> {
        self.half.shutdown().await
    }
}

impl Client {
    /// Posts to `path` and takes over the connection.
    ///
    /// # Errors
    ///
    /// [`Error::Api`] where the daemon refuses.
    pub(crate) async fn hijack(&self, path: &Path, body: Option<&serde_json::Value>) -> Result<Hijacked> {
        loop {
            let version = self.version();
            let begin = std::time::Instant::now();
            let answer = self.try_hijack(path, body).await;
            let end = answer.as_ref().map_or_else(|e| errors::chain(e), |_| "upgraded".to_string());
            self.tell(&Method::POST, &self.versioned(path), &end, begin);
            match answer {
                Err(Error::Api { status: 400, .. }) if self.version() != version => {}
                result => return result,
            }
        }
    }

    async fn try_hijack(&self, path: &Path, body: Option<&serde_json::Value>) -> Result<Hijacked> {
        let body = body.map(serde_json::Value::to_string).unwrap_or_default();
        let content_type = if body.is_empty() { "text/plain" } else { "application/json" };
        let head = format!(
            "POST {} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: brig\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\
             Content-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{body}",
            self.versioned(path),
            body.len(),
        );
        let broken = |e: io::Error| Error::transport("attach", e);
        let mut stream = self.connect().await?;
        stream.write_all(head.as_bytes()).await.map_err(broken)?;
        stream.flush().await.map_err(broken)?;

        let mut buffer = BytesMut::with_capacity(READ_SIZE);
        let head_end = loop {
            if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at;
            }
            if buffer.len() > MAX_HEAD || stream.read_buf(&mut buffer).await.map_err(broken)? == 0 {
                return Err(broken(io::Error::new(io::ErrorKind::UnexpectedEof, "the answer has no head")));
            }
        };
        let head = Head::parse(&buffer[..head_end])
            .ok_or_else(|| broken(io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP")))?;
        buffer.advance(head_end + 4);
        self.learn_version(head.api_version.as_deref());
        if head.status == 101 || (head.status == 200 && head.length.is_none() && !head.chunked) {
            let (reading, writing) = tokio::io::split(stream);
            return Ok(Hijacked {
                reader: Reader { rest: buffer, half: reading },
                writer: Writer { half: writing },
            });
        }
        let wanted = head.length.unwrap_or(MAX_ERROR).min(MAX_ERROR);
        while buffer.len() < wanted {
            if head.chunked && buffer.ends_with(b"\r\n0\r\n\r\n") {
                break;
            }
            if stream.read_buf(&mut buffer).await.map_err(broken)? == 0 {
                break;
            }
        }
        let body = if head.chunked { join_chunks(&buffer) } else { buffer.to_vec() };
        Err(http::api_error(head.status, &body))
    }
}

/// What matters of an answer's head.
#[derive(Debug, Default, PartialEq, Eq)]
struct Head {
    status: u16,
    length: Option<usize>,
    chunked: bool,
    api_version: Option<String>,
}

impl Head {
    fn parse(bytes: &[u8]) -> Option<Head> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut lines = text.split("\r\n");
        let (protocol, rest) = lines.next()?.split_once(' ')?;
        if !protocol.starts_with("HTTP/1.") {
            return None;
        }
        let mut head = Head { status: rest.get(..3)?.parse().ok()?, ..Head::default() };
        for line in lines {
            let (name, value) = line.split_once(':')?;
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "content-length" => head.length = Some(value.parse().ok()?),
                "transfer-encoding" => head.chunked = value.eq_ignore_ascii_case("chunked"),
                "api-version" => head.api_version = Some(value.to_string()),
                _ => {}
            }
        }
        Some(head)
    }
}

fn join_chunks(mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(end) = bytes.windows(2).position(|w| w == b"\r\n") {
        let size = std::str::from_utf8(&bytes[..end]).ok();
        let size = size.and_then(|s| usize::from_str_radix(s.split(';').next().unwrap_or(s).trim(), 16).ok());
        let Some(size) = size.filter(|s| *s > 0) else { break };
        let Some(chunk) = bytes.get(end + 2..).and_then(|rest| rest.get(..size)) else { break };
        out.extend_from_slice(chunk);
        bytes = bytes.get(end + 2 + size + 2..).unwrap_or_default();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        let head = Head::parse(b"HTTP/1.1 101 UPGRADED\r\nUpgrade: tcp\r\nApi-Version: 1.41").unwrap();
        assert_eq!((head.status, head.api_version.as_deref()), (101, Some("1.41")));
        let head = Head::parse(b"HTTP/1.1 404 Not Found\r\ncontent-length: 12").unwrap();
        assert_eq!((head.status, head.length), (404, Some(12)));
        assert!(Head::parse(b"SSH-2.0-x").is_none());
        assert!(Head::parse(b"HTTP/1.1 2").is_none());
    }

    #[test]
    fn chunks() {
        assert_eq!(join_chunks(b"4\r\nabcd\r\n2;x\r\nef\r\n0\r\n\r\n"), b"abcdef");
        assert_eq!(join_chunks(b"ffffffffffffffff\r\nab"), b"");
    }
}
