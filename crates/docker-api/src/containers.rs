//! Containers.

use crate::filters::Filters;
use crate::hijack::{Refusal, Style, detach_keys, hijack, multiplexed, take};
use crate::render::{self, Sizes};
use crate::reply::{Failure, Outcome, bulk_stream, json, no_content, ok, stream, to_the_end, with_body};
use crate::request::Call;
use crate::serve::Api;
use crate::units::parse_time;
use bytes::Bytes;
use engine::model::{Config, HostConfig, NetworkingConfig};
use engine::{
    Container, CreateRequest, LogEntry, LogOptions, Record, Signal, Status, Streams, WaitCondition,
};
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::json as object;
use std::sync::Arc;
use tokio::sync::mpsc;

const LIST_FILTERS: &[&str] = &[
    "id", "name", "label", "status", "exited", "ancestor", "before", "since", "network", "volume", "health",
    "is-task", "publish", "expose",
];

const STATUSES: &[&str] = &["created", "running", "paused", "restarting", "removing", "exited", "dead"];

/// `GET /containers/json`.
pub(crate) async fn list(api: &Arc<Api>, call: &Call) -> Outcome {
    let filters = Filters::parse(call.query.text("filters"), LIST_FILTERS)?;
    let is_status = |v: &String| STATUSES.contains(&v.as_str());
    filters.check("status", is_status)?;
    filters.flag("is-task")?;
    let is_health = |v: &String| matches!(v.as_str(), "none" | "starting" | "healthy" | "unhealthy");
    if let Some(bad) = filters.get("health").iter().find(|v| !is_health(v)) {
        return Err(Failure::bad_request(format!("unrecognized filter value for health: {bad}")));
    }
    filters.check("publish", |v| port_range(v).is_some())?;
    filters.check("expose", |v| port_range(v).is_some())?;
    filters.check("exited", |v| v.parse::<i32>().is_ok())?;
    let limit: Option<usize> =
        call.query.number::<i64>("limit")?.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    let narrowed = !filters.get("status").is_empty() || !filters.get("exited").is_empty();
    let all = call.query.flag("all") || limit.is_some() || narrowed;
    let with_size = call.query.flag("size");
    let created = |key: &str| -> Result<Option<String>, Failure> {
        match filters.get(key).first() {
            Some(name) => Ok(Some(api.engine.container(name)?.record().created)),
            None => Ok(None),
        }
    };
    let (before, since) = (created("before")?, created("since")?);
    let ancestors = ancestors(api, &filters).await;
    let links = api.engine.link_names();
    let shows = |record: &Record| {
        (all || matches!(record.state.status, Status::Running | Status::Paused | Status::Restarting))
            && before.as_ref().is_none_or(|b| record.created < *b)
            && since.as_ref().is_none_or(|s| record.created > *s)
            && passes(record, &filters)
            && ancestors.as_ref().is_none_or(|a| a.contains(&record.image_id))
    };
    let (mut out, mut count) = (vec![b'['], 0);
    for container in api.engine.list_containers() {
        if !container.read(shows) {
            continue;
        }
        let sizes = if with_size { sizes(api, &container).await } else { None };
        if count > 0 {
            out.push(b',');
        }
        let names = links.get(container.id().as_str()).map_or(&[][..], Vec::as_slice);
        let written =
            container.read(|record| serde_json::to_writer(&mut out, &render::summary(record, sizes, names)));
        written
            .map_err(|e| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, format!("list containers: {e}")))?;
        count += 1;
        if limit.is_some_and(|n| count >= n) {
            break;
        }
    }
    out.extend_from_slice(b"]\n");
    Ok(with_body(StatusCode::OK, Some("application/json"), out))
}

async fn ancestors(api: &Arc<Api>, filters: &Filters) -> Option<Vec<oci::Digest>> {
    let names = filters.get("ancestor");
    if names.is_empty() {
        return None;
    }
    let mut out = Vec::new();
    for name in names {
        if let Ok(image) = api.engine.image(name).await {
            out.push(image.id.0);
        }
    }
    Some(out)
}

