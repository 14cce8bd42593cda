//! Words: quotes are taken off, `$` and `${}` become values.

use crate::glob::Glob;
use std::collections::BTreeSet;

/// Longest result of one expansion. `${v//a/$w}` could double a value with each line.
const MAX_RESULT: usize = 16 << 20;
/// How deep `${a:-${b:-...}}` may nest.
const MAX_DEPTH: usize = 64;
/// Longest value that a pattern is matched against; the work grows with its square.
const MAX_PATTERN_VALUE: usize = 64 << 10;

/// Expands words with the values that `lookup` knows.
#[derive(Clone, Copy)]
pub struct Expander<'a> {
    escape: char,
    lookup: &'a dyn Fn(&str) -> Option<String>,
}

impl std::fmt::Debug for Expander<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Expander").field("escape", &self.escape).finish_non_exhaustive()
    }
}

/// What an expansion gave.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expanded {
    /// All of it, quotes taken off.
    pub text: String,
    /// Split at blanks that were not quoted.
    pub words: Vec<String>,
    /// Variables that had no value and no default.
    pub missing: BTreeSet<String>,
}

impl<'a> Expander<'a> {
    /// With the file's escape character.
    pub fn new(escape: char, lookup: &'a dyn Fn(&str) -> Option<String>) -> Expander<'a> {
        Expander { escape, lookup }
    }

    /// Expands `word`; the error says what is wrong with it.
    pub fn expand(&self, word: &str) -> Result<Expanded, String> {
        let chars: Vec<char> = word.chars().collect();
        let mut run = Run { expander: *self, chars: &chars, at: 0, out: Expanded::default(), depth: 0 };
        let mut words = Words::default();
        run.out.text = run.until(None, Raw::No, &mut words)?;
        let mut out = run.out;
        out.words = words.finish();
        Ok(out)
    }

    /// The text of [`Expander::expand`].
    pub fn text(&self, word: &str) -> Result<String, String> {
        self.expand(word).map(|e| e.text)
    }

    /// Expands the text of a here-document: variables, but quotes are data.
    pub fn heredoc(&self, body: &str) -> Result<Expanded, String> {
        let chars: Vec<char> = body.chars().collect();
        let mut run = Run { expander: *self, chars: &chars, at: 0, out: Expanded::default(), depth: 0 };
        run.out.text = run.heredoc()?;
        Ok(run.out)
    }
}

/// Whether escapes stay, for patterns that have escapes of their own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Raw {
    No,
    Yes,
}

/// Collects words as they are written.
#[derive(Default)]
struct Words {
    done: Vec<String>,
    word: String,
    begun: bool,
}

impl Words {
    fn push(&mut self, c: char) {
        if c == ' ' || c == '\t' || c == '\n' {
            self.end();
        } else {
            self.push_quoted(c);
        }
    }

    fn push_quoted(&mut self, c: char) {
        self.begun = true;
        self.word.push(c);
    }

    fn end(&mut self) {
        if self.begun {
            self.done.push(std::mem::take(&mut self.word));
            self.begun = false;
        }
    }

    fn finish(mut self) -> Vec<String> {
        self.end();
        self.done
    }
}

struct Run<'a, 'b> {
    expander: Expander<'a>,
    chars: &'b [char],
    at: usize,
    out: Expanded,
    depth: usize,
}

