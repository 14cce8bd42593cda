//! Many datagrams of IPv4 in one call: recvmmsg(2), sendmmsg(2).
#![allow(unsafe_code, reason = "rustix has no recvmmsg")]

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// Datagrams in one call.
pub const MOST: usize = 64;

/// Room for [`MOST`] datagrams of a length, used again and again.
#[derive(Debug, Default)]
pub struct Inbox {
    room: Vec<u8>,
    length: usize,
    arrived: Vec<Arrived>,
}

#[derive(Debug)]
struct Arrived {
    length: usize,
    from: SocketAddrV4,
    is_whole: bool,
}

/// One datagram of an [`Inbox`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    pub bytes: &'a [u8],
    pub from: SocketAddrV4,
    /// False for one that was longer than there was room: the rest is lost.
    pub is_whole: bool,
}

impl Inbox {
    /// Room for datagrams of up to `length` bytes. Pages that no datagram reaches take no memory.
    pub fn new(length: usize) -> Inbox {
        Inbox { room: vec![0; MOST * length], length, arrived: Vec::with_capacity(MOST) }
    }

    /// Takes what has arrived at a socket of IPv4, in place of what was here, and waits for nothing. How many there are.
    ///
    /// # Errors
    ///
    /// `EAGAIN` when nothing has arrived; what the socket reports.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.arrived.clear();
        let mut names = [no_name(); MOST];
        let mut parts = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; MOST];
        let mut headers = [no_header(); MOST];
        let mut count = 0;
        let places = headers.iter_mut().zip(&mut parts).zip(&mut names);
        for (((header, part), name), room) in places.zip(self.room.chunks_exact_mut(self.length.max(1))) {
            *part = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = std::ptr::from_mut(name).cast();
            header.msg_hdr.msg_namelen = NAME_LENGTH;
            count += 1;
        }
        // SAFETY: the first `count` headers point to a name, a part and through it to room of their own, all of which outlive
        // the call; no timeout is given.
        let got = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
        self.arrived.extend(headers.iter().zip(&names).take(got).map(|(header, name)| Arrived {
            length: usize::try_from(header.msg_len).unwrap_or(usize::MAX).min(self.length),
            from: SocketAddrV4::new(
                Ipv4Addr::from(name.sin_addr.s_addr.to_ne_bytes()),
                u16::from_be(name.sin_port),
            ),
            is_whole: header.msg_hdr.msg_flags & libc::MSG_TRUNC == 0,
        }));
        Ok(got)
    }

    /// Number `n` of those that were received last.
    pub fn get(&self, n: usize) -> Option<Datagram<'_>> {
        let Arrived { length, from, is_whole } = self.arrived.get(n)?;
        let begin = n * self.length;
        Some(Datagram { bytes: self.room.get(begin..begin + length)?, from: *from, is_whole: *is_whole })
    }
}

/// Sends the first of `datagrams`, at most [`MOST`], from a socket of IPv4, and waits for nothing. How many were sent.
///
/// # Errors
///
/// Why not even the first could be sent.
pub fn send(socket: BorrowedFd<'_>, datagrams: &[(Vec<u8>, SocketAddrV4)]) -> io::Result<usize> {
    let mut names = [no_name(); MOST];
    let mut parts = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; MOST];
    let mut headers = [no_header(); MOST];
    let mut count = 0;
    let places = headers.iter_mut().zip(&mut parts).zip(&mut names);
    for (((header, part), name), (bytes, to)) in places.zip(datagrams) {
        name.sin_port = to.port().to_be();
        name.sin_addr.s_addr = u32::from_ne_bytes(to.ip().octets());
        *part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        header.msg_hdr.msg_iov = part;
        header.msg_hdr.msg_iovlen = 1;
        header.msg_hdr.msg_name = std::ptr::from_mut(name).cast();
        header.msg_hdr.msg_namelen = NAME_LENGTH;
        count += 1;
    }
    // SAFETY: the first `count` headers point to a name, a part and through it to bytes, all of which outlive the call. The
    // kernel only reads the bytes: no message of a send is written to.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, libc::MSG_DONTWAIT) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

const NAME_LENGTH: libc::socklen_t = 16;
const _: () = assert!(size_of::<libc::sockaddr_in>() == 16);

fn no_name() -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::sa_family_t::try_from(libc::AF_INET).unwrap_or_default(),
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: 0 },
        sin_zero: [0; 8],
    }
}

fn no_header() -> libc::mmsghdr {
    // SAFETY: a header of numbers and pointers, for which zero is a value: no name, no parts, no control data. The C
    // libraries pad it differently, so it cannot be written out.
    unsafe { std::mem::zeroed() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{SocketAddr, UdpSocket};
    use std::os::fd::AsFd as _;

    fn socket() -> (UdpSocket, SocketAddrV4) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let SocketAddr::V4(address) = socket.local_addr().unwrap() else { panic!("bound to IPv4") };
        (socket, address)
    }

    #[test]
    fn many_come_and_go_in_one_call() {
        let ((one, first), (two, second)) = (socket(), socket());
        let mut inbox = Inbox::new(8);
        let error = inbox.receive(two.as_fd()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        let out: Vec<(Vec<u8>, SocketAddrV4)> =
            (0..70).map(|n| (vec![n; usize::from(n % 9)], second)).collect();
        assert_eq!(send(one.as_fd(), &out).unwrap(), MOST);
        assert_eq!(send(one.as_fd(), &out[MOST..]).unwrap(), 70 - MOST);
        assert_eq!(inbox.receive(two.as_fd()).unwrap(), MOST);
        for (n, (bytes, _)) in out.iter().take(MOST).enumerate() {
            let whole = Datagram { bytes, from: first, is_whole: true };
            assert_eq!(inbox.get(n), Some(whole), "{n}");
        }
        assert_eq!(inbox.get(MOST), None);
        assert_eq!(inbox.receive(two.as_fd()).unwrap(), 70 - MOST);
        assert_eq!(inbox.get(6), None);
        // One that is longer than there is room.
        one.send_to(b"0123456789", second).unwrap();
        assert_eq!(inbox.receive(two.as_fd()).unwrap(), 1);
        assert_eq!(inbox.get(0), Some(Datagram { bytes: b"01234567", from: first, is_whole: false }));
        assert_eq!(send(one.as_fd(), &[]).unwrap(), 0);
        let nobody = SocketAddrV4::new(Ipv4Addr::new(255, 255, 255, 255), 9);
        assert!(send(one.as_fd(), &[(vec![1], nobody)]).is_err(), "broadcast is not asked for");
    }
}
