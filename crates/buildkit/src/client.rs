//! What a build asks of its client over the session: files, secrets, agents, credentials.

use crate::board::{Board, Task};
use crate::receive::{Wanted, receive};
use crate::rpc::{Reply, stream_of};
use crate::session::Session;
use crate::wire::{
    BytesMessage, CheckAgentRequest, CredentialsRequest, CredentialsResponse, GetSecretRequest,
    GetSecretResponse, Nothing,
};
use build::{Agent, Answer, Context, Kept, Secret};
use engine::Engine;
use oci::Digest;
use registry_client::Auth;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, mpsc};
use tonic::Code;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};

const GET_SECRET: &str = "/moby.buildkit.secrets.v1.Secrets/GetSecret";
const CREDENTIALS: &str = "/moby.filesync.v1.Auth/Credentials";
const CHECK_AGENT: &str = "/moby.sshforward.v1.SSH/CheckAgent";
const FORWARD_AGENT: &str = "/moby.sshforward.v1.SSH/ForwardAgent";
/// The name that clients know Docker Hub by.
const HUB: &str = "registry-1.docker.io";
/// Size of a read from an agent's client.
const READ: usize = 32 << 10;

/// The directory that a client offers as the build context.
#[derive(Debug, Clone)]
pub(crate) struct Local {
    pub(crate) name: String,
    pub(crate) exclude: Vec<String>,
    /// Further text that tells its files from those of others.
    pub(crate) key: String,
}

/// The client of one build.
#[derive(Debug)]
pub(crate) struct BuildClient {
    pub(crate) engine: Arc<Engine>,
    pub(crate) session: Arc<Session>,
    pub(crate) board: Arc<Board>,
    /// The context, unless it comes from elsewhere.
    pub(crate) local: Option<Local>,
    /// What was received for this build, and which paths of it.
    received: Mutex<Option<(Vec<String>, Arc<Context>)>>,
}

impl BuildClient {
    pub(crate) fn new(
        engine: Arc<Engine>,
        session: Arc<Session>,
        board: Arc<Board>,
        local: Option<Local>,
    ) -> BuildClient {
        BuildClient { engine, session, board, local, received: Mutex::default() }
    }

    async fn receive_context(&self, paths: Vec<String>) -> Result<Option<Arc<Context>>, String> {
        let Some(local) = &self.local else { return Ok(None) };
        let mut received = self.received.lock().await;
        if let Some((known, context)) = &*received
            && (known.is_empty() || *known == paths)
        {
            return Ok(Some(context.clone()));
        }
        let task = Task::begin(&self.board, fresh(), "[internal] load build context");
        let done = load(&self.engine, &self.session, local, &paths, &task).await;
        let context = Arc::new(task.of(done)?);
        *received = Some((paths, context.clone()));
        Ok(Some(context))
    }
}

/// A digest that no other vertex has.
pub(crate) fn fresh() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    Digest::of(format!("brig vertex {number} {}", jiff::Timestamp::now()).as_bytes()).to_string()
}

/// Receives a directory of the client's into the place where it was last time.
pub(crate) async fn load(
    engine: &Arc<Engine>,
    session: &Arc<Session>,
    local: &Local,
    paths: &[String],
    task: &Task,
) -> Result<Context, String> {
    let key = format!("{}\0{}\0{}", local.name, local.key, session.info.shared_key);
    let (engine, name) = (engine.clone(), local.name.clone());
    let description = format!("local source for {name}");
    let opened = tokio::task::spawn_blocking(move || Kept::open(&engine, &key, &description)).await;
    let kept = opened.map_err(|e| e.to_string())?.map_err(|e| e.text())?;
    let wanted = Wanted { name, exclude: local.exclude.clone(), follow: paths.to_vec() };
    let (news, mut heard) = mpsc::channel::<u64>(1);
    let files = kept.files().to_path_buf();
    let receiving = receive(session, &wanted, &files, move |bytes| {
        // Only the newest matters: what does not fit is left out.
        news.try_send(bytes).unwrap_or_default();
    });
    tokio::pin!(receiving);
    let label = format!("transferring {}:", wanted.name);
    let received = loop {
        tokio::select! {
            biased;
            received = &mut receiving => break received,
            Some(bytes) = heard.recv() => task.progress(&label, bytes, 0, false),
        }
    };
    let received = received.map_err(|s| s.message().to_string())?;
    kept.settle(received.is_changed);
    task.progress(&label, received.sent_bytes, 0, true);
    tracing::debug!(
        name = wanted.name,
        files = received.files,
        sent_files = received.sent_files,
        sent_bytes = received.sent_bytes,
        "context received"
    );
    Context::of_kept(kept).map_err(|e| e.text())
}

