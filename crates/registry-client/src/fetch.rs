//! A file behind a URL, for `ADD`, remote build contexts and imports: the same connections, TLS rules, proxies and redirects as for
//! registries, and no credentials but those
//! that the caller gives.

use crate::answer::{header, next_piece};
use crate::error::Answer;
use crate::send::Payload;
use crate::transport::Request;
use crate::url::Url;
use crate::{Client, Error};
use bytes::Bytes;
use http::header::IF_NONE_MATCH;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
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
    /// `ETag`, as it was sent.
    pub etag: Option<String>,
    /// `Content-Type`, as it was sent.
    pub content_type: Option<String>,
    /// How many bytes are promised, where the server says so.
    pub length: Option<u64>,
}

/// Who asks for a file, and what of it is known.
#[derive(Default, Clone)]
pub struct Terms {
    /// A value for `Authorization`, which only the host of the URL gets and not where it leads to.
    pub authorization: Option<String>,
    /// The `ETag` of what is known.
    pub etag: Option<String>,
}

impl std::fmt::Debug for Terms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Terms").field("etag", &self.etag).finish_non_exhaustive()
    }
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
        match self.fetch_on(url, &Terms::default()).await? {
            Some(stream) => Ok(stream),
            None => Err(Error::Malformed {
                what: format!("GET {url}"),
                reason: "the server says that it has not changed, which it was not asked".into(),
            }),
        }
    }

    /// As [`Client::fetch`]; nothing where the file is as it is known.
    ///
    /// # Errors
    ///
    /// As [`Client::fetch`]; [`Error::Malformed`] for terms that no header can have.
    pub async fn fetch_on(&self, url: &str, terms: &Terms) -> Result<Option<FileStream>, Error> {
        let what = || format!("GET {url}");
        let malformed = |reason: &str| Error::Malformed { what: what(), reason: reason.into() };
        let at = Url::parse(url).ok_or_else(|| malformed("not an http or https URL"))?;
        let mut headers = HeaderMap::new();
        if let Some(etag) = &terms.etag {
            let value = HeaderValue::from_str(etag).map_err(|_| malformed("the ETag is no header"))?;
            headers.insert(IF_NONE_MATCH, value);
        }
        let authorization = match &terms.authorization {
            Some(text) => {
                let value = HeaderValue::from_str(text);
                let mut value = value.map_err(|_| malformed("the authorization is no header"))?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        let request = Request {
            method: Method::GET,
            path: String::new(),
            headers,
            own_headers: HeaderMap::new(),
            scope: String::new(),
            payload: Payload::Empty,
        };
        let (response, _) = self.transport().follow(&at, &request, authorization).await?;
        if response.status() == StatusCode::NOT_MODIFIED && terms.etag.is_some() {
            return Ok(None);
        }
        if !response.status().is_success() {
            let source = Answer::read(response, self.config().timeouts.idle).await;
            return Err(Error::Registry { what: what(), source });
        }
        let text = |name: &str| header(response.headers(), name).map(str::to_string);
        let (last_modified, content_type, etag) = (text("last-modified"), text("content-type"), text("etag"));
        let idle = self.config().timeouts.idle;
        let body = response.into_body();
        let length = hyper::body::Body::size_hint(&body).exact();
        Ok(Some(FileStream { body, what: what(), idle, last_modified, etag, content_type, length }))
    }
}
