//! The init of `--init`: process 1 of a container, which starts the container's program, hands on the signals it gets,
//! reaps whatever is left to it, and ends with the program's status. It is this same program under another name, bound
//! read-only at `/sbin/docker-init`, so there is nothing to install and nothing to trust from an image.

use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, wait};
use std::ffi::OsString;
use std::os::fd::AsFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;

/// The name under which a container sees it; where the program is called so, it is this.
pub const NAME: &str = "docker-init";

const SIGCHLD: u32 = 17;
/// Highest signal number.
const MAX_SIGNAL: i32 = 64;
/// Those that a process sends itself by a mistake (ILL, TRAP, ABRT, BUS, FPE, SEGV, SYS): handed on they would blame
/// another. The last two, KILL and STOP, cannot be had.
const OWN: [i32; 9] = [4, 5, 6, 7, 8, 11, 31, 9, 19];
/// The terminal's: the program is in the foreground and gets its own.
const TERMINAL: [u32; 2] = [21, 22];
/// Bytes of the kernel's `struct signalfd_siginfo`, which begins with the number.
const SIGINFO: usize = 128;
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// Runs `words`, the program and its arguments, to its end. Gives back the exit code: the program's own, 128 + the number
/// of the signal that ended it, 126 or 127 where it could not be started.
pub fn run(words: &[OsString]) -> u8 {
    let words = if words.first().is_some_and(|w| w == "--") { &words[1..] } else { words };
    let Some((program, arguments)) = words.split_first() else {
        complain("usage: docker-init -- PROGRAM [ARGUMENT...]");
        return 2;
    };
    let taken: Vec<i32> = (1..=MAX_SIGNAL).filter(|n| !OWN.contains(n)).collect();
    let signals = match sys::signalfd::block(&taken) {
        Ok(signals) => signals,
        Err(e) => {
            complain(&errors::chain(&e));
            return 1;
        }
    };
    let mut command = Command::new(program);
    // What is blocked here is not blocked there: the standard library clears the mask.
    let child = match sys::session::foreground_group(command.args(arguments)).spawn() {
        Ok(child) => child,
        Err(e) => {
            complain(&format!("exec {} failed: {e}", program.to_string_lossy()));
            return match e.kind() {
                std::io::ErrorKind::NotFound => NOT_FOUND,
                std::io::ErrorKind::PermissionDenied => NOT_EXECUTABLE,
                _ => 1,
            };
        }
    };
    let Some(child) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else { return 1 };
    let pidfd = rustix::process::pidfd_open(child, rustix::process::PidfdFlags::empty()).ok();
    loop {
        if let Some(code) = reap(child) {
            return code;
        }
        let mut fds = [rustix::event::PollFd::new(&signals, rustix::event::PollFlags::IN)];
        let _ = rustix::event::poll(&mut fds, None);
        let mut info = [0; SIGINFO];
        while let Ok(SIGINFO) = rustix::io::read(&signals, &mut info) {
            let number = u32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
            if number == SIGCHLD || TERMINAL.contains(&number) {
                continue;
            }
            if let (Some(pidfd), Ok(number)) = (&pidfd, i32::try_from(number)) {
                // It may just have ended, which the next turn sees.
                drop(sys::signalfd::send(pidfd.as_fd(), number));
            }
        }
    }
}

/// Reaps all that have ended; the exit code of `child` once it is among them.
fn reap(child: Pid) -> Option<u8> {
    let mut code = None;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == child => {
                let status = std::process::ExitStatus::from_raw(status.as_raw());
                let signal = status.signal().map(|n| 128 + n);
                code = signal.or(status.code()).and_then(|n| u8::try_from(n & 0xff).ok()).or(Some(1));
            }
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) | Err(_) => return code,
        }
    }
}

#[expect(clippy::print_stderr, reason = "the container's own stderr is where docker-init speaks")]
fn complain(text: &str) {
    eprintln!("{NAME}: {text}");
}
