//! Just enough of a URL: scheme, host, port, path with query. What a hostile registry writes into `Location` or
//! `realm` becomes one of these or nothing.

use std::fmt;
use std::net::IpAddr;

/// Longest URL that we follow. Presigned URLs of object stores stay below 4 KiB.
const MAX_URL: usize = 16 << 10;

/// With or without TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    fn name(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    pub(crate) fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

/// `host[:port]`: a name in lower case, or an address literal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Authority {
    /// Without brackets.
    host: String,
    port: Option<u16>,
}

impl Authority {
    /// Parses `name`, `name:port`, `1.2.3.4:port`, `[::1]:port`. No user information.
    pub(crate) fn parse(text: &str) -> Option<Authority> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']')?;
                host.parse::<std::net::Ipv6Addr>().ok()?;
                (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
            }
            None => {
                let (host, port) = match text.split_once(':') {
                    Some((host, port)) => (host, Some(port)),
                    None => (text, None),
                };
                if !is_name(host) {
                    return None;
                }
                (host, port)
            }
        };
        let port = match port {
            Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => Some(port.parse().ok()?),
            Some(_) => return None,
            None => None,
        };
        Some(Authority { host: host.to_ascii_lowercase(), port })
    }

    /// Name or address literal, without brackets.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn port(&self) -> Option<u16> {
        self.port
    }

    /// The address, when the host is a literal.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.host.parse::<IpAddr>().ok().map(|address| address.to_canonical())
    }

    /// `localhost`, 127.0.0.0/8 or ::1, by name only.
    pub(crate) fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.address().is_some_and(|address| address.is_loopback())
    }

    /// An address that means something else on every machine: loopback, link-local, unspecified. A registry has no
    /// business to send us there; cloud metadata services live there.
    pub(crate) fn is_local(&self) -> bool {
        let link_local = |address| match address {
            IpAddr::V4(v4) => v4.is_link_local() || v4.is_unspecified(),
            IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_unspecified(),
        };
        self.is_loopback() || self.host.ends_with(".localhost") || self.address().is_some_and(link_local)
    }
}

/// Labels of letters, digits, `-` and `_`. A last label that is a number makes the whole an IPv4 address in its only
/// accepted form, so that `127.1` or `0x7f000001` cannot mean loopback behind our back.
fn is_name(host: &str) -> bool {
    let label =
        |l: &str| !l.is_empty() && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    let last = host.rsplit('.').next().unwrap_or_default();
    let number = last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x") || last.starts_with("0X");
    host.len() <= 255 && host.split('.').all(label) && (!number || host.parse::<std::net::Ipv4Addr>().is_ok())
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?;
        } else {
            f.write_str(&self.host)?;
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

/// An absolute `http` or `https` URL. Prints without its query, which may hold a signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) scheme: Scheme,
    pub(crate) authority: Authority,
    /// Starts with `/`; may hold a query.
    pub(crate) path: String,
}

impl Url {
    pub(crate) fn new(scheme: Scheme, authority: Authority, path: String) -> Url {
        Url { scheme, authority, path }
    }

    /// Parses an absolute URL without user information.
    pub(crate) fn parse(text: &str) -> Option<Url> {
        let (scheme, rest) = text.split_once("://")?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return None,
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let path = if path.starts_with('/') { path.to_string() } else { format!("/{path}") };
        let url = Url { scheme, authority: Authority::parse(authority)?, path };
        // Control characters, spaces and the like end here.
        (text.len() <= MAX_URL && url.to_uri().is_some()).then_some(url)
    }

    /// Resolves the value of a `Location` header against this URL.
    ///
    /// Spec: RFC 3986, section 5.2, without dot segments, which no registry sends.
    pub(crate) fn join(&self, location: &str) -> Option<Url> {
        let location = location.split('#').next().unwrap_or_default();
        let origin = format!("{}://{}", self.scheme.name(), self.authority);
        let path = self.path.split('?').next().unwrap_or_default();
        let text = if location.contains("://") && Url::parse(location).is_some() {
            location.to_string()
        } else if let Some(rest) = location.strip_prefix("//") {
            format!("{}://{rest}", self.scheme.name())
        } else if location.starts_with('/') {
            format!("{origin}{location}")
        } else if location.starts_with('?') {
            format!("{origin}{path}{location}")
        } else if location.is_empty() || location.split(['/', '?']).next()?.contains(':') {
            return None;
        } else {
            format!("{origin}{}/{location}", path.rsplit_once('/').map_or("", |(parent, _)| parent))
        };
        Url::parse(&text)
    }

