//! Template text to tokens. Outside `{{ }}` all is text; inside are words, literals and punctuation.

/// One token and the line it is on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Token {
    pub(crate) line: usize,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    Text(String),
    /// `{{` and `}}`.
    Open,
    Close,
    /// `.Name`; `glued` when it directly follows an operand, as in `(x).Name` or `$x.Name`.
    Field {
        name: String,
        glued: bool,
    },
    Dot,
    /// `$name`, without the dollar; `$` alone is the empty name.
    Variable(String),
    Word(String),
    Str(String),
    Int(i128),
    Float(f64),
    LeftParen,
    RightParen,
    Pipe,
    Comma,
    /// `:=`
    Declare,
    /// `=`
    Assign,
}

pub(crate) fn lex(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut rest = text;
    let mut trim_next = false;
    loop {
        let (mut plain, action) = match rest.split_once("{{") {
            Some((plain, action)) => (plain, Some(action)),
            None => (rest, None),
        };
        let newlines = plain.matches('\n').count();
        if trim_next {
            plain = plain.trim_start_matches(SPACE);
        }
        let trims_left = action.is_some_and(|a| a.starts_with('-') && a[1..].starts_with(SPACE));
        if trims_left {
            plain = plain.trim_end_matches(SPACE);
        }
        if !plain.is_empty() {
            tokens.push(Token { line, kind: Kind::Text(plain.to_string()) });
        }
        line += newlines;
        let Some(action) = action else { return Ok(tokens) };
        let action = if trims_left { &action[1..] } else { action };
        let body = action.trim_start_matches(SPACE);
        if let Some(comment) = body.strip_prefix("/*") {
            let (inside, after) =
                comment.split_once("*/").ok_or_else(|| format!(":{line}: unclosed comment"))?;
            line += inside.matches('\n').count();
            let after = after.trim_start_matches(SPACE);
            trim_next = after.starts_with("-}}");
            let after = after.strip_prefix('-').unwrap_or(after);
            rest = after
                .strip_prefix("}}")
                .ok_or_else(|| format!(":{line}: comment ends before closing delimiter"))?;
            continue;
        }
        tokens.push(Token { line, kind: Kind::Open });
        (rest, trim_next) = lex_action(action, &mut line, &mut tokens)?;
        tokens.push(Token { line, kind: Kind::Close });
    }
}

const SPACE: [char; 4] = [' ', '\t', '\r', '\n'];

/// Lexes up to and including `}}`; returns what follows, and whether a trim marker stood before it.
fn lex_action<'a>(
    text: &'a str,
    line: &mut usize,
    tokens: &mut Vec<Token>,
) -> Result<(&'a str, bool), String> {
    let mut rest = text;
    let mut after_operand = false;
    loop {
        let spaces = rest.len() - rest.trim_start_matches(SPACE).len();
        *line += rest[..spaces].matches('\n').count();
        after_operand &= spaces == 0;
        rest = &rest[spaces..];
        if let Some(after) = rest.strip_prefix("}}") {
            return Ok((after, false));
        }
        if spaces > 0
            && let Some(after) = rest.strip_prefix("-}}")
        {
            return Ok((after, true));
        }
        let Some(first) = rest.chars().next() else { return Err(format!(":{line}: unclosed action")) };
        let (kind, length) = match first {
            '(' => (Kind::LeftParen, 1),
            ')' => (Kind::RightParen, 1),
            '|' => (Kind::Pipe, 1),
            ',' => (Kind::Comma, 1),
            ':' if rest.starts_with(":=") => (Kind::Declare, 2),
            '=' => (Kind::Assign, 1),
            '$' => {
                let length = 1 + word_length(&rest[1..]);
                (Kind::Variable(rest[1..length].to_string()), length)
            }
            '.' if rest[1..].starts_with(|c: char| c.is_alphabetic() || c == '_') => {
                let length = 1 + word_length(&rest[1..]);
                (Kind::Field { name: rest[1..length].to_string(), glued: after_operand }, length)
            }
            '.' if !rest[1..].starts_with(|c: char| c.is_ascii_digit()) => (Kind::Dot, 1),
            '"' => lex_quoted(rest).ok_or_else(|| format!(":{line}: unterminated quoted string"))?,
            '`' => {
                let end =
                    rest[1..].find('`').ok_or_else(|| format!(":{line}: unterminated raw quoted string"))?;
                (Kind::Str(rest[1..=end].to_string()), end + 2)
            }
            '\'' => lex_character(rest).ok_or_else(|| format!(":{line}: unterminated character constant"))?,
            c if c.is_ascii_digit() || matches!(c, '.' | '-' | '+') => lex_number(rest)
                .ok_or_else(|| format!(":{line}: bad number syntax: {:?}", first_word(rest)))?,
            c if c.is_alphabetic() || c == '_' => {
                let length = word_length(rest);
                (Kind::Word(rest[..length].to_string()), length)
            }
            c => return Err(format!(":{line}: unexpected {c:?} in action")),
        };
        *line += rest[..length].matches('\n').count();
        rest = &rest[length..];
        after_operand = matches!(kind, Kind::RightParen | Kind::Variable(_) | Kind::Field { .. } | Kind::Dot);
        tokens.push(Token { line: *line, kind });
    }
}

