//! `GET /system/df`: what the kinds of objects take.

use crate::render::{self, Sizes};
use crate::reply::{Failure, Outcome, ok};
use crate::request::Call;
use crate::serve::Api;
use hyper::StatusCode;
use serde_json::{Value, json};
use std::sync::Arc;

const TYPES: [&str; 4] = ["container", "image", "volume", "build-cache"];

/// `GET /system/df`. Clients of API 1.52 and newer get counts and sums, and the objects themselves when they ask for them by
/// `verbose`; older ones, who compute these themselves, get the objects, and so does everybody else.
pub(crate) async fn disk_usage(api: &Arc<Api>, call: &Call) -> Outcome {
    let types = call.query.list("type");
    if let Some(unknown) = types.iter().find(|t| !TYPES.contains(&t.as_str())) {
        return Err(Failure::bad_request(format!("unknown object type: {unknown}")));
    }
    let wants = |kind: &str| types.is_empty() || types.iter().any(|t| t == kind);
    let (sums, verbose) = (call.at_least(52), call.query.flag("verbose"));
    let mut out = json!({});
    let mut put = |list_name: &str, sums_name: &str, list: Vec<Value>, usage: Usage| {
        if sums {
            out[sums_name] = json!({
                "ActiveCount": usage.active,
                "TotalCount": list.len(),
                "Reclaimable": usage.total.saturating_sub(usage.in_use),
                "TotalSize": usage.total,
            });
            if verbose {
                out[sums_name]["Items"] = list.clone().into();
            }
        }
        out[list_name] = list.into();
    };
    let mut layers = None;
    if wants("image") {
        let bytes = api.engine.disk_usage().await?.layers_bytes;
        layers = Some(bytes);
        let list = images(api).await?;
        let number = |image: &Value, field: &str| image[field].as_u64().unwrap_or(0);
        let used = list.iter().filter(|i| number(i, "Containers") > 0);
        // What only they have; what they share with others stays with the others.
        let in_use = used.clone().map(|i| number(i, "Size").saturating_sub(number(i, "SharedSize"))).sum();
        let usage = Usage { active: used.count(), total: bytes, in_use };
        put("Images", "ImageUsage", list, usage);
    }
    if wants("container") {
        let list = containers(api).await?;
        let alive = |c: &&Value| matches!(c["State"].as_str(), Some("running" | "paused" | "restarting"));
        let usage = Usage::of(&list, |_| true, alive, |c| c["SizeRw"].as_u64());
        put("Containers", "ContainerUsage", list, usage);
    }
    if wants("volume") {
        let list = volumes(api).await?;
        let in_use = |v: &&Value| v["UsageData"]["RefCount"].as_u64() > Some(0);
        let usage = Usage::of(&list, |_| true, in_use, |v| v["UsageData"]["Size"].as_u64());
        put("Volumes", "VolumeUsage", list, usage);
    }
    if wants("build-cache") {
        let list = crate::build::list_cache(api).await?;
        // What is shared is counted with those that it is shared with.
        let own = |e: &&Value| e["Shared"] != true;
        let usage = Usage::of(&list, own, |e| e["InUse"] == true, |e| e["Size"].as_u64());
        put("BuildCache", "BuildCacheUsage", list, usage);
    }
    if let Some(bytes) = layers {
        out["LayersSize"] = bytes.into();
    }
    ok(&out)
}

/// One kind of objects.
struct Usage {
    active: usize,
    total: u64,
    in_use: u64,
}

impl Usage {
    fn of(
        list: &[Value],
        counts: impl Fn(&&Value) -> bool,
        is_active: impl Fn(&&Value) -> bool,
        size: impl Fn(&Value) -> Option<u64>,
    ) -> Usage {
        let sum = |only_active: bool| -> u64 {
            let counted = list.iter().filter(&counts).filter(|one| !only_active || is_active(one));
            counted.filter_map(&size).sum()
        };
        Usage { active: list.iter().filter(&is_active).count(), total: sum(false), in_use: sum(true) }
    }
}

async fn images(api: &Arc<Api>) -> Result<Vec<Value>, Failure> {
    let images = api.engine.images().clone();
    let (list, sizes) =
        tokio::task::spawn_blocking(move || Ok::<_, image::Error>((images.list()?, images.sizes()?)))
            .await
            .map_err(|e| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?
            .map_err(|e| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, errors::chain(&e)))?;
    let summary = |i: &image::Image| {
        let uses = i64::try_from(api.engine.image_uses(&i.id.0)).unwrap_or(-1);
        render::image_summary(i, sizes.get(&i.id), uses, &Value::Null)
    };
    Ok(list.iter().map(summary).collect())
}

async fn containers(api: &Arc<Api>) -> Result<Vec<Value>, Failure> {
    let images = api.engine.images().clone();
    let images = tokio::task::spawn_blocking(move || images.list())
        .await
        .map_err(|e| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?
        .map_err(|e| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, errors::chain(&e)))?;
    let mut out = Vec::new();
    for container in api.engine.list_containers() {
        let writable = api.engine.writable_size(&container).await.unwrap_or(0);
        let record = container.record();
        let base = images.iter().find(|i| i.id.0 == record.image_id).map_or(0, |i| i.size_bytes);
        let sizes = Sizes { writable, total: writable + base };
        out.push(json!(render::summary(&record, Some(sizes), &[])));
    }
    Ok(out)
}

async fn volumes(api: &Arc<Api>) -> Result<Vec<Value>, Failure> {
    let records: Vec<engine::Record> = api.engine.list_containers().iter().map(|c| c.record()).collect();
    let mut out = Vec::new();
    for volume in api.engine.list_volumes().await? {
        let size = api.engine.volume_size(&volume.name).await;
        out.push(crate::volumes::with_usage(&api.engine, &volume, size, &records));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums() {
        let list = [
            json!({ "Size": 5, "InUse": true }),
            json!({ "Size": 7, "InUse": false }),
            json!({ "Size": -1 }),
            json!({ "Size": 100, "Shared": true, "InUse": true }),
        ];
        let own = |e: &&Value| e["Shared"] != true;
        let usage = Usage::of(&list, own, |e| e["InUse"] == true, |e| e["Size"].as_u64());
        assert_eq!((usage.active, usage.total, usage.in_use), (2, 12, 5));
    }
}
