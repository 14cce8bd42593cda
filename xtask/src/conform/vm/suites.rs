//! The runtime's own tests, on this kernel and on cgroup v2 alone: the conformance tests, which runc and crun are asked too, and
//! the test programs of `crates/brig-runtime/tests`.

use super::inside::{Check, Inside, Outcome};
use super::{BRIG, TESTS};
use crate::run::{Error, Result};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(350);

/// Tests that cannot pass in this machine, by their names, and why.
const NOT_HERE: &[(&str, &str)] = &[
    (
        "limits_are_updated",
        "it reads the files of cgroup v1; the checks of systemd and brigd read those of v2",
    ),
    ("remounts_and_superblock_options", "this kernel shows one option more, inode64, of every tmpfs"),
];

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "suite: conformance of brig-runtime",
        run: |i| conformance(i, "/brig/bin/brig-runtime", &["--full"]),
    },
    Check { name: "suite: conformance of runc", run: |i| conformance(i, "/usr/sbin/runc", &[]) },
    Check { name: "suite: conformance of crun", run: |i| conformance(i, "/usr/bin/crun", &[]) },
    Check { name: "suite: programs of brig-runtime", run: programs },
];

fn conformance(inside: &Inside, runtime: &str, args: &[&str]) -> Result<Outcome> {
    let program = format!("{BRIG}/tests/conformance");
    let (code, text) = inside.call(&[&[&program, "--runtime", runtime], args].concat(), DEADLINE)?;
    for line in
        text.lines().filter(|l| ["skip ", "known ", "note ", "FAIL "].iter().any(|p| l.starts_with(p)))
    {
        eprintln!("    {line}");
    }
    let last = text.lines().last().unwrap_or_default().to_owned();
    if code == Some(0) { Ok(Outcome::Said(last)) } else { Err(Error::new(last)) }
}

fn programs(inside: &Inside) -> Result<Outcome> {
    let (mut passed, mut failed) = (0, Vec::new());
    for name in TESTS {
        let program = format!("{BRIG}/tests/{name}");
        let mut words = vec![program.as_str(), "--test-threads=2"];
        NOT_HERE.iter().for_each(|(test, _)| words.extend(["--skip", test]));
        let (code, text) = match inside.call(&words, DEADLINE) {
            Ok(ended) => ended,
            Err(error) => {
                failed.push(error.to_string());
                continue;
            }
        };
        let result = text.lines().rev().find(|l| l.starts_with("test result:")).unwrap_or_default();
        eprintln!("    {name}: {result}");
        passed += text.lines().filter(|l| l.starts_with("test ") && l.ends_with("... ok")).count();
        let skipped =
            text.lines().filter(|l| l.contains("skipped: ")).collect::<std::collections::BTreeSet<_>>();
        skipped.iter().for_each(|line| eprintln!("    {line}"));
        if code != Some(0) {
            let lost = text.lines().filter(|l| l.ends_with("FAILED") || l.contains("panicked at"));
            lost.for_each(|line| eprintln!("    {line}"));
            let said = text.split_once("failures:").map_or("", |(_, said)| said);
            eprintln!("{}", said.split("failures:").next().unwrap_or_default());
            failed.push(format!("{name}: {result}"));
        }
    }
    for (test, reason) in NOT_HERE {
        eprintln!("    not here: {test}: {reason}");
    }
    if failed.is_empty() {
        Ok(Outcome::Said(format!("{passed} passed")))
    } else {
        Err(Error::new(failed.join("; ")))
    }
}