fn passes(record: &Record, filters: &Filters) -> bool {
    let network = |wanted: &str| {
        record
            .networks
            .iter()
            .any(|(name, settings)| name == wanted || settings.network_id.starts_with(wanted))
    };
    let volume = |wanted: &str| {
        record.mounts.iter().any(|m| m.name == wanted || m.destination == wanted || m.source == wanted)
    };
    let exited =
        |wanted: &str| record.state.status == Status::Exited && wanted.parse() == Ok(record.state.exit_code);
    filters.found("id", record.id.as_str())
        // Docker's names begin with a slash, and people leave it out.
        && (filters.found("name", &record.name) || filters.found("name", &format!("/{}", record.name)))
        && filters.any("status", |v| record.state.status.as_str() == v)
        && filters.any("exited", exited)
        && filters.any("network", network)
        && filters.any("volume", volume)
        && filters.any("health", |v| v == render::health(record))
        && filters.any("is-task", |v| matches!(v, "0" | "false" | "False"))
        && filters
            .any("expose", |v| has_port(v, || record.config.exposed_ports.keys().filter_map(|p| port_of(p))))
        && filters.any("publish", |v| {
            has_port(v, || record.ports.iter().map(|p| (p.host_port, p.protocol.as_str())))
        })
        && filters.labels(&record.config.labels)
}

/// `80/tcp`; the protocol may be missing.
fn port_of(text: &str) -> Option<(u16, &str)> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    Some((number.parse().ok()?, protocol))
}

/// First and last of `80`, `80/udp`, `80-90/tcp`.
fn port_range(text: &str) -> Option<(u16, u16, &str)> {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last && matches!(protocol, "tcp" | "udp" | "sctp")).then_some((first, last, protocol))
}

/// Whether one of `ports` is in the range that a filter names.
fn has_port<'a, I: Iterator<Item = (u16, &'a str)>>(wanted: &str, ports: impl Fn() -> I) -> bool {
    let Some((first, last, protocol)) = port_range(wanted) else { return false };
    ports().any(|(number, of)| of == protocol && (first..=last).contains(&number))
}

async fn sizes(api: &Arc<Api>, container: &Container) -> Option<Sizes> {
    let writable = api.engine.writable_size(container).await?;
    let image =
        api.engine.image(&container.record().image_id.to_string()).await.ok().map_or(0, |i| i.size_bytes);
    Some(Sizes { writable, total: writable + image })
}

/// The body of a create request: `Config` with two more members.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct CreateBody {
    #[serde(flatten)]
    config: Config,
    #[serde(rename = "HostConfig")]
    host_config: Option<HostConfig>,
    #[serde(rename = "NetworkingConfig")]
    networking: Option<NetworkingConfig>,
    /// Where docker-py names the runtime; `HostConfig` has the last word.
    #[serde(rename = "Runtime")]
    runtime: Option<String>,
}

/// `POST /containers/create`.
pub(crate) async fn create(api: &Arc<Api>, call: Call) -> Outcome {
    let name = call.query.text("name").to_string();
    let platform = match call.query.text("platform") {
        "" => None,
        text => Some(text.parse::<oci::Platform>().map_err(|e| Failure::bad_request(format!("{e}")))?),
    };
    let body: CreateBody = call.json().await?;
    if body.config.image.is_empty() {
        return Err(Failure::bad_request("config cannot be empty in order to create a container"));
    }
    let mut host_config = body.host_config.unwrap_or_default();
    if host_config.runtime.is_empty() {
        host_config.runtime = body.runtime.unwrap_or_default();
    }
    let request = CreateRequest {
        name,
        platform,
        config: body.config,
        host_config,
        networking: body.networking.unwrap_or_default(),
    };
    let engine = api.engine.clone();
    let created = to_the_end(async move { engine.create(request).await }).await?;
    Ok(json(StatusCode::CREATED, &object!({ "Id": created.id.as_str(), "Warnings": created.warnings })))
}

/// `GET /containers/{id}/json`.
pub(crate) async fn inspect(api: &Arc<Api>, id: &str, call: &Call) -> Outcome {
    let container = api.engine.container(id)?;
    let sizes = if call.query.flag("size") { sizes(api, &container).await } else { None };
    let execs = api.engine.list_execs(container.id());
    let record = container.record();
    let mut document = render::inspect(&api.engine, &record, &execs, sizes);
    if !record.host_config.links.is_empty() {
        document["HostConfig"]["Links"] = api.engine.shown_links(&record).into();
    }
    ok(&document)
}

/// `POST /containers/{id}/start`.
pub(crate) async fn start(api: &Arc<Api>, id: &str) -> Outcome {
    let (engine, id) = (api.engine.clone(), id.to_string());
    to_the_end(async move { engine.start(&id).await }).await?;
    no_content()
}

/// `POST /containers/{id}/stop`.
pub(crate) async fn stop(api: &Arc<Api>, id: &str, call: &Call) -> Outcome {
    let (timeout, signal) = stop_options(call)?;
    let (engine, id) = (api.engine.clone(), id.to_string());
    to_the_end(async move { engine.stop(&id, timeout, signal).await }).await?;
    no_content()
}

