//! `POST /build?version=2` and `POST /build/cancel`: how clients asked for BuildKit before they called it themselves.
//!
//! The answer is a line for each piece of news, `{"id":"moby.buildkit.trace","aux":BASE64}` with BuildKit's own message, and
//! at the end one with the image's id. The context is the body, what `remote` names, or `upload-request`: then it is the
//! body of another request, whose `buildid` says for which build.

use super::request::Asked;
use crate::body;
use crate::reply::{Failure, Outcome, empty, line, stream};
use crate::request::Call;
use crate::serve::Api;
use ::build::Context;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use buildkit::{News, Posted, Sent};
use engine::Engine;
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Mark of a `buildid` whose request only brings the context.
const UPLOAD: &str = "upload-request:";
/// News kept for a slow client; then the build waits.
const NEWS: usize = 16;

/// Whether a request asks for BuildKit.
pub(super) fn is_asked(call: &Call) -> bool {
    call.query.text("version") == "2"
}

/// An output as clients write it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Output {
    r#type: String,
    #[serde(default)]
    attrs: Option<BTreeMap<String, String>>,
}

/// `POST /build?version=2`.
pub(super) async fn build(api: &Arc<Api>, call: Call) -> Outcome {
    let build_id = call.query.text("buildid").to_string();
    if let Some(id) = build_id.strip_prefix(UPLOAD) {
        let upload = api.buildkit.upload(id).map_err(|e| Failure::new(StatusCode::CONFLICT, e))?;
        let sent = received(&api.engine, call).await?;
        upload.give(sent).await.map_err(|e| Failure::new(StatusCode::NOT_FOUND, e))?;
        return Ok(empty(StatusCode::OK));
    }
    let asked = Asked::parse(&call)?;
    let mut posted = Posted {
        session: call.query.text("session").into(),
        reference: engine::ContainerId::random().to_string(),
        build_id,
        options: options(&asked)?,
        remote: asked.remote.clone(),
        sent: None,
        exporter: exporter(&call, &asked)?,
        inline_cache: false,
        network_host: asked.network_mode == "host",
        auth: asked.auth.clone(),
    };
    let inline = asked.build_args.get(build::INLINE_CACHE).and_then(Option::as_deref);
    posted.inline_cache = build::inline_cache(inline).map_err(super::failure)?.unwrap_or(false);
    if posted.remote.is_empty() {
        posted.sent = Some(received(&api.engine, call).await?);
    }
    answer(api, posted, asked.quiet).await
}

/// `POST /build/cancel`.
pub(crate) fn cancel(api: &Arc<Api>, call: &Call) -> Outcome {
    match call.query.text("id") {
        "" => Err(Failure::bad_request("build ID not provided")),
        id => {
            api.buildkit.cancel(id);
            Ok(empty(StatusCode::OK))
        }
    }
}

/// The context in a body.
async fn received(engine: &Arc<Engine>, call: Call) -> Result<Sent, Failure> {
    let engine = engine.clone();
    let failed = |text: String| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, text);
    body::read_by(call, |mut reader| async move {
        let read = tokio::task::spawn_blocking(move || {
            let context = Context::from_tar(&engine, &mut reader).map_err(super::failure)?;
            super::read_tail(&mut reader);
            Ok(Sent { context, text: None })
        });
        read.await.unwrap_or_else(|e| Err(failed(e.to_string())))
    })
    .await
}

