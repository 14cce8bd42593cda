//! Volumes.

use crate::filters::Filters;
use crate::reply::{Outcome, empty, json, no_content, ok, to_the_end};
use crate::request::Call;
use crate::serve::Api;
use engine::{Engine, MountKind, NewVolume, Record, ShownVolume, Volume};
use hyper::StatusCode;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

type Pairs = BTreeMap<String, String>;

fn nullable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Pairs, D::Error> {
    Ok(Option::<Pairs>::deserialize(deserializer)?.unwrap_or_default())
}

/// Body of `POST /volumes/create`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Create {
    name: String,
    driver: String,
    #[serde(deserialize_with = "nullable")]
    driver_opts: Pairs,
    #[serde(deserialize_with = "nullable")]
    labels: Pairs,
    cluster_volume_spec: Value,
}

/// `POST /volumes/create`.
pub(crate) async fn create(api: &Arc<Api>, call: Call) -> Outcome {
    let body: Create = call.json().await?;
    if !body.cluster_volume_spec.is_null() {
        return Err(engine::Error::unavailable(crate::route::NO_MANAGER).into());
    }
    let new =
        NewVolume { name: body.name, driver: body.driver, options: body.driver_opts, labels: body.labels };
    let engine = api.engine.clone();
    let volume = to_the_end(async move { engine.create_volume(new).await }).await?;
    Ok(json(StatusCode::CREATED, &document(&api.engine, &volume)))
}

/// `GET /volumes`.
pub(crate) async fn list(api: &Arc<Api>, call: &Call) -> Outcome {
    let filters = Filters::parse(call.query.text("filters"), &["name", "label", "dangling", "driver"])?;
    let dangling = filters.flag("dangling")?;
    let used: HashSet<String> = api
        .engine
        .list_containers()
        .iter()
        .flat_map(|c| c.record().mounts)
        .filter(|m| m.kind == MountKind::Volume)
        .map(|m| m.name)
        .collect();
    let (volumes, warnings) = api.engine.show_volumes().await?;
    let shown = volumes.into_iter().filter(|shown| {
        let v = &shown.volume;
        filters.found("name", &v.name)
            && filters.any("driver", |f| v.driver == f)
            && filters.labels(&v.labels)
            && dangling.is_none_or(|d| d != used.contains(&v.name))
    });
    let list: Vec<Value> = shown.map(|v| shown_document(&v)).collect();
    let warnings = if warnings.is_empty() { Value::Null } else { json!(warnings) };
    ok(&json!({ "Volumes": list, "Warnings": warnings }))
}

/// `GET /volumes/{name}`.
pub(crate) async fn inspect(api: &Arc<Api>, name: &str) -> Outcome {
    ok(&shown_document(&api.engine.show_volume(name).await?))
}

/// `DELETE /volumes/{name}`.
pub(crate) async fn remove(api: &Arc<Api>, name: &str, call: &Call) -> Outcome {
    let (engine, name, force) = (api.engine.clone(), name.to_string(), call.query.flag("force"));
    to_the_end(async move { engine.remove_volume(&name, force).await }).await?;
    no_content()
}

/// `POST /volumes/prune`: anonymous ones, since API 1.42 named ones only with `all`.
pub(crate) async fn prune(api: &Arc<Api>, call: &Call) -> Outcome {
    let filters = Filters::parse(call.query.text("filters"), &["label", "label!", "all"])?;
    let all = filters.flag("all")?.unwrap_or(!call.at_least(42));
    let engine = api.engine.clone();
    let wanted = move |v: &Volume| (all || v.anonymous) && filters.labels(&v.labels);
    let pruned = to_the_end(async move { engine.prune_volumes(wanted).await }).await?;
    ok(&json!({ "VolumesDeleted": pruned.names, "SpaceReclaimed": pruned.bytes }))
}

/// `PUT /volumes/{name}`: only volumes of a cluster can be changed.
pub(crate) fn update() -> Outcome {
    let message = "volume update only valid for cluster volumes, but swarm is unavailable";
    Err(engine::Error::unavailable(message).into())
}

/// `GET /brig/volumes/{name}/archive`: what the volume holds, as a tar.
pub(crate) async fn export(api: &Arc<Api>, name: &str) -> Outcome {
    let volume = api.engine.volume(name).await?;
    let (writer, reply) = crate::body::writer("application/x-tar");
    let engine = api.engine.clone();
    tokio::spawn(async move {
        match engine.export_volume(&volume.name, writer).await {
            // Blocks at most as long as the client reads.
            Ok(writer) => drop(tokio::task::spawn_blocking(move || writer.finish())),
            Err(e) => {
                tracing::warn!(volume = volume.name, error = %errors::chain(&e), "volume not exported")
            }
        }
    });
    Ok(reply)
}

/// `PUT /brig/volumes/{name}/archive`: a tar is unpacked into the volume, which is made when it does not exist.
pub(crate) async fn import(api: &Arc<Api>, name: &str, call: Call) -> Outcome {
    let name = name.to_string();
    crate::body::read_by(call, |input| {
        let engine = api.engine.clone();
        async move { engine.import_volume(&name, input).await }
    })
    .await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// A volume as `system df` shows it.
pub(crate) fn with_usage(engine: &Engine, volume: &Volume, size: i64, records: &[Record]) -> Value {
    let uses = |r: &&Record| r.mounts.iter().any(|m| m.kind == MountKind::Volume && m.name == volume.name);
    let mut out = document(engine, volume);
    out["UsageData"] = json!({ "Size": size, "RefCount": records.iter().filter(uses).count() });
    out
}

fn document(engine: &Engine, volume: &Volume) -> Value {
    let mountpoint = engine.volume_path(&volume.name).to_string_lossy().into_owned();
    described(volume, &mountpoint, "local")
}

fn shown_document(shown: &ShownVolume) -> Value {
    let mut out = described(&shown.volume, &shown.mountpoint, &shown.scope);
    if !shown.status.is_null() {
        out["Status"] = shown.status.clone();
    }
    out
}

fn described(volume: &Volume, mountpoint: &str, scope: &str) -> Value {
    let or_null = |map: &Pairs| if map.is_empty() { Value::Null } else { json!(map) };
    json!({
        "CreatedAt": volume.created,
        "Driver": volume.driver,
        "Labels": or_null(&volume.labels),
        "Mountpoint": mountpoint,
        "Name": volume.name,
        "Options": or_null(&volume.options),
        "Scope": scope,
    })
}
