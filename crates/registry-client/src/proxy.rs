//! Which connections go through a proxy, and how one is asked to make them.
//!
//! TLS goes through a tunnel (`CONNECT`), so a proxy sees a host's name and nothing else; plain HTTP is asked for by its
//! whole URL. Loopback never goes through a proxy, as with Go's programs.

use crate::Error;
use crate::url::{Authority, Scheme, Url};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::HeaderValue;
use std::io;
use std::net::IpAddr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Longest head of an answer to `CONNECT`.
const MAX_HEAD: usize = 8 << 10;

/// The proxies as configured: `http://[user:password@]host[:port]`, or empty for none.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ProxyConfig {
    /// For registries spoken to over plain HTTP.
    pub http: String,
    /// For registries spoken to over TLS.
    pub https: String,
    /// Hosts that are reached directly: `*`, names (`example.com` with all below it, `.example.com` only those below),
    /// addresses, CIDRs; each with an optional port. Separated by commas.
    pub no_proxy: String,
}

impl ProxyConfig {
    /// A proxy's URL as people may see it.
    pub fn without_password(url: &str) -> String {
        match (url.split_once("://"), url.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, host))) => format!("{scheme}://xxxxx:xxxxx@{host}"),
            _ => url.to_string(),
        }
    }
}

impl std::fmt::Debug for ProxyConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProxyConfig")
            .field("http", &ProxyConfig::without_password(&self.http))
            .field("https", &ProxyConfig::without_password(&self.https))
            .field("no_proxy", &self.no_proxy)
            .finish()
    }
}

/// A proxy to connect to.
#[derive(Debug, Clone)]
pub(crate) struct Proxy {
    pub(crate) url: Url,
    /// `Proxy-Authorization`.
    pub(crate) authorization: Option<HeaderValue>,
}

/// The rules, parsed.
#[derive(Debug, Default)]
pub(crate) struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    direct: Vec<Direct>,
}

#[derive(Debug, PartialEq, Eq)]
enum Direct {
    All,
    Name { name: String, itself: bool, port: Option<u16> },
    Network { base: IpAddr, prefix: u8 },
}

impl Proxies {
    pub(crate) fn new(config: &ProxyConfig) -> Result<Proxies, Error> {
        let direct = config.no_proxy.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        Ok(Proxies {
            http: parse(&config.http)?,
            https: parse(&config.https)?,
            direct: direct.map(Direct::parse).collect(),
        })
    }

    /// The proxy for `url`, if it goes through one.
    pub(crate) fn choose(&self, url: &Url) -> Option<&Proxy> {
        let proxy = match url.scheme {
            Scheme::Http => self.http.as_ref(),
            Scheme::Https => self.https.as_ref(),
        }?;
        let direct = url.authority.is_loopback()
            || self.direct.iter().any(|entry| entry.covers(&url.authority, url.port()));
        (!direct).then_some(proxy)
    }
}

fn parse(text: &str) -> Result<Option<Proxy>, Error> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    let refused = |reason: &str| Error::Config {
        what: format!("proxy {:?}", ProxyConfig::without_password(text)),
        reason: reason.into(),
    };
    // Without a scheme, as many write it.
    let whole =
        if text.contains("://") { text.trim().to_string() } else { format!("http://{}", text.trim()) };
    let (scheme, rest) = whole.split_once("://").ok_or_else(|| refused("want http://host:port"))?;
    let (user, host) = match rest.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, rest),
    };
    let url = Url::parse(&format!("{scheme}://{host}")).ok_or_else(|| refused("want http://host:port"))?;
    if url.scheme != Scheme::Http {
        return Err(refused("proxies that are spoken to over TLS are not supported"));
    }
    let authorization = match user {
        None => None,
        Some(user) => {
            let decoded = percent_encoding::percent_decode_str(user).collect::<Vec<u8>>();
            let value = format!("Basic {}", BASE64_STANDARD.encode(decoded));
            let mut value = HeaderValue::from_str(&value).map_err(|_| refused("unreadable user"))?;
            value.set_sensitive(true);
            Some(value)
        }
    };
    Ok(Some(Proxy { url, authorization }))
}

