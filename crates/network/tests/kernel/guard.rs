//! T-NET-1 (CVE-2025-52889, CVE-2025-52890): a container that claims its neighbour's or the gateway's address or hardware
//! address. Each attack is first shown to work on an endpoint that is not guarded.

use crate::host::{Container, Host, and, bridge, endpoint, gateway, host_asks, inside, on_host, run};
use network::{EndpointConfig, create_sandbox, ensure_bridge, mac_for};
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

const EVIL: &str = "02:42:ac:1f:00:09";

/// A network with a victim (2), a friend of its (3) that has spoken with it, and somebody evil (9).
struct Stage {
    victim: Container,
    friend: Container,
    evil: Container,
    /// Where the friend hears.
    ear: UdpSocket,
}

fn stage(host: &Host, guarded: bool) -> Stage {
    let net = and(bridge("brig0", "172.31.0.0/16"), "fd00:1::/64");
    ensure_bridge(&net).unwrap();
    let name = |who: &str| format!("{who}-{guarded}");
    let victim = host.container(&name("victim"), &endpoint(&net, 2));
    let friend = host.container(&name("friend"), &endpoint(&net, 3));
    let config = EndpointConfig { guarded, ..endpoint(&net, 9) };
    let path = host.path(&name("evil"));
    create_sandbox(&path).unwrap();
    network::attach(&path, &config).unwrap();
    let evil = Container { path, address: Ipv4Addr::new(172, 31, 0, 9) };
    victim.serve(80);
    // Who asks for one is believed at once, not after a second.
    let locktime = |interface: &str| format!("/proc/sys/net/ipv4/neigh/{interface}/locktime");
    inside(&friend.path, || std::fs::write(locktime("eth0"), "0").unwrap());
    std::fs::write(locktime("brig0"), "0").unwrap();
    assert!(friend.asks((victim.address, 80)).is_some() && host_asks((victim.address, 80)).is_some());
    assert!(evil.asks((victim.address, 80)).is_some(), "what is its own passes");
    let ear = inside(&friend.path, || UdpSocket::bind("[::]:9").unwrap());
    ear.set_nonblocking(true).unwrap();
    let stage = Stage { victim, friend, evil, ear };
    // Over IPv6, too; and so they know each other.
    for (from, address) in [(&stage.victim, "fd00:1::2"), (&stage.evil, "fd00:1::9")] {
        inside(&from.path, || say(None, friend6()).unwrap());
        stage.heard_until(address.parse().unwrap());
    }
    stage
}

fn friend6() -> SocketAddr {
    ("fd00:1::3".parse::<Ipv6Addr>().unwrap(), 9).into()
}

/// Says something to `to` under an address.
fn say(from: Option<IpAddr>, to: SocketAddr) -> std::io::Result<usize> {
    let any: IpAddr = if to.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    UdpSocket::bind((from.unwrap_or(any), 0)).unwrap().send_to(b"here I am", to)
}

