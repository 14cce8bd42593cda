//! What went through the interfaces of a sandbox.

use crate::{Result, link, sandbox};
use std::path::Path;

/// The counters of one interface, as the container sees it: `rx` is what came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceStats {
    pub name: String,
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

/// The counters of every interface of the sandbox but `lo`, in the kernel's order. Empty without endpoints.
///
/// `sandbox` may be any file that is a network namespace, such as `/proc/<pid>/ns/net`.
///
/// # Errors
///
/// [`Error::Sandbox`](crate::Error::Sandbox), [`Error::Netlink`](crate::Error::Netlink).
pub fn interface_stats(sandbox: &Path) -> Result<Vec<InterfaceStats>> {
    let links = link::list(&sandbox::open(sandbox)?.route)?;
    Ok(links.into_iter().filter(|link| link.name != "lo").map(from_link).collect())
}

/// In the order of `struct rtnl_link_stats64`.
fn from_link(link: link::Link) -> InterfaceStats {
    let [rx_packets, tx_packets, rx_bytes, tx_bytes, rx_errors, tx_errors, rx_dropped, tx_dropped] =
        link.counters;
    InterfaceStats {
        name: link.name,
        rx_bytes,
        rx_packets,
        rx_errors,
        rx_dropped,
        tx_bytes,
        tx_packets,
        tx_errors,
        tx_dropped,
    }
}
