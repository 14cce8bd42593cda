//! As much HTTP as the gateway needs: a POST on a connection of its own, and an answer whole, in chunks, or to the end.

use crate::{Error, Result};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// How long a server may take to take the connection.
const CONNECT: Duration = Duration::from_secs(2);
/// How long it may be silent. Watches have a deadline of their own.
const SILENCE: Duration = Duration::from_secs(5);
/// Largest answer: 100,000 endpoints of some hundred bytes.
const MAX_ANSWER: u64 = 64 << 20;
/// Longest line of a head, and most of them.
const MAX_LINE: u64 = 16 << 10;
const MAX_HEADERS: usize = 100;

/// A server.
#[derive(Debug)]
pub(crate) struct Endpoint {
    address: String,
}

/// The body of an answer.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) address: String,
    stream: BufReader<TcpStream>,
    framing: Framing,
}

#[derive(Debug)]
enum Framing {
    Length(u64),
    /// What is left of the chunk that is being read; None between two.
    Chunks(u64),
    ToTheEnd,
    Over,
}

impl Endpoint {
    pub(crate) fn parse(text: &str) -> Result<Endpoint> {
        let bad = || Error::Address { address: text.into() };
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        if host.is_empty() || port.parse::<u16>().is_err() || text.contains(['/', ' ', '\r', '\n']) {
            return Err(bad());
        }
        Ok(Endpoint { address: text.into() })
    }

    /// Sends a request and reads the head of the answer.
    pub(crate) fn post(&self, path: &str, body: &str) -> Result<Body> {
        let address = &self.address;
        let unavailable = |source| Error::Unavailable { address: address.clone(), source };
        let mut stream = self.connect().map_err(unavailable)?;
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n",
            body.len()
        );
        // In one piece: two would wait for each other.
        stream.write_all(format!("{head}{body}").as_bytes()).map_err(unavailable)?;
        let mut stream = BufReader::new(stream);
        let (status, framing) = read_head(&mut stream).map_err(unavailable)?;
        let mut body = Body { address: address.clone(), stream, framing };
        if status == 200 {
            return Ok(body);
        }
        let text = String::from_utf8_lossy(&body.read_to_end()?).into_owned();
        let message = serde_json::from_str::<serde_json::Value>(&text).ok();
        let message = message.and_then(|v| v["message"].as_str().map(str::to_string)).unwrap_or(text);
        if status >= 500 {
            // No leader, or none that answered it: another server may know better.
            return Err(unavailable(io::Error::other(message)));
        }
        Err(Error::Refused { address: address.clone(), message })
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in self.address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, CONNECT) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(SILENCE))?;
                    stream.set_write_timeout(Some(SILENCE))?;
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Err(e) => last = e,
            }
        }
        Err(last)
    }
}

/// Status and framing of an answer.
fn read_head(stream: &mut impl BufRead) -> io::Result<(u16, Framing)> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let first = read_line(stream)?;
    let status = first.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(invalid)?;
    let mut framing = Framing::ToTheEnd;
    for _ in 0..MAX_HEADERS {
        let line = read_line(stream)?;
        let Some((name, value)) = line.split_once(':') else {
            return if line.is_empty() { Ok((status, framing)) } else { Err(invalid()) };
        };
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            framing = Framing::Length(value.parse().map_err(|_| invalid())?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") && value.eq_ignore_ascii_case("chunked") {
            framing = Framing::Chunks(0);
        }
    }
    Err(invalid())
}

fn read_line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    stream.by_ref().take(MAX_LINE).read_line(&mut line)?;
    match line.strip_suffix('\n') {
        Some(text) => Ok(text.trim_end_matches('\r').into()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

impl Body {
    /// All of it.
    pub(crate) fn read_to_end(&mut self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        let address = self.address.clone();
        self.take(MAX_ANSWER)
            .read_to_end(&mut out)
            .map_err(|source| Error::Unavailable { address, source })?;
        Ok(out)
    }

    /// How long [`Read::read`] may wait.
    pub(crate) fn set_patience(&self, patience: Duration) -> io::Result<()> {
        self.stream.get_ref().set_read_timeout(Some(patience))
    }

    fn take(&mut self, limit: u64) -> io::Take<&mut Body> {
        Read::take(self, limit)
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Framing::Chunks(0) = self.framing {
            let mut line = read_line(&mut self.stream)?;
            if line.is_empty() {
                // The end of the chunk before.
                line = read_line(&mut self.stream)?;
            }
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(size, 16).map_err(|_| io::ErrorKind::InvalidData)?;
            self.framing = if size == 0 { Framing::Over } else { Framing::Chunks(size) };
        }
        let left = match self.framing {
            Framing::Over | Framing::Length(0) => return Ok(0),
            Framing::ToTheEnd => u64::MAX,
            Framing::Length(left) | Framing::Chunks(left) => left,
        };
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let got = self.stream.read(&mut buffer[..most])?;
        if let Framing::Length(left) | Framing::Chunks(left) = &mut self.framing {
            if got == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            *left -= u64::try_from(got).unwrap_or(*left);
        }
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that sends `answer` to whoever comes.
    fn ask(answer: &'static str) -> Result<String> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = Endpoint::parse(&listener.local_addr().unwrap().to_string()).unwrap();
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
        assert_eq!(ask("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokmore").unwrap(), "ok");
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
}
