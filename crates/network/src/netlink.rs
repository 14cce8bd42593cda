//! A netlink socket, requests for it, and what it answers. Blocking, no allocation per attribute.
//!
//! Requests are batched: several messages go out in one system call. The kernel works through them before the call
//! returns, so the answers are there to be read without waiting.
//!
//! Kernel: [netlink(7)](https://man7.org/linux/man-pages/man7/netlink.7.html).

use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP_INTR: u16 = 0x10;
pub(crate) const NLM_F_ACK: u16 = 0x4;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
const NLA_F_NESTED: u16 = 1 << 15;
const NLA_TYPE_MASK: u16 = 0x3fff;

const HEADER_LEN: usize = 16;
const ATTRIBUTE_LEN: usize = 4;

/// Room for one read. The kernel fills at most 32 KiB in a dump, and an answer is not larger than what was sent.
const BUFFER_LEN: usize = 64 * 1024;

/// Requests up to this pass with the send buffer that Linux gives every socket, 208 KiB.
const LARGE_REQUEST: usize = 100 * 1024;

/// How often a dump starts again because the kernel says that what it lists changed meanwhile.
const MAX_DUMP_TRIES: u32 = 8;
/// The pause after the second attempt; later ones are longer.
const DUMP_PAUSE: std::time::Duration = std::time::Duration::from_millis(1);

/// One or more messages, ready to send.
#[derive(Debug, Default)]
pub(crate) struct Request {
    buffer: Vec<u8>,
    messages: u32,
}

impl Request {
    /// Appends a message of type `kind`: the family's fixed `header`, then the attributes that `fill` adds. Its
    /// number in this request, from 0, is also its sequence number.
    pub(crate) fn message(&mut self, kind: u16, flags: u16, header: &[u8], fill: impl FnOnce(&mut Request)) {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; 4]);
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.buffer.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        self.buffer.extend_from_slice(&self.messages.to_ne_bytes());
        self.buffer.extend_from_slice(&[0; 4]);
        self.buffer.extend_from_slice(header);
        self.pad();
        fill(self);
        let length = u32::try_from(self.buffer.len() - start).expect("a request is far below 4 GiB");
        self.buffer[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        self.messages += 1;
    }

    /// Appends an attribute.
    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.put_attribute(kind, |r| r.buffer.extend_from_slice(value));
    }

    /// Appends a text attribute with the zero that the kernel expects.
    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        self.put_attribute(kind, |r| {
            r.buffer.extend_from_slice(value.as_bytes());
            r.buffer.push(0);
        });
    }

    /// Appends an attribute in host byte order (rtnetlink).
    pub(crate) fn u32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    /// Appends an attribute in network byte order (nftables).
    pub(crate) fn be32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    /// Appends an attribute made of the attributes that `fill` adds.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Request)) {
        self.put_attribute(kind | NLA_F_NESTED, fill);
    }

    /// Appends bytes that are not an attribute, such as the header inside `VETH_INFO_PEER`.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        self.pad();
    }

    /// How many messages there are.
    pub(crate) fn len(&self) -> u32 {
        self.messages
    }

    /// What would be sent.
    #[cfg(test)]
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.buffer
    }

    fn put_attribute(&mut self, kind: u16, fill: impl FnOnce(&mut Request)) {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; 2]);
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        fill(self);
        let length = u16::try_from(self.buffer.len() - start).expect("callers keep attributes below 64 KiB");
        self.buffer[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.pad();
    }

    fn pad(&mut self) {
        self.buffer.resize(self.buffer.len().next_multiple_of(4), 0);
    }
}

/// The first message of a request that failed, and why.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Its number in the request.
    pub(crate) message: u32,
    pub(crate) source: io::Error,
}

impl From<rustix::io::Errno> for Failure {
    fn from(errno: rustix::io::Errno) -> Failure {
        Failure { message: 0, source: errno.into() }
    }
}

/// Type and body of each message of a list.
pub(crate) type Dump = Vec<(u16, Vec<u8>)>;

