//! One registry operation at a time.

use crate::answer::{collect, header};
use crate::blob::BlobStream;
use crate::document::{self, Refusal};
use crate::error::Answer;
use crate::flight::Flights;
use crate::send::Payload;
use crate::token;
use crate::transport::{Endpoint, Reply, Request, Transport};
use crate::url::{Authority, Url};
use crate::{Auth, Config, Error};
use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, RANGE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use oci::image::MAX_MANIFEST;
use oci::reference::{DEFAULT_HOST, DEFAULT_TAG};
use oci::{Descriptor, Digest, Reference};
use std::sync::Arc;

/// Where `docker.io` lives.
const DOCKER_HUB: &str = "registry-1.docker.io";
/// How a registry tells the digest of what it sends. Spec: distribution-spec, "Pulling manifests".
const CONTENT_DIGEST: &str = "docker-content-digest";

/// A client for all registries. Cheap to clone; clones share connections and tokens.
///
/// References to `docker.io` go to the configured mirrors first, anonymously, and to Docker Hub when no mirror
/// delivers. Other references go to their own host.
#[derive(Debug, Clone)]
pub struct Client {
    transport: Arc<Transport>,
    mirrors: Arc<[Endpoint]>,
    flights: Arc<Flights>,
}

/// What [`Client::check_login`] found: the credentials are good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginStatus {
    /// A refresh token to keep in place of the password, when the token server gave one.
    pub identity_token: Option<String>,
}

impl Client {
    /// Prepares a client; opens no connection and no file.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] when an entry of the configuration cannot be read.
    pub fn new(config: Config) -> Result<Client, Error> {
        let transport = Transport::new(config)?;
        let mirrors = transport.config.mirrors.iter().map(|text| mirror(text, &transport));
        let mirrors = mirrors.collect::<Result<_, _>>()?;
        Ok(Client { transport: Arc::new(transport), mirrors, flights: Arc::default() })
    }

    /// The configuration it was made with.
    pub fn config(&self) -> &Config {
        &self.transport.config
    }

    /// Fetches the manifest or index that `reference` names by digest, else by tag, else by `latest`. The
    /// descriptor has the digest of the returned bytes, their length and a media type of [`oci::image`]; the bytes
    /// are the document as the registry stores it, at most [`MAX_MANIFEST`] of them.
    ///
    /// # Errors
    ///
    /// [`Error::ManifestUnknown`], [`Error::AccessDenied`] and the like in Docker's words;
    /// [`Error::DigestMismatch`] when the body is not what the reference, or the registry itself, says;
    /// [`Error::Schema1`], [`Error::NotAnImage`] and [`Error::Malformed`] when it is no document that we read.
    ///
    /// Spec: distribution-spec, "Pulling manifests".
    pub async fn resolve(&self, reference: &Reference, auth: &Auth) -> Result<(Descriptor, Bytes), Error> {
        let endpoints = self.endpoints(reference, Need::Manifest).await?;
        let mut failure = None;
        for (endpoint, auth) in with_auth(&endpoints, auth) {
            match self.resolve_at(endpoint, reference, auth).await {
                Ok(found) => return Ok(found),
                Err(error) => self.passed_over(endpoint, &mut failure, error),
            }
        }
        Err(last(failure))
    }

    /// Asks what `reference` names without fetching it. The descriptor is the registry's word, unverified, and may
    /// be used to see whether a tag has moved.
    ///
    /// # Errors
    ///
    /// As [`Client::resolve`].
    pub async fn head(&self, reference: &Reference, auth: &Auth) -> Result<Descriptor, Error> {
        let endpoints = self.endpoints(reference, Need::Manifest).await?;
        let mut failure = None;
        for (endpoint, auth) in with_auth(&endpoints, auth) {
            match self.head_at(endpoint, reference, auth).await {
                Ok(found) => return Ok(found),
                Err(error) => self.passed_over(endpoint, &mut failure, error),
            }
        }
        Err(last(failure))
    }