impl Run<'_, '_> {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        Some(c)
    }

    /// Up to `stop`, which is consumed, or to the end.
    fn until(&mut self, stop: Option<char>, raw: Raw, words: &mut Words) -> Result<String, String> {
        let mut out = String::new();
        loop {
            let Some(c) = self.next() else {
                return match stop {
                    None => Ok(out),
                    Some(stop) => {
                        Err(format!("unexpected end of statement while looking for matching {stop}"))
                    }
                };
            };
            if Some(c) == stop {
                return Ok(out);
            }
            match c {
                '\'' => {
                    words.begun = true;
                    self.single(raw, &mut out, words)?;
                }
                '"' => {
                    words.begun = true;
                    self.double(raw, &mut out, words)?;
                }
                '$' => {
                    let value = self.dollar()?;
                    for c in value.chars() {
                        words.push(c);
                    }
                    out.push_str(&value);
                }
                c if c == self.expander.escape => {
                    if raw == Raw::Yes {
                        out.push(c);
                    }
                    // An escape at the very end is dropped.
                    if let Some(c) = self.next() {
                        words.push_quoted(c);
                        out.push(c);
                    }
                }
                c => {
                    words.push(c);
                    out.push(c);
                }
            }
            if out.len() > MAX_RESULT {
                return Err("the expanded text is too long".into());
            }
        }
    }

    fn single(&mut self, raw: Raw, out: &mut String, words: &mut Words) -> Result<(), String> {
        loop {
            match self.next() {
                None => {
                    return Err("unexpected end of statement while looking for matching single-quote".into());
                }
                Some('\'') => return Ok(()),
                Some(c) => {
                    // In a pattern, what is quoted means itself.
                    if raw == Raw::Yes && matches!(c, '*' | '?' | '\\') {
                        out.push('\\');
                    }
                    words.push_quoted(c);
                    out.push(c);
                }
            }
        }
    }

    fn double(&mut self, raw: Raw, out: &mut String, words: &mut Words) -> Result<(), String> {
        loop {
            match self.next() {
                None => {
                    return Err("unexpected end of statement while looking for matching double-quote".into());
                }
                Some('"') => return Ok(()),
                Some('$') => {
                    let value = self.dollar()?;
                    for c in value.chars() {
                        words.push_quoted(c);
                    }
                    out.push_str(&value);
                }
                Some(c) if c == self.expander.escape => match self.peek() {
                    Some(next) if next == '"' || next == '$' || next == self.expander.escape => {
                        if raw == Raw::Yes {
                            out.push(c);
                        }
                        self.at += 1;
                        words.push_quoted(next);
                        out.push(next);
                    }
                    _ => {
                        words.push_quoted(c);
                        out.push(c);
                    }
                },
                Some(c) => {
                    words.push_quoted(c);
                    out.push(c);
                }
            }
        }
    }

    fn heredoc(&mut self) -> Result<String, String> {
        let mut out = String::new();
        while let Some(c) = self.next() {
            match c {
                '$' => out.push_str(&self.dollar()?),
                c if c == self.expander.escape => match self.peek() {
                    Some(next) if next == '$' || next == self.expander.escape => {
                        self.at += 1;
                        out.push(next);
                    }
                    // A line is joined to the next, as shells do.
                    Some('\n') => self.at += 1,
                    _ => out.push(c),
                },
                c => out.push(c),
            }
            if out.len() > MAX_RESULT {
                return Err("the expanded text is too long".into());
            }
        }
        Ok(out)
    }

    /// The value of what stands behind a `$`.
    fn dollar(&mut self) -> Result<String, String> {
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".into());
            }
            return Ok(self.value(&name).unwrap_or_else(|| self.miss(&name)));
        }
        self.at += 1;
        if self.depth == MAX_DEPTH {
            return Err("substitutions are nested too deep".into());
        }
        self.depth += 1;
        let result = self.braces();
        self.depth -= 1;
        result
    }

    fn braces(&mut self) -> Result<String, String> {
        let missing_brace = || "syntax error: missing '}'".to_string();
        self.peek().ok_or_else(missing_brace)?;
        let name = self.name();
        if name.is_empty() {
            return match self.peek() {
                Some('}') => Err("syntax error: bad substitution: ${}".into()),
                _ => Err("syntax error: bad substitution: a variable's name is expected after ${".into()),
            };
        }
        let mut words = Words::default();
        match self.next().ok_or_else(missing_brace)? {
            '}' => Ok(self.value(&name).unwrap_or_else(|| self.miss(&name))),
            ':' => match self.next().ok_or_else(missing_brace)? {
                op @ ('+' | '-' | '?') => {
                    let missing = self.out.missing.clone();
                    let word = self.until(Some('}'), Raw::No, &mut words)?;
                    self.modified(&name, op, true, word, missing)
                }
                other => Err(format!("unsupported modifier (:{other}) in substitution of {name}")),
            },
            op @ ('+' | '-' | '?') => {
                let missing = self.out.missing.clone();
                let word = self.until(Some('}'), Raw::No, &mut words)?;
                self.modified(&name, op, false, word, missing)
            }
            op @ ('#' | '%') => {
                let longest = self.peek() == Some(op);
                if longest {
                    self.at += 1;
                }
                let pattern = self.until(Some('}'), Raw::Yes, &mut words)?;
                let Some(value) = self.value(&name) else { return Ok(self.miss(&name)) };
                trim(&value, &pattern, op == '#', longest)
            }
            '/' => {
                let all = self.peek() == Some('/');
                if all {
                    self.at += 1;
                }
                let pattern = self.until(Some('/'), Raw::Yes, &mut words)?;
                let with = self.until(Some('}'), Raw::No, &mut words)?;
                let Some(value) = self.value(&name) else { return Ok(self.miss(&name)) };
                replace(&value, &pattern, &with, all)
            }
            other => Err(format!("unsupported modifier ({other}) in substitution of {name}")),
        }
    }

    fn modified(
        &mut self,
        name: &str,
        op: char,
        empty_counts: bool,
        word: String,
        missing_before: BTreeSet<String>,
    ) -> Result<String, String> {
        let value = self.value(name);
        let is_set = value.as_ref().is_some_and(|v| !(empty_counts && v.is_empty()));
        let uses_word = if op == '+' { is_set } else { !is_set };
        if !uses_word {
            // What was missing in a word that is not used is not missed.
            self.out.missing = missing_before;
        }
        match op {
            '+' => Ok(if is_set { word } else { String::new() }),
            '-' => Ok(if is_set { value.unwrap_or_default() } else { word }),
            _ if is_set => Ok(value.unwrap_or_default()),
            _ => {
                let default =
                    if empty_counts { "is not allowed to be empty" } else { "is not allowed to be unset" };
                Err(format!("{name}: {}", if word.is_empty() { default } else { &word }))
            }
        }
    }

    fn value(&self, name: &str) -> Option<String> {
        (self.expander.lookup)(name)
    }

    fn miss(&mut self, name: &str) -> String {
        self.out.missing.insert(name.to_string());
        String::new()
    }

    /// A name, a number, or one of the shell's special characters; empty when there is none.
    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self.peek() {
            if name.is_empty() && c.is_ascii_digit() {
                while let Some(digit) = self.peek().filter(char::is_ascii_digit) {
                    name.push(digit);
                    self.at += 1;
                }
                break;
            }
            if name.is_empty() && matches!(c, '@' | '*' | '#' | '?' | '-' | '$' | '!') {
                self.at += 1;
                return c.to_string();
            }
            if !c.is_alphanumeric() && c != '_' {
                break;
            }
            name.push(c);
            self.at += 1;
        }
        name
    }
}

