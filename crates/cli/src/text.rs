//! Cleaning text for people.

/// `text` without control characters, for lines that a registry, an image or a daemon had a hand in and that go to
/// a terminal: escape sequences in them could rewrite the screen.
pub(crate) fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\r\nc"), "a[2Jb\nc");
    }
}
