//! The hardware address of an endpoint.

use std::net::IpAddr;

/// Returns the hardware address that goes with `ip`: `02:42` and the last four bytes of the address, as Docker had it.
///
/// It is unique where the address is, so an address that moves to another container takes its neighbours' ARP
/// entries along.
pub fn mac_for(ip: impl Into<IpAddr>) -> [u8; 6] {
    let [.., a, b, c, d] = crate::subnet::to_bits(ip.into()).to_be_bytes();
    [0x02, 0x42, a, b, c, d]
}

#[cfg(test)]
mod tests {
    #[test]
    fn as_docker() {
        assert_eq!(super::mac_for([172, 17, 0, 2]), [0x02, 0x42, 0xac, 0x11, 0x00, 0x02]);
        let ip: std::net::Ipv6Addr = "fd00::a:b".parse().unwrap();
        assert_eq!(super::mac_for(ip), [0x02, 0x42, 0, 0x0a, 0, 0x0b]);
    }
}
