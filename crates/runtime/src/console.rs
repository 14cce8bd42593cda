//! Terminals: the container's pty, and the caller's terminal in a foreground `run` or `exec`.

use crate::Error;
use crate::mounts::{attach, clone_tree};
use crate::rooted;
use rootdir::RootDir;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::pty::OpenptFlags;
use rustix::termios::{OptionalActions, Termios, Winsize};
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Both ends of a pty.
#[derive(Debug)]
pub(crate) struct Pty {
    pub(crate) master: OwnedFd,
    pub(crate) slave: OwnedFd,
}

/// Makes a pty in the devpts that is at `/dev/pts` below `root`. The multiplexer is verified to be one and the slave is
/// asked of the master, so no name in the container is trusted (CVE-2025-52565).
pub(crate) fn open_pty(root: &RootDir) -> Result<Pty, Errno> {
    const DEVPTS_SUPER_MAGIC: u64 = 0x1cd1;
    let find = rooted::find(root, Path::new("/dev/pts/ptmx"))?;
    if u64::try_from(rustix::fs::fstatfs(&find)?.f_type).ok() != Some(DEVPTS_SUPER_MAGIC)
        || !rooted::is_device(&find, FileType::CharacterDevice, 5, 2)?
    {
        return Err(Errno::NOTTY);
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let master =
        root.open_file(Path::new("/dev/pts/ptmx"), flags, Mode::empty()).map_err(|_| Errno::NOTTY)?;
    if u64::try_from(rustix::fs::fstatfs(&master)?.f_type).ok() != Some(DEVPTS_SUPER_MAGIC) {
        return Err(Errno::NOTTY);
    }
    rustix::pty::unlockpt(&master)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    Ok(Pty { master, slave })
}

/// Makes a pty of the host's, for a process that comes from images, and tells the slave's path.
pub(crate) fn open_host_pty() -> Result<(Pty, std::ffi::CString), Errno> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags)?;
    rustix::pty::unlockpt(&master)?;
    let name = rustix::pty::ptsname(&master, Vec::new())?;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    Ok((Pty { master, slave }, name))
}

/// Shows the slave as `/dev/console`.
pub(crate) fn mount_console(root: &RootDir, slave: BorrowedFd<'_>) -> Result<(), Errno> {
    let path = Path::new("/dev/console");
    let target = match rooted::find_no_follow(root, path) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => rooted::ensure_file(root, path)?,
        Err(e) => return Err(e),
    };
    if rooted::file_type(&target)? == FileType::Symlink {
        return Err(Errno::LOOP);
    }
    let tree = clone_tree(slave, Path::new(""), false)?;
    attach(&tree, &target)
}

/// Makes the slave the controlling terminal and stdin, stdout, stderr.
pub(crate) fn take_terminal(slave: &OwnedFd) -> Result<(), Errno> {
    rustix::process::ioctl_tiocsctty(slave)?;
    rustix::stdio::dup2_stdin(slave)?;
    rustix::stdio::dup2_stdout(slave)?;
    rustix::stdio::dup2_stderr(slave)
}

/// Connects to a `--console-socket`.
pub(crate) fn connect(path: &Path) -> Result<OwnedFd, Error> {
    let at = |e| Error::io(format!("connect to console socket {}", path.display()), e);
    let address = SocketAddrUnix::new(path).map_err(at)?;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(at)?;
    rustix::net::connect(&socket, &address).map_err(at)?;
    Ok(socket)
}

/// A line ends as the container's process ended it; the caller's terminal, or its file, gets no carriage return that it did
/// not ask for. So do runc and docker.
pub(crate) fn keep_line_ends(master: &OwnedFd) {
    if let Ok(mut modes) = rustix::termios::tcgetattr(master) {
        modes.output_modes.remove(rustix::termios::OutputModes::ONLCR);
        let _ = rustix::termios::tcsetattr(master, OptionalActions::Now, &modes);
    }
}

