//! `POST /build`: Docker's classic endpoint, and brig's own form of the same.
//!
//! brig's own form has a body of type `application/vnd.brig.build`: eight bytes, big-endian, the length of a JSON
//! document ([`Extra`]), the document, then the tar. It carries what the classic form cannot (secrets, sockets of ssh
//! agents, named contexts as images, entitlements) and is answered with events by step. `docs/build.md` describes it.

pub(crate) mod exchange;
mod lines;
mod listed;
pub(crate) mod posted;
mod request;

use crate::body;
use crate::filters::Filters;
use crate::reply::{Failure, Outcome, line, ok, stream};
use crate::request::Call;
use crate::serve::Api;
use build::{Context, Event, Request};
use errors::HasKind;
use hyper::StatusCode;
use lines::{Lines, Mode};
pub(crate) use listed::list;
use request::{Asked, Extra, OWN_TYPE};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Events kept for a slow client; then the build waits.
const EVENTS: usize = 256;

/// Whether a header and the begin of a body can be read; see [`crate::examine`].
pub(crate) fn examine(header: &str, mut body: &[u8]) -> bool {
    request::registry_config(header).is_ok() && Extra::read(&mut body).is_ok()
}

/// `POST /build`.
pub(crate) async fn build(api: &Arc<Api>, call: Call) -> Outcome {
    let is_own = call.header("Content-Type") == OWN_TYPE;
    if posted::is_asked(&call) {
        return posted::build(api, call).await;
    }
    let asked = Asked::parse(&call)?;
    let engine = api.engine.clone();
    let (tar_engine, dockerfile) = (engine.clone(), asked.dockerfile.clone());
    let mut received = if !asked.remote.is_empty() {
        let (extra, contexts) = if is_own {
            body::read_by(call, |mut reader| async move {
                let read = tokio::task::spawn_blocking(move || {
                    let extra = Extra::read(&mut reader)?;
                    let contexts = extra.named(&tar_engine, &mut reader)?;
                    Ok((extra, contexts))
                });
                read.await
                    .unwrap_or_else(|e| Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string())))
            })
            .await?
        } else {
            (Extra::default(), Named::new())
        };
        let access = asked.git_access(&extra)?;
        let received = fetched(&engine, &asked.remote, &access, &asked.dockerfile, extra).await?;
        Received { contexts, ..received }
    } else {
        body::read_by(call, |reader| async move {
            let read = tokio::task::spawn_blocking(move || receive(&tar_engine, reader, is_own, &dockerfile));
            read.await.unwrap_or_else(|e| Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string())))
        })
        .await?
    };
    for (name, url) in &received.extra.context_urls {
        let access = asked.git_access(&received.extra)?;
        let (context, text) = build::fetch_context(&engine, url, &access).await.map_err(failure)?;
        if let Some(text) = text {
            context.put(build::file_name(url), text.as_bytes()).map_err(failure)?;
        }
        received.contexts.insert(name.to_lowercase(), Arc::new(context));
    }
    let Received { context, contexts, extra, name, text } = received;
    let file = dockerfile::Dockerfile::parse(&name, &text)
        .map_err(|e| Failure::bad_request(if is_own { e.report(&name, &text) } else { e.to_string() }))?;
    if extra.check {
        return ok(&checked(&file, &name, &context));
    }
    let exchange = api.exchanges.open();
    let mut request = asked.request(Arc::new(context), &extra, &name, &exchange.exchange)?;
    request.contexts = contexts;
    let mode = match (is_own, asked.quiet) {
        (true, _) => Mode::Events,
        (false, true) => Mode::Quiet,
        (false, false) => Mode::Classic,
    };
    Ok(follow(api, request, file, (mode, asked.platforms), exchange))
}

/// Further contexts by name.
type Named = BTreeMap<String, Arc<Context>>;

/// What came with the body.
struct Received {
    context: Context,
    contexts: Named,
    extra: Extra,
    /// The Dockerfile's name and text.
    name: String,
    text: String,
}

