//! `GET /containers/{id}/attach/ws`: attaching from where only web sockets can be opened. The messages are bytes as the container
//! reads and writes them; what it writes is not told apart, as with Docker.
//!
//! Protocol: [RFC 6455](https://www.rfc-editor.org/rfc/rfc6455).

use crate::containers::log_stream;
use crate::hijack::{Style, detach_keys, linger};
use crate::peer::hung_up;
use crate::reply::{Failure, Outcome, empty};
use crate::request::Call;
use crate::serve::Api;
use crate::wire::Wire;
use base64::Engine as _;
use bytes::{Buf, Bytes, BytesMut};
use engine::{Attachment, LogOptions, Output, Streams};
use hyper::StatusCode;
use hyper::header::{
    CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper_util::rt::TokioIo;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::Mutex;

/// What the standard puts behind the client's key.
const MAGIC: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Longest payload of a control frame, by the standard.
const MAX_CONTROL: usize = 125;
/// Size of a read from the client.
const READ: usize = 32 << 10;

/// What a frame is.
mod opcode {
    pub(super) const BINARY: u8 = 2;
    pub(super) const CLOSE: u8 = 8;
    pub(super) const PING: u8 = 9;
    pub(super) const PONG: u8 = 10;
}

/// `GET /containers/{id}/attach/ws`.
pub(crate) async fn attach(api: &Arc<Api>, id: &str, mut call: Call) -> Outcome {
    let header = |name| call.request.headers().get(name).and_then(|v: &HeaderValue| v.to_str().ok());
    let asks = header(UPGRADE).is_some_and(|u| u.eq_ignore_ascii_case("websocket"));
    let key = header(SEC_WEBSOCKET_KEY).filter(|k| !k.is_empty());
    let (true, Some(key), Some("13")) = (asks, key, header(SEC_WEBSOCKET_VERSION)) else {
        return Err(Failure::bad_request("this is for web sockets (RFC 6455, version 13) only"));
    };
    let accept = HeaderValue::from_str(&accept(key)).map_err(|e| Failure::bad_request(e.to_string()))?;
    let query = &call.query;
    let streams =
        Streams { stdin: query.flag("stdin"), stdout: query.flag("stdout"), stderr: query.flag("stderr") };
    let config = api.engine.container(id)?.record().config;
    let keys = detach_keys(query.text("detachKeys"), config.tty && streams.stdin)?;
    let prologue = if query.flag("logs") {
        let options = LogOptions { stdout: streams.stdout, stderr: streams.stderr, ..LogOptions::default() };
        // As on a terminal: without headers.
        Some(log_stream(api, id, options, true, false, false)?)
    } else {
        None
    };
    let style = Style {
        tty: config.tty,
        stdin: streams.stdin,
        closes_stdin: config.stdin_once && !config.tty,
        detach_keys: keys,
        prologue,
    };
    let pending = if query.flag("stream") { Some(api.engine.attach(id, streams).await?) } else { None };
    let attachment = async move {
        match pending {
            Some(pending) => pending.ready().await,
            None => None,
        }
    };
    let upgrade = hyper::upgrade::on(&mut call.request);
    tokio::spawn(async move {
        match upgrade.await.map(|upgraded| upgraded.downcast::<TokioIo<Wire>>()) {
            Ok(Ok(parts)) => talk(parts.io.into_inner(), parts.read_buf, style, attachment).await,
            Ok(Err(_)) => tracing::error!("an upgraded connection is none of ours"),
            Err(error) => tracing::debug!(%error, "upgrade"),
        }
    });
    let mut reply = empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = reply.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    Ok(reply)
}

fn accept(key: &str) -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key.as_bytes());
    context.update(MAGIC);
    base64::engine::general_purpose::STANDARD.encode(context.finish())
}

async fn talk<F>(stream: Wire, first: Bytes, mut style: Style, attachment: F)
where
    F: Future<Output = Option<Attachment>> + Send,
{
    // To look at while the stream is in two halves.
    let socket = match stream.as_fd().try_clone_to_owned() {
        Ok(socket) => socket,
        Err(error) => return tracing::warn!(%error, "duplicate a client's socket"),
    };
    let (from_client, to_client) = tokio::io::split(stream);
    let to_client = Arc::new(Mutex::new(to_client));
    if let Some(mut prologue) = style.prologue.take() {
        while let Some(piece) = prologue.recv().await {
            if send(&to_client, opcode::BINARY, &piece).await.is_err() {
                return;
            }
        }
    }
    let mut client = Client { half: from_client, buffer: BytesMut::from(&first[..]) };
    let attachment = tokio::select! {
        attachment = attachment => attachment,
        () = hung_up(socket.as_fd()) => return,
    };
    if let Some(attachment) = attachment {
        let (mut output, mut input) = attachment.split();
        let outgoing = async {
            while let Ok(Some(piece)) = output.next().await {
                let (Output::Stdout(bytes) | Output::Stderr(bytes)) = piece else { return };
                if send(&to_client, opcode::BINARY, &bytes).await.is_err() {
                    return;
                }
            }
        };
        let incoming = async {
            // What breaks the protocol ends the connection, as its end does.
            while let Ok(Some(part)) = client.next().await {
                match part {
                    Part::Data(_) if !style.stdin => {}
                    Part::Data(bytes) => {
                        let (bytes, detach) = match &mut style.detach_keys {
                            Some(keys) => keys.feed(&bytes),
                            None => (bytes.to_vec(), false),
                        };
                        if input.stdin(&bytes).await.is_err() || detach {
                            return;
                        }
                    }
                    Part::Ping(payload) => {
                        if send(&to_client, opcode::PONG, &payload).await.is_err() {
                            return;
                        }
                    }
                    Part::Close => break,
                }
            }
            if style.stdin && style.closes_stdin {
                drop(input.close_stdin().await);
            }
        };
        tokio::select! {
            () = outgoing => {}
            () = incoming => {}
        }
    }
    // 1000: what it was for is done.
    drop(send(&to_client, opcode::CLOSE, &1000u16.to_be_bytes()).await);
    drop(to_client.lock().await.shutdown().await);
    linger(&mut client.half).await;
}

