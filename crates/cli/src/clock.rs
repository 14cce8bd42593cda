//! Points in time: reading the daemon's, reading the user's, writing Docker's.

use crate::error::{Error, Result};
use crate::units;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned, civil};

/// Seconds from `then` until now, never negative.
pub(crate) fn seconds_since(then: Timestamp) -> f64 {
    Timestamp::now().duration_since(then).as_secs_f64().max(0.0)
}

/// `3 minutes ago`, for a Unix time. Docker shows `N/A` for what has no time.
pub(crate) fn ago(unix_seconds: i64) -> String {
    match Timestamp::from_second(unix_seconds) {
        Ok(then) if unix_seconds > 0 => format!("{} ago", units::human_duration(seconds_since(then))),
        _ => "N/A".into(),
    }
}

/// `2024-05-06 07:08:09 +0200 CEST`, in the local zone.
pub(crate) fn local(unix_seconds: i64) -> String {
    match Timestamp::from_second(unix_seconds) {
        Ok(then) => show(&then.to_zoned(TimeZone::system())),
        Err(_) => "N/A".into(),
    }
}

/// `2024-05-06T07:08:09+02:00`, in the local zone, as `history` shows it.
pub(crate) fn local_rfc3339(unix_seconds: i64) -> String {
    match Timestamp::from_second(unix_seconds) {
        Ok(then) => then
            .to_zoned(TimeZone::system())
            .strftime("%Y-%m-%dT%H:%M:%S%:z")
            .to_string()
            .replace("+00:00", "Z"),
        Err(_) => "N/A".into(),
    }
}

fn show(time: &Zoned) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string()
}

/// What `--since` and `--until` take, as `SECONDS.NANOS` for the API: a span before `now` (`10m`), a date or time
/// (local where no zone is named), or Unix seconds.
pub(crate) fn api_timestamp(text: &str, now: Timestamp) -> Result<String> {
    if text.is_empty() || text == "0" {
        return Ok(text.to_string());
    }
    if let Some(nanos) = dockerfile::parse_duration_ns(text) {
        let then = now.checked_sub(jiff::SignedDuration::from_nanos(nanos));
        return then.map(seconds_and_nanos).map_err(|_| bad(text));
    }
    if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        let (seconds, nanos) = text.split_once('.').unwrap_or((text, "0"));
        let whole = !seconds.is_empty() && !nanos.is_empty() && !nanos.contains('.');
        return if whole { Ok(text.to_string()) } else { Err(bad(text)) };
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(seconds_and_nanos(time));
    }
    // Without a zone, as `2024-05-06`, `2024-05-06T07:08`, `2024-05-06T07:08:09.5`; a `Z` alone means UTC.
    let (bare, zone) = match text.strip_suffix('Z') {
        Some(bare) => (bare, TimeZone::UTC),
        None => (text, TimeZone::system()),
    };
    let padded = match bare.len() {
        10 => format!("{bare}T00:00:00"),
        13 => format!("{bare}:00:00"),
        16 => format!("{bare}:00"),
        _ => bare.to_string(),
    };
    let civil: civil::DateTime = padded.parse().map_err(|_| bad(text))?;
    let zoned = civil.to_zoned(zone).map_err(|_| bad(text))?;
    Ok(seconds_and_nanos(zoned.timestamp()))
}

fn bad(text: &str) -> Error {
    Error::Usage(format!("failed to parse value as time or duration: {text:?}"))
}

fn seconds_and_nanos(time: Timestamp) -> String {
    format!("{}.{:09}", time.as_second(), time.subsec_nanosecond())
}

/// A time of the API, RFC 3339, as Go prints one: `2024-05-06 07:08:09.1 +0000 UTC`. What is none is left as it is.
pub(crate) fn go_time(text: &str) -> String {
    let time = text.parse::<Timestamp>();
    time.map_or_else(|_| text.to_string(), |t| t.strftime("%Y-%m-%d %H:%M:%S%.f +0000 UTC").to_string())
}

/// The API's `timeNano` as a log line shows it: local zone, nine decimals.
pub(crate) fn event_time(nanos: i64) -> String {
    match Timestamp::from_nanosecond(i128::from(nanos)) {
        Ok(time) => time
            .to_zoned(TimeZone::system())
            .strftime("%Y-%m-%dT%H:%M:%S.%9f%:z")
            .to_string()
            .replace("+00:00", "Z"),
        Err(_) => nanos.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_go_prints_them() {
        assert_eq!(go_time("2024-05-06T07:08:09.120Z"), "2024-05-06 07:08:09.12 +0000 UTC");
        assert_eq!(go_time("2024-05-06T07:08:09Z"), "2024-05-06 07:08:09 +0000 UTC");
        assert_eq!(go_time(""), "");
    }

    #[test]
    fn reads_what_since_takes() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let check = |text: &str, expected: &str| assert_eq!(api_timestamp(text, now).unwrap(), expected);
        check("10m", "999400.000000000");
        check("1136073600.000000001", "1136073600.000000001");
        check("1136073600", "1136073600");
        check("2006-01-02T15:04:05Z", "1136214245.000000000");
        check("2006-01-02T15:04:05.5+01:00", "1136210645.500000000");
        check("2006-01-02Z", "1136160000.000000000");
        check("2006-01-02T15:04Z", "1136214240.000000000");
        for bad in ["yesterday", "2006-13-01", "1.2.3", "10"] {
            let result = api_timestamp(bad, now);
            assert!(result.is_err() || bad == "10", "{bad}");
        }
    }

    #[test]
    fn zero_times() {
        assert_eq!(ago(0), "N/A");
    }
}
