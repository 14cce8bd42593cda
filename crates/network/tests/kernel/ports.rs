//! Published ports. T-NET-5 (CVE-2021-20199, CVE-2025-67499): only the published address and port lead in, and the
//! container sees who really asks.

use crate::host::{
    Container, Host, and, bridge, endpoint, gateway, host_asks, inside, on_host, outside, run,
};
use network::ports::{PortMapping, Protocol, publish, reserve, retain, unpublish};
use network::{BridgeConfig, Error, ensure_bridge};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::time::Duration;

pub(crate) const WAN: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

pub(crate) fn mapping(host_address: Ipv4Addr, host_port: u16, container: &Container) -> PortMapping {
    PortMapping {
        host_address: host_address.into(),
        host_port,
        container_address: container.address.into(),
        container_port: 80,
        protocol: Protocol::Tcp,
        bridge: "brig0".into(),
        direct: false,
    }
}

/// A network with one server, and the outside.
fn stage(host: &Host) -> (BridgeConfig, Container, Container) {
    let net = bridge("brig0", "172.31.0.0/16");
    ensure_bridge(&net).unwrap();
    let server = host.container("server", &endpoint(&net, 2));
    server.serve(80);
    (net, server, outside(host))
}

#[test]
fn published_on_every_address() {
    on_host(|host| {
        let (net, server, out) = stage(host);
        let other_net = bridge("brig1", "172.30.0.0/16");
        ensure_bridge(&other_net).unwrap();
        let neighbour = host.container("neighbour", &endpoint(&net, 3));
        let stranger = host.container("stranger", &endpoint(&other_net, 2));
        assert!(out.cannot_ask((WAN, 8080)));
        publish(&[mapping(Ipv4Addr::UNSPECIFIED, 8080, &server)]).unwrap();
        publish(&[mapping(Ipv4Addr::UNSPECIFIED, 8080, &server)]).unwrap();

        assert_eq!(out.asks((WAN, 8080)), Some(out.address), "the server sees the real client");
        assert_eq!(host_asks((Ipv4Addr::LOCALHOST, 8080)), Some(gateway(&net)));
        assert!(host_asks((WAN, 8080)).is_some());
        assert!(neighbour.asks((WAN, 8080)).is_some());
        assert!(server.asks((WAN, 8080)).is_some(), "hairpin");
        assert_eq!(stranger.asks((WAN, 8080)), Some(gateway(&net)), "masqueraded, as it leaves its bridge");
        assert!(stranger.cannot_ask((server.address, 80)), "directly it stays closed");
        assert!(out.cannot_ask((WAN, 80)));

        ensure_bridge(&net).unwrap();
        assert!(out.asks((WAN, 8080)).is_some(), "ensuring the bridge keeps its ports");
        unpublish(&[mapping(Ipv4Addr::UNSPECIFIED, 8080, &server)]).unwrap();
        unpublish(&[mapping(Ipv4Addr::UNSPECIFIED, 8080, &server)]).unwrap();
        assert!(out.cannot_ask((WAN, 8080)));
        assert!(host_asks((Ipv4Addr::LOCALHOST, 8080)).is_none());
    });
}

#[test]
fn published_on_loopback_stays_on_loopback() {
    on_host(|host| {
        let (net, server, out) = stage(host);
        let neighbour = host.container("neighbour", &endpoint(&net, 3));
        publish(&[mapping(Ipv4Addr::LOCALHOST, 8080, &server)]).unwrap();
        assert!(host_asks((Ipv4Addr::LOCALHOST, 8080)).is_some());
        assert!(host_asks((WAN, 8080)).is_none());
        assert!(out.cannot_ask((WAN, 8080)));
        // Packets for the host's 127.0.0.1 that come from elsewhere: routed there by hand.
        let to_loopback = |gateway: &str| {
            run("ip", "link set lo down");
            run("ip", &format!("route add 127.0.0.1/32 via {gateway} dev eth0"));
            std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap();
        };
        // A program of the host that trusts whoever comes by loopback.
        let trusting = TcpListener::bind((Ipv4Addr::LOCALHOST, 9090)).unwrap();
        crate::host::serve(trusting);
        assert!(host_asks((Ipv4Addr::LOCALHOST, 9090)).is_some());
        for (container, gateway) in [(&out, "203.0.113.1"), (&neighbour, "172.31.0.1")] {
            inside(&container.path, || to_loopback(gateway));
            assert!(container.cannot_ask((Ipv4Addr::LOCALHOST, 8080)), "forged destination by {gateway}");
            assert!(container.cannot_ask((Ipv4Addr::LOCALHOST, 9090)), "forged destination by {gateway}");
        }
    });
}

