//! What a network's options (`--opt`) mean for its driver.

use super::Network;
use crate::error::Error;
use network::{GatewayMode, IpvlanFlag, IpvlanMode, MacvlanMode};
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
const TRUSTED: &str = "com.docker.network.bridge.trusted_host_interfaces";
const PARENT: &str = "parent";
const MACVLAN_MODE: &str = "macvlan_mode";
const IPVLAN_MODE: &str = "ipvlan_mode";
const IPVLAN_FLAG: &str = "ipvlan_flag";
const MTU: &str = "com.docker.network.driver.mtu";
pub(super) const ENABLE_IPV4: &str = "com.docker.network.enable_ipv4";
pub(super) const ENABLE_IPV6: &str = "com.docker.network.enable_ipv6";
const VXLAN_ID: &str = "com.docker.network.driver.overlay.vxlanid_list";
const ENCRYPTED: &str = "encrypted";
const ALLOW_SPOOFING: &str = "brig.network.allow_spoofing";
const INTERFACE_PREFIX: &str = "com.docker.network.container_iface_prefix";
/// Options of networks that belong to the engine; others are a user's own and only kept.
const ENGINE_OPTIONS: &str = "com.docker.network.";
/// Least MTU that IPv4 and IPv6 work with.
const MIN_MTU: [u32; 2] = [68, 1280];
/// `u16::MAX`, the largest that bridge and veth take.
const MAX_MTU: u32 = 65535;
/// The longest prefix of an interface's name that leaves room for a number.
const MAX_INTERFACE_PREFIX: usize = 11;
/// `IFNAMSIZ` without the terminating zero.
const MAX_INTERFACE_NAME: usize = 15;

/// What the options of a bridge network say.
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
    /// Of IPv4 and IPv6.
    pub(crate) modes: [GatewayMode; 2],
    /// Whether the bridge has no address of the family.
    pub(crate) bare: [bool; 2],
    pub(crate) trusted: Vec<String>,
    /// Whether containers may claim each other's addresses.
    pub(crate) spoofing: bool,
}

/// The interface of the host that those of containers share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parent {
    pub(crate) name: String,
    /// Made for the network alone: it leads nowhere.
    pub(crate) is_dummy: bool,
}

/// What the options of a network without a bridge say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SharedMode {
    Macvlan(MacvlanMode),
    Ipvlan(IpvlanMode, IpvlanFlag),
}

impl SharedMode {
    pub(crate) fn sharing(self) -> network::Sharing {
        match self {
            SharedMode::Macvlan(_) => network::Sharing::Macvlan,
            SharedMode::Ipvlan(..) => network::Sharing::Ipvlan,
        }
    }

    /// Whether there is no gateway: packets go to the interface itself.
    pub(crate) fn is_routed(self) -> bool {
        matches!(self, SharedMode::Ipvlan(IpvlanMode::L3 | IpvlanMode::L3s, _))
    }
}

