//! A process's stdin, stdout and stderr: pipes or a terminal, our ends non-blocking.

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::net;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer};
use rustix::termios::{self, LocalModes, SpecialCodeIndex, Winsize};
use shim_api::Streams;
use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Our ends.
#[derive(Debug, Default)]
pub(crate) struct Stdio {
    pub(crate) stdin: Option<Sink>,
    /// Stdout and stderr; a terminal's output is stdout.
    pub(crate) output: [Option<OwnedFd>; 2],
    pub(crate) terminal: Option<Terminal>,
}

/// A terminal's ends besides the one in [`Stdio::output`].
#[derive(Debug)]
pub(crate) struct Terminal {
    master: OwnedFd,
    /// Held while the process lives, so that one which closes its terminal and opens it again is still heard.
    slave: Option<OwnedFd>,
}

/// Stdin on its way to a process.
#[derive(Debug)]
pub(crate) struct Sink {
    pub(crate) fd: OwnedFd,
    pub(crate) queue: VecDeque<u8>,
    /// Close when the queue is empty.
    pub(crate) closing: bool,
    last: u8,
}

/// The process's ends, dropped once it has them.
#[derive(Debug)]
pub(crate) struct ChildEnds {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

/// What a read gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Got {
    Bytes(usize),
    Nothing,
    End,
}

impl ChildEnds {
    /// Gives the pipes to a user and group.
    pub(crate) fn give(&self, (uid, gid): (u32, u32)) -> io::Result<()> {
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        for end in [&self.stdin, &self.stdout, &self.stderr].into_iter().flatten() {
            rustix::fs::fchown(end, Some(uid), Some(gid))?;
        }
        Ok(())
    }
}

/// Pipes for the wanted streams; the others are for `/dev/null`.
pub(crate) fn pipes(wanted: Streams) -> io::Result<(Stdio, ChildEnds)> {
    let mut ours = Stdio::default();
    let mut theirs = ChildEnds { stdin: None, stdout: None, stderr: None };
    if wanted.stdin {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        theirs.stdin = Some(reader);
        ours.stdin = Some(Sink::new(writer)?);
    }
    if wanted.stdout {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        set_nonblocking(reader.as_fd())?;
        theirs.stdout = Some(writer);
        ours.output[0] = Some(reader);
    }
    if wanted.stderr {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        set_nonblocking(reader.as_fd())?;
        theirs.stderr = Some(writer);
        ours.output[1] = Some(reader);
    }
    Ok((ours, theirs))
}

impl Stdio {
    /// Around the master of a terminal.
    pub(crate) fn of_terminal(master: OwnedFd) -> io::Result<Stdio> {
        set_nonblocking(master.as_fd())?;
        let slave =
            ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).ok();
        Ok(Stdio {
            stdin: Some(Sink::new(master.try_clone()?)?),
            output: [Some(master.try_clone()?), None],
            terminal: Some(Terminal { master, slave }),
        })
    }

    /// The process is gone: what others hold of its terminal is all that keeps it open.
    pub(crate) fn release(&mut self) {
        self.stdin = None;
        if let Some(terminal) = &mut self.terminal {
            terminal.slave = None;
        }
    }

    /// Hands queued stdin to the process, as far as it takes it.
    pub(crate) fn pump_stdin(&mut self) {
        if self.stdin.as_mut().is_some_and(|sink| !sink.pump()) {
            self.stdin = None;
        }
    }

    /// No more stdin. A pipe closes when what is queued has gone through. On a terminal the end-of-file character is
    /// sent when it works by lines; otherwise nothing, as there is no end of a terminal.
    pub(crate) fn close_stdin(&mut self) {
        let Some(sink) = &mut self.stdin else { return };
        match &self.terminal {
            None => sink.closing = true,
            Some(terminal) => {
                if let Some(end) = terminal.end_of_file() {
                    // After the begin of a line the first one only hands over what there is of it.
                    let times = if matches!(sink.last, b'\n' | b'\r') { 1 } else { 2 };
                    sink.push(&[end, end][..times]);
                    sink.last = b'\n';
                }
            }
        }
    }
}

impl Terminal {
    pub(crate) fn resize(&self, rows: u16, columns: u16) -> io::Result<()> {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(termios::tcsetwinsize(&self.master, size)?)
    }

