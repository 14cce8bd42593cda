//! The container's log: what the configuration says, as `logs` has it, and the compression of what was put aside.

use crate::Error;
use logs::{Address, Format, Remote, RemoteKind, Rotation, Syslog, Target, Writer};
use rustix::process::Pid;
use shim_api::{Log, LogFile, RemoteLog, SyslogAddress, SyslogFormat};
use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::path::Path;
use sys::spawn::{Program, spawn};

/// The word before the file's path, when this program is started to compress one.
pub(crate) const COMPRESS: &str = "--compress";

/// Opens the log; None where nothing is kept and nobody gets anything.
pub(crate) fn open(log: &Log) -> Result<Option<Writer>, Error> {
    let target = match log {
        Log::None => return Ok(None),
        Log::JsonFile { file, attrs } => {
            Target { file: Some(of(file, Format::JsonFile)), attrs: attrs.clone(), remote: None }
        }
        Log::Local { file } => Target { file: Some(of(file, Format::Local)), ..Target::default() },
        Log::Remote { to, cache, non_blocking, buffer_bytes } => {
            let (kind, address) = remote(to);
            let remote = Remote::connect(kind, address, *non_blocking, *buffer_bytes)
                .map_err(|source| Error::Setup { what: "failed to initialize logging driver", source })?;
            Target {
                file: cache.as_ref().map(|file| of(file, Format::Local)),
                remote: Some(remote),
                ..Target::default()
            }
        }
    };
    Writer::with(target).map(Some).map_err(Error::Log)
}

fn of(file: &LogFile, format: Format) -> (&Path, Format, Rotation) {
    let rotation =
        Rotation { max_size_bytes: file.max_size_bytes, max_files: file.max_files, compress: file.compress };
    (&file.path, format, rotation)
}

fn remote(to: &RemoteLog) -> (RemoteKind, Address) {
    match to {
        RemoteLog::Journald { socket, fields } => {
            (RemoteKind::Journald(fields.clone()), Address::UnixDatagram(socket.clone()))
        }
        RemoteLog::Syslog { address, format, facility, tag, hostname } => {
            let address = match address {
                SyslogAddress::UnixDatagram(path) => Address::UnixDatagram(path.clone()),
                SyslogAddress::UnixStream(path) => Address::UnixStream(path.clone()),
                SyslogAddress::Udp(to) => Address::Udp(*to),
                SyslogAddress::Tcp(to) => Address::Tcp(*to),
            };
            let format = match format {
                SyslogFormat::Local => logs::SyslogFormat::Local,
                SyslogFormat::Rfc3164 => logs::SyslogFormat::Rfc3164,
                SyslogFormat::Rfc5424 => logs::SyslogFormat::Rfc5424,
                SyslogFormat::Rfc5424Micro => logs::SyslogFormat::Rfc5424Micro,
            };
            let syslog = Syslog {
                format,
                facility: *facility,
                tag: tag.clone(),
                hostname: hostname.clone(),
                pid: std::process::id(),
            };
            (RemoteKind::Syslog(syslog), address)
        }
    }
}

/// Starts this program to compress the file at `path`. One thread has no time for it: the container would wait.
pub(crate) fn start_compression(path: &Path, null: BorrowedFd<'_>) -> Result<Pid, sys::spawn::Error> {
    spawn(&Program {
        path: "/proc/self/exe".as_ref(),
        args: &["brig-shim".as_ref(), COMPRESS.as_ref(), path.as_os_str()],
        env: &[] as &[&OsStr],
        stdin: null,
        stdout: null,
        stderr: rustix::stdio::stderr(),
    })
}