/// `POST /containers/{id}/restart`.
pub(crate) async fn restart(api: &Arc<Api>, id: &str, call: &Call) -> Outcome {
    let (timeout, signal) = stop_options(call)?;
    let (engine, id) = (api.engine.clone(), id.to_string());
    to_the_end(async move { engine.restart(&id, timeout, signal).await }).await?;
    no_content()
}

fn stop_options(call: &Call) -> Result<(Option<i64>, Option<Signal>), Failure> {
    let signal = match call.query.text("signal") {
        "" => None,
        text => Some(Signal::parse(text)?),
    };
    Ok((call.query.number("t")?, signal))
}

/// `POST /containers/{id}/kill`.
pub(crate) async fn kill(api: &Arc<Api>, id: &str, call: &Call) -> Outcome {
    let failed = |failure: Failure| Failure {
        message: format!("cannot kill container: {id}: {}", failure.message),
        ..failure
    };
    let signal = match call.query.text("signal") {
        "" => Signal::KILL,
        text => Signal::parse(text).map_err(|e| failed(e.into()))?,
    };
    let (engine, name) = (api.engine.clone(), id.to_string());
    to_the_end(async move { engine.kill(&name, signal).await }).await.map_err(failed)?;
    no_content()
}

/// `POST /containers/{id}/pause` and `unpause`.
pub(crate) async fn pause(api: &Arc<Api>, id: &str, pause: bool) -> Outcome {
    let (engine, id) = (api.engine.clone(), id.to_string());
    to_the_end(async move { if pause { engine.pause(&id).await } else { engine.unpause(&id).await } })
        .await?;
    no_content()
}

/// `POST /containers/{id}/rename`.
pub(crate) async fn rename(api: &Arc<Api>, id: &str, call: &Call) -> Outcome {
    let (engine, id, new) = (api.engine.clone(), id.to_string(), call.query.text("name").to_string());
    let renamed = to_the_end(async move { engine.rename(&id, &new).await }).await;
    renamed.map_err(|failure| match failure.message.starts_with("Conflict. ") {
        true => {
            Failure { message: format!("Error when allocating new name: {}", failure.message), ..failure }
        }
        false => failure,
    })?;
    no_content()
}

/// `POST /containers/{id}/resize`.
pub(crate) async fn resize(api: &Arc<Api>, id: &str, call: &Call) -> Outcome {
    let (height, width) = size(call)?;
    api.engine.resize(id, height, width).await?;
    Ok(crate::reply::empty(StatusCode::OK))
}

/// Rows and columns of a resize request.
pub(crate) fn size(call: &Call) -> Result<(u16, u16), Failure> {
    match (call.query.number("h")?, call.query.number("w")?) {
        (Some(height), Some(width)) => Ok((height, width)),
        _ => Err(Failure::bad_request("h and w must be given")),
    }
}

/// `DELETE /containers/{id}`.
pub(crate) async fn remove(api: &Arc<Api>, id: &str, call: &Call) -> Outcome {
    if call.query.flag("link") {
        return Err(Failure::new(
            StatusCode::CONFLICT,
            format!("Conflict, cannot remove the default link name of the container: {id}"),
        ));
    }
    let (force, volumes) = (call.query.flag("force"), call.query.flag("v"));
    let (engine, id) = (api.engine.clone(), id.to_string());
    to_the_end(async move { engine.remove(&id, force, volumes).await }).await?;
    no_content()
}

/// `DELETE /containers/{parent}/{alias}?link=1`.
pub(crate) async fn remove_link(api: &Arc<Api>, parent: &str, alias: &str, call: &Call) -> Outcome {
    if !call.query.flag("link") {
        return Err(Failure::new(StatusCode::NOT_FOUND, format!("No such container: {parent}/{alias}")));
    }
    let (engine, parent, alias) = (api.engine.clone(), parent.to_string(), alias.to_string());
    to_the_end(async move { engine.remove_link(&parent, &alias).await }).await?;
    no_content()
}

