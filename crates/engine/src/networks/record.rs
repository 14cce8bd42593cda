//! What the database keeps of a network, what a client asks for, and how one becomes the other.

use crate::error::{During, Error};
use crate::record::{now, random_hex};
use network::Subnet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

const BRIDGE_NAME: &str = "com.docker.network.bridge.name";
const ENABLE_ICC: &str = "com.docker.network.bridge.enable_icc";
const ENABLE_MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
const HOST_BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
const DEFAULT_BRIDGE: &str = "com.docker.network.bridge.default_bridge";
const GATEWAY_MODES: [&str; 2] =
    ["com.docker.network.bridge.gateway_mode_ipv4", "com.docker.network.bridge.gateway_mode_ipv6"];
const INHIBIT_IPV4: &str = "com.docker.network.bridge.inhibit_ipv4";
const PARENT: &str = "parent";
const MACVLAN_MODE: &str = "macvlan_mode";
const MTU: &str = "com.docker.network.driver.mtu";
const ENABLE_IPV4: &str = "com.docker.network.enable_ipv4";
const ENABLE_IPV6: &str = "com.docker.network.enable_ipv6";
const VXLAN_ID: &str = "com.docker.network.driver.overlay.vxlanid_list";
const ENCRYPTED: &str = "encrypted";
const INTERFACE_PREFIX: &str = "com.docker.network.container_iface_prefix";
/// Options of networks that belong to the engine; others are a user's own and only kept.
const ENGINE_OPTIONS: &str = "com.docker.network.";
/// Least MTU that IPv4 and IPv6 work with.
const MIN_MTU: [u32; 2] = [68, 1280];
/// `u16::MAX`, the largest that bridge and veth take.
const MAX_MTU: u32 = 65535;
/// The longest prefix of an interface's name that leaves room for a number.
const MAX_INTERFACE_PREFIX: usize = 11;

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
    subnet: Option<String>,
    #[serde(default, skip_serializing)]
    gateway: Option<IpAddr>,
    #[serde(default)]
    pub pools: Vec<NetworkPool>,
    #[serde(default)]
    pub internal: bool,
    #[serde(default)]
    pub attachable: bool,
    #[serde(default)]
    pub ipv6: bool,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    #[serde(default)]
    pub ipam_options: BTreeMap<String, String>,
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