/// Credentials for a registry host.
pub(crate) async fn credentials(session: &Session, host: &str) -> Reply<Auth> {
    // A client that announces no method at all may yet serve this one.
    if !session.serves(CREDENTIALS) && (session.is_absent || !session.info.methods.is_empty()) {
        return Ok(session.auth.get(host).cloned().unwrap_or(Auth::Anonymous));
    }
    let asked = CredentialsRequest { host: if host == "docker.io" { HUB } else { host }.into() };
    let answer = session.caller.unary::<_, CredentialsResponse>(CREDENTIALS, asked).await;
    let CredentialsResponse { username, secret } = match answer {
        Err(status) if status.code() == Code::Unimplemented => return Ok(Auth::Anonymous),
        other => other?,
    };
    Ok(match (username.is_empty(), secret.is_empty()) {
        (_, true) => Auth::Anonymous,
        (true, false) => Auth::IdentityToken(secret),
        (false, false) => Auth::Basic { username, password: secret },
    })
}

impl build::Client for BuildClient {
    fn secret<'a>(&'a self, id: &'a str) -> Answer<'a, Option<Secret>> {
        Box::pin(async move {
            if !self.session.serves(GET_SECRET) {
                return Ok(None);
            }
            let asked = GetSecretRequest { id: id.into() };
            match self.session.caller.unary::<_, GetSecretResponse>(GET_SECRET, asked).await {
                Ok(answer) => Ok(Some(Secret(answer.data))),
                Err(status) if status.code() == Code::NotFound => Ok(None),
                Err(status) => Err(format!("failed to get secret {id}: {}", status.message())),
            }
        })
    }

    fn agent<'a>(&'a self, id: &'a str) -> Answer<'a, Option<Agent>> {
        Box::pin(async move {
            if !self.session.serves(CHECK_AGENT) {
                return Ok(None);
            }
            let asked = CheckAgentRequest { id: id.into() };
            match self.session.caller.unary::<_, Nothing>(CHECK_AGENT, asked).await {
                Ok(Nothing {}) => {}
                Err(status) if status.message().contains("unset ssh forward key") => return Ok(None),
                Err(status) => return Err(format!("check ssh agent {id}: {}", status.message())),
            }
            serve_agent(&self.engine, &self.session, id).map(Some)
        })
    }

    fn context<'a>(&'a self, paths: Vec<String>) -> Answer<'a, Option<Arc<Context>>> {
        Box::pin(self.receive_context(paths))
    }

    fn credentials<'a>(&'a self, host: &'a str) -> Answer<'a, Auth> {
        Box::pin(async move {
            credentials(&self.session, host)
                .await
                .map_err(|s| format!("failed to get credentials for {host}: {}", s.message()))
        })
    }
}

/// Keeps a task going until it is dropped.
struct Running(
    tokio::task::JoinHandle<()>,
    #[expect(dead_code, reason = "removes the socket")] engine::Scratch,
);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Makes a socket whose connections the client takes to its agent.
fn serve_agent(engine: &Arc<Engine>, session: &Arc<Session>, id: &str) -> Result<Agent, String> {
    let scratch = engine.make_scratch().map_err(|e| errors::chain(&e))?;
    let socket = scratch.path().join("agent");
    let listener =
        UnixListener::bind(&socket).map_err(|e| format!("make a socket for ssh agent {id}: {e}"))?;
    let (session, id) = (session.clone(), id.to_string());
    let task = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(forward(session.clone(), id.clone(), stream));
            while connections.try_join_next().is_some() {}
        }
    });
    Ok(Agent { socket, guard: Box::new(Running(task, scratch)) })
}

async fn forward(session: Arc<Session>, id: String, stream: UnixStream) {
    let mut metadata = MetadataMap::new();
    match AsciiMetadataValue::try_from(id) {
        Ok(id) => drop(metadata.insert("buildkit.ssh.id", id)),
        Err(_) => return,
    }
    let (sender, receiver) = mpsc::channel::<BytesMessage>(4);
    let (mut from, mut to) = stream.into_split();
    let opened =
        session.caller.streams::<_, BytesMessage>(FORWARD_AGENT, stream_of(receiver), metadata).await;
    let Ok(mut answers) = opened else { return };
    let there = async move {
        let mut buffer = vec![0; READ];
        while let Ok(n @ 1..) = from.read(&mut buffer).await {
            let data = bytes::Bytes::copy_from_slice(&buffer[..n]);
            if sender.send(BytesMessage { data }).await.is_err() {
                return;
            }
        }
    };
    let back = async move {
        while let Ok(Some(message)) = answers.message().await {
            if to.write_all(&message.data).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(there, back);
}
