//! Many datagrams of IPv4 in one call: recvmmsg(2), sendmmsg(2).
#![allow(unsafe_code, reason = "rustix has no recvmmsg")]

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;
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

/// Datagrams to be sent, one behind the other in one piece of memory.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    all: Vec<(Range<usize>, SocketAddrV4)>,
}

/// Room for one control message that says how long each datagram of several is (`UDP_SEGMENT`).
#[repr(C)]
struct Segment {
    header: libc::cmsghdr,
    size: u16,
}

/// Longest datagram that goes to the kernel together with others: it fits into a packet of any link.
const MAX_SEGMENT: usize = 1232;
/// How many of them the oldest kernel that can do it takes.
const MAX_SEGMENTS: usize = 64;

impl Outbox {
    /// Takes everything out.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.all.clear();
    }

    /// Adds what `write` appends, unless it says that there is nothing to send.
    pub fn put(&mut self, to: SocketAddrV4, write: impl FnOnce(&mut Vec<u8>) -> bool) {
        let begin = self.bytes.len();
        if write(&mut self.bytes) {
            self.all.push((begin..self.bytes.len(), to));
        } else {
            self.bytes.truncate(begin);
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Sends those from number `first` on, as many as one call takes, from a socket of IPv4, and waits for nothing. How many
    /// were sent. With `together`, which a socket must be able to do ([`sends_together`]), neighbours of one length to one
    /// address go through the kernel as one packet, and are parted where they arrive.
    ///
    /// # Errors
    ///
    /// Why not even the first could be sent.
    pub fn send(&self, socket: BorrowedFd<'_>, first: usize, together: bool) -> io::Result<usize> {
        let mut names = [no_name(); MOST];
        let mut parts = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; MOST];
        let mut segments = [const { no_segment() }; MOST];
        let mut headers = [no_header(); MOST];
        let mut counts = [0; MOST];
        let (mut next, mut count) = (first, 0u32);
        let places = headers.iter_mut().zip(&mut parts).zip(&mut names).zip(&mut segments).zip(&mut counts);
        for ((((header, part), name), segment), neighbours) in places {
            let Some((range, to)) = self.all.get(next) else { break };
            let end = if together { self.neighbours(next) } else { next + 1 };
            let last = self.all.get(end - 1).map_or(range.end, |(last, _)| last.end);
            let Some(bytes) = self.bytes.get(range.start..last) else { break };
            name.sin_port = to.port().to_be();
            name.sin_addr.s_addr = u32::from_ne_bytes(to.ip().octets());
            *part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = std::ptr::from_mut(name).cast();
            header.msg_hdr.msg_namelen = NAME_LENGTH;
            if end > next + 1 {
                segment.size = u16::try_from(range.len()).unwrap_or(u16::MAX);
                header.msg_hdr.msg_control = std::ptr::from_mut(segment).cast();
                header.msg_hdr.msg_controllen = size_of::<Segment>() as _;
            }
            *neighbours = end - next;
            (next, count) = (end, count + 1);
        }
        // SAFETY: the first `count` headers point to a name, a part and through it to bytes, and some to a control message of
        // the length given, all of which outlive the call. The kernel only reads them: no message of a send is written to.
        let sent =
            unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, libc::MSG_DONTWAIT) };
        let sent = usize::try_from(sent).map_err(|_| io::Error::last_os_error())?;
        Ok(counts.iter().take(sent).sum())
    }

    /// Where the datagrams end that can go together with number `first`: to the same address, of the same length but for the
    /// last, which may be shorter.
    fn neighbours(&self, first: usize) -> usize {
        let Some((range, to)) = self.all.get(first) else { return first + 1 };
        let size = range.len();
        let mut end = first + 1;
        if size == 0 || size > MAX_SEGMENT {
            return end;
        }
        while let Some((next, next_to)) = self.all.get(end)
            && end - first < MAX_SEGMENTS.min(usize::from(u16::MAX) / 2 / size)
            && next_to == to
            && (1..=size).contains(&next.len())
        {
            end += 1;
            if next.len() < size {
                break;
            }
        }
        end
    }
}

