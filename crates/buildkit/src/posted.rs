//! Builds asked for by a request of Docker's own endpoint, `POST /build?version=2`: how clients used BuildKit before there was
//! `POST /grpc`. The options come in the query, the context in the body, over the session or behind a URL, and the news go
//! back as the answer.

use crate::board::Reader;
use crate::control;
use crate::job::Jobs;
use crate::rpc::Reply;
use crate::server::Server;
use crate::session::Session;
use crate::wire::{CacheOptions, CacheOptionsEntry, Exporter, SolveRequest};
use build::Context;
use errors::Kind;
use prost::Message;
use registry_client::Auth;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot};
use tonic::{Code, Status};

/// The frontend's `context` for one that came with the request. Clients cannot reach it otherwise: it is taken once.
pub(crate) const URL: &str = "http://buildkit-request/";
/// What clients call a context that their session has.
const OF_SESSION: &str = "client-session";
/// What they call one that another request of theirs brings.
const OF_UPLOAD: &str = "upload-request";
/// How long the two requests of one build, one with the context and one that builds it, wait for each other.
const PATIENCE: Duration = Duration::from_secs(5);

/// A context that came with a request.
#[derive(Debug)]
pub struct Sent {
    pub context: Context,
    /// Of a body that was no archive but a Dockerfile.
    pub text: Option<String>,
}

/// What a client asks for.
#[derive(Debug, Default)]
pub struct Posted {
    /// Empty for a client without one.
    pub session: String,
    /// A name that no other build has.
    pub reference: String,
    /// By what the client may cancel it; empty where it cannot.
    pub build_id: String,
    /// The frontend's options, without its context.
    pub options: BTreeMap<String, String>,
    /// A URL, `client-session`, `upload-request`, or nothing where the context is here.
    pub remote: String,
    pub sent: Option<Sent>,
    /// The kind of output and its attributes; `moby` is an image here, nothing keeps only the cache.
    pub exporter: Option<(String, BTreeMap<String, String>)>,
    /// Whether the image says what it was made of.
    pub inline_cache: bool,
    pub network_host: bool,
    /// Credentials by registry host, of a client without a session.
    pub auth: BTreeMap<String, Auth>,
}

/// What a build tells.
#[derive(Debug)]
pub enum News {
    /// A `moby.buildkit.v1.StatusResponse`, encoded.
    Status(Vec<u8>),
    /// How it ended: the id of the image, where one was made, or why not.
    Ended(Result<Option<String>, Failed>),
}

/// Why a build made nothing.
#[derive(Debug)]
pub struct Failed {
    pub kind: Kind,
    pub text: String,
}

impl From<Status> for Failed {
    fn from(status: Status) -> Failed {
        let kind = match status.code() {
            Code::InvalidArgument | Code::OutOfRange => Kind::InvalidArgument,
            Code::NotFound => Kind::NotFound,
            Code::AlreadyExists => Kind::AlreadyExists,
            Code::PermissionDenied => Kind::Denied,
            Code::Unauthenticated => Kind::Unauthenticated,
            Code::FailedPrecondition => Kind::WrongState,
            Code::Unimplemented => Kind::Unsupported,
            Code::Unavailable => Kind::Unavailable,
            Code::ResourceExhausted => Kind::Exhausted,
            Code::Cancelled | Code::Aborted => Kind::Cancelled,
            Code::DataLoss => Kind::DataLoss,
            Code::Ok | Code::Unknown | Code::DeadlineExceeded | Code::Internal => Kind::Internal,
        };
        Failed { kind, text: status.message().to_string() }
    }
}

/// What requests of one client know of each other, by the names that the client gives its builds.
#[derive(Debug, Default)]
pub(crate) struct Posts {
    state: Mutex<State>,
    came: Notify,
}

#[derive(Debug, Default)]
struct State {
    uploads: HashMap<String, Coming>,
    running: HashMap<String, Arc<Notify>>,
}

/// A context that a request of its own brings.
#[derive(Debug)]
struct Coming {
    receiver: oneshot::Receiver<Sent>,
    taken: Arc<Notify>,
}

impl Posts {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The context that another request brings for the build `id`.
    async fn take(&self, id: &str) -> Reply<Sent> {
        let wait = async {
            loop {
                let came = self.came.notified();
                tokio::pin!(came);
                came.as_mut().enable();
                if let Some(coming) = self.lock().uploads.remove(id) {
                    return coming;
                }
                came.await;
            }
        };
        let missing = |_| Status::not_found(format!("no context was sent for the build {id:?}"));
        let coming = tokio::time::timeout(PATIENCE, wait).await.map_err(missing)?;
        coming.taken.notify_one();
        // However long the client takes to send it.
        coming.receiver.await.map_err(|_| Status::aborted("the request with the context ended early"))
    }
}

/// A request that brings a context; until it is dropped.
#[derive(Debug)]
pub struct Upload<'a> {
    posts: &'a Posts,
    id: String,
    sender: Option<oneshot::Sender<Sent>>,
    taken: Arc<Notify>,
}

impl Upload<'_> {
    /// Hands the context to the build that it is for, which may be about to come.
    ///
    /// # Errors
    ///
    /// Says so when none came.
    pub async fn give(mut self, sent: Sent) -> Result<(), String> {
        let gone = || format!("no build takes the context sent for {:?}", self.id);
        let sender = self.sender.take().expect("given once");
        sender.send(sent).map_err(|_| gone())?;
        tokio::time::timeout(PATIENCE, self.taken.notified()).await.map_err(|_| gone())
    }
}

