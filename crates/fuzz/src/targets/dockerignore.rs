//! `.dockerignore`: the first line is a path, the rest are patterns.

use dockerfile::{Glob, Ignore};

pub(crate) fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (path, patterns) = text.split_once('\n').unwrap_or(("a/b", text));
    if let Ok(ignore) = Ignore::parse(patterns) {
        let _as_directory = ignore.judge(path, true);
        let judged = ignore.judge(path, false);
        assert_eq!(judged, ignore.judge(path, false));
        let _ignored = ignore.is_ignored(path);
    }
    let literal = Glob::escape(path);
    if let Some(glob) = Glob::new(&literal) {
        assert!(glob.matches(path), "{literal:?} does not match {path:?}");
    }
}
