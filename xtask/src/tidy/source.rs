//! Rules for single files: names, length, words, and public items without documentation.

use super::at;
use std::path::Path;

/// Past this a file has more than one subject.
const MAX_LINES: usize = 900;

/// Names that say nothing about the subject.
const EMPTY_NAMES: &[&str] = &["utils", "util", "common", "helpers", "helper", "manager", "misc"];

/// Crates whose public items are documented for nobody: programs, and tests.
const UNDOCUMENTED: &[&str] = &["brig", "brigd", "brig-dns", "brig-shim", "brig-runtime", "e2e", "testkit"];

/// What no file may hold, with the reason. Written in two halves where this file would complain about itself.
const FORBIDDEN: &[(&str, &str)] = &[
    (concat!("<<<<", "<<< "), "a merge is not finished"),
    (concat!(">>>>", ">>> "), "a merge is not finished"),
    (concat!("/work", "/"), "a path of one machine"),
    (concat!("/root/.", "cargo"), "a path of one machine"),
    (concat!("/root/.", "rustup"), "a path of one machine"),
];

/// The same for Rust.
const FORBIDDEN_IN_RUST: &[(&str, &str)] = &[
    (concat!("#[ign", "ore]"), "say what runs it instead: `= \"why: cargo xtask conform SUITE\"`"),
    (concat!("FIX", "ME"), "write `TODO(topic):` with what would make it go away"),
    (concat!("XX", "X:"), "write `TODO(topic):` with what would make it go away"),
    (concat!("unimple", "mented!"), "return an error of kind Unsupported"),
];

/// Complaints about the file's name.
pub(super) fn check_name(path: &Path) -> Vec<String> {
    let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let is_rust = path.extension().is_some_and(|e| e == "rs");
    let mut out = Vec::new();
    if is_rust && stem == "mod" {
        out.push(format!("{}: modules are `name.rs` beside `name/`", path.display()));
    }
    if is_rust && EMPTY_NAMES.contains(&stem.as_str()) {
        out.push(format!("{}: name the subject", path.display()));
    }
    let directory = path.parent().and_then(Path::file_name).map(|n| n.to_string_lossy().into_owned());
    if is_rust && directory.as_deref() == Some(&stem) {
        out.push(format!("{}: repeats the name of its directory", path.display()));
    }
    out
}

/// Complaints about what the file says.
pub(super) fn check_text(path: &Path, text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let is_rust = path.extension().is_some_and(|e| e == "rs");
    let count = text.lines().count();
    if is_rust && count > MAX_LINES {
        out.push(format!("{}: {count} lines, more than {MAX_LINES}: two subjects?", path.display()));
    }
    let rules = FORBIDDEN.iter().chain(if is_rust { FORBIDDEN_IN_RUST } else { &[] });
    for (word, why) in rules {
        let lines = text.lines().enumerate().filter(|(_, line)| line.contains(word));
        out.extend(lines.map(|(n, _)| at(path, n, &format!("`{word}`: {why}"))));
    }
    if is_rust && wants_docs(path) {
        out.extend(
            undocumented(text)
                .into_iter()
                .map(|(n, item)| at(path, n, &format!("no documentation: `{item}`"))),
        );
    }
    out
}

/// Sources of library crates; not their tests.
fn wants_docs(path: &Path) -> bool {
    let mut parts = path.iter().map(|p| p.to_string_lossy());
    let in_crates = parts.next().is_some_and(|p| p == "crates");
    let library = parts.next().is_some_and(|name| !UNDOCUMENTED.contains(&&*name));
    in_crates && library && parts.next().is_some_and(|p| p == "src")
}

/// Public functions, types and traits without a doc comment: index of the line, and the item's first line. Goes by
/// lines, so an item that a macro writes is not seen; private modules' items are, as others in the crate read them.
fn undocumented(text: &str) -> Vec<(usize, String)> {
    let lines: Vec<&str> = text.lines().collect();
    // Tests are the last thing in a file.
    let end = lines.iter().position(|l| l.starts_with("#[cfg(test)]")).unwrap_or(lines.len());
    let missing = |(n, line): &(usize, &&str)| is_public_item(line) && !has_docs(&lines[..*n]);
    let item = |line: &str| line.trim().trim_end_matches('{').trim_end().to_string();
    lines[..end].iter().enumerate().filter(missing).map(|(n, line)| (n, item(line))).collect()
}

fn is_public_item(line: &str) -> bool {
    // In a macro, whose user writes the documentation.
    if line.contains('$') {
        return false;
    }
    let Some(rest) = line.trim_start().strip_prefix("pub ") else { return false };
    let mut words = rest.split([' ', '(', '<', '{', ';']);
    let qualifiers = ["async", "unsafe", "extern", "\"C\""];
    let kind = words.by_ref().find(|w| !qualifiers.contains(w));
    match kind {
        Some("fn" | "struct" | "enum" | "trait" | "type" | "union") => true,
        Some("const") => words.next() == Some("fn"),
        _ => false,
    }
}

/// Whether the lines before an item end in documentation, with attributes between at most.
fn has_docs(before: &[&str]) -> bool {
    for line in before.iter().rev().map(|l| l.trim()) {
        if line.starts_with("///") || line.starts_with("#[doc") || line.ends_with("*/") {
            return true;
        }
        // The tail of an attribute over several lines.
        let attribute = line.starts_with("#[") || line.ends_with(")]") || line.ends_with("],") || line == "]";
        let inside = line.ends_with(',') && line.contains('=') && !line.contains(':');
        if !attribute && !inside && !line.starts_with("//") {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let complaints = |path: &str| check_name(Path::new(path)).len();
        assert_eq!(complaints("crates/a/src/mod.rs"), 1);
        assert_eq!(complaints("crates/a/src/utils.rs"), 1);
        assert_eq!(complaints("crates/a/src/tar/tar.rs"), 1);
        assert_eq!(complaints("crates/a/src/tar/header.rs"), 0);
        assert_eq!(complaints("docs/common.md"), 0);
    }

    #[test]
    fn docs() {
        let check = |text: &str, expected: &[usize]| {
            let found: Vec<usize> = undocumented(text).into_iter().map(|(n, _)| n).collect();
            assert_eq!(found, expected, "{text}");
        };
        check("pub fn a() {}", &[0]);
        check("/// Does.\npub fn a() {}", &[]);
        check("/// Does.\n#[derive(Debug)]\npub struct A;", &[]);
        check("/// Does.\n#[expect(\n    lint,\n    reason = \"x\"\n)]\npub fn a() {}", &[5]);
        check("pub(crate) fn a() {}\npub use b::C;\npub mod d;\npub x: u8,", &[]);
        check(
            "impl A {\n    pub async fn a() {}\n    pub const fn b() {}\n    pub const C: u8 = 1;\n}",
            &[1, 2],
        );
        check("#[cfg(test)]\nmod tests {\n    pub fn a() {}\n}", &[]);
    }

    #[test]
    fn words_and_length() {
        let rust = Path::new("xtask/src/x.rs");
        assert_eq!(check_text(rust, &"\n".repeat(901)).len(), 1);
        assert_eq!(check_text(rust, &format!("// {}: later", concat!("FIX", "ME"))).len(), 1);
        assert_eq!(check_text(Path::new("a.md"), &format!("see {}x", concat!("/work", "/"))).len(), 1);
    }
}
