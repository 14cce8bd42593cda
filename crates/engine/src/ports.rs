//! Published ports: what the client asked for becomes reservations on the host, then rules in the kernel.
//!
//! A reservation is a socket that is bound and never listens; it keeps other programs off the port while the container
//! runs. Reservations die with the daemon and are taken again by the next one; the rules stay throughout.

use crate::Engine;
use crate::container::Container;
use crate::error::Error;
use crate::model::{Config, HostConfig};
use network::ports::{PortMapping, Protocol, Reservation};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// One published port of a running container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    pub host_ip: IpAddr,
    /// 0: none of the host's, as on networks that are routed.
    pub host_port: u16,
    pub container_port: u16,
    /// `tcp`, `udp`, `sctp`.
    pub protocol: String,
}

impl PublishedPort {
    /// Whether nobody else can have this port of the host.
    fn keeps(&self, at: SocketAddr, protocol: Protocol) -> bool {
        let is_any = self.host_ip.is_unspecified() || at.ip().is_unspecified();
        self.host_port == at.port()
            && self.protocol == protocol.name()
            && (self.host_ip == at.ip() || (is_any && self.host_ip.is_ipv4() == at.ip().is_ipv4()))
    }
}

/// A wish: where on the host, `first..=last` (0 for any free port), and which port of the container.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wish {
    /// None for every address.
    host_ip: Option<IpAddr>,
    first: u16,
    last: u16,
    container_port: u16,
    protocol: Protocol,
}

/// Checks the ports of a create request.
pub(crate) fn check(host: &HostConfig, config: &Config) -> Result<(), Error> {
    wishes(host, config).map(drop)
}

fn wishes(host: &HostConfig, config: &Config) -> Result<Vec<Wish>, Error> {
    let mut out = Vec::new();
    for (port, bindings) in &host.port_bindings {
        let (container_port, protocol) = parse_port(port)?;
        let unbound = vec![crate::model::PortBinding::default()];
        let bindings = bindings.as_ref().filter(|b| !b.is_empty()).unwrap_or(&unbound);
        for binding in bindings {
            let (first, last) = parse_range(&binding.host_port)?;
            out.push(Wish { host_ip: parse_ip(&binding.host_ip)?, first, last, container_port, protocol });
        }
    }
    if host.publish_all_ports {
        for port in config.exposed_ports.keys() {
            let (container_port, protocol) = parse_port(port)?;
            if !out.iter().any(|w| w.container_port == container_port && w.protocol == protocol) {
                out.push(Wish { host_ip: None, first: 0, last: 0, container_port, protocol });
            }
        }
    }
    Ok(out)
}

/// `80/tcp`, `53/udp`, `80`.
fn parse_port(text: &str) -> Result<(u16, Protocol), Error> {
    let error = || Error::invalid(format!("invalid container port {text:?}"));
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let number: u16 = number.parse().map_err(|_| error())?;
    Ok((Some(number).filter(|n| *n > 0).ok_or_else(error)?, parse_protocol(protocol).ok_or_else(error)?))
}

fn parse_protocol(text: &str) -> Option<Protocol> {
    match text {
        "tcp" => Some(Protocol::Tcp),
        "udp" => Some(Protocol::Udp),
        "sctp" => Some(Protocol::Sctp),
        _ => None,
    }
}

/// Empty or `0` for any, `80`, `8000-8010`.
fn parse_range(text: &str) -> Result<(u16, u16), Error> {
    let error = || Error::invalid(format!("invalid port specification: {text:?}"));
    let number = |t: &str| t.parse::<u16>().map_err(|_| error());
    match text.split_once('-') {
        _ if text.is_empty() => Ok((0, 0)),
        None => number(text).map(|n| (n, n)),
        Some((first, last)) => {
            let (first, last) = (number(first)?, number(last)?);
            if first == 0 || first > last { Err(error()) } else { Ok((first, last)) }
        }
    }
}

fn parse_ip(text: &str) -> Result<Option<IpAddr>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    let ip: IpAddr = text.parse().map_err(|_| Error::invalid(format!("invalid IP address: {text}")))?;
    if ip == Ipv6Addr::LOCALHOST {
        // The kernel routes nothing from ::1 to elsewhere, as it does from 127.0.0.1 if told so.
        return Err(Error::unsupported("publishing a port on ::1"));
    }
    Ok(Some(ip))
}

