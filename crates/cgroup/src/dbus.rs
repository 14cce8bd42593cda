//! As much of D-Bus as asking systemd for a scope needs: one blocking connection, method calls, signals waited for.
//!
//! ```text
//! connect, "\0AUTH EXTERNAL <uid in hex>" -> "OK ...", "BEGIN"
//! Hello; then messages: 16 bytes, fields a(yv) padded to 8, body
//! ```
//!
//! Spec: [D-Bus](https://dbus.freedesktop.org/doc/dbus-specification.html), "Message Protocol", "Authentication Protocol".

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType,
    sockopt::{Timeout, set_socket_timeout},
};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Systemd answers within milliseconds; a unit that waits for others may take seconds.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest message taken: those of systemd are a few hundred bytes.
const MAX_MESSAGE: usize = 1 << 20;

/// A method is called.
pub const CALL: u8 = 1;
/// It returned.
pub const RETURN: u8 = 2;
/// It failed.
pub const ERROR: u8 = 3;
/// Something happened.
pub const SIGNAL: u8 = 4;

/// A body under construction. Alignment counts from its start, which is aligned to 8.
#[derive(Debug, Default)]
pub struct Body(Vec<u8>);

impl Body {
    /// Fills up with zeros to a multiple of `to`.
    pub fn align(&mut self, to: usize) -> &mut Body {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
        self
    }

    /// Adds a number; also a boolean.
    pub fn u32(&mut self, value: u32) -> &mut Body {
        self.align(4).0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Adds a large number.
    pub fn u64(&mut self, value: u64) -> &mut Body {
        self.align(8).0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Adds bytes, the elements of an array.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Body {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Adds a text, or an object's path.
    pub fn string(&mut self, text: &str) -> &mut Body {
        self.u32(u32::try_from(text.len()).unwrap_or(0));
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
        self
    }

    /// Also the head of a variant.
    pub fn signature(&mut self, signature: &str) -> &mut Body {
        self.0.push(u8::try_from(signature.len()).unwrap_or(0));
        self.0.extend_from_slice(signature.as_bytes());
        self.0.push(0);
        self
    }

    /// An array whose elements are aligned to `to`, written by `fill`.
    pub fn array(&mut self, to: usize, fill: impl FnOnce(&mut Body)) -> &mut Body {
        self.u32(0);
        let length_at = self.0.len() - 4;
        let start = self.align(to).0.len();
        fill(self);
        let length = u32::try_from(self.0.len() - start).unwrap_or(0);
        self.0[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
        self
    }
}

/// A message received.
#[derive(Debug, Default)]
pub struct Message {
    pub kind: u8,
    pub serial: u32,
    pub reply_to: u32,
    pub member: String,
    pub error: String,
    pub sender: String,
    body: Vec<u8>,
}

impl Message {
    /// The body, to take values from.
    pub fn reader(&self) -> Reader<'_> {
        Reader { bytes: &self.body, at: 0 }
    }
}

/// Takes values from bytes; `None` past the end and for what is no text.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, count: usize) -> Option<&[u8]> {
        let bytes = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(bytes)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    /// The next number.
    pub fn u32(&mut self) -> Option<u32> {
        self.align(4);
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    /// The next text, or object's path.
    pub fn string(&mut self) -> Option<String> {
        let length = usize::try_from(self.u32()?).ok()?;
        self.text(length)
    }

    /// The next signature; also the head of a variant.
    pub fn signature(&mut self) -> Option<String> {
        let length = usize::from(self.byte()?);
        self.text(length)
    }

    fn text(&mut self, length: usize) -> Option<String> {
        let text = String::from_utf8(self.take(length)?.to_vec()).ok()?;
        self.take(1)?;
        Some(text)
    }
}

/// Whom a call goes to.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    pub destination: &'a str,
    pub path: &'a str,
    pub interface: &'a str,
}

const BUS: Target<'static> = Target {
    destination: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
};

/// A connection to a bus.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    serial: u32,
    /// Signals that came while a reply was waited for.
    signals: Vec<Message>,
}

/// Who this is outside its user namespace, where the bus is.
pub fn outer_uid() -> u64 {
    outside(&uid_map(), u64::from(rustix::process::geteuid().as_raw()))
}

/// Root, and not only in a user namespace.
pub fn is_root_of_host() -> bool {
    rustix::process::geteuid().is_root() && uid_map().split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

fn uid_map() -> String {
    std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default()
}

fn outside(map: &str, id: u64) -> u64 {
    let mut lines =
        map.lines().map(|line| line.split_ascii_whitespace().map(|number| number.parse().unwrap_or(0)));
    let found = lines.find_map(|mut line| {
        let (inside, outside, count) = (line.next()?, line.next()?, line.next()?);
        (id >= inside && id - inside < count).then(|| outside + (id - inside))
    });
    found.unwrap_or(id)
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("D-Bus: {what}"))
}

