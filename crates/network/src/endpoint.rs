//! Endpoints: the veth pair between a sandbox and a bridge.

use crate::link::{self, failed, ifinfomsg, ifinfomsg_up};
use crate::netlink::{Failure, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, Request, Socket};
use crate::{Error, Result, Subnet, name, sandbox, sysctl};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

/// What marks the host's end of our pairs.
pub(crate) const ALIAS: &str = "brig:";
/// What marks our bridges; they are no endpoints.
pub(crate) const BRIDGE_ALIAS: &str = "brig:network:";

/// One sandbox's attachment to one bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointConfig {
    /// Who owns it: the container's id, or an id and more that tells daemons apart. Letters, digits, `-_.:`; at most
    /// 200; not beginning with `network:`.
    pub owner: String,
    /// The bridge, which exists.
    pub bridge: String,
    /// The host's end, `veth` and seven hex digits as Docker has it. Must be new.
    pub host_interface: String,
    /// The sandbox's end, `eth0`. Must be new in the sandbox.
    pub container_interface: String,
    pub mac: [u8; 6],
    /// At least one; without one of IPv6, IPv6 is off on the interface.
    pub addresses: Vec<EndpointAddress>,
    pub mtu: u32,
    /// The bridge passes nothing between two such endpoints. Set it where the network's `icc` is false.
    pub isolated: bool,
    /// It claims no address but its own; see [`guard`](crate::guard()).
    pub guarded: bool,
}

/// One address of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointAddress {
    pub address: IpAddr,
    /// The length of the network's prefix, at least 1.
    pub prefix: u8,
    /// Where the default route of its family goes, in place of one there may be; the unspecified address for the interface
    /// itself. `None` leaves the routes alone, as for internal networks and all but one of a container's networks.
    pub gateway: Option<IpAddr>,
}

impl EndpointAddress {
    /// An address beside those of the network, of a link (`169.254.0.0/16`, `fe80::/64`) or any other: it gets the length
    /// of prefix that those have.
    pub fn of_link(address: IpAddr) -> EndpointAddress {
        EndpointAddress { address, prefix: if address.is_ipv6() { 64 } else { 16 }, gateway: None }
    }
}

/// An endpoint of ours that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub host_interface: String,
    pub owner: String,
    /// Its bridge; `None` if it hangs in the air.
    pub bridge: Option<String>,
}

/// Connects the sandbox at `sandbox` to a bridge: makes the pair with one end inside, and gives that end name,
/// hardware address, address and default route. Nothing of it is left after a failure.
///
/// When this returns, the container may send. Needs `CAP_NET_ADMIN` here and in the sandbox.
///
/// # Errors
///
/// [`Error::InterfaceNotFound`] for the bridge; [`Error::Netlink`], of kind `AlreadyExists` if a name is in use;
/// [`Error::Sandbox`]; [`Error::InvalidInterface`], [`Error::InvalidOwner`], [`Error::InvalidNet`].
///
/// Kernel: [veth(4)](https://man7.org/linux/man-pages/man4/veth.4.html).
pub fn attach(sandbox: &Path, endpoint: &EndpointConfig) -> Result<()> {
    check(endpoint)?;
    let host = Socket::route().map_err(|source| failed("open a netlink socket", source))?;
    let bridge = link::index_of(&host, &endpoint.bridge)?;
    let inside = sandbox::open(sandbox)?;
    let host_more = |r: &mut Request| {
        r.u32(link::IFLA_MTU, endpoint.mtu);
        r.u32(link::IFLA_MASTER, bridge);
    };
    let inside_more = |r: &mut Request| {
        r.attribute(link::IFLA_ADDRESS, &endpoint.mac);
        r.u32(link::IFLA_MTU, endpoint.mtu);
    };
    let (name, container) = (&endpoint.host_interface, &endpoint.container_interface);
    host.transact(&pair(name, host_more, container, inside_more, inside.namespace.as_fd()))
        .map_err(|f| failed(format!("create interface {}", endpoint.host_interface), f.source))?;
    // Before the interface is up.
    let guarded = if endpoint.guarded { crate::guard(endpoint) } else { Ok(()) };
    let finished = guarded.and_then(|()| finish_host_end(&host, endpoint)).and_then(|index| {
        finish_container_end(sandbox, &inside.route, endpoint)?;
        wait_for_carrier(&host, index)?;
        wait_for_carrier(&host, bridge)
    });
    if finished.is_err() {
        // The first error is the one to tell; `list_endpoints` finds what could not be removed.
        detach(&endpoint.host_interface).ok();
    }
    finished
}

