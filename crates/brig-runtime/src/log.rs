//! Error text on stderr and, with `--log`, as lines of text or JSON in a file, as runc writes them.

use crate::arguments::Global;
use std::fs::File;
use std::io::Write as _;
use std::sync::OnceLock;

/// Where messages go.
static LOG: OnceLock<Log> = OnceLock::new();

#[derive(Debug)]
pub(crate) struct Log {
    file: Option<File>,
    json: bool,
}

/// Opens the file.
///
/// # Errors
///
/// As with runc, where the path cannot be one. A full disk, or a lack of descriptors, is said on stderr: a container must be
/// removable then too.
pub(crate) fn open(global: &Global) -> Result<&'static Log, String> {
    use std::io::ErrorKind::{IsADirectory, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem};
    let mut file = None;
    if let Some(path) = &global.log {
        match File::options().append(true).create(true).open(path) {
            Ok(opened) => file = Some(opened),
            Err(e) => {
                let text = format!("open log {}: {e}", path.display());
                match e.kind() {
                    NotFound | NotADirectory | IsADirectory | PermissionDenied | ReadOnlyFilesystem => {
                        return Err(text);
                    }
                    _ => eprintln!("brig-runtime: {text}"),
                }
            }
        }
    }
    Ok(LOG.get_or_init(|| Log { file, json: global.log_json }))
}

/// A line of `--debug`: in the log, or on stderr where there is none.
pub(crate) fn debug(text: &str) {
    let Some(log) = LOG.get() else { return };
    let text = one_line(text);
    match log.file {
        Some(_) => log.write("debug", &text),
        None => eprint!("{}", log.line("debug", &text)),
    }
}

impl Log {
    pub(crate) fn error(&self, text: &str) {
        let text = &one_line(text);
        eprintln!("brig-runtime: {text}");
        self.write("error", text);
    }

    pub(crate) fn warning(&self, text: &str) {
        let text = &one_line(text);
        if self.file.is_none() {
            eprintln!("brig-runtime: warning: {text}");
        }
        self.write("warning", text);
    }

    fn write(&self, level: &str, text: &str) {
        let Some(mut file) = self.file.as_ref() else { return };
        // One write, so that lines of several runtimes do not mix. A full disk must not hide the first error.
        drop(file.write_all(self.line(level, text).as_bytes()));
    }

    fn line(&self, level: &str, text: &str) -> String {
        let time = runtime::timestamp();
        if self.json {
            format!("{}\n", serde_json::json!({ "level": level, "msg": text, "time": time }))
        } else {
            format!("time=\"{time}\" level={level} msg={text:?}\n")
        }
    }
}

/// Longest line: what engines keep of an error, and more than anybody reads.
const MAX_LINE: usize = 3000;

/// Names in a document may hold anything; what is said of them is one line of bounded length.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(MAX_LINE));
    for character in text.chars() {
        if line.len() > MAX_LINE {
            line.push_str("...");
            break;
        }
        match character.is_control() {
            true => line.extend(character.escape_default()),
            false => line.push(character),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        assert_eq!(one_line("a\nb\u{1b}[0m\tc"), "a\\nb\\u{1b}[0m\\tc");
        assert_eq!(one_line(&"x".repeat(10_000)).len(), MAX_LINE + 4);
    }
}