    /// Whether the registry itself, no mirror, has manifest `digest` in the repository of `reference`.
    ///
    /// # Errors
    ///
    /// As [`Client::resolve`], but for [`Error::ManifestUnknown`] and [`Error::RepositoryUnknown`].
    pub async fn has_manifest(
        &self,
        reference: &Reference,
        digest: &Digest,
        auth: &Auth,
    ) -> Result<bool, Error> {
        let pinned = reference.with_digest(*digest);
        let endpoint = self.own_endpoint(reference).await?;
        match self.head_at(&endpoint, &pinned, auth).await {
            Ok(_) => Ok(true),
            Err(Error::ManifestUnknown { .. } | Error::RepositoryUnknown { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Fetches the manifest or index `descriptor` from the repository of `reference`. Size and digest of the result
    /// are those of `descriptor`.
    ///
    /// # Errors
    ///
    /// As [`Client::resolve`], and [`Error::TooLarge`] when `descriptor` is larger than [`MAX_MANIFEST`].
    pub async fn manifest(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        auth: &Auth,
    ) -> Result<Bytes, Error> {
        let pinned = reference.with_digest(descriptor.digest);
        let what = format!("manifest {}", pinned.familiar());
        if descriptor.size > MAX_MANIFEST as u64 {
            return Err(Error::TooLarge { what, limit: MAX_MANIFEST as u64 });
        }
        let (found, body) = self.resolve(&pinned, auth).await?;
        if found.size != descriptor.size {
            let actual = crate::error::Received::Exactly(found.size);
            return Err(Error::SizeMismatch { what, expected: descriptor.size, actual });
        }
        Ok(body)
    }

    /// Opens blob `descriptor` of the repository of `reference`, from byte `offset` on; see
    /// [`BlobStream::resumed`]. `urls` in the descriptor are ignored: they could name any host. Repeats the request
    /// after temporary failures, but not the body.
    ///
    /// # Errors
    ///
    /// [`Error::BlobUnknown`], [`Error::SizeMismatch`] when the registry announces another size, and failures of
    /// transport.
    ///
    /// Spec: distribution-spec, "Pulling blobs".
    pub async fn blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        offset: u64,
        auth: &Auth,
    ) -> Result<BlobStream, Error> {
        self.open_blob(reference, descriptor, offset, auth, Tries::Many).await
    }

    /// Tries credentials at a registry, named as clients name it: `docker.io`, `host:5000`,
    /// `https://index.docker.io/v1/`.
    ///
    /// # Errors
    ///
    /// [`Error::Login`] when they are refused, [`Error::NoCredentials`] when there are none and the registry wants
    /// some.
    pub async fn check_login(&self, host: &str, auth: &Auth) -> Result<LoginStatus, Error> {
        let endpoint = login_endpoint(host)?;
        let transport = &self.transport;
        let request = Request {
            method: Method::GET,
            path: "/v2/".into(),
            headers: HeaderMap::new(),
            scope: String::new(),
            own_headers: HeaderMap::new(),
            payload: Payload::Empty,
        };
        let url = transport.url(&endpoint, &request.path).await?;
        let mut identity_token = None;
        let known = match auth {
            Auth::RegistryToken(token) => Some(token::bearer(token, &url)?),
            _ => None,
        };
        let (mut response, at) = transport.follow(&url, &request, known).await?;
        let challenged = response.status() == StatusCode::UNAUTHORIZED && at.same_origin(&url);
        if challenged && !matches!(auth, Auth::RegistryToken(_)) {
            let header = match bearer_realm(response.headers()) {
                Some((realm, service)) => {
                    let offline = matches!(auth, Auth::Basic { .. });
                    let want = token::Want { realm: &realm, service: service.as_deref(), scope: "", offline };
                    match token::fetch(transport, &url, want, auth).await? {
                        Ok(token) => {
                            identity_token = token.refresh;
                            token.header
                        }
                        Err(source) => return Err(Error::Login { host: host.into(), source }),
                    }
                }
                None => match transport.answer_challenge(&url, response.headers(), "", auth).await? {
                    Ok(header) => header,
                    Err(source) => return Err(Error::Login { host: host.into(), source }),
                },
            };
            response = transport.follow(&url, &request, Some(header)).await?.0;
        }
        match response.status() {
            status if status.is_success() => Ok(LoginStatus { identity_token }),
            status => {
                let source = Answer::read(response, transport.config.timeouts.idle).await;
                match status.as_u16() {
                    401 | 403 => Err(Error::Login { host: host.into(), source }),
                    _ => Err(Error::Registry { what: format!("GET {url}"), source }),
                }
            }
        }
    }

    /// As [`Client::blob`], once or with repetitions.
    pub(crate) async fn open_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        offset: u64,
        auth: &Auth,
        tries: Tries,
    ) -> Result<BlobStream, Error> {
        let (digest, size) = (descriptor.digest, descriptor.size);
        let what = format!("blob {digest} of {}", reference.familiar_name());
        if offset >= size {
            let reason = format!("asked for bytes from {offset} on of {size}");
            return if offset == size {
                Ok(BlobStream::empty(size, what))
            } else {
                Err(Error::Malformed { what, reason })
            };
        }
        let mut headers = HeaderMap::new();
        // The digest is over the bytes as stored: nobody may compress them on the way.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if offset > 0 {
            headers.insert(RANGE, value(&format!("bytes={offset}-")));
        }
        let request = Request {
            method: Method::GET,
            path: format!("/v2/{}/blobs/{digest}", reference.repository()),
            headers,
            scope: pull_scope(reference),
            own_headers: HeaderMap::new(),
            payload: Payload::Empty,
        };
        let idle = self.transport.config.timeouts.idle;
        let endpoints = self.endpoints(reference, Need::Blob).await?;
        let mut failure = None;
        for (endpoint, auth) in with_auth(&endpoints, auth) {
            let opened = match self.send(endpoint, &request, auth, tries).await {
                Ok(Ok(response)) => BlobStream::open(response, offset, size, what.clone(), idle),
                Ok(Err(answer)) if answer.status == 404 => {
                    Err(Error::BlobUnknown { name: reference.familiar_name(), digest, source: answer })
                }
                Ok(Err(answer)) => Err(refusal(answer, reference, auth, &what)),
                Err(error) => Err(error),
            };
            match opened {
                Ok(stream) => return Ok(stream),
                Err(error) => self.passed_over(endpoint, &mut failure, error),
            }
        }
        Err(last(failure))
    }

    /// What is being fetched.
    pub(crate) fn flights(&self) -> &Flights {
        &self.flights
    }

    /// What carries requests.
    pub(crate) fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Where a reference's own registry is, mirrors apart.
    pub(crate) async fn own_endpoint(&self, reference: &Reference) -> Result<Endpoint, Error> {
        let mut all = self.endpoints(reference, Need::Manifest).await?;
        Ok(all.pop().expect("the registry itself is always among them"))
    }

    /// How long to wait before the next try.
    pub(crate) fn pause(&self, failures: u32, asked: Option<std::time::Duration>) -> std::time::Duration {
        self.transport.pause(failures, asked)
    }

    async fn send(
        &self,
        endpoint: &Endpoint,
        request: &Request,
        auth: &Auth,
        tries: Tries,
    ) -> Result<Reply, Error> {
        match tries {
            // Where something else can be asked, nothing is asked twice.
            _ if endpoint.mirror => self.transport.once(endpoint, request, auth).await,
            Tries::One => self.transport.once(endpoint, request, auth).await,
            Tries::Many => self.transport.request(endpoint, request, auth).await,
        }
    }

    /// As [`Client::resolve`], at one place.
    pub(crate) async fn resolve_at(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        auth: &Auth,
    ) -> Result<(Descriptor, Bytes), Error> {
        let shown = reference.clone().with_default_tag().familiar();
        let what = format!("manifest {shown}");
        let request = manifest_request(Method::GET, reference);
        let response = match self.send(endpoint, &request, auth, Tries::Many).await? {
            Ok(response) => response,
            Err(answer) => return Err(manifest_refusal(answer, reference, auth)),
        };
        let (head, body) = response.into_parts();
        let body = collect(body, MAX_MANIFEST as u64, &what, self.config().timeouts.idle).await?;
        let actual = Digest::of(&body);
        let mismatch = |expected| Error::DigestMismatch { what: what.clone(), expected, actual };
        if let Some(expected) = reference.digest()
            && expected != actual
        {
            return Err(mismatch(expected));
        }
        if let Some(expected) = content_digest(&head.headers)
            && expected != actual
        {
            return Err(mismatch(expected));
        }
        let content_type = header(&head.headers, CONTENT_TYPE.as_str());
        let media_type = document::identify(content_type, &body).map_err(|refusal| refusal.about(&shown))?;
        Ok((Descriptor::new(&media_type, actual, body.len() as u64), body))
    }

    async fn head_at(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        auth: &Auth,
    ) -> Result<Descriptor, Error> {
        let request = manifest_request(Method::HEAD, reference);
        let response = match self.send(endpoint, &request, auth, Tries::Many).await? {
            Ok(response) => response,
            // The body of this refusal can only be had by GET, but the status is enough.
            Err(answer) => return Err(manifest_refusal(answer, reference, auth)),
        };
        let get = |name: &str| header(response.headers(), name);
        let media_type = get(CONTENT_TYPE.as_str()).and_then(|text| text.split(';').next()).map(str::trim);
        let size = get(CONTENT_LENGTH.as_str()).and_then(|text| text.parse().ok());
        match (content_digest(response.headers()), media_type, size) {
            (Some(digest), Some(media_type), Some(size)) => Ok(Descriptor::new(media_type, digest, size)),
            _ => Ok(self.resolve_at(endpoint, reference, auth).await?.0),
        }
    }

    /// Where to ask for `reference`, in order; never empty. All but the last are mirrors.
    pub(crate) async fn endpoints(&self, reference: &Reference, need: Need) -> Result<Vec<Endpoint>, Error> {
        let mut own = registry_endpoint(reference.host())?;
        let mut places = Vec::new();
        if !self.config().certs_dirs.is_empty() {
            let (dirs, authority) = (self.config().certs_dirs.clone(), own.authority.clone());
            let name = reference.host().to_string();
            let read = move || crate::hosts::read(&dirs, &authority, &name);
            let read = tokio::task::spawn_blocking(read).await;
            let hosts = read.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
            let hosts = hosts.unwrap_or_default();
            let by_digest = need == Need::Blob || reference.digest().is_some();
            for host in hosts.hosts.into_iter().filter(|h| if by_digest { h.pulls } else { h.resolves }) {
                self.transport.set_tls(&host.endpoint.authority, host.tls);
                let namespace = host.endpoint.mirror.then(|| reference.host().to_string());
                places.push(Endpoint { namespace, ..host.endpoint });
            }
            if let Some(server) = hosts.server {
                self.transport.set_tls(&server.endpoint.authority, server.tls);
                own = Endpoint { mirror: false, ..server.endpoint };
            }
        }
        if reference.host() == DEFAULT_HOST {
            places.extend(self.mirrors.iter().cloned());
        }
        places.retain(|place| !place.mirror || !self.transport.is_silent(place));
        places.push(own);
        Ok(places)
    }

    pub(crate) fn passed_over(&self, endpoint: &Endpoint, failure: &mut Option<Error>, error: Error) {
        let host = &endpoint.authority;
        tracing::debug!(%host, error = errors::chain(&error), "registry operation failed");
        if endpoint.mirror && matches!(error, Error::Connect { .. } | Error::Timeout { .. }) {
            self.transport.set_silent(endpoint);
        }
        *failure = Some(error);
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Manifest,
    Blob,
}

/// Whether a request is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tries {
    One,
    Many,
}

impl Refusal {
    /// The error for a document that came for `reference`.
    pub(crate) fn about(self, reference: &str) -> Error {
        let reference = reference.to_string();
        match self {
            Refusal::Schema1 => Error::Schema1 { reference },
            Refusal::Unknown(media_type) => Error::NotAnImage { reference, media_type },
            Refusal::Malformed(reason) => Error::Malformed { what: format!("manifest {reference}"), reason },
        }
    }
}

fn mirror(text: &str, transport: &Transport) -> Result<Endpoint, Error> {
    let bad = |reason: &str| Error::Config { what: format!("mirror {text:?}"), reason: reason.into() };
    let url = Url::parse(text).ok_or_else(|| bad("want https://host[:port][/prefix]"))?;
    if !transport.policy.may_carry_secrets(&url) {
        return Err(bad("plain HTTP needs an entry among the insecure registries"));
    }
    let path = url.to_string();
    let prefix = path.splitn(4, '/').nth(3).unwrap_or_default().trim_matches('/');
    let prefix = if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
    Ok(Endpoint { scheme: Some(url.scheme), prefix, mirror: true, ..Endpoint::registry(url.authority) })
}

pub(crate) fn registry_endpoint(host: &str) -> Result<Endpoint, Error> {
    let host = if host == DEFAULT_HOST { DOCKER_HUB } else { host };
    let authority = Authority::parse(host).ok_or_else(|| Error::Config {
        what: format!("registry {host:?}"),
        reason: "want host or host:port".into(),
    })?;
    Ok(Endpoint::registry(authority))
}

/// The scheme that a client writes before its registry does not switch TLS off; only the configuration does.
fn login_endpoint(host: &str) -> Result<Endpoint, Error> {
    let host = host.strip_prefix("https://").or_else(|| host.strip_prefix("http://")).unwrap_or(host);
    match host.split('/').next().unwrap_or_default() {
        "" | "index.docker.io" => registry_endpoint(DEFAULT_HOST),
        host => registry_endpoint(host),
    }
}

/// Every endpoint with what may prove who asks there: credentials are for the registry, not for its mirrors.
pub(crate) fn with_auth<'a>(
    endpoints: &'a [Endpoint],
    auth: &'a Auth,
) -> impl Iterator<Item = (&'a Endpoint, &'a Auth)> {
    endpoints.iter().map(move |endpoint| (endpoint, if endpoint.mirror { &Auth::Anonymous } else { auth }))
}

