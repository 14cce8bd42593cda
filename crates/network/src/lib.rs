//! Container networks on one machine: bridges, sandboxes (network namespaces kept by a file), endpoints (veth pairs),
//! addresses, and a firewall table of our own. Synchronous and thread-safe; everything goes to the kernel by netlink
//! from here, no program is started.
//!
//! ```text
//! sandbox (a namespace bound at a path)        host
//!   eth0 172.17.0.2/16 ----- veth pair ------- veth1a2b3c4  alias "brig:<owner>"
//!   default via 172.17.0.1                       |
//!                                              brig0 172.17.0.1/16  alias "brig:network:<owner>"
//!                                                |
//!                                              nftables table `inet brig`: forward, masquerade, published ports
//! ```
//!
//! Aliases mark what is ours, so that a daemon that starts can list it and remove what nobody owns; see
//! [`list_bridges`] and [`list_endpoints`]. The rules are described in [`firewall`].
//!
//! IPv6 is off on bridges of networks without it and on what is attached to them, and nobody listens to a container's
//! router advertisements (CVE-2020-13401, CVE-2024-32473).
//!
//! If someone else's firewall has a FORWARD policy of drop (dockerd sets one with iptables), it also drops our
//! packets: an accept in one nftables table does not overrule a drop in another. Such a host needs a rule of its own.

mod bridge;
mod conntrack;
mod device;
mod endpoint;
mod error;
pub mod files;
pub mod firewall;
mod guard;
pub mod ipam;
mod ipvlan;
mod link;
mod mac;
mod macvlan;
mod name;
mod net;
mod netlink;
mod nft;
mod overlay;
mod parent;
pub mod ports;
mod rate;
mod ready;
mod resolver;
mod sandbox;
mod stats;
mod subnet;
mod sysctl;
mod watch;

pub use bridge::{
    Bridge, BridgeConfig, BridgeSubnet, GatewayMode, delete_bridge, delete_doomed, doom_bridge,
    ensure_bridge, host_subnets, list_bridges, remove_bridge,
};
pub use device::give;
pub use endpoint::{
    DefaultRoute, Endpoint, EndpointAddress, EndpointConfig, Interface, attach, detach, list_endpoints,
    list_interfaces, set_default_route,
};
pub use error::Error;
pub use guard::{guard, retain_guards, unguard};
pub use ipvlan::{IpvlanFlag, IpvlanMode, attach_ipvlan};
pub use mac::mac_for;
pub use macvlan::{MacvlanMode, attach_macvlan};
pub use net::Net;
pub use overlay::{
    Neighbour, OverlayConfig, change_neighbours, ensure_overlay, interface_address, list_overlays,
    overlay_mtu, remove_overlay,
};
pub use parent::{Sharing, detach_shared, ensure_parent, list_parents, remove_parent};
pub use rate::{limit_incoming, limit_outgoing};
pub use ready::ReadySandbox;
pub use resolver::{RESOLVER, open_resolver};
pub use sandbox::{create_sandbox, create_sandbox_of, remove_sandbox, set_sandbox_sysctl};
pub use stats::{InterfaceStats, interface_stats};
pub use subnet::Subnet;
pub use watch::{Watch, watch};

/// The result of a network operation.
pub type Result<T> = std::result::Result<T, Error>;
