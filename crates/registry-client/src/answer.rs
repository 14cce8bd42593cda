//! What registries and token servers say when they refuse, and bodies read whole.

use crate::Error;
use crate::error::Answer;
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use std::time::Duration;
use tokio::time::timeout;

/// Longest error body that we read. Real ones have a few hundred bytes.
const MAX_ERROR_BODY: u64 = 16 << 10;
/// Most characters of a registry's message that we repeat.
const MAX_MESSAGE: usize = 300;
/// A document may take this many times the idle limit altogether.
const DOCUMENT_PATIENCE: u32 = 5;

impl Answer {
    /// Reads the refusal in `response`, as far as it can be read.
    pub(crate) async fn read(response: Response<Incoming>, idle: Duration) -> Answer {
        let (head, body) = response.into_parts();
        let is_html = header(&head.headers, CONTENT_TYPE.as_str()).is_some_and(|t| t.contains("html"));
        // The status says enough when the body cannot be had.
        let body = collect(body, MAX_ERROR_BODY, "error body", idle).await.unwrap_or_default();
        let mut answer = if is_html { Answer::default() } else { Answer::parse(&body) };
        answer.status = head.status.as_u16();
        // The other form, a date, is rare: there our own pauses do.
        answer.retry_after_s =
            header(&head.headers, RETRY_AFTER.as_str()).and_then(|seconds| seconds.trim().parse().ok());
        answer
    }

    /// An answer of our own, for where the registry sent nothing.
    pub(crate) fn new(status: StatusCode, code: &str, message: &str) -> Answer {
        Answer { status: status.as_u16(), code: code.into(), message: message.into(), retry_after_s: None }
    }

    /// How long the registry asks to be left alone.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        self.retry_after_s.map(|seconds| Duration::from_secs(seconds.into()))
    }

    /// Whether the same request may succeed a little later.
    pub(crate) fn is_temporary(&self) -> bool {
        matches!(self.status, 408 | 429 | 500 | 502 | 503 | 504)
    }

    /// Understands `{"errors":[{"code","message"}]}` of registries, `{"error","error_description"}` of OAuth,
    /// `{"details"}` and `{"message"}` of token servers, and short plain text.
    fn parse(body: &[u8]) -> Answer {
        let Ok(json) = serde_json::from_slice::<serde_json::Value>(body) else {
            let text = std::str::from_utf8(body).unwrap_or_default();
            return Answer { message: printable(text), ..Answer::default() };
        };
        let error = json.get("errors").and_then(|list| list.get(0)).unwrap_or(&json);
        let text = |names: &[&str]| {
            let found = names.iter().find_map(|name| error.get(name)?.as_str());
            printable(found.unwrap_or_default())
        };
        let message = text(&["message", "error_description", "details"]);
        Answer { code: text(&["code", "error"]), message, ..Answer::default() }
    }
}

/// One line without control characters and direction overrides, cut to [`MAX_MESSAGE`].
pub(crate) fn printable(text: &str) -> String {
    let harmless = |c: char| {
        let overrides =
            matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || overrides { ' ' } else { c }
    };
    text.chars().take(MAX_MESSAGE).map(harmless).collect::<String>().trim().to_string()
}

/// The value of a header, when it is text.
pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Reads a body of at most `limit` bytes.
///
/// # Errors
///
/// [`Error::TooLarge`], [`Error::Timeout`], [`Error::Network`].
pub(crate) async fn collect(
    mut body: Incoming,
    limit: u64,
    what: &str,
    idle: Duration,
) -> Result<Bytes, Error> {
    let too_large = || Error::TooLarge { what: what.to_string(), limit };
    if hyper::body::Body::size_hint(&body).lower() > limit {
        return Err(too_large());
    }
    let patience = idle * DOCUMENT_PATIENCE;
    let read = async {
        let mut out = BytesMut::new();
        while let Some(piece) = next_piece(&mut body, what, idle).await? {
            if (out.len() + piece.len()) as u64 > limit {
                return Err(too_large());
            }
            out.extend_from_slice(&piece);
        }
        Ok(out.freeze())
    };
    match timeout(patience, read).await {
        Ok(result) => result,
        Err(_) => Err(Error::Timeout { what: what.to_string(), after: patience }),
    }
}

/// The next piece of a body; `None` at its end.
pub(crate) async fn next_piece(
    body: &mut Incoming,
    what: &str,
    idle: Duration,
) -> Result<Option<Bytes>, Error> {
    loop {
        let frame = match timeout(idle, body.frame()).await {
            Err(_) => return Err(Error::Timeout { what: what.to_string(), after: idle }),
            Ok(None) => return Ok(None),
            Ok(Some(Err(error))) => {
                return Err(Error::Network {
                    what: what.to_string(),
                    source: std::io::Error::other(errors::chain(&error)),
                });
            }
            Ok(Some(Ok(frame))) => frame,
        };
        // Trailers say nothing to us.
        if let Ok(piece) = frame.into_data() {
            return Ok(Some(piece));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_read() {
        let check = |body: &str, expected: &str| {
            let answer = Answer { status: 418, ..Answer::parse(body.as_bytes()) };
            assert_eq!(answer.to_string(), expected, "{body}");
        };
        check(
            r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"x":1}}]}"#,
            "manifest unknown: manifest unknown",
        );
        check(r#"{"error":"invalid_grant","error_description":"gone"}"#, "invalid grant: gone");
        check(
            r#"{"details":"incorrect username or password"}"#,
            "unexpected status code 418: incorrect username or password",
        );
        check(r#"{"errors":[]}"#, "unexpected status code 418");
        check("", "unexpected status code 418");
        check("busy\u{1b}[31m\u{202e}\n", "unexpected status code 418: busy [31m");
    }

    #[test]
    fn messages_are_cut() {
        let long = format!(r#"{{"errors":[{{"code":"X","message":"{}"}}]}}"#, "a".repeat(5000));
        assert_eq!(Answer::parse(long.as_bytes()).message.len(), MAX_MESSAGE);
    }
}
