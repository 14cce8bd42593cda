//! Starting `brigd` where nobody listens on the default socket, so that nothing has to be set up before the first
//! `brig run`. Two clients that race start one daemon: the start happens under a file lock.

use crate::error::{Error, Result};
use crate::host::Endpoint;
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a daemon may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(15);
/// Pauses between looks at the socket: short at first, as a daemon with nothing to adopt is up in milliseconds.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
/// How much of the log's end is shown when the daemon dies.
const LOG_TAIL: usize = 2048;

/// Whether a failed connect means that no daemon runs: no socket, or nobody behind it.
pub(crate) fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// Starts `brigd` for `endpoint` and waits until it answers `GET /_ping`.
///
/// # Errors
///
/// [`Error::StartDaemon`] with the reason and the end of the daemon's log.
pub(crate) async fn start(endpoint: &Endpoint) -> Result<()> {
    let Endpoint::Unix(socket) = endpoint else { return Ok(()) };
    let socket = socket.clone();
    let started = tokio::task::spawn_blocking(move || start_once(&socket, find_program)).await;
    started.map_err(|e| failed(&format!("{e}")))?
}

fn start_once(socket: &Path, find_program: impl FnOnce() -> Result<PathBuf>) -> Result<()> {
    let directory = socket.parent().unwrap_or(Path::new("/run"));
    make_directory(directory)?;
    let deadline = Instant::now() + START_TIMEOUT;
    let _lock = lock(&directory.join("start.lock"), deadline)?;
    // Whoever held the lock before may have started it.
    if ping(socket).is_ok() {
        return Ok(());
    }
    let program = find_program()?;
    let log_path = directory.join("brigd.log");
    let log = open_log(&log_path)?;
    let log_start = log.metadata().map_or(0, |m| m.len());
    let mut child = spawn(&program, &log)?;
    let mut pause = FIRST_PAUSE;
    loop {
        if ping(socket).is_ok() {
            return Ok(());
        }
        if let Ok(Some(status)) = child.try_wait() {
            // Another daemon may have won a race outside our lock; then ours leaves and the socket answers.
            if ping(socket).is_ok() {
                return Ok(());
            }
            return Err(failed(&format!(
                "{} ended with {status}{}",
                program.display(),
                tail(&log_path, log_start)
            )));
        }
        if Instant::now() >= deadline {
            let seconds = START_TIMEOUT.as_secs();
            return Err(failed(&format!(
                "no answer on {} within {seconds} s{}",
                socket.display(),
                tail(&log_path, log_start)
            )));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn failed(reason: &str) -> Error {
    Error::StartDaemon { reason: reason.to_string() }
}

fn make_directory(directory: &Path) -> Result<()> {
    let file = |source| Error::File { doing: "create directory", path: directory.into(), source };
    match std::fs::create_dir_all(directory) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            Err(failed("permission denied; run as root, or start brigd as a service"))
        }
        result => result.map_err(file),
    }
}

fn lock(path: &Path, deadline: Instant) -> Result<File> {
    let doing = |source: io::Error| match source.kind() {
        io::ErrorKind::PermissionDenied => {
            failed("permission denied; run as root, or start brigd as a service")
        }
        _ => Error::File { doing: "lock", path: path.into(), source },
    };
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).map_err(|e| doing(e.into()))?;
    let mut pause = FIRST_PAUSE;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file.into()),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Err(e) => return Err(doing(e.into())),
        }
    }
}

/// `brigd` beside this program, else in PATH.
fn find_program() -> Result<PathBuf> {
    if let Ok(own) = std::env::current_exe()
        && let Some(beside) = own.parent().map(|d| d.join("brigd"))
        && beside.is_file()
    {
        return Ok(beside);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|d| d.join("brigd"))
        .find(|p| p.is_file())
        .ok_or_else(|| failed("brigd is neither beside this program nor in PATH"))
}

fn open_log(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o600).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    options.open(path).map_err(|source| Error::File { doing: "open log", path: path.into(), source })
}

fn spawn(program: &Path, log: &File) -> Result<Child> {
    let doing = |source| Error::File { doing: "start", path: program.into(), source };
    let mut command = Command::new(program);
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(log.try_clone().map_err(doing)?);
    // The daemon outlives the terminal and does not answer to the client's settings.
    command.env_remove("BRIG_HOST").env_remove("DOCKER_HOST");
    sys::session::new_session(&mut command).spawn().map_err(doing)
}

fn ping(socket: &Path) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(START_TIMEOUT))?;
    stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    if head.ends_with(b" 200") { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// The end of what the daemon wrote since `from`, on a new line.
fn tail(path: &Path, from: u64) -> String {
    let Ok(bytes) = std::fs::read(path) else { return String::new() };
    let new = bytes.get(usize::try_from(from).unwrap_or(0)..).unwrap_or_default();
    let text = String::from_utf8_lossy(&new[new.len().saturating_sub(LOG_TAIL)..]).trim().to_string();
    if text.is_empty() { text } else { format!("\n{text}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// Not a test of its own: the daemon that the others start. Answers pings until its socket is taken away.
    #[test]
    fn fake_daemon() {
        let Some(socket) = std::env::var_os("FAKE_DAEMON_SOCKET") else { return };
        let listener = UnixListener::bind(&socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        while Path::new(&socket).exists() {
            match listener.accept() {
                Ok((mut stream, _)) => {
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nOK";
                    stream.read_exact(&mut [0; 16]).and_then(|()| stream.write_all(answer)).unwrap();
                }
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    fn script(directory: &Path, body: &str) -> PathBuf {
        let path = directory.join("brigd");
        // By another program: a child that another thread starts has what we write open until it executes, and what is open
        // for writing cannot be executed.
        let text = format!("#!/bin/sh\n{body}\n");
        let write = r#"printf %s "$1" > "$0" && chmod 755 "$0""#;
        let written = Command::new("sh").args(["-c", write]).arg(&path).arg(text).status().unwrap();
        assert!(written.success());
        path
    }

    #[test]
    fn two_clients_start_one_daemon() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("run/brig.sock");
        let body = format!(
            "echo started >> {0}/starts\nFAKE_DAEMON_SOCKET={1} exec {2} --exact daemon::tests::fake_daemon",
            directory.path().display(),
            socket.display(),
            std::env::current_exe().unwrap().display(),
        );
        let program = script(directory.path(), &body);
        std::thread::scope(|scope| {
            let race = || start_once(&socket, || Ok(program.clone()));
            let threads = [scope.spawn(race), scope.spawn(race), scope.spawn(race)];
            for thread in threads {
                thread.join().unwrap().unwrap();
            }
        });
        assert_eq!(std::fs::read_to_string(directory.path().join("starts")).unwrap(), "started\n");
        assert!(ping(&socket).is_ok());
        std::fs::remove_file(&socket).unwrap();
    }

    #[test]
    fn a_daemon_that_dies_says_why() {
        let directory = tempfile::tempdir().unwrap();
        let program = script(directory.path(), "echo no space left >&2; exit 3");
        let socket = directory.path().join("run/brig.sock");
        let error = start_once(&socket, || Ok(program)).unwrap_err().to_string();
        assert!(error.starts_with("start brigd: ") && error.ends_with("no space left"), "{error}");
        assert!(error.contains("exit status: 3"), "{error}");
    }
}
