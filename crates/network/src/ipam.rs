//! Which address a container gets. Pure: the engine keeps the records and fills a [`Pool`] from them at start-up.

use crate::subnet::{from_bits, to_bits};
use crate::{Error, Net, Result, Subnet};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The addresses of one network.
#[derive(Debug, Clone)]
pub struct Pool {
    subnet: Subnet,
    /// Where containers' addresses come from; inside `subnet`.
    range: Subnet,
    taken: BTreeSet<u128>,
}

impl Pool {
    /// A pool for `subnet` in which `reserved` are never given out; those outside do no harm.
    pub fn new(subnet: impl Into<Subnet>, reserved: &[IpAddr]) -> Pool {
        let subnet = subnet.into();
        let inside = reserved.iter().filter(|a| subnet.contains(**a));
        Pool { subnet, range: subnet, taken: inside.map(|a| to_bits(*a)).collect() }
    }

    /// The same pool that chooses only from `range` (`--ip-range`); addresses asked for may still be elsewhere.
    ///
    /// # Errors
    ///
    /// [`Error::AddressOutside`] if `range` is not in the subnet.
    pub fn with_range(self, range: Subnet) -> Result<Pool> {
        if range.prefix() < self.subnet.prefix() || !self.subnet.contains(range.address()) {
            return Err(Error::AddressOutside { address: range.address(), subnet: self.subnet });
        }
        Ok(Pool { range, ..self })
    }

    /// The network whose addresses these are.
    pub fn subnet(&self) -> Subnet {
        self.subnet
    }

    /// Takes `requested`, or the lowest free address.
    ///
    /// # Errors
    ///
    /// [`Error::AddressOutside`], [`Error::AddressTaken`], or [`Error::PoolExhausted`].
    pub fn allocate(&mut self, requested: Option<IpAddr>) -> Result<IpAddr> {
        let bits = match requested {
            Some(address) => {
                self.check(address)?;
                if self.taken.contains(&to_bits(address)) {
                    return Err(Error::AddressTaken { address });
                }
                to_bits(address)
            }
            None => self.lowest_free().ok_or(Error::PoolExhausted { subnet: self.subnet })?,
        };
        self.taken.insert(bits);
        Ok(from_bits(bits, self.subnet.is_ipv6()))
    }

    /// Gives `address` back. Harmless if it was not taken.
    pub fn release(&mut self, address: IpAddr) {
        if self.subnet.contains(address) {
            self.taken.remove(&to_bits(address));
        }
    }

    /// The gap before the first taken address that is not the next one. One pass over what is taken, not over the
    /// addresses: a hole early in a /8 is found at once.
    fn lowest_free(&self) -> Option<u128> {
        let (first, last) = self.hosts();
        let first = first.max(to_bits(self.range.address()));
        let last = last.min(to_bits(self.range.last()));
        if first > last {
            return None;
        }
        let mut candidate = first;
        for taken in self.taken.range(first..=last) {
            if *taken != candidate {
                break;
            }
            candidate = candidate.checked_add(1)?;
        }
        (candidate <= last).then_some(candidate)
    }

    fn check(&self, address: IpAddr) -> Result<()> {
        let (first, last) = self.hosts();
        if self.subnet.contains(address) && (first..=last).contains(&to_bits(address)) {
            Ok(())
        } else {
            Err(Error::AddressOutside { address, subnet: self.subnet })
        }
    }

    /// The first and last address for a host: without the network's own, and for IPv4 the broadcast address. The
    /// smallest two networks have neither (RFC 3021, RFC 6164).
    fn hosts(&self) -> (u128, u128) {
        let (first, last) = (to_bits(self.subnet.address()), to_bits(self.subnet.last()));
        match (self.subnet.is_ipv6(), last - first) {
            (_, 0 | 1) => (first, last),
            (true, _) => (first + 1, last),
            (false, _) => (first + 1, last - 1),
        }
    }
}

/// The first of Docker's default subnets that overlaps none of `taken`: 172.17.0.0/16 to 172.31.0.0/16, then
/// 192.168.0.0/20 to 192.168.240.0/20.
///
/// `taken` is what [`host_subnets`](crate::host_subnets) returns and the subnets of networks that exist.
///
/// # Errors
///
/// [`Error::NoSubnet`].
pub fn choose_subnet(taken: &[Net]) -> Result<Net> {
    let large = (17..=31).filter_map(|n| Net::new(Ipv4Addr::new(172, n, 0, 0), 16));
    let small = (0..=240).step_by(16).filter_map(|n| Net::new(Ipv4Addr::new(192, 168, n, 0), 20));
    large.chain(small).find(|net| !taken.iter().any(|other| net.overlaps(*other))).ok_or(Error::NoSubnet)
}

/// The first of the subnets of networks over several hosts that overlaps none of `taken`: 10.0.0.0/24 to 10.0.255.0/24, then
/// the rest of 10.0.0.0/8 by the same size.
///
/// # Errors
///
/// [`Error::NoSubnet`].
pub fn choose_shared_subnet(taken: &[Net]) -> Result<Net> {
    let all = (0..=u16::MAX).filter_map(|n| {
        let [high, low] = n.to_be_bytes();
        Net::new(Ipv4Addr::new(10, high, low, 0), 24)
    });
    all.into_iter().find(|net| !taken.iter().any(|other| net.overlaps(*other))).ok_or(Error::NoSubnet)
}

