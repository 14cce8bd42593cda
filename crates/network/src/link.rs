//! Questions and messages about interfaces, addresses and routes, in the kernel's words.
//!
//! Kernel: [rtnetlink(7)](https://man7.org/linux/man-pages/man7/rtnetlink.7.html).

use crate::netlink::{
    Attributes, Dump, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, Request, Socket, read_i32,
    read_text, read_u32,
};
use crate::{Error, Net, Result};
use std::io;
use std::net::{IpAddr, Ipv4Addr};

pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
pub(crate) const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;

pub(crate) const IFLA_ADDRESS: u16 = 1;
pub(crate) const IFLA_IFNAME: u16 = 3;
pub(crate) const IFLA_MTU: u16 = 4;
pub(crate) const IFLA_LINK: u16 = 5;
pub(crate) const IFLA_MASTER: u16 = 10;
pub(crate) const IFLA_PROTINFO: u16 = 12;
pub(crate) const IFLA_LINKINFO: u16 = 18;
pub(crate) const IFLA_IFALIAS: u16 = 20;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_STATS64: u16 = 23;
pub(crate) const IFLA_AF_SPEC: u16 = 26;
pub(crate) const IFLA_GROUP: u16 = 27;
pub(crate) const IFLA_NET_NS_FD: u16 = 28;
pub(crate) const IFLA_INFO_KIND: u16 = 1;
pub(crate) const IFLA_INFO_DATA: u16 = 2;
pub(crate) const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
pub(crate) const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
pub(crate) const IFLA_BRPORT_MODE: u16 = 4;
pub(crate) const IFLA_BRPORT_ISOLATED: u16 = 33;
pub(crate) const VETH_INFO_PEER: u16 = 1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
/// No waiting for duplicates: addresses are given out by us.
const IFA_F_NODAD: u8 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_TABLE: u16 = 15;

const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
pub(crate) const AF_BRIDGE: u8 = 7;
pub(crate) const AF_INET6: u16 = 10;
/// The same as a family of addresses.
const INET6: u8 = 10;
const IFF_UP: u32 = 1;
const IF_OPER_UP: u8 = 6;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;
const RT_SCOPE_LINK: u8 = 253;

const IFINFOMSG_LEN: usize = 16;
const IFADDRMSG_LEN: usize = 8;
const RTMSG_LEN: usize = 12;

/// What the kernel says of an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// `veth`, `bridge`, … or empty.
    pub(crate) kind: String,
    pub(crate) alias: String,
    pub(crate) mac: [u8; 6],
    pub(crate) mtu: u32,
    /// The index of the bridge it is a port of.
    pub(crate) master: Option<u32>,
    /// `rtnl_link_stats64`, as far as we read it.
    pub(crate) counters: [u64; 8],
}

/// `struct ifinfomsg` for a message about the interface `index` (0: named by an attribute), of which it changes
/// nothing.
pub(crate) fn ifinfomsg(family: u8, index: u32) -> [u8; IFINFOMSG_LEN] {
    let mut header = [0; IFINFOMSG_LEN];
    header[0] = family;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header
}

/// `struct ifinfomsg` that also sets the interface up.
pub(crate) fn ifinfomsg_up(index: u32) -> [u8; IFINFOMSG_LEN] {
    let mut header = ifinfomsg(AF_UNSPEC, index);
    header[8..12].copy_from_slice(&IFF_UP.to_ne_bytes());
    header[12..16].copy_from_slice(&IFF_UP.to_ne_bytes());
    header
}

/// The index of the interface `name` in the socket's namespace.
pub(crate) fn index_of(socket: &Socket, name: &str) -> Result<u32> {
    rustix::net::netdevice::name_to_index(socket, name).map_err(|errno| match errno {
        rustix::io::Errno::NODEV => Error::InterfaceNotFound { name: name.into() },
        errno => Error::Netlink { operation: format!("look up interface {name}"), source: errno.into() },
    })
}

/// Every interface in the socket's namespace.
pub(crate) fn list(socket: &Socket) -> Result<Vec<Link>> {
    let mut request = Request::default();
    request.message(RTM_GETLINK, NLM_F_DUMP, &ifinfomsg(AF_UNSPEC, 0), |_| {});
    let all = dump(socket, &request, "list interfaces")?;
    Ok(all.iter().filter(|(kind, _)| *kind == RTM_NEWLINK).filter_map(|(_, body)| parse_link(body)).collect())
}

/// The interface `index`; `None` if the answer is not one.
pub(crate) fn get(socket: &Socket, index: u32) -> Result<Option<Link>> {
    let mut request = Request::default();
    request.message(RTM_GETLINK, 0, &ifinfomsg(AF_UNSPEC, index), |_| {});
    let body = socket.get(&request).map_err(|source| failed("ask for an interface", source))?;
    Ok(parse_link(&body))
}

