//! The user's terminal: raw mode that is always undone, its size, detach keys, and the standard streams.

use crate::error::{Error, Result};
use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::termios::{self, OptionalActions, Termios};
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Mutex;
use tokio::sync::mpsc;

/// The settings to go back to. Global, as a panic must find it.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// Bytes written to a pipe at once when it is known to have room: POLLOUT promises one page.
const PIPE_STEP: usize = 4096;

/// Raw mode, until dropped. A panic undoes it too.
#[derive(Debug)]
pub(crate) struct RawMode(());

impl RawMode {
    /// Puts the terminal on standard input into raw mode.
    pub(crate) fn enter() -> Result<RawMode> {
        let failed =
            |e: rustix::io::Errno| Error::Stream { doing: "set the terminal to raw mode", source: e.into() };
        let stdin = io::stdin();
        let before = termios::tcgetattr(&stdin).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        if let Ok(mut saved) = SAVED.lock() {
            *saved = Some(before);
        }
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            previous(info);
        }));
        termios::tcsetattr(&stdin, OptionalActions::Now, &raw).map_err(failed)?;
        Ok(RawMode(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// The terminal without echo, until dropped; for passwords.
#[derive(Debug)]
pub(crate) struct NoEcho(());

impl NoEcho {
    pub(crate) fn enter() -> Result<NoEcho> {
        let failed = |e: rustix::io::Errno| Error::Stream { doing: "hide what is typed", source: e.into() };
        let stdin = io::stdin();
        let before = termios::tcgetattr(&stdin).map_err(failed)?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(termios::LocalModes::ECHO);
        if let Ok(mut saved) = SAVED.lock() {
            *saved = Some(before);
        }
        termios::tcsetattr(&stdin, OptionalActions::Now, &quiet).map_err(failed)?;
        Ok(NoEcho(()))
    }
}

impl Drop for NoEcho {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    let saved = match SAVED.lock() {
        Ok(mut saved) => saved.take(),
        Err(poisoned) => poisoned.into_inner().take(),
    };
    if let Some(before) = saved {
        // Nothing can be done where the terminal is gone.
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &before);
    }
}

/// Rows and columns of the terminal on standard output; none where it is no terminal.
pub(crate) fn size() -> Option<(u16, u16)> {
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let size = termios::tcgetwinsize(&stdout).ok()?;
    (size.ws_row > 0 || size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// Standard input as it arrives, read by a thread of its own; closed at the end.
///
/// The thread is left behind when the command ends: a blocking read cannot be taken back, and making the descriptor
/// non-blocking would change it for the shell that shares it.
pub(crate) fn stdin_chunks() -> mpsc::Receiver<io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(4);
    drop(std::thread::spawn(move || {
        let mut buffer = vec![0; 32 << 10];
        loop {
            let read = io::stdin().lock().read(&mut buffer);
            let chunk = match read {
                Ok(0) => return,
                Ok(length) => Ok(Bytes::copy_from_slice(&buffer[..length])),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => Err(e),
            };
            let last = chunk.is_err();
            if sender.blocking_send(chunk).is_err() || last {
                return;
            }
        }
    }));
    receiver
}

/// Which standard stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Out {
    Stdout,
    Stderr,
}

impl Out {
    /// Writes all of `bytes`, waiting without blocking the other tasks where the reader is slow: standard input must
    /// flow on while output is stuck, or two programs around us could wait for each other.
    pub(crate) async fn write_all(self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if !self.has_room(0)? {
                tokio::task::spawn_blocking(move || self.has_room(-1)).await.map_err(io::Error::other)??;
            }
            let (now, later) = bytes.split_at(bytes.len().min(PIPE_STEP));
            self.write_now(now)?;
            bytes = later;
        }
        Ok(())
    }

    fn has_room(self, timeout_ms: i32) -> io::Result<bool> {
        let timeout = (timeout_ms >= 0).then(rustix::event::Timespec::default);
        let ready = |fd: BorrowedFd<'_>| -> io::Result<bool> {
            let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
            match poll(&mut fds, timeout.as_ref()) {
                Ok(count) => Ok(count > 0),
                Err(rustix::io::Errno::INTR) => Ok(false),
                Err(e) => Err(e.into()),
            }
        };
        match self {
            Out::Stdout => ready(io::stdout().as_fd()),
            Out::Stderr => ready(io::stderr().as_fd()),
        }
    }

    fn write_now(self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Out::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(bytes)?;
                out.flush()
            }
            Out::Stderr => io::stderr().lock().write_all(bytes),
        }
    }
}

