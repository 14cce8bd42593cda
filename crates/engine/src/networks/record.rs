//! What the database keeps of a network, what a client asks for, and how one becomes the other.

use super::options::{ENABLE_IPV4, ENABLE_IPV6, take_switch};
use crate::error::{During, Error};
use crate::record::{now, random_hex};
use network::Subnet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A network as the database keeps it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    pub id: String,
    pub name: String,
    /// `bridge`, `host`, `null`.
    pub driver: String,
    pub created: String,
    /// In records of version 1 before there were `pools`; read only.
    #[serde(default, skip_serializing)]
    pub(super) subnet: Option<String>,
    #[serde(default, skip_serializing)]
    pub(super) gateway: Option<IpAddr>,
    #[serde(default)]
    pub pools: Vec<NetworkPool>,
    #[serde(default)]
    pub internal: bool,
    #[serde(default)]
    pub attachable: bool,
    #[serde(default)]
    pub ipv6: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_ipv4: bool,
    /// Only a configuration that others take.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub config_only: bool,
    /// The network whose configuration it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_from: Option<String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Always empty; clients are shown whether there was one.
    #[serde(default)]
    pub ipam_options: Option<BTreeMap<String, String>>,
    /// The number of a network that hosts share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vni: Option<u32>,
    /// Its MTU, where no option names one: what fits into the packets of the host that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_mtu: Option<u32>,
}

/// The addresses of one family in a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPool {
    /// CIDR text.
    pub subnet: String,
    /// CIDR text; where containers' addresses come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_range: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Addresses that are never given out, by a name that says whose they are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub aux: BTreeMap<String, IpAddr>,
}

impl NetworkPool {
    /// The subnet; records hold what was checked when they were made.
    pub(crate) fn net(&self) -> Result<Subnet, Error> {
        self.subnet.parse().during(|| "read a network's record".into())
    }
}

impl Network {
    /// One that always exists.
    pub(crate) fn built_in(name: &str) -> Network {
        Network {
            id: random_hex(),
            name: name.into(),
            driver: if name == "none" { "null".into() } else { name.into() },
            created: now(),
            ..Network::default()
        }
    }

    /// Brings a record of an earlier version into today's form.
    pub(crate) fn modernise(&mut self) {
        if let (true, Some(subnet)) = (self.pools.is_empty(), self.subnet.take()) {
            self.pools = vec![NetworkPool {
                subnet,
                ip_range: None,
                gateway: self.gateway.take(),
                aux: BTreeMap::new(),
            }];
        }
    }

    /// Whether containers on it are found by their names.
    pub fn is_user_defined(&self) -> bool {
        !super::BUILT_IN.contains(&self.name.as_str())
    }

    pub(crate) fn pool(&self, is_ipv6: bool) -> Option<&NetworkPool> {
        self.pools.iter().find(|p| p.subnet.contains(':') == is_ipv6)
    }

    pub(crate) fn gateway(&self, is_ipv6: bool) -> Option<IpAddr> {
        self.pool(is_ipv6).and_then(|p| p.gateway)
    }

    /// The pool that an address is of.
    pub(crate) fn pool_with(&self, address: IpAddr) -> Option<&NetworkPool> {
        self.pools.iter().find(|p| p.net().is_ok_and(|net| net.contains(address)))
    }

    /// The length of the prefix of the pool that an address is of.
    pub fn prefix_of(&self, address: IpAddr) -> Option<u8> {
        self.pool_with(address)?.net().ok().map(|net| net.prefix())
    }

    /// Whether containers have an interface on it.
    pub(crate) fn has_interfaces(&self) -> bool {
        self.has_bridge() || self.is_shared()
    }

    /// Whether it has a bridge on this host.
    pub fn has_bridge(&self) -> bool {
        super::has_host_end(&self.driver)
    }

    /// `global` for one that several hosts share.
    pub fn scope(&self) -> &'static str {
        if self.driver == "overlay" { "global" } else { "local" }
    }
}

