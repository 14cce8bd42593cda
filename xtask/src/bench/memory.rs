//! What processes hold in memory, from `/proc/PID/smaps_rollup`. We are in a pid namespace of our own, so the
//! processes of a name are those of the engine under measurement.

use std::path::Path;
use std::time::Duration;

/// From the last command until memory is looked at.
pub(super) const SETTLE: Duration = Duration::from_secs(3);

/// Sums over processes, in KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Memory {
    /// Pages, those shared divided by how many share them.
    proportional: u64,
    resident: u64,
    /// Pages that nobody shares: what one more process costs.
    private: u64,
}

impl Memory {
    /// Titles of [`Memory::columns`].
    pub(super) const COLUMNS: [&str; 3] = ["proportional", "resident", "private"];

    #[cfg(test)]
    pub(super) fn new(proportional: u64, resident: u64, private: u64) -> Memory {
        Memory { proportional, resident, private }
    }

    pub(super) fn columns(&self) -> [u64; 3] {
        [self.proportional, self.resident, self.private]
    }
}

/// All processes whose program has one of these names.
pub(super) fn of(names: &[&str]) -> Memory {
    let mut sum = Memory::default();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let process = entry.path();
        let Ok(program) = std::fs::read_link(process.join("exe")) else { continue };
        let name = program.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if !names.contains(&name.as_str()) {
            continue;
        }
        if let Some(one) = read(&process) {
            sum.proportional += one.proportional;
            sum.resident += one.resident;
            sum.private += one.private;
        }
    }
    sum
}

fn read(process: &Path) -> Option<Memory> {
    let text = std::fs::read_to_string(process.join("smaps_rollup")).ok()?;
    Some(parse(&text))
}

fn parse(text: &str) -> Memory {
    let field = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    Memory {
        proportional: field("Pss"),
        resident: field("Rss"),
        private: field("Private_Clean") + field("Private_Dirty"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let text = "00400000-7ffd [rollup]\nRss: 10 kB\nPss: 4 kB\nPss_Anon: 1 kB\nPrivate_Clean: 1 kB\n\
                    Private_Dirty: 2 kB\n";
        assert_eq!(parse(text), Memory::new(4, 10, 3));
    }

    #[test]
    fn this_test_holds_memory() {
        let own = std::env::current_exe().unwrap();
        let name = own.file_name().unwrap().to_string_lossy().into_owned();
        assert!(of(&[&name]).private > 0);
    }
}
