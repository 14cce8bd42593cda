//! The table: medians, and ratios to brig, which is the first engine.

use super::engines::Engine;
use super::memory::Memory;
use crate::run::{Result, output};
use std::fmt::Write as _;
use std::process::Command;
use std::time::Duration;

/// Where this part begins in the page of results.
pub(super) const HEADING: &str = "# Measured by `cargo xtask bench`";

/// What was measured, and where.
#[derive(Debug)]
pub(super) struct Report {
    engines: Vec<&'static str>,
    versions: Vec<String>,
    machine: Vec<String>,
    runs: usize,
    pub(super) rows: Vec<Row>,
}

/// A line of the table; values in the engines' order.
#[derive(Debug)]
pub(super) enum Row {
    Time { name: String, medians: Vec<Duration> },
    Memory { name: String, sums: Vec<Memory> },
    Count { name: String, counts: Vec<u64> },
}

impl Report {
    pub(super) fn new(engines: &[Engine], runs: usize) -> Result<Report> {
        Ok(Report {
            engines: engines.iter().map(Engine::name).collect(),
            versions: engines.iter().map(Engine::versions).collect::<Result<_>>()?,
            machine: machine()?,
            runs,
            rows: Vec::new(),
        })
    }

    pub(super) fn memory(&mut self, name: &str, sums: Vec<Memory>) {
        self.rows.push(Row::Memory { name: name.into(), sums });
    }

    pub(super) fn memory_of_many(&mut self, containers: usize, sums: Vec<Memory>) {
        self.memory(&format!("everything, {containers} containers running"), sums);
    }

    /// The report as a page.
    pub(super) fn markdown(&self) -> String {
        let mut out = format!("{HEADING}\n\n");
        let fact = |out: &mut String, text: &str| writeln!(out, "- {text}").expect("writing to a String");
        self.machine.iter().chain(&self.versions).for_each(|text| fact(&mut out, text));
        out += "\nEngines run in turn (A B C A B C ...) in namespaces of their own (pid, mount, network), each on its own data \
                root on the same file system. Times are from the start of the client to its end.\n";
        writeln!(out, "\n## Time: median of {} runs, in milliseconds\n", self.runs)
            .expect("writing to a String");
        self.header(&mut out, "command");
        for row in &self.rows {
            if let Row::Time { name, medians } = row {
                let values: Vec<f64> = medians.iter().map(|t| t.as_secs_f64() * 1000.0).collect();
                self.line(&mut out, name, &values, 1, "-");
            }
        }
        out += "\n## Memory of the engine's own processes, in KiB\n\n";
        out += "Proportional: shared pages divided by how many share them. Private: pages that nobody shares. Podman has no \
                daemon.\n\n";
        self.header(&mut out, "what");
        for row in &self.rows {
            let Row::Memory { name, sums } = row else { continue };
            for (n, kind) in Memory::COLUMNS.iter().enumerate() {
                // Exact below 2^53 KiB.
                #[expect(clippy::cast_precision_loss, reason = "printed without decimals")]
                let values: Vec<f64> = sums.iter().map(|m| m.columns()[n] as f64).collect();
                self.line(&mut out, &format!("{name}: {kind}"), &values, 0, "-");
            }
        }
        out += "\n## Idle\n\n";
        self.header(&mut out, "what");
        for row in &self.rows {
            let Row::Count { name, counts } = row else { continue };
            #[expect(clippy::cast_precision_loss, reason = "printed without decimals")]
            let values: Vec<f64> = counts.iter().map(|n| *n as f64).collect();
            self.line(&mut out, name, &values, 0, "0");
        }
        out
    }

    fn header(&self, out: &mut String, first: &str) {
        let peers = self.engines.iter().skip(1).map(|name| format!(" {name} / brig |"));
        let titles: String = self.engines.iter().map(|name| format!(" {name} |")).chain(peers).collect();
        let rule = "---:|".repeat(self.engines.len() * 2 - 1);
        writeln!(out, "| {first} |{titles}\n|---|{rule}").expect("writing to a String");
    }

    /// `zero` is what is written for zero: of a time it means that there was nothing to measure.
    fn line(&self, out: &mut String, name: &str, values: &[f64], decimals: usize, zero: &str) {
        let mut line = format!("| {name} |");
        for value in values {
            line += &if *value > 0.0 { format!(" {value:.decimals$} |") } else { format!(" {zero} |") };
        }
        for value in values.iter().skip(1) {
            let ratio = value / values[0];
            line += &if ratio > 0.0 && ratio.is_finite() { format!(" {ratio:.1} |") } else { " - |".into() };
        }
        writeln!(out, "{line}").expect("writing to a String");
    }
}

/// What the numbers depend on, without a name or a path of the machine.
pub(super) fn machine() -> Result<Vec<String>> {
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        processor.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": ").map(|(_, m)| m));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = memory
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<u64>().ok());
    let system = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let system =
        system.lines().find_map(|l| l.strip_prefix("PRETTY_NAME=")).unwrap_or("unknown").trim_matches('"');
    let mut file_system = Command::new("stat");
    file_system.args(["-f", "-c", "%T"]).arg(crate::workspace::target());
    Ok(vec![
        format!("date: {}", output(Command::new("date").args(["-u", "+%Y-%m-%d"]))?),
        format!("processor: {}, {cores} cores", model.unwrap_or("unknown")),
        format!("memory: {} MiB", total.unwrap_or(0) / 1024),
        format!("system: {system}, Linux {}", output(Command::new("uname").arg("-r"))?),
        format!("file system of the data roots: {}", output(&mut file_system)?),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        let report = Report {
            engines: vec!["brig", "dockerd", "podman"],
            versions: vec!["brig 1".into()],
            machine: vec!["cores: 2".into()],
            runs: 20,
            rows: vec![
                Row::Time { name: "run".into(), medians: [10, 200, 45].map(Duration::from_millis).to_vec() },
                Row::Memory {
                    name: "idle".into(),
                    sums: vec![Memory::new(100, 200, 50), Memory::new(1000, 2000, 500), Memory::default()],
                },
            ],
        };
        let text = report.markdown();
        assert!(
            text.contains(
                "| command | brig | dockerd | podman | dockerd / brig | podman / brig |\n|---|---:|"
            ),
            "{text}"
        );
        assert!(text.contains("| run | 10.0 | 200.0 | 45.0 | 20.0 | 4.5 |"), "{text}");
        assert!(text.contains("| idle: private | 50 | 500 | - | 10.0 | - |"), "{text}");
    }
}
