//! Interfaces of this host given away to another network namespace, with their addresses.
//!
//! Kernel: [rtnetlink(7)](https://man7.org/linux/man-pages/man7/rtnetlink.7.html), `IFLA_NET_NS_FD`.

use crate::link::{IFLA_IFNAME, IFLA_NET_NS_FD, RTM_SETLINK, failed, ifinfomsg, ifinfomsg_up};
use crate::netlink::{Attributes, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, Request, Socket, read_u32};
use crate::{Error, Result, link, name};
use rustix::fs::{Mode, OFlags};
use rustix::thread::LinkNameSpaceType;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_F_PERMANENT: u32 = 0x80;
/// No second test whether a neighbour has the address: nobody could have taken it meanwhile.
const IFA_F_NODAD: u32 = 0x02;
const RT_SCOPE_UNIVERSE: u8 = 0;
const IFADDRMSG_LEN: usize = 8;

/// An address as the kernel told it: family, prefix length, and attributes to tell it again.
#[derive(Debug)]
struct RawAddress {
    family: u8,
    prefix: u8,
    attributes: Vec<(u16, Vec<u8>)>,
}

/// Moves the interface `device` of this network namespace into `namespace`, there called `inside`, which may hold `%d` for
/// the first number that is free. Its permanent addresses of global scope go with it, and it is set up.
///
/// For programs with one thread: it is in the other namespace for a moment.
///
/// # Errors
///
/// [`Error::InterfaceNotFound`]; [`Error::InterfaceTaken`] when the other namespace has one of that name;
/// [`Error::Netlink`], for example for `lo`, which belongs to its namespace.
pub fn give(device: &str, inside: &str, namespace: BorrowedFd<'_>) -> Result<()> {
    name::check_interface(device)?;
    name::check_interface(&inside.replacen("%d", "0", 1))?;
    let host = Socket::route().map_err(|source| failed("open a netlink socket", source))?;
    let there = socket_in(namespace)?;
    let index = link::index_of(&host, device)?;
    let before: Vec<u32> = link::list(&there)?.into_iter().map(|l| l.index).collect();
    if !inside.contains("%d") && link::index_of(&there, inside).is_ok() {
        return Err(Error::InterfaceTaken { name: inside.to_owned(), owner: "the container".to_owned() });
    }
    let addresses = addresses(&host, index)?;
    let mut request = Request::default();
    request.message(RTM_SETLINK, NLM_F_ACK, &ifinfomsg(0, index), |r| {
        r.u32(IFLA_NET_NS_FD, namespace.as_raw_fd().cast_unsigned());
        r.text(IFLA_IFNAME, inside);
    });
    host.transact(&request)
        .map_err(|f| failed(format!("move interface {device} into the container as {inside}"), f.source))?;
    let index = link::list(&there)?.into_iter().map(|l| l.index).find(|index| !before.contains(index));
    let index = index.ok_or_else(|| Error::InterfaceNotFound { name: inside.to_owned() })?;
    let mut request = Request::default();
    request.message(RTM_SETLINK, NLM_F_ACK, &ifinfomsg_up(index), |_| {});
    for address in &addresses {
        let [a, b, c, d] = index.to_ne_bytes();
        let header = [address.family, address.prefix, 0, RT_SCOPE_UNIVERSE, a, b, c, d];
        request.message(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE, &header, |r| {
            address.attributes.iter().for_each(|(kind, value)| r.attribute(*kind, value));
            r.u32(IFA_FLAGS, IFA_F_PERMANENT | IFA_F_NODAD);
        });
    }
    there.transact(&request).map_err(|f| {
        failed(format!("set interface {inside} up with its {} addresses", addresses.len()), f.source)
    })
}

/// A socket of another namespace. The caller is back in its own when this returns.
fn socket_in(namespace: BorrowedFd<'_>) -> Result<Socket> {
    let at = |operation: &str| {
        let operation = operation.to_owned();
        move |e: rustix::io::Errno| failed(operation, e.into())
    };
    let own = rustix::fs::open("/proc/self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(at("open own network namespace"))?;
    let enter =
        |fd: BorrowedFd<'_>| rustix::thread::move_into_link_name_space(fd, Some(LinkNameSpaceType::Network));
    enter(namespace).map_err(at("enter the container's network namespace"))?;
    let socket = Socket::route();
    enter(own.as_fd()).map_err(at("return to own network namespace"))?;
    socket.map_err(|source| failed("open a netlink socket", source))
}

fn addresses(socket: &Socket, index: u32) -> Result<Vec<RawAddress>> {
    let mut request = Request::default();
    request.message(RTM_GETADDR, NLM_F_DUMP, &[0; IFADDRMSG_LEN], |_| {});
    let all = socket.dump(&request).map_err(|source| failed("list addresses", source))?;
    Ok(all
        .iter()
        .filter(|(kind, _)| *kind == RTM_NEWADDR)
        .filter_map(|(_, body)| parse(body, index))
        .collect())
}

/// The address, if it is one to keep.
fn parse(body: &[u8], index: u32) -> Option<RawAddress> {
    let &[family, prefix, flags, scope] = body.first_chunk()?;
    if read_u32(body.get(4..)?)? != index || scope != RT_SCOPE_UNIVERSE {
        return None;
    }
    let mut flags = u32::from(flags);
    let mut attributes = Vec::new();
    for (kind, value) in Attributes(body.get(IFADDRMSG_LEN..)?) {
        match kind {
            IFA_ADDRESS | IFA_LOCAL | IFA_BROADCAST => attributes.push((kind, value.to_vec())),
            IFA_FLAGS => flags = read_u32(value)?,
            _ => {}
        }
    }
    (flags & IFA_F_PERMANENT != 0).then_some(RawAddress { family, prefix, attributes })
}
