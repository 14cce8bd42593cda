//! Published ports: entries of maps and sets in the firewall table, and sockets that keep others off the port.
//!
//! No process stands between: the kernel rewrites the destination, so the container sees the real client. A port
//! published on every address, or on 127.0.0.1, is also reached by this host through its loopback; then the
//! container sees the bridge's address.
//!
//! For that the bridge takes packets to 127.0.0.0/8 (`route_localnet`), and a rule drops those that containers send.
//! Whoever flushes the whole ruleset opens the host's loopback to containers until the next
//! [`ensure_bridge`](crate::ensure_bridge).
//!
//! The rules alone would let a program of this host bind the same port and wonder why nobody comes. So the engine
//! keeps a [`Reservation`] while the port is published. It is a socket that is bound and does not listen: whoever
//! connects while there is no rule is refused, not left hanging.

use crate::nft::{Batch, Value};
use crate::{Error, Result, conntrack, firewall, name, sysctl};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

/// A transport with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    pub(crate) fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }

    /// `tcp`, `udp` or `sctp`.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

/// One published port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortMapping {
    /// The address of this host; 0.0.0.0 or :: for all of that family.
    pub host_address: IpAddr,
    /// 0: none of this host's, only the container's own.
    pub host_port: u16,
    /// Of the same family.
    pub container_address: IpAddr,
    pub container_port: u16,
    pub protocol: Protocol,
    /// The bridge the container is on.
    pub bridge: String,
    /// Whether it is reached at the container's own address, too: by everybody if its network is routed, else from the
    /// interfaces that its network trusts.
    pub direct: bool,
}

/// Keeps a port of this host from other programs and other containers until it is dropped.
#[derive(Debug)]
pub struct Reservation {
    address: SocketAddr,
    #[expect(dead_code, reason = "holds the port; nobody talks on it")]
    socket: Option<OwnedFd>,
}