/// What a client asks for: the body of `POST /networks/create`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkRequest {
    pub name: String,
    pub driver: Option<String>,
    pub scope: Option<String>,
    #[serde(rename = "EnableIPv4")]
    pub enable_ipv4: Option<bool>,
    #[serde(rename = "EnableIPv6")]
    pub enable_ipv6: Option<bool>,
    #[serde(rename = "IPAM")]
    pub ipam: Option<IpamRequest>,
    pub internal: Option<bool>,
    pub attachable: Option<bool>,
    pub ingress: Option<bool>,
    pub config_only: Option<bool>,
    pub config_from: Option<ConfigReference>,
    pub options: Option<BTreeMap<String, String>>,
    pub labels: Option<BTreeMap<String, String>>,
}

/// The network whose configuration another one takes.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ConfigReference {
    pub network: String,
}

/// Which addresses a client wants for a network.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct IpamRequest {
    pub driver: Option<String>,
    pub options: Option<BTreeMap<String, String>>,
    pub config: Option<Vec<PoolRequest>>,
}

/// One subnet of a request.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PoolRequest {
    pub subnet: Option<String>,
    #[serde(rename = "IPRange")]
    pub ip_range: Option<String>,
    pub gateway: Option<String>,
    #[serde(alias = "AuxAddress")]
    pub auxiliary_addresses: Option<BTreeMap<String, String>>,
}

impl NetworkRequest {
    /// The record of the network asked for, checked as far as that goes without looking at others. Pools without a
    /// subnet are left out: the caller chooses one.
    pub(crate) fn check(self) -> Result<Network, Error> {
        let name = self.name.trim();
        if name.is_empty() {
            return Err(Error::invalid("invalid name: name is empty"));
        }
        // Docker takes any name. A slash or colon would make it one that no request and no `--network` can say.
        if name.chars().any(|c| c.is_control() || matches!(c, '/' | ':')) || matches!(name, "." | "..") {
            return Err(Error::invalid(format!(
                "invalid network name {name:?}: it must hold no slash, colon or control character"
            )));
        }
        if super::BUILT_IN.contains(&name) || name == "default" {
            return Err(Error::denied(format!("operation is not permitted on predefined {name} network")));
        }
        let said = |flag: Option<bool>| flag == Some(true);
        let config_from = self.config_from.map(|c| c.network).filter(|name| !name.is_empty());
        let driver = self.driver.filter(|d| !d.is_empty()).unwrap_or_else(|| "bridge".into());
        let scope = self.scope.unwrap_or_default();
        if said(self.config_only)
            && (said(self.ingress) || said(self.internal) || said(self.attachable) || !scope.is_empty())
        {
            return Err(Error::denied(
                "configuration network can only contain network specific fields. Network operator fields like \
                 [ ingress | internal | attachable | scope ] are not supported.",
            ));
        }
        if said(self.config_only) && config_from.is_some() {
            return Err(Error::denied(
                "a configuration network cannot depend on another configuration network",
            ));
        }
        match scope.as_str() {
            _ if said(self.ingress) && driver != "overlay" => {
                return Err(Error::denied("Ingress network can only be global scope network"));
            }
            "" => {}
            "swarm" => return Err(Error::unavailable(NO_SWARM)),
            "local" if driver == "overlay" => {
                return Err(Error::denied("cannot downgrade network scope for overlay networks"));
            }
            "local" | "global" if (scope == "global") == (driver == "overlay") => {}
            _ => return Err(Error::unsupported(format!("the scope {scope} for a {driver} network"))),
        }
        if said(self.ingress) {
            return Err(Error::unavailable(NO_SWARM));
        }
        let mut options = self.options.unwrap_or_default();
        let option4 = take_switch(&mut options, ENABLE_IPV4)?;
        let option6 = take_switch(&mut options, ENABLE_IPV6)?;
        let ipv4 = self.enable_ipv4.or(option4);
        let ipv6 = self.enable_ipv6.or(option6);
        let ipam = self.ipam.unwrap_or_default();
        match ipam.driver.as_deref() {
            None | Some("" | "default") => {}
            Some(other) => return Err(Error::NoSuchDriver { name: other.into() }),
        }
        let mut network = Network {
            id: random_hex(),
            name: name.into(),
            driver,
            created: now(),
            internal: said(self.internal),
            attachable: said(self.attachable),
            ipv6: ipv6.unwrap_or(false),
            no_ipv4: ipv4 == Some(false),
            config_only: said(self.config_only),
            labels: self.labels.unwrap_or_default(),
            options,
            ipam_options: ipam.options,
            ..Network::default()
        };
        if network.ipam_options.as_ref().is_some_and(|options| !options.is_empty()) {
            return Err(Error::unsupported("an option of the address management"));
        }
        match network.driver.as_str() {
            "bridge" | "macvlan" | "ipvlan" | "overlay" => {}
            "host" | "null" => {
                return Err(Error::denied(format!(
                    "only one instance of \"{}\" network is allowed",
                    network.driver
                )));
            }
            other => return Err(Error::NoSuchDriver { name: other.into() }),
        }
        network.pools = pools(ipam.config.unwrap_or_default())?;
        if let Some(from) = config_from {
            let configured = ipv4.is_some() || network.ipv6 || !network.labels.is_empty();
            if configured || !network.pools.is_empty() {
                return Err(Error::denied(
                    "user specified configurations are not supported if the network depends on a configuration network",
                ));
            }
            if !network.options.is_empty() {
                return Err(Error::denied(
                    "network driver options are not supported if the network depends on a configuration network",
                ));
            }
            network.config_from = Some(from);
            return Ok(network);
        }
        // Docker passes over an IPv6 subnet without the switch; who names one wants it.
        network.ipv6 |= network.pool(true).is_some();
        if network.config_only {
            // Whose options these are is not known before somebody takes them.
            network.driver = "null".into();
            return Ok(network);
        }
        network.check_whole()?;
        Ok(network)
    }
}

