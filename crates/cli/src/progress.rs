//! The messages of a pull or load as they come: bars that move on a terminal, lines anywhere else.
//!
//! Each message is a line of JSON with `id`, `status`, `progressDetail`, or `stream`, or `errorDetail`. Their text
//! comes from registries and archives, so control characters are taken out before anything is shown.

use crate::error::{Error, Result};
use crate::terminal::{self, Out};
use crate::text::printable;
use crate::units;
use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::fmt::Write as _;
use std::io::IsTerminal;

/// Longest line of a stream of JSON documents. Events and progress are small, statistics have some kilobytes.
const MAX_LINE: usize = 16 << 20;
/// Width of a bar, brackets not counted.
const BAR: usize = 50;

/// A body of JSON documents, one a line.
#[derive(Debug)]
pub(crate) struct JsonLines {
    body: Incoming,
    buffer: BytesMut,
    searched: usize,
}

impl JsonLines {
    pub(crate) fn new(body: Incoming) -> JsonLines {
        JsonLines { body, buffer: BytesMut::new(), searched: 0 }
    }

    /// The next document; none at the end.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        loop {
            let Some(line) = self.next_line().await? else { return Ok(None) };
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let document = serde_json::from_slice(&line);
            return document.map(Some).map_err(|source| Error::Decode { what: "a stream".into(), source });
        }
    }

    async fn next_line(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|b| *b == b'\n') {
                let line = self.buffer.split_to(self.searched + at);
                self.buffer.advance(1);
                self.searched = 0;
                return Ok(Some(line.freeze()));
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > MAX_LINE {
                return Err(Error::Reported(format!("the daemon sent a line of more than {MAX_LINE} bytes")));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
                Some(Err(e)) => return Err(Error::transport("read a stream", e)),
                None if self.buffer.is_empty() => return Ok(None),
                None => {
                    self.searched = 0;
                    return Ok(Some(self.buffer.split().freeze()));
                }
            }
        }
    }
}

/// One message.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Message {
    pub(crate) id: Option<String>,
    pub(crate) status: Option<String>,
    pub(crate) stream: Option<String>,
    #[serde(rename = "progressDetail")]
    pub(crate) detail: Option<Detail>,
    #[serde(rename = "errorDetail")]
    pub(crate) error_detail: Option<ErrorDetail>,
    pub(crate) error: Option<String>,
    pub(crate) aux: Option<serde_json::Value>,
}

impl Message {
    /// For programs, with nothing in it to show.
    fn is_silent(&self) -> bool {
        self.status.is_none() && self.stream.is_none() && self.aux.is_some()
    }

    /// What should be said when all is done.
    fn note(&self) -> Option<String> {
        let aux = self.aux.as_ref()?;
        aux.get("manifestPushedInsteadOfIndex").filter(|set| set.as_bool() == Some(true))?;
        let digest = |what: &str| {
            let text = aux.get(what).and_then(|d| d.get("digest")).and_then(|d| d.as_str());
            printable(text.unwrap_or_default())
        };
        Some(format!(
            "Info: Not all multiplatform-content is present and only the available single-platform image was pushed\n      {} -> {}\n",
            digest("originalIndex"),
            digest("selectedManifest")
        ))
    }
}

/// How far something is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Detail {
    pub(crate) current: Option<i64>,
    pub(crate) total: Option<i64>,
}

/// Why the work ended.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ErrorDetail {
    pub(crate) message: String,
}

/// Shows messages.
#[derive(Debug)]
pub(crate) struct Progress {
    out: Out,
    quiet: bool,
    screen: Option<Screen>,
}

impl Progress {
    pub(crate) fn new(out: Out, quiet: bool) -> Progress {
        let terminal = match out {
            Out::Stdout => std::io::stdout().is_terminal(),
            Out::Stderr => std::io::stderr().is_terminal(),
        };
        let screen = terminal.then(|| Screen::new(terminal::size().map_or(80, |(_, columns)| columns)));
        Progress { out, quiet, screen }
    }

    /// Shows all messages of `body` until it ends.
    ///
    /// # Errors
    ///
    /// [`Error::Reported`] with the daemon's message where the work failed.
    pub(crate) async fn follow(&mut self, body: Incoming) -> Result<()> {
        let mut lines = JsonLines::new(body);
        let mut notes = String::new();
        while let Some(message) = lines.next::<Message>().await? {
            let detail = message.error_detail.as_ref().map(|e| &e.message);
            if let Some(text) = detail.or(message.error.as_ref()) {
                return Err(Error::Reported(printable(text)));
            }
            notes.extend(message.note());
            if self.quiet || message.is_silent() {
                continue;
            }
            let text = match &mut self.screen {
                Some(screen) => screen.show(&message),
                None => plain(&message),
            };
            self.write(&text).await?;
        }
        match notes.as_str() {
            "" => Ok(()),
            _ if self.quiet => Ok(()),
            notes => self.write(&format!("\n{notes}")).await,
        }
    }

    async fn write(&self, text: &str) -> Result<()> {
        let written = self.out.write_all(text.as_bytes()).await;
        written.map_err(|source| Error::Stream { doing: "show progress", source })
    }
}

