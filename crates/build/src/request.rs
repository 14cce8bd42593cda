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
    /// Results of other builds that stand for a name.
    pub context_results: BTreeMap<String, crate::Solved>,
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
    /// Who is asked for secrets, agents and credentials that are not above.
    pub client: Option<Arc<dyn Client>>,
    /// The name that commands see as theirs; empty for the usual one.
    pub hostname: String,
    /// Shared caches to use, those that go before others first.
    pub cache_from: Vec<crate::CacheFrom>,
    /// Shared caches to make. [`crate::build`] does; who only solves sees to it.
    pub cache_to: Vec<crate::CacheTo>,
    /// What is to be said of the image beside it.
    pub attests: crate::Attests,
    /// What is to be said in its manifest, its index, and where these are named.
    pub annotations: crate::Annotations,
    /// Options as a client of the frontend gave them; empty where it is no such client.
    pub origin_args: BTreeMap<String, String>,
    /// Directories of the client's that files come from, by name.
    pub locals: Vec<String>,
    /// The build's own cache goes into the config of its image.
    pub inline_cache: bool,
}

/// An answer that takes time.
pub type Answer<'a, T> = std::pin::Pin<Box<dyn Future<Output = Result<T, String>> + Send + 'a>>;

/// Somebody who is asked while the build goes on. A failure is a sentence for a person.
pub trait Client: std::fmt::Debug + Send + Sync {
    /// The secret `id`, where there is one.
    fn secret<'a>(&'a self, id: &'a str) -> Answer<'a, Option<Secret>>;
    /// A socket of the ssh agent `id`, where there is one. It is served for as long as the guard lives.
    fn agent<'a>(&'a self, id: &'a str) -> Answer<'a, Option<Agent>>;
    /// The build context, of which only these paths are needed, or all of it where there are none. `None` keeps the
    /// request's.
    fn context<'a>(&'a self, paths: Vec<String>) -> Answer<'a, Option<Arc<Context>>>;
    /// Credentials for a registry host.
    fn credentials<'a>(&'a self, host: &'a str) -> Answer<'a, Auth>;
}

/// A socket of an ssh agent.
#[derive(Debug)]
pub struct Agent {
    pub socket: std::path::PathBuf,
    /// Serves the socket until it is dropped.
    pub guard: Box<dyn std::any::Any + Send + Sync>,
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
            context_results: BTreeMap::new(),
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
            client: None,
            hostname: String::new(),
            cache_from: Vec::new(),
            cache_to: Vec::new(),
            attests: crate::Attests::default(),
            annotations: crate::Annotations::default(),
            origin_args: BTreeMap::new(),
            locals: Vec::new(),
            inline_cache: false,
        }
    }

    /// Credentials for a registry host.
    pub(crate) async fn credentials(&self, host: &str) -> Result<Auth, crate::Error> {
        match (self.auth.get(host), &self.client) {
            (Some(auth), _) => Ok(auth.clone()),
            (None, Some(client)) => client.credentials(host).await.map_err(crate::Error::invalid),
            (None, None) => Ok(Auth::default()),
        }
    }

    /// What the frontend was asked, as its clients write it.
    pub(crate) fn frontend_args(&self) -> BTreeMap<String, String> {
        if !self.origin_args.is_empty() {
            return self.origin_args.clone();
        }
        let mut out = BTreeMap::new();
        for (name, value) in &self.build_args {
            if let Some(value) = value {
                out.insert(format!("build-arg:{name}"), value.clone());
            }
        }
        out.extend(self.labels.iter().map(|(name, value)| (format!("label:{name}"), value.clone())));
        if !self.target.is_empty() {
            out.insert("target".into(), self.target.clone());
        }
        if self.no_cache {
            out.insert("no-cache".into(), String::new());
        }
        if !self.network_mode.is_empty() {
            out.insert("force-network-mode".into(), self.network_mode.clone());
        }
        out
    }

    /// The value of a build argument.
    pub(crate) fn build_arg(&self, name: &str) -> Option<&str> {
        self.build_args.get(name)?.as_deref()
    }

    /// Seconds since 1970 that times of the image must not pass: as asked, else as the Dockerfile's global argument says.
    pub(crate) fn epoch(&self, global: Option<&String>) -> Result<Option<i64>, crate::Error> {
        let given = self.build_args.get("SOURCE_DATE_EPOCH").map(|v| v.as_deref().unwrap_or_default());
        let text = given.or(global.map(String::as_str)).filter(|t| !t.is_empty());
        let Some(text) = text else { return Ok(None) };
        text.parse()
            .map(Some)
            .map_err(|_| crate::Error::invalid(format!("invalid SOURCE_DATE_EPOCH: {text}")))
    }
}
