//! Values of the specification, which speaks v1, turned into what the control files of v2 take. Pure.

use crate::Error;

/// v1 shares (2 to 262144, 1024 by default) as a v2 weight (1 to 10000, 100 by default).
///
/// The ends and the defaults meet, between them runs a quadratic in the logarithm: what runc and crun do since 2025,
/// so that a container gets the same part of the CPU under each.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between 1 and 10000 by the match"
)]
#[expect(clippy::cast_precision_loss, reason = "at most 262144")]
pub(crate) fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            10f64.powf(exponent).ceil() as u64
        }
    }
}

/// A v1 block weight (10 to 1000) as `io.weight` (1 to 10000).
pub(crate) fn io_weight(weight: u16) -> u64 {
    let weight = u64::from(weight.clamp(10, 1000));
    1 + (weight - 10) * 9999 / 990
}

/// Bytes, or `max` for -1 and other negative numbers.
pub(crate) fn max_or(value: i64) -> String {
    if value < 0 { "max".into() } else { value.to_string() }
}

/// `memory.swap.max` for the specification's memory plus swap; `None` to leave it.
///
/// Without a memory limit there is nothing to subtract, so a limit of the sum cannot be kept.
pub(crate) fn swap_max(limit: Option<i64>, sum: Option<i64>) -> Result<Option<String>, Error> {
    let refuse = |sum: i64, reason| {
        Err(Error::InvalidValue { limit: "memory plus swap", value: sum.to_string(), reason })
    };
    match (limit, sum) {
        // No limit of memory takes the limit of the sum away too.
        (Some(-1), None | Some(0)) => Ok(Some("max".into())),
        (_, None | Some(0)) => Ok(None),
        (_, Some(-1)) => Ok(Some("max".into())),
        (_, Some(sum)) if sum < 0 => refuse(sum, "only -1 may be negative"),
        (None | Some(0 | -1), Some(sum)) => refuse(sum, "it needs a limit of memory"),
        (Some(limit), Some(sum)) if sum < limit => refuse(sum, "it is less than memory alone"),
        (Some(limit), Some(sum)) => Ok(Some((sum - limit).to_string())),
    }
}

/// Whether `size` is a page size as control files spell it, such as `2MB`. It becomes part of a file name.
pub(crate) fn is_page_size(size: &str) -> bool {
    let digits = size.trim_end_matches(|c: char| c.is_ascii_uppercase());
    !digits.is_empty()
        && digits.bytes().all(|b| b.is_ascii_digit())
        && ["KB", "MB", "GB", "TB"].contains(&&size[digits.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights() {
        let check = |shares, weight| assert_eq!(weight_of_shares(shares), weight, "{shares}");
        check(0, 1);
        check(2, 1);
        check(1024, 100);
        check(262_144, 10_000);
        check(u64::MAX, 10_000);
        check(512, 59);
        check(2048, 174);
        assert!((3..262_144).step_by(97).all(|s| weight_of_shares(s) <= weight_of_shares(s + 97)));
    }

    #[test]
    fn block_weights() {
        let check = |weight, expected| assert_eq!(io_weight(weight), expected, "{weight}");
        check(10, 1);
        check(1000, 10_000);
        check(500, 4950);
        check(0, 1);
    }

    #[test]
    fn swap_is_the_sum_less_memory() {
        let check = |limit, sum, expected: Option<&str>| {
            assert_eq!(swap_max(limit, sum).unwrap().as_deref(), expected, "{limit:?} {sum:?}");
        };
        check(Some(100), Some(300), Some("200"));
        check(Some(100), Some(100), Some("0"));
        check(Some(100), Some(-1), Some("max"));
        check(Some(100), None, None);
        check(Some(-1), None, Some("max"));
        check(None, Some(-1), Some("max"));
        check(None, None, None);
        for (limit, sum) in [(None, 5), (Some(100), 99), (Some(100), -2), (Some(-1), 7)] {
            assert!(swap_max(limit, Some(sum)).is_err(), "{limit:?} {sum}");
        }
    }

    #[test]
    fn page_sizes() {
        for good in ["2MB", "1GB", "64KB"] {
            assert!(is_page_size(good), "{good}");
        }
        for bad in ["", "MB", "2", "2mb", "../x", "2MB/", "2 MB", "2MBGB", "é"] {
            assert!(!is_page_size(bad), "{bad}");
        }
    }
}
