//! The functions of templates: Go's and Docker's.

use crate::Mode;
use crate::Value;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use std::cmp::Ordering;
use std::fmt::Write as _;

const NAMES: &[&str] = &[
    "and", "or", "not", "eq", "ne", "lt", "le", "gt", "ge", "len", "index", "slice", "print", "println",
    "printf", "html", "js", "urlquery", "json", "split", "join", "title", "lower", "upper", "pad",
    "truncate",
];

/// What `urlquery` escapes.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// Largest width or precision in `printf`, and largest `pad`.
const MAX_WIDTH: usize = 4096;

pub(crate) fn exists(name: &str) -> bool {
    NAMES.contains(&name)
}

pub(crate) fn call(name: &str, arguments: &[Value], mode: Mode) -> Result<Value, String> {
    // Docker's own functions leave headers alone, except those about width.
    if mode == Mode::Header && matches!(name, "json" | "split" | "join" | "title" | "lower" | "upper") {
        return Ok(arguments.iter().find(|a| !a.text().is_empty()).cloned().unwrap_or_default());
    }
    match (name, arguments) {
        ("not", [value]) => Ok(Value::Bool(!value.truth())),
        ("eq", [first, rest @ ..]) if !rest.is_empty() => {
            for other in rest {
                if equal(first, other)? {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        ("ne", [a, b]) => Ok(Value::Bool(!equal(a, b)?)),
        ("lt", [a, b]) => Ok(Value::Bool(compare(a, b)? == Ordering::Less)),
        ("le", [a, b]) => Ok(Value::Bool(compare(a, b)? != Ordering::Greater)),
        ("gt", [a, b]) => Ok(Value::Bool(compare(a, b)? == Ordering::Greater)),
        ("ge", [a, b]) => Ok(Value::Bool(compare(a, b)? != Ordering::Less)),
        ("len", [value]) => length(value),
        ("index", [value, keys @ ..]) => keys.iter().try_fold(value.clone(), |value, key| index(&value, key)),
        ("slice", [value, bounds @ ..]) if bounds.len() <= 2 => slice(value, bounds),
        ("print", _) => Ok(Value::Str(print(arguments))),
        ("println", _) => {
            let words: Vec<String> = arguments.iter().map(Value::to_string).collect();
            Ok(Value::Str(format!("{}\n", words.join(" "))))
        }
        ("printf", [format, rest @ ..]) => Ok(Value::Str(printf(format.text(), rest))),
        ("html", _) => Ok(Value::Str(html(&print(arguments)))),
        ("js", _) => Ok(Value::Str(javascript(&print(arguments)))),
        ("urlquery", _) => Ok(Value::Str(url_query(&print(arguments)))),
        ("json", [value]) => Ok(Value::Str(value.to_json())),
        ("split", [text, separator]) => {
            Ok(Value::List(split(&string(text)?, &string(separator)?).map(Value::Str).collect()))
        }
        ("join", [list, separator]) => {
            let separator = string(separator)?;
            let words: Vec<String> = match list {
                Value::List(items) => items.iter().map(Value::to_string).collect(),
                Value::Nil | Value::Missing(_) => Vec::new(),
                other => return Err(format!("want a list of strings, got {}", other.kind())),
            };
            Ok(Value::Str(words.join(&separator)))
        }
        ("title", [text]) => Ok(Value::Str(title(&string(text)?))),
        ("lower", [text]) => Ok(Value::Str(string(text)?.to_lowercase())),
        ("upper", [text]) => Ok(Value::Str(string(text)?.to_uppercase())),
        ("pad", [text, before, after]) => {
            let spaces = |n: &Value| " ".repeat(size(n).unwrap_or(0).min(MAX_WIDTH));
            let text = string(text)?;
            let padded = format!("{}{text}{}", spaces(before), spaces(after));
            Ok(Value::Str(if text.is_empty() { text } else { padded }))
        }
        ("truncate", [text, width]) => {
            let width = size(width).ok_or("want a length")?;
            Ok(Value::Str(string(text)?.chars().take(width).collect()))
        }
        _ => Err(format!("wrong number of args: got {}", arguments.len())),
    }
}

fn string(value: &Value) -> Result<String, String> {
    match value {
        Value::Str(text) => Ok(text.clone()),
        other => Err(format!("want a string, got {}", other.kind())),
    }
}

fn size(value: &Value) -> Option<usize> {
    match value {
        Value::Int(n) => usize::try_from(*n).ok(),
        _ => None,
    }
}

fn split(text: &str, separator: &str) -> impl Iterator<Item = String> {
    let parts: Vec<String> = match separator {
        "" => text.chars().map(String::from).collect(),
        separator => text.split(separator).map(String::from).collect(),
    };
    parts.into_iter()
}

fn title(text: &str) -> String {
    let mut start = true;
    text.chars()
        .map(|c| {
            let out = if start { c.to_uppercase().next().unwrap_or(c) } else { c };
            start = !c.is_alphanumeric() && c != '_' && c != '\'';
            out
        })
        .collect()
}

fn equal(a: &Value, b: &Value) -> Result<bool, String> {
    match (a, b) {
        (Value::Nil | Value::Missing(_), _) | (_, Value::Nil | Value::Missing(_)) => Ok(a == b),
        (Value::List(_) | Value::Map(_), _) | (_, Value::List(_) | Value::Map(_)) => {
            Err("non-comparable type".into())
        }
        (Value::Bool(a), Value::Bool(b)) => Ok(a == b),
        _ => Ok(compare(a, b)? == Ordering::Equal),
    }
}

fn compare(a: &Value, b: &Value) -> Result<Ordering, String> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Ok(a.cmp(b)),
        (Value::Float(a), Value::Float(b)) => Ok(a.partial_cmp(b).unwrap_or(Ordering::Equal)),
        (Value::Str(a), Value::Str(b)) => Ok(a.cmp(b)),
        _ => Err("incompatible types for comparison".into()),
    }
}

fn length(value: &Value) -> Result<Value, String> {
    let length = match value {
        Value::Str(text) => text.len(),
        Value::List(items) => items.len(),
        Value::Map(members) => members.len(),
        Value::Nil => 0,
        other => return Err(format!("len of type {}", other.kind())),
    };
    Ok(Value::Int(length as i128))
}

fn index(value: &Value, key: &Value) -> Result<Value, String> {
    match (value, key) {
        (Value::Map(members), Value::Str(key)) => Ok(match value.get(key) {
            Some(found) => found.clone(),
            // What is missing in a map of texts is an empty text.
            None if members.iter().all(|(_, v)| matches!(v, Value::Str(_))) => Value::from(""),
            None => Value::Nil,
        }),
        (Value::List(items), Value::Int(at)) => {
            let found = usize::try_from(*at).ok().and_then(|at| items.get(at));
            found.cloned().ok_or_else(|| format!("error calling index: index out of range: {at}"))
        }
        (Value::Str(text), Value::Int(at)) => {
            let found = usize::try_from(*at).ok().and_then(|at| text.as_bytes().get(at));
            found.map(|byte| Value::Int((*byte).into())).ok_or_else(|| format!("index out of range: {at}"))
        }
        (Value::Nil | Value::Missing(_), _) => Err("index of untyped nil".into()),
        (value, key) => Err(format!("cannot index {} with {}", value.kind(), key.kind())),
    }
}

fn slice(value: &Value, bounds: &[Value]) -> Result<Value, String> {
    let length = match value {
        Value::Str(text) => text.len(),
        Value::List(items) => items.len(),
        other => return Err(format!("slice of type {}", other.kind())),
    };
    let bound = |at: usize, default: usize| match bounds.get(at) {
        Some(value) => size(value).filter(|n| *n <= length).ok_or_else(|| "index out of range".to_string()),
        None => Ok(default),
    };
    let (from, to) = (bound(0, 0)?, bound(1, length)?);
    let outside = || "index out of range".to_string();
    match value {
        Value::Str(text) => text.get(from..to).map(Value::from).ok_or_else(outside),
        Value::List(items) => items.get(from..to).map(|s| Value::List(s.to_vec())).ok_or_else(outside),
        _ => Err(outside()),
    }
}

/// Go's `Sprint`: a space between operands when neither is a string.
fn print(arguments: &[Value]) -> String {
    let mut out = String::new();
    for (i, value) in arguments.iter().enumerate() {
        let strings =
            matches!(value, Value::Str(_)) || matches!(arguments.get(i.wrapping_sub(1)), Some(Value::Str(_)));
        if i > 0 && !strings {
            out.push(' ');
        }
        // Writing to a String cannot fail.
        let _ = write!(out, "{value}");
    }
    out
}

fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '\0' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

fn javascript(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\'' => out.push_str("\\'"),
            '"' => out.push_str("\\\""),
            '<' => out.push_str("\\u003C"),
            '>' => out.push_str("\\u003E"),
            '&' => out.push_str("\\u0026"),
            '=' => out.push_str("\\u003D"),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

fn url_query(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, QUERY).to_string().replace("%20", "+")
}

/// One verb of a format: `%-08.3f`.
#[derive(Default)]
struct Verb {
    minus: bool,
    plus: bool,
    zero: bool,
    sharp: bool,
    space: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

fn printf(format: &str, arguments: &[Value]) -> String {
    let mut out = String::new();
    let mut next = arguments.iter();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut verb = Verb::default();
        while let Some(flag) = chars.next_if(|c| "-+0# ".contains(*c)) {
            match flag {
                '-' => verb.minus = true,
                '+' => verb.plus = true,
                '0' => verb.zero = true,
                '#' => verb.sharp = true,
                _ => verb.space = true,
            }
        }
        verb.width = number(&mut chars, &mut next);
        if chars.next_if_eq(&'.').is_some() {
            verb.precision = Some(number(&mut chars, &mut next).unwrap_or(0));
        }
        match chars.next() {
            None => out.push_str("%!(NOVERB)"),
            Some('%') => out.push('%'),
            Some(letter) => match next.next() {
                None => {
                    let _ = write!(out, "%!{letter}(MISSING)");
                }
                Some(value) => out.push_str(&apply(&verb, letter, value)),
            },
        }
    }
    let extra: Vec<String> = next.map(|v| format!("{}={v}", v.kind())).collect();
    if !extra.is_empty() {
        let _ = write!(out, "%!(EXTRA {})", extra.join(", "));
    }
    out
}

fn number<'a>(
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    arguments: &mut impl Iterator<Item = &'a Value>,
) -> Option<usize> {
    if chars.next_if_eq(&'*').is_some() {
        return arguments.next().and_then(size).map(|n| n.min(MAX_WIDTH));
    }
    let mut text = String::new();
    while let Some(digit) = chars.next_if(char::is_ascii_digit) {
        text.push(digit);
    }
    (!text.is_empty()).then(|| text.parse().unwrap_or(MAX_WIDTH).min(MAX_WIDTH))
}