/// A socket to one part of the kernel, in the network namespace of the thread that opened it, for good.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
}

impl Socket {
    /// A socket for interfaces, addresses and routes.
    pub(crate) fn route() -> io::Result<Socket> {
        // Protocol 0, NETLINK_ROUTE, is what no protocol means.
        Socket::open(None)
    }

    /// A socket for nftables.
    pub(crate) fn netfilter() -> io::Result<Socket> {
        Socket::open(Some(netlink::NETFILTER))
    }

    fn open(protocol: Option<Protocol>) -> io::Result<Socket> {
        let fd = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        Ok(Socket { fd })
    }

    /// Sends `request` and reads what the kernel acknowledges. At least one message must ask for that (`NLM_F_ACK`).
    ///
    /// Later messages of a route request are carried out even if an earlier one failed; nftables undoes all.
    pub(crate) fn transact(&self, request: &Request) -> Result<(), Failure> {
        self.send(request)?;
        let mut buffer = vec![0; BUFFER_LEN];
        let (mut answered, mut failure) = (false, None);
        loop {
            let length = match rustix::net::recv(&self.fd, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => length,
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::AGAIN) => break,
                Err(errno) => return Err(errno.into()),
            };
            for answer in Messages(&buffer[..length]).filter(|a| a.kind == NLMSG_ERROR) {
                answered = true;
                if let Some(source) = error_code(answer.body) {
                    failure.get_or_insert(Failure { message: answer.sequence, source });
                }
            }
        }
        match failure {
            Some(failure) => Err(failure),
            None if answered => Ok(()),
            None => Err(Failure { message: 0, source: io::Error::other("the kernel did not answer") }),
        }
    }

    /// Sends a request that one message answers, and returns its body. To be sent without `NLM_F_ACK`.
    pub(crate) fn get(&self, request: &Request) -> io::Result<Vec<u8>> {
        self.send(request)?;
        let mut buffer = vec![0; BUFFER_LEN];
        let (length, _) =
            rustix::io::retry_on_intr(|| rustix::net::recv(&self.fd, &mut buffer[..], RecvFlags::empty()))?;
        match Messages(&buffer[..length]).next() {
            Some(answer) if answer.kind != NLMSG_ERROR => Ok(answer.body.to_vec()),
            answer => Err(answer
                .and_then(|a| error_code(a.body))
                .unwrap_or_else(|| io::ErrorKind::InvalidData.into())),
        }
    }

    /// Sends one dump request and returns type and body of each message of the answer.
    ///
    /// On a host where so much begins and ends that no list of hundreds can be read in between, the longest of many attempts is
    /// as good as any: what was there throughout is in it, but for rare slips of older kernels, and what was not may be gone
    /// at any time.
    pub(crate) fn dump(&self, request: &Request) -> io::Result<Dump> {
        let mut longest = Dump::new();
        for tries in 0..=MAX_DUMP_TRIES {
            let (all, is_whole) = self.try_dump(request)?;
            if is_whole {
                return Ok(all);
            }
            if all.len() >= longest.len() {
                longest = all;
            }
            std::thread::sleep(DUMP_PAUSE * tries.min(10));
        }
        Ok(longest)
    }

    /// With whether the list stayed as it was while it was read.
    fn try_dump(&self, request: &Request) -> io::Result<(Dump, bool)> {
        self.send(request)?;
        let mut buffer = vec![0; BUFFER_LEN];
        let mut all = Vec::new();
        let mut interrupted = false;
        loop {
            let length = match rustix::net::recv(&self.fd, &mut buffer[..], RecvFlags::empty()) {
                Ok((length, _)) => length,
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            for answer in Messages(&buffer[..length]) {
                interrupted |= answer.flags & NLM_F_DUMP_INTR != 0;
                match answer.kind {
                    NLMSG_DONE => return Ok((all, !interrupted)),
                    NLMSG_ERROR => {
                        return Err(
                            error_code(answer.body).unwrap_or_else(|| io::ErrorKind::InvalidData.into())
                        );
                    }
                    kind => all.push((kind, answer.body.to_vec())),
                }
            }
        }
    }

    fn send(&self, request: &Request) -> rustix::io::Result<()> {
        if request.buffer.len() > LARGE_REQUEST {
            // The limit of this namespace's administrator is for others; without CAP_NET_ADMIN nothing here works.
            rustix::net::sockopt::set_socket_send_buffer_size_force(&self.fd, 2 * request.buffer.len())?;
        }
        // Never connected or bound: the kernel binds the socket now, and the peer defaults to the kernel itself.
        rustix::io::retry_on_intr(|| rustix::net::send(&self.fd, &request.buffer, SendFlags::empty()))
            .map(drop)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The error in an `NLMSG_ERROR`, or `None` for an acknowledgement.
fn error_code(body: &[u8]) -> Option<io::Error> {
    match read_i32(body) {
        Some(0) => None,
        Some(code) => Some(io::Error::from_raw_os_error(code.saturating_neg())),
        None => Some(io::ErrorKind::InvalidData.into()),
    }
}

pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    flags: u16,
    sequence: u32,
    pub(crate) body: &'a [u8],
}

/// The messages in what was read; ends at the first that does not fit.
pub(crate) struct Messages<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let length = usize::try_from(read_u32(self.0)?).ok()?;
        let message = self.0.get(..length)?;
        let body = message.get(HEADER_LEN..)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message {
            kind: u16::from_ne_bytes([message[4], message[5]]),
            flags: u16::from_ne_bytes([message[6], message[7]]),
            sequence: read_u32(&message[8..])?,
            body,
        })
    }
}

