//! Endpoints without a bridge: interfaces of a sandbox that share an interface of the host, their parent. What the two
//! drivers for it, `macvlan` and `ipvlan`, have in common.

use crate::endpoint::{self, EndpointConfig};
use crate::link::{self, failed, ifinfomsg, ifinfomsg_up};
use crate::netlink::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, Request, Socket};
use crate::{Error, Result, name, sandbox};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

/// What marks the interfaces that we made as a network's parent.
const PARENT_ALIAS: &str = "brig:parent:";
const IFLA_VLAN_ID: u16 = 1;

/// How interfaces share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Each has a hardware address of its own.
    Macvlan,
    /// All have the parent's hardware address.
    Ipvlan,
}

impl Sharing {
    /// The kernel's word.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Sharing::Macvlan => "macvlan",
            Sharing::Ipvlan => "ipvlan",
        }
    }

    /// Whether this kernel has such interfaces.
    ///
    /// # Errors
    ///
    /// [`Error::NotInKernel`], [`Error::Netlink`].
    pub fn check(self) -> Result<()> {
        let socket = Socket::route().map_err(|source| failed("open a netlink socket", source))?;
        let mut request = Request::default();
        // Without a parent it cannot be made, and that is what a kernel says that knows the kind.
        request.message(link::RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &ifinfomsg(0, 0), |r| {
            r.nest(link::IFLA_LINKINFO, |r| r.attribute(link::IFLA_INFO_KIND, self.kind().as_bytes()));
        });
        match socket.transact(&request) {
            Err(f) if is_unknown(&f.source) => Err(Error::NotInKernel { kind: self.kind() }),
            _ => Ok(()),
        }
    }
}

/// Whether the kernel does not know a kind of interface.
fn is_unknown(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error())
}

/// Gives the sandbox an interface on `parent`, with the addresses and routes of `endpoint`. `fill` adds what only the
/// driver knows. Nothing of it is left after a failure.
pub(crate) fn attach(
    sandbox: &Path,
    parent: &str,
    sharing: Sharing,
    endpoint: &EndpointConfig,
    fill: impl FnOnce(&mut Request),
) -> Result<()> {
    name::check_interface(parent)?;
    name::check_interface(&endpoint.container_interface)?;
    endpoint::check_addresses(endpoint)?;
    let host = Socket::route().map_err(|source| failed("open a netlink socket", source))?;
    let below = link::index_of(&host, parent)?;
    let inside = sandbox::open(sandbox)?;
    host.transact(&new_link(below, inside.namespace.as_fd(), endpoint, fill)).map_err(|f| {
        if is_unknown(&f.source) {
            return Error::NotInKernel { kind: sharing.kind() };
        }
        failed(format!("create a {} interface on {parent}", sharing.kind()), f.source)
    })?;
    let finished = endpoint::finish_container_end(sandbox, &inside.route, endpoint);
    if finished.is_err() {
        // The first error is the one to tell; what is left goes with the sandbox.
        endpoint::delete(&inside.route, &endpoint.container_interface).ok();
    }
    finished
}

/// The request for an interface on the one with index `below`, born in `namespace`.
pub(crate) fn new_link(
    below: u32,
    namespace: BorrowedFd<'_>,
    endpoint: &EndpointConfig,
    fill: impl FnOnce(&mut Request),
) -> Request {
    let namespace = namespace.as_raw_fd().cast_unsigned();
    let mut request = Request::default();
    request.message(link::RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &ifinfomsg(0, 0), |r| {
        r.text(link::IFLA_IFNAME, &endpoint.container_interface);
        r.u32(link::IFLA_LINK, below);
        r.u32(link::IFLA_MTU, endpoint.mtu);
        r.u32(link::IFLA_NET_NS_FD, namespace);
        fill(r);
    });
    request
}

