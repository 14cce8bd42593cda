//! What keys lead to, in the database; and putting layers on disk without anybody waiting for it.
//!
//! A step's layer is used at once by the steps above it. It is remembered once its files are on disk: a task of the
//! build collects what is new, syncs the file system once for all of it and then writes the rows. So a build that is
//! killed leaves behind what it had finished some moments before, and never a row without its layer.

use crate::error::{During, Error};
use crate::flight::Flight;
use engine::blocking;
use engine::{Engine, StepLayer};
use image::Lease;
use metadata::BuildCacheRow;
use oci::{Descriptor, Digest};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::sync::mpsc;

/// What a step came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Topmost layer behind the step.
    pub(crate) chain_id: Option<Digest>,
    /// The layer it made; none when no file changed.
    pub(crate) layer: Option<(Descriptor, Digest)>,
    /// When it was made: RFC 3339.
    pub(crate) created: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Body {
    version: u32,
    created: String,
    layer: Option<(Descriptor, Digest)>,
}

const VERSION: u32 = 1;

impl Outcome {
    /// Of a step that left `parent` as it was, or put a layer on it.
    pub(crate) fn new(parent: Option<Digest>, made: Option<StepLayer>, created: String) -> Outcome {
        match made {
            Some(made) => Outcome {
                chain_id: Some(made.chain_id),
                layer: Some((made.layer.descriptor, made.layer.diff_id)),
                created,
            },
            None => Outcome { chain_id: parent, layer: None, created },
        }
    }
}

/// Looks a key up; what is found is kept by the lease. Blocking.
pub(crate) fn look_up(engine: &Engine, lease: &Lease, key: &Digest) -> Result<Option<Outcome>, Error> {
    let doing = || "look into the build cache".to_string();
    let key = key.to_string();
    let Some(row) = engine.database().build_cache(&key).during(doing)? else { return Ok(None) };
    let Ok(body) = serde_json::from_str::<Body>(&row.body) else { return Ok(None) };
    if body.version != VERSION {
        return Ok(None);
    }
    // Kept before it is looked for, so that it is not collected in between.
    if let Some(chain_id) = &row.chain_id {
        lease.keep_layer(chain_id);
        if engine.snapshots().layer(chain_id).during(doing)?.is_none() {
            return Ok(None);
        }
    }
    if let Some((descriptor, diff_id)) = &body.layer {
        lease.keep_blob(&descriptor.digest);
        // The plain blob of a layer is made of its files when it is needed.
        if descriptor.digest != *diff_id && !engine.content().contains(&descriptor.digest) {
            return Ok(None);
        }
    }
    engine.database().touch_build_cache(&key, now_ms()).during(doing)?;
    Ok(Some(Outcome { chain_id: row.chain_id, layer: body.layer, created: body.created }))
}

/// Keeps what a step of another build came to.
pub(crate) fn hold(lease: &Lease, outcome: &Outcome) {
    if let Some(chain_id) = &outcome.chain_id {
        lease.keep_layer(chain_id);
    }
    if let Some((descriptor, _)) = &outcome.layer {
        lease.keep_blob(&descriptor.digest);
    }
}

/// A row for the outcome of a step.
pub(crate) fn row(
    key: &Digest,
    parent: Option<&Digest>,
    outcome: &Outcome,
    size: u64,
    what: &str,
) -> BuildCacheRow {
    let body = Body { version: VERSION, created: outcome.created.clone(), layer: outcome.layer.clone() };
    BuildCacheRow {
        key: key.to_string(),
        kind: "regular".into(),
        parent: parent.map(Digest::to_string),
        chain_id: outcome.chain_id,
        blob: outcome.layer.as_ref().map(|(descriptor, _)| descriptor.digest),
        body: serde_json::to_string(&body).expect("plain strings"),
        description: what.chars().take(MAX_DESCRIPTION).collect(),
        size_bytes: size,
        created_ms: now_ms(),
        used_ms: now_ms(),
        uses: 1,
    }
}

/// Those of `rows` whose layer and blob are here. Blocking.
pub(crate) fn present(engine: &Engine, rows: Vec<BuildCacheRow>) -> Result<Vec<BuildCacheRow>, Error> {
    let doing = || "look for a layer".to_string();
    let mut out = Vec::new();
    for row in rows {
        let layer = match &row.chain_id {
            Some(chain_id) => engine.snapshots().layer(chain_id).during(doing)?,
            None => None,
        };
        let has_blob = |blob| {
            layer.as_ref().is_some_and(|layer| layer.diff_id == blob) || engine.content().contains(&blob)
        };
        if layer.is_some() == row.chain_id.is_some() && row.blob.is_none_or(has_blob) {
            out.push(row);
        }
    }
    Ok(out)
}

/// Characters of an instruction that the cache's list shows.
const MAX_DESCRIPTION: usize = 500;

/// Something to remember, and the step that is known for as long as this lives.
#[derive(Debug)]
pub(crate) struct News {
    pub(crate) row: BuildCacheRow,
    #[expect(dead_code, reason = "dropped once the row is written")]
    pub(crate) flight: Option<Flight>,
}

/// Puts layers on disk and remembers them.
#[derive(Debug)]
pub(crate) struct Keeper {
    sender: mpsc::UnboundedSender<News>,
    task: tokio::task::JoinHandle<Result<(), Error>>,
}

impl Keeper {
    /// Starts the task, which goes on to the end of what it was given even when nobody waits.
    pub(crate) fn start(engine: Arc<Engine>, lease: Arc<Lease>) -> Keeper {
        let (sender, mut receiver) = mpsc::unbounded_channel::<News>();
        let task = tokio::spawn(async move {
            while let Some(first) = receiver.recv().await {
                let mut news = vec![first];
                while let Ok(more) = receiver.try_recv() {
                    news.push(more);
                }
                let engine = engine.clone();
                blocking(move || keep(&engine, &news)).await?;
            }
            drop(lease);
            Ok(())
        });
        Keeper { sender, task }
    }

    pub(crate) fn sender(&self) -> mpsc::UnboundedSender<News> {
        self.sender.clone()
    }

    /// Waits until all is on disk.
    pub(crate) async fn finish(self) -> Result<(), Error> {
        drop(self.sender);
        match self.task.await {
            Ok(result) => result,
            Err(e) => Err(Error::invalid(format!("the build cache could not be written: {e}"))),
        }
    }
}

fn keep(engine: &Engine, news: &[News]) -> Result<(), Error> {
    let doing = || "write the build cache".to_string();
    engine.snapshots().sync().during(doing)?;
    engine
        .database()
        .write(|tx| {
            for News { row, .. } in news {
                if let Some(chain_id) = &row.chain_id {
                    tx.set_layer_durable(chain_id)?;
                }
                tx.put_build_cache(row)?;
            }
            Ok::<_, metadata::Error>(())
        })
        .during(doing)
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
