//! Published ports: entries of two maps in the firewall table, and sockets that keep others off the port.
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
use std::collections::HashSet;
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
    pub host_port: u16,
    /// Of the same family.
    pub container_address: IpAddr,
    pub container_port: u16,
    pub protocol: Protocol,
    /// The bridge the container is on.
    pub bridge: String,
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
    for mapping in mappings {
        name::check_interface(&mapping.bridge)?;
        let by_loopback = mapping.host_address.is_unspecified() || mapping.host_address.is_loopback();
        if mapping.host_address.is_ipv4() && by_loopback {
            // Lets the host's own packets from 127.0.0.1 out to the bridge, and the answers in.
            sysctl::set(&format!("ipv4/conf/{}/route_localnet", mapping.bridge), "1", false)?;
        }
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
        let stale: Vec<(Vec<u8>, Value)> = crate::nft::list_elements(firewall::table(), map)?
            .into_iter()
            .filter(|(key, _)| !wanted.contains(key))
            .map(|(key, value)| (key, Value::Bytes(value)))
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

fn elements(mappings: &[PortMapping]) -> [MapElements; 4] {
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
            m.host_address.is_ipv6() == is_ipv6 && m.host_address.is_unspecified() == any
        };
        mappings.iter().filter(fits)
    };
    let at =
        |is_ipv6| of(is_ipv6, false).map(|m| ([octets(m.host_address), key(m)].concat(), value(m))).collect();
    let any = |is_ipv6| of(is_ipv6, true).map(|m| (key(m), value(m))).collect();
    [
        (firewall::PORTS_AT, at(false)),
        (firewall::PORTS_ANY, any(false)),
        (firewall::PORTS6_AT, at(true)),
        (firewall::PORTS6_ANY, any(true)),
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
