//! Text to logical lines: parser directives, comments, continuations, here-documents.

use crate::error::Error;
use crate::heredoc::Heredoc;
use crate::words::{json_strings, split_first};

/// Longest line in bytes; the limit of Docker's own scanner.
pub const MAX_LINE: usize = 65_535;
/// Longest file in bytes. A Dockerfile is written by hand; one with megabytes of here-documents is not one.
const MAX_FILE: usize = 8 << 20;

/// What stands in `# key=value` lines at the very top.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directives {
    /// The frontend that was asked for.
    pub syntax: Option<String>,
    pub escape: char,
    pub checks: Checks,
}

impl Default for Directives {
    fn default() -> Directives {
        Directives { syntax: None, escape: '\\', checks: Checks::default() }
    }
}

/// `# check=...`: which build checks are skipped, and whether a finding fails the build.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checks {
    pub skip: Vec<String>,
    pub skip_all: bool,
    pub error: bool,
    pub experimental: Vec<String>,
    pub experimental_all: bool,
}

impl Checks {
    /// Reads `skip=A,B;error=true;experimental=all`.
    ///
    /// # Errors
    ///
    /// A sentence that names what is not understood.
    pub fn parse(text: &str) -> Result<Checks, String> {
        let mut out = Checks::default();
        for part in text.split(';').map(str::trim).filter(|p| !p.is_empty()) {
            let (key, value) =
                part.split_once('=').ok_or_else(|| format!("invalid check option {part:?}"))?;
            let names = || value.split(',').map(|n| n.trim().to_string()).filter(|n| !n.is_empty());
            let all = value.trim().eq_ignore_ascii_case("all");
            match key.trim() {
                "skip" if all => out.skip_all = true,
                "skip" => out.skip.extend(names()),
                "experimental" if all => out.experimental_all = true,
                "experimental" => out.experimental.extend(names()),
                "error" => {
                    out.error = match value.trim().to_ascii_lowercase().as_str() {
                        "true" | "1" | "t" => true,
                        "false" | "0" | "f" => false,
                        _ => {
                            return Err(format!(
                                "failed to parse check option \"error\": {value:?} is no boolean"
                            ));
                        }
                    }
                }
                other => return Err(format!("invalid check option {other:?}")),
            }
        }
        Ok(out)
    }

    /// Both together.
    pub fn merged(&self, other: &Checks) -> Checks {
        Checks {
            skip: self.skip.iter().chain(&other.skip).cloned().collect(),
            skip_all: self.skip_all || other.skip_all,
            error: self.error || other.error,
            experimental: self.experimental.iter().chain(&other.experimental).cloned().collect(),
            experimental_all: self.experimental_all || other.experimental_all,
        }
    }
}

/// One instruction as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Continuations joined, comments dropped, trimmed.
    pub(crate) text: String,
    /// First and last line in the file, from 1; here-documents not counted.
    pub(crate) lines: (u32, u32),
    pub(crate) heredocs: Vec<Heredoc>,
    /// Comments that stand directly above, without `#`.
    pub(crate) comments: Vec<String>,
    pub(crate) has_empty_continuation: bool,
}

/// Reads the directives and the logical lines of a file.
pub(crate) fn read(source: &str) -> Result<(Directives, Vec<Line>), Error> {
    if source.len() > MAX_FILE {
        return Err(Error::whole(format!("the Dockerfile is larger than {MAX_FILE} bytes")));
    }
    let source = source.strip_prefix('\u{feff}').unwrap_or(source);
    let physical: Vec<&str> = source.split_inclusive('\n').collect();
    if let Some((at, long)) =
        (1u32..).zip(&physical).find(|(_, l)| l.trim_end_matches(['\r', '\n']).len() > MAX_LINE)
    {
        let shown = long.chars().take(20).collect::<String>();
        return Err(Error::at(
            (at, at),
            shown,
            format!("dockerfile line greater than maximum allowed size of {MAX_LINE}"),
        ));
    }
    let directives = directives(source, &physical)?;
    let mut reader = Reader { physical: &physical, at: 0, escape: directives.escape };
    let mut out = Vec::new();
    let mut comments = Vec::new();
    while let Some(raw) = reader.next() {
        if let Some(comment) = comment(raw) {
            comments.push(comment.trim().to_string());
            continue;
        }
        if raw.trim().is_empty() {
            comments.clear();
            continue;
        }
        if let Some(line) = reader.logical(raw, std::mem::take(&mut comments))? {
            out.push(line);
        }
    }
    Ok((directives, out))
}