/// `POST /containers/prune`.
pub(crate) async fn prune(api: &Arc<Api>, call: &Call) -> Outcome {
    let filters = Filters::parse(call.query.text("filters"), &["label", "label!", "until"])?;
    let until = match filters.get("until").first() {
        Some(text) => Some(parse_time(text).ok_or_else(|| {
            Failure::bad_request(format!("failed to parse value as time or duration: {text:?}"))
        })?),
        None => None,
    };
    let (mut deleted, mut reclaimed) = (Vec::new(), 0u64);
    for container in api.engine.list_containers() {
        let record = container.record();
        let stopped = matches!(record.state.status, Status::Created | Status::Exited | Status::Dead);
        let old =
            until.is_none_or(|u| i128::from(crate::units::unix_seconds(&record.created)) * 1_000_000_000 < u);
        if !stopped || !old || !filters.labels(&record.config.labels) {
            continue;
        }
        let size = api.engine.writable_size(&container).await.unwrap_or(0);
        // One that was started or removed meanwhile is not ours to take.
        let (engine, id) = (api.engine.clone(), record.id.to_string());
        if to_the_end(async move { engine.remove(&id, false, false).await }).await.is_ok() {
            reclaimed += size;
            deleted.push(record.id.to_string());
        }
    }
    api.engine.events().publish(
        "container",
        "prune",
        "",
        [("reclaimed".to_string(), reclaimed.to_string())].into(),
    );
    ok(&object!({ "ContainersDeleted": deleted, "SpaceReclaimed": reclaimed }))
}

/// `GET /containers/{id}/top`.
pub(crate) async fn top(api: &Arc<Api>, id: &str, call: &Call) -> Outcome {
    let processes = api.engine.top(id, call.query.text("ps_args")).await?;
    ok(&object!({ "Titles": processes.titles, "Processes": processes.rows }))
}

/// `POST /containers/{id}/wait`: the head is sent at once, so that a client knows that the wait is armed.
pub(crate) fn wait(api: &Arc<Api>, id: &str, call: &Call) -> Outcome {
    let condition = match call.query.text("condition") {
        "" | "not-running" => WaitCondition::NotRunning,
        "next-exit" => WaitCondition::NextExit,
        "removed" => WaitCondition::Removed,
        other => return Err(Failure::bad_request(format!("invalid condition: {other:?}"))),
    };
    let (armed, condition) = api.engine.subscribe_wait(id, condition)?;
    let (sender, reply) = stream("application/json");
    tokio::spawn(async move {
        let done = tokio::select! {
            done = engine::Engine::finish_wait(armed, condition) => done,
            () = sender.closed() => return,
        };
        if let Ok(life) = done {
            let body = object!({ "StatusCode": life.exit_code });
            drop(sender.send(crate::reply::line(&body)).await);
        }
    });
    Ok(reply)
}

/// `GET /containers/{id}/logs`.
pub(crate) fn logs(api: &Arc<Api>, id: &str, call: &Call) -> Outcome {
    let (stdout, stderr) = (call.query.flag("stdout"), call.query.flag("stderr"));
    if !stdout && !stderr {
        return Err(Failure::bad_request("Bad parameters: you must choose at least one stream"));
    }
    let tail = match call.query.text("tail") {
        "" | "all" => None,
        text => match text.parse::<i64>() {
            // Docker reads a negative number as all.
            Ok(n) => u64::try_from(n).ok(),
            Err(_) => return Err(Failure::bad_request(format!("invalid tail: {text:?}"))),
        },
    };
    let options = LogOptions {
        stdout,
        stderr,
        since: time(call, "since")?,
        until: time(call, "until")?,
        tail,
        follow: call.query.flag("follow"),
    };
    let tty = api.engine.container(id)?.record().config.tty;
    let kind = if tty || !call.at_least(42) {
        "application/vnd.docker.raw-stream"
    } else {
        "application/vnd.docker.multiplexed-stream"
    };
    let receiver =
        log_stream(api, id, options, tty, call.query.flag("timestamps"), call.query.flag("details"))?;
    let (sender, reply) = bulk_stream(kind);
    tokio::spawn(pump(receiver, sender));
    Ok(reply)
}

async fn pump(mut from: mpsc::Receiver<Bytes>, to: mpsc::Sender<Bytes>) {
    loop {
        tokio::select! {
            piece = from.recv() => {
                let Some(piece) = piece else { return };
                if to.send(piece).await.is_err() {
                    return;
                }
            }
            () = to.closed() => return,
        }
    }
}

fn time(call: &Call, key: &str) -> Result<Option<u64>, Failure> {
    match call.query.text(key) {
        "" | "0" => Ok(None),
        text => parse_time(text)
            .map(|t| Some(u64::try_from(t).unwrap_or(0)))
            .ok_or_else(|| Failure::bad_request(format!("invalid {key}: {text:?}"))),
    }
}

