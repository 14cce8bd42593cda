//! What a container may say that it is: rules at the host's end of its pair, which drop frames that claim an address of the
//! network, or a hardware address as we give them, that is not the container's.
//!
//! ```text
//! table netdev brig, chain veth1a2b3c4 (ingress of that interface)
//!   own hardware address, own IPv4 address: accept            nearly every frame ends here
//!   own hardware address, own IPv6 address, no ICMP: accept
//!   02:42:…, not its own: drop
//!   IPv4 from the network's subnet, not its own: drop
//!   ARP: its own address at its own hardware address: accept; any other of the subnet: drop
//!   ICMPv6: advertisement of another's address, router advertisement, redirect: drop
//!   IPv6 from the network's subnet, not its own: drop
//! ```
//!
//! Addresses beyond the network's own pass: a container may be a router.
//!
//! On older kernels the chain goes with the interface. On newer ones (Linux 6.16) it waits for one of that name, and is taken
//! away by [`unguard`].
//!
//! T-NET-1: CVE-2025-52889, CVE-2025-52890.

use crate::endpoint::EndpointConfig;
use crate::nft::{self, Batch, Expr, Header, Verdict};
use crate::{Error, Result, Subnet, firewall, name};
use std::collections::HashSet;
use std::net::IpAddr;

const ACCEPT: Expr<'_> = Expr::Verdict(Verdict::Accept);
const DROP: Expr<'_> = Expr::Verdict(Verdict::Drop);
const ETH_P_IP: u16 = 0x0800;
const ETH_P_ARP: u16 = 0x0806;
const ETH_P_IPV6: u16 = 0x86dd;
/// The beginning of hardware addresses as [`mac_for`](crate::mac_for) makes them.
const OURS: &[u8] = &[0x02, 0x42];
const ICMPV6: &[u8] = &[58];
const ROUTER_ADVERTISEMENT: &[u8] = &[134];
const NEIGHBOUR_ADVERTISEMENT: &[u8] = &[136];
const REDIRECT: &[u8] = &[137];
/// Offsets in the headers of Ethernet, IPv4, IPv6 (source, next header), ARP (sender's hardware address and address), and in
/// ICMPv6 (type, target).
const ETHER_SOURCE: u32 = 6;
const IPV4_SOURCE: u32 = 12;
const IPV6_SOURCE: u32 = 8;
const IPV6_NEXT: u32 = 6;
const ARP_SENDER_MAC: u32 = 8;
const ARP_SENDER: u32 = 14;
const ICMPV6_TYPE: u32 = 0;
const ICMPV6_TARGET: u32 = 8;

/// Lets the endpoint, whose pair exists, claim no address but its own. Repeating it is harmless. A kernel without chains of
/// interfaces (`CONFIG_NF_TABLES_NETDEV`) lets it claim any.
///
/// # Errors
///
/// [`Error::Firewall`].
pub fn guard(endpoint: &EndpointConfig) -> Result<()> {
    let chain = endpoint.host_interface.as_str();
    let done = firewall::commit_devices(&format!("guard {chain}"), |batch| {
        batch.device_chain(chain, chain);
        batch.flush_chain(chain);
        fill(batch, chain, endpoint);
    });
    match done {
        Err(e) if is_without(&e) => Ok(()),
        done => done,
    }
}

/// Whether the kernel says that it has no chains of interfaces.
pub(crate) fn is_without(error: &Error) -> bool {
    use rustix::io::Errno;
    let Error::Firewall { source, .. } = error else { return false };
    let errno = source.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::OPNOTSUPP | Errno::AFNOSUPPORT))
}

