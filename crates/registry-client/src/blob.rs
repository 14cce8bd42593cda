//! The body of a blob, piece by piece, never more than its descriptor promises.

use crate::Error;
use crate::answer::{header, next_piece};
use crate::error::Received;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE};
use http::{Response, StatusCode};
use hyper::body::Incoming;
use std::time::{Duration, Instant};

/// Fewest bytes in a second, over the idle limit, of a connection that is worth keeping.
const SLOWEST: u64 = 512;

/// The bytes of a blob, in order. Dropping it closes the connection.
///
/// It counts, it does not hash: whoever puts the pieces together checks the digest.
#[derive(Debug)]
pub struct BlobStream {
    /// `None`: nothing (more) to read.
    body: Option<Incoming>,
    resumed: bool,
    at: u64,
    size: u64,
    what: String,
    idle: Duration,
    /// When the present stretch of time began, and where.
    since: Instant,
    since_at: u64,
}

impl BlobStream {
    /// A stream without bytes.
    pub(crate) fn empty(size: u64, what: String) -> BlobStream {
        BlobStream {
            body: None,
            resumed: true,
            at: size,
            size,
            what,
            idle: Duration::ZERO,
            since: Instant::now(),
            since_at: size,
        }
    }

    /// Checks the head of the answer to a request for a blob of `size` bytes from `offset` on.
    pub(crate) fn open(
        response: Response<Incoming>,
        offset: u64,
        size: u64,
        what: String,
        idle: Duration,
    ) -> Result<BlobStream, Error> {
        let resumed = response.status() == StatusCode::PARTIAL_CONTENT;
        let mut at = 0;
        if resumed {
            let range = header(response.headers(), CONTENT_RANGE.as_str()).unwrap_or_default();
            let Some((start, total)) = parse_range(range) else {
                return Err(Error::Malformed { what, reason: format!("unreadable Content-Range {range:?}") });
            };
            if start != offset {
                let reason = format!("asked for bytes from {offset} on, but received bytes from {start} on");
                return Err(Error::Malformed { what, reason });
            }
            if let Some(total) = total
                && total != size
            {
                return Err(Error::SizeMismatch { what, expected: size, actual: Received::Exactly(total) });
            }
            at = start;
        }
        let promised = header(response.headers(), CONTENT_LENGTH.as_str()).and_then(|text| text.parse().ok());
        if let Some(promised) = promised.map(|length: u64| at.saturating_add(length))
            && promised != size
        {
            return Err(Error::SizeMismatch { what, expected: size, actual: Received::Exactly(promised) });
        }
        Ok(BlobStream {
            body: Some(response.into_body()),
            resumed,
            at,
            size,
            what,
            idle,
            since: Instant::now(),
            since_at: at,
        })
    }

    /// Whether the registry honoured the offset. If not, the stream starts at the blob's first byte.
    pub fn resumed(&self) -> bool {
        self.resumed
    }

    /// The next piece, never empty; `None` when the blob has as many bytes as its descriptor promises. Cancel-safe.
    ///
    /// # Errors
    ///
    /// [`Error::SizeMismatch`] when the body is shorter or longer than promised; [`Error::Network`] and
    /// [`Error::Timeout`] when it stops or hardly moves. The stream has ended after an error.
    pub async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        let body = self.body.as_mut()?;
        let result = loop {
            match next_piece(body, &self.what, self.idle).await {
                Ok(Some(piece)) if piece.is_empty() => {}
                Ok(Some(piece)) => break self.count(piece),
                Ok(None) if self.at == self.size => {
                    self.body = None;
                    return None;
                }
                Ok(None) => break Err(self.mismatch(Received::Exactly(self.at))),
                Err(error) => break Err(error),
            }
        };
        if result.is_err() {
            self.body = None;
        }
        Some(result)
    }

    fn count(&mut self, piece: Bytes) -> Result<Bytes, Error> {
        self.at = self.at.saturating_add(piece.len() as u64);
        if self.at > self.size {
            return Err(self.mismatch(Received::MoreThan(self.size)));
        }
        // A peer that sends a byte now and then holds up a pull as one that sends none, only longer.
        let (took, came) = (self.since.elapsed(), self.at - self.since_at);
        if took >= self.idle {
            if self.at < self.size && came < SLOWEST * took.as_secs().max(1) {
                return Err(Error::Timeout { what: self.what.clone(), after: took });
            }
            (self.since, self.since_at) = (Instant::now(), self.at);
        }
        Ok(piece)
    }

    fn mismatch(&self, actual: Received) -> Error {
        Error::SizeMismatch { what: self.what.clone(), expected: self.size, actual }
    }
}

/// Start and, when known, total of `bytes START-END/TOTAL`.
fn parse_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    Some((start.trim().parse().ok()?, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read() {
        assert_eq!(parse_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(parse_range("bytes 5-9/*"), Some((5, None)));
        for bad in ["", "bytes */10", "bytes 5-9", "items 1-2/3", "bytes -1-2/3", "bytes 1-2/x"] {
            assert_eq!(parse_range(bad), None, "{bad}");
        }
    }
}