struct Reader<'a> {
    physical: &'a [&'a str],
    /// Lines read so far, which is also the number of the last one.
    at: usize,
    escape: char,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let line = self.physical.get(self.at)?;
        self.at += 1;
        Some(line)
    }

    fn number(&self) -> u32 {
        u32::try_from(self.at).unwrap_or(u32::MAX)
    }

    /// The instruction that begins with the line `raw`.
    fn logical(&mut self, raw: &str, comments: Vec<String>) -> Result<Option<Line>, Error> {
        let first = self.number();
        let (mut text, mut more) = self.continuation(raw.trim_start());
        let mut has_empty_continuation = false;
        let mut last = first;
        while more {
            let Some(raw) = self.next() else { break };
            if comment(raw).is_some() {
                continue;
            }
            if raw.trim().is_empty() {
                has_empty_continuation = true;
                continue;
            }
            let (piece, continues) = self.continuation(raw);
            text.push_str(&piece);
            more = continues;
            last = self.number();
        }
        let text = text.trim().to_string();
        if text.is_empty() {
            return Ok(None);
        }
        let mut heredocs =
            if may_have_heredocs(&text) { Heredoc::in_line(&text, self.escape) } else { Vec::new() };
        for heredoc in &mut heredocs {
            self.fill(heredoc, (first, last))?;
        }
        Ok(Some(Line { text, lines: (first, last), heredocs, comments, has_empty_continuation }))
    }

    /// The line without its end, and whether the next one belongs to it.
    fn continuation(&self, raw: &str) -> (String, bool) {
        let line = raw.trim_end_matches(['\r', '\n']);
        let trimmed = line.trim_end_matches([' ', '\t']);
        let Some(before) = trimmed.strip_suffix(self.escape) else { return (line.to_string(), false) };
        // An escaped escape is data.
        if before.ends_with(self.escape) { (line.to_string(), false) } else { (before.to_string(), true) }
    }

    fn fill(&mut self, heredoc: &mut Heredoc, lines: (u32, u32)) -> Result<(), Error> {
        while let Some(raw) = self.next() {
            let line = if heredoc.strips_tabs { raw.trim_start_matches('\t') } else { raw };
            let end = line.trim_end_matches(['\r', '\n']);
            if end == heredoc.name {
                return Ok(());
            }
            heredoc.content.push_str(end);
            heredoc.content.push('\n');
        }
        Err(Error::at(lines, "<<", format!("unterminated heredoc: no line is {:?}", heredoc.name)))
    }
}

/// What follows the `#` of a comment line.
fn comment(raw: &str) -> Option<&str> {
    raw.trim_start().strip_prefix('#')
}

/// RUN, COPY and ADD in the form that is no JSON, also below ONBUILD.
fn may_have_heredocs(text: &str) -> bool {
    let (mut name, mut rest) = split_first(text);
    if name.eq_ignore_ascii_case("onbuild") {
        (name, rest) = split_first(rest);
    }
    ["run", "copy", "add"].iter().any(|n| name.eq_ignore_ascii_case(n)) && json_strings(rest).is_none()
}

fn directives(source: &str, physical: &[&str]) -> Result<Directives, Error> {
    let mut out = Directives::default();
    let mut seen: Vec<&str> = Vec::new();
    for (number, raw) in (1u32..).zip(physical) {
        let Some((key, value)) = comment(raw).and_then(directive) else { break };
        let Some(known) = ["syntax", "escape", "check"].into_iter().find(|k| key.eq_ignore_ascii_case(k))
        else {
            break;
        };
        let wrong = |message: String| Error::at((number, number), key, message);
        if seen.contains(&known) {
            return Err(wrong(format!("only one {known} parser directive can be used")));
        }
        seen.push(known);
        match known {
            "syntax" => out.syntax = Some(value.to_string()),
            "escape" => {
                out.escape = match value {
                    "\\" => '\\',
                    "`" => '`',
                    other => {
                        return Err(wrong(format!("invalid escape token {other:?} does not match ` or \\")));
                    }
                }
            }
            _ => out.checks = Checks::parse(value).map_err(wrong)?,
        }
    }
    if out.syntax.is_none() {
        out.syntax = other_syntax(source, physical);
    }
    Ok(out)
}

/// `key = value`, as a directive has it.
fn directive(comment: &str) -> Option<(&str, &str)> {
    let (key, value) = comment.split_once('=')?;
    let (key, value) = (key.trim(), value.trim());
    let is_name =
        key.starts_with(|c: char| c.is_ascii_alphabetic()) && key.bytes().all(|b| b.is_ascii_alphanumeric());
    (is_name && !value.is_empty()).then_some((key, value))
}

