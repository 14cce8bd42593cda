//! Images.

use crate::filters::Filters;
use crate::peer::Peer;
use crate::progress::PullLines;
use crate::render;
use crate::reply::{Failure, Outcome, empty, line, ok, stream, to_the_end, with_body};
use crate::request::Call;
use crate::serve::Api;
use engine::PullEvent;
use hyper::StatusCode;
use image::{Image, Removed};
use oci::{Platform, Reference};
use registry_client::{Auth, Progress};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Progress events kept for a slow client; more are dropped, the next ones say the same and more.
const PROGRESS: usize = 1024;

/// `GET /images/json`.
pub(crate) async fn list(api: &Arc<Api>, call: &Call) -> Outcome {
    let filters = Filters::parse(
        call.query.text("filters"),
        &["dangling", "label", "before", "since", "reference", "until"],
    )?;
    let dangling = filters.flag("dangling")?;
    let shared = call.query.flag("shared-size");
    let images = api.engine.images().clone();
    let (list, sizes, parents) = blocking(move || {
        let sizes = if shared { images.sizes()? } else { std::collections::HashMap::new() };
        Ok::<_, image::Error>((images.list()?, sizes, images.parents()?))
    })
    .await?;
    let all = call.query.flag("all");
    let until = match filters.get("until").first() {
        None => None,
        Some(text) => Some(
            crate::units::parse_time(text)
                .ok_or_else(|| Failure::bad_request(format!("invalid filter 'until={text}'")))?,
        ),
    };
    let created = |key: &str| filters.get(key).first().cloned();
    let (before, since) =
        (image_time(api, created("before")).await?, image_time(api, created("since")).await?);
    let mut out = Vec::new();
    for image in list {
        // One of several platforms of an index is part of the one that the name means.
        if image.is_beside() && !all {
            continue;
        }
        // Docker counts an image with a digest of a repository as dangling, too; not one that others were made from.
        let is_step = image.tags.is_empty()
            && image.digests.is_empty()
            && parents.values().any(|parent| *parent == image.id);
        let hidden = dangling.is_some_and(|d| d != (image.tags.is_empty() && !is_step)) || (is_step && !all);
        let time = crate::units::unix_seconds(&image.created);
        let late = until.is_some_and(|u| i128::from(time) * 1_000_000_000 >= u)
            || before.is_some_and(|b| time >= b)
            || since.is_some_and(|s| time <= s);
        if hidden || late || !filters.any("reference", |pattern| matches_reference(&image, pattern)) {
            continue;
        }
        let labels = labels(api, &image).await;
        if !filters.labels(&labels) {
            continue;
        }
        let labels = if labels.is_empty() { Value::Null } else { json!(labels) };
        let uses = if shared { i64::try_from(api.engine.image_uses(&image.id.0)).unwrap_or(-1) } else { -1 };
        let mut summary = render::image_summary(&image, sizes.get(&image.id), uses, &labels);
        if let Some(parent) = parents.get(&image.id) {
            summary["ParentId"] = parent.to_string().into();
        }
        if call.query.flag("manifests") {
            summary["Manifests"] = crate::manifests::list(api, &image).await?;
        }
        out.push(summary);
    }
    ok(&out)
}

async fn image_time(api: &Arc<Api>, name: Option<String>) -> Result<Option<i64>, Failure> {
    match name {
        Some(name) => Ok(Some(crate::units::unix_seconds(&api.engine.image(&name).await?.created))),
        None => Ok(None),
    }
}

async fn labels(api: &Arc<Api>, image: &Image) -> std::collections::BTreeMap<String, String> {
    let (images, id) = (api.engine.images().clone(), image.id);
    let config = blocking(move || images.config(&id)).await;
    config.ok().and_then(|c| c.config.as_ref().and_then(|r| r.labels.clone())).unwrap_or_default()
}

/// `busybox`, `busybox:1*`, `*/x`: shell patterns on the familiar name, with or without the tag.
fn matches_reference(image: &Image, pattern: &str) -> bool {
    image.tags.iter().chain(&image.digests).any(|tag| {
        let (full, name) = (tag.familiar(), tag.familiar_name());
        glob(pattern.as_bytes(), full.as_bytes()) || glob(pattern.as_bytes(), name.as_bytes())
    })
}

/// `*` and `?` within one path component.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // The last star and where what it stands for ends. An earlier one never needs to stand for more: what it could
    // reach in this component, the last one can.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(b'?') if text[t] != b'/' => (p, t) = (p + 1, t + 1),
            Some(c) if *c == text[t] => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((at, end)) if text[end] != b'/' => {
                    star = Some((at, end + 1));
                    (p, t) = (at + 1, end + 1);
                }
                _ => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// `GET /images/{name}/json`.
