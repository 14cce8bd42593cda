//! Connections that become streams: attach and exec.
//!
//! A client that asks for `Upgrade: tcp` gets 101 and raw bytes both ways. One that does not gets the output as a
//! chunked body, and its request body is the input. Without a terminal, output pieces carry Docker's eight-byte header
//! (stream, three zeros, length big-endian); with one they are as the terminal wrote them.

use crate::detach::DetachKeys;
use crate::peer::hung_up;
use crate::reply::{Failure, Outcome, bulk_stream, empty};
use crate::wire::Wire;
use bytes::Bytes;
use engine::{Attachment, Output};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::os::fd::AsFd as _;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf};
use tokio::sync::mpsc;

/// How long a client may take to close its end after the output's.
const LINGER: Duration = Duration::from_secs(1);
/// Size of a read from the client.
const READ: usize = 32 << 10;

/// How a stream behaves.
#[derive(Debug)]
pub(crate) struct Style {
    pub(crate) tty: bool,
    pub(crate) stdin: bool,
    /// The process's stdin ends when this client's input does.
    pub(crate) closes_stdin: bool,
    pub(crate) detach_keys: Option<DetachKeys>,
    /// Sent before anything else: the log, for `logs=1`.
    pub(crate) prologue: Option<mpsc::Receiver<Bytes>>,
}

/// Why there is nothing to stream. A text is for the person at the other end: the answer's status has been sent.
#[derive(Debug, Default)]
pub(crate) struct Refusal(pub(crate) Option<String>);

impl Refusal {
    fn frame(self, tty: bool) -> Bytes {
        match self.0 {
            None => Bytes::new(),
            Some(text) => frame(Output::Stderr(format!("{text}\r\n").into_bytes()), tty),
        }
    }
}

const RAW: &str = "application/vnd.docker.raw-stream";
const MULTIPLEXED: &str = "application/vnd.docker.multiplexed-stream";

/// Takes a request apart: its upgrade if it asks for one, else its body as input.
pub(crate) fn take(mut request: Request<Incoming>) -> (Option<OnUpgrade>, Option<Incoming>) {
    if request.headers().contains_key(UPGRADE) {
        return (Some(hyper::upgrade::on(&mut request)), None);
    }
    (None, Some(request.into_body()))
}

/// Answers with a stream over what `attachment` gives once it is there: on the upgraded connection, or as the reply's
/// body with `input` as the other direction.
pub(crate) fn hijack<F>(
    upgrade: Option<OnUpgrade>,
    input: Option<Incoming>,
    style: Style,
    multiplexed_name: bool,
    attachment: F,
) -> Outcome
where
    F: Future<Output = Result<Attachment, Refusal>> + Send + 'static,
{
    let kind = if style.tty || !multiplexed_name { RAW } else { MULTIPLEXED };
    let Some(upgrade) = upgrade else {
        let (sender, reply) = bulk_stream(kind);
        tokio::spawn(async move {
            let mut style = style;
            if let Some(mut prologue) = style.prologue.take() {
                while let Some(piece) = prologue.recv().await {
                    if sender.send(piece).await.is_err() {
                        return;
                    }
                }
            }
            let attachment = tokio::select! {
                attachment = attachment => attachment,
                () = sender.closed() => return,
            };
            match attachment {
                Ok(attachment) => plain(input, style, attachment, sender).await,
                Err(refusal) => drop(sender.send(refusal.frame(style.tty)).await),
            }
        });
        return Ok(reply);
    };
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => match upgraded.downcast::<TokioIo<Wire>>() {
                Ok(parts) => upgraded_stream(parts.io.into_inner(), parts.read_buf, style, attachment).await,
                Err(_) => tracing::error!("an upgraded connection is none of ours"),
            },
            Err(error) => tracing::debug!(%error, "upgrade"),
        }
    });
    let mut reply = empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("tcp"));
    Ok(reply)
}

