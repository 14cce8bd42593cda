//! One registry operation at a time.

use crate::{Auth, Config, Error};
use bytes::Bytes;
use oci::{Descriptor, Reference};
use std::sync::Arc;

/// A client for all registries. Cheap to clone; clones share connections and tokens.
#[derive(Debug, Clone)]
pub struct Client {
    config: Arc<Config>,
}

/// What [`Client::check_login`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginStatus {
    /// A refresh token to keep in place of the password, when the token server gave one.
    pub identity_token: Option<String>,
}

/// The body of a blob, piece by piece.
#[derive(Debug)]
pub struct BlobStream {
    resumed: bool,
}

impl BlobStream {
    /// Whether the registry honoured the offset. If not, the stream starts at the first byte.
    pub fn resumed(&self) -> bool {
        self.resumed
    }

    /// The next piece; `None` after the last.
    pub async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        None
    }
}

fn unfinished<T>() -> Result<T, Error> {
    Err(Error::Config { what: "client".into(), reason: "unfinished".into() })
}

impl Client {
    /// Prepares a client; opens no connection.
    pub fn new(config: Config) -> Result<Client, Error> {
        Ok(Client { config: Arc::new(config) })
    }

    /// The configuration it was made with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Fetches the manifest or index that `reference` names by digest, else by tag, else by `latest`.
    pub async fn resolve(&self, _reference: &Reference, _auth: &Auth) -> Result<(Descriptor, Bytes), Error> {
        unfinished()
    }

    /// As [`Client::resolve`] without the body, on the registry's word.
    pub async fn head(&self, _reference: &Reference, _auth: &Auth) -> Result<Descriptor, Error> {
        unfinished()
    }

    /// Fetches a manifest or index by digest from the repository of `reference`.
    pub async fn manifest(&self, _: &Reference, _: &Descriptor, _: &Auth) -> Result<Bytes, Error> {
        unfinished()
    }

    /// Opens a blob of the repository of `reference` from byte `offset` on.
    pub async fn blob(&self, _: &Reference, _: &Descriptor, _: u64, _: &Auth) -> Result<BlobStream, Error> {
        unfinished()
    }

    /// Tries credentials at a registry, named as clients name it: `docker.io`, `host:5000`, `https://host/v1/`.
    pub async fn check_login(&self, _host: &str, _auth: &Auth) -> Result<LoginStatus, Error> {
        unfinished()
    }
}
