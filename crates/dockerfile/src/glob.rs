//! Shell patterns on paths: Go's `filepath.Match`, and Docker's ignore patterns, which add `**`.
//!
//! A pattern is matched by walking all of its states at once, so that no pattern of a stranger takes longer than its
//! length times the path's.

/// A pattern, compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    tokens: Vec<Token>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Char(char),
    /// `?`: one character that is no slash.
    One,
    /// `*`: any that are no slashes.
    Star,
    /// `**/`, its first half: the second half, or what is behind it, may come next.
    EnterDirectories,
    /// `**/`, its second half: anything that ends in a slash.
    Directories,
    /// `**` elsewhere: anything.
    Anything,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Glob {
    /// Go's `filepath.Match`: `*`, `?`, `[a-z]`, `[^a]`, `\x`. `None` for a pattern that is not well formed.
    pub fn new(pattern: &str) -> Option<Glob> {
        Glob::compile(pattern, false)
    }

    /// As [`Glob::new`], with `**` for any number of directories.
    pub fn with_double_star(pattern: &str) -> Option<Glob> {
        Glob::compile(pattern, true)
    }

    /// As [`Glob::new`] for text that is no path: `*` and `?` pass slashes.
    pub(crate) fn of_text(pattern: &str) -> Option<Glob> {
        let mut glob = Glob::compile(pattern, false)?;
        for token in &mut glob.tokens {
            match token {
                Token::Star => *token = Token::Anything,
                Token::One => *token = Token::Class { negated: true, ranges: Vec::new() },
                _ => {}
            }
        }
        Some(glob)
    }

    /// Whether `text` has a character that means something in a pattern.
    pub fn is_pattern(text: &str) -> bool {
        text.contains(['*', '?', '[', '\\'])
    }

    /// A pattern that matches `text` and nothing else.
    pub fn escape(text: &str) -> String {
        let mut out = String::new();
        for c in text.chars() {
            if "*?[\\".contains(c) {
                out.push('\\');
            }
            out.push(c);
        }
        out
    }

    fn compile(pattern: &str, double: bool) -> Option<Glob> {
        let mut tokens = Vec::new();
        let mut chars = pattern.chars().peekable();
        while let Some(c) = chars.next() {
            let token = match c {
                '*' if double && chars.peek() == Some(&'*') => {
                    chars.next();
                    if chars.next_if_eq(&'/').is_some() {
                        tokens.push(Token::EnterDirectories);
                        Token::Directories
                    } else {
                        Token::Anything
                    }
                }
                '*' => Token::Star,
                '?' => Token::One,
                '\\' => Token::Char(chars.next()?),
                '[' => class(&mut chars)?,
                other => Token::Char(other),
            };
            tokens.push(token);
        }
        Some(Glob { tokens })
    }

    /// Whether the whole of `path` matches.
    pub fn matches(&self, path: &str) -> bool {
        let mut states = vec![false; self.tokens.len() + 1];
        states[0] = true;
        self.pass_empty(&mut states);
        for c in path.chars() {
            let mut next = vec![false; states.len()];
            for (at, token) in self.tokens.iter().enumerate().filter(|(at, _)| states[*at]) {
                match token {
                    Token::Char(wanted) => next[at + 1] |= *wanted == c,
                    Token::One => next[at + 1] |= c != '/',
                    Token::Star => next[at] |= c != '/',
                    Token::Anything => next[at] = true,
                    Token::EnterDirectories => {}
                    Token::Directories => {
                        next[at] = true;
                        next[at + 1] |= c == '/';
                    }
                    Token::Class { negated, ranges } => {
                        let inside = ranges.iter().any(|(from, to)| (*from..=*to).contains(&c));
                        // Of no ranges at all: any character of a text.
                        next[at + 1] |= (c != '/' || ranges.is_empty()) && inside != *negated;
                    }
                }
            }
            self.pass_empty(&mut next);
            states = next;
        }
        states[self.tokens.len()]
    }

    /// Adds the states that are reached without a character.
    fn pass_empty(&self, states: &mut [bool]) {
        for (at, token) in self.tokens.iter().enumerate() {
            if !states[at] {
                continue;
            }
            match token {
                Token::Star | Token::Anything => states[at + 1] = true,
                Token::EnterDirectories => {
                    states[at + 1] = true;
                    states[at + 2] = true;
                }
                _ => {}
            }
        }
    }
}

/// What is between `[` and `]`.
fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Token> {
    let negated = chars.next_if(|c| *c == '^').is_some();
    let mut ranges = Vec::new();
    loop {
        let from = match chars.next()? {
            ']' if !ranges.is_empty() => return Some(Token::Class { negated, ranges }),
            ']' | '-' => return None,
            '\\' => chars.next()?,
            c => c,
        };
        let mut to = from;
        if chars.next_if_eq(&'-').is_some() {
            to = match chars.next()? {
                ']' => return None,
                '\\' => chars.next()?,
                c => c,
            };
        }
        ranges.push((from, to));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(glob: Option<Glob>, cases: &[(&str, bool)]) {
        let glob = glob.expect("the pattern is good");
        for (path, want) in cases {
            assert_eq!(glob.matches(path), *want, "{glob:?} on {path}");
        }
    }

    #[test]
    fn gos_patterns() {
        check(Glob::new("*.go"), &[("a.go", true), (".go", true), ("a/b.go", false), ("a.goo", false)]);
        check(Glob::new("a?c"), &[("abc", true), ("a/c", false), ("ac", false)]);
        check(Glob::new("[a-c]x[^0-9]"), &[("bxz", true), ("dxz", false), ("bx1", false), ("bx/", false)]);
        check(Glob::new("\\*[\\]]"), &[("*]", true), ("a]", false)]);
        check(Glob::new("a**b"), &[("axxb", true), ("a/b", false)]);
        for bad in ["[", "[]", "[]a]", "[-]", "[x-]", "a\\", "[a", "[^]"] {
            assert_eq!(Glob::new(bad), None, "{bad}");
        }
    }

    #[test]
    fn double_stars() {
        check(Glob::with_double_star("**/a"), &[("a", true), ("x/a", true), ("x/y/a", true), ("ba", false)]);
        check(Glob::with_double_star("a/**"), &[("a/b", true), ("a/b/c", true), ("a", false), ("ab", false)]);
        check(
            Glob::with_double_star("a/**/b"),
            &[("a/b", true), ("a/x/b", true), ("a/x/y/b", true), ("ab", false)],
        );
        check(Glob::with_double_star("**/*.md"), &[("x.md", true), ("d/x.md", true), ("x.mdx", false)]);
        check(Glob::with_double_star("**"), &[("x", true), ("x/y", true), ("", true)]);
    }

    #[test]
    fn no_pattern_is_slow() {
        let glob = Glob::with_double_star(&"**/*a".repeat(200)).expect("good");
        assert!(!glob.matches(&"a/".repeat(2000)));
    }
}