/// `first` is what the client sent right behind its request.
async fn upgraded_stream<F>(stream: Wire, first: Bytes, mut style: Style, attachment: F)
where
    F: Future<Output = Result<Attachment, Refusal>> + Send,
{
    // To look at while the stream is in two halves.
    let socket = match stream.as_fd().try_clone_to_owned() {
        Ok(socket) => socket,
        Err(error) => return tracing::warn!(%error, "duplicate a client's socket"),
    };
    let (mut from_client, mut to_client) = tokio::io::split(stream);
    if let Some(mut prologue) = style.prologue.take() {
        while let Some(piece) = prologue.recv().await {
            if to_client.write_all(&piece).await.is_err() {
                return;
            }
        }
    }
    // The task that is waited for may never come.
    let attachment = tokio::select! {
        attachment = attachment => attachment,
        () = hung_up(socket.as_fd()) => return,
    };
    let attachment = match attachment {
        Ok(attachment) => attachment,
        Err(refusal) => {
            drop(to_client.write_all(&refusal.frame(style.tty)).await);
            drop(to_client.shutdown().await);
            return;
        }
    };
    let (mut output, mut input) = attachment.split();
    let outgoing = async {
        while let Ok(Some(piece)) = output.next().await {
            if let Output::Exited(_) = piece {
                break;
            }
            if to_client.write_all(&frame(piece, style.tty)).await.is_err() {
                break;
            }
        }
        drop(to_client.shutdown().await);
    };
    let incoming = async {
        let mut buffer = vec![0; READ];
        let mut first = first;
        loop {
            let read = if first.is_empty() {
                from_client.read(&mut buffer).await
            } else {
                let n = first.len().min(READ);
                buffer[..n].copy_from_slice(&first.split_to(n));
                Ok(n)
            };
            match read {
                Ok(0) | Err(_) => break,
                Ok(_) if !style.stdin => {}
                Ok(n) => {
                    let (bytes, detach) = match &mut style.detach_keys {
                        Some(keys) => keys.feed(&buffer[..n]),
                        None => (buffer[..n].to_vec(), false),
                    };
                    if input.stdin(&bytes).await.is_err() {
                        break;
                    }
                    if detach {
                        return;
                    }
                }
            }
        }
        if style.stdin && style.closes_stdin {
            drop(input.close_stdin().await);
        }
        // The client has said all it wants to say; as long as it listens, the output goes on.
        hung_up(socket.as_fd()).await;
    };
    let has_ended = tokio::select! {
        () = outgoing => true,
        () = incoming => false,
    };
    if has_ended {
        linger(&mut from_client).await;
    }
}

/// Takes what the client still sends until it has closed its end. A socket that is closed with something unread resets the
/// connection, and the client loses the last output with it.
pub(crate) async fn linger(client: &mut ReadHalf<Wire>) {
    let mut buffer = [0; 1024];
    let rest = async { while client.read(&mut buffer).await.is_ok_and(|n| n > 0) {} };
    // One that stays has had its time.
    drop(tokio::time::timeout(LINGER, rest).await);
}

/// Output as the reply's body, input from the request's.
async fn plain(body: Option<Incoming>, style: Style, attachment: Attachment, sender: mpsc::Sender<Bytes>) {
    let (mut output, mut input) = attachment.split();
    let outgoing = async {
        while let Ok(Some(piece)) = output.next().await {
            if matches!(piece, Output::Exited(_)) || sender.send(frame(piece, style.tty)).await.is_err() {
                break;
            }
        }
    };
    let incoming = async {
        let has_input = style.stdin && body.is_some();
        if let Some(mut body) = body {
            while let Some(Ok(piece)) = body.frame().await {
                if let (true, Ok(bytes)) = (style.stdin, piece.into_data())
                    && input.stdin(&bytes).await.is_err()
                {
                    break;
                }
            }
        }
        if has_input && style.closes_stdin {
            drop(input.close_stdin().await);
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = outgoing => {}
        () = incoming => {}
        () = sender.closed() => {}
    }
}

fn frame(piece: Output, tty: bool) -> Bytes {
    let (stream, bytes) = match piece {
        Output::Stdout(bytes) => (1, bytes),
        Output::Stderr(bytes) => (2, bytes),
        Output::Exited(_) => return Bytes::new(),
    };
    if tty { Bytes::from(bytes) } else { multiplexed(stream, &bytes) }
}

/// One piece with Docker's header; `stream` is 1 for stdout, 2 for stderr.
pub(crate) fn multiplexed(stream: u8, bytes: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(8 + bytes.len());
    out.extend_from_slice(&[stream, 0, 0, 0]);
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
    Bytes::from(out)
}

/// The keys of a request, refused when they cannot be read.
pub(crate) fn detach_keys(text: &str, tty: bool) -> Result<Option<DetachKeys>, Failure> {
    match DetachKeys::parse(text) {
        Some(keys) => Ok(tty.then_some(keys)),
        None => Err(Failure::bad_request(format!("Invalid detach keys ({text}) provided"))),
    }
}
