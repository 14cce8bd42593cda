//! The crate on a real kernel. Needs root, and the programs `ip` (package iproute2) and `nft` (package nftables),
//! which play other people and look at the outcome.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests, and what they share")]

mod direct;
mod guard;
mod host;
mod ports;
mod ready;
mod shared;

use host::{
    address, bridge, by_gateway, endpoint, gateway, host_asks, inside, on_host, outside, run, subnet_of,
};
use network::{
    BridgeConfig, BridgeSubnet, Error, attach, create_sandbox, detach, ensure_bridge, remove_bridge,
    remove_sandbox,
};
use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

#[test]
fn sandbox_is_made_and_removed() {
    on_host(|host| {
        let path = host.path("a");
        create_sandbox(&path).unwrap();
        let again = create_sandbox(&path).unwrap_err();
        assert_eq!(errors::HasKind::kind(&again), errors::Kind::AlreadyExists);
        inside(&path, || {
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("lo is up");
            TcpListener::bind("[::1]:0").expect("lo keeps its IPv6 address");
        });
        assert_eq!(network::interface_stats(&path).unwrap(), []);
        remove_sandbox(&path).unwrap();
        assert!(!path.exists());
        remove_sandbox(&path).unwrap();
    });
}

#[test]
fn sandbox_that_fails_leaves_nothing() {
    on_host(|host| {
        let path = host.path("no").join("such");
        assert!(matches!(create_sandbox(&path), Err(Error::Sandbox { .. })));
        let plain = host.path("plain");
        std::fs::write(&plain, "").unwrap();
        assert!(
            matches!(network::interface_stats(&plain), Err(Error::Sandbox { .. })),
            "a file, no namespace"
        );
    });
}

/// Of this thread's namespace: how often the beginning of a connection was sent again.
fn retransmitted() -> u32 {
    let text = std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    let mut rows = text.lines().filter(|l| l.starts_with("TcpExt:")).map(str::split_whitespace);
    let (names, values) = (rows.next().unwrap(), rows.next().unwrap());
    names.zip(values).find(|(name, _)| *name == "TCPSynRetrans").unwrap().1.parse().unwrap()
}

#[test]
fn two_containers_talk() {
    on_host(|host| {
        let net = bridge("brig0", "172.31.0.0/16");
        ensure_bridge(&net).unwrap();
        let a = host.container("a", &endpoint(&net, 2));
        let b = host.container("b", &endpoint(&net, 3));
        b.serve(80);
        assert_eq!(a.asks((b.address, 80)), Some(a.address));
        assert_eq!(inside(&a.path, retransmitted), 0, "the first packet was lost");
        assert_eq!(host_asks((b.address, 80)), Some(gateway(&net)));
        let routes = inside(&a.path, || run("ip", "route"));
        assert!(routes.contains("default via 172.31.0.1 dev eth0"), "{routes}");
        let link = inside(&a.path, || run("ip", "addr show eth0"));
        assert!(
            link.contains("02:42:ac:1f:00:02") && link.contains("172.31.0.2/16 brd 172.31.255.255"),
            "{link}"
        );
        assert!(!link.contains("inet6"), "{link}");
        let stats = network::interface_stats(&b.path).unwrap();
        assert_eq!(stats[0].name, "eth0");
        assert!(stats[0].rx_packets > 0 && stats[0].rx_bytes > stats[0].rx_packets && stats[0].tx_bytes > 0);
    });
}

#[test]
fn masquerade_to_the_outside_and_no_way_back() {
    on_host(|host| {
        let net = bridge("brig0", "172.31.0.0/16");
        ensure_bridge(&net).unwrap();
        let out = outside(host);
        out.serve(80);
        let a = host.container("a", &endpoint(&net, 2));
        a.serve(80);
        assert_eq!(a.asks((out.address, 80)), Some(Ipv4Addr::new(203, 0, 113, 1)));
        inside(&out.path, || run("ip", "route add 172.31.0.0/16 via 203.0.113.1"));
        assert!(out.cannot_ask((a.address, 80)), "an unpublished port is reached by a route");
    });
}

#[test]
fn without_masquerade_the_address_stays() {
    on_host(|host| {
        let net = BridgeConfig { masquerade: false, ..bridge("brig0", "172.31.0.0/16") };
        ensure_bridge(&net).unwrap();
        let out = outside(host);
        out.serve(80);
        let a = host.container("a", &endpoint(&net, 2));
        inside(&out.path, || run("ip", "route add 172.31.0.0/16 via 203.0.113.1"));
        assert_eq!(a.asks((out.address, 80)), Some(a.address));
    });
}

