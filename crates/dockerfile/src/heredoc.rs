//! Here-documents: which words of a line begin one.

use crate::expand::Expander;
use crate::words::raw_words;

/// One here-document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// The word that ends it.
    pub name: String,
    /// File descriptor it is for; 0 where none was named.
    pub fd: u32,
    /// `<<-`: tabs at the beginnings of its lines do not count.
    pub strips_tabs: bool,
    /// Its delimiter was not quoted: variables in it are expanded.
    pub expands: bool,
    pub content: String,
}

impl Heredoc {
    /// Reads a word such as `<<EOF`, `3<<-"EOF"`; `None` for any other.
    pub(crate) fn parse(word: &str) -> Option<Heredoc> {
        let digits = word.len() - word.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let rest = word[digits..].strip_prefix("<<")?;
        let (strips_tabs, rest) = rest.strip_prefix('-').map_or((false, rest), |rest| (true, rest));
        if rest.is_empty() || rest.contains('<') {
            return None;
        }
        // `$` in a delimiter is text: names are put back as they were written.
        let lookup = |name: &str| Some(format!("${name}"));
        let words = Expander::new('\\', &lookup).expand(rest).ok()?.words;
        let [name] = words.as_slice() else { return None };
        if name.is_empty() {
            return None;
        }
        Some(Heredoc {
            fd: word[..digits].parse().unwrap_or(0),
            strips_tabs,
            expands: name == rest,
            name: name.clone(),
            content: String::new(),
        })
    }

    /// The here-documents that a line begins, in order.
    pub(crate) fn in_line(text: &str, escape: char) -> Vec<Heredoc> {
        if !text.contains("<<") {
            return Vec::new();
        }
        raw_words(text, escape).iter().filter_map(|word| Heredoc::parse(word)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_begin_one() {
        let check = |word: &str, want: Option<(&str, u32, bool, bool)>| {
            let got = Heredoc::parse(word);
            let got = got.as_ref().map(|h| (h.name.as_str(), h.fd, h.strips_tabs, h.expands));
            assert_eq!(got, want, "{word}");
        };
        check("<<EOF", Some(("EOF", 0, false, true)));
        check("3<<-EOF", Some(("EOF", 3, true, true)));
        check("<<'E F'", Some(("E F", 0, false, false)));
        check("<<\"EOF\"", Some(("EOF", 0, false, false)));
        check("<<a$b", Some(("a$b", 0, false, true)));
        for word in ["<<", "<<<x", "a<<EOF", "<EOF", "<<-", "<<''", "\"<<EOF\""] {
            check(word, None);
        }
    }
}