impl Network {
    pub(crate) fn bridge_options(&self) -> Result<BridgeOptions, Error> {
        let truth = |key: &str, default: bool| match self.options.get(key).map(String::as_str) {
            None => Ok(default),
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some(other) => {
                Err(Error::invalid(format!("failed to parse {key} value: {other} (invalid syntax)")))
            }
        };
        truth(DEFAULT_BRIDGE, false)?;
        let mut bare = [truth(INHIBIT_IPV4, false)?, false];
        let mut modes = [GatewayMode::Nat; 2];
        for ((key, mode), bare) in GATEWAY_MODES.iter().zip(&mut modes).zip(&mut bare) {
            match self.options.get(*key).map(String::as_str) {
                None | Some("" | "nat") => {}
                Some("nat-unprotected") => *mode = GatewayMode::NatUnprotected,
                Some("routed") => *mode = GatewayMode::Routed,
                Some("isolated") if self.internal => *bare = true,
                Some("isolated") => {
                    let message = "gateway mode 'isolated' can only be used for an internal network".into();
                    return Err(Error::Internal { message });
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
        let trusted: Vec<String> = self.options.get(TRUSTED).map_or_else(Vec::new, |text| {
            text.split(':').filter(|name| !name.is_empty()).map(str::to_string).collect()
        });
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
        if let Some(bad) = trusted.iter().find(|n| n.len() > MAX_INTERFACE_NAME || !n.bytes().all(plain)) {
            return Err(Error::invalid(format!("invalid {TRUSTED}: {bad:?} is not an interface name")));
        }
        Ok(BridgeOptions {
            name: self.options.get(BRIDGE_NAME).filter(|n| !n.is_empty()).cloned(),
            icc: truth(ENABLE_ICC, true)?,
            masquerade: truth(ENABLE_MASQUERADE, true)?,
            mtu: self.mtu()?,
            host_binding,
            interface_prefix: interface_prefix.into(),
            modes,
            bare,
            trusted,
            spoofing: truth(ALLOW_SPOOFING, false)?,
        })
    }

    /// Whether nobody has the address of a gateway in the family, unless one was asked for.
    pub(crate) fn has_no_gateway(&self, is_ipv6: bool) -> Result<bool, Error> {
        match self.shared_mode()? {
            Some(mode) => Ok(mode.is_routed() || self.leads_nowhere()),
            None => Ok(self.internal && self.bridge_options()?.bare[usize::from(is_ipv6)]),
        }
    }

    /// Whether no route leads out of it.
    pub(crate) fn leads_nowhere(&self) -> bool {
        self.internal || (self.is_shared() && self.parent().is_dummy)
    }

    /// Whether interfaces of containers share one of the host's.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.driver.as_str(), "macvlan" | "ipvlan")
    }

    /// The interface of the host that those of containers share. Without one, the network leads nowhere.
    pub(crate) fn parent(&self) -> Parent {
        match self.options.get(PARENT).filter(|p| !p.is_empty()) {
            Some(name) => Parent { name: name.clone(), is_dummy: false },
            // Docker's name for it.
            None => {
                let beginning = if self.driver == "ipvlan" { "di" } else { "dm" };
                Parent { name: format!("{beginning}-{}", self.id.get(..12).unwrap_or("")), is_dummy: true }
            }
        }
    }

    /// How containers share their parent; None for drivers with a bridge, and those without interfaces.
    pub(crate) fn shared_mode(&self) -> Result<Option<SharedMode>, Error> {
        let said = |key: &str| self.options.get(key).map_or("", String::as_str);
        let invalid = |what: &str, got: &str, default: &str| {
            Error::invalid(format!("requested {what} '{got}' is not valid, '{default}' "))
        };
        Ok(Some(match self.driver.as_str() {
            "macvlan" => SharedMode::Macvlan(match said(MACVLAN_MODE) {
                "" | "bridge" => MacvlanMode::Bridge,
                "private" => MacvlanMode::Private,
                "vepa" => MacvlanMode::Vepa,
                "passthru" => MacvlanMode::Passthru,
                other => {
                    let e = invalid("macvlan mode", other, "bridge");
                    return Err(Error::invalid(format!("{e}mode is the macvlan driver default")));
                }
            }),
            "ipvlan" => {
                let mode = match said(IPVLAN_MODE) {
                    "" | "l2" => IpvlanMode::L2,
                    "l3" => IpvlanMode::L3,
                    "l3s" => IpvlanMode::L3s,
                    other => {
                        let e = invalid("ipvlan mode", other, "l2");
                        return Err(Error::invalid(format!("{e}mode is the ipvlan driver default")));
                    }
                };
                let flag = match said(IPVLAN_FLAG) {
                    "" | "bridge" => IpvlanFlag::Bridge,
                    "private" => IpvlanFlag::Private,
                    "vepa" => IpvlanFlag::Vepa,
                    other => {
                        let e = invalid("ipvlan flag", other, "bridge");
                        return Err(Error::invalid(format!("{e}is the ipvlan driver default")));
                    }
                };
                SharedMode::Ipvlan(mode, flag)
            }
            _ => return Ok(None),
        }))
    }

    /// The number that a user wants for a network that hosts share.
    pub(crate) fn wanted_vni(&self) -> Result<Option<u32>, Error> {
        let Some(text) = self.options.get(VXLAN_ID) else { return Ok(None) };
        match text.parse() {
            Ok(vni @ 1..=super::cluster::MAX_VNI) => Ok(Some(vni)),
            _ => Err(Error::invalid(format!("invalid vxlan id value {text:?} passed"))),
        }
    }

    /// Checks every option, as far as that goes without looking at others or at the host.
    pub(super) fn check_options(&self) -> Result<(), Error> {
        self.check_option_names()?;
        self.bridge_options()?;
        if self.driver == "overlay" {
            self.check_overlay()?;
        }
        self.shared_mode().map(drop)
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
            TRUSTED,
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

/// Takes a switch from the options.
pub(super) fn take_switch(options: &mut BTreeMap<String, String>, key: &str) -> Result<Option<bool>, Error> {
    match options.remove(key).as_deref() {
        None => Ok(None),
        Some("true" | "1") => Ok(Some(true)),
        Some("false" | "0") => Ok(Some(false)),
        Some(_) => Err(Error::invalid(format!("driver-opt {key:?} is not a valid bool"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(driver: &str, internal: bool, options: &[(&str, &str)]) -> Network {
        let options = options.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Network {
            id: "0123456789abcdef".into(),
            driver: driver.into(),
            internal,
            options,
            ..Network::default()
        }
    }

    #[test]
    fn gateways() {
        let modes = |internal, v4: &str, v6: &str| {
            let network = network("bridge", internal, &[(GATEWAY_MODES[0], v4), (GATEWAY_MODES[1], v6)]);
            network.bridge_options().map(|o| (o.modes, o.bare)).map_err(|e| errors::chain(&e))
        };
        assert_eq!(modes(false, "", "routed").unwrap().0, [GatewayMode::Nat, GatewayMode::Routed]);
        assert_eq!(modes(false, "nat-unprotected", "nat").unwrap().0[0], GatewayMode::NatUnprotected);
        assert_eq!(modes(true, "isolated", "nat").unwrap().1, [true, false]);
        assert!(
            modes(false, "nat", "isolated").unwrap_err().contains("only be used for an internal network")
        );
        assert_eq!(modes(false, "bat", "").unwrap_err(), "unknown gateway mode bat");
        let trusted = network("bridge", false, &[(TRUSTED, "eth1:wg0")]).bridge_options().unwrap().trusted;
        assert_eq!(trusted, ["eth1", "wg0"]);
        assert!(network("bridge", false, &[(TRUSTED, "a b")]).bridge_options().is_err());
        assert!(network("bridge", false, &[(INHIBIT_IPV4, "true")]).bridge_options().unwrap().bare[0]);
    }

    #[test]
    fn sharing_a_parent() {
        let mode = |driver: &str, options: &[(&str, &str)]| {
            network(driver, false, options).shared_mode().map_err(|e| errors::chain(&e))
        };
        assert_eq!(mode("bridge", &[]), Ok(None));
        assert_eq!(mode("macvlan", &[]), Ok(Some(SharedMode::Macvlan(MacvlanMode::Bridge))));
        let l3 = mode("ipvlan", &[(IPVLAN_MODE, "l3"), (IPVLAN_FLAG, "vepa")]).unwrap().unwrap();
        assert_eq!(l3, SharedMode::Ipvlan(IpvlanMode::L3, IpvlanFlag::Vepa));
        assert!(l3.is_routed());
        for (driver, option, expected) in [
            (
                "macvlan",
                (MACVLAN_MODE, "l2"),
                "requested macvlan mode 'l2' is not valid, 'bridge' mode is the macvlan driver default",
            ),
            (
                "ipvlan",
                (IPVLAN_MODE, "x"),
                "requested ipvlan mode 'x' is not valid, 'l2' mode is the ipvlan driver default",
            ),
            (
                "ipvlan",
                (IPVLAN_FLAG, "x"),
                "requested ipvlan flag 'x' is not valid, 'bridge' is the ipvlan driver default",
            ),
        ] {
            assert_eq!(mode(driver, &[option]).unwrap_err(), expected);
        }
        assert_eq!(network("ipvlan", false, &[(PARENT, "eth0.7")]).parent().name, "eth0.7");
        assert_eq!(
            network("macvlan", false, &[]).parent(),
            Parent { name: "dm-0123456789ab".into(), is_dummy: true }
        );
    }
}