/// A context that the daemon reads itself.
async fn fetched(
    engine: &engine::Engine,
    url: &str,
    access: &build::GitAccess,
    dockerfile: &str,
    extra: Extra,
) -> Result<Received, Failure> {
    let (mut context, text) = build::fetch_context(engine, url, access).await.map_err(failure)?;
    let text = extra.dockerfile.clone().or(text);
    let (name, text) = match text {
        Some(text) => {
            context.take_ignore("Dockerfile").map_err(failure)?;
            ("Dockerfile".to_string(), text)
        }
        None => context.take_dockerfile(dockerfile).map_err(failure)?,
    };
    Ok(Received { context, contexts: Named::new(), extra, name, text })
}

fn receive(
    engine: &engine::Engine,
    mut reader: body::BodyReader,
    is_own: bool,
    dockerfile: &str,
) -> Result<Received, Failure> {
    let extra = if is_own { Extra::read(&mut reader)? } else { Extra::default() };
    let contexts = extra.named(engine, &mut reader)?;
    let mut context = match extra.kept.get("") {
        Some(token) => listed::finish(token, &mut reader)?,
        None => Context::from_tar(engine, &mut reader).map_err(failure)?,
    };
    read_tail(&mut reader);
    let (name, text) = match &extra.dockerfile {
        Some(text) => {
            context.take_ignore("Dockerfile").map_err(failure)?;
            ("Dockerfile".to_string(), text.clone())
        }
        None => context.take_dockerfile(dockerfile).map_err(failure)?,
    };
    Ok(Received { context, contexts, extra, name, text })
}

/// What is behind the end of the archive belongs to the request too.
fn read_tail(reader: &mut body::BodyReader) {
    drop(std::io::copy(&mut reader.by_ref().take(request::MAX_TAIL), &mut std::io::sink()));
}

fn failure(error: build::Error) -> Failure {
    Failure::new(status(error.kind()), error.text())
}

