//! Containers reached at their own addresses: the modes of a network's gateway, and interfaces that it trusts.

use crate::host::{
    Container, address, and, bridge, endpoint, gateway, host_asks, inside, on_host, outside, run,
};
use crate::ports::{WAN, mapping};
use network::ports::{PortMapping, publish, retain, unpublish};
use network::{BridgeConfig, EndpointAddress, GatewayMode, create_sandbox, ensure_bridge};
use std::net::Ipv4Addr;

fn with_mode(mode: GatewayMode) -> BridgeConfig {
    let mut net = bridge("brig0", "172.31.0.0/16");
    net.subnets[0].mode = mode;
    net
}

fn direct(container: &Container, port: u16) -> PortMapping {
    PortMapping { direct: true, container_port: port, ..mapping(Ipv4Addr::UNSPECIFIED, 0, container) }
}

fn knows_the_way(out: &Container) {
    inside(&out.path, || run("ip", "route add 172.31.0.0/16 via 203.0.113.1"));
}

/// Whether an echo request (RFC 792) is answered.
fn is_echoed(to: Ipv4Addr) -> bool {
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, sockopt};
    let (family, kind) = (AddressFamily::INET, SocketType::RAW);
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, Some(ipproto::ICMP)).unwrap();
    let patience = std::time::Duration::from_secs(5);
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(patience)).unwrap();
    // Type 8, code 0, checksum, identifier, number.
    let request = [8, 0, 0xe5, 0xca, 0x12, 0x34, 0, 1];
    let to = std::net::SocketAddrV4::new(to, 0);
    rustix::net::sendto(&socket, &request, SendFlags::empty(), &to).unwrap();
    let mut packet = [0; 128];
    // An IPv4 header is before it.
    matches!(rustix::net::recv(&socket, &mut packet[..], RecvFlags::empty()), Ok((28.., _)) if packet[20] == 0)
}

#[test]
fn routed_opens_published_ports_at_the_containers_address() {
    on_host(|host| {
        let net = with_mode(GatewayMode::Routed);
        ensure_bridge(&net).unwrap();
        let out = outside(host);
        knows_the_way(&out);
        out.serve(80);
        let server = host.container("server", &endpoint(&net, 2));
        server.serve(80);
        server.serve(81);
        assert!(out.cannot_ask((server.address, 80)), "not published");
        // Two ports of the host that lead to one of the container's.
        let both = [direct(&server, 80), direct(&server, 80)];
        publish(&both).unwrap();
        publish(&both).unwrap();
        assert_eq!(out.asks((server.address, 80)), Some(out.address), "the real client");
        assert!(out.cannot_ask((server.address, 81)), "another port");
        assert!(out.cannot_ask((WAN, 80)), "none of the host's");
        assert_eq!(server.asks((out.address, 80)), Some(server.address), "its own address outside");
        assert!(inside(&out.path, || is_echoed(server.address)), "ICMP is let in");
        ensure_bridge(&net).unwrap();
        assert!(out.asks((server.address, 80)).is_some(), "ensuring the bridge keeps its ports");
        assert_eq!(retain(&both).unwrap(), 0);
        assert_eq!(retain(&[]).unwrap(), 1, "what a killed daemon left");
        assert!(out.cannot_ask((server.address, 80)));
        publish(&both).unwrap();
        unpublish(&both).unwrap();
        unpublish(&both).unwrap();
        assert!(out.cannot_ask((server.address, 80)));
    });
}

#[test]
fn unprotected_opens_all() {
    on_host(|host| {
        let net = with_mode(GatewayMode::NatUnprotected);
        ensure_bridge(&net).unwrap();
        let out = outside(host);
        knows_the_way(&out);
        out.serve(80);
        let server = host.container("server", &endpoint(&net, 2));
        server.serve(81);
        assert_eq!(out.asks((server.address, 81)), Some(out.address));
        assert_eq!(server.asks((out.address, 80)), Some(WAN), "it leaves under the host's address");
        publish(&[PortMapping { container_port: 81, ..mapping(Ipv4Addr::UNSPECIFIED, 8080, &server) }])
            .unwrap();
        assert_eq!(out.asks((WAN, 8080)), Some(out.address));
    });
}

#[test]
fn trusted_interfaces_reach_published_ports() {
    on_host(|host| {
        let out = outside(host);
        knows_the_way(&out);
        for (trusted, reached) in [("wan0", false), ("wan", true)] {
            let net = BridgeConfig { trusted: vec![trusted.into()], ..bridge("brig0", "172.31.0.0/16") };
            ensure_bridge(&net).unwrap();
            let server =
                host.container(&format!("at-{trusted}"), &endpoint(&net, if reached { 2 } else { 3 }));
            server.serve(80);
            server.serve(81);
            publish(&[PortMapping {
                direct: true,
                ..mapping(Ipv4Addr::UNSPECIFIED, if reached { 82 } else { 83 }, &server)
            }])
            .unwrap();
            if reached {
                assert_eq!(out.asks((server.address, 80)), Some(out.address));
            } else {
                assert!(out.cannot_ask((server.address, 80)), "{trusted}");
            }
            assert!(out.cannot_ask((server.address, 81)), "not published");
        }
    });
}

/// A bridge without an address of its own: those on it talk, and nobody talks with the host.
#[test]
fn without_an_address_the_host_is_not_reached() {
    on_host(|host| {
        let mut net = BridgeConfig { internal: true, ..bridge("brig0", "172.31.0.0/16") };
        let own = gateway(&net);
        net.subnets[0].gateway = None;
        ensure_bridge(&net).unwrap();
        let (a, b) = (host.container("a", &endpoint(&net, 2)), host.container("b", &endpoint(&net, 3)));
        b.serve(80);
        assert_eq!(a.asks((b.address, 80)), Some(a.address));
        assert!(!run("ip", "-4 addr show brig0").contains("inet"));
        assert!(a.cannot_ask((own, 80)));
        assert!(host_asks((b.address, 80)).is_none(), "there is no route");
    });
}

/// IPv6 without IPv4; and an address of the link beside that of the network.
#[test]
fn ipv6_alone_and_addresses_of_the_link() {
    on_host(|host| {
        let mut net = and(bridge("brig0", "172.31.0.0/16"), "fd00:1::/64");
        net.subnets.remove(0);
        ensure_bridge(&net).unwrap();
        assert!(!run("ip", "-4 addr show brig0").contains("inet"));
        let a = host.container("a", &endpoint(&net, 2));
        let path = host.path("b");
        create_sandbox(&path).unwrap();
        let mut config = endpoint(&net, 3);
        config.addresses.push(EndpointAddress::of_link([169, 254, 7, 7].into()));
        config.addresses.push(EndpointAddress::of_link("fe80::7".parse().unwrap()));
        network::attach(&path, &config).unwrap();
        assert_eq!(address(&config), Ipv4Addr::new(169, 254, 7, 7));
        let shown = inside(&path, || run("ip", "addr show eth0"));
        for part in
            ["inet 169.254.7.7/16 brd 169.254.255.255 scope link", "inet6 fe80::7/64", "inet6 fd00:1::3/64"]
        {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        let listener = inside(&path, || std::net::TcpListener::bind("[::]:80").unwrap());
        crate::host::serve(listener);
        let asked = inside(&a.path, || {
            crate::host::ask6("[fd00:1::3]:80".parse().unwrap(), std::time::Duration::from_secs(5))
        });
        assert_eq!(asked, Some("fd00:1::2".parse().unwrap()));
    });
}
