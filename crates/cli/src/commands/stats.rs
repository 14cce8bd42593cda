//! `stats`: what containers use, live. Numbers are worked out as Docker does: CPU from two looks, memory without the
//! page cache that can be given back.

use super::Context;
use crate::error::Result;
use crate::http::Path;
use crate::listing::{self, Form, Listing, Row};
use crate::terminal;
use crate::units;
use gotemplate::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// Display a live stream of container(s) resource usage statistics
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Stats {
    /// Show all containers (default shows just running)
    #[arg(short, long)]
    all: bool,
    /// Format output: 'table', 'table TEMPLATE', 'json' or a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Disable streaming stats and only pull the first result
    #[arg(long)]
    no_stream: bool,
    /// Do not truncate output
    #[arg(long)]
    no_trunc: bool,
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
}

const HEADERS: &[(&str, &str)] = &[
    ("Container", "CONTAINER"),
    ("ID", "CONTAINER ID"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
];
const DEFAULT: &str =
    "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}";
/// Time between two looks.
const PERIOD: Duration = Duration::from_secs(1);

/// CPU time of a container and of the machine, nanoseconds, as last seen.
type Seen = BTreeMap<String, (f64, f64)>;

pub(crate) async fn stats(context: &Context, flags: &Stats) -> Result<u8> {
    let configured = context.config.text("statsFormat");
    let form = Listing { default: DEFAULT.into(), headers: HEADERS }
        .form(flags.format.as_deref().or(configured.as_deref()))?;
    let mut seen = Seen::new();
    // The first look only tells from where to count.
    look(context, flags, &mut seen).await?;
    tokio::time::sleep(PERIOD).await;
    let is_live = !flags.no_stream && terminal::size().is_some();
    loop {
        let rows = look(context, flags, &mut seen).await?;
        show(&form, rows, is_live)?;
        if flags.no_stream {
            return Ok(0);
        }
        tokio::time::sleep(PERIOD).await;
    }
}

fn show(form: &Form, rows: Vec<Row>, is_live: bool) -> Result<()> {
    let text = form.render(rows)?;
    if !is_live {
        return terminal::print(&text);
    }
    // Written over what stood there, line by line, so that nothing flickers.
    let lines: String = text.lines().map(|line| format!("{line}\x1b[K\n")).collect();
    terminal::print(&format!("\x1b[H{lines}\x1b[J"))
}

/// Looks at each container once.
async fn look(context: &Context, flags: &Stats, seen: &mut Seen) -> Result<Vec<Row>> {
    let names = if flags.containers.is_empty() {
        let path = Path::new(&["containers", "json"]).flag("all", flags.all);
        let list: Vec<Value> = context.client.get(&path).await?;
        list.iter().map(|c| c.text_at(&["Id"]).to_string()).collect()
    } else {
        flags.containers.clone()
    };
    let mut rows = Vec::new();
    let mut now = Seen::new();
    for name in names {
        let path = Path::new(&["containers", &name, "stats"]).query("stream", "0").query("one-shot", "1");
        match context.client.get::<Value>(&path).await {
            Ok(stats) => {
                let id = stats.text_at(&["id"]).to_string();
                let cpu = (
                    number(&stats, &["cpu_stats", "cpu_usage", "total_usage"]),
                    number(&stats, &["cpu_stats", "system_cpu_usage"]),
                );
                rows.push(row(&name, &stats, seen.get(&id).copied(), flags.no_trunc));
                now.insert(id, cpu);
            }
            // Gone between list and look. One that was named must be there.
            Err(error) if error.is_not_found() && flags.containers.is_empty() => {}
            Err(error) => return Err(error),
        }
    }
    *seen = now;
    Ok(rows)
}

fn number(stats: &Value, path: &[&str]) -> f64 {
    stats.at(path).map_or(0.0, Value::float)
}

fn row(name: &str, stats: &Value, before: Option<(f64, f64)>, whole: bool) -> Row {
    let id = stats.text_at(&["id"]);
    // Where nobody was named, the list gave ids.
    let shown = if name == id { units::short_id(id) } else { name.to_string() };
    let text = Value::Str;
    // A container that does not run has no limit either.
    let limit = number(stats, &["memory_stats", "limit"]);
    let memory = used_memory(stats);
    let is_running = limit > 0.0;
    let or_dashes = |value: String| text(if is_running { value } else { "--".into() });
    let both = |a: f64, b: f64| format!("{} / {}", units::human_size(a, 3), units::human_size(b, 3));
    let (received, sent) = network(stats);
    let (read, written) = block(stats);
    listing::row([
        ("Container", text(if whole { name.to_string() } else { shown })),
        ("ID", text(if whole { id.to_string() } else { units::short_id(id) })),
        ("Name", text(stats.text_at(&["name"]).trim_start_matches('/').to_string())),
        ("CPUPerc", or_dashes(format!("{:.2}%", cpu_percent(stats, before)))),
        (
            "MemUsage",
            text(if is_running {
                format!("{} / {}", units::binary_size(memory), units::binary_size(limit))
            } else {
                "-- / --".into()
            }),
        ),
        ("MemPerc", or_dashes(format!("{:.2}%", if limit > 0.0 { memory / limit * 100.0 } else { 0.0 }))),
        ("NetIO", or_dashes(both(received, sent))),
        ("BlockIO", or_dashes(both(read, written))),
        ("PIDs", or_dashes(format!("{}", number(stats, &["pids_stats", "current"])))),
    ])
}

/// Percent of one CPU.
fn cpu_percent(stats: &Value, before: Option<(f64, f64)>) -> f64 {
    let Some((cpu_before, system_before)) = before else { return 0.0 };
    let cpu = number(stats, &["cpu_stats", "cpu_usage", "total_usage"]) - cpu_before;
    let system = number(stats, &["cpu_stats", "system_cpu_usage"]) - system_before;
    let cpus = number(stats, &["cpu_stats", "online_cpus"]);
    if cpu > 0.0 && system > 0.0 { cpu / system * cpus * 100.0 } else { 0.0 }
}

/// What is used less the cache that is given back first: `total_inactive_file` on cgroup v1, `inactive_file` on v2.
fn used_memory(stats: &Value) -> f64 {
    let usage = number(stats, &["memory_stats", "usage"]);
    let inactive = |name: &str| stats.at(&["memory_stats", "stats", name]).map(Value::float);
    let cache = inactive("total_inactive_file").or_else(|| inactive("inactive_file")).unwrap_or(0.0);
    if cache < usage { usage - cache } else { usage }
}

fn network(stats: &Value) -> (f64, f64) {
    let empty = Value::Nil;
    let sum = |field: &str| {
        let all = stats.get("networks").unwrap_or(&empty).members();
        all.iter().map(|(_, i)| number(i, &[field])).sum()
    };
    (sum("rx_bytes"), sum("tx_bytes"))
}

fn block(stats: &Value) -> (f64, f64) {
    let empty = Value::Nil;
    let entries = stats.at(&["blkio_stats", "io_service_bytes_recursive"]).unwrap_or(&empty).items();
    let sum = |op: &str| {
        let of = entries.iter().filter(|e| e.text_at(&["op"]).eq_ignore_ascii_case(op));
        of.map(|e| number(e, &["value"])).sum()
    };
    (sum("read"), sum("write"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn cpu_is_of_one_cpu() {
        let now = stats(
            r#"{"cpu_stats":{"cpu_usage":{"total_usage":300},"system_cpu_usage":1400,"online_cpus":2}}"#,
        );
        assert_eq!(format!("{:.2}", cpu_percent(&now, Some((100.0, 1000.0)))), "100.00");
        assert_eq!(format!("{:.2}", cpu_percent(&now, None)), "0.00");
        assert_eq!(format!("{:.2}", cpu_percent(&now, Some((400.0, 1000.0)))), "0.00");
    }

    #[test]
    fn memory_is_without_cache() {
        let check = |text: &str, want: f64| {
            let used = used_memory(&stats(text));
            assert!((used - want).abs() < 0.5, "{text}: {used}");
        };
        check(r#"{"memory_stats":{"usage":100,"stats":{"total_inactive_file":30,"inactive_file":5}}}"#, 70.0);
        check(r#"{"memory_stats":{"usage":100,"stats":{"inactive_file":5}}}"#, 95.0);
        check(r#"{"memory_stats":{"usage":100,"stats":{"inactive_file":500}}}"#, 100.0);
        check("{}", 0.0);
    }

    #[test]
    fn one_that_does_not_run_has_dashes() {
        let row = row("n", &stats(r#"{"id":"abc","name":"/n"}"#), None, false);
        let get = |name: &str| row.iter().find(|(n, _)| n == name).unwrap().1.text().to_string();
        assert_eq!(
            (get("MemUsage").as_str(), get("CPUPerc").as_str(), get("Name").as_str()),
            ("-- / --", "--", "n")
        );
    }
}
