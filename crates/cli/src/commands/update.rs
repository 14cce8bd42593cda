//! `update`: limits and restart policy of containers that exist.

use super::{Context, each};
use crate::error::{Error, Result};
use crate::http::{Extra, Path};
use crate::run::spec;
use crate::terminal;
use crate::units;
use gotemplate::Value;
use hyper::Method;
use serde_json::{Map, json};

/// Update configuration of one or more containers
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Update {
    /// Block IO (relative weight), between 10 and 1000, or 0 to disable
    #[arg(long, value_name = "uint16", default_value_t = 0)]
    blkio_weight: u16,
    /// Limit CPU CFS (Completely Fair Scheduler) period
    #[arg(long, value_name = "int", default_value_t = 0)]
    cpu_period: i64,
    /// Limit CPU CFS (Completely Fair Scheduler) quota
    #[arg(long, value_name = "int", default_value_t = 0, allow_negative_numbers = true)]
    cpu_quota: i64,
    /// Limit the CPU real-time period in microseconds
    #[arg(long, value_name = "int", default_value_t = 0)]
    cpu_rt_period: i64,
    /// Limit the CPU real-time runtime in microseconds
    #[arg(long, value_name = "int", default_value_t = 0)]
    cpu_rt_runtime: i64,
    /// CPU shares (relative weight)
    #[arg(short = 'c', long, value_name = "int", default_value_t = 0)]
    cpu_shares: i64,
    /// Number of CPUs
    #[arg(long, value_name = "decimal")]
    cpus: Option<String>,
    /// CPUs in which to allow execution (0-3, 0,1)
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    cpuset_cpus: String,
    /// MEMs in which to allow execution (0-3, 0,1)
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    cpuset_mems: String,
    /// Memory limit
    #[arg(short, long, value_name = "bytes")]
    memory: Option<String>,
    /// Memory soft limit
    #[arg(long, value_name = "bytes")]
    memory_reservation: Option<String>,
    /// Swap limit equal to memory plus swap: -1 to enable unlimited swap
    #[arg(long, value_name = "bytes", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Bits per second that the container may receive on each interface (10m, 1g; -1 for no limit)
    #[arg(long, value_name = "bits", allow_hyphen_values = true)]
    net_rate_in: Option<String>,
    /// Bits per second that the container may send on each interface (10m, 1g; -1 for no limit)
    #[arg(long, value_name = "bits", allow_hyphen_values = true)]
    net_rate_out: Option<String>,
    /// Tune container pids limit (set -1 for unlimited)
    #[arg(long, value_name = "int", default_value_t = 0, allow_negative_numbers = true)]
    pids_limit: i64,
    /// Restart policy to apply when a container exits
    #[arg(long, value_name = "string")]
    restart: Option<String>,
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

pub(crate) async fn update(context: &Context, flags: &Update) -> Result<u8> {
    let body = body(flags)?;
    if body.is_empty() {
        return Err(Error::Usage("you must provide one or more flags when using this command".into()));
    }
    each(&flags.containers, async |name| {
        let path = Path::new(&["containers", &name, "update"]);
        let response = context.client.request(Method::POST, &path, Extra::json(&body)).await?;
        let answer: Value = context.client.json(&path, response).await?;
        let empty = Value::Nil;
        for warning in answer.get("Warnings").unwrap_or(&empty).items() {
            terminal::warn(warning.text());
        }
        Ok(Some(name))
    })
    .await
}

/// The fields that were named.
fn body(flags: &Update) -> Result<Map<String, serde_json::Value>> {
    let bytes = |text: &Option<String>| text.as_deref().map_or(Ok(0), units::parse_bytes);
    let rate = |text: &Option<String>| text.as_deref().map_or(Ok(0), units::parse_rate);
    let swap = flags.memory_swap.as_deref().map_or(Ok(0), units::parse_bytes_or_unlimited)?;
    let numbers = [
        ("BlkioWeight", i64::from(flags.blkio_weight)),
        ("CpuPeriod", flags.cpu_period),
        ("CpuQuota", flags.cpu_quota),
        ("CpuRealtimePeriod", flags.cpu_rt_period),
        ("CpuRealtimeRuntime", flags.cpu_rt_runtime),
        ("CpuShares", flags.cpu_shares),
        ("Memory", bytes(&flags.memory)?),
        ("MemoryReservation", bytes(&flags.memory_reservation)?),
        ("MemorySwap", swap),
        ("NanoCpus", flags.cpus.as_deref().map_or(Ok(0), units::parse_cpus)?),
        ("NetRateIn", rate(&flags.net_rate_in)?),
        ("NetRateOut", rate(&flags.net_rate_out)?),
        ("PidsLimit", flags.pids_limit),
    ];
    let texts = [("CpusetCpus", &flags.cpuset_cpus), ("CpusetMems", &flags.cpuset_mems)];
    let numbers = numbers.into_iter().filter(|(_, n)| *n != 0).map(|(name, n)| (name.into(), json!(n)));
    let texts = texts.into_iter().filter(|(_, t)| !t.is_empty()).map(|(name, t)| (name.into(), json!(t)));
    let mut body: Map<String, serde_json::Value> = numbers.chain(texts).collect();
    if let Some(policy) = &flags.restart {
        body.insert("RestartPolicy".into(), spec::restart_policy(policy)?);
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        flags: Update,
    }

    #[test]
    fn only_what_was_named_is_sent() {
        let check = |arguments: &[&str], expected: serde_json::Value| {
            let words = ["update"].iter().chain(arguments).chain(&["c"]);
            let line = Line::try_parse_from(words).unwrap();
            assert_eq!(serde_json::Value::Object(body(&line.flags).unwrap()), expected, "{arguments:?}");
        };
        check(&[], json!({}));
        check(&["-m", "64m", "--memory-swap", "-1"], json!({"Memory": 64 << 20, "MemorySwap": -1}));
        check(&["--cpus", "1.5", "--pids-limit", "-1"], json!({"NanoCpus": 1_500_000_000, "PidsLimit": -1}));
        check(
            &["--restart", "on-failure:3"],
            json!({"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}}),
        );
    }
}
