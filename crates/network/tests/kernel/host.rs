//! A host to play with: a thread in network and mount namespaces of its own. Nothing it does to interfaces, routes,
//! settings or rules is seen by the machine, and all of it is gone with the thread.

use network::{BridgeConfig, BridgeSubnet, EndpointAddress, EndpointConfig, GatewayMode, Subnet, mac_for};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long a connection that must fail may take. One that must work gets more.
const BLOCKED: Duration = Duration::from_millis(300);
const WORKS: Duration = Duration::from_millis(900);

/// The directory for sandboxes, and names.
#[derive(Debug)]
pub(crate) struct Host {
    directory: tempfile::TempDir,
}

/// Runs `test` on a host of its own, or says why not.
pub(crate) fn on_host(test: impl FnOnce(&Host) + Send) {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let host = Host { directory };
    let run = || {
        sys::netns::unshare_network_and_mounts().unwrap();
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        run("ip", "link set lo up");
        // Before the test is done, so that the kernel need not be waited for; a panic leaves them to the thread's end.
        test(&host);
        for entry in std::fs::read_dir(host.directory.path()).unwrap() {
            network::remove_sandbox(&entry.unwrap().path()).unwrap();
        }
    };
    std::thread::scope(|scope| {
        if let Err(panic) = scope.spawn(run).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

impl Host {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A sandbox `name` attached to `bridge` with the address, and what it was attached with.
    pub(crate) fn container(&self, name: &str, config: &EndpointConfig) -> Container {
        let path = self.path(name);
        network::create_sandbox(&path).unwrap();
        network::attach(&path, config).unwrap();
        Container { path, address: address(config) }
    }
}

/// A sandbox with one endpoint.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) path: PathBuf,
    pub(crate) address: Ipv4Addr,
}

impl Container {
    /// Starts a server in the sandbox that tells each client the address it has.
    pub(crate) fn serve(&self, port: u16) {
        let listener = inside(&self.path, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
        serve(listener);
    }

    /// The address under which the server at `to` sees the sandbox; `None` if it cannot be reached.
    pub(crate) fn asks(&self, to: (Ipv4Addr, u16)) -> Option<Ipv4Addr> {
        inside(&self.path, || ask(to, WORKS))
    }

    pub(crate) fn cannot_ask(&self, to: (Ipv4Addr, u16)) -> bool {
        inside(&self.path, || ask(to, BLOCKED)).is_none()
    }
}

/// Answers every client with the client's address, until the process ends.
pub(crate) fn serve(listener: TcpListener) {
    std::thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            // The client may have given up.
            match peer {
                SocketAddr::V4(peer) => stream.write_all(&peer.ip().octets()).ok(),
                SocketAddr::V6(peer) => stream.write_all(&peer.ip().octets()).ok(),
            };
        }
    });
}

/// As [`ask`], over IPv6.
pub(crate) fn ask6(to: SocketAddr, patience: Duration) -> Option<Ipv6Addr> {
    let mut stream = TcpStream::connect_timeout(&to, patience).ok()?;
    stream.set_read_timeout(Some(patience)).unwrap();
    let mut answer = [0; 16];
    stream.read_exact(&mut answer).ok()?;
    Some(Ipv6Addr::from(answer))
}

/// A bridge's subnet, whose first address is the bridge's own.
pub(crate) fn subnet_of(subnet: &str) -> BridgeSubnet {
    let subnet: Subnet = subnet.parse().unwrap();
    BridgeSubnet { subnet, gateway: Some(nth(subnet, 1)), mode: GatewayMode::Nat }
}

/// The same bridge with one more subnet.
pub(crate) fn and(mut bridge: BridgeConfig, subnet: &str) -> BridgeConfig {
    bridge.subnets.push(subnet_of(subnet));
    bridge
}

/// The bridge's own IPv4 address.
pub(crate) fn gateway(bridge: &BridgeConfig) -> Ipv4Addr {
    match bridge.subnets[0].gateway {
        Some(IpAddr::V4(address)) => address,
        other => panic!("{other:?} is not an IPv4 address"),
    }
}

fn nth(subnet: Subnet, number: u32) -> IpAddr {
    match subnet.address() {
        IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits() + u128::from(number)).into(),
        IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits() + number).into(),
    }
}

/// Asks from the calling thread's namespace.
pub(crate) fn ask(to: (Ipv4Addr, u16), patience: Duration) -> Option<Ipv4Addr> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from(to), patience).ok()?;
    stream.set_read_timeout(Some(patience)).unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).ok()?;
    Some(Ipv4Addr::from(answer))
}

pub(crate) fn host_asks(to: (Ipv4Addr, u16)) -> Option<Ipv4Addr> {
    ask(to, WORKS)
}

/// Runs `work` on a thread in the sandbox.
pub(crate) fn inside<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> T {
    let namespace = std::fs::File::open(path).unwrap();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Runs a program in the calling thread's namespaces, and returns what it prints. Only for what the crate does not
/// do itself: to play someone else, and to look at the outcome with other eyes.
pub(crate) fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn bridge(name: &str, subnet: &str) -> BridgeConfig {
    BridgeConfig {
        name: name.into(),
        owner: format!("id-of-{name}"),
        subnets: vec![subnet_of(subnet)],
        mtu: 1500,
        masquerade: true,
        internal: false,
        icc: true,
        trusted: Vec::new(),
    }
}

/// The `number`th address of each of the bridge's subnets.
pub(crate) fn endpoint(bridge: &BridgeConfig, number: u32) -> EndpointConfig {
    let address = |s: &BridgeSubnet| EndpointAddress {
        address: nth(s.subnet, number),
        prefix: s.subnet.prefix(),
        gateway: s.gateway.filter(|_| !bridge.internal),
    };
    let addresses: Vec<EndpointAddress> = bridge.subnets.iter().map(address).collect();
    let mac = mac_for(addresses[0].address);
    EndpointConfig {
        owner: format!("container-{number}"),
        bridge: bridge.name.clone(),
        host_interface: format!("veth{:02x}{:02x}{:02x}{:x}", mac[3], mac[4], mac[5], mac[2] & 15),
        container_interface: "eth0".into(),
        mac,
        addresses,
        mtu: bridge.mtu,
        isolated: !bridge.icc,
        guarded: true,
    }
}

/// An endpoint's IPv4 address.
pub(crate) fn address(endpoint: &EndpointConfig) -> Ipv4Addr {
    let v4 = endpoint.addresses.iter().find_map(|a| match a.address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    });
    v4.unwrap_or(Ipv4Addr::UNSPECIFIED)
}

/// The same endpoint, with another way out.
pub(crate) fn by_gateway(mut endpoint: EndpointConfig, gateway: Option<IpAddr>) -> EndpointConfig {
    endpoint.addresses.iter_mut().for_each(|a| a.gateway = gateway);
    endpoint
}

/// The world outside: a namespace behind the interface `wan` of the host, that has no route to any container.
pub(crate) fn outside(host: &Host) -> Container {
    run("ip", "link add wan type bridge");
    run("ip", "addr add 203.0.113.1/24 dev wan");
    run("ip", "link set wan up");
    let wan = BridgeConfig { internal: true, ..bridge("wan", "203.0.113.0/24") };
    host.container("outside", &endpoint(&wan, 9))
}
