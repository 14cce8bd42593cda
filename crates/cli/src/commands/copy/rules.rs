//! What `cp` makes of source and destination: Docker's rules, as text and from what is known of both. Pure.

use crate::error::{Error, Result};

/// One side of a copy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Side {
    pub(super) path: String,
    pub(super) exists: bool,
    pub(super) is_dir: bool,
    /// The name that it goes by, where that is not the path's last part: of a symlink that was followed.
    pub(super) name: Option<String>,
}

/// Where the archive goes, and what its topmost entry is called there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) directory: String,
    /// `.` where the entries go into the directory without one above them.
    pub(super) name: String,
}

/// Decides where `source` goes.
///
/// # Errors
///
/// Docker's: a directory does not go over a file, and a file not into a directory that is not there.
pub(super) fn plan(source: &Side, target: &Side) -> Result<Plan> {
    let (directory, last) = split(&target.path);
    let own = source.name.clone().unwrap_or_else(|| split(&source.path).1);
    match (target.exists, target.is_dir, source.is_dir) {
        (true, true, _) => Ok(Plan { directory: target.path.clone(), name: own }),
        (true, false, true) => Err(Error::Usage("cannot copy directory".into())),
        (false, _, false) if says_directory(&target.path) => Err(Error::Usage("no such directory".into())),
        _ => Ok(Plan { directory, name: last }),
    }
}

/// The directory above a path, and its last part; `.` where the path ends so.
pub(super) fn split(path: &str) -> (String, String) {
    let cleaned = clean(path);
    if ends_in_dot(path) {
        return (cleaned, ".".into());
    }
    match cleaned.rsplit_once('/') {
        Some(("", "")) => ("/".into(), "/".into()),
        Some(("", last)) => ("/".into(), last.into()),
        Some((above, last)) => (above.into(), last.into()),
        None => (".".into(), cleaned),
    }
}

/// A path without `.`, `..` and doubled slashes where text alone can tell.
pub(super) fn clean(path: &str) -> String {
    let absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|p| *p != "..") => drop(parts.pop()),
            ".." if absolute => {}
            part => parts.push(part),
        }
    }
    match (absolute, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".into(),
        (false, false) => parts.join("/"),
    }
}

/// Whether a path is `.` or ends in `/.`, slashes behind it not counted.
pub(super) fn ends_in_dot(path: &str) -> bool {
    path.trim_end_matches('/').rsplit('/').next() == Some(".")
}

/// Whether a path says that it is a directory.
pub(super) fn says_directory(path: &str) -> bool {
    path.ends_with('/') || ends_in_dot(path)
}

/// `to`, with the end that `from` has (`/.` or `/`), which cleaning took away.
pub(super) fn keep_end(to: &str, from: &str) -> String {
    let mut out = to.to_string();
    if ends_in_dot(from) && !ends_in_dot(&out) {
        if !out.ends_with('/') {
            out.push('/');
        }
        out.push('.');
    }
    if from.ends_with('/') && !out.ends_with('/') {
        out.push('/');
    }
    out
}

/// `CONTAINER:PATH`. A word that starts with a slash or a dot is a local path whatever follows.
pub(super) fn split_argument(word: &str) -> Option<(&str, &str)> {
    if word.starts_with(['/', '.']) {
        return None;
    }
    word.split_once(':').filter(|(container, _)| !container.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_told_from_files() {
        assert_eq!(split_argument("web:/etc"), Some(("web", "/etc")));
        for local in ["-", "/a:b", "./a:b", "plain", ":x"] {
            assert_eq!(split_argument(local), None, "{local}");
        }
    }

    #[test]
    fn paths_come_apart_as_docker_takes_them() {
        let check = |path: &str, above: &str, last: &str| {
            assert_eq!(split(path), (above.into(), last.into()), "{path}")
        };
        check("/a/b", "/a", "b");
        check("/a/b/", "/a", "b");
        check("/a/b/.", "/a/b", ".");
        check("/", "/", "/");
        check("/a", "/", "a");
        check("a", ".", "a");
        check(".", ".", ".");
        check("/a/../b", "/", "b");
        assert_eq!(keep_end("/a", "x/."), "/a/.");
        assert_eq!(keep_end("/a", "x/"), "/a/");
        assert_eq!(keep_end("/", "."), "/.");
    }

    #[test]
    fn where_things_go() {
        let file = |path: &str| Side { path: path.into(), exists: true, ..Side::default() };
        let dir = |path: &str| Side { is_dir: true, ..file(path) };
        let none = |path: &str| Side { path: path.into(), ..Side::default() };
        let check = |source: Side, target: Side, expected: Option<(&str, &str)>| {
            let got = plan(&source, &target).ok().map(|p| (p.directory, p.name));
            assert_eq!(got, expected.map(|(d, n)| (d.into(), n.into())), "{source:?} {target:?}");
        };
        check(file("/s/f"), dir("/d"), Some(("/d", "f")));
        check(file("/s/f"), file("/d/g"), Some(("/d", "g")));
        check(file("/s/f"), none("/d/g"), Some(("/d", "g")));
        check(file("/s/f"), none("/d/g/"), None);
        check(dir("/s"), dir("/d"), Some(("/d", "s")));
        check(dir("/s/."), dir("/d"), Some(("/d", ".")));
        check(dir("/s"), none("/d/n"), Some(("/d", "n")));
        check(dir("/s/."), none("/d/n"), Some(("/d", "n")));
        check(dir("/s"), none("/d/n/"), Some(("/d", "n")));
        check(dir("/s"), file("/d/g"), None);
        check(Side { name: Some("link".into()), ..file("/s/f") }, dir("/d"), Some(("/d", "link")));
    }
}