/// What a message is where nothing can move: a line, none for what only counts.
fn plain(message: &Message) -> String {
    if let Some(stream) = &message.stream {
        return printable(stream);
    }
    if message.detail.as_ref().is_some_and(|d| d.current.unwrap_or(0) > 0 || d.total.unwrap_or(0) > 0) {
        return String::new();
    }
    format!("{}\n", label(message))
}

fn label(message: &Message) -> String {
    let status = printable(message.status.as_deref().unwrap_or_default());
    match message.id.as_deref().filter(|id| !id.is_empty()) {
        Some(id) => format!("{}: {status}", printable(id)),
        None => status,
    }
}

/// The lines on a terminal, one for each ID, redrawn in place.
#[derive(Debug)]
struct Screen {
    ids: Vec<String>,
    columns: usize,
}

impl Screen {
    fn new(columns: u16) -> Screen {
        Screen { ids: Vec::new(), columns: usize::from(columns.max(20)) }
    }

    fn show(&mut self, message: &Message) -> String {
        if let Some(stream) = &message.stream {
            return printable(stream);
        }
        let mut line = label(message);
        // Only work on a part (with an ID and a detail) has a line of its own that changes.
        let id = message.id.as_deref().filter(|id| !id.is_empty() && message.detail.is_some());
        let Some(id) = id else {
            self.ids.clear();
            return format!("{line}\n");
        };
        if let Some(bar) = message.detail.as_ref().and_then(|d| bar(d, self.columns)) {
            // Writing to a String cannot fail.
            let _ = write!(line, " {bar}");
        }
        let line: String = line.chars().take(self.columns).collect();
        match self.ids.iter().position(|known| known == id) {
            None => {
                self.ids.push(id.to_string());
                format!("{line}\n")
            }
            Some(at) => {
                let up = self.ids.len() - at;
                format!("\x1b[{up}A\x1b[2K\r{line}\r\x1b[{up}B")
            }
        }
    }
}

/// `[=====>     ]  1.2MB/3.4MB`.
fn bar(detail: &Detail, columns: usize) -> Option<String> {
    let (current, total) = (detail.current.unwrap_or(0).max(0), detail.total.unwrap_or(0).max(0));
    if current == 0 && total == 0 {
        return None;
    }
    let size = |bytes: i64| units::human_size(bytes as f64, 4);
    if total == 0 || current > total {
        return Some(format!("{:>8}", size(current)));
    }
    let numbers = format!("{:>8}/{}", size(current), size(total));
    if columns <= 110 {
        return Some(numbers);
    }
    let full = usize::try_from(i128::from(current) * BAR as i128 / i128::from(total)).unwrap_or(0);
    let head = if full < BAR { ">" } else { "" };
    let rest = BAR - full - head.len();
    Some(format!("[{}{head}{}] {numbers}", "=".repeat(full), " ".repeat(rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(json: &str) -> Message {
        serde_json::from_str(json).unwrap()
    }

    const PART: &str = r#"{"id":"abc","status":"Downloading","progressDetail":{"current":50,"total":100}}"#;

    #[test]
    fn plain_lines_leave_out_the_counting() {
        assert_eq!(
            plain(&message(r#"{"status":"Pulling from library/x","id":"latest"}"#)),
            "latest: Pulling from library/x\n"
        );
        assert_eq!(plain(&message(PART)), "");
        assert_eq!(
            plain(&message(r#"{"id":"abc","status":"Pull complete","progressDetail":{}}"#)),
            "abc: Pull complete\n"
        );
        assert_eq!(plain(&message(r#"{"stream":"Loaded image: x\n"}"#)), "Loaded image: x\n");
        assert_eq!(plain(&message(r#"{"status":"\u001b[2Jx"}"#)), "[2Jx\n");
    }

    #[test]
    fn a_screen_moves_to_the_line_it_changes() {
        let mut screen = Screen::new(80);
        let first = screen.show(&message(r#"{"id":"a","status":"Waiting","progressDetail":{}}"#));
        assert_eq!(first, "a: Waiting\n");
        screen.show(&message(r#"{"id":"b","status":"Waiting","progressDetail":{}}"#));
        let again = screen.show(&message(r#"{"id":"a","status":"Done","progressDetail":{}}"#));
        assert_eq!(again, "\x1b[2A\x1b[2K\ra: Done\r\x1b[2B");
        assert_eq!(screen.show(&message(r#"{"status":"Digest: x"}"#)), "Digest: x\n");
    }

    #[test]
    fn bars() {
        let detail = |current, total| Detail { current: Some(current), total: Some(total) };
        assert_eq!(bar(&detail(50, 100), 80).unwrap(), "     50B/100B");
        let wide = bar(&detail(50, 100), 200).unwrap();
        assert_eq!(wide, format!("[{}>{}]      50B/100B", "=".repeat(25), " ".repeat(24)));
        assert!(bar(&detail(100, 100), 200).unwrap().starts_with(&format!("[{}]", "=".repeat(50))));
        assert_eq!(bar(&detail(5, 0), 200).unwrap(), "      5B");
        assert!(bar(&detail(0, 0), 200).is_none());
        assert!(bar(&detail(i64::MAX, i64::MAX), 200).is_some());
    }
}