/// Removes the pair whose host end is `host_interface`. Harmless if there is none.
///
/// # Errors
///
/// [`Error::Netlink`], [`Error::InvalidInterface`].
pub fn detach(host_interface: &str) -> Result<()> {
    name::check_interface(host_interface)?;
    let socket = Socket::route().map_err(|source| failed("open a netlink socket", source))?;
    delete(&socket, host_interface)?;
    crate::unguard(host_interface)
}

/// Every endpoint of ours in this network namespace, in the kernel's order.
///
/// # Errors
///
/// [`Error::Netlink`].
pub fn list_endpoints() -> Result<Vec<Endpoint>> {
    let socket = Socket::route().map_err(|source| failed("open a netlink socket", source))?;
    let links = link::list(&socket)?;
    let name_of = |index| links.iter().find(|l| l.index == index).map(|l| l.name.clone());
    let ours = links.iter().filter(|l| l.kind == "veth" && !l.alias.starts_with(BRIDGE_ALIAS));
    Ok(ours
        .filter_map(|l| {
            let owner = l.alias.strip_prefix(ALIAS)?.to_owned();
            Some(Endpoint { host_interface: l.name.clone(), owner, bridge: l.master.and_then(name_of) })
        })
        .collect())
}

/// Deletes an interface; fine if there is none.
pub(crate) fn delete(socket: &Socket, name: &str) -> Result<()> {
    let mut request = Request::default();
    link::delete(&mut request, name);
    match socket.transact(&request) {
        Err(f) if f.source.raw_os_error() != Some(rustix::io::Errno::NODEV.raw_os_error()) => {
            Err(failed(format!("delete interface {name}"), f.source))
        }
        _ => Ok(()),
    }
}

pub(crate) fn check(endpoint: &EndpointConfig) -> Result<()> {
    name::check_interface(&endpoint.bridge)?;
    name::check_interface(&endpoint.host_interface)?;
    name::check_interface(&endpoint.container_interface)?;
    name::check_owner(&endpoint.owner)?;
    if endpoint.owner.starts_with("network:") {
        return Err(Error::InvalidOwner { owner: endpoint.owner.clone() });
    }
    check_addresses(endpoint)
}

/// Refuses prefixes that no address has.
pub(crate) fn check_addresses(endpoint: &EndpointConfig) -> Result<()> {
    let wrong = |a: &&EndpointAddress| a.prefix == 0 || Subnet::new(a.address, a.prefix).is_none();
    match endpoint.addresses.iter().find(wrong) {
        Some(a) => Err(Error::InvalidNet { text: format!("{}/{}", a.address, a.prefix) }),
        None => Ok(()),
    }
}

