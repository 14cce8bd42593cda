//! Measures what a container's network costs, on a host of its own: `cargo run --release -p network --example timing`.
//! Needs root. Prints least times, medians and the slow ones.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a program to look at, not to ship")]

use network::{BridgeConfig, BridgeSubnet, EndpointAddress, EndpointConfig, GatewayMode, mac_for};
use rustix::mount::{MountPropagationFlags, mount_change};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

const ROUNDS: u32 = 200;

fn main() {
    std::thread::spawn(measure).join().unwrap();
}

fn measure() {
    sys::netns::unshare_network_and_mounts().unwrap();
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let gateway = Ipv4Addr::new(172, 31, 0, 1);
    let bridge = BridgeConfig {
        name: "brig0".into(),
        owner: "timing".into(),
        subnets: vec![BridgeSubnet {
            subnet: "172.31.0.0/16".parse().unwrap(),
            gateway: Some(gateway.into()),
            mode: GatewayMode::Nat,
        }],
        mtu: 1500,
        masquerade: true,
        internal: false,
        icc: true,
        trusted: Vec::new(),
    };
    network::ensure_bridge(&bridge).unwrap();
    let mut times: [Vec<Duration>; 11] = Default::default();
    for round in 0..ROUNDS {
        let path = directory.path().join(format!("{round}"));
        let address = Ipv4Addr::from_bits(gateway.to_bits() + 1 + round);
        let endpoint = EndpointConfig {
            owner: "timing".into(),
            bridge: bridge.name.clone(),
            host_interface: format!("veth{round:07x}"),
            container_interface: "eth0".into(),
            mac: mac_for(address),
            addresses: vec![EndpointAddress {
                address: address.into(),
                prefix: 16,
                gateway: Some(gateway.into()),
            }],
            mtu: 1500,
            isolated: false,
            // Measured apart.
            guarded: false,
        };
        let port = network::ports::PortMapping {
            host_address: Ipv4Addr::UNSPECIFIED.into(),
            host_port: 8080,
            container_address: address.into(),
            container_port: 80,
            protocol: network::ports::Protocol::Tcp,
            bridge: bridge.name.clone(),
            direct: false,
        };
        let ahead = directory.path().join(format!("ahead-{round}"));
        let mut ready = None;
        times[9]
            .push(time(|| ready = Some(network::ReadySandbox::make(&format!("vetr{round:07x}")).unwrap())));
        times[10].push(time(|| ready.take().unwrap().attach(&ahead, &endpoint).unwrap()));
        network::detach(&endpoint.host_interface).unwrap();
        network::remove_sandbox(&ahead).unwrap();
        times[0].push(time(|| network::create_sandbox(&path).unwrap()));
        times[1].push(time(|| network::attach(&path, &endpoint).unwrap()));
        times[2].push(time(|| drop(network::interface_stats(&path).unwrap())));
        times[3].push(time(|| network::ports::publish(std::slice::from_ref(&port)).unwrap()));
        times[4].push(time(|| network::ports::unpublish(std::slice::from_ref(&port)).unwrap()));
        times[7].push(time(|| network::guard(&endpoint).unwrap()));
        times[8].push(time(|| network::unguard(&endpoint.host_interface).unwrap()));
        times[5].push(time(|| network::detach(&endpoint.host_interface).unwrap()));
        times[6].push(time(|| network::remove_sandbox(&path).unwrap()));
    }
    let names = [
        "create_sandbox",
        "attach",
        "interface_stats",
        "publish",
        "unpublish",
        "detach",
        "remove_sandbox",
        "guard",
        "unguard",
        "ready: make",
        "ready: attach",
    ];
    for (name, times) in names.iter().zip(&mut times) {
        times.sort();
        let (least, median, slow) = (times[0], times[times.len() / 2], times[times.len() * 9 / 10]);
        println!("{name:16} least {least:>10.1?}  median {median:>10.1?}  90 % {slow:>10.1?}");
    }
    println!("ensure_bridge    again  {:>10.1?}", time(|| network::ensure_bridge(&bridge).unwrap()));
}

fn time(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}
