//! From a build that goes on to its record in the history, and what clients ask of that.

use crate::history::{Filters, History, Remains, Said};
use crate::job::{Job, Output};
use crate::rpc::{Outgoing, Reply};
use crate::server::Server;
use crate::wire::{
    BlobDescriptor, BlobInfo, BlobInfoResponse, ContentInfoRequest, Exporter, HistoryEvent, HistoryRecord,
    HistoryRequest, HistoryResult, Nothing, ReadContentRequest, ReadContentResponse, RpcStatus, SolveRequest,
    Timestamp, UpdateHistoryRequest,
};
use build::Attests;
use engine::Engine;
use futures_util::StreamExt;
use oci::Descriptor;
use oci::image::MAX_MANIFEST;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::broadcast::error::RecvError;
use tonic::{Code, Status};

/// Bytes of a blob in one message.
const PIECE: usize = 1 << 20;

/// The account of a build that goes on; one that is dropped was broken off.
#[derive(Debug)]
pub(crate) struct Account {
    engine: Arc<Engine>,
    history: Arc<History>,
    job: Arc<Job>,
    record: Option<HistoryRecord>,
}

/// What a build came to.
#[derive(Debug, Default)]
pub(crate) struct Came {
    pub(crate) response: BTreeMap<String, String>,
    pub(crate) outputs: Vec<Arc<Output>>,
    /// Manifests and indexes, by the number of what was to be made of the result.
    pub(crate) made: BTreeMap<i64, Descriptor>,
}

impl Account {
    /// Opens it. Nothing is kept of builds that clients do for themselves.
    pub(crate) fn open(server: &Server, job: &Arc<Job>, asked: &SolveRequest) -> Account {
        let (engine, history) = (server.engine.clone(), server.history.clone());
        let mut account = Account { engine, history, job: job.clone(), record: None };
        if asked.internal {
            return account;
        }
        let mut exporters = asked.exporters.clone();
        if exporters.is_empty() && !asked.exporter_deprecated.is_empty() {
            let (kind, attrs) = (&asked.exporter_deprecated, &asked.exporter_attrs_deprecated);
            exporters.push(Exporter { kind: kind.clone(), attrs: attrs.clone() });
        }
        let record = HistoryRecord {
            reference: job.reference.clone(),
            frontend: asked.frontend.clone(),
            frontend_attrs: redacted(&asked.frontend_attrs),
            exporters,
            created_at: Some(Timestamp::now()),
            ..HistoryRecord::default()
        };
        job.board.record();
        account.history.begin(record.clone());
        account.record = Some(record);
        account
    }

    /// The build has ended.
    pub(crate) async fn close(mut self, outcome: Result<&Came, &Status>) {
        let Some(record) = self.record.take() else { return };
        let (history, job) = (self.history.clone(), self.job.clone());
        let (engine, reference) = (self.engine.clone(), record.reference.clone());
        let (outputs, made, response, error) = match outcome {
            Ok(came) => (came.outputs.clone(), came.made.clone(), came.response.clone(), None),
            Err(status) => (Vec::new(), BTreeMap::new(), BTreeMap::new(), Some(rpc_status(status))),
        };
        let write = move || {
            let mut said = Vec::new();
            let mut record = HistoryRecord { exporter_response: response, error, ..record };
            for output in &outputs {
                let own = provenance(output);
                let attestations = own.iter().map(Said::descriptor).collect();
                said.extend(own);
                let results = made.iter().map(|(number, made)| (*number, described(made))).collect();
                let result = HistoryResult { attestations, results };
                if output.origin.is_multi {
                    record.results.insert(output.platform.to_string(), result);
                } else {
                    record.result = Some(result);
                }
            }
            let read =
                |made: &Descriptor| engine.content().read_bounded(&made.digest, MAX_MANIFEST as u64).ok();
            let documents = made.values().filter_map(read).collect();
            finish(&history, &job, record, Remains { said, documents, ..Remains::default() });
        };
        if let Err(error) = tokio::task::spawn_blocking(write).await {
            tracing::warn!(%error, "a build is not in the history");
            self.history.abandon(&reference);
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let Some(mut record) = self.record.take() else { return };
        let (history, job) = (self.history.clone(), self.job.clone());
        record.error = Some(RpcStatus {
            code: Code::Cancelled as i32,
            message: "context canceled".into(),
            details: Vec::new(),
        });
        // Without a runtime the daemon ends, and forgets it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            drop(runtime.spawn_blocking(move || finish(&history, &job, record, Remains::default())));
        }
    }
}

/// Blocking.
fn finish(history: &History, job: &Job, mut record: HistoryRecord, remains: Remains) {
    let told = job.board.take_recording();
    let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    record.completed_at = Some(Timestamp::now());
    record.total_steps = number(told.total);
    record.completed_steps = number(told.completed);
    record.cached_steps = number(told.cached);
    record.warnings = number(told.warnings);
    if record.frontend_attrs.is_empty()
        && let Some((frontend, attrs)) = job.frontend()
    {
        record.frontend = frontend;
        record.frontend_attrs = redacted(&attrs);
    }
    history.complete(record, &Remains { news: told.bytes, ..remains });
}