/// The other places where a syntax may stand: behind a `#!` line, in a `//` comment, in a JSON object.
fn other_syntax(source: &str, physical: &[&str]) -> Option<String> {
    let syntax = |text: &str| {
        directive(text).filter(|(k, _)| k.eq_ignore_ascii_case("syntax")).map(|(_, v)| v.to_string())
    };
    if physical.first()?.starts_with("#!") {
        return physical.get(1).and_then(|line| comment(line)).and_then(syntax);
    }
    if let Some(text) = physical.first()?.trim_start().strip_prefix("//") {
        return syntax(text);
    }
    if !source.trim_start().starts_with('{') {
        return None;
    }
    let object: serde_json::Value = serde_json::from_str(source).ok()?;
    object.get("syntax")?.as_str().map(str::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> Vec<String> {
        read(source).expect("good text").1.into_iter().map(|l| l.text).collect()
    }

    #[test]
    fn lines_are_joined() {
        let check = |source: &str, want: &[&str]| assert_eq!(texts(source), want, "{source:?}");
        check("RUN a \\\n  b\n", &["RUN a   b"]);
        check("RUN a \\  \n# c\n  # d\n\nb # e\nRUN f", &["RUN a b # e", "RUN f"]);
        check("RUN a \\\\\nRUN b", &["RUN a \\\\", "RUN b"]);
        check("\u{feff}RUN a\r\nRUN b\\\r\n c\r\n", &["RUN a", "RUN b c"]);
        check("# escape=`\nRUN a`\nb\\\nRUN c", &["RUN ab\\", "RUN c"]);
        check("  RUN a\\", &["RUN a"]);
        check("\\\n", &[]);
    }

    #[test]
    fn heredocs_take_their_lines() {
        let (_, lines) = read("RUN <<A <<-'B' cat\na $x\nA\n\t\tb\n\tB\nRUN c").expect("good");
        assert_eq!(lines.len(), 2);
        let docs: Vec<_> = lines[0].heredocs.iter().map(|h| (h.content.as_str(), h.expands)).collect();
        assert_eq!(docs, [("a $x\n", true), ("b\n", false)]);
        assert_eq!((lines[0].lines, lines[1].lines), ((1, 1), (6, 6)));
        assert!(read("RUN <<A\nx").is_err());
        assert_eq!(texts("ENV a=<<A\nENV b=c"), ["ENV a=<<A", "ENV b=c"]);
        assert_eq!(texts("ONBUILD COPY <<a /\nx\na\nRUN y"), ["ONBUILD COPY <<a /", "RUN y"]);
        assert_eq!(texts("RUN [\"cat\", \"<<A\"]\nRUN y"), ["RUN [\"cat\", \"<<A\"]", "RUN y"]);
    }

    #[test]
    fn directives_stand_at_the_top() {
        let get = |source: &str| read(source).map(|(d, _)| d);
        let d = get("# Syntax = docker/dockerfile:1\n#escape=`\n# check=skip=A,B;error=true\nFROM x")
            .expect("good");
        assert_eq!((d.syntax.as_deref(), d.escape), (Some("docker/dockerfile:1"), '`'));
        assert_eq!((d.checks.skip, d.checks.error), (vec!["A".to_string(), "B".to_string()], true));
        assert_eq!(get("# hello\n# escape=`\n").expect("good").escape, '\\');
        assert_eq!(get("\n# escape=`\n").expect("good").escape, '\\');
        assert_eq!(get("# other=x\n# escape=`\n").expect("good").escape, '\\');
        assert_eq!(get("#!/bin/x\n# syntax=y\n").expect("good").syntax.as_deref(), Some("y"));
        assert_eq!(get("// syntax=y\n").expect("good").syntax.as_deref(), Some("y"));
        assert_eq!(get("{\"syntax\":\"y\"}").expect("good").syntax.as_deref(), Some("y"));
        assert!(get("# escape=x\n").is_err());
        assert!(get("# escape=`\n# escape=`\n").is_err());
        assert!(get("# check=nonsense=1\n").is_err());
    }

    #[test]
    fn long_lines_are_refused() {
        assert!(read(&format!("RUN {}", "a".repeat(MAX_LINE))).is_err());
        assert!(read(&format!("RUN {}", "a".repeat(MAX_LINE - 4))).is_ok());
    }

    #[test]
    fn comments_above_are_kept() {
        let (_, lines) = read("# x\n\n# base the base\nFROM a\n# y\nRUN b").expect("good");
        assert_eq!(lines[0].comments, ["base the base"]);
        assert_eq!(lines[1].comments, ["y"]);
    }
}