/// Sends the master over a console socket, named as runc names it.
pub(crate) fn send_master(sink: BorrowedFd<'_>, master: BorrowedFd<'_>) -> std::io::Result<()> {
    crate::channel::send_parts(sink, &[IoSlice::new(b"/dev/ptmx")], Some(master)).map(|_| ())
}

/// The caller's terminal in raw mode, while this lives.
#[derive(Debug)]
struct Raw(Termios);

impl Raw {
    fn new() -> Option<Raw> {
        let stdin = rustix::stdio::stdin();
        let old = rustix::termios::tcgetattr(stdin).ok()?;
        let mut raw = old.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(stdin, OptionalActions::Now, &raw).ok()?;
        Some(Raw(old))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = rustix::termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.0);
    }
}

/// Copies between the caller's stdin and stdout and `master` until `process` ends and its output is drained. The size
/// follows the caller's; `signals` is readable when a signal came, and `on_signals` takes them.
pub(crate) fn relay(
    master: Option<&OwnedFd>,
    process: BorrowedFd<'_>,
    signals: Option<BorrowedFd<'_>>,
    mut on_signals: impl FnMut(),
) -> Result<(), Errno> {
    let raw = master.and_then(|_| Raw::new());
    let (stdin, stdout) = (rustix::stdio::stdin(), rustix::stdio::stdout());
    if let Some(master) = master
        && let Ok(size) = rustix::termios::tcgetwinsize(stdout)
    {
        let _ = rustix::termios::tcsetwinsize(master, size);
    }
    let mut input = master.is_some();
    let mut output = master.is_some();
    let mut ended = false;
    let mut bytes = [0u8; 4096];
    while !ended || output {
        let idle = PollFlags::empty();
        let mut polled = [
            PollFd::from_borrowed_fd(process, if ended { idle } else { PollFlags::IN }),
            PollFd::from_borrowed_fd(stdin, if input { PollFlags::IN } else { idle }),
            PollFd::from_borrowed_fd(
                master.map_or(process, |m| m.as_fd()),
                if output { PollFlags::IN } else { idle },
            ),
            PollFd::from_borrowed_fd(
                signals.unwrap_or(process),
                if signals.is_some() { PollFlags::IN } else { idle },
            ),
        ];
        // After the end, what is still in the pty is taken without waiting: a process left behind may hold it open.
        let none = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        match poll(&mut polled, ended.then_some(&none)) {
            Err(Errno::INTR) => continue,
            Err(e) => return Err(e),
            Ok(0) if ended => break,
            Ok(_) => {}
        }
        let ready = polled.each_ref().map(PollFd::revents);
        if signals.is_some() && !ready[3].is_empty() {
            on_signals();
            if let (Some(master), Ok(size)) = (master, rustix::termios::tcgetwinsize(stdout)) {
                resize(master, size);
            }
        }
        if output && !ready[2].is_empty() {
            output = master.is_some_and(|master| copy(master, stdout, &mut bytes));
        }
        if input && !ready[1].is_empty() {
            input = master.is_some_and(|master| copy(stdin, master, &mut bytes));
            if !input && let Some(master) = master {
                // End of input: what ctrl-D does on a terminal.
                let _ = rustix::io::write(master, &[4]);
            }
        }
        ended |= !ready[0].is_empty();
    }
    drop(raw);
    Ok(())
}

fn resize(master: &OwnedFd, size: Winsize) {
    if rustix::termios::tcgetwinsize(master)
        .is_ok_and(|old| (old.ws_row, old.ws_col) != (size.ws_row, size.ws_col))
    {
        let _ = rustix::termios::tcsetwinsize(master, size);
    }
}

/// Copies what is there. False at the end.
fn copy(from: impl AsFd, to: impl AsFd, bytes: &mut [u8]) -> bool {
    let count = match rustix::io::retry_on_intr(|| rustix::io::read(&from, &mut *bytes)) {
        Ok(0) | Err(_) => return false,
        Ok(count) => count,
    };
    let mut left = &bytes[..count];
    while !left.is_empty() {
        match rustix::io::write(&to, left) {
            Ok(written) => left = &left[written..],
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    true
}