#[test]
fn internal_networks_do_not_leave() {
    on_host(|host| {
        let net = BridgeConfig { internal: true, ..bridge("brig0", "172.31.0.0/16") };
        ensure_bridge(&net).unwrap();
        ensure_bridge(&bridge("brig1", "172.30.0.0/16")).unwrap();
        let out = outside(host);
        out.serve(80);
        let a = host.container("a", &endpoint(&net, 2));
        let b = host.container("b", &endpoint(&net, 3));
        b.serve(80);
        assert_eq!(a.asks((b.address, 80)), Some(a.address));
        assert!(a.cannot_ask((out.address, 80)), "there is no route");
        inside(&a.path, || run("ip", "route add default via 172.31.0.1"));
        assert!(a.cannot_ask((out.address, 80)), "a container that may set routes gets out");
    });
}

#[test]
fn without_icc_containers_are_alone() {
    on_host(|host| {
        let net = BridgeConfig { icc: false, ..bridge("brig0", "172.31.0.0/16") };
        ensure_bridge(&net).unwrap();
        let out = outside(host);
        out.serve(80);
        let a = host.container("a", &endpoint(&net, 2));
        let b = host.container("b", &endpoint(&net, 3));
        b.serve(80);
        assert!(a.cannot_ask((b.address, 80)), "directly");
        inside(&a.path, || run("ip", "route add 172.31.0.3/32 via 172.31.0.1"));
        assert!(a.cannot_ask((b.address, 80)), "by way of the gateway");
        assert!(a.asks((out.address, 80)).is_some());
        assert!(host_asks((b.address, 80)).is_some());
    });
}

#[test]
fn bridges_are_isolated_from_each_other() {
    on_host(|host| {
        let (one, two) = (bridge("brig0", "172.31.0.0/16"), bridge("brig1", "172.30.0.0/16"));
        ensure_bridge(&one).unwrap();
        ensure_bridge(&two).unwrap();
        let a = host.container("a", &endpoint(&one, 2));
        let b = host.container("b", &endpoint(&two, 2));
        a.serve(80);
        b.serve(80);
        assert!(a.cannot_ask((b.address, 80)));
        assert!(b.cannot_ask((a.address, 80)));
    });
}

/// A host that forwarded nothing must not become everyone's router because it now forwards for containers.
#[test]
fn forwarding_is_opened_for_containers_only() {
    on_host(|host| {
        let forward = |value| std::fs::write("/proc/sys/net/ipv4/ip_forward", value).unwrap();
        forward("0");
        let out = outside(host);
        out.serve(80);
        run("ip", "link add lan type bridge");
        run("ip", "addr add 198.51.100.1/24 dev lan");
        run("ip", "link set lan up");
        let desk = host.container("desk", &endpoint(&bridge("lan", "198.51.100.0/24"), 2));
        let net = bridge("brig0", "172.31.0.0/16");
        inside(&out.path, || run("ip", "route add 198.51.100.0/24 via 203.0.113.1"));
        ensure_bridge(&net).unwrap();
        let a = host.container("a", &endpoint(&net, 2));
        assert!(a.asks((out.address, 80)).is_some());
        assert!(desk.cannot_ask((out.address, 80)));
        ensure_bridge(&net).unwrap();
        assert!(desk.cannot_ask((out.address, 80)), "still so when repeated");

        network::firewall::remove_all().unwrap();
        ensure_bridge(&net).unwrap();
        assert!(desk.asks((out.address, 80)).is_some(), "a host that forwarded before goes on forwarding");
    });
}

#[test]
fn a_second_network() {
    on_host(|host| {
        let (one, two) = (bridge("brig0", "172.31.0.0/16"), bridge("brig1", "172.30.0.0/16"));
        ensure_bridge(&one).unwrap();
        ensure_bridge(&two).unwrap();
        let a = host.container("a", &endpoint(&one, 2));
        let b = host.container("b", &endpoint(&two, 3));
        b.serve(80);
        let second = network::EndpointConfig {
            container_interface: "eth1".into(),
            ..by_gateway(endpoint(&two, 2), None)
        };
        attach(&a.path, &second).unwrap();
        assert_eq!(a.asks((b.address, 80)), Some(address(&second)));
        let names: Vec<_> = network::interface_stats(&a.path).unwrap().into_iter().map(|s| s.name).collect();
        assert_eq!(names, ["eth0", "eth1"]);
        detach(&second.host_interface).unwrap();
        assert!(a.cannot_ask((b.address, 80)));
    });
}

