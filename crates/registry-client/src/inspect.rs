//! What a registry says of an image without pulling it, and what it finds by words.

use crate::answer::{collect, printable};
use crate::client::{Tries, registry_endpoint};
use crate::document::{self, Document};
use crate::error::Answer;
use crate::send::Payload;
use crate::transport::{Endpoint, Request};
use crate::url::{Authority, form};
use crate::{Auth, Client, Error, token};
use bytes::BytesMut;
use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue, Method};
use oci::image::{ImageConfig, MAX_CONFIG, media_type};
use oci::reference::DEFAULT_HOST;
use oci::{Descriptor, Digest, Platform, Reference};
use serde::Deserialize;

/// Where Docker Hub's search is.
const HUB_INDEX: &str = "index.docker.io";
/// Longest answer to a search. A hundred results have some 50 KiB.
const MAX_RESULTS: u64 = 1 << 20;
/// Most platforms of an index that are told.
const MAX_PLATFORMS: usize = 10_000;

/// A repository that a search found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Found {
    pub name: String,
    pub description: String,
    pub star_count: i64,
    pub is_official: bool,
    pub is_automated: bool,
}

impl Client {
    /// Finds out what `reference` names and for which platforms there is one.
    ///
    /// # Errors
    ///
    /// As [`Client::resolve`].
    pub async fn inspect(
        &self,
        reference: &Reference,
        auth: &Auth,
    ) -> Result<(Descriptor, Vec<Platform>), Error> {
        let (descriptor, body) = self.resolve(reference, auth).await?;
        let shown = reference.familiar();
        let read = document::read(&descriptor.media_type, &body);
        let platforms = match read.map_err(|refusal| refusal.about(&shown))? {
            Document::Index(index) => {
                let all = index.manifests.into_iter().filter_map(|entry| entry.platform);
                all.take(MAX_PLATFORMS).collect()
            }
            Document::Manifest(manifest) => {
                let config = &manifest.config;
                match config.media_type.as_str() {
                    media_type::OCI_CONFIG | media_type::DOCKER_CONFIG => {
                        vec![self.image_config(reference, config, auth).await?.platform()]
                    }
                    // Something else than an image has no platform.
                    _ => Vec::new(),
                }
            }
        };
        Ok((descriptor, platforms))
    }

    /// Fetches an image's config.
    async fn image_config(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        auth: &Auth,
    ) -> Result<ImageConfig, Error> {
        let what = format!("config {} of {}", descriptor.digest, reference.familiar());
        if descriptor.size > MAX_CONFIG as u64 {
            return Err(Error::TooLarge { what, limit: MAX_CONFIG as u64 });
        }
        let mut stream = self.open_blob(reference, descriptor, 0, auth, Tries::Many).await?;
        let mut body = BytesMut::new();
        while let Some(piece) = stream.next().await {
            body.extend_from_slice(&piece?);
        }
        let actual = Digest::of(&body);
        if actual != descriptor.digest {
            return Err(Error::DigestMismatch { what, expected: descriptor.digest, actual });
        }
        serde_json::from_slice(&body).map_err(|error| Error::Malformed { what, reason: error.to_string() })
    }

    /// Searches a registry, `docker.io` for Docker Hub, for repositories; at most `limit` of them.
    ///
    /// # Errors
    ///
    /// [`Error::Registry`] where the registry has no search, which few have.
    ///
    /// Spec: Docker Registry API v1, "Search".
    pub async fn search(&self, host: &str, term: &str, limit: u32, auth: &Auth) -> Result<Vec<Found>, Error> {
        let endpoint = match host {
            DEFAULT_HOST => Endpoint {
                authority: Authority::parse(HUB_INDEX).expect("a host name"),
                ..registry_endpoint(host)?
            },
            other => registry_endpoint(other)?,
        };
        let transport = self.transport();
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let request = Request {
            method: Method::GET,
            path: format!("/v1/search?{}&{}", form("q", term), form("n", &limit.to_string())),
            headers,
            scope: String::new(),
            own_headers: HeaderMap::new(),
            payload: Payload::Empty,
        };
        let url = transport.url(&endpoint, &request.path).await?;
        // No challenge comes first; a search without a user finds what is public.
        let known = match auth {
            Auth::Basic { .. } => Some(token::basic(&url, auth, &transport.policy)?),
            Auth::RegistryToken(token) => Some(token::bearer(token, &url)?),
            Auth::Anonymous | Auth::IdentityToken(_) => None,
        };
        let what = format!("search {host}");
        let idle = transport.config.timeouts.idle;
        let (response, _) = transport.follow(&url, &request, known).await?;
        if !response.status().is_success() {
            let source = Answer::read(response, idle).await;
            return Err(Error::Registry { what, source });
        }
        let body = collect(response.into_body(), MAX_RESULTS, &what, idle).await?;
        let results: Results = serde_json::from_slice(&body)
            .map_err(|error| Error::Malformed { what, reason: error.to_string() })?;
        let mut found = results.results;
        found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        for one in &mut found {
            one.name = printable(&one.name);
            one.description = printable(&one.description);
        }
        Ok(found)
    }
}

#[derive(Deserialize)]
struct Results {
    #[serde(default)]
    results: Vec<Found>,
}
