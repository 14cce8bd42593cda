//! The flags of networks that several hosts share.

use errors::{Kind, Report};
use std::net::IpAddr;

/// What keys begin with unless the URL says otherwise.
const PREFIX: &str = "/brig";
/// As long as a store that is being repaired may be away.
const TTL_S: u32 = 600;
/// Shorter leases end while a daemon is restarted.
const MIN_TTL_S: u32 = 2;

/// Reads the flags; None without a store.
pub(crate) fn parse(
    store: Option<String>,
    advertise: Option<String>,
    ttl: Option<u32>,
) -> Result<Option<engine::ClusterConfig>, Report> {
    let invalid = |text: String| Report::new(Kind::InvalidArgument, text);
    let Some(url) = store else {
        return match (advertise, ttl) {
            (None, None) => Ok(None),
            _ => Err(invalid("--cluster-advertise and --cluster-ttl need --cluster-store".into())),
        };
    };
    let (servers, prefix) = parse_url(&url).ok_or_else(|| {
        invalid(format!("--cluster-store {url}: want etcd://HOST:PORT[,HOST:PORT...][/PREFIX]"))
    })?;
    let Some(advertise) = advertise else {
        return Err(invalid("--cluster-store needs --cluster-advertise".into()));
    };
    let ttl_s = ttl.unwrap_or(TTL_S);
    if ttl_s < MIN_TTL_S {
        return Err(invalid(format!("--cluster-ttl {ttl_s}: less than {MIN_TTL_S}")));
    }
    Ok(Some(engine::ClusterConfig { store: servers, prefix, advertise: address(&advertise)?, ttl_s }))
}

fn parse_url(url: &str) -> Option<(Vec<String>, String)> {
    let rest = url.strip_prefix("etcd://")?;
    let (servers, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let servers: Vec<String> = servers.split(',').map(str::to_string).collect();
    if servers.iter().any(String::is_empty) {
        return None;
    }
    let prefix = prefix.trim_matches('/');
    Some((servers, if prefix.is_empty() { PREFIX.into() } else { format!("/{prefix}") }))
}

/// An address, or the address of an interface.
fn address(text: &str) -> Result<IpAddr, Report> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address);
    }
    let bad = |why: String| Report::new(Kind::InvalidArgument, format!("--cluster-advertise {text}: {why}"));
    match network::interface_address(text) {
        Ok(Some(address)) => Ok(address),
        Ok(None) => Err(bad("the interface has no address".into())),
        Err(e) => Err(bad(errors::chain(&e))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores() {
        let (servers, prefix) = parse_url("etcd://a:1,b:2/x/y/").unwrap();
        assert_eq!((servers.len(), prefix.as_str()), (2, "/x/y"));
        assert_eq!(parse_url("etcd://a:1").unwrap().1, PREFIX);
        for bad in ["", "a:1", "http://a:1", "etcd://", "etcd://a:1,,b:1"] {
            assert!(parse_url(bad).is_none(), "{bad}");
        }
        let some = |t: &str| Some(t.to_string());
        assert!(parse(None, None, None).unwrap().is_none());
        assert!(parse(None, some("10.0.0.1"), None).is_err());
        assert!(parse(some("etcd://a:1"), None, None).is_err());
        assert!(parse(some("etcd://a:1"), some("10.0.0.1"), Some(1)).is_err());
        assert_eq!(parse(some("etcd://a:1"), some("10.0.0.1"), None).unwrap().unwrap().ttl_s, TTL_S);
    }
}