/// Takes the rules of the endpoint whose host end is or was `host_interface` away. Harmless if there are none.
///
/// # Errors
///
/// [`Error::Firewall`].
pub fn unguard(host_interface: &str) -> Result<()> {
    name::check_interface(host_interface)?;
    let mut batch = Batch::of_devices(firewall::table());
    batch.flush_chain(host_interface);
    batch.delete_chain(host_interface);
    match batch.commit(&format!("take the guard of {host_interface} away")) {
        Err(Error::Firewall { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) if is_without(&e) => Ok(()),
        done => done,
    }
}

/// Takes the rules of all endpoints but those in `keep` away: what daemons that were killed left. How many there were.
///
/// # Errors
///
/// [`Error::Firewall`].
pub fn retain_guards(keep: &HashSet<String>) -> Result<usize> {
    let mut removed = 0;
    for chain in nft::list_device_chains(firewall::table())? {
        if !keep.contains(&chain) {
            unguard(&chain)?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn fill(batch: &mut Batch, chain: &str, endpoint: &EndpointConfig) {
    let own_mac = Expr::Bytes(Header::Link, ETHER_SOURCE, &endpoint.mac, true);
    let octets: Vec<(Vec<u8>, IpAddr, Subnet)> = endpoint
        .addresses
        .iter()
        .filter_map(|a| {
            let bytes = match a.address {
                IpAddr::V4(a) => a.octets().to_vec(),
                IpAddr::V6(a) => a.octets().to_vec(),
            };
            Some((bytes, a.address, Subnet::new(a.address, a.prefix)?))
        })
        .collect();
    let v4 = || octets.iter().filter(|(_, a, _)| a.is_ipv4());
    let v6 = || octets.iter().filter(|(_, a, _)| a.is_ipv6());
    for (own, ..) in v4() {
        let source = Expr::Bytes(Header::Network, IPV4_SOURCE, own, true);
        batch.rule(chain, &[own_mac.clone(), Expr::EtherType(ETH_P_IP), source, ACCEPT]);
    }
    for (own, ..) in v6() {
        let source = Expr::Bytes(Header::Network, IPV6_SOURCE, own, true);
        let no_icmp = Expr::Bytes(Header::Network, IPV6_NEXT, ICMPV6, false);
        batch.rule(chain, &[own_mac.clone(), Expr::EtherType(ETH_P_IPV6), no_icmp, source, ACCEPT]);
    }
    let other_mac = Expr::Bytes(Header::Link, ETHER_SOURCE, &endpoint.mac, false);
    batch.rule(chain, &[Expr::Bytes(Header::Link, ETHER_SOURCE, OURS, true), other_mac, DROP]);
    for (.., subnet) in v4() {
        batch.rule(chain, &[Expr::EtherType(ETH_P_IP), Expr::AddressAt(IPV4_SOURCE, *subnet), DROP]);
    }
    for (own, ..) in v4() {
        let sender = Expr::Bytes(Header::Network, ARP_SENDER, own, true);
        let at = Expr::Bytes(Header::Network, ARP_SENDER_MAC, &endpoint.mac, true);
        batch.rule(chain, &[Expr::EtherType(ETH_P_ARP), sender, at, ACCEPT]);
    }
    for (.., subnet) in v4() {
        batch.rule(chain, &[Expr::EtherType(ETH_P_ARP), Expr::AddressAt(ARP_SENDER, *subnet), DROP]);
    }
    let icmpv6 = |kind: &'static [u8]| {
        [
            Expr::EtherType(ETH_P_IPV6),
            Expr::Bytes(Header::Network, IPV6_NEXT, ICMPV6, true),
            Expr::Bytes(Header::Transport, ICMPV6_TYPE, kind, true),
        ]
    };
    for kind in [ROUTER_ADVERTISEMENT, REDIRECT] {
        batch.rule(chain, &[&icmpv6(kind)[..], &[DROP]].concat());
    }
    let advertisement = icmpv6(NEIGHBOUR_ADVERTISEMENT);
    // The source of an advertisement may be an address of the link, what it is about is its target.
    for (own, ..) in v6() {
        let target = Expr::Bytes(Header::Transport, ICMPV6_TARGET, own, true);
        batch.rule(chain, &[&advertisement[..], &[target, ACCEPT]].concat());
    }
    for (.., subnet) in v6() {
        batch.rule(chain, &[&advertisement[..], &[Expr::TargetAt(ICMPV6_TARGET, *subnet), DROP]].concat());
    }
    for (own, ..) in v6() {
        let source = Expr::Bytes(Header::Network, IPV6_SOURCE, own, true);
        batch.rule(chain, &[Expr::EtherType(ETH_P_IPV6), source, ACCEPT]);
    }
    for (.., subnet) in v6() {
        batch.rule(chain, &[Expr::EtherType(ETH_P_IPV6), Expr::AddressAt(IPV6_SOURCE, *subnet), DROP]);
    }
}
