//! `POST /images/create?fromSrc=URL`: an import of what the daemon fetches.

use crate::body;
use crate::progress::bar;
use crate::reply::{Failure, Outcome, line, stream};
use crate::serve::Api;
use bytes::Bytes;
use engine::ImportRequest;
use errors::{HasKind, Kind};
use hyper::StatusCode;
use registry_client::FileStream;
use serde_json::{Value, json};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Shortest time between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// Fetches `source` and makes an image of it. A URL without a scheme is `http`, as for Docker.
pub(crate) async fn import(api: &Arc<Api>, source: &str, request: ImportRequest) -> Outcome {
    let url = if source.contains("://") { source.to_string() } else { format!("http://{source}") };
    // While nothing has been said, a failure still has a status code of its own.
    let file = api.engine.registry().fetch(&url).await.map_err(|e| {
        let status = match e.kind() {
            Kind::InvalidArgument | Kind::Hostile | Kind::DataLoss => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Failure::new(status, errors::chain(&e))
    })?;
    let (lines, reply) = stream("application/json");
    let engine = api.engine.clone();
    tokio::spawn(async move {
        let (pieces, tar) = body::reader();
        let first = json!({ "status": format!("Downloading from {url}") });
        drop(lines.send(line(&first)).await);
        let (made, ()) = tokio::join!(engine.import_image(request, tar), feed(file, pieces, &lines));
        let last = match made {
            Ok(id) => json!({ "status": id.to_string() }),
            Err(e) => {
                let message = Failure::from(e).message;
                json!({ "errorDetail": { "message": message }, "error": message })
            }
        };
        drop(lines.send(line(&last)).await);
    });
    Ok(reply)
}

/// Hands on what arrives, and tells the client of it. Ends when the import does, for what reason ever, and gives up when the
/// client has gone.
async fn feed(mut file: FileStream, pieces: mpsc::Sender<io::Result<Bytes>>, lines: &mpsc::Sender<Bytes>) {
    let (mut at, mut told) = (0, Instant::now());
    loop {
        let piece = tokio::select! {
            piece = file.next() => piece,
            () = pieces.closed() => return,
            () = lines.closed() => {
                let gone = io::Error::new(io::ErrorKind::ConnectionAborted, "the client has left");
                return drop(pieces.send(Err(gone)).await);
            }
        };
        let piece = match piece {
            Ok(Some(piece)) => piece,
            Ok(None) => return,
            Err(e) => return drop(pieces.send(Err(io::Error::other(errors::chain(&e)))).await),
        };
        at += piece.len() as u64;
        if pieces.send(Ok(piece)).await.is_err() {
            return;
        }
        if told.elapsed() >= PROGRESS_EVERY || file.length == Some(at) {
            told = Instant::now();
            // Lines that a slow client does not take are left out: the next one says more.
            drop(lines.try_send(line(&moving(at, file.length))));
        }
    }
}

fn moving(current: u64, total: Option<u64>) -> Value {
    let total = total.unwrap_or(0);
    let mut detail = json!({ "current": current });
    if total > 0 {
        detail["total"] = total.into();
    }
    json!({ "status": "Importing", "progressDetail": detail, "progress": bar(current, total) })
}