impl Connection {
    /// Connects to the bus at the socket `path`.
    pub fn open(path: &str) -> io::Result<Connection> {
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        for direction in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&socket, direction, Some(PATIENCE))?;
        }
        let mut connection = Connection { socket, serial: 0, signals: Vec::new() };
        let uid = outer_uid().to_string();
        let hex: String = uid.bytes().map(|b| format!("{b:02x}")).collect();
        connection.write(format!("\0AUTH EXTERNAL {hex}\r\n").as_bytes())?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n") {
            answer.push(connection.read(1)?[0]);
            if answer.len() > 1024 {
                return Err(bad("the answer to AUTH does not end"));
            }
        }
        if !answer.starts_with(b"OK ") {
            return Err(io::Error::from(io::ErrorKind::PermissionDenied));
        }
        connection.write(b"BEGIN\r\n")?;
        connection.call(BUS, "Hello", "", &Body::default())?;
        Ok(connection)
    }

    /// Calls a method of the bus itself with one string.
    pub fn call_bus(&mut self, member: &str, text: &str) -> io::Result<Message> {
        self.call(BUS, member, "s", Body::default().string(text))
    }

    /// Calls and waits for the reply. An error reply is an error with its name and text.
    pub fn call(
        &mut self,
        to: Target<'_>,
        member: &str,
        signature: &str,
        body: &Body,
    ) -> io::Result<Message> {
        let fields =
            [(1u8, "o", to.path), (6, "s", to.destination), (2, "s", to.interface), (3, "s", member)];
        let serial = self.send(CALL, &fields, None, signature, body)?;
        loop {
            let message = self.receive()?;
            match message.kind {
                RETURN if message.reply_to == serial => return Ok(message),
                ERROR if message.reply_to == serial => {
                    let text = message.reader().string().unwrap_or_default();
                    return Err(io::Error::other(format!("{member}: {}: {text}", message.error)));
                }
                SIGNAL => self.signals.push(message),
                _ => {}
            }
        }
    }

    /// The next signal `member` for which `wanted` gives something.
    pub fn wait_signal<T>(&mut self, member: &str, wanted: impl Fn(&Message) -> Option<T>) -> io::Result<T> {
        let early = std::mem::take(&mut self.signals);
        if let Some(found) = early.iter().filter(|m| m.member == member).find_map(&wanted) {
            return Ok(found);
        }
        loop {
            let message = self.receive()?;
            if message.kind == SIGNAL
                && message.member == member
                && let Some(found) = wanted(&message)
            {
                return Ok(found);
            }
        }
    }

    /// Sends one message and gives its number.
    pub fn send(
        &mut self,
        kind: u8,
        fields: &[(u8, &str, &str)],
        reply_to: Option<u32>,
        signature: &str,
        body: &Body,
    ) -> io::Result<u32> {
        self.serial += 1;
        let mut head = Body(vec![b'l', kind, 0, 1]);
        head.u32(u32::try_from(body.0.len()).unwrap_or(0)).u32(self.serial);
        head.array(8, |array| {
            for (code, kind, value) in fields {
                array.align(8).0.push(*code);
                array.signature(kind).string(value);
            }
            if let Some(serial) = reply_to {
                array.align(8).0.push(5);
                array.signature("u").u32(serial);
            }
            if !signature.is_empty() {
                array.align(8).0.push(8);
                array.signature("g").signature(signature);
            }
        });
        head.align(8);
        self.write(&[head.0.as_slice(), &body.0].concat())?;
        Ok(self.serial)
    }

    /// Waits for a message.
    pub fn receive(&mut self) -> io::Result<Message> {
        let head = self.read(16)?;
        if head[0] != b'l' || head[3] != 1 {
            return Err(bad("not little endian, or another version"));
        }
        let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let size =
            |n: u32| usize::try_from(n).ok().filter(|&n| n <= MAX_MESSAGE).ok_or_else(|| bad("too long"));
        let (body, fields) = (size(number(4))?, size(number(12))?);
        let rest = self.read(fields.next_multiple_of(8) + body)?;
        let mut message = Message { kind: head[1], serial: number(8), ..Message::default() };
        let mut reader = Reader { bytes: &rest[..fields], at: 0 };
        while reader.at < fields {
            reader.align(8);
            read_field(&mut reader, &mut message).ok_or_else(|| bad("a field of the header"))?;
        }
        message.body = rest[fields.next_multiple_of(8)..].to_vec();
        Ok(message)
    }

    fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match rustix::net::send(&self.socket, bytes, rustix::net::SendFlags::NOSIGNAL) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn read(&self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let mut filled = 0;
        while filled < length {
            match rustix::io::read(&self.socket, &mut bytes[filled..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(bytes)
    }
}

fn read_field(reader: &mut Reader<'_>, message: &mut Message) -> Option<()> {
    let code = reader.byte()?;
    match reader.signature()?.as_str() {
        "u" => {
            let value = reader.u32()?;
            if code == 5 {
                message.reply_to = value;
            }
        }
        "g" => drop(reader.signature()?),
        "s" | "o" => {
            let text = reader.string()?;
            match code {
                3 => message.member = text,
                4 => message.error = text,
                7 => message.sender = text,
                _ => {}
            }
        }
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_one_is_outside() {
        let map = "         0       1000          1\n         1     100000      65536\n";
        let check = |id, want| assert_eq!(outside(map, id), want, "{id}");
        check(0, 1000);
        check(1, 100_000);
        check(7, 100_006);
        check(99_999, 99_999);
        assert_eq!(outside("         0          0 4294967295\n", 1000), 1000);
        assert_eq!(outside("nonsense", 5), 5);
    }
}
