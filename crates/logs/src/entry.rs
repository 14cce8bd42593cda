//! One entry of a log: encoded as Docker encodes it, decoded from what Docker or we wrote.

use crate::time::{parse_rfc3339, write_rfc3339};
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Where output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    /// `stdout` or `stderr`.
    pub fn as_str(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// One entry of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub stream: Stream,
    /// Nanoseconds since 1970 UTC.
    pub time_ns: u64,
    /// With its final `\n`, unless it is a piece of a longer line or the end of output.
    pub line: Vec<u8>,
    pub attrs: BTreeMap<String, String>,
}

/// How entries are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Docker's json-file.
    #[default]
    JsonFile,
    /// Ours: a letter for the stream (`o`, `e`; capital where the line goes on in the next entry), the time in
    /// nanoseconds since 1970, a space, and the bytes as they came.
    Local,
}

impl Format {
    pub(crate) fn encode(self, out: &mut Vec<u8>, stream: Stream, line: &[u8], attrs: &[u8], time_ns: u64) {
        match self {
            Format::JsonFile => encode(out, stream, line, attrs, time_ns),
            Format::Local => encode_local(out, stream, line, time_ns),
        }
    }

    pub(crate) fn decode(self, line: &[u8]) -> Option<Entry> {
        match self {
            Format::JsonFile => decode(line),
            Format::Local => decode_local(line),
        }
    }
}

/// Only its end can hold a `\n`, as output is split there; so a line of the file is an entry.
fn encode_local(out: &mut Vec<u8>, stream: Stream, line: &[u8], time_ns: u64) {
    let (text, is_whole) = line.strip_suffix(b"\n").map_or((line, false), |text| (text, true));
    let letter = if stream == Stream::Stdout { b'o' } else { b'e' };
    out.push(if is_whole { letter } else { letter.to_ascii_uppercase() });
    out.extend_from_slice(time_ns.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(text);
    out.push(b'\n');
}

fn decode_local(line: &[u8]) -> Option<Entry> {
    let (&letter, rest) = line.split_first()?;
    let space = rest.iter().take(21).position(|&b| b == b' ')?;
    let time_ns = std::str::from_utf8(&rest[..space]).ok()?.parse().ok()?;
    let mut text = rest[space + 1..].to_vec();
    if letter.is_ascii_lowercase() {
        text.push(b'\n');
    }
    let stream = match letter.to_ascii_lowercase() {
        b'o' => Stream::Stdout,
        b'e' => Stream::Stderr,
        _ => return None,
    };
    Some(Entry { stream, time_ns, line: text, attrs: BTreeMap::new() })
}

/// Appends the entry as one line of JSON. `attrs` is what goes between stream and time: empty, or `"attrs":{...},`.
pub(crate) fn encode(out: &mut Vec<u8>, stream: Stream, line: &[u8], attrs: &[u8], time_ns: u64) {
    out.extend_from_slice(b"{\"log\":\"");
    escape(out, line);
    out.extend_from_slice(b"\",\"stream\":\"");
    out.extend_from_slice(stream.as_str().as_bytes());
    out.extend_from_slice(b"\",");
    out.extend_from_slice(attrs);
    out.extend_from_slice(b"\"time\":\"");
    write_rfc3339(out, time_ns);
    out.extend_from_slice(b"\"}\n");
}

/// The entry in a line without its `\n`; None when it is not one.
pub(crate) fn decode(line: &[u8]) -> Option<Entry> {
    #[derive(Deserialize)]
    struct Wire<'a> {
        #[serde(borrow, default)]
        log: Cow<'a, str>,
        #[serde(borrow, default)]
        stream: Cow<'a, str>,
        #[serde(default)]
        attrs: BTreeMap<String, String>,
        #[serde(borrow)]
        time: Cow<'a, str>,
    }
    let wire: Wire<'_> = serde_json::from_slice(line).ok()?;
    Some(Entry {
        stream: if wire.stream == "stderr" { Stream::Stderr } else { Stream::Stdout },
        time_ns: parse_rfc3339(&wire.time)?,
        line: wire.log.into_owned().into_bytes(),
        attrs: wire.attrs,
    })
}

/// JSON string contents as Go's encoder for logs makes them: the HTML-relevant characters, U+2028 and U+2029 escaped,
/// and each byte that is no UTF-8 replaced.
fn escape(out: &mut Vec<u8>, bytes: &[u8]) {
    for chunk in bytes.utf8_chunks() {
        escape_valid(out, chunk.valid().as_bytes());
        for _ in chunk.invalid() {
            out.extend_from_slice(br"\ufffd");
        }
    }
}