/// The frontend's options.
fn options(asked: &Asked) -> Result<BTreeMap<String, String>, Failure> {
    let mut out = BTreeMap::new();
    let mut put = |key: &str, value: String| drop(out.insert(key.to_string(), value));
    let limits = &asked.host_config;
    for (key, value) in [
        ("target", &asked.target),
        ("cpusetcpus", &limits.cpuset_cpus),
        ("cpusetmems", &limits.cpuset_mems),
        ("cgroup-parent", &limits.cgroup_parent),
    ] {
        if !value.is_empty() {
            put(key, value.clone());
        }
    }
    for (key, number) in [
        ("memory", limits.memory),
        ("memswap", limits.memory_swap),
        ("cpushares", limits.cpu_shares),
        ("cpuperiod", limits.cpu_period),
        ("cpuquota", limits.cpu_quota),
        ("shm-size", limits.shm_size),
    ] {
        if number != 0 {
            put(key, number.to_string());
        }
    }
    if !matches!(asked.dockerfile.as_str(), "" | ".") {
        put("filename", asked.dockerfile.clone());
    }
    if asked.no_cache {
        put("no-cache", String::new());
    }
    if asked.pull {
        put("image-resolve-mode", "pull".into());
    }
    match asked.network_mode.as_str() {
        "" | "default" => {}
        mode @ ("host" | "none") => put("force-network-mode", mode.into()),
        other => {
            return Err(Failure::bad_request(format!("network mode {other:?} not supported by buildkit")));
        }
    }
    let list = |all: Vec<String>| all.join(",");
    if !asked.platforms.is_empty() {
        put("platform", list(asked.platforms.iter().map(ToString::to_string).collect()));
    }
    if !limits.extra_hosts.is_empty() {
        let each = limits.extra_hosts.iter().map(|host| {
            host.split_once([':', '='])
                .map(|(name, ip)| format!("{name}={ip}"))
                .ok_or_else(|| Failure::bad_request(format!("invalid host {host}")))
        });
        put("add-hosts", list(each.collect::<Result<_, _>>()?));
    }
    if !limits.ulimits.is_empty() {
        let each = limits.ulimits.iter().map(|l| format!("{}={}:{}", l.name, l.soft, l.hard));
        put("ulimit", list(each.collect()));
    }
    if !asked.cache_from.is_empty() {
        put("cache-from", asked.cache_from.join(","));
    }
    for (name, value) in &asked.build_args {
        if let Some(value) = value {
            put(&format!("build-arg:{name}"), value.clone());
        }
    }
    for (name, value) in &asked.labels {
        put(&format!("label:{name}"), value.clone());
    }
    Ok(out)
}

/// A kind of output and its attributes.
type Exporter = (String, BTreeMap<String, String>);

/// What becomes of the result: an image of these names, unless something else is asked for.
fn exporter(call: &Call, asked: &Asked) -> Result<Option<Exporter>, Failure> {
    let mut outputs: Vec<Output> = super::request::document(call, "outputs")?.unwrap_or_default();
    let (kind, mut attrs) = match outputs.as_mut_slice() {
        [] => ("moby".to_string(), BTreeMap::new()),
        [only] if only.r#type == "cacheonly" => return Ok(None),
        [only] => (std::mem::take(&mut only.r#type), only.attrs.take().unwrap_or_default()),
        _ => return Err(Failure::bad_request("multiple outputs not supported")),
    };
    if matches!(kind.as_str(), "moby" | "image") && !asked.references.is_empty() {
        let names: Vec<String> = asked.references.iter().map(ToString::to_string).collect();
        attrs.insert("name".into(), names.join(","));
    }
    Ok(Some((kind, attrs)))
}

/// Builds, and answers with the news. What fails before there is any is answered by its status.
async fn answer(api: &Arc<Api>, posted: Posted, is_quiet: bool) -> Outcome {
    let (tell, mut news) = mpsc::channel(NEWS);
    let server = api.buildkit.clone();
    // Ends when nobody listens any more.
    tokio::spawn(async move { server.posted(posted, tell).await });
    let mut first = match news.recv().await {
        Some(News::Ended(Err(e))) => return Err(Failure::new(super::status(e.kind), e.text)),
        Some(first) => Some(first),
        None => {
            return Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "the build ended without an end"));
        }
    };
    let (sender, reply) = stream("application/json");
    tokio::spawn(async move {
        loop {
            let next = match first.take() {
                Some(first) => Some(first),
                None => tokio::select! {
                    next = news.recv() => next,
                    () = sender.closed() => return,
                },
            };
            let Some(next) = next else { return };
            for value in lines(next, is_quiet) {
                if sender.send(line(&value)).await.is_err() {
                    return;
                }
            }
        }
    });
    Ok(reply)
}

fn lines(news: News, is_quiet: bool) -> Vec<Value> {
    match news {
        News::Status(_) if is_quiet => Vec::new(),
        News::Status(bytes) => vec![json!({ "id": "moby.buildkit.trace", "aux": STANDARD.encode(bytes) })],
        News::Ended(Ok(None)) => Vec::new(),
        News::Ended(Ok(Some(id))) if is_quiet => vec![json!({ "stream": format!("{id}\n") })],
        News::Ended(Ok(Some(id))) => vec![json!({ "id": "moby.image.id", "aux": { "ID": id } })],
        News::Ended(Err(e)) => vec![json!({ "errorDetail": { "message": e.text }, "error": e.text })],
    }
}
