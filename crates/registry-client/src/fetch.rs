//! A file behind a URL, for `ADD`, remote build contexts and imports: the same connections, TLS rules, proxies and redirects as for
//! registries, and no credentials.

use crate::answer::{header, next_piece};
use crate::error::Answer;
use crate::send::Payload;
use crate::transport::Request;
use crate::url::Url;
use crate::{Client, Error};
use bytes::Bytes;
use http::{HeaderMap, Method};
use hyper::body::Incoming;
use std::time::Duration;

/// A file that is arriving.
#[derive(Debug)]
pub struct FileStream {
    body: Incoming,
    what: String,
    idle: Duration,
    /// `Last-Modified`, as it was sent.
    pub last_modified: Option<String>,
    /// `Content-Type`, as it was sent.
    pub content_type: Option<String>,
    /// How many bytes are promised, where the server says so.
    pub length: Option<u64>,
}

impl FileStream {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`], [`Error::Network`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        next_piece(&mut self.body, &self.what, self.idle).await
    }
}

impl Client {
    /// Begins to read what is behind `url` (`http` or `https`).
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] for what is no such URL; [`Error::Registry`] for an answer other than success.
    pub async fn fetch(&self, url: &str) -> Result<FileStream, Error> {
        let what = || format!("GET {url}");
        let at = Url::parse(url)
            .ok_or_else(|| Error::Malformed { what: what(), reason: "not an http or https URL".into() })?;
        let request = Request {
            method: Method::GET,
            path: String::new(),
            headers: HeaderMap::new(),
            own_headers: HeaderMap::new(),
            scope: String::new(),
            payload: Payload::Empty,
        };
        let (response, _) = self.transport().follow(&at, &request, None).await?;
        if !response.status().is_success() {
            let source = Answer::read(response, self.config().timeouts.idle).await;
            return Err(Error::Registry { what: what(), source });
        }
        let text = |name: &str| header(response.headers(), name).map(str::to_string);
        let (last_modified, content_type) = (text("last-modified"), text("content-type"));
        let idle = self.config().timeouts.idle;
        let body = response.into_body();
        let length = hyper::body::Body::size_hint(&body).exact();
        Ok(FileStream { body, what: what(), idle, last_modified, content_type, length })
    }
}
