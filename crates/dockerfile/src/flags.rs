//! `--name=value` between an instruction's name and its arguments.

use crate::error::Error;
use crate::suggest::suggest;

/// The flags of one instruction, as written, variables not expanded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Flags {
    given: Vec<(String, Option<String>)>,
    lines: (u32, u32),
}

/// Takes the flags off the beginning of `args`; returns them and the rest.
pub(crate) fn split(args: &str, lines: (u32, u32), escape: char) -> (Flags, &str) {
    let mut flags = Flags { given: Vec::new(), lines };
    let mut rest = args.trim_start();
    while rest.starts_with("--") {
        let (word, length) = flag_word(rest, escape);
        rest = rest[length..].trim_start();
        if word == "--" {
            break;
        }
        let text = word.trim_start_matches("--");
        flags.given.push(match text.split_once('=') {
            Some((name, value)) => (name.to_string(), Some(value.to_string())),
            None => (text.to_string(), None),
        });
    }
    (flags, rest)
}

/// The word at the start of `text`, quotes and escapes taken off, and how many bytes it took.
fn flag_word(text: &str, escape: char) -> (String, usize) {
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        if quote.is_none() && c.is_whitespace() {
            return (word, at);
        }
        if c == escape {
            // A variable's `$` keeps its escape for the expansion that follows.
            if let Some((_, next)) = chars.next() {
                if next == '$' {
                    word.push(c);
                }
                word.push(next);
            }
        } else if quote == Some(c) {
            quote = None;
        } else if quote.is_none() && (c == '\'' || c == '"') {
            quote = Some(c);
        } else {
            word.push(c);
        }
    }
    (word, text.len())
}

impl Flags {
    fn fail(&self, name: &str, message: String) -> Error {
        Error::at(self.lines, format!("--{name}"), message)
    }

    /// Refuses names that are not in `known`.
    pub(crate) fn only(&self, instruction: &str, known: &[&str]) -> Result<(), Error> {
        for (name, _) in &self.given {
            if !known.contains(&name.as_str()) {
                let hint = suggest(name, known.iter().copied()).map(|s| format!(" (did you mean {s}?)"));
                let expected = match known {
                    [] => format!("{instruction} has no flags"),
                    _ => format!("{instruction} has --{}", known.join(", --")),
                };
                let message = format!("unknown flag: --{name}{}; {expected}", hint.unwrap_or_default());
                return Err(self.fail(name, message));
            }
        }
        Ok(())
    }

    /// The value of a flag that may stand once.
    pub(crate) fn one(&self, name: &str) -> Result<Option<String>, Error> {
        let mut values = self.all(name)?.into_iter();
        let first = values.next();
        if values.next().is_some() {
            return Err(self.fail(name, format!("duplicate flag specified: {name}")));
        }
        Ok(first)
    }

    /// The values of a flag that may repeat.
    pub(crate) fn all(&self, name: &str) -> Result<Vec<String>, Error> {
        let given = self.given.iter().filter(|(n, _)| n == name);
        given
            .map(|(_, value)| {
                value.clone().ok_or_else(|| self.fail(name, format!("missing a value on flag: {name}")))
            })
            .collect()
    }

    /// A flag that is true when it has no value.
    pub(crate) fn boolean(&self, name: &str) -> Result<Option<bool>, Error> {
        let mut out = None;
        for (_, value) in self.given.iter().filter(|(n, _)| n == name) {
            if out.is_some() {
                return Err(self.fail(name, format!("duplicate flag specified: {name}")));
            }
            out = Some(match value.as_deref().map(str::to_ascii_lowercase).as_deref() {
                None | Some("true") => true,
                Some("false") => false,
                Some(other) => {
                    return Err(
                        self.fail(name, format!("expecting boolean value for flag {name}, not: {other}"))
                    );
                }
            });
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_come_first() {
        let (flags, rest) = split("--a=1 --b --c=\"x y\" --a=2 -- --z rest  of it", (1, 1), '\\');
        assert_eq!(rest, "--z rest  of it");
        assert_eq!(flags.all("a").expect("values"), ["1", "2"]);
        assert!(flags.one("a").is_err());
        assert_eq!(flags.boolean("b").expect("boolean"), Some(true));
        assert_eq!(flags.one("c").expect("one").as_deref(), Some("x y"));
        assert!(flags.all("b").is_err());
        assert!(flags.only("RUN", &["a", "b"]).is_err());
        assert_eq!(split("x --a", (1, 1), '\\').1, "x --a");
    }

    #[test]
    fn unknown_flags_say_what_there_is() {
        let (flags, _) = split("--chwon=1 a b", (4, 4), '\\');
        let error = flags.only("COPY", &["chown", "chmod"]).expect_err("unknown");
        assert_eq!(error.message, "unknown flag: --chwon (did you mean chown?); COPY has --chown, --chmod");
    }
}