    fn end_of_file(&self) -> Option<u8> {
        let modes = termios::tcgetattr(&self.master).ok()?;
        modes.local_modes.contains(LocalModes::ICANON).then(|| modes.special_codes[SpecialCodeIndex::VEOF])
    }
}

impl Sink {
    fn new(fd: OwnedFd) -> io::Result<Sink> {
        set_nonblocking(fd.as_fd())?;
        Ok(Sink { fd, queue: VecDeque::new(), closing: false, last: b'\n' })
    }

    /// Queues bytes; what comes after the closing is dropped.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if !self.closing {
            self.queue.extend(bytes);
            self.last = bytes.last().copied().unwrap_or(self.last);
        }
    }

    /// Whether there is something to do once the process reads.
    pub(crate) fn is_busy(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Writes what the process takes; false when this sink is over.
    pub(crate) fn pump(&mut self) -> bool {
        while !self.queue.is_empty() {
            match rustix::io::write(&self.fd, self.queue.as_slices().0) {
                Ok(written) => drop(self.queue.drain(..written)),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return true,
                // The process closed its stdin, or its terminal is gone.
                Err(_) => return false,
            }
        }
        self.queue.shrink_to(4096);
        !self.closing
    }
}

/// Reads once.
pub(crate) fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Got {
    loop {
        return match rustix::io::read(fd, &mut *buffer) {
            Ok(0) => Got::End,
            Ok(n) => Got::Bytes(n),
            Err(rustix::io::Errno::INTR) => continue,
            Err(rustix::io::Errno::AGAIN) => Got::Nothing,
            // EIO is how the master of a terminal says that nobody has it open.
            Err(_) => Got::End,
        };
    }
}

fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(fcntl_setfl(fd, fcntl_getfl(fd)? | OFlags::NONBLOCK)?)
}

/// Where a runtime sends the master of the terminal it made.
#[derive(Debug)]
pub(crate) struct Console {
    listener: OwnedFd,
    name: String,
    /// What to tell the runtime. Short, for `sockaddr_un`, and independent of the runtime's own directory.
    pub(crate) path: PathBuf,
}

impl Console {
    /// Listens on `console-<number>.sock` in the working directory, which is the shim's.
    pub(crate) fn listen(number: u64) -> io::Result<Console> {
        let name = format!("console-{number}.sock");
        let listener = listen(&name)?;
        let path = Path::new(&format!("/proc/{}/cwd", std::process::id())).join(&name);
        Ok(Console { listener, name, path })
    }

    /// The master, once the runtime has sent it. Does not wait.
    pub(crate) fn receive(&self) -> io::Result<OwnedFd> {
        let connection =
            net::accept_with(&self.listener, net::SocketFlags::CLOEXEC | net::SocketFlags::NONBLOCK)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut ancillary = net::RecvAncillaryBuffer::new(&mut space);
        // runc sends the terminal's name along.
        let mut name = [0; 4096];
        let mut parts = [io::IoSliceMut::new(&mut name)];
        net::recvmsg(&connection, &mut parts, &mut ancillary, net::RecvFlags::CMSG_CLOEXEC)?;
        let mut received = ancillary.drain().flat_map(|message| match message {
            net::RecvAncillaryMessage::ScmRights(fds) => fds.collect::<Vec<_>>(),
            _ => Vec::new(),
        });
        let master = received.next().ok_or(io::ErrorKind::UnexpectedEof)?;
        if !termios::isatty(&master) {
            return Err(io::Error::other("what the runtime sent is no terminal"));
        }
        Ok(master)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.name));
    }
}

/// Listens on a name in the working directory, for this user alone.
pub(crate) fn listen(name: &str) -> io::Result<OwnedFd> {
    drop(std::fs::remove_file(name));
    let flags = net::SocketFlags::CLOEXEC | net::SocketFlags::NONBLOCK;
    let socket = net::socket_with(net::AddressFamily::UNIX, net::SocketType::STREAM, flags, None)?;
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let bound = net::bind(&socket, &net::SocketAddrUnix::new(name)?);
    rustix::process::umask(before);
    bound?;
    net::listen(&socket, 64)?;
    Ok(socket)
}
