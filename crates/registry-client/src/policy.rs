//! Which hosts may be spoken to without verified TLS, and where a registry may send us.

use crate::Error;
use crate::url::{Authority, Scheme, Url};
use std::net::IpAddr;

/// The configuration's list of insecure hosts, parsed.
#[derive(Debug)]
pub(crate) struct Policy {
    insecure: Vec<Insecure>,
}

#[derive(Debug)]
enum Insecure {
    Host(Authority),
    Network { base: IpAddr, prefix: u8 },
}

impl Policy {
    pub(crate) fn new(insecure: &[String]) -> Result<Policy, Error> {
        let parse = |text: &String| {
            Insecure::parse(text).ok_or_else(|| Error::Config {
                what: format!("insecure registry {text:?}"),
                reason: "want host, host:port or a CIDR".into(),
            })
        };
        Ok(Policy { insecure: insecure.iter().map(parse).collect::<Result<_, _>>()? })
    }

    /// Whether plain HTTP and unverified certificates are allowed for this host. Only the name counts, never what
    /// it resolves to: name servers must not switch TLS off.
    pub(crate) fn is_insecure(&self, authority: &Authority) -> bool {
        authority.is_loopback() || self.insecure.iter().any(|entry| entry.covers(authority))
    }

    /// Whether a secret may travel to this URL.
    pub(crate) fn may_carry_secrets(&self, url: &Url) -> bool {
        url.scheme == Scheme::Https || self.is_insecure(&url.authority)
    }

    /// Whether a registry at `registry` may send us on to `target`, by a redirect or as a token realm. The reason
    /// when not.
    pub(crate) fn check_target(&self, registry: &Authority, target: &Url) -> Result<(), String> {
        if target.scheme == Scheme::Http && !self.is_insecure(&target.authority) {
            return Err(format!("{target} is plain HTTP"));
        }
        if target.authority.is_local()
            && !registry.is_loopback()
            && target.authority.host() != registry.host()
        {
            return Err(format!("{target} is an address of this machine or link"));
        }
        Ok(())
    }
}

impl Insecure {
    fn parse(text: &str) -> Option<Insecure> {
        if let Some((base, prefix)) = text.split_once('/') {
            let base: IpAddr = base.parse().ok()?;
            let prefix: u8 = prefix.parse().ok()?;
            let longest = if base.is_ipv4() { 32 } else { 128 };
            return (prefix <= longest).then_some(Insecure::Network { base, prefix });
        }
        // A bare IPv6 address has colons of its own.
        let text =
            if text.parse::<std::net::Ipv6Addr>().is_ok() { format!("[{text}]") } else { text.to_string() };
        Authority::parse(&text).map(Insecure::Host)
    }

    fn covers(&self, authority: &Authority) -> bool {
        match self {
            Insecure::Host(entry) => {
                entry.host() == authority.host()
                    && entry.port().is_none_or(|port| authority.port() == Some(port))
            }
            Insecure::Network { base, prefix } => {
                authority.address().is_some_and(|address| within(*base, *prefix, address))
            }
        }
    }
}

/// Whether `address` begins with the first `prefix` bits of `base`.
pub(crate) fn within(base: IpAddr, prefix: u8, address: IpAddr) -> bool {
    let prefix = u32::from(prefix);
    match (base, address) {
        (IpAddr::V4(base), IpAddr::V4(address)) => {
            let shift = 32u32.saturating_sub(prefix);
            u32::from(base).checked_shr(shift) == u32::from(address).checked_shr(shift)
        }
        (IpAddr::V6(base), IpAddr::V6(address)) => {
            let shift = 128u32.saturating_sub(prefix);
            u128::from(base).checked_shr(shift) == u128::from(address).checked_shr(shift)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn insecure_hosts() {
        let list = ["r.lan:5000", "other.lan", "10.1.0.0/16", "fd00::/8", "192.0.2.1/32"].map(String::from);
        let policy = Policy::new(&list).unwrap();
        let check = |text: &str, expected| {
            assert_eq!(policy.is_insecure(&Authority::parse(text).unwrap()), expected, "{text}");
        };
        check("localhost:5000", true);
        check("127.3.2.1", true);
        check("[::1]:80", true);
        check("r.lan:5000", true);
        check("r.lan", false);
        check("r.lan:5001", false);
        check("other.lan:1", true);
        check("10.1.255.1:5000", true);
        check("10.2.0.1", false);
        check("[fd12::1]", true);
        check("192.0.2.1", true);
        check("192.0.2.2", false);
        check("docker.io", false);
        let all = Policy::new(&["0.0.0.0/0".into()]).unwrap();
        assert!(all.is_insecure(&Authority::parse("8.8.8.8").unwrap()));
        assert!(!all.is_insecure(&Authority::parse("example.com").unwrap()));
    }

    #[test]
    fn refuses_entries_it_cannot_read() {
        for text in ["", "10.0.0.0/33", "http://x", "a b", "x/24"] {
            assert!(Policy::new(&[text.into()]).is_err(), "{text:?}");
        }
    }

    #[test]
    fn targets_of_a_public_registry() {
        let policy = Policy::new(&[]).unwrap();
        let check = |registry: &str, target: &str, allowed| {
            let result =
                policy.check_target(&Authority::parse(registry).unwrap(), &Url::parse(target).unwrap());
            assert_eq!(result.is_ok(), allowed, "{registry} -> {target}");
        };
        check("r.example", "https://cdn.example/x", true);
        check("r.example", "http://cdn.example/x", false);
        check("r.example", "http://127.0.0.1/x", false);
        check("r.example", "https://169.254.169.254/latest", false);
        check("127.0.0.1:5000", "http://localhost:5001/x", true);
        check("127.0.0.1:5000", "http://cdn.example/x", false);
    }
}