/// How a result was made, as far as that can be told.
fn provenance(output: &Output) -> Option<Said> {
    let asked = [("provenance".to_string(), "mode=max".to_string())].into();
    let told = Attests::parse(&asked).and_then(|asked| output.solved.predicates(&asked));
    match told {
        Ok(predicates) => predicates.into_iter().next().map(|predicate| Said {
            predicate_type: predicate.predicate_type.into(),
            bytes: predicate.body.to_string().into_bytes(),
        }),
        Err(e) => {
            tracing::debug!(error = e.text(), "a build's history is without provenance");
            None
        }
    }
}

/// Without logins in URLs.
fn redacted(attrs: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    attrs.iter().map(|(key, value)| (key.clone(), build::redact(value))).collect()
}

fn described(descriptor: &Descriptor) -> BlobDescriptor {
    BlobDescriptor {
        media_type: descriptor.media_type.clone(),
        digest: descriptor.digest.to_string(),
        size: i64::try_from(descriptor.size).unwrap_or(i64::MAX),
        annotations: descriptor.annotations.clone(),
    }
}

/// A failure with its details, as it went to the client.
fn rpc_status(status: &Status) -> RpcStatus {
    use prost::Message;
    let whole = RpcStatus::decode(status.details()).ok().filter(|whole| whole.code != 0);
    whole.unwrap_or_else(|| RpcStatus {
        code: status.code() as i32,
        message: status.message().to_string(),
        details: Vec::new(),
    })
}

async fn blocking<T, F>(work: F) -> Reply<T>
where
    T: Send + 'static,
    F: FnOnce() -> Reply<T> + Send + 'static,
{
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(Status::internal(e.to_string())))
}

/// `ListenBuildHistory`.
pub(crate) async fn listen(server: Arc<Server>, asked: HistoryRequest) -> Reply<Outgoing<HistoryEvent>> {
    let (history, request) = (server.history.clone(), asked.clone());
    let (known, receiver) = blocking(move || history.list(&request)).await?;
    let known = futures_util::stream::iter(known.into_iter().map(Ok));
    if asked.early_exit {
        return Ok(Box::pin(known));
    }
    let filters = Filters::parse(&asked.filter)?;
    let start = (receiver, asked, filters);
    let coming = futures_util::stream::unfold(start, |(mut receiver, asked, filters)| async move {
        loop {
            let event = match receiver.recv().await {
                Ok(event) => event,
                Err(RecvError::Closed) => return None,
                Err(RecvError::Lagged(missed)) => {
                    let lost =
                        Status::data_loss(format!("{missed} events of the history were not read in time"));
                    return Some((Err(lost), (receiver, asked, filters)));
                }
            };
            let reference = event.record.as_ref().map(|record| &record.reference);
            let is_meant = asked.reference.is_empty() || reference == Some(&asked.reference);
            let is_gone = event.kind == HistoryEvent::DELETED;
            // Of one that is gone nothing is left to compare.
            let holds = is_gone || event.record.as_ref().is_some_and(|record| filters.match_all(record));
            if is_meant && holds && !(asked.active_only && is_gone) {
                return Some((Ok(event), (receiver, asked, filters)));
            }
        }
    });
    Ok(Box::pin(known.chain(coming)))
}

/// `UpdateBuildHistory`: pins a record or lets it go, or forgets it.
pub(crate) async fn update(server: Arc<Server>, asked: UpdateHistoryRequest) -> Reply<Nothing> {
    let UpdateHistoryRequest { reference, pinned, delete, finalize } = asked;
    // A record is whole as soon as it is told of.
    if finalize {
        return Ok(Nothing {});
    }
    let history = server.history.clone();
    blocking(move || if delete { history.delete(&reference) } else { history.pin(&reference, pinned) })
        .await?;
    Ok(Nothing {})
}

/// What the client of a build that has ended was told; nothing for a build that is not known.
pub(crate) async fn news(server: &Server, reference: &str) -> Reply<Option<Vec<u8>>> {
    let (history, reference) = (server.history.clone(), reference.to_string());
    blocking(move || history.news(&reference)).await
}

/// `Content.Info` of what records name.
pub(crate) async fn blob_info(server: Arc<Server>, asked: ContentInfoRequest) -> Reply<BlobInfoResponse> {
    let (history, digest) = (server.history.clone(), asked.digest.clone());
    let (size, time) = blocking(move || history.blob(&digest)).await?;
    let size = i64::try_from(size).unwrap_or(i64::MAX);
    let info = BlobInfo { digest: asked.digest, size, created_at: time, updated_at: time };
    Ok(BlobInfoResponse { info: Some(info) })
}

/// `Content.Read` of what records name.
pub(crate) async fn blob_read(
    server: Arc<Server>,
    asked: ReadContentRequest,
) -> Reply<Outgoing<ReadContentResponse>> {
    let ReadContentRequest { digest, offset, size } = asked;
    let (Ok(from), Ok(length)) = (u64::try_from(offset), u64::try_from(size)) else {
        return Err(Status::out_of_range("a blob is read from its beginning on"));
    };
    let history = server.history.clone();
    let bytes = blocking(move || history.read_blob(&digest, from, length)).await?;
    let bytes = bytes::Bytes::from(bytes);
    let count = bytes.len().div_ceil(PIECE);
    let pieces = (0..count).map(move |at| {
        let (begin, end) = (at * PIECE, ((at + 1) * PIECE).min(bytes.len()));
        let offset = offset.saturating_add(i64::try_from(begin).unwrap_or(i64::MAX));
        Ok(ReadContentResponse { offset, data: bytes.slice(begin..end) })
    });
    Ok(Box::pin(futures_util::stream::iter(pieces)))
}
