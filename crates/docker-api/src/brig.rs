//! Endpoints of our own, below `/brig`: what Docker's API has no words for. Documented in `docs/api.md`.

use crate::reply::{Outcome, ok, to_the_end};
use crate::request::Call;
use crate::serve::Api;
use hyper::Method;
use image::{Fault, Object, Repair};
use serde_json::{Value, json};
use std::sync::Arc;

/// `GET /brig/check`, and `POST /brig/check?repair=1`.
pub(crate) async fn check(api: &Arc<Api>, call: &Call) -> Outcome {
    let repair = call.request.method() == Method::POST && call.query.flag("repair");
    let engine = api.engine.clone();
    let checked = to_the_end(async move { engine.check(repair).await }).await?;
    ok(&json!({
        "Images": checked.images,
        "Blobs": checked.blobs,
        "BlobBytes": checked.blob_bytes,
        "PartialBytes": checked.partial_bytes,
        "Layers": checked.layers,
        "LayersNotCompared": checked.layers_not_compared,
        "Snapshots": checked.snapshots,
        "Faults": checked.faults.iter().map(fault).collect::<Vec<_>>(),
    }))
}

fn fault(fault: &Fault) -> Value {
    let (kind, object) = match &fault.object {
        Object::Blob(digest) => ("blob", digest.to_string()),
        Object::Layer(chain_id) => ("layer", chain_id.to_string()),
        Object::Image(id) => ("image", id.to_string()),
        Object::Snapshot(key) => ("snapshot", key.clone()),
        Object::Directory(number) => ("directory", number.to_string()),
    };
    let (repaired, repair) = match &fault.repair {
        Repair::NotAsked => (false, String::new()),
        Repair::Done(what) => (true, (*what).to_string()),
        Repair::Impossible(why) => (false, why.clone()),
    };
    json!({
        "Kind": kind,
        "Object": object,
        "Fault": fault.what,
        "Images": fault.images.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "Repaired": repaired,
        "Repair": repair,
    })
}

/// `GET /brig/df`.
pub(crate) async fn disk(api: &Arc<Api>) -> Outcome {
    let report = api.engine.disk_report().await?;
    let entry =
        |part: &engine::DiskPart| json!({ "Name": part.name, "Bytes": part.bytes, "Files": part.files });
    ok(&json!({
        "Root": report.root,
        "Total": report.total_bytes,
        "Parts": report.parts.iter().map(entry).collect::<Vec<_>>(),
        "Unaccounted": report.unaccounted.iter().map(entry).collect::<Vec<_>>(),
        "FileSystem": { "Size": report.file_system_bytes, "Used": report.used_bytes },
    }))
}
