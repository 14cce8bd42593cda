//! Contexts that a client sends from its standard input: behind a URL that only its session can answer.

use crate::rpc::{Reply, stream_of_unbounded};
use crate::session::Session;
use crate::status;
use crate::wire::BytesMessage;
use build::Context;
use engine::Engine;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tonic::Status;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};

const PULL: &str = "/moby.upload.v1.Upload/Pull";
const HOST: &str = "buildkit-session";
/// Largest archive.
const MAX_BYTES: u64 = 64 << 30;

/// Host and path of a URL that the session answers.
pub(crate) fn host_and_path(url: &str) -> Option<(String, String)> {
    let rest = url.strip_prefix("http://")?;
    let (host, path) = rest.split_once('/')?;
    (host == HOST).then(|| (host.to_string(), format!("/{path}")))
}

/// Reads what the client sends: an archive, or a Dockerfile, whose text comes back.
pub(crate) async fn pull(
    engine: &Arc<Engine>,
    session: &Session,
    host: &str,
    path: &str,
) -> Reply<(Context, Option<String>)> {
    let mut metadata = MetadataMap::new();
    for (key, value) in [("urlpath", path), ("urlhost", host)] {
        let value = AsciiMetadataValue::try_from(value)
            .map_err(|_| Status::invalid_argument(format!("{value:?} cannot be asked for")))?;
        metadata.insert(key, value);
    }
    // Kept open: the client sends for as long as we listen.
    let (sender, receiver) = mpsc::unbounded_channel::<BytesMessage>();
    let mut incoming =
        session.caller.streams::<_, BytesMessage>(PULL, stream_of_unbounded(receiver), metadata).await?;
    let scratch = engine.make_scratch().map_err(|e| status::of(&e))?;
    let file_path = scratch.path().join("upload");
    let failed = |e: std::io::Error| Status::internal(format!("write an uploaded context: {e}"));
    let mut file = tokio::fs::File::create(&file_path).await.map_err(failed)?;
    let mut total = 0;
    while let Some(message) = incoming.message().await? {
        total += message.data.len() as u64;
        if total > MAX_BYTES {
            return Err(Status::resource_exhausted(format!("the context is larger than {MAX_BYTES} bytes")));
        }
        file.write_all(&message.data).await.map_err(failed)?;
    }
    drop(sender);
    file.flush().await.map_err(failed)?;
    let engine = engine.clone();
    let read = move || {
        let read = build::read_context(&engine, &file_path, "the uploaded context");
        drop(scratch);
        read.map_err(|e| status::failed(&e, "", "", None))
    };
    tokio::task::spawn_blocking(read).await.unwrap_or_else(|e| Err(Status::internal(e.to_string())))
}