/// The log as bytes of the wire.
pub(crate) fn log_stream(
    api: &Arc<Api>,
    id: &str,
    options: LogOptions,
    tty: bool,
    timestamps: bool,
    details: bool,
) -> Result<mpsc::Receiver<Bytes>, Failure> {
    let write = move |entry: &LogEntry, out: &mut Vec<u8>| write_entry(out, entry, tty, timestamps, details);
    let mut pieces = api.engine.logs(id, options, write)?;
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let piece = tokio::select! {
                piece = pieces.recv() => piece,
                () = sender.closed() => return,
            };
            let piece = match piece {
                None => return,
                Some(Ok(piece)) => Bytes::from(piece),
                Some(Err(e)) => {
                    tracing::warn!(error = %errors::chain(&e), "reading a log");
                    let text = format!("Error grabbing logs: {}\n", errors::chain(&e));
                    if tty { Bytes::from(text) } else { multiplexed(2, text.as_bytes()) }
                }
            };
            if sender.send(piece).await.is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// Appends an entry as it goes over the wire.
fn write_entry(out: &mut Vec<u8>, entry: &LogEntry, tty: bool, timestamps: bool, details: bool) {
    let begin = out.len();
    if !tty {
        let kind = if entry.stream == engine::LogStream::Stderr { 2 } else { 1 };
        out.extend_from_slice(&[kind, 0, 0, 0, 0, 0, 0, 0]);
    }
    let text = out.len();
    if timestamps {
        out.extend_from_slice(crate::render::fixed_nanos(entry.time_ns).as_bytes());
        out.push(b' ');
    }
    if details {
        let attrs: Vec<String> = entry.attrs.iter().map(|(k, v)| format!("{k}={v}")).collect();
        out.extend_from_slice(attrs.join(",").as_bytes());
        out.push(b' ');
    }
    out.extend_from_slice(&entry.line);
    if !tty {
        // An entry is a line of a file, and shorter than that may be.
        let length = u32::try_from(out.len() - text).unwrap_or(u32::MAX);
        out[begin + 4..text].copy_from_slice(&length.to_be_bytes());
    }
}

/// `POST /containers/{id}/attach`.
pub(crate) async fn attach(api: &Arc<Api>, id: &str, call: Call) -> Outcome {
    let query = &call.query;
    let streams =
        Streams { stdin: query.flag("stdin"), stdout: query.flag("stdout"), stderr: query.flag("stderr") };
    let live = query.flag("stream");
    let container = api.engine.container(id)?;
    let config = container.record().config;
    let tty = config.tty;
    let keys = detach_keys(query.text("detachKeys"), tty && streams.stdin)?;
    let prologue = if query.flag("logs") {
        let options = LogOptions { stdout: streams.stdout, stderr: streams.stderr, ..LogOptions::default() };
        Some(log_stream(api, id, options, tty, false, false)?)
    } else {
        None
    };
    let closes_stdin = config.stdin_once && !tty;
    let style = Style { tty, stdin: streams.stdin, closes_stdin, detach_keys: keys, prologue };
    let named = call.at_least(42);
    let (upgrade, input) = take(call.request);
    if !live {
        return hijack(upgrade, input, style, named, async { Err(Refusal::default()) });
    }
    // Registered before the answer: a start that follows the answer finds it.
    let pending = api.engine.attach(id, streams).await?;
    hijack(upgrade, input, style, named, async { pending.ready().await.ok_or(Refusal::default()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_filtered_by_range() {
        let check = |wanted: &str, ports: &[&str], want: bool| {
            assert_eq!(
                has_port(wanted, || ports.iter().filter_map(|p| port_of(p))),
                want,
                "{wanted} {ports:?}"
            );
        };
        check("80", &["80/tcp"], true);
        check("80/udp", &["80/tcp"], false);
        check("80-90", &["85"], true);
        check("80-84", &["85"], false);
        assert!(port_range("90-80").is_none() && port_range("x").is_none() && port_range("80/x").is_none());
    }

    #[test]
    fn a_create_body_with_wrong_types_is_refused() {
        assert!(
            serde_json::from_str::<CreateBody>(r#"{"Image":"x","HostConfig":{"Memory":"lots"}}"#).is_err()
        );
        assert!(serde_json::from_str::<CreateBody>(r#"{"Image":["x"]}"#).is_err());
        let body: CreateBody =
            serde_json::from_str(r#"{"Image":"x","HostConfig":null,"Unknown":{}}"#).unwrap();
        assert_eq!(body.config.image, "x");
    }
}
