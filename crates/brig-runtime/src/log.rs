//! Error text on stderr and, with `--log`, as lines of text or JSON in a file, as runc writes them.

use crate::arguments::Global;
use std::fs::File;
use std::io::Write as _;

/// Where messages go.
#[derive(Debug)]
pub(crate) struct Log {
    file: Option<File>,
    json: bool,
}

impl Log {
    /// Opens the file. One that cannot be opened is said on stderr, not a reason to fail.
    pub(crate) fn new(global: &Global) -> Log {
        let open = |path: &std::path::PathBuf| {
            let file = File::options().append(true).create(true).open(path);
            file.map_err(|e| eprintln!("brig-runtime: open log {}: {e}", path.display())).ok()
        };
        Log { file: global.log.as_ref().and_then(open), json: global.log_json }
    }

    pub(crate) fn error(&mut self, text: &str) {
        let text = &one_line(text);
        eprintln!("brig-runtime: {text}");
        self.write("error", text);
    }

    pub(crate) fn warning(&mut self, text: &str) {
        let text = &one_line(text);
        if self.file.is_none() {
            eprintln!("brig-runtime: warning: {text}");
        }
        self.write("warning", text);
    }

    fn write(&mut self, level: &str, text: &str) {
        let Some(file) = &mut self.file else { return };
        let time = runtime::timestamp();
        let line = if self.json {
            format!("{}\n", serde_json::json!({ "level": level, "msg": text, "time": time }))
        } else {
            format!("time=\"{time}\" level={level} msg={text:?}\n")
        };
        // One write, so that lines of several runtimes do not mix. A full disk must not hide the first error.
        drop(file.write_all(line.as_bytes()));
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
