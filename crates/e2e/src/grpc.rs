//! Just enough of HTTP/2, gRPC and protocol buffers to ask BuildKit's API as its clients do, over `POST /grpc` and
//! `POST /session`.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Kinds of frames.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// A connection that goes on as HTTP/2.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    next: u32,
    trailers: Vec<u8>,
}

/// Asks for an upgrade of `POST path`, and reads the answer to it.
fn upgrade(socket: &Path, path: &str, headers: &str) -> UnixStream {
    let mut stream = testkit::raw::connect(socket).unwrap();
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: brig\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
    stream
}

/// Opens a session that serves nothing; it lives for as long as what comes back.
#[must_use]
pub fn session(socket: &Path, id: &str) -> UnixStream {
    let mut stream = upgrade(socket, "/session", &format!("X-Docker-Expose-Session-Uuid: {id}\r\n"));
    // The daemon is the client of this connection, and waits for the settings of its server.
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).unwrap();
    stream
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut out = length[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

impl Connection {
    /// Opens one for calls.
    pub fn open(socket: &Path) -> Connection {
        let mut stream = upgrade(socket, "/grpc", "");
        stream.write_all(PREFACE).unwrap();
        // As much as there is.
        let window = [&4u16.to_be_bytes()[..], &0x7fff_0000u32.to_be_bytes()].concat();
        stream.write_all(&frame(SETTINGS, 0, 0, &window)).unwrap();
        stream.write_all(&frame(WINDOW, 0, 0, &0x7000_0000u32.to_be_bytes())).unwrap();
        Connection { stream, next: 1, trailers: Vec::new() }
    }

    /// Sends a call of `path` with one message, and does not wait for what comes of it.
    pub fn send(&mut self, path: &str, message: &[u8]) -> u32 {
        let mut block = Vec::new();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "brig"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ] {
            // A literal that nobody has to remember.
            block.push(0);
            for text in [name, value] {
                block.push(u8::try_from(text.len()).unwrap());
                assert!(text.len() < 127);
                block.extend(text.as_bytes());
            }
        }
        let number = self.next;
        self.next += 2;
        self.stream.write_all(&frame(HEADERS, END_HEADERS, number, &block)).unwrap();
        let mut body = vec![0];
        body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        body.extend(message);
        self.stream.write_all(&frame(DATA, END_STREAM, number, &body)).unwrap();
        number
    }

    /// The messages that answer a call, to its end; none where it was refused.
    pub fn receive(&mut self, number: u32) -> Vec<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            self.stream.read_exact(&mut payload).unwrap();
            let (kind, flags) = (head[3], head[4]);
            let own = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]) == number;
            match kind {
                SETTINGS if flags & ACK == 0 => self.stream.write_all(&frame(SETTINGS, ACK, 0, &[])).unwrap(),
                PING if flags & ACK == 0 => self.stream.write_all(&frame(PING, ACK, 0, &payload)).unwrap(),
                DATA if own => body.extend(payload),
                HEADERS if own => self.trailers = payload,
                RESET if own => break,
                GOAWAY => panic!("the connection is closed: {}", String::from_utf8_lossy(&payload)),
                _ => {}
            }
            if own && matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
                break;
            }
        }
        let mut out = Vec::new();
        let mut rest = &body[..];
        while let Some((head, tail)) = rest.split_first_chunk::<5>() {
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
            let (message, tail) = tail.split_at(usize::try_from(length).unwrap());
            out.push(message.to_vec());
            rest = tail;
        }
        out
    }

    /// What stood behind the last answer, as far as it is text.
    pub fn trailers(&self) -> String {
        String::from_utf8_lossy(&self.trailers).into_owned()
    }

    /// Calls with one message.
    pub fn call(&mut self, path: &str, message: &[u8]) -> Vec<Vec<u8>> {
        let number = self.send(path, message);
        self.receive(number)
    }
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while number > 0x7f {
        out.push(u8::try_from(number & 0x7f).unwrap() | 0x80);
        number >>= 7;
    }
    out.push(u8::try_from(number).unwrap());
    out
}

/// A field of bytes, a text or a message.
pub fn bytes(number: u64, value: impl AsRef<[u8]>) -> Vec<u8> {
    let value = value.as_ref();
    [varint(number << 3 | 2), varint(u64::try_from(value.len()).unwrap()), value.to_vec()].concat()
}

/// A field of a number.
pub fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

/// An entry of a map from text to text.
pub fn entry(field: u64, key: &str, value: &str) -> Vec<u8> {
    bytes(field, [bytes(1, key), bytes(2, value)].concat())
}

/// A value of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Number(u64),
    Bytes(Vec<u8>),
}

/// The fields of a message, in their order.
pub fn fields(message: &[u8]) -> Vec<(u64, Value)> {
    fn take(rest: &mut &[u8]) -> u64 {
        let (mut out, mut shift) = (0, 0);
        loop {
            let (byte, tail) = rest.split_first().unwrap();
            *rest = tail;
            out |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return out;
            }
        }
    }
    let mut rest = message;
    let mut out = Vec::new();
    while !rest.is_empty() {
        let tag = take(&mut rest);
        let value = match tag & 7 {
            0 => Value::Number(take(&mut rest)),
            2 => {
                let length = usize::try_from(take(&mut rest)).unwrap();
                let (bytes, tail) = rest.split_at(length);
                rest = tail;
                Value::Bytes(bytes.to_vec())
            }
            other => panic!("a field of kind {other}"),
        };
        out.push((tag >> 3, value));
    }
    out
}

/// All values of a field of bytes.
pub fn all(message: &[u8], field: u64) -> Vec<Vec<u8>> {
    fields(message)
        .into_iter()
        .filter(|(number, _)| *number == field)
        .map(|(_, value)| match value {
            Value::Bytes(bytes) => bytes,
            Value::Number(number) => panic!("field {field} is the number {number}"),
        })
        .collect()
}

/// The text of a field; empty where there is none.
pub fn text(message: &[u8], field: u64) -> String {
    String::from_utf8(all(message, field).pop().unwrap_or_default()).unwrap()
}

/// The number of a field; 0 where there is none.
pub fn value(message: &[u8], field: u64) -> u64 {
    let found = fields(message).into_iter().rev().find(|(number, _)| *number == field);
    found.map_or(0, |(_, value)| match value {
        Value::Number(number) => number,
        Value::Bytes(bytes) => panic!("field {field} has {} bytes", bytes.len()),
    })
}
