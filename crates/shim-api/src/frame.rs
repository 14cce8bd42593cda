//! Frames as bytes: `u32` big-endian payload length, one byte of kind, payload.
//!
//! ```text
//! 0        4      5
//! | length | kind | payload (length bytes) ...
//! ```
//!
//! [`encode_header`] and [`decode_header`] are pure; both sides use them with their own buffers. [`read`] and
//! [`write`] block, for tests and for simple clients.

use crate::{FrameKind, MAX_CONTROL, MAX_STDIO};
use serde::Serialize;
use std::io::{self, Read, Write};

/// Bytes before the payload.
pub const HEADER: usize = 5;

/// Bytes that are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No kind has this byte.
    #[error("frame of unknown kind {0}")]
    Kind(u8),
    /// Longer than its kind may be.
    #[error("{kind:?} frame of {length} bytes is longer than {max}")]
    TooLong { kind: FrameKind, length: usize, max: usize },
}

impl errors::HasKind for Error {
    fn kind(&self) -> errors::Kind {
        errors::Kind::InvalidArgument
    }
}

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub kind: FrameKind,
    /// Bytes of payload, at most [`max_payload`] of the kind.
    pub length: usize,
}

/// Longest payload of a kind, in bytes.
pub fn max_payload(kind: FrameKind) -> usize {
    match kind {
        FrameKind::Control => MAX_CONTROL,
        FrameKind::Stdin | FrameKind::Stdout | FrameKind::Stderr => MAX_STDIO,
        FrameKind::CloseStdin => 0,
    }
}

/// The header of a frame.
///
/// # Errors
///
/// [`Error::TooLong`] when the other side would refuse the frame.
pub fn encode_header(header: Header) -> Result<[u8; HEADER], Error> {
    let Header { kind, length } = checked(header)?;
    let length = u32::try_from(length).expect("the longest payload fits u32");
    let [a, b, c, d] = length.to_be_bytes();
    Ok([a, b, c, d, kind as u8])
}

/// The header in these bytes.
///
/// # Errors
///
/// [`Error::Kind`], [`Error::TooLong`]. Nothing after such a header can be understood.
pub fn decode_header(bytes: [u8; HEADER]) -> Result<Header, Error> {
    let [a, b, c, d, kind] = bytes;
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    let kind = FrameKind::from_byte(kind).ok_or(Error::Kind(kind))?;
    checked(Header { kind, length })
}

fn checked(header: Header) -> Result<Header, Error> {
    let max = max_payload(header.kind);
    if header.length > max {
        return Err(Error::TooLong { kind: header.kind, length: header.length, max });
    }
    Ok(header)
}

/// A whole control frame with `message` as JSON.
///
/// # Errors
///
/// [`io::ErrorKind::InvalidData`] when it is longer than a control frame may be.
pub fn encode_control<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; HEADER];
    serde_json::to_writer(&mut frame, message)?;
    let header = Header { kind: FrameKind::Control, length: frame.len() - HEADER };
    frame[..HEADER].copy_from_slice(&encode_header(header).map_err(invalid)?);
    Ok(frame)
}

/// Reads one frame, or None at the end of the stream between two frames. Blocks.
///
/// # Errors
///
/// Those of the reader; `InvalidData` with an [`Error`] inside for bytes that are no frame.
pub fn read(from: &mut impl Read) -> io::Result<Option<(FrameKind, Vec<u8>)>> {
    let mut header = [0; HEADER];
    let mut got = 0;
    while got < HEADER {
        match from.read(&mut header[got..]) {
            Ok(0) if got == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    let Header { kind, length } = decode_header(header).map_err(invalid)?;
    let mut payload = vec![0; length];
    from.read_exact(&mut payload)?;
    Ok(Some((kind, payload)))
}

/// Writes one frame. Blocks.
///
/// # Errors
///
/// Those of the writer; `InvalidData` for a payload that is too long.
pub fn write(to: &mut impl Write, kind: FrameKind, payload: &[u8]) -> io::Result<()> {
    to.write_all(&encode_header(Header { kind, length: payload.len() }).map_err(invalid)?)?;
    to.write_all(payload)
}

fn invalid(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Request;

    #[test]
    fn header_there_and_back() {
        for (kind, length, bytes) in [
            (FrameKind::Control, 2, [0, 0, 0, 2, 0]),
            (FrameKind::Stdout, 65536, [0, 1, 0, 0, 2]),
            (FrameKind::CloseStdin, 0, [0, 0, 0, 0, 4]),
        ] {
            assert_eq!(encode_header(Header { kind, length }), Ok(bytes));
            assert_eq!(decode_header(bytes), Ok(Header { kind, length }));
        }
    }

    #[test]
    fn refuses_what_is_too_long_or_unknown() {
        assert_eq!(decode_header([0, 0, 0, 0, 5]), Err(Error::Kind(5)));
        for bytes in [[0xff, 0xff, 0xff, 0xff, 0], [0, 1, 0, 1, 1], [0, 0, 0, 1, 4]] {
            assert!(matches!(decode_header(bytes), Err(Error::TooLong { .. })), "{bytes:?}");
        }
    }

    #[test]
    fn frames_over_a_stream() {
        let mut bytes = encode_control(&Request::Start).unwrap();
        write(&mut bytes, FrameKind::Stdin, b"x").unwrap();
        let mut from = bytes.as_slice();
        assert_eq!(read(&mut from).unwrap(), Some((FrameKind::Control, b"\"start\"".to_vec())));
        assert_eq!(read(&mut from).unwrap(), Some((FrameKind::Stdin, b"x".to_vec())));
        assert_eq!(read(&mut from).unwrap(), None);
        let torn = read(&mut &bytes[..3]).unwrap_err();
        assert_eq!(torn.kind(), io::ErrorKind::UnexpectedEof);
    }
}
