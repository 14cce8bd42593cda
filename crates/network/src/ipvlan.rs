//! Interfaces of a sandbox on an interface of the host, all with its hardware address and told apart by their own
//! addresses: for a network that takes one hardware address a port.
//!
//! Kernel: `drivers/net/ipvlan`, [ip-link(8)](https://man7.org/linux/man-pages/man8/ip-link.8.html); mode L3S since Linux
//! 4.9, flags since 4.15. The host's own address on the parent is not reached from such an endpoint.

use crate::endpoint::EndpointConfig;
use crate::netlink::Request;
use crate::parent::{self, Sharing};
use crate::{Result, link};
use std::path::Path;

const IFLA_IPVLAN_MODE: u16 = 1;
const IFLA_IPVLAN_FLAGS: u16 = 2;

/// What the parent is to those on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpvlanMode {
    /// A switch: they hear broadcasts, and leave by the gateway of their subnet.
    L2,
    /// A router: they hear no broadcast, and send all to the interface itself.
    L3,
    /// A router that has the host's firewall and connection tracking see their packets.
    L3s,
}

/// Who of those on one parent hears whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpvlanFlag {
    Bridge,
    Private,
    Vepa,
}

impl IpvlanMode {
    fn number(self) -> u16 {
        match self {
            IpvlanMode::L2 => 0,
            IpvlanMode::L3 => 1,
            IpvlanMode::L3s => 2,
        }
    }
}

impl IpvlanFlag {
    fn number(self) -> u16 {
        match self {
            IpvlanFlag::Bridge => 0,
            IpvlanFlag::Private => 1,
            IpvlanFlag::Vepa => 2,
        }
    }
}

/// Gives the sandbox an interface on `parent`, with the addresses and routes of `endpoint`, whose bridge, host interface
/// and hardware address do not count. Nothing of it is left after a failure.
///
/// # Errors
///
/// [`Error::InterfaceNotFound`](crate::Error::InterfaceNotFound) for the parent;
/// [`Error::NotInKernel`](crate::Error::NotInKernel); [`Error::Netlink`](crate::Error::Netlink), of kind `EBUSY` if the
/// parent has macvlan interfaces; [`Error::Sandbox`](crate::Error::Sandbox).
pub fn attach_ipvlan(
    sandbox: &Path,
    parent: &str,
    mode: IpvlanMode,
    flag: IpvlanFlag,
    endpoint: &EndpointConfig,
) -> Result<()> {
    parent::attach(sandbox, parent, Sharing::Ipvlan, endpoint, |r| put_kind(r, mode, flag))
}

fn put_kind(r: &mut Request, mode: IpvlanMode, flag: IpvlanFlag) {
    r.nest(link::IFLA_LINKINFO, |r| {
        r.attribute(link::IFLA_INFO_KIND, Sharing::Ipvlan.kind().as_bytes());
        r.nest(link::IFLA_INFO_DATA, |r| {
            r.attribute(IFLA_IPVLAN_MODE, &mode.number().to_ne_bytes());
            // Kernels before 4.15 know no flags, and have what 0 means.
            if flag != IpvlanFlag::Bridge {
                r.attribute(IFLA_IPVLAN_FLAGS, &flag.number().to_ne_bytes());
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::EndpointAddress;
    use crate::netlink::{Attributes, Messages};
    use std::os::fd::{AsFd as _, AsRawFd as _};

    /// What `ip link add link 7 name eth0 mtu 1400 netns … type ipvlan mode … …` sends.
    #[test]
    fn the_message() {
        let endpoint = EndpointConfig {
            owner: "a".into(),
            bridge: String::new(),
            host_interface: String::new(),
            container_interface: "eth0".into(),
            mac: [2, 0, 0, 0, 0, 1],
            addresses: vec![EndpointAddress {
                address: [10, 0, 0, 2].into(),
                prefix: 24,
                gateway: Some([0, 0, 0, 0].into()),
            }],
            mtu: 1400,
            isolated: false,
            guarded: false,
        };
        let namespace = std::fs::File::open("/dev/null").unwrap();
        let check = |mode, flag, data: &[(u16, [u8; 2])]| {
            let request =
                parent::new_link(7, namespace.as_fd(), &endpoint, |r| put_kind(r, mode, flag)).into_bytes();
            let message = Messages(&request).next().unwrap();
            assert_eq!(message.kind, link::RTM_NEWLINK);
            let all: Vec<_> = Attributes(&message.body[16..]).map(|(k, v)| (k, v.to_vec())).collect();
            let fd = u32::try_from(namespace.as_raw_fd()).unwrap();
            let plain = [
                (link::IFLA_IFNAME, b"eth0\0".to_vec()),
                (link::IFLA_LINK, 7u32.to_ne_bytes().to_vec()),
                (link::IFLA_MTU, 1400u32.to_ne_bytes().to_vec()),
                (link::IFLA_NET_NS_FD, fd.to_ne_bytes().to_vec()),
            ];
            assert_eq!(all[..4], plain, "no hardware address is asked for");
            assert_eq!((all.len(), all[4].0), (5, link::IFLA_LINKINFO));
            let info: Vec<_> = Attributes(&all[4].1).collect();
            assert_eq!(info[0], (link::IFLA_INFO_KIND, &b"ipvlan"[..]));
            let got: Vec<_> = Attributes(info[1].1).map(|(k, v)| (k, v.try_into().unwrap())).collect();
            assert_eq!((info[1].0, got.as_slice()), (link::IFLA_INFO_DATA, data));
        };
        let two = u16::to_ne_bytes;
        check(IpvlanMode::L2, IpvlanFlag::Bridge, &[(1, two(0))]);
        check(IpvlanMode::L3, IpvlanFlag::Private, &[(1, two(1)), (2, two(1))]);
        check(IpvlanMode::L3s, IpvlanFlag::Vepa, &[(1, two(2)), (2, two(2))]);
    }
}
