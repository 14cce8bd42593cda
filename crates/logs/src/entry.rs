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

    /// Makes `entry` the one in `line`, in the memory that it has; false, and `entry` anything, when there is none.
    pub(crate) fn decode_into(self, line: &[u8], entry: &mut Entry) -> bool {
        entry.line.clear();
        entry.attrs.clear();
        match self {
            Format::JsonFile => {
                if decode_usual(line, entry).is_some() {
                    return true;
                }
                decode(line).map(|decoded| *entry = decoded).is_some()
            }
            Format::Local => decode_local(line, entry).is_some(),
        }
    }
}

impl Default for Entry {
    fn default() -> Entry {
        Entry { stream: Stream::Stdout, time_ns: 0, line: Vec::new(), attrs: BTreeMap::new() }
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

fn decode_local(line: &[u8], entry: &mut Entry) -> Option<()> {
    let (&letter, rest) = line.split_first()?;
    let space = rest.iter().take(21).position(|&b| b == b' ')?;
    entry.time_ns = std::str::from_utf8(&rest[..space]).ok()?.parse().ok()?;
    entry.line.extend_from_slice(&rest[space + 1..]);
    if letter.is_ascii_lowercase() {
        entry.line.push(b'\n');
    }
    entry.stream = match letter.to_ascii_lowercase() {
        b'o' => Stream::Stdout,
        b'e' => Stream::Stderr,
        _ => return None,
    };
    Some(())
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

/// The entry in a line as Docker and we write nearly all: members in this order, no attributes, no character beyond those that
/// escapes of one or two bytes name. None for any other line, which may be an entry all the same. Takes a tenth of the time.
fn decode_usual(line: &[u8], entry: &mut Entry) -> Option<()> {
    let mut rest = line.strip_prefix(b"{\"log\":\"")?;
    loop {
        let special = rest.iter().position(|&b| b == b'"' || b == b'\\')?;
        entry.line.extend_from_slice(&rest[..special]);
        let escaped = *rest.get(special + 1)?;
        if rest[special] == b'"' {
            rest = &rest[special + 1..];
            break;
        }
        rest = &rest[special + 2..];
        entry.line.push(match escaped {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'"' | b'\\' | b'/' => escaped,
            b'u' => {
                let (digits, after) = rest.split_first_chunk::<4>()?;
                rest = after;
                let hex = |digit: u8| char::from(digit).to_digit(16);
                let [b'0', b'0', high, low] = *digits else { return None };
                u8::try_from(hex(high)? * 16 + hex(low)?).ok().filter(u8::is_ascii)?
            }
            _ => return None,
        });
    }
    let rest = rest.strip_prefix(b",\"stream\":\"std")?;
    let (stream, rest) = match (rest.strip_prefix(b"out"), rest.strip_prefix(b"err")) {
        (Some(rest), _) => (Stream::Stdout, rest),
        (None, Some(rest)) => (Stream::Stderr, rest),
        (None, None) => return None,
    };
    let time = rest.strip_prefix(b"\",\"time\":\"")?.strip_suffix(b"\"}")?;
    entry.time_ns = parse_rfc3339(std::str::from_utf8(time).ok()?)?;
    entry.stream = stream;
    // JSON is text, and what is not is no entry.
    std::str::from_utf8(&entry.line).ok().map(drop)
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
            let mut entry = Entry::default();
            decode_local(&out[..out.len() - 1], &mut entry).unwrap();
            assert_eq!(
                (entry.stream, entry.time_ns, entry.line.as_slice()),
                (Stream::Stderr, u64::MAX, line)
            );
        }
        for bad in ["", "o", "o1", "x1 a", "o-1 a", "o99999999999999999999999 a"] {
            assert!(decode_local(bad.as_bytes(), &mut Entry::default()).is_none(), "{bad}");
        }
    }

    #[test]
    fn usual_lines_are_read_as_by_the_parser() {
        let mut entry = Entry::default();
        let mut lines = vec![
            r#"{"log":"a\tb\/c\u0041\u001b","stream":"stderr","time":"2026-01-02T03:04:05.6Z"}"#.as_bytes().to_vec(),
            r#"{"log":"","stream":"stdout","time":"2026-01-02T03:04:05+02:00"}"#.as_bytes().to_vec(),
        ];
        for text in ["plain\n", "\"quoted\" \\ <b>\r\n", "\u{e4}\u{2030}", "no end", "\n"] {
            let mut out = Vec::new();
            encode(&mut out, Stream::Stdout, text.as_bytes(), b"", 1_234_567_891_234_567_891);
            lines.push(out[..out.len() - 1].to_vec());
        }
        for line in lines {
            entry.line.clear();
            decode_usual(&line, &mut entry).unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&line)));
            assert_eq!(decode(&line).as_ref(), Some(&entry), "{}", String::from_utf8_lossy(&line));
        }
    }

    #[test]
    fn other_lines_are_left_to_the_parser() {
        for line in [
            r#"{"log":"\u2028","stream":"stdout","time":"2026-01-02T03:04:05Z"}"#,
            r#"{"log":"\u00e4","stream":"stdout","time":"2026-01-02T03:04:05Z"}"#,
            r#"{"log":"a","stream":"stdout","attrs":{"k":"v"},"time":"2026-01-02T03:04:05Z"}"#,
            r#"{"stream":"stdout","log":"a","time":"2026-01-02T03:04:05Z"}"#,
            r#"{"log":"a","stream":"stdout","time":"2026-01-02T03:04:05Z" }"#,
        ] {
            assert!(decode_usual(line.as_bytes(), &mut Entry::default()).is_none(), "{line}");
            let mut entry = Entry { line: b"before".into(), ..Entry::default() };
            assert!(Format::JsonFile.decode_into(line.as_bytes(), &mut entry), "{line}");
            assert_eq!(Some(entry), decode(line.as_bytes()));
        }
    }

    #[test]
    fn what_is_no_entry() {
        for line in [
            "",
            "{",
            "null",
            r#"{"log":"a"}"#,
            r#"{"log":"a","time":"yesterday"}"#,
            "\0\0\0",
            r#"{"log":""#,
            r#"{"log":"\"#,
        ] {
            assert!(!Format::JsonFile.decode_into(line.as_bytes(), &mut Entry::default()), "{line:?}");
        }
    }
}