/// T-NET-4: what another program flushes is not ours, and so there is no moment without isolation.
#[test]
fn nobody_else_flushes_our_rules() {
    on_host(|host| {
        let (one, two) = (bridge("brig0", "172.31.0.0/16"), bridge("brig1", "172.30.0.0/16"));
        ensure_bridge(&one).unwrap();
        ensure_bridge(&two).unwrap();
        let a = host.container("a", &endpoint(&one, 2));
        let b = host.container("b", &endpoint(&two, 2));
        b.serve(80);
        run("nft", "add table inet other");
        run("nft", "flush ruleset");
        let rules = run("nft", "list ruleset");
        assert!(!rules.contains("table inet other") && rules.contains("to-brig1"), "{rules}");
        assert!(a.cannot_ask((b.address, 80)));
        let delete =
            std::process::Command::new("nft").args(["delete", "table", "inet", "brig"]).output().unwrap();
        assert!(!delete.status.success());
        ensure_bridge(&one).unwrap();
        assert!(a.cannot_ask((b.address, 80)));
    });
}

/// On kernels where others can delete the table, that is told; more changes than a socket holds are not taken for it.
#[test]
fn a_deleted_table_is_noticed() {
    on_host(|_| {
        let owns = network::firewall::claim().unwrap();
        assert_eq!(owns, network::firewall::claim().unwrap(), "again is harmless");
        assert!(run("nft", "list tables").contains("table inet brig"));
        let watch = network::watch().unwrap();
        for n in 0..200 {
            network::firewall::claim().unwrap();
            ensure_bridge(&bridge("brig0", &format!("172.31.{n}.0/24"))).unwrap();
        }
        let (sender, receiver) = std::sync::mpsc::channel();
        // Nobody waits for it: one that hears nothing must not keep the test from failing.
        std::thread::spawn(move || sender.send(watch.wait_for_loss().is_ok()));
        assert!(receiver.recv_timeout(Duration::from_millis(300)).is_err(), "nothing was deleted");
        network::firewall::remove_all().unwrap();
        assert_eq!(receiver.recv_timeout(Duration::from_secs(30)), Ok(true));
    });
}

/// What the daemon before has left goes, bridge by bridge.
#[test]
fn rules_of_bridges_that_are_gone_are_removed() {
    on_host(|_| {
        ensure_bridge(&bridge("brig0", "172.31.0.0/16")).unwrap();
        ensure_bridge(&bridge("brig1", "172.30.0.0/16")).unwrap();
        run("ip", "link delete brig1");
        assert_eq!(network::firewall::retain(&["brig0"]).unwrap(), 1);
        let rules = run("nft", "list ruleset");
        assert!(rules.contains("to-brig0") && !rules.contains("brig1"), "{rules}");
        assert_eq!(network::firewall::retain(&["brig0"]).unwrap(), 0);
    });
}

#[test]
fn ensure_is_idempotent_and_remove_too() {
    on_host(|_| {
        let net = bridge("brig0", "172.31.0.0/16");
        ensure_bridge(&net).unwrap();
        let (rules, links) = (run("nft", "list ruleset"), run("ip", "-br addr show brig0"));
        ensure_bridge(&net).unwrap();
        assert_eq!(run("nft", "list ruleset"), rules);
        assert_eq!(run("ip", "-br addr show brig0"), links);
        assert!(rules.contains("\"brig0\" : jump to-brig0"), "legible: {rules}");
        assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap(), "1\n");

        let subnet = BridgeSubnet { gateway: Some([172, 29, 0, 254].into()), ..subnet_of("172.29.0.0/24") };
        let moved = BridgeConfig { subnets: vec![subnet], ..net };
        ensure_bridge(&moved).unwrap();
        let addresses = run("ip", "-br addr show brig0");
        assert!(addresses.contains("172.29.0.254/24") && !addresses.contains("172.31"), "{addresses}");

        remove_bridge("brig0").unwrap();
        remove_bridge("brig0").unwrap();
        assert_eq!(network::list_bridges().unwrap(), []);
        assert!(!run("nft", "list ruleset").contains("brig0"));
        network::firewall::remove_all().unwrap();
        network::firewall::remove_all().unwrap();
        assert_eq!(run("nft", "list ruleset"), "");
    });
}

#[test]
fn only_our_own_table_is_touched() {
    on_host(|_| {
        run("nft", "add table inet filter");
        run("nft", "add chain inet filter forward { type filter hook forward priority 0; policy drop; }");
        run("nft", "add table ip brig");
        let before = run("nft", "list ruleset");
        ensure_bridge(&bridge("brig0", "172.31.0.0/16")).unwrap();
        assert!(run("nft", "list ruleset").contains(before.trim_end()));
        remove_bridge("brig0").unwrap();
        network::firewall::remove_all().unwrap();
        assert_eq!(run("nft", "list ruleset"), before);
    });
}

