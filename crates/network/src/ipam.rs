//! Which address a container gets. Pure: the engine keeps the records and fills a [`Pool`] from them at start-up.

use crate::{Error, Net, Result};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// The addresses of one network.
#[derive(Debug, Clone)]
pub struct Pool {
    subnet: Net,
    /// Where containers' addresses come from; inside `subnet`.
    range: Net,
    taken: BTreeSet<u32>,
}

impl Pool {
    /// A pool for `subnet` in which `gateway` and `reserved` are never given out.
    ///
    /// # Errors
    ///
    /// [`Error::AddressOutside`] if the gateway is not an address for a host of `subnet`. Reserved addresses outside
    /// do no harm.
    pub fn new(subnet: Net, gateway: Ipv4Addr, reserved: &[Ipv4Addr]) -> Result<Pool> {
        let mut pool = Pool { subnet, range: subnet, taken: reserved.iter().map(|a| a.to_bits()).collect() };
        pool.check(gateway)?;
        pool.taken.insert(gateway.to_bits());
        Ok(pool)
    }

    /// The same pool that chooses only from `range` (`--ip-range`); addresses asked for may still be elsewhere.
    ///
    /// # Errors
    ///
    /// [`Error::AddressOutside`] if `range` is not in the subnet.
    pub fn with_range(self, range: Net) -> Result<Pool> {
        if range.prefix() < self.subnet.prefix() || !self.subnet.contains(range.address()) {
            return Err(Error::AddressOutside { address: range.address(), subnet: self.subnet });
        }
        Ok(Pool { range, ..self })
    }

    /// The network whose addresses these are.
    pub fn subnet(&self) -> Net {
        self.subnet
    }

    /// Takes `requested`, or the lowest free address.
    ///
    /// # Errors
    ///
    /// [`Error::AddressOutside`], [`Error::AddressTaken`], or [`Error::PoolExhausted`].
    pub fn allocate(&mut self, requested: Option<Ipv4Addr>) -> Result<Ipv4Addr> {
        let address = match requested {
            Some(address) => {
                self.check(address)?;
                if self.taken.contains(&address.to_bits()) {
                    return Err(Error::AddressTaken { address });
                }
                address
            }
            None => self.lowest_free().ok_or(Error::PoolExhausted { subnet: self.subnet })?,
        };
        self.taken.insert(address.to_bits());
        Ok(address)
    }

    /// Gives `address` back. Harmless if it was not taken.
    pub fn release(&mut self, address: Ipv4Addr) {
        self.taken.remove(&address.to_bits());
    }

    /// The gap before the first taken address that is not the next one. One pass over what is taken, not over the
    /// addresses: a hole early in a /8 is found at once.
    fn lowest_free(&self) -> Option<Ipv4Addr> {
        let (first, last) = self.hosts();
        let first = first.max(self.range.address().to_bits());
        let last = last.min(self.range.last().to_bits());
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
        (candidate <= last).then(|| Ipv4Addr::from_bits(candidate))
    }

    fn check(&self, address: Ipv4Addr) -> Result<()> {
        let (first, last) = self.hosts();
        if (first..=last).contains(&address.to_bits()) {
            Ok(())
        } else {
            Err(Error::AddressOutside { address, subnet: self.subnet })
        }
    }

    /// The first and last address for a host: without the network's own and the broadcast address, which /31 and /32
    /// do not have (RFC 3021).
    fn hosts(&self) -> (u32, u32) {
        let (first, last) = (self.subnet.address().to_bits(), self.subnet.last().to_bits());
        if self.subnet.prefix() >= 31 { (first, last) } else { (first + 1, last - 1) }
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

    fn pool(subnet: &str) -> Pool {
        Pool::new(net(subnet), default_gateway(net(subnet)), &[]).unwrap()
    }

    #[test]
    fn lowest_free_first() {
        let mut pool = pool("172.17.0.0/16");
        let a = pool.allocate(None).unwrap();
        assert_eq!(a, Ipv4Addr::new(172, 17, 0, 2));
        assert_eq!(pool.allocate(None).unwrap(), Ipv4Addr::new(172, 17, 0, 3));
        pool.release(a);
        assert_eq!(pool.allocate(None).unwrap(), a);
        assert_eq!(pool.allocate(None).unwrap(), Ipv4Addr::new(172, 17, 0, 4));
    }

    #[test]
    fn requested() {
        let mut pool = pool("10.0.0.0/24");
        let want = Ipv4Addr::new(10, 0, 0, 9);
        assert_eq!(pool.allocate(Some(want)).unwrap(), want);
        assert!(matches!(pool.allocate(Some(want)), Err(Error::AddressTaken { .. })));
        for bad in [[10, 0, 1, 1], [10, 0, 0, 0], [10, 0, 0, 255]] {
            assert!(matches!(pool.allocate(Some(bad.into())), Err(Error::AddressOutside { .. })), "{bad:?}");
        }
        assert!(matches!(pool.allocate(Some([10, 0, 0, 1].into())), Err(Error::AddressTaken { .. })));
    }

    #[test]
    fn exhausted() {
        let mut small = pool("10.0.0.0/29");
        for _ in 0..5 {
            small.allocate(None).unwrap();
        }
        assert!(matches!(small.allocate(None), Err(Error::PoolExhausted { .. })));
        assert_eq!(pool("10.0.0.0/31").allocate(None).unwrap(), Ipv4Addr::new(10, 0, 0, 1));
        assert!(pool("10.0.0.0/32").allocate(None).is_err());
        let mut top = Pool::new(net("255.255.255.252/30"), [255, 255, 255, 253].into(), &[]).unwrap();
        top.allocate(None).unwrap();
        assert!(top.allocate(None).is_err());
    }

    #[test]
    fn range_and_reserved() {
        let reserved = [Ipv4Addr::new(10, 0, 0, 128)];
        let pool = Pool::new(net("10.0.0.0/24"), [10, 0, 0, 1].into(), &reserved).unwrap();
        let mut pool = pool.with_range(net("10.0.0.128/25")).unwrap();
        assert_eq!(pool.allocate(None).unwrap(), Ipv4Addr::new(10, 0, 0, 129));
        assert!(pool.clone().with_range(net("10.0.1.0/25")).is_err());
        assert!(pool.with_range(net("10.0.0.0/8")).is_err());
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
