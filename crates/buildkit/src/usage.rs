//! What the cache holds, and taking away from it.

use crate::rpc::{Outgoing, Reply};
use crate::server::Server;
use crate::status;
use crate::wire::{DiskUsageRequest, DiskUsageResponse, PruneRequest, Timestamp, UsageRecord};
use build::CacheEntry;
use std::sync::Arc;
use tonic::Status;

/// Filters of `du` and `prune` that are understood: `id`, `type`, `parent`, `description`, `shared`, `private`, with `==`,
/// `~=` (contains) or nothing behind.
#[derive(Debug, Default)]
struct Filter {
    ids: Vec<String>,
    kinds: Vec<String>,
    parents: Vec<String>,
    descriptions: Vec<String>,
    shared: Option<bool>,
}

impl Filter {
    fn parse(texts: &[String]) -> Reply<Filter> {
        let mut out = Filter::default();
        for part in texts.iter().flat_map(|t| t.split(',')).filter(|p| !p.is_empty()) {
            let (key, value) = part
                .split_once("==")
                .or_else(|| part.split_once("~="))
                .or_else(|| part.split_once('='))
                .unwrap_or((part, ""));
            let value = value.trim_matches('"').to_string();
            match key {
                "id" => out.ids.push(value),
                "type" => out.kinds.push(value),
                "parent" | "parents" => out.parents.push(value),
                "description" => out.descriptions.push(value),
                "shared" => out.shared = Some(value != "false"),
                "private" => out.shared = Some(value == "false"),
                // Nothing is in use, and what can change is what commands write to.
                _ => return Err(Status::invalid_argument(format!("invalid filter {part:?}"))),
            }
        }
        Ok(out)
    }
}

fn record(entry: CacheEntry) -> UsageRecord {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    UsageRecord {
        id: entry.id,
        mutable: entry.kind != "regular",
        in_use: false,
        size: number(entry.size_bytes),
        created_at: Some(Timestamp::from_ms(entry.created_ms)),
        last_used_at: Some(Timestamp::from_ms(entry.used_ms)),
        usage_count: number(entry.uses),
        description: entry.description,
        record_type: entry.kind,
        shared: entry.is_shared,
        parents: entry.parent.into_iter().collect(),
    }
}

async fn list(server: &Server) -> Reply<Vec<CacheEntry>> {
    let engine = server.engine.clone();
    let listed = tokio::task::spawn_blocking(move || build::list_cache(&engine)).await;
    listed.map_err(|e| Status::internal(e.to_string()))?.map_err(|e| status::of(&e))
}

fn age_ms(ns: i64) -> Option<i64> {
    (ns > 0).then(|| jiff::Timestamp::now().as_millisecond() - ns / 1_000_000)
}

/// `DiskUsage`.
pub(crate) async fn disk_usage(server: Arc<Server>, asked: DiskUsageRequest) -> Reply<DiskUsageResponse> {
    let filter = Filter::parse(&asked.filter)?;
    let until = age_ms(asked.age_limit);
    let mut entries = list(&server).await?;
    let any = |list: &[String], fits: &dyn Fn(&String) -> bool| list.is_empty() || list.iter().any(fits);
    entries.retain(|e| {
        any(&filter.ids, &|id| e.id.starts_with(id.as_str()))
            && any(&filter.kinds, &|kind| *kind == e.kind)
            && any(&filter.parents, &|parent| e.parent.as_ref() == Some(parent))
            && any(&filter.descriptions, &|text| e.description.contains(text.as_str()))
            && filter.shared.is_none_or(|shared| shared == e.is_shared)
            && until.is_none_or(|until| e.used_ms < until)
    });
    Ok(DiskUsageResponse { record: entries.into_iter().map(record).collect() })
}

/// `Prune`: what went, one by one.
pub(crate) async fn prune(server: Arc<Server>, asked: PruneRequest) -> Reply<Outgoing<UsageRecord>> {
    if asked.min_free_space > 0 {
        return Err(Status::unimplemented("pruning by free space is not supported by this version of brig"));
    }
    let filter = Filter::parse(&asked.filter)?;
    let size = |n: i64| u64::try_from(n).ok().filter(|n| *n > 0);
    let how = build::Prune {
        all: asked.all,
        until_ms: age_ms(asked.keep_duration),
        keep_bytes: size(asked.max_used_space).or(size(asked.reserved_space)),
        ids: filter.ids,
        kinds: filter.kinds,
        parents: filter.parents,
        descriptions: filter.descriptions,
        shared: filter.shared,
    };
    let before = list(&server).await?;
    let engine = server.engine.clone();
    let pruned = tokio::task::spawn_blocking(move || build::prune(&engine, &how)).await;
    let pruned = pruned.map_err(|e| Status::internal(e.to_string()))?.map_err(|e| status::of(&e))?;
    let gone: Vec<Reply<UsageRecord>> =
        before.into_iter().filter(|e| pruned.ids.contains(&e.id)).map(|e| Ok(record(e))).collect();
    Ok(Box::pin(futures_util::stream::iter(gone)))
}
