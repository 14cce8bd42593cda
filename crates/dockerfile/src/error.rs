//! What is wrong with a Dockerfile, and where.

use errors::Kind;
use std::fmt;

/// Lines shown before and behind the one that is wrong.
const CONTEXT: u32 = 2;

/// A mistake in a Dockerfile. `Display` is Docker's one line; [`Error::report`] shows the place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// What is wrong, and what was expected.
    pub message: String,
    /// First and last line, from 1; 0 when the whole file is meant.
    pub lines: (u32, u32),
    /// The piece of these lines that is meant; empty for all of them.
    pub token: String,
}

impl Error {
    /// A mistake on `lines`, of which `token` is the wrong piece.
    pub fn at(lines: (u32, u32), token: impl Into<String>, message: impl Into<String>) -> Error {
        Error { message: message.into(), lines, token: token.into() }
    }

    /// A mistake of the whole file.
    pub fn whole(message: impl Into<String>) -> Error {
        Error::at((0, 0), "", message)
    }

    /// The mistake with the lines around it, the wrong piece underlined.
    pub fn report(&self, name: &str, source: &str) -> String {
        if self.lines.0 == 0 {
            return format!("{name}: {}", self.message);
        }
        let mut out = format!("{name}:{}\n", self.lines.0);
        let all: Vec<&str> = source.lines().collect();
        let first = self.lines.0.saturating_sub(CONTEXT).max(1);
        let last = self.lines.1.saturating_add(CONTEXT);
        let mut marked = false;
        for (number, text) in (1u32..).zip(&all).filter(|(n, _)| (first..=last).contains(n)) {
            let inside = (self.lines.0..=self.lines.1).contains(&number);
            let mark = if inside { ">>>" } else { "   " };
            let shown: String =
                text.chars().take(MAX_SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect();
            out.push_str(&format!("{number:4} | {mark} {shown}\n"));
            let at = if self.token.is_empty() { None } else { text.find(self.token.as_str()) };
            if let (true, false, Some(at)) = (inside, marked, at) {
                let before = text[..at].chars().count();
                let width = self.token.chars().count().min(MAX_SHOWN.saturating_sub(before));
                out.push_str(&format!(
                    "     |     {}{}\n",
                    " ".repeat(before.min(MAX_SHOWN)),
                    "^".repeat(width.max(1))
                ));
                marked = true;
            }
        }
        out.push_str(&self.message);
        out
    }
}

/// Characters of a line that a report shows.
const MAX_SHOWN: usize = 200;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.lines.0 {
            0 => f.write_str(&self.message),
            line => write!(f, "dockerfile parse error on line {line}: {}", self.message),
        }
    }
}

impl std::error::Error for Error {}

impl errors::HasKind for Error {
    fn kind(&self) -> Kind {
        Kind::InvalidArgument
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_underlines_the_wrong_piece() {
        let error = Error::at((2, 2), "FRM", "unknown instruction: FRM (did you mean FROM?)");
        let want = "D:2\n   1 |     ARG a\n   2 | >>> FRM x\n     |     ^^^\n   3 |     RUN y\n\
                    unknown instruction: FRM (did you mean FROM?)";
        assert_eq!(error.report("D", "ARG a\nFRM x\nRUN y\n"), want);
        assert_eq!(
            error.to_string(),
            "dockerfile parse error on line 2: unknown instruction: FRM (did you mean FROM?)"
        );
    }
}
