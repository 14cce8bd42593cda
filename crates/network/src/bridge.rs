//! Bridges: one for each network, with the gateway's address.

use crate::endpoint::{self, BRIDGE_ALIAS};
use crate::link::{self, Link, failed, ifinfomsg, ifinfomsg_up};
use crate::netlink::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, Request, Socket};
use crate::{Error, Net, Result, Subnet, firewall, mac, name, sysctl};
use std::net::{IpAddr, Ipv4Addr};

/// `IFLA_GROUP` of bridges that are to be deleted, whichever daemon's they were: "brix" in ASCII.
const DOOMED: u32 = u32::from_be_bytes(*b"brix");

/// A bridge network as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeConfig {
    /// The interface: `brig0`, or `br-` and twelve hex digits of the network's id.
    pub name: String,
    /// Who owns it: the network's id. Letters, digits, `-_.:`; at most 200.
    pub owner: String,
    /// At least one; without one of IPv6, IPv6 is off on the bridge.
    pub subnets: Vec<BridgeSubnet>,
    pub mtu: u32,
    /// What leaves by another interface gets that interface's address, where the mode of its subnet says so.
    pub masquerade: bool,
    /// Nothing is forwarded in or out.
    pub internal: bool,
    /// Containers of this network may talk to each other. If false, attach them `isolated`.
    pub icc: bool,
    /// Interfaces of the host from which containers' published ports are reached at the containers' own addresses.
    pub trusted: Vec<String>,
}

/// One network of addresses on a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BridgeSubnet {
    pub subnet: Subnet,
    /// The bridge's own address, in `subnet`; `None` for a bridge that has none there.
    pub gateway: Option<IpAddr>,
    pub mode: GatewayMode,
}

/// How a network of addresses and the world around the host meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GatewayMode {
    /// Containers leave under the host's address, and are reached by published ports of the host.
    #[default]
    Nat,
    /// Likewise; and who has a route to the containers' addresses reaches every port.
    NatUnprotected,
    /// Containers leave under their own addresses, and are reached there, at the ports that are published.
    Routed,
}

impl BridgeConfig {
    /// The networks of addresses of one family.
    pub fn family(&self, is_ipv6: bool) -> impl Iterator<Item = &BridgeSubnet> {
        self.subnets.iter().filter(move |s| s.subnet.is_ipv6() == is_ipv6)
    }

    fn has_ipv6(&self) -> bool {
        self.family(true).next().is_some()
    }
}

/// A bridge of ours that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    pub name: String,
    pub owner: String,
}

/// Makes the bridge, its address, settings and rules be as `config` says. Repeating it is harmless, and repairs what
/// someone removed, the firewall rules included.
///
/// The rules are there before the bridge is up. A bridge of ours with another owner is taken over if it has no ports
/// (it is left from a data directory that is gone). Unless the network is internal, sets `net.ipv4.ip_forward`; if
/// that was off, nothing but the containers' packets is forwarded. Needs `CAP_NET_ADMIN`, and `/proc/sys` writable.
/// Not to be called for one name by two threads at a time.
///
/// # Errors
///
/// [`Error::InterfaceTaken`], [`Error::AddressOutside`], [`Error::InvalidInterface`], [`Error::InvalidOwner`];
/// [`Error::Netlink`], [`Error::Firewall`], [`Error::Sysctl`].
pub fn ensure_bridge(config: &BridgeConfig) -> Result<()> {
    name::check_interface(&config.name)?;
    name::check_owner(&config.owner)?;
    config.trusted.iter().try_for_each(|name| name::check_interface(name))?;
    for BridgeSubnet { subnet, gateway, .. } in &config.subnets {
        if let Some(address) = gateway.filter(|a| !subnet.contains(*a)) {
            return Err(Error::AddressOutside { address, subnet: *subnet });
        }
    }
    let socket = Socket::route().map_err(|source| failed("open a netlink socket", source))?;
    let existing = link::named(&socket, &config.name)?;
    if let Some(link) = &existing {
        check_owner(&socket, config, link)?;
    }
    firewall::ensure_network(config)?;
    if existing.is_none() {
        create(&socket, config)?;
    }
    let configured = configure(&socket, config);
    if configured.is_err() && existing.is_none() {
        // The first error is the one to tell; `list_bridges` finds what could not be removed.
        remove_bridge(&config.name).ok();
    }
    configured
}