pub(crate) async fn inspect(api: &Arc<Api>, name: &str, call: &Call) -> Outcome {
    let image = match call.query.text("platform") {
        "" => api.engine.image(name).await?,
        text => api.engine.image_for(name, &parse_platform(text)?).await?,
    };
    let (images, id) = (api.engine.images().clone(), image.id);
    let (config, parent) = blocking(move || Ok((images.config(&id)?, images.parents()?.remove(&id)))).await?;
    let mut out = render::image_inspect(&image, &config, api.engine.storage_driver());
    if let Some(parent) = parent {
        out["Parent"] = parent.to_string().into();
    }
    if let Some(version) = &config.os_version {
        out["OsVersion"] = version.clone().into();
    }
    if call.query.flag("manifests") {
        out["Manifests"] = crate::manifests::list(api, &image).await?;
    }
    if !call.at_least(45) {
        out["Container"] = config.container.clone().unwrap_or_default().into();
        // What the container was made with; images that no container was committed to have none.
        out["ContainerConfig"] = config.container_config.clone().unwrap_or_else(|| serde_json::json!({}));
    }
    ok(&out)
}

/// `GET /images/{name}/history`.
pub(crate) async fn history(api: &Arc<Api>, name: &str, call: &Call) -> Outcome {
    let image = match call.query.text("platform") {
        "" => api.engine.image(name).await?,
        text => api.engine.image_for(name, &parse_platform(text)?).await?,
    };
    let images = api.engine.images().clone();
    let entries = blocking(move || images.history(&image.id)).await?;
    ok(&entries.iter().map(render::history).collect::<Vec<_>>())
}

/// `POST /images/{name}/tag`.
pub(crate) async fn tag(api: &Arc<Api>, name: &str, call: &Call) -> Outcome {
    let (repository, tag) = (call.query.text("repo"), call.query.text("tag"));
    let text = if tag.is_empty() { repository.to_string() } else { format!("{repository}:{tag}") };
    let reference = reference(&text)?;
    if reference.digest().is_some() {
        return Err(Failure::bad_request("refusing to create a tag with a digest reference"));
    }
    let (engine, name) = (api.engine.clone(), name.to_string());
    to_the_end(async move { engine.tag(&name, &reference).await }).await?;
    Ok(empty(StatusCode::CREATED))
}

/// `DELETE /images/{name}`.
pub(crate) async fn remove(api: &Arc<Api>, name: &str, call: &Call) -> Outcome {
    let (force, no_prune) = (call.query.flag("force"), call.query.flag("noprune"));
    let platforms = call.query.list("platforms");
    let platforms = platforms.iter().map(|text| parse_platform(text)).collect::<Result<Vec<_>, _>>()?;
    let (engine, name) = (api.engine.clone(), name.to_string());
    let removed = to_the_end(async move {
        let mut removed = Vec::new();
        for platform in &platforms {
            removed.extend(engine.remove_platform(&name, platform, force).await?);
        }
        if platforms.is_empty() {
            removed = engine.remove_image(&name, force, no_prune).await?;
        }
        Ok(removed)
    })
    .await?;
    ok(&removed.iter().map(self::removed).collect::<Vec<_>>())
}

/// One step of a removal.
pub(crate) fn removed(one: &Removed) -> Value {
    match one {
        Removed::Untagged(name) => json!({ "Untagged": name }),
        Removed::Deleted(id) => json!({ "Deleted": id }),
    }
}

/// A platform as clients put it into a query: JSON, or `os/architecture`.
pub(crate) fn parse_platform(text: &str) -> Result<Platform, Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::bad_request(format!("failed to parse platform: {e}"));
    match text.starts_with('{') {
        true => serde_json::from_str(text).map_err(|e| failed(&e)),
        false => text.parse().map_err(|e| failed(&e)),
    }
}

fn reference(text: &str) -> Result<Reference, Failure> {
    text.parse::<Reference>()
        .map(Reference::with_default_tag)
        .map_err(|e| Failure::bad_request(format!("{e}")))
}

/// `POST /images/create`: a pull.
pub(crate) async fn create(api: &Arc<Api>, call: Call) -> Outcome {
    if !call.query.text("fromSrc").is_empty() {
        return crate::image_archives::import(api, call).await;
    }
    let (name, tag) = (call.query.text("fromImage"), call.query.text("tag"));
    let text = match tag {
        "" => name.to_string(),
        digest if digest.contains(':') => format!("{name}@{digest}"),
        tag => format!("{name}:{tag}"),
    };
    let named = name_only(&text)?;
    let platform = match call.query.text("platform") {
        "" => Platform::host(),
        text => text.parse().map_err(|e| Failure::bad_request(format!("{e}")))?,
    };
    let auth = crate::registry::credentials(&call)?;
    let pulling = async {
        match named {
            Ok(reference) => pull(api, reference, platform, auth).await,
            Err(repository) => pull_all(api, &repository, platform, auth).await,
        }
    };
    match call.request.extensions().get::<Peer>() {
        None => pulling.await,
        // A registry that never answers keeps nothing of a client that no longer waits.
        Some(peer) => tokio::select! {
            answer = pulling => answer,
            () = peer.left() => Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "the client has left")),
        },
    }
}

