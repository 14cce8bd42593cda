//! One blob to a registry: looked for, mounted, or uploaded.
//!
//! An upload is one `PUT` of the whole blob. Where that breaks, the registry is asked how far it got and the rest
//! follows as `PATCH`, closed by an empty `PUT`; where it is refused as too large, the blob goes in chunks.
//!
//! Spec: distribution-spec, "Pushing blobs".

use crate::answer::header;
use crate::error::Answer;
use crate::push::{Outgoing, Push, PushProgress, push_scope};
use crate::send::{Payload, SendBody};
use crate::transport::{Reply, Request};
use crate::url::Url;
use crate::{Auth, Error};
use errors::Report;
use http::header::{CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use http::{HeaderMap, HeaderValue, Method};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::sleep;

/// Repositories that are tried as the source of a mount. Each costs a round trip.
const MAX_SOURCES: usize = 3;
/// Size of chunks for a registry, or something before it, that takes no large bodies.
const CHUNK: u64 = 8 << 20;
/// Largest chunk that a registry may ask for as its smallest.
const MAX_CHUNK: u64 = 1 << 30;
/// Shortest time between two reports.
const REPORT_EVERY: Duration = Duration::from_millis(100);
/// An upload that got so much further starts counting its failures anew.
const REAL_PROGRESS: u64 = 1 << 20;

/// One blob's way.
pub(crate) struct Upload<'a> {
    push: &'a Push<'a>,
    blob: &'a Outgoing,
    /// Where the registry wants the next request of the upload that is under way.
    location: Option<Url>,
    /// The registry has to be asked how far it got.
    unsure: bool,
    /// Bytes that the registry has.
    offset: u64,
    /// Size of chunks; none while the whole is sent at once.
    chunk: Option<u64>,
    /// Smallest chunk that the registry takes.
    min_chunk: u64,
    /// Why the caller's store failed, when it did.
    broken: Arc<Mutex<Option<Report>>>,
}

/// How one try ended, if not well.
enum Failure {
    Fatal(Error),
    /// The registry forgot the upload, or counts otherwise than we do.
    Lost(Error),
    /// The body was too large for someone.
    TooLarge(Error),
    /// Worth another try, a little later.
    Passing(Error),
}

impl<'a> Upload<'a> {
    pub(crate) fn new(push: &'a Push<'a>, blob: &'a Outgoing) -> Upload<'a> {
        Upload {
            push,
            blob,
            location: None,
            unsure: false,
            offset: 0,
            chunk: None,
            min_chunk: 0,
            broken: Arc::default(),
        }
    }

    pub(crate) async fn run(mut self) -> Result<(), Error> {
        let digest = self.blob.descriptor.digest;
        if self.exists().await? {
            self.tell(PushProgress::Exists { digest });
            return Ok(());
        }
        if let Some(from) = self.mount().await? {
            self.tell(PushProgress::Mounted { digest, from });
            return Ok(());
        }
        let (mut failures, mut mark) = (0, 0);
        loop {
            let failure = match self.attempt().await {
                Ok(()) => break,
                Err(failure) => failure,
            };
            self.unsure = true;
            let (error, asked) = match failure {
                Failure::Fatal(error) => return Err(error),
                Failure::TooLarge(error) if self.chunk.is_some() => return Err(error),
                Failure::TooLarge(error) => {
                    self.chunk = Some(CHUNK.max(self.min_chunk));
                    self.location = None;
                    (error, Some(Duration::ZERO))
                }
                Failure::Lost(error) => {
                    self.location = None;
                    (error, None)
                }
                Failure::Passing(error) => {
                    let asked = match &error {
                        Error::Registry { source, .. } => source.retry_after(),
                        _ => None,
                    };
                    (error, asked)
                }
            };
            if let Some(source) = self.broken.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return Err(Error::Source { digest, source });
            }
            if self.offset >= mark + REAL_PROGRESS {
                (failures, mark) = (0, self.offset);
            }
            failures += 1;
            if failures > self.push.client.config().max_retries
                || self.push.client.transport().is_too_long(asked)
            {
                return Err(error);
            }
            if asked == Some(Duration::ZERO) {
                continue;
            }
            let after = self.push.client.pause(failures, asked);
            tracing::debug!(%digest, at = self.offset, error = errors::chain(&error), "retrying upload");
            self.tell(PushProgress::Retrying { digest, after });
            sleep(after).await;
        }
        self.tell(PushProgress::Pushed { digest });
        Ok(())
    }

    fn tell(&self, event: PushProgress) {
        if self.blob.visible {
            self.push.source.progress(event);
        }
    }

    fn what(&self) -> String {
        format!("blob {} to {}", self.blob.descriptor.digest, self.push.reference.familiar_name())
    }

    fn request(&self, method: Method, path: String) -> Request {
        let scope = push_scope(self.push.reference);
        Request {
            method,
            path,
            headers: HeaderMap::new(),
            own_headers: HeaderMap::new(),
            scope,
            payload: Payload::Empty,
        }
    }