/// The pair of interfaces `host` here and `inside` in `namespace`, with what `host_more` and `inside_more` add to each. The far
/// end is born in the sandbox: moving an interface between namespaces costs more than making it.
pub(crate) fn pair(
    host: &str,
    host_more: impl FnOnce(&mut Request),
    inside: &str,
    inside_more: impl FnOnce(&mut Request),
    namespace: BorrowedFd<'_>,
) -> Request {
    let namespace = u32::try_from(namespace.as_raw_fd()).expect("an open descriptor is not negative");
    let mut request = Request::default();
    request.message(link::RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &ifinfomsg(0, 0), |r| {
        r.text(link::IFLA_IFNAME, host);
        host_more(r);
        r.nest(link::IFLA_LINKINFO, |r| {
            r.attribute(link::IFLA_INFO_KIND, b"veth");
            r.nest(link::IFLA_INFO_DATA, |r| {
                r.nest(link::VETH_INFO_PEER, |r| {
                    r.raw(&ifinfomsg(0, 0));
                    r.text(link::IFLA_IFNAME, inside);
                    inside_more(r);
                    r.u32(link::IFLA_NET_NS_FD, namespace);
                });
            });
        });
    });
    request
}

/// Marks the host's end as ours, and sets it up: in that order, so that what is up is marked. Returns its index.
fn finish_host_end(host: &Socket, endpoint: &EndpointConfig) -> Result<u32> {
    let interface = &endpoint.host_interface;
    let index = link::index_of(host, interface)?;
    let mut request = Request::default();
    request.message(link::RTM_SETLINK, NLM_F_ACK, &ifinfomsg(0, index), |r| {
        r.text(link::IFLA_IFALIAS, &format!("{ALIAS}{}", endpoint.owner));
    });
    as_port(&mut request, index, endpoint.isolated);
    let marked = request.len();
    without_address(&mut request, index);
    request.message(link::RTM_SETLINK, NLM_F_ACK, &ifinfomsg_up(index), |_| {});
    match host.transact(&request) {
        Err(Failure { message, source }) if message != marked => {
            Err(failed(format!("set up interface {interface}"), source))
        }
        _ => Ok(index),
    }
}

/// Appends: what the port of a bridge does, for the host's end of a pair.
pub(crate) fn as_port(request: &mut Request, index: u32, isolated: bool) {
    request.message(link::RTM_SETLINK, NLM_F_ACK, &ifinfomsg(link::AF_BRIDGE, index), |r| {
        r.nest(link::IFLA_PROTINFO, |r| {
            // Hairpin: with br_netfilter, a packet that a container sends to its own published port is bridged back
            // to the port it came from, not routed.
            r.attribute(link::IFLA_BRPORT_MODE, &[1]);
            r.attribute(link::IFLA_BRPORT_ISOLATED, &[u8::from(isolated)]);
        });
    });
}

/// Appends: a bridge port needs no address. Without this the kernel gives it an IPv6 one and sends packets to look for
/// routers. The answer does not matter: a kernel without IPv6 refuses.
pub(crate) fn without_address(request: &mut Request, index: u32) {
    request.message(link::RTM_SETLINK, NLM_F_ACK, &ifinfomsg(0, index), |r| {
        r.nest(link::IFLA_AF_SPEC, |r| {
            r.nest(link::AF_INET6, |r| {
                r.attribute(link::IFLA_INET6_ADDR_GEN_MODE, &[link::IN6_ADDR_GEN_MODE_NONE])
            });
        });
    });
}

/// How long the kernel may take to notice the carrier. Since Linux 6.8 it takes none.
const MAX_CARRIER_POLLS: u32 = 100;

