//! What others' runtimes are known to do otherwise, and why that does not make the test wrong.

use crate::case::Runtime;

/// Runtime, test, reason.
const EXCEPTIONS: &[(&str, &str, &str)] = &[];

/// Why `runtime` is known to fail the test.
pub(crate) fn reason(runtime: &Runtime, test: &str) -> Option<&'static str> {
    let found = EXCEPTIONS.iter().find(|(name, listed, _)| *name == runtime.name() && *listed == test);
    found.map(|(_, _, reason)| *reason)
}
