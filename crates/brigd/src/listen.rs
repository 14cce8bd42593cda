//! Sockets: made here, or handed over by systemd; who may use them; the pid file.

use crate::settings::Settings;
use docker_api::Listener;
use errors::{Kind, Report};
use rustix::fs::{FlockOperation, Mode};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, UnixListener};

/// How long a lock that should be free may be held.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// Groups that may use the socket when none is named, first one that exists.
const GROUPS: &[&str] = &["brig", "docker"];

/// Opens all sockets.
pub(crate) fn open(settings: &Settings) -> Result<Vec<Listener>, Report> {
    let mut out = Vec::new();
    let tls = crate::tls::acceptor(&settings.tls)?;
    for host in &settings.hosts {
        if let Some(path) = host.strip_prefix("unix://") {
            out.push(Listener::Unix(unix(Path::new(path), settings.group.as_deref())?));
        } else if host.starts_with("fd://") {
            for listener in from_systemd()? {
                out.push(Listener::Unix(listener));
            }
        } else if let Some(address) = host.strip_prefix("tcp://") {
            for listener in tcp(host, address, settings)? {
                out.push(match &tls {
                    Some(tls) => Listener::Tls(listener, tls.clone()),
                    None => Listener::Tcp(listener),
                });
            }
        } else {
            return Err(Report::new(
                Kind::InvalidArgument,
                format!("--host {host}: want unix://PATH, tcp://HOST:PORT or fd://"),
            ));
        }
    }
    Ok(out)
}

/// Listens for Prometheus.
pub(crate) fn metrics(address: &str) -> Result<TcpListener, Report> {
    let fail = |e: std::io::Error| Report {
        kind: errors::io_kind(&e),
        links: vec![format!("--metrics-addr {address}"), e.to_string()],
    };
    let listener = std::net::TcpListener::bind(address).map_err(fail)?;
    listener.set_nonblocking(true).map_err(fail)?;
    TcpListener::from_std(listener).map_err(fail)
}

/// Removes the sockets that were made here; clients then see at once that nobody listens.
pub(crate) fn remove_sockets(settings: &Settings) {
    for path in settings.hosts.iter().filter_map(|h| h.strip_prefix("unix://")) {
        drop(std::fs::remove_file(path));
    }
}

/// Listens on each address that the host of `HOST:PORT` has. Whoever gets in is root here: off the loopback that takes
/// a client certificate, unless someone said otherwise.
fn tcp(host: &str, address: &str, settings: &Settings) -> Result<Vec<TcpListener>, Report> {
    let default_port = if settings.tls.is_on { 2376 } else { 2375 };
    let invalid = |text: String| Report::new(Kind::InvalidArgument, format!("--host {host}: {text}"));
    let address = address.trim_end_matches('/');
    let (name, port) = match address.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => {
            (name, port.parse::<u16>().map_err(|_| invalid(format!("{port:?} is no port")))?)
        }
        _ => (address, default_port),
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    let name = if name.is_empty() { "127.0.0.1" } else { name };
    let found = (name, port).to_socket_addrs().map_err(|e| invalid(format!("look up {name:?}: {e}")))?;
    let addresses: BTreeSet<SocketAddr> = found.collect();
    let is_guarded = settings.tls.is_on && settings.tls.verifies;
    if let Some(open) = addresses.iter().find(|a| !a.ip().is_loopback())
        && !is_guarded
        && !settings.insecure_tcp
    {
        return Err(Report::new(
            Kind::Denied,
            format!(
                "--host {host}: whoever reaches {open} would be root on this machine; use --tlsverify, or say \
                 --insecure-tcp if that is meant"
            ),
        ));
    }
    addresses
        .into_iter()
        .map(|address| {
            let fail = |e: std::io::Error| Report {
                kind: errors::io_kind(&e),
                links: vec![format!("listen on {address}"), e.to_string()],
            };
            let listener = std::net::TcpListener::bind(address).map_err(fail)?;
            listener.set_nonblocking(true).map_err(fail)?;
            if !is_guarded {
                tracing::warn!(%address, "whoever reaches this address is root on this machine");
            }
            TcpListener::from_std(listener).map_err(fail)
        })
        .collect()
}

