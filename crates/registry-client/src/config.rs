//! What the caller sets: which hosts may be spoken to without TLS, mirrors, certificates, limits.

use crate::ProxyConfig;
use std::path::PathBuf;
use std::time::Duration;

/// How a [`Client`](crate::Client) behaves. `Config::default()` is Docker's behaviour without any configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Hosts that may be spoken to over TLS without a valid certificate, or over plain HTTP: `host`, `host:port`,
    /// or a CIDR like `10.0.0.0/8`, which covers registries named by an address literal only. An entry without a
    /// port covers every port. Loopback (127.0.0.0/8, ::1, `localhost`) is always included.
    pub insecure: Vec<String>,
    /// Registries asked before Docker Hub, in order, anonymously: `https://host[:port][/prefix]`, or `http://` where
    /// `insecure` allows it. They serve references to `docker.io` only.
    pub mirrors: Vec<String>,
    /// Value of the `User-Agent` header.
    pub user_agent: String,
    /// Directories laid out as Docker's `certs.d`: `<dir>/<host[:port]>/*.crt` are certificate authorities trusted
    /// for this host besides the system's; `NAME.cert` with `NAME.key` is a client certificate. Read again for a new
    /// connection when they have changed; Docker Hub's host is `registry-1.docker.io`. A `hosts.toml` as containerd reads
    /// it names places to ask before the registry, for Docker Hub below `docker.io`; it is read each time.
    pub certs_dirs: Vec<PathBuf>,
    /// Proxies between here and registries.
    pub proxy: ProxyConfig,
    /// How long to wait.
    pub timeouts: Timeouts,
    /// How often a request is repeated after a network error, 429 or 5xx. A download that got further starts anew.
    pub max_retries: u32,
    /// Layers that one pull downloads side by side; zero means one.
    pub max_concurrent_downloads: usize,
    /// Blobs that one push uploads side by side; zero means one.
    pub max_concurrent_uploads: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            insecure: Vec::new(),
            mirrors: Vec::new(),
            user_agent: concat!("brig/", env!("CARGO_PKG_VERSION")).to_string(),
            certs_dirs: Vec::new(),
            proxy: ProxyConfig::default(),
            timeouts: Timeouts::default(),
            max_retries: 5,
            max_concurrent_downloads: 3,
            max_concurrent_uploads: 5,
        }
    }
}

/// How long the steps of a request may take.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// Name lookup, TCP connection and TLS handshake together.
    pub connect: Duration,
    /// From the request to the head of the answer.
    pub response: Duration,
    /// Between two pieces of a body.
    pub idle: Duration,
    /// First pause before a repetition; doubles each time, up to [`Timeouts::max_backoff`], with random jitter.
    pub backoff: Duration,
    /// Longest pause before a repetition. A registry that asks for more with `Retry-After` is not asked again.
    pub max_backoff: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            connect: Duration::from_secs(30),
            response: Duration::from_secs(60),
            idle: Duration::from_secs(60),
            backoff: Duration::from_millis(500),
            max_backoff: Duration::from_secs(30),
        }
    }
}
