//! What the daemon asks registries on a client's behalf: credentials tried, images looked at, repositories searched.

use crate::filters::Filters;
use crate::reply::{Failure, Outcome, ok, with_body};
use crate::request::Call;
use crate::serve::Api;
use errors::{HasKind, Kind};
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use oci::image::media_type;
use oci::reference::DEFAULT_HOST;
use oci::{Descriptor, Digest, Reference};
use registry_client::{Auth, Client, Login};
use serde_json::json;
use std::sync::Arc;

/// Results of a search where nobody says how many.
const RESULTS: u32 = 25;
/// Most that a search may ask for.
const MAX_RESULTS: u32 = 100;

/// The credentials that a client sends along.
pub(crate) fn credentials(call: &Call) -> Result<Auth, Failure> {
    Auth::from_header(&call.header("X-Registry-Auth"))
        .map_err(|e| Failure::bad_request(format!("X-Registry-Auth: {}", errors::chain(&e))))
}

/// Docker's status for what a registry said.
pub(crate) fn failure(error: &registry_client::Error) -> Failure {
    let status = match error.kind() {
        Kind::Unauthenticated => StatusCode::UNAUTHORIZED,
        Kind::Denied => StatusCode::FORBIDDEN,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::InvalidArgument | Kind::Hostile => StatusCode::BAD_REQUEST,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        Kind::AlreadyExists
        | Kind::WrongState
        | Kind::Exhausted
        | Kind::Cancelled
        | Kind::DataLoss
        | Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Failure::new(status, errors::chain(error))
}

/// `POST /auth`.
pub(crate) async fn auth(api: &Arc<Api>, call: Call) -> Outcome {
    let (body, _turn) = call.bytes().await?;
    let login = Login::from_json(&body).map_err(|e| Failure::bad_request(errors::chain(&e)))?;
    let host = login.server_address.unwrap_or_else(|| DEFAULT_HOST.to_string());
    match api.engine.registry().check_login(&host, &login.auth).await {
        Ok(status) => ok(&json!({
            "Status": "Login Succeeded",
            "IdentityToken": status.identity_token.unwrap_or_default(),
        })),
        Err(e) => Err(match e.kind() {
            Kind::Denied => Failure::new(StatusCode::UNAUTHORIZED, errors::chain(&e)),
            _ => failure(&e),
        }),
    }
}

/// `GET /distribution/{name}/json`.
pub(crate) async fn distribution(api: &Arc<Api>, name: &str, call: &Call) -> Outcome {
    let (reference, auth) = (reference(name)?, credentials(call)?);
    let registry = registry(api, call, &reference)?;
    let (descriptor, platforms) = registry.inspect(&reference, &auth).await.map_err(|e| failure(&e))?;
    ok(&json!({ "Descriptor": descriptor, "Platforms": platforms }))
}

/// `GET /distribution/{name}/manifest`: the manifest or index as it is. brig's own; docker's clients ask the registry
/// themselves.
pub(crate) async fn manifest(api: &Arc<Api>, name: &str, call: &Call) -> Outcome {
    let (reference, auth) = (reference(name)?, credentials(call)?);
    let registry = registry(api, call, &reference)?;
    let (descriptor, body) = registry.resolve(&reference, &auth).await.map_err(|e| failure(&e))?;
    let mut reply = with_body(StatusCode::OK, None, body.to_vec());
    let header = |text: &str| {
        HeaderValue::from_str(text)
            .map_err(|e| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))
    };
    reply.headers_mut().insert(CONTENT_TYPE, header(&descriptor.media_type)?);
    reply.headers_mut().insert("Docker-Content-Digest", header(&descriptor.digest.to_string())?);
    Ok(reply)
}

