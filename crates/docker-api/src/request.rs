//! What handlers read of a request: query values and bounded JSON bodies.

use crate::reply::Failure;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Largest JSON body. A create request with the longest environment that a kernel takes fits.
const MAX_JSON: usize = 8 << 20;
/// Bodies up to this are nobody's concern; nearly all are shorter than a tenth of it.
const SMALL: usize = 64 << 10;
/// Longer ones at a time, of all connections together: what is made of a body takes several times its bytes.
const LARGE_AT_ONCE: usize = 4;
/// How long one of them waits for its turn.
const TURN_DEADLINE: Duration = Duration::from_secs(60);
/// How long it may take to arrive then: one that trickles would keep the turn from others.
const ARRIVAL_DEADLINE: Duration = Duration::from_secs(120);

static LARGE: Semaphore = Semaphore::const_new(LARGE_AT_ONCE);

/// A request after routing.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) request: Request<Incoming>,
    pub(crate) query: Query,
    /// API version of the path, as (major, minor).
    pub(crate) version: (u32, u32),
}

/// The turn of a large body, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _permit: Option<SemaphorePermit<'static>>,
}

impl Call {
    /// Whether the client's API is at least 1.`minor`.
    pub(crate) fn at_least(&self, minor: u32) -> bool {
        self.version >= (1, minor)
    }

    /// Header `name` as text, empty when absent.
    pub(crate) fn header(&self, name: &str) -> String {
        self.request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_string()
    }

    /// The body as JSON; an empty body is `T::default()`.
    pub(crate) async fn json<T: serde::de::DeserializeOwned + Default>(self) -> Result<T, Failure> {
        let (bytes, _turn) = self.bounded().await?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(T::default());
        }
        serde_json::from_slice(&bytes).map_err(|e| Failure::bad_request(format!("invalid JSON: {e}")))
    }

    /// The whole body, and what is to be kept for as long as it is worked on.
    pub(crate) async fn bytes(self) -> Result<(Vec<u8>, Turn), Failure> {
        let (bytes, turn) = self.bounded().await?;
        Ok((bytes, Turn { _permit: turn }))
    }

    /// The whole body, and the turn of one that is large, for as long as it is worked on.
    async fn bounded(self) -> Result<(Vec<u8>, Option<SemaphorePermit<'static>>), Failure> {
        let mut body = Limited::new(self.request.into_body(), MAX_JSON);
        let mut bytes = Vec::new();
        while bytes.len() <= SMALL {
            match piece(&mut body).await? {
                Some(more) => bytes.extend_from_slice(&more),
                None => return Ok((bytes, None)),
            }
        }
        let busy = || Failure::new(StatusCode::SERVICE_UNAVAILABLE, "too many large requests at once");
        let late = |_| Failure::new(StatusCode::REQUEST_TIMEOUT, "the request's body does not arrive");
        let turn = tokio::time::timeout(TURN_DEADLINE, LARGE.acquire()).await;
        let turn = turn.ok().and_then(Result::ok).ok_or_else(busy)?;
        let rest = async {
            while let Some(more) = piece(&mut body).await? {
                bytes.extend_from_slice(&more);
            }
            Ok::<(), Failure>(())
        };
        tokio::time::timeout(ARRIVAL_DEADLINE, rest).await.map_err(late)??;
        Ok((bytes, Some(turn)))
    }
}

/// The next piece of a body; None at its end.
async fn piece(body: &mut Limited<Incoming>) -> Result<Option<Bytes>, Failure> {
    loop {
        match body.frame().await.transpose() {
            Ok(None) => return Ok(None),
            Ok(Some(frame)) => {
                // Trailers say nothing to us.
                if let Ok(bytes) = frame.into_data() {
                    return Ok(Some(bytes));
                }
            }
            Err(e) if e.is::<LengthLimitError>() => {
                return Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than 8 MiB"));
            }
            Err(e) => return Err(Failure::bad_request(format!("reading the body: {e}"))),
        }
    }
}

/// The values after `?`.
#[derive(Debug, Default)]
pub(crate) struct Query(HashMap<String, Vec<String>>);

impl Query {
    pub(crate) fn parse(text: &str) -> Query {
        let mut out: HashMap<String, Vec<String>> = HashMap::new();
        for pair in text.split('&').filter(|p| !p.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            out.entry(decode(key)).or_default().push(decode(value));
        }
        Query(out)
    }

    /// The first value, empty when absent.
    pub(crate) fn text(&self, key: &str) -> &str {
        self.0.get(key).and_then(|v| v.first()).map_or("", String::as_str)
    }

    /// All values, in the order given.
    pub(crate) fn list(&self, key: &str) -> Vec<String> {
        self.0.get(key).cloned().unwrap_or_default()
    }

    /// All values, in order.
    pub(crate) fn all(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// Go's rule of Docker: absent, empty, `0`, `no`, `false` and `none` are false, all else is true.
    pub(crate) fn flag(&self, key: &str) -> bool {
        !matches!(self.text(key).to_ascii_lowercase().trim(), "" | "0" | "no" | "false" | "none")
    }

    /// A number; None when absent or empty.
    pub(crate) fn number<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>, Failure> {
        match self.text(key) {
            "" => Ok(None),
            text => {
                text.parse().map(Some).map_err(|_| Failure::bad_request(format!("invalid {key}: {text:?}")))
            }
        }
    }
}

/// Base64 of either alphabet, with or without padding.
pub(crate) fn from_base64(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
    let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let standard = text.replace('-', "+").replace('_', "/");
    GeneralPurpose::new(&base64::alphabet::STANDARD, lenient).decode(standard).ok()
}

/// Percent-decoding, `+` as a space.
pub(crate) fn decode(text: &str) -> String {
    let spaced = text.replace('+', " ");
    percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let query = Query::parse("a=1&b&c=x%2Fy+z&a=2&d=False&e=1");
        assert_eq!(query.text("a"), "1");
        assert_eq!(query.text("c"), "x/y z");
        assert!(
            query.flag("e") && query.flag("a") && !query.flag("b") && !query.flag("d") && !query.flag("none")
        );
        assert_eq!(query.number::<u32>("a").unwrap(), Some(1));
        assert!(query.number::<u32>("c").is_err());
    }
}
