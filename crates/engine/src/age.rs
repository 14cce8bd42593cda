//! How long a process has run, by clocks that nobody sets.

use std::time::{Duration, Instant};

/// How long the process `pid` has run; None when it is gone. Time that the machine slept counts.
pub(crate) fn of(pid: i32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let started = started(&stat, rustix::param::clock_ticks_per_second())?;
    let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let now = Duration::new(u64::try_from(boot.tv_sec).ok()?, u32::try_from(boot.tv_nsec).ok()?);
    Some(now.saturating_sub(started))
}

/// When a process that runs already was started; now, where that is not known.
pub(crate) fn start_of(pid: i32) -> Instant {
    let now = Instant::now();
    of(pid).and_then(|age| now.checked_sub(age)).unwrap_or(now)
}

/// Since the machine's start, from `/proc/PID/stat`: the 22nd field, and the name before it may hold anything.
fn started(stat: &str, ticks_per_second: u64) -> Option<Duration> {
    let ticks: u64 = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()?;
    let seconds = ticks.checked_div(ticks_per_second)?;
    let rest = ticks.checked_rem(ticks_per_second)?;
    Some(
        Duration::from_secs(seconds)
            + Duration::from_secs(1) * u32::try_from(rest).ok()? / u32::try_from(ticks_per_second).ok()?,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_line_of_proc() {
        let stat = "12 (a) b) S 1 12 12 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 1250 100 1";
        assert_eq!(started(stat, 100), Some(Duration::from_millis(12_500)));
        assert_eq!(started("12 (a) S 1", 100), None);
        assert_eq!(started(stat, 0), None);
    }

    #[test]
    fn of_this_process() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(of(own).is_some_and(|age| age < Duration::from_secs(24 * 3600)));
        assert!(start_of(own) <= Instant::now());
        assert_eq!(of(i32::MAX), None);
    }
}