#[test]
fn published_on_one_address() {
    on_host(|host| {
        let (_, server, out) = stage(host);
        run("ip", "addr add 203.0.113.2/24 dev wan");
        publish(&[mapping(WAN, 8080, &server)]).unwrap();
        assert!(out.asks((WAN, 8080)).is_some());
        assert!(out.cannot_ask((Ipv4Addr::new(203, 0, 113, 2), 8080)));
        assert!(host_asks((Ipv4Addr::LOCALHOST, 8080)).is_none());
        inside(&out.path, || run("ip", "route add 198.51.100.0/24 via 203.0.113.1"));
        publish(&[mapping(Ipv4Addr::UNSPECIFIED, 8081, &server)]).unwrap();
        assert!(
            out.cannot_ask((Ipv4Addr::new(198, 51, 100, 1), 8081)),
            "only what is for this host is translated"
        );
    });
}

/// A client that keeps its port finds the container that has the port now.
#[test]
fn udp_moves_with_the_port() {
    on_host(|host| {
        let (net, first, out) = stage(host);
        let second = host.container("second", &endpoint(&net, 3));
        let client = inside(&out.path, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
        client.send_to(b"nobody is there yet", (WAN, 5353)).unwrap();
        for container in [&first, &second] {
            let socket = inside(&container.path, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53)).unwrap());
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            let mapping =
                PortMapping { container_port: 53, protocol: Protocol::Udp, ..mapping(WAN, 5353, container) };
            publish(std::slice::from_ref(&mapping)).unwrap();
            client.send_to(b"?", (WAN, 5353)).unwrap();
            let (_, from) = socket.recv_from(&mut [0; 8]).unwrap();
            assert_eq!(from.ip(), out.address);
            unpublish(&[mapping]).unwrap();
        }
    });
}

#[test]
fn ports_are_published_once() {
    on_host(|host| {
        let (net, server, out) = stage(host);
        let second = host.container("second", &endpoint(&net, 3));
        publish(&[mapping(Ipv4Addr::UNSPECIFIED, 8080, &server)]).unwrap();
        let both =
            [mapping(Ipv4Addr::UNSPECIFIED, 8081, &second), mapping(Ipv4Addr::UNSPECIFIED, 8080, &second)];
        assert!(matches!(publish(&both), Err(Error::PortTaken { .. })));
        assert!(out.cannot_ask((WAN, 8081)), "all or nothing");
        assert!(matches!(unpublish(&both), Err(Error::PortTaken { .. })));
        assert!(out.asks((WAN, 8080)).is_some());
    });
}

#[test]
fn what_nobody_publishes_any_more_is_taken_back() {
    on_host(|host| {
        let (net, server, out) = stage(host);
        let second = host.container("second", &endpoint(&net, 3));
        second.serve(80);
        let (kept, stale) =
            (mapping(Ipv4Addr::UNSPECIFIED, 8080, &server), mapping(Ipv4Addr::UNSPECIFIED, 8081, &second));
        let stale_at = mapping(WAN, 8082, &second);
        publish(&[kept.clone(), stale, stale_at]).unwrap();
        assert_eq!(retain(std::slice::from_ref(&kept)).unwrap(), 2);
        assert!(out.asks((WAN, 8080)).is_some());
        assert!(out.cannot_ask((WAN, 8081)) && out.cannot_ask((WAN, 8082)));
        assert_eq!(retain(&[kept]).unwrap(), 0);
    });
}

