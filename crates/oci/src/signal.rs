//! Signals by name, as users, images and the runtime's command line give them.

/// Names from 1 up; signal(7), x86 and ARM.
const NAMES: &[&str] = &[
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// The number of `SIGTERM`, `TERM`, `term`, `15`, `RTMIN+3` or `RTMAX-2`, from 1 to 64; None if there is no such signal.
pub fn number(text: &str) -> Option<i32> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    // `+3` after RTMIN, `-3` after RTMAX, or nothing.
    let offset = |rest: &str, sign: char| match rest.strip_prefix(sign) {
        None if rest.is_empty() => Some(0),
        digits => digits?.parse::<u8>().ok().map(i32::from),
    };
    let number = if let Ok(number) = upper.parse::<u8>() {
        i32::from(number)
    } else if let Some(rest) = name.strip_prefix("RTMIN") {
        RTMIN + offset(rest, '+')?
    } else if let Some(rest) = name.strip_prefix("RTMAX") {
        RTMAX - offset(rest, '-')?
    } else {
        let name = match name {
            "IOT" => "ABRT",
            "POLL" => "IO",
            "CLD" => "CHLD",
            other => other,
        };
        i32::try_from(NAMES.iter().position(|n| *n == name)?).ok()? + 1
    };
    (1..=RTMAX).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers() {
        let check = |text: &str, want: Option<i32>| assert_eq!(super::number(text), want, "{text}");
        check("SIGTERM", Some(15));
        check("term", Some(15));
        check("9", Some(9));
        check("SIGRTMIN", Some(34));
        check("SIGRTMIN+3", Some(37));
        check("RTMAX-2", Some(62));
        check("SIGIOT", Some(6));
        check("CLD", Some(17));
        for bad in
            ["", "0", "65", "-1", "NOPE", "SIG", "SIG9", "SIGRTMIN+99", "RTMIN-1", "RTMIN+-1", "RTMAX-64"]
        {
            check(bad, None);
        }
    }
}
