//! A network of either family, as addresses are given out from it.

use crate::{Error, Net};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A network in canonical form: no bit set behind the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subnet {
    address: IpAddr,
    prefix: u8,
}

impl Subnet {
    /// The network that `address` is in; `None` if the prefix is longer than an address.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Subnet> {
        let width = width(address);
        if prefix > width {
            return None;
        }
        let host_bits = u32::from(width - prefix);
        let bits = to_bits(address) & !low_bits(host_bits);
        Some(Subnet { address: from_bits(bits, address.is_ipv6()), prefix })
    }

    /// The first address, which names the network.
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// The length of the prefix.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether its addresses have 128 bits.
    pub fn is_ipv6(self) -> bool {
        self.address.is_ipv6()
    }

    /// The last address.
    pub fn last(self) -> IpAddr {
        let host_bits = u32::from(width(self.address) - self.prefix);
        from_bits(to_bits(self.address) | low_bits(host_bits), self.is_ipv6())
    }

    /// Whether `address` is in the network.
    pub fn contains(self, address: IpAddr) -> bool {
        address.is_ipv6() == self.is_ipv6() && (self.address..=self.last()).contains(&address)
    }

    /// Whether the two share an address.
    pub fn overlaps(self, other: Subnet) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// The same as an IPv4 network.
    pub fn v4(self) -> Option<Net> {
        match self.address {
            IpAddr::V4(address) => Net::new(address, self.prefix),
            IpAddr::V6(_) => None,
        }
    }
}

/// How many bits an address of this family has.
fn width(address: IpAddr) -> u8 {
    if address.is_ipv6() { 128 } else { 32 }
}

fn low_bits(count: u32) -> u128 {
    if count >= 128 { u128::MAX } else { (1 << count) - 1 }
}

/// The address as a number.
pub(crate) fn to_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(a.to_bits()),
        IpAddr::V6(a) => a.to_bits(),
    }
}

/// The address with this number; of an IPv4 address only the low 32 bits count.
pub(crate) fn from_bits(bits: u128, is_ipv6: bool) -> IpAddr {
    if is_ipv6 {
        return IpAddr::V6(Ipv6Addr::from_bits(bits));
    }
    let [.., a, b, c, d] = bits.to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

impl From<Net> for Subnet {
    fn from(net: Net) -> Subnet {
        Subnet { address: IpAddr::V4(net.address()), prefix: net.prefix() }
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = Error;

    /// Reads `address/n`; bits behind the prefix are cleared.
    fn from_str(text: &str) -> Result<Subnet, Error> {
        let parse = || {
            let (address, prefix) = text.split_once('/')?;
            Subnet::new(address.parse().ok()?, prefix.parse().ok()?)
        };
        parse().ok_or_else(|| Error::InvalidNet { text: text.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn both_families() {
        assert_eq!(net("172.17.3.4/16").to_string(), "172.17.0.0/16");
        assert_eq!(net("fd00::1:2/64").to_string(), "fd00::/64");
        assert_eq!(net("10.0.0.8/30").last().to_string(), "10.0.0.11");
        assert_eq!(net("::/0").last().to_string(), "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
        assert_eq!(net("0.0.0.0/0").last().to_string(), "255.255.255.255");
        for bad in ["", "/", "10.0.0.0", "10.0.0.0/33", "::/129", "fd00::/-1", "10.0.0.0/8\n"] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn families_do_not_overlap() {
        assert!(net("10.0.0.0/8").overlaps(net("10.1.0.0/16")));
        assert!(net("fd00::/8").overlaps(net("fd00:1::/64")));
        assert!(!net("0.0.0.0/0").overlaps(net("::/0")));
        assert!(!net("::/0").contains("10.0.0.1".parse().unwrap()));
    }
}