impl Stage {
    /// Whom the friend hears until it has heard `wanted`.
    fn heard_until(&self, wanted: IpAddr) -> HashSet<IpAddr> {
        let deadline = Instant::now() + Duration::from_secs(10);
        let (mut all, mut buffer) = (HashSet::new(), [0; 64]);
        while !all.contains(&wanted) {
            match self.ear.recv_from(&mut buffer) {
                Ok((_, from)) => drop(all.insert(from.ip().to_canonical())),
                Err(_) => {
                    assert!(Instant::now() < deadline, "{wanted} is not heard, only {all:?}");
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
        all
    }

    /// The evil one gives itself `address`, asks as such who has `to`, and sends it a packet.
    fn claim(&self, address: IpAddr, to: IpAddr) {
        let length = if address.is_ipv6() { 128 } else { 32 };
        let more = if address.is_ipv6() { " nodad" } else { "" };
        // The hardware addresses of those on this network end as their addresses do.
        let last = to.to_string().chars().last().unwrap();
        inside(&self.evil.path, || {
            run("ip", "neigh flush dev eth0");
            run("ip", &format!("addr add {address}/{length} dev eth0{more}"));
            say(Some(address), (to, 9).into()).unwrap();
            // What waits for the answer is sent.
            run("ip", &format!("neigh replace {to} lladdr 02:42:ac:1f:00:0{last} dev eth0"));
            run("ip", &format!("addr del {address}/{length} dev eth0"));
            run("ip", &format!("neigh del {to} dev eth0"));
        });
    }

    /// Whom the friend hears until it has heard what the evil one says for itself, after all that.
    fn settle(&self) -> HashSet<IpAddr> {
        inside(&self.evil.path, || say(None, (self.friend.address, 9).into()).unwrap());
        self.heard_until(self.evil.address.into())
    }
}

/// Whether who is in `path` (None: the host) takes the evil one for `address`.
fn is_fooled(path: Option<&std::path::Path>, address: &str) -> bool {
    let look = || run("ip", &format!("neigh show {address}")).contains(EVIL);
    match path {
        Some(path) => inside(path, look),
        None => look(),
    }
}

#[test]
fn nobody_has_anothers_ipv4_address() {
    for guarded in [false, true] {
        on_host(|host| {
            let stage = stage(host, guarded);
            let (victim, friend) = (stage.victim.address, stage.friend.address);
            stage.claim(victim.into(), friend.into());
            if guarded {
                assert!(!stage.settle().contains(&victim.into()));
            } else {
                stage.heard_until(victim.into());
            }
            assert_eq!(is_fooled(Some(&stage.friend.path), &victim.to_string()), !guarded);
            // The gateway's, and to the host.
            let own = Ipv4Addr::new(172, 31, 0, 1);
            stage.claim(own.into(), friend.into());
            stage.claim(victim.into(), own.into());
            stage.settle();
            assert_eq!(is_fooled(Some(&stage.friend.path), "172.31.0.1"), !guarded);
            assert_eq!(is_fooled(None, &victim.to_string()), !guarded);
            if guarded {
                assert!(stage.friend.asks((victim, 80)).is_some() && host_asks((victim, 80)).is_some());
            }
            // An address of nobody on the network passes: a container may be a router.
            let foreign = IpAddr::from([198, 51, 100, 7]);
            stage.claim(foreign, friend.into());
            stage.heard_until(foreign);
        });
    }
}

#[test]
fn nobody_has_anothers_ipv6_address() {
    for guarded in [false, true] {
        on_host(|host| {
            let stage = stage(host, guarded);
            let victim: Ipv6Addr = "fd00:1::2".parse().unwrap();
            stage.claim(victim.into(), friend6().ip());
            if guarded {
                assert!(!stage.settle().contains(&victim.into()));
            } else {
                stage.heard_until(victim.into());
            }
            assert_eq!(is_fooled(Some(&stage.friend.path), "fd00:1::2"), !guarded);
        });
    }
}

/// RFC 4861, section 4.4: "fd00:1::2 is at my hardware address", from an address of the link.
#[test]
fn nobody_advertises_anothers_ipv6_address() {
    use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, netdevice, sockopt};
    let advertise = || {
        let (family, kind) = (AddressFamily::INET6, SocketType::RAW);
        let socket =
            rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, Some(ipproto::ICMPV6)).unwrap();
        sockopt::set_ipv6_multicast_hops(&socket, 255).unwrap();
        let index = netdevice::name_to_index(&socket, "eth0").unwrap();
        let mut packet = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
        packet.extend("fd00:1::2".parse::<Ipv6Addr>().unwrap().octets());
        packet.extend([2, 1, 0x02, 0x42, 0xac, 0x1f, 0, 9]);
        let everyone = std::net::SocketAddrV6::new("ff02::1".parse().unwrap(), 0, 0, index);
        // Refused while the link-local address is not there yet; the caller tries again.
        rustix::net::sendto(&socket, &packet, SendFlags::empty(), &everyone).is_ok()
    };
    for guarded in [false, true] {
        on_host(|host| {
            let stage = stage(host, guarded);
            let fooled = || is_fooled(Some(&stage.friend.path), "fd00:1::2");
            let deadline = Instant::now() + Duration::from_secs(10);
            let mut sent = 0;
            while sent < 3 || !guarded && !fooled() {
                assert!(Instant::now() < deadline, "the attack is no good");
                sent += usize::from(inside(&stage.evil.path, advertise));
                std::thread::sleep(Duration::from_millis(5));
            }
            stage.settle();
            assert_eq!(fooled(), !guarded);
        });
    }
}

#[test]
fn nobody_has_anothers_hardware_address() {
    for guarded in [false, true] {
        on_host(|host| {
            let stage = stage(host, guarded);
            let of_victim = "02:42:ac:1f:00:02";
            assert_eq!(mac_for(stage.victim.address), [0x02, 0x42, 0xac, 0x1f, 0, 2]);
            let ports = || run("bridge", "fdb show br brig0");
            // Which port the bridge sends the victim's frames to.
            let at = || {
                let all = ports();
                let line = all.lines().find(|l| l.starts_with(of_victim)).map(str::to_string);
                line.unwrap_or_default().split_whitespace().nth(2).unwrap_or_default().to_string()
            };
            let before = at();
            inside(&stage.evil.path, || {
                run("ip", &format!("link set eth0 address {of_victim}"));
                run("ip", "neigh replace 172.31.0.3 lladdr 02:42:ac:1f:00:03 dev eth0");
                say(None, (stage.friend.address, 9).into()).unwrap();
            });
            if guarded {
                inside(&stage.evil.path, || run("ip", &format!("link set eth0 address {EVIL}")));
                stage.settle();
                assert_eq!(at(), before);
                assert!(stage.friend.asks((stage.victim.address, 80)).is_some());
            } else {
                let deadline = Instant::now() + Duration::from_secs(10);
                while at() == before {
                    assert!(Instant::now() < deadline, "the attack is no good: {}", ports());
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        });
    }
}

/// The chain goes with the interface, and comes back when somebody has taken it away.
#[test]
fn guards_come_and_go() {
    on_host(|host| {
        let net = bridge("brig0", "172.31.0.0/16");
        ensure_bridge(&net).unwrap();
        let config = endpoint(&net, 2);
        let a = host.container("a", &config);
        let has = || run("nft", "list ruleset").contains(&format!("chain {} ", config.host_interface));
        assert!(has());
        network::guard(&config).unwrap();
        assert!(host_asks((gateway(&net), 1)).is_none());
        a.serve(80);
        assert!(host_asks((a.address, 80)).is_some());
        network::detach(&config.host_interface).unwrap();
        assert!(!has(), "{}", run("nft", "list ruleset"));
        network::unguard(&config.host_interface).unwrap();
        let (b, c) = (endpoint(&net, 3), endpoint(&net, 4));
        host.container("b", &b);
        host.container("c", &c);
        assert_eq!(network::retain_guards(&HashSet::from([b.host_interface.clone()])).unwrap(), 1);
        let rules = run("nft", "list ruleset");
        assert!(rules.contains(&b.host_interface) && !rules.contains(&c.host_interface), "{rules}");
        network::firewall::remove_all().unwrap();
        assert!(!run("nft", "list ruleset").contains("brig"));
    });
}