/// The interface of this name, if there is one: what [`list`] says of it, without reading what may be thousands.
pub(crate) fn named(socket: &Socket, name: &str) -> Result<Option<Link>> {
    match index_of(socket, name) {
        Ok(index) => get(socket, index),
        Err(Error::InterfaceNotFound { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Whether the interface is up for traffic, `IF_OPER_UP`, not merely switched on.
///
/// Since Linux 6.8 the question itself makes the kernel act on a carrier that came; before, a work queue does.
pub(crate) fn is_operational(socket: &Socket, index: u32) -> Result<bool> {
    let mut request = Request::default();
    request.message(RTM_GETLINK, 0, &ifinfomsg(AF_UNSPEC, index), |_| {});
    let body = socket.get(&request).map_err(|source| failed("ask for an interface's state", source))?;
    let attributes = body.get(IFINFOMSG_LEN..).unwrap_or_default();
    Ok(Attributes(attributes).any(|(kind, value)| kind == IFLA_OPERSTATE && value == [IF_OPER_UP]))
}

/// Appends: delete the interface `name`.
pub(crate) fn delete(request: &mut Request, name: &str) {
    request.message(RTM_DELLINK, NLM_F_ACK, &ifinfomsg(AF_UNSPEC, 0), |r| r.text(IFLA_IFNAME, name));
}

/// Deletes the interface `index`. Harmless if it is gone.
pub(crate) fn delete_index(socket: &Socket, index: u32) -> Result<()> {
    let mut request = Request::default();
    request.message(RTM_DELLINK, NLM_F_ACK, &ifinfomsg(AF_UNSPEC, index), |_| {});
    match socket.transact(&request) {
        Err(f) if f.source.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => Ok(()),
        done => done.map_err(|f| failed(format!("delete interface {index}"), f.source)),
    }
}

/// Appends: give the interface `index` the address `address`/`prefix`. Harmless if it has it.
pub(crate) fn add_address(request: &mut Request, index: u32, address: IpAddr, prefix: u8) {
    let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
    let mut header = ifaddrmsg(address.is_ipv6(), prefix, index);
    if matches!(address, IpAddr::V4(a) if a.is_link_local()) {
        // Nobody beyond the link is sent packets from it. The kernel knows that of IPv6's by itself.
        header[3] = RT_SCOPE_LINK;
    }
    request.message(RTM_NEWADDR, flags, &header, |r| match address {
        IpAddr::V4(address) => {
            r.attribute(IFA_LOCAL, &address.octets());
            r.attribute(IFA_ADDRESS, &address.octets());
            if prefix < 31
                && let Some(net) = Net::new(address, prefix)
            {
                r.attribute(IFA_BROADCAST, &net.last().octets());
            }
        }
        IpAddr::V6(address) => r.attribute(IFA_ADDRESS, &address.octets()),
    });
}

/// Appends: take the address away from the interface.
pub(crate) fn delete_address(request: &mut Request, address: &Address) {
    let header = ifaddrmsg(address.address.is_ipv6(), address.prefix, address.index);
    request.message(RTM_DELADDR, NLM_F_ACK, &header, |r| match address.address {
        IpAddr::V4(a) => r.attribute(IFA_LOCAL, &a.octets()),
        IpAddr::V6(a) => r.attribute(IFA_ADDRESS, &a.octets()),
    });
}

/// Appends: send what has no other route to `gateway` by the interface `index`, in place of the route there is; if the
/// gateway is the unspecified address, to the interface itself.
pub(crate) fn add_default_route(request: &mut Request, index: u32, gateway: IpAddr) {
    let mut header = rtmsg(gateway);
    if gateway.is_unspecified() {
        header[6] = RT_SCOPE_LINK;
    }
    request.message(RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, &header, |r| {
        r.u32(RTA_OIF, index);
        match gateway {
            _ if gateway.is_unspecified() => {}
            IpAddr::V4(a) => r.attribute(RTA_GATEWAY, &a.octets()),
            IpAddr::V6(a) => r.attribute(RTA_GATEWAY, &a.octets()),
        }
    });
}

/// Appends: have no default route of `family`'s kind by any interface.
pub(crate) fn delete_default_route(request: &mut Request, family: IpAddr) {
    request.message(RTM_DELROUTE, NLM_F_ACK, &rtmsg(family), |_| {});
}

fn rtmsg(family: IpAddr) -> [u8; RTMSG_LEN] {
    let family = if family.is_ipv6() { INET6 } else { AF_INET };
    [family, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, 0, RTN_UNICAST, 0, 0, 0, 0]
}

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) index: u32,
    pub(crate) address: IpAddr,
    pub(crate) prefix: u8,
}

impl Address {
    /// Whether the kernel gave it to the interface by itself.
    pub(crate) fn is_link_local(&self) -> bool {
        matches!(self.address, IpAddr::V6(a) if a.is_unicast_link_local())
    }
}

/// Every address in the socket's namespace.
pub(crate) fn addresses(socket: &Socket) -> Result<Vec<Address>> {
    let mut request = Request::default();
    let mut header = ifaddrmsg(false, 0, 0);
    header[0] = AF_UNSPEC;
    request.message(RTM_GETADDR, NLM_F_DUMP, &header, |_| {});
    let all = dump(socket, &request, "list addresses")?;
    Ok(all
        .iter()
        .filter(|(kind, _)| *kind == RTM_NEWADDR)
        .filter_map(|(_, body)| parse_address(body))
        .collect())
}

/// The destinations of every IPv4 unicast route in the main table, without the default route.
pub(crate) fn routes(socket: &Socket) -> Result<Vec<Net>> {
    let mut request = Request::default();
    let mut header = [0; RTMSG_LEN];
    header[0] = AF_INET;
    request.message(RTM_GETROUTE, NLM_F_DUMP, &header, |_| {});
    let all = dump(socket, &request, "list routes")?;
    Ok(all
        .iter()
        .filter(|(kind, _)| *kind == RTM_NEWROUTE)
        .filter_map(|(_, body)| parse_route(body))
        .collect())
}

fn dump(socket: &Socket, request: &Request, operation: &str) -> Result<Dump> {
    socket.dump(request).map_err(|source| failed(operation, source))
}

/// The error of a route operation.
pub(crate) fn failed(operation: impl Into<String>, source: io::Error) -> Error {
    Error::Netlink { operation: operation.into(), source }
}

fn ifaddrmsg(is_ipv6: bool, prefix: u8, index: u32) -> [u8; IFADDRMSG_LEN] {
    let [a, b, c, d] = index.to_ne_bytes();
    let (family, flags) = if is_ipv6 { (INET6, IFA_F_NODAD) } else { (AF_INET, 0) };
    [family, prefix, flags, 0, a, b, c, d]
}

fn parse_link(body: &[u8]) -> Option<Link> {
    let index = u32::try_from(read_i32(body.get(4..)?)?).ok()?;
    let mut link = Link { index, ..Link::default() };
    for (kind, value) in Attributes(body.get(IFINFOMSG_LEN..)?) {
        match kind {
            IFLA_IFNAME => link.name = read_text(value),
            IFLA_IFALIAS => link.alias = read_text(value),
            IFLA_ADDRESS => link.mac = value.try_into().unwrap_or_default(),
            IFLA_MTU => link.mtu = read_u32(value).unwrap_or_default(),
            IFLA_MASTER => link.master = read_u32(value),
            IFLA_LINKINFO => {
                let kind = Attributes(value).find(|(kind, _)| *kind == IFLA_INFO_KIND);
                link.kind = kind.map(|(_, text)| read_text(text)).unwrap_or_default();
            }
            IFLA_STATS64 => {
                for (counter, bytes) in link.counters.iter_mut().zip(value.chunks_exact(8)) {
                    *counter = bytes.first_chunk().copied().map(u64::from_ne_bytes)?;
                }
            }
            _ => {}
        }
    }
    Some(link)
}

fn parse_address(body: &[u8]) -> Option<Address> {
    let (family, prefix, index) = (*body.first()?, *body.get(1)?, read_u32(body.get(4..)?)?);
    let find =
        |wanted| Attributes(body.get(IFADDRMSG_LEN..)?).find(|(kind, _)| *kind == wanted).map(|(_, v)| v);
    let address = match family {
        AF_INET => IpAddr::V4(read_address(find(IFA_LOCAL)?)?),
        INET6 => IpAddr::from(<[u8; 16]>::try_from(find(IFA_ADDRESS)?).ok()?),
        _ => return None,
    };
    Some(Address { index, address, prefix })
}

fn parse_route(body: &[u8]) -> Option<Net> {
    let (family, prefix, kind) = (*body.first()?, *body.get(1)?, *body.get(7)?);
    let (mut table, mut destination) = (u32::from(*body.get(4)?), None);
    for (kind, value) in Attributes(body.get(RTMSG_LEN..)?) {
        match kind {
            RTA_DST => destination = read_address(value),
            RTA_TABLE => table = read_u32(value)?,
            _ => {}
        }
    }
    let counts = family == AF_INET && kind == RTN_UNICAST && table == u32::from(RT_TABLE_MAIN) && prefix > 0;
    if counts { Net::new(destination?, prefix) } else { None }
}

fn read_address(bytes: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from)
}