/// Removes the sandbox's interface that has one of these addresses; failing that, the one with this hardware address.
/// Harmless if there is none.
///
/// # Errors
///
/// [`Error::Netlink`], [`Error::Sandbox`].
pub fn detach_shared(
    sandbox: &Path,
    sharing: Sharing,
    addresses: &[IpAddr],
    mac: Option<[u8; 6]>,
) -> Result<()> {
    let inside = sandbox::open(sandbox)?;
    let links = link::list(&inside.route)?;
    let all = link::addresses(&inside.route)?;
    let mut ours = links.iter().filter(|l| l.kind == sharing.kind());
    let has = |index| all.iter().any(|a| a.index == index && addresses.contains(&a.address));
    let found = ours.clone().find(|l| has(l.index)).or_else(|| ours.find(|l| Some(l.mac) == mac));
    match found {
        Some(link) => endpoint::delete(&inside.route, &link.name),
        None => Ok(()),
    }
}

/// Makes sure that the parent exists. One named `INTERFACE.ID` that does not is made, as VLAN `ID` of `INTERFACE`, and
/// marked with `owner`; so is one that leads nowhere (`is_dummy`).
///
/// # Errors
///
/// [`Error::InterfaceNotFound`], [`Error::NotInKernel`], [`Error::Netlink`], [`Error::InvalidOwner`].
pub fn ensure_parent(parent: &str, is_dummy: bool, owner: &str) -> Result<()> {
    name::check_interface(parent)?;
    name::check_owner(owner)?;
    let host = Socket::route().map_err(|source| failed("open a netlink socket", source))?;
    match link::index_of(&host, parent) {
        Err(Error::InterfaceNotFound { .. }) => {}
        done => return done.map(drop),
    }
    let (kind, vlan) = if is_dummy {
        ("dummy", None)
    } else {
        let vlan = parent.rsplit_once('.').and_then(|(below, id)| Some((below, id.parse::<u16>().ok()?)));
        let Some((below, id)) = vlan.filter(|(_, id)| (1..4095).contains(id)) else {
            return Err(Error::InterfaceNotFound { name: parent.into() });
        };
        ("vlan", Some((link::index_of(&host, below)?, id)))
    };
    let mut request = Request::default();
    request.message(link::RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &ifinfomsg(0, 0), |r| {
        r.text(link::IFLA_IFNAME, parent);
        if let Some((below, _)) = vlan {
            r.u32(link::IFLA_LINK, below);
        }
        r.nest(link::IFLA_LINKINFO, |r| {
            r.attribute(link::IFLA_INFO_KIND, kind.as_bytes());
            if let Some((_, id)) = vlan {
                r.nest(link::IFLA_INFO_DATA, |r| r.attribute(IFLA_VLAN_ID, &id.to_ne_bytes()));
            }
        });
    });
    request.message(link::RTM_SETLINK, NLM_F_ACK, &ifinfomsg(0, 0), |r| {
        r.text(link::IFLA_IFNAME, parent);
        r.text(link::IFLA_IFALIAS, &format!("{PARENT_ALIAS}{owner}"));
    });
    host.transact(&request).map_err(|f| match is_unknown(&f.source) {
        true => Error::NotInKernel { kind },
        false => failed(format!("create interface {parent}"), f.source),
    })?;
    let mut up = Request::default();
    up.message(link::RTM_SETLINK, NLM_F_ACK, &ifinfomsg_up(link::index_of(&host, parent)?), |_| {});
    host.transact(&up).map_err(|f| failed(format!("set up interface {parent}"), f.source))
}

/// The parents that [`ensure_parent`] made: name and owner.
///
/// # Errors
///
/// [`Error::Netlink`].
pub fn list_parents() -> Result<Vec<(String, String)>> {
    let host = Socket::route().map_err(|source| failed("open a netlink socket", source))?;
    let links = link::list(&host)?;
    let ours = |l: &link::Link| Some((l.name.clone(), l.alias.strip_prefix(PARENT_ALIAS)?.to_owned()));
    Ok(links.iter().filter(|l| matches!(l.kind.as_str(), "vlan" | "dummy")).filter_map(ours).collect())
}

/// Removes the parent if [`ensure_parent`] made it for `owner`. Harmless if not.
///
/// # Errors
///
/// [`Error::Netlink`].
pub fn remove_parent(parent: &str, owner: &str) -> Result<()> {
    if !list_parents()?.iter().any(|(name, o)| name == parent && o == owner) {
        return Ok(());
    }
    let host = Socket::route().map_err(|source| failed("open a netlink socket", source))?;
    endpoint::delete(&host, parent)
}
