//! The daemon's side of the shim's socket: connect, ask, stream. Every call has a deadline, so a stuck shim costs one
//! request and nothing else.

use crate::error::{During, Error, IoDuring};
use errors::{HasKind, Kind, Report};
use rustix::fs::{Mode, OFlags};
use shim_api::{Exit, FrameKind, Request, Response, Streams};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// How long a shim may take to answer what costs it nothing.
const QUICK: Duration = Duration::from_secs(10);
/// How long a shim may take to start a process: the runtime has to join namespaces and set up a terminal, and a
/// machine under load is slow, not broken.
const SLOW: Duration = Duration::from_secs(120);

/// A greeted connection.
#[derive(Debug)]
pub(crate) struct ShimConnection {
    reader: ShimReader,
    writer: ShimWriter,
}

impl ShimConnection {
    /// Connects to the shim whose directory is `dir`.
    pub(crate) async fn connect(dir: &Path) -> Result<ShimConnection, Error> {
        let connect = async {
            let (read, write) = open(dir).await?.into_split();
            let mut connection = ShimConnection {
                reader: ShimReader { stream: read, buffer: Vec::new(), start: 0 },
                writer: ShimWriter { stream: write },
            };
            match connection.request(&Request::Hello { version: shim_api::VERSION }).await? {
                // Of an older one everything is known; what a newer one wants to hear is not.
                Response::Hello { version, .. } if version > shim_api::VERSION => Err(too_new(version)),
                Response::Hello { .. } => Ok(connection),
                other => Err(unexpected(&other)),
            }
        };
        within(QUICK, connect).await
    }

    /// Process id of the shim, even of one that does not answer; None when nobody listens.
    pub(crate) async fn pid(dir: &Path) -> Option<i32> {
        let stream = within(QUICK, open(dir)).await.ok()?;
        stream.peer_cred().ok()?.pid()
    }

    /// Sends `request` and waits for its answer. A refusal is an error with the shim's own chain.
    pub(crate) async fn request(&mut self, request: &Request) -> Result<Response, Error> {
        let limit = match request {
            Request::Start | Request::Exec { .. } | Request::Pause | Request::Resume | Request::Shutdown => {
                SLOW
            }
            _ => QUICK,
        };
        within(limit, async {
            self.writer.send_control(request).await?;
            match self.reader.response().await? {
                Some(Response::Failed(report)) => Err(report).during(|| "shim".to_string()),
                Some(response) => Ok(response),
                None => Err(lost()),
            }
        })
        .await
    }

    /// Asks for events from now on, the exits already known first. There is no answer but events.
    pub(crate) async fn subscribe(&mut self) -> Result<(), Error> {
        within(QUICK, self.writer.send_control(&Request::Subscribe)).await
    }

    /// Asks for the streams of init from now on.
    pub(crate) async fn attach(dir: &Path, streams: Streams) -> Result<ShimConnection, Error> {
        let mut connection = ShimConnection::connect(dir).await?;
        match connection.request(&Request::Attach { streams }).await? {
            Response::Ok => Ok(connection),
            other => Err(unexpected(&other)),
        }
    }

    /// The two halves of a streaming connection.
    pub(crate) fn split(self) -> (ShimReader, ShimWriter) {
        (self.reader, self.writer)
    }

    /// The next event of a subscribed connection; None when the shim has left.
    pub(crate) async fn next_event(&mut self) -> Result<Option<shim_api::Event>, Error> {
        match self.reader.response().await? {
            Some(Response::Event(event)) => Ok(Some(event)),
            Some(other) => Err(unexpected(&other)),
            None => Ok(None),
        }
    }
}

async fn open(dir: &Path) -> Result<UnixStream, Error> {
    let doing = || format!("connect to shim in {}", dir.display());
    // A socket's path is limited to 108 bytes; through the directory's descriptor it always fits.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let handle = rustix::fs::open(dir, flags, Mode::empty()).io_during(doing)?;
    let path = format!("/proc/self/fd/{}/{}", handle.as_raw_fd(), shim_api::SOCKET_FILE);
    UnixStream::connect(path).await.io_during(doing)
}

/// One question on a connection of its own.
pub(crate) async fn ask(dir: &Path, request: &Request) -> Result<Response, Error> {
    ShimConnection::connect(dir).await?.request(request).await
}

/// What a streaming connection brings.
#[derive(Debug)]
pub enum Output {
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    /// The process ended; nothing follows.
    Exited(Exit),
}

/// Reads output of a process.
#[derive(Debug)]
pub struct ShimReader {
    stream: OwnedReadHalf,
    buffer: Vec<u8>,
    start: usize,
}

