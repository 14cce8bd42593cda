//! `Control`: a build from request to export, and its news.

use crate::account::{self, Account, Came};
use crate::board::replay;
use crate::caches;
use crate::export::{self, Exported, Wanted};
use crate::frontend;
use crate::job::{Job, Output};
use crate::options::CacheEntry;
use crate::posted::Sent;
use crate::rpc::{Outgoing, Reply};
use crate::server::Server;
use crate::session::Session;
use crate::wire::{
    CacheOptionsEntry, FrontendResult, ReturnRequest, SolveRequest, SolveResponse, StatusRequest,
    StatusResponse,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::oneshot;
use tonic::{Code, Status};

/// `Solve`: builds by the frontend it names, or waits for what the client makes through the gateway; then exports.
pub(crate) async fn solve(server: Arc<Server>, asked: SolveRequest) -> Reply<SolveResponse> {
    if asked.definition.as_ref().is_some_and(|d| !d.def.is_empty()) {
        return Err(Status::unimplemented(
            "building an LLB definition is not supported by this version of brig, only the frontend dockerfile.v0 is",
        ));
    }
    if asked.source_policy.as_ref().is_some_and(|policy| !policy.is_empty())
        || !asked.source_policy_session.is_empty()
    {
        return Err(Status::unimplemented(
            "source policies are not supported by this version of brig; buildx sends none with --policy disabled=true",
        ));
    }
    let session = server.sessions.get(&asked.session).await?;
    begun(server, asked, session, None).await
}

/// The same, with the session that was found and a context that is here.
pub(crate) async fn begun(
    server: Arc<Server>,
    asked: SolveRequest,
    session: Arc<Session>,
    sent: Option<Sent>,
) -> Reply<SolveResponse> {
    let wanted = Wanted::of(&asked)?;
    let cache = asked.cache.clone().unwrap_or_default();
    let entries = |list: Vec<CacheOptionsEntry>| {
        list.into_iter().map(|e| CacheEntry { kind: e.kind, attrs: e.attrs }).collect::<Vec<_>>()
    };
    let exports = caches::exports(&session, &entries(cache.exports))?;
    let (entitlements, imports) = (asked.entitlements.clone(), entries(cache.imports));
    let (registered, returned) =
        server.jobs.begin(asked.reference.clone(), session, entitlements, imports, exports, sent)?;
    let job = registered.job.clone();
    let account = Account::open(&server, &job, &asked);
    let came = build(&server, &job, &asked, &wanted, returned).await;
    account.close(came.as_ref()).await;
    drop(registered);
    Ok(SolveResponse { exporter_response: came?.response })
}

async fn build(
    server: &Arc<Server>,
    job: &Arc<Job>,
    asked: &SolveRequest,
    wanted: &[Wanted],
    returned: oneshot::Receiver<ReturnRequest>,
) -> Reply<Came> {
    let result = match asked.frontend.as_str() {
        "" => {
            let returned = returned.await.map_err(|_| Status::aborted("the build has ended"))?;
            if let Some(error) = returned.error {
                return Err(passed_on(error));
            }
            returned.result.unwrap_or_default()
        }
        "dockerfile.v0" | "gateway.v0" => {
            check_frontend(&asked.frontend, &asked.frontend_attrs)?;
            frontend::solve(server, job, &asked.frontend_attrs, &asked.frontend_inputs, Vec::new()).await?
        }
        other => return Err(Status::not_found(format!("frontend {other} not found"))),
    };
    if !result.attestations.is_empty() {
        return Err(Status::unimplemented(
            "attestations that a client makes are not supported by this version of brig",
        ));
    }
    let mut came = Came { outputs: outputs(job, &result)?, ..Came::default() };
    if !came.outputs.is_empty() {
        for (index, wanted) in wanted.iter().enumerate() {
            let Exported { answer, target } =
                export::export(server, job, index, wanted, &came.outputs).await?;
            came.response.extend(answer);
            if let (Ok(index), Some(target)) = (i64::try_from(index), target) {
                came.made.insert(index, target);
            }
        }
        came.response.extend(caches::export(job, &came.outputs).await?);
    }
    Ok(came)
}

/// Other frontends than the Dockerfile's are images that cannot be run here.
pub(crate) fn check_frontend(frontend: &str, options: &BTreeMap<String, String>) -> Reply<()> {
    let source = options.get("source").map(String::as_str).unwrap_or_default();
    if frontend == "gateway.v0" && !build::is_own_frontend(source) {
        return Err(Status::unimplemented(format!(
            "the frontend {source:?} is not supported by this version of brig, only docker/dockerfile is"
        )));
    }
    Ok(())
}

/// What the client says went wrong, with its details.
fn passed_on(error: crate::wire::RpcStatus) -> Status {
    use prost::Message;
    let details = error.encode_to_vec();
    Status::with_details(Code::from_i32(error.code), error.message, details.into())
}

/// What a result's references stand for; a reference without a name stands for nothing.
fn outputs(job: &Job, result: &FrontendResult) -> Reply<Vec<Arc<Output>>> {
    let refs = result.refs.as_ref().map(frontend::each).unwrap_or_default();
    refs.into_iter().filter(|(_, r)| !r.id.is_empty()).map(|(_, r)| job.output(&r.id)).collect()
}

/// `Status`: the news of a build until its end, or of one that has ended all of it.
pub(crate) async fn status(server: Arc<Server>, asked: StatusRequest) -> Reply<Outgoing<StatusResponse>> {
    let reference = &asked.reference;
    if !server.jobs.goes_on(reference)
        && let Some(news) = account::news(&server, reference).await?
    {
        return Ok(Box::pin(futures_util::stream::iter(replay(&news).into_iter().map(Ok))));
    }
    let reader = server.jobs.board(reference).await?.reader();
    let stream = futures_util::stream::unfold(reader, |reader| async move {
        reader.next().await.map(|news| (Ok(news), reader))
    });
    Ok(Box::pin(stream))
}
