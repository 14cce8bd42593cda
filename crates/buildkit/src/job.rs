//! Builds that go on: what they are told by, what they have made, what their client returns.

use crate::board::Board;
use crate::posted::Sent;
use crate::rpc::Reply;
use crate::session::Session;
use crate::wire::{Definition, Op, OpMetadata, Ref, ReturnRequest, SourceOp};
use build::{Attests, Solved};
use oci::{Digest, Platform};
use prost::Message;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tonic::Status;

/// How long a call waits for the build that it belongs to: it may have been sent before.
const PATIENCE: Duration = Duration::from_secs(6);
/// Builds whose news can be read after their end.
const REMEMBERED: usize = 32;
/// How a reference is named in a definition, where a client hands it from one build to another.
const SCHEME: &str = "brig-result://";

/// What the frontend made for one platform.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) solved: Solved,
    pub(crate) platform: Platform,
    /// What was asked for.
    pub(crate) origin: Arc<Origin>,
}

/// What a result was asked for with.
#[derive(Debug, Default)]
pub(crate) struct Origin {
    /// An index is wanted.
    pub(crate) is_multi: bool,
    /// What is to be said of it.
    pub(crate) attests: Attests,
}

/// A build that goes on.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) reference: String,
    pub(crate) session: Arc<Session>,
    pub(crate) board: Arc<Board>,
    pub(crate) entitlements: Vec<String>,
    pub(crate) cache_imports: Vec<crate::options::CacheEntry>,
    pub(crate) cache_exports: Vec<build::CacheTo>,
    refs: Mutex<HashMap<String, Arc<Output>>>,
    next: AtomicU64,
    /// The context, where it came with the request.
    sent: Mutex<Option<Sent>>,
    /// The frontend that was asked first, and its options.
    frontend: Mutex<Option<(String, BTreeMap<String, String>)>>,
    returned: Mutex<Option<oneshot::Sender<ReturnRequest>>>,
}

impl Job {
    /// Keeps what a frontend made; it is known by what comes back.
    pub(crate) fn keep(&self, output: Output) -> Ref {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}.{number}", self.reference);
        self.refs.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), Arc::new(output));
        Ref { definition: Some(definition_of(&id)), id }
    }

    /// A frontend is asked.
    pub(crate) fn ask(&self, frontend: &str, options: &BTreeMap<String, String>) {
        let mut asked = self.frontend.lock().unwrap_or_else(PoisonError::into_inner);
        asked.get_or_insert_with(|| (frontend.to_string(), options.clone()));
    }

    /// The frontend that was asked first.
    pub(crate) fn frontend(&self) -> Option<(String, BTreeMap<String, String>)> {
        self.frontend.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The context that came with the request, once.
    pub(crate) fn take_sent(&self) -> Option<Sent> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// What is known by `id`.
    pub(crate) fn output(&self, id: &str) -> Reply<Arc<Output>> {
        let refs = self.refs.lock().unwrap_or_else(PoisonError::into_inner);
        refs.get(id).cloned().ok_or_else(|| Status::not_found(format!("no such reference: {id}")))
    }

    /// The client says what the build comes to.
    pub(crate) fn done(&self, request: ReturnRequest) -> Reply<()> {
        let sender = self.returned.lock().unwrap_or_else(PoisonError::into_inner).take();
        match sender {
            Some(sender) => sender.send(request).map_err(|_| Status::aborted("the build has ended")),
            None => Err(Status::failed_precondition("the build has returned before")),
        }
    }
}

/// A graph with one operation, which names a result of ours.
fn definition_of(id: &str) -> Definition {
    let source = SourceOp { identifier: format!("{SCHEME}{id}"), attrs: BTreeMap::new() };
    let source = Op { source: Some(source), ..Op::default() }.encode_to_vec();
    let digest = Digest::of(&source).to_string();
    // The end of a graph names its result.
    let end = Op { inputs: vec![crate::wire::Input { digest: digest.clone(), index: 0 }], ..Op::default() };
    let end = end.encode_to_vec();
    let end_digest = Digest::of(&end).to_string();
    let metadata = [(digest, OpMetadata::default()), (end_digest, OpMetadata::default())];
    Definition { def: vec![source, end], metadata: metadata.into() }
}