/// Waits until the interface passes packets: first the host's end, then the bridge, which is without carrier until it
/// has a port that passes packets.
///
/// The carrier came when the other end was set up, but the kernel acts on it later, from a work queue. A packet that
/// comes in between is lost, and a lost ARP request costs a second.
pub(crate) fn wait_for_carrier(host: &Socket, index: u32) -> Result<()> {
    for _ in 0..MAX_CARRIER_POLLS {
        if link::is_operational(host, index)? {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    // Not up by now is no failure: packets that are lost are sent again.
    Ok(())
}

/// Gives the sandbox's end its address and sets it up: second, because its carrier is then there at once.
pub(crate) fn finish_container_end(sandbox: &Path, inside: &Socket, endpoint: &EndpointConfig) -> Result<()> {
    let interface = &endpoint.container_interface;
    let index = link::index_of(inside, interface)?;
    if endpoint.addresses.iter().any(|a| a.address.is_ipv6()) {
        // While it is down: a container's kernel takes no routes from its neighbours.
        let settings = [("accept_ra", "0"), ("accept_dad", "0"), ("disable_ipv6", "0")];
        sandbox::inside(sandbox, || {
            settings.iter().try_for_each(|(name, value)| {
                sysctl::set(&format!("ipv6/conf/{interface}/{name}"), value, false)
            })
        })?;
    }
    let mut request = Request::default();
    let mut doing = Vec::new();
    for EndpointAddress { address, prefix, .. } in &endpoint.addresses {
        doing.push(format!("give {interface} the address {address}/{prefix}"));
        link::add_address(&mut request, index, *address, *prefix);
    }
    doing.push(format!("set up interface {interface}"));
    request.message(link::RTM_SETLINK, NLM_F_ACK, &ifinfomsg_up(index), |_| {});
    for gateway in endpoint.addresses.iter().filter_map(|a| a.gateway) {
        doing.push(format!("route {interface} to its gateway"));
        link::add_default_route(&mut request, index, gateway);
    }
    inside.transact(&request).map_err(|f| {
        let at = usize::try_from(f.message).unwrap_or(usize::MAX);
        failed(doing.get(at).cloned().unwrap_or_default(), f.source)
    })
}

/// Where packets of a sandbox go that no network of its own takes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DefaultRoute {
    /// The sandbox's interface, and the gateway behind it (the unspecified address: the interface itself); `None` for no
    /// default route.
    pub ipv4: Option<(String, IpAddr)>,
    pub ipv6: Option<(String, IpAddr)>,
}

/// Makes the default routes of the sandbox be as `route` says. Harmless if they are.
///
/// # Errors
///
/// [`Error::Netlink`], [`Error::Sandbox`], [`Error::InterfaceNotFound`].
pub fn set_default_route(sandbox: &Path, route: &DefaultRoute) -> Result<()> {
    let inside = sandbox::open(sandbox)?;
    for (wanted, any) in
        [(&route.ipv4, IpAddr::V4(Ipv4Addr::UNSPECIFIED)), (&route.ipv6, IpAddr::V6(Ipv6Addr::UNSPECIFIED))]
    {
        let mut request = Request::default();
        match wanted {
            Some((name, gateway)) => {
                link::add_default_route(&mut request, link::index_of(&inside.route, name)?, *gateway);
            }
            None => link::delete_default_route(&mut request, any),
        }
        match inside.route.transact(&request) {
            // There was none, or IPv6 is not there at all.
            Err(f)
                if wanted.is_none()
                    && matches!(
                        f.source.raw_os_error().map(rustix::io::Errno::from_raw_os_error),
                        Some(
                            rustix::io::Errno::SRCH
                                | rustix::io::Errno::OPNOTSUPP
                                | rustix::io::Errno::AFNOSUPPORT
                        )
                    ) => {}
            done => done.map_err(|f| failed("set the default route", f.source))?,
        }
    }
    Ok(())
}

/// An interface of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub mac: [u8; 6],
    /// As the kernel lists them.
    pub addresses: Vec<IpAddr>,
}

/// The interfaces of the sandbox, in the kernel's order, `lo` aside.
///
/// # Errors
///
/// [`Error::Netlink`], [`Error::Sandbox`].
pub fn list_interfaces(sandbox: &Path) -> Result<Vec<Interface>> {
    let route = sandbox::open(sandbox)?.route;
    let links = link::list(&route)?;
    let all = link::addresses(&route)?;
    let of = |index| all.iter().filter(|a| a.index == index).map(|a| a.address).collect();
    let others = links.into_iter().filter(|l| l.name != "lo");
    Ok(others.map(|l| Interface { addresses: of(l.index), name: l.name, mac: l.mac }).collect())
}
