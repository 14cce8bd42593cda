//! Forgets connections that a change of published ports made wrong.
//!
//! The kernel translates a connection as its first packet was. For TCP that ends with the connection. A UDP client
//! that keeps its port and goes on sending would reach the container that had the port before, or the host, for ever.
//!
//! Kernel: `include/uapi/linux/netfilter/nfnetlink_conntrack.h`.

use crate::netlink::{Attributes, Failure, NLM_F_ACK, NLM_F_DUMP, Request};
use crate::nft::with_socket;
use crate::ports::{PortMapping, Protocol};
use crate::{Error, Result};
use rustix::io::Errno;
use std::net::IpAddr;

/// `NFNL_SUBSYS_CTNETLINK`, shifted.
const SUBSYSTEM: u16 = 1 << 8;
const IPCTNL_MSG_CT_GET: u16 = SUBSYSTEM | 1;
const IPCTNL_MSG_CT_DELETE: u16 = SUBSYSTEM | 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
/// `struct nfgenmsg` with `AF_INET` and with `AF_INET6`.
const FAMILIES: [[u8; 4]; 2] = [[2, 0, 0, 0], [10, 0, 0, 0]];
/// Deletions in one request: their acknowledgements must fit a receive buffer.
const MAX_DELETIONS: usize = 100;

/// Forgets what the kernel knows of UDP to the host's end of `mappings`. Without UDP among them it does nothing.
///
/// A kernel that cannot list connections is fine: they time out.
pub(crate) fn forget_udp(mappings: &[PortMapping]) -> Result<()> {
    let udp: Vec<&PortMapping> =
        mappings.iter().filter(|m| m.protocol == Protocol::Udp && m.host_port != 0).collect();
    if udp.is_empty() {
        return Ok(());
    }
    for header in FAMILIES {
        let mut list = Request::default();
        list.message(IPCTNL_MSG_CT_GET, NLM_F_DUMP, &header, |_| {});
        let dumped =
            with_socket(|socket| socket.dump(&list).map_err(|source| Failure { message: 0, source }));
        let connections = match dumped {
            Ok(connections) => connections,
            Err(f)
                if [Errno::INVAL, Errno::OPNOTSUPP]
                    .map(|e| Some(e.raw_os_error()))
                    .contains(&f.source.raw_os_error()) =>
            {
                return Ok(());
            }
            Err(f) => return Err(failed(f)),
        };
        let stale: Vec<&[u8]> = connections
            .iter()
            .filter_map(|(_, body)| {
                Attributes(body.get(header.len()..)?).find(|(kind, _)| *kind == CTA_TUPLE_ORIG)
            })
            .map(|(_, tuple)| tuple)
            .filter(|tuple| destination(tuple).is_some_and(|to| udp.iter().any(|m| concerns(m, to))))
            .collect();
        stale.chunks(MAX_DELETIONS).try_for_each(|tuples| delete(&header, tuples))?;
    }
    Ok(())
}

fn delete(header: &[u8], tuples: &[&[u8]]) -> Result<()> {
    let mut request = Request::default();
    for tuple in tuples {
        request
            .message(IPCTNL_MSG_CT_DELETE, NLM_F_ACK, header, |r| r.nest(CTA_TUPLE_ORIG, |r| r.raw(tuple)));
    }
    match with_socket(|socket| socket.transact(&request)) {
        // It timed out between the list and now; the others are gone all the same.
        Err(f) if f.source.kind() == std::io::ErrorKind::NotFound => Ok(()),
        done => done.map_err(failed),
    }
}

fn concerns(mapping: &PortMapping, (protocol, address, port): (u8, IpAddr, u16)) -> bool {
    let any = mapping.host_address.is_unspecified();
    protocol == mapping.protocol.number()
        && port == mapping.host_port
        && address.is_ipv6() == mapping.host_address.is_ipv6()
        && (any || address == mapping.host_address)
}

/// Protocol, address and port that the first packet went to.
fn destination(tuple: &[u8]) -> Option<(u8, IpAddr, u16)> {
    let find = |bytes, wanted| Attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let addresses = find(tuple, CTA_TUPLE_IP)?;
    let address = match find(addresses, CTA_IP_V4_DST) {
        Some(bytes) => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        None => IpAddr::from(<[u8; 16]>::try_from(find(addresses, CTA_IP_V6_DST)?).ok()?),
    };
    let protocol = find(tuple, CTA_TUPLE_PROTO)?;
    let port: [u8; 2] = find(protocol, CTA_PROTO_DST_PORT)?.try_into().ok()?;
    Some((*find(protocol, CTA_PROTO_NUM)?.first()?, address, u16::from_be_bytes(port)))
}

fn failed(failure: Failure) -> Error {
    Error::Firewall { operation: "forget UDP connections".into(), source: failure.source }
}