/// Writes `text` to standard output, whole. A reader that has gone away ends the command in silence.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|source| match source.kind() {
        io::ErrorKind::BrokenPipe => Error::Exit { code: 1, message: None },
        _ => Error::Stream { doing: "write to standard output", source },
    })
}

/// Writes a line to standard output.
pub(crate) fn print_line(text: &str) -> Result<()> {
    print(&format!("{text}\n"))
}

/// Writes a line to standard error; nobody is left to tell when that fails.
pub(crate) fn warn(text: &str) {
    drop(writeln!(io::stderr().lock(), "{text}"));
}

/// The keys that leave a container without ending it, as bytes: `ctrl-p,ctrl-q`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DetachKeys(Vec<u8>);

impl Default for DetachKeys {
    fn default() -> DetachKeys {
        DetachKeys(vec![16, 17])
    }
}

impl DetachKeys {
    /// Reads Docker's spelling: single characters and `ctrl-` with a letter or one of `@[\]^_`, joined by commas.
    pub(crate) fn parse(text: &str) -> Result<DetachKeys> {
        if text.is_empty() {
            return Ok(DetachKeys::default());
        }
        let key = |word: &str| -> Option<u8> {
            match word.strip_prefix("ctrl-").map(str::as_bytes) {
                Some([c @ b'a'..=b'z']) => Some(c - b'a' + 1),
                Some([b'@']) => Some(0),
                Some([c @ b'['..=b'_']) => Some(c - b'[' + 27),
                Some(_) => None,
                None => match word.as_bytes() {
                    [c] if c.is_ascii() => Some(*c),
                    _ => None,
                },
            }
        };
        let keys: Option<Vec<u8>> = text.split(',').map(key).collect();
        keys.map(DetachKeys)
            .ok_or_else(|| Error::Usage(format!("invalid detach keys ({text}) were provided")))
    }
}

/// Looks for detach keys in what is typed, also where they come in several pieces.
#[derive(Debug)]
pub(crate) struct DetachFilter {
    keys: Vec<u8>,
    matched: usize,
}

impl DetachFilter {
    pub(crate) fn new(keys: &DetachKeys) -> DetachFilter {
        DetachFilter { keys: keys.0.clone(), matched: 0 }
    }

    /// What to send of `input`, and whether the keys are complete. Keys that may be the start of the sequence are
    /// held back until it is clear.
    pub(crate) fn feed(&mut self, input: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(input.len() + self.matched);
        for &byte in input {
            if byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return (out, true);
                }
                continue;
            }
            out.extend_from_slice(&self.keys[..self.matched]);
            self.matched = usize::from(byte == self.keys[0]);
            if self.matched == 0 {
                out.push(byte);
            } else if self.keys.len() == 1 {
                return (out, true);
            }
        }
        (out, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_read() {
        assert_eq!(DetachKeys::parse("").unwrap(), DetachKeys(vec![16, 17]));
        assert_eq!(DetachKeys::parse("ctrl-a,x,ctrl-[,ctrl-@").unwrap(), DetachKeys(vec![1, b'x', 27, 0]));
        for bad in ["ctrl-", "ctrl-1", "xx", "a,,b", "é"] {
            assert!(DetachKeys::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn detach_keys_are_found() {
        let run = |chunks: &[&[u8]]| {
            let mut filter = DetachFilter::new(&DetachKeys::default());
            let mut sent = Vec::new();
            for chunk in chunks {
                let (out, found) = filter.feed(chunk);
                sent.extend(out);
                if found {
                    return (sent, true);
                }
            }
            (sent, false)
        };
        assert_eq!(run(&[b"ab\x10\x11c"]), (b"ab".to_vec(), true));
        assert_eq!(run(&[b"\x10", b"\x11"]), (vec![], true));
        assert_eq!(run(&[b"\x10", b"x"]), (b"\x10x".to_vec(), false));
        assert_eq!(run(&[b"\x10\x10\x11"]), (b"\x10".to_vec(), true));
        assert_eq!(run(&[b"\x11\x11"]), (b"\x11\x11".to_vec(), false));
    }
}