async fn send(to: &Mutex<WriteHalf<Wire>>, code: u8, payload: &[u8]) -> std::io::Result<()> {
    let mut to = to.lock().await;
    to.write_all(&head(code, payload.len())).await?;
    to.write_all(payload).await?;
    to.flush().await
}

/// The head of an unmasked frame that is a whole message.
fn head(code: u8, length: usize) -> Vec<u8> {
    let mut out = vec![0x80 | code];
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short), _) if short < 126 => out.push(short),
        (_, Ok(middle)) => {
            out.push(126);
            out.extend_from_slice(&middle.to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out
}

/// What a client sent.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    /// Bytes of a message; where it ends does not matter to a stream.
    Data(Bytes),
    Ping(Bytes),
    Close,
}

/// The client's frames. Long ones are passed on while they arrive.
struct Client {
    half: ReadHalf<Wire>,
    buffer: BytesMut,
}

impl Client {
    /// The next part; None at the end.
    async fn next(&mut self) -> std::io::Result<Option<Part>> {
        loop {
            match take(&mut self.buffer)? {
                Some(part) => return Ok(Some(part)),
                None => {
                    self.buffer.reserve(READ);
                    if self.half.read_buf(&mut self.buffer).await? == 0 {
                        return Ok(None);
                    }
                }
            }
        }
    }
}

/// The largest frame with data. What people and programs type fits many times over.
const MAX_DATA: u64 = 4 << 20;

/// Takes the next frame off `buffer` once it is whole.
fn take(buffer: &mut BytesMut) -> std::io::Result<Option<Part>> {
    let bad = |why: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, why.to_string());
    loop {
        let &[first, second, ref rest @ ..] = &buffer[..] else { return Ok(None) };
        let (code, masked) = (first & 0x0f, second & 0x80 != 0);
        if first & 0x70 != 0 || !masked {
            return Err(bad("a client's frames are masked and have no extensions"));
        }
        let (length, used) = match (second & 0x7f, rest) {
            (126, &[a, b, ..]) => (u64::from(u16::from_be_bytes([a, b])), 2),
            (127, rest) if rest.len() >= 8 => (
                u64::from_be_bytes([rest[0], rest[1], rest[2], rest[3], rest[4], rest[5], rest[6], rest[7]]),
                8,
            ),
            (126 | 127, _) => return Ok(None),
            (short, _) => (u64::from(short), 0),
        };
        let is_control = code & 0x08 != 0;
        if length > if is_control { MAX_CONTROL as u64 } else { MAX_DATA } {
            return Err(bad("a frame is too long"));
        }
        let (start, length) = (2 + used, usize::try_from(length).map_err(|_| bad("a frame is too long"))?);
        if buffer.len() < start + 4 + length {
            return Ok(None);
        }
        buffer.advance(start);
        let mask = [buffer[0], buffer[1], buffer[2], buffer[3]];
        buffer.advance(4);
        let mut payload = buffer.split_to(length);
        payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
        match code {
            0..=2 => return Ok(Some(Part::Data(payload.freeze()))),
            opcode::CLOSE => return Ok(Some(Part::Close)),
            opcode::PING => return Ok(Some(Part::Ping(payload.freeze()))),
            opcode::PONG => {}
            _ => return Err(bad("a frame of unknown kind")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(code: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = head(code, payload.len());
        out[1] |= 0x80;
        out.extend_from_slice(&[1, 2, 3, 4]);
        out.extend(payload.iter().zip([1, 2, 3, 4].iter().cycle()).map(|(b, k)| b ^ k));
        out
    }

    #[test]
    fn the_standards_own_example_is_accepted() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn frames_are_taken_when_they_are_whole() {
        for length in [0, 1, 125, 126, 65535, 65536, 100_000] {
            let payload = vec![7; length];
            let bytes =
                [masked(opcode::PONG, b"x"), masked(opcode::BINARY, &payload), masked(opcode::CLOSE, b"")]
                    .concat();
            let mut buffer = BytesMut::new();
            let mut parts = Vec::new();
            for piece in bytes.chunks(1021) {
                buffer.extend_from_slice(piece);
                while let Some(part) = take(&mut buffer).unwrap() {
                    parts.push(part);
                }
            }
            assert_eq!(parts, [Part::Data(payload.into()), Part::Close], "{length}");
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn what_breaks_the_standard_is_refused() {
        let long_ping = masked(opcode::PING, &[0; 126]);
        let mut endless = vec![0x82, 0xff];
        endless.extend_from_slice(&u64::MAX.to_be_bytes());
        for bytes in [&b"\x82\x01a"[..], &b"\xc2\x81aaaab"[..], &b"\x83\x80aaaa"[..], &long_ping, &endless] {
            assert!(take(&mut BytesMut::from(bytes)).is_err(), "{bytes:?}");
        }
    }
}