impl Direct {
    fn parse(entry: &str) -> Direct {
        if entry == "*" {
            return Direct::All;
        }
        if let Some((base, prefix)) = entry.split_once('/')
            && let (Ok(base), Ok(prefix)) = (base.parse(), prefix.parse())
        {
            return Direct::Network { base, prefix };
        }
        let bare_v6 = entry.parse::<std::net::Ipv6Addr>().is_ok();
        let (name, port) = match entry.rsplit_once(':') {
            Some((name, port)) if !bare_v6 && port.parse::<u16>().is_ok() => (name, port.parse().ok()),
            _ => (entry, None),
        };
        let name = name.trim_matches(['[', ']']).to_ascii_lowercase();
        let below = name.strip_prefix("*.").or_else(|| name.strip_prefix('.'));
        match below {
            Some(below) => Direct::Name { name: below.into(), itself: false, port },
            None => Direct::Name { name, itself: true, port },
        }
    }

    fn covers(&self, authority: &Authority, used: u16) -> bool {
        match self {
            Direct::All => true,
            Direct::Network { base, prefix } => {
                authority.address().is_some_and(|address| crate::policy::within(*base, *prefix, address))
            }
            Direct::Name { name, itself, port } => {
                let host = authority.host();
                let below = host.strip_suffix(name.as_str()).is_some_and(|rest| rest.ends_with('.'));
                port.is_none_or(|port| port == used) && (below || (*itself && host == name))
            }
        }
    }
}

/// Has the proxy behind `stream` connect to the host of `url`.
pub(crate) async fn tunnel(mut stream: TcpStream, proxy: &Proxy, url: &Url) -> io::Result<TcpStream> {
    let host = url.authority.host();
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_string() };
    let target = format!("{host}:{}", url.port());
    let mut head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
    if let Some(authorization) = &proxy.authorization {
        head.extend_from_slice(b"Proxy-Authorization: ");
        head.extend_from_slice(authorization.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    stream.write_all(&head).await?;
    let mut answer = Vec::new();
    // Byte by byte: what follows the head belongs to TLS.
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= MAX_HEAD {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the proxy's answer does not end"));
        }
        answer.push(stream.read_u8().await?);
    }
    let line = String::from_utf8_lossy(&answer);
    let line = line.lines().next().unwrap_or_default();
    match line.split(' ').nth(1) {
        Some(status) if status.starts_with('2') => Ok(stream),
        _ => Err(io::Error::new(
            io::ErrorKind::ConnectionRefused,
            format!("proxy {} refuses {target}: {}", proxy.url, crate::answer::printable(line)),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(no_proxy: &str) -> Proxies {
        let proxy = "http://proxy.lan:3128".to_string();
        let config = ProxyConfig { http: proxy.clone(), https: proxy, no_proxy: no_proxy.into() };
        Proxies::new(&config).unwrap()
    }

    #[test]
    fn some_hosts_are_reached_directly() {
        let check = |no_proxy: &str, url: &str, direct: bool| {
            let proxies = proxies(no_proxy);
            let chosen = proxies.choose(&Url::parse(url).unwrap());
            assert_eq!(chosen.is_none(), direct, "{no_proxy} {url}");
        };
        check("", "https://r.example/", false);
        check("", "http://localhost:5000/", true);
        check("", "http://127.0.0.1:5000/", true);
        check("*", "https://r.example/", true);
        check("r.example", "https://r.example/", true);
        check("example", "https://r.example/", true);
        check(".example", "https://r.example/", true);
        check(".r.example", "https://r.example/", false);
        check("xample", "https://r.example/", false);
        check("R.Example:5000, other", "https://r.example/", false);
        check("r.example:443", "https://r.example/", true);
        check("10.0.0.0/8", "https://10.1.2.3:5000/", true);
        check("10.0.0.0/8", "https://11.1.2.3:5000/", false);
        check("10.1.2.3", "http://10.1.2.3:5000/", true);
        check("fd00::/8,::2", "http://[fd00::1]:5000/", true);
    }

    #[test]
    fn proxies_are_read_and_their_passwords_hidden() {
        let proxy = parse("http://us%40er:p%3Aw@proxy.lan:3128/").unwrap().unwrap();
        assert_eq!(proxy.url.authority.to_string(), "proxy.lan:3128");
        assert_eq!(proxy.authorization.unwrap().to_str().unwrap(), "Basic dXNAZXI6cDp3");
        assert_eq!(parse("proxy.lan:3128").unwrap().unwrap().url.port(), 3128);
        assert!(parse("").unwrap().is_none());
        for bad in ["https://proxy.lan", "socks5://x", "http://", "http://a b"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let config = ProxyConfig { https: "http://u:s3cret@p".into(), ..ProxyConfig::default() };
        assert!(!format!("{config:?}").contains("s3cret"));
    }
}
