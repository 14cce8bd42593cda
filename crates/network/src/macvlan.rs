//! Interfaces of a sandbox on an interface of the host, each with a hardware address of its own.
//!
//! Kernel: `drivers/net/macvlan.c`; the host's own address on the parent is not reached from such an endpoint.

use crate::endpoint::EndpointConfig;
use crate::parent::{self, Sharing};
use crate::{Result, link};
use std::path::Path;

const IFLA_MACVLAN_MODE: u16 = 1;

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
/// [`Error::InterfaceNotFound`](crate::Error::InterfaceNotFound) for the parent;
/// [`Error::NotInKernel`](crate::Error::NotInKernel); [`Error::Netlink`](crate::Error::Netlink),
/// [`Error::Sandbox`](crate::Error::Sandbox).
pub fn attach_macvlan(
    sandbox: &Path,
    parent: &str,
    mode: MacvlanMode,
    endpoint: &EndpointConfig,
) -> Result<()> {
    parent::attach(sandbox, parent, Sharing::Macvlan, endpoint, |r| {
        if mode != MacvlanMode::Passthru {
            r.attribute(link::IFLA_ADDRESS, &endpoint.mac);
        }
        r.nest(link::IFLA_LINKINFO, |r| {
            r.attribute(link::IFLA_INFO_KIND, Sharing::Macvlan.kind().as_bytes());
            r.nest(link::IFLA_INFO_DATA, |r| r.u32(IFLA_MACVLAN_MODE, mode.number()));
        });
    })
}
