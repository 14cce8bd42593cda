//! Published ports: what the client asked for becomes reservations on the host, then rules in the kernel.
//!
//! A reservation is a socket that is bound and never listens; it keeps other programs off the port while the container
//! runs. Reservations die with the daemon and are taken again by the next one; the rules stay throughout.

use crate::container::Container;
use crate::error::{During, Error};
use crate::model::{Config, HostConfig};
use crate::record::Record;
use network::ports::{PortMapping, Protocol, Reservation};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// One published port of a running container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    pub host_ip: Ipv4Addr,
    pub host_port: u16,
    pub container_port: u16,
    /// `tcp`, `udp`, `sctp`.
    pub protocol: String,
}

/// A wish: where on the host, `first..=last` (0 for any free port), and which port of the container.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wish {
    host_ip: Ipv4Addr,
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
                out.push(Wish {
                    host_ip: Ipv4Addr::UNSPECIFIED,
                    first: 0,
                    last: 0,
                    container_port,
                    protocol,
                });
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

fn parse_ip(text: &str) -> Result<Ipv4Addr, Error> {
    if text.is_empty() {
        return Ok(Ipv4Addr::UNSPECIFIED);
    }
    match text.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(ip)) => Ok(ip),
        Ok(std::net::IpAddr::V6(_)) => {
            Err(Error::unsupported(format!("publishing a port on the IPv6 address {text}")))
        }
        Err(_) => Err(Error::invalid(format!("invalid IP address: {text}"))),
    }
}

/// Reserves all ports that the container wants, or none. Blocking.
pub(crate) fn reserve(container: &Container) -> Result<Vec<PublishedPort>, Error> {
    let (host, config) = {
        let record = container.lock();
        (record.host_config.clone(), record.config.clone())
    };
    if host.network_mode != "bridge" {
        return Ok(Vec::new());
    }
    let mut held = Vec::new();
    let mut out = Vec::new();
    for wish in wishes(&host, &config)? {
        let reservation = first_free(&wish)?;
        out.push(PublishedPort {
            host_ip: wish.host_ip,
            host_port: reservation.address().port(),
            container_port: wish.container_port,
            protocol: wish.protocol.name().to_string(),
        });
        held.push(reservation);
    }
    *container.reservations.lock().expect("no holder panics") = held;
    Ok(out)
}

fn first_free(wish: &Wish) -> Result<Reservation, Error> {
    let mut last = None;
    for port in wish.first..=wish.last {
        match network::ports::reserve(wish.host_ip, port, wish.protocol) {
            Ok(reservation) => return Ok(reservation),
            Err(e) => last = Some(e),
        }
    }
    match last {
        Some(e @ network::Error::PortTaken { .. }) => Err(e)
            .during(|| format!("Bind for {}:{} failed: port is already allocated", wish.host_ip, wish.first)),
        Some(e) => Err(e).during(|| format!("Bind for {}:{} failed", wish.host_ip, wish.first)),
        None => Err(Error::invalid("an empty port range")),
    }
}

/// Takes the ports of an adopted container again, as far as nobody else has them. Blocking.
pub(crate) fn reserve_again(container: &Container) {
    let ports = container.lock().ports.clone();
    let held = ports.iter().filter_map(|p| {
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

/// The rules' entries for the container's ports.
pub(crate) fn mappings(record: &Record, bridge: &str) -> Vec<PortMapping> {
    let address = record.networks.get("bridge").and_then(|s| s.ip_address.parse().ok());
    let Some(container_address) = address else { return Vec::new() };
    record
        .ports
        .iter()
        .filter_map(|p| {
            Some(PortMapping {
                host_address: p.host_ip,
                host_port: p.host_port,
                container_address,
                container_port: p.container_port,
                protocol: parse_protocol(&p.protocol)?,
                bridge: bridge.to_string(),
            })
        })
        .collect()
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
        assert!(parse_ip("::").is_err());
    }
}