/// Removes the bridge and its rules. Harmless if it does not exist. Endpoints still on it lose their bridge.
///
/// # Errors
///
/// [`Error::InterfaceTaken`] if the interface is not a bridge of ours; [`Error::Netlink`], [`Error::Firewall`].
pub fn remove_bridge(name: &str) -> Result<()> {
    delete_bridge(name)?;
    // Last: while the bridge is there, so are the rules that guard it.
    firewall::remove_network(name)
}

/// Removes the bridge and leaves the rules, for who has deleted the whole table. Harmless if it does not exist.
///
/// # Errors
///
/// As [`remove_bridge`].
pub fn delete_bridge(name: &str) -> Result<()> {
    name::check_interface(name)?;
    let socket = Socket::route().map_err(|source| failed("open a netlink socket", source))?;
    if let Some(link) = link::named(&socket, name)? {
        owner_of(&link)?;
        endpoint::delete(&socket, name)?;
    }
    Ok(())
}

/// Takes addresses and rules from a bridge that nobody is on, so that another can have them at once, and marks it for
/// [`delete_doomed`]. Harmless if it does not exist.
///
/// The kernel waits for every processor when an interface goes, some 40 ms, and once for any number that go together.
/// [`ensure_bridge`] takes back a bridge that was marked.
///
/// # Errors
///
/// As [`remove_bridge`].
pub fn doom_bridge(name: &str) -> Result<()> {
    name::check_interface(name)?;
    let socket = Socket::route().map_err(|source| failed("open a netlink socket", source))?;
    if let Ok(index) = link::index_of(&socket, name) {
        if let Some(link) = link::get(&socket, index)? {
            owner_of(&link)?;
        }
        let mut request = Request::default();
        let own = link::addresses(&socket)?.into_iter().filter(|a| a.index == index && !a.is_link_local());
        own.for_each(|address| link::delete_address(&mut request, &address));
        request.message(link::RTM_SETLINK, NLM_F_ACK, &ifinfomsg(0, index), |r| {
            r.u32(link::IFLA_GROUP, DOOMED);
        });
        socket.transact(&request).map_err(|f| failed(format!("retire bridge {name}"), f.source))?;
    }
    firewall::remove_network(name)
}

/// Deletes the bridges that [`doom_bridge`] marked, all at once.
///
/// # Errors
///
/// [`Error::Netlink`].
pub fn delete_doomed() -> Result<()> {
    let socket = Socket::route().map_err(|source| failed("open a netlink socket", source))?;
    let mut request = Request::default();
    request.message(link::RTM_DELLINK, NLM_F_ACK, &ifinfomsg(0, 0), |r| r.u32(link::IFLA_GROUP, DOOMED));
    match socket.transact(&request) {
        Err(f) if f.source.raw_os_error() != Some(rustix::io::Errno::NODEV.raw_os_error()) => {
            Err(failed("delete retired bridges", f.source))
        }
        _ => Ok(()),
    }
}

/// Every bridge of ours in this network namespace, in the kernel's order.
///
/// # Errors
///
/// [`Error::Netlink`].
pub fn list_bridges() -> Result<Vec<Bridge>> {
    let socket = Socket::route().map_err(|source| failed("open a netlink socket", source))?;
    let links = link::list(&socket)?;
    let ours = links.iter().filter_map(|l| Some((l, owner_of(l).ok()?)));
    Ok(ours.map(|(l, owner)| Bridge { name: l.name.clone(), owner: owner.into() }).collect())
}

/// The networks that this host's addresses and routes use, the default route aside; a new network must overlap none.
/// Our own bridges are among them.
///
/// # Errors
///
/// [`Error::Netlink`].
pub fn host_subnets() -> Result<Vec<Net>> {
    let socket = Socket::route().map_err(|source| failed("open a netlink socket", source))?;
    let mut nets = link::routes(&socket)?;
    nets.extend(link::addresses(&socket)?.iter().filter_map(|a| Subnet::new(a.address, a.prefix)?.v4()));
    nets.sort();
    nets.dedup();
    Ok(nets)
}

fn owner_of(link: &Link) -> Result<&str> {
    let owner = if link.kind == "bridge" { link.alias.strip_prefix(BRIDGE_ALIAS) } else { None };
    owner.ok_or_else(|| Error::InterfaceTaken { name: link.name.clone(), owner: "someone else".into() })
}

fn check_owner(socket: &Socket, config: &BridgeConfig, link: &Link) -> Result<()> {
    let owner = owner_of(link)?;
    if owner != config.owner && link::list(socket)?.iter().any(|l| l.master == Some(link.index)) {
        return Err(Error::InterfaceTaken { name: link.name.clone(), owner: format!("network {owner}") });
    }
    Ok(())
}

