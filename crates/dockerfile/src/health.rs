//! HEALTHCHECK.

use crate::error::Error;
use crate::flags::Flags;
use crate::instruction::Command;
use crate::words::{json_strings, split_first};

/// What HEALTHCHECK says. Durations in nanoseconds, as image configs have them; 0 means inherit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// `None` turns an inherited check off.
    pub command: Option<Command>,
    pub interval_ns: i64,
    pub timeout_ns: i64,
    pub start_period_ns: i64,
    pub start_interval_ns: i64,
    pub retries: i64,
}

/// The least duration that is not 0.
const MIN_NS: i64 = 1_000_000;

pub(crate) fn parse(flags: &Flags, rest: &str, lines: (u32, u32)) -> Result<HealthCheck, Error> {
    let (kind, rest) = split_first(rest);
    let command = match kind.to_ascii_uppercase().as_str() {
        "NONE" if rest.is_empty() => None,
        "NONE" => return Err(Error::at(lines, rest, "HEALTHCHECK NONE takes no arguments")),
        "CMD" if rest.is_empty() => {
            return Err(Error::at(lines, kind, "Missing command after HEALTHCHECK CMD"));
        }
        "CMD" => Some(match json_strings(rest) {
            Some(words) if words.is_empty() => {
                return Err(Error::at(lines, rest, "Missing command after HEALTHCHECK CMD"));
            }
            Some(words) => Command::Exec(words),
            None => Command::Shell { text: rest.to_string(), heredocs: Vec::new() },
        }),
        "" => return Err(Error::at(lines, "", "HEALTHCHECK requires at least one argument")),
        _ => return Err(Error::at(lines, kind, format!("Unknown type {kind:?} in HEALTHCHECK (try CMD)"))),
    };
    let known: &[&str] = match command {
        Some(_) => &["interval", "timeout", "start-period", "start-interval", "retries"],
        None => &[],
    };
    flags.only("HEALTHCHECK", known)?;
    let duration = |name: &str| -> Result<i64, Error> {
        let Some(text) = flags.one(name)? else { return Ok(0) };
        let wrong = |message: String| Error::at(lines, format!("--{name}"), message);
        let ns = parse_duration_ns(&text)
            .ok_or_else(|| wrong(format!("invalid duration {text:?}: want 30s, 1m30s, 500ms")))?;
        if ns < 0 || (ns != 0 && ns < MIN_NS) {
            return Err(wrong(format!("interval {name:?} cannot be less than 1ms")));
        }
        Ok(ns)
    };
    let retries = match flags.one("retries")? {
        None => 0,
        Some(text) => text.parse::<i32>().ok().filter(|n| *n >= 0).map(i64::from).ok_or_else(|| {
            Error::at(lines, "--retries", format!("--retries cannot be negative or no number: {text}"))
        })?,
    };
    Ok(HealthCheck {
        command,
        interval_ns: duration("interval")?,
        timeout_ns: duration("timeout")?,
        start_period_ns: duration("start-period")?,
        start_interval_ns: duration("start-interval")?,
        retries,
    })
}

/// Go's durations: `300ms`, `1.5h`, `2h45m`, `-1s`, `0`. Nanoseconds.
pub fn parse_duration_ns(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: f64 = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        total += number * unit;
        rest = &rest[end..];
    }
    const MAX: f64 = 9.2e18;
    if total > MAX {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "compared with the largest i64 above")]
    let ns = total.round() as i64;
    Some(if negative { -ns } else { ns })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let check = |text: &str, want: Option<i64>| assert_eq!(parse_duration_ns(text), want, "{text}");
        check("300ms", Some(300_000_000));
        check("1.5h", Some(5_400_000_000_000));
        check("2h45m", Some(9_900_000_000_000));
        check("-1s", Some(-1_000_000_000));
        check("0", Some(0));
        check("1h30m", Some(5_400_000_000_000));
        for bad in ["", "1", "s", "1x", "1d", "1s2", "-", "1..5s", "9999999999h", "."] {
            check(bad, None);
        }
    }
}
