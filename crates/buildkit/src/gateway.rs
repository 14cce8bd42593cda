//! `LLBBridge`: what clients do in the middle of a build.

use crate::control::check_frontend;
use crate::frontend;
use crate::job::Job;
use crate::options::CacheEntry;
use crate::rpc::Reply;
use crate::server::Server;
use crate::status;
use crate::tree;
use crate::wire::{
    BridgeSolveRequest, BridgeSolveResponse, EvaluateRequest, FrontendResult, InputsResponse, Nothing,
    ReadDirRequest, ReadDirResponse, ReadFileRequest, ReadFileResponse, Ref, Refs, ReturnRequest,
    StatFileRequest, StatFileResponse, VertexWarning, WarnRequest,
};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use tonic::Status;
use tonic::metadata::MetadataMap;

/// Largest piece of a file that is read at once.
const MAX_READ: u64 = 8 << 20;
/// Under which name clients say which build they mean.
const BUILD_ID: &str = "buildkit-controlapi-buildid";

async fn job(server: &Server, metadata: &MetadataMap) -> Reply<Arc<Job>> {
    let id = metadata.get(BUILD_ID).and_then(|id| id.to_str().ok());
    server.jobs.get(id.ok_or_else(|| Status::unknown("no buildid found in context"))?).await
}

/// `Solve`: a frontend's result, or that of another build which a definition names.
pub(crate) async fn solve(
    server: Arc<Server>,
    metadata: MetadataMap,
    asked: BridgeSolveRequest,
) -> Reply<BridgeSolveResponse> {
    let job = job(&server, &metadata).await?;
    if !asked.source_policies.is_empty() {
        return Err(Status::unimplemented("source policies are not supported by this version of brig"));
    }
    let result = match asked.frontend.as_str() {
        "" => of_definition(&server, &job, &asked)?,
        frontend @ ("dockerfile.v0" | "gateway.v0") => {
            check_frontend(frontend, &asked.frontend_opt)?;
            job.ask(frontend, &asked.frontend_opt);
            let imports = asked.cache_imports.iter();
            let imports: Vec<CacheEntry> =
                imports.map(|e| CacheEntry { kind: e.kind.clone(), attrs: e.attrs.clone() }).collect();
            frontend::solve(&server, &job, &asked.frontend_opt, &asked.frontend_inputs, imports).await?
        }
        other => return Err(Status::not_found(format!("frontend {other} not found"))),
    };
    Ok(BridgeSolveResponse { result: Some(result) })
}

fn of_definition(server: &Server, job: &Job, asked: &BridgeSolveRequest) -> Reply<FrontendResult> {
    let definition = asked.definition.clone().unwrap_or_default();
    if definition.def.is_empty() {
        return Ok(FrontendResult { refs: Some(Refs::One(Ref::default())), ..FrontendResult::default() });
    }
    let id = crate::job::named_by(&definition).ok_or_else(|| {
        Status::unimplemented("solving an LLB definition is not supported by this version of brig")
    })?;
    let output = server.jobs.output(&id)?;
    let reference = job.keep(crate::job::Output {
        solved: output.solved.clone(),
        platform: output.platform.clone(),
        origin: output.origin.clone(),
    });
    Ok(FrontendResult { refs: Some(Refs::One(reference)), ..FrontendResult::default() })
}

/// `Return`: the build's result, or why there is none.
pub(crate) async fn done(server: Arc<Server>, metadata: MetadataMap, asked: ReturnRequest) -> Reply<Nothing> {
    job(&server, &metadata).await?.done(asked)?;
    Ok(Nothing {})
}

/// `Evaluate`: what is known by a reference is made already.
pub(crate) async fn evaluate(
    server: Arc<Server>,
    metadata: MetadataMap,
    asked: EvaluateRequest,
) -> Reply<Nothing> {
    job(&server, &metadata).await?.output(&asked.reference)?;
    Ok(Nothing {})
}

