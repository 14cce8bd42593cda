//! The cache as a list, and taking away from it.

use crate::error::{During, Error, IoDuring};
use crate::kept;
use engine::Engine;
use metadata::BuildCacheRow;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

/// One thing that builds remember.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheEntry {
    pub id: String,
    pub parent: Option<String>,
    /// `regular`, `exec.cachemount`, `source.local` or `source.http`.
    pub kind: String,
    pub description: String,
    /// An image has its layer too.
    pub is_shared: bool,
    pub size_bytes: u64,
    pub created_ms: i64,
    pub used_ms: i64,
    pub uses: u64,
}

/// What is to go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prune {
    /// Also what images need: the memory of it, not their layers.
    pub all: bool,
    /// Only what was last used before (milliseconds since 1970).
    pub until_ms: Option<i64>,
    /// Bytes that may stay, what was used last first.
    pub keep_bytes: Option<u64>,
    /// Of these, by beginning.
    pub ids: Vec<String>,
    pub kinds: Vec<String>,
    pub parents: Vec<String>,
    pub descriptions: Vec<String>,
    /// `Some(true)`: only what images share; `Some(false)`: only what they do not.
    pub shared: Option<bool>,
}

/// What went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    pub ids: Vec<String>,
    pub bytes: u64,
}

/// All that builds remember, what was used last first. Blocking.
pub fn list_cache(engine: &Engine) -> Result<Vec<CacheEntry>, Error> {
    let doing = || "list the build cache".to_string();
    let (rows, of_images) = engine
        .database()
        .read(|tx| Ok::<_, metadata::Error>((tx.list_build_cache()?, tx.list_image_blobs()?)))
        .during(doing)?;
    let of_images: BTreeSet<_> = of_images.into_iter().collect();
    let home = engine.build_cache_dir();
    rows.into_iter()
        .map(|row| {
            let size_bytes = match (row.key.strip_prefix("mount:"), row.key.strip_prefix(kept::PREFIX)) {
                (Some(name), _) => size_of(&home.join(name), |_| true),
                // A file that layers have too is not freed with the context.
                (None, Some(_)) => size_of(&home.join(kept::directory(&row.key)), |m| m.nlink() == 1),
                (None, None) => row.size_bytes,
            };
            let is_shared = row.blob.is_some_and(|blob| of_images.contains(&blob));
            Ok(entry(row, is_shared, size_bytes))
        })
        .collect()
}

fn entry(row: BuildCacheRow, is_shared: bool, size_bytes: u64) -> CacheEntry {
    let known = |key: &str| {
        ["sha256:", "mount:", kept::PREFIX].iter().find_map(|p| Some(key.strip_prefix(p)?.to_string()))
    };
    let id = |key: &str| known(key).unwrap_or_else(|| key.to_string());
    CacheEntry {
        id: id(&row.key),
        parent: row.parent.as_deref().map(id),
        kind: row.kind,
        description: row.description,
        is_shared,
        size_bytes,
        created_ms: row.created_ms,
        used_ms: row.used_ms,
        uses: row.uses,
    }
}

/// Sizes of those files below a directory of ours that count.
fn size_of(dir: &std::path::Path, counts: impl Fn(&std::fs::Metadata) -> bool) -> u64 {
    let mut total = 0;
    let mut pending = vec![dir.to_path_buf()];
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(m) if m.is_dir() => pending.push(entry.path()),
                Ok(m) if counts(&m) => total += m.len(),
                _ => {}
            }
        }
    }
    total
}

/// Forgets what `how` says, and frees what nobody else needs. Blocking.
pub fn prune(engine: &Arc<Engine>, how: &Prune) -> Result<Pruned, Error> {
    let doing = || "prune the build cache".to_string();
    let mut kept = 0u64;
    let mut going = Vec::new();
    for entry in list_cache(engine)? {
        let fits = how.until_ms.is_none_or(|until| entry.used_ms < until)
            && (how.ids.is_empty() || how.ids.iter().any(|id| entry.id.starts_with(id.as_str())))
            && (how.kinds.is_empty() || how.kinds.contains(&entry.kind))
            && (how.parents.is_empty() || how.parents.iter().any(|p| entry.parent.as_ref() == Some(p)))
            && (how.descriptions.is_empty()
                || how.descriptions.iter().any(|d| entry.description.contains(d.as_str())))
            && how.shared.is_none_or(|shared| shared == entry.is_shared)
            && (how.all || !entry.is_shared);
        // What was used last stays for as long as there is room.
        let stays = how.keep_bytes.is_some_and(|max| kept + entry.size_bytes <= max);
        if !fits || stays {
            kept += entry.size_bytes;
        } else {
            going.push(entry);
        }
    }
    let home = engine.build_cache_dir();
    let mut freed: BTreeMap<String, u64> = BTreeMap::new();
    for entry in &going {
        if entry.kind == kept::KIND {
            if kept::remove(engine, &entry.id)? {
                freed.insert(entry.id.clone(), entry.size_bytes);
            }
            continue;
        }
        let is_mount = entry.kind == "exec.cachemount";
        let key = if is_mount { format!("mount:{}", entry.id) } else { format!("sha256:{}", entry.id) };
        engine.database().delete(|tx| tx.delete_build_cache(&key)).during(doing)?;
        if is_mount {
            // By rename first: who uses it goes on with what it has.
            let (path, gone) = (home.join(&entry.id), home.join(format!("{}.gone", entry.id)));
            if std::fs::rename(&path, &gone).is_ok() {
                std::fs::remove_dir_all(&gone).io_during(doing)?;
                freed.insert(entry.id.clone(), entry.size_bytes);
            }
        }
    }
    let collected = engine.images().collect_garbage().during(doing)?;
    let bytes = collected.bytes + freed.values().sum::<u64>();
    Ok(Pruned { ids: going.into_iter().map(|e| e.id).collect(), bytes })
}
