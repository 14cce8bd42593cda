//! `.dockerignore`: which paths of a context are left out.
//!
//! The last pattern that matches a path, or a directory above it, decides. `!` takes back in.

use crate::glob::Glob;

/// Patterns that a file may have; real ones have some dozens.
const MAX_PATTERNS: usize = 10_000;

/// The patterns of one ignore file, or of `--exclude`.
#[derive(Debug, Clone, Default)]
pub struct Ignore {
    patterns: Vec<Pattern>,
}

#[derive(Debug, Clone)]
struct Pattern {
    glob: Glob,
    text: String,
    negated: bool,
}

/// What the patterns say of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Kept,
    Ignored,
    /// A directory that is left out, in which something may be taken back in.
    IgnoredButEnter,
}

impl Ignore {
    /// Reads the text of an ignore file.
    ///
    /// # Errors
    ///
    /// A sentence that names the pattern that is not well formed.
    pub fn parse(text: &str) -> Result<Ignore, String> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let lines = text.lines().filter(|line| !line.starts_with('#')).map(str::trim);
        Ignore::new(lines)
    }

    /// Takes patterns one by one.
    ///
    /// # Errors
    ///
    /// As [`Ignore::parse`].
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Ignore, String> {
        let mut out = Vec::new();
        for text in patterns {
            let (negated, rest) = match text.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, text.trim()),
            };
            if rest.is_empty() {
                if negated {
                    return Err("illegal exclusion pattern: \"!\"".into());
                }
                continue;
            }
            let cleaned = clean(rest);
            let cleaned =
                if cleaned.len() > 1 { cleaned.trim_start_matches('/').to_string() } else { cleaned };
            let glob = Glob::with_double_star(&cleaned)
                .ok_or_else(|| format!("syntax error in pattern: {text:?}"))?;
            if out.len() == MAX_PATTERNS {
                return Err(format!("more than {MAX_PATTERNS} patterns"));
            }
            out.push(Pattern { glob, text: cleaned, negated });
        }
        Ok(Ignore { patterns: out })
    }

    /// Whether there are no patterns.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether `path` (relative, without `.` and `..`) is left out.
    pub fn is_ignored(&self, path: &str) -> bool {
        let mut ignored = false;
        // A pattern that would change nothing is not tried.
        for pattern in &self.patterns {
            if pattern.negated == ignored && pattern.matches(path) {
                ignored = !pattern.negated;
            }
        }
        ignored
    }

    /// What to do with the directory or file `path`.
    pub fn judge(&self, path: &str, is_dir: bool) -> Verdict {
        match self.is_ignored(path) {
            false => Verdict::Kept,
            true if is_dir && self.may_take_back(path) => Verdict::IgnoredButEnter,
            true => Verdict::Ignored,
        }
    }

    /// Whether a `!` pattern could match something below the directory `path`.
    fn may_take_back(&self, path: &str) -> bool {
        self.patterns.iter().filter(|p| p.negated).any(|p| {
            let mut ours = path.split('/');
            for theirs in p.text.split('/') {
                if Glob::is_pattern(theirs) {
                    return true;
                }
                match ours.next() {
                    None => return true,
                    Some(name) if name == theirs => {}
                    Some(_) => return false,
                }
            }
            // The pattern names a directory above, which the last match has taken out again.
            true
        })
    }
}

impl Pattern {
    /// Whether the pattern matches `path` or a directory above it.
    fn matches(&self, path: &str) -> bool {
        path.match_indices('/').map(|(at, _)| &path[..at]).chain([path]).any(|p| self.glob.matches(p))
    }
}

/// Go's `filepath.Clean`.
pub(crate) fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|p| *p != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            other => parts.push(other),
        }
    }
    let joined = parts.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".into(),
        (false, false) => joined,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(patterns: &str, cases: &[(&str, bool)]) {
        let ignore = Ignore::parse(patterns).expect("good patterns");
        for (path, want) in cases {
            assert_eq!(ignore.is_ignored(path), *want, "{patterns:?} on {path}");
        }
    }

    #[test]
    fn dockers_rules() {
        check("# x\n\n a \n", &[("a", true), ("a/b", true), ("b", false), ("x/a", false)]);
        check(" # a", &[("# a", true)]);
        check("*/temp*", &[("x/temp", true), ("x/temp1/y", true), ("temp", false), ("x/y/temp", false)]);
        check("temp?", &[("tempa", true), ("temp", false)]);
        check("*.md\n!README.md", &[("a.md", true), ("README.md", false)]);
        check("*.md\n!README*.md\nREADME-secret.md", &[("README-x.md", false), ("README-secret.md", true)]);
        check("**\n!keep\n", &[("x", true), ("keep", false), ("keep/y", false), ("d/keep", true)]);
        check("**/*.go", &[("a.go", true), ("d/e/a.go", true), ("a.goo", false)]);
        check("/a/", &[("a", true), ("a/b", true)]);
        check("./a/../b", &[("b", true), ("a", false)]);
        check("\u{feff}a", &[("a", true)]);
        check("d\n!d/x", &[("d/x", false), ("d/y", true), ("d", true)]);
        check("a/**/z", &[("a/z", true), ("a/b/z", true), ("a/b/z/q", true)]);
    }

    #[test]
    fn directories_are_entered_for_what_may_come_back() {
        let ignore = Ignore::parse("d\n!d/x/y").expect("good");
        assert_eq!(ignore.judge("d", true), Verdict::IgnoredButEnter);
        assert_eq!(ignore.judge("d/x", true), Verdict::IgnoredButEnter);
        assert_eq!(ignore.judge("d/z", true), Verdict::Ignored);
        assert_eq!(ignore.judge("d", false), Verdict::Ignored);
        assert_eq!(Ignore::parse("*\n!**/k").expect("good").judge("a", true), Verdict::IgnoredButEnter);
    }

    #[test]
    fn bad_patterns_are_refused() {
        for bad in ["[", "!", "a\\"] {
            assert!(Ignore::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_are_cleaned_as_go_does() {
        for (path, want) in [
            ("", "."),
            ("a//b/./c/..", "a/b"),
            ("/../a", "/a"),
            ("../a", "../a"),
            ("/", "/"),
            ("a/../..", ".."),
        ] {
            assert_eq!(clean(path), want, "{path}");
        }
    }
}
