//! `GET /containers/{id}/stats`: Docker's document of what a container uses, once or every second.
//!
//! Each request looks for itself; when nobody asks, nobody looks.

use crate::reply::{Outcome, line, ok, stream};
use crate::request::Call;
use crate::serve::Api;
use engine::{BlkioEntry, Sample};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Time between two samples of a stream.
const PERIOD: Duration = Duration::from_secs(1);

/// `GET /containers/{id}/stats`.
pub(crate) async fn stats(api: &Arc<Api>, id: &str, call: &Call) -> Outcome {
    let container = api.engine.container(id)?;
    let live = call.query.text("stream").is_empty() || call.query.flag("stream");
    let one_shot = call.query.flag("one-shot");
    if live && one_shot {
        return Err(crate::reply::Failure::bad_request("cannot have stream=true and one-shot=true"));
    }
    let named = |sample: Option<&Sample>, before: Option<&Sample>| {
        let record = container.record();
        document(record.id.as_str(), &record.name, sample, before)
    };
    if !live {
        let mut before = None;
        let mut sample = api.engine.sample(&container).await?;
        if !one_shot && sample.is_some() {
            // Rates need two looks.
            tokio::time::sleep(PERIOD).await;
            before = sample;
            sample = api.engine.sample(&container).await?;
        }
        return ok(&named(sample.as_ref(), before.as_ref()));
    }
    let (sender, reply) = stream("application/json");
    let (engine, container) = (api.engine.clone(), container.clone());
    tokio::spawn(async move {
        let mut before: Option<Sample> = None;
        let mut ticks = tokio::time::interval(PERIOD);
        // A client that reads slowly gets fewer samples, not old ones.
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut life = container.life();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = sender.closed() => return,
                _ = life.wait_for(|l| l.removed) => return,
            }
            let sample = match engine.sample(&container).await {
                Ok(sample) => sample,
                Err(e) => {
                    tracing::warn!(container_id = %container.id(), error = %errors::chain(&e), "statistics");
                    return;
                }
            };
            let record = container.record();
            let document = document(record.id.as_str(), &record.name, sample.as_ref(), before.as_ref());
            if sender.send(line(&document)).await.is_err() {
                return;
            }
            before = sample;
        }
    });
    Ok(reply)
}

/// Docker's document; without a sample it names the container and counts nothing.
fn document(id: &str, name: &str, sample: Option<&Sample>, before: Option<&Sample>) -> Value {
    const NEVER: &str = engine::NEVER;
    let mut out = json!({
        "id": id,
        "name": format!("/{name}"),
        "os_type": "linux",
        "read": sample.map_or(NEVER, |s| s.read.as_str()),
        "preread": before.map_or(NEVER, |s| s.read.as_str()),
        "num_procs": 0,
        "storage_stats": {},
        "pids_stats": {},
        "blkio_stats": blkio(sample),
        "cpu_stats": cpu(sample),
        "precpu_stats": cpu(before),
        "memory_stats": {},
    });
    let Some(sample) = sample else { return out };
    let pids = &sample.cgroup.pids;
    // Docker has no word for "no limit" here but the largest number.
    out["pids_stats"] = json!({ "current": pids.current, "limit": pids.limit.unwrap_or(u64::MAX) });
    let memory = &sample.cgroup.memory;
    out["memory_stats"] =
        json!({ "usage": memory.usage, "stats": memory.stat, "limit": sample.memory_limit });
    if !sample.is_v2 {
        out["memory_stats"]["max_usage"] = memory.max_usage.into();
        out["memory_stats"]["failcnt"] = memory.failcnt.into();
    }
    if !sample.networks.is_empty() {
        let interface = |(name, i): (&String, &engine::Interface)| {
            let counters = json!({
                "rx_bytes": i.rx_bytes, "rx_packets": i.rx_packets,
                "rx_errors": i.rx_errors, "rx_dropped": i.rx_dropped,
                "tx_bytes": i.tx_bytes, "tx_packets": i.tx_packets,
                "tx_errors": i.tx_errors, "tx_dropped": i.tx_dropped,
            });
            (name.clone(), counters)
        };
        out["networks"] = Value::Object(sample.networks.iter().map(interface).collect::<Map<_, _>>());
    }
    out
}

fn cpu(sample: Option<&Sample>) -> Value {
    let zero = engine::CgroupStats::default();
    let cpu = &sample.map_or(&zero, |s| &s.cgroup).cpu;
    let mut usage = json!({
        "total_usage": cpu.total_ns,
        "usage_in_kernelmode": cpu.system_ns,
        "usage_in_usermode": cpu.user_ns,
    });
    if !cpu.per_cpu_ns.is_empty() {
        usage["percpu_usage"] = json!(cpu.per_cpu_ns);
    }
    let mut out = json!({
        "cpu_usage": usage,
        "throttling_data": {
            "periods": cpu.periods,
            "throttled_periods": cpu.throttled_periods,
            "throttled_time": cpu.throttled_ns,
        },
    });
    if let Some(sample) = sample {
        out["system_cpu_usage"] = sample.system_ns.into();
        out["online_cpus"] = sample.online_cpus.into();
    }
    out
}

fn blkio(sample: Option<&Sample>) -> Value {
    let list = |entries: &[BlkioEntry]| {
        let one =
            |e: &BlkioEntry| json!({ "major": e.major, "minor": e.minor, "op": e.op, "value": e.value });
        Value::Array(entries.iter().map(one).collect())
    };
    let (bytes, operations) = match sample {
        Some(s) => (list(&s.cgroup.blkio.service_bytes), list(&s.cgroup.blkio.serviced)),
        None => (Value::Null, Value::Null),
    };
    // The other six lists are those of a scheduler that kernels have no more.
    json!({
        "io_service_bytes_recursive": bytes,
        "io_serviced_recursive": operations,
        "io_queue_recursive": null,
        "io_service_time_recursive": null,
        "io_wait_time_recursive": null,
        "io_merged_recursive": null,
        "io_time_recursive": null,
        "sectors_recursive": null,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(is_v2: bool) -> Sample {
        let mut sample =
            Sample { is_v2, memory_limit: 100, system_ns: 9, online_cpus: 2, ..Sample::default() };
        sample.cgroup.memory.usage = 10;
        sample.cgroup.memory.stat.insert("inactive_file".into(), 3);
        sample.networks.insert("eth0".into(), engine::Interface { rx_bytes: 7, ..Default::default() });
        sample
    }

    #[test]
    fn the_fields_of_each_version() {
        let v1 = document("i", "n", Some(&sample(false)), None);
        assert_eq!(v1["memory_stats"]["failcnt"], 0);
        assert_eq!(v1["precpu_stats"]["cpu_usage"]["total_usage"], 0);
        assert!(v1["precpu_stats"].get("system_cpu_usage").is_none());
        let v2 = document("i", "n", Some(&sample(true)), Some(&sample(true)));
        assert!(v2["memory_stats"].get("failcnt").is_none());
        assert_eq!(v2["memory_stats"]["stats"]["inactive_file"], 3);
        assert_eq!(v2["precpu_stats"]["system_cpu_usage"], 9);
        assert_eq!(v2["networks"]["eth0"]["rx_bytes"], 7);
    }

    #[test]
    fn a_stopped_container_counts_nothing() {
        let none = document("i", "n", None, None);
        assert_eq!((none["read"].as_str(), none["name"].as_str()), (Some(engine::NEVER), Some("/n")));
        assert!(none.get("networks").is_none() && none["memory_stats"].get("usage").is_none());
    }
}