fn apply(verb: &Verb, letter: char, value: &Value) -> String {
    let wrong = || format!("%!{letter}({}={value})", value.kind());
    let cut = |text: String| match verb.precision {
        Some(length) => text.chars().take(length).collect(),
        None => text,
    };
    let signed = |text: String, negative: bool| match (negative, verb.plus, verb.space) {
        (false, true, _) => format!("+{text}"),
        (false, false, true) => format!(" {text}"),
        _ => text,
    };
    let (text, numeric) = match (letter, value) {
        ('v', Value::Int(n)) => (signed(n.to_string(), *n < 0), true),
        ('v', _) => (value.to_string(), false),
        ('s', Value::Int(_) | Value::Float(_) | Value::Bool(_)) => (wrong(), false),
        ('s', _) => (cut(value.to_string()), false),
        ('q', Value::Str(text)) => (crate::quote(text), false),
        ('q', Value::List(items)) => {
            let quoted: Vec<String> = items.iter().map(|i| crate::quote(&i.to_string())).collect();
            (format!("[{}]", quoted.join(" ")), false)
        }
        ('t', Value::Bool(b)) => (b.to_string(), false),
        ('d', Value::Int(n)) => (signed(n.to_string(), *n < 0), true),
        ('x', Value::Int(n)) => (format!("{}{n:x}", if verb.sharp { "0x" } else { "" }), true),
        ('X', Value::Int(n)) => (format!("{}{n:X}", if verb.sharp { "0X" } else { "" }), true),
        ('o', Value::Int(n)) => (format!("{n:o}"), true),
        ('b', Value::Int(n)) => (format!("{n:b}"), true),
        ('c', Value::Int(n)) => {
            (u32::try_from(*n).ok().and_then(char::from_u32).map(String::from).unwrap_or_default(), false)
        }
        ('x', Value::Str(text)) => (text.bytes().map(|b| format!("{b:02x}")).collect(), false),
        ('f' | 'F', Value::Float(n)) => {
            (signed(format!("{n:.*}", verb.precision.unwrap_or(6)), *n < 0.0), true)
        }
        ('g', Value::Float(n)) => {
            (verb.precision.map_or_else(|| n.to_string(), |p| crate::significant(*n, p)), true)
        }
        ('T', value) => (value.kind().to_string(), false),
        _ => return wrong(),
    };
    let fill = verb.width.unwrap_or(0).saturating_sub(text.chars().count());
    match (verb.minus, verb.zero && numeric) {
        (true, _) => format!("{text}{}", " ".repeat(fill)),
        (false, true) => {
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['-', '+'])));
            format!("{sign}{}{digits}", "0".repeat(fill))
        }
        (false, false) => format!("{}{text}", " ".repeat(fill)),
    }
}