/// Compiles a pattern of `#`, `%`, `/`: `*`, `?` and escapes; brackets mean themselves.
fn pattern(text: &str) -> Result<Glob, String> {
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                plain.push('\\');
                plain.push(chars.next().ok_or("the pattern ends in an escape")?);
            }
            '[' | ']' => plain.extend(['\\', c]),
            c => plain.push(c),
        }
    }
    Glob::of_text(&plain).ok_or_else(|| format!("bad pattern {text:?}"))
}

fn bounded(value: &str) -> Result<(), String> {
    if value.len() > MAX_PATTERN_VALUE {
        return Err(format!(
            "a value of more than {MAX_PATTERN_VALUE} bytes cannot be matched with a pattern"
        ));
    }
    Ok(())
}

/// Positions where a piece may begin or end.
fn boundaries(value: &str) -> Vec<usize> {
    value.char_indices().map(|(at, _)| at).chain([value.len()]).collect()
}

fn trim(value: &str, text: &str, prefix: bool, longest: bool) -> Result<String, String> {
    bounded(value)?;
    let glob = pattern(text)?;
    let mut ends = boundaries(value);
    // Prefixes grow with the position, suffixes shrink.
    if prefix == longest {
        ends.reverse();
    }
    for at in ends {
        let (piece, rest) = if prefix { (&value[..at], &value[at..]) } else { (&value[at..], &value[..at]) };
        if glob.matches(piece) {
            return Ok(rest.to_string());
        }
    }
    Ok(value.to_string())
}

