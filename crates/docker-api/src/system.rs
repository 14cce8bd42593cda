//! The engine itself: ping, version, info, events, disk usage.

use crate::filters::Filters;
use crate::reply::{Failure, Outcome, line, ok, stream, with_body};
use crate::request::Call;
use crate::serve::Api;
use crate::units::parse_time;
use crate::{API_VERSION, MIN_API_VERSION, render};
use engine::Event;
use hyper::header::HeaderValue;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;

/// `GET` and `HEAD /_ping`.
pub(crate) fn ping(call: &Call) -> Outcome {
    let body = if call.request.method() == Method::HEAD { Vec::new() } else { b"OK".to_vec() };
    let mut reply = with_body(StatusCode::OK, Some("text/plain; charset=utf-8"), body);
    let headers = reply.headers_mut();
    headers.insert("Cache-Control", HeaderValue::from_static("no-cache, no-store, must-revalidate"));
    headers.insert("Pragma", HeaderValue::from_static("no-cache"));
    headers.insert("Swarm", HeaderValue::from_static("inactive"));
    headers.insert("Builder-Version", HeaderValue::from_static("2"));
    Ok(reply)
}

pub(crate) fn kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_string()
}

/// `GET /version`.
pub(crate) fn version(api: &Api) -> Outcome {
    let arch = oci::Platform::host().architecture;
    let details = json!({
        "ApiVersion": API_VERSION,
        "Arch": arch,
        "KernelVersion": kernel(),
        "MinAPIVersion": MIN_API_VERSION,
        "Os": "linux",
    });
    ok(&json!({
        "Platform": { "Name": "brig" },
        "Components": [{ "Name": "Engine", "Version": api.version, "Details": details }],
        "Version": api.version,
        "ApiVersion": API_VERSION,
        "MinAPIVersion": MIN_API_VERSION,
        "GitCommit": "",
        "GoVersion": "",
        "Os": "linux",
        "Arch": arch,
        "KernelVersion": kernel(),
        "BuildTime": "",
    }))
}

/// `GET /info`.
pub(crate) async fn info(api: &Arc<Api>) -> Outcome {
    let info = api.engine.info().await?;
    let config = api.engine.config();
    let runtimes: serde_json::Map<String, Value> =
        config.runtimes.iter().map(|(name, path)| (name.clone(), json!({ "path": path }))).collect();
    ok(&json!({
        "ID": info.id,
        "Containers": info.containers,
        "ContainersRunning": info.running,
        "ContainersPaused": info.paused,
        "ContainersStopped": info.containers - info.running - info.paused,
        "Images": info.images,
        "Driver": info.storage_driver,
        "DriverStatus": [],
        "Plugins": { "Volume": ["local"], "Network": ["bridge", "host", "null"], "Authorization": null, "Log": engine::LOG_DRIVERS },
        "MemoryLimit": true,
        "SwapLimit": true,
        "CpuCfsPeriod": true,
        "CpuCfsQuota": true,
        "CPUShares": true,
        "CPUSet": true,
        "PidsLimit": true,
        "IPv4Forwarding": info.ipv4_forwarding,
        "Debug": config.debug,
        "NFd": info.open_fds,
        "OomKillDisable": info.cgroup_version == "1",
        "NGoroutines": info.threads,
        "SystemTime": jiff::Timestamp::now().to_string(),
        "LoggingDriver": config.log_driver,
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": info.cgroup_version,
        "NEventsListener": info.event_listeners,
        "KernelVersion": info.kernel,
        "OperatingSystem": info.operating_system,
        "OSVersion": "",
        "OSType": "linux",
        "Architecture": std::env::consts::ARCH,
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": {
            "InsecureRegistryCIDRs": ["127.0.0.0/8", "::1/128"],
            "IndexConfigs": {},
            "Mirrors": config.registry.mirrors,
        },
        "NCPU": info.cpus,
        "MemTotal": info.memory_bytes,
        "GenericResources": null,
        "DockerRootDir": config.data_root,
        "HttpProxy": registry_client::ProxyConfig::without_password(&config.registry.proxy.http),
        "HttpsProxy": registry_client::ProxyConfig::without_password(&config.registry.proxy.https),
        "NoProxy": config.registry.proxy.no_proxy,
        "Name": info.hostname,
        "Labels": [],
        "ExperimentalBuild": false,
        "ServerVersion": api.version,
        "Runtimes": runtimes,
        "DefaultRuntime": config.default_runtime,
        "Swarm": { "NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": false, "Error": "", "RemoteManagers": null },
        "LiveRestoreEnabled": true,
        "Isolation": "",
        "InitBinary": "docker-init",
        "CDISpecDirs": config.cdi_spec_dirs,
        "SecurityOptions": ["name=seccomp,profile=builtin"],
        "Warnings": null,
    }))
}

const EVENT_FILTERS: &[&str] =
    &["container", "event", "image", "label", "type", "network", "volume", "daemon", "scope"];