pub(crate) fn last(failure: Option<Error>) -> Error {
    failure.expect("there is at least one endpoint, and each one that is passed over leaves its failure")
}

pub(crate) fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("digits and ASCII words are a header value")
}

pub(crate) fn pull_scope(reference: &Reference) -> String {
    format!("repository:{}:pull", reference.repository())
}

fn manifest_request(method: Method, reference: &Reference) -> Request {
    let name = match reference.digest() {
        Some(digest) => digest.to_string(),
        None => reference.tag().unwrap_or(DEFAULT_TAG).to_string(),
    };
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static(document::ACCEPT));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let path = format!("/v2/{}/manifests/{name}", reference.repository());
    Request {
        method,
        path,
        headers,
        own_headers: HeaderMap::new(),
        scope: pull_scope(reference),
        payload: Payload::Empty,
    }
}

/// The digest in `Docker-Content-Digest`; another algorithm than ours says nothing.
fn content_digest(headers: &HeaderMap) -> Option<Digest> {
    header(headers, CONTENT_DIGEST)?.trim().parse().ok()
}

fn bearer_realm(headers: &HeaderMap) -> Option<(String, Option<String>)> {
    let values = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    match crate::challenge::choose(values) {
        Some(crate::challenge::Challenge::Bearer { realm, service }) => Some((realm, service)),
        _ => None,
    }
}