/// `POST /distribution/{name}/manifest`: puts the index in the body under that name; `from` are manifests of other repositories
/// that it names. brig's own; docker's clients do it themselves.
pub(crate) async fn push_list(api: &Arc<Api>, name: &str, call: Call) -> Outcome {
    let (target, auth) = (reference(name)?, credentials(&call)?);
    let registry = registry(api, &call, &target)?;
    let kind = call.header("content-type");
    let entries = call.query.all("from").iter().map(|text| reference(text)).collect::<Result<Vec<_>, _>>()?;
    if target.digest().is_some() || entries.iter().any(|entry| entry.digest().is_none()) {
        return Err(Failure::bad_request("a list has a tag, and its manifests have digests"));
    }
    let (body, _turn) = call.bytes().await?;
    let digest = Digest::of(&body);
    if !media_type::is_index(&kind) {
        return Err(Failure::bad_request(format!("{kind:?} is not the type of a manifest list")));
    }
    image::parse_index(&body, &digest, &kind).map_err(|e| Failure::bad_request(errors::chain(&e)))?;
    let list = (Descriptor::new(&kind, digest, body.len() as u64), body.into());
    let done = registry_client::push_list(&registry, &target, &entries, list, &auth).await;
    done.map_err(|e| failure(&e))?;
    ok(&json!({ "Digest": digest }))
}

/// The client for `reference`; one that does without valid certificates, or without TLS, where this request asks for it.
fn registry(api: &Arc<Api>, call: &Call, reference: &Reference) -> Result<Client, Failure> {
    let client = api.engine.registry();
    if !call.query.flag("insecure") {
        return Ok(client.clone());
    }
    let mut config = client.config().clone();
    config.insecure.push(reference.host().to_string());
    Client::new(config).map_err(|e| failure(&e))
}

fn reference(name: &str) -> Result<Reference, Failure> {
    name.parse::<Reference>()
        .map(Reference::with_default_tag)
        .map_err(|e| Failure::bad_request(errors::chain(&e)))
}

/// `GET /images/search`.
pub(crate) async fn search(api: &Arc<Api>, call: &Call) -> Outcome {
    let filters = Filters::parse(call.query.text("filters"), &["is-automated", "is-official", "stars"])?;
    let (official, automated) = (filters.flag("is-official")?, filters.flag("is-automated")?);
    let mut stars = 0;
    for text in filters.get("stars") {
        let least: i64 =
            text.parse().map_err(|_| Failure::bad_request(format!("invalid filter 'stars=[{text}]'")))?;
        stars = stars.max(least);
    }
    let limit = match call.query.text("limit") {
        "" => RESULTS,
        text => text.parse().map_err(|_| Failure::bad_request(format!("invalid limit {text:?}")))?,
    };
    let limit = if limit == 0 { RESULTS } else { limit };
    if limit > MAX_RESULTS {
        let text = format!("limit {limit} is outside the range of [1, {MAX_RESULTS}]");
        return Err(Failure::bad_request(text));
    }
    let (host, term) = split(call.query.text("term"));
    if term.is_empty() {
        return Err(Failure::bad_request("search term is empty"));
    }
    let auth = credentials(call)?;
    let found = api.engine.registry().search(host, term, limit, &auth).await.map_err(|e| failure(&e))?;
    let wanted = found.iter().filter(|one| {
        official.is_none_or(|official| official == one.is_official)
            && automated.is_none_or(|automated| automated == one.is_automated)
            && one.star_count >= stars
    });
    let result = |one: &registry_client::Found| {
        json!({
            "name": one.name,
            "description": one.description,
            "star_count": one.star_count,
            "is_official": one.is_official,
            "is_automated": one.is_automated,
        })
    };
    ok(&wanted.map(result).collect::<Vec<_>>())
}

/// The registry that a term begins with, and the rest. `library/` is how Docker Hub calls what has no user.
fn split(term: &str) -> (&str, &str) {
    match term.split_once('/') {
        Some((host, rest)) if host == "localhost" || host.contains(['.', ':']) => match host {
            "index.docker.io" | DEFAULT_HOST => (DEFAULT_HOST, rest),
            host => (host, rest),
        },
        Some(("library", rest)) => (DEFAULT_HOST, rest),
        _ => (DEFAULT_HOST, term),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_name_their_registry() {
        let check = |term: &str, expected: (&str, &str)| assert_eq!(split(term), expected, "{term}");
        check("busybox", (DEFAULT_HOST, "busybox"));
        check("library/busybox", (DEFAULT_HOST, "busybox"));
        check("user/x", (DEFAULT_HOST, "user/x"));
        check("localhost/x", ("localhost", "x"));
        check("r.example:5000/a/b", ("r.example:5000", "a/b"));
        check("docker.io/x", (DEFAULT_HOST, "x"));
    }
}
