//! Networks over several hosts: a VXLAN interface as one more port of a network's bridge, and who is behind it.
//!
//! ```text
//! sandbox -- veth -- bridge -- vx-…  ==UDP 4789==>  vx-… -- bridge -- veth -- sandbox
//!                        gateway address, the same on every host
//! ```
//!
//! Nothing is learnt and nothing is flooded between hosts: each endpoint elsewhere is an entry that says behind which host
//! its hardware address is, and one that answers for it when a container asks who has its address (`proxy`). What has no
//! entry does not leave the host. So the bridge of each host can have the same gateway address: questions for it are
//! answered on the spot.
//!
//! Kernel: `drivers/net/vxlan`; [bridge(8)](https://man7.org/linux/man-pages/man8/bridge.8.html) for `fdb`.

use crate::link::{self, failed, ifinfomsg, ifinfomsg_up};
use crate::netlink::{
    Attributes, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, Request, Socket, read_u32,
};
use crate::{Error, Result, endpoint, name, sysctl};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// What marks our VXLAN interfaces.
const ALIAS: &str = "brig:overlay:";
/// The port that IANA gave VXLAN.
const PORT: u16 = 4789;
/// What VXLAN adds to a packet, over IPv4 and IPv6.
const OVERHEAD: [u32; 2] = [50, 70];

const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PROXY: u16 = 11;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_LOCAL6: u16 = 17;

const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;
const NTF_SELF: u8 = 0x02;
const NDMSG_LEN: usize = 12;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// The VXLAN interface of a network on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlayConfig {
    /// The interface, at most 15 characters.
    pub name: String,
    /// Of the network, 1 to 16,777,215.
    pub vni: u32,
    /// This host's address, by which others reach it.
    pub local: IpAddr,
    /// The bridge, which exists.
    pub bridge: String,
    pub mtu: u32,
    /// The network has IPv6: neighbours may be told by such addresses.
    pub ipv6: bool,
    /// As of the bridge.
    pub owner: String,
}

/// An address on another host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    pub address: IpAddr,
    pub mac: [u8; 6],
    /// The host it is behind.
    pub host: IpAddr,
}

/// Makes the VXLAN interface be as `config` says, and know `neighbours` and nobody else; without them, whom it knows.
/// Repeating it is harmless.
///
/// # Errors
///
/// [`Error::InterfaceNotFound`] for the bridge; [`Error::InterfaceTaken`]; [`Error::Netlink`], of kind `AlreadyExists` if
/// the host uses the network's number for another VXLAN.
pub fn ensure_overlay(config: &OverlayConfig, neighbours: Option<&[Neighbour]>) -> Result<()> {
    name::check_interface(&config.name)?;
    name::check_owner(&config.owner)?;
    let socket = Socket::route().map_err(|source| failed("open a netlink socket", source))?;
    let bridge = link::index_of(&socket, &config.bridge)?;
    match link::named(&socket, &config.name)? {
        Some(link) if link.kind != "vxlan" || !link.alias.starts_with(ALIAS) => {
            return Err(Error::InterfaceTaken { name: link.name, owner: "someone else".into() });
        }
        Some(_) => {}
        None => create(&socket, config)?,
    }
    let index = link::index_of(&socket, &config.name)?;
    if config.ipv6 {
        // Where the host has new interfaces without IPv6, the kernel refuses neighbours of it.
        sysctl::set(&format!("ipv6/conf/{}/accept_ra", config.name), "0", false)?;
        sysctl::set(&format!("ipv6/conf/{}/disable_ipv6", config.name), "0", false)?;
    }
    let mut request = Request::default();
    request.message(link::RTM_SETLINK, NLM_F_ACK, &ifinfomsg(0, index), |r| {
        r.text(link::IFLA_IFALIAS, &format!("{ALIAS}{}", config.owner));
        r.u32(link::IFLA_MTU, config.mtu);
    });
    let marked = request.len();
    endpoint::without_address(&mut request, index);
    request.message(link::RTM_SETLINK, NLM_F_ACK, &ifinfomsg_up(index), |r| {
        r.u32(link::IFLA_MASTER, bridge);
    });
    match socket.transact(&request) {
        Err(f) if f.message != marked => {
            return Err(failed(format!("set up interface {}", config.name), f.source));
        }
        _ => {}
    }
    let Some(neighbours) = neighbours else { return Ok(()) };
    let wanted: BTreeSet<Entry> = neighbours.iter().flat_map(Entry::of).collect();
    let have = entries(&socket, index)?;
    let mut request = Request::default();
    have.difference(&wanted).for_each(|entry| entry.delete(&mut request, index));
    wanted.difference(&have).for_each(|entry| entry.put(&mut request, index));
    transact(&socket, &request, &config.name)
}

