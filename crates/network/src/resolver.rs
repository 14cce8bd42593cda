//! The sockets of a sandbox's name server: 127.0.0.11, port 53, while port 53 stays free for the container.
//!
//! A container may run a name server of its own on every address, so ours are bound to other ports. Rules in the
//! sandbox's own table rewrite the ports on the way, without tracking connections: a query costs no entry in a table
//! that can be filled.

use crate::nft::{self, Batch, Expr, Verdict};
use crate::{Result, Subnet, sandbox};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;

/// Where a container finds its name server.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// The table inside the sandbox.
const TABLE: &str = "brig-dns";
const DNS: u16 = 53;
const TCP: u8 = 6;
const UDP: u8 = 17;
const NF_INET_LOCAL_OUT: u32 = 3;
/// Before connections are tracked.
const NF_IP_PRI_RAW: i32 = -300;

/// Opens the sockets in the sandbox and leads its port 53 there, in place of earlier ones. Both do not block.
///
/// # Errors
///
/// [`Error::Sandbox`](crate::Error::Sandbox), [`Error::Bind`](crate::Error::Bind),
/// [`Error::Firewall`](crate::Error::Firewall).
pub fn open_resolver(sandbox: &Path) -> Result<(UdpSocket, TcpListener)> {
    sandbox::inside(sandbox, || {
        let any = SocketAddr::new(IpAddr::V4(RESOLVER), 0);
        let bind_error = |protocol| {
            move |source| crate::Error::Bind { address: IpAddr::V4(RESOLVER), port: 0, protocol, source }
        };
        let udp = UdpSocket::bind(any).and_then(|s| s.set_nonblocking(true).map(|()| s));
        let udp = udp.map_err(bind_error("udp"))?;
        let tcp = TcpListener::bind(any).and_then(|s| s.set_nonblocking(true).map(|()| s));
        let tcp = tcp.map_err(bind_error("tcp"))?;
        let udp_port = udp.local_addr().map_err(bind_error("udp"))?.port();
        let tcp_port = tcp.local_addr().map_err(bind_error("tcp"))?.port();
        redirect(udp_port, tcp_port)?;
        Ok((udp, tcp))
    })
}

fn redirect(udp: u16, tcp: u16) -> Result<()> {
    let here = Subnet::new(IpAddr::V4(RESOLVER), 32).expect("32 is at most 32");
    let mut batch = Batch::new(TABLE);
    batch.open_table();
    batch.base_chain("ports", "filter", NF_INET_LOCAL_OUT, NF_IP_PRI_RAW);
    batch.flush_chain("ports");
    for (protocol, port) in [(UDP, udp), (TCP, tcp)] {
        let query = [Expr::IsIpv4, Expr::Daddr(here), Expr::L4Proto(protocol), Expr::Dport(DNS)];
        let answer = [Expr::IsIpv4, Expr::Saddr(here), Expr::L4Proto(protocol), Expr::Sport(port)];
        // A packet is one or the other: the rest need not look at it.
        let done = Expr::Verdict(Verdict::Accept);
        batch.rule("ports", &[&query[..], &[Expr::SetDport(protocol, port), done.clone()]].concat());
        batch.rule("ports", &[&answer[..], &[Expr::SetSport(protocol, DNS), done]].concat());
    }
    nft::commit_apart(batch, "lead port 53 to the name server")
}