/// The reference that a definition names, if it is of ours.
pub(crate) fn named_by(definition: &Definition) -> Option<String> {
    definition.def.iter().find_map(|bytes| {
        let op = Op::decode(bytes.as_slice()).ok()?;
        op.source?.identifier.strip_prefix(SCHEME).map(str::to_string)
    })
}

/// All builds.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    state: Mutex<State>,
    came: Notify,
}

#[derive(Debug, Default)]
struct State {
    running: HashMap<String, Arc<Job>>,
    /// News of those that ended, the oldest first.
    ended: VecDeque<(String, Arc<Board>)>,
}

impl State {
    fn board(&self, reference: &str) -> Option<Arc<Board>> {
        let running = self.running.get(reference).map(|job| job.board.clone());
        running.or_else(|| self.ended.iter().find(|(r, _)| r == reference).map(|(_, b)| b.clone()))
    }
}

/// A build that goes on until this is dropped.
#[derive(Debug)]
pub(crate) struct Registered<'a> {
    jobs: &'a Jobs,
    pub(crate) job: Arc<Job>,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.job.board.close();
        let mut state = self.jobs.lock();
        state.running.remove(&self.job.reference);
        state.ended.push_back((self.job.reference.clone(), self.job.board.clone()));
        while state.ended.len() > REMEMBERED {
            state.ended.pop_front();
        }
    }
}

impl Jobs {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a build. What its client returns comes by the receiver.
    pub(crate) fn begin(
        &self,
        reference: String,
        session: Arc<Session>,
        entitlements: Vec<String>,
        cache_imports: Vec<crate::options::CacheEntry>,
        cache_exports: Vec<build::CacheTo>,
        sent: Option<Sent>,
    ) -> Reply<(Registered<'_>, oneshot::Receiver<ReturnRequest>)> {
        let (sender, receiver) = oneshot::channel();
        let job = Arc::new(Job {
            reference: reference.clone(),
            session,
            board: Arc::default(),
            entitlements,
            cache_imports,
            cache_exports,
            refs: Mutex::default(),
            next: AtomicU64::new(0),
            sent: Mutex::new(sent),
            frontend: Mutex::default(),
            returned: Mutex::new(Some(sender)),
        });
        let mut state = self.lock();
        if state.running.contains_key(&reference) {
            return Err(Status::already_exists(format!("job ID {reference:?} exists")));
        }
        state.running.insert(reference, job.clone());
        drop(state);
        self.came.notify_waiters();
        Ok((Registered { jobs: self, job }, receiver))
    }

    /// Looks something up that may be about to come.
    async fn wait_for<T>(&self, reference: &str, find: impl Fn(&State) -> Option<T>) -> Reply<T> {
        let wait = async {
            loop {
                let came = self.came.notified();
                tokio::pin!(came);
                came.as_mut().enable();
                if let Some(found) = find(&self.lock()) {
                    return found;
                }
                came.await;
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .map_err(|_| Status::not_found(format!("no such job {reference}")))
    }

    /// The build `reference`.
    pub(crate) async fn get(&self, reference: &str) -> Reply<Arc<Job>> {
        self.wait_for(reference, |state| state.running.get(reference).cloned()).await
    }

    /// Whether the build `reference` goes on.
    pub(crate) fn goes_on(&self, reference: &str) -> bool {
        self.lock().running.contains_key(reference)
    }

    /// The news of the build `reference`, which may have ended.
    pub(crate) async fn board(&self, reference: &str) -> Reply<Arc<Board>> {
        self.wait_for(reference, |state| state.board(reference)).await
    }

    /// The news of the build `reference`, if there is or was one.
    pub(crate) fn known_board(&self, reference: &str) -> Option<Arc<Board>> {
        self.lock().board(reference)
    }

    /// A result of any build that goes on.
    pub(crate) fn output(&self, id: &str) -> Reply<Arc<Output>> {
        let jobs: Vec<Arc<Job>> = self.lock().running.values().cloned().collect();
        let missing = || Status::not_found(format!("the build with the result {id} has ended"));
        jobs.iter().find_map(|job| job.output(id).ok()).ok_or_else(missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_leads_back_to_its_result() {
        let definition = definition_of("abc.0");
        assert_eq!(named_by(&definition).as_deref(), Some("abc.0"));
        let again = Definition::decode(definition.encode_to_vec().as_slice()).expect("good");
        assert_eq!(named_by(&again).as_deref(), Some("abc.0"));
        assert_eq!(named_by(&Definition::default()), None);
    }
}
