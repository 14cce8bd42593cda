//! Splitting lines at blanks, without expanding anything.

/// Splits at blanks outside quotes. Quotes and escapes stay as they are.
pub(crate) fn raw_words(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if quote.is_none() && c.is_whitespace() {
            if !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
            continue;
        }
        word.push(c);
        if c == escape && quote != Some('\'') {
            word.extend(chars.next());
        } else if quote == Some(c) {
            quote = None;
        } else if quote.is_none() && (c == '\'' || c == '"') {
            quote = Some(c);
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// The strings of a JSON array, when `text` is exactly that.
pub(crate) fn json_strings(text: &str) -> Option<Vec<String>> {
    text.trim_start().starts_with('[').then(|| serde_json::from_str(text.trim()).ok())?
}

/// The first word and what follows it, without the blanks between.
pub(crate) fn split_first(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    match text.split_once(char::is_whitespace) {
        Some((first, rest)) => (first, rest.trim()),
        None => (text, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_their_quotes() {
        let check = |text: &str, want: &[&str]| assert_eq!(raw_words(text, '\\'), want, "{text}");
        check("a=b  c=\"d e\" f='g h'", &["a=b", "c=\"d e\"", "f='g h'"]);
        check("a\\ b c", &["a\\ b", "c"]);
        check("\"a\\\" b\" c", &["\"a\\\" b\"", "c"]);
        check("'a\\' b", &["'a\\'", "b"]);
        check(" ", &[]);
        check("\"open a", &["\"open a"]);
    }

    #[test]
    fn only_arrays_of_strings_are_json() {
        assert_eq!(json_strings("[\"a\", \"b\"]"), Some(vec!["a".into(), "b".into()]));
        assert_eq!(json_strings(" []"), Some(vec![]));
        for text in ["['a']", "[\"a\"", "[1]", "{}", "[\"a\"] x", "echo [\"a\"]"] {
            assert_eq!(json_strings(text), None, "{text}");
        }
    }
}
