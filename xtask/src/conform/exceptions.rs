//! What of others' suites may fail: lists of `TEST: REASON`, a line each. A `~` before a test says that it only sometimes does;
//! lines that begin with `# ` say something else.

use crate::run::{Error, Result};
use std::collections::BTreeSet;

/// Compares what passed and failed on `engine` with what may fail. Only ours is judged: a failure that is not listed is an
/// error, and so is a test that is listed and passed.
pub(super) fn judge(
    engine: &str,
    passed: &BTreeSet<&str>,
    failed: &BTreeSet<&str>,
    list: &str,
) -> Result<()> {
    println!("\n{engine}: {} passed, {} failed", passed.len(), failed.len());
    if passed.is_empty() {
        return Err(Error::new("no test passed: the suite did not run"));
    }
    if engine != "brig" {
        return Ok(());
    }
    let expected: BTreeSet<&str> = of(list).map(|(test, _)| test).collect();
    let may_fail = |test: &str| expected.contains(test) || expected.contains(&*format!("~{test}"));
    let surprises: Vec<&&str> = failed.iter().filter(|test| !may_fail(test)).collect();
    let mended: Vec<&&str> = expected.intersection(passed).collect();
    if surprises.is_empty() && mended.is_empty() {
        return Ok(());
    }
    Err(Error::new(format!("failed and not listed: {surprises:#?}\nlisted and passed: {mended:#?}")))
}

/// What a reason says where the test is to blame, or what both engines lack here.
const EVERYWHERE: &str = "fails against dockerd as well";

/// Compares what the list says of another engine with what that did. An exception whose reason blames the test must fail there
/// too.
pub(super) fn is_fair(
    engine: &str,
    passed: &BTreeSet<&str>,
    failed: &BTreeSet<&str>,
    list: &str,
) -> Result<()> {
    println!("\nthe exceptions of brig, by {engine}:");
    let mut unfair = Vec::new();
    for (test, reason) in of(list) {
        let name = test.trim_start_matches('~');
        let did = match (passed.contains(name), failed.contains(name)) {
            (true, _) => "passes",
            (_, true) => "fails",
            _ => "is left out",
        };
        println!("  {did}: {test}: {reason}");
        if did == "passes" && reason.contains(EVERYWHERE) && name == test {
            unfair.push(test);
        }
    }
    let listed: BTreeSet<&str> = of(list).map(|(test, _)| test.trim_start_matches('~')).collect();
    for test in failed.difference(&listed) {
        println!("  fails, and passes by brig: {test}");
    }
    if unfair.is_empty() {
        return Ok(());
    }
    Err(Error::new(format!("said to fail against {engine} as well, and passed: {unfair:#?}")))
}

/// Tests that may fail, with the reason; none for a line without one.
fn of(list: &str) -> impl Iterator<Item = (&str, &str)> {
    lines(list).filter_map(|line| line.split_once(": "))
}

fn lines(list: &str) -> impl Iterator<Item = &str> {
    list.lines().filter(|line| !line.is_empty() && !line.starts_with("# "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exception_has_a_reason() {
        for (list, mark) in
            [(include_str!("docker-py.exceptions"), "::"), (include_str!("dockerode.exceptions"), "#")]
        {
            assert!(lines(list).count() > 3);
            for line in lines(list) {
                let (test, reason) = line.split_once(": ").expect("TEST: REASON");
                assert!(test.contains(mark) && reason.len() > 10, "{line}");
            }
        }
    }

    #[test]
    fn what_is_said_of_others_is_compared() {
        let list = "a: fails against dockerd as well\nb: ours\n~c: fails against dockerd as well\n";
        let is_fair = |passed: &[&'static str], failed: &[&'static str]| {
            let set = |tests: &[&'static str]| tests.iter().copied().collect::<BTreeSet<&str>>();
            super::is_fair("dockerd", &set(passed), &set(failed), list)
        };
        assert!(is_fair(&["b", "c"], &["a", "x"]).is_ok());
        assert!(is_fair(&["a"], &["b"]).is_err());
    }

    #[test]
    fn failures_are_told_from_exceptions() {
        let judge = |engine: &str, passed: &[&'static str], failed: &[&'static str]| {
            let set = |tests: &[&'static str]| tests.iter().copied().collect::<BTreeSet<&str>>();
            super::judge(engine, &set(passed), &set(failed), "# text\na: why\n~b: why\n")
        };
        assert!(judge("brig", &[], &[]).is_err());
        assert!(judge("brig", &["x"], &["a", "b"]).is_ok());
        assert!(judge("brig", &["x", "b"], &["a"]).is_ok());
        assert!(judge("brig", &["x", "a"], &["b"]).is_err());
        assert!(judge("brig", &["x"], &["a", "b", "c"]).is_err());
        assert!(judge("dockerd", &["x"], &["c"]).is_ok());
    }
}