    /// Adds a query parameter, percent-encoded.
    pub(crate) fn push_query(&mut self, name: &str, value: &str) {
        self.path.push(if self.path.contains('?') { '&' } else { '?' });
        self.path.push_str(&form(name, value));
    }

    pub(crate) fn port(&self) -> u16 {
        self.authority.port.unwrap_or(self.scheme.default_port())
    }

    /// Same scheme, host and port: what may see the same credentials.
    pub(crate) fn same_origin(&self, other: &Url) -> bool {
        self.scheme == other.scheme
            && self.authority.host == other.authority.host
            && self.port() == other.port()
    }

    /// Names scheme, host and port in one form.
    pub(crate) fn origin(&self) -> String {
        let authority = Authority { host: self.authority.host.clone(), port: Some(self.port()) };
        format!("{}://{authority}", self.scheme.name())
    }

    pub(crate) fn to_uri(&self) -> Option<http::Uri> {
        http::Uri::builder()
            .scheme(self.scheme.name())
            .authority(self.authority.to_string())
            .path_and_query(self.path.as_str())
            .build()
            .ok()
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.split('?').next().unwrap_or_default();
        write!(f, "{}://{}{path}", self.scheme.name(), self.authority)
    }
}

/// `name=value` for a query or a form body.
pub(crate) fn form(name: &str, value: &str) -> String {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
    const KEEP: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    format!("{name}={}", utf8_percent_encode(value, KEEP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_resolved() {
        let base = Url::parse("https://r.example:5000/v2/a/blobs/x?y=1").unwrap();
        let check = |location: &str, expected: Option<&str>| {
            let url = base.join(location).map(|url| url.to_uri().unwrap().to_string());
            assert_eq!(url.as_deref(), expected, "{location:?}");
        };
        check("https://CDN.example/b?sig=1#frag", Some("https://cdn.example/b?sig=1"));
        check("//cdn.example/b", Some("https://cdn.example/b"));
        check("/b", Some("https://r.example:5000/b"));
        check("?z", Some("https://r.example:5000/v2/a/blobs/x?z"));
        check("b?u=https://x/", Some("https://r.example:5000/v2/a/blobs/b?u=https://x/"));
        for bad in [
            "",
            "ftp://x/",
            "file:///etc/passwd",
            "https://u:p@x/",
            "https://",
            "https://a b/",
            "javascript:x",
        ] {
            check(bad, None);
        }
        check("https://x/\u{7f}", None);
        check("https://127.1/", None);
        check("https://0x7f.1/", None);
        check("https://x:99999/", None);
        check("https://../a", None);
    }

    #[test]
    fn local_addresses_are_known() {
        let check = |text: &str, loopback, local| {
            let authority = Authority::parse(text).unwrap();
            assert_eq!((authority.is_loopback(), authority.is_local()), (loopback, local), "{text}");
        };
        check("LOCALHOST:1", true, true);
        check("127.9.9.9", true, true);
        check("[::1]:5000", true, true);
        check("[::ffff:127.0.0.1]", true, true);
        check("169.254.169.254", false, true);
        check("0.0.0.0:80", false, true);
        check("[fe80::1]", false, true);
        check("x.localhost", false, true);
        check("localhost.example", false, false);
        check("10.0.0.1", false, false);
    }

    #[test]
    fn origins_compare_with_default_ports() {
        let same = |a: &str, b: &str| Url::parse(a).unwrap().same_origin(&Url::parse(b).unwrap());
        assert!(same("https://a/x", "https://A:443/y"));
        assert!(!same("https://a", "http://a:443"));
        assert!(!same("https://a", "https://a:444"));
        assert!(!same("https://a", "https://b"));
    }

    proptest::proptest! {
        #[test]
        fn any_location_is_read(text in "(https?:)?[-a-z0-9:/?#@.%\\[\\] é]{0,40}|.{0,40}") {
            let base = Url::parse("https://r.example/v2/").unwrap();
            if let Some(url) = base.join(&text) {
                // What is printed is what is connected to.
                let uri = url.to_uri().unwrap();
                proptest::prop_assert_eq!(Url::parse(&uri.to_string()), Some(url.clone()));
                proptest::prop_assert_eq!(uri.host().unwrap().trim_matches(['[', ']']), url.authority.host());
            }
        }
    }
}
