//! The engine itself: ping, version, info, events, disk usage.

use crate::filters::Filters;
use crate::reply::{Failure, Outcome, line, ok, stream, with_body};
use crate::request::Call;
use crate::serve::Api;
use crate::units::parse_time;
use crate::{API_VERSION, MIN_API_VERSION};
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
    let mut document = json!({
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
    });
    if api.engine.config().experimental {
        document["Experimental"] = true.into();
    }
    ok(&document)
}

const EVENT_FILTERS: &[&str] = &[
    "container",
    "event",
    "image",
    "label",
    "type",
    "network",
    "volume",
    "daemon",
    "scope",
    "builder",
    "config",
    "node",
    "plugin",
    "secret",
    "service",
];

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
        // There are no objects of these kinds, and so no events of them.
        && ["config", "node", "plugin", "secret", "service"].iter().all(|kind| filters.any(kind, of(kind)))
        && filters.any("builder", of("builder"))
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
