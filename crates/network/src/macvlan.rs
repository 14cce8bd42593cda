//! Endpoints without a bridge: interfaces of a sandbox that share an interface of the host, each with a hardware address
//! of its own.
//!
//! Kernel: `drivers/net/macvlan.c`; the host's own address on the parent is not reached from such an endpoint.

use crate::endpoint::{self, EndpointConfig};
use crate::link::{self, failed, ifinfomsg, ifinfomsg_up};
use crate::netlink::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, Request, Socket};
use crate::{Error, Result, name, sandbox};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

/// What marks the VLAN interfaces that we made for a network.
const PARENT_ALIAS: &str = "brig:parent:";
const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_VLAN_ID: u16 = 1;

/// Who of those on one parent hears whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MacvlanMode {
    Private,
    Vepa,
    Bridge,
    /// One endpoint takes the parent over.
    Passthru,
}

impl MacvlanMode {
    fn number(self) -> u32 {
        match self {
            MacvlanMode::Private => 1,
            MacvlanMode::Vepa => 2,
            MacvlanMode::Bridge => 4,
            MacvlanMode::Passthru => 8,
        }
    }
}

/// Gives the sandbox an interface on `parent`, with the addresses and routes of `endpoint`, whose bridge and host
/// interface do not count. Nothing of it is left after a failure.
///
/// # Errors
///
/// [`Error::InterfaceNotFound`] for the parent; [`Error::Netlink`], [`Error::Sandbox`].
pub fn attach_macvlan(
    sandbox: &Path,
    parent: &str,
    mode: MacvlanMode,
    endpoint: &EndpointConfig,
) -> Result<()> {
    name::check_interface(parent)?;
    name::check_interface(&endpoint.container_interface)?;
    let host = Socket::route().map_err(|source| failed("open a netlink socket", source))?;
    let below = link::index_of(&host, parent)?;
    let inside = sandbox::open(sandbox)?;
    let namespace =
        u32::try_from(inside.namespace.as_fd().as_raw_fd()).expect("a descriptor is not negative");
    let mut request = Request::default();
    request.message(link::RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &ifinfomsg(0, 0), |r| {
        r.text(link::IFLA_IFNAME, &endpoint.container_interface);
        r.u32(link::IFLA_LINK, below);
        r.u32(link::IFLA_MTU, endpoint.mtu);
        if mode != MacvlanMode::Passthru {
            r.attribute(link::IFLA_ADDRESS, &endpoint.mac);
        }
        r.u32(link::IFLA_NET_NS_FD, namespace);
        r.nest(link::IFLA_LINKINFO, |r| {
            r.attribute(link::IFLA_INFO_KIND, b"macvlan");
            r.nest(link::IFLA_INFO_DATA, |r| r.u32(IFLA_MACVLAN_MODE, mode.number()));
        });
    });
    host.transact(&request)
        .map_err(|f| failed(format!("create a macvlan interface on {parent}"), f.source))?;
    let finished = endpoint::finish_container_end(sandbox, &inside.route, endpoint);
    if finished.is_err() {
        // The first error is the one to tell; what is left goes with the sandbox.
        endpoint::delete(&inside.route, &endpoint.container_interface).ok();
    }
    finished
}

/// Removes the sandbox's interface that has this hardware address. Harmless if there is none.
///
/// # Errors
///
/// [`Error::Netlink`], [`Error::Sandbox`].
pub fn detach_macvlan(sandbox: &Path, mac: [u8; 6]) -> Result<()> {
    let inside = sandbox::open(sandbox)?;
    match link::list(&inside.route)?.iter().find(|l| l.kind == "macvlan" && l.mac == mac) {
        Some(link) => endpoint::delete(&inside.route, &link.name),
        None => Ok(()),
    }
}

/// Makes sure that the parent exists. One named `INTERFACE.ID` that does not is made, as VLAN `ID` of `INTERFACE`, and
/// marked with `owner`.
///
/// # Errors
///
/// [`Error::InterfaceNotFound`], [`Error::Netlink`], [`Error::InvalidOwner`].
pub fn ensure_parent(parent: &str, owner: &str) -> Result<()> {
    name::check_interface(parent)?;
    name::check_owner(owner)?;
    let host = Socket::route().map_err(|source| failed("open a netlink socket", source))?;
    match link::index_of(&host, parent) {
        Err(Error::InterfaceNotFound { .. }) => {}
        done => return done.map(drop),
    }
    let vlan = parent.rsplit_once('.').and_then(|(below, id)| Some((below, id.parse::<u16>().ok()?)));
    let Some((below, id)) = vlan.filter(|(_, id)| (1..4095).contains(id)) else {
        return Err(Error::InterfaceNotFound { name: parent.into() });
    };
    let below = link::index_of(&host, below)?;
    let mut request = Request::default();
    request.message(link::RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &ifinfomsg(0, 0), |r| {
        r.text(link::IFLA_IFNAME, parent);
        r.u32(link::IFLA_LINK, below);
        r.nest(link::IFLA_LINKINFO, |r| {
            r.attribute(link::IFLA_INFO_KIND, b"vlan");
            r.nest(link::IFLA_INFO_DATA, |r| r.attribute(IFLA_VLAN_ID, &id.to_ne_bytes()));
        });
    });
    request.message(link::RTM_SETLINK, NLM_F_ACK, &ifinfomsg(0, 0), |r| {
        r.text(link::IFLA_IFNAME, parent);
        r.text(link::IFLA_IFALIAS, &format!("{PARENT_ALIAS}{owner}"));
    });
    host.transact(&request).map_err(|f| failed(format!("create interface {parent}"), f.source))?;
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
    Ok(links.iter().filter(|l| l.kind == "vlan").filter_map(ours).collect())
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
