//! Images as archives: load, save, import.

use crate::body;
use crate::commit::tagged;
use crate::filters::Filters;
use crate::reply::{Failure, Outcome, line, ok, to_the_end, with_body};
use crate::request::Call;
use crate::serve::Api;
use engine::ImportRequest;
use hyper::StatusCode;
use oci::Platform;
use serde_json::json;
use std::sync::Arc;

/// `POST /images/load`.
pub(crate) async fn load(api: &Arc<Api>, call: Call) -> Outcome {
    let platform = platform(call.query.text("platform"))?;
    // As Docker answers, and clients expect: what is wrong with an archive is told in the stream.
    let loaded = match body::read_by(call, |archive| api.engine.load(archive, platform)).await {
        Ok(loaded) => loaded,
        Err(failure) => {
            let message = failure.message;
            tracing::debug!(error = message, "archive refused");
            let told = json!({ "errorDetail": { "message": message }, "error": message });
            return Ok(with_body(StatusCode::OK, Some("application/json"), line(&told).to_vec()));
        }
    };
    let mut told = std::collections::BTreeSet::new();
    let mut out = Vec::new();
    for one in loaded {
        let nameless = one.references.is_empty().then(|| format!("Loaded image ID: {}\n", one.image.id));
        let named =
            one.references.iter().map(|reference| format!("Loaded image: {}\n", reference.familiar()));
        for text in nameless.into_iter().chain(named) {
            // The platforms of one index have one name.
            if told.insert(text.clone()) {
                out.extend_from_slice(&line(&json!({ "stream": text })));
            }
        }
    }
    Ok(with_body(StatusCode::OK, Some("application/json"), out))
}

/// `GET /images/{name}/get` and `GET /images/get`.
pub(crate) async fn save(api: &Arc<Api>, names: Vec<String>, call: &Call) -> Outcome {
    // Docker's older clients send all names in one value.
    let names: Vec<String> =
        names.iter().flat_map(|n| n.split(',')).filter(|n| !n.is_empty()).map(str::to_string).collect();
    if names.is_empty() {
        return Err(Failure::bad_request("no image names given"));
    }
    let saved = api.engine.save_images(names, platform(call.query.text("platform"))?).await?;
    Ok(body::written("application/x-tar", move |out| saved.write(out)))
}

/// `POST /images/create` with `fromSrc`: an import.
pub(crate) async fn import(api: &Arc<Api>, call: Call) -> Outcome {
    let source = call.query.text("fromSrc").to_string();
    let message = match call.query.text("message") {
        "" => format!("Imported from {source}"),
        text => text.to_string(),
    };
    let request = ImportRequest {
        reference: tagged(call.query.text("repo"), call.query.text("tag"))?,
        platform: platform(call.query.text("platform"))?.unwrap_or_else(Platform::host),
        message,
        changes: call.query.list("changes"),
    };
    if source != "-" {
        return crate::import_url::import(api, &source, request).await;
    }
    let id = body::read_by(call, |tar| api.engine.import_image(request, tar)).await?;
    Ok(with_body(
        StatusCode::OK,
        Some("application/json"),
        line(&json!({ "status": id.to_string() })).to_vec(),
    ))
}

/// A platform as JSON (since API 1.48) or as `os/architecture`; none for nothing.
fn platform(text: &str) -> Result<Option<Platform>, Failure> {
    let bad = |e: &dyn std::fmt::Display| Failure::bad_request(format!("invalid platform: {e}"));
    match text {
        "" => Ok(None),
        json if json.starts_with('{') => serde_json::from_str(json).map(Some).map_err(|e| bad(&e)),
        text => text.parse().map(Some).map_err(|e: oci::platform::ParsePlatformError| bad(&e)),
    }
}

/// `POST /images/prune`.
pub(crate) async fn prune(api: &Arc<Api>, call: &Call) -> Outcome {
    let filters = Filters::parse(call.query.text("filters"), &["dangling", "until", "label", "label!"])?;
    let dangling = filters.flag("dangling")?.unwrap_or(true);
    let until = match filters.get("until") {
        [] => None,
        [text] => Some(
            crate::units::parse_time(text)
                .ok_or_else(|| Failure::bad_request(format!("invalid filter 'until={text}'")))?,
        ),
        _ => return Err(Failure::bad_request("more than one until filter specified")),
    };
    let wanted = move |image: &image::Image, config: &oci::image::RunConfig| {
        let labels = config.labels.clone().unwrap_or_default();
        let has = |wanted: &String| match wanted.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|v| v == value),
            None => labels.contains_key(wanted),
        };
        let seconds = i128::from(crate::units::unix_seconds(&image.created));
        until.is_none_or(|until| seconds * 1_000_000_000 < until)
            && filters.labels(&labels)
            && !filters.get("label!").iter().any(has)
    };
    let engine = api.engine.clone();
    let pruned = to_the_end(async move { engine.prune_images(!dangling, wanted).await }).await?;
    let deleted: Vec<_> = pruned.removed.iter().map(crate::images::removed).collect();
    ok(&json!({ "ImagesDeleted": deleted, "SpaceReclaimed": pruned.bytes }))
}