/// The attributes in a message's body behind its fixed header, or in a nested attribute.
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let length = usize::from(u16::from_ne_bytes([*self.0.first()?, *self.0.get(1)?]));
        let attribute = self.0.get(..length)?;
        let value = attribute.get(ATTRIBUTE_LEN..)?;
        let kind = u16::from_ne_bytes([attribute[2], attribute[3]]) & NLA_TYPE_MASK;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// The number at the start of `bytes`, in host byte order.
pub(crate) fn read_u32(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().copied().map(u32::from_ne_bytes)
}

/// The number at the start of `bytes`, in host byte order.
pub(crate) fn read_i32(bytes: &[u8]) -> Option<i32> {
    bytes.first_chunk().copied().map(i32::from_ne_bytes)
}

/// The text in `bytes`, without the zero at its end.
pub(crate) fn read_text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut request = Request::default();
        request.message(7, NLM_F_ACK, &[1, 2, 3], |r| {
            r.text(1, "ab");
            r.nest(2, |r| r.u32(3, 9));
        });
        request.message(8, 0, &[], |_| {});
        let all: Vec<_> = Messages(&request.buffer).collect();
        assert_eq!((all[0].kind, all[0].sequence, all[0].flags), (7, 0, NLM_F_ACK | NLM_F_REQUEST));
        assert_eq!((all[1].kind, all[1].sequence, all[1].body.len()), (8, 1, 0));
        let attributes: Vec<_> = Attributes(&all[0].body[4..]).collect();
        assert_eq!(attributes[0], (1, &b"ab\0"[..]));
        let nested: Vec<_> = Attributes(attributes[1].1).collect();
        assert_eq!((attributes[1].0, nested[0].0, read_u32(nested[0].1)), (2, 3, Some(9)));
    }

    #[test]
    fn broken_lengths_end_the_walk() {
        assert_eq!(Messages(&[0; 16]).count(), 0);
        assert_eq!(Messages(&[255; 64]).count(), 0);
        assert_eq!(Attributes(&[0, 0, 1, 0]).count(), 0);
        assert_eq!(Attributes(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(Attributes(&[9, 0, 1, 0]).count(), 0);
        assert_eq!(Attributes(&[4]).count(), 0);
    }
}