fn status(kind: errors::Kind) -> StatusCode {
    match kind {
        errors::Kind::NotFound => StatusCode::NOT_FOUND,
        errors::Kind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        errors::Kind::InvalidArgument | errors::Kind::Hostile | errors::Kind::DataLoss => {
            StatusCode::BAD_REQUEST
        }
        errors::Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        errors::Kind::AlreadyExists
        | errors::Kind::WrongState
        | errors::Kind::Denied
        | errors::Kind::Unauthenticated
        | errors::Kind::Exhausted
        | errors::Kind::Cancelled
        | errors::Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The findings of the build checks, as a document.
fn checked(file: &dockerfile::Dockerfile, name: &str, context: &Context) -> Value {
    let warnings: Vec<Value> = context
        .check(file)
        .into_iter()
        .map(|w| {
            json!({
                "rule": w.rule.name(),
                "description": w.rule.description(),
                "url": w.rule.url(),
                "detail": w.detail,
                "lines": [w.lines.0, w.lines.1],
            })
        })
        .collect();
    json!({ "dockerfile": name, "source": file.source, "warnings": warnings })
}

/// Builds, and streams what happens. A client that goes away ends the build.
fn follow(
    api: &Arc<Api>,
    request: Request,
    file: dockerfile::Dockerfile,
    (mode, platforms): (Mode, Vec<oci::Platform>),
    mut exchange: exchange::Open,
) -> crate::reply::Reply {
    let (sender, reply) = stream("application/json");
    let engine = api.engine.clone();
    tokio::spawn(async move {
        let tags: Vec<String> = request.references.iter().map(oci::Reference::familiar).collect();
        let mut lines = Lines::new(mode);
        let mut out: Vec<Value> = Vec::new();
        let (events, mut receiver) = mpsc::channel::<Event>(EVENTS);
        let here = engine.clone();
        let mut building = Box::pin(async move {
            match platforms.len() {
                0 | 1 => build::build(here, request, file, events).await,
                _ => build::build_for(here, request, file, platforms, events).await,
            }
        });
        let mut result = None;
        loop {
            for value in out.drain(..) {
                if sender.send(line(&value)).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                biased;
                event = receiver.recv() => match event {
                    Some(event) => out = lines.event(event),
                    None if result.is_some() => break,
                    None => result = Some((&mut building).await),
                },
                Some(asks) = exchange.asks.recv() => out = vec![asks],
                built = &mut building, if result.is_none() => result = Some(built),
                // Dropping the build ends what it runs.
                () = sender.closed() => return,
            }
        }
        let out = match result.expect("the loop ends with one") {
            Ok(built) => {
                for tag in &tags {
                    engine.image_event("tag", tag, &built.image_id);
                }
                engine.image_event("build", &built.image_id.to_string(), &built.image_id);
                lines.success(&built, &tags)
            }
            Err(e) => {
                tracing::debug!(error = e.text(), "build failed");
                lines.failure(&e)
            }
        };
        for value in out {
            if sender.send(line(&value)).await.is_err() {
                return;
            }
        }
    });
    reply
}

/// `POST /build/prune`.
pub(crate) async fn prune(api: &Arc<Api>, call: &Call) -> Outcome {
    let known = ["until", "unused-for", "id", "parent", "type", "description", "inuse", "shared", "private"];
    let filters = Filters::parse(call.query.text("filters"), &known)?;
    let mut until_ms = None;
    for text in filters.get("until").iter().chain(filters.get("unused-for")) {
        let ns = crate::units::parse_time(text)
            .ok_or_else(|| Failure::bad_request(format!("invalid filter 'until={text}'")))?;
        until_ms = i64::try_from(ns / 1_000_000).ok();
    }
    for name in ["max-used-space", "min-free-space"] {
        if call.query.number::<i64>(name)?.is_some_and(|n| n != 0) && name == "min-free-space" {
            return Err(Failure::not_here("pruning the build cache by free space"));
        }
    }
    let number = |name: &str| call.query.number::<u64>(name).map(|n| n.filter(|n| *n > 0));
    let keep = number("reserved-space")?.or(number("keep-storage")?);
    let max = number("max-used-space")?;
    let shared = match (filters.get("shared").is_empty(), filters.get("private").is_empty()) {
        (true, true) => None,
        (shared, _) => Some(!shared),
    };
    // Nothing is in use while no build looks at it, and what one looks at is kept by its lease.
    if !filters.get("inuse").is_empty() {
        return ok(&json!({ "CachesDeleted": [], "SpaceReclaimed": 0 }));
    }
    let how = build::Prune {
        all: call.query.flag("all"),
        until_ms,
        keep_bytes: max.or(keep),
        ids: filters.get("id").to_vec(),
        kinds: filters.get("type").to_vec(),
        parents: filters.get("parent").to_vec(),
        descriptions: filters.get("description").to_vec(),
        shared,
    };
    let engine = api.engine.clone();
    let pruned = tokio::task::spawn_blocking(move || build::prune(&engine, &how)).await;
    match pruned {
        Ok(Ok(pruned)) => ok(&json!({ "CachesDeleted": pruned.ids, "SpaceReclaimed": pruned.bytes })),
        Ok(Err(e)) => Err(failure(e)),
        Err(e) => Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string())),
    }
}

/// The build cache as `system df` shows it.
pub(crate) async fn list_cache(api: &Arc<Api>) -> Result<Vec<Value>, Failure> {
    let engine = api.engine.clone();
    let listed = tokio::task::spawn_blocking(move || build::list_cache(&engine)).await;
    let entries = match listed {
        Ok(Ok(entries)) => entries,
        Ok(Err(e)) => return Err(failure(e)),
        Err(e) => return Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string())),
    };
    let time = |ms: i64| jiff::Timestamp::from_millisecond(ms).map(|t| t.to_string()).unwrap_or_default();
    Ok(entries
        .into_iter()
        .map(|e| {
            json!({
                "ID": e.id,
                "Parents": e.parent.into_iter().collect::<Vec<_>>(),
                "Type": e.kind,
                "Description": e.description,
                "InUse": false,
                "Shared": e.is_shared,
                "Size": e.size_bytes,
                "CreatedAt": time(e.created_ms),
                "LastUsedAt": time(e.used_ms),
                "UsageCount": e.uses,
            })
        })
        .collect())
}
