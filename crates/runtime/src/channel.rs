//! What the runtime and the process that becomes the container say to each other, one packet a message, over one
//! `SOCK_SEQPACKET` pair. A side that dies is an end of file for the other.
//!
//! ```text
//! parent                                child
//!   | clone3                              | joins its cgroup, mounts
//!   | id maps, limits of the cgroup       |
//!   |---------- Go ---------------------->| steps that need maps or limits
//!   |<--------- Process(pid) -------------| only if it had to clone once more: the pid to go on with
//!   |<--------- Warning(text) ------------| any time, any number
//!   |<--------- Hooks --------------------| only with prestart or createRuntime hooks
//!   | runs them                           |
//!   |---------- Go ---------------------->|
//!   |<--------- Terminal + descriptor ----| only for a foreground terminal
//!   |<--------- Listener + descriptor ----| only for a seccomp notify listener; its number alone when the profile notifies
//!   |                                     | of sendmsg, and then the parent fetches it
//!   |<--------- Doubt(text) --------------| only if the program is of no format that the kernel has of its own
//!   |---------- Go ---------------------->| where it may have others
//!   |<--------- Ready(program) -----------| the launcher: waits for the gate
//!   | create: leaves                      | reads exec.fifo
//!   | run, exec: Go --------------------->|
//!   |<--------- Failed(text) -------------| instead of any of these, then exits
//!   |<--------- NotExecuted(errno) -------| the launcher's execve failed
//!   |<--------- end of file --------------| execve, which closes its end
//! ```

use crate::Error;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Longest message. Texts are cut to it.
const MAX_MESSAGE: usize = 4096;

/// See the module's drawing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Go = b'g',
    Hooks = b'h',
    Ready = b'r',
    Terminal = b't',
    Listener = b'l',
    Warning = b'w',
    Doubt = b'd',
    Process = b'p',
    Failed = b'f',
    /// From the launcher: one byte, the error number of its execve.
    NotExecuted = sys::launcher::FAILED,
    /// From the launcher: one byte, the error number of its seccomp.
    FilterRefused = sys::launcher::REFUSED,
}

const KINDS: [Kind; 11] = [
    Kind::Go,
    Kind::Hooks,
    Kind::Ready,
    Kind::Terminal,
    Kind::Listener,
    Kind::Warning,
    Kind::Doubt,
    Kind::Process,
    Kind::Failed,
    Kind::NotExecuted,
    Kind::FilterRefused,
];

/// One end.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

/// A message received.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) kind: Kind,
    pub(crate) text: String,
    pub(crate) fd: Option<OwnedFd>,
}

impl Message {
    /// The error number that the launcher tells.
    pub(crate) fn errno(&self) -> Errno {
        Errno::from_raw_os_error(self.text.bytes().next().filter(u8::is_ascii).unwrap_or(0).into())
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Channel {
    /// Both ends, closed at execve. Best made before all that the child lets go of by [`close`](sys::spent::close): numbers without a gap are
    /// closed in one call.
    pub(crate) fn pair() -> Result<(Channel, Channel), Error> {
        let pair =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let (a, b) = pair.map_err(|e| Error::io("make a socket pair", e))?;
        Ok((Channel(a), Channel(b)))
    }

    pub(crate) fn send(&self, kind: Kind, text: &str) -> io::Result<()> {
        let bytes = &text.as_bytes()[..text.len().min(MAX_MESSAGE - 1)];
        let packet = [&[kind as u8], bytes].concat();
        // write(2), not sendmsg(2): a profile may refuse the latter, and no profile can do without the former.
        rustix::io::retry_on_intr(|| rustix::io::write(&self.0, &packet)).map(|_| ()).map_err(Into::into)
    }

    pub(crate) fn send_fd(&self, kind: Kind, fd: BorrowedFd<'_>) -> io::Result<()> {
        send_parts(self.0.as_fd(), &[IoSlice::new(&[kind as u8])], Some(fd)).map(|_| ())
    }

    /// Waits for [`Kind::Go`]. False when anything else came or the other side is gone. By read(2), which no profile can do
    /// without.
    pub(crate) fn wait_for_go(&self) -> io::Result<bool> {
        let mut bytes = [0u8; 16];
        loop {
            match rustix::io::read(&self.0, &mut bytes) {
                Ok(count) => return Ok(bytes[..count] == [Kind::Go as u8]),
                Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNRESET) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// The next message; `None` when the other side is gone.
    pub(crate) fn receive(&self) -> io::Result<Option<Message>> {
        let mut bytes = [0u8; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let length = loop {
            let mut parts = [IoSliceMut::new(&mut bytes)];
            match rustix::net::recvmsg(&self.0, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(message) => break message.bytes,
                // Reset comes once, before what was sent: the other side left without reading our last message.
                Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNRESET) => {}
                Err(e) => return Err(e.into()),
            }
        };
        let mut fd = None;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(mut fds) = message {
                fd = fds.next();
            }
        }
        let Some((&first, rest)) = bytes[..length].split_first() else { return Ok(None) };
        let kind = KINDS.into_iter().find(|&kind| kind as u8 == first);
        let kind = kind.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        // Late in its life the other side is in a container, and who holds its end may be hostile: one line, no more.
        let mut text = String::from_utf8_lossy(rest).into_owned();
        if matches!(kind, Kind::Failed | Kind::Warning | Kind::Doubt | Kind::Ready) {
            text = text.replace(char::is_control, " ");
        }
        Ok(Some(Message { kind, text, fd }))
    }
}

/// Sends one packet or write, with a descriptor beside it if given. Gives how many bytes went; on a stream that may be
/// less than all.
pub(crate) fn send_parts(
    socket: BorrowedFd<'_>,
    parts: &[IoSlice<'_>],
    fd: Option<BorrowedFd<'_>>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: [BorrowedFd<'_>; 1];
    if let Some(fd) = fd {
        fds = [fd];
        control.push(SendAncillaryMessage::ScmRights(&fds));
    }
    loop {
        match rustix::net::sendmsg(socket, parts, &mut control, SendFlags::NOSIGNAL) {
            Ok(count) => return Ok(count),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}
