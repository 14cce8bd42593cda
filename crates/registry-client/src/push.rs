//! A whole image, from the caller's blobs to a name at a registry.
//!
//! ```text
//! for each blob, side by side      HEAD: the registry has it: nothing is sent
//!                                  POST mount: another repository there has it: nothing is sent
//!                                  upload, resumed where it breaks
//! for each document, in order      PUT by digest, the last by the reference's name
//! ```
//!
//! Documents go out as the bytes they are, so digests are the same on both sides. A name appears last: a push that
//! is given up leaves blobs that nobody names, which the registry collects, and the next push finds.

use crate::answer::header;
use crate::error::Answer;
use crate::send::Payload;
use crate::transport::{Endpoint, Request};
use crate::upload::Upload;
use crate::{Auth, Client, Error};
use bytes::Bytes;
use errors::Report;
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::{self, StreamExt as _};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method};
use oci::image::MAX_MANIFEST;
use oci::reference::DEFAULT_TAG;
use oci::{Descriptor, Digest, Reference};
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

/// Where a push reads from.
pub trait Source: Send + Sync + 'static {
    /// Opens a blob at byte `offset`. Called on blocking threads, again for each try.
    ///
    /// # Errors
    ///
    /// End the push as [`Error::Source`].
    fn open(&self, digest: &Digest, offset: u64) -> Result<Box<dyn Read + Send>, Report>;

    /// Hears what happens. Called on async threads: must return quickly.
    fn progress(&self, event: PushProgress);
}

/// A step of a push. Docker's words for it are in quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushProgress {
    /// A layer that is to be there in the end: "Preparing".
    Queued { digest: Digest },
    /// The registry has it in this repository: "Layer already exists".
    Exists { digest: Digest },
    /// The registry had it in another repository: "Mounted from".
    Mounted { digest: Digest, from: String },
    /// `current` of `total` bytes are sent: "Pushing". At most ten times a second for each layer.
    Pushing { digest: Digest, current: u64, total: u64 },
    /// The connection broke or the registry is busy: "Retrying in".
    Retrying { digest: Digest, after: Duration },
    /// The registry has taken and checked it: "Pushed".
    Pushed { digest: Digest },
}

/// What a push brings to a registry.
#[derive(Debug, Clone, Default)]
pub struct Shipment {
    /// Configs and layers, each once.
    pub blobs: Vec<Outgoing>,
    /// Manifests and indexes; what another names comes before it. The last is what the reference will name.
    pub documents: Vec<(Descriptor, Bytes)>,
}

/// A blob to push.
#[derive(Debug, Clone)]
pub struct Outgoing {
    pub descriptor: Descriptor,
    /// A layer, whose steps people see.
    pub visible: bool,
    /// Other repositories of the same registry that are believed to have it.
    pub sources: Vec<String>,
}

/// What a push asks a token for, on every request of it: one token does for all.
pub(crate) fn push_scope(reference: &Reference) -> String {
    format!("repository:{}:pull,push", reference.repository())
}

/// Pushes `shipment` to the repository of `reference`, under its tag (`latest` where it has neither tag nor digest).
///
/// Cancel-safe: dropping the future ends all uploads.
///
/// # Errors
///
/// [`Error::PushDenied`], [`Error::Login`] and the like in Docker's words; [`Error::Source`] when the caller's store
/// fails; [`Error::DigestMismatch`] when the registry claims to have stored something else.
///
/// Spec: distribution-spec, "Push".
pub async fn push(
    client: &Client,
    reference: &Reference,
    auth: &Auth,
    shipment: &Shipment,
    source: Arc<dyn Source>,
) -> Result<(), Error> {
    let endpoint = client.own_endpoint(reference).await?;
    let push = Push { client, endpoint, reference, auth, source };
    push.run(shipment).await
}

/// One push, for all that take part in it.
pub(crate) struct Push<'a> {
    pub(crate) client: &'a Client,
    pub(crate) endpoint: Endpoint,
    pub(crate) reference: &'a Reference,
    pub(crate) auth: &'a Auth,
    pub(crate) source: Arc<dyn Source>,
}