/// Whether the kernel takes several datagrams of this socket as one packet (Linux 4.18).
pub fn sends_together(socket: BorrowedFd<'_>) -> bool {
    let mut size: libc::c_int = 0;
    let mut length = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or_default();
    // SAFETY: the value and its length outlive the call, and the length is that of the value.
    let asked = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            std::ptr::from_mut(&mut size).cast(),
            &raw mut length,
        )
    };
    asked == 0
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

const fn no_segment() -> Segment {
    // SAFETY: numbers only (one C library has a filler between them), for which zero is a value.
    let mut header: libc::cmsghdr = unsafe { std::mem::zeroed() };
    header.cmsg_len = (size_of::<libc::cmsghdr>() + size_of::<u16>()) as _;
    header.cmsg_level = libc::SOL_UDP;
    header.cmsg_type = libc::UDP_SEGMENT;
    Segment { header, size: 0 }
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
        let out: Vec<Vec<u8>> = (0..70).map(|n| vec![n; usize::from(n % 9)]).collect();
        let outbox = outbox(&out, second);
        assert_eq!(outbox.send(one.as_fd(), 0, false).unwrap(), MOST);
        assert_eq!(outbox.send(one.as_fd(), MOST, false).unwrap(), 70 - MOST);
        assert_eq!(inbox.receive(two.as_fd()).unwrap(), MOST);
        for (n, bytes) in out.iter().take(MOST).enumerate() {
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
        assert_eq!(Outbox::default().send(one.as_fd(), 0, false).unwrap(), 0);
        let nobody = SocketAddrV4::new(Ipv4Addr::new(255, 255, 255, 255), 9);
        let refused = super::tests::outbox(&[vec![1]], nobody);
        assert!(refused.send(one.as_fd(), 0, false).is_err(), "broadcast is not asked for");
    }

    #[test]
    fn neighbours_of_a_length_go_together() {
        let ((one, first), (two, second), (three, third)) = (socket(), socket(), socket());
        assert!(sends_together(one.as_fd()), "this kernel can");
        // Three of 5, one of 2, three of 3 of which the last is for another, one too long for its neighbours, an empty one.
        let lengths = [5, 5, 5, 2, 3, 3, 3, 2000, 2000, 0, 0, 1];
        let mut outbox = Outbox::default();
        let bytes = |n: usize| vec![u8::try_from(n).unwrap(); lengths[n]];
        for n in 0..lengths.len() {
            outbox.put(if n == 6 { third } else { second }, |out| {
                out.extend(bytes(n));
                true
            });
            outbox.put(second, |out| {
                out.push(99);
                false
            });
        }
        let ends: Vec<usize> = (0..lengths.len()).map(|n| outbox.neighbours(n)).collect();
        assert_eq!(ends, [4, 4, 4, 4, 6, 6, 7, 8, 9, 10, 11, 12]);
        assert_eq!((outbox.len(), outbox.send(one.as_fd(), 0, true).unwrap()), (12, 12));
        let mut inbox = Inbox::new(4096);
        assert_eq!(inbox.receive(three.as_fd()).unwrap(), 1);
        assert_eq!(inbox.get(0), Some(Datagram { bytes: &bytes(6), from: first, is_whole: true }));
        assert_eq!(inbox.receive(two.as_fd()).unwrap(), 11);
        for (at, n) in (0..12).filter(|n| *n != 6).enumerate() {
            assert_eq!(
                inbox.get(at),
                Some(Datagram { bytes: &bytes(n), from: first, is_whole: true }),
                "{n}"
            );
        }
        // More than the kernel takes as one.
        let many = super::tests::outbox(&vec![vec![7; 40]; 150], second);
        assert_eq!((many.neighbours(0), many.neighbours(149)), (64, 150));
        assert_eq!(many.send(one.as_fd(), 0, true).unwrap(), 150);
        let got: usize = (0..3).map(|_| inbox.receive(two.as_fd()).unwrap()).sum();
        assert_eq!(got, 150);
    }

    fn outbox(all: &[Vec<u8>], to: SocketAddrV4) -> Outbox {
        let mut outbox = Outbox::default();
        for bytes in all {
            outbox.put(to, |out| {
                out.extend_from_slice(bytes);
                true
            });
        }
        outbox
    }
}
