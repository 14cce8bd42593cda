//! Sizes and durations as Docker writes and reads them.

#![expect(
    clippy::cast_possible_truncation,
    reason = "conversions saturate, and what is shown is rounded anyway"
)]

use crate::error::{Error, Result};

/// A span of time the way people say it: `Less than a second`, `About a minute`, `3 weeks`. Without "ago".
pub(crate) fn human_duration(seconds: f64) -> String {
    // Docker truncates here, seconds to minutes too; only hours are rounded.
    let whole = seconds as i64;
    let minutes = whole / 60;
    let hours = ((seconds / 3600.0) + 0.5) as i64;
    match () {
        () if whole < 1 => "Less than a second".into(),
        () if whole == 1 => "1 second".into(),
        () if whole < 60 => format!("{whole} seconds"),
        () if minutes == 1 => "About a minute".into(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".into(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", whole / 3600 / 24 / 365),
    }
}

/// Decimal units with `digits` significant digits: `1.98MB`, `32.1kB`, `0B`.
pub(crate) fn human_size(bytes: f64, digits: usize) -> String {
    scale(bytes, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"], digits)
}

/// Binary units with four significant digits: `7.776GiB`, `0B`.
pub(crate) fn binary_size(bytes: f64) -> String {
    scale(bytes, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"], 4)
}

fn scale(mut size: f64, base: f64, units: &[&str], digits: usize) -> String {
    let mut unit = 0;
    while size >= base && unit + 1 < units.len() {
        size /= base;
        unit += 1;
    }
    format!("{}{}", gotemplate::significant(size, digits), units[unit])
}

/// Bytes from `512m`, `1.5GiB`, `100`: binary multiples whatever the spelling of the suffix.
pub(crate) fn parse_bytes(text: &str) -> Result<i64> {
    let bad = || Error::Usage(format!("invalid size: '{text}'"));
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let value: f64 = number.parse().map_err(|_| bad())?;
    let suffix = suffix.strip_prefix(' ').unwrap_or(suffix).to_ascii_lowercase();
    let power = match suffix.trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(bad()),
    };
    if suffix.matches('b').count() > 1 || suffix == "i" || suffix == "ib" {
        return Err(bad());
    }
    Ok((value * 1024f64.powi(power)) as i64)
}

/// Bits a second from `64000`, `10m`, `1.5g`, `100mbit`, decimal multiples; `-1` for without limit.
pub(crate) fn parse_rate(text: &str) -> Result<i64> {
    if text == "-1" {
        return Ok(-1);
    }
    let bad = || Error::Usage(format!("invalid rate: '{text}': want bits per second, such as 10m"));
    let lower = text.to_ascii_lowercase();
    let lower = lower.strip_suffix("bit").unwrap_or(&lower);
    let end = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, suffix) = lower.split_at(end);
    let factor = match suffix {
        "" => 1.0,
        "k" => 1e3,
        "m" => 1e6,
        "g" => 1e9,
        _ => return Err(bad()),
    };
    let bits = number.parse::<f64>().map_err(|_| bad())? * factor;
    if bits < 1e15 { Ok(bits as i64) } else { Err(bad()) }
}

/// Like [`parse_bytes`], and `-1`, which means without limit.
pub(crate) fn parse_bytes_or_unlimited(text: &str) -> Result<i64> {
    if text == "-1" { Ok(-1) } else { parse_bytes(text) }
}

/// Nano-CPUs from a decimal number of CPUs: `0.5` is 500000000.
pub(crate) fn parse_cpus(text: &str) -> Result<i64> {
    let bad =
        || Error::Usage(format!("invalid argument \"{text}\" for \"--cpus\" flag: not a decimal number"));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return Err(bad());
    }
    if fraction.len() > 9 {
        return Err(Error::Usage("value is too precise".into()));
    }
    format!("{whole}{fraction:0<9}").parse().map_err(|_| bad())
}

/// `text` cut to `width` characters, the last one an ellipsis where something was cut.
pub(crate) fn ellipsis(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_string();
    }
    let mut out: String = text.chars().take(width.saturating_sub(1)).collect();
    out.push('…');
    out
}

/// The first twelve characters of an ID, without its algorithm.
pub(crate) fn short_id(id: &str) -> String {
    let hex = id.split_once(':').map_or(id, |(_, hex)| hex);
    hex.chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_docker_says_them() {
        let check = |seconds: f64, expected: &str| assert_eq!(human_duration(seconds), expected, "{seconds}");
        check(0.3, "Less than a second");
        check(1.9, "1 second");
        check(45.0, "45 seconds");
        check(60.0, "About a minute");
        check(119.0, "About a minute");
        check(180.0, "3 minutes");
        check(3540.0, "59 minutes");
        check(3600.0, "About an hour");
        check(5400.0, "2 hours");
        check(172_000.0, "2 days");
        check(86_400.0 * 13.0, "13 days");
        check(86_400.0 * 20.0, "2 weeks");
        check(86_400.0 * 70.0, "2 months");
        check(86_400.0 * 800.0, "2 years");
    }

    #[test]
    fn sizes_as_docker_writes_them() {
        let check = |bytes: f64, three: &str, four: &str| {
            assert_eq!((human_size(bytes, 3).as_str(), human_size(bytes, 4).as_str()), (three, four));
        };
        check(0.0, "0B", "0B");
        check(1000.0, "1kB", "1kB");
        check(1_977_000.0, "1.98MB", "1.977MB");
        check(1_230_000.0, "1.23MB", "1.23MB");
        check(999_999.0, "1e+03kB", "1000kB");
        check(42.0, "42B", "42B");
        assert_eq!(binary_size(8_349_839_360.0), "7.776GiB");
        assert_eq!(binary_size(0.0), "0B");
    }

    #[test]
    fn reads_sizes() {
        let check =
            |text: &str, expected: Option<i64>| assert_eq!(parse_bytes(text).ok(), expected, "{text}");
        check("512m", Some(512 << 20));
        check("1g", Some(1 << 30));
        check("1.5GiB", Some(3 << 29));
        check("100", Some(100));
        check("100b", Some(100));
        check("1 kB", Some(1024));
        for bad in ["", "x", "1x", "-1", "1bb", "1ib", "1 2"] {
            check(bad, None);
        }
        assert_eq!(parse_bytes_or_unlimited("-1").unwrap(), -1);
        assert_eq!(parse_rate("1.5gbit").unwrap(), 1_500_000_000);
        assert!(parse_rate("10mb").is_err() && parse_rate("").is_err());
    }

    #[test]
    fn reads_cpus() {
        assert_eq!(parse_cpus("0.5").unwrap(), 500_000_000);
        assert_eq!(parse_cpus("2").unwrap(), 2_000_000_000);
        assert_eq!(parse_cpus(".25").unwrap(), 250_000_000);
        for bad in ["", ".", "x", "-1", "1.0000000001", "1e3"] {
            assert!(parse_cpus(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn cuts() {
        assert_eq!(ellipsis("sh -c 'while true; do'", 20), "sh -c 'while true; …");
        assert_eq!(ellipsis("short", 20), "short");
        assert_eq!(short_id("sha256:c9f0a5ce34686902"), "c9f0a5ce3468");
    }
}