/// A reference with a tag or a digest; the repository where it has neither: all of its tags are meant then. Docker's clients
/// write a colon behind it.
fn name_only(text: &str) -> Result<Result<Reference, Reference>, Failure> {
    let text = text.strip_suffix(':').unwrap_or(text);
    let reference: Reference = text.parse().map_err(|e| Failure::bad_request(format!("{e}")))?;
    let is_bare = reference.tag().is_none() && reference.digest().is_none();
    Ok(if is_bare { Err(reference) } else { Ok(reference) })
}

/// Pulls all tags of a repository, one after the other, until one fails.
async fn pull_all(api: &Arc<Api>, repository: &Reference, platform: Platform, auth: Auth) -> Outcome {
    // Until the registry has answered, a failure still has a status code of its own.
    let tags =
        api.engine.registry().tags(repository, &auth).await.map_err(|e| crate::registry::failure(&e))?;
    let references: Vec<Reference> = tags.iter().filter_map(|tag| repository.with_tag(tag).ok()).collect();
    let (sender, reply) = stream("application/json");
    let engine = api.engine.clone();
    tokio::spawn(async move {
        for reference in references {
            let (events, mut receiver) = mpsc::channel(PROGRESS);
            let mut lines = PullLines::new(reference.clone());
            let pulling = engine.pull(&reference, &platform, &auth, events);
            let telling = async {
                while let Some(event) = receiver.recv().await {
                    for value in lines.lines(&event) {
                        drop(sender.send(line(&value)).await);
                    }
                }
            };
            let done = tokio::select! {
                (done, ()) = async { tokio::join!(pulling, telling) } => done,
                // A client that has gone ends the pull.
                () = sender.closed() => return,
            };
            if let Err(e) = done {
                let message = Failure::from(e).message;
                let last = json!({ "errorDetail": { "message": message }, "error": message });
                return drop(sender.send(line(&last)).await);
            }
        }
    });
    Ok(reply)
}

async fn pull(api: &Arc<Api>, reference: Reference, platform: Platform, auth: Auth) -> Outcome {
    let (events, mut receiver) = mpsc::channel(PROGRESS);
    let engine = api.engine.clone();
    let named = reference.clone();
    let mut task =
        AbortOnDrop(tokio::spawn(async move { engine.pull(&named, &platform, &auth, events).await }));
    let mut lines = PullLines::new(reference);
    // Until the registry has answered, a failure still has a status code of its own.
    let first = loop {
        match receiver.recv().await {
            Some(PullEvent::Transfer(Progress::Resolving)) => {}
            other => break other,
        }
    };
    if first.is_none() {
        ended((&mut task.0).await)?;
        return Ok(empty(StatusCode::OK));
    }
    // All of it is there already: one answer, not a stream.
    if let Some(event @ PullEvent::Done { .. }) = &first {
        ended((&mut task.0).await)?;
        let text: Vec<u8> = lines.lines(event).iter().flat_map(line).collect();
        return Ok(with_body(StatusCode::OK, Some("application/json"), text));
    }
    let (sender, reply) = stream("application/json");
    tokio::spawn(async move {
        let mut next = first;
        while let Some(event) = next {
            for value in lines.lines(&event) {
                // A client that has gone ends the pull: dropping the task aborts it.
                if sender.send(line(&value)).await.is_err() {
                    return;
                }
            }
            next = tokio::select! {
                event = receiver.recv() => event,
                () = sender.closed() => return,
            };
        }
        if let Ok(Err(e)) = (&mut task.0).await {
            let message = Failure::from(e).message;
            drop(
                sender.send(line(&json!({ "errorDetail": { "message": message }, "error": message }))).await,
            );
        }
    });
    Ok(reply)
}

/// What a pull's task ended with.
fn ended(joined: Result<Result<Image, engine::Error>, tokio::task::JoinError>) -> Result<Image, Failure> {
    match joined {
        Ok(done) => Ok(done?),
        Err(e) => Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string())),
    }
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(crate) async fn blocking<T, F>(work: F) -> Result<T, Failure>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, image::Error> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => {
            let status = match errors::HasKind::kind(&e) {
                errors::Kind::NotFound => StatusCode::NOT_FOUND,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            Err(Failure::new(status, errors::chain(&e)))
        }
        Err(e) => Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let check = |p: &str, t: &str, want| assert_eq!(glob(p.as_bytes(), t.as_bytes()), want, "{p} {t}");
        check("busy*", "busybox:latest", true);
        check("*", "a/b", false);
        check("*/b", "a/b", true);
        check("b?sybox", "busybox", true);
        check("x", "busybox", false);
        check("a*/*c", "abc/abc", true);
        check("a*c", "a/c", false);
        check("", "", true);
        check("**", "ab", true);
        // Takes no time that grows faster than the product of the lengths.
        check(&format!("{}x", "*a".repeat(2000)), &"a".repeat(4000), false);
    }
}