#[test]
fn five_thousand_ports_in_one_batch() {
    on_host(|host| {
        let (_, server, out) = stage(host);
        let all: Vec<_> =
            (10_000..15_000).map(|port| mapping(Ipv4Addr::UNSPECIFIED, port, &server)).collect();
        publish(&all).unwrap();
        assert!(out.asks((WAN, 10_000)).is_some() && out.asks((WAN, 14_999)).is_some());
        unpublish(&all).unwrap();
        assert!(out.cannot_ask((WAN, 10_000)));
    });
}

#[test]
fn a_reserved_port_is_taken() {
    on_host(|_| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let reserve = |address: Ipv4Addr, port, protocol| reserve(address.into(), port, protocol);
        for address in [Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED] {
            assert!(matches!(reserve(address, port, Protocol::Tcp), Err(Error::PortTaken { .. })));
        }
        assert!(reserve(Ipv4Addr::LOCALHOST, port, Protocol::Udp).is_ok(), "ports are per protocol");
        drop(listener);
        let held = reserve(Ipv4Addr::UNSPECIFIED, 0, Protocol::Tcp).unwrap();
        assert_ne!(held.address().port(), 0);
        assert!(reserve(Ipv4Addr::LOCALHOST, held.address().port(), Protocol::Tcp).is_err());
        assert!(TcpListener::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, held.address().port())).is_err());
        let elsewhere = reserve(Ipv4Addr::new(192, 0, 2, 77), 80, Protocol::Tcp).unwrap_err();
        assert!(matches!(elsewhere, Error::Bind { .. }), "{elsewhere:?}");
        assert_ne!(reserve(Ipv4Addr::LOCALHOST, 0, Protocol::Sctp).unwrap().address().port(), 0);
    });
}

/// A port published on every address of both families, reached over IPv6 with the client's address kept.
#[test]
fn published_over_ipv6() {
    on_host(|host| {
        let net = and(bridge("brig0", "172.31.0.0/16"), "fd00:1::/64");
        ensure_bridge(&net).unwrap();
        let server = host.container("server", &endpoint(&net, 2));
        let neighbour = host.container("neighbour", &endpoint(&net, 3));
        let wan = and(bridge("wan6", "198.51.100.0/24"), "fd00:2::/64");
        run("ip", "link add wan6 type bridge");
        run("ip", "addr add fd00:2::1/64 dev wan6 nodad");
        run("ip", "link set wan6 up");
        let out = host.container("out", &endpoint(&wan, 9));
        let listener = inside(&server.path, || TcpListener::bind("[::]:80").unwrap());
        crate::host::serve(listener);
        let any = PortMapping {
            host_address: "::".parse().unwrap(),
            container_address: "fd00:1::2".parse().unwrap(),
            ..mapping(Ipv4Addr::UNSPECIFIED, 8080, &server)
        };
        publish(std::slice::from_ref(&any)).unwrap();
        let ask = |from: &Container, to: &str| {
            let to: std::net::SocketAddr = to.parse().unwrap();
            inside(&from.path, || crate::host::ask6(to, Duration::from_millis(900)))
        };
        assert_eq!(ask(&out, "[fd00:2::1]:8080"), Some("fd00:2::9".parse().unwrap()), "the real client");
        assert_eq!(ask(&out, "[fd00:1::2]:80"), None, "an unpublished port is reached by a route");
        assert!(ask(&neighbour, "[fd00:1::2]:80").is_some());
        assert!(ask(&neighbour, "[fd00:1::1]:8080").is_some(), "hairpin");
        unpublish(&[any]).unwrap();
        assert_eq!(ask(&out, "[fd00:2::1]:8080"), None);
    });
}
