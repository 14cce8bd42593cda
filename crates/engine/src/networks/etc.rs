//! The container's hosts, hostname and resolv.conf.

use super::Networks;
use crate::Engine;
use crate::error::{During, Error};
use crate::model::EndpointSettings;
use crate::record::Record;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

impl Engine {
    /// What `host-gateway` means for containers: the default bridge's address; none where there is no such bridge.
    pub fn host_gateway(&self) -> Option<IpAddr> {
        self.networks.host_gateway()
    }
}

fn bad_extra_host(text: &str) -> Error {
    Error::invalid(format!("bad format for add-host: {text:?}"))
}

/// The name and the address in `name:address`; no address for `name:host-gateway`.
pub(crate) fn parse_extra_host(text: &str) -> Result<(&str, Option<IpAddr>), Error> {
    let parts = text.split_once([':', '=']).filter(|(name, _)| !name.is_empty());
    let (name, address) = parts.ok_or_else(|| bad_extra_host(text))?;
    if address == "host-gateway" {
        return Ok((name, None));
    }
    let bare = address.trim_start_matches('[').trim_end_matches(']');
    let invalid = |_| Error::invalid(format!("invalid IP address in add-host: {address:?}"));
    Ok((name, Some(bare.parse().map_err(invalid)?)))
}

impl Networks {
    pub(crate) fn etc_files(&self, record: &Record) -> Result<Vec<(&'static str, String)>, Error> {
        let host = &record.host_config;
        let hostname = format!("{}\n", record.config.hostname);
        let host_mode = host.network_mode == "host";
        let resolv_source = resolver_text();
        let resolv = if host_mode
            && host.dns.is_empty()
            && host.dns_search.is_empty()
            && host.dns_options.is_empty()
        {
            resolv_source
        } else if record.networks.keys().any(|n| !super::BUILT_IN.contains(&n.as_str())) {
            let server = IpAddr::V4(network::RESOLVER);
            network::files::own_resolv_conf(&resolv_source, server, &host.dns_search, &host.dns_options)
                .during(|| "write resolv.conf".into())?
        } else {
            let servers = host.dns.iter().map(|s| parse_address(s)).collect::<Result<Vec<_>, _>>()?;
            network::files::resolv_conf(&resolv_source, &servers, &host.dns_search, &host.dns_options)
                .during(|| "write resolv.conf".into())?
        };
        let extra = host.extra_hosts.iter().map(|e| self.extra_host(e)).collect::<Result<Vec<_>, _>>()?;
        let hosts = if host_mode {
            let mut text = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
            for (name, address) in &extra {
                text.push_str(&format!("{address}\t{name}\n"));
            }
            text
        } else {
            network::files::hosts(
                &record.config.hostname,
                &record.config.domainname,
                &addresses(record),
                &extra,
            )
            .during(|| "write hosts".into())?
        };
        Ok(vec![("hosts", hosts), ("hostname", hostname), ("resolv.conf", resolv)])
    }

    /// As [`Engine::host_gateway`].
    pub(crate) fn host_gateway(&self) -> Option<IpAddr> {
        self.find("bridge").ok()?.record.gateway(false)
    }

    /// `name:address`, or `name:host-gateway`.
    fn extra_host(&self, text: &str) -> Result<(String, IpAddr), Error> {
        let (name, address) = parse_extra_host(text)?;
        let gateway = || self.host_gateway().ok_or_else(|| bad_extra_host(text));
        Ok((name.into(), address.map_or_else(gateway, Ok)?))
    }

    /// Adds the container's new address to its hosts file.
    pub(super) fn add_host_line(&self, engine: &Engine, record: &Record, settings: &EndpointSettings) {
        let hostname = &record.config.hostname;
        edit_hosts(engine, record, |text| {
            for address in super::addresses_of(settings) {
                text.push_str(&format!("{address}\t{hostname}\n"));
            }
        });
    }

    /// Takes the container's address on a network that it has left out of its hosts file.
    pub(super) fn remove_host_line(&self, engine: &Engine, record: &Record, settings: &EndpointSettings) {
        let gone: Vec<String> = super::addresses_of(settings).iter().map(ToString::to_string).collect();
        edit_hosts(engine, record, |text| {
            let kept =
                text.lines().filter(|l| !l.split('\t').next().is_some_and(|a| gone.iter().any(|g| g == a)));
            *text = kept.map(|l| format!("{l}\n")).collect();
        });
    }
}

/// Leads a running container to another name server, unless people changed the file that says which. In place, as
/// below.
pub(super) fn change_resolv_conf(networks: &Networks, engine: &Engine, before: &Record, after: &Record) {
    let text = |record: &Record| {
        let files = networks.etc_files(record).ok()?;
        files.into_iter().find(|(name, _)| *name == "resolv.conf").map(|(_, text)| text)
    };
    let (Some(old), Some(new)) = (text(before), text(after)) else { return };
    let path = engine.config.container_dir(after.id.as_str()).join("resolv.conf");
    if old != new
        && std::fs::read_to_string(&path).is_ok_and(|now| now == old)
        && let Err(error) = std::fs::write(&path, new)
    {
        tracing::warn!(container_id = %after.id, %error, "resolv.conf not changed");
    }
}

/// Changes the hosts file of a running container, in place: it is bound into the container by its inode. What people
/// wrote there stays.
fn edit_hosts(engine: &Engine, record: &Record, change: impl FnOnce(&mut String)) {
    let path: PathBuf = engine.config.container_dir(record.id.as_str()).join("hosts");
    let edited = std::fs::read_to_string(&path).and_then(|mut text| {
        change(&mut text);
        std::fs::write(&path, text)
    });
    if let Err(error) = edited {
        tracing::warn!(container_id = %record.id, %error, "hosts file not changed");
    }
}

/// The container's addresses on all networks.
fn addresses(record: &Record) -> Vec<IpAddr> {
    record.networks.values().flat_map(super::addresses_of).collect()
}

fn parse_address(text: &str) -> Result<IpAddr, Error> {
    text.parse().map_err(|_| Error::invalid(format!("{text} is not an IP address")))
}

/// The resolver configuration that leads out of this host: systemd-resolved's own where only its stub is listed.
pub(super) fn resolver_text() -> String {
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).unwrap_or_default();
    let text = read("/etc/resolv.conf");
    if network::files::only_systemd_stub(&text) {
        let resolved = read("/run/systemd/resolve/resolv.conf");
        if !resolved.is_empty() {
            return resolved;
        }
    }
    text
}