/// Which families lead from the host's ports to the container, and where ports are published that name no address.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Families {
    pub(crate) ipv4: bool,
    pub(crate) ipv6: bool,
    pub(crate) binding: Option<IpAddr>,
    /// Of IPv4 and IPv6: containers are reached at their own addresses, not at the host's.
    pub(crate) routed: [bool; 2],
}

/// What published ports of one family lead to.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) bridge: String,
    pub(crate) address: IpAddr,
    /// Whether they are open at the container's own address.
    pub(crate) direct: bool,
}

/// Reserves all ports that the container wants, or none. Blocking.
pub(crate) fn reserve(
    engine: &Engine,
    container: &Container,
    families: Families,
) -> Result<Vec<PublishedPort>, Error> {
    // Asked when a port could not be had: whether another container has it.
    let is_published = |at: SocketAddr, protocol: Protocol| {
        let others = engine.list_containers().into_iter().filter(|c| c.id() != container.id());
        others.into_iter().any(|other| other.lock().ports.iter().any(|port| port.keeps(at, protocol)))
    };
    let (host, config) = {
        let record = container.lock();
        (record.host_config.clone(), record.config.clone())
    };
    if !families.ipv4 && !families.ipv6 {
        return Ok(Vec::new());
    }
    let mut held = Vec::new();
    let mut out = Vec::new();
    for wish in wishes(&host, &config)? {
        let published = |host_ip, host_port| PublishedPort {
            host_ip,
            host_port,
            container_port: wish.container_port,
            protocol: wish.protocol.name().to_string(),
        };
        let (direct, ours): (Vec<IpAddr>, Vec<IpAddr>) =
            addresses(&wish, families)?.into_iter().partition(|a| families.routed[usize::from(a.is_ipv6())]);
        if !ours.is_empty() {
            let reserved = first_free(&wish, &ours, &is_published);
            for reservation in reserved.map_err(|e| endpoint_error(container, e))? {
                let address = reservation.address();
                out.push(published(address.ip(), address.port()));
                held.push(reservation);
            }
        }
        for address in direct {
            // Docker, too, takes the address for the choice of a family only.
            let any =
                if address.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
            let port = published(any, 0);
            if !out.contains(&port) {
                out.push(port);
            }
        }
    }
    *container.reservations.lock().expect("no holder panics") = held;
    Ok(out)
}