/// The first /64 of the site `prefix` (`fd` and 40 bits that are this host's own, RFC 4193) that overlaps none of
/// `taken`.
///
/// # Errors
///
/// [`Error::NoSubnet`] when all 65,536 are in use.
pub fn choose_ula(site: [u8; 5], taken: &[Subnet]) -> Result<Subnet> {
    let [a, b, c, d, e] = site;
    let candidate = |n: u16| {
        let words =
            [u16::from_be_bytes([0xfd, a]), u16::from_be_bytes([b, c]), u16::from_be_bytes([d, e]), n];
        let [w0, w1, w2, w3] = words;
        Subnet::new(IpAddr::V6(Ipv6Addr::new(w0, w1, w2, w3, 0, 0, 0, 0)), 64)
    };
    let free = |net: &Subnet| !taken.iter().any(|other| net.overlaps(*other));
    (0..=u16::MAX).filter_map(candidate).find(free).ok_or(Error::NoSubnet)
}

/// The address a gateway gets when nobody names one: the first after the network's own.
pub fn default_gateway(subnet: Net) -> Ipv4Addr {
    let first = subnet.address().to_bits();
    Ipv4Addr::from_bits(if subnet.prefix() >= 31 { first } else { first + 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Net {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn pool(subnet: &str) -> Pool {
        Pool::new(net(subnet), &[IpAddr::V4(default_gateway(net(subnet)))])
    }

    #[test]
    fn lowest_free_first() {
        let mut pool = pool("172.17.0.0/16");
        let a = pool.allocate(None).unwrap();
        assert_eq!(a, ip("172.17.0.2"));
        assert_eq!(pool.allocate(None).unwrap(), ip("172.17.0.3"));
        pool.release(a);
        assert_eq!(pool.allocate(None).unwrap(), a);
        assert_eq!(pool.allocate(None).unwrap(), ip("172.17.0.4"));
    }

    #[test]
    fn requested() {
        let mut pool = pool("10.0.0.0/24");
        let want = ip("10.0.0.9");
        assert_eq!(pool.allocate(Some(want)).unwrap(), want);
        assert!(matches!(pool.allocate(Some(want)), Err(Error::AddressTaken { .. })));
        for bad in ["10.0.1.1", "10.0.0.0", "10.0.0.255", "fd00::1"] {
            assert!(matches!(pool.allocate(Some(ip(bad))), Err(Error::AddressOutside { .. })), "{bad:?}");
        }
        assert!(matches!(pool.allocate(Some(ip("10.0.0.1"))), Err(Error::AddressTaken { .. })));
    }

    #[test]
    fn exhausted() {
        let mut small = pool("10.0.0.0/29");
        for _ in 0..5 {
            small.allocate(None).unwrap();
        }
        assert!(matches!(small.allocate(None), Err(Error::PoolExhausted { .. })));
        assert_eq!(pool("10.0.0.0/31").allocate(None).unwrap(), ip("10.0.0.1"));
        assert!(pool("10.0.0.0/32").allocate(None).is_err());
        let mut top = Pool::new(net("255.255.255.252/30"), &[ip("255.255.255.253")]);
        top.allocate(None).unwrap();
        assert!(top.allocate(None).is_err());
    }

    #[test]
    fn range_and_reserved() {
        let pool = Pool::new(net("10.0.0.0/24"), &[ip("10.0.0.1"), ip("10.0.0.128"), ip("10.9.9.9")]);
        let mut pool = pool.with_range(net("10.0.0.128/25").into()).unwrap();
        assert_eq!(pool.allocate(None).unwrap(), ip("10.0.0.129"));
        assert_eq!(
            pool.allocate(Some(ip("10.0.0.9"))).unwrap(),
            ip("10.0.0.9"),
            "asked for, outside the range"
        );
        assert!(pool.clone().with_range(net("10.0.1.0/25").into()).is_err());
        assert!(pool.with_range(net("10.0.0.0/8").into()).is_err());
    }

    #[test]
    fn ipv6() {
        let mut pool = Pool::new("fd00::/64".parse::<Subnet>().unwrap(), &[ip("fd00::1")]);
        assert_eq!(pool.allocate(None).unwrap(), ip("fd00::2"));
        assert_eq!(
            pool.allocate(Some(ip("fd00::ffff:ffff:ffff:ffff"))).unwrap(),
            ip("fd00::ffff:ffff:ffff:ffff")
        );
        assert!(matches!(pool.allocate(Some(ip("fd01::1"))), Err(Error::AddressOutside { .. })));
        let first = choose_ula([1, 2, 3, 4, 5], &[]).unwrap();
        assert_eq!(first.to_string(), "fd01:203:405::/64");
        assert_eq!(choose_ula([1, 2, 3, 4, 5], &[first]).unwrap().to_string(), "fd01:203:405:1::/64");
    }

    #[test]
    fn subnets_in_dockers_order() {
        assert_eq!(choose_subnet(&[]).unwrap(), net("172.17.0.0/16"));
        assert_eq!(
            choose_subnet(&[net("172.17.0.0/16"), net("172.18.5.0/24")]).unwrap(),
            net("172.19.0.0/16")
        );
        assert_eq!(choose_subnet(&[net("172.16.0.0/12")]).unwrap(), net("192.168.0.0/20"));
        assert_eq!(
            choose_subnet(&[net("172.16.0.0/12"), net("192.168.1.0/24")]).unwrap(),
            net("192.168.16.0/20")
        );
        assert!(matches!(
            choose_subnet(&[net("172.16.0.0/12"), net("192.168.0.0/16")]),
            Err(Error::NoSubnet)
        ));
    }
}