/// Changes who is behind the VXLAN interface `name`: first `gone`, then `new`, which replaces what there is for an address.
///
/// # Errors
///
/// [`Error::InterfaceNotFound`], [`Error::Netlink`].
pub fn change_neighbours(interface: &str, gone: &[Neighbour], new: &[Neighbour]) -> Result<()> {
    let socket = Socket::route().map_err(|source| failed("open a netlink socket", source))?;
    let index = link::index_of(&socket, interface)?;
    let mut request = Request::default();
    gone.iter().flat_map(Entry::of).for_each(|entry| entry.delete(&mut request, index));
    new.iter().flat_map(Entry::of).for_each(|entry| entry.put(&mut request, index));
    transact(&socket, &request, interface)
}

/// Removes the VXLAN interface. Harmless if there is none.
///
/// # Errors
///
/// [`Error::Netlink`].
pub fn remove_overlay(interface: &str) -> Result<()> {
    name::check_interface(interface)?;
    let socket = Socket::route().map_err(|source| failed("open a netlink socket", source))?;
    endpoint::delete(&socket, interface)
}

/// Our VXLAN interfaces: name and owner.
///
/// # Errors
///
/// [`Error::Netlink`].
pub fn list_overlays() -> Result<Vec<(String, String)>> {
    let socket = Socket::route().map_err(|source| failed("open a netlink socket", source))?;
    let links = link::list(&socket)?;
    let ours = |l: &link::Link| Some((l.name.clone(), l.alias.strip_prefix(ALIAS)?.to_owned()));
    Ok(links.iter().filter(|l| l.kind == "vxlan").filter_map(ours).collect())
}

/// The first IPv4 address of an interface, or its first IPv6 address that is not link-local.
///
/// # Errors
///
/// [`Error::InterfaceNotFound`], [`Error::Netlink`].
pub fn interface_address(interface: &str) -> Result<Option<IpAddr>> {
    name::check_interface(interface)?;
    let socket = Socket::route().map_err(|source| failed("open a netlink socket", source))?;
    let index = link::index_of(&socket, interface)?;
    let own: Vec<_> =
        link::addresses(&socket)?.into_iter().filter(|a| a.index == index && !a.is_link_local()).collect();
    Ok(own.iter().find(|a| a.address.is_ipv4()).or(own.first()).map(|a| a.address))
}

/// The largest packet of a container that fits into one of the interface that has `local`, an address of this host; None
/// if none has it.
///
/// # Errors
///
/// [`Error::Netlink`].
pub fn overlay_mtu(local: IpAddr) -> Result<Option<u32>> {
    let socket = Socket::route().map_err(|source| failed("open a netlink socket", source))?;
    let Some(own) = link::addresses(&socket)?.into_iter().find(|a| a.address == local) else {
        return Ok(None);
    };
    let link = link::get(&socket, own.index)?;
    Ok(link.map(|l| l.mtu.saturating_sub(OVERHEAD[usize::from(local.is_ipv6())])))
}

fn create(socket: &Socket, config: &OverlayConfig) -> Result<()> {
    let mut request = Request::default();
    request.message(link::RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &ifinfomsg(0, 0), |r| {
        r.text(link::IFLA_IFNAME, &config.name);
        r.u32(link::IFLA_MTU, config.mtu);
        r.nest(link::IFLA_LINKINFO, |r| {
            r.attribute(link::IFLA_INFO_KIND, b"vxlan");
            r.nest(link::IFLA_INFO_DATA, |r| {
                r.u32(IFLA_VXLAN_ID, config.vni);
                match config.local {
                    IpAddr::V4(local) => r.attribute(IFLA_VXLAN_LOCAL, &local.octets()),
                    IpAddr::V6(local) => r.attribute(IFLA_VXLAN_LOCAL6, &local.octets()),
                }
                r.attribute(IFLA_VXLAN_LEARNING, &[0]);
                r.attribute(IFLA_VXLAN_PROXY, &[1]);
                r.attribute(IFLA_VXLAN_PORT, &PORT.to_be_bytes());
            });
        });
    });
    request.message(link::RTM_SETLINK, NLM_F_ACK, &ifinfomsg(0, 0), |r| {
        r.text(link::IFLA_IFNAME, &config.name);
        r.text(link::IFLA_IFALIAS, &format!("{ALIAS}{}", config.owner));
    });
    socket
        .transact(&request)
        .map_err(|f| failed(format!("create VXLAN {} with number {}", config.name, config.vni), f.source))
}