fn addresses(wish: &Wish, families: Families) -> Result<Vec<IpAddr>, Error> {
    match wish.host_ip.or(families.binding) {
        None => {
            let v4 = families.ipv4.then_some(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            Ok(v4.into_iter().chain(families.ipv6.then_some(IpAddr::V6(Ipv6Addr::UNSPECIFIED))).collect())
        }
        Some(IpAddr::V6(ip)) if !families.ipv6 => Err(Error::unsupported(format!(
            "publishing a port on the IPv6 address {ip} for a container without IPv6"
        ))),
        Some(IpAddr::V4(ip)) if !families.ipv4 => Err(Error::unsupported(format!(
            "publishing a port on the IPv4 address {ip} for a container without IPv4"
        ))),
        Some(ip) => Ok(vec![ip]),
    }
}

/// Docker's sentence around what keeps a port from being published.
fn endpoint_error(container: &Container, error: Error) -> Error {
    let record = container.lock();
    let id = record.networks.values().map(|s| s.endpoint_id.as_str()).find(|id| !id.is_empty()).unwrap_or("");
    let (name, why) = (&record.name, errors::chain(&error));
    match error {
        Error::Internal { .. } => Error::Internal {
            message: format!(
                "failed to set up container networking: driver failed programming external connectivity on endpoint {name} ({id}): {why}"
            ),
        },
        other => other,
    }
}

/// How often another random port is tried that must be free on two addresses.
const RANDOM_TRIES: usize = 32;

/// The first port of the range that is free on every address. `is_published` says whether one that is not is a container's:
/// Docker has other words for those.
fn first_free(
    wish: &Wish,
    addresses: &[IpAddr],
    is_published: &dyn Fn(SocketAddr, Protocol) -> bool,
) -> Result<Vec<Reservation>, Error> {
    let reserve_all = |port: u16| {
        let mut port = port;
        let mut out = Vec::with_capacity(addresses.len());
        for address in addresses {
            let reservation = network::ports::reserve(*address, port, wish.protocol)?;
            port = reservation.address().port();
            out.push(reservation);
        }
        Ok(out)
    };
    let random = std::iter::repeat_n(0, if wish.first == 0 { RANDOM_TRIES } else { 0 });
    let named = (wish.first != 0).then_some(wish.first..=wish.last).into_iter().flatten();
    let mut last = None;
    for port in random.chain(named) {
        match reserve_all(port) {
            Ok(all) => return Ok(all),
            Err(e) => last = Some(e),
        }
    }
    let at = addresses.first().map_or_else(String::new, |ip| SocketAddr::new(*ip, wish.first).to_string());
    let message = match last {
        Some(network::Error::PortTaken { address, port, .. })
            if is_published(SocketAddr::new(address, port), wish.protocol) =>
        {
            format!("Bind for {at} failed: port is already allocated")
        }
        Some(network::Error::PortTaken { .. }) => {
            format!("failed to bind host port {at}/{}: address already in use", wish.protocol.name())
        }
        Some(e) => format!("failed to bind host port for {at}: {}", errors::chain(&e)),
        None => return Err(Error::invalid("an empty port range")),
    };
    Err(Error::Internal { message })
}

/// Takes the ports of an adopted container again, as far as nobody else has them. Blocking.
pub(crate) fn reserve_again(container: &Container) {
    let ports = container.lock().ports.clone();
    let held = ports.iter().filter(|p| p.host_port != 0).filter_map(|p| {
        let protocol = parse_protocol(&p.protocol)?;
        match network::ports::reserve(p.host_ip, p.host_port, protocol) {
            Ok(reservation) => Some(reservation),
            Err(e) => {
                tracing::warn!(container_id = %container.id(), port = p.host_port, error = %errors::chain(&e), "a published port is not held");
                None
            }
        }
    });
    let held = held.collect();
    *container.reservations.lock().expect("no holder panics") = held;
}

/// The rules' entries for a container's ports; `sides` are what those of IPv4 and IPv6 lead to.
pub(crate) fn mappings(ports: &[PublishedPort], sides: &[Option<Target>; 2]) -> Vec<PortMapping> {
    let mapping = |p: &PublishedPort| {
        let Target { bridge, address: container_address, direct } =
            sides[usize::from(p.host_ip.is_ipv6())].clone()?;
        Some(PortMapping {
            host_address: p.host_ip,
            host_port: p.host_port,
            container_address,
            container_port: p.container_port,
            protocol: parse_protocol(&p.protocol)?,
            bridge,
            direct,
        })
    };
    ports.iter().filter_map(mapping).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_ranges() {
        assert_eq!(parse_port("80/tcp").unwrap(), (80, Protocol::Tcp));
        assert_eq!(parse_port("53/udp").unwrap(), (53, Protocol::Udp));
        assert_eq!(parse_range("").unwrap(), (0, 0));
        assert_eq!(parse_range("8000-8002").unwrap(), (8000, 8002));
        for bad in ["x", "0/tcp", "80/icmp", "70000"] {
            assert!(parse_port(bad).is_err(), "{bad}");
        }
        for bad in ["x", "9-8", "0-5", "1-2-3", "70000", "-1"] {
            assert!(parse_range(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_ip("").unwrap(), None);
        assert!(parse_ip("::1").is_err() && parse_ip("1.2.3").is_err());
    }

    #[test]
    fn addresses_of_a_wish() {
        let wish = |host_ip: &str| Wish {
            host_ip: parse_ip(host_ip).unwrap(),
            first: 0,
            last: 0,
            container_port: 80,
            protocol: Protocol::Tcp,
        };
        let check = |host_ip: &str, families: Families, expected: &[&str]| {
            let got = addresses(&wish(host_ip), families).unwrap();
            assert_eq!(got.iter().map(ToString::to_string).collect::<Vec<_>>(), expected, "{host_ip}");
        };
        let v4 = Families { ipv4: true, ..Families::default() };
        let both = Families { ipv6: true, ..v4 };
        check("", v4, &["0.0.0.0"]);
        check("", both, &["0.0.0.0", "::"]);
        check("", Families { binding: Some(Ipv4Addr::LOCALHOST.into()), ..both }, &["127.0.0.1"]);
        check("10.0.0.1", both, &["10.0.0.1"]);
        assert!(addresses(&wish("fd00::1"), v4).is_err());
    }
}