#[test]
fn interfaces_of_others_are_left_alone() {
    on_host(|host| {
        run("ip", "link add brig0 type bridge");
        let net = bridge("brig0", "172.31.0.0/16");
        assert!(matches!(ensure_bridge(&net), Err(Error::InterfaceTaken { .. })));
        assert!(matches!(remove_bridge("brig0"), Err(Error::InterfaceTaken { .. })));
        assert_eq!(run("nft", "list ruleset"), "", "refused before anything was done");
        assert_eq!(network::list_bridges().unwrap(), []);

        let ours = bridge("brig1", "172.30.0.0/16");
        ensure_bridge(&ours).unwrap();
        let heir = BridgeConfig { owner: "heir".into(), ..ours.clone() };
        ensure_bridge(&heir).unwrap();
        assert_eq!(network::list_bridges().unwrap()[0].owner, "heir", "a bridge without ports is taken over");
        host.container("a", &endpoint(&ours, 2));
        assert!(matches!(ensure_bridge(&ours), Err(Error::InterfaceTaken { .. })), "one with ports is not");
    });
}

#[test]
fn a_failed_attach_leaves_nothing() {
    on_host(|host| {
        let net = bridge("brig0", "172.31.0.0/16");
        ensure_bridge(&net).unwrap();
        let path = host.path("a");
        create_sandbox(&path).unwrap();
        let good = endpoint(&net, 2);

        let no_bridge = network::EndpointConfig { bridge: "nobody0".into(), ..good.clone() };
        assert!(matches!(attach(&path, &no_bridge), Err(Error::InterfaceNotFound { .. })));
        let far_gateway = by_gateway(good.clone(), Some([10, 9, 8, 7].into()));
        let failure = attach(&path, &far_gateway).unwrap_err();
        assert!(
            errors::chain(&failure).starts_with("route eth0 to its gateway: "),
            "{}",
            errors::chain(&failure)
        );
        assert_eq!(network::list_endpoints().unwrap(), []);

        attach(&path, &good).unwrap();
        let same_inside = network::EndpointConfig { host_interface: "veth0000001".into(), ..good.clone() };
        let failure = attach(&path, &same_inside).unwrap_err();
        assert_eq!(errors::HasKind::kind(&failure), errors::Kind::AlreadyExists);
        let same_outside = network::EndpointConfig { container_interface: "eth1".into(), ..good.clone() };
        assert!(attach(&path, &same_outside).is_err());
        let names: Vec<_> =
            network::list_endpoints().unwrap().into_iter().map(|e| e.host_interface).collect();
        assert_eq!(names, std::slice::from_ref(&good.host_interface), "the one that was there is not undone");
        detach(&good.host_interface).unwrap();
        detach(&good.host_interface).unwrap();
        assert_eq!(network::interface_stats(&path).unwrap(), []);
    });
}

#[test]
fn leftovers_are_found_by_their_marks() {
    on_host(|host| {
        let net = bridge("brig0", "172.31.0.0/16");
        ensure_bridge(&net).unwrap();
        run("ip", "link add veth0000000 type veth peer name other");
        let config = endpoint(&net, 2);
        // As after kill -9: nobody remembers the sandbox, the file is still bound.
        host.container("a", &config);
        let found = network::list_endpoints().unwrap();
        let expected = network::Endpoint {
            host_interface: config.host_interface.clone(),
            owner: config.owner,
            bridge: Some("brig0".into()),
        };
        assert_eq!(found, [expected]);
        let bridges = network::list_bridges().unwrap();
        assert_eq!(bridges, [network::Bridge { name: "brig0".into(), owner: net.owner }]);
        detach(&config.host_interface).unwrap();
        assert_eq!(network::list_endpoints().unwrap(), []);
    });
}

#[test]
fn a_hundred_endpoints_made_by_eight_threads() {
    on_host(|host| {
        let net = bridge("brig0", "172.31.0.0/16");
        ensure_bridge(&net).unwrap();
        std::thread::scope(|scope| {
            for worker in 0..8 {
                let net = &net;
                scope.spawn(move || {
                    for number in (2..102).filter(|n| n % 8 == worker) {
                        host.container(&format!("c{number}"), &endpoint(net, number));
                    }
                });
            }
        });
        let all = network::list_endpoints().unwrap();
        assert_eq!(all.len(), 100);
        assert!(all.iter().all(|e| e.bridge.as_deref() == Some("brig0")));
        let subnets = network::host_subnets().unwrap();
        let own = net.subnets[0].subnet.v4().unwrap();
        assert!(subnets.contains(&own));
        assert!(!network::ipam::choose_subnet(&subnets).unwrap().overlaps(own));
    });
}