impl Push<'_> {
    async fn run(&self, shipment: &Shipment) -> Result<(), Error> {
        for blob in shipment.blobs.iter().filter(|blob| blob.visible) {
            self.source.progress(PushProgress::Queued { digest: blob.descriptor.digest });
        }
        // Boxed for the same reason as those of a pull.
        let jobs: Vec<BoxFuture<'_, Result<(), Error>>> =
            shipment.blobs.iter().map(|blob| Upload::new(self, blob).run().boxed()).collect();
        let at_once = self.client.config().max_concurrent_uploads.max(1);
        let mut work = stream::iter(jobs).buffer_unordered(at_once);
        while let Some(done) = work.next().await {
            done?;
        }
        let last = shipment.documents.len().saturating_sub(1);
        for (at, (descriptor, body)) in shipment.documents.iter().enumerate() {
            let name = match self.reference.digest() {
                None if at == last => self.reference.tag().unwrap_or(DEFAULT_TAG).to_string(),
                _ => descriptor.digest.to_string(),
            };
            self.document(&name, descriptor, body).await?;
        }
        Ok(())
    }

    /// Puts a manifest or index under `name`, and has it listed where it is about another.
    async fn document(&self, name: &str, descriptor: &Descriptor, body: &Bytes) -> Result<(), Error> {
        let answer = self.put(name, descriptor, body).await?;
        self.note_referrer(descriptor, body, &answer).await
    }

    /// Puts a manifest or index under `name`. Returns the headers of the answer.
    pub(crate) async fn put(
        &self,
        name: &str,
        descriptor: &Descriptor,
        body: &Bytes,
    ) -> Result<HeaderMap, Error> {
        let what = format!("manifest {} as {name}", self.reference.familiar_name());
        if body.len() > MAX_MANIFEST {
            return Err(Error::TooLarge { what, limit: MAX_MANIFEST as u64 });
        }
        let mut headers = HeaderMap::new();
        let media_type = HeaderValue::from_str(&descriptor.media_type).map_err(|_| Error::Malformed {
            what: what.clone(),
            reason: "its media type is no header's value".into(),
        })?;
        headers.insert(CONTENT_TYPE, media_type);
        let request = Request {
            method: Method::PUT,
            path: format!("/v2/{}/manifests/{name}", self.reference.repository()),
            headers,
            scope: push_scope(self.reference),
            own_headers: HeaderMap::new(),
            payload: Payload::Bytes(body.clone()),
        };
        let response = match self.client.transport().request(&self.endpoint, &request, self.auth).await? {
            Ok(response) => response,
            Err(answer) => return Err(self.refusal(answer, &what)),
        };
        self.check_digest(response.headers(), &descriptor.digest, what)?;
        Ok(response.into_parts().0.headers)
    }

    /// Compares what the registry says it has stored with what was sent.
    pub(crate) fn check_digest(
        &self,
        headers: &HeaderMap,
        expected: &Digest,
        what: String,
    ) -> Result<(), Error> {
        // Another algorithm than ours says nothing.
        let said = header(headers, "docker-content-digest").and_then(|text| text.trim().parse().ok());
        match said {
            Some(actual) if actual != *expected => {
                Err(Error::DigestMismatch { what, expected: *expected, actual })
            }
            _ => Ok(()),
        }
    }

    /// The error for a refusal of a request that writes.
    pub(crate) fn refusal(&self, mut answer: Answer, what: &str) -> Error {
        if matches!(answer.status, 401 | 403) {
            // An answer to HEAD has no words of its own; these are the registries'.
            let (code, message) = match answer.status {
                401 => ("UNAUTHORIZED", "authentication required"),
                _ => ("DENIED", "requested access to the resource is denied"),
            };
            if answer.code.is_empty() {
                answer.code = code.into();
            }
            if answer.message.is_empty() {
                answer.message = message.into();
            }
            let anonymous = self.auth.is_anonymous();
            return Error::PushDenied { name: self.reference.familiar_name(), anonymous, source: answer };
        }
        Error::Registry { what: format!("{} push {what}", self.reference.host()), source: answer }
    }
}
