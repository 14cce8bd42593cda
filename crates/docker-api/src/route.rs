//! From method and path to handler.

use crate::build::exchange;
use crate::reply::{Failure, Outcome};
use crate::request::{Call, decode};
use crate::serve::Api;
use crate::{
    archives, brig, build, buildkit, checkpoints, commit, containers, disk, execs, image_archives, images,
    info, networks, push, registry, stats, system, update, volumes, websocket,
};
use hyper::{Method, StatusCode};
use std::sync::Arc;

/// Endpoints of the API that this version does not have, by first path component.
const NOT_HERE: &[(&str, &str)] = &[("plugins", "plugins")];

/// What Docker answers about a swarm where there is none, as there never is here.
pub(crate) const NO_MANAGER: &str = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to \
                          connect this node to swarm and try again.";

fn no_swarm(message: &str) -> Outcome {
    Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, message))
}

/// Calls the handler of `path`, which has no version any more.
pub(crate) async fn call(api: &Arc<Api>, path: &str, call: Call) -> Outcome {
    // Names of images hold slashes, which clients send as they are.
    let parts: Vec<String> = path.trim_matches('/').split('/').map(decode).collect();
    let words: Vec<&str> = parts.iter().map(String::as_str).collect();
    let method = call.request.method().clone();
    let (get, post, delete) = (method == Method::GET, method == Method::POST, method == Method::DELETE);
    match words.as_slice() {
        ["_ping"] if get || method == Method::HEAD => system::ping(&call),
        ["version"] if get => system::version(api),
        ["info"] if get => info::info(api).await,
        ["events"] if get => system::events(api, &call),
        ["auth"] if post => registry::auth(api, call).await,
        ["system", "df"] if get => disk::disk_usage(api, &call).await,

        ["brig", "check"] if get || post => brig::check(api, &call).await,
        ["brig", "df"] if get => brig::disk(api).await,
        ["brig", "context"] if post => build::list(api, call).await,

        ["images", "json"] if get => images::list(api, &call).await,
        ["images", "create"] if post => images::create(api, call).await,
        ["images", "load"] if post => image_archives::load(api, call).await,
        ["images", "get"] if get => image_archives::save(api, call.query.list("names"), &call).await,
        ["images", "search"] if get => registry::search(api, &call).await,
        ["images", "prune"] if post => image_archives::prune(api, &call).await,
        ["images", name @ .., "json"] if get && !name.is_empty() => {
            images::inspect(api, &name.join("/"), &call).await
        }
        ["images", name @ .., "history"] if get && !name.is_empty() => {
            images::history(api, &name.join("/"), &call).await
        }
        ["images", name @ .., "attestations"] if get && !name.is_empty() => {
            api.engine.image(&name.join("/")).await?;
            Err(Failure::not_here("reading the attestations of an image"))
        }
        ["images", name @ .., "tag"] if post && !name.is_empty() => {
            images::tag(api, &name.join("/"), &call).await
        }
        ["images", name @ .., "push"] if post && !name.is_empty() => {
            push::push(api, &name.join("/"), &call).await
        }
        ["images", name @ .., "get"] if get && !name.is_empty() => {
            image_archives::save(api, vec![name.join("/")], &call).await
        }
        ["images", name @ ..] if delete && !name.is_empty() => {
            images::remove(api, &name.join("/"), &call).await
        }

        ["commit"] if post => commit::commit(api, call).await,

        ["distribution", name @ .., "json"] if get && !name.is_empty() => {
            registry::distribution(api, &name.join("/"), &call).await
        }
        ["distribution", name @ .., "manifest"] if get && !name.is_empty() => {
            registry::manifest(api, &name.join("/"), &call).await
        }
        ["distribution", name @ .., "manifest"] if post && !name.is_empty() => {
            registry::push_list(api, &name.join("/"), call).await
        }

        ["containers", "json"] if get => containers::list(api, &call).await,
        ["containers", "create"] if post => containers::create(api, call).await,
        ["containers", "prune"] if post => containers::prune(api, &call).await,
        ["containers", id] if delete => containers::remove(api, id, &call).await,
        ["containers", parent, alias] if delete => containers::remove_link(api, parent, alias, &call).await,
        ["containers", id, "json"] if get => containers::inspect(api, id, &call).await,
        ["containers", id, "start"] if post => checkpoints::start(api, id, call).await,
        ["containers", id, "stop"] if post => containers::stop(api, id, &call).await,
        ["containers", id, "restart"] if post => containers::restart(api, id, &call).await,
        ["containers", id, "kill"] if post => containers::kill(api, id, &call).await,
        ["containers", id, "pause"] if post => containers::pause(api, id, true).await,
        ["containers", id, "unpause"] if post => containers::pause(api, id, false).await,
        ["containers", id, "rename"] if post => containers::rename(api, id, &call).await,
        ["containers", id, "resize"] if post => containers::resize(api, id, &call).await,
        ["containers", id, "top"] if get => containers::top(api, id, &call).await,
        ["containers", id, "wait"] if post => containers::wait(api, id, &call),
        ["containers", id, "logs"] if get => containers::logs(api, id, &call),
        ["containers", id, "attach"] if post => containers::attach(api, id, call).await,
        ["containers", id, "attach", "ws"] if get => websocket::attach(api, id, call).await,
        ["containers", id, "changes"] if get => archives::changes(api, id).await,
        ["containers", id, "stats"] if get => stats::stats(api, id, &call).await,
        ["containers", id, "update"] if post => update::update(api, id, call).await,
        ["containers", id, "exec"] if post => execs::create(api, id, call).await,
        ["containers", id, "export"] if get => archives::export(api, id, &call).await,
        ["containers", id, "archive"] if get => archives::get(api, id, &call).await,
        ["containers", id, "archive"] if method == Method::HEAD => archives::head(api, id, &call).await,
        ["containers", id, "archive"] if method == Method::PUT => archives::put(api, id, call).await,
        ["containers", id, "checkpoints"] if post => checkpoints::create(api, id, call).await,
        ["containers", id, "checkpoints"] if get => checkpoints::list(api, id, &call).await,
        ["containers", id, "checkpoints", name] if delete => checkpoints::remove(api, id, name, &call).await,

        ["build"] if post => build::build(api, call).await,
        ["brig", "builds", id, "blobs", digest] => exchange::blob(api, id, digest, call).await,
        ["build", "cancel"] if post => build::posted::cancel(api, &call),
        ["build", "prune"] if post => build::prune(api, &call).await,
        ["session"] if post => buildkit::session(api, call),
        ["grpc"] if post => buildkit::grpc(api, call),

        ["exec", id, "start"] if post => execs::start(api, id, call).await,
        ["exec", id, "resize"] if post => execs::resize(api, id, &call).await,
        ["exec", id, "json"] if get => execs::inspect(api, id),

        ["networks"] if get => networks::list(api, &call),
        ["networks", "create"] if post => networks::create(api, call).await,
        ["networks", "prune"] if post => networks::prune(api, &call).await,
        ["networks", name] if get => networks::inspect(api, name, &call),
        ["networks", name] if delete => networks::remove(api, name).await,
        ["networks", name, "connect"] if post => networks::connect(api, name, call).await,
        ["networks", name, "disconnect"] if post => networks::disconnect(api, name, call).await,

        ["volumes"] if get => volumes::list(api, &call).await,
        ["volumes", "create"] if post => volumes::create(api, call).await,
        ["volumes", "prune"] if post => volumes::prune(api, &call).await,
        ["volumes", name] if get => volumes::inspect(api, name).await,
        ["volumes", name] if delete => volumes::remove(api, name, &call).await,
        ["volumes", _] if method == Method::PUT => volumes::update(),
        ["brig", "volumes", name, "archive"] if get => volumes::export(api, name).await,
        ["brig", "volumes", name, "archive"] if method == Method::PUT => {
            volumes::import(api, name, call).await
        }

        ["swarm", "leave"] if post => no_swarm("This node is not part of a swarm"),
        ["swarm", "init" | "join"] if post => Err(Failure::not_here("swarm mode")),
        ["swarm" | "nodes" | "services" | "tasks" | "secrets" | "configs", ..] => no_swarm(NO_MANAGER),
        ["plugins"] if get => crate::reply::ok(&serde_json::json!([])),

        [first, ..] => match NOT_HERE.iter().find(|(word, _)| word == first) {
            Some((_, what)) => Err(Failure::not_here(what)),
            None => Err(Failure::new(StatusCode::NOT_FOUND, "page not found")),
        },
        [] => Err(Failure::new(StatusCode::NOT_FOUND, "page not found")),
    }
}