fn manifest_refusal(mut answer: Answer, reference: &Reference, auth: &Auth) -> Error {
    let reference = reference.clone().with_default_tag();
    if answer.status != 404 || answer.code == "NAME_UNKNOWN" {
        return refusal(answer, &reference, auth, &format!("manifest {}", reference.familiar()));
    }
    if answer.code.is_empty() {
        answer = Answer::new(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", "manifest unknown");
    }
    Error::ManifestUnknown { reference: reference.familiar(), source: answer }
}

pub(crate) fn refusal(mut answer: Answer, reference: &Reference, auth: &Auth, what: &str) -> Error {
    let name = reference.familiar_name();
    if answer.code == "NAME_UNKNOWN" {
        return Error::RepositoryUnknown { name, source: answer };
    }
    if matches!(answer.status, 401 | 403) {
        if answer.code.is_empty() {
            answer.code = "DENIED".into();
        }
        if answer.message.is_empty() {
            answer.message = "requested access to the resource is denied".into();
        }
        return Error::AccessDenied { name, anonymous: auth.is_anonymous(), source: answer };
    }
    Error::Registry { what: format!("{} {what}", reference.host()), source: answer }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_found_under_every_name() {
        let check = |text: &str, expected: &str| {
            assert_eq!(login_endpoint(text).unwrap().authority.to_string(), expected, "{text}");
        };
        check("", DOCKER_HUB);
        check("docker.io", DOCKER_HUB);
        check("https://index.docker.io/v1/", DOCKER_HUB);
        check("http://r.example:5000/x", "r.example:5000");
        assert!(login_endpoint("user@host").is_err());
        assert!(login_endpoint("..").is_err());
    }

    #[test]
    fn mirrors_keep_their_prefix_and_need_tls() {
        let make = |mirror: &str| Client::new(Config { mirrors: vec![mirror.into()], ..Config::default() });
        let prefix = |mirror: &str| make(mirror).unwrap().mirrors[0].prefix.clone();
        assert_eq!(prefix("https://m.example"), "");
        assert_eq!(prefix("https://m.example/"), "");
        assert_eq!(prefix("https://m.example/proxy/hub/"), "/proxy/hub");
        assert_eq!(prefix("http://127.0.0.1:5000"), "");
        assert!(make("http://m.example").is_err());
        assert!(make("m.example").is_err());
    }
}
