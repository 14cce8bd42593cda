//! Times as Docker's people read them.

use jiff::Timestamp;

/// `About a minute`, `3 weeks`: Docker's duration for people.
pub(crate) fn human_duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 3600;
    const DAY: i64 = 24 * HOUR;
    match seconds {
        ..1 => "Less than a second".into(),
        1 => "1 second".into(),
        2..MINUTE => format!("{seconds} seconds"),
        MINUTE..120 => "About a minute".into(),
        120..HOUR => format!("{} minutes", seconds / MINUTE),
        // Docker rounds hours to the nearest.
        _ => match (seconds + HOUR / 2) / HOUR {
            ..=1 => "About an hour".into(),
            hours @ 2..48 => format!("{hours} hours"),
            hours if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
            hours if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
            hours if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
            _ => format!("{} years", seconds / DAY / 365),
        },
    }
}

/// Seconds from `time` (RFC 3339) to now; 0 when it cannot be read.
pub(crate) fn seconds_since(time: &str) -> i64 {
    time.parse::<Timestamp>().map_or(0, |t| Timestamp::now().as_second() - t.as_second())
}

/// Seconds since 1970; 0 when it cannot be read.
pub(crate) fn unix_seconds(time: &str) -> i64 {
    time.parse::<Timestamp>().map_or(0, Timestamp::as_second)
}

/// `1136073600.000000001`, RFC 3339, or a duration before now (`10m`, `1h30m`), as nanoseconds since 1970.
pub(crate) fn parse_time(text: &str) -> Option<i128> {
    const NANOS: i128 = 1_000_000_000;
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time.as_nanosecond());
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if let Ok(seconds) = whole.parse::<i64>() {
        let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
        return Some(i128::from(seconds) * NANOS + i128::from(digits.parse::<u32>().ok()?));
    }
    let mut total = 0i128;
    let mut number = String::new();
    for c in text.chars() {
        match c {
            '0'..='9' => number.push(c),
            'h' | 'm' | 's' => {
                let factor = if c == 'h' {
                    3600
                } else if c == 'm' {
                    60
                } else {
                    1
                };
                total += i128::from(number.parse::<u64>().ok()?) * factor * NANOS;
                number.clear();
            }
            _ => return None,
        }
    }
    (number.is_empty() && total > 0).then(|| Timestamp::now().as_nanosecond() - total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_dockers() {
        let check = |seconds, want: &str| assert_eq!(human_duration(seconds), want);
        check(0, "Less than a second");
        check(1, "1 second");
        check(59, "59 seconds");
        check(60, "About a minute");
        check(119, "About a minute");
        check(120, "2 minutes");
        check(3599, "59 minutes");
        check(3600, "About an hour");
        check(5400, "2 hours");
        check(47 * 3600, "47 hours");
        check(3 * 86400, "3 days");
        check(21 * 86400, "3 weeks");
        check(90 * 86400, "3 months");
        check(800 * 86400, "2 years");
    }

    #[test]
    fn times_of_queries() {
        assert_eq!(parse_time("10"), Some(10_000_000_000));
        assert_eq!(parse_time("1.5"), Some(1_500_000_000));
        assert_eq!(parse_time("1970-01-01T00:00:02Z"), Some(2_000_000_000));
        assert!(parse_time("10m").is_some());
        assert_eq!(parse_time("x"), None);
        assert_eq!(parse_time("99999999999999999999999999999999999999h"), None);
        assert_eq!(parse_time("1.x"), None);
        assert!(parse_time("18446744073709551615h18446744073709551615h").is_some());
    }
}
