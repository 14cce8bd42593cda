//! Questions that are none of ours, asked of the servers that the sandbox names: one socket a question, with a number and
//! a port that nobody can guess, and what comes back is taken only from the server that was asked.

use crate::message::{self, Question};
use crate::table::Side;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::LinkNameSpaceType;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long one server may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);
/// Docker asks so many.
pub(crate) const MAX_SERVERS: usize = 3;
/// Largest answer, by TCP.
const MAX_MESSAGE: usize = 65535;

/// The namespaces that questions are asked from.
#[derive(Debug)]
pub(crate) struct Spaces {
    own: OwnedFd,
}

impl Spaces {
    pub(crate) fn open() -> io::Result<Spaces> {
        Ok(Spaces { own: std::fs::File::open("/proc/self/ns/net")?.into() })
    }

    /// Does `work` in another network namespace. This process has one thread, so nobody else is there meanwhile.
    fn inside<T>(&self, namespace: BorrowedFd<'_>, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let enter = |fd: BorrowedFd<'_>| {
            rustix::thread::move_into_link_name_space(fd, Some(LinkNameSpaceType::Network))
        };
        enter(namespace)?;
        let done = work();
        // Nothing can be served from the wrong namespace.
        enter(self.own.as_fd()).expect("one's own namespace can be entered again");
        done
    }
}

/// A question under way.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) socket: Channel,
    /// The number under which it was asked.
    pub(crate) id: u16,
    pub(crate) deadline: Instant,
}

/// How a server is asked: as the client asked us.
#[derive(Debug)]
pub(crate) enum Channel {
    Udp(UdpSocket),
    Tcp { stream: TcpStream, out: Vec<u8>, written: usize, input: Vec<u8> },
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Channel::Udp(socket) => socket.as_fd(),
            Channel::Tcp { stream, .. } => stream.as_fd(),
        }
    }
}

/// Sends the question's message to a server.
pub(crate) fn ask(
    spaces: &Spaces,
    namespace: Option<BorrowedFd<'_>>,
    (side, server): (Side, IpAddr),
    query: &[u8],
    by_tcp: bool,
) -> io::Result<Asked> {
    let address = SocketAddr::new(server, 53);
    let mut id = [0; 2];
    rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())?;
    let mut query = query.to_vec();
    query.splice(..2, id);
    let connect = || channel(address, &query, by_tcp);
    let socket = match (side, namespace) {
        (Side::Inside, Some(namespace)) => spaces.inside(namespace, connect)?,
        _ => connect()?,
    };
    Ok(Asked { socket, id: u16::from_be_bytes(id), deadline: Instant::now() + PATIENCE })
}

fn channel(address: SocketAddr, query: &[u8], by_tcp: bool) -> io::Result<Channel> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let kind = if by_tcp { SocketType::STREAM } else { SocketType::DGRAM };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, kind, flags, None)?;
    // The kernel chooses a port at random, and takes packets of this server only.
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
        Err(errno) => return Err(errno.into()),
    }
    if by_tcp {
        let length = u16::try_from(query.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let out = [&length.to_be_bytes(), query].concat();
        return Ok(Channel::Tcp { stream: TcpStream::from(socket), out, written: 0, input: Vec::new() });
    }
    let socket = UdpSocket::from(socket);
    socket.send(query)?;
    Ok(Channel::Udp(socket))
}

/// What has come of a question.
#[derive(Debug)]
pub(crate) enum Progress {
    Answer(Vec<u8>),
    Waiting,
    /// This server does not help.
    Failed,
}

/// Goes on after the socket became ready.
pub(crate) fn proceed(asked: &mut Asked, question: &Question<'_>, buffer: &mut [u8]) -> Progress {
    match &mut asked.socket {
        Channel::Udp(socket) => loop {
            match socket.recv(buffer) {
                Ok(length) if question.is_answered_by(asked.id, &buffer[..length]) => {
                    return judged(buffer[..length].to_vec());
                }
                // Not ours: somebody guesses.
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Progress::Waiting,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Progress::Failed,
            }
        },
        Channel::Tcp { stream, out, written, input } => {
            while *written < out.len() {
                match stream.write(&out[*written..]) {
                    Ok(0) => return Progress::Failed,
                    Ok(n) => *written += n,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Progress::Waiting,
                    // Not connected yet.
                    Err(e) if e.kind() == io::ErrorKind::NotConnected => return Progress::Waiting,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => return Progress::Failed,
                }
            }
            loop {
                if let Some(length) = input.first_chunk::<2>().map(|l| usize::from(u16::from_be_bytes(*l)))
                    && input.len() >= 2 + length
                {
                    let answer = input[2..2 + length].to_vec();
                    return match question.is_answered_by(asked.id, &answer) {
                        true => judged(answer),
                        false => Progress::Failed,
                    };
                }
                match stream.read(buffer) {
                    Ok(0) => return Progress::Failed,
                    Ok(n) if input.len() + n <= MAX_MESSAGE + 2 => input.extend_from_slice(&buffer[..n]),
                    Ok(_) => return Progress::Failed,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Progress::Waiting,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => return Progress::Failed,
                }
            }
        }
    }
}

/// A server that cannot answer is no better than none.
fn judged(answer: Vec<u8>) -> Progress {
    match message::code(&answer) {
        Some(message::SERVER_FAILURE | message::REFUSED) => Progress::Failed,
        _ => Progress::Answer(answer),
    }
}