fn unix(path: &Path, group: Option<&str>) -> Result<UnixListener, Report> {
    let fail = |doing: &str, e: std::io::Error| Report {
        kind: errors::io_kind(&e),
        links: vec![format!("{doing} {}", path.display()), e.to_string()],
    };
    if let Some(dir) = path.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(dir)
            .map_err(|e| fail("create the directory of", e))?;
    }
    // One that answers belongs to a living daemon; one that does not was left by a dead one.
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(Report::new(
            Kind::AlreadyExists,
            format!("{} is served by another daemon", path.display()),
        ));
    }
    // Bound under another name and renamed: nobody ever connects to a socket with the wrong owner.
    let temporary = PathBuf::from(format!("{}.{}", path.display(), std::process::id()));
    drop(std::fs::remove_file(&temporary));
    let listener = StdListener::bind(&temporary).map_err(|e| fail("bind", e))?;
    let gid = match group {
        Some(name) => Some(group_id(name).ok_or_else(|| {
            Report::new(Kind::InvalidArgument, format!("--group {name}: no group has this name"))
        })?),
        None => GROUPS.iter().find_map(|name| group_id(name)),
    };
    rustix::fs::chmod(&temporary, Mode::from_raw_mode(0o660))
        .map_err(|e| fail("set the mode of", e.into()))?;
    std::os::unix::fs::chown(&temporary, None, gid.or(Some(0))).map_err(|e| fail("set the group of", e))?;
    std::fs::rename(&temporary, path).map_err(|e| fail("put in place", e))?;
    listener.set_nonblocking(true).map_err(|e| fail("set up", e))?;
    UnixListener::from_std(listener).map_err(|e| fail("set up", e))
}

fn group_id(name: &str) -> Option<u32> {
    let text = std::fs::read_to_string("/etc/group").ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
    })
}

/// How many sockets systemd handed over, starting at descriptor 3. sd_listen_fds(3).
pub(crate) fn systemd_sockets() -> u32 {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u32>().ok());
    match (number("LISTEN_PID"), number("LISTEN_FDS")) {
        (Some(pid), Some(count)) if pid == std::process::id() => count,
        _ => 0,
    }
}

fn from_systemd() -> Result<Vec<UnixListener>, Report> {
    let fail = |e: std::io::Error| Report::new(Kind::Internal, format!("take a socket from systemd: {e}"));
    let count = systemd_sockets();
    if count == 0 {
        return Err(Report::new(Kind::InvalidArgument, "--host fd://: systemd handed over no socket"));
    }
    sys::spawn::take_inherited(3, count)
        .map_err(|e| Report::of(&e))?
        .into_iter()
        .map(|fd: OwnedFd| {
            let listener = StdListener::from(fd);
            listener.set_nonblocking(true).map_err(fail)?;
            UnixListener::from_std(listener).map_err(fail)
        })
        .collect()
}

/// Tells systemd that we are ready. sd_notify(3).
pub(crate) fn notify_ready() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let send = || -> std::io::Result<()> {
        let socket = std::os::unix::net::UnixDatagram::unbound()?;
        let text = path.to_string_lossy();
        match text.strip_prefix('@') {
            Some(name) => {
                use std::os::linux::net::SocketAddrExt;
                let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
                socket.send_to_addr(b"READY=1", &address)?;
            }
            None => {
                socket.send_to(b"READY=1", &path)?;
            }
        }
        Ok(())
    };
    if let Err(error) = send() {
        tracing::warn!(%error, "systemd was not told that we are ready");
    }
}

/// Makes the directories of data and of what runs ours alone, as long as the result lives.
pub(crate) fn lock_roots(settings: &Settings) -> Result<[File; 2], Report> {
    let hold = |path: &Path, mode| {
        let fail = |e: std::io::Error| Report {
            kind: errors::io_kind(&e),
            links: vec![format!("open {}", path.display()), e.to_string()],
        };
        std::fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(fail)?;
        let directory = File::open(path).map_err(fail)?;
        lock(&directory, path)?;
        Ok(directory)
    };
    // The modes are the engine's, which makes what lies below.
    Ok([hold(&settings.engine.data_root, 0o710)?, hold(&settings.engine.exec_root, 0o711)?])
}

/// Waits a moment: a program that the last daemon was just starting when it was killed may hold the lock still.
fn lock(file: &File, path: &Path) -> Result<(), Report> {
    let begin = Instant::now();
    loop {
        let error = match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK) if begin.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let message = format!("another daemon holds {}", path.display());
                return Err(Report::new(Kind::AlreadyExists, message));
            }
            Err(e) => std::io::Error::from(e),
        };
        return Err(Report {
            kind: errors::io_kind(&error),
            links: vec![format!("lock {}", path.display()), error.to_string()],
        });
    }
}

/// Keeps the pid file locked while the daemon lives.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
    _file: File,
}

impl Drop for PidFile {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.path));
    }
}

/// Writes our process id. A lock and not the number tells whether a daemon lives: numbers are used again.
pub(crate) fn write_pidfile(settings: &Settings) -> Result<PidFile, Report> {
    let path = &settings.pidfile;
    let fail = |e: std::io::Error| Report {
        kind: errors::io_kind(&e),
        links: vec![format!("write {}", path.display()), e.to_string()],
    };
    let mut file = File::options().write(true).create(true).truncate(false).open(path).map_err(fail)?;
    lock(&file, path)?;
    file.set_len(0).map_err(fail)?;
    writeln!(file, "{}", std::process::id()).map_err(fail)?;
    Ok(PidFile { path: path.clone(), _file: file })
}
