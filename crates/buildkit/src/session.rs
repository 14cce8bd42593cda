//! Sessions: connections over which the client of a build serves its files, credentials, secrets and agents.

use crate::rpc::Caller;
use registry_client::Auth;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tonic::Status;

/// How long a call waits for a session that was announced: it comes over a connection of its own.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes that a session with nobody takes: more than its greeting.
const ROOM: usize = 4 << 10;

/// What a client says of its session when it opens it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionInfo {
    pub id: String,
    /// What tells contexts of one client from those of others.
    pub shared_key: String,
    /// Paths of the methods that the client serves.
    pub methods: Vec<String>,
}

/// An open session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) info: SessionInfo,
    pub(crate) caller: Caller,
    /// The client opened none: nothing can be asked of it.
    pub(crate) is_absent: bool,
    /// Credentials by registry host that came with the request, of a client without a session.
    pub(crate) auth: BTreeMap<String, Auth>,
}

impl Session {
    /// What stands for the session of a client that has none: calls over it fail.
    pub(crate) async fn absent(auth: BTreeMap<String, Auth>) -> Result<Arc<Session>, Status> {
        let (near, far) = tokio::io::duplex(ROOM);
        let failed = |e: hyper::Error| Status::internal(format!("open a session with nobody: {e}"));
        let (caller, connection) = Caller::open(near).await.map_err(failed)?;
        // Ends at once, and every call with it.
        drop(far);
        tokio::spawn(connection);
        Ok(Arc::new(Session { info: SessionInfo::default(), caller, is_absent: true, auth }))
    }

    /// Whether the client serves the method; clients differ in case.
    pub(crate) fn serves(&self, method: &str) -> bool {
        self.info.methods.iter().any(|m| m.eq_ignore_ascii_case(method))
    }
}

/// The sessions that are open.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    open: Mutex<HashMap<String, Arc<Session>>>,
    came: Notify,
}

impl Sessions {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Session>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a session open on `stream` until its client closes it.
    pub(crate) async fn run<S>(&self, info: SessionInfo, stream: S)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (caller, connection) = match Caller::open(stream).await {
            Ok(opened) => opened,
            Err(error) => return tracing::debug!(%error, "open a build session"),
        };
        let id = info.id.clone();
        let session = Arc::new(Session { info, caller, is_absent: false, auth: BTreeMap::new() });
        self.lock().insert(id.clone(), session.clone());
        self.came.notify_waiters();
        connection.await;
        let mut open = self.lock();
        // One that came later under the same name stays.
        if open.get(&id).is_some_and(|s| Arc::ptr_eq(s, &session)) {
            open.remove(&id);
        }
    }

    /// The session `id`, which may be about to come.
    pub(crate) async fn get(&self, id: &str) -> Result<Arc<Session>, Status> {
        let wait = async {
            loop {
                let came = self.came.notified();
                tokio::pin!(came);
                came.as_mut().enable();
                if let Some(session) = self.lock().get(id) {
                    return session.clone();
                }
                came.await;
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .map_err(|_| Status::not_found(format!("no active session for {id}: context deadline exceeded")))
    }
}
