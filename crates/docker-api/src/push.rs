//! `POST /images/{name}/push`, and its steps as the lines that Docker's clients draw.

use crate::progress::{moving_line, short, status};
use crate::reply::{Failure, Outcome, line, stream};
use crate::request::Call;
use crate::serve::Api;
use engine::PushEvent;
use oci::{Digest, Reference};
use registry_client::PushProgress;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Progress events kept for a slow client; more are dropped, the next ones say the same and more.
const EVENTS: usize = 1024;

/// `POST /images/{name}/push`.
pub(crate) async fn push(api: &Arc<Api>, name: &str, call: &Call) -> Outcome {
    let invalid = |e: &dyn std::error::Error| Failure::bad_request(errors::chain(e));
    let mut reference: Reference = name.parse().map_err(|e| invalid(&e))?;
    if !call.query.text("tag").is_empty() {
        reference = reference.with_tag(call.query.text("tag")).map_err(|e| invalid(&e))?;
    }
    let platform = match call.query.text("platform") {
        "" => None,
        text => Some(crate::images::parse_platform(text)?),
    };
    if reference.digest().is_some() {
        return Err(Failure::bad_request("cannot push a digest reference"));
    }
    let auth = crate::registry::credentials(call)?;
    let (events, mut receiver) = mpsc::channel(EVENTS);
    let engine = api.engine.clone();
    let (sender, reply) = stream("application/json");
    let work = async move { engine.push(&reference, platform.as_ref(), &auth, events).await };
    tokio::spawn(async move {
        let mut work = std::pin::pin!(work);
        let mut lines = PushLines::default();
        let mut result = None;
        loop {
            tokio::select! {
                // What was said before the end comes before the end.
                biased;
                event = receiver.recv() => match event {
                    Some(event) => for value in lines.lines(&event) {
                        if sender.send(line(&value)).await.is_err() {
                            return;
                        }
                    },
                    None => break,
                },
                done = &mut work, if result.is_none() => result = Some(done),
                // A client that has gone ends the push.
                () = sender.closed() => return,
            }
        }
        if let Some(Err(e)) = result {
            let message = Failure::from(e).message;
            let last = json!({ "errorDetail": { "message": message }, "error": message });
            drop(sender.send(line(&last)).await);
        }
    });
    Ok(reply)
}

/// Turns events into lines.
#[derive(Debug, Default)]
struct PushLines {
    last: HashMap<Digest, u64>,
}

impl PushLines {
    fn lines(&mut self, event: &PushEvent) -> Vec<Value> {
        // What programs read has a line of its own: clients show nothing of it.
        let aux = |value: Value| json!({ "progressDetail": {}, "aux": value });
        match event {
            PushEvent::Begun { repository } => {
                vec![json!({ "status": format!("The push refers to repository [{repository}]") })]
            }
            PushEvent::Transfer(progress) => self.transfer(progress).into_iter().collect(),
            PushEvent::Instead { index, manifest } => vec![aux(json!({
                "manifestPushedInsteadOfIndex": true,
                "originalIndex": index,
                "selectedManifest": manifest,
            }))],
            PushEvent::Done { tag, digest, size } => vec![
                json!({ "status": format!("{tag}: digest: {digest} size: {size}") }),
                aux(json!({ "Tag": tag, "Digest": digest, "Size": size })),
            ],
        }
    }

    fn transfer(&mut self, progress: &PushProgress) -> Option<Value> {
        Some(match progress {
            PushProgress::Queued { digest } => status(digest, "Preparing"),
            PushProgress::Exists { digest } => status(digest, "Layer already exists"),
            PushProgress::Mounted { digest, from } => status(digest, &format!("Mounted from {from}")),
            PushProgress::Pushing { digest, current, total } => {
                let last = self.last.insert(*digest, *current);
                if last.is_some_and(|last| *current < *total && current.saturating_sub(last) < total / 100) {
                    return None;
                }
                moving_line(digest, "Pushing", *current, *total)
            }
            PushProgress::Retrying { digest, after } => {
                json!({
                    "status": format!("Retrying in {} seconds", after.as_secs().max(1)),
                    "progressDetail": {},
                    "id": short(digest),
                })
            }
            PushProgress::Pushed { digest } => status(digest, "Pushed"),
        })
    }
}
