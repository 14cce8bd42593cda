//! An IPv4 network: an address and a prefix length.

use crate::Error;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An IPv4 network in canonical form: no bit set behind the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Net {
    address: Ipv4Addr,
    prefix: u8,
}

impl Net {
    /// The network that `address` is in; `None` if `prefix` is over 32.
    pub const fn new(address: Ipv4Addr, prefix: u8) -> Option<Net> {
        if prefix > 32 {
            return None;
        }
        let bits = address.to_bits() & mask_bits(prefix);
        Some(Net { address: Ipv4Addr::from_bits(bits), prefix })
    }

    /// The first address, which names the network.
    pub const fn address(self) -> Ipv4Addr {
        self.address
    }

    /// The length of the prefix, 0 to 32.
    pub const fn prefix(self) -> u8 {
        self.prefix
    }

    /// The mask, for example 255.255.0.0.
    pub const fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(mask_bits(self.prefix))
    }

    /// The last address, which is the broadcast address of networks larger than /31.
    pub const fn last(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() | !mask_bits(self.prefix))
    }

    /// Whether `address` is in the network.
    pub const fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask_bits(self.prefix) == self.address.to_bits()
    }

    /// Whether the two share an address.
    pub const fn overlaps(self, other: Net) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }
}

const fn mask_bits(prefix: u8) -> u32 {
    if prefix == 0 { 0 } else { u32::MAX << (32 - prefix) }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Net {
    type Err = Error;

    /// Reads `a.b.c.d/n`; bits behind the prefix are cleared.
    fn from_str(text: &str) -> Result<Net, Error> {
        let parse = || {
            let (address, prefix) = text.split_once('/')?;
            Net::new(address.parse().ok()?, prefix.parse().ok()?)
        };
        parse().ok_or_else(|| Error::InvalidNet { text: text.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Net {
        text.parse().unwrap()
    }

    #[test]
    fn canonical_and_bounded() {
        assert_eq!(net("172.17.3.4/16").to_string(), "172.17.0.0/16");
        assert_eq!(net("0.0.0.0/0").last(), Ipv4Addr::BROADCAST);
        assert_eq!(net("10.0.0.8/30").last(), Ipv4Addr::new(10, 0, 0, 11));
        for bad in ["", "/", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "::/0", "10.0.0.0/-1", "10.0.0.0/8\n"] {
            assert!(bad.parse::<Net>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn overlaps_both_ways() {
        assert!(net("10.0.0.0/8").overlaps(net("10.1.0.0/16")));
        assert!(net("10.1.0.0/16").overlaps(net("10.0.0.0/8")));
        assert!(!net("10.1.0.0/16").overlaps(net("10.2.0.0/16")));
        assert!(net("0.0.0.0/0").overlaps(net("10.2.0.0/16")));
    }
}