/// What the driver's options say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BridgeOptions {
    pub(crate) name: Option<String>,
    pub(crate) icc: bool,
    pub(crate) masquerade: bool,
    pub(crate) mtu: Option<u32>,
    /// Where ports are published that name no address.
    pub(crate) host_binding: Option<IpAddr>,
    /// Of interfaces inside, before their number.
    pub(crate) interface_prefix: String,
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

    pub(crate) fn bridge_options(&self) -> Result<BridgeOptions, Error> {
        let truth = |key: &str, default: bool| match self.options.get(key).map(String::as_str) {
            None => Ok(default),
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some(other) => {
                Err(Error::invalid(format!("failed to parse {key} value: {other} (invalid syntax)")))
            }
        };
        if truth(INHIBIT_IPV4, false)? {
            return Err(Error::unsupported(format!("the network option {INHIBIT_IPV4}")));
        }
        truth(DEFAULT_BRIDGE, false)?;
        for key in GATEWAY_MODES {
            match self.options.get(key).map(String::as_str) {
                None | Some("" | "nat") => {}
                Some(mode @ ("routed" | "isolated" | "nat-unprotected")) => {
                    return Err(Error::unsupported(format!("the network option {key}={mode}")));
                }
                Some(other) => return Err(Error::invalid(format!("unknown gateway mode {other}"))),
            }
        }
        let host_binding = match self.options.get(HOST_BINDING).map(String::as_str) {
            None | Some("") => None,
            Some(text) => Some(text.parse::<std::net::Ipv4Addr>().map(IpAddr::V4).map_err(|_| {
                Error::invalid(format!("failed to parse {HOST_BINDING} value: {text} (invalid IPv4 address)"))
            })?),
        };
        let interface_prefix = self.options.get(INTERFACE_PREFIX).map_or("eth", String::as_str);
        let plain = interface_prefix.bytes().all(|b| b.is_ascii_alphabetic() || b == b'_' || b == b'-');
        if interface_prefix.is_empty() || interface_prefix.len() > MAX_INTERFACE_PREFIX || !plain {
            return Err(Error::invalid(format!("invalid {INTERFACE_PREFIX}: {interface_prefix:?}")));
        }
        Ok(BridgeOptions {
            name: self.options.get(BRIDGE_NAME).filter(|n| !n.is_empty()).cloned(),
            icc: truth(ENABLE_ICC, true)?,
            masquerade: truth(ENABLE_MASQUERADE, true)?,
            mtu: self.mtu()?,
            host_binding,
            interface_prefix: interface_prefix.into(),
        })
    }

    /// Parent interface and mode of a macvlan network.
    pub(crate) fn macvlan_options(&self) -> Result<(String, network::MacvlanMode), Error> {
        let parent = self.options.get(PARENT).filter(|p| !p.is_empty());
        let Some(parent) = parent.filter(|_| !self.internal) else {
            // Docker makes a dummy interface then.
            return Err(Error::unsupported(
                "a macvlan network that is internal or names no parent (-o parent=INTERFACE)",
            ));
        };
        let mode = match self.options.get(MACVLAN_MODE).map(String::as_str) {
            None | Some("" | "bridge") => network::MacvlanMode::Bridge,
            Some("private") => network::MacvlanMode::Private,
            Some("vepa") => network::MacvlanMode::Vepa,
            Some("passthru") => network::MacvlanMode::Passthru,
            Some(other) => {
                return Err(Error::invalid(format!(
                    "requested macvlan mode '{other}' is not valid, 'bridge' mode is the macvlan driver default"
                )));
            }
        };
        Ok((parent.clone(), mode))
    }

    /// Whether containers have an interface on it.
    pub(crate) fn has_interfaces(&self) -> bool {
        self.has_bridge() || self.driver == "macvlan"
    }

    /// Whether it has a bridge on this host.
    pub fn has_bridge(&self) -> bool {
        super::has_host_end(&self.driver)
    }

    /// `global` for one that several hosts share.
    pub fn scope(&self) -> &'static str {
        if self.driver == "overlay" { "global" } else { "local" }
    }

    /// The number that a user wants for a network that hosts share.
    pub(crate) fn wanted_vni(&self) -> Result<Option<u32>, Error> {
        let Some(text) = self.options.get(VXLAN_ID) else { return Ok(None) };
        match text.parse() {
            Ok(vni @ 1..=super::cluster::MAX_VNI) => Ok(Some(vni)),
            _ => Err(Error::invalid(format!("invalid vxlan id value {text:?} passed"))),
        }
    }

    /// Refuses options that the driver overlay does not have.
    fn check_overlay(&self) -> Result<(), Error> {
        let known = [VXLAN_ID, MTU, INTERFACE_PREFIX];
        if self.options.get(ENCRYPTED).is_some_and(|v| v != "false") {
            return Err(Error::unsupported("an encrypted overlay network"));
        }
        let ours = |k: &&String| k.starts_with(ENGINE_OPTIONS) && !known.contains(&k.as_str());
        if let Some(key) = self.options.keys().find(ours) {
            return Err(Error::unsupported(format!("the option {key} of an overlay network")));
        }
        self.wanted_vni().map(drop)
    }

    fn mtu(&self) -> Result<Option<u32>, Error> {
        let Some(text) = self.options.get(MTU) else { return Ok(None) };
        let error = |why: &str| Error::invalid(format!("failed to parse {MTU} value: {text} ({why})"));
        let least = MIN_MTU[usize::from(self.ipv6)];
        match text.parse::<i64>().map_err(|_| error("invalid syntax"))? {
            ..0 => Err(Error::invalid(format!("invalid MTU number: {text}"))),
            0 => Ok(None),
            mtu => match u32::try_from(mtu) {
                Ok(mtu @ 1..=MAX_MTU) if mtu >= least => Ok(Some(mtu)),
                _ => Err(error(&format!("an MTU is between {least} and {MAX_MTU} here"))),
            },
        }
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
        let config_from = self.config_from.is_some_and(|c| !c.network.is_empty());
        let scope = self.scope.unwrap_or_default();
        let is_shared = self.driver.as_deref() == Some("overlay");
        let is_scope = matches!(scope.as_str(), "") || scope == if is_shared { "global" } else { "local" };
        let unsupported = [
            (said(self.ingress), "an ingress network"),
            (said(self.config_only), "a network that is only a configuration"),
            (config_from, "a network with the configuration of another"),
            (!is_scope, "a network of this scope"),
        ];
        if let Some((_, what)) = unsupported.iter().find(|(asked, _)| *asked) {
            return Err(Error::unsupported(*what));
        }
        let mut options = self.options.unwrap_or_default();
        let by_option =
            |options: &mut BTreeMap<String, String>, key: &str| match options.remove(key).as_deref() {
                None => Ok(None),
                Some("true" | "1") => Ok(Some(true)),
                Some("false" | "0") => Ok(Some(false)),
                Some(_) => Err(Error::invalid(format!("driver-opt {key:?} is not a valid bool"))),
            };
        let (option4, option6) =
            (by_option(&mut options, ENABLE_IPV4)?, by_option(&mut options, ENABLE_IPV6)?);
        if self.enable_ipv4.or(option4) == Some(false) {
            return Err(Error::unsupported("a network without IPv4"));
        }
        let ipam = self.ipam.unwrap_or_default();
        match ipam.driver.as_deref() {
            None | Some("" | "default") => {}
            Some(other) => return Err(Error::NoSuchDriver { name: other.into() }),
        }
        let mut network = Network {
            id: random_hex(),
            name: name.into(),
            driver: self.driver.filter(|d| !d.is_empty()).unwrap_or_else(|| "bridge".into()),
            created: now(),
            internal: said(self.internal),
            attachable: said(self.attachable),
            ipv6: self.enable_ipv6.or(option6).unwrap_or(false),
            labels: self.labels.unwrap_or_default(),
            options,
            ipam_options: ipam.options.unwrap_or_default(),
            ..Network::default()
        };
        if !network.ipam_options.is_empty() {
            return Err(Error::unsupported("an option of the address management"));
        }
        match network.driver.as_str() {
            "bridge" | "macvlan" | "overlay" => {}
            "host" | "null" => {
                return Err(Error::denied(format!(
                    "only one instance of \"{}\" network is allowed",
                    network.driver
                )));
            }
            "ipvlan" => {
                return Err(Error::unsupported(format!("the network driver {}", network.driver)));
            }
            other => return Err(Error::NoSuchDriver { name: other.into() }),
        }
        network.pools = pools(ipam.config.unwrap_or_default())?;
        // Docker passes over an IPv6 subnet without the switch; who names one wants it.
        network.ipv6 |= network.pool(true).is_some();
        network.check_option_names()?;
        network.bridge_options()?;
        if network.driver == "overlay" {
            network.check_overlay()?;
        }
        if network.driver == "macvlan" {
            network.macvlan_options()?;
        }
        Ok(network)
    }
}

impl Network {
    /// What begins as the engine's own options do and is none is a typing mistake, not a wish to be ignored.
    fn check_option_names(&self) -> Result<(), Error> {
        let known = [
            BRIDGE_NAME,
            ENABLE_ICC,
            ENABLE_MASQUERADE,
            HOST_BINDING,
            DEFAULT_BRIDGE,
            GATEWAY_MODES[0],
            GATEWAY_MODES[1],
            INHIBIT_IPV4,
            MTU,
            INTERFACE_PREFIX,
            VXLAN_ID,
        ];
        match self.options.keys().find(|k| k.starts_with(ENGINE_OPTIONS) && !known.contains(&k.as_str())) {
            Some(key) => Err(Error::unsupported(format!("the network option {key}"))),
            None => Ok(()),
        }
    }
}

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
        if out.iter().any(|p| p.subnet.contains(':') == subnet.is_ipv6()) {
            return Err(Error::unsupported(format!("a network with two IPv{family} subnets")));
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
