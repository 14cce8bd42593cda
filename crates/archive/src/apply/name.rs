//! The name of an entry: a path from the root, without `.`, `..` and empty parts.

use super::metadata::os;
use crate::Error;
use std::path::Path;

/// A path from the root, its parts joined by one `/`; empty for the root itself.
#[derive(Debug, Default)]
pub(crate) struct Name(Vec<u8>);

impl Name {
    /// Cleans `raw` as text: leading slashes and `.` go, `a/..` goes, as in Docker.
    ///
    /// # Errors
    ///
    /// [`Error::Hostile`] when `..` climbs above the root, or for a NUL.
    pub(crate) fn parse(raw: &[u8]) -> Result<Name, Error> {
        let hostile = |what| Error::Hostile { path: os(raw).into(), what };
        if raw.contains(&0) {
            return Err(hostile("its name has a NUL"));
        }
        let mut clean: Vec<u8> = Vec::with_capacity(raw.len());
        for part in raw.split(|&byte| byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." if clean.is_empty() => return Err(hostile("its name climbs out of the root")),
                b".." => {
                    let end = clean.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
                    clean.truncate(end);
                }
                part => {
                    if !clean.is_empty() {
                        clean.push(b'/');
                    }
                    clean.extend_from_slice(part);
                }
            }
        }
        Ok(Name(clean))
    }

    /// This name with `to`, one part, in place of its first part, where that is `from`.
    pub(super) fn renamed(self, from: &[u8], to: &[u8]) -> Name {
        match self.0.strip_prefix(from) {
            Some(rest) if rest.is_empty() || rest.starts_with(b"/") => Name([to, rest].concat()),
            _ => self,
        }
    }

    /// This name in the directory `base`.
    pub(super) fn below(self, base: &Name) -> Name {
        match (base.0.is_empty(), self.0.is_empty()) {
            (true, _) => self,
            (false, true) => Name(base.0.clone()),
            (false, false) => Name([&base.0[..], b"/", &self.0].concat()),
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn path(&self) -> &Path {
        Path::new(os(&self.0))
    }

    /// The directory above and the last part; `None` for the root.
    pub(crate) fn split(&self) -> Option<(&[u8], &[u8])> {
        if self.0.is_empty() {
            return None;
        }
        Some(match self.0.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (&self.0[..slash], &self.0[slash + 1..]),
            None => (&[], &self.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let check = |raw: &str, expected: Option<&str>| {
            let name = Name::parse(raw.as_bytes()).ok().map(|name| String::from_utf8(name.0).unwrap());
            assert_eq!(name.as_deref(), expected, "{raw}");
        };
        check("a/b", Some("a/b"));
        check("./a//b/.", Some("a/b"));
        check("/etc/passwd", Some("etc/passwd"));
        check("///", Some(""));
        check(".", Some(""));
        check("a/../b", Some("b"));
        check("a/b/../../c", Some("c"));
        check("a/..", Some(""));
        check("..", None);
        check("/..", None);
        check("a/../../b", None);
        check("...", Some("..."));
        check("a\0b", None);
    }
}
