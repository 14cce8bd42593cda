//! Times as nanoseconds since 1970 UTC, and as RFC 3339 text the way Go prints it (`RFC3339Nano`: no trailing zeros).

use std::time::{SystemTime, UNIX_EPOCH};

const SECOND: u64 = 1_000_000_000;
const DAY: u64 = 86_400;

/// Nanoseconds since 1970 UTC, now. 0 if the clock is before that.
pub fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs().saturating_mul(SECOND).saturating_add(u64::from(since.subsec_nanos()))
}

/// `2026-01-02T03:04:05.6789Z`; the fraction has up to nine digits and no trailing zero.
pub fn format_rfc3339(ns: u64) -> String {
    let mut out = Vec::with_capacity(30);
    write_rfc3339(&mut out, ns);
    String::from_utf8(out).expect("only ASCII is written")
}

/// As [`format_rfc3339`], appended to `out`.
pub(crate) fn write_rfc3339(out: &mut Vec<u8>, ns: u64) {
    let (seconds, fraction) = (ns / SECOND, ns % SECOND);
    let (year, month, day) = date_of(seconds / DAY);
    let of_day = seconds % DAY;
    digits(out, year, 4);
    for (mark, value) in
        [(b'-', month), (b'-', day), (b'T', of_day / 3600), (b':', of_day / 60 % 60), (b':', of_day % 60)]
    {
        out.push(mark);
        digits(out, value, 2);
    }
    if fraction != 0 {
        out.push(b'.');
        digits(out, fraction, 9);
        while out.last() == Some(&b'0') {
            out.pop();
        }
    }
    out.push(b'Z');
}

/// The time in RFC 3339 text with any offset, to the nanosecond; None for other text and for years before 1970.
pub fn parse_rfc3339(text: &str) -> Option<u64> {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| -> Option<u64> {
        let part = bytes.get(from..to)?;
        part.iter().try_fold(0, |sum, b| b.is_ascii_digit().then(|| sum * 10 + u64::from(b - b'0')))
    };
    let mark = |at: usize, any: &[u8]| bytes.get(at).filter(|b| any.contains(b)).map(|_| ());
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    for (at, any) in [(4, b"-".as_slice()), (7, b"-"), (10, b"Tt "), (13, b":"), (16, b":")] {
        mark(at, any)?;
    }
    if !(1970..=2500).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut at = 19;
    let mut fraction = 0;
    if bytes.get(at) == Some(&b'.') {
        let end = (at + 1..bytes.len()).find(|&i| !bytes[i].is_ascii_digit())?;
        let shown = end.min(at + 10);
        fraction = number(at + 1, shown)? * 10_u64.pow(u32::try_from(at + 10 - shown).ok()?);
        at = end;
    }
    let offset_s = match (bytes.get(at)?, bytes.len() - at) {
        (b'Z' | b'z', 1) => 0,
        (sign @ (b'+' | b'-'), 6) => {
            mark(at + 3, b":")?;
            let (hours, minutes) = (number(at + 1, at + 3)?, number(at + 4, at + 6)?);
            let offset = i64::try_from(hours * 3600 + minutes * 60).ok()?;
            if *sign == b'-' { offset } else { -offset }
        }
        _ => return None,
    };
    let seconds = days_of(year, month, day) * DAY + hour * 3600 + minute * 60 + second;
    seconds.checked_add_signed(offset_s)?.checked_mul(SECOND)?.checked_add(fraction)
}

fn digits(out: &mut Vec<u8>, mut value: u64, width: usize) {
    let start = out.len();
    out.resize(start + width, b'0');
    for place in out[start..].iter_mut().rev() {
        *place = b"0123456789"[(value % 10) as usize];
        value /= 10;
    }
}

/// Year, month, day of a day counted from 1970-01-01. Years are counted from March, so that the leap day is the last.
fn date_of(days: u64) -> (u64, u64, u64) {
    // 719468 days lie between 0000-03-01 and 1970-01-01; 146097 in 400 years.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// The inverse of [`date_of`], for years from 1970.
fn days_of(year: u64, month: u64, day: u64) -> u64 {
    let year = year - u64::from(month <= 2);
    let (era, of_era) = (year / 400, year % 400);
    let from_march = (month + 9) % 12;
    let of_year = (153 * from_march + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_go_does() {
        for (ns, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_500_000_000, "1970-01-01T00:00:01.5Z"),
            (951_782_400 * SECOND, "2000-02-29T00:00:00Z"),
            (1_767_323_045_678_901_234, "2026-01-02T03:04:05.678901234Z"),
            (1_767_323_045_000_000_010, "2026-01-02T03:04:05.00000001Z"),
            (4_107_542_399 * SECOND, "2100-02-28T23:59:59Z"),
            (4_107_542_400 * SECOND, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(format_rfc3339(ns), text);
            assert_eq!(parse_rfc3339(text), Some(ns), "{text}");
        }
    }

    #[test]
    fn every_day_there_and_back() {
        for day in 0..200_000 {
            let (y, m, d) = date_of(day);
            assert_eq!(days_of(y, m, d), day);
        }
    }

    #[test]
    fn reads_offsets_and_refuses_nonsense() {
        assert_eq!(parse_rfc3339("1970-01-01T01:00:00+01:00"), Some(0));
        assert_eq!(parse_rfc3339("1970-01-01T00:00:00.1234567891-00:01"), Some(60 * SECOND + 123_456_789));
        for text in [
            "",
            "2026",
            "2026-13-01T00:00:00Z",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00.Z5",
            "x".repeat(40).as_str(),
        ] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }
}
