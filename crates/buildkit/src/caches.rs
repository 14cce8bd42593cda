//! Shared caches: which are used and made, and those that are in a directory of the client's, which it serves as a
//! containerd content store on its session.

use crate::board::Task;
use crate::client::{credentials, fresh};
use crate::job::{Job, Output};
use crate::options::CacheEntry;
use crate::rpc::{Reply, stream_of};
use crate::session::Session;
use crate::status;
use crate::wire::{
    ContentInfoRequest, ContentInfoResponse, ReadContentRequest, ReadContentResponse, WriteContentRequest,
    WriteContentResponse,
};
use build::{Answer, Arriving, BlobStore, CacheFrom, CacheTarget, CacheTo};
use engine::Engine;
use oci::{Descriptor, Digest};
use registry_client::Auth;
use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;
use tokio::sync::mpsc;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::{Code, Status};

const INFO: &str = "/containerd.services.content.v1.Content/Info";
const READ: &str = "/containerd.services.content.v1.Content/Read";
const WRITE: &str = "/containerd.services.content.v1.Content/Write";
/// Under which name clients choose one of their stores.
const STORE: &str = "buildkit-attachable-store-id";
/// Bytes of one message with a blob's.
const PIECE: usize = 512 << 10;

/// The caches that a build is to use.
pub(crate) fn imports(job: &Job, more: &[CacheEntry]) -> Reply<Vec<CacheFrom>> {
    let store = |name: &str| Ok(store(&job.session, name));
    let mut seen: Vec<&CacheEntry> = Vec::new();
    let mut out = Vec::new();
    for entry in job.cache_imports.iter().chain(more) {
        // Clients say it twice: of the build, and of the frontend.
        if seen.contains(&entry) {
            continue;
        }
        seen.push(entry);
        let from = CacheFrom::parse(&entry.kind, &entry.attrs, &store);
        out.push(from.map_err(|e| status::failed(&e, "", "", None))?);
    }
    Ok(out)
}

/// The caches that a build is to make.
pub(crate) fn exports(session: &Arc<Session>, entries: &[CacheEntry]) -> Reply<Vec<CacheTo>> {
    let store = |name: &str| Ok(store(session, name));
    let parse = |entry: &CacheEntry| {
        CacheTo::parse(&entry.kind, &entry.attrs, &store).map_err(|e| status::failed(&e, "", "", None))
    };
    entries.iter().map(parse).collect()
}

/// Makes them of what was built. What the client is told of it.
pub(crate) async fn export(job: &Arc<Job>, outputs: &[Arc<Output>]) -> Reply<BTreeMap<String, String>> {
    let mut answer = BTreeMap::new();
    let all: Vec<&build::Solved> = outputs.iter().map(|output| &output.solved).collect();
    for to in job.cache_exports.iter().filter(|to| to.place.is_some()) {
        let task = Task::begin(&job.board, fresh(), to.doing());
        let exported = async {
            let auth = match &to.place {
                Some(CacheTarget::Registry(reference)) => credentials(&job.session, reference.host()).await?,
                _ => Auth::Anonymous,
            };
            let exported = build::export_cache(&all, to, &auth).await;
            exported.map_err(|e| status::failed(&e, "", "", None))
        };
        let exported = exported.await;
        if let Ok(Some(done)) = &exported {
            task.progress(&format!("writing cache manifest {}", done.manifest.digest), 0, 0, true);
            let text = serde_json::to_string(&done.manifest).unwrap_or_default();
            answer.insert("cache.manifest".to_string(), text);
        }
        match task.of(exported) {
            Err(e) if !to.ignore_error => return Err(e),
            _ => {}
        }
    }
    Ok(answer)
}

/// A directory of the client's.
fn store(session: &Arc<Session>, name: &str) -> Arc<dyn BlobStore> {
    Arc::new(Store { session: session.clone(), id: format!("local:{name}") })
}

/// A layout of the client's, of images that a build begins with.
pub(crate) fn layout(session: &Arc<Session>, name: &str) -> Arc<dyn BlobStore> {
    Arc::new(Store { session: session.clone(), id: format!("oci:{name}") })
}

#[derive(Debug)]
struct Store {
    session: Arc<Session>,
    id: String,
}