/// One entry of the kernel's two tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Entry {
    /// A hardware address and the host it is behind.
    Forward([u8; 6], IpAddr),
    /// An address and whose hardware address answers for it.
    Answer(IpAddr, [u8; 6]),
}

impl Entry {
    fn of(neighbour: &Neighbour) -> [Entry; 2] {
        [Entry::Forward(neighbour.mac, neighbour.host), Entry::Answer(neighbour.address, neighbour.mac)]
    }

    fn put(self, request: &mut Request, index: u32) {
        self.message(request, RTM_NEWNEIGH, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, index);
    }

    fn delete(self, request: &mut Request, index: u32) {
        self.message(request, RTM_DELNEIGH, NLM_F_ACK, index);
    }

    fn message(self, request: &mut Request, kind: u16, flags: u16, index: u32) {
        let header = |family: u8, flags: u8| {
            let mut header = [0; NDMSG_LEN];
            header[0] = family;
            header[4..8].copy_from_slice(&index.to_ne_bytes());
            header[8..10].copy_from_slice(&NUD_PERMANENT.to_ne_bytes());
            header[10] = flags;
            header
        };
        match self {
            Entry::Forward(mac, host) => {
                request.message(kind, flags, &header(link::AF_BRIDGE, NTF_SELF), |r| {
                    r.attribute(NDA_LLADDR, &mac);
                    put_address(r, host);
                });
            }
            Entry::Answer(address, mac) => {
                let family = if address.is_ipv6() { AF_INET6 } else { AF_INET };
                request.message(kind, flags, &header(family, 0), |r| {
                    put_address(r, address);
                    r.attribute(NDA_LLADDR, &mac);
                });
            }
        }
    }
}

fn put_address(r: &mut Request, address: IpAddr) {
    match address {
        IpAddr::V4(a) => r.attribute(NDA_DST, &a.octets()),
        IpAddr::V6(a) => r.attribute(NDA_DST, &a.octets()),
    }
}

/// What the kernel has of an interface.
fn entries(socket: &Socket, index: u32) -> Result<BTreeSet<Entry>> {
    let mut out = BTreeSet::new();
    for family in [link::AF_BRIDGE, AF_INET, AF_INET6] {
        let mut header = [0; NDMSG_LEN];
        header[0] = family;
        let mut request = Request::default();
        request.message(RTM_GETNEIGH, NLM_F_DUMP, &header, |_| {});
        let all = socket.dump(&request).map_err(|source| failed("list neighbours", source))?;
        let kept = all.iter().filter(|(kind, _)| *kind == RTM_NEWNEIGH);
        out.extend(kept.filter_map(|(_, body)| parse(body, index, family)));
    }
    Ok(out)
}

fn parse(body: &[u8], index: u32, family: u8) -> Option<Entry> {
    let state = u16::from_ne_bytes([*body.get(8)?, *body.get(9)?]);
    let is_ours =
        *body.first()? == family && read_u32(body.get(4..)?)? == index && state & NUD_PERMANENT != 0;
    if !is_ours || (family == link::AF_BRIDGE && body.get(10)? & NTF_SELF == 0) {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for (kind, value) in Attributes(body.get(NDMSG_LEN..)?) {
        match (kind, value.len()) {
            (NDA_DST, 4) => address = <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
            (NDA_DST, 16) => address = <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
            (NDA_LLADDR, 6) => mac = <[u8; 6]>::try_from(value).ok(),
            _ => {}
        }
    }
    match family {
        link::AF_BRIDGE => Some(Entry::Forward(mac?, address?)),
        _ => Some(Entry::Answer(address?, mac?)),
    }
}

/// Carries out what can be; what was gone already does not matter.
fn transact(socket: &Socket, request: &Request, interface: &str) -> Result<()> {
    if request.len() == 0 {
        return Ok(());
    }
    match socket.transact(request) {
        Err(f) if f.source.raw_os_error() != Some(rustix::io::Errno::NOENT.raw_os_error()) => {
            Err(failed(format!("change the neighbours of {interface}"), f.source))
        }
        _ => Ok(()),
    }
}