impl Reservation {
    /// The address and port that are reserved; the port is the kernel's choice if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Reserves `port` (0: any free one) of `address` in this network namespace. The socket is close-on-exec.
///
/// SCTP is not checked, because few kernels have its sockets; for port 0 it gets a number that is free for TCP.
///
/// # Errors
///
/// [`Error::PortTaken`], also for a port whose last connection the kernel still remembers (`TIME_WAIT`);
/// [`Error::Bind`], of which `AddrNotAvailable` says that the address is not this host's.
pub fn reserve(address: IpAddr, port: u16, protocol: Protocol) -> Result<Reservation> {
    let wanted = SocketAddr::new(address, port);
    let bound = match protocol {
        Protocol::Tcp => bind(wanted, SocketType::STREAM),
        Protocol::Udp => bind(wanted, SocketType::DGRAM),
        Protocol::Sctp if port > 0 => Ok(Reservation { address: wanted, socket: None }),
        Protocol::Sctp => bind(wanted, SocketType::STREAM).map(|r| Reservation { socket: None, ..r }),
    };
    bound.map_err(|errno| bind_error(address, port, protocol, errno))
}

/// Publishes every mapping, or none. Repeating it is harmless. Reserve the ports before.
///
/// # Errors
///
/// [`Error::PortTaken`] if a port is published to another container; [`Error::Firewall`], [`Error::Sysctl`],
/// [`Error::InvalidInterface`].
pub fn publish(mappings: &[PortMapping]) -> Result<()> {
    mappings.iter().try_for_each(|m| name::check_interface(&m.bridge))?;
    let by_loopback = |m: &&PortMapping| {
        let reached = m.host_address.is_unspecified() || m.host_address.is_loopback();
        m.host_port != 0 && m.host_address.is_ipv4() && reached
    };
    for bridge in mappings.iter().filter(by_loopback).map(|m| m.bridge.as_str()).collect::<BTreeSet<_>>() {
        // Lets the host's own packets from 127.0.0.1 out to the bridge, and the answers in.
        sysctl::set(&format!("ipv4/conf/{bridge}/route_localnet"), "1", false)?;
    }
    let elements = elements(mappings);
    let change = |batch: &mut Batch| elements.iter().for_each(|(map, some)| batch.add_elements(map, some));
    firewall::change_elements("publish ports", change).map_err(|error| taken(error, mappings))?;
    conntrack::forget_udp(mappings)
}

/// Takes every mapping back, or none. Harmless for what is not published; a port that is published to another
/// container stays, and is an error.
///
/// TCP connections that are open go on until the container ends; UDP clients are cut off.
///
/// # Errors
///
/// [`Error::PortTaken`], [`Error::Firewall`].
pub fn unpublish(mappings: &[PortMapping]) -> Result<()> {
    let elements = elements(mappings);
    // Added first: deleting what is not there would fail.
    let change = |batch: &mut Batch| {
        for (map, some) in &elements {
            batch.add_elements(map, some);
            batch.delete_elements(map, some);
        }
    };
    firewall::change_elements("take ports back", change).map_err(|error| taken(error, mappings))?;
    conntrack::forget_udp(mappings)
}

/// Takes back every mapping that is not in `keep`: what daemons that were killed left. How many there were.
///
/// # Errors
///
/// [`Error::Firewall`].
pub fn retain(keep: &[PortMapping]) -> Result<usize> {
    let mut removed = 0;
    for (map, wanted) in elements(keep) {
        let wanted: HashSet<Vec<u8>> = wanted.into_iter().map(|(key, _)| key).collect();
        let value = |bytes: Vec<u8>| if bytes.is_empty() { Value::None } else { Value::Bytes(bytes) };
        let stale: Vec<(Vec<u8>, Value)> = crate::nft::list_elements(firewall::table(), map)?
            .into_iter()
            .filter(|(key, _)| !wanted.contains(key))
            .map(|(key, bytes)| (key, value(bytes)))
            .collect();
        if !stale.is_empty() {
            firewall::change_elements("take stale ports back", |batch| batch.delete_elements(map, &stale))?;
            removed += stale.len();
        }
    }
    Ok(removed)
}

/// A map of the table and what goes into it.
type MapElements = (&'static str, Vec<(Vec<u8>, Value)>);

fn elements(mappings: &[PortMapping]) -> [MapElements; 6] {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    };
    let value = |m: &PortMapping| {
        Value::Bytes([octets(m.container_address), port(m.container_port).to_vec()].concat())
    };
    let key = |m: &PortMapping| [[m.protocol.number(), 0, 0, 0], port(m.host_port)].concat();
    let of = |is_ipv6: bool, any: bool| {
        let fits = move |m: &&PortMapping| {
            m.host_port != 0 && m.host_address.is_ipv6() == is_ipv6 && m.host_address.is_unspecified() == any
        };
        mappings.iter().filter(fits)
    };
    let at =
        |is_ipv6| of(is_ipv6, false).map(|m| ([octets(m.host_address), key(m)].concat(), value(m))).collect();
    let any = |is_ipv6| of(is_ipv6, true).map(|m| (key(m), value(m))).collect();
    // Several ports of the host may lead to one of the container.
    let direct = |is_ipv6: bool| {
        let those = mappings.iter().filter(|m| m.direct && m.container_address.is_ipv6() == is_ipv6);
        let keys = those.map(|m| {
            let protocol = vec![m.protocol.number(), 0, 0, 0];
            [octets(m.container_address), protocol, port(m.container_port).to_vec()].concat()
        });
        keys.collect::<BTreeSet<_>>().into_iter().map(|key| (key, Value::None)).collect()
    };
    [
        (firewall::PORTS_AT, at(false)),
        (firewall::PORTS_ANY, any(false)),
        (firewall::PORTS6_AT, at(true)),
        (firewall::PORTS6_ANY, any(true)),
        (firewall::DIRECT, direct(false)),
        (firewall::DIRECT6, direct(true)),
    ]
}

/// A port in a part of a key: network byte order, padded to four bytes.
fn port(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

/// The kernel says EEXIST or EBUSY for an element that is there with another value.
fn taken(error: Error, mappings: &[PortMapping]) -> Error {
    let Error::Firewall { source, .. } = &error else { return error };
    let exists = matches!(
        source.raw_os_error().map(rustix::io::Errno::from_raw_os_error),
        Some(rustix::io::Errno::EXIST | rustix::io::Errno::BUSY)
    );
    match mappings.first() {
        Some(m) if exists => {
            Error::PortTaken { address: m.host_address, port: m.host_port, protocol: m.protocol.name() }
        }
        _ => error,
    }
}

fn bind(address: SocketAddr, kind: SocketType) -> rustix::io::Result<Reservation> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    if address.is_ipv6() {
        // The same port of IPv4 has a reservation of its own.
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    let bound = rustix::net::getsockname(&socket)?;
    Ok(Reservation { address: SocketAddr::try_from(bound)?, socket: Some(socket) })
}

fn bind_error(address: IpAddr, port: u16, protocol: Protocol, errno: rustix::io::Errno) -> Error {
    let protocol = protocol.name();
    match errno {
        rustix::io::Errno::ADDRINUSE => Error::PortTaken { address, port, protocol },
        errno => Error::Bind { address, port, protocol, source: errno.into() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel is told of each port, of SCTP too, which few kernels have for a test to send.
    #[test]
    fn keys_and_values() {
        let mapping = |host: &str, host_port, protocol, direct| PortMapping {
            host_address: host.parse().unwrap(),
            host_port,
            container_address: if host.contains(':') { "fd00::2" } else { "10.0.0.2" }.parse().unwrap(),
            container_port: 80,
            protocol,
            bridge: "brig0".into(),
            direct,
        };
        let all = [
            mapping("192.0.2.1", 8080, Protocol::Sctp, false),
            mapping("0.0.0.0", 8081, Protocol::Sctp, true),
            mapping("0.0.0.0", 8082, Protocol::Sctp, true),
            mapping("::", 0, Protocol::Sctp, true),
        ];
        let bytes = |list: &Vec<(Vec<u8>, Value)>| -> Vec<(Vec<u8>, Vec<u8>)> {
            let value = |v: &Value| if let Value::Bytes(b) = v { b.clone() } else { Vec::new() };
            list.iter().map(|(k, v)| (k.clone(), value(v))).collect()
        };
        let to = vec![10, 0, 0, 2, 0, 80, 0, 0];
        let [at, any, at6, any6, direct, direct6] = elements(&all);
        assert_eq!(bytes(&at.1), [(vec![192, 0, 2, 1, 132, 0, 0, 0, 0x1f, 0x90, 0, 0], to.clone())]);
        let two =
            [(vec![132, 0, 0, 0, 0x1f, 0x91, 0, 0], to.clone()), (vec![132, 0, 0, 0, 0x1f, 0x92, 0, 0], to)];
        assert_eq!(bytes(&any.1), two);
        assert!(at6.1.is_empty() && any6.1.is_empty(), "none of the host's ports");
        assert_eq!(bytes(&direct.1), [(vec![10, 0, 0, 2, 132, 0, 0, 0, 0, 80, 0, 0], vec![])], "once");
        assert_eq!(direct6.1.len(), 1);
    }
}