/// T-NET-1 (CVE-2020-13401, CVE-2020-10749, CVE-2024-32473): a container that may send what it likes announces itself
/// as the IPv6 router. A neighbour that asked for IPv6 believes it, which shows that the announcement is good; the
/// host and a container as we make it do not.
#[test]
fn router_advertisements_reach_nobody() {
    on_host(|host| {
        let net = bridge("brig0", "172.31.0.0/16");
        ensure_bridge(&net).unwrap();
        // Not guarded, or nothing of it would come as far.
        let evil = network::EndpointConfig { guarded: false, ..endpoint(&net, 2) };
        let evil = host.container("evil", &evil);
        let asked = host.container("asked", &endpoint(&net, 3));
        let plain = host.container("plain", &endpoint(&net, 4));
        let settings = ["accept_dad 0", "accept_ra 2", "disable_ipv6 0"];
        for container in [&evil, &asked] {
            inside(&container.path, || {
                for (name, value) in settings.iter().filter_map(|s| s.split_once(' ')) {
                    std::fs::write(format!("/proc/sys/net/ipv6/conf/eth0/{name}"), value).unwrap();
                }
            });
        }
        let routes = || std::fs::read_to_string("/proc/thread-self/net/ipv6_route").unwrap();
        let believes = || routes().lines().any(|l| l.starts_with("20010db8000000000000000000000000 40"));
        let deadline = Instant::now() + Duration::from_secs(10);
        while !inside(&asked.path, believes) {
            assert!(Instant::now() < deadline, "the advertisement is no good");
            inside(&evil.path, send_router_advertisement);
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(!inside(&plain.path, believes));
        assert!(!believes(), "{}", routes());
        let addresses = std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap();
        assert!(!addresses.contains("brig0") && !addresses.contains("veth"), "{addresses}");
    });
}

/// RFC 4861, section 4.2, with the prefix 2001:db8::/64.
fn send_router_advertisement() {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, netdevice, sockopt};
    let socket = rustix::net::socket_with(
        AddressFamily::INET6,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(ipproto::ICMPV6),
    )
    .unwrap();
    sockopt::set_ipv6_multicast_hops(&socket, 255).unwrap();
    let index = netdevice::name_to_index(&socket, "eth0").unwrap();
    let mut packet = vec![134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    packet.extend([3, 4, 64, 0xc0, 0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, 0, 0, 0, 0]);
    packet.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let everyone = std::net::SocketAddrV6::new("ff02::1".parse().unwrap(), 0, 0, index);
    // Refused while the link-local address is not there yet; the caller tries again.
    rustix::net::sendto(&socket, &packet, rustix::net::SendFlags::empty(), &everyone).ok();
}

/// Port 53 of 127.0.0.11 is the name server's, and stays free for a name server of the container's.
#[test]
fn the_resolver_leaves_port_53_free() {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpStream, UdpSocket};
    on_host(|host| {
        let path = host.path("a");
        create_sandbox(&path).unwrap();
        let (_, _) = network::open_resolver(&path).unwrap();
        let (udp, tcp) = network::open_resolver(&path).unwrap();
        udp.set_nonblocking(false).unwrap();
        udp.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        tcp.set_nonblocking(false).unwrap();
        inside(&path, || {
            let own = UdpSocket::bind("0.0.0.0:53").unwrap();
            TcpListener::bind("0.0.0.0:53").unwrap();
            let client = UdpSocket::bind("0.0.0.0:0").unwrap();
            client.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            client.connect((network::RESOLVER, 53)).unwrap();
            client.send(b"query").unwrap();
            let mut buffer = [0; 16];
            let (length, from) = udp.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"query");
            udp.send_to(b"answer", from).unwrap();
            assert_eq!(client.recv(&mut buffer).unwrap(), 6, "from the port it asked");
            client.connect("127.0.0.1:53").unwrap();
            client.send(b"mine").unwrap();
            own.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            assert_eq!(own.recv(&mut buffer).unwrap(), 4);

            let mut stream = TcpStream::connect((network::RESOLVER, 53)).unwrap();
            let (mut served, _) = tcp.accept().unwrap();
            stream.write_all(&[7; 5000]).unwrap();
            let mut all = [0; 5000];
            served.read_exact(&mut all).unwrap();
            served.write_all(&all).unwrap();
            stream.read_exact(&mut all).unwrap();
            assert_eq!(all, [7; 5000]);
        });
    });
}