/// `GET /events`.
pub(crate) fn events(api: &Arc<Api>, call: &Call) -> Outcome {
    let filters = Filters::parse(call.query.text("filters"), EVENT_FILTERS)?;
    let time = |key: &str| match call.query.text(key) {
        "" => Ok(None),
        text => {
            parse_time(text).map(Some).ok_or_else(|| Failure::bad_request(format!("invalid {key}: {text:?}")))
        }
    };
    let (since, until) = (time("since")?, time("until")?);
    let (history, mut live) = api.engine.events().subscribe();
    let (sender, reply) = stream("application/json");
    tokio::spawn(async move {
        let wanted = |e: &Event| {
            since.is_none_or(|s| i128::from(e.time_nanos) >= s)
                && until.is_none_or(|u| i128::from(e.time_nanos) <= u)
                && passes(e, &filters)
        };
        if since.is_some() || until.is_some() {
            for event in history.iter().filter(|e| wanted(e)) {
                if sender.send(line(&event_json(event))).await.is_err() {
                    return;
                }
            }
        }
        let left = until.map(|u| u - jiff::Timestamp::now().as_nanosecond());
        let end = async {
            match left {
                None => std::future::pending().await,
                Some(nanos) => {
                    let nanos = u64::try_from(nanos.max(0)).unwrap_or(u64::MAX);
                    tokio::time::sleep(std::time::Duration::from_nanos(nanos)).await;
                }
            }
        };
        tokio::pin!(end);
        loop {
            let event = tokio::select! {
                event = live.recv() => event,
                () = sender.closed() => return,
                () = &mut end => return,
            };
            match event {
                Ok(event) if wanted(&event) => {
                    if sender.send(line(&event_json(&event))).await.is_err() {
                        return;
                    }
                }
                Ok(_) => {}
                Err(tokio::sync::broadcast::error::RecvError::Lagged(lost)) => {
                    tracing::warn!(lost, "a slow listener lost events");
                }
                Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
            }
        }
    });
    Ok(reply)
}

fn passes(event: &Event, filters: &Filters) -> bool {
    let of = |kind: &'static str| {
        move |v: &str| {
            event.kind == kind
                && (event.actor.starts_with(v) || event.attributes.get("name").is_some_and(|n| n == v))
        }
    };
    filters.any("type", |v| event.kind == v)
        && filters.any("event", |v| event.action == v || event.action.split(':').next() == Some(v))
        && filters.any("container", of("container"))
        && filters.any("network", of("network"))
        && filters.any("volume", of("volume"))
        && filters.any("daemon", of("daemon"))
        && filters.any("scope", |v| v == "local")
        && filters.any("image", |v| {
            of("image")(v)
                || event.attributes.get("image").is_some_and(|i| i == v || i.split(':').next() == Some(v))
        })
        && filters.labels(&event.attributes)
}

fn event_json(event: &Event) -> Value {
    let mut out = json!({
        "Type": event.kind,
        "Action": event.action,
        "Actor": { "ID": event.actor, "Attributes": event.attributes },
        "scope": "local",
        "time": event.time_nanos / 1_000_000_000,
        "timeNano": event.time_nanos,
    });
    // Fields of the oldest API, which clients still print.
    if matches!(event.kind, "container" | "image") {
        out["status"] = event.action.clone().into();
        out["id"] = event.actor.clone().into();
    }
    if let (true, Some(image)) = (event.kind == "container", event.attributes.get("image")) {
        out["from"] = image.clone().into();
    }
    out
}

/// `GET /system/df`: of all kinds of objects, or of those that `type` names.
pub(crate) async fn disk_usage(api: &Arc<Api>, call: &Call) -> Outcome {
    let kinds = call.query.all("type");
    if let Some(unknown) =
        kinds.iter().find(|kind| !matches!(kind.as_str(), "container" | "image" | "volume" | "build-cache"))
    {
        return Err(Failure::bad_request(format!("unknown object type: {unknown}")));
    }
    let wants = |kind: &str| kinds.is_empty() || kinds.iter().any(|wanted| wanted == kind);
    let mut out = json!({});
    let images = api.engine.images().clone();
    let (list, sizes) =
        tokio::task::spawn_blocking(move || Ok::<_, image::Error>((images.list()?, images.sizes()?)))
            .await
            .map_err(|e| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?
            .map_err(|e| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, errors::chain(&e)))?;
    if wants("image") {
        out["LayersSize"] = api.engine.disk_usage().await?.layers_bytes.into();
        let summary = |i: &image::Image| {
            let uses = i64::try_from(api.engine.image_uses(&i.id.0)).unwrap_or(-1);
            render::image_summary(i, sizes.get(&i.id), uses, &Value::Null)
        };
        out["Images"] = list.iter().map(summary).collect();
    }
    let records: Vec<engine::Record> = api.engine.list_containers().iter().map(|c| c.record()).collect();
    if wants("container") {
        let mut containers = Vec::new();
        for container in api.engine.list_containers() {
            let writable = api.engine.writable_size(&container).await.unwrap_or(0);
            let record = container.record();
            let base = list.iter().find(|i| i.id.0 == record.image_id).map_or(0, |i| i.size_bytes);
            let sizes = render::Sizes { writable, total: writable + base };
            containers.push(json!(render::summary(&record, Some(sizes), &[])));
        }
        out["Containers"] = containers.into();
    }
    if wants("volume") {
        let mut volumes = Vec::new();
        for volume in api.engine.list_volumes().await? {
            let size = api.engine.volume_size(&volume.name).await;
            volumes.push(crate::volumes::with_usage(&api.engine, &volume, size, &records));
        }
        out["Volumes"] = volumes.into();
    }
    if wants("build-cache") {
        out["BuildCache"] = json!(crate::build::list_cache(api).await?);
    }
    ok(&out)
}