impl Drop for Upload<'_> {
    fn drop(&mut self) {
        let mut state = self.posts.lock();
        // Another of this name stays.
        if state.uploads.get(&self.id).is_some_and(|coming| Arc::ptr_eq(&coming.taken, &self.taken)) {
            state.uploads.remove(&self.id);
        }
    }
}

/// A build that can be cancelled; until it is dropped.
struct Running<'a> {
    posts: &'a Posts,
    id: &'a str,
    cancelled: Arc<Notify>,
}

impl<'a> Running<'a> {
    fn new(posts: &'a Posts, id: &'a str) -> Running<'a> {
        let cancelled = Arc::new(Notify::new());
        if !id.is_empty() {
            posts.lock().running.insert(id.to_string(), cancelled.clone());
        }
        Running { posts, id, cancelled }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut state = self.posts.lock();
        if state.running.get(self.id).is_some_and(|c| Arc::ptr_eq(c, &self.cancelled)) {
            state.running.remove(self.id);
        }
    }
}

impl Server {
    /// Announces the context of the build `id`, which this request brings.
    ///
    /// # Errors
    ///
    /// Says so when another request brings one.
    pub fn upload(&self, id: &str) -> Result<Upload<'_>, String> {
        let (sender, receiver) = oneshot::channel();
        let taken = Arc::new(Notify::new());
        let mut state = self.posts.lock();
        if state.uploads.contains_key(id) {
            return Err(format!("a context is being sent for {id:?}"));
        }
        state.uploads.insert(id.to_string(), Coming { receiver, taken: taken.clone() });
        drop(state);
        self.posts.came.notify_waiters();
        Ok(Upload { posts: &self.posts, id: id.to_string(), sender: Some(sender), taken })
    }

    /// Ends the build that its client calls `id`; one that is none of ours has ended.
    pub fn cancel(&self, id: &str) {
        if let Some(cancelled) = self.posts.lock().running.get(id) {
            cancelled.notify_one();
        }
    }

    /// Builds what `posted` asks for, and tells. Ends early when nobody listens to `tell` any more.
    pub async fn posted(self: &Arc<Self>, posted: Posted, tell: mpsc::Sender<News>) {
        let (reference, build_id) = (posted.reference.clone(), posted.build_id.clone());
        let running = Running::new(&self.posts, &build_id);
        let mut solving = Box::pin(self.clone().solve_posted(posted));
        let mut reader: Option<Reader> = None;
        let ended = loop {
            let next = async {
                let Some(reader) = &reader else { return std::future::pending().await };
                // Room first: a client that does not read keeps nothing from being ended.
                let Ok(room) = tell.reserve().await else { return std::future::pending().await };
                reader.next().await.map(|news| (room, news))
            };
            tokio::select! {
                biased;
                ended = &mut solving => break ended,
                () = tell.closed() => return,
                () = running.cancelled.notified() => break Err(Status::cancelled("context canceled")),
                Some((room, news)) = next => room.send(News::Status(news.encode_to_vec())),
                () = begun(&self.jobs, &reference), if reader.is_none() => {
                    reader = self.jobs.known_board(&reference).map(|board| board.reader());
                }
            }
        };
        // What runs ends with it.
        drop(solving);
        // What it said last.
        let reader = reader.or_else(|| self.jobs.known_board(&reference).map(|board| board.reader()));
        if let Some(reader) = reader {
            while let Some(news) = reader.next().await {
                if tell.send(News::Status(news.encode_to_vec())).await.is_err() {
                    return;
                }
            }
        }
        drop(tell.send(News::Ended(ended.map_err(Failed::from))).await);
    }

    async fn solve_posted(self: Arc<Self>, posted: Posted) -> Reply<Option<String>> {
        let Posted { session, reference, mut options, mut remote, mut sent, exporter, .. } = posted;
        if remote == OF_UPLOAD {
            sent = Some(self.posts.take(&posted.build_id).await?);
            remote.clear();
        }
        let session = match session.as_str() {
            "" if remote == OF_SESSION => {
                return Err(Status::invalid_argument("no session has the context: session is missing"));
            }
            "" => Session::absent(posted.auth).await?,
            id => self.sessions.get(id).await?,
        };
        match remote.as_str() {
            OF_SESSION => {}
            "" => drop(options.insert("context".into(), URL.into())),
            url => drop(options.insert("context".into(), url.into())),
        }
        let is_image = exporter.as_ref().is_some_and(|(kind, _)| matches!(kind.as_str(), "moby" | "image"));
        if session.is_absent && exporter.is_some() && !is_image {
            return Err(Status::invalid_argument("no session takes the output: session is missing"));
        }
        let inline = CacheOptionsEntry { kind: "inline".into(), ..CacheOptionsEntry::default() };
        let asked = SolveRequest {
            reference,
            session: session.info.id.clone(),
            frontend: "dockerfile.v0".into(),
            frontend_attrs: options,
            exporters: exporter.into_iter().map(|(kind, attrs)| Exporter { kind, attrs }).collect(),
            cache: posted
                .inline_cache
                .then(|| CacheOptions { exports: vec![inline], ..CacheOptions::default() }),
            entitlements: posted.network_host.then(|| "network.host".to_string()).into_iter().collect(),
            ..SolveRequest::default()
        };
        let answer = control::begun(self.clone(), asked, session, sent).await?.exporter_response;
        if !is_image {
            return Ok(None);
        }
        let id = answer.get("containerimage.config.digest").or_else(|| answer.get("containerimage.digest"));
        id.cloned().map(Some).ok_or_else(|| Status::internal("the build made no image"))
    }
}

/// Ready when the build `reference` goes on.
async fn begun(jobs: &Jobs, reference: &str) {
    // Until it begins there is nothing to tell; a build that never does ends the caller's wait itself.
    while jobs.get(reference).await.is_err() {}
}