/// `Inputs`: those of a frontend, which clients here are not.
pub(crate) async fn inputs(server: Arc<Server>, metadata: MetadataMap) -> Reply<InputsResponse> {
    job(&server, &metadata).await?;
    Ok(InputsResponse::default())
}

/// `Warn`: a finding of the client's, shown with ours.
pub(crate) async fn warn(server: Arc<Server>, metadata: MetadataMap, asked: WarnRequest) -> Reply<Nothing> {
    let WarnRequest { digest, level, short, detail, url, info, ranges } = asked;
    let warning = VertexWarning { vertex: digest, level, short, detail, url, info, ranges };
    job(&server, &metadata).await?.board.warning(warning);
    Ok(Nothing {})
}

/// Does something with the files of a result, on a thread that may block.
async fn with_files<T, F>(server: Arc<Server>, metadata: MetadataMap, reference: String, work: F) -> Reply<T>
where
    T: Send + 'static,
    F: FnOnce(&rootdir::RootDir) -> Reply<T> + Send + 'static,
{
    let output = job(&server, &metadata).await?.output(&reference)?;
    let engine = server.engine.clone();
    let read = move || {
        let workspace = engine.open_workspace(output.solved.chain_id.as_ref()).map_err(|e| status::of(&e))?;
        work(workspace.root())
    };
    tokio::task::spawn_blocking(read).await.unwrap_or_else(|e| Err(Status::internal(e.to_string())))
}

/// `ReadFile`: a file, or a piece of it.
pub(crate) async fn read_file(
    server: Arc<Server>,
    metadata: MetadataMap,
    asked: ReadFileRequest,
) -> Reply<ReadFileResponse> {
    let ReadFileRequest { reference, path, range } = asked;
    with_files(server, metadata, reference, move |root| {
        let failed = |e: std::io::Error| Status::unknown(format!("read {path}: {e}"));
        let mut file = root.open_regular(Path::new(&path)).map_err(|e| status::of(&e))?;
        let mut length = MAX_READ;
        if let Some(range) = range {
            file.seek(SeekFrom::Start(u64::try_from(range.offset).unwrap_or(0))).map_err(failed)?;
            length = u64::try_from(range.length).ok().filter(|n| *n > 0).unwrap_or(MAX_READ);
        }
        let mut data = Vec::new();
        file.take(length.min(MAX_READ + 1)).read_to_end(&mut data).map_err(failed)?;
        if data.len() as u64 > MAX_READ {
            return Err(Status::resource_exhausted(format!("{path} is larger than {MAX_READ} bytes")));
        }
        Ok(ReadFileResponse { data })
    })
    .await
}

/// `ReadDir`: what a directory holds.
pub(crate) async fn read_dir(
    server: Arc<Server>,
    metadata: MetadataMap,
    asked: ReadDirRequest,
) -> Reply<ReadDirResponse> {
    let ReadDirRequest { reference, path, include_pattern } = asked;
    with_files(server, metadata, reference, move |root| {
        let glob = match include_pattern.as_str() {
            "" => None,
            text => Some(
                dockerfile::Glob::new(text)
                    .ok_or_else(|| Status::invalid_argument(format!("syntax error in pattern: {text}")))?,
            ),
        };
        let mut entries = Vec::new();
        for name in root.list(Path::new(&path)).map_err(|e| status::of(&e))? {
            let name = name.to_string_lossy().into_owned();
            if glob.as_ref().is_some_and(|glob| !glob.matches(&name)) {
                continue;
            }
            entries.push(tree::stat(root, &Path::new(&path).join(&name), &name)?);
        }
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(ReadDirResponse { entries })
    })
    .await
}

/// `StatFile`: what is known of a file.
pub(crate) async fn stat_file(
    server: Arc<Server>,
    metadata: MetadataMap,
    asked: StatFileRequest,
) -> Reply<StatFileResponse> {
    let StatFileRequest { reference, path } = asked;
    with_files(server, metadata, reference, move |root| {
        let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        Ok(StatFileResponse { stat: Some(tree::stat(root, Path::new(&path), name)?) })
    })
    .await
}
