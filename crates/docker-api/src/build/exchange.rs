//! Blobs of shared caches that are in a directory of the client's (`type=local`).
//!
//! ```text
//! event  blob-wanted   store, digest, max     the client PUTs the blob, or DELETEs with an error
//!        blob-offered  store, digest, size    the client GETs the blob, or DELETEs: it has it
//!        cache-stored  store, manifest        all is there; answered by DELETE of the manifest's digest
//! ```
//!
//! All at `/brig/builds/ID/blobs/DIGEST`, where the events say the id. It is a secret of the build's stream and is known
//! only while that goes on. Bytes go between connection and content store in tasks of their own, so that a client may
//! answer one event after the other while the build waits.

use crate::body;
use crate::reply::{Failure, Outcome, empty};
use crate::request::Call;
use crate::serve::Api;
use build::{Answer, BlobStore};
use engine::Engine;
use hyper::{Method, StatusCode};
use oci::{Descriptor, Digest};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::{mpsc, oneshot};

/// The builds that may ask their clients.
#[derive(Debug, Default)]
pub struct Exchanges(Mutex<HashMap<String, Weak<Exchange>>>);

/// A build that may, until it is dropped.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) exchange: Arc<Exchange>,
    /// Events for the client.
    pub(crate) asks: mpsc::UnboundedReceiver<Value>,
}

impl Exchanges {
    pub(crate) fn open(&self) -> Open {
        let (sender, asks) = mpsc::unbounded_channel();
        let id = engine::ContainerId::random().to_string();
        let exchange = Arc::new(Exchange { id: id.clone(), asks: sender, waiting: Mutex::default() });
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, exchange| exchange.strong_count() > 0);
        all.insert(id, Arc::downgrade(&exchange));
        Open { exchange, asks }
    }

    fn get(&self, id: &str) -> Option<Arc<Exchange>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(id)?.upgrade()
    }
}

/// What one build and its client exchange.
#[derive(Debug)]
pub(crate) struct Exchange {
    id: String,
    asks: mpsc::UnboundedSender<Value>,
    waiting: Mutex<HashMap<Digest, Waiting>>,
}

/// What the client was asked for.
#[derive(Debug)]
struct Waiting {
    what: What,
    done: oneshot::Sender<Result<(), String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// To send it; at most so many bytes.
    Wanted(u64),
    Offered,
    Stored,
}

impl Exchange {
    /// The client's directory `name`.
    pub(crate) fn store(self: &Arc<Self>, name: &str) -> Arc<dyn BlobStore> {
        Arc::new(Store { exchange: self.clone(), name: name.to_string() })
    }

    async fn ask(&self, digest: Digest, what: What, mut event: Value) -> Result<(), String> {
        let (done, answer) = oneshot::channel();
        event["id"] = json!(self.id);
        let waiting = Waiting { what, done };
        drop(self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, waiting));
        let gone = || "the client has gone".to_string();
        self.asks.send(json!({ "brig": event })).map_err(|_| gone())?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    fn take(&self, digest: &Digest) -> Option<Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(digest)
    }
}

#[derive(Debug)]
struct Store {
    exchange: Arc<Exchange>,
    name: String,
}

impl BlobStore for Store {
    fn bring<'a>(&'a self, _: &'a Arc<Engine>, digest: Digest, max: u64) -> Answer<'a, ()> {
        let event =
            json!({ "event": "blob-wanted", "store": self.name, "digest": digest.to_string(), "max": max });
        Box::pin(self.exchange.ask(digest, What::Wanted(max), event))
    }

    fn take<'a>(&'a self, _: &'a Arc<Engine>, blob: &'a Descriptor) -> Answer<'a, ()> {
        let event = json!({
            "event": "blob-offered", "store": self.name, "digest": blob.digest.to_string(), "size": blob.size,
        });
        Box::pin(self.exchange.ask(blob.digest, What::Offered, event))
    }

    fn finish<'a>(&'a self, manifest: &'a Descriptor) -> Answer<'a, ()> {
        let event = json!({ "event": "cache-stored", "store": self.name, "manifest": manifest });
        Box::pin(self.exchange.ask(manifest.digest, What::Stored, event))
    }
}

/// `/brig/builds/ID/blobs/DIGEST`.
pub(crate) async fn blob(api: &Arc<Api>, id: &str, digest: &str, call: Call) -> Outcome {
    let missing = || Failure::new(StatusCode::NOT_FOUND, format!("no build waits for {digest}"));
    let exchange = api.exchanges.get(id).ok_or_else(missing)?;
    let digest: Digest = digest.parse().map_err(|e| Failure::bad_request(format!("{e}")))?;
    let Waiting { what, done } = exchange.take(&digest).ok_or_else(missing)?;
    let method = call.request.method().clone();
    match what {
        What::Wanted(max) if method == Method::PUT => {
            let engine = api.engine.clone();
            let received = body::read_by(call, |reader| async move {
                let read = tokio::task::spawn_blocking(move || receive(&engine, reader, digest, max));
                read.await.unwrap_or_else(|e| Err(Failure::bad_request(e.to_string())))
            });
            let received = received.await;
            let outcome = received.as_ref().copied().map_err(|f| f.message.clone());
            drop(done.send(outcome));
            received.map(|()| empty(StatusCode::NO_CONTENT))
        }
        What::Offered if method == Method::GET => send(api, digest, done).await,
        _ if method == Method::DELETE => {
            let outcome = match (call.query.text("error"), what) {
                ("", What::Wanted(_)) => Err("the client does not have it".to_string()),
                ("", _) => Ok(()),
                (error, _) => Err(error.to_string()),
            };
            drop(done.send(outcome));
            Ok(empty(StatusCode::NO_CONTENT))
        }
        _ => Err(Failure::bad_request(format!("the build does not wait for {method} of {digest}"))),
    }
}

fn receive(engine: &Engine, reader: body::BodyReader, digest: Digest, max: u64) -> Result<(), Failure> {
    build::receive_blob(engine, digest, None, max, reader).map_err(Failure::bad_request)
}

async fn send(api: &Arc<Api>, digest: Digest, done: oneshot::Sender<Result<(), String>>) -> Outcome {
    let engine = api.engine.clone();
    let opened = tokio::task::spawn_blocking(move || engine.content().open_blob(&digest)).await;
    let mut file = match opened {
        Ok(Ok(file)) => file,
        Ok(Err(e)) => {
            let text = errors::chain(&e);
            drop(done.send(Err(text.clone())));
            return Err(Failure::new(StatusCode::NOT_FOUND, text));
        }
        Err(e) => return Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string())),
    };
    let (mut writer, reply) = body::writer("application/octet-stream");
    drop(tokio::task::spawn_blocking(move || {
        let sent = std::io::copy(&mut file, &mut writer).and_then(|_| writer.finish());
        drop(done.send(sent.map_err(|e| format!("send blob {digest}: {e}"))));
    }));
    Ok(reply)
}