const NO_SWARM: &str = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect \
                        this node to swarm and try again.";

impl Network {
    /// Takes the configuration of `other`.
    pub(super) fn configure_by(&mut self, other: &Network) -> Result<(), Error> {
        self.pools.clone_from(&other.pools);
        self.options.clone_from(&other.options);
        self.labels.clone_from(&other.labels);
        (self.ipv6, self.no_ipv4) = (other.ipv6, other.no_ipv4);
        self.check_whole()
    }

    /// Checks what is to be a network, as far as that goes without looking at others or at the host.
    fn check_whole(&self) -> Result<(), Error> {
        let count = |is_ipv6| self.pools.iter().filter(|p| p.subnet.contains(':') == is_ipv6).count();
        match self.driver.as_str() {
            "bridge" if count(false).max(count(true)) > 1 => {
                return Err(Error::denied("bridge driver doesn't support multiple subnets"));
            }
            "overlay" if self.no_ipv4 => return Err(Error::unsupported("an overlay network without IPv4")),
            _ => {}
        }
        if self.no_ipv4 && !self.ipv6 {
            return Err(Error::invalid("IPv4 or IPv6 must be enabled"));
        }
        if self.no_ipv4 && count(false) > 0 {
            return Err(Error::invalid(
                "invalid network config:\nan IPv4 subnet is named, and IPv4 is disabled",
            ));
        }
        self.check_options()
    }
}

/// What Docker says of a subnet that is taken.
pub(super) const OVERLAP: &str = "invalid pool request: Pool overlaps with other one on this address space";