/// After its own address, or that of its network where it has none.
fn mac_of(config: &BridgeConfig) -> [u8; 6] {
    let first = config.subnets.first();
    let address = first.map(|s| s.gateway.unwrap_or_else(|| s.subnet.address()));
    mac::mac_for(address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)))
}

fn create(socket: &Socket, config: &BridgeConfig) -> Result<()> {
    let mut request = Request::default();
    request.message(link::RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &ifinfomsg(0, 0), |r| {
        r.text(link::IFLA_IFNAME, &config.name);
        r.u32(link::IFLA_GROUP, firewall::GROUP);
        // Without an address of its own a bridge takes its ports' lowest, and changes it as they come and go.
        r.attribute(link::IFLA_ADDRESS, &mac_of(config));
        r.nest(link::IFLA_LINKINFO, |r| r.attribute(link::IFLA_INFO_KIND, b"bridge"));
    });
    request.message(link::RTM_SETLINK, NLM_F_ACK, &ifinfomsg(0, 0), |r| {
        r.text(link::IFLA_IFNAME, &config.name);
        r.text(link::IFLA_IFALIAS, &format!("{BRIDGE_ALIAS}{}", config.owner));
    });
    socket.transact(&request).map_err(|f| failed(format!("create bridge {}", config.name), f.source))
}

fn configure(socket: &Socket, config: &BridgeConfig) -> Result<()> {
    let name = &config.name;
    // IPv6 first, while a new bridge is down: no moment in which it listens to router advertisements.
    sysctl::set(&format!("ipv6/conf/{name}/accept_ra"), "0", true)?;
    // Its link-local address is used at once, to ask for neighbours: waiting for duplicates would cost a second.
    sysctl::set(&format!("ipv6/conf/{name}/accept_dad"), "0", true)?;
    let (off, optional) = if config.has_ipv6() { ("0", false) } else { ("1", true) };
    sysctl::set(&format!("ipv6/conf/{name}/disable_ipv6"), off, optional)?;
    let index = link::index_of(socket, name)?;
    let mut request = Request::default();
    request.message(link::RTM_SETLINK, NLM_F_ACK, &ifinfomsg_up(index), |r| {
        r.u32(link::IFLA_MTU, config.mtu);
        r.u32(link::IFLA_GROUP, firewall::GROUP);
        r.text(link::IFLA_IFALIAS, &format!("{BRIDGE_ALIAS}{}", config.owner));
    });
    let own = |s: &BridgeSubnet| Some((s.gateway?, s.subnet.prefix()));
    let wanted: Vec<(IpAddr, u8)> = config.subnets.iter().filter_map(own).collect();
    wanted.iter().for_each(|(address, prefix)| link::add_address(&mut request, index, *address, *prefix));
    let others = link::addresses(socket)?
        .into_iter()
        .filter(|a| a.index == index && !a.is_link_local() && !wanted.contains(&(a.address, a.prefix)));
    others.for_each(|address| link::delete_address(&mut request, &address));
    socket.transact(&request).map_err(|f| failed(format!("set up bridge {name}"), f.source))?;
    if config.internal {
        return Ok(());
    }
    let forwards = sysctl::is("ipv4/ip_forward", "1");
    let forwards6 = !config.has_ipv6() || sysctl::is("ipv6/conf/all/forwarding", "1");
    if forwards && forwards6 {
        return Ok(());
    }
    if !forwards {
        firewall::close_to_strangers()?;
        sysctl::set("ipv4/ip_forward", "1", false)?;
    }
    if !forwards6 {
        firewall::close_to_strangers()?;
        keep_listening_to_routers();
        sysctl::set("ipv6/conf/all/forwarding", "1", false)?;
    }
    Ok(())
}

/// A host that forwards IPv6 stops taking its own routes from router advertisements, unless each interface is told
/// to go on (`accept_ra` 2). What cannot be told is left as it is.
fn keep_listening_to_routers() {
    let Ok(entries) = std::fs::read_dir("/proc/sys/net/ipv6/conf") else { return };
    for name in entries.flatten().filter_map(|e| e.file_name().into_string().ok()) {
        let setting = format!("ipv6/conf/{name}/accept_ra");
        if sysctl::is(&setting, "1") {
            sysctl::set(&setting, "2", true).ok();
        }
    }
}
