//! By how much processes grow while they work.

/// What processes held resident when their peak was set back.
#[derive(Debug)]
pub(super) struct Peak {
    before: Vec<(u32, f64)>,
}

impl Peak {
    pub(super) fn reset(pids: &[u32]) -> Peak {
        let reset = |pid: &u32| {
            drop(std::fs::write(format!("/proc/{pid}/clear_refs"), "5"));
            (*pid, status(*pid, "VmRSS:"))
        };
        Peak { before: pids.iter().map(reset).collect() }
    }

    /// By how much they have grown at the most since, in MiB.
    pub(super) fn growth(&self) -> f64 {
        self.before.iter().map(|(pid, before)| (status(*pid, "VmHWM:") - before).max(0.0)).sum()
    }
}

/// A line of a process's status, in MiB.
fn status(pid: u32, line: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let found =
        text.lines().find_map(|l| l.strip_prefix(line)?.split_whitespace().next()?.parse::<f64>().ok());
    found.unwrap_or_default() / 1024.0
}
