//! The hardware address of an endpoint.

use std::net::Ipv4Addr;

/// Returns the hardware address that goes with `ip`: `02:42` and the four bytes of the address, as Docker had it.
///
/// It is unique where the address is, so an address that moves to another container takes its neighbours' ARP
/// entries along.
pub fn mac_for(ip: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = ip.octets();
    [0x02, 0x42, a, b, c, d]
}

/// The address as people write it.
pub(crate) fn text(mac: [u8; 6]) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    #[test]
    fn as_docker() {
        assert_eq!(super::mac_for([172, 17, 0, 2].into()), [0x02, 0x42, 0xac, 0x11, 0x00, 0x02]);
    }
}
