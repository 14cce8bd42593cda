//! Hears of it when another program deletes our table, on kernels where it can (before Linux 6.9).
//!
//! Kernel: `NFNLGRP_NFTABLES` of nfnetlink.

use crate::netlink::{Attributes, Messages, read_text};
use crate::{Error, Result, firewall, nft};
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use std::os::fd::OwnedFd;

/// The bit of group 7, `NFNLGRP_NFTABLES`.
const GROUP: u32 = 1 << 6;
/// `NFNL_SUBSYS_NFTABLES`, and `NFT_MSG_DELTABLE`.
const DELTABLE: u16 = (10 << 8) | 2;
const NFTA_TABLE_NAME: u16 = 1;
/// `struct nfgenmsg`.
const HEADER_LEN: usize = 4;

/// News of this network namespace's tables.
#[derive(Debug)]
pub struct Watch {
    socket: OwnedFd,
}

/// Begins to listen. What happens from now on is told, even if nobody asks for a while.
///
/// # Errors
///
/// [`Error::Firewall`].
pub fn watch() -> Result<Watch> {
    let open = || {
        let flags = SocketFlags::CLOEXEC;
        let socket =
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(NETFILTER))?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, GROUP))?;
        Ok(Watch { socket })
    };
    open().map_err(|errno: rustix::io::Errno| failed(errno))
}

impl Watch {
    /// Waits until our table may be gone. Blocking.
    ///
    /// # Errors
    ///
    /// [`Error::Firewall`].
    pub fn wait_for_loss(&self) -> Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((length, _)) => {
                    if Messages(&buffer[..length]).any(|m| m.kind == DELTABLE && is_ours(m.body)) {
                        return Ok(());
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                // Too much happened to be told, most of it by us.
                Err(rustix::io::Errno::NOBUFS) if nft::has_table(firewall::table()).unwrap_or(false) => {}
                Err(rustix::io::Errno::NOBUFS) => return Ok(()),
                Err(errno) => return Err(failed(errno)),
            }
        }
    }
}

fn is_ours(body: &[u8]) -> bool {
    let mut attributes = Attributes(body.get(HEADER_LEN..).unwrap_or_default());
    attributes.any(|(kind, value)| kind == NFTA_TABLE_NAME && read_text(value) == firewall::table())
}

fn failed(errno: rustix::io::Errno) -> Error {
    Error::Firewall { operation: "listen for changes".into(), source: errno.into() }
}