    /// Whether the repository has the blob.
    async fn exists(&self) -> Result<bool, Error> {
        let path = format!("/v2/{}/blobs/{}", self.push.reference.repository(), self.blob.descriptor.digest);
        let request = self.request(Method::HEAD, path);
        let reply = self.push.client.transport().request(&self.push.endpoint, &request, self.push.auth);
        match reply.await? {
            Ok(_) => Ok(true),
            Err(answer) if answer.status == 404 => Ok(false),
            Err(answer) => Err(self.push.refusal(answer, &self.what())),
        }
    }

    /// Asks the registry to take the blob from another of its repositories. Which one it took it from; an upload
    /// that it began in place of that is gone on with. No refusal counts: the blob can still be sent.
    async fn mount(&mut self) -> Result<Option<String>, Error> {
        let repository = self.push.reference.repository();
        for from in self.blob.sources.iter().filter(|from| *from != repository).take(MAX_SOURCES) {
            let mut request = self.request(Method::POST, String::new());
            request.path = format!("/v2/{repository}/blobs/uploads/");
            request.scope += &format!(" repository:{from}:pull");
            let mut url = self.push.client.transport().url(&self.push.endpoint, &request.path).await?;
            url.push_query("mount", &self.blob.descriptor.digest.to_string());
            url.push_query("from", from);
            match self.push.client.transport().once_at(&url, &request, self.push.auth).await {
                Ok(Ok(response)) if response.status().as_u16() == 201 => return Ok(Some(from.clone())),
                Ok(Ok(response)) => {
                    self.begun(&url, response.headers())?;
                    return Ok(None);
                }
                Ok(Err(answer)) => tracing::debug!(from, %answer, "mount refused"),
                Err(error) => tracing::debug!(from, error = errors::chain(&error), "mount failed"),
            }
        }
        Ok(None)
    }

    /// Sends the blob, or what the registry does not have of it.
    async fn attempt(&mut self) -> Result<(), Failure> {
        if self.unsure && self.location.is_some() {
            match self.ask().await {
                // CNCF distribution, for one, forgets what broke in the middle of a request.
                Err(Failure::Lost(_)) => self.location = None,
                asked => asked?,
            }
        }
        self.unsure = false;
        if self.location.is_none() {
            self.begin().await?;
        }
        let size = self.blob.descriptor.size;
        if self.offset == 0 && self.chunk.is_none() {
            return self.close(size).await;
        }
        while self.offset < size {
            let length = self.chunk.unwrap_or(size).max(self.min_chunk).min(size - self.offset);
            self.patch(length).await?;
        }
        self.close(0).await
    }

    /// Begins an upload.
    async fn begin(&mut self) -> Result<(), Failure> {
        let path = format!("/v2/{}/blobs/uploads/", self.push.reference.repository());
        let request = self.request(Method::POST, path);
        let transport = self.push.client.transport();
        let url = transport.url(&self.push.endpoint, &request.path).await.map_err(passing)?;
        let response = self.answered(transport.once_at(&url, &request, self.push.auth).await)?;
        self.begun(&url, response.headers()).map_err(Failure::Fatal)
    }

    fn begun(&mut self, url: &Url, headers: &HeaderMap) -> Result<(), Error> {
        self.offset = 0;
        self.location = Some(self.location_of(url, headers)?);
        let smallest = header(headers, "oci-chunk-min-length").and_then(|text| text.trim().parse().ok());
        self.min_chunk = smallest.unwrap_or(0).min(MAX_CHUNK);
        Ok(())
    }

    fn location_of(&self, url: &Url, headers: &HeaderMap) -> Result<Url, Error> {
        let text = header(headers, LOCATION.as_str()).unwrap_or_default();
        let mut next = url.join(text).ok_or_else(|| Error::Malformed {
            what: self.what(),
            reason: format!("the upload's location {:?} is no URL", crate::answer::printable(text)),
        })?;
        // Registries behind a proxy that ends TLS forget about it.
        if next.authority == url.authority {
            next.scheme = url.scheme;
        }
        let policy = &self.push.client.transport().policy;
        policy.check_target(&url.authority, &next).map_err(|reason| Error::RedirectRefused {
            host: url.authority.to_string(),
            reason: format!("upload location {reason}"),
        })?;
        Ok(next)
    }

