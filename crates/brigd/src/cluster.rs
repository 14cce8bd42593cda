//! The flags of networks that several hosts share.

use errors::{Kind, Report};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

/// What keys begin with unless the URL says otherwise.
const PREFIX: &str = "/brig";
/// As long as a store that is being repaired may be away.
const TTL_S: u32 = 600;
/// Shorter leases end while a daemon is restarted.
const MIN_TTL_S: u32 = 2;

/// Reads the flags; None without a store. `options` are those of TLS, by Docker's names.
pub(crate) fn parse(
    store: Option<String>,
    options: &BTreeMap<String, String>,
    advertise: Option<String>,
    ttl: Option<u32>,
) -> Result<Option<engine::ClusterConfig>, Report> {
    let Some(url) = store else {
        return match (advertise, ttl, options.is_empty()) {
            (None, None, true) => Ok(None),
            _ => Err(invalid(
                "--cluster-store-opt, --cluster-advertise and --cluster-ttl need --cluster-store".into(),
            )),
        };
    };
    let (mut servers, prefix) = parse_url(&url).ok_or_else(|| {
        invalid(format!("--cluster-store {url}: want etcd://HOST:PORT[,HOST:PORT...][/PREFIX]"))
    })?;
    let tls = tls(options)?;
    if !options.is_empty() {
        servers.iter_mut().for_each(|server| server.insert_str(0, "https://"));
    }
    let Some(advertise) = advertise else {
        return Err(invalid("--cluster-store needs --cluster-advertise".into()));
    };
    let ttl_s = ttl.unwrap_or(TTL_S);
    if ttl_s < MIN_TTL_S {
        return Err(invalid(format!("--cluster-ttl {ttl_s}: less than {MIN_TTL_S}")));
    }
    Ok(Some(engine::ClusterConfig { store: servers, tls, prefix, advertise: address(&advertise)?, ttl_s }))
}

fn invalid(text: String) -> Report {
    Report::new(Kind::InvalidArgument, text)
}

/// `kv.cacertfile`, `kv.certfile`, `kv.keyfile`.
fn tls(options: &BTreeMap<String, String>) -> Result<engine::StoreTls, Report> {
    let known = ["kv.cacertfile", "kv.certfile", "kv.keyfile"];
    if let Some(other) = options.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(invalid(format!("--cluster-store-opt {other}: want one of {}", known.join(", "))));
    }
    let [authorities, certificate, key] = known.map(|name| options.get(name).map(PathBuf::from));
    if certificate.is_some() != key.is_some() {
        return Err(invalid("--cluster-store-opt: kv.certfile and kv.keyfile go together".into()));
    }
    Ok(engine::StoreTls { authorities, identity: certificate.zip(key) })
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
        let parse = |store, advertise, ttl| super::parse(store, &BTreeMap::new(), advertise, ttl);
        assert!(parse(None, None, None).unwrap().is_none());
        assert!(parse(None, some("10.0.0.1"), None).is_err());
        assert!(parse(some("etcd://a:1"), None, None).is_err());
        assert!(parse(some("etcd://a:1"), some("10.0.0.1"), Some(1)).is_err());
        assert_eq!(parse(some("etcd://a:1"), some("10.0.0.1"), None).unwrap().unwrap().ttl_s, TTL_S);
    }

    #[test]
    fn certificates() {
        let parse = |options: &[(&str, &str)]| {
            let options = options.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
            super::parse(Some("etcd://a:1".into()), &options, Some("10.0.0.1".into()), None)
        };
        let all = [("kv.cacertfile", "/ca"), ("kv.certfile", "/c"), ("kv.keyfile", "/k")];
        let config = parse(&all).unwrap().unwrap();
        assert_eq!(config.store, ["https://a:1"]);
        assert_eq!(config.tls.identity, Some(("/c".into(), "/k".into())));
        assert_eq!(parse(&[]).unwrap().unwrap().store, ["a:1"]);
        for bad in [&all[..2], &[("kv.path", "x")]] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