fn replace(value: &str, text: &str, with: &str, all: bool) -> Result<String, String> {
    bounded(value)?;
    if text.is_empty() {
        return Ok(value.to_string());
    }
    let glob = pattern(text)?;
    let ends = boundaries(value);
    let mut out = String::new();
    let mut from = 0;
    let mut tries = 0usize;
    while from < value.len() {
        let mut found = None;
        for end in ends.iter().rev().take_while(|end| **end > from) {
            tries += end - from;
            if tries > MAX_RESULT {
                return Err("the pattern takes too long to match".into());
            }
            if glob.matches(&value[from..*end]) {
                found = Some(*end);
                break;
            }
        }
        match found {
            Some(end) => {
                out.push_str(with);
                from = end;
                if !all {
                    break;
                }
            }
            None => {
                let c = value[from..].chars().next().expect("the position is inside");
                out.push(c);
                from += c.len_utf8();
            }
        }
        if out.len() > MAX_RESULT {
            return Err("the expanded text is too long".into());
        }
    }
    out.push_str(&value[from..]);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "v" => Some("value".into()),
            "e" => Some(String::new()),
            "p" => Some("/usr/local/lib.tar.gz".into()),
            "s" => Some("a b  c".into()),
            "1" => Some("one".into()),
            _ => None,
        }
    }

    fn check(word: &str, want: &str) {
        let got = Expander::new('\\', &lookup).text(word);
        assert_eq!(got.as_deref(), Ok(want), "{word}");
    }

    #[test]
    fn plain_variables_and_quotes() {
        check("a$v-b", "avalue-b");
        check("${v}x", "valuex");
        check("\\$v", "$v");
        check("'$v'", "$v");
        check("\"$v \\\" \\$v \\x\"", "value \" $v \\x");
        check("a\\ b", "a b");
        check("$", "$");
        check("$x$1$", "one$");
        check("${1}", "one");
        check("$é", "");
        check("x\\", "x");
        check("$-a", "a");
    }

    #[test]
    fn modifiers() {
        for (word, want) in [
            ("${x:-d}", "d"),
            ("${x-d}", "d"),
            ("${e:-d}", "d"),
            ("${e-d}", ""),
            ("${v:-d}", "value"),
            ("${v:+d}", "d"),
            ("${e:+d}", ""),
            ("${e+d}", "d"),
            ("${x+d}", ""),
            ("${v:?no}", "value"),
            ("${e?no}", ""),
            ("${x:-${e:-${v}}}", "value"),
            ("${x:-\"a b\"}", "a b"),
            ("${x:-}", ""),
            ("${p#*/}", "usr/local/lib.tar.gz"),
            ("${p##*/}", "lib.tar.gz"),
            ("${p%.*}", "/usr/local/lib.tar"),
            ("${p%%.*}", "/usr/local/lib"),
            ("${p#nomatch}", "/usr/local/lib.tar.gz"),
            ("${v/l/L}", "vaLue"),
            ("${p//l/L}", "/usr/LocaL/Lib.tar.gz"),
            ("${p//?/x}", "xxxxxxxxxxxxxxxxxxxxx"),
            ("${v/a*/X}", "vX"),
            ("${p/\\/usr/}", "/local/lib.tar.gz"),
            ("${v#v?l}", "ue"),
            ("${v%'e'}", "valu"),
        ] {
            check(word, want);
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let check = |word: &str, want: &str| {
            let got = Expander::new('\\', &lookup).text(word);
            assert_eq!(got.as_ref().map_err(String::as_str), Err(want), "{word}");
        };
        check("${x:?}", "x: is not allowed to be empty");
        check("${x?}", "x: is not allowed to be unset");
        check("${x:?gone}", "x: gone");
        check("${v", "syntax error: missing '}'");
        check("${", "syntax error: missing '}'");
        check("${}", "syntax error: bad substitution: ${}");
        check("${v:=d}", "unsupported modifier (:=) in substitution of v");
        check("'a", "unexpected end of statement while looking for matching single-quote");
        check("${x:-a", "unexpected end of statement while looking for matching }");
    }

    #[test]
    fn words_are_split_outside_quotes() {
        let check = |word: &str, want: &[&str]| {
            let got = Expander::new('\\', &lookup).expand(word).expect("a good word");
            assert_eq!(got.words, want, "{word}");
        };
        check("a  b\tc", &["a", "b", "c"]);
        check("$s", &["a", "b", "c"]);
        check("\"$s\" x", &["a b  c", "x"]);
        check("'' a", &["", "a"]);
        check("a\\ b", &["a b"]);
        check("$x", &[]);
    }

    #[test]
    fn what_is_missing_is_told() {
        let missing = |word: &str| {
            let got = Expander::new('\\', &lookup).expand(word).expect("a good word");
            got.missing.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(missing("$x ${y} $v"), ["x", "y"]);
        assert!(missing("${x:-d} ${v:-$z} ${x+y}").is_empty());
        assert_eq!(missing("${x:-$z}"), ["z"]);
    }

    #[test]
    fn another_escape_character() {
        let got = Expander::new('`', &lookup).text("c:\\d `$v $v");
        assert_eq!(got.as_deref(), Ok("c:\\d $v value"));
    }

    #[test]
    fn bodies_of_heredocs() {
        let got = Expander::new('\\', &lookup).heredoc("a \"$v\" '$v' \\$v \\x\n").map(|e| e.text);
        assert_eq!(got.as_deref(), Ok("a \"value\" 'value' $v \\x\n"));
    }

    #[test]
    fn nesting_ends() {
        let deep = "${x:-".repeat(100) + &"}".repeat(100);
        assert!(Expander::new('\\', &lookup).text(&deep).is_err());
    }
}