/// Checks the subnets asked for, in Docker's words.
fn pools(requests: Vec<PoolRequest>) -> Result<Vec<NetworkPool>, Error> {
    let mut out: Vec<NetworkPool> = Vec::new();
    let mut errors = Vec::new();
    for request in requests {
        let some = |text: Option<String>| text.filter(|t| !t.is_empty());
        let (range, gateway) = (some(request.ip_range), some(request.gateway));
        let aux = request.auxiliary_addresses.unwrap_or_default();
        let Some(text) = some(request.subnet) else {
            if range.is_some() || gateway.is_some() || !aux.is_empty() {
                return Err(Error::invalid(
                    "invalid network config:\ninvalid subnet: an ip-range, a gateway and auxiliary addresses need one",
                ));
            }
            continue;
        };
        let subnet: Subnet = text
            .parse()
            .map_err(|_| Error::invalid(format!("invalid subnet {text}: invalid CIDR block notation")))?;
        let family = if subnet.is_ipv6() { 6 } else { 4 };
        if canonical(&text) != subnet.to_string() {
            errors.push(format!("invalid subnet {text}: it should be {subnet}"));
        }
        let range_net = range.as_ref().and_then(|r| r.parse::<Subnet>().ok());
        if let Some(range) = &range {
            match range_net {
                None => errors.push(format!("invalid ip-range {range}: invalid CIDR block notation")),
                Some(net) if net.is_ipv6() != subnet.is_ipv6() => {
                    errors.push(format!("invalid ip-range {range}: parent subnet is an IPv{family} block"));
                }
                Some(net) if net.prefix() < subnet.prefix() => errors.push(format!(
                    "invalid ip-range {range}: CIDR block is bigger than its parent subnet {subnet}"
                )),
                Some(net) if !subnet.overlaps(net) => errors.push(format!(
                    "invalid ip-range {range}: parent subnet {subnet} doesn't contain ip-range"
                )),
                Some(_) => {}
            }
        }
        let mut address = |what: &str, text: &str| {
            let parsed: Option<IpAddr> = text.parse().ok();
            match parsed {
                None => errors.push(format!("invalid {what}: invalid address")),
                Some(a) if a.is_ipv6() != subnet.is_ipv6() => {
                    errors.push(format!("invalid {what}: parent subnet is an IPv{family} block"));
                }
                Some(a) if !subnet.contains(a) => errors
                    .push(format!("invalid {what}: parent subnet {subnet} doesn't contain this address")),
                Some(_) => {}
            }
            parsed
        };
        let gateway = gateway.and_then(|g| address(&format!("gateway {g}"), &g));
        let aux: BTreeMap<String, IpAddr> = aux
            .into_iter()
            .filter_map(|(name, text)| {
                Some((name.clone(), address(&format!("auxiliary address {name}"), &text)?))
            })
            .collect();
        if out.iter().any(|p| p.net().is_ok_and(|other| other.overlaps(subnet))) {
            return Err(Error::denied(OVERLAP));
        }
        out.push(NetworkPool {
            subnet: subnet.to_string(),
            ip_range: range_net.map(|r| r.to_string()),
            gateway,
            aux,
        });
    }
    match errors.as_slice() {
        [] => Ok(out),
        _ => Err(Error::invalid(format!("invalid network config:\n{}", errors.join("\n")))),
    }
}

