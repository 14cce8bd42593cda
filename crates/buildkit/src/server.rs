//! The services, and from path to handler.

use crate::history::History;
use crate::job::Jobs;
use crate::posted::Posts;
use crate::rpc::{self, streaming, unary};
use crate::session::{SessionInfo, Sessions};
use crate::wire::{
    BridgeSolveRequest, BuildkitVersion, Capability, ContentInfoRequest, DiskUsageRequest, EvaluateRequest,
    HealthResponse, HistoryRequest, InfoResponse, ListWorkersRequest, ListWorkersResponse, Nothing, Platform,
    PongResponse, PruneRequest, ReadContentRequest, ReadDirRequest, ReadFileRequest, ReturnRequest,
    SolveRequest, StatFileRequest, StatusRequest, UpdateHistoryRequest, WarnRequest, WorkerRecord,
};
use crate::{account, control, gateway, usage};
use engine::Engine;
use http::{Request, Response};
use hyper::body::Incoming;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::Status;
use tonic::body::Body;

/// What a gateway can do here, by the names that clients ask for.
const FRONTEND_CAPS: &[&str] = &[
    "solve.base",
    "return",
    "returnmap",
    "readdir",
    "readfile",
    "statfile",
    "importcaches",
    "proto.refarray",
    "reference.output",
    "frontend.inputs",
    "gateway.solve.metadata",
    "frontend.caps",
    "gateway.solve.evaluate",
    "gateway.evaluate",
    "gateway.warnings",
];

/// What builds can do here, likewise. Those are named that clients look at before they ask for something.
const LLB_CAPS: &[&str] = &[
    "source.local",
    "source.local.unique",
    "source.local.sessionid",
    "source.local.includepatterns",
    "source.local.followpaths",
    "source.local.excludepatterns",
    "source.local.sharedkeyhint",
    "source.image",
    "source.image.resolvemode",
    "source.http",
    "source.http.checksum",
    "exec.meta.base",
    "exec.meta.network",
    "exec.meta.proxyenv",
    "exec.meta.security",
    "exec.meta.ulimit",
    "exec.meta.cgroup.parent",
    "exec.mount.bind",
    "exec.mount.cache",
    "exec.mount.cache.sharing",
    "exec.mount.tmpfs",
    "exec.mount.tmpfs.size",
    "exec.mount.secret",
    "exec.mount.ssh",
    "exec.secretenv",
    "exec.cgroup",
    "file.base",
    "constraints",
    "platform",
    "meta.ignorecache",
    "meta.description",
    "meta.exportcache",
    "exporter.multiple",
    "exporter.sourcedateepoch",
    "exporter.image.attestations",
];

/// BuildKit's API on the engine's builder.
#[derive(Debug)]
pub struct Server {
    pub(crate) engine: Arc<Engine>,
    pub(crate) sessions: Sessions,
    pub(crate) jobs: Jobs,
    pub(crate) history: Arc<History>,
    pub(crate) posts: Posts,
    version: &'static str,
}

impl Server {
    /// A server without sessions; `version` is that of the program.
    pub fn new(engine: Arc<Engine>, version: &'static str) -> Arc<Server> {
        let history = Arc::new(History::new(engine.build_cache_dir().with_file_name("build-history")));
        let (sessions, jobs, posts) = (Sessions::default(), Jobs::default(), Posts::default());
        Arc::new(Server { engine, sessions, jobs, history, posts, version })
    }