impl Store {
    fn metadata(&self) -> Result<MetadataMap, String> {
        let mut metadata = MetadataMap::new();
        let id = AsciiMetadataValue::try_from(self.id.as_str())
            .map_err(|_| format!("{:?} cannot be asked for", self.id))?;
        metadata.insert(STORE, id);
        Ok(metadata)
    }

    async fn has(&self, digest: &Digest) -> Result<bool, String> {
        let asked = ContentInfoRequest { digest: digest.to_string() };
        let metadata = self.metadata()?;
        let answer = self.session.caller.unary_with::<_, ContentInfoResponse>(INFO, asked, metadata).await;
        Ok(answer.is_ok())
    }

    async fn read(&self, engine: &Arc<Engine>, digest: Digest, max: u64) -> Result<(), String> {
        let failed = |s: Status| format!("read {digest} of the client's: {}", s.message());
        let (sender, receiver) = mpsc::channel(1);
        let asked = ReadContentRequest { digest: digest.to_string(), offset: 0, size: 0 };
        sender.send(asked).await.map_err(|e| e.to_string())?;
        drop(sender);
        let caller = &self.session.caller;
        let opened = caller.streams::<_, ReadContentResponse>(READ, stream_of(receiver), self.metadata()?);
        let mut answers = opened.await.map_err(failed)?;
        let arriving = Arriving::start(engine, digest, None, max);
        while let Some(piece) = answers.message().await.map_err(failed)? {
            if !arriving.write(piece.data).await {
                break;
            }
        }
        arriving.finish().await
    }

    async fn write(&self, engine: &Arc<Engine>, blob: &Descriptor) -> Result<(), String> {
        if self.has(&blob.digest).await? {
            return Ok(());
        }
        let digest = blob.digest;
        let failed = |s: Status| format!("write {digest} to the client: {}", s.message());
        let total = i64::try_from(blob.size).map_err(|e| e.to_string())?;
        let (sender, receiver) = mpsc::channel::<WriteContentRequest>(4);
        let first = WriteContentRequest {
            reference: format!("brig-{}", digest.hex()),
            total,
            expected: digest.to_string(),
            ..WriteContentRequest::default()
        };
        let engine = engine.clone();
        let feeding = tokio::task::spawn_blocking(move || {
            let failed = |e: std::io::Error| format!("read blob {digest}: {e}");
            let mut file = engine.content().open_blob(&digest).map_err(|e| errors::chain(&e))?;
            let mut offset = 0;
            // Who does not listen any more has said why.
            if sender.blocking_send(first.clone()).is_err() {
                return Ok(());
            }
            loop {
                let mut data = Vec::with_capacity(PIECE);
                file.by_ref().take(PIECE as u64).read_to_end(&mut data).map_err(failed)?;
                let length = i64::try_from(data.len()).unwrap_or_default();
                let action =
                    if data.is_empty() { WriteContentRequest::COMMIT } else { WriteContentRequest::WRITE };
                let message = WriteContentRequest { action, offset, data: data.into(), ..first.clone() };
                if sender.blocking_send(message).is_err() || length == 0 {
                    return Ok::<_, String>(());
                }
                offset += length;
            }
        });
        let caller = &self.session.caller;
        let opened = caller.streams::<_, WriteContentResponse>(WRITE, stream_of(receiver), self.metadata()?);
        let written = async {
            let mut answers = opened.await?;
            while answers.message().await?.is_some() {}
            Ok(())
        };
        let written = match written.await {
            Err(s) if Status::code(&s) == Code::AlreadyExists => Ok(()),
            written => written.map_err(failed),
        };
        let fed = feeding.await.unwrap_or_else(|e| Err(e.to_string()));
        fed.and(written)
    }
}

impl BlobStore for Store {
    fn bring<'a>(&'a self, engine: &'a Arc<Engine>, digest: Digest, max: u64) -> Answer<'a, ()> {
        Box::pin(self.read(engine, digest, max))
    }

    fn take<'a>(&'a self, engine: &'a Arc<Engine>, blob: &'a Descriptor) -> Answer<'a, ()> {
        Box::pin(self.write(engine, blob))
    }

    fn finish<'a>(&'a self, _: &'a Descriptor) -> Answer<'a, ()> {
        // The client names it when the build has ended.
        Box::pin(async { Ok(()) })
    }
}