fn escape_valid(out: &mut Vec<u8>, text: &[u8]) {
    let mut plain = 0;
    for (at, &byte) in text.iter().enumerate() {
        let replaced: [u8; 6] = match byte {
            b'"' | b'\\' | b'\n' | b'\r' => [0; 6],
            b'<' | b'>' | b'&' | 0..0x20 => unicode_escape(byte),
            0xe2 if text[at..].starts_with("\u{2028}".as_bytes()) => *br"\u2028",
            0xe2 if text[at..].starts_with("\u{2029}".as_bytes()) => *br"\u2029",
            _ => continue,
        };
        out.extend_from_slice(&text[plain..at]);
        plain = at + 1;
        match byte {
            b'\n' => out.extend_from_slice(br"\n"),
            b'\r' => out.extend_from_slice(br"\r"),
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0xe2 => {
                out.extend_from_slice(&replaced);
                plain = at + 3;
            }
            _ => out.extend_from_slice(&replaced),
        }
    }
    out.extend_from_slice(&text[plain..]);
}

fn unicode_escape(byte: u8) -> [u8; 6] {
    let hex = b"0123456789abcdef";
    [b'\\', b'u', b'0', b'0', hex[usize::from(byte >> 4)], hex[usize::from(byte & 15)]]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        escape(&mut out, bytes);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn escapes_as_docker_does() {
        for (bytes, text) in [
            (b"plain \xc3\xa4\n".as_slice(), "plain \u{e4}\\n"),
            (b"\"\\\r\t\x1b[0m\x00\x7f", "\\\"\\\\\\r\\u0009\\u001b[0m\\u0000\x7f"),
            (b"<a&b>", r"\u003ca\u0026b\u003e"),
            (b"a\xff\xe2\x82b\xe2", r"a\ufffd\ufffd\ufffdb\ufffd"),
            ("x\u{2028}y\u{2029}z\u{2030}".as_bytes(), "x\\u2028y\\u2029z\u{2030}"),
        ] {
            assert_eq!(escaped(bytes), text);
        }
    }

    #[test]
    fn exact_text_of_an_entry() {
        let mut out = Vec::new();
        encode(&mut out, Stream::Stderr, b"ab\n", br#""attrs":{"k":"v"},"#, 1_500_000_000);
        let text = "{\"log\":\"ab\\n\",\"stream\":\"stderr\",\"attrs\":{\"k\":\"v\"},\"time\":\"1970-01-01T00:00:01.5Z\"}\n";
        assert_eq!(String::from_utf8(out).unwrap(), text);
        let entry = decode(text.trim_end().as_bytes()).unwrap();
        let attrs = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
        assert_eq!(
            entry,
            Entry { stream: Stream::Stderr, time_ns: 1_500_000_000, line: b"ab\n".into(), attrs }
        );
    }

    #[test]
    fn every_byte_survives_when_it_is_text() {
        let text: String = (0..0x3000).filter_map(char::from_u32).collect();
        let mut out = Vec::new();
        encode(&mut out, Stream::Stdout, text.as_bytes(), b"", 1);
        assert_eq!(decode(out.trim_ascii_end()).unwrap().line, text.as_bytes());
    }

    #[test]
    fn local_entries_keep_every_byte() {
        for line in [b"a b\n".as_slice(), b"\xff\x00 \r\n", b"no end", b"\n", b""] {
            let mut out = Vec::new();
            encode_local(&mut out, Stream::Stderr, line, u64::MAX);
            assert_eq!(out.iter().filter(|&&b| b == b'\n').count(), 1, "{line:?}");
            let entry = decode_local(&out[..out.len() - 1]).unwrap();
            assert_eq!(
                (entry.stream, entry.time_ns, entry.line.as_slice()),
                (Stream::Stderr, u64::MAX, line)
            );
        }
        for bad in ["", "o", "o1", "x1 a", "o-1 a", "o99999999999999999999999 a"] {
            assert_eq!(decode_local(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn what_is_no_entry() {
        for line in ["", "{", "null", r#"{"log":"a"}"#, r#"{"log":"a","time":"yesterday"}"#, "\0\0\0"] {
            assert_eq!(decode(line.as_bytes()), None, "{line:?}");
        }
    }
}
