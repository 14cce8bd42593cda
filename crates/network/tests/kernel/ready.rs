//! Sandboxes that are made before anybody needs one.

use crate::host::{address, and, ask6, bridge, endpoint, host_asks, inside, on_host, run};
use network::{BridgeConfig, EndpointConfig, ReadySandbox, ensure_bridge};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

/// The kernel takes interfaces of a namespace away on its own time.
fn wait_gone(interface: &str) {
    let begin = Instant::now();
    while run("ip", "-o link").contains(interface) {
        assert!(begin.elapsed() < Duration::from_secs(30), "{interface} stays");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What `ip` and `bridge` say of an interface, without what no two have in common.
fn shown(program: &str, line: &str, own: &[&str]) -> String {
    let text = run(program, line);
    let mut words: Vec<&str> =
        text.split_whitespace().filter(|w| !own.iter().any(|o| w.contains(o))).collect();
    words.retain(|w| !w.ends_with(':') && !w.starts_with("0x") && !w.contains("brig:"));
    words.join(" ")
}

#[test]
fn one_made_ahead_is_as_any_other() {
    on_host(|host| {
        let net = BridgeConfig { mtu: 1400, ..and(bridge("brig0", "172.31.0.0/16"), "fd00:31::/64") };
        ensure_bridge(&net).unwrap();
        let ready = ReadySandbox::make("vethaaaaaaa").unwrap();
        assert!(run("ip", "-o link show vethaaaaaaa").contains("state DOWN"));
        let (first, second) = (endpoint(&net, 2), endpoint(&net, 3));
        let a = host.container("a", &first);
        let path = host.path("b");
        ready.attach(&path, &second).unwrap();
        wait_gone("vethaaaaaaa");

        let listener = inside(&path, || TcpListener::bind("[::]:80").unwrap());
        crate::host::serve(listener);
        assert!(host_asks((address(&second), 80)).is_some());
        let six = second.addresses.iter().map(|a| a.address).find(IpAddr::is_ipv6).unwrap();
        let from = inside(&a.path, || ask6(SocketAddr::new(six, 80), Duration::from_secs(5)));
        assert_eq!(from.map(IpAddr::V6), first.addresses.iter().map(|a| a.address).find(IpAddr::is_ipv6));
        let owner = |config: &EndpointConfig| {
            let all = network::list_endpoints().unwrap();
            let found = all.into_iter().find(|e| e.host_interface == config.host_interface).unwrap();
            (found.owner, found.bridge)
        };
        assert_eq!(owner(&second), ("container-3".into(), Some("brig0".into())));

        // To the last setting.
        let ends = [&first.host_interface, &second.host_interface];
        let same = |program: &str, line: &dyn Fn(&str) -> String| {
            let own = [ends[0].as_str(), ends[1].as_str(), "@"];
            let [one, two] = ends.map(|end| shown(program, &line(end), &own));
            assert_eq!(one, two);
        };
        same("bridge", &|end| format!("-d link show dev {end}"));
        for file in
            ["ipv6/conf/eth0/disable_ipv6", "ipv6/conf/eth0/accept_ra", "ipv6/conf/default/disable_ipv6"]
        {
            let [one, two] = [&a.path, &path]
                .map(|p| inside(p, || std::fs::read_to_string(format!("/proc/sys/net/{file}")).unwrap()));
            assert_eq!(one, two, "{file}");
        }
        let link = inside(&path, || run("ip", "-o link show eth0"));
        assert!(link.contains("mtu 1400") && link.contains("02:42:ac:1f:00:03"), "{link}");
        let lo = inside(&path, || run("ip", "-o addr show lo"));
        assert!(lo.contains("127.0.0.1/8") && lo.contains("::1/128"), "{lo}");
        assert!(run("nft", "list table netdev brig").contains(&format!("chain {} ", second.host_interface)));
    });
}

#[test]
fn one_made_ahead_takes_any_name_and_no_guard() {
    on_host(|host| {
        let net = bridge("brig0", "172.31.0.0/16");
        ensure_bridge(&net).unwrap();
        let config =
            EndpointConfig { container_interface: "lan7".into(), guarded: false, ..endpoint(&net, 2) };
        let path = host.path("a");
        ReadySandbox::make("vethaaaaaaa").unwrap().attach(&path, &config).unwrap();
        assert!(inside(&path, || run("ip", "-o link show lan7")).contains("UP"));
        assert_eq!(network::interface_stats(&path).unwrap().len(), 1);
        network::remove_sandbox(&path).unwrap();
        wait_gone(&config.host_interface);
    });
}

#[test]
fn one_that_nobody_uses_or_that_fails_leaves_nothing() {
    on_host(|host| {
        drop(ReadySandbox::make("vethaaaaaaa").unwrap());
        wait_gone("vethaaaaaaa");
        let net = bridge("brig0", "172.31.0.0/16");
        let path = host.path("a");
        let failed = ReadySandbox::make("vethbbbbbbb").unwrap().attach(&path, &endpoint(&net, 2));
        assert!(matches!(failed, Err(network::Error::InterfaceNotFound { .. })), "{failed:?}");
        assert!(!path.exists());
        wait_gone("vethbbbbbbb");
        // The name of the host's end is taken: found out when half is done.
        ensure_bridge(&net).unwrap();
        let config = endpoint(&net, 2);
        run("ip", &format!("link add {} type bridge", config.host_interface));
        let failed = ReadySandbox::make("vethccccccc").unwrap().attach(&path, &config);
        assert!(matches!(failed, Err(network::Error::Netlink { .. })), "{failed:?}");
        assert!(!path.exists());
        wait_gone("vethccccccc");
        assert!(run("ip", "-o link").contains(&config.host_interface), "somebody else's stays");
    });
}