    /// Keeps a client's session open on `stream` until the client closes it.
    pub async fn session<S>(&self, info: SessionInfo, stream: S)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        self.sessions.run(info, stream).await;
    }

    /// Serves calls that come over `stream` until the client closes it.
    pub async fn serve<S>(self: &Arc<Self>, stream: S)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let server = self.clone();
        rpc::serve(stream, move |request| server.clone().route(request)).await;
    }

    /// The one worker there is.
    pub(crate) fn worker(&self) -> WorkerRecord {
        let host = oci::Platform::host();
        let platform = Platform {
            architecture: host.architecture,
            os: host.os,
            variant: host.variant.unwrap_or_default(),
            os_version: String::new(),
        };
        let labels = [
            ("org.mobyproject.buildkit.worker.executor", "brig-runtime"),
            // By this clients know that results can be given away as files and as indexes.
            ("org.mobyproject.buildkit.worker.snapshotter", "brig"),
        ];
        let mut labels: BTreeMap<String, String> =
            labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        // By this clients translate `--add-host x:host-gateway` themselves.
        if let Some(gateway) = self.engine.host_gateway() {
            labels.insert("org.mobyproject.buildkit.worker.moby.host-gateway-ip".into(), gateway.to_string());
        }
        WorkerRecord { id: "brig".into(), labels, platforms: vec![platform], version: Some(self.version()) }
    }

    fn version(&self) -> BuildkitVersion {
        BuildkitVersion { package: "brig".into(), version: self.version.into(), revision: String::new() }
    }

    pub(crate) fn pong(&self) -> PongResponse {
        let caps = |names: &[&str]| {
            names.iter().map(|id| Capability { id: id.to_string(), enabled: true }).collect::<Vec<_>>()
        };
        PongResponse {
            frontend_caps: caps(FRONTEND_CAPS),
            llb_caps: caps(LLB_CAPS),
            workers: vec![self.worker()],
        }
    }

    async fn route(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().to_string();
        let Some((service, method)) = path.trim_start_matches('/').split_once('/') else {
            return rpc::refuse(Status::unimplemented(format!("malformed method name: {path:?}")));
        };
        match (service, method) {
            ("moby.buildkit.v1.Control", method) => self.control(method, request).await,
            ("moby.buildkit.v1.frontend.LLBBridge", method) => self.bridge(method, request).await,
            ("containerd.services.content.v1.Content", "Info") => {
                unary(request, |_, asked: ContentInfoRequest| account::blob_info(self, asked)).await
            }
            ("containerd.services.content.v1.Content", "Read") => {
                streaming(request, |_, asked: ReadContentRequest| account::blob_read(self, asked)).await
            }
            ("containerd.services.content.v1.Content", other) => rpc::refuse(not_here("Content", other)),
            ("grpc.health.v1.Health", "Check") => {
                unary(request, |_, Nothing {}| async { Ok(HealthResponse { status: 1 }) }).await
            }
            _ => rpc::refuse(Status::unimplemented(format!("unknown service {service}"))),
        }
    }

    async fn control(self: Arc<Self>, method: &str, request: Request<Incoming>) -> Response<Body> {
        match method {
            "Solve" => unary(request, |_, asked: SolveRequest| control::solve(self, asked)).await,
            "Status" => streaming(request, |_, asked: StatusRequest| control::status(self, asked)).await,
            "ListWorkers" => {
                let record = vec![self.worker()];
                unary(request, |_, _: ListWorkersRequest| async { Ok(ListWorkersResponse { record }) }).await
            }
            "Info" => {
                let version = Some(self.version());
                unary(request, |_, Nothing {}| async { Ok(InfoResponse { version }) }).await
            }
            "DiskUsage" => unary(request, |_, asked: DiskUsageRequest| usage::disk_usage(self, asked)).await,
            "Prune" => streaming(request, |_, asked: PruneRequest| usage::prune(self, asked)).await,
            "ListenBuildHistory" => {
                streaming(request, |_, asked: HistoryRequest| account::listen(self, asked)).await
            }
            "UpdateBuildHistory" => {
                unary(request, |_, asked: UpdateHistoryRequest| account::update(self, asked)).await
            }
            other => rpc::refuse(not_here("Control", other)),
        }
    }

    async fn bridge(self: Arc<Self>, method: &str, request: Request<Incoming>) -> Response<Body> {
        match method {
            "Ping" => {
                let pong = self.pong();
                unary(request, |_, Nothing {}| async { Ok(pong) }).await
            }
            "Solve" => unary(request, |m, asked: BridgeSolveRequest| gateway::solve(self, m, asked)).await,
            "Return" => unary(request, |m, asked: ReturnRequest| gateway::done(self, m, asked)).await,
            "Evaluate" => unary(request, |m, asked: EvaluateRequest| gateway::evaluate(self, m, asked)).await,
            "ReadFile" => {
                unary(request, |m, asked: ReadFileRequest| gateway::read_file(self, m, asked)).await
            }
            "ReadDir" => unary(request, |m, asked: ReadDirRequest| gateway::read_dir(self, m, asked)).await,
            "StatFile" => {
                unary(request, |m, asked: StatFileRequest| gateway::stat_file(self, m, asked)).await
            }
            "Inputs" => unary(request, |m, Nothing {}| gateway::inputs(self, m)).await,
            "Warn" => unary(request, |m, asked: WarnRequest| gateway::warn(self, m, asked)).await,
            other => rpc::refuse(not_here("LLBBridge", other)),
        }
    }
}

fn not_here(service: &str, method: &str) -> Status {
    Status::unimplemented(format!("{service}.{method} is not supported by this version of brig"))
}