impl ShimReader {
    /// The next piece of output, or None when the connection is over. May be dropped and called again.
    pub async fn next(&mut self) -> Result<Option<Output>, Error> {
        loop {
            let Some((kind, payload)) = self.frame().await? else { return Ok(None) };
            match kind {
                FrameKind::Stdout => return Ok(Some(Output::Stdout(payload))),
                FrameKind::Stderr => return Ok(Some(Output::Stderr(payload))),
                FrameKind::Control => match parse(&payload)? {
                    Response::Event(shim_api::Event::Exited { exit, .. }) => {
                        return Ok(Some(Output::Exited(exit)));
                    }
                    Response::Failed(report) => return Err(report).during(|| "shim".to_string()),
                    _ => {}
                },
                FrameKind::Stdin | FrameKind::CloseStdin => {}
            }
        }
    }

    async fn response(&mut self) -> Result<Option<Response>, Error> {
        match self.frame().await? {
            None => Ok(None),
            Some((FrameKind::Control, payload)) => parse(&payload).map(Some),
            Some((kind, _)) => Err(protocol(format!("shim sent {kind:?} where an answer was due"))),
        }
    }

    /// One frame. Cancel-safe: what was read stays in the buffer.
    async fn frame(&mut self) -> Result<Option<(FrameKind, Vec<u8>)>, Error> {
        loop {
            if let Some(frame) = self.take_frame()? {
                return Ok(Some(frame));
            }
            if self.start > 0 {
                self.buffer.drain(..self.start);
                self.start = 0;
            }
            self.buffer.reserve(16 << 10);
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) if self.buffer.is_empty() => return Ok(None),
                Ok(0) => return Err(lost()),
                Ok(_) => {}
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return Ok(None),
                Err(e) => return Err(e).io_during(|| "read from shim".into()),
            }
        }
    }

    fn take_frame(&mut self) -> Result<Option<(FrameKind, Vec<u8>)>, Error> {
        let bytes = &self.buffer[self.start..];
        let Some((header, rest)) = bytes.split_first_chunk::<5>() else { return Ok(None) };
        let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = FrameKind::from_byte(header[4])
            .ok_or_else(|| protocol(format!("shim sent a frame of unknown kind {}", header[4])))?;
        if length > shim_api::MAX_CONTROL {
            return Err(protocol(format!("shim sent a frame of {length} bytes")));
        }
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        let payload = payload.to_vec();
        self.start += 5 + length;
        Ok(Some((kind, payload)))
    }
}

/// Writes stdin of a process.
#[derive(Debug)]
pub struct ShimWriter {
    stream: OwnedWriteHalf,
}

impl ShimWriter {
    /// Passes `bytes` to the process's stdin.
    pub async fn stdin(&mut self, bytes: &[u8]) -> Result<(), Error> {
        for chunk in bytes.chunks(shim_api::MAX_STDIO) {
            self.send(FrameKind::Stdin, chunk).await?;
        }
        Ok(())
    }

    /// Ends the process's stdin.
    pub async fn close_stdin(&mut self) -> Result<(), Error> {
        self.send(FrameKind::CloseStdin, &[]).await
    }

    async fn send_control(&mut self, request: &Request) -> Result<(), Error> {
        let json = serde_json::to_vec(request).map_err(|e| protocol(e.to_string()))?;
        self.send(FrameKind::Control, &json).await
    }

    async fn send(&mut self, kind: FrameKind, payload: &[u8]) -> Result<(), Error> {
        let length = u32::try_from(payload.len()).map_err(|_| protocol("frame too long".into()))?;
        let mut frame = Vec::with_capacity(5 + payload.len());
        frame.extend_from_slice(&length.to_be_bytes());
        frame.push(kind as u8);
        frame.extend_from_slice(payload);
        self.stream.write_all(&frame).await.io_during(|| "write to shim".into())
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(Report::new(Kind::Unavailable, format!("no answer within {} s", limit.as_secs())))
            .during(|| "shim".into()),
    }
}

fn parse(payload: &[u8]) -> Result<Response, Error> {
    serde_json::from_slice(payload).map_err(|e| protocol(format!("shim sent bad JSON: {e}")))
}

fn protocol(message: String) -> Error {
    let report = Report::new(Kind::Internal, message);
    Error::Failed { doing: "talk to shim".into(), kind: report.kind(), source: Box::new(report) }
}

fn too_new(version: u32) -> Error {
    let known = shim_api::VERSION;
    let message = format!(
        "the container's shim speaks version {version} of the protocol, this daemon {known}: a newer brigd made it"
    );
    let report = Report::new(Kind::Unsupported, message);
    Error::Failed { doing: "talk to shim".into(), kind: report.kind(), source: Box::new(report) }
}

fn lost() -> Error {
    let report = Report::new(Kind::Unavailable, "the shim closed the connection");
    Error::Failed { doing: "talk to shim".into(), kind: report.kind(), source: Box::new(report) }
}

pub(crate) fn unexpected(response: &Response) -> Error {
    protocol(format!("shim answered {response:?}"))
}