fn word_length(text: &str) -> usize {
    text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())
}

fn first_word(text: &str) -> &str {
    text.split(|c: char| c.is_whitespace() || c == '}').next().unwrap_or(text)
}

fn lex_quoted(text: &str) -> Option<(Kind, usize)> {
    let mut out = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((Kind::Str(out), at + 1)),
            '\n' => return None,
            '\\' => out.push(unescape(chars.next()?.1, &mut chars)?),
            c => out.push(c),
        }
    }
    None
}

fn unescape(c: char, chars: &mut impl Iterator<Item = (usize, char)>) -> Option<char> {
    let mut hex = |digits: usize| {
        let text: String = chars.by_ref().take(digits).map(|(_, c)| c).collect();
        (text.len() == digits).then_some(text).and_then(|t| u32::from_str_radix(&t, 16).ok())
    };
    Some(match c {
        'n' => '\n',
        't' => '\t',
        'r' => '\r',
        'a' => '\x07',
        'b' => '\x08',
        'f' => '\x0c',
        'v' => '\x0b',
        'x' => char::from_u32(hex(2)?)?,
        'u' => char::from_u32(hex(4)?)?,
        'U' => char::from_u32(hex(8)?)?,
        '\\' | '"' | '\'' => c,
        _ => return None,
    })
}

fn lex_character(text: &str) -> Option<(Kind, usize)> {
    let mut chars = text.char_indices().skip(1);
    let (_, first) = chars.next()?;
    let c = if first == '\\' { unescape(chars.next()?.1, &mut chars)? } else { first };
    let (at, quote) = chars.next()?;
    (quote == '\'').then_some((Kind::Int(i128::from(u32::from(c))), at + 1))
}

fn lex_number(text: &str) -> Option<(Kind, usize)> {
    let signed = text.strip_prefix(['-', '+']).unwrap_or(text);
    let mut end = text.len() - signed.len();
    end += signed.find(|c: char| !c.is_alphanumeric() && c != '.' && c != '_').unwrap_or(signed.len());
    let digits = text[..end].replace('_', "");
    let (sign, unsigned) = match digits.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, digits.strip_prefix('+').unwrap_or(&digits)),
    };
    for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if let Some(body) = unsigned.to_ascii_lowercase().strip_prefix(prefix) {
            return Some((Kind::Int(sign * i128::from_str_radix(body, radix).ok()?), end));
        }
    }
    if let Ok(number) = unsigned.parse::<i128>() {
        return Some((Kind::Int(sign * number), end));
    }
    digits.parse::<f64>().ok().filter(|n| n.is_finite()).map(|n| (Kind::Float(n), end))
}
