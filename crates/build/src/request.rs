//! What a client asks for.

use crate::context::Context;
use engine::model::HostConfig;
use oci::{Platform, Reference};
use registry_client::Auth;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A build to do.
#[derive(Debug, Clone)]
pub struct Request {
    pub context: Arc<Context>,
    /// Further contexts by name (lower case).
    pub contexts: BTreeMap<String, Arc<Context>>,
    /// Images that stand for a name.
    pub context_images: BTreeMap<String, String>,
    /// Path below the context; empty tries `Dockerfile` and `dockerfile`.
    pub dockerfile: String,
    /// The text itself, where it does not come from the context.
    pub dockerfile_text: Option<String>,
    pub references: Vec<Reference>,
    pub target: String,
    /// `None` takes the daemon's own, which is nothing: the name is declared and has no value.
    pub build_args: BTreeMap<String, Option<String>>,
    pub labels: BTreeMap<String, String>,
    pub no_cache: bool,
    /// Stages that take nothing from the cache.
    pub no_cache_stages: Vec<String>,
    /// Look for newer base images.
    pub pull: bool,
    pub network_mode: String,
    /// Limits, hosts, cgroup parent.
    pub host_config: HostConfig,
    pub platform: Option<Platform>,
    pub secrets: BTreeMap<String, Secret>,
    /// Sockets of ssh agents, by id.
    pub ssh: BTreeMap<String, std::path::PathBuf>,
    pub entitlements: Entitlements,
    /// CDI devices that `RUN --device` may name; `*` is any.
    pub allowed_devices: Vec<String>,
    /// Credentials by registry host.
    pub auth: BTreeMap<String, Auth>,
}

/// What a RUN may ask for beyond the usual.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Entitlements {
    pub network_host: bool,
    pub security_insecure: bool,
}

/// Bytes that must not be seen anywhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Request {
    /// A build of `context` with everything else as it is by default.
    pub fn new(context: Arc<Context>) -> Request {
        Request {
            context,
            contexts: BTreeMap::new(),
            context_images: BTreeMap::new(),
            dockerfile: String::new(),
            dockerfile_text: None,
            references: Vec::new(),
            target: String::new(),
            build_args: BTreeMap::new(),
            labels: BTreeMap::new(),
            no_cache: false,
            no_cache_stages: Vec::new(),
            pull: false,
            network_mode: String::new(),
            host_config: HostConfig::default(),
            platform: None,
            secrets: BTreeMap::new(),
            ssh: BTreeMap::new(),
            entitlements: Entitlements::default(),
            allowed_devices: Vec::new(),
            auth: BTreeMap::new(),
        }
    }

    /// The value of a build argument.
    pub(crate) fn build_arg(&self, name: &str) -> Option<&str> {
        self.build_args.get(name)?.as_deref()
    }

    /// Seconds since 1970 that times of the image must not pass.
    pub(crate) fn epoch(&self) -> Result<Option<i64>, crate::Error> {
        let Some(text) = self.build_arg("SOURCE_DATE_EPOCH").filter(|t| !t.is_empty()) else {
            return Ok(None);
        };
        text.parse()
            .map(Some)
            .map_err(|_| crate::Error::invalid(format!("invalid SOURCE_DATE_EPOCH: {text}")))
    }
}
