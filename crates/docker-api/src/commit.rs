//! `POST /commit`.

use crate::reply::{Failure, Outcome, json, to_the_end};
use crate::request::Call;
use crate::serve::Api;
use engine::CommitRequest;
use engine::model::Config;
use hyper::StatusCode;
use oci::Reference;
use std::sync::Arc;

pub(crate) async fn commit(api: &Arc<Api>, call: Call) -> Outcome {
    let query = &call.query;
    // Absent means yes: that is Docker's default since API 1.13.
    let pause = query.text("pause").is_empty() || query.flag("pause");
    let mut request = CommitRequest {
        container: query.text("container").to_string(),
        reference: tagged(query.text("repo"), query.text("tag"))?,
        comment: query.text("comment").to_string(),
        author: query.text("author").to_string(),
        pause,
        changes: query.list("changes"),
        config: None,
    };
    request.config = call.json::<Option<Config>>().await?;
    let engine = api.engine.clone();
    let id = to_the_end(async move { engine.commit(request).await }).await?;
    Ok(json(StatusCode::CREATED, &serde_json::json!({ "Id": id.to_string() })))
}

/// The name that `repo` and `tag` make; none where there is no `repo`.
pub(crate) fn tagged(repository: &str, tag: &str) -> Result<Option<Reference>, Failure> {
    if repository.is_empty() {
        return Ok(None);
    }
    let bad = |e: oci::reference::ParseReferenceError| Failure::bad_request(e.to_string());
    let reference: Reference = repository.parse().map_err(bad)?;
    if reference.digest().is_some() {
        return Err(Failure::bad_request("cannot import digest reference"));
    }
    let reference = if tag.is_empty() { reference } else { reference.with_tag(tag).map_err(bad)? };
    Ok(Some(reference.with_default_tag()))
}
