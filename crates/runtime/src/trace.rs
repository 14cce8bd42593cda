//! What is done, told to whoever asked for it with `--debug`.

use std::sync::OnceLock;

static TELL: OnceLock<fn(&str)> = OnceLock::new();

/// From now on `tell` hears a line for each thing that is done. The first caller counts.
pub fn trace_to(tell: fn(&str)) {
    let _first = TELL.set(tell);
}

/// Tells, if anybody listens; only then is the line made.
pub(crate) fn say(line: impl FnOnce() -> String) {
    if let Some(tell) = TELL.get() {
        tell(&line());
    }
}
