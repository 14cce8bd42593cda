//! Limits of an endpoint's rate: a token bucket (`tbf`) at each end of its pair, because a queue holds back only what
//! leaves by its interface. The host's end limits what the container receives, the container's own what it sends.
//!
//! The latter lies in the container's namespace: one with `CAP_NET_ADMIN`, which containers have only when they are given
//! it, can take it away.
//!
//! Kernel: [tc-tbf(8)](https://man7.org/linux/man-pages/man8/tc-tbf.8.html), `include/uapi/linux/pkt_sched.h`.

use crate::link::{self, failed};
use crate::netlink::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, Request, Socket};
use crate::{Error, Result, name, sandbox};
use std::net::IpAddr;
use std::path::Path;

const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const TC_H_ROOT: u32 = 0xffff_ffff;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
/// With it the kernel computes times itself and wants no table of them.
const TC_LINKLAYER_ETHERNET: u8 = 1;

/// Least bucket: some full packets, so that a low rate does not starve large ones.
const MIN_BURST: u64 = 16 << 10;
/// The bucket is what passes in this part of a second.
const BURST_PART: u64 = 100;
/// The queue behind it is what passes in this part of a second; what is above is dropped, and TCP slows down.
const QUEUE_PART: u64 = 5;
/// Least queue: one packet that the kernel has not cut yet, twice.
const MIN_QUEUE: u64 = 128 << 10;

/// Limits what the sandbox of the pair whose host end is `host_interface` receives, in bits a second; `None` takes the
/// limit away. May be repeated while packets pass.
///
/// # Errors
///
/// [`Error::InterfaceNotFound`], [`Error::Netlink`].
pub fn limit_incoming(host_interface: &str, bits: Option<u64>) -> Result<()> {
    name::check_interface(host_interface)?;
    let socket = Socket::route().map_err(|source| failed("open a netlink socket", source))?;
    let index = link::index_of(&socket, host_interface)?;
    limit(&socket, index, host_interface, bits)
}

/// Limits what the sandbox sends by its interface with one of these addresses; failing that, by the one with this hardware
/// address.
///
/// # Errors
///
/// As [`limit_incoming`], and [`Error::Sandbox`].
pub fn limit_outgoing(sandbox: &Path, own: &[IpAddr], mac: Option<[u8; 6]>, bits: Option<u64>) -> Result<()> {
    let inside = sandbox::open(sandbox)?;
    let all = link::addresses(&inside.route)?;
    let links = link::list(&inside.route)?;
    let index = all.iter().find(|a| own.contains(&a.address)).map(|a| a.index);
    let others =
        |l: &&link::Link| l.name != "lo" && (Some(l.index) == index || index.is_none() && Some(l.mac) == mac);
    let name = || own.first().map_or_else(String::new, IpAddr::to_string);
    let link = links.iter().find(others).ok_or_else(|| Error::InterfaceNotFound { name: name() })?;
    limit(&inside.route, link.index, &link.name, bits)
}

fn limit(socket: &Socket, index: u32, name: &str, bits: Option<u64>) -> Result<()> {
    let mut request = Request::default();
    match bits {
        Some(bits) => {
            let shape = Shape::of(bits);
            request.message(RTM_NEWQDISC, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, &tcmsg(index), |r| {
                r.text(TCA_KIND, "tbf");
                r.nest(TCA_OPTIONS, |r| {
                    r.attribute(TCA_TBF_PARMS, &shape.parameters());
                    if shape.bytes > u64::from(u32::MAX) {
                        r.attribute(TCA_TBF_RATE64, &shape.bytes.to_ne_bytes());
                    }
                    r.u32(TCA_TBF_BURST, shape.burst);
                });
            });
        }
        None => request.message(RTM_DELQDISC, NLM_F_ACK, &tcmsg(index), |_| {}),
    }
    match socket.transact(&request) {
        // There was none.
        Err(f)
            if bits.is_none()
                && matches!(
                    f.source.raw_os_error().map(rustix::io::Errno::from_raw_os_error),
                    Some(rustix::io::Errno::NOENT | rustix::io::Errno::INVAL)
                ) =>
        {
            Ok(())
        }
        done => done.map_err(|f| failed(format!("limit the rate of {name}"), f.source)),
    }
}

/// A rate as the kernel wants it: bytes.
#[derive(Debug, PartialEq, Eq)]
struct Shape {
    bytes: u64,
    burst: u32,
    queue: u32,
}

impl Shape {
    fn of(bits: u64) -> Shape {
        let bytes = bits.div_ceil(8);
        let burst = (bytes / BURST_PART).max(MIN_BURST);
        let queue = burst.saturating_add(bytes / QUEUE_PART).max(MIN_QUEUE);
        let bound = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        Shape { bytes, burst: bound(burst), queue: bound(queue) }
    }

    /// `struct tc_tbf_qopt`: rate, peak rate, limit, buffer, mtu.
    fn parameters(&self) -> Vec<u8> {
        let rate = u32::try_from(self.bytes).unwrap_or(u32::MAX);
        let mut out = vec![0, TC_LINKLAYER_ETHERNET, 0, 0, 0, 0, 0, 0];
        out.extend_from_slice(&rate.to_ne_bytes());
        out.extend_from_slice(&[0; 12]);
        out.extend_from_slice(&self.queue.to_ne_bytes());
        out.extend_from_slice(&[0; 8]);
        out
    }
}

/// `struct tcmsg` about the root queue of an interface.
fn tcmsg(index: u32) -> [u8; 20] {
    let mut header = [0; 20];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[12..16].copy_from_slice(&TC_H_ROOT.to_ne_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_and_queues() {
        let shape = Shape::of(8_000_000);
        assert_eq!(shape, Shape { bytes: 1_000_000, burst: 16 << 10, queue: 216_384 });
        assert_eq!(shape.parameters().len(), 36);
        assert_eq!(Shape::of(8_000_000_000).burst, 10_000_000);
        assert_eq!(Shape::of(1).bytes, 1);
        assert_eq!(Shape::of(u64::MAX).queue, u32::MAX);
    }
}