    /// Asks how much of the upload the registry has.
    async fn ask(&mut self) -> Result<(), Failure> {
        let Some(location) = self.location.clone() else { return Ok(()) };
        let request = self.request(Method::GET, String::new());
        let response = self.send(&location, &request).await?;
        let range = header(response.headers(), RANGE.as_str()).unwrap_or_default();
        // `0-0` stands for nothing, as well as for one byte; starting over is right for both.
        let end = range.rsplit('-').next().and_then(|end| end.trim().parse::<u64>().ok()).unwrap_or(0);
        let offset = if end == 0 { 0 } else { end + 1 };
        if offset > self.blob.descriptor.size {
            let reason = format!("the registry has {offset} bytes of it already");
            return Err(Failure::Lost(Error::Malformed { what: self.what(), reason }));
        }
        if header(response.headers(), LOCATION.as_str()).is_some() {
            self.location = Some(self.location_of(&location, response.headers()).map_err(Failure::Fatal)?);
        }
        self.offset = offset;
        Ok(())
    }

    /// Sends the next `length` bytes.
    async fn patch(&mut self, length: u64) -> Result<(), Failure> {
        let Some(location) = self.location.clone() else { return Ok(()) };
        let mut request = self.request(Method::PATCH, String::new());
        let range = format!("{}-{}", self.offset, self.offset + length - 1);
        request.headers.insert(CONTENT_RANGE, crate::client::value(&range));
        let response = self.send_body(&location, request, length).await?;
        self.location = Some(self.location_of(&location, response.headers()).map_err(Failure::Fatal)?);
        self.offset += length;
        Ok(())
    }

    /// Ends the upload with its last `length` bytes, and has the registry check the digest.
    async fn close(&mut self, length: u64) -> Result<(), Failure> {
        let Some(mut location) = self.location.clone() else { return Ok(()) };
        let digest = self.blob.descriptor.digest;
        location.push_query("digest", &digest.to_string());
        let request = self.request(Method::PUT, String::new());
        let response = self.send_body(&location, request, length).await?;
        self.push.check_digest(response.headers(), &digest, self.what()).map_err(Failure::Fatal)
    }

    /// Sends `length` bytes from where the upload stands, and reports how far that is.
    async fn send_body(
        &self,
        location: &Url,
        mut request: Request,
        length: u64,
    ) -> Result<http::Response<hyper::body::Incoming>, Failure> {
        if length == 0 {
            return self.send(location, &request).await;
        }
        request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        let sent = Arc::new(AtomicU64::new(0));
        let (source, digest, offset) =
            (Arc::clone(&self.push.source), self.blob.descriptor.digest, self.offset);
        let (counter, broken) = (Arc::clone(&sent), Arc::clone(&self.broken));
        request.payload = Payload::Stream(Arc::new(move || {
            counter.store(0, Ordering::Relaxed);
            let (source, broken) = (Arc::clone(&source), Arc::clone(&broken));
            let open = move || {
                source.open(&digest, offset).map_err(|report| {
                    let text = report.to_string();
                    *broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
                    io::Error::other(text)
                })
            };
            SendBody::read(open, length, Arc::clone(&counter))
        }));
        let total = self.blob.descriptor.size;
        let report = |sent: u64| {
            let current = (offset + sent).min(total);
            self.tell(PushProgress::Pushing { digest, current, total });
        };
        let mut answer = std::pin::pin!(self.send(location, &request));
        let mut ticks = tokio::time::interval(REPORT_EVERY);
        let mut shown = 0;
        loop {
            tokio::select! {
                answer = &mut answer => {
                    if answer.is_ok() {
                        report(length);
                    }
                    return answer;
                }
                _ = ticks.tick() => match sent.load(Ordering::Relaxed) {
                    now if now == shown => {}
                    now => {
                        shown = now;
                        report(now);
                    }
                },
            }
        }
    }

    /// One request of the upload. Credentials go to the registry's own origin only.
    async fn send(
        &self,
        url: &Url,
        request: &Request,
    ) -> Result<http::Response<hyper::body::Incoming>, Failure> {
        let transport = self.push.client.transport();
        let own = transport.url(&self.push.endpoint, "/").await.map_err(passing)?;
        let auth = if url.same_origin(&own) { self.push.auth } else { &Auth::Anonymous };
        self.answered(transport.once_at(url, request, auth).await)
    }

    fn answered(
        &self,
        reply: Result<Reply, Error>,
    ) -> Result<http::Response<hyper::body::Incoming>, Failure> {
        let answer: Answer = match reply {
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(answer)) => answer,
            Err(error) => return Err(passing(error)),
        };
        let (status, temporary) = (answer.status, answer.is_temporary());
        let lost = matches!(status, 404 | 416) && self.location.is_some();
        let error = self.push.refusal(answer, &self.what());
        Err(match status {
            _ if lost => Failure::Lost(error),
            413 => Failure::TooLarge(error),
            _ if temporary => Failure::Passing(error),
            _ => Failure::Fatal(error),
        })
    }
}

/// What broke on the way may go better next time; what was decided stays decided.
fn passing(error: Error) -> Failure {
    match error {
        Error::Network { .. } | Error::Timeout { .. } => Failure::Passing(error),
        Error::Connect { ref source, .. } if source.kind() != io::ErrorKind::InvalidData => {
            Failure::Passing(error)
        }
        other => Failure::Fatal(other),
    }
}