/// The text with its address written as addresses are, and its host bits kept.
fn canonical(text: &str) -> String {
    match text.split_once('/').and_then(|(a, p)| Some((a.parse::<IpAddr>().ok()?, p))) {
        Some((address, prefix)) => format!("{address}/{prefix}"),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str) -> Result<Network, String> {
        let request: NetworkRequest = serde_json::from_str(body).unwrap();
        request.check().map_err(|e| errors::chain(&e))
    }

    #[test]
    fn requests_become_records() {
        let network = check(
            r#"{"Name":"a","Internal":true,"IPAM":{"Config":[{"Subnet":"10.1.0.0/16","IPRange":"10.1.2.0/24",
            "Gateway":"10.1.0.9","AuxiliaryAddresses":{"router":"10.1.0.8"}}]},"Options":{"mine":"x",
            "com.docker.network.bridge.enable_icc":"false","com.docker.network.driver.mtu":"1400"}}"#,
        )
        .unwrap();
        assert!(network.internal && network.driver == "bridge");
        assert_eq!(network.pools[0].ip_range.as_deref(), Some("10.1.2.0/24"));
        let options = network.bridge_options().unwrap();
        assert_eq!((options.icc, options.masquerade, options.mtu), (false, true, Some(1400)));
        assert!(check(r#"{"Name":"a","EnableIPv6":true}"#).unwrap().ipv6);
        let network = check(r#"{"Name":"a","EnableIPv4":false,"EnableIPv6":true}"#).unwrap();
        assert!(network.no_ipv4 && network.ipv6);
        let two = r#""IPAM":{"Config":[{"Subnet":"10.1.0.0/24"},{"Subnet":"10.2.0.0/24"}]}"#;
        let network = check(&format!(r#"{{"Name":"a","Driver":"macvlan",{two}}}"#)).unwrap();
        assert_eq!(network.pool_with("10.2.0.9".parse().unwrap()).unwrap().subnet, "10.2.0.0/24");
        let configuration = check(&format!(r#"{{"Name":"a","ConfigOnly":true,{two}}}"#)).unwrap();
        assert!(configuration.config_only && configuration.driver == "null");
        let mut taker = check(r#"{"Name":"b","Driver":"macvlan","ConfigFrom":{"Network":"a"}}"#).unwrap();
        taker.configure_by(&configuration).unwrap();
        assert_eq!(taker.pools, configuration.pools);
        let mut taker = check(r#"{"Name":"b","ConfigFrom":{"Network":"a"}}"#).unwrap();
        assert!(taker.configure_by(&configuration).is_err(), "a bridge has one subnet");
    }

    #[test]
    fn mistakes_are_told_in_dockers_words() {
        let refused = |body: &str, part: &str| {
            let message = check(body).unwrap_err();
            assert!(message.contains(part), "{body}: {message}");
        };
        let pool = |fields: &str| format!(r#"{{"Name":"a","IPAM":{{"Config":[{{{fields}}}]}}}}"#);
        refused(r#"{"Name":""}"#, "name is empty");
        refused(r#"{"Name":"a/b"}"#, "invalid network name");
        refused(r#"{"Name":"host"}"#, "operation is not permitted on predefined host network");
        refused(r#"{"Name":"a","Driver":"weave"}"#, "plugin \"weave\" not found");
        refused(
            r#"{"Name":"a","Options":{"com.docker.network.driver.mtu":"17"}}"#,
            "com.docker.network.driver.mtu",
        );
        refused(r#"{"Name":"a","Options":{"com.docker.network.driver.mtu":"-1"}}"#, "invalid MTU number");
        refused(
            r#"{"Name":"a","Options":{"com.docker.network.bridge.icc":"1"}}"#,
            "com.docker.network.bridge.icc",
        );
        refused(&pool(r#""Subnet":"10.0.0.0/33""#), "invalid subnet");
        refused(&pool(r#""Subnet":"10.0.0.1/24""#), "invalid subnet 10.0.0.1/24: it should be 10.0.0.0/24");
        refused(&pool(r#""Subnet":"10.0.0.0/24","Gateway":"10.0.1.1""#), "doesn't contain this address");
        refused(&pool(r#""Subnet":"10.0.0.0/24","IPRange":"10.0.0.0/16""#), "CIDR block is bigger");
        assert!(check(&pool(r#""Subnet":"fd00::/64""#)).unwrap().ipv6);
        refused(&pool(r#""Gateway":"10.0.1.1""#), "invalid subnet");
        let two = |a: &str, b: &str| {
            format!(r#"{{"Name":"a","IPAM":{{"Config":[{{"Subnet":"{a}"}},{{"Subnet":"{b}"}}]}}}}"#)
        };
        refused(&two("10.1.0.0/24", "10.2.0.0/24"), "bridge driver doesn't support multiple subnets");
        refused(&two("10.1.0.0/16", "10.1.2.0/24"), "Pool overlaps with other one on this address space");
        refused(r#"{"Name":"a","EnableIPv4":false}"#, "IPv4 or IPv6 must be enabled");
        refused(r#"{"Name":"a","ConfigOnly":true,"Internal":true}"#, "Network operator fields");
        refused(r#"{"Name":"a","ConfigOnly":true,"ConfigFrom":{"Network":"b"}}"#, "cannot depend on another");
        refused(
            r#"{"Name":"a","ConfigFrom":{"Network":"b"},"EnableIPv6":true}"#,
            "user specified configurations",
        );
        refused(
            r#"{"Name":"a","ConfigFrom":{"Network":"b"},"Options":{"x":"y"}}"#,
            "driver options are not supported",
        );
        refused(r#"{"Name":"a","Ingress":true}"#, "Ingress network can only be global scope network");
        refused(r#"{"Name":"a","Scope":"swarm"}"#, "This node is not a swarm manager");
    }

    #[test]
    fn records_of_the_first_version_are_read() {
        let text = r#"{"id":"x","name":"bridge","driver":"bridge","created":"","subnet":"172.17.0.0/16","gateway":"172.17.0.1"}"#;
        let mut network: Network = serde_json::from_str(text).unwrap();
        network.modernise();
        assert_eq!(network.pools[0].subnet, "172.17.0.0/16");
        assert_eq!(network.gateway(false), Some("172.17.0.1".parse().unwrap()));
    }
}
